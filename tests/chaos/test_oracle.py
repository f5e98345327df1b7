"""The oracle finds a row removed, doubled, altered or foreign, a gap record removed, a count that lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.journal import Journal, compact_once
from models.records import Gap, Observations, Results, from_ns
from tests.chaos.oracle import Found, found_in, judge, judge_rows
from tests.chaos.plant import Plant
from tests.chaos.rows import Ledger, row_hashes

PLANT = Plant(seed=1)
BATCHES = range(6)
MADE = PLANT.batches(BATCHES)


@pytest.fixture
async def found(tmp_path: Path) -> Found:
    """What a journal holds that took all batches, half of them in a segment, and one page of results."""
    journal = await Journal.open(tmp_path, "gw-1")
    for number in BATCHES:
        await journal.append(PLANT.batch(number))
        if number == 2:
            await compact_once(journal, max_pages=10)
    await journal.append_results(Results(gaps=(_gap(),)))
    whole = await found_in(journal)
    await journal.close()
    return whole


def _gap(row: int = 0) -> Gap:
    """Return the gap record that tells the row *row* of what was made as missing."""
    stream, moment = MADE.streams[MADE.stream[row]], from_ns(int(MADE.source_time[row]))
    return Gap(asset_id=stream.asset_id, channel=stream.channel, from_time=moment, to_time=moment, cause="test")


def test_a_whole_journal_passes(found: Found) -> None:
    """Rows in segments and pages, waveforms and bad values among them, are found as they were made."""
    verdict = judge(MADE, found)
    assert verdict.is_kept, verdict
    assert verdict.stored == verdict.made == 6 * PLANT.batch_rows


def _removed(rows: Observations) -> Observations:
    return rows.take(np.arange(1, len(rows)))


def _doubled(rows: Observations) -> Observations:
    return rows.take(np.append(np.arange(len(rows)), 5))


def _altered(rows: Observations) -> Observations:
    value = rows.value.copy()
    value[7] += 1
    return replace(rows, value=value)


def _altered_samples(rows: Observations) -> Observations:
    return replace(rows, samples=np.roll(rows.samples, 1))


def _foreign(rows: Observations) -> Observations:
    return Observations.concatenate([rows, Plant(seed=2).batch(1).take(np.arange(1))])


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_removed, "1 missing"),
        (_doubled, "1 twice"),
        (_altered, "1 altered"),
        (_altered_samples, "altered"),
        (_foreign, "1 foreign"),
    ],
)
def test_a_changed_row_is_found(change: Callable[[Observations], Observations], finding: str, found: Found) -> None:
    """Each fault is named as what it is, and nothing else of the rows is."""
    rows = change(found.rows)
    assert [wrong for wrong in judge_rows(MADE, rows).wrong if finding in wrong]
    assert not judge(MADE, replace(found, rows=rows)).is_kept


def test_a_missing_row_needs_its_gap_record() -> None:
    """Told by a gap record of its stream and time it is no fault; without the record it is."""
    rows = _removed(MADE)
    assert judge_rows(MADE, rows, gaps=[_gap()]).in_gaps == 1
    assert judge_rows(MADE, rows, gaps=[_gap()]).is_kept
    assert not judge_rows(MADE, rows, gaps=[_gap(1)]).is_kept
    assert not judge_rows(MADE, rows).is_kept


def test_counts_that_do_not_add_up_are_found(found: Found) -> None:
    """A row more or less than the journal counts, or a loss it tells that is none, breaks a law."""
    for counters in (
        replace(found.counters, appended=found.counters.appended + 1),
        replace(found.counters, pending=found.counters.pending - 1),
        replace(found.counters, pending=found.counters.pending - 1, expired={"damaged": 1}),
    ):
        assert not judge(MADE, replace(found, counters=counters)).is_kept


def test_a_hole_in_seq_is_found(found: Found) -> None:
    """A page that neither a segment nor the table has breaks a law, as does one too many."""
    assert not judge(MADE, replace(found, ranges=found.ranges[1:])).is_kept
    assert not judge(MADE, replace(found, ranges=(*found.ranges, (found.ranges[-1][1] + 1,) * 2))).is_kept


def test_each_sample_follows_from_the_seed() -> None:
    """A batch made alone is the batch made with others, all rows differ, and another seed makes other rows."""
    hashes = row_hashes(MADE)
    assert (row_hashes(PLANT.batch(3)) == hashes[3 * PLANT.batch_rows : 4 * PLANT.batch_rows]).all()
    assert len(np.unique(hashes)) == len(hashes)
    assert not np.isin(row_hashes(Plant(seed=2).batches(BATCHES)), hashes).any()


def test_ledgers_agree_whatever_the_order() -> None:
    """Rows in another order and in parts have the same ledger."""
    ledger = Ledger.of(MADE.take(np.arange(len(MADE))[::-1].copy()))
    parts = Ledger({}, {})
    for number in BATCHES:
        parts.add(PLANT.batch(number))
    assert not ledger.differing(Ledger.of(MADE))
    assert not parts.differing(ledger)
