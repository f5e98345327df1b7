"""What comes from one server while its session lasts: values, what history has of the time before, and what is missing.

Four things go on side by side, each yielding batches: values are received (and read, where polled), the reconciler
keeps what is monitored equal to what is wanted, history fills holes, newest first, and quiet tags are looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
from asyncua.client.client import Client

from gateway.config import ServerConfig
from gateway.data_acquisition.backfill import Backfill, Slice
from gateway.data_acquisition.batch import AcquisitionCounters, Batch, Stored
from gateway.data_acquisition.clock import ClockGuard, read_server_time
from gateway.data_acquisition.columns import Columns, observed
from gateway.data_acquisition.liveness import READ_AT_ONCE, Handles, beating, due, is_gone, judge
from gateway.data_acquisition.polling import Polling
from gateway.data_acquisition.profiles import ServerProfile
from gateway.data_acquisition.publishing import Message, Publishing
from gateway.data_acquisition.reconciler import Members, Reconciler
from gateway.data_acquisition.tags import WantedTags
from gateway.data_acquisition.unseen import Unseen
from gateway.data_acquisition.watched import Watched
from gateway.errors import SourceUnavailable
from gateway.journal import Hole
from models.records import Gap, GatewayEvent, Heartbeat, Observations, Results, from_ns

log = structlog.get_logger()

_HOUR_NS = 3_600_000_000_000
_ROWS_PER_BATCH = 50_000
_FIRST_VALUES_S = 1.0  # so long the first values of all tags may take, to be backfilled together
_HEAD_START_S = 2.0  # so long live values wait for history at first: windows then see a past that looks like a present
_HEAD_START_ROWS = 100_000
_LOOK_S = 5.0
_WATCH_S = 5.0
_HANG_S = 30.0
_DRAIN_STEP_S = 0.02
_BEHIND_NS = 1_000_000_000  # values that wait for longer make a look at their tags meaningless
_LOOK_ON_S = 0.25  # when there were more tags to look at than fit into one look
_TRY_HISTORY_AGAIN_S = 30.0
_BACKWARDS_NS = 1_000_000_000


class Live:
    """The tags of one server, read over one session.

    Live values never wait for history, but for a short head start at first: what fits into it is passed on before them,
    in the order of time. A longer hole is filled meanwhile, newest slice first, and what is still open when the
    connection ends is taken up by the next one: the journal keeps the list.

    Args:
        client: The connected client.
        publishing: Its subscriptions, none yet.
        server: The server's configuration.
        wanted: The tags.
        profile: What the server takes.
        clock: The server's clock.
        stored: What is stored, and which holes are open.
        backfill_limit_h: How far back history is fetched for a stream never seen before.
        counters: Kept up to date.
        members: What was found in folders, for the reconciler of the next session.
    """

    def __init__(
        self,
        client: Client,
        publishing: Publishing,
        *,
        server: ServerConfig,
        wanted: WantedTags,
        profile: ServerProfile,
        clock: ClockGuard,
        stored: Stored,
        backfill_limit_h: float,
        counters: AcquisitionCounters,
        members: Members | None = None,
    ) -> None:
        self._client = client
        self._publishing = publishing
        self._server = server
        self._profile = profile
        self._clock = clock
        self._stored = stored
        self._counters = counters
        self._watched = Watched()
        self._unseen = Unseen(server, self._watched, stored, round(backfill_limit_h * _HOUR_NS))
        self._polling = Polling(client, server.name, [], profile.limits)
        self._reconciler = Reconciler(
            client,
            publishing,
            self._polling,
            server_name=server.name,
            wanted=wanted,
            profile=profile,
            watched=self._watched,
            counters=counters,
            drained=self._drained,
            members=members,
        )
        self._changes: asyncio.Queue[WantedTags] = asyncio.Queue()
        self._look_again = asyncio.Event()
        self._holes_opened = asyncio.Event()
        self._first_stored = asyncio.Event()
        # Batches wait here, one at most: while it is being stored the next one grows.
        self._ready: asyncio.Queue[Batch | Exception] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)
        self._is_ready = asyncio.Event()
        self._holds_values = self._is_receiving = False
        self._busy_since = 0.0  # since when values are held, by the event loop's clock
        self._passed_ns = 0  # when the last message that was passed on had arrived

    async def begin(self) -> Results:
        """Find the tags and have them reported; return the assets."""
        return await self._reconciler.first()

    def change(self, wanted: WantedTags) -> None:
        """Read *wanted* from now on; tags that are as they were are not touched."""
        self._changes.put_nowait(wanted)
        self._look_again.set()

    async def resume(self, client: Client, *, reused: bool) -> bool:
        """Go on over another connection, as if nothing had happened; return False when that cannot be."""
        if self._holds_values or not await self._publishing.resume(client, reused=reused):
            return False
        self._client = client
        self._polling = Polling(client, self._server.name, [], self._profile.limits)
        self._reconciler.go_on(client, self._polling)
        return True

    async def close(self) -> None:
        """End the subscriptions."""
        await self._publishing.close()

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield what comes, until the connection is lost.

        Raises:
            SourceUnavailable: When it is.
        """
        self._ready, self._room = asyncio.Queue(), asyncio.Semaphore(1)
        self._holds_values = False
        if not self._publishing.revised:
            self._first_stored.set()  # nothing is subscribed to, so there is nothing to wait for
        work = (self._receive(), self._poll(), self._reconcile(), self._backfill(), self._look())
        tasks = [asyncio.create_task(self._told_when_it_fails(part)) for part in work]
        try:
            while True:
                if self._ready.empty() and not await self._anything_ready():
                    self._look_for_hang(tasks)
                    continue
                ready = self._ready.get_nowait()
                if isinstance(ready, Exception):
                    failure = ready
                    break
                self._room.release()
                yield ready
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # What came behind the failure before anybody saw it counts as passed on: it is stored like what came before.
        while not self._ready.empty():
            if isinstance(behind := self._ready.get_nowait(), Batch):
                yield behind
        raise failure

    async def _anything_ready(self) -> bool:
        """Wait for a batch; return False when none is ready after a while."""
        self._is_ready.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_S):
                await self._is_ready.wait()
        return not self._ready.empty()

    def _look_for_hang(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Give the connection up when values have come and do not get on though everything before them is stored."""
        busy_s = asyncio.get_running_loop().time() - self._busy_since
        if any(task.done() for task in tasks) or (self._holds_values and busy_s > _HANG_S):
            raise SourceUnavailable(f"{self._server.name}: values came and did not get on; the connection is made anew")

    async def _told_when_it_fails(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised again where batches are taken
            self._put(error)  # behind the batches that are ready: they are stored first

    async def _pass(self, batch: Batch) -> None:
        """Hand *batch* on when there is room."""
        await self._room.acquire()
        self._put(batch)

    def _put(self, ready: Batch | Exception) -> None:
        self._ready.put_nowait(ready)
        self._is_ready.set()

    # Values

    async def _receive(self) -> None:
        self._is_receiving = True
        while True:
            message = await self._publishing.next()
            if message is None or (message.values is None and self._first_stored.is_set()):
                self._note_lost(message)
                continue
            self._holds_values, self._busy_since = True, asyncio.get_running_loop().time()
            if not self._first_stored.is_set():
                await self._pass_first(await self._first_messages(message))
                await self._first_stored.wait()
            else:
                await self._room.acquire()  # what arrives until then joins the batch: many small ones cost one commit
                self._put(self._live_batch(await self._with_backlog(message)))
            self._holds_values = False

    async def _first_messages(self, first: Message) -> list[Message]:
        """Return messages until each tag had its first value, or some time has passed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST_VALUES_S
        messages = [first]
        waiting = self._watched.active.copy()
        while True:
            if (values := messages[-1].values) is not None:
                handles = self._checked(values).handle
                waiting[handles[handles < len(waiting)]] = False  # there may be more tags by now
            left = deadline - loop.time()
            if not waiting.any() or left <= 0 or messages[-1].lost:
                return messages
            if (message := await self._publishing.next(left)) is not None:
                messages.append(message)

    async def _with_backlog(self, first: Message) -> list[Message]:
        """Return *first* and what arrived after it, up to a message that tells a loss: that one opens a new batch."""
        messages, rows = [first], 0
        while self._publishing.backlog and rows < _ROWS_PER_BATCH and not messages[-1].lost:
            message = await self._publishing.next(0.0)
            if message is None:
                break
            messages.append(message)
            rows += len(message.values.handle) if message.values is not None else 0
        return messages

    async def _pass_first(self, messages: Sequence[Message]) -> None:
        """Pass on the first values, after what history has of the time before them if that is quickly had."""
        live = self._live_batch(messages)
        slices, is_whole = await self._head_start(live.opened)
        filled = [self._filled_batch(part) for part in slices]
        batches = [*reversed(filled), replace(live, opened=())] if is_whole else [replace(live, opened=()), *filled]
        batches[0] = replace(batches[0], opened=live.opened)
        for batch in batches:
            await self._pass(batch)
        await self._pass(Batch(on_acknowledge=self._first_stored.set))

    async def _head_start(self, opened: Sequence[Hole]) -> tuple[list[Slice], bool]:
        """Return what history gives at once of the *opened* holes, newest first, and whether that is all of it."""
        slices: list[Slice] = []
        is_whole = False

        async def collect() -> None:
            nonlocal is_whole
            rows = 0
            async with aclosing(self._history(opened).slices()) as parts:
                async for part in parts:
                    slices.append(part)
                    rows += len(part.observations)
                    if rows > _HEAD_START_ROWS:
                        return
            is_whole = True

        # A task of its own: a request that ends in the moment in which it is cancelled may go on as if it were not.
        collecting = asyncio.create_task(collect())
        try:
            await asyncio.wait([collecting], timeout=_HEAD_START_S)
        finally:
            collecting.cancel()
        if collecting.done() and not collecting.cancelled():
            collecting.result()
        return list(slices), is_whole

    async def _poll(self) -> None:
        async for values in self._polling.readings():
            await self._room.acquire()
            self._put(self._batch(observed(self._checked(values)), time.time_ns()))

    def _live_batch(self, messages: Sequence[Message]) -> Batch:
        """Return the values of *messages* as a batch that acknowledges them; only the last may tell a loss."""
        parts = [self._checked(message.values) for message in messages if message.values is not None]
        batch = self._batch(observed(Columns.concatenate(parts)), messages[-1].received_time)
        counters, publishing = self._counters, self._publishing
        counters.messages += len(parts)
        counters.republished = publishing.republished
        self._note_lost(messages[-1])
        self._passed_ns = messages[-1].received_time

        def acknowledge() -> None:
            batch.on_acknowledge()
            for message in messages:
                publishing.acknowledge(message)

        return replace(batch, on_acknowledge=acknowledge)

    def _batch(self, values: Columns, received_ns: int) -> Batch:
        """Return *values* with the holes before them."""
        watched, now = self._watched, asyncio.get_running_loop().time()
        if not len(values.handle):
            return Batch()
        values = self._clock.timed(values, received_ns)
        self._counters.replaced_times = self._clock.replaced
        holes = self._unseen.before(values)
        opened = tuple(hole for hole in holes if self._unseen.has_history(hole.stream))
        gaps = self._gaps([hole for hole in holes if not self._unseen.has_history(hole.stream)])
        self._note_order(values)
        watched.note(values, now)
        gone = np.unique(values.handle[is_gone(values.status)]) if values.status.any() else ()
        for handle in gone:
            self._reconciler.lost.add(int(handle))
            self._look_again.set()
        observations = Observations(
            streams=watched.streams,
            stream=values.handle,
            source_time=values.source_time,
            value=values.value,
            status=values.status,
            sample_count=values.sample_count,
            samples=values.samples,
        )
        return self._counted(Batch(observations=observations, results=Results(gaps=gaps), opened=opened))

    async def _drained(self) -> None:
        """Wait until all values that have arrived are passed on."""
        now = time.time_ns()
        # More may arrive all the time; it is for what is there now.
        while self._is_receiving and self._is_behind(now):  # noqa: ASYNC110 - rare and short
            await asyncio.sleep(_DRAIN_STEP_S)

    def _is_behind(self, since_ns: int) -> bool:
        """Return whether values wait that may have arrived before *since_ns*, by the gateway's clock."""
        return bool(self._publishing.backlog or self._holds_values) and self._passed_ns < since_ns

    def _checked(self, values: Columns) -> Columns:
        if len(values.handle) and int(values.handle.max()) >= len(self._watched.streams):
            raise SourceUnavailable(
                f"{self._server.name}: a value of a channel nobody asked for; the connection is made anew"
            )
        return values

    def _gaps(self, holes: Sequence[Hole]) -> tuple[Gap, ...]:
        gaps = (self._unseen.gap(hole) for hole in holes)
        return tuple(gap for gap in gaps if gap is not None)

    def _note_order(self, values: Columns) -> None:
        """Count overflows, and source times that run backwards: a clock of the plant was set."""
        for place in self._unseen.overflowed(values):
            self._counters.overflows[place] = self._counters.overflows.get(place, 0) + 1
        behind = values.source_time < self._watched.time[values.handle] - _BACKWARDS_NS
        if behind.any():
            self._counters.backwards += int(np.count_nonzero(behind))

    def _note_lost(self, message: Message | None) -> None:
        """Expect a hole before the next value of tags of which messages are lost for good, and look at them soon."""
        if message is None or not message.lost:
            return
        handles = np.fromiter(message.lost, np.intp)
        self._watched.ready[handles] = False
        self._watched.evidence[handles] = -np.inf
        if message.refused:
            self._reconciler.refuse(message.refused)
            self._look_again.set()

    # History

    def _history(self, holes: Sequence[Hole]) -> Backfill:
        wanted = [self._unseen.wanted(hole) for hole in holes if self._unseen.has_history(hole.stream)]
        per_request = self._profile.limits.history
        return Backfill(self._client, self._server.name, [w for w in wanted if w is not None], per_request=per_request)

    async def _backfill(self) -> None:
        """Fill the open holes of this server's tags, for ever."""
        await self._first_stored.wait()
        while True:
            self._holes_opened.clear()
            committed = asyncio.Event()
            holes = self._mine()
            if hopeless := tuple(hole for hole in holes if not self._unseen.has_history(hole.stream)):
                await self._pass(self._counted(Batch(results=Results(gaps=self._gaps(hopeless)), filled=hopeless)))
            async with aclosing(self._history(holes).slices()) as slices:
                async for part in slices:
                    await self._pass(self._filled_batch(part))
                    self._mine()
            # What was filled is off the list when it is stored, and not before.
            await self._pass(Batch(on_acknowledge=committed.set))
            await committed.wait()
            with suppress(TimeoutError):  # holes are left open when the server had no time for history
                async with asyncio.timeout(_TRY_HISTORY_AGAIN_S if self._mine() else None):
                    await self._holes_opened.wait()

    def _mine(self) -> list[Hole]:
        """Return the open holes of this server's tags."""
        mine = [hole for hole in self._stored.holes() if self._watched.handle(hole.stream) is not None]
        self._counters.open_holes = len(mine)
        return mine

    def _filled_batch(self, part: Slice) -> Batch:
        batch = Batch(observations=part.observations, results=Results(gaps=part.gaps), filled=part.filled)
        return self._counted(batch, is_history=True)

    def _counted(self, batch: Batch, *, is_history: bool = False) -> Batch:
        """Return *batch*, counted when it is stored."""
        counters = self._counters
        observations, gaps = len(batch.observations), len(batch.results.gaps)

        def count() -> None:
            if batch.opened:
                self._holes_opened.set()
            counters.observations += observations
            counters.backfilled += observations if is_history else 0
            counters.gaps += gaps

        return replace(batch, on_acknowledge=count)

    # Tags

    async def _reconcile(self) -> None:
        reconciler = self._reconciler
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(reconciler.wait_s()):
                    await self._look_again.wait()
            self._look_again.clear()
            results = Results()
            if not self._changes.empty():
                wanted = self._changes.get_nowait()
                while not self._changes.empty():
                    wanted = self._changes.get_nowait()
                results = await reconciler.change(wanted)
            else:
                results = await reconciler.again()
            if results:
                await self._pass(Batch(results=results))

    async def _look(self) -> None:
        """Look at the clock and at quiet tags, for ever."""
        loop, watched, is_all = asyncio.get_running_loop(), self._watched, True
        now = loop.time()
        while True:
            await asyncio.sleep(_LOOK_S if is_all else min(_LOOK_S, _LOOK_ON_S))
            if events := await self._read_clock():
                await self._pass(Batch(results=Results(events=events)))
            looked_at, now = now, loop.time()
            handles = due(watched, now)
            is_all = len(handles) < READ_AT_ONCE
            handles = self._heard(handles, looked_at)
            if not len(handles):
                continue
            nodes = [watched.found[handle].node for handle in handles.tolist()]
            read = await self._polling.read_once(nodes, handles.astype(np.uint32))
            timed = self._clock.timed(read, time.time_ns(), counted=False)
            watched.by_value[handles] |= timed.source_time != read.source_time  # the time is the read's own then
            verdict = judge(watched, timed, loop.time())
            self._counters.silent = watched.named(verdict.silent)
            if len(verdict.dead) or len(verdict.gone):
                self._counters.revived += len(verdict.dead)
                self._reconciler.unheard.update(verdict.dead.tolist())
                self._reconciler.lost.update(verdict.gone.tolist())
                self._look_again.set()
            heartbeats = self._heartbeats(verdict.alive, now)
            watched.told[handles] = now  # what is not alive has none; it is looked at again when the next is due
            if heartbeats:
                await self._pass(Batch(results=Results(heartbeats=heartbeats)))

    def _heard(self, handles: Handles, since: float) -> Handles:
        """Return those of *handles* of which nothing is on its way: a stalled journal makes no tag dead.

        Their subscriptions were heard of after *since*, and all that arrived is passed on.
        """
        if self._is_behind(time.time_ns() - _BEHIND_NS):
            return handles[:0]
        heard = (self._publishing.last_message_at(handle) for handle in handles.tolist())
        return handles[np.fromiter((at is None or at > since for at in heard), np.bool_, len(handles))]

    def _heartbeats(self, alive: Handles, now: float) -> tuple[Heartbeat, ...]:
        """Return the heartbeats that are due of tags known to be *alive*."""
        watched = self._watched
        handles = alive[beating(watched, now)[alive] & watched.ready[alive]]
        at = datetime.now(UTC)
        return tuple(
            Heartbeat(
                asset_id=watched.streams[handle].asset_id,
                channel=watched.streams[handle].channel,
                gateway_time=at,
                source_time=from_ns(int(watched.time[handle])),
                value=float(watched.value[handle]),
                status=int(watched.status[handle]),
            )
            for handle in handles.tolist()
        )

    async def _read_clock(self) -> tuple[GatewayEvent, ...]:
        asked = time.time_ns()
        told = await read_server_time(self._client)
        step = self._clock.observe(told, asked, time.time_ns()) if told is not None else ""
        self._counters.clock_offset_s = None if self._clock.offset_ns is None else self._clock.offset_ns / 1e9
        if not step:
            return ()
        log.warning("clock stepped", server=self._server.name, message=step)
        return (GatewayEvent(kind="clock_step", gateway_time=datetime.now(UTC), message=step,
                             detail={"server": self._server.name}),)  # fmt: skip
