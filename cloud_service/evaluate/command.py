"""``wearsight-cloud evaluate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from cloud_service.command import as_json, print_json, told_plainly
from cloud_service.errors import EvaluationFailed
from cloud_service.evaluate.outcome import Outcome, Progress
from models.datasets.named import FOLDERS

SEEDS_LIMIT = 20
JOBS_LIMIT = 64


@click.command(epilog=f"DATASET: {', '.join(FOLDERS)}, or a folder with a dataset.toml.")
@click.argument("dataset")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="WEARSIGHT_DATA",
    show_envvar=True,
    help="Folder of the public data sets.",
)
@click.option(
    "--seeds", type=click.IntRange(1, SEEDS_LIMIT), default=3, show_default=True, help="Repeat with so many seeds."
)
@click.option(
    "--jobs", type=click.IntRange(1, JOBS_LIMIT), default=1, show_default=True, help="Processes, a seed each."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write evaluation.json, report.md, model-card.md and plots here.",
)
@click.option("--dry-run", is_flag=True, help="Read and check the data set and tell the protocol; judge nothing.")
@as_json
def evaluate(
    dataset: str, *, data: Path | None, seeds: int, jobs: int, out: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Judge our models on DATASET, beside published results, by a protocol that sees no test label.

    Models are trained for this and thrown away; nothing is registered or released.
    """
    with told_plainly(as_json=as_json):
        try:
            from cloud_service.evaluate.named import read_dataset, summary, task_of  # noqa: PLC0415 - start faster
            from cloud_service.evaluate.protocols import protocol_words, run_protocol  # noqa: PLC0415 - as above
            from cloud_service.evaluate.report import as_data  # noqa: PLC0415 - as above
        except ModuleNotFoundError as error:
            raise EvaluationFailed(
                f"evaluation needs wearsight[cloud,train], and {error.name} is not installed"
            ) from error
        if out is not None:
            _prepare(out)
        read = read_dataset(dataset, data)
        if dry_run:
            told = {"dataset": read.name, "task": task_of(read), **summary(read)}
            _tell_plan(told, protocol_words(task_of(read)), as_json=as_json)
            return
        with _progress_bar(f"{read.name}:") as progress:
            outcome = run_protocol(read, seeds=tuple(range(seeds)), jobs=jobs, progress=progress)
        files = _write(out, outcome, _command(dataset, seeds)) if out is not None else []
        if as_json:
            print_json({**as_data(outcome), "files": files})
        else:
            _print(outcome)


def _command(dataset: str, seeds: int) -> str:
    """Return the command that repeats the evaluation, without places of this machine."""
    name = dataset if dataset in FOLDERS else Path(dataset).name
    return shlex.join(["wearsight-cloud", "evaluate", name, "--seeds", str(seeds)])


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationFailed(f"--out {out}: {error.strerror}; nothing is evaluated") from error


def _write(out: Path, outcome: Outcome, command: str) -> list[Path]:
    from cloud_service.evaluate.card import model_card  # noqa: PLC0415 - as above
    from cloud_service.evaluate.plots import write_plots  # noqa: PLC0415 - matplotlib takes its time
    from cloud_service.evaluate.report import as_data, markdown  # noqa: PLC0415 - as above

    try:
        plots = write_plots(out, outcome.figures, outcome.dataset)
        texts = {
            "evaluation.json": msgspec.json.format(msgspec.json.encode(as_data(outcome), enc_hook=str)).decode() + "\n",
            "report.md": markdown(outcome, command, plots),
            "model-card.md": model_card(outcome),
        }
        for name, text in texts.items():
            (out / name).write_text(text, "utf-8")
    except OSError as error:
        raise EvaluationFailed(f"--out {out}: {error}; the evaluation is done, its files are not complete") from error
    return [out / name for name in (*texts, *plots)]


def _print(outcome: Outcome) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above

    from cloud_service.evaluate.report import print_report  # noqa: PLC0415 - as above

    print_report(outcome, Console(soft_wrap=False))


def _tell_plan(told: dict[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**told, "protocol": words})
        return
    for name, value in told.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' ')}: {shown}")
    click.echo(f"\n{words}")


@contextmanager
def _progress_bar(title: str) -> Iterator[Progress]:
    """Give what draws a bar on standard error, or, where that is no terminal, writes a line a stage and a tenth."""
    if not sys.stderr.isatty():
        told: tuple[str, int] | None = None

        def line(stage: str, share: float) -> None:
            nonlocal told
            if (stage, int(share * 10)) != told:
                told = (stage, int(share * 10))
                click.echo(f"{title} {stage} {share:.0%}", err=True)

        yield line
        return
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        running = bar.add_task(title, total=1.0)
        yield lambda stage, share: bar.update(running, description=f"{title} {stage}", completed=share)
