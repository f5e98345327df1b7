"""The clients that `benchmarks.acquisition` measures, each in a process: ``python -m benchmarks.reading WHICH``.

``ours`` is the gateway's acquisition, its source into its journal; ``stock`` is asyncua's subscription with a handler
that does nothing but count. Each line on standard input is answered with the number of values so far: stored durably by
ours, handed over by stock. They end with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties

from benchmarks.frame_server import CHANNELS, NAMESPACE
from gateway.config import (
    AcquisitionConfig,
    AssetClassConfig,
    AssetConfig,
    GatewayConfig,
    Security,
    ServerConfig,
)
from gateway.data_acquisition import ensure_application_certificate, open_sources
from gateway.data_acquisition.certificate import application_uri
from gateway.journal import Journal
from gateway.pipeline import acquire

GATEWAY_ID = "gw-benchmark"
QUEUE_SIZE = 1000
REQUEST = 1000  # items that stock asks for at a time


def gateway_config(options: argparse.Namespace) -> GatewayConfig:
    """Return the configuration of a gateway that reads every node of the server."""
    trusted = options.folder / "pki" / "trusted"
    trusted.mkdir(parents=True)
    (trusted / "server.der").write_bytes(options.certificate.read_bytes())
    security = Security.SIGN_AND_ENCRYPT if options.encrypted else Security.NONE
    machines = (f"machine-{number:02d}" for number in range(options.nodes // CHANNELS))
    return GatewayConfig(
        gateway_id=GATEWAY_ID,
        state_dir=options.folder,
        acquisition=AcquisitionConfig(
            publishing_interval_ms=options.publishing_interval_ms, queue_size=QUEUE_SIZE, backfill_limit_h=0.0
        ),
        server=(ServerConfig(name="server", endpoint=options.endpoint, security=security),),
        asset=tuple(
            AssetConfig(asset_id=name, asset_class="machine", server="server", path=f"Machines/{name}")
            for name in machines
        ),
        asset_class={"machine": AssetClassConfig(channels=tuple(f"c{number:02d}" for number in range(CHANNELS)))},
    )


async def ours(options: argparse.Namespace) -> None:
    """Carry the server's values into a journal."""
    config = gateway_config(options)
    journal = await Journal.open(config.state_dir, config.gateway_id)
    source = open_sources(config, journal)["server"]
    flow = asyncio.create_task(acquire(source, journal))
    try:
        await _answer(lambda: journal.counters.appended, flow)
    finally:
        flow.cancel()
        with suppress(asyncio.CancelledError):
            await flow
        await journal.close()


async def stock(options: argparse.Namespace) -> None:
    """Have asyncua hand the server's values to a handler."""
    received = 0

    class Handler:
        def datachange_notification(self, _node: Any, _value: Any, _data: Any) -> None:
            nonlocal received
            received += 1

    client = Client(options.endpoint)
    if options.encrypted:
        own, key = ensure_application_certificate(options.folder, application_uri(GATEWAY_ID), "stock")
        client.application_uri = application_uri(GATEWAY_ID)
        await client.set_security(
            SecurityPolicyBasic256Sha256, CertProperties(own, "der"), CertProperties(key, "pem"),
            server_certificate=CertProperties(options.certificate, "der"),
        )  # fmt: skip
    async with client:
        space = await client.get_namespace_index(NAMESPACE)
        names = [f"machine-{number // CHANNELS:02d}.c{number % CHANNELS:02d}" for number in range(options.nodes)]
        nodes = [client.get_node(f"ns={space};s={name}") for name in names]
        subscription = await client.create_subscription(options.publishing_interval_ms, Handler())
        for first in range(0, len(nodes), REQUEST):
            some = nodes[first : first + REQUEST]
            await subscription.subscribe_data_change(some, queuesize=QUEUE_SIZE, sampling_interval=ua.Double(0.0))
        await _answer(lambda: received)


async def _answer(count: Callable[[], int], flow: asyncio.Task[None] | None = None) -> None:
    """Answer every line of standard input, until it ends or *flow* fails."""
    while True:
        line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        await asyncio.wait({line, flow} if flow is not None else {line}, return_when=asyncio.FIRST_COMPLETED)
        if flow is not None and flow.done():
            await flow
        if not await line:
            return
        print(json.dumps(count()), flush=True)


def main() -> None:
    """Read the options and read the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["ours", "stock"])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--certificate", type=Path, required=True, help="the server's, DER")
    parser.add_argument("--folder", type=Path, required=True, help="an empty one, for what is made")
    parser.add_argument("--nodes", type=int, required=True, help=f"a multiple of {CHANNELS}")
    parser.add_argument("--publishing-interval-ms", type=float, required=True)
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--core", type=int, help="the only core to run on")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run({"ours": ours, "stock": stock}[options.which](options))


if __name__ == "__main__":
    main()
