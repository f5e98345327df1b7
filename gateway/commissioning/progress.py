"""A bar on standard error while something takes long; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from gateway.commissioning.walk import Progress


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Yield a function that is told how much is done, of how much; the whole may grow meanwhile."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden, show_pos=True, show_eta=False) as bar:

        def tell(done: int, of: int) -> None:
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield tell
