"""What is exported is what is stored, value by value; a file is there when it is whole."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import JournalError
from gateway.journal import Journal
from gateway.journal_commands.export import Wanted, copy_segments, export_observations, export_results, whole_file
from gateway.journal_commands.reading import Stretch
from gateway.journal_commands.sinks import COLUMNS, CsvSink, JsonLinesSink, ParquetSink, Sink
from gateway.journal_commands.view import JournalView
from models.records import Int64Array, Observations, Stream
from tests.gateway.journal.damage import ROWS, execute, flip_byte, make_journal, segment_file, time_of
from tests.strategies import BAD, NOON_NS, make_results, make_waveform

SECOND_NS = 1_000_000_000


def exported(folder: Path, sink: type[CsvSink | JsonLinesSink], wanted: Wanted) -> tuple[str, int]:
    """Return what *sink* writes of the journal in *folder*, and how many rows it counts."""
    file = io.BytesIO()
    with JournalView(folder) as view:
        done = export_observations(view, wanted, sink(file))
    return file.getvalue().decode(), done.written


async def test_csv_has_every_row_in_the_order_of_the_log(tmp_path: Path) -> None:
    """Values, times to the nanosecond and status as they were stored."""
    await make_journal(tmp_path)
    text, written = exported(tmp_path, CsvSink, Wanted(stretch=Stretch()))
    rows = list(csv.DictReader(io.StringIO(text)))

    assert len(rows) == written == 7 * 3 * ROWS
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)
    assert {float(row["value"]) for row in rows if row["seq"] == "8"} == {7000.0 + n for n in range(3 * ROWS)}
    assert rows[0]["source_time"] == "2026-03-02T12:00:00.000000000Z"
    assert {row["good"] for row in rows} == {"True"}


async def test_asset_channel_and_time_choose(tmp_path: Path) -> None:
    """Only the rows of a channel between two times, from segments and from rows of the table."""
    await make_journal(tmp_path)
    wanted = Wanted(
        stretch=Stretch(start_ns=time_of(5) + 18 * SECOND_NS, end_ns=time_of(6) + 2 * SECOND_NS),
        assets=frozenset({"pump-01"}),
        channels=frozenset({"channel_1"}),
    )
    text, written = exported(tmp_path, JsonLinesSink, wanted)

    rows = [json.loads(line) for line in text.splitlines()]
    assert written == 4
    assert [(row["seq"], row["value"]) for row in rows] == [(6, 5055.0), (6, 5058.0), (7, 6001.0), (7, 6004.0)]
    assert exported(tmp_path, CsvSink, Wanted(stretch=Stretch(), assets=frozenset({"fan-01"})))[1] == 0


async def odd_journal(folder: Path) -> None:
    """Write a journal with what is no plain number: a waveform, NaN, infinity, Bad status, names with commas."""
    journal = await Journal.open(folder, "gw-1")
    await journal.append(make_waveform([0.1, -2.5, 3.0]))
    stream = (Stream('line "1", left', "a,b"),)
    values = np.array([np.nan, np.inf, -0.0, 0.1])
    await journal.append(
        Observations.of_values(
            stream,
            np.zeros(4, np.uint32),
            NOON_NS + np.arange(4, dtype=np.int64),
            values,
            np.array([BAD, 0, 0, 0], np.uint32),
        )
    )
    await journal.close()


async def test_odd_values_come_through(tmp_path: Path) -> None:
    """Nothing breaks a line, nothing is rounded, a waveform keeps its samples."""
    await odd_journal(tmp_path)
    rows = list(csv.DictReader(io.StringIO(exported(tmp_path, CsvSink, Wanted(stretch=Stretch()))[0])))
    objects = [
        json.loads(line) for line in exported(tmp_path, JsonLinesSink, Wanted(stretch=Stretch()))[0].splitlines()
    ]

    assert (rows[0]["value"], rows[0]["samples"]) == ("", "0.1 -2.5 3.0")
    assert objects[0]["samples"] == [0.1, -2.5, 3.0]
    assert [row["value"] for row in rows[1:]] == ["nan", "inf", "-0.0", "0.1"]
    assert [one["value"] for one in objects[1:]] == [None, None, 0.0, 0.1]
    assert (rows[1]["asset_id"], rows[1]["channel"]) == ('line "1", left', "a,b")
    assert [row["good"] for row in rows] == ["True", "False", "True", "True", "True"]


async def test_large_waveforms_are_written_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written at once is bounded by samples; nothing is left out or written twice."""
    monkeypatch.setattr("gateway.journal_commands.export._CHUNK_SAMPLES", 5)
    await odd_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    await journal.append(make_waveform([float(n) for n in range(8)], time_ns=time_of(1)))
    await journal.close()
    sizes: list[int] = []

    class Noting(CsvSink):
        def rows(self, seq: Int64Array, rows: Observations) -> None:
            sizes.append(rows.samples.size)
            super().rows(seq, rows)

    text, written = exported(tmp_path, Noting, Wanted(stretch=Stretch()))
    assert written == 6 == len(text.splitlines()) - 1
    assert sizes == [3, 8]


