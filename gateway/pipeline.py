"""The gateway as one flow: servers into the journal, and everything else reads the journal.

```
source.batches ─► journal ─┬─► monitor    (reader "monitor")
                           ├─► historian  (reader "historian", when there is an InfluxDB; otherwise the segments serve)
                           └─► compactor ─► segments ─► uplink
```

Each arrow is one task. They share nothing but the journal, stop in the order of the flow, first kindly, then by
deadline, and a task that fails takes the others down with it: the service ends and is started again, from positions
that are on disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Protocol

import structlog

from gateway.adaptation.store import AdaptationStore
from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring.blocks import ActiveBundle, Blocks, by_zone
from gateway.condition_monitoring.monitor import monitor
from gateway.config import GatewayConfig, Upload
from gateway.data_acquisition import AcquisitionCounters, Batch, open_sources
from gateway.data_acquisition.certificate import certificate_warnings
from gateway.data_acquisition.tags import wanted_tags
from gateway.data_acquisition.unseen import no_longer_wanted
from gateway.errors import ConfigError
from gateway.historian import (
    DeepHistory,
    EmbeddedHistorian,
    Historian,
    HistorianCondition,
    InfluxHistorian,
    keep_history,
)
from gateway.historian.past import Past
from gateway.journal import Journal, JournalReader, compact
from gateway.journal.errors import Unwritable
from gateway.journal.retention import keep_within_limits
from gateway.reload import changes, needs_restart, with_tags_of
from gateway.status import (
    BundleComparison,
    BundleHealth,
    HealthReport,
    HistorianHealth,
    JournalHealth,
    SourceHealth,
    UplinkHealth,
    serving_status,
)
from gateway.uplink import UplinkCondition, deliver
from gateway.uplink.policy import Policies
from gateway.uplink.supply import Supply
from models.records import Observations, Results

log = structlog.get_logger()

STOP_DEADLINE_S = 5.0  # for each stage of the flow
LOCAL_SEGMENT_INTERVAL_S, LOCAL_SEGMENT_MAX_PAGES = 60.0, 1024  # without an uplink, segments are local history alone
_POSITIONS_S = 1.0
_DISK_RETRY_S = 3.0


class Source(Protocol):
    """Where observations come from."""

    def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield batches for ever; each waits at the server until it is acknowledged."""


async def acquire(source: Source, journal: Journal) -> None:
    """Carry observations from *source* into the journal until the source ends.

    A batch is committed before the server hears that it arrived. All that follows can be computed again from the
    journal.
    """
    async with aclosing(source.batches()) as batches:
        async for batch in batches:  # data acquisition
            await journal.append(batch.observations, results=batch.results, opened=batch.opened, filled=batch.filled)
            await batch.acknowledge()


