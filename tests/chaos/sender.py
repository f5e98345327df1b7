"""A gateway's uplink under test: a plant's rows at a steady rate into a real journal, from there to a real cloud.

``python -m tests.chaos.sender STATE_DIR SEED CLOUD_URL TLS_DIR ROWS_PER_S`` stores rows until its input ends, then
sends what is left and ends. Each second it says a JSON object: rows ``appended``, ``delivered``, ``pending``; seconds.

``CARELESS=1`` in its environment makes it the control: it takes whatever it sent for delivered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import structlog

from gateway.config import UplinkConfig
from gateway.errors import UploadDeferred
from gateway.journal import Journal, compact
from gateway.uplink import CloudClient, UplinkCondition, deliver
from gateway.uplink.client import Range
from tests.chaos.oracle import GATEWAY_ID
from tests.chaos.plant import Plant

STREAMS = 200
BATCHES_PER_S = 10
SEGMENT_INTERVAL_S = 0.5


def plant_of(seed: int, rows_per_s: int) -> Plant:
    """Return the plant that makes so many rows a second."""
    return Plant(seed=seed, streams=STREAMS, rows=max(rows_per_s // (STREAMS * BATCHES_PER_S), 1), waveform_samples=0)


async def send(state_dir: Path, plant: Plant, cloud_url: str, tls: Path) -> None:
    """Store and send until the input ends, then send what is left."""
    config = UplinkConfig(
        cloud_url=cloud_url,
        ca_file=tls / "ca.pem",
        certificate_file=tls / "gateway.pem",
        key_file=tls / "gateway.key",
        segment_interval_s=SEGMENT_INTERVAL_S,
        retry_min_s=0.1,
        retry_max_s=2.0,
    )
    journal = await Journal.open(state_dir, GATEWAY_ID)
    async with asyncio.TaskGroup() as group:
        work = [
            group.create_task(compact(journal, interval_s=SEGMENT_INTERVAL_S, max_pages=256)),
            group.create_task(deliver(journal, config, UplinkCondition())),
            group.create_task(_told(journal)),
        ]
        acquiring = group.create_task(_acquire(journal, plant))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        acquiring.cancel()
        await asyncio.wait([acquiring])
        await journal.wait_until(lambda counters: counters.pending == 0)
        _say(journal, ended=True)
        for task in work:
            task.cancel()
    await journal.close()


async def _acquire(journal: Journal, plant: Plant) -> None:
    number = plant.batch_at(journal.newest_source_time(plant.names[0])) + 1
    due = time.monotonic()
    while True:
        batch = await asyncio.to_thread(plant.batch, number)
        # Stored whole even when the input ends meanwhile: the judge counts in batches.
        await asyncio.shield(journal.append(batch))
        number += 1
        due += 1 / BATCHES_PER_S
        await asyncio.sleep(max(due - time.monotonic(), 0.0))


async def _told(journal: Journal) -> None:
    while True:
        _say(journal)
        await asyncio.sleep(1.0)


def _say(journal: Journal, *, ended: bool = False) -> None:
    now = journal.counters
    told = {"appended": now.appended, "delivered": now.delivered, "pending": now.pending, "at": time.monotonic()}
    os.write(1, json.dumps({**told, "ended": ended}).encode() + b"\n")


class _Careless(CloudClient):
    """Takes what it sent for delivered, and never asks the ledger."""

    async def put(self, epoch: str, pages: Range, *arguments: Any, **named: Any) -> list[Range]:
        """Send, and be content."""
        try:
            return await super().put(epoch, pages, *arguments, **named)
        except UploadDeferred:
            return [pages]

    async def ledger(self, epoch: str) -> list[Range]:  # noqa: ARG002 - as the other has it
        """Believe in everything."""
        return [(1, 2**62)]


def main() -> None:
    """Run as the arguments say."""
    state_dir, seed, cloud_url, tls, rows_per_s = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if os.environ.get("CARELESS"):
        from gateway.uplink import delivery

        vars(delivery)["CloudClient"] = _Careless
    asyncio.run(send(Path(state_dir), plant_of(int(seed), int(rows_per_s)), cloud_url, Path(tls)))


if __name__ == "__main__":
    main()
