"""Bytes an observation takes in a segment: ``python -m benchmarks.segments [--json]``.

Real recordings are committed as a gateway commits them, pages of 10 rows of every stream, and compacted at 600 rows
a stream; counted is the whole segment: values, times, quality, page numbers, names, digests. Beside it stand the same
rows as one Parquet file (zstd, delta-coded times) and as the JSON that Telegraf's serialiser sends. Lower is better.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lives import DATA
from benchmarks.measurement import Measurement, compared, tell
from models.datasets import cmapss, skab
from models.records import FloatArray, Int64Array, Observations, Page, Stream
from models.segment import encode_segment

ROWS, PAGE_ROWS = 600, 10
START_NS = 1_772_452_800_000_000_000
TICK_NS = 100  # OPC UA times count in steps of 100 ns


def pages_of(streams: tuple[Stream, ...], times: Int64Array, values: FloatArray) -> list[Page]:
    """Return pages of 10 rows of every stream; *times* has a column for each stream, or one for all."""
    count = len(streams)
    pages = []
    for place, start in enumerate(range(0, len(values), PAGE_ROWS)):
        part = slice(start, start + PAGE_ROWS)
        rows = len(values[part])
        content = Observations.of_values(
            streams,
            np.tile(np.arange(count, dtype=np.uint32), rows),
            np.broadcast_to(times[part], (rows, count)).reshape(-1),
            values[part].reshape(-1),
            np.zeros(rows * count, np.uint32),
        )
        pages.append(Page(gateway_id="gw-line3", epoch="0" * 16, seq=place + 1, committed_time=0, content=content))
    return pages


def recordings() -> Iterator[tuple[str, list[list[Page]]]]:
    """Yield each recording's name, and its pages segment by segment; those that are not here are left out."""
    if (DATA / "skab").is_dir():
        streams = tuple(Stream("bench-1", channel.name) for channel in skab.CHANNELS)
        parts = [
            (experiment.time_ns[start : start + ROWS, None], experiment.values[start : start + ROWS])
            for experiment in skab.read_experiments(DATA / "skab")
            for start in range(0, len(experiment.values) - ROWS + 1, ROWS)
        ]
        yield "SKAB", [pages_of(streams, times, values) for times, values in parts]
        yield (
            "SKAB, each channel stamped some µs after the other",
            [pages_of(streams, _stamped(times, len(streams)), values) for times, values in parts],
        )
    if (DATA / "cmapss").is_dir():
        streams = tuple(Stream("engine-1", channel.name) for channel in cmapss.CHANNELS)
        values = np.concatenate([engine.values for engine in cmapss.read_subset(DATA / "cmapss").train])
        times = (START_NS + np.arange(len(values)) * 1_000_000_000)[:, None]
        starts = range(0, len(values) - ROWS + 1, ROWS)
        yield (
            "C-MAPSS FD001",
            [pages_of(streams, times[start : start + ROWS], values[start : start + ROWS]) for start in starts],
        )


def _stamped(times: Int64Array, streams: int) -> Int64Array:
    """Return times as a real server stamps them: each cycle some ms late, the channels up to 50 µs apart."""
    chance = np.random.default_rng(7)
    cycle = np.abs(chance.normal(0, 2_000_000, (len(times), 1)))
    channel = chance.uniform(0, 50_000, (len(times), streams))
    return np.asarray(times + ((cycle + channel) // TICK_NS * TICK_NS).astype(np.int64), np.int64)


def rows_in(pages: list[Page]) -> int:
    """Return how many observations *pages* hold."""
    return sum(len(page.content) for page in pages if isinstance(page.content, Observations))


def parquet_bytes(pages: list[Page]) -> int:
    """Return the size of the same rows as one Parquet file."""
    rows = Observations.concatenate([page.content for page in pages if isinstance(page.content, Observations)])
    seq = np.repeat([page.seq for page in pages], [rows_in([page]) for page in pages])
    order = np.argsort(rows.stream, kind="stable")
    table = pa.table(
        {
            "asset_id": pa.array([stream.asset_id for stream in rows.streams]).take(pa.array(rows.stream[order])),
            "channel": pa.array([stream.channel for stream in rows.streams]).take(pa.array(rows.stream[order])),
            "seq": seq[order],
            "source_time": rows.source_time[order],
            "value": rows.value[order],
            "status": rows.status[order],
        }
    )
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        compression="zstd",
        compression_level=9,
        use_dictionary=["asset_id", "channel", "status"],
        column_encoding={
            "seq": "DELTA_BINARY_PACKED",
            "source_time": "DELTA_BINARY_PACKED",
            "value": "BYTE_STREAM_SPLIT",
        },
    )
    return len(file.getbuffer())


def json_bytes(pages: list[Page]) -> int:
    """Return the size of the same rows as Telegraf's JSON serialiser writes them, one metric a value."""
    size = 0
    for page in pages:
        assert isinstance(page.content, Observations)
        rows = page.content
        for place, time, value in zip(
            rows.stream.tolist(), rows.source_time.tolist(), rows.value.tolist(), strict=True
        ):
            stream = rows.streams[place]
            metric = {
                "fields": {"Quality": "The operation succeeded. StatusGood (0x0)", stream.channel: value},
                "name": "opcua",
                "tags": {"asset": stream.asset_id, "id": f"ns=2;s={stream.asset_id}.{stream.channel}"},
                "timestamp": time // 1_000_000_000,
            }
            size += len(msgspec.json.encode(metric)) + 1
    return size


def measurements() -> list[Measurement]:
    """Return the bytes an observation takes, for each recording that is here, beside each reference."""
    found = []
    for name, segments in recordings():
        observations = sum(map(rows_in, segments))
        ours = sum(len(encode_segment(pages, previous="0" * 64)) for pages in segments)
        for reference_name, size_of in (("Parquet, zstd", parquet_bytes), ("JSON, as Telegraf sends it", json_bytes)):
            reference = sum(map(size_of, segments))
            found.append(
                compared(
                    f"segment of {ROWS} rows a stream, {name} (lower is better)",
                    ours / observations,
                    reference / observations,
                    reference_name,
                    "bytes/observation",
                )
            )
    return found


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    arguments = parser.parse_args()
    found = measurements()
    if not found:
        sys.exit(f"{DATA}: neither SKAB nor C-MAPSS is there; set WEARSIGHT_DATA")
    tell(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
