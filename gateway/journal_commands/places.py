"""A place in a journal as people say it: a seq, or a moment of source time."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import click
import numpy as np

from gateway.journal_commands.reading import Stretch
from models.records import to_ns

# What nanoseconds since 1970 can say.
_OLDEST, _NEWEST = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


def stretch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options ``--from`` and ``--to``, which it takes as ``start`` and ``end``."""
    end = click.option("--to", "end", metavar="SEQ|TIME", help="Last page, or the source time that ends it.")
    start = click.option("--from", "start", metavar="SEQ|TIME", help="First page, or first source time.")
    return start(end(command))


def stretch_between(start: str | None, end: str | None) -> Stretch:
    """Return the stretch from *start* to *end*; a seq is included, a time is the first that is not.

    Raises:
        click.UsageError: If one is neither a seq, as ``1042``, nor a time, as ``2026-03-02T08:00`` (UTC).
    """
    begins, ends = _place("--from", start), _place("--to", end)
    return Stretch(
        first_seq=begins if isinstance(begins, int) else None,
        last_seq=ends if isinstance(ends, int) else None,
        start_ns=to_ns(begins) if isinstance(begins, datetime) else None,
        end_ns=to_ns(ends) if isinstance(ends, datetime) else None,
    )


def _place(option: str, value: str | None) -> int | datetime | None:
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    try:
        said = datetime.fromisoformat(value)
        moment = said if said.tzinfo else said.replace(tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None or not _OLDEST <= moment <= _NEWEST:
        raise click.UsageError(f"{option} {value!r} is neither a seq, as 1042, nor a time, as 2026-03-02T08:00")
    return moment


def time_text(time_ns: int | None) -> str:
    """Return *time_ns*, ns since 1970, as people read it, in UTC."""
    if time_ns is None:
        return ""
    moment = np.datetime_as_string(np.int64(time_ns).view("datetime64[ns]"), unit="ms")
    return f"{str(moment).replace('T', ' ')}Z"
