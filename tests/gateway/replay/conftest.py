"""A gateway's folder with a bundle that is live, and a journal that its monitor has gone through."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring.blocks import Blocks
from gateway.condition_monitoring.monitor import monitor
from gateway.historian.past import Past
from gateway.journal import Journal, compact_once
from gateway.testing import ASSET_CLASS, THRESHOLDS, Fault, cut, make_bundle, public_pem, run_machine

PAGES = 20
CONFIG = f"""
gateway_id = "gw-1"
state_dir = "state"
[[server]]
name = "cell-1"
endpoint = "opc.tcp://127.0.0.1:1/"
[[asset]]
asset_id = "m-1"
asset_class = "{ASSET_CLASS}"
server = "cell-1"
path = "Machines/m-1"
[asset_class.{ASSET_CLASS}]
[bundles]
trusted_key_file = "signing.pub"
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A folder with ``gateway.toml``, ``state`` and two bundles: the live one, and one that warns of nothing."""

    folder: Path
    live: Path
    blind: Path

    @property
    def config_file(self) -> Path:
        """Its configuration."""
        return self.folder / "gateway.toml"

    @property
    def state_dir(self) -> Path:
        """Where its journal is."""
        return self.folder / "state"

    def blocks(self) -> Blocks:
        """Return new blocks over the live bundle."""
        slots = BundleSlots(self.state_dir / "bundles", None, software_version="0.1.0")
        return Blocks(gateway_id="gw-1", assets={"m-1": ASSET_CLASS}, slots=slots)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A machine that overheats, monitored as it came; half of its pages are in segments. Tests only read it."""
    folder = tmp_path_factory.mktemp("site")
    key = Ed25519PrivateKey.generate()
    (folder / "signing.pub").write_bytes(public_pem(key))
    (folder / "gateway.toml").write_text(CONFIG)
    blind = replace(THRESHOLDS, warning=1e6, alarm=2e6)
    site = Site(
        folder=folder,
        live=make_bundle(folder, version=1, signing_key=key),
        blind=make_bundle(folder, version=2, signing_key=key, thresholds=blind),
    )
    slots = BundleSlots(site.state_dir / "bundles", public_pem(key), software_version="0.1.0")
    slots.install(site.live)
    asyncio.run(_monitored(site))
    return site


async def _monitored(site: Site) -> None:
    journal = await Journal.open(site.state_dir, "gw-1")
    reader = await journal.reader("monitor")
    work = asyncio.create_task(monitor(reader, site.blocks(), Past(journal)))
    for number, piece in enumerate(
        cut(run_machine("m-1", hours=60, fault=Fault(start_h=24, celsius_per_h=3.0)), PAGES)
    ):
        seq = await journal.append(piece)
        async with asyncio.timeout(30):
            # Results stand among the rows here and there.
            while number % 5 == 4 and reader.position < (seq or 0):  # noqa: ASYNC110 - no event tells of a position
                await asyncio.sleep(0.005)
    work.cancel()
    await asyncio.wait([work])
    await compact_once(journal, max_pages=journal.last_seq // 2)
    await journal.close()
