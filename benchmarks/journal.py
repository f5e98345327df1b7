"""What a commit to the journal costs, and a start with much behind it: ``python -m benchmarks.journal [--json]``.

Batches of 100, 1,000 and 10,000 observations are appended one after the other, each durable before the next. Beside it
stand the same values as rows in a table of SQLite with the same settings, and as one blob a batch: the floor, since
that is a disk flush and nothing else. Then a journal of 50 million pending observations is opened in a new process, all
of them in pages, and all of them in segments. Bytes an observation takes in a segment come from `benchmarks.segments`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import structlog

from benchmarks import segments
from benchmarks.measurement import Measurement, compared, tell
from gateway.journal import Journal
from models.records import Observations, Page, Stream
from models.segment import encode_segment, segment_digest

START_NS = 1_772_452_800_000_000_000
PENDING = 50_000_000
PAGE_ROWS = 5_000
START_LIMIT_S, RSS_LIMIT_MIB = 5.0, 300.0
RAW, FLOOR = "raw SQLite, one row a value", "raw SQLite, one blob a batch"


def batch(rows: int, place: int) -> Observations:
    """Return the batch number *place*: one value each of so many streams, one second after the batch before."""
    return Observations.of_values(
        _streams(rows),
        np.arange(rows, dtype=np.uint32),
        np.full(rows, START_NS + place * 1_000_000_000, np.int64),
        np.sin(np.arange(rows) + place),
        np.zeros(rows, np.uint32),
    )


@lru_cache
def _streams(rows: int) -> tuple[Stream, ...]:
    """Return the same table for every batch of that size, as a source does."""
    return tuple(Stream(f"pump-{place // 20:04d}", f"c{place % 20:02d}") for place in range(rows))


class Clocks:
    """Observations per second, and per second of CPU."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, observations: int) -> tuple[float, float]:
        """Return both rates since the start."""
        return observations / (time.perf_counter() - self._wall), observations / (time.process_time() - self._cpu)

    def is_over(self, seconds: float) -> bool:
        """Return whether that long has passed."""
        return time.perf_counter() - self._wall >= seconds


async def ours(folder: Path, rows: int, seconds: float) -> tuple[float, float]:
    """Return the rates at which the journal stores batches of *rows*."""
    journal = await Journal.open(folder, "gw-benchmark")
    await journal.append(batch(rows, 0))
    clocks, place = Clocks(), 0
    while not clocks.is_over(seconds):
        place += 1
        await journal.append(batch(rows, place))
    rates = clocks.rates(place * rows)
    await journal.close()
    return rates


def _ours(folder: Path, rows: int, seconds: float) -> tuple[float, float]:
    return asyncio.run(ours(folder, rows, seconds))


def raw(folder: Path, rows: int, seconds: float, *, blobs: bool) -> tuple[float, float]:
    """Return the rates at which SQLite stores the same batches, as rows or as blobs."""
    connection = sqlite3.connect(folder / "raw.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE value (stream INTEGER, time INTEGER, value REAL, status INTEGER)")
    connection.execute("CREATE TABLE batch (seq INTEGER PRIMARY KEY, payload BLOB)")
    clocks, place = Clocks(), 0
    while not clocks.is_over(seconds):
        place += 1
        some = batch(rows, place)
        connection.execute("BEGIN IMMEDIATE")
        if blobs:
            columns = (some.stream, some.source_time, some.value, some.status)
            connection.execute("INSERT INTO batch VALUES (?, ?)", (place, b"".join(c.tobytes() for c in columns)))
        else:
            columns_of_python = (c.tolist() for c in (some.stream, some.source_time, some.value, some.status))
            connection.executemany("INSERT INTO value VALUES (?, ?, ?, ?)", zip(*columns_of_python, strict=True))
        connection.execute("COMMIT")
    rates = clocks.rates(place * rows)
    connection.close()
    return rates


