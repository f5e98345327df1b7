"""What comes of a request: checked against what was asked for, and stored without what the lake has already.

Rows that the lake holds of the same stream and source time are counted as repeats, so that ``received = stored +
repeats`` holds for every request. Only files of the same gateway that reach into the time of the part are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from cloud_service.errors import SegmentRejected
from cloud_service.ingest.ledger import StoredRange
from cloud_service.lake.files import OBSERVATIONS, range_path
from cloud_service.requests.asking import MOST_CHANNELS
from cloud_service.requests.context import ask_for_context
from cloud_service.requests.tables import PART_S, RequestRow, RequestState
from cloud_service.requests.withheld import note_withheld
from cloud_service.store import LedgerRow
from models.fingerprints import row_sums
from models.records import BoolArray, Int64Array, Observations, from_ns, to_ns
from models.segment import Segment, SegmentKind

_PART_NS = PART_S * 10**9
# Room for a stream's times beside its number in 63 bits: 31 days of nanoseconds take 52.
_TIMES = 2**53


def is_request(session: Session, gateway_id: str, epoch: str) -> bool:
    """Return whether *epoch* is the id of a request to *gateway_id*.

    Raises:
        SegmentRejected: If it is the id of a request to another gateway.
    """
    row = session.get(RequestRow, epoch)
    if row is not None and row.gateway_id != gateway_id:
        raise SegmentRejected(f"epoch {epoch} is a request to another gateway; nothing is stored", "epoch")
    return row is not None


def _check_supplement(row: RequestRow, segment: Segment) -> None:
    if row.state != RequestState.OPEN:
        raise SegmentRejected(f"request {row.request_id} is {row.state}; nothing more of it is stored", "epoch")
    if segment.kind is not SegmentKind.FULL:
        raise SegmentRejected(f"a supplement is a full segment, and this one is {segment.kind}; not stored", "kind")
    if segment.results:
        raise SegmentRejected("a supplement holds observations alone, and this one has results; not stored", "results")
    if segment.last_seq > row.parts:
        raise SegmentRejected(f"request {row.request_id} has {row.parts} parts; nothing is stored", "last_seq")
    _check_streams(row, segment.observations)
    _check_times(row, segment)


def _check_streams(row: RequestRow, observations: Observations) -> None:
    asked = frozenset(row.channel_names)
    for asset_id, channel in observations.streams:
        if asset_id != row.asset_id or channel not in asked:
            raise SegmentRejected(
                f"{asset_id[:80]}/{channel[:80]} was not asked for by request {row.request_id}; nothing is stored",
                "streams",
            )


def _check_times(row: RequestRow, segment: Segment) -> None:
    """Refuse rows that are not of the time of their part."""
    times = segment.observations.source_time
    starts = to_ns(row.start) + (segment.seq - 1) * _PART_NS
    outside = np.flatnonzero((times < starts) | (times >= np.minimum(starts + _PART_NS, to_ns(row.end))))
    if outside.size:
        raise SegmentRejected(
            f"{from_ns(int(times[outside[0]]))} is not in part {segment.seq[outside[0]]} of request {row.request_id}; "
            "nothing is stored",
            "source_time",
        )


def without_repeats(session: Session, lake: Path, segment: Segment) -> tuple[Segment, Int64Array]:
    """Return *segment* without the rows that the lake has, and how many went of each page; only a supplement has any.

    Of several rows of one stream and time in it the last stays. Its pages keep their fingerprints, as those of a
    segment that was cut by policy do.

    Raises:
        SegmentRejected: If it is a supplement, and not what was asked for; it names the field.
    """
    pages = segment.last_seq - segment.first_seq + 1
    if not is_request(session, segment.gateway_id, segment.epoch):
        return segment, np.zeros(pages, np.int64)
    _check_supplement(session.get_one(RequestRow, segment.epoch), segment)
    new = _new_rows(session, lake, segment)
    place = segment.seq - segment.first_seq
    left = replace(
        segment,
        observations=segment.observations.take(new),
        seq=segment.seq[new],
        remainders=segment.remainders + row_sums(segment.observations.take(~new), place[~new], pages),
    )
    return left, np.bincount(place[~new], minlength=pages).astype(np.int64)


def taken_in(session: Session, segment: Segment, new: Sequence[StoredRange]) -> None:
    """Write down what the pages *new* of *segment* say beside their data; in the transaction that enters them.

    A supplement counts for its request. Other segments say what was kept back, and their advisories ask for it.
    """
    row = session.get(RequestRow, segment.epoch)
    if row is not None:
        row.observations += sum(stored.observations for stored in new)
        row.repeats += sum(stored.repeats for stored in new)
        return
    note_withheld(session, segment)
    pages = [(stored.first_seq, stored.last_seq) for stored in new]
    fresh = [results for seq, results in segment.results if any(first <= seq <= last for first, last in pages)]
    ask_for_context(session, segment.gateway_id, fresh)


def _new_rows(session: Session, lake: Path, segment: Segment) -> BoolArray:
    observations = segment.observations
    new = np.zeros(len(observations), np.bool_)
    if not len(observations):
        return new
    keys = _Keys.of(observations)
    new[len(observations) - 1 - np.unique(keys.rows[::-1], return_index=True)[1]] = True
    held = [np.empty(0, np.int64), *_held_keys(_files(session, lake, segment), segment, keys)]
    return np.asarray(new & ~np.isin(keys.rows, np.unique(np.concatenate(held))), np.bool_)


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """One number for stream and time of each row."""

    rows: Int64Array
    channels: dict[str, int]
    start_ns: int
    end_ns: int

    @classmethod
    def of(cls, observations: Observations) -> _Keys:
        times = observations.source_time
        start_ns, end_ns = int(times.min()), int(times.max()) + 1
        names = sorted({channel for _, channel in observations.streams})
        channels = {name: place for place, name in enumerate(names)}
        assert len(channels) <= MOST_CHANNELS < 2**63 // _TIMES
        assert end_ns - start_ns < _TIMES
        places = np.array([channels[channel] for _, channel in observations.streams], np.int64)
        rows = places[observations.stream] * _TIMES + (times - start_ns)
        return cls(rows=rows, channels=channels, start_ns=start_ns, end_ns=end_ns)


def _files(session: Session, lake: Path, segment: Segment) -> list[Path]:
    """Return the files of the segment's gateway that may reach into its time."""
    row = LedgerRow
    times = segment.observations.source_time
    oldest, newest = from_ns(int(times.min())), from_ns(int(times.max()))
    query = select(row.epoch, row.first_seq, row.last_seq).where(row.gateway_id == segment.gateway_id)
    begins_before_its_end = or_(row.oldest_time.is_(None), row.oldest_time <= newest)  # None: of an earlier version
    found = session.execute(query.where(row.newest_time >= oldest, begins_before_its_end))
    paths = (range_path(lake, OBSERVATIONS, segment.gateway_id, epoch, (a, b)) for epoch, a, b in found)
    return [path for path in paths if path.exists()]


def _held_keys(files: list[Path], segment: Segment, keys: _Keys) -> Iterable[NDArray[np.int64]]:
    """Yield the keys of what *files* hold of the streams and the time of *segment*."""
    if not files:
        return
    asset_id = segment.observations.streams[0].asset_id
    condition = (ds.field("asset_id") == asset_id) & ds.field("channel").isin(list(keys.channels))
    condition &= (ds.field("source_time") >= keys.start_ns) & (ds.field("source_time") < keys.end_ns)
    batches = ds.dataset([str(path) for path in files], format="parquet").to_batches(
        columns=["channel", "source_time"], filter=condition
    )
    for batch in batches:
        if batch.num_rows:
            names = pc.dictionary_encode(batch["channel"].cast("string"))
            places = np.array([keys.channels[name] for name in names.dictionary.to_pylist()], np.int64)
            yield places[names.indices.to_numpy()] * _TIMES + (batch["source_time"].to_numpy() - keys.start_ns)
