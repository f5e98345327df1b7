"""A running cloud, and a gateway's end of the wire made of the standard library alone."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from cloud_service.testing import CloudProcess
from models.records import Advisory, AdvisoryState, ChannelShare, Observations, Page, Results, Stream
from models.segment import encode_segment, segment_digest

EPOCH = "00c0ffee00c0ffee"
RAISED = datetime(2026, 3, 20, 14, tzinfo=UTC)


class Gateway:
    """Speaks for one gateway over TLS; every request has a connection of its own."""

    def __init__(self, cloud: CloudProcess, gateway_id: str, certificate: Path | None = None) -> None:
        self.cloud = cloud
        self.gateway_id = gateway_id
        self.context = ssl.create_default_context(cafile=str(cloud.pki.ca_certificate))
        folder = certificate or cloud.enroll(gateway_id)
        self.context.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")

    def connect(self) -> http.client.HTTPSConnection:
        """Return a connection that is not used yet."""
        return http.client.HTTPSConnection(urlsplit(self.cloud.ingest_url).netloc, context=self.context, timeout=30)

    def put(
        self, data: bytes, first: int, last: int, *, owner: str | None = None, epoch: str = EPOCH, digest: str = ""
    ) -> tuple[int, Any]:
        """Upload *data* and return status and answer."""
        path = f"/api/v1/segments/{owner or self.gateway_id}/{epoch}/{first}-{last}"
        return self.ask("PUT", path, data, {"X-Segment-SHA256": digest or segment_digest(data)})

    def put_pages(self, pages: list[Page]) -> tuple[int, Any]:
        """Upload *pages* as one segment."""
        return self.put(encode_segment(pages), pages[0].seq, pages[-1].seq)

    def ledger(self, owner: str | None = None) -> tuple[int, Any]:
        """Ask what is held."""
        return self.ask("GET", f"/api/v1/ledger/{owner or self.gateway_id}/{EPOCH}")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return status and decoded answer of one request."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def make_page(gateway_id: str, seq: int, content: Observations | Results | None = None, *, rows: int = 5) -> Page:
    """Return page *seq* of *gateway_id*, whose observations are all its own."""
    if content is None:
        content = Observations.of_values(
            (Stream("pump-01", "speed_rpm"), Stream("pump-01", "flow_m3_h")),
            np.arange(rows, dtype=np.uint32) % 2,
            seq * 1_000_000_000 + np.arange(rows, dtype=np.int64),
            seq + np.arange(rows) / 10,
            np.zeros(rows, np.uint32),
        )
    return Page(gateway_id=gateway_id, epoch=EPOCH, seq=seq, committed_time=0, content=content)


def pages_of(gateway_id: str, first: int, last: int) -> list[Page]:
    """Return the pages *first* to *last*."""
    return [make_page(gateway_id, seq) for seq in range(first, last + 1)]


def make_advisory(*, revision: int = 1, state: AdvisoryState = AdvisoryState.ACTIVE) -> Advisory:
    """Return an advisory of pump-01 with everything that one can say."""
    return Advisory(
        advisory_id="pump-01-bearing-1",
        revision=revision,
        asset_id="pump-01",
        asset_class="centrifugal_pump",
        failure_mode="bearing_outer_race",
        state=state,
        raised_at=RAISED,
        updated_at=RAISED + timedelta(hours=revision),
        evidence_start=RAISED - timedelta(hours=2),
        evidence_end=RAISED,
        top_channels=(
            ChannelShare(
                channel="bearing_temperature_c",
                share=0.61,
                feature="mean",
                now=71.3,
                normal_low=48.2,
                normal_high=58.9,
                unit="°C",
            ),
        ),
        confidence=0.93,
        life_p10_s=70_000.0,
        life_p50_s=154_000.0,
        life_p90_s=280_000.0,
        act_by=RAISED + timedelta(hours=15),
        model_version=3,
        data_trust=0.98,
        reason="Impacts at the outer race.",
        recommended_action="Replace the drive-end bearing.",
    )


def metrics(cloud: CloudProcess, gateway_id: str) -> dict[str, float]:
    """Return the gateway's figures by name, summed over reasons."""
    text = httpx.get(f"{cloud.web_url}/metrics").text
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^wearsight_cloud_(\w+)\{(.*)\} ([0-9.e+]+)$", text, re.MULTILINE):
        if f'gateway_id="{gateway_id}"' in labels:
            found[name] = found.get(name, 0.0) + float(value)
    return found


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A cloud that all tests share; each speaks for a gateway of its own."""
    with CloudProcess(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def gateway(cloud: CloudProcess, request: pytest.FixtureRequest) -> Gateway:
    """A gateway that only this test speaks for."""
    return Gateway(cloud, f"gw-{abs(hash(request.node.nodeid)) % 10**12}")


@pytest.fixture
def enrolled(cloud: CloudProcess) -> Callable[[str], Gateway]:
    """Makes further gateways."""
    return lambda gateway_id: Gateway(cloud, gateway_id)
