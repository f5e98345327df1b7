"""Live values and history side by side, over crashes, stalls and lost links: nothing is lost unsaid, or doubled."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua

from gateway.config import AcquisitionConfig, Mode, Sampling, TimeSource
from gateway.data_acquisition import (
    OpcuaSource,
    backfill,
    history_reading,
    live,
    publish_requests,
    services,
    source,
    watched,
)
from gateway.data_acquisition.columns import BAD_WAITING_FOR_INITIAL_DATA, MalformedMessage
from gateway.data_acquisition.publishing import Publishing
from gateway.data_acquisition.tags import Tag
from gateway.errors import SourceUnavailable
from gateway.journal import Hole, Journal
from models.records import Heartbeat, Observations, Stream, to_ns
from tests.gateway.data_acquisition.historian import Historian
from tests.gateway.data_acquisition.small_plant import (
    NOON,
    NOON_NS,
    SECOND_NS,
    Cable,
    SmallPlant,
    Store,
    collecting,
    free_port,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakeSource = Callable[..., OpcuaSource]
BAD_SERVER_TOO_BUSY = 0x80EE0000
A, B = "speed_rpm", "load_pct"
STREAM = Stream("pump-01", A)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(plant_pki: Path) -> AsyncIterator[SmallPlant]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
    plant = SmallPlant(plant_pki, free_port(), channels=())
    await plant.start()
    yield plant
    await plant.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def plant(started: SmallPlant) -> AsyncIterator[SmallPlant]:
    await started.anew(A, B)
    yield started
    started.with_history = True


@pytest_asyncio.fixture(loop_scope="module")
async def without_history(started: SmallPlant) -> AsyncIterator[SmallPlant]:
    started.with_history = False
    await started.anew(A, B)
    yield started
    started.with_history = True


@pytest.fixture
async def historian(plant: SmallPlant, monkeypatch: pytest.MonkeyPatch) -> Historian:
    assert plant.server is not None
    manager = plant.server.iserver.history_manager
    monkeypatch.setattr(manager, "read_history", manager.read_history)  # put back afterwards
    historian = Historian()
    historian.install(plant.server)
    return historian


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOK_S", 0.05)
    monkeypatch.setattr(live, "_TRY_HISTORY_AGAIN_S", 0.1)
    monkeypatch.setattr(services, "_KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(watched, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(source, "_BACK_OFF_FIRST_S", 0.05)
    monkeypatch.setattr(source, "_BACK_OFF_MOST_S", 0.2)


@asynccontextmanager
async def journal_in(folder: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(folder, "gw-1")
    try:
        yield journal
    finally:
        await journal.close()


async def rows_of(journal: Journal, stream: Stream = STREAM) -> list[int]:
    """Return the seconds after noon of all rows of *stream*, in order of time."""
    pages = await journal.read(lambda database: database.decoded_pages(0, limit=10_000, max_bytes=2**30))
    found = []
    for page in pages:
        if isinstance(o := page.content, Observations):
            found += [
                t for i, t in zip(o.stream.tolist(), o.source_time.tolist(), strict=True) if o.streams[i] == stream
            ]
    return sorted((t - NOON_NS) // SECOND_NS for t in found)


def acquisition(**keys: object) -> AcquisitionConfig:
    return AcquisitionConfig(**{"publishing_interval_ms": 50.0, **keys})  # type: ignore[arg-type]  # as given


async def store_batch(journal: Journal, batch: Any) -> None:
    await journal.append(batch.observations, results=batch.results, opened=batch.opened, filled=batch.filled)


async def test_live_values_wait_for_no_history(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history that takes long, page after page, holds nothing up but itself."""
    monkeypatch.setattr(live, "_HEAD_START_S", 0.2)
    page_takes_s, read = 0.1, plant.storage.read_node_history

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(page_takes_s)
        return await read(*args)

    monkeypatch.setattr(plant.storage, "read_node_history", slow)
    plant.remember_values(A, range(1, 1000))
    await plant.write(A, 1000, 1.0)
    async with collecting(source_of(plant, channels=(A,)), store):
        for second in range(1001, 1006):
            await plant.write(A, second, 1.0)
            await until(lambda: store.seconds(A)[-1:] == [second])  # noqa: B023 - waited for here
        assert len(store.seconds(A)) < 1006
        page_takes_s = 0.0
        await until(lambda: store.seconds(A) == list(range(1006)) and store.open == [])
    assert store.gaps == []


