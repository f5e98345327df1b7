from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots
from gateway.journal import Journal
from gateway.testing import make_bundle, public_pem


@pytest.fixture(scope="session")
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, signing_key: Ed25519PrivateKey) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("archives")
    return {version: make_bundle(folder, version=version, signing_key=signing_key) for version in (1, 2)}


@pytest.fixture
def slots(tmp_path: Path, signing_key: Ed25519PrivateKey) -> BundleSlots:
    return BundleSlots(tmp_path / "bundles", public_pem(signing_key), software_version="0.1.0")


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path, "gw-1")
    yield journal
    await journal.close()
