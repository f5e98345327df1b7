"""An evaluation for people: its figures beside aims and published ones, in a terminal or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from cloud_service.evaluate.outcome import Outcome
from cloud_service.evaluate.references import AIMS, REFERENCES, Aim, Reference

OURS: Final = "Wearsight"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a figure is told: its name for people, its unit, and how many digits follow the point."""

    label: str
    unit: str = ""
    digits: int = 3


MEASURES: Final[Mapping[str, Measure]] = {
    "rmse_capped": Measure(label="RMSE, capped", digits=2),
    "score_capped": Measure(label="score, capped", digits=0),
    "rmse_raw": Measure(label="RMSE, raw", digits=2),
    "score_raw": Measure(label="score, raw", digits=0),
    "rmse_capped_last_40": Measure(label="RMSE, capped, last 40 records only", digits=2),
    "score_capped_last_40": Measure(label="score, capped, last 40 records only", digits=0),
    "coverage_p10_p90": Measure(label="lives between P10 and P90"),
    "below_p10": Measure(label="lives below P10"),
    "width_p10_p90": Measure(label="mean width, P10 to P90", digits=1),
    "answered_share": Measure(label="share of assets with an answer"),
    "cv_rmse": Measure(label="RMSE in cross-validation", digits=2),
    "cv_coverage": Measure(label="between P10 and P90 in cross-validation"),
    "f1": Measure(label="F1"),
    "precision": Measure(label="precision"),
    "recall": Measure(label="recall"),
    "row_precision": Measure(label="precision by row"),
    "row_recall": Measure(label="recall by row"),
    "false_alarm_rate": Measure(label="false-alarm rate"),
    "missed_alarm_rate": Measure(label="missed-alarm rate"),
    "nab_standard": Measure(label="NAB standard", digits=1),
    "nab_low_fp": Measure(label="NAB low FP", digits=1),
    "nab_low_fn": Measure(label="NAB low FN", digits=1),
    "changes_missed": Measure(label="change points missed", digits=0),
    "changes_false": Measure(label="changes told where there were none", digits=0),
    "f1_all_rows": Measure(label="F1, healthy rows too"),
    "false_alarm_rate_all_rows": Measure(label="false-alarm rate, healthy rows too"),
    "missed_alarm_rate_all_rows": Measure(label="missed-alarm rate, healthy rows too"),
    "precision_all_rows": Measure(label="precision, healthy rows too"),
    "recall_all_rows": Measure(label="recall, healthy rows too"),
    "false_alarm_rate_healthy_files": Measure(label="false-alarm rate in healthy files"),
    "mcc": Measure(label="MCC"),
    "pr_auc": Measure(label="area under precision and recall"),
    "brier": Measure(label="Brier score", digits=4),
    "calibration_error": Measure(label="calibration error", digits=4),
    "failures": Measure(label="failures", digits=0),
    "alarms": Measure(label="alarms", digits=0),
    "alarms_outside": Measure(label="alarms outside of labelled windows", digits=0),
    "alarms_outside_per_day": Measure(label="alarms outside of labelled windows, a day", digits=2),
    "windows_missed": Measure(label="labelled windows missed", digits=0),
    "false_alarms_per_machine_month": Measure(label="false alarms a machine and month", digits=2),
    "event_recall": Measure(label="failures foretold"),
    "median_lead_time_h": Measure(label="median lead time", unit="h", digits=1),
}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of texts; ``words`` are the columns that hold no figures, ``notes`` stand below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()


def figures_grid(outcome: Outcome) -> Grid:
    """Return each figure with its spread over the seeds, and the aim where there is one."""
    aims = AIMS.get(outcome.dataset, {})
    rows = tuple(
        (_label(name), shown(name, value), _spread(name, outcome.spread), *_aim(name, value, aims))
        for name, value in outcome.metrics.items()
    )
    alone = len(outcome.seeds) == 1
    heading = f"{outcome.dataset}: {'one seed' if alone else f'mean and spread over {len(outcome.seeds)} seeds'}"
    headings = ("figure", "value", "±", "aim", "")
    told = [number for number in range(len(headings)) if number < 2 or any(row[number] for row in rows)]
    return Grid(
        title=heading,
        headings=tuple(headings[number] for number in told),
        rows=tuple(tuple(row[number] for number in told) for row in rows),
        words=(0, told.index(4)) if 4 in told else (0,),
    )


def references_grid(outcome: Outcome) -> Grid | None:
    """Return ours between the published results, best first by the first figure; None when there are none."""
    references = REFERENCES.get(outcome.dataset, ())
    names = [name for name in outcome.metrics if any(name in one.figures for one in references)]
    names += [name for one in references for name in one.figures if name not in names and name not in outcome.metrics]
    names = list(dict.fromkeys(names))
    if not references or not names:
        return None
    notes = list(dict.fromkeys(_told(one) for one in references))
    ours = (OURS, *(shown(name, outcome.metrics.get(name, math.nan)) for name in names), "this run")
    rows = tuple(
        (one.method, *(shown(name, one.figures.get(name, math.nan)) for name in names), _mark(notes, one))
        for one in references
    )
    headings = ("method", *(_label(name) for name in names), "source")
    return Grid(
        title="Beside what was published",
        headings=headings,
        rows=(ours, *rows),
        words=(0, len(headings) - 1),
        notes=tuple(f"[{number}] {note}" for number, note in enumerate(notes, 1)),
    )


def grids(outcome: Outcome) -> tuple[Grid, ...]:
    """Return all tables of an evaluation."""
    beside = references_grid(outcome)
    return (figures_grid(outcome), *((beside,) if beside else ()))


