"""One suite over every historian: what is written is read, once, by stream and time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gateway.historian import (
    DeepHistory,
    EmbeddedHistorian,
    Historian,
    InfluxHistorian,
    keep_history,
)
from gateway.journal import Journal, compact_once
from models.records import Observations, Page, Results, Stream
from tests.strategies import BAD, NOON_NS, SECOND_NS, make_observations, make_results, make_waveform, same

ALWAYS = (-(2**62), 2**62)


@dataclass
class Gateway:
    """A journal and the historian beside it."""

    journal: Journal
    historian: Historian

    async def store(self, rows: Observations) -> Page:
        """Commit *rows*, write their page, and return it."""
        await self.journal.append(rows)
        page = await self.newest_page()
        await self.historian.write(page)
        return page

    async def newest_page(self) -> Page:
        """Return the page that was committed last."""
        after = self.journal.last_seq - 1
        return (await self.journal.read(lambda tables: tables.decoded_pages(after, limit=1, max_bytes=1)))[0]


INFLUX_MARKS = (pytest.mark.integration, pytest.mark.influxdb)


@pytest.fixture(params=["embedded", pytest.param("influx", marks=INFLUX_MARKS)])
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Each historian in turn; a new one joins by being added here."""
    journal = await Journal.open(tmp_path, "gw-1")
    historian: Historian
    if request.param == "embedded":
        historian = EmbeddedHistorian(journal)
    else:
        historian = InfluxHistorian(request.getfixturevalue("influxdb"))
    yield Gateway(journal, historian)
    await historian.close()
    await journal.close()


def of_rows(stream: Stream, rows: list[tuple[int, float, int]]) -> Observations:
    """Return observations of one stream from (time, value, status)."""
    columns = list(zip(*rows, strict=True))
    return Observations.of_values(
        (stream,),
        np.zeros(len(rows), np.uint32),
        np.array(columns[0], np.int64),
        np.array(columns[1], np.float64),
        np.array(columns[2], np.uint32),
    )


async def test_a_page_written_twice_is_read_once(gateway: Gateway) -> None:
    """A page that is sent again after a crash leaves no second copy."""
    rows = make_observations(streams=3, rows=10)
    await gateway.historian.write(await gateway.store(rows))

    read = await gateway.historian.read(rows.streams, *ALWAYS)
    assert same(read, rows.take(np.argsort(rows.stream, kind="stable")))


async def test_only_the_streams_and_times_asked_for_are_read(gateway: Gateway) -> None:
    """The start is in, the end is out; streams come in the order asked for, an unknown one is empty."""
    rows = make_observations(streams=3, rows=10)
    await gateway.store(rows)
    asked = (rows.streams[2], Stream("pump-99", "none"), rows.streams[0])
    read = await gateway.historian.read(asked, NOON_NS + 2 * SECOND_NS, NOON_NS + 4 * SECOND_NS)
    assert read.streams == asked
    assert read.stream.tolist() == [0, 0, 2, 2]
    assert ((read.source_time - NOON_NS) // SECOND_NS).tolist() == [2, 3, 2, 3]
    assert read.value.tolist() == [8.0, 11.0, 6.0, 9.0]


async def test_nothing_is_read_where_nothing_is(gateway: Gateway) -> None:
    rows = make_observations()
    assert len(await gateway.historian.read(rows.streams, *ALWAYS)) == 0
    await gateway.store(rows)
    assert len(await gateway.historian.read(rows.streams, NOON_NS + 5, NOON_NS + 5)) == 0
    assert len(await gateway.historian.read((), *ALWAYS)) == 0


async def test_late_rows_are_read_in_their_place(gateway: Gateway) -> None:
    """Backfill that comes after live values is in order of source time."""
    late, live = make_observations(streams=1, rows=3), make_observations(streams=1, rows=2, start_ns=NOON_NS + 9**12)
    await gateway.store(live)
    await gateway.store(late)
    read = await gateway.historian.read(late.streams, *ALWAYS)
    assert same(read, Observations.concatenate([late, live]))


async def test_the_value_stored_last_counts(gateway: Gateway) -> None:
    """A source time that came again with another value, and with another status."""
    stream = Stream("pump-01", "flow_m3_h")
    await gateway.store(of_rows(stream, [(NOON_NS, 1.0, 0), (NOON_NS + 1, 5.0, 0)]))
    await gateway.store(of_rows(stream, [(NOON_NS, 2.0, BAD), (NOON_NS + 1, 6.0, 0)]))
    read = await gateway.historian.read([stream], *ALWAYS)
    assert same(read, of_rows(stream, [(NOON_NS, 2.0, BAD), (NOON_NS + 1, 6.0, 0)]))


async def test_values_come_back_bit_by_bit_with_their_status(gateway: Gateway) -> None:
    """Good, uncertain and bad; tiny, huge, negative zero; NaN where there was no value."""
    stream = Stream("pump-01", "flow_m3_h")
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, float("nan"), 123456789.12345679]
    statuses = [0, 0x480, 0x40920000, BAD, 0x80320000, BAD, 0]
    rows = of_rows(
        stream, [(NOON_NS + n, value, status) for n, (value, status) in enumerate(zip(values, statuses, strict=True))]
    )
    await gateway.store(rows)
    assert same(await gateway.historian.read([stream], *ALWAYS), rows)