async def run(config: GatewayConfig, config_file: Path | None = None) -> None:
    """Run the gateway *config* describes until SIGTERM or SIGINT; a changed tag list in *config_file* counts at once.

    Raises:
        GatewayError: If a part of it cannot go on; what was acknowledged is in the journal.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    journal = await _opened(config, stop)
    if journal is None:
        return
    try:
        await Gateway(config, journal, config_file).run_until(stop)
    finally:
        await journal.close()
        log.info("gateway stopped", gateway_id=config.gateway_id, last_seq=journal.last_seq)


async def _opened(config: GatewayConfig, stop: asyncio.Event) -> Journal | None:
    """Open the journal; wait while the disk is full or fails. Return None when *stop* is set meanwhile."""
    told = ""
    while not stop.is_set():
        try:
            return await Journal.open(config.state_dir, config.gateway_id, config.journal)
        except Unwritable as error:
            if str(error) != told:
                told = str(error)
                log.error("journal cannot be opened; nothing is read from servers meanwhile", reason=told)  # noqa: TRY400 - the message says all
            notify(f"EXTEND_TIMEOUT_USEC={round(10e6 * _DISK_RETRY_S)}\nSTATUS={told}")
            with suppress(TimeoutError):
                async with asyncio.timeout(_DISK_RETRY_S):
                    await stop.wait()
    return None


class Gateway:
    """The tasks of one gateway over its open journal."""

    def __init__(self, config: GatewayConfig, journal: Journal, config_file: Path | None = None) -> None:
        self._config = config
        self._config_file = config_file
        self._journal = journal
        self._uplink = UplinkCondition()
        self._sources = open_sources(config, journal)
        self._historian: Historian = EmbeddedHistorian(journal)
        self._historian_condition = HistorianCondition()
        self._blocks = _blocks(config)
        self._assets_changed = asyncio.Event()
        self._positions: dict[str, int] = {}
        self._config_warning = ""

    async def run_until(self, stop: asyncio.Event) -> None:
        """Run all tasks; when *stop* is set, end them in the order of the flow."""
        async with asyncio.TaskGroup() as group, serving_status(self._config.status.address, self.report) as port:
            stages = await self._start(group)
            log.info("gateway runs", gateway_id=self._config.gateway_id, epoch=self._journal.epoch, status_port=port)
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
            # What is acknowledged is on disk, so a task that cannot be stopped costs nothing but patience.
            last_resort = asyncio.get_running_loop().call_later(STOP_DEADLINE_S * (len(stages) + 1), os._exit, 1)
            for stage in stages:
                await _end(stage)
        last_resort.cancel()

    async def _start(self, group: asyncio.TaskGroup) -> list[list[asyncio.Task[None]]]:
        """Start everything, and return the tasks by stage, in the order in which they stop."""
        journal, config = self._journal, self._config
        await self._give_up_holes()
        interval_s = config.uplink.segment_interval_s if config.uplink else LOCAL_SEGMENT_INTERVAL_S
        max_pages = config.uplink.segment_max_pages if config.uplink else LOCAL_SEGMENT_MAX_PAGES

        def start(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
            return group.create_task(work, name=name)

        sources = [start(acquire(s, journal), f"acquire {name}") for name, s in self._sources.items()]
        readers = []
        if config.historian is not None:
            influxdb = InfluxHistorian(config.historian, self._historian_condition)
            self._historian = DeepHistory(influxdb, self._historian)
            readers.append(start(_feed(await journal.reader("historian"), influxdb), "historian"))
        else:
            await journal.forget_reader("historian")  # pages need not wait for one that was taken out
        readers.append(start(self._monitor(), "monitor"))
        await journal.reader("monitor")  # so that /health has its position from the beginning
        self._positions = await journal.positions()
        segments = [
            start(compact(journal, interval_s=interval_s, max_pages=max_pages), "compactor"),
            start(keep_within_limits(journal, config.journal), "retention"),
        ]
        if config.uplink is not None:
            supply = Supply(journal, self._historian, lambda: self._config)
            work = deliver(
                *(journal, config.uplink, self._uplink),
                policies=Policies(lambda: self._config),
                on_advisories=supply.ask_for_events,
                supply=supply.send,
            )
            segments.append(start(work, "uplink"))
        else:
            await journal.forget_reader("uplink")
        rest = [start(self._watch_positions(), "positions")]
        if self._config_file is not None:
            rest.append(start(self._follow(self._config_file), "configuration"))
        return [sources, readers, segments, rest]

    async def _monitor(self) -> None:
        """Monitor the configured assets; when others are configured, go on with those from where it had come."""
        while True:
            self._assets_changed.clear()
            reader = await self._journal.reader("monitor")
            past = Past(self._journal, self._historian if self._config.historian else None)
            work = asyncio.create_task(monitor(reader, self._blocks, past))
            changed = asyncio.create_task(self._assets_changed.wait())
            try:
                await asyncio.wait((work, changed), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return await work
            finally:
                for task in (work, changed):
                    task.cancel()
                await asyncio.gather(work, changed, return_exceptions=True)
            self._blocks = _blocks(self._config)

    async def _follow(self, config_file: Path) -> None:
        """Take over what the configuration file and the tag list say when they change."""
        async for changed in changes(config_file, self._config):
            if isinstance(changed, ConfigError):
                self._config_warning = f"{changed}; the gateway goes on with what it read before"
                log.warning("configuration cannot be used", reason=str(changed))
                continue
            needs = needs_restart(self._config, changed)
            self._config_warning = f"{config_file}: more than tags was changed; that counts after a restart" * needs
            before, self._config = self._config, with_tags_of(self._config, changed)
            log.info("tags taken over", assets=len(changed.asset), tags=len(changed.tag), restart_needed=needs)
            for name, source in self._sources.items():
                source.change(wanted_tags(self._config, name))
            await self._give_up_holes()
            if (_classes(before), before.in_service_since) != (_classes(self._config), self._config.in_service_since):
                self._assets_changed.set()

    async def _give_up_holes(self) -> None:
        """Tell the holes of streams that no server is asked for any more as gaps: nothing would fill them."""
        holes, gaps = no_longer_wanted(self._journal.holes(), [source.wanted for source in self._sources.values()])
        if holes:
            await self._journal.append(Observations.empty(), results=Results(gaps=gaps), filled=holes)

    async def _watch_positions(self) -> None:
        while True:
            self._positions = await self._journal.positions()
            await asyncio.sleep(_POSITIONS_S)

    def report(self) -> HealthReport:
        """Return how the gateway is."""
        counters = self._journal.counters
        warnings = self._warnings()
        return HealthReport(
            gateway_id=self._config.gateway_id,
            epoch=self._journal.epoch,
            status="degraded" if warnings else "ok",
            software_version=installed_version("wearsight"),
            journal=JournalHealth(
                last_seq=self._journal.last_seq,
                appended=counters.appended,
                repeats_dropped=counters.repeats_dropped,
                pages=counters.pages,
                expired=dict(counters.expired),
                quarantined_pages=counters.quarantined_pages,
                trouble=self._journal.trouble,
            ),
            historian=self._historian_health(),
            readers={**self._positions, "compactor": counters.compacted_pages},
            uplink=UplinkHealth(
                connected=self._uplink.connected,
                segments_pending=counters.segments_pending,
                observations_stored=counters.appended,
                observations_delivered=counters.delivered,
                observations_pending=counters.pending,
                observations_withheld=counters.withheld,
                observations_expired=sum(counters.expired.values()),
                segments_refused=counters.segments_refused,
                express_waiting=self._uplink.express_waiting,
                backlog_bytes=self._uplink.backlog_bytes,
                backlog_age_s=self._uplink.backlog_age_s,
                bytes_sent=self._uplink.bytes_sent,
                segments_sent=self._uplink.segments_sent,
                express_sent=self._uplink.express_sent,
                live_latency_s=self._uplink.live_latency_s,
                next_window=self._uplink.next_window,
                budget_left_bytes=self._uplink.budget_left_bytes,
            ),
            acquisition={name: _source_health(source.counters) for name, source in self._sources.items()},
            bundles={asset_class: _bundle_health(bundle) for asset_class, bundle in self._blocks.active().items()},
            open_advisories=self._blocks.open_advisories(),
            warnings=warnings,
        )

    def _historian_health(self) -> HistorianHealth | None:
        if self._config.historian is None:
            return None
        now = self._historian_condition
        return HistorianHealth(
            connected=now.connected,
            trouble=now.trouble,
            written=now.written,
            refused=dict(now.refused),
            pending_pages=now.pending_pages,
            lag_s=round(now.lag_s, 3),
        )

    def _warnings(self) -> tuple[str, ...]:
        found = [*self._journal.warnings, *self._blocks.warnings.values()]
        if self._config.historian is not None:
            found += self._historian_condition.warnings
        found += certificate_warnings(self._config.pki_dir)
        if self._config_warning:
            found.append(self._config_warning)
        for name, source in self._sources.items():
            found += source.warnings
            if not source.connected and not source.counters.trouble:
                found.append(f"{name}: not connected yet")
        if self._config.uplink is not None:
            found += self._uplink.warnings
            if not self._uplink.connected:
                found.append(f"uplink down: {self._uplink.trouble}; segments are kept")
        return tuple(found)


async def _feed(reader: JournalReader, historian: InfluxHistorian) -> None:
    try:
        await keep_history(reader, historian, historian.condition)
    finally:
        await historian.close()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel *tasks* and wait until they have cleaned up, or for the deadline."""
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=STOP_DEADLINE_S) if tasks else (set(), set())
    for task in left:
        log.warning("task did not stop in time", task=task.get_name(), deadline_s=STOP_DEADLINE_S)


