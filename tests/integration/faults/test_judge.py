"""The judge can fail: each thing that must not be is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.journal import Journal
from models.records import Gap, Observations, Page, Results, Stream, from_ns
from tests.integration.faults.judge import OVERFLOW, Stored, judge, judge_ticks, longest_silence_s, read_journal
from tests.integration.peers.server import Measured

SPEED = Stream("pump-01", "speed_rpm")
SECOND = 1_000_000_000
BOOK = {SPEED: [Measured(second * SECOND, 0, (float(second),)) for second in range(1, 11)]}


def gap(start_s: float, end_s: float) -> Gap:
    times = [from_ns(int(second * SECOND)) for second in (start_s, end_s)]
    return Gap(
        asset_id=SPEED.asset_id, channel=SPEED.channel, from_time=times[0], to_time=times[1], cause="link was down"
    )


@pytest.fixture
def stored() -> Stored:
    """A journal that holds all but seconds 4 and 5, which lie in a gap record."""
    rows = [row for row in BOOK[SPEED] if row.source_time not in {4 * SECOND, 5 * SECOND}]
    return Stored(rows={SPEED: rows}, gaps={SPEED: [gap(3, 6)]})


def test_a_journal_that_holds_or_tells_everything_is_good(stored: Stored) -> None:
    verdict = judge(BOOK, stored, since={SPEED: SECOND}, until=10 * SECOND)
    assert verdict.is_kept
    assert (verdict.made, verdict.stored, verdict.in_gaps, verdict.causes) == (10, 8, 2, {"link was down": 1})


def test_a_removed_row_is_seen(stored: Stored) -> None:
    del stored.rows[SPEED][0]
    verdict = judge(BOOK, stored, since={SPEED: SECOND}, until=10 * SECOND)
    assert not verdict.is_kept
    assert verdict.missing == 1


def test_a_doubled_row_is_seen_with_the_overflow_bit_too(stored: Stored) -> None:
    stored.rows[SPEED].append(replace(stored.rows[SPEED][2], status=OVERFLOW))
    verdict = judge(BOOK, stored, since={SPEED: SECOND}, until=10 * SECOND)
    assert not verdict.is_kept
    assert (verdict.twice, verdict.missing, verdict.foreign) == (1, 0, 0)


def test_a_removed_gap_record_is_seen(stored: Stored) -> None:
    stored.gaps.clear()
    assert judge(BOOK, stored, since={SPEED: SECOND}, until=10 * SECOND).missing == 2


def test_a_gap_record_of_another_channel_or_time_covers_nothing(stored: Stored) -> None:
    stored.gaps = {Stream("pump-01", "load_pct"): [gap(3, 6)], SPEED: [gap(4.5, 6)]}
    assert judge(BOOK, stored, since={SPEED: SECOND}, until=10 * SECOND).missing == 1


@pytest.mark.parametrize("changed", [{"numbers": (0.5,)}, {"status": 0x80000000}, {"source_time": 1}])
def test_a_row_that_nobody_made_is_seen(stored: Stored, changed: dict[str, object]) -> None:
    stored.rows[SPEED].append(replace(stored.rows[SPEED][0], **changed))  # type: ignore[arg-type]  # one at a time
    assert judge(BOOK, stored, since={SPEED: SECOND}, until=10 * SECOND).foreign == 1


def test_a_stream_that_is_not_there_at_all_is_seen() -> None:
    assert judge(BOOK, Stored(), since={SPEED: SECOND}, until=10 * SECOND).missing == 10


def test_nothing_made_is_nothing_shown(stored: Stored) -> None:
    assert not judge(BOOK, stored, since={SPEED: 20 * SECOND}, until=30 * SECOND).is_kept


async def test_a_real_journal_is_read_with_its_gaps(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, "gw-1")
    times, values = np.arange(1, 4, dtype=np.int64) * SECOND, np.array([1.0, 2.0, 3.0])
    nothing = np.zeros(3, np.uint32)
    await journal.append(Observations.of_values((SPEED,), nothing, times, values, nothing))
    await journal.append_results(Results(gaps=(gap(3, 11),)))
    await journal.close()
    verdict = judge(BOOK, await read_journal(tmp_path, "gw-1"), since={SPEED: SECOND}, until=10 * SECOND)
    assert (verdict.is_kept, verdict.stored, verdict.in_gaps) == (True, 3, 7)


def page(ticks: list[float]) -> Page:
    columns = Observations.of_values(
        (SPEED,),
        np.zeros(len(ticks), np.uint32),
        (np.array(ticks) * SECOND).astype(np.int64),
        np.array(ticks),
        np.zeros(len(ticks), np.uint32),
    )
    return Page(gateway_id="gw-1", epoch="e", seq=1, committed_time=0, content=columns)


def test_ticks_that_are_left_out_doubled_or_late_are_seen() -> None:
    gaps = Page(gateway_id="gw-1", epoch="e", seq=2, committed_time=0, content=Results(gaps=(gap(2, 5),)))
    assert judge_ticks([page([1, 2, 3, 4, 5])], streams=1, last=5).is_kept
    assert judge_ticks([page([1, 2, 5]), gaps], streams=1, last=5).in_gaps == 2
    assert judge_ticks([page([1, 2, 5])], streams=1, last=5).missing
    assert judge_ticks([page([1, 2, 6]), gaps], streams=1, last=6).missing
    assert judge_ticks([page([1, 2, 2, 3])], streams=1, last=3).twice
    assert judge_ticks([page([1, 2, 3])], streams=1, last=4).missing
    assert not judge_ticks([page([1, 2, 3])], streams=2, last=3).is_kept


def test_the_longest_silence_is_found() -> None:
    assert longest_silence_s([row for row in BOOK[SPEED] if row.numbers != (4.0,)], SECOND, 10 * SECOND) == 2
