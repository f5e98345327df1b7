"""The fleet's earlier records: lives of other machines of the same classes, brought in the same way as all else."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from demo.plant.fleet import Life, archive_assets
from demo.plant.simulator import simulate
from demo.stage import Stage
from models.records import AssetDescription, Observations, Page, Results, from_ns
from models.segment import encode_segment, segment_digest

GATEWAY_ID = "archive"
LIVES_PER_CLASS = 16
SEED = 7


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """How much was brought in."""

    assets: int
    observations: int


async def upload_archive(stage: Stage) -> Uploaded:
    """Upload the earlier records as segments of gateway ``archive``, and what the machines failed of as work orders."""
    lives = [
        life for name in ("centrifugal_pump", "spindle_drive") for life in archive_assets(name, LIVES_PER_CLASS, SEED)
    ]
    epoch = secrets.token_hex(8)
    observations = 0
    tls = _client_context(stage.layout.folder / GATEWAY_ID / "tls")
    base = f"https://127.0.0.1:{stage.layout.cloud.ingest_port}/api/v1/segments/{GATEWAY_ID}/{epoch}"
    segments = _segments(lives, epoch)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        while (segment := await asyncio.to_thread(next, segments, None)) is not None:
            first, last, data, rows = segment
            headers = {"X-Segment-SHA256": segment_digest(data)}
            async with session.put(f"{base}/{first}-{last}", data=data, headers=headers) as response:
                response.raise_for_status()
            observations += rows
    for life in lives:
        await _hand_in(stage, life)
    return Uploaded(assets=len(lives), observations=observations)


def _client_context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")
    return context


def _segments(lives: list[Life], epoch: str) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield one segment for each life: first and last page, bytes, observations."""
    for number, life in enumerate(lives):
        asset = life.asset
        description = AssetDescription(
            asset_id=asset.asset_id, asset_class=asset.asset_class, channels=tuple(asset.channels)
        )
        observations = simulate(asset, life.start, life.end)
        first = 2 * number + 1
        contents: tuple[Results | Observations, ...] = (Results(assets=(description,)), observations)
        pages = [
            Page(gateway_id=GATEWAY_ID, epoch=epoch, seq=first + place, committed_time=time.time_ns(), content=content)
            for place, content in enumerate(contents)
        ]
        yield first, first + 1, encode_segment(pages), len(observations)


async def _hand_in(stage: Stage, life: Life) -> None:
    for fault in life.asset.faults:
        order = {
            "asset_id": fault.asset_id,
            "failed_at": from_ns(fault.failure).isoformat(),
            "failure_mode": fault.mode,
            "in_service_again": from_ns(fault.repaired).isoformat(),
            "note": "from the fleet's earlier records",
        }
        await stage.post(f"{stage.layout.cloud.web_url}/api/v1/maintenance", order)
