from __future__ import annotations

import socket

import pytest

from tests.integration.influxdb import influx_server, influxdb

__all__ = ["influx_server", "influxdb"]


@pytest.fixture
def unused_port() -> int:
    """A port of the loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
