from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import AcquisitionConfig, AssetClassConfig, AssetConfig, GatewayConfig, ServerConfig
from gateway.data_acquisition import OpcuaSource, ensure_application_certificate, open_sources
from gateway.data_acquisition.batch import Stored
from tests.gateway.data_acquisition.small_plant import CHANNELS, SmallPlant, Store, free_port


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def plant_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plant's certificate, the same for all tests: keys take their time."""
    folder = tmp_path_factory.mktemp("plant-pki")
    ensure_application_certificate(folder, "urn:test:plant", "plant")
    return folder


@pytest.fixture
async def plant(plant_pki: Path) -> AsyncIterator[SmallPlant]:
    plant = SmallPlant(plant_pki, free_port())
    await plant.start()
    yield plant
    await plant.stop()


@pytest.fixture
def source_of(tmp_path: Path, store: Store) -> Callable[..., OpcuaSource]:
    """Make a source for a plant, which it trusts unless told otherwise."""

    def make(
        plant: SmallPlant,
        *,
        trusted: bool = True,
        endpoint: str = "",
        stored: Stored = store,
        channels: tuple[str, ...] = CHANNELS,
        acquisition: AcquisitionConfig | None = None,
        **server: Any,
    ) -> OpcuaSource:
        pki = tmp_path / "pki"
        (pki / "trusted").mkdir(parents=True, exist_ok=True)
        password = tmp_path / "password"
        password.write_text("secret\n")
        if trusted:
            (pki / "trusted" / "plant.der").write_bytes(plant.certificate.read_bytes())
        config = GatewayConfig(
            gateway_id="gw-1",
            state_dir=tmp_path,
            acquisition=acquisition or AcquisitionConfig(publishing_interval_ms=50.0),
            server=(
                ServerConfig(
                    **{
                        "name": "s",
                        "endpoint": endpoint or plant.endpoint,
                        "user": "gateway",
                        "password_file": password,
                        **server,
                    }
                ),
            ),
            asset=(
                AssetConfig(asset_id="pump-01", asset_class="pump", server="s", path="Machines/pump-01/Monitoring"),
            ),
            asset_class={"pump": AssetClassConfig(channels=channels)},
        )
        return open_sources(config, stored)["s"]

    return make


@pytest.fixture
def unused_port() -> int:
    return free_port()
