#!/usr/bin/env python3
"""Compare what a plant says it made with what lies in the lake, and with nothing else.

An independent witness: it imports nothing of Wearsight, asks no service and no ledger. It reads the plant's own count
files (``made-*.csv.gz``) and the lake's Parquet files, and compares them as multisets of asset, channel, source time,
status and value. Exit code 0 when they are equal, 1 when they are not, 2 when there is nothing to compare.

    check_lake.py --lake DIR [--ignore-gateway archive] [--json] made-cell-1.csv.gz made-cell-2.csv.gz

A count file has the columns ``asset_id, channel, source_time_ns, status, value``: the value's shortest decimal
form (Python's ``repr``), or for a waveform ``crc32:`` and eight hexadecimal digits over its samples as little-endian
float32, or ``nan``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import struct
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Key = tuple[str, str, int]
Content = tuple[int, str]
EXAMPLES = 5


@dataclass
class Balance:
    """How the two sides compare, in observations; ``examples`` names a few of those that do not."""

    made: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    differing: int = 0
    unknown: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether each observation made was delivered once, as it was, and none besides."""
        return self.made == self.delivered and not (self.lost or self.duplicated or self.differing or self.unknown)


def made_rows(path: Path) -> Iterator[tuple[Key, Content]]:
    """Yield what the count file *path* says was made."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        value_column = (rows.fieldnames or [])[4]
        for row in rows:
            key = (row["asset_id"], row["channel"], int(row["source_time_ns"]))
            yield key, (int(row["status"]), _made_value(row[value_column]))


def delivered_rows(path: Path) -> Iterator[tuple[Key, Content]]:
    """Yield what the lake's file *path* holds."""
    columns = ["asset_id", "channel", "source_time", "status", "value", "samples"]
    # Opened as a single file: as a dataset, the folder's name would become a column.
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=columns):
            for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                yield _delivered_row(*row)


def compare(made: Iterator[tuple[Key, Content]], delivered: Iterator[tuple[Key, Content]]) -> Balance:
    """Return the balance of *made* against *delivered*, as multisets."""
    balance = Balance()
    open_: defaultdict[Key, Counter[Content]] = defaultdict(Counter)
    for key, content in made:
        open_[key][content] += 1
        balance.made += 1
    counts = {key: sum(contents.values()) for key, contents in open_.items()}
    seen: Counter[Key] = Counter()
    strangers: Counter[Key] = Counter()
    for key, content in delivered:
        balance.delivered += 1
        seen[key] += 1
        if key not in counts:
            _note(balance, "unknown", key)
        elif seen[key] > counts[key]:
            _note(balance, "duplicated", key)
        elif open_[key][content]:
            open_[key][content] -= 1
        else:
            strangers[key] += 1
    for key, contents in open_.items():
        left = sum(contents.values())
        for _ in range(min(left, strangers[key])):
            _note(balance, "differing", key)
        for _ in range(left - strangers[key]):
            _note(balance, "lost", key)
    return balance


def _note(balance: Balance, kind: str, key: Key) -> None:
    setattr(balance, kind, getattr(balance, kind) + 1)
    if sum(example.startswith(kind) for example in balance.examples) < EXAMPLES:
        balance.examples.append(f"{kind}: {key[0]} {key[1]} at {key[2]}")


def _made_value(text: str) -> str:
    if text.startswith("crc32:"):
        return text
    return repr(float(text)) if text else "nan"


def _delivered_row(*row: Any) -> tuple[Key, Content]:
    asset_id, channel, source_time, status, value, samples = row
    if samples is not None:
        packed = struct.pack(f"<{len(samples)}f", *samples)
        return (asset_id, channel, source_time), (status, f"crc32:{zlib.crc32(packed):08x}")
    return (asset_id, channel, source_time), (status, repr(float("nan") if value is None else value))


def lake_files(lake: Path, ignored: list[str]) -> list[Path]:
    """Return every finished file of observations in *lake*, but those of the *ignored* gateways."""
    folders = sorted((lake / "observations").glob("gateway=*"))
    kept = [folder for folder in folders if folder.name.removeprefix("gateway=") not in ignored]
    return [path for folder in kept for path in sorted(folder.glob("*.parquet"))]


def main() -> int:
    """Compare, say it, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("made", type=Path, nargs="+", help="the plant's made-*.csv.gz")
    parser.add_argument("--lake", type=Path, required=True, help="folder of the lake")
    parser.add_argument("--ignore-gateway", action="append", default=[], help="leave this gateway's files out")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments = parser.parse_args()
    if absent := [str(path) for path in arguments.made if not path.is_file()]:
        print(f"{', '.join(absent)}: not there; there is nothing to compare", file=sys.stderr)
        return 2
    delivered = lake_files(arguments.lake, arguments.ignore_gateway)
    balance = compare(
        (row for path in arguments.made for row in made_rows(path)),
        (row for path in delivered for row in delivered_rows(path)),
    )
    if arguments.json:
        print(json.dumps(asdict(balance) | {"balanced": balance.balanced}))
    else:
        print("\n".join(f"{name} {count}" for name, count in asdict(balance).items() if name != "examples"))
        print("\n".join(balance.examples))
    return 0 if balance.balanced else 1


if __name__ == "__main__":
    sys.exit(main())
