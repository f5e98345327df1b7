"""Small segments that the cloud has become fewer, and nothing of what they held changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.historian.embedded import EmbeddedHistorian
from gateway.journal import Journal, SegmentStore, compact_once, merging
from gateway.journal.merging import merge_small
from models.fingerprints import page_fingerprints
from models.records import Stream
from models.segment import cut_segment, decode_segment
from tests.gateway.journal.chain import verify_chain
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations, same

ALWAYS = -(2**62), 2**62
STREAMS = tuple(Stream("pump-01", f"channel_{place}") for place in range(3))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four segments are enough, and eight too many."""
    monkeypatch.setattr(merging, "_AT_LEAST", 4)
    monkeypatch.setattr(merging, "_AT_MOST", 8)


async def fill(journal: Journal, segments: int) -> SegmentStore:
    """Store so many segments of a page of rows and a page of results."""
    for _ in range(segments):
        await journal.append(make_observations(start_ns=NOON_NS + journal.last_seq * 10 * SECOND_NS))
        await journal.append_results(make_event("between"))
        await compact_once(journal, max_pages=2)
    await journal.write(lambda database: database.trim())
    return SegmentStore(journal)


async def test_neighbours_become_one(journal: Journal, tmp_path: Path) -> None:
    """With the same pages in the same chain; readers, history and all counts find what they found."""
    store = await fill(journal, 6)
    await store.mark_delivered([(1, 10)])
    before = await EmbeddedHistorian(journal).read(STREAMS, *ALWAYS)
    parts = [decode_segment(await store.read(entry)) for entry in await store.segments()]
    counters = journal.counters

    merged = await merge_small(journal)
    assert merged is not None
    assert [(entry.first_seq, entry.last_seq) for entry in await store.segments()] == [(1, 10), (11, 12)]
    assert verify_chain(await store.segments()) == []
    segment = decode_segment(await store.read(merged))
    assert np.array_equal(page_fingerprints(segment), np.concatenate([page_fingerprints(one) for one in parts[:5]]))
    assert (segment.previous, segment.chain_digest) == ("", parts[4].chain_digest)
    assert same(await EmbeddedHistorian(journal).read(STREAMS, *ALWAYS), before)
    assert len(list((tmp_path / "segments").iterdir())) == 2
    reader = await journal.reader("late")
    seqs = []
    async for page in reader.pages():
        seqs.append(page.seq)
        if page.seq == 12:
            break
    assert seqs == list(range(1, 13))
    assert journal.counters == counters
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert again.counters == counters
    await again.close()


async def test_only_what_is_delivered_and_cut_alike_is_merged(journal: Journal) -> None:
    store = await fill(journal, 10)
    for entry in (await store.segments())[:3]:
        await store.set_cut(entry, b"one", 4)
    await store.mark_delivered([(1, 12)])
    assert await merge_small(journal) is None
    await store.mark_delivered([(1, 14)])
    merged = await merge_small(journal)
    assert merged is not None
    assert (merged.first_seq, merged.last_seq) == (7, 14)
    assert journal.counters.withheld == 12


async def test_what_is_merged_can_still_be_cut(journal: Journal) -> None:
    """Should the cloud lose it: what a policy keeps here stays here."""
    store = await fill(journal, 5)
    for entry in await store.segments():
        await store.set_cut(entry, b"channel_0", 4)
    await store.mark_delivered([(1, 10)])
    assert await merge_small(journal) is not None
    assert (journal.counters.withheld, journal.counters.delivered) == (20, 40)
    assert await store.withdraw_outside([]) == 1
    (entry,) = await store.pending()
    assert (entry.cut, entry.withheld) == (b"channel_0", 20)
    whole = decode_segment(await store.read(entry))
    cut = decode_segment(cut_segment(await store.read(entry), STREAMS[:1]))
    assert (cut.kind, cut.chain_digest, sum(part.observations for part in cut.withheld)) == (
        "cut",
        whole.chain_digest,
        20,
    )
    assert np.array_equal(page_fingerprints(cut), page_fingerprints(whole))


async def test_a_damaged_one_is_left_to_be_mended(journal: Journal) -> None:
    store = await fill(journal, 5)
    await store.mark_delivered([(1, 10)])
    entry = (await store.segments())[1]
    entry.path.write_bytes(b"damaged")
    assert await merge_small(journal) is None
    assert len(await store.segments()) == 5


async def test_what_is_tried_again_after_a_commit_in_doubt_is_done_once(journal: Journal) -> None:
    """The disk did not say how a commit ended; it had become durable."""
    store = await fill(journal, 4)
    await store.mark_delivered([(1, 8)])
    run = await store.segments()
    merged = await merge_small(journal)
    assert merged is not None
    counters = journal.counters
    assert await journal.write(lambda database: database.segments.replace(run, merged))
    for _ in range(2):
        assert await journal.write(lambda database: database.segments.purge([merged], "size_limit")) == [merged]
    assert journal.counters == counters


async def test_what_is_merged_fits_into_memory(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows bound it too: a run is merged as soon as hardly another segment fits, and is let alone from then on."""
    monkeypatch.setattr(merging, "_SMALL_ROWS", 15)
    monkeypatch.setattr(merging, "_MOST_ROWS", 40)
    store = await fill(journal, 4)
    rows = [entry.observations for entry in await store.segments()]
    assert rows == [12, 12, 12, 12]
    await store.mark_delivered([(1, 8)])
    merged = await merge_small(journal)
    assert merged is not None
    assert (merged.last_seq, merged.observations) == (6, 36)
    assert await merge_small(journal) is None


async def test_a_few_that_others_can_still_join_are_not_merged(journal: Journal) -> None:
    """Each merge writes all rows again, so it waits until it is worth it."""
    store = await fill(journal, 3)
    await store.mark_delivered([(1, 6)])
    assert await merge_small(journal) is None
