"""Where a windower stands: how far the assets of a class have come, and all of it as bytes to go on from.

The bytes come from a disk when they are read again. They are checked: columns of one length, numbers in their ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.buffer import Rows
from models.features.specification import FeatureError, FeatureSpecification, is_waveform
from models.records import UNDECODABLE, Int64Array

NEVER = int(np.iinfo(np.int64).min)
FAR = int(np.iinfo(np.int64).max) // 2
# Source times outside 1970 to 2096 are no times; their rows take part in no window.
LATEST = 4_000_000_000_000_000_000
# An asset whose channels are all silent but one closes no window; only so many of its newest rows are looked at.
MAX_ASSET_ROWS = 2_000_000
MAX_ASSETS = 1_000_000

_REVISION = 2
_ROW_COLUMNS = {"place": np.int32, "number": np.int64, "time": np.int64, "value": np.float64, "good": np.uint8}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far assets have come.

    Attributes:
        asset_ids: The assets, shape ``(assets,)``.
        newest: Newest time of each channel, `NEVER` where none came, shape ``(assets, channels)``.
        oldest: Oldest time of all rows, `FAR` where none came, shape ``(assets,)``.
        next_end: End of the next window, shape ``(assets,)``; `NEVER` before the first has closed: that will be the
            first that starts at or after the oldest row until then.
        count: How many rows came, shape ``(assets,)``.
    """

    asset_ids: NDArray[np.object_]
    newest: Int64Array
    oldest: Int64Array
    next_end: Int64Array
    count: Int64Array

    @classmethod
    def of_new(cls, asset_ids: list[str], channels: int) -> Standing:
        """Return where assets stand of which nothing has come."""
        return cls(
            asset_ids=np.array(asset_ids, np.object_),
            newest=np.full((len(asset_ids), channels), NEVER, np.int64),
            oldest=np.full(len(asset_ids), FAR, np.int64),
            next_end=np.full(len(asset_ids), NEVER, np.int64),
            count=np.zeros(len(asset_ids), np.int64),
        )

    def take(self, assets: NDArray[np.integer] | slice) -> Standing:
        """Return a copy for the given *assets*."""
        return Standing(**{one.name: getattr(self, one.name)[assets].copy() for one in fields(self)})

    def and_new(self, asset_ids: list[str]) -> Standing:
        """Return the same assets with new ones behind them."""
        new = Standing.of_new(asset_ids, self.newest.shape[1])
        return Standing(
            **{one.name: np.concatenate([getattr(self, one.name), getattr(new, one.name)]) for one in fields(self)}
        )


@dataclass(kw_only=True)
class WindowCounters:
    """What a windower did: rows it took, rows that came too late for a closed window, rows given up, windows made."""

    rows: int = 0
    late_rows: int = 0
    dropped_rows: int = 0
    windows: int = 0


@dataclass(frozen=True, kw_only=True)
class _Saved:
    key: str
    counters: WindowCounters
    asset_ids: list[str]
    newest: bytes
    oldest: bytes
    next_end: bytes
    count: bytes
    rows: dict[str, bytes]
    sample_count: bytes
    samples: bytes


def encode_standing(spec: FeatureSpecification, counters: WindowCounters, standing: Standing, rows: Rows) -> bytes:
    """Return all that the next windows of *spec* depend on, for `decode_standing`."""
    packed = rows.packed()
    return msgspec.msgpack.encode(
        _Saved(
            key=_key(spec),
            counters=counters,
            asset_ids=standing.asset_ids.tolist(),
            newest=standing.newest.tobytes(),
            oldest=standing.oldest.tobytes(),
            next_end=standing.next_end.tobytes(),
            count=standing.count.tobytes(),
            rows={name: getattr(packed, name).tobytes() for name in _ROW_COLUMNS},
            sample_count=packed.sample_count.tobytes(),
            samples=packed.samples.tobytes(),
        )
    )


def decode_standing(spec: FeatureSpecification, state: bytes) -> tuple[WindowCounters, Standing, Rows]:
    """Return what *state* was made of.

    Raises:
        FeatureError: If it is of other channels or windows, does not decode, or holds what no windower has.
    """
    try:
        saved = msgspec.msgpack.decode(state, type=_Saved)
    except UNDECODABLE as error:
        raise FeatureError(f"{spec.asset_class}: saved windows do not decode ({error}); start anew") from error
    if saved.key != _key(spec):
        raise FeatureError(f"{spec.asset_class}: saved windows are of another specification; start anew")
    try:
        standing = _standing(spec, saved)
        rows = _rows(spec, saved, standing)
    except ValueError as error:
        raise FeatureError(f"{spec.asset_class}: saved windows do not decode ({error}); start anew") from error
    return saved.counters, standing, rows


