from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.gateway.commissioning.plant_thread import running_plant

Opcua = Callable[..., Result]


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def plant_endpoint(_quiet: None) -> Iterator[str]:
    with running_plant() as endpoint:
        yield endpoint


@pytest.fixture
def config(tmp_path: Path, plant_endpoint: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(f"""
gateway_id = "gw-1"
state_dir = "state"
tags_file = "tags.csv"
[[server]]
name = "plant"
endpoint = "{plant_endpoint}"
security = "None"
[asset_class.pump]
""")
    return path


@pytest.fixture
def opcua(config: Path) -> Opcua:
    """Call ``wearsight-gateway opcua`` with the configuration of the plant."""

    def call(command: str, *arguments: str, input: str | None = None) -> Result:  # noqa: A002 - as click calls it
        return CliRunner().invoke(main, ["opcua", command, *arguments, "--config", str(config)], input=input)

    return call
