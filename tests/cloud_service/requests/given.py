"""A gateway that keeps data back, and what it sends when it is asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from cloud_service.requests.withheld import note_withheld
from models.records import EPOCH as BEGINNING
from models.records import AssetDescription, Channel, Observations, Page, Results, Stream, to_ns
from models.segment import Segment, Withheld, cut_segment, encode_segment
from tests.cloud_service.conftest import EPOCH, Gateway

START = datetime.fromisoformat("2026-03-02T00:00:00Z")
PART_NS = 60 * 10**9
CHANNELS = ("flow_m3_h", "speed_rpm")


def asset_of(gateway: Gateway) -> str:
    """Return the asset that only this test's gateway has."""
    return f"pump-of-{gateway.gateway_id}"


def at(minutes: float) -> datetime:
    """Return the time so many *minutes* after the start."""
    return START + timedelta(minutes=minutes)


def rows(asset_id: str, minutes: Sequence[float], channel: str = "speed_rpm", value: float = 0.0) -> Observations:
    """Return one observation for each of *minutes*."""
    return Observations.of_values(
        (Stream(asset_id, channel),),
        np.zeros(len(minutes), np.uint32),
        np.array([to_ns(at(minute)) for minute in minutes], np.int64),
        np.array(minutes, np.float64) + value,
        np.zeros(len(minutes), np.uint32),
    )


def page(gateway: Gateway, seq: int, content: Observations | Results, epoch: str = EPOCH) -> Page:
    """Return a page of *gateway*."""
    return Page(gateway_id=gateway.gateway_id, epoch=epoch, seq=seq, committed_time=0, content=content)


def keep_back(gateway: Gateway, minutes: Sequence[float], kept: str = "speed_rpm", seq: int = 1) -> None:
    """Send a segment with the asset's description, and of both channels one row a minute, but none of *kept*."""
    asset_id = asset_of(gateway)
    channels = tuple(Channel(name=name, unit="1", low=0.0, high=9e9) for name in CHANNELS)
    description = AssetDescription(asset_id=asset_id, asset_class="pump", channels=channels)
    observed = Observations.concatenate([rows(asset_id, minutes, channel) for channel in CHANNELS])
    whole = encode_segment([page(gateway, seq, Results(assets=(description,))), page(gateway, seq + 1, observed)])
    status, answer = gateway.put(cut_segment(whole, {Stream(asset_id, kept)}), seq, seq + 1)
    assert status == 200, answer


def supply(gateway: Gateway, request_id: str, parts: Sequence[Observations], first: int = 1) -> tuple[int, Any]:
    """Send *parts*, the first of them number *first*, as the answer to a request."""
    pages = [page(gateway, first + place, content, request_id) for place, content in enumerate(parts)]
    return gateway.put(encode_segment(pages), first, first + len(parts) - 1, epoch=request_id)


def told(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the open requests as the gateway is told them."""
    status, answer = gateway.ask("GET", f"/api/v1/requests/{gateway.gateway_id}")
    assert status == 200
    return list(answer["requests"])


@contextmanager
def writing(gateway: Gateway) -> Iterator[Session]:
    """Give a session on the gateway's cloud's database."""
    store = gateway.cloud.store()
    try:
        with store.writing() as session:
            yield session
    finally:
        store.close()


def hours(first: int, last: int) -> tuple[datetime, datetime]:
    """Return from the start of hour *first* to the end of hour *last*, counted from 1970."""
    return BEGINNING + timedelta(hours=first), BEGINNING + timedelta(hours=last + 1)


def note_kept_back(
    session: Session, *channels: str, first: float = 0, last: float = 600, gateway_id: str = "gw-1"
) -> None:
    """Write down that a segment left out of each channel of pump-01 what lay between two minutes."""
    withheld = tuple(
        Withheld(stream=Stream("pump-01", channel), observations=1, start_ns=to_ns(at(first)), end_ns=to_ns(at(last)))
        for channel in channels
    )
    segment = Segment(
        gateway_id=gateway_id,
        epoch="00",
        first_seq=1,
        last_seq=1,
        observations=Observations.empty(),
        seq=np.empty(0, np.int64),
        results=(),
        withheld=withheld,
    )
    note_withheld(session, segment)
