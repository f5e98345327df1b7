"""A gateway that keeps raw data back, its cloud, and somebody there who asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from cloud_service.lake.lake import Lake
from cloud_service.requests.asking import Asked, ask, open_request
from cloud_service.requests.context import MOST_PER_DAY
from cloud_service.requests.tables import AskedBy, RequestRow
from cloud_service.testing import CloudProcess
from gateway.config import AssetClassConfig, AssetConfig, GatewayConfig, Upload
from gateway.historian import EmbeddedHistorian, Historian
from gateway.journal import Journal, compact_once
from gateway.uplink import UplinkCondition
from gateway.uplink.policy import Policies
from gateway.uplink.supply import Supply
from models.records import AssetDescription, Channel, Observations, Results, Stream, to_ns
from tests.gateway.uplink.rig import delivering, until, uplink

START = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE_NS = 60 * 10**9
ROWS_A_MINUTE = 6


def at(minutes: float) -> datetime:
    """Return the time so many *minutes* after the start."""
    return START + timedelta(minutes=minutes)


def measured(asset_id: str, start: int, end: int, channel: str = "speed_rpm") -> Observations:
    """Return what the asset measures from one minute to another: values of all kinds, and one waveform a minute."""
    index = np.arange(start * ROWS_A_MINUTE, end * ROWS_A_MINUTE, dtype=np.int64)
    waves = index % ROWS_A_MINUTE == 3
    return Observations(
        streams=(Stream(asset_id, channel),),
        stream=np.zeros(len(index), np.uint32),
        source_time=to_ns(START) + index * (MINUTE_NS // ROWS_A_MINUTE),
        value=np.where(waves | (index % 17 == 5), np.nan, np.sin(index) * 1500),
        status=np.where(index % 11 == 7, np.uint32(0x80000000), np.uint32(0)),
        sample_count=np.where(waves, np.uint32(8), np.uint32(0)),
        samples=np.sin(np.repeat(index[waves], 8) * 8 + np.tile(np.arange(8), np.count_nonzero(waves))).astype("<f4"),
    )


async def run_machine(journal: Journal, asset_id: str, start: int, end: int) -> None:
    """Let the asset run from one minute to another; each page is a segment."""
    described = AssetDescription(
        asset_id=asset_id,
        asset_class="pump",
        channels=tuple(Channel(name=name, unit="1", low=0, high=1) for name in ("speed_rpm", "flow_m3_h")),
    )
    for minute in range(start, end, 5):
        last = min(minute + 5, end)
        channels = [measured(asset_id, minute, last, channel) for channel in ("speed_rpm", "flow_m3_h")]
        await journal.append(Observations.concatenate(channels), results=Results(assets=(described,)))
        await compact_once(journal, max_pages=10)


class Rig:
    """A gateway that keeps back the speed, its cloud, and somebody there who asks."""

    def __init__(self, cloud: CloudProcess, journal: Journal, asset_id: str, **settings: Any) -> None:
        self.cloud = cloud
        self.journal = journal
        self.asset_id = asset_id
        self.policy = settings.pop("policy", Upload.FEATURES)
        self.store = cloud.store()
        self.uplink = uplink(cloud, journal.gateway_id, settings.pop("port", None), **settings)

    def config(self) -> GatewayConfig:
        """Return the gateway's configuration."""
        return GatewayConfig(
            gateway_id=self.journal.gateway_id,
            state_dir=self.journal.state_dir,
            asset=(AssetConfig(asset_id=self.asset_id, asset_class="pump", server="plc"),),
            asset_class={"pump": AssetClassConfig(channel_upload={"speed_rpm": self.policy})},
            uplink=self.uplink,
        )

    @contextlib.asynccontextmanager
    async def running(
        self, *, settle_s: float = 0.0, historian: Historian | None = None
    ) -> AsyncIterator[UplinkCondition]:
        """Deliver and supply while entered."""
        source = historian or EmbeddedHistorian(self.journal)
        answers = Supply(self.journal, source, self.config, settle_s=settle_s)
        policies = Policies(self.config)
        more = {"policies": policies, "supply": answers.send, "on_advisories": answers.ask_for_events}
        async with delivering(self.journal, self.uplink, **more) as condition:
            yield condition

    async def delivered(self) -> None:
        """Wait until all that is not kept back is in the cloud."""
        await until(lambda: self.journal.counters.segments_pending == 0)

    def ask(self, start: float, end: float, *channels: str) -> str:
        """Have somebody ask for what lies between two minutes; return the request's id."""
        with self.store.writing() as session:
            asked: Asked = ask(session, self.asset_id, at(start), at(end), channels=channels)
            return asked.new[0].request_id

    def order(self, start: float, end: float, channel: str, asset_id: str = "") -> str:
        """Make a request that nobody would: of what was never kept back."""
        with self.store.writing() as session:
            interval = at(start), at(end)
            now = datetime.now(UTC)
            asset_id = asset_id or self.asset_id
            row = open_request(session, self.journal.gateway_id, asset_id, [channel], interval, AskedBy.PERSON, now)
            return row.request_id

    def requests(self) -> list[RequestRow]:
        """Return all requests for the asset, by start."""
        with self.store.reading() as session:
            rows = session.query(RequestRow).filter(RequestRow.gateway_id == self.journal.gateway_id)
            return sorted(rows, key=lambda row: row.start)

    def state(self, request_id: str) -> str:
        """Return where a request stands."""
        return next(row.state for row in self.requests() if row.request_id == request_id)

    async def ended(self, request_id: str) -> RequestRow:
        """Wait until a request is not open any more, and return it."""
        await until(lambda: self.state(request_id) != "open")
        return next(row for row in self.requests() if row.request_id == request_id)

    def in_lake(self, channel: str = "speed_rpm") -> Observations:
        """Return what the cloud has of the asset's channel."""
        return Lake(self.cloud.lake, self.store).observations([self.asset_id], [channel])

    def no_more_context(self) -> None:
        """Have the cloud ask for no context of advisories today: it did so often enough."""
        with self.store.writing() as session:
            for number in range(MOST_PER_DAY):
                asked = (at(-number - 1), at(-number)), AskedBy.ADVISORY, datetime.now(UTC)
                row = open_request(session, "another", self.asset_id, ["speed_rpm"], *asked)
                row.state = "refused"


def same(one: Observations, other: Observations) -> bool:
    """Return whether two have the same rows in the same order, bit by bit."""
    names = ("source_time", "value", "status", "sample_count", "samples")
    columns = [(getattr(one, name), getattr(other, name)) for name in names]
    return one.streams == other.streams and all(a.tobytes() == b.tobytes() for a, b in columns)
