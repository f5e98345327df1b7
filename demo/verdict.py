"""The demo's last act: read what arrived, hold it against the plant's truth, write the reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.dataset as ds
from rich.table import Table

from demo.account import Account
from demo.layout import Layout
from demo.outcome import (
    InjectedFault,
    ObservationBalance,
    Outcome,
    false_advisories,
    judge_faults,
)
from demo.processes import run_json
from demo.report import Timeline, write_report
from demo.scenario import Records, in_short
from models.records import Advisory, Health, from_ns

_CHECK = Path(__file__).parents[1] / "scripts" / "check_lake.py"


async def balance(layout: Layout, *, stored: int) -> ObservationBalance:
    """Have the independent script compare the plant's own count with the lake."""
    made = [layout.cell_folder(gateway.cell) / f"made-{gateway.cell}.csv.gz" for gateway in layout.gateways]
    command = [
        *(sys.executable, str(_CHECK), "--lake", str(layout.cloud.folder / "lake")),
        *("--ignore-gateway", "archive", "--json", *map(str, made)),
    ]
    counted = await run_json("scripts/check_lake.py", command, layout.log("check-lake"), allowed=(0, 1))
    return ObservationBalance(
        made=counted["made"],
        stored=stored,
        delivered=counted["delivered"],
        lost=counted["lost"],
        duplicated=counted["duplicated"],
    )


def read_results(layout: Layout, kind: str, of: type[Any]) -> list[Any]:
    """Return the records of one *kind* that the demo's gateways delivered to the lake."""
    lake = ds.dataset(layout.cloud.folder / "lake" / "results", format="parquet", partitioning="hive")
    rows = lake.to_table(columns=["json"], filter=(ds.field("kind") == kind) & (ds.field("gateway") != "archive"))
    return [msgspec.json.decode(row, type=of) for row in rows.column("json").to_pylist()]


def conclude(
    account: Account,
    layout: Layout,
    records: Records,
    faults: Sequence[InjectedFault],
    observations: ObservationBalance,
) -> tuple[Outcome, list[Advisory]]:
    """Return the outcome, and the advisories it was judged by."""
    advisories: list[Advisory] = read_results(layout, "advisory", Advisory)
    false = false_advisories(faults, advisories, except_versions=frozenset(records.bad_versions))
    outcome = Outcome(
        seconds=round(account.seconds, 1),
        faults=judge_faults(faults, advisories),
        false_advisories=len(false),
        observations=observations,
        models=tuple(records.models.values()),
        rollout=records.rollout(),
        disturbances=records.disturbances,
    )
    return outcome, advisories


def write_reports(
    folder: Path,
    layout: Layout,
    account: Account,
    outcome: Outcome,
    faults: Sequence[InjectedFault],
    truths: Sequence[dict[str, Any]],
    advisories: Sequence[Advisory],
    bad_versions: frozenset[tuple[str, int]],
) -> None:
    """Write ``demo-report.json`` and ``demo-report.html`` into *folder*."""
    (folder / "demo-report.json").write_text(json.dumps(outcome.report(), indent=2) + "\n")
    severity = {
        asset_id: [
            (from_ns(time_ns), value) for time_ns, value in zip(curve["time_ns"], curve["severity"], strict=True)
        ]
        for truth in truths
        for asset_id, curve in truth["severity"].items()
    }
    live = min(datetime.fromisoformat(truth["live_start"]) for truth in truths)
    end = max(moment for curve in severity.values() for moment, _ in curve)
    write_report(
        folder / "demo-report.html",
        outcome,
        timeline=Timeline(start=live, end=end),
        faults=faults,
        severity=severity,
        health=read_results(layout, "health", Health),
        advisories=advisories,
        bad_versions=bad_versions,
        account=account.lines,
    )


def print_tables(account: Account, outcome: Outcome) -> None:
    """Print what came of each fault, and the balance."""
    table = Table(title="Injected faults", title_justify="left")
    for heading in ("machine", "injected", "found", "named", "lead time", "sure", "top channels"):
        table.add_column(heading)
    for fault in outcome.faults:
        table.add_row(
            fault.asset,
            fault.mode.replace("_", " "),
            "[green]yes[/green]" if fault.found else "[red]no[/red]",
            f"[{'green' if fault.right_mode else 'red'}]{(fault.named_mode or '-').replace('_', ' ')}[/]",
            "-" if fault.lead_time_s is None else f"{fault.lead_time_s / 86400:.1f} days",
            "-" if fault.confidence is None else f"{fault.confidence:.0%}",
            ", ".join(fault.top_channels),
        )
    account.table(table)
    o, r = outcome.observations, outcome.rollout
    table = Table(title="Promises", title_justify="left", show_header=False)
    table.add_row("observations", f"made {o.made:,} = stored {o.stored:,} = delivered {o.delivered:,}")
    table.add_row("", f"lost {o.lost}, delivered twice {o.duplicated}")
    table.add_row("false advisories", str(outcome.false_advisories))
    for model in outcome.models:
        for version, figures in model.held_out.items():
            table.add_row(model.asset_class, f"{version}: {in_short(figures)}")
    table.add_row("rollout", f"released {_yes(r.released)}, broken bundle refused {_yes(r.refused_broken)}")
    table.add_row("", f"bad bundle rolled back {_yes(r.rolled_back_bad)}")
    account.table(table)


def _yes(kept: bool) -> str:  # noqa: FBT001 - it words one
    return "[green]yes[/green]" if kept else "[red]no[/red]"
