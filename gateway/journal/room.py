"""Whether the disk has room for more values, and still for what makes room.

Delivery and purging write to the journal too: what was delivered is noted, what was purged is deleted in a transaction.
If values took the last byte, nothing could be noted any more, and the disk would stay full although the cloud is back.
"""

from __future__ import annotations

import shutil
from pathlib import Path

_RESERVE_BYTES = 8 * 2**20  # the write-ahead log, once, and what it brings into the database
_RESERVE_SHARE = 8  # of a small disk no more than one part in so many
_COPIES = 4  # a row is in the log, in the database, and in a segment


def reserve(total: int) -> int:
    """Return how many bytes of a disk of *total* values leave alone; with twice as much free, values are stored."""
    return min(_RESERVE_BYTES, total // _RESERVE_SHARE)


def lack_of_room(state_dir: Path, size: int) -> str:
    """Return why *size* bytes of values cannot be stored in *state_dir* now, empty when there is room for them."""
    try:
        disk = shutil.disk_usage(state_dir)
    except OSError:  # the commit will tell
        return ""
    kept = reserve(disk.total)
    if disk.free >= kept + min(_COPIES * size, kept):
        return ""
    return (
        f"{state_dir}: the disk is full but for {disk.free / 2**20:.1f} MiB, kept for noting what is delivered and "
        "purged; values wait at their servers until there is room: make some, or see docs/how-to/limit-what-is-kept.md"
    )
