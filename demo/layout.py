"""The folders of a demo: a cloud, its gateways and cells, with their configurations, keys and trust."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.processes import free_ports, installed
from gateway.data_acquisition.certificate import ensure_application_certificate

_CLOUD = """\
[ingest]
address = "127.0.0.1:{ingest}"

[web]
address = "127.0.0.1:{web}"
"""

_GATEWAY = """\
gateway_id = "{gateway_id}"
state_dir = "state"

[status]
address = "127.0.0.1:{status}"

[acquisition]
publishing_interval_ms = 200.0

[[server]]
name = "{cell}"
endpoint = "{endpoint}"
clock_tolerance_s = 0  # the simulated plant lives in a time of its own
user = "{user}"
password_file = "secrets/{cell}.password"

[uplink]
cloud_url = "https://127.0.0.1:{uplink}"
ca_file = "tls/ca.pem"
certificate_file = "tls/gateway.pem"
key_file = "tls/gateway.key"
segment_interval_s = 2.0

[bundles]
trusted_key_file = "tls/bundle-signing.pub"
"""

_ASSET_CLASS = """
[asset_class.{asset_class}]
channels = []
"""

_ASSET = """
[[asset]]
asset_id = "{asset_id}"
asset_class = "{asset_class}"
server = "{cell}"
path = "Machines/{asset_id}/Monitoring"
"""


@dataclass(frozen=True, kw_only=True)
class CloudSite:
    """Where the cloud service lives in the demo."""

    folder: Path
    ingest_port: int
    web_port: int

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "cloud.toml"

    @property
    def web_url(self) -> str:
        """Where people read the inbox."""
        return f"http://127.0.0.1:{self.web_port}"


@dataclass(frozen=True, kw_only=True)
class GatewaySite:
    """Where one gateway lives in the demo, and the cell it reads."""

    gateway_id: str
    cell: str
    folder: Path
    status_port: int

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "gateway.toml"

    @property
    def health_url(self) -> str:
        """Where it tells how it is."""
        return f"http://127.0.0.1:{self.status_port}/health"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything that stands under one demo folder."""

    folder: Path
    cloud: CloudSite
    gateways: tuple[GatewaySite, ...]

    def cell_folder(self, cell: str) -> Path:
        """Return where the plant's cell keeps its certificates, truth and count."""
        return self.folder / cell

    def truth(self, cell: str) -> dict[str, Any]:
        """Return what a cell of the plant wrote down of what is true of its machines."""
        truth: dict[str, Any] = json.loads((self.cell_folder(cell) / f"truth-{cell}.json").read_text())
        return truth

    def log(self, name: str) -> Path:
        """Return where the program *name* writes what it has to say."""
        return self.folder / "logs" / f"{name}.log"


def lay_out(folder: Path, cells: Sequence[str]) -> Layout:
    """Make an empty demo folder and decide on ports.

    Args:
        folder: Where; what an earlier demo left there is removed.
        cells: The plant's cells; ``cell-N`` is read by gateway ``gw-N``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "logs").mkdir(parents=True)
    ingest, web, *ports = free_ports(2 + len(cells))
    gateways = tuple(
        GatewaySite(
            gateway_id=f"gw-{cell.rpartition('-')[2]}",
            cell=cell,
            folder=folder / f"gw-{cell.rpartition('-')[2]}",
            status_port=port,
        )
        for cell, port in zip(cells, ports, strict=True)
    )
    return Layout(
        folder=folder,
        cloud=CloudSite(folder=folder / "cloud", ingest_port=ingest, web_port=web),
        gateways=gateways,
    )


def introduce(gateway: GatewaySite, *, certificate: Path, trusted: Path, password_file: Path) -> None:
    """Make a gateway and its cell's server known to each other.

    Args:
        gateway: Its own OPC UA certificate is made here, as its first start would.
        certificate: The server's, which the gateway is to trust.
        trusted: The server's list of clients it lets in.
        password_file: Of the user that the gateway signs in as.
    """
    own, _ = ensure_application_certificate(
        gateway.folder / "state" / "pki", f"urn:wearsight:gateway:{gateway.gateway_id}", gateway.gateway_id
    )
    _copy(own, trusted / f"{gateway.gateway_id}.der")
    _copy(certificate, gateway.folder / "state" / "pki" / "trusted" / f"{gateway.cell}.der")
    _copy(password_file, gateway.folder / "secrets" / f"{gateway.cell}.password").chmod(0o600)


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


def write_cloud_config(cloud: CloudSite) -> None:
    """Write the cloud's configuration for this demo's ports."""
    cloud.folder.mkdir(parents=True, exist_ok=True)
    cloud.config.write_text(_CLOUD.format(ingest=cloud.ingest_port, web=cloud.web_port))


def write_gateway_config(
    gateway: GatewaySite,
    *,
    endpoint: str,
    user: str,
    assets: Mapping[str, str],
    in_service_since: Mapping[str, str],
    uplink_port: int,
) -> None:
    """Write a gateway's configuration: its cell's server, its *assets* and their classes, its way to the cloud.

    ``in_service_since`` says when the lives of assets began, as far as that is known.
    """
    text = _GATEWAY.format(
        gateway_id=gateway.gateway_id,
        status=gateway.status_port,
        cell=gateway.cell,
        endpoint=endpoint,
        user=user,
        uplink=uplink_port,
    )
    text += "".join(_ASSET_CLASS.format(asset_class=name) for name in sorted(set(assets.values())))
    text += "".join(
        _ASSET.format(asset_id=asset_id, asset_class=asset_class, cell=gateway.cell)
        + (f"in_service_since = {in_service_since[asset_id]}\n" if asset_id in in_service_since else "")
        for asset_id, asset_class in assets.items()
    )
    gateway.config.write_text(text)


def inventory(gateways: Sequence[GatewaySite], python: str) -> dict[str, object]:
    """Return the Ansible inventory of the demo's gateways: the first is the canary; all are on this machine."""

    def host(gateway: GatewaySite) -> dict[str, str]:
        return {
            "ansible_connection": "local",
            "ansible_python_interpreter": python,
            "gateway_program": installed("wearsight-gateway"),
            "gateway_config": str(gateway.config),
            "gateway_health_url": gateway.health_url,
        }

    canary, *rest = gateways
    return {
        "gateways": {
            "children": {"canary": {"hosts": {canary.gateway_id: host(canary)}}},
            "hosts": {gateway.gateway_id: host(gateway) for gateway in rest},
        }
    }
