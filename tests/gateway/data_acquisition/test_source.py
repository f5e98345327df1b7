from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.config import TimeSource
from gateway.data_acquisition import Batch, OpcuaSource, reconciler, services
from gateway.data_acquisition.columns import BAD_WAITING_FOR_INITIAL_DATA
from gateway.journal import Journal
from gateway.pipeline import acquire
from models.records import Observations, Stream, from_ns, is_good
from tests.gateway.data_acquisition.small_plant import (
    BAD_SENSOR,
    CHANNELS,
    NOON_NS,
    SECOND_NS,
    Cable,
    SmallPlant,
    Store,
    collecting,
    until,
)

MakeSource = Callable[..., OpcuaSource]
OVERFLOW = 0x480


async def test_values_arrive_with_time_and_value(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """Every value of a channel arrives once, over an encrypted channel, in order; an unchanged value too."""
    source = source_of(plant)
    async with collecting(source, store):
        await until(lambda: store.seconds("speed_rpm") == [0.0])
        for second in range(1, 6):
            await plant.write("speed_rpm", second, float(second // 2))
        await until(lambda: len(store.seconds("speed_rpm")) == 6)
        assert source.connected
    assert store.seconds("speed_rpm") == [0, 1, 2, 3, 4, 5]
    assert store.values("speed_rpm") == [0, 0, 1, 1, 2, 2]
    assert not source.connected
    assert source.warnings == ()
    assert source.counters.streams == 3


async def test_the_clock_that_times_the_values_is_stored(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """Each connection is told in the log with the choice of time, so that the values can be read by it later."""
    async with collecting(source_of(plant, time=TimeSource.SERVER), store):
        await until(lambda: bool(store.batches))
    (event,) = store.batches[0].results.events
    assert (event.kind, event.detail["server"], event.detail["time"]) == ("source_connected", "s", "server")


async def test_a_bad_status_is_kept(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """A value with Bad status is an observation with that status, between the good ones."""
    async with collecting(source_of(plant), store):
        await until(lambda: store.seconds("speed_rpm") == [0.0])
        await plant.write("speed_rpm", 1, 7.0, BAD_SENSOR)
        await plant.write("speed_rpm", 2, 8.0)
        await until(lambda: len(store.seconds("speed_rpm")) == 3)
    statuses = [row[2] for row in store.rows[Stream("pump-01", "speed_rpm")]]
    assert statuses == [0, BAD_SENSOR, 0]
    assert is_good(np.array(statuses, np.uint32)).tolist() == [True, False, True]


async def test_a_server_that_waits_for_its_source_has_said_nothing(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """BadWaitingForInitialData is no observation; any other Bad status is (the test above)."""
    async with collecting(source_of(plant), store):
        await until(lambda: store.seconds("speed_rpm") == [0.0])
        await plant.write("speed_rpm", 1, 7.0, BAD_WAITING_FOR_INITIAL_DATA)
        await plant.write("speed_rpm", 2, 8.0)
        await until(lambda: len(store.seconds("speed_rpm")) == 2)
    assert store.seconds("speed_rpm") == [0, 2]


async def test_a_waveform_is_one_observation(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """An array arrives as one row with its samples."""
    wave = np.sin(np.arange(512)).astype(np.float32).tolist()
    async with collecting(source_of(plant), store):
        await until(lambda: len(store.waveforms) == 1)
        await plant.write("vibration_waveform_m_s2", 1, wave)
        await until(lambda: len(store.waveforms) == 2)
    assert store.waveforms == [[0.0], wave]
    assert np.isnan(store.values("vibration_waveform_m_s2")).all()


async def test_what_an_asset_has_is_told(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """Unit, range and sample rate of each channel come from the server."""
    async with collecting(source_of(plant), store):
        await until(lambda: bool(store.batches))
    (asset,) = store.batches[0].results.assets
    assert (asset.asset_id, asset.asset_class) == ("pump-01", "pump")
    assert [channel.name for channel in asset.channels] == sorted(CHANNELS)
    waveform = asset.channels[-1]
    assert (waveform.unit, waveform.low, waveform.high, waveform.sample_rate_hz) == ("m/s²", 0.0, 100.0, 6400.0)


async def test_history_before_the_first_connection_comes_first(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A stream never seen is fetched from history, over many continuation points, and in time order over all."""
    for second in range(1, 101):
        await plant.write("speed_rpm", second, float(second))
        await plant.write("load_pct", second + 0.5, float(second))
    source = source_of(plant)
    async with collecting(source, store):
        await until(lambda: len(store.seconds("load_pct")) == 101)
        await until(lambda: len(store.seconds("speed_rpm")) == 101)
    assert store.seconds("speed_rpm") == list(range(101))
    assert source.counters.backfilled >= 198
    backfilled = [batch.observations for batch in store.batches if batch.filled and len(batch.observations)]
    assert sum(len(part) for part in backfilled) >= 198
    assert all((np.diff(part.source_time) >= 0).all() for part in backfilled)
    arrived = [row[0] for row in store.rows[Stream("pump-01", "speed_rpm")]]
    assert arrived == sorted(arrived)  # what is had at once comes before the live values


@pytest.mark.parametrize("fault", ["cut", "server restart"])
async def test_an_interruption_loses_and_repeats_nothing(
    plant: SmallPlant, source_of: MakeSource, store: Store, fault: str
) -> None:
    """Values made while the link or the server was away come from history, once, in order."""
    async with Cable(plant) as cable:
        source = source_of(plant, endpoint=cable.endpoint)
        async with collecting(source, store):
            await plant.write("speed_rpm", 1, 1.0)
            await until(lambda: store.seconds("speed_rpm")[-1:] == [1.0])
            if fault == "cut":
                cable.cut()
                for second in range(2, 30):
                    await plant.write("speed_rpm", second, float(second))
                cable.join()
            else:
                await plant.stop()
                await until(lambda: not source.connected)
                plant.remember_values("speed_rpm", range(2, 30))
                await plant.start()
            await until(lambda: source.counters.reconnects == 1 and source.connected)
            await plant.write("speed_rpm", 30, 30.0)
            await until(lambda: store.seconds("speed_rpm")[-1:] == [30.0])
    assert store.seconds("speed_rpm") == list(range(31))
    assert store.gaps == []
    assert "source_unavailable" in store.events


async def test_a_killed_gateway_finds_what_it_had_not_committed(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """What had arrived and was not committed when the process died comes again, from history."""
    async with aclosing(source_of(plant).batches()) as batches:
        async for batch in batches:
            store.append(batch)
            await batch.acknowledge()
            if store.seconds("speed_rpm") == [0.0]:
                break
        await plant.write("speed_rpm", 1, 1.0)
        await plant.write("speed_rpm", 2, 2.0)
        while not len((batch := await anext(batches)).observations):
            await batch.acknowledge()
        # Arrived, and the process dies before the commit.
    await plant.write("speed_rpm", 3, 3.0)
    async with collecting(source_of(plant), store):
        await until(lambda: store.seconds("speed_rpm")[-1:] == [3.0])
    assert store.seconds("speed_rpm") == [0, 1, 2, 3]


async def test_a_cut_link_is_taken_up_where_it_was(
    plant_pki: Path, unused_port: int, source_of: MakeSource, store: Store
) -> None:
    """While the server keeps the session, even one without history loses nothing."""
    plant = SmallPlant(plant_pki, unused_port, with_history=False)
    await plant.start()
    try:
        async with Cable(plant) as cable:
            source = source_of(plant, endpoint=cable.endpoint)
            async with collecting(source, store):
                await until(lambda: store.seconds("speed_rpm") == [0.0])
                for cut in range(1, 4):
                    cable.cut()
                    await until(lambda: not source.connected)
                    await plant.write("speed_rpm", 10 * cut, 1.0)
                    await plant.write("speed_rpm", 10 * cut + 1, 2.0)
                    cable.join()
                    await until(lambda: store.seconds("speed_rpm")[-1:] == [10.0 * cut + 1])  # noqa: B023 - waited for here
                assert (source.counters.reconnects, source.counters.resumed) == (3, 3)
    finally:
        await plant.stop()
    assert store.seconds("speed_rpm") == [0, 10, 11, 20, 21, 30, 31]
    assert store.gaps == []


async def test_without_history_a_hole_is_a_gap_record(
    plant_pki: Path, unused_port: int, source_of: MakeSource, store: Store
) -> None:
    """What nobody can give any more is told: stream, from, to, cause."""
    plant = SmallPlant(plant_pki, unused_port, with_history=False)
    await plant.start()
    try:
        source = source_of(plant)
        async with collecting(source, store):
            await until(lambda: store.seconds("speed_rpm") == [0.0])
            await plant.stop()
            await until(lambda: not source.connected)
            await plant.start()
            await plant.write("speed_rpm", 20, 2.0)
            await until(lambda: store.seconds("speed_rpm")[-1:] == [20.0])
    finally:
        await plant.stop()
    (gap,) = [gap for gap in store.gaps if gap.channel == "speed_rpm"]
    assert gap.from_time == from_ns(NOON_NS)
    assert gap.to_time <= from_ns(NOON_NS + 20 * SECOND_NS)
    assert gap.cause == "not listened, and the server keeps no history of it"


async def test_history_that_cannot_be_read_is_a_gap_of_that_stream(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream's broken history is told and costs the others nothing."""
    read = plant.storage.read_node_history
    broken = plant.nodes["speed_rpm"].nodeid

    async def sometimes(node_id: Any, *args: Any) -> object:
        if node_id == broken:
            raise OSError("disk")
        return await read(node_id, *args)

    monkeypatch.setattr(plant.storage, "read_node_history", sometimes)
    for second in range(1, 6):
        await plant.write("speed_rpm", second, float(second))
        await plant.write("load_pct", second, float(second))
    async with collecting(source_of(plant), store):
        await until(lambda: store.seconds("speed_rpm") == [5.0])
    assert store.seconds("load_pct") == [0, 1, 2, 3, 4, 5]
    (gap,) = store.gaps
    assert (gap.channel, gap.to_time) == ("speed_rpm", from_ns(NOON_NS + 5 * SECOND_NS))
    assert gap.cause.startswith("history cannot be read")


async def test_values_dropped_by_the_server_are_a_gap_record(
    plant_pki: Path, unused_port: int, source_of: MakeSource, store: Store
) -> None:
    """A value whose status says that the queue overflowed has a gap before it, and the channel is named."""
    plant = SmallPlant(plant_pki, unused_port, with_history=False)
    await plant.start()
    try:
        source = source_of(plant)
        async with collecting(source, store):
            await until(lambda: store.seconds("speed_rpm") == [0.0])
            await plant.write("speed_rpm", 5, 1.0, OVERFLOW)
            await until(lambda: store.seconds("speed_rpm") == [0.0, 5.0])
            assert source.counters.overflows == {"pump-01/speed_rpm": 1}
    finally:
        await plant.stop()
    (gap,) = store.gaps
    assert (gap.from_time, gap.to_time) == (from_ns(NOON_NS), from_ns(NOON_NS + 5 * SECOND_NS))
    assert gap.cause == "server's queue overflowed, and the server keeps no history of it"


async def test_values_dropped_by_the_server_come_from_history(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """Where the server keeps history, what its queue dropped is fetched from there."""
    async with collecting(source_of(plant), store):
        await until(lambda: store.seconds("speed_rpm") == [0.0])
        plant.remember_values("speed_rpm", range(1, 5))  # made, and never told
        await plant.write("speed_rpm", 5, 1.0, OVERFLOW)
        await until(lambda: store.seconds("speed_rpm") == [0, 1, 2, 3, 4, 5])
    assert store.gaps == []


async def test_a_missing_channel_is_left_out_and_found_later(
    plant_pki: Path, unused_port: int, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on; the missing one is named, looked for again, and then backfilled like any other."""
    monkeypatch.setattr(reconciler, "_RETRY_FIRST_S", 0.1)
    monkeypatch.setattr(services, "_KEEP_ALIVE_S", 0.1)
    plant = SmallPlant(plant_pki, unused_port, channels=CHANNELS[:1])
    await plant.start()
    try:
        source = source_of(plant)
        async with collecting(source, store):
            await until(lambda: store.seconds("speed_rpm") == [0.0])
            assert any("pump-01/load_pct" in name for name in source.counters.missing)
            assert source.counters.streams == 1
            await plant.add("load_pct")
            await plant.add("vibration_waveform_m_s2")
            await until(lambda: store.seconds("load_pct") == [0.0])
            await until(lambda: not source.counters.missing)
    finally:
        await plant.stop()
    assert (
        len(store.batches[-1].results.assets or [b for b in store.batches if b.results.assets][-1].results.assets) == 1
    )


async def test_silence_ends_a_connection_that_says_it_is_open(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that carries nothing, not even keep-alives, is given up; what was made meanwhile is fetched."""
    monkeypatch.setattr(services, "_KEEP_ALIVE_S", 0.1)
    async with Cable(plant) as cable:
        source = source_of(plant, endpoint=cable.endpoint)
        async with collecting(source, store):
            await until(lambda: store.seconds("speed_rpm") == [0.0])
            cable.freeze()
            await plant.write("speed_rpm", 1, 1.0)
            await until(lambda: bool(source.warnings))
            assert "no message for" in source.warnings[0]
            cable.thaw()
            await until(lambda: store.seconds("speed_rpm")[-1:] == [1.0])
    assert store.seconds("speed_rpm") == [0, 1]


async def test_a_wrong_password_is_told_and_tried_again(
    plant: SmallPlant, source_of: MakeSource, store: Store, tmp_path: Path
) -> None:
    """A refused sign-in is trouble, not the end; with the right password values come."""
    source = source_of(plant)
    (tmp_path / "password").write_text("wrong\n")
    async with collecting(source, store):
        await until(lambda: bool(source.warnings))
        assert "BadUserAccessDenied" in source.warnings[0]
        (tmp_path / "password").write_text("secret\n")
        await until(lambda: store.seconds("speed_rpm") == [0.0])
    assert source.warnings == ()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


@asynccontextmanager
async def acquiring(source: OpcuaSource, journal: Journal) -> AsyncIterator[None]:
    task = asyncio.create_task(acquire(source, journal))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_nothing_is_acknowledged_before_the_commit(
    plant: SmallPlant, source_of: MakeSource, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal's commit does not end, the server keeps every message; when it does, it may forget them."""
    append, commit_may_end, started = journal.append, asyncio.Event(), asyncio.Event()

    async def slow(observations: Observations, **beside: Any) -> int | None:
        started.set()
        if len(observations):
            await commit_may_end.wait()
        return await append(observations, **beside)

    monkeypatch.setattr(journal, "append", slow)
    async with acquiring(source_of(plant, stored=journal), journal):
        await started.wait()
        for second in range(1, 4):  # more messages, so that acknowledgements had something to travel with
            before = plant.unacknowledged()
            await plant.write("speed_rpm", second, float(second))
            await until(lambda: plant.unacknowledged() > before)  # noqa: B023 - waited for here
        assert plant.acknowledged() == 0
        commit_may_end.set()
        await until(lambda: journal.newest_source_time(Stream("pump-01", "speed_rpm")) == NOON_NS + 3 * SECOND_NS)
        await plant.write("speed_rpm", 4, 4.0)
        await until(lambda: plant.acknowledged() >= 3)


async def test_the_server_forgets_what_is_acknowledged_at_once(
    plant: SmallPlant, source_of: MakeSource, journal: Journal
) -> None:
    """The control: an acknowledgement before the commit is seen at the server while the commit has not ended."""

    async def hasty() -> AsyncGenerator[Batch, None]:
        async with aclosing(source_of(plant, stored=journal).batches()) as batches:
            async for batch in batches:
                await batch.acknowledge()
                yield batch

    async with aclosing(hasty()) as batches:
        while not len((await anext(batches)).observations):
            pass
        for second in range(1, 3):
            await plant.write("speed_rpm", second, float(second))
            await anext(batches)
        await until(lambda: plant.acknowledged() >= 1)
    assert journal.newest_source_time(Stream("pump-01", "speed_rpm")) is None
