"""Supply: raw data that was kept back, sent when the cloud asks for it.

A request names streams and a time. Its parts are slices of that time, all of one length, so a part is the same slice
whenever it is read. A supplement is a segment whose epoch is the request's id and whose pages are parts: what the cloud
holds of it is resumed, told by its ledger and stored once like any other segment. Nothing about it is kept here. A part
that is held is never read again; one that is not is read as history is then, late values included.

For channels with the policy ``events`` the gateway makes such requests itself, around the evidence of its advisories.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import structlog

from gateway.config import GatewayConfig, Upload
from gateway.errors import HistorianError, JournalError, UploadDeferred, UploadRefused
from gateway.historian import EmbeddedHistorian, Historian
from gateway.historian.historian import by_stream_and_time
from gateway.journal import Journal
from gateway.uplink.client import CloudClient, Range
from gateway.uplink.pacing import Priority
from models.records import OPEN_STATES, UNDECODABLE, Advisory, Observations, Page, Stream, to_ns
from models.segment import SegmentTooLarge, encode_segment, segment_digest

log = structlog.get_logger()

_DAY_NS = 86_400 * 10**9
_LONGEST_NS = 31 * _DAY_NS
_MOST_PARTS = 1440  # of one upload
_MOST_ROWS = 200_000  # the same
_BYTES_PER_ROW = 3
_UPLOAD_CHUNKS = 80  # of an upload under a bandwidth cap: ten seconds, so that a cut costs little
_HISTORIAN_S = 30.0

_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class DataRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud asks for: part ``n``, from 1 on, is of the ``n``-th ``part_ns`` from ``start_ns`` on."""

    request_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16,64}$")]
    asset_id: _Name
    channels: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=1000)]
    start_ns: _Time
    end_ns: _Time
    part_ns: Annotated[int, msgspec.Meta(ge=10**9, le=_DAY_NS)]
    held: list[tuple[_Seq, _Seq]]
    received: Annotated[int, msgspec.Meta(ge=0, le=2**62)]

    def __post_init__(self) -> None:
        if not 0 < self.end_ns - self.start_ns <= _LONGEST_NS:
            raise ValueError(f"{self.start_ns} to {self.end_ns} is no time, or longer than 31 days")

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-(self.end_ns - self.start_ns) // self.part_ns)

    def missing(self) -> Range | None:
        """Return the first run of parts that the cloud does not hold."""
        first = 1
        for start, end in sorted(self.held):
            if first > self.parts:
                return None
            if start > first:
                return first, min(start - 1, self.parts)
            first = max(first, end + 1)
        return (first, self.parts) if first <= self.parts else None

    def span(self, parts: Range) -> tuple[int, int]:
        """Return the time of *parts*: from, inclusive, to, exclusive."""
        return self.start_ns + (parts[0] - 1) * self.part_ns, min(self.start_ns + parts[1] * self.part_ns, self.end_ns)


class _Requests(msgspec.Struct, frozen=True):
    requests: list[msgspec.Raw]


class _Stands(msgspec.Struct, frozen=True):
    state: str
    reason: str = ""


@dataclass(kw_only=True)
class _Watch:
    """How long the streams of a request that have not come to its end have stood still.

    ``barrier`` is the journal's last page when nothing more was to be waited for; before ``not_before`` history is not
    asked again. ``parts_at_once`` make a good upload, by the last one; 0 before the first.
    """

    behind: dict[Stream, int]
    since: float
    barrier: int | None = None
    not_before: float = 0.0
    parts_at_once: int = 0


class _History:
    """What any of several historians has; of one stream and time the last one's row counts."""

    def __init__(self, *historians: Historian) -> None:
        self._historians = historians

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        return by_stream_and_time([await one.read(streams, start_ns, end_ns) for one in self._historians], streams)

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        return max([await one.estimate(streams, start_ns, end_ns) for one in self._historians])