async def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    """A data tool reads the columns as they are."""
    parquet = pytest.importorskip("pyarrow.parquet")
    await odd_journal(tmp_path)
    path = tmp_path / "rows.parquet"
    with JournalView(tmp_path) as view, whole_file(path) as file:
        export_observations(view, Wanted(stretch=Stretch()), ParquetSink(file))

    table = parquet.read_table(path)
    assert tuple(table.column_names) == COLUMNS
    assert table.num_rows == 5
    assert table["samples"].to_pylist()[0] == pytest.approx([0.1, -2.5, 3.0])
    assert table["channel"].to_pylist()[1] == "a,b"
    np.testing.assert_array_equal(table["value"].to_numpy()[1:], [np.nan, np.inf, -0.0, 0.1])


async def test_results_are_exported_with_their_page(tmp_path: Path) -> None:
    """Every record of every kind, one a line."""
    await make_journal(tmp_path)
    file = io.BytesIO()
    with JournalView(tmp_path) as view:
        export_results(view, Wanted(stretch=Stretch()), JsonLinesSink(file))
    records = [json.loads(line) for line in file.getvalue().splitlines()]

    kinds = {name for name in make_results().__dataclass_fields__ if getattr(make_results(), name)}
    assert {record["record"] for record in records} == kinds
    assert {record["seq"] for record in records} == {2}


async def test_damage_is_left_out_and_told(tmp_path: Path) -> None:
    """The rows that can be had are written."""
    await make_journal(tmp_path)
    execute(tmp_path, "DELETE FROM page WHERE seq <= 6")
    flip_byte(segment_file(tmp_path, 0))
    with JournalView(tmp_path) as view:
        done = export_observations(view, Wanted(stretch=Stretch()), CsvSink(io.BytesIO()))

    assert done.written == 5 * 3 * ROWS
    assert [(lost.first_seq, lost.last_seq) for lost in done.lost] == [(1, 3)]


async def test_segments_are_copied_with_a_manifest(tmp_path: Path) -> None:
    """The files as they are, and what is not in one yet is counted."""
    await make_journal(tmp_path / "state")
    with JournalView(tmp_path / "state") as view:
        done, outside = copy_segments(view, Stretch(first_seq=5), tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_bytes())

    assert (done.written, outside) == (1, 2)
    (entry,) = manifest["segments"]
    assert (entry["first_seq"], entry["last_seq"]) == (4, 6)
    assert hashlib.sha256((tmp_path / "copy" / entry["path"]).read_bytes()).hexdigest() == entry["digest"]
    assert len(list((tmp_path / "copy").iterdir())) == 2


async def test_a_damaged_segment_is_not_copied(tmp_path: Path) -> None:
    """What is copied is what was written."""
    await make_journal(tmp_path / "state")
    flip_byte(segment_file(tmp_path / "state", 0))
    with JournalView(tmp_path / "state") as view:
        done, _ = copy_segments(view, Stretch(), tmp_path / "copy")

    assert done.written == 1
    assert [(lost.first_seq, lost.last_seq) for lost in done.lost] == [(1, 3)]


def names(folder: Path) -> list[str]:
    """Return what lies in *folder*."""
    return sorted(path.name for path in folder.iterdir())


class FailingSink(CsvSink):
    """Fails when it is done with the rows."""

    def end(self) -> None:
        """Fail."""
        raise JournalError("disk full")


async def test_half_a_file_never_has_the_name(tmp_path: Path) -> None:
    """What fails midway leaves what was there before, and nothing beside it."""
    await make_journal(tmp_path / "state")
    path = tmp_path / "rows.csv"
    path.write_text("before")

    def write(sink: type[Sink]) -> None:
        with JournalView(tmp_path / "state") as view, whole_file(path) as file:
            export_observations(view, Wanted(stretch=Stretch()), sink(file))  # type: ignore[call-arg]  # a sink of files

    with pytest.raises(JournalError, match="disk full"):
        write(FailingSink)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["rows.csv", "state"]
    write(CsvSink)
    assert path.read_text().startswith("seq,")
