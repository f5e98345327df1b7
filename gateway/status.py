"""What the gateway says of itself over HTTP: ``/health`` for programs and people, ``/metrics`` for Prometheus.

Both are read from one `HealthReport`, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True, kw_only=True)
class JournalHealth:
    """The journal's counters, and its last page ever; ``trouble`` says why it cannot be written, empty when it can."""

    last_seq: int
    appended: int
    repeats_dropped: int
    pages: int
    expired: dict[str, int] = field(default_factory=dict)
    quarantined_pages: int = 0
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class UplinkHealth:
    """Delivery to the cloud; ``stored = delivered + withheld + pending + expired`` holds at every moment."""

    connected: bool
    segments_pending: int
    observations_stored: int
    observations_delivered: int
    observations_pending: int
    observations_withheld: int = 0
    observations_expired: int = 0
    segments_refused: int = 0
    express_waiting: int = 0
    backlog_bytes: int = 0
    backlog_age_s: float = 0.0
    bytes_sent: int = 0
    segments_sent: int = 0
    express_sent: int = 0
    live_latency_s: float | None = None
    next_window: datetime | None = None
    budget_left_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class HistorianHealth:
    """InfluxDB: what it took and refused since the start, in points, and how far it is behind."""

    connected: bool
    trouble: str
    written: int
    refused: dict[str, int]
    pending_pages: int
    lag_s: float


@dataclass(frozen=True, kw_only=True)
class SourceHealth:
    """One OPC UA server; what the numbers count is told at `gateway.data_acquisition.batch.AcquisitionCounters`."""

    connected: bool
    streams: int
    observations: int
    reconnects: int
    resumed: int = 0
    backfilled: int = 0
    republished: int = 0
    revived: int = 0
    gaps: int = 0
    open_holes: int = 0
    overflows: dict[str, int] = field(default_factory=dict)
    replaced_times: int = 0
    backwards: int = 0
    clock_offset_s: float | None = None
    profile: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BundleComparison:
    """What the live bundle and the one it replaced say of the same observations: windows by zone since the switch."""

    replaced_version: int
    live: dict[str, int]
    replaced: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class BundleHealth:
    """The live bundle of an asset class and how many windows lay in which zone since it became live here."""

    version: int
    activated_at: datetime
    states: dict[str, int]
    comparison: BundleComparison | None = None


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """All of it. ``status`` is ``degraded`` while there is a warning."""

    gateway_id: str
    epoch: str
    status: str
    software_version: str
    journal: JournalHealth
    readers: dict[str, int]
    uplink: UplinkHealth | None
    acquisition: dict[str, SourceHealth]
    bundles: dict[str, BundleHealth]
    open_advisories: int
    historian: HistorianHealth | None = None
    warnings: tuple[str, ...] = field(default=())


Snapshot = Callable[[], HealthReport]


@asynccontextmanager
async def serving_status(address: str, snapshot: Snapshot) -> AsyncIterator[int]:
    """Serve ``/health`` and ``/metrics`` on *address* (``host:port``) while entered; gives the port."""
    host, _, port = address.rpartition(":")
    application = web.Application(client_max_size=1024)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))

    async def health(_request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(snapshot()), content_type="application/json")

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    application.router.add_get("/health", health)
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


