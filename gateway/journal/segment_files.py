"""The files of segments: written so that a crash leaves a whole one or none, and put aside when they are damaged."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import structlog

from gateway.journal.entries import SegmentEntry
from models.records import Observations
from models.segment import Segment, decode_segment, segment_digest

log = structlog.get_logger()

_MOST_ASIDE = 16
_MOST_ASIDE_BYTES = 64 * 2**20


def write_segment(folder: Path, data: bytes) -> SegmentEntry:
    """Make the segment *data* durable in *folder*, and return what is to be recorded of it."""
    segment = decode_segment(data)  # what does not come back is not written
    digest = segment_digest(data)
    path = folder / _name(segment, digest)
    folder.mkdir(exist_ok=True)
    temporary = path.with_suffix(".wseg.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(folder)
    return entry_of(segment, path, digest, len(data))


def _name(segment: Segment, digest: str) -> str:
    """Return a file's name: of one that takes another's place a name of its own, so that both can be there."""
    name = f"{segment.epoch}-{segment.first_seq:012d}-{segment.last_seq:012d}"
    return f"{name}.wseg" if segment.chain_digest == digest else f"{name}-{digest[:12]}.wseg"


def entry_of(segment: Segment, path: Path, digest: str, size: int) -> SegmentEntry:
    """Return what is to be recorded of *segment*, whose bytes lie in *path*."""
    rows: Observations = segment.observations
    return SegmentEntry(
        first_seq=segment.first_seq,
        last_seq=segment.last_seq,
        path=path,
        digest=digest,
        size=size,
        observations=len(rows),
        start_ns=int(rows.source_time.min()) if len(rows) else None,
        end_ns=int(rows.source_time.max()) if len(rows) else None,
        delivered=False,
        previous=segment.previous,
        stands_for="" if segment.chain_digest == digest else segment.chain_digest,
    )


def put_aside(path: Path) -> None:
    """Keep the damaged file *path* for whoever wants to look into it: the newest few, and not many bytes."""
    aside = path.parent / "damaged"
    with suppress(OSError):
        aside.mkdir(exist_ok=True)
        path.replace(aside / path.name)
        size = 0
        kept = sorted(aside.iterdir(), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for place, file in enumerate(kept):
            size += file.stat().st_size
            if place >= _MOST_ASIDE or size > _MOST_ASIDE_BYTES:
                file.unlink()


def remove_orphans(folder: Path, epoch: str, recorded: Collection[str]) -> None:
    """Remove files that a crash left between writing and recording them; only before anything is written.

    What is of another epoch than *epoch* may be all there is of a journal whose tables were exchanged: it is set aside.
    """
    for path in folder.glob("*.wseg*"):
        if not path.name.startswith(f"{epoch}-") and path.suffix == ".wseg":
            _set_aside(path, folder.parent / "set-aside" / path.name.partition("-")[0] / "segments")
        elif path.name not in recorded:
            log.info(
                "segment file without a record removed; its pages are in another, or compacted again", path=path.name
            )
            with suppress(OSError):
                path.unlink()


def _set_aside(path: Path, folder: Path) -> None:
    """Move *path* into *folder*, where it may be already, under a second name."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        path.replace(folder / path.name)
        log.warning("segment file of another epoch set aside", path=path.name, folder=str(folder))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
