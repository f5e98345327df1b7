"""The tables of requests and of what gateways kept back, and the times they are about."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from cloud_service.store import Table

Interval = tuple[datetime, datetime]

# A part is one page of a supplement. A minute of one asset stays far below what a page may hold.
PART_S = 60


class RequestState(StrEnum):
    """Where a request stands; only an open one is sent to its gateway."""

    OPEN = "open"
    DONE = "done"
    EXPIRED = "expired"
    REFUSED = "refused"


class AskedBy(StrEnum):
    """Who wants the data."""

    PERSON = "person"
    TRAINING = "training"
    ADVISORY = "advisory"
    GATEWAY = "gateway"


class RequestRow(Table):
    """One request for what a gateway kept back of an asset, ``start`` inclusive, ``end`` exclusive.

    ``channels`` is a JSON list. Of the observations that came, ``observations`` were stored and ``repeats`` were in
    the lake before.
    """

    __tablename__ = "data_requests"

    request_id: Mapped[str] = mapped_column(primary_key=True)
    gateway_id: Mapped[str]
    asset_id: Mapped[str]
    channels: Mapped[str]
    start: Mapped[datetime]
    end: Mapped[datetime]
    asked_by: Mapped[str]
    asked_at: Mapped[datetime]
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    closed_at: Mapped[datetime | None]
    parts: Mapped[int]
    observations: Mapped[int] = mapped_column(default=0)
    repeats: Mapped[int] = mapped_column(default=0)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels asked for."""
        return msgspec.json.decode(self.channels, type=tuple[str, ...])

    @property
    def interval(self) -> Interval:
        """From when, inclusive, to when, exclusive."""
        return self.start, self.end


class WithheldRow(Table):
    """A run of hours in which a gateway kept something back of a stream; hours count from 1970 by source time."""

    __tablename__ = "withheld"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    asset_id: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    first_hour: Mapped[int] = mapped_column(primary_key=True)
    last_hour: Mapped[int]


Index("data_requests_by_gateway", RequestRow.gateway_id, RequestRow.state)
Index("data_requests_by_asset", RequestRow.asset_id, RequestRow.state)
Index("withheld_by_asset", WithheldRow.asset_id)


def part_count(start: datetime, end: datetime) -> int:
    """Return in how many parts the data from *start* to *end* comes."""
    return -(-(end - start) // timedelta(seconds=PART_S))


def without(wanted: Iterable[Interval], taken: Iterable[Interval]) -> list[Interval]:
    """Return what of *wanted* lies in none of *taken*, in order."""
    left = sorted(wanted)
    for taken_start, taken_end in taken:
        pieces = [((start, min(end, taken_start)), (max(start, taken_end), end)) for start, end in left]
        left = [(start, end) for pair in pieces for start, end in pair if start < end]
    return left
