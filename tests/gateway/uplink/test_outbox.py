"""Which segment goes next."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config import Backlog
from gateway.journal import Journal
from gateway.uplink.condition import UplinkCondition
from gateway.uplink.outbox import Outbox
from tests.gateway.uplink.rig import fill


async def outbox(journal: Journal, backlog: Backlog = Backlog.OLDEST) -> Outbox:
    """Return an outbox over twelve segments of a page each, of which the newest is live and taken."""
    await fill(journal, 12)
    made = Outbox(journal, UplinkCondition(), backlog)
    live = await made.next_live()
    assert live is not None
    assert live.first_seq == 12
    return made


async def backlog_of(made: Outbox) -> list[int]:
    """Take the whole backlog."""
    seqs = []
    while (entry := await made.next_backlog()) is not None:
        seqs.append(entry.first_seq)
    return seqs


async def test_the_newest_is_live_and_the_rest_goes_as_chosen(journal: Journal) -> None:
    """After an outage nobody waits for the backlog to be gone; nothing is handed out twice."""
    assert await backlog_of(await outbox(journal)) == list(range(1, 12))
    assert await backlog_of(Outbox(journal, UplinkCondition(), Backlog.NEWEST)) == []


async def test_the_newest_of_the_backlog_may_go_first(journal: Journal) -> None:
    """What waited longest goes last."""
    assert await backlog_of(await outbox(journal, Backlog.NEWEST)) == list(range(11, 0, -1))


async def test_what_closes_is_live_in_its_order(journal: Journal) -> None:
    """A few that close while one is being sent go as they came, ahead of all backlog."""
    made = await outbox(journal)
    await fill(journal, 3, start=12)
    assert [entry.first_seq for entry in [await made.next_live() for _ in range(3)] if entry] == [13, 14, 15]
    waiting = asyncio.create_task(made.next_live())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await journal.close()
    assert await waiting is None


async def test_a_link_too_slow_for_live_data_keeps_up_with_the_newest(journal: Journal) -> None:
    """When more wait than can be live, the newest goes and the others are backlog: none is forgotten."""
    made = await outbox(journal)
    await fill(journal, 20, start=12)
    newest = await made.next_live()
    assert newest is not None
    assert newest.first_seq == 32
    assert await backlog_of(made) == [*range(1, 12), *range(13, 32)]


async def test_what_the_cloud_fails_on_goes_last(journal: Journal) -> None:
    """A segment that meets a fault of the cloud does not keep the others waiting; a cut link changes no order."""
    made = await outbox(journal)
    first, second = await made.next_backlog(), await made.next_backlog()
    assert first is not None
    assert second is not None
    made.put_back(first, live=False, failed=True)
    made.put_back(second, live=False, failed=False)
    assert await backlog_of(made) == [*range(2, 12), 1]


async def test_a_live_segment_that_was_cut_off_is_still_live(journal: Journal) -> None:
    """Until the cloud itself fails on it twice: then it waits behind the backlog."""
    made = await outbox(journal)
    for failed in (False, True, True):
        await fill(journal, 1, start=100)
        entry = await made.next_live()
        assert entry is not None
        assert entry.first_seq == 13
        made.put_back(entry, live=True, failed=failed)
    newer = await made.next_live()
    assert newer is not None
    assert newer.first_seq == 14
    assert (await backlog_of(made))[-1] == 13


async def test_the_shelf_is_passed_over_and_survives_a_restart(journal: Journal) -> None:
    """What the cloud refused is not sent again by itself, and its reason is told, until it is offered again."""
    made = await outbox(journal)
    entry = await made.next_backlog()
    assert entry is not None
    await made.refused(entry, "conflict: other pages")
    made.release(entry)
    assert await backlog_of(made) == list(range(2, 12))
    assert journal.counters.segments_refused == 1

    condition = UplinkCondition()
    later = Outbox(journal, condition, Backlog.OLDEST)
    await later.measure()
    assert condition.refused == {(1, 1): "conflict: other pages"}
    assert condition.backlog_segments == 11
    assert "repair --new-epoch" in condition.warnings[0]
    await later.offer_again()
    await later.measure()
    assert not condition.refused


@pytest.mark.parametrize("reason", ["conflict", "clone", "chain", "unreadable"])
def test_each_reason_says_what_to_do(reason: str) -> None:
    """However many segments it keeps, it is one sentence."""
    refused = {(seq, seq): f"{reason}: no" for seq in range(1, 50)}
    warning, other = UplinkCondition(refused=refused | {(99, 99): "refused: no"}).warnings
    assert warning.startswith("segment 1-1 and 48 more not delivered")
    assert "`wearsight-" in warning or "stop the one" in warning
    assert other == "segment 99-99 not delivered: refused: no"