@pytest.mark.parametrize(
    "name",
    ["a b", "a,b=c", "\\", "a\\", "a\\,b", '"', "${x}", "%41", "%", "", "a\nb", "\t", "\u2028", "\ufffd", "µ°", "#c"],
)
async def test_hostile_names_stay_what_they_are(gateway: Gateway, name: str) -> None:
    """As asset and as channel, without touching their neighbours."""
    streams = (Stream(name, "plain"), Stream("plain", name), Stream("plain", "plain"))
    for place, stream in enumerate(streams):
        await gateway.store(of_rows(stream, [(NOON_NS, float(place), 0)]))
    read = await gateway.historian.read(streams, *ALWAYS)
    assert read.streams == streams
    assert read.value.tolist() == [0.0, 1.0, 2.0]


async def test_results_and_waveforms_are_written_too(gateway: Gateway) -> None:
    """They disturb no reading of plain values."""
    await gateway.store(Observations.concatenate([make_waveform([3.0, 4.0]), make_observations(streams=1, rows=1)]))
    await gateway.journal.append_results(make_results())
    await gateway.historian.write(await gateway.newest_page())
    read = await gateway.historian.read([Stream("pump-01", "channel_0")], *ALWAYS)
    assert read.value.tolist() == [0.0]


async def test_history_is_kept_from_the_reader_s_position(gateway: Gateway) -> None:
    """Every page arrives, and the position moves once it is stored."""
    rows = make_observations(streams=2, rows=5)
    for start in range(0, len(rows), 2):
        await gateway.journal.append(rows.take(np.arange(start, start + 2)))
    reader = await gateway.journal.reader("historian")
    keeping = asyncio.create_task(keep_history(reader, gateway.historian, gather_s=0.01))
    async with asyncio.timeout(60):
        while reader.position < gateway.journal.last_seq:  # noqa: ASYNC110 - a position has no event
            await asyncio.sleep(0.01)
    assert len(await gateway.historian.read(rows.streams, *ALWAYS)) == len(rows)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_the_value_stored_last_counts_inside_one_page_too(gateway: Gateway) -> None:
    """Also where the last one is no number, and where it is one again."""
    stream, nan = Stream("pump-01", "flow_m3_h"), float("nan")
    await gateway.store(of_rows(stream, [(NOON_NS, 1.0, 0), (NOON_NS, 2.0, 0), (NOON_NS + 1, 5.0, 0)]))
    await gateway.store(of_rows(stream, [(NOON_NS + 1, nan, 0), (NOON_NS, nan, BAD)]))
    await gateway.store(of_rows(stream, [(NOON_NS, 3.0, BAD), (NOON_NS, 4.0, 0)]))
    read = await gateway.historian.read([stream], *ALWAYS)
    assert same(read, of_rows(stream, [(NOON_NS, 4.0, 0), (NOON_NS + 1, nan, 0)]))


async def test_infinity_is_no_number_and_comes_back(gateway: Gateway) -> None:
    """With every severity of status."""
    stream, inf = Stream("pump-01", "flow_m3_h"), float("inf")
    rows = of_rows(stream, [(NOON_NS, inf, 0), (NOON_NS + 1, -inf, BAD), (NOON_NS + 2, inf, 0x40000000)])
    await gateway.store(rows)
    assert same(await gateway.historian.read([stream], *ALWAYS), rows)


async def test_times_before_1970_are_read_in_order(gateway: Gateway) -> None:
    stream = Stream("pump-01", "flow_m3_h")
    rows = of_rows(stream, [(-5, 1.0, 0), (0, 2.0, 0), (7, 3.0, 0)])
    await gateway.store(rows)
    assert same(await gateway.historian.read([stream], *ALWAYS), rows)
    assert (await gateway.historian.read([stream], -5, 0)).value.tolist() == [1.0]


