"""A real cloud, and a journal to send to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloud_service.testing import CloudProcess
from gateway.journal import Journal


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A cloud that the tests share; each speaks for a gateway of its own."""
    with CloudProcess(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def gateway_id(request: pytest.FixtureRequest) -> str:
    """A gateway that only this test speaks for."""
    return f"gw-{abs(hash(request.node.nodeid)) % 10**12}"


@pytest.fixture
async def journal(tmp_path: Path, gateway_id: str) -> AsyncIterator[Journal]:
    """An empty journal."""
    (tmp_path / "state").mkdir()
    opened = await Journal.open(tmp_path / "state", gateway_id)
    yield opened
    await opened.close()
