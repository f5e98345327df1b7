"""The wanted list is the truth: what is missing is told and found again, what changes touches nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import ua

from gateway.config import AcquisitionConfig, Mode, Sampling
from gateway.data_acquisition import OpcuaSource, live, reconciler, services, source, watched
from gateway.data_acquisition.profiles import ServerProfile
from gateway.data_acquisition.publishing import Item, Publishing
from gateway.data_acquisition.resolution import resolve
from gateway.data_acquisition.tags import Tag, WantedTags
from gateway.errors import SourceUnavailable
from models.records import Stream
from tests.gateway.data_acquisition.small_plant import (
    SmallPlant,
    Store,
    collecting,
    free_port,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakeSource = Callable[..., OpcuaSource]
BAD_NODE_ID_UNKNOWN = 0x80340000
A, B, C = "speed_rpm", "load_pct", "oil_bar"
MOVED = "nsu=urn:replaced;s=speed_rpm"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(plant_pki: Path) -> AsyncIterator[SmallPlant]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
    plant = SmallPlant(plant_pki, free_port(), channels=())
    await plant.start()
    yield plant
    await plant.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def plant(started: SmallPlant) -> SmallPlant:
    await started.anew(A, B)
    return started


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(reconciler, "_RETRY_SOON_S", 0.1)
    monkeypatch.setattr(reconciler, "_VERIFY_S", 0.2)
    monkeypatch.setattr(live, "_LOOK_S", 0.05)
    monkeypatch.setattr(services, "_KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(watched, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(source, "_BACK_OFF_FIRST_S", 0.05)


def acquisition(**keys: object) -> AcquisitionConfig:
    return AcquisitionConfig(**{"publishing_interval_ms": 50.0, **keys})  # type: ignore[arg-type]  # as given


def tag(channel: str, node: str = "", **keys: object) -> Tag:
    told = {"sampling": Sampling(publishing_interval_ms=50.0), **keys}
    return Tag(stream=Stream("pump-01", channel), node=node or f"nsu=urn:test;s={channel}", **told)  # type: ignore[arg-type]  # as given


def with_tags(wanted: WantedTags, *tags: Tag) -> WantedTags:
    return replace(wanted, tags=tags, folders=())


async def carries_on(plant: SmallPlant, store: Store, channel: str, second: float) -> None:
    """Have *channel* measure something and wait until it is stored."""
    await plant.write(channel, second, second)
    await until(lambda: second in store.seconds(channel))


async def test_a_tag_read_by_its_path_is_noted_until_its_id_is_right(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """The values of a node that has another id now are stored, and /health has the note meanwhile."""
    source = source_of(plant, channels=(A,))
    right = source.wanted
    source.change(replace(right, tags=tuple(replace(tag, node=MOVED) for tag in right.tags)))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == [0.0])
        assert "no namespace 'urn:replaced'" in source.counters.notes["pump-01/speed_rpm"]
        assert source.counters.missing == {}
        source.change(right)
        await until(lambda: "replaced" not in source.counters.notes.get("pump-01/speed_rpm", ""))


async def test_one_bad_tag_stops_no_other(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """Each is listed with its reason for as long as it is bad, and is tried again while the others are left alone."""
    assert plant.server is not None
    text = await plant.folder_node.add_variable(ua.NodeId(ua.String("text"), ua.Int16(plant.namespace)), "2:text", "x")
    source = source_of(plant)
    bad = [tag("text"), tag("nobody"), tag("stranger", "nsu=urn:nobody;s=x"), tag("folder", "nsu=urn:test;i=1"), tag(C)]
    source.change(with_tags(source.wanted, *bad, tag(A), tag(B)))
    try:
        async with collecting(source, store):
            await carries_on(plant, store, A, 1.0)
            missing = source.counters.missing
            assert set(missing) == {f"pump-01/{name}" for name in ("text", "nobody", "stranger", "folder", C)}
            assert "holds String, not numbers" in missing["pump-01/text"]
            assert "BadNodeIdUnknown" in missing["pump-01/nobody"]
            assert "no namespace 'urn:nobody'" in missing["pump-01/stranger"]
            assert set(missing.values()) <= set(source.warnings)
            await plant.add(C)  # it comes late
            await until(lambda: store.seconds(C) == [0.0])
            await until(lambda: set(source.counters.missing) == set(missing) - {f"pump-01/{C}"})
            await carries_on(plant, store, B, 2.0)
    finally:
        await plant.server.delete_nodes([text])
    assert sorted(plant.asked_for) == sorted([A, B, C])
    assert store.gaps == []


async def test_a_tag_is_looked_for_for_ever(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first soon, then seldom, and never not again."""
    monkeypatch.setattr(reconciler, "_RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(reconciler, "_RETRY_SOON_S", 0.002)
    monkeypatch.setattr(reconciler, "_RETRY_MOST_S", 0.004)
    looks = 0

    async def counted(*args: object) -> object:
        nonlocal looks
        looks += 1
        return await resolve(*args)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(reconciler, "resolve", counted)
    source = source_of(plant)
    source.change(with_tags(source.wanted, tag(A), tag(C)))
    async with collecting(source, store):
        await until(lambda: looks > 2 * reconciler._SOON_TRIES)
        await plant.add(C)
        await until(lambda: store.seconds(C) == [0.0])
        await until(lambda: not source.counters.missing)


async def test_looks_become_rarer() -> None:
    """From a second to a minute."""
    waits = []
    seldom = reconciler.Reconciler.__new__(reconciler.Reconciler)
    seldom._clock = lambda: 0.0
    for tries in (0, 1, 5, reconciler._SOON_TRIES, 10_000):
        seldom._tries = tries
        seldom._look_later()
        waits.append(seldom._look_at)
    assert waits[0] <= 0.05
    assert max(waits[:3]) <= 0.1 < 0.8 * reconciler._RETRY_MOST_S <= min(waits[4:]) <= max(waits) <= 60.0


async def test_a_full_server_is_told_and_asked_again(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is listed, said before it is asked, and taken as soon as there is room."""

    async def profile(*_: object) -> ServerProfile:
        return ServerProfile(monitored_items=1)

    monkeypatch.setattr(source, "read_profile", profile)
    plant.most_items = 1
    gateway = source_of(plant, channels=(A, B))
    async with collecting(gateway, store):
        await carries_on(plant, store, A, 1.0)
        assert "BadTooManyMonitoredItems" in gateway.counters.missing[f"pump-01/{B}"]
        assert gateway.counters.budget.startswith("2 wanted, server monitors 1;")
        assert gateway.counters.budget in gateway.warnings
        plant.most_items = None
        await carries_on(plant, store, B, 2.0)
        assert plant.asked_for.count(A) == 1
        gateway.change(
            with_tags(gateway.wanted, tag(A), tag(B, sampling=Sampling(mode=Mode.POLL, sampling_interval_ms=50.0)))
        )
        await until(lambda: not gateway.counters.budget)  # what is read takes no place


async def test_a_tag_is_found_where_a_restart_put_it(plant_pki: Path, source_of: MakeSource, store: Store) -> None:
    """Under another namespace index, and late: by its nsu= id, from where it had come."""
    plant = SmallPlant(plant_pki, free_port(), channels=(A, B))
    await plant.start()
    try:
        source = source_of(plant)
        source.change(with_tags(source.wanted, tag(A), tag(B)))
        async with collecting(source, store):
            await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
            first = plant.namespace
            await plant.stop()
            await until(lambda: not source.connected)
            plant.remember_values(A, [1, 2])
            plant.strangers, plant.channels = 2, (A,)
            forgotten = plant.storage._datachanges.copy()
            plant.storage._datachanges.clear()
            plant.storage._datachanges.update(
                {ua.NodeId(node.Identifier, ua.Int16(first + 2)): rows for node, rows in forgotten.items()}
            )
            await plant.start()
            assert plant.namespace == first + 2
            await carries_on(plant, store, A, 3.0)
            assert set(source.counters.missing) == {f"pump-01/{B}"}
            await plant.add(B)
            await carries_on(plant, store, B, 4.0)
            await until(lambda: store.seconds(A) == [0, 1, 2, 3])
    finally:
        await plant.stop()
    assert store.seconds(B) == [0, 4]
    assert store.gaps == []


@pytest.mark.parametrize("is_told", [False, True], ids=["silently", "told"])
async def test_a_node_that_was_replaced_within_a_session_is_found_again(
    plant: SmallPlant, source_of: MakeSource, store: Store, *, is_told: bool
) -> None:
    """The old monitored item tells nothing of the new node; whether the server says so or not, it is asked anew."""
    source = source_of(plant, channels=(A, B), acquisition=acquisition(silence_s=3600.0 if is_told else 0.1))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        if is_told:
            await plant.write(A, 0.5, 0.0, BAD_NODE_ID_UNKNOWN)
        await plant.remove(A)
        await plant.add(A)
        await carries_on(plant, store, A, 1.0)
        await carries_on(plant, store, A, 2.0)
        await carries_on(plant, store, B, 2.0)
        await until(lambda: not source.counters.missing)
        assert source.counters.reconnects == 0
    assert plant.asked_for.count(B) == 1


async def test_a_node_that_is_away_for_a_while_is_told(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """A look finds that it is gone, and it is looked for until it is there."""
    source = source_of(plant, channels=(A, B), acquisition=acquisition(silence_s=0.1))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == [0.0])
        await plant.remove(A)
        await until(lambda: f"pump-01/{A}" in source.counters.missing)
        await until(lambda: source.counters.streams == 1)
        await plant.add(A)
        await carries_on(plant, store, A, 1.0)
        await until(lambda: not source.counters.missing)


@pytest.mark.parametrize("silence_s", [0.1, 3600.0], ids=["looked at", "control"])
async def test_an_item_that_fell_silent_is_asked_for_anew(
    plant: SmallPlant, source_of: MakeSource, store: Store, silence_s: float
) -> None:
    """The server says that it monitors it, and tells nothing: a read finds that. Nothing else does."""
    source = source_of(plant, channels=(A, B), acquisition=acquisition(silence_s=silence_s))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        plant.silence_item(A)
        for second in range(1, 4):
            await plant.write(A, second, float(second))
        if silence_s < 1:
            await until(lambda: store.seconds(A) == [0, 1, 2, 3])
            await carries_on(plant, store, A, 4.0)
            assert source.counters.revived == 1
        else:
            for second in range(5):
                await carries_on(plant, store, B, 1.0 + second)
                await asyncio.sleep(0.1)
            assert store.seconds(A) == [0]
    assert plant.asked_for.count(A) == 1 + (silence_s < 1)
    assert plant.asked_for.count(B) == 1


@pytest.mark.parametrize("verify_s", [0.2, 3600.0], ids=["compared", "control"])
async def test_what_the_server_monitors_is_compared_with_what_is_wanted(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch, verify_s: float
) -> None:
    """An item that is not there any more is asked for anew, and what it did not tell comes from history."""
    monkeypatch.setattr(reconciler, "_VERIFY_S", verify_s)
    source = source_of(plant, channels=(A, B))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        plant.forget_item(A)
        for second in range(1, 4):
            await plant.write(A, second, float(second))
        if verify_s < 1:
            await until(lambda: store.seconds(A) == [0, 1, 2, 3])
            assert source.counters.revived == 1
        else:
            for second in range(5):
                await carries_on(plant, store, B, 1.0 + second)
                await asyncio.sleep(0.1)
            assert store.seconds(A) == [0]
    assert plant.asked_for.count(A) == 1 + (verify_s < 1)
    assert plant.asked_for.count(B) == 1


async def test_an_item_nobody_wants_is_ended(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server goes on to monitor though the tag was taken out is found, and ended."""
    unwatch = Publishing.unwatch
    forgotten: list[int] = []

    async def not_at_first(self: Publishing, handles: Collection[int]) -> None:
        if handles and not forgotten:
            forgotten.extend(handles)
            for handle in handles:
                self._items._forget(self._items.home[handle], handle)
        else:
            await unwatch(self, handles)

    source = source_of(plant, channels=(A, B))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        monkeypatch.setattr(Publishing, "unwatch", not_at_first)
        source.change(with_tags(source.wanted, tag(A)))
        await until(lambda: bool(forgotten))
        await until(lambda: set(plant.items()) == {A})


async def test_a_changed_list_touches_the_changed_tags_alone(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """One more, one less, one sampled otherwise: the rest has the same items and no gap."""
    await plant.add(C)
    source = source_of(plant)
    source.change(with_tags(source.wanted, tag(A), tag(B)))
    seconds = iter(range(1, 1000))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        items, sampled = plant.items(), tag(B, sampling=Sampling(publishing_interval_ms=50.0, queue_size=7))
        plant.asked_for.clear()
        for tags in [(tag(A), tag(B), tag(C)), (tag(A), sampled, tag(C)), (tag(A), sampled), (sampled, tag(A), tag(C))]:
            source.change(with_tags(source.wanted, *tags))
            for _ in range(3):
                await plant.write(A, next(seconds), 1.0)
            await carries_on(plant, store, B, next(seconds))
            await until(lambda: (C in plant.items()) == (len(tags) == 3))  # noqa: B023 - waited for here
        await carries_on(plant, store, A, next(seconds))
        await until(lambda: store.open == [])  # what C had before, too
        assert {name: plant.items()[name] for name in (A, B)} == items
        assert plant.asked_for == [C, C]
        (subscription,) = plant.subscriptions()
        queues = {
            item.client_handle: item.queue_size for item in subscription.monitored_item_srv._monitored_items.values()
        }
        assert min(queues.values()) == 7
    assert len(store.seconds(A)) == 14
    assert store.gaps == []
    assert source.counters.reconnects == 0


async def test_a_change_while_everything_begins_counts(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that changes while its predecessor is being looked up is not forgotten."""
    begin = live.Live.begin

    async def with_change(self: live.Live) -> object:
        results = await begin(self)
        gateway.change(with_tags(gateway.wanted, tag(A), tag(B)))
        return results

    monkeypatch.setattr(live.Live, "begin", with_change)
    gateway = source_of(plant)
    gateway.change(with_tags(gateway.wanted, tag(A)))
    async with collecting(gateway, store):
        await until(lambda: store.seconds(B) == [0.0])


@pytest.mark.parametrize("service", ["watch", "modify", "unwatch"])
async def test_a_link_lost_in_the_midst_of_a_change_leaves_nothing_half_done(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """Whatever the server had heard of it, the list counts over the next connection of the same session."""
    await plant.add(C)
    whole = getattr(Publishing, service)
    lost: list[bool] = []

    async def interrupted(self: Publishing, items: Iterable[Item]) -> dict[int, str]:
        asked = list(items)
        if asked and lost == [False]:
            lost.append(True)
            if service != "modify":
                await whole(self, asked)  # the server hears of it, and the answer gets lost
            raise SourceUnavailable("the link is lost")
        return await whole(self, asked)  # type: ignore[no-any-return]  # as it answers

    monkeypatch.setattr(Publishing, service, interrupted)
    source = source_of(plant)
    source.change(with_tags(source.wanted, tag(A), tag(B)))
    other = Sampling(publishing_interval_ms=50.0, queue_size=7)
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        lost.append(False)
        source.change(with_tags(source.wanted, tag(A, sampling=other), tag(C)))
        await until(lambda: source.counters.resumed == 1)
        await until(lambda: store.seconds(C) == [0.0])  # or the next value would be its first
        await carries_on(plant, store, C, 1.0)
        await carries_on(plant, store, A, 1.0)
        await until(lambda: set(plant.items()) == {A, C})
        (subscription,) = plant.subscriptions()
        items = subscription.monitored_item_srv._monitored_items
        await until(lambda: min(item.queue_size for item in items.values()) == 7)
        assert len(items) == 2
        assert source.counters.streams == 2
        assert store.seconds(C) == [0, 1]
    assert store.gaps == []


async def test_a_tag_may_be_read_and_then_told_again(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """From subscription to polling and back: the others go on as they were."""
    polled = tag(B, sampling=Sampling(mode=Mode.POLL, sampling_interval_ms=20.0))
    source = source_of(plant)
    source.change(with_tags(source.wanted, tag(A), tag(B)))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        source.change(with_tags(source.wanted, tag(A), polled))
        await until(lambda: B not in plant.items())
        await carries_on(plant, store, B, 1.0)
        source.change(with_tags(source.wanted, tag(A), tag(B)))
        await until(lambda: B in plant.items())
        await carries_on(plant, store, B, 2.0)
        await carries_on(plant, store, A, 2.0)
    assert plant.asked_for.count(A) == 1
    assert (store.seconds(A), store.seconds(B)) == ([0, 2], [0, 1, 2])
    assert store.gaps == []


async def test_a_folder_is_looked_into_again(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """A variable that is added is a channel; one that goes is told, and looked for, over a new session too."""
    source = source_of(plant, channels=())
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        await plant.add(C)
        await until(lambda: store.seconds(C) == [0.0])
        await plant.remove(B)
        await until(lambda: f"pump-01/{B}" in source.counters.missing)
    await plant.remove(A)
    async with collecting(source, store):
        await carries_on(plant, store, C, 1.0)
        await until(lambda: set(source.counters.missing) == {f"pump-01/{A}", f"pump-01/{B}"})
        await plant.add(A)
        await plant.add(B)
        await carries_on(plant, store, A, 1.0)
        await carries_on(plant, store, B, 1.0)
        await until(lambda: not source.counters.missing)


async def test_a_channel_of_a_folder_may_get_a_tag_of_its_own_and_lose_it(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A tag of another name that is taken out again is not read any more, though its asset has a folder."""
    source = source_of(plant, channels=())
    folder = source.wanted
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == store.seconds(B) == [0.0])
        source.change(replace(folder, tags=(tag("own", f"nsu=urn:test;s={A}"),)))
        await until(lambda: store.seconds("own") == [0.0])
        source.change(folder)
        await until(lambda: source.counters.streams == 2)
        await carries_on(plant, store, A, 1.0)
        assert store.seconds("own") == [0.0]
        assert len(plant.items()) == 2
    assert source.counters.missing == {}


async def test_a_node_that_says_it_is_not_there_is_not_asked_for_all_the_time(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that can be described and whose every value says BadNodeIdUnknown: looks become rarer, others go on."""
    monkeypatch.setattr(reconciler, "_RETRY_SOON_S", 5.0)
    monkeypatch.setattr(reconciler, "_RETRY_FIRST_S", 5.0)
    source = source_of(plant, channels=(A, B))
    async with collecting(source, store):
        await until(lambda: store.seconds(A) == [0.0])
        await plant.write(A, 1, 1.0, BAD_NODE_ID_UNKNOWN)
        await until(lambda: f"pump-01/{A}" in source.counters.missing)
        for second in range(1, 8):
            await carries_on(plant, store, B, second)
            await asyncio.sleep(0.05)
        assert plant.asked_for.count(A) <= 2