async def test_many_streams_are_read_at_once(gateway: Gateway) -> None:
    """More channels of one asset than fit into one question, and more assets than one."""
    rows = make_observations(streams=450, rows=2)
    other = make_observations(streams=1, rows=2, asset_id="pump-02")
    await gateway.store(Observations.concatenate([rows, other]))
    read = await gateway.historian.read([*other.streams, *rows.streams], *ALWAYS)
    assert same(read, Observations.concatenate([other, rows.take(np.argsort(rows.stream, kind="stable"))]))


async def test_an_estimate_is_never_0_where_there_is_something(gateway: Gateway) -> None:
    """And near the truth where the times asked for are those of what there is."""
    rows = make_observations(streams=2, rows=50)
    assert await gateway.historian.estimate(rows.streams, *ALWAYS) == 0
    await gateway.store(rows)
    assert await gateway.historian.estimate(rows.streams, NOON_NS, NOON_NS + 50 * SECOND_NS) == 100
    assert await gateway.historian.estimate(rows.streams, NOON_NS, NOON_NS + 1) >= 1


async def test_waveforms_come_out_of_the_segments(gateway: Gateway) -> None:
    """Plain values out of the historian, samples out of the journal, as one; whichever the historian is."""
    waves = [make_waveform([float(n), n + 0.5], time_ns=NOON_NS + n * SECOND_NS) for n in range(6)]
    plain = make_observations(streams=2, rows=6)
    for rows in [*waves, plain]:
        await gateway.store(rows)
    streams = [*waves[0].streams, *plain.streams]
    embedded, deep = EmbeddedHistorian(gateway.journal), gateway.historian
    if isinstance(deep, InfluxHistorian):
        assert (await deep.read(streams, *ALWAYS)).samples.size == 0
        deep = DeepHistory(deep, embedded)
    await compact_once(gateway.journal, max_pages=4)
    assert same(await deep.read(streams, *ALWAYS), await embedded.read(streams, *ALWAYS))
    assert (await deep.read(streams, *ALWAYS)).samples.size == 12


async def test_what_only_one_of_two_has_is_read(tmp_path: Path) -> None:
    """Old values that the journal purged, new ones that the server lacks; and of both the journal's counts."""
    old, new = await Journal.open(tmp_path / "old", "gw-1"), await Journal.open(tmp_path / "new", "gw-1")
    stream = Stream("pump-01", "flow_m3_h")
    await old.append(of_rows(stream, [(NOON_NS, 1.0, 0), (NOON_NS + 1, 2.0, 0)]))
    await new.append(of_rows(stream, [(NOON_NS + 1, 3.0, 0), (NOON_NS + 2, 4.0, 0)]))
    deep = DeepHistory(EmbeddedHistorian(old), EmbeddedHistorian(new))
    assert (await deep.read([stream], *ALWAYS)).value.tolist() == [1.0, 3.0, 4.0]
    assert [await deep.estimate([stream], NOON_NS + n, NOON_NS + n + 1) > 0 for n in range(4)] == [True] * 3 + [False]
    await old.close()
    await new.close()


@dataclasses.dataclass
class FailingHistorian:
    """A historian whose writes fail from the second on."""

    written: int = 0
    retention_s: float = 0.0

    async def write(self, *pages: Page) -> None:
        """Store one page only."""
        if self.written:
            raise OSError(f"no room for page {pages[0].seq}")
        self.written += len(pages)

    async def read(self, streams: object, start_ns: int, end_ns: int) -> Observations:
        """Return nothing."""
        raise NotImplementedError(streams, start_ns, end_ns)

    async def estimate(self, streams: object, start_ns: int, end_ns: int) -> int:
        """Return nothing."""
        raise NotImplementedError(streams, start_ns, end_ns)

    async def close(self) -> None:
        """Do nothing."""


async def test_the_position_stays_before_a_page_that_is_not_stored(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, "gw-1")
    for _ in range(3):
        await journal.append_results(Results(events=make_results().events))
    with pytest.raises(OSError, match="no room for page 2"):
        await keep_history(await journal.reader("historian"), FailingHistorian(), gather_s=0.0)
    assert (await journal.reader("historian")).position == 1
    await journal.close()


async def test_the_embedded_historian_reads_over_segments_and_pages(tmp_path: Path) -> None:
    """The same answer, waveforms included, before, while and after pages become segments and are deleted."""
    journal = await Journal.open(tmp_path, "gw-1")
    historian = EmbeddedHistorian(journal)
    waves = [make_waveform([float(n), n + 0.5], time_ns=NOON_NS + n) for n in range(6)]
    for wave in waves:
        await journal.append(wave)
    for _ in range(4):
        read = await historian.read(waves[0].streams, NOON_NS + 1, NOON_NS + 5)
        assert same(read, Observations.concatenate(waves[1:5]))
        await compact_once(journal, max_pages=2)
        await journal.write(lambda tables: tables.trim())
    await journal.close()
