"""What a source yields, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from models.records import Observations, Results


def _nothing() -> None:
    """Do nothing: there is nobody to tell."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What came in together: observations, and what the gateway found out beside them.

    Both have to be committed before `acknowledge`; until then the observations wait at the server.
    """

    observations: Observations = field(default_factory=Observations.empty)
    results: Results = field(default_factory=Results)
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
        reconnects: Connections after the first.
        trouble: Why there is no connection; empty while there is one.
        untimed: Streams whose values come without a source time, as ``asset/channel``.
        missing: What was not found or cannot be watched (asset, or asset/channel), with the reason.
    """

    connected: bool = False
    streams: int = 0
    observations: int = 0
    backfilled: int = 0
    messages: int = 0
    republished: int = 0
    gaps: int = 0
    reconnects: int = 0
    trouble: str = ""
    untimed: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
