"""Backfill against a real server with all kinds of histories, into a real journal."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.status_codes import StatusCodes

from gateway.data_acquisition import backfill as module
from gateway.data_acquisition import history_reading
from gateway.data_acquisition.backfill import Backfill, Slice, Wanted
from gateway.errors import SourceUnavailable
from gateway.journal import Hole, Journal
from models.records import Gap, Observations, Results, Stream, from_ns
from tests.gateway.data_acquisition.historian import Historian
from tests.gateway.data_acquisition.many_nodes import ManyNodes, connected_to
from tests.gateway.data_acquisition.small_plant import NOON_NS, SECOND_NS, Cable
from tests.gateway.journal.stored import stored_observations

HOUR_S = 3600

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ManyNodes]:
    many = ManyNodes()
    await many.start(8)
    yield many
    await many.server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: ManyNodes) -> AsyncIterator[Client]:
    async with connected_to(server.endpoint) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path, "gw-1")
    yield journal
    await journal.close()


@pytest.fixture
def historian(server: ManyNodes, monkeypatch: pytest.MonkeyPatch) -> Historian:
    """A history that is settled at once, unless a test has it otherwise."""
    monkeypatch.setattr(module, "_SETTLE_S", 0.0)
    monkeypatch.setattr(module, "_SETTLE_LATER_S", 0.0)
    monkeypatch.setattr(history_reading, "_BUSY_S", (0.0, 0.0))
    historian = Historian()
    historian.install(server.server)
    return historian


def stream(i: int) -> Stream:
    return Stream("pump-01", f"channel_{i}")


def hole(i: int, start: float, end: float) -> Hole:
    start_ns, end_ns = (NOON_NS + round(second * SECOND_NS) for second in (start, end))
    return Hole(stream=stream(i), start_ns=start_ns, end_ns=end_ns, cause="link down")


def wanted(server: ManyNodes, holes: Sequence[Hole], *, anchored: bool = False) -> list[Wanted]:
    index = {stream(i): i for i in range(8)}
    return [Wanted(stream=h.stream, node=server.nodes[index[h.stream]], hole=h, anchored=anchored) for h in holes]


async def missed(journal: Journal, holes: Sequence[Hole]) -> None:
    """Have *holes* open, each with a live value at its end."""
    rows = Observations.of_values(
        tuple(h.stream for h in holes),
        np.arange(len(holes), dtype=np.uint32),
        np.array([h.end_ns for h in holes], np.int64),
        np.array([(h.end_ns - NOON_NS) / SECOND_NS for h in holes]),
        np.zeros(len(holes), np.uint32),
    )
    await journal.append(rows, opened=holes)


async def fill(
    backfill: Backfill, journal: Journal, *, at_most: int = 10**6, then: Callable[[], None] = lambda: None
) -> list[Slice]:
    """Commit slices of *backfill*, do *then* after each, and return them."""
    slices: list[Slice] = []
    async with aclosing(backfill.slices()) as parts:
        async for part in parts:
            await journal.append(part.observations, results=Results(gaps=part.gaps), filled=part.filled)
            slices.append(part)
            then()
            if len(slices) == at_most:
                break
    return slices


async def fill_all(client: Client, server: ManyNodes, journal: Journal, *, anchored: bool = False) -> list[Slice]:
    todo = wanted(server, journal.holes(), anchored=anchored)
    return await fill(Backfill(client, "s", todo, per_request=5), journal)


async def seconds(journal: Journal, i: int) -> list[float]:
    """Return when each stored value of a stream was measured, oldest first."""
    held = await stored_observations(journal)
    rows = held.stream == (held.streams.index(stream(i)) if stream(i) in held.streams else -1)
    return sorted(((held.source_time[rows] - NOON_NS) / SECOND_NS).tolist())


def gaps_of(slices: Sequence[Slice]) -> list[Gap]:
    return [gap for part in slices for gap in part.gaps]


def at(second: float) -> object:
    return from_ns(NOON_NS + round(second * SECOND_NS))


async def test_an_hour_comes_newest_first_in_slices(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """Page by page, more than one window: each value once, no slice larger than meant, nothing left open."""
    holes = [hole(i, 1, HOUR_S) for i in range(8)]
    for node in server.nodes:
        historian.remember(node, range(HOUR_S + 1))
    await missed(journal, holes)
    slices = await fill_all(client, server, journal, anchored=True)
    for i in range(8):
        assert await seconds(journal, i) == list(range(1, HOUR_S + 1))
    assert (journal.holes(), gaps_of(slices), historian.open_points()) == ((), [], 0)
    times = [part.observations.source_time for part in slices if len(part.observations)]
    assert len(times) > 2
    assert all((time[1:] >= time[:-1]).all() for time in times)
    assert all(later.min() > earlier.max() for later, earlier in itertools.pairwise(times))
    assert max(len(time) for time in times) < 3 * module._ROWS_WANTED
    assert journal.counters.repeats_dropped == 0


async def test_streams_with_holes_of_their_own_are_read_where_these_are(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """Also two in one stream; what history has beside them is not taken."""
    holes = [hole(0, 10, 20), hole(0, 500.5, 700), hole(1, 650, 660), hole(2, 5, 2000)]
    for node in server.nodes[:3]:
        historian.remember(node, range(2500))
    await missed(journal, holes)
    await fill_all(client, server, journal)
    assert await seconds(journal, 0) == [*range(10, 21), *range(501, 701)]
    assert await seconds(journal, 1) == list(range(650, 661))
    assert await seconds(journal, 2) == list(range(5, 2001))
    assert journal.holes() == ()


async def test_a_server_short_of_continuation_points_is_asked_again(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """One point for all five nodes of a request: those that got none come after the one that did."""
    historian.points, historian.page = 1, 7
    for node in server.nodes[:5]:
        historian.remember(node, range(101))
    await missed(journal, [hole(i, 0, 100) for i in range(5)])
    assert gaps_of(await fill_all(client, server, journal)) == []
    for i in range(5):
        assert await seconds(journal, i) == list(range(101))
    assert (historian.most_points, historian.open_points()) == (1, 0)


async def test_a_server_without_continuation_points_is_asked_for_less_time(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """It never has one to give, so windows become narrow enough for one page."""
    historian.points, historian.page = 0, 3
    historian.remember(server.nodes[0], range(41))
    await missed(journal, [hole(0, 0, 40)])
    assert gaps_of(await fill_all(client, server, journal)) == []
    assert await seconds(journal, 0) == list(range(41))


async def test_a_server_that_takes_few_nodes_is_asked_for_few(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """BadTooManyOperations: the request is halved until it is small enough."""
    historian.nodes_at_a_time = 2
    for node in server.nodes[:5]:
        historian.remember(node, range(31))
    await missed(journal, [hole(i, 0, 30) for i in range(5)])
    assert gaps_of(await fill_all(client, server, journal)) == []
    assert [await seconds(journal, i) for i in range(5)] == [list(range(31))] * 5


async def test_more_than_fits_is_read_in_narrower_windows(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst beyond the bound of memory: the read is given up, its points are given back, less time is asked for."""
    monkeypatch.setattr(history_reading, "ROWS_LIMIT", 300)
    monkeypatch.setattr(module, "_ROWS_WANTED", 100)
    historian.page = 90
    burst = [50 + k / 1000 for k in range(2000)]
    historian.remember(server.nodes[0], [*range(50), *burst, *range(52, 61)])
    historian.remember(server.nodes[1], range(61))
    await missed(journal, [hole(0, 0, 60), hole(1, 0, 60)])
    slices = await fill_all(client, server, journal)
    assert len(await seconds(journal, 0)) == 50 + 2000 + 9
    assert await seconds(journal, 1) == list(range(61))
    assert max(len(part.observations) for part in slices) <= 2 * (300 + 2 * 90)
    assert historian.open_points() == 0


