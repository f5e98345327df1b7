"""The cloud's figures for Prometheus, counted from durable rows in one snapshot.

``wearsight_cloud_segments_received_total`` equals stored plus rejected over all reasons at every moment, through
crashes too: an upload is counted as received in the transaction that stores or rejects it. Stored is counted in the
ledger itself, which the other two must agree with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session

from cloud_service.fleet.assets import count_open_advisories
from cloud_service.ingest import journals
from cloud_service.ingest.tally import rejections
from cloud_service.store import HeldRow, IntakeRow, LedgerRow, QuarantineRow, SegmentRow, Store

_PREFIX = "wearsight_cloud_"


class CloudCollector(Collector):
    """Reads the figures from *store* whenever they are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, all of the same moment."""
        with self._store.reading() as session:
            found = [*_uploads(session), *_content(session), *_journals(session), *_quarantine(session)]
            advisories = GaugeMetricFamily(f"{_PREFIX}advisories_open", "Advisories in the inbox.")
            advisories.add_metric([], count_open_advisories(session))
        yield from (*found, advisories)


def _uploads(session: Session) -> Iterator[Metric]:
    received = _counter("segments_received", "Uploads, but for repeats.")
    stored = _counter("segments_stored", "Uploads in the ledger.")
    rejected = _counter("segments_rejected", "Uploads not taken, or withdrawn later.", "reason")
    dropped = _counter("quarantine_dropped", "Segments the quarantine had no room for any more.")
    for row in session.scalars(select(IntakeRow)):
        received.add_metric([row.gateway_id], row.received)
        dropped.add_metric([row.gateway_id], row.quarantine_dropped)
    uploads = select(LedgerRow.gateway_id, func.count(distinct(LedgerRow.upload_id)))
    for gateway_id, count in session.execute(uploads.group_by(LedgerRow.gateway_id)):
        stored.add_metric([gateway_id], count)
    for rejection in rejections(session):
        rejected.add_metric([rejection.gateway_id, rejection.reason], rejection.count)
    yield from (received, stored, rejected, dropped)


def _content(session: Session) -> Iterator[Metric]:
    observations = _counter("observations_stored", "Observations in the lake.")
    repeats = _counter("observations_repeated", "Observations of data requests that the lake held already.")
    withheld = _counter("observations_withheld", "Observations that policy left at the gateway.")
    expired = _counter("observations_expired", "Observations that the gateway lost.", "reason")
    sums = select(LedgerRow.gateway_id, func.sum(LedgerRow.observations), func.sum(LedgerRow.repeats))
    for gateway_id, rows, repeated in session.execute(sums.group_by(LedgerRow.gateway_id)):
        observations.add_metric([gateway_id], float(rows))
        repeats.add_metric([gateway_id], float(repeated))
    left = select(SegmentRow.gateway_id, func.sum(SegmentRow.withheld)).group_by(SegmentRow.gateway_id)
    for gateway_id, rows in session.execute(left):
        withheld.add_metric([gateway_id], float(rows))
    key = (SegmentRow.gateway_id, SegmentRow.expired_reason)
    for gateway_id, reason, rows in session.execute(
        select(*key, func.sum(SegmentRow.expired)).where(SegmentRow.expired > 0).group_by(*key)
    ):
        expired.add_metric([gateway_id, reason], float(rows))
    yield from (observations, repeats, withheld, expired)


def _journals(session: Session) -> Iterator[Metric]:
    holes = _gauge("ledger_holes", "Runs of pages that are missing between those that are held.")
    missing = _gauge("ledger_missing_pages", "Pages in these holes.")
    superseded = _gauge("journals_superseded", "Older journals of a gateway, which bring no new pages.")
    key = (HeldRow.gateway_id, HeldRow.epoch)
    span = func.max(HeldRow.last_seq) - func.sum(HeldRow.last_seq - HeldRow.first_seq + 1)
    starts = func.count() - (func.min(HeldRow.first_seq) == 1).cast(HeldRow.first_seq.type)
    counts: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    for gateway_id, _, gaps, absent in session.execute(select(*key, starts, span).group_by(*key)):
        counts[gateway_id] += gaps
        pages[gateway_id] += absent
    older = Counter(gateway_id for gateway_id, _ in journals.superseded(session))
    for gateway_id in counts:
        holes.add_metric([gateway_id], counts[gateway_id])
        missing.add_metric([gateway_id], pages[gateway_id])
        superseded.add_metric([gateway_id], older[gateway_id])
    yield from (holes, missing, superseded)


def _quarantine(session: Session) -> Iterator[Metric]:
    segments = _gauge("quarantine_segments", "Refused segments that are kept for an operator.", "reason")
    size = _gauge("quarantine_bytes", "What they take.", "reason")
    key = (QuarantineRow.gateway_id, QuarantineRow.reason)
    for gateway_id, reason, count, taken in session.execute(
        select(*key, func.count(), func.sum(QuarantineRow.size)).group_by(*key)
    ):
        segments.add_metric([gateway_id, reason], count)
        size.add_metric([gateway_id, reason], float(taken))
    yield from (segments, size)


def _counter(name: str, help_text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{_PREFIX}{name}", help_text, labels=["gateway_id", *labels])


def _gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}{name}", help_text, labels=["gateway_id", *labels])


def metrics_text(store: Store) -> bytes:
    """Return the figures in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(CloudCollector(store))
    return generate_latest(registry)
