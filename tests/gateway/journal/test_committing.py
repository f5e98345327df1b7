"""Group commit: what comes together is stored together, and nobody waits without use."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.journal import CommitFailed, Hole, Journal
from gateway.journal.committing import Advance, Append, Committer, Work
from models.records import Observations, Results
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations

FOR_EVER_S = 3600.0


class Store:
    """Stands for the writing thread: it notes what was stored together, and refuses the reader ``bad``."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    async def __call__(self, works: Sequence[Work]) -> Sequence[int | None]:
        names = [work.reader if isinstance(work, Advance) else f"rows {len(work.observations)}" for work in works]
        await asyncio.sleep(0)
        if "bad" in names:
            raise CommitFailed("bad")
        self.groups.append(names)
        return [len(self.groups)] * len(works)


async def test_who_is_alone_never_waits() -> None:
    """Not even at the highest interval: nobody else came lately."""
    store = Store()
    committer = Committer(store, FOR_EVER_S)
    for number in range(3):
        assert await committer.submit(Advance(reader="monitor", seq=number)) == number + 1
    await committer.close()


async def test_work_waits_for_those_who_came_lately() -> None:
    """The first of two waits for the second, and then neither for the clock."""
    store = Store()
    committer = Committer(store, FOR_EVER_S)
    second_may_come = asyncio.Event()

    async def first() -> None:
        await committer.submit(Advance(reader="a", seq=1))
        await committer.submit(Advance(reader="a", seq=2))

    async def second() -> None:
        await committer.submit(Advance(reader="b", seq=1))
        await second_may_come.wait()
        await committer.submit(Advance(reader="b", seq=2))

    both = [asyncio.create_task(first()), asyncio.create_task(second())]
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.groups == [["a", "b"]]
    second_may_come.set()
    await asyncio.gather(*both)
    assert store.groups == [["a", "b"]] * 2
    await committer.close()


async def test_a_full_group_waits_for_nobody() -> None:
    store = Store()
    committer = Committer(store, FOR_EVER_S)
    waiting = asyncio.create_task(asyncio.sleep(FOR_EVER_S))
    committer._lately[waiting] = asyncio.get_running_loop().time()
    committer._last_begin = committer._lately[waiting]
    await committer.submit(Append(observations=make_observations(streams=100, rows=1000)))
    assert store.groups == [["rows 100000"]]
    waiting.cancel()
    await committer.close()


async def test_one_that_fails_takes_no_other_down() -> None:
    store = Store()
    committer = Committer(store, 0.0)
    names = ["a", "bad", "b"]
    found = await asyncio.gather(
        *[committer.submit(Advance(reader=name, seq=1)) for name in names], return_exceptions=True
    )
    assert [type(outcome) for outcome in found] == [int, CommitFailed, int]
    assert store.groups == [["a"], ["b"]]
    await committer.close()


async def test_what_is_gathered_is_stored_before_the_close() -> None:
    store = Store()
    committer = Committer(store, FOR_EVER_S)
    submitted = asyncio.create_task(committer.submit(Advance(reader="a", seq=1)))
    await asyncio.sleep(0)
    await committer.close()
    assert await submitted == 1
    with pytest.raises(CommitFailed, match="closed"):
        await committer.submit(Advance(reader="a", seq=2))


def of_source(name: str, second: int = 0) -> Observations:
    """Return the rows of a source of its own."""
    return make_observations(asset_id=name, rows=1, start_ns=NOON_NS + second * SECOND_NS)


async def test_appends_that_come_together_share_a_page(journal: Journal) -> None:
    """One transaction, one page of rows and one of results; each hears the seq that holds what it brought."""
    repeated = of_source("pump-00")
    await journal.append(repeated)
    before = journal._database.connections.transactions
    seqs = await asyncio.gather(
        journal.append(of_source("pump-02"), results=make_event("two")),
        journal.append(repeated),
        journal.append(of_source("pump-01"), results=make_event("one")),
    )
    assert journal._database.connections.transactions == before + 1
    assert list(seqs) == [3, None, 3]
    rows, results = await journal.read(lambda database: database.decoded_pages(1, limit=9, max_bytes=2**20))
    assert isinstance(rows.content, Observations)
    assert isinstance(results.content, Results)
    assert {rows.content.streams[place].asset_id for place in rows.content.stream} == {"pump-01", "pump-02"}
    assert [event.message for event in results.content.events] == ["one", "two"]
    assert (journal.counters.appended, journal.counters.repeats_dropped) == (9, 3)


async def test_readers_share_a_transaction_and_keep_their_own(journal: Journal) -> None:
    """Position, results and state of each."""
    await journal.append(of_source("pump-01"))
    readers = [await journal.reader(name) for name in ("a", "b")]
    before = journal._database.connections.transactions
    await asyncio.gather(*[r.commit(1, results=make_event(r.name), state=r.name.encode()) for r in readers])
    assert journal._database.connections.transactions == before + 1
    pages = await journal.read(lambda database: database.decoded_pages(1, limit=9, max_bytes=2**20))
    assert [page.content.events[0].message for page in pages if isinstance(page.content, Results)] == ["a", "b"]
    assert [(await journal.reader(name)).state for name in ("a", "b")] == [b"a", b"b"]


async def test_a_change_of_holes_is_a_commit_of_its_own(journal: Journal) -> None:
    rows = of_source("pump-01", 9)
    opened = Hole(stream=rows.streams[0], start_ns=NOON_NS, end_ns=NOON_NS + 9 * SECOND_NS)
    before = journal._database.connections.transactions
    seqs = await asyncio.gather(journal.append(rows, opened=[opened]), journal.append(of_source("pump-02")))
    assert list(seqs) == [2, 1]
    assert journal._database.connections.transactions == before + 2
    assert len(journal.holes()) == 1
