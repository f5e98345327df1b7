"""Windows as bytes, for golden vectors: packed as they stand, and unpacked with every range held against the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.features.windows import ChannelRows, Windows
from models.records import Int64Array

MAX_ROWS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The observations of one channel; see ``models.features.windows.ChannelRows``."""

    time: bytes
    value: bytes
    good: bytes
    sample_count: bytes
    samples: bytes
    first: bytes
    last: bytes


@dataclass(frozen=True, kw_only=True)
class PackedWindows:
    """Windows as columns; see ``models.features.windows.Windows``."""

    asset_ids: tuple[str, ...]
    asset: bytes
    start_ns: bytes
    end_ns: bytes
    good_share: bytes
    channels: tuple[PackedRows, ...]


def pack_windows(windows: Windows) -> PackedWindows:
    """Return *windows* as bytes."""
    return PackedWindows(
        asset_ids=windows.asset_ids,
        asset=windows.asset.astype(np.int64).tobytes(),
        start_ns=windows.start_ns.astype(np.int64).tobytes(),
        end_ns=windows.end_ns.astype(np.int64).tobytes(),
        good_share=windows.good_share.astype(np.float64).tobytes(),
        channels=tuple(
            PackedRows(
                time=rows.time.astype(np.int64).tobytes(),
                value=rows.value.astype(np.float64).tobytes(),
                good=rows.good.astype(np.uint8).tobytes(),
                sample_count=rows.sample_count.astype(np.int64).tobytes(),
                samples=rows.samples.astype(np.float32).tobytes(),
                first=rows.first.astype(np.int64).tobytes(),
                last=rows.last.astype(np.int64).tobytes(),
            )
            for rows in windows.channels
        ),
    )


def unpack_windows(packed: PackedWindows, *, channels: int) -> Windows:
    """Return the windows in *packed*, of so many *channels*.

    Raises:
        ValueError: If columns, ranges and channels do not fit together.
    """
    windows = Windows(
        asset_ids=packed.asset_ids,
        asset=np.frombuffer(packed.asset, np.int64),
        start_ns=np.frombuffer(packed.start_ns, np.int64),
        end_ns=np.frombuffer(packed.end_ns, np.int64),
        good_share=np.frombuffer(packed.good_share, np.float64),
        channels=tuple(_unpack_rows(rows) for rows in packed.channels),
    )
    count = len(windows)
    columns = (windows.start_ns, windows.end_ns, windows.good_share)
    if len(windows.channels) != channels or any(len(column) != count for column in columns):
        raise ValueError(f"windows of {len(windows.channels)} channels where {channels} are due, or cut columns")
    if count and not 0 <= windows.asset.min() <= windows.asset.max() < len(windows.asset_ids):
        raise ValueError("windows of none of their assets")
    if not ((windows.start_ns < windows.end_ns).all() and (np.abs(windows.good_share - 0.5) <= 0.5).all()):
        raise ValueError("windows that end before they start, or shares beyond 1")
    if any(not _fits(rows, count) for rows in windows.channels):
        raise ValueError("ranges of observations that are not there")
    return windows


def _unpack_rows(packed: PackedRows) -> ChannelRows:
    return ChannelRows(
        time=np.frombuffer(packed.time, np.int64),
        value=np.frombuffer(packed.value, np.float64),
        good=np.frombuffer(packed.good, np.uint8) != 0,
        sample_count=np.frombuffer(packed.sample_count, np.int64),
        samples=np.frombuffer(packed.samples, np.float32),
        first=np.frombuffer(packed.first, np.int64),
        last=np.frombuffer(packed.last, np.int64),
    )


def _fits(rows: ChannelRows, windows: int) -> bool:
    size = len(rows.time)
    lengths = {size, len(rows.value), len(rows.good), len(rows.sample_count)}
    if len(lengths) != 1 or size > MAX_ROWS or {len(rows.first), len(rows.last)} != {windows}:
        return False
    if (rows.sample_count < 0).any() or _total(rows.sample_count) != len(rows.samples):
        return False
    return bool(((rows.first >= 0) & (rows.first <= rows.last) & (rows.last <= size)).all())


def _total(counts: Int64Array) -> int:
    """Return the sum of *counts* without overflow."""
    return sum(counts.tolist())
