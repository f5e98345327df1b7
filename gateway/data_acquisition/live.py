"""What comes over one connection: channels found, holes filled from history, then live values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

import numpy as np
import structlog
from asyncua.client.client import Client

from gateway.config import AcquisitionConfig, AssetConfig
from gateway.data_acquisition.batch import AcquisitionCounters, Batch
from gateway.data_acquisition.columns import Columns, observed
from gateway.data_acquisition.discovery import FoundChannel, discover
from gateway.data_acquisition.history import Backfill, Wanted
from gateway.data_acquisition.limits import RequestLimits
from gateway.data_acquisition.messages import NotificationMessage
from gateway.data_acquisition.subscription import Item, Subscription
from gateway.errors import SourceUnavailable
from models.records import BoolArray, Gap, Int64Array, Observations, Results, Stream, UInt32Array, from_ns

log = structlog.get_logger()

_HOUR_NS = 3_600_000_000_000
_ROWS_PER_BATCH = 50_000
_FIRST_VALUES_S = 1.0  # so long the first values of all streams may take, to be backfilled together
_RETRY_MISSING_S = 30.0
_OVERFLOW = np.uint32(0x480)  # InfoType DataValue and its Overflow bit: the server's queue dropped values before


class Live:
    """The channels watched over one connection.

    A stream's values pass only after the hole before the first of them is filled. Meanwhile what arrives waits in
    the subscription, unacknowledged.

    Args:
        client: The connected client.
        subscription: Its subscription, without items yet.
        server_name: For messages.
        assets: The assets to find.
        channels: Their channels by asset class.
        acquisition: Sampling and publishing.
        limits: How much one request may ask for.
        newest: Gives the newest stored source time of a stream, ns, or None.
        counters: Kept up to date.
    """

    def __init__(
        self,
        client: Client,
        subscription: Subscription,
        *,
        server_name: str,
        assets: Sequence[AssetConfig],
        channels: Mapping[str, Sequence[str]],
        acquisition: AcquisitionConfig,
        limits: RequestLimits,
        newest: Callable[[Stream], int | None],
        counters: AcquisitionCounters,
    ) -> None:
        self._client = client
        self._subscription = subscription
        self._server_name = server_name
        self._assets = assets
        self._channels = channels
        self._acquisition = acquisition
        self._limits = limits
        self._newest = newest
        self._counters = counters
        # Row i of each is the channel with client handle i; what the server refused stays not watched.
        self._found: list[FoundChannel] = []
        self._streams: tuple[Stream, ...] = ()
        self._watched: BoolArray = np.zeros(0, np.bool_)
        self._ready: BoolArray = np.zeros(0, np.bool_)
        self._last_time: Int64Array = np.zeros(0, np.int64)

    async def watch(self) -> Results:
        """Find the channels that are not watched yet and have them reported; return the assets if there are any."""
        discovery = await discover(self._client, self._incomplete(), self._channels, self._limits)
        handles = {found.stream: handle for handle, found in enumerate(self._found)}
        items = []
        for found in discovery.found:
            handle = handles.setdefault(found.stream, len(self._found))
            if handle == len(self._found):
                self._add(found)
            if not self._watched[handle]:
                items.append(Item(handle=handle, node=found.node))
        refused = await self._subscription.watch(items, self._acquisition, per_request=self._limits.items)
        accepted = [item.handle for item in items if item.handle not in refused]
        self._watched[accepted] = True
        self._note_missing(dict(discovery.missing), refused)
        untimed = ("/".join(stream) for stream in discovery.untimed)
        self._counters.untimed = tuple(dict.fromkeys((*self._counters.untimed, *untimed)))
        return Results(assets=discovery.descriptions(self._assets) if accepted else ())

    def _incomplete(self) -> list[AssetConfig]:
        """Return the assets to look for: all at first, then those of which something is missing."""
        missing = {place.split("/", 1)[0] for place in self._counters.missing}
        return [asset for asset in self._assets if not self._found or asset.asset_id.split("/", 1)[0] in missing]

    def _add(self, found: FoundChannel) -> None:
        """Give *found* the next client handle."""
        self._found.append(found)
        self._streams += (found.stream,)
        self._watched = np.append(self._watched, False)
        self._ready = np.append(self._ready, False)
        self._last_time = np.append(self._last_time, 0)

    def _note_missing(self, missing: dict[str, str], refused: Mapping[int, str]) -> None:
        for handle, reason in refused.items():
            found = self._found[handle]
            missing["/".join(found.stream)] = f"node {found.node.to_string()} {reason}; channel left out"
        for place, reason in missing.items():
            if self._counters.missing.get(place) != reason:
                log.warning("channel left out", server=self._server_name, channel=place, reason=reason)
        self._counters.missing = missing
        self._counters.streams = int(self._watched.sum())

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield what comes, until the connection is lost.

        Raises:
            SourceUnavailable: When it is.
        """
        clock = asyncio.get_running_loop().time
        retry_at = clock() + _RETRY_MISSING_S
        messages = await self._first_messages(clock() + _FIRST_VALUES_S)
        while True:
            async with aclosing(self._pass_on(messages)) as batches:
                async for batch in batches:
                    yield batch
            if self._counters.missing and clock() > retry_at:
                if results := await self.watch():
                    yield Batch(results=results)
                retry_at = clock() + _RETRY_MISSING_S
            messages = await self._waiting_messages()

    async def _first_messages(self, deadline: float) -> list[NotificationMessage]:
        """Return messages until each watched stream had its first value, or the time is *deadline*."""
        messages = []
        seen = np.zeros(len(self._streams), np.bool_)
        clock = asyncio.get_running_loop().time
        while not seen[self._watched].all() and (left := deadline - clock()) > 0:
            message = await self._subscription.next(left)
            if message is not None and message.values is not None:
                messages.append(message)
                seen[self._checked(message.values).handle] = True
        return messages

    async def _waiting_messages(self) -> list[NotificationMessage]:
        """Wait for a message and return it with those behind it: many small ones cost one commit."""
        messages, rows = [], 0
        wait_s = None
        while rows < _ROWS_PER_BATCH:
            message = await self._subscription.next(wait_s)
            if message is None:
                break
            if message.values is not None:
                messages.append(message)
                rows += len(self._checked(message.values).handle)
            if not self._subscription.backlog:
                break
            wait_s = 0.0
        return messages

    def _checked(self, values: Columns) -> Columns:
        if len(values.handle) and int(values.handle.max()) >= len(self._streams):
            raise SourceUnavailable(
                f"{self._server_name}: a value of a channel nobody asked for; the connection is made anew"
            )
        return values

    async def _pass_on(self, messages: Sequence[NotificationMessage]) -> AsyncGenerator[Batch, None]:
        """Yield the values of *messages*, after what history holds before the first of each stream."""
        if not messages:
            return
        values = observed(Columns.concatenate([m.values for m in messages if m.values is not None]))
        fresh = np.unique(values.handle[~self._ready[values.handle]])
        gaps: list[Gap] = []
        if len(fresh):
            wanted, gaps = self._holes(fresh, values)
            backfill = Backfill(self._client, self._server_name, wanted, per_request=self._limits.history)
            async with aclosing(backfill.slices()) as slices:
                async for part in slices:
                    if len(part.observations) or part.gaps:
                        yield self._counted(part.observations, part.gaps)
            self._ready[fresh] = True
        gaps += self._overflows(values)
        np.maximum.at(self._last_time, values.handle, values.source_time)
        numbers = [message.sequence_number for message in messages]
        self._counters.messages += len(messages)
        self._counters.republished += self._subscription.take_republished()
        yield self._counted(self._observations(values), gaps, numbers)

    def _holes(self, fresh: UInt32Array, values: Columns) -> tuple[list[Wanted], list[Gap]]:
        """Return where the *fresh* streams have to be filled up to their first of *values*, and where nothing can."""
        wanted, gaps = [], []
        limit_ns = int(self._acquisition.backfill_limit_h * _HOUR_NS)
        first_time = np.full(len(self._streams), np.iinfo(np.int64).max)
        np.minimum.at(first_time, values.handle, values.source_time)
        for handle in fresh.tolist():
            found, end = self._found[handle], int(first_time[handle])
            newest = self._newest(found.stream)
            self._last_time[handle] = newest if newest is not None else end
            if found.has_history:
                start = newest + 1 if newest is not None else max(end - limit_ns, 0)
                wanted.append(Wanted(stream=found.stream, node=found.node, start=start, end=end))
            elif newest is not None and newest < end:
                gaps.append(_gap(found.stream, newest, end, "not listened, and the server keeps no history of it"))
        return wanted, gaps

    def _overflows(self, values: Columns) -> list[Gap]:
        """Return a gap before each value whose status says that the server's queue dropped some."""
        gaps = []
        for row in np.flatnonzero((values.status & _OVERFLOW) == _OVERFLOW).tolist():
            handle = int(values.handle[row])
            earlier = values.source_time[:row][values.handle[:row] == handle]
            since = int(earlier[-1]) if len(earlier) else int(self._last_time[handle])
            gaps.append(_gap(self._streams[handle], since, int(values.source_time[row]), "server's queue overflowed"))
        return gaps

    def _observations(self, values: Columns) -> Observations:
        return Observations(
            streams=self._streams,
            stream=values.handle,
            source_time=values.source_time,
            value=values.value,
            status=values.status,
            sample_count=values.sample_count,
            samples=values.samples,
        )

    def _counted(self, observations: Observations, gaps: Sequence[Gap], numbers: Sequence[int] = ()) -> Batch:
        """Return the batch; acknowledging it counts it, and its messages *numbers* at the server."""

        def acknowledge() -> None:
            self._counters.observations += len(observations)
            self._counters.backfilled += 0 if numbers else len(observations)
            self._counters.gaps += len(gaps)
            for number in numbers:
                self._subscription.acknowledge(number)

        return Batch(observations=observations, results=Results(gaps=tuple(gaps)), on_acknowledge=acknowledge)


def _gap(stream: Stream, start: int, end: int, cause: str) -> Gap:
    return Gap(
        asset_id=stream.asset_id, channel=stream.channel, from_time=from_ns(start), to_time=from_ns(end), cause=cause
    )
