"""How far something is that takes long: told to whoever asked, or shown as a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Progress = Callable[[int, int], None]  # done, of how many; the whole may grow meanwhile


def silent(_done: int, _of: int) -> None:
    """Tell nobody."""


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Yield what shows progress on standard error; nothing where nobody looks."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden, show_pos=True, show_eta=False) as bar:

        def tell(done: int, of: int) -> None:
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield tell