def bundle_slots(config: GatewayConfig) -> BundleSlots:
    """Return the gateway's bundle slots, with the key it trusts when one is configured."""
    key_file = config.bundles.trusted_key_file if config.bundles else None
    return BundleSlots(
        config.state_dir / "bundles",
        key_file.read_bytes() if key_file is not None and key_file.is_file() else None,
        software_version=installed_version("wearsight"),
        segments=config.state_dir / "segments",
        assets=_classes(config),
    )


def _blocks(config: GatewayConfig) -> Blocks:
    return Blocks(
        gateway_id=config.gateway_id,
        assets=_classes(config),
        slots=bundle_slots(config),
        features_of=config.classes_with(Upload.FEATURES),
        in_service_since=config.in_service_since,
        adaptations=AdaptationStore(config.state_dir / "adaptations"),
    )


def _classes(config: GatewayConfig) -> dict[str, str]:
    """Return the asset class by asset_id."""
    return {asset.asset_id: asset.asset_class for asset in config.asset}


def _source_health(counters: AcquisitionCounters) -> SourceHealth:
    return SourceHealth(
        connected=counters.connected,
        streams=counters.streams,
        observations=counters.observations,
        reconnects=counters.reconnects,
        resumed=counters.resumed,
        backfilled=counters.backfilled,
        republished=counters.republished,
        revived=counters.revived,
        gaps=counters.gaps,
        open_holes=counters.open_holes,
        overflows=dict(counters.overflows),
        replaced_times=counters.replaced_times,
        backwards=counters.backwards,
        clock_offset_s=counters.clock_offset_s,
        profile=counters.profile,
        missing=dict(counters.missing),
        silent=counters.silent,
        notes=dict(counters.notes),
    )


def _bundle_health(bundle: ActiveBundle) -> BundleHealth:
    health = BundleHealth(version=bundle.version, activated_at=bundle.activated_at, states=bundle.states)
    if (compared := bundle.comparison) is None:
        return health
    live, replaced = by_zone(compared.live), by_zone(compared.replaced)
    return replace(
        health,
        comparison=BundleComparison(replaced_version=compared.replaced_version, live=live, replaced=replaced),
    )


def notify(message: str) -> None:
    """Tell systemd *message*, when it started us and asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(message.encode())
