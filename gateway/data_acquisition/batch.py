"""What a source yields, what it counts, and what it asks of the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.journal import Hole
from models.records import Observations, Results, Stream


class Stored(Protocol):
    """What is known of the values stored so far; the journal is one."""

    def newest_source_time(self, stream: Stream) -> int | None:
        """Return the newest stored source time of *stream*, ns since 1970, or None when nothing of it is stored."""

    def holes(self) -> Sequence[Hole]:
        """Return the holes that are open, as of the last commit."""


def _nothing() -> None:
    """Do nothing: there is nobody to tell."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What came in together: observations, what the gateway found out beside them, and what changed of the holes.

    All of it is committed as one before `acknowledge`; until then live observations wait at the server.

    Attributes:
        opened: Holes before the observations, which history may fill.
        filled: Holes, or parts of them, that are none any more: the observations fill them, or a gap record says why
            nothing does.
    """

    observations: Observations = field(default_factory=Observations.empty)
    results: Results = field(default_factory=Results)
    opened: tuple[Hole, ...] = ()
    filled: tuple[Hole, ...] = ()
    on_acknowledge: Callable[[], None] = _nothing

    async def acknowledge(self) -> None:
        """Let the server forget the observations: they are durable."""
        self.on_acknowledge()


@dataclass(kw_only=True)
class AcquisitionCounters:
    """How a source is doing, since the start of the process.

    Attributes:
        connected: Whether values are coming in, or would if there were any.
        streams: Channels that are watched.
        observations: Acknowledged observations, those from history among them.
        backfilled: Acknowledged observations from history.
        messages: Messages of subscriptions that carried values.
        republished: Messages that had to be asked for again.
        gaps: Gap records.
        open_holes: Holes that history is still read for.
        reconnects: Connections after the first.
        resumed: Of these, the ones over which the session or its subscriptions went on.
        revived: Channels the server had stopped to report, asked for anew.
        overflows: Times the server's queue dropped values, by ``asset/channel``.
        replaced_times: Values whose source time could not be one.
        backwards: Values whose source time lay before that of the value before by more than a second.
        clock_offset_s: The server's clock less the gateway's; None before it told its time.
        trouble: Why there is no connection; empty while there is one.
        budget: What the server cannot take of what is wanted; empty when it can.
        profile: Which product the server is taken for.
        untimed: Streams whose values come without a source time, as ``asset/channel``.
        silent: Channels of which the server itself has no value, as ``asset/channel``.
        missing: What was not found or cannot be watched (asset, or asset/channel), with the reason.
        notes: What is found or granted otherwise than asked for, by ``asset/channel``.
    """

    connected: bool = False
    streams: int = 0
    observations: int = 0
    backfilled: int = 0
    messages: int = 0
    republished: int = 0
    gaps: int = 0
    open_holes: int = 0
    reconnects: int = 0
    resumed: int = 0
    revived: int = 0
    overflows: dict[str, int] = field(default_factory=dict)
    replaced_times: int = 0
    backwards: int = 0
    clock_offset_s: float | None = None
    trouble: str = ""
    budget: str = ""
    profile: str = ""
    untimed: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