async def test_a_node_without_history_is_one_gap(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """BadHistoryOperationUnsupported for it alone; the others have theirs."""
    lame = server.nodes[1]
    historian.fails = lambda node, *_: StatusCodes.BadHistoryOperationUnsupported if node == lame else 0
    for node in server.nodes[:3]:
        historian.remember(node, range(101))
    await missed(journal, [hole(i, 0, 100) for i in range(3)])
    (gap,) = gaps_of(await fill_all(client, server, journal))
    assert (gap.channel, gap.from_time, gap.to_time) == ("channel_1", at(0), at(100))
    assert "BadHistoryOperationUnsupported" in gap.cause
    assert [len(await seconds(journal, i)) for i in range(3)] == [101, 1, 101]
    assert journal.holes() == ()


async def test_a_server_that_refuses_history_altogether_gives_gaps(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """BadHistoryOperationInvalid to every request: one gap for each hole."""
    historian.refuses = lambda: StatusCodes.BadHistoryOperationInvalid
    await missed(journal, [hole(i, 0, 100) for i in range(5)])
    gaps = gaps_of(await fill_all(client, server, journal))
    assert sorted(gap.channel for gap in gaps) == [f"channel_{i}" for i in range(5)]
    assert all("BadHistoryOperationInvalid" in gap.cause for gap in gaps)
    assert journal.holes() == ()


async def test_history_that_fails_in_the_middle_is_kept_up_to_there(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """What is newer is stored, what is older is one gap; the other stream has all."""
    lame = server.nodes[0]
    historian.fails = lambda node, start, _: StatusCodes.BadDataLost if node == lame and start < 300 else 0
    for node in server.nodes[:2]:
        historian.remember(node, range(1001))
    await missed(journal, [hole(0, 0, 1000), hole(1, 0, 1000)])
    (gap,) = gaps_of(await fill_all(client, server, journal))
    held = await seconds(journal, 0)
    assert held == list(range(round(held[0]), 1001))
    assert (gap.from_time, gap.to_time, held[0] >= 300) == (at(0), at(held[0]), True)
    assert await seconds(journal, 1) == list(range(1001))
    assert journal.holes() == ()


async def test_no_data_is_no_failure(server: ManyNodes, client: Client, historian: Historian, journal: Journal) -> None:
    """A server that says BadNoData where others answer with nothing."""
    historian.fails = lambda _, __, end: StatusCodes.BadNoData if end < 900 else 0
    historian.remember(server.nodes[0], range(950, 1001))
    await missed(journal, [hole(0, 0, 1000)])
    assert gaps_of(await fill_all(client, server, journal)) == []
    assert await seconds(journal, 0) == list(range(950, 1001))
    assert journal.holes() == ()


async def test_a_cut_in_the_middle_is_gone_on_from(
    server: ManyNodes, historian: Historian, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed stays, what was not is open, and the next connection reads that alone."""
    monkeypatch.setattr(module, "_ROWS_WANTED", 200)
    for node in server.nodes[:2]:
        historian.remember(node, range(1001))
    await missed(journal, [hole(0, 0, 1000), hole(1, 0, 1000)])
    async with Cable(server) as cable:
        client = Client(cable.endpoint, timeout=5)
        await client.connect()
        todo = wanted(server, journal.holes())
        with pytest.raises(SourceUnavailable, match="reading history"):
            await fill(Backfill(client, "s", todo, per_request=5), journal, then=cable.cut)
        await client.disconnect()
    left = journal.holes()
    assert [(h.stream, h.start_ns) for h in left] == [(stream(0), NOON_NS), (stream(1), NOON_NS)]
    upto = (left[0].end_ns - NOON_NS) / SECOND_NS
    assert 0 < upto < 1000
    historian.asked.clear()
    async with connected_to(server.endpoint) as client:
        await fill_all(client, server, journal)
    assert max(start for start, _, _ in historian.asked) <= upto
    assert [await seconds(journal, i) for i in range(2)] == [list(range(1001))] * 2
    assert (journal.holes(), journal.counters.repeats_dropped) == ((), 0)


async def test_what_live_brings_late_meanwhile_is_stored_once(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows for the hole, where it is filled already and where it is not."""
    monkeypatch.setattr(module, "_ROWS_WANTED", 100)
    historian.remember(server.nodes[0], range(1001))
    await missed(journal, [hole(0, 0, 1000)])
    await fill(Backfill(client, "s", wanted(server, journal.holes()), per_request=5), journal, at_most=3)
    late = np.arange(0, 1000, 7)
    await journal.append(
        Observations.of_values(
            (stream(0),),
            np.zeros(len(late), np.uint32),
            NOON_NS + late * SECOND_NS,
            late.astype(np.float64),
            np.zeros(len(late), np.uint32),
        )
    )
    await fill_all(client, server, journal)
    assert await seconds(journal, 0) == list(range(1001))


async def test_waveforms_come_whole_in_slices_of_their_size(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand samples each; a slice is as large as its samples are many."""
    monkeypatch.setattr(module, "_SAMPLES_WANTED", 20_000)
    historian.page = 9
    historian.remember(server.nodes[0], range(200), lambda second: [second + k / 1024 for k in range(1024)])
    await missed(journal, [hole(0, 0, 200)])
    slices = await fill_all(client, server, journal)
    assert max(part.observations.samples.size for part in slices) < 100_000
    held = await stored_observations(journal)
    found = {int(t - NOON_NS) // SECOND_NS: w for t, w in zip(held.source_time, held.waveforms(), strict=True)}
    assert sorted(found) == list(range(201))
    assert all((found[k] == k + np.arange(1024, dtype=np.float32) / 1024).all() for k in range(200))


@pytest.mark.parametrize(
    ("first", "begin", "gap_ends"),
    [
        (0, "anchored", None),
        (-10, "anchored", None),
        (400, "anchored", 400),
        (400, "not anchored", None),
        (1000, "anchored", 1000),
    ],
)
async def test_history_that_begins_too_late_is_told(
    server: ManyNodes,
    client: Client,
    historian: Historian,
    journal: Journal,
    first: int,
    begin: str,
    gap_ends: int | None,
) -> None:
    """A server that keeps little: where the last stored row is not in it either, what is before its first is a gap."""
    historian.remember(server.nodes[0], [s for s in range(first, 1001) if not 0 < s < 10])
    await missed(journal, [hole(0, 1, 1000)])
    gaps = gaps_of(await fill_all(client, server, journal, anchored=begin == "anchored"))
    assert [(gap.from_time, gap.to_time) for gap in gaps] == ([] if gap_ends is None else [(at(1), at(gap_ends))])
    assert (journal.holes(), historian.open_points()) == ((), 0)


async def test_a_busy_server_leaves_holes_open_for_later(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it gave before it was busy is stored; no gap is made of what it may give later."""
    monkeypatch.setattr(module, "_ROWS_WANTED", 100)
    historian.remember(server.nodes[0], range(1001))
    await missed(journal, [hole(0, 0, 1000)])
    historian.refuses = lambda: StatusCodes.BadServerTooBusy if len(historian.asked) > 3 else 0
    assert gaps_of(await fill_all(client, server, journal)) == []
    (left,) = journal.holes()
    assert NOON_NS < left.end_ns < NOON_NS + 1000 * SECOND_NS
    historian.refuses = lambda: 0
    await fill_all(client, server, journal)
    assert await seconds(journal, 0) == list(range(1001))


async def test_a_node_that_times_out_stays_open_and_the_others_go_on(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """BadTimeout however little is asked for: it may be otherwise later."""
    lame = server.nodes[1]
    historian.fails = lambda node, *_: StatusCodes.BadTimeout if node == lame else 0
    for node in server.nodes[:3]:
        historian.remember(node, range(101))
    await missed(journal, [hole(i, 0, 100) for i in range(3)])
    assert gaps_of(await fill_all(client, server, journal)) == []
    assert [h.stream for h in journal.holes()] == [stream(1)]
    assert [len(await seconds(journal, i)) for i in range(3)] == [101, 1, 101]


async def test_a_late_historian_is_asked_for_the_newest_values_last(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """It lacks the last minute's at first; they are read when all else is."""
    historian.end_s = 980
    historian.remember(server.nodes[0], range(1001))
    await missed(journal, [hole(0, 0, 1000), hole(1, 0, 1000)])

    def settled(node: ua.NodeId, start: float, end: float) -> int:
        historian.end_s = 1e9 if start <= 0 < end else historian.end_s
        return StatusCodes.BadHistoryOperationUnsupported if node == server.nodes[1] else 0

    historian.fails = settled
    slices = await fill_all(client, server, journal)
    assert await seconds(journal, 0) == list(range(1001))
    assert slices[-1].observations.source_time.min() == NOON_NS + 940 * SECOND_NS
    assert [(gap.channel, gap.to_time) for gap in gaps_of(slices)] == [("channel_1", at(1000))]
    assert journal.holes() == ()


async def test_equal_times_are_kept_apart_by_value(
    server: ManyNodes, client: Client, historian: Historian, journal: Journal
) -> None:
    """A sensor that told two values of one moment."""
    historian.page = 2
    for value in (1.0, 2.0, 1.0):
        historian.remember(server.nodes[0], [4], partial(float.__add__, value - 4))
    await missed(journal, [hole(0, 0, 10)])
    await fill_all(client, server, journal)
    assert await seconds(journal, 0) == [4, 4, 10]