class Supply:
    """Answers the cloud's requests, a bounded piece at a time. Give `send` and `ask_for_events` to `deliver`.

    Args:
        journal: Says what there is, and how far it is delivered.
        historian: Where the rows are read, beside the journal's own segments: each has what the other has purged.
        config: Returns the configuration as it is now.
        settle_s: A stream that has not come to the end of a request, and does not move for so long, will not come.
    """

    def __init__(
        self,
        journal: Journal,
        historian: Historian,
        config: Callable[[], GatewayConfig],
        *,
        settle_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        # Without a database the historian is the journal's segments already.
        own = [] if config().historian is None else [EmbeddedHistorian(journal)]
        self._history = _History(historian, *own)
        self._config = config
        self._settle_s = settle_s
        self._clock = clock
        self._watched: dict[str, _Watch] = {}
        self._not_before = 0.0
        self._trouble = ""

    async def send(self, cloud: CloudClient) -> bool:
        """Send one piece of what the oldest request that can be answered lacks; return whether there may be more.

        Trouble with the cloud or the historian is told in the log and waited out: other data must not wait for it.
        """
        if self._clock() < self._not_before:
            return False
        try:
            for request in await self._requests(cloud):
                if await self._is_ready(request) and await self._answered(cloud, request):
                    self._trouble = ""
                    return True
        except UploadDeferred as deferred:
            self._not_before = self._clock() + deferred.wait_s
            self._tell_once(f"raw data that was asked for waits: {deferred}")
        return False

    async def ask_for_events(self, cloud: CloudClient, advisories: tuple[Advisory, ...]) -> None:
        """Request, of this gateway itself, what *advisories* are about of the channels that are sent with events.

        Raises:
            UploadDeferred: If the cloud could not be reached; to be called again then.
        """
        for advisory in advisories:
            wish = self._wish(advisory)
            if wish is None:
                continue
            name = f"{cloud.gateway_id}/{advisory.advisory_id}/{advisory.revision}"
            request_id = hashlib.sha256(name.encode()).hexdigest()[:32]
            try:
                told = await cloud.ask("PUT", "requests", cloud.gateway_id, request_id, answer=_Stands, body=wish)
                log.info("raw data goes with an advisory", advisory_id=advisory.advisory_id, state=told.state)
            except (UploadRefused, UploadDeferred) as error:
                if isinstance(error, UploadDeferred) and not error.answered:
                    raise
                log.warning("no raw data goes with an advisory", advisory_id=advisory.advisory_id, reason=str(error))

    def _wish(self, advisory: Advisory) -> dict[str, object] | None:
        """Return what goes with *advisory*, None when nothing does."""
        config = self._config()
        if config.uplink is None or advisory.state not in OPEN_STATES:
            return None
        streams = [stream for stream in self._journal.streams() if stream.asset_id == advisory.asset_id]
        told = config.uploads_of(streams)
        channels = sorted(stream.channel for stream in streams if told[stream] is Upload.EVENTS)
        start_ns = to_ns(advisory.evidence_start) - int(config.uplink.events_before_s * 10**9)
        end_ns = to_ns(advisory.evidence_end) + int(config.uplink.events_after_s * 10**9)
        start_ns = max(start_ns, end_ns - _LONGEST_NS, 0)
        if not channels or start_ns >= end_ns:
            return None
        return {"asset_id": advisory.asset_id, "channels": channels, "start_ns": start_ns, "end_ns": end_ns}

    async def _requests(self, cloud: CloudClient) -> list[DataRequest]:
        """Return the open requests; what is none that can be is passed over."""
        told = await cloud.ask("GET", "requests", cloud.gateway_id, answer=_Requests)
        found = []
        for raw in told.requests:
            try:
                found.append(msgspec.json.decode(raw, type=DataRequest))
            except UNDECODABLE as error:
                self._tell_once(f"a data request cannot be one ({error}); it is passed over")
        self._watched = {r.request_id: self._watched[r.request_id] for r in found if r.request_id in self._watched}
        return found

    async def _is_ready(self, request: DataRequest) -> bool:
        """Return whether all that there will be of *request* is in history, and nothing of it on another way.

        Its time has passed when every stream has come to its end or stands still. What was committed until then has
        to be in the historian, and in segments that the cloud has, or will not take.
        """
        watch = self._watch(request)
        if watch.barrier is None or self._clock() < watch.not_before:
            return False
        positions = await self._journal.positions()
        if min(positions["compactor"], positions.get("historian", watch.barrier)) < watch.barrier:
            return False
        where = "delivered_time IS NULL AND refused IS NULL AND first_seq <= ?"
        barrier = (watch.barrier,)
        return not await self._journal.read(lambda database: database.segments.select(where, barrier, 1))

    def _watch(self, request: DataRequest) -> _Watch:
        newest = {stream: self._journal.newest_source_time(stream) for stream in _streams(request)}
        behind = {stream: moment for stream, moment in newest.items() if moment is not None and moment < request.end_ns}
        watch = self._watched.get(request.request_id)
        if watch is None or watch.behind != behind:
            watch = self._watched[request.request_id] = _Watch(behind=behind, since=self._clock())
        stands_still = time.time_ns() >= request.end_ns and self._clock() - watch.since >= self._settle_s
        if watch.barrier is None and (not behind or stands_still):
            watch.barrier = self._journal.last_seq
        return watch

    async def _answered(self, cloud: CloudClient, request: DataRequest) -> bool:
        """Answer a piece of *request*; return whether history could be read: the others do not wait for it."""
        try:
            await self._answer(cloud, request)
        except (HistorianError, JournalError) as error:
            if self._journal.closed:
                raise
            self._watched[request.request_id].not_before = self._clock() + _HISTORIAN_S
            self._tell_once(f"raw data that was asked for waits: {error}")
            return False
        return True

    async def _answer(self, cloud: CloudClient, request: DataRequest) -> None:
        missing = request.missing()
        streams = [stream for stream in _streams(request) if self._journal.newest_source_time(stream) is not None]
        if not streams:
            await self._refuse(cloud, request, f"this gateway has never stored these channels of {request.asset_id}")
        elif missing is not None and (request.held or await self._has_history(request, streams)):
            await self._send(cloud, request, streams, missing)
        elif missing is not None or not request.received:
            await self._refuse(cloud, request, "its history has nothing of this time: purged, or never measured")
        else:
            await self._end(cloud, request, "done", {"parts": request.parts, "observations": request.received})

    async def _has_history(self, request: DataRequest, streams: Sequence[Stream]) -> bool:
        return bool(await self._history.estimate(streams, request.start_ns, request.end_ns))

    async def _send(self, cloud: CloudClient, request: DataRequest, streams: Sequence[Stream], missing: Range) -> None:
        """Send as many parts from the first missing one on as make a good upload."""
        watch, good = self._watched[request.request_id], _good_rows(cloud)
        count = min(watch.parts_at_once or _MOST_PARTS, missing[1] - missing[0] + 1)
        if not watch.parts_at_once:
            count = await self._good_count(request, streams, missing[0], count, good)
        parts = missing[0], missing[0] + count - 1
        rows = await self._history.read(streams, *request.span(parts))
        try:
            data = await asyncio.to_thread(_encode, cloud.gateway_id, request, parts, rows)
            await cloud.put(request.request_id, parts, data, segment_digest(data), Priority.SUPPLY)
        except SegmentTooLarge as error:
            watch.parts_at_once = max(count // 2, 1)
            if count == 1:
                await self._refuse(cloud, request, f"{error}; ask for fewer channels at a time")
        except UploadRefused as error:
            await self._refused(cloud, request, parts, error)
        else:
            # Machines pause and speed up: the next upload has at most four times the parts.
            watch.parts_at_once = max(1, min(4 * count, count * good // max(len(rows), 1), _MOST_PARTS))
            log.debug("raw data supplied", request_id=request.request_id, parts=parts, observations=len(rows))

    async def _good_count(
        self, request: DataRequest, streams: Sequence[Stream], first: int, most: int, good: int
    ) -> int:
        """Return how many parts from *first* on have about *good* rows: from 1 to *most*."""
        count = most
        while count > 1:
            found = await self._history.estimate(streams, *request.span((first, first + count - 1)))
            if found <= good:
                break
            count = max(1, min(count - 1, count * good // found))
        return count

    async def _refused(self, cloud: CloudClient, request: DataRequest, parts: Range, error: UploadRefused) -> None:
        """End *request*, unless the parts are there after all (their first answer was lost) or it has ended."""
        now = {one.request_id: one for one in await self._requests(cloud)}.get(request.request_id)
        if now is not None and (missing := now.missing()) is not None and missing[0] == parts[0]:
            await self._refuse(cloud, request, str(error))

    async def _refuse(self, cloud: CloudClient, request: DataRequest, reason: str) -> None:
        await self._end(cloud, request, "refused", {"reason": reason[:500]})

    async def _end(self, cloud: CloudClient, request: DataRequest, how: str, body: object) -> None:
        try:
            told = await cloud.ask(
                "POST", "requests", cloud.gateway_id, request.request_id, how, answer=_Stands, body=body
            )
            log.info("data request ended", request_id=request.request_id, state=told.state, reason=told.reason)
        except UploadRefused as error:
            raise UploadDeferred(str(error), 0.0, answered=True) from error

    def _tell_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning(trouble)
        self._trouble = trouble


def _streams(request: DataRequest) -> list[Stream]:
    return [Stream(request.asset_id, channel) for channel in dict.fromkeys(request.channels)]


def _good_rows(cloud: CloudClient) -> int:
    """Return how many rows make a good upload."""
    if not cloud.pacer.capped:
        return _MOST_ROWS
    return min(_MOST_ROWS, cloud.pacer.chunk_bytes * _UPLOAD_CHUNKS // _BYTES_PER_ROW)


def _encode(gateway_id: str, request: DataRequest, parts: Range, rows: Observations) -> bytes:
    """Return the segment of *parts* with *rows*, each in the part of its time."""
    part = (rows.source_time - request.start_ns) // request.part_ns + 1
    order = np.argsort(part, kind="stable")
    edges = np.searchsorted(part[order], np.arange(parts[0], parts[1] + 2))
    return encode_segment(
        [
            Page(
                gateway_id=gateway_id,
                epoch=request.request_id,
                seq=seq,
                committed_time=0,
                content=rows.take(order[edges[place] : edges[place + 1]]),
            )
            for place, seq in enumerate(range(parts[0], parts[1] + 1))
        ]
    )
