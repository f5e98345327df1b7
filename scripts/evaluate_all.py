#!/usr/bin/env python3
"""Evaluate every public data set and put the tables and plots into docs/reference/evaluation.md.

    .venv/bin/python scripts/evaluate_all.py --data DIR [--jobs 2] [--only skab] [--page-only]

Each data set is one run of ``wearsight-cloud evaluate NAME --out var/evaluation/NAME``, as anybody may run it; its
report replaces the section of that name. ``--page-only`` makes the page anew from what the last runs left.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "var" / "evaluation"
PAGE = ROOT / "docs" / "reference" / "evaluation.md"
NAMES = ("cmapss-fd001", "cmapss-fd002", "skab", "ai4i", "azure-pdm", "nab-machine-temperature")


def main() -> int:
    """Run what is asked for, write the page, and tell how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the public data sets")
    parser.add_argument("--jobs", type=int, default=2, help="processes for each data set")
    parser.add_argument("--only", action="append", choices=NAMES, help="this data set only; may be given several times")
    parser.add_argument("--page-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    if not options.page_only and options.data is None:
        parser.error("give --data")
    if not options.page_only:
        for name in options.only or NAMES:
            run(name, options.data, options.jobs)
    write_page(RUNS)
    return 0


def run(name: str, data: Path, jobs: int) -> None:
    """Evaluate *name* with the program itself."""
    began = time.perf_counter()
    shutil.rmtree(RUNS / name, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "wearsight-cloud"), "evaluate", name, "--data", str(data)]
    subprocess.run([*command, "--jobs", str(jobs), "--out", str(RUNS / name)], check=True)
    print(f"{name}: {time.perf_counter() - began:.0f} s\n")


def write_page(runs: Path) -> None:
    """Put what *runs* hold into the page, and the plots beside it."""
    text = PAGE.read_text("utf-8")
    found = {name: json.loads((runs / name / "evaluation.json").read_text("utf-8")) for name in done(runs)}
    text = with_section(text, "summary", summary(found))
    for name in found:
        plots = PAGE.parent / "evaluation"
        plots.mkdir(exist_ok=True)
        for stale in plots.glob(f"{name}.*.png"):
            stale.unlink()
        for plot in sorted((runs / name).glob("*.png")):
            shutil.copy(plot, plots / f"{name}.{plot.name}")
        text = with_section(text, name, section(name, (runs / name / "report.md").read_text("utf-8")))
    PAGE.write_text(text, "utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {', '.join(found)}")


def done(runs: Path) -> list[str]:
    """Return the data sets of which there is a run."""
    return [name for name in NAMES if (runs / name / "evaluation.json").is_file()]


def section(name: str, report: str) -> str:
    """Return a *report* as a section of the page: headings one level down, plots where the page has them."""
    body = re.sub(r"^(#+) ", r"\1# ", report.strip(), flags=re.MULTILINE)
    return re.sub(r"\]\(([\w.-]+\.png)\)", rf"](evaluation/{name}.\1)", body)


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Return a table of all aims, and what was reached."""
    lines = ["| data set | figure | aim | reached | ± |  |", "| --- | --- | --: | --: | --: | --- |"]
    for name, told in found.items():
        for figure, aim in told["aims"].items():
            bounds = [f"{sign} {aim[end]:g}" for sign, end in (("≥", "least"), ("≤", "most")) if aim[end] is not None]
            value, spread = told["metrics"].get(figure), told["spread"].get(figure)
            reached = ["" if number is None else f"{number:.4g}" for number in (value, spread)]
            met = "" if value is None else "met" if aim["met"] else "missed"
            lines.append(f"| {name} | {figure} | {', '.join(bounds)} | {reached[0]} | {reached[1]} | {met} |")
    parities = [told["parity"] for told in found.values() if told["parity"]]
    windows, changed = (sum(parity[key] for parity in parities) for key in ("windows", "decisions_changed"))
    seconds = sum(told["seconds"] for told in found.values())
    today = datetime.now(UTC).date()
    return (
        "\n".join(lines)
        + f"\n\nExported and trained models: {changed} of {windows:,} decisions differ. All of it took "
        f"{seconds / 60:.1f} minutes on two cores, on {today}."
    )


def with_section(page: str, name: str, text: str) -> str:
    """Return *page* with *text* between the marks of *name*."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"{PAGE}: has not the marks {begin} and {end} once each")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
