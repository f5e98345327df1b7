"""The embedded historian opens what it must, and goes on over what is gone."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from gateway.historian import embedded
from gateway.historian.embedded import EmbeddedHistorian
from gateway.journal import Journal, SegmentStore, compact_once
from gateway.journal.entries import SegmentEntry, decoded_segment
from models.records import Stream
from models.segment import segment_streams
from tests.strategies import NOON_NS, SECOND_NS, make_observations

ALWAYS = -(2**62), 2**62
PUMP = Stream("pump-01", "channel_0")


async def stored(folder: Path) -> Journal:
    """Return a journal of six segments, of two assets in turn; its pages are forgotten."""
    journal = await Journal.open(folder, "gw-1")
    for number in range(6):
        asset_id = f"pump-0{1 + number % 2}"
        await journal.append(make_observations(start_ns=NOON_NS + number * 100 * SECOND_NS, asset_id=asset_id))
        await compact_once(journal, max_pages=1)
    await journal.write(lambda database: database.trim())
    return journal


async def test_only_segments_that_have_the_streams_are_decoded(tmp_path: Path) -> None:
    """And only those that reach into the time; the second time not even their heads are read."""
    journal = await stored(tmp_path)
    historian = EmbeddedHistorian(journal)
    with (
        mock.patch.object(embedded, "decoded_segment", side_effect=decoded_segment) as decoded,
        mock.patch.object(embedded, "segment_streams", side_effect=segment_streams) as looked_into,
    ):
        assert len(await historian.read([PUMP], *ALWAYS)) == 12
        assert (decoded.call_count, looked_into.call_count) == (3, 6)
        assert len(await historian.read([PUMP], *ALWAYS)) == 12
        assert (decoded.call_count, looked_into.call_count) == (6, 6)
        assert len(await historian.read([PUMP], NOON_NS, NOON_NS + 100 * SECOND_NS)) == 4
        assert decoded.call_count == 7
    await journal.close()


async def test_what_is_gone_is_missing_and_the_rest_is_read(tmp_path: Path) -> None:
    """A damaged segment costs its rows, not the answer."""
    journal = await stored(tmp_path)
    entries = await SegmentStore(journal).segments()
    entries[0].path.write_bytes(b"damaged")
    entries[2].path.unlink()
    rows = await EmbeddedHistorian(journal).read([PUMP], *ALWAYS)
    assert rows.source_time.tolist() == [NOON_NS + (400 + second) * SECOND_NS for second in range(4)]
    assert journal.counters.expired == {"damaged": 24}
    await journal.close()


async def test_what_is_purged_meanwhile_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await stored(tmp_path)
    store = SegmentStore(journal)
    await store.mark_delivered([(1, 6)])
    entries = await store.segments()

    async def before_the_purge(*_: object) -> tuple[list[SegmentEntry], list[object]]:
        return entries, []

    await journal.write(lambda database: database.segments.purge(entries[:1], "size_limit"))
    entries[0].path.unlink()
    monkeypatch.setattr(SegmentStore, "history", before_the_purge)
    assert len(await EmbeddedHistorian(journal).read([PUMP], *ALWAYS)) == 8
    await journal.close()