async def test_a_long_history_comes_newest_first_and_beside_live_values(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "_ROWS_WANTED", 20)
    monkeypatch.setattr(live, "_HEAD_START_ROWS", 0)
    plant.remember_values(A, range(1, 200))
    await plant.write(A, 200, 1.0)
    async with collecting(source_of(plant, channels=(A,)), store):
        await until(lambda: store.seconds(A) == list(range(201)))
    firsts = [int(b.observations.source_time[0]) for b in store.batches if b.filled and len(b.observations)]
    assert len(firsts) > 3
    assert firsts == sorted(firsts, reverse=True)
    live_at = next(i for i, b in enumerate(store.batches) if len(b.observations) and not b.filled)
    assert sum(bool(b.filled) for b in store.batches[:live_at]) == 0


@pytest.mark.parametrize("is_stored", [False, True], ids=["before the commit", "before the acknowledgement"])
async def test_a_crash_at_any_batch_loses_and_repeats_nothing(
    plant: SmallPlant,
    source_of: MakeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_stored: bool,
) -> None:
    """The process dies at the nth batch, and the nth one after that, and so on until all is there."""
    monkeypatch.setattr(backfill, "_ROWS_WANTED", 20)
    monkeypatch.setattr(live, "_HEAD_START_ROWS", 20)
    plant.remember_values(A, range(1, 100))
    await plant.write(A, 100, 1.0)
    newest = 100
    was_open = False
    for crash_at in (1, 2, 3, 5):
        async with journal_in(tmp_path / str(crash_at)) as journal:
            for life in itertools.count():
                newest += 1
                await plant.write(A, newest, 1.0)
                async with aclosing(source_of(plant, stored=journal, channels=(A,)).batches()) as batches:
                    count, is_whole = 0, False
                    async for batch in batches:
                        count += 1
                        dies = count == crash_at + life
                        if dies and not is_stored:
                            break
                        await store_batch(journal, batch)
                        if dies:
                            break
                        await batch.acknowledge()
                        is_whole = (
                            not journal.holes() and journal.newest_source_time(STREAM) == NOON_NS + newest * SECOND_NS
                        )
                        if is_whole:
                            break
                was_open |= bool(journal.holes())
                if is_whole:
                    break
            assert await rows_of(journal) == list(range(newest + 1))
    assert was_open


