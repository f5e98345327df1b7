"""What the demo tells while it runs: one line for each thing that happens, one bar for what goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

_STYLES = {"step": "bold", "fault": "yellow", "advisory": "cyan", "broken": "bold red", "ok": "green"}


class Account:
    """Prints the account; in a terminal also a bar, elsewhere lines alone."""

    def __init__(self) -> None:
        terminal = Console(highlight=False, soft_wrap=True)
        # Tables need room; a terminal says how much it has, a file has as much as we like.
        self._console = terminal if terminal.is_terminal else Console(highlight=False, soft_wrap=True, width=150)
        self._started = time.monotonic()
        self.lines: list[str] = []

    @property
    def seconds(self) -> float:
        """How long it has been going."""
        return time.monotonic() - self._started

    def say(self, message: str, *, kind: str = "") -> None:
        """Print one line with the seconds since the start."""
        style = _STYLES.get(kind)
        self.lines.append(f"{self.seconds:6.1f} s  {message}")
        self._console.print(f"[dim]{self.seconds:6.1f} s[/dim]  ", end="")
        self._console.print(message, style=style, markup=False)

    def table(self, table: Table) -> None:
        """Print a table."""
        self._console.print()
        self._console.print(table, soft_wrap=False)

    @contextmanager
    def progress(self, label: str, total: float) -> Iterator[Advance]:
        """Show a bar that goes from 0 to *total* while the block runs."""
        columns = (TextColumn("          {task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        with bar:
            yield Advance(bar, bar.add_task(label, total=total))


class Advance:
    """Moves one bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def to(self, value: float, label: str | None = None) -> None:
        """Move the bar to *value*."""
        if label is None:
            self._bar.update(self._task, completed=value)
        else:
            self._bar.update(self._task, completed=value, description=f"          {label}")