def _standing(spec: FeatureSpecification, saved: _Saved) -> Standing:
    if not all(0 <= getattr(saved.counters, one.name) < FAR for one in fields(saved.counters)):
        raise ValueError("counters out of range")
    if len(saved.asset_ids) > MAX_ASSETS or len(set(saved.asset_ids)) != len(saved.asset_ids):
        raise ValueError("assets cannot be told apart")
    standing = Standing(
        asset_ids=np.array(saved.asset_ids, np.object_),
        newest=np.frombuffer(saved.newest, np.int64).reshape(-1, len(spec.channels)).copy(),
        oldest=np.frombuffer(saved.oldest, np.int64).copy(),
        next_end=np.frombuffer(saved.next_end, np.int64).copy(),
        count=np.frombuffer(saved.count, np.int64).copy(),
    )
    _check_lengths({one.name: len(getattr(standing, one.name)) for one in fields(standing)})
    begun = standing.next_end != NEVER
    _check(
        {
            "newest times": _is_time(standing.newest) | (standing.newest == NEVER),
            "oldest times": _is_time(standing.oldest) | (standing.oldest == FAR),
            "next ends": ~begun | ((standing.next_end % spec.step_ns == 0) & (standing.next_end > 0)),
            "later ends": ~begun | (standing.next_end <= LATEST + spec.window_ns + spec.step_ns),
            "row counts": (standing.count >= 0) & (standing.count < FAR),
        }
    )
    return standing


def _rows(spec: FeatureSpecification, saved: _Saved, standing: Standing) -> Rows:
    """Return the rows of *saved*; each of a known place, numbered before what its asset has counted."""
    columns = {name: np.frombuffer(saved.rows.get(name, b""), dtype) for name, dtype in _ROW_COLUMNS.items()}
    _check_lengths({name: len(column) for name, column in columns.items()})
    place, number = columns["place"], columns["number"]
    sample_count = np.frombuffer(saved.sample_count, np.int64)
    samples = np.frombuffer(saved.samples, np.float32)
    _check(
        {
            "places": (place >= 0) & (place < standing.newest.size),
            # Each of them, so that their sum cannot run over to what is wanted.
            "sample counts": (sample_count >= 0) & (sample_count <= samples.size),
        }
    )
    if len(sample_count) not in {0, len(place)} or sample_count.sum() != samples.size:
        raise ValueError("samples of another number")
    waveform = np.array([is_waveform(channel) for channel in spec.channels])
    if sample_count.size and (sample_count[~waveform[place % len(spec.channels)]] > 0).any():
        raise ValueError("samples of a plain channel")
    count = standing.count[place // len(spec.channels)]
    _check(
        {
            "row numbers": (number >= 0) & (number < count) & (number + MAX_ASSET_ROWS >= count),
            "times": _is_time(columns["time"]),
            "good marks": columns["good"] <= 1,
        }
    )
    order = np.argsort(number, kind="stable")
    return Rows(
        **{name: column for name, column in columns.items() if name != "good"},
        good=columns["good"].view(np.bool_),
        sample_first=np.cumsum(sample_count) - sample_count,
        sample_count=sample_count,
        samples=samples,
    ).take(order)


def _is_time(time: Int64Array) -> NDArray[np.bool_]:
    return (time >= 0) & (time < LATEST)


def _check(fit: Mapping[str, NDArray[np.bool_]]) -> None:
    for name, right in fit.items():
        if not right.all():
            raise ValueError(f"{name} out of range")


def _check_lengths(lengths: Mapping[str, int]) -> None:
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}")


def _key(spec: FeatureSpecification) -> str:
    """Return what saved windows must have in common with the windower that goes on with them."""
    channels = ",".join(f"{channel.name}{'~' * is_waveform(channel)}" for channel in spec.channels)
    return f"{_REVISION} {spec.asset_class} {spec.window_ns} {spec.step_ns} {spec.late_ns} {channels}"