def commits(seconds: float) -> Iterator[Measurement]:
    """Measure appends of three sizes beside both references."""
    for rows in (100, 1_000, 10_000):
        found = []
        for way in (_ours, partial(raw, blobs=False), partial(raw, blobs=True)):
            with tempfile.TemporaryDirectory() as folder:
                found.append(way(Path(folder), rows, seconds))
        (wall, cpu), *references = found
        for name, (wall_of, cpu_of) in zip((RAW, FLOOR), references, strict=True):
            yield compared(f"append batches of {rows:,}", wall, wall_of, name, "observations/s")
            yield compared(f"append batches of {rows:,}", cpu, cpu_of, name, "observations/cpu-s")


# The start


def pending_in_pages(folder: Path, pending: int) -> None:
    """Make a journal of *pending* observations in pages that were never compacted."""
    asyncio.run(_filled(folder, pending))


async def _filled(folder: Path, pending: int) -> None:
    journal = await Journal.open(folder, "gw-benchmark")
    for place in range(pending // PAGE_ROWS):
        await journal.append(batch(PAGE_ROWS, place))
    await journal.close()


def pending_in_segments(folder: Path, pending: int, pages: int = 256) -> None:
    """Make a journal of *pending* observations in whole segments, at least one; each has the bytes of the first."""
    asyncio.run(_filled(folder, pages * PAGE_ROWS))
    connection = sqlite3.connect(folder / "journal.sqlite", isolation_level=None)
    (epoch,) = connection.execute("SELECT epoch FROM journal").fetchone()
    some = [
        Page(gateway_id="gw-benchmark", epoch=epoch, seq=place + 1, committed_time=0, content=batch(PAGE_ROWS, place))
        for place in range(pages)
    ]
    data = encode_segment(some)
    (folder / "segments").mkdir()
    connection.execute("BEGIN")
    connection.execute("DELETE FROM page")
    for place in range(max(pending // (pages * PAGE_ROWS), 1)):
        first, last = place * pages + 1, (place + 1) * pages
        path = folder / "segments" / f"{epoch}-{first:012d}-{last:012d}.wseg"
        path.write_bytes(data)
        connection.execute(
            "INSERT INTO segment (first_seq, last_seq, path, digest, size, observations) VALUES (?, ?, ?, ?, ?, ?)",
            (first, last, path.name, segment_digest(data), len(data), pages * PAGE_ROWS),
        )
    connection.execute("UPDATE journal SET appended = (SELECT sum(observations) FROM segment)")
    connection.execute("COMMIT")
    connection.close()
    (folder / "journal.last").unlink()


def opened(folder: Path) -> tuple[float, float]:
    """Return how long opening takes, in seconds, and the most memory of the process that does it, in MiB."""
    program = (
        "import asyncio, json, sys, time\n"
        "from pathlib import Path\n"
        "from gateway.journal import Journal\n"
        "async def run():\n"
        "    begin = time.perf_counter()\n"
        "    journal = await Journal.open(Path(sys.argv[1]), 'gw-benchmark')\n"
        "    took = time.perf_counter() - begin\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    most = next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024\n"
        "    print(json.dumps([took, most, journal.counters.pending]))\n"
        "    await journal.close()\n"
        "asyncio.run(run())\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True, text=True)
    took, most, _ = json.loads(result.stdout.splitlines()[-1])
    return took, most


def starts(pending: int) -> Iterator[Measurement]:
    """Measure the opening of a journal with much behind it, beside what is allowed."""
    for name, fill in (("pages", pending_in_pages), ("segments", pending_in_segments)):
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), pending)
            took, most = opened(Path(folder))
        what = f"open with {pending / 1e6:g} M pending in {name}"
        yield compared(what, took, START_LIMIT_S, "limit", "s, lower is better")
        yield compared(what, most, RSS_LIMIT_MIB, "limit", "MiB RSS, lower is better")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each measure of commits")
    parser.add_argument("--pending", type=int, default=PENDING, help="observations that the journal starts with")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    tell([*commits(options.seconds), *starts(options.pending), *segments.measurements()], as_json=options.json)


if __name__ == "__main__":
    main()