class _Collector(Collector):
    """Makes metrics of a fresh report at each scrape."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        report = self._snapshot()
        yield from _journal_metrics(report)
        if report.uplink is not None:
            yield from _uplink_metrics(report.uplink)
        if report.historian is not None:
            yield from _historian_metrics(report.historian)
        yield from _source_metrics(report)
        yield from _bundle_metrics(report)


def _journal_metrics(report: HealthReport) -> Iterator[Metric]:
    journal = report.journal
    yield _gauge("wearsight_journal_last_seq", "Last page of the journal.", journal.last_seq)
    yield _counter("wearsight_journal_observations", "Observations stored since the start.", journal.appended)
    yield _counter(
        "wearsight_journal_repeats_dropped",
        "Observations that were already stored and came again.",
        journal.repeats_dropped,
    )
    expired = CounterMetricFamily(
        "wearsight_journal_observations_expired", "Observations gone undelivered.", labels=["reason"]
    )
    for reason, count in journal.expired.items():
        expired.add_metric([reason], count)
    yield expired
    yield _gauge("wearsight_journal_pages_quarantined", "Pages found damaged and put aside.", journal.quarantined_pages)
    yield _gauge("wearsight_journal_writable", "0 while the disk takes nothing.", int(not journal.trouble))
    positions = GaugeMetricFamily(
        "wearsight_reader_position", "Last page that a reader of the journal is done with.", labels=["reader"]
    )
    for reader, position in report.readers.items():
        positions.add_metric([reader], position)
    yield positions
    yield _gauge("wearsight_warnings", "Standing warnings; their text is at /health.", len(report.warnings))
    yield _gauge("wearsight_open_advisories", "Advisories that are not returned or closed.", report.open_advisories)


def _uplink_metrics(uplink: UplinkHealth) -> Iterator[Metric]:
    yield _gauge("wearsight_uplink_connected", "1 while the cloud answers.", int(uplink.connected))
    yield _gauge("wearsight_uplink_segments_pending", "Segments the cloud has not confirmed.", uplink.segments_pending)
    yield _gauge(
        "wearsight_uplink_segments_refused", "Of these, the ones the cloud will not take.", uplink.segments_refused
    )
    yield _gauge("wearsight_uplink_backlog_bytes", "Bytes of segments that wait to be sent.", uplink.backlog_bytes)
    yield _gauge("wearsight_uplink_backlog_age_seconds", "How old the oldest of them is.", uplink.backlog_age_s)
    yield _counter("wearsight_uplink_sent_bytes", "Bytes of bodies sent since the start.", uplink.bytes_sent)
    yield _counter("wearsight_uplink_sent_segments", "Segments the cloud took since the start.", uplink.segments_sent)
    yield _counter(
        "wearsight_uplink_sent_express", "Pages it took ahead of their segments since the start.", uplink.express_sent
    )
    yield _gauge("wearsight_uplink_express_waiting", "Such pages that wait to be sent.", uplink.express_waiting)
    if uplink.budget_left_bytes is not None:
        text = "What is left of the budget for raw data."
        yield _gauge("wearsight_uplink_budget_left_bytes", text, uplink.budget_left_bytes)
    if uplink.live_latency_s is not None:
        text = "From the close of the last live segment until the cloud had it."
        yield _gauge("wearsight_uplink_live_latency_seconds", text, uplink.live_latency_s)
    rows = GaugeMetricFamily(
        "wearsight_observations",
        "Observations stored here: stored = delivered + withheld + pending + expired.",
        labels=["state"],
    )
    for state in ("stored", "delivered", "withheld", "pending", "expired"):
        rows.add_metric([state], getattr(uplink, f"observations_{state}"))
    yield rows


def _historian_metrics(historian: HistorianHealth) -> Iterator[Metric]:
    yield _gauge("wearsight_historian_connected", "1 while InfluxDB takes points.", int(historian.connected))
    yield _gauge("wearsight_historian_pages_pending", "Pages that are not in InfluxDB.", historian.pending_pages)
    yield _gauge("wearsight_historian_lag_seconds", "How old the oldest of them is.", historian.lag_s)
    yield _counter("wearsight_historian_points_written", "Points InfluxDB has stored.", historian.written)
    refused = CounterMetricFamily(
        "wearsight_historian_points_refused", "Points InfluxDB will not have.", labels=["reason"]
    )
    for reason, count in historian.refused.items():
        refused.add_metric([reason], count)
    yield refused


def _source_metrics(report: HealthReport) -> Iterator[Metric]:
    for name, text, number in _SOURCE_GAUGES:
        gauge = GaugeMetricFamily(f"wearsight_server_{name}", text, labels=["server"])
        for server, health in report.acquisition.items():
            if (value := number(health)) is not None:
                gauge.add_metric([server], value)
        yield gauge
    for name, text in _SOURCE_COUNTERS:
        counter = CounterMetricFamily(f"wearsight_server_{name}", text, labels=["server"])
        for server, health in report.acquisition.items():
            counter.add_metric([server], getattr(health, name))
        yield counter
    overflows = CounterMetricFamily(
        "wearsight_channel_overflows",
        "Times the server's queue dropped values.",
        labels=["server", "asset_id", "channel"],
    )
    for server, health in report.acquisition.items():
        for place, count in health.overflows.items():
            overflows.add_metric([server, *place.rpartition("/")[::2]], count)
    yield overflows


_SOURCE_GAUGES: tuple[tuple[str, str, Callable[[SourceHealth], float | None]], ...] = (
    ("connected", "1 while the server answers.", lambda health: int(health.connected)),
    ("streams", "Streams read from the server.", lambda health: health.streams),
    ("channels_missing", "Channels wanted and not found or refused.", lambda health: len(health.missing)),
    ("channels_silent", "Channels the server itself has no value of.", lambda health: len(health.silent)),
    ("open_holes", "Stretches of time that history is still read for.", lambda health: health.open_holes),
    ("clock_offset_s", "The server's clock less the gateway's.", lambda health: health.clock_offset_s),
)
_SOURCE_COUNTERS = (
    ("observations", "Observations received from the server."),
    ("backfilled", "Of these, the ones from history."),
    ("reconnects", "Times the connection was made anew."),
    ("resumed", "Of these, the ones over which the subscriptions went on."),
    ("republished", "Messages that had to be asked for again."),
    ("revived", "Channels the server had stopped to report, asked for anew."),
    ("gaps", "Gap records."),
    ("replaced_times", "Values whose source time could not be one."),
    ("backwards", "Values whose source time lay before that of the value before."),
)


def _bundle_metrics(report: HealthReport) -> Iterator[Metric]:
    versions = GaugeMetricFamily("wearsight_bundle_version", "Live bundle.", labels=["asset_class"])
    windows = GaugeMetricFamily(
        "wearsight_bundle_windows", "Windows by zone since the bundle became live.", labels=["asset_class", "zone"]
    )
    for asset_class, bundle in report.bundles.items():
        versions.add_metric([asset_class], bundle.version)
        for zone, count in bundle.states.items():
            windows.add_metric([asset_class, zone], count)
    yield from (versions, windows)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
