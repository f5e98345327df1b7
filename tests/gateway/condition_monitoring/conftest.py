import shutil
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


@pytest.fixture(scope="session")
def installed(
    tmp_path_factory: pytest.TempPathFactory, signing_key: Ed25519PrivateKey, archives: dict[int, Path]
) -> Path:
    """A gateway's bundles with version 1 live, installed once: each installation answers in a process of its own."""
    root = tmp_path_factory.mktemp("installed") / "bundles"
    BundleSlots(root, public_pem(signing_key), software_version="0.1.0").install(archives[1])
    return root


@pytest.fixture
def live_slots(slots: BundleSlots, installed: Path, tmp_path: Path) -> BundleSlots:
    """The slots, with version 1 live."""
    shutil.copytree(installed, tmp_path / "bundles", symlinks=True)
    return slots


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path, "gw-1")
    yield journal
    await journal.close()