async def test_a_hole_is_told_when_its_server_keeps_no_history(
    without_history: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A hole on the list that nothing can fill any more becomes a gap record."""
    hole = Hole(stream=STREAM, start_ns=NOON_NS - 10 * SECOND_NS, end_ns=NOON_NS, cause="not listened")
    store.open.append(hole)
    async with collecting(source_of(without_history, channels=(A,)), store):
        await until(lambda: store.open == [])
    (gap,) = store.gaps
    assert (gap.channel, to_ns(gap.to_time)) == (A, NOON_NS)
    assert gap.cause == "not listened, and the server keeps no history of it"


async def test_a_busy_history_is_asked_again(
    plant: SmallPlant, historian: Historian, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holes stay on the list meanwhile, and live values come."""
    monkeypatch.setattr(history_reading, "_BUSY_S", (0.01,))
    is_busy = True
    historian.refuses = lambda: BAD_SERVER_TOO_BUSY if is_busy else 0
    historian.remember(plant.nodes[A].nodeid, range(6))
    await plant.write(A, 5, 5.0)
    gateway = source_of(plant, channels=(A,))
    async with collecting(gateway, store):
        await until(lambda: store.seconds(A) == [5])
        await until(lambda: len(historian.asked) > 6)
        assert store.open
        assert gateway.counters.open_holes == 1
        is_busy = False
        await until(lambda: store.seconds(A) == list(range(6)))
        await until(lambda: gateway.counters.open_holes == 0)
    assert store.gaps == []


def heartbeats(store: Store, channel: str) -> list[Heartbeat]:
    return [h for batch in store.batches for h in batch.results.heartbeats if h.channel == channel]


async def test_heartbeats_are_told_of_living_tags_apart_from_values(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A tag that does not change is told again; one whose item is dead is not; nothing of it is an observation."""
    keys = {"heartbeat_s": 0.1, "silence_s": 3600.0}
    gateway = source_of(plant, acquisition=acquisition(**keys))
    polled = Sampling(mode=Mode.POLL, sampling_interval_ms=20.0, heartbeat_s=0.1, silence_s=3600.0)
    told = Sampling(publishing_interval_ms=50.0, heartbeat_s=0.1, silence_s=3600.0)
    tags = (Tag(stream=STREAM, path=f"Machines/pump-01/Monitoring/{A}", sampling=told),
            Tag(stream=Stream("pump-01", B), path=f"Machines/pump-01/Monitoring/{B}", sampling=polled))  # fmt: skip
    gateway.change(replace(gateway.wanted, tags=tags, folders=()))
    async with collecting(gateway, store):
        await until(lambda: len(heartbeats(store, A)) > 2 and len(heartbeats(store, B)) > 2)
        assert {(h.value, h.status, to_ns(h.source_time)) for h in heartbeats(store, A)} == {(0.0, 0, NOON_NS)}
        await plant.write(A, 1, 4.0)
        await until(lambda: heartbeats(store, A)[-1].value == 4.0)
        assert store.seconds(A) == [0, 1]
        assert store.seconds(B) == [0]


async def test_without_a_heartbeat_none_is_told(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """The control."""
    async with collecting(source_of(plant, channels=(A, B), acquisition=acquisition(silence_s=0.1)), store):
        await until(lambda: store.seconds(A) == [0])
        await asyncio.sleep(0.5)
    assert not any(batch.results.heartbeats for batch in store.batches)


@pytest.mark.parametrize("year", [1970, 2000])
async def test_a_device_without_a_clock_is_timed_by_its_server(
    plant: SmallPlant, source_of: MakeSource, store: Store, year: int
) -> None:
    """A source time of 1970 or 2000 is none, is counted and told; the quiet tag is not taken for dead for it."""
    assert plant.server is not None
    gateway = source_of(plant, channels=(A,), acquisition=acquisition(silence_s=0.1))
    async with collecting(gateway, store):
        await until(lambda: store.seconds(A) == [0])
        reset: Any = datetime(year, 1, 1, 0, 5, tzinfo=UTC)
        now: Any = NOON + timedelta(seconds=9)
        value = ua.DataValue(ua.Variant(5.0), SourceTimestamp=reset, ServerTimestamp=now)
        await plant.server.write_attribute_value(plant.nodes[A].nodeid, value)
        await until(lambda: store.values(A) == [0.0, 5.0])
        await asyncio.sleep(0.5)
    assert store.in_time(A)[-1][0] > NOON_NS + 8 * SECOND_NS
    assert gateway.counters.replaced_times == 1
    assert any("had no possible source time" in warning for warning in gateway.warnings)
    assert gateway.counters.revived == 0


async def test_values_are_timed_by_the_gateway_where_it_is_told_to(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A quiet tag is not dead because a read of it would have another time."""
    began = to_ns(datetime.now(UTC))
    gateway = source_of(plant, channels=(A,), acquisition=acquisition(silence_s=0.1), time=TimeSource.GATEWAY)
    async with collecting(gateway, store):
        await until(lambda: len(store.values(A)) == 1)
        await asyncio.sleep(0.5)
        await plant.write(A, 1, 1.0)
        await until(lambda: store.values(A) == [0.0, 1.0])
    assert all(row[0] > began for row in store.in_time(A))
    assert gateway.counters.revived == 0
    assert store.gaps == []


async def test_a_step_of_the_server_s_clock_is_an_event(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead_ns = 0

    async def told(_: object) -> int:
        return to_ns(datetime.now(UTC)) + ahead_ns

    monkeypatch.setattr(live, "read_server_time", told)
    gateway = source_of(plant, channels=(A,))
    async with collecting(gateway, store):
        await until(lambda: gateway.counters.clock_offset_s is not None)
        assert "clock_step" not in store.events
        ahead_ns = 3600 * SECOND_NS
        await until(lambda: "clock_step" in store.events)
        await asyncio.sleep(0.3)
    assert store.events.count("clock_step") == 1
    assert gateway.counters.clock_offset_s == pytest.approx(3600.0, abs=5.0)


async def test_a_server_without_a_value_is_told(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """It waits for its device: silent, not dead, until the value comes."""
    await plant.write(A, 1, 0.0, BAD_WAITING_FOR_INITIAL_DATA)
    gateway = source_of(plant, channels=(A, B), acquisition=acquisition(silence_s=0.1))
    async with collecting(gateway, store):
        await until(lambda: gateway.counters.silent == (f"pump-01/{A}",))
        assert any("has no value of pump-01/speed_rpm" in warning for warning in gateway.warnings)
        await plant.write(A, 2, 2.0)
        await until(lambda: 2 in store.seconds(A))
        await until(lambda: not gateway.counters.silent)
    assert gateway.counters.revived == 0


async def test_values_in_hand_when_the_link_breaks_come_from_history(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """What was taken and not passed on cannot be had again by its number; so everything begins anew, with a hole."""
    async with Cable(plant) as cable:
        gateway = source_of(plant, endpoint=cable.endpoint, channels=(A,))
        async with aclosing(gateway.batches()) as batches:
            while store.seconds(A) != [0.0]:
                store.append(batch := await anext(batches))
                await batch.acknowledge()
            opened = gateway._live
            assert opened is not None
            for second in range(1, 4):  # one ready, the next in hand
                await plant.write(A, second, 1.0)
                await asyncio.sleep(0.2)
            await until(lambda: opened._holds_values)
            cable.cut()
            await until(lambda: opened._ready.qsize() > 1)  # the error, behind the batch that is ready
            await plant.write(A, 4, 1.0)
            cable.join()
            while store.seconds(A) != [0, 1, 2, 3, 4]:
                store.append(batch := await anext(batches))
                await batch.acknowledge()
        assert gateway.counters.resumed == 0
        assert store.repeats == 0


async def test_what_is_ready_behind_a_failure_is_stored_too(
    without_history: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """It is noted as the tag's last: if the server were asked anew for the tag, nobody would look for it any more."""
    plant = without_history
    gateway = source_of(plant, channels=(A,))
    async with aclosing(gateway.batches()) as batches:

        async def store_next() -> None:
            store.append(batch := await anext(batches))
            await batch.acknowledge()

        while gateway._live is None or not gateway._live._first_stored.is_set():
            await store_next()
        await store_next()  # that there is no hole to fill
        opened = gateway._live
        opened._put(SourceUnavailable("the link is lost"))
        await plant.write(A, 1, 1.0)
        await until(lambda: opened._ready.qsize() == 2)
        while 1 not in store.seconds(A):
            await store_next()
        assert gateway.counters.reconnects == 0  # it was not had again over the next connection
        await plant.write(A, 2, 1.0)
        while 2 not in store.seconds(A):
            await store_next()
        assert gateway.counters.resumed == 1
    assert store.seconds(A) == [0, 1, 2]
    assert store.repeats == 0


async def test_a_session_whose_subscriptions_are_gone_begins_anew(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """The server kept the session and nothing in it."""
    assert plant.server is not None
    async with Cable(plant) as cable:
        gateway = source_of(plant, endpoint=cable.endpoint, channels=(A,))
        async with collecting(gateway, store):
            await until(lambda: store.seconds(A) == [0.0])
            cable.cut()
            service = plant.server.iserver.subscription_service
            await service.delete_subscriptions(list(service.subscriptions))
            await plant.write(A, 1, 1.0)
            await plant.write(A, 2, 1.0)
            cable.join()
            await until(lambda: store.seconds(A) == [0, 1, 2])
            assert len(plant.subscriptions()) == 1
            assert gateway.counters.resumed == 0


async def test_a_link_that_breaks_again_while_it_is_taken_up_loses_nothing(
    without_history: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without history, what is missed in two cuts is all at the server, and comes."""
    plant, resume, failures = without_history, Publishing.resume, [1, 2]

    async def at_last(self: Publishing, client: Any, *, reused: bool) -> bool:
        if failures:
            failures.pop()
            raise SourceUnavailable("the link is lost again")
        return await resume(self, client, reused=reused)

    monkeypatch.setattr(Publishing, "resume", at_last)
    async with Cable(plant) as cable:
        gateway = source_of(plant, endpoint=cable.endpoint, channels=(A,))
        async with collecting(gateway, store):
            await until(lambda: store.seconds(A) == [0.0])
            cable.cut()
            await until(lambda: not gateway.connected)
            for second in range(1, 5):
                await plant.write(A, second, 1.0)
            cable.join()
            await until(lambda: store.seconds(A) == [0, 1, 2, 3, 4])
            assert gateway.counters.resumed == 1
    assert store.gaps == []


async def test_a_message_that_can_never_be_read_does_not_hold_the_rest_up(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is as bad the second time, everything begins anew, and history has what was in it."""

    async def unreadable(self: Publishing, wait_s: float | None = None) -> Any:
        message = await next_message(self, wait_s)
        if message is not None and message.values is not None and 666.0 in message.values.value and self in first:
            raise SourceUnavailable("cannot be read") from MalformedMessage("strange bytes")
        return message

    next_message, first = Publishing.next, set[Publishing]()
    gateway = source_of(plant, channels=(A,))
    async with collecting(gateway, store):
        await until(lambda: store.seconds(A) == [0.0])
        assert gateway._live is not None
        first.add(gateway._live._publishing)
        monkeypatch.setattr(Publishing, "next", unreadable)
        await plant.write(A, 1, 666.0)
        await plant.write(A, 2, 2.0)
        await until(lambda: store.seconds(A) == [0, 1, 2])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_fifty_reconnects_leave_nothing_behind(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task, no open file, no subscription and no session more than after the first."""
    monkeypatch.setattr(source, "_BACK_OFF_MOST_S", 0.05)
    assert plant.server is not None
    counts = []
    async with Cable(plant) as cable:
        gateway = source_of(plant, endpoint=cable.endpoint, channels=(A,))
        async with collecting(gateway, store):
            for cut in range(51):
                await plant.write(A, cut, 1.0)
                await until(lambda: store.seconds(A)[-1:] == [cut])  # noqa: B023 - waited for here
                if cut in {1, 50}:
                    await asyncio.sleep(0.3)
                    counts.append(
                        (
                            len(asyncio.all_tasks()),
                            open_files(),
                            len(plant.subscriptions()),
                        )
                    )
                cable.cut()
                await until(lambda: not gateway.connected)
                cable.join()
                await until(lambda: gateway.connected)
    assert gateway.counters.reconnects == 51
    before, after = counts
    assert after[0] <= before[0] + 2  # tasks of a connection that is just being closed
    assert after[1] <= before[1] + 2
    assert after[2] == before[2] == 1
    assert store.seconds(A) == list(range(51))
    assert store.gaps == []


async def test_memory_is_bounded_when_nothing_is_ever_stored(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway takes so many messages and no more; the rest waits at the server, and comes when there is room."""
    monkeypatch.setattr(publish_requests, "_HELD_MESSAGES", 10)
    gateway = source_of(plant, channels=(A,))
    taken = []
    async with aclosing(gateway.batches()) as batches:
        while store.seconds(A) != [0.0]:
            store.append(batch := await anext(batches))
            await batch.acknowledge()
        for second in range(1, 31):
            await plant.write(A, second, 1.0)
            await asyncio.sleep(0.06)
        assert gateway._live is not None
        requests = gateway._live._publishing._requests
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    taken.append(await anext(batches))
        assert sum(len(batch.observations) for batch in taken) < 25
        assert requests.waiting <= 10


async def test_values_that_do_not_get_on_cost_the_connection(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever holds them up on their way, it is given up, and the next connection brings them."""
    monkeypatch.setattr(live, "_WATCH_S", 0.1)
    monkeypatch.setattr(live, "_HANG_S", 0.3)
    take, hung = live.Live._pass_first, list[live.Live]()

    async def hangs_once(self: live.Live, messages: Any) -> None:
        if not hung:
            hung.append(self)
            await asyncio.Event().wait()
        await take(self, messages)

    monkeypatch.setattr(live.Live, "_pass_first", hangs_once)
    source = source_of(plant, channels=(A, B))
    async with collecting(source, store):
        await until(lambda: len(store.rows.get(STREAM, [])) > 0)
    assert hung
    assert source.counters.reconnects >= 1
