"""The cloud's figures for Prometheus, counted from durable rows in one snapshot.

``wearsight_cloud_segments_received_total`` equals stored plus rejected over all reasons at every moment, through
crashes too: an upload's row and the ledger rows it brought are one transaction. Received and rejected are counted in
the table of uploads; stored is counted in the ledger, which it must agree with.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import distinct, func, select

from cloud_service.fleet.assets import count_open_advisories
from cloud_service.store import LedgerRow, Store, UploadRow


class CloudCollector(Collector):
    """Reads the figures from *store* whenever they are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, all of the same moment."""
        received = CounterMetricFamily(
            "wearsight_cloud_segments_received", "Uploads, but for repeats.", labels=["gateway_id"]
        )
        stored = CounterMetricFamily("wearsight_cloud_segments_stored", "Uploads in the ledger.", labels=["gateway_id"])
        rejected = CounterMetricFamily(
            "wearsight_cloud_segments_rejected", "Uploads not taken.", labels=["gateway_id", "reason"]
        )
        observations = CounterMetricFamily(
            "wearsight_cloud_observations_stored", "Observations in the lake.", labels=["gateway_id"]
        )
        advisories = GaugeMetricFamily("wearsight_cloud_advisories_open", "Advisories in the inbox.")
        with self._store.reading() as session:
            query = select(UploadRow.gateway_id, func.count()).group_by(UploadRow.gateway_id)
            for gateway_id, count in session.execute(query):
                received.add_metric([gateway_id], count)
            columns = (
                LedgerRow.gateway_id,
                func.count(distinct(LedgerRow.upload_id)),
                func.sum(LedgerRow.observations),
            )
            for gateway_id, uploads, rows in session.execute(select(*columns).group_by(LedgerRow.gateway_id)):
                stored.add_metric([gateway_id], uploads)
                observations.add_metric([gateway_id], float(rows))
            by_reason = (UploadRow.gateway_id, UploadRow.reason)
            query_rejected = (
                select(*by_reason, func.count()).where(UploadRow.outcome == "rejected").group_by(*by_reason)
            )
            for gateway_id, reason, count in session.execute(query_rejected):
                rejected.add_metric([gateway_id, reason], count)
            advisories.add_metric([], count_open_advisories(session))
        yield from (received, stored, rejected, observations, advisories)


def metrics_text(store: Store) -> bytes:
    """Return the figures in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(CloudCollector(store))
    return generate_latest(registry)