def print_report(outcome: Outcome, console: Console) -> None:
    """Print the tables, parity and limits on *console*."""
    for grid in grids(outcome):
        console.print(escape(grid.title), style="italic", highlight=False)
        table = RichTable(show_edge=False, pad_edge=False)
        for number, heading in enumerate(grid.headings):
            is_words = number in grid.words
            width = max(len(row[number]) for row in grid.rows)
            table.add_column(
                heading, justify="left" if is_words else "right", overflow="fold", min_width=0 if is_words else width
            )
        for row in grid.rows:
            table.add_row(*map(escape, row), style="bold" if row[0] == OURS else None)
        console.print(table)
        for note in grid.notes:
            console.print(escape(note), highlight=False, style="dim")
        console.print()
    for line in (parity_sentence(outcome), *outcome.limits, f"Took {outcome.seconds:.0f} s."):
        if line:
            console.print(escape(line), highlight=False)


def markdown(outcome: Outcome, command: str, plots: Sequence[str]) -> str:
    """Return the evaluation as Markdown under the *command* that made it; *plots* are files beside it."""
    parts = [f"# {outcome.dataset}", f"```sh\n{command}\n```"]
    parts += [f"{grid.title}.\n\n{markdown_table(grid)}" for grid in grids(outcome)]
    parts += [parity_sentence(outcome), "## Protocol\n\n" + protocol_list(outcome.protocol)]
    if outcome.limits:
        parts.append("## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in outcome.limits))
    parts += [f"![{_words(plot)}]({plot})" for plot in plots]
    parts.append(f"Took {outcome.seconds:.0f} s.")
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(grid: Grid) -> str:
    """Return *grid* as a Markdown table."""
    lines = [grid.headings, tuple("---" if number in grid.words else "--:" for number in range(len(grid.headings)))]
    rows = [tuple(cell.replace("|", "\\|") for cell in row) for row in (*lines, *grid.rows)]
    notes = "".join(f"\n\n{note}" for note in grid.notes)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + notes


def protocol_list(protocol: Mapping[str, object], depth: int = 0) -> str:
    """Return *protocol* as a nested Markdown list."""
    lines: list[str] = []
    for name, value in protocol.items():
        indent = "  " * depth
        if isinstance(value, Mapping):
            lines.append(f"{indent}- {_words(str(name))}:")
            lines.append(protocol_list(value, depth + 1))
        else:
            lines.append(f"{indent}- {_words(str(name))}: {_plain(value)}")
    return "\n".join(line for line in lines if line)


def parity_sentence(outcome: Outcome) -> str:
    """Return how the exported models compare with the trainers', or nothing where that was not looked at."""
    if outcome.parity is None:
        return ""
    return (
        f"Exported and trained models: {outcome.parity.decisions_changed} of {outcome.parity.windows:,} decisions "
        f"differ, answers by {outcome.parity.largest_difference:.1e} at most."
    )


def as_data(outcome: Outcome) -> dict[str, Any]:
    """Return *outcome* for programs: one object, without what plots are drawn from."""
    return {
        "dataset": outcome.dataset,
        "task": outcome.task,
        "metrics": dict(outcome.metrics),
        "spread": dict(outcome.spread),
        "seeds": {str(seed): dict(figures) for seed, figures in outcome.seeds.items()},
        "protocol": outcome.protocol,
        "parity": outcome.parity,
        "aims": {
            name: {
                "least": aim.least if math.isfinite(aim.least) else None,
                "most": aim.most if math.isfinite(aim.most) else None,
                "met": name in outcome.metrics and aim.is_met(outcome.metrics[name]),
            }
            for name, aim in AIMS.get(outcome.dataset, {}).items()
        },
        "references": REFERENCES.get(outcome.dataset, ()),
        "limits": outcome.limits,
        "seconds": round(outcome.seconds, 1),
    }


def shown(name: str, value: float) -> str:
    """Return the *value* of the figure *name* as people read it; nothing for NaN."""
    if math.isnan(value):
        return ""
    measure = _measure(name)
    return f"{value:,.{measure.digits}f}{' ' + measure.unit if measure.unit else ''}"


def _measure(name: str) -> Measure:
    """Return how *name* is told; ``event_recall_comp1`` as ``event_recall``, of comp1."""
    if name in MEASURES:
        return MEASURES[name]
    known = [one for one in MEASURES if name.startswith(f"{one}_")]
    if not known:
        return Measure(label=_words(name))
    whole = max(known, key=len)
    return replace(MEASURES[whole], label=f"{MEASURES[whole].label}: {_words(name.removeprefix(whole + '_'))}")


def _label(name: str) -> str:
    return _measure(name).label


def _spread(name: str, spread: Mapping[str, float]) -> str:
    value = spread.get(name, math.nan)
    if math.isnan(value):
        return ""
    digits = _measure(name).digits
    return f"{value:,.{max(digits, 1)}f}"


def _aim(name: str, value: float, aims: Mapping[str, Aim]) -> tuple[str, str]:
    aim = aims.get(name)
    if aim is None:
        return "", ""
    bounds = [f"≥ {shown(name, aim.least)}"] if math.isfinite(aim.least) else []
    bounds += [f"≤ {shown(name, aim.most)}"] if math.isfinite(aim.most) else []
    missed_by = max(aim.least - value, value - aim.most)
    return ", ".join(bounds), "met" if aim.is_met(value) else f"missed by {shown(name, missed_by)}"


def _mark(notes: Sequence[str], reference: Reference) -> str:
    return f"[{notes.index(_told(reference)) + 1}]"


def _told(reference: Reference) -> str:
    return f"{reference.source}; {reference.note}" if reference.note else reference.source


def _words(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".png").replace("_", " ").replace("-", " ")


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return str(value)
