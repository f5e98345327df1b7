"""The playbook ``rollout`` as the cloud runs it, on local connections: canary first, and the rest only after it."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cloud_service.rollout import HostStatus, RolloutEvent, RolloutReport, Watch, roll_out
from models.bundle.manifest import Lineage, Manifest, Thresholds
from tests.cloud_service.rollout import stand_in

pytestmark = pytest.mark.slow

HOSTS = ("gw-1", "gw-2", "gw-3")
NOW = datetime(2026, 3, 2, tzinfo=UTC)


def manifest(version: int) -> Manifest:
    """Return a manifest of which the rollout reads class and version."""
    limits = Thresholds(
        warning=0.5, alarm=0.7, minimum_good_share=0.5, on_delay_windows=2, off_delay_windows=2, minimum_confidence=0.5
    )
    lineage = Lineage(
        trained_at=NOW,
        trained_on_assets=(),
        held_out_assets=(),
        observations=0,
        lake_digest="",
        replaces_version=version - 1,
        software_version="0.1.0",
    )
    return Manifest(
        schema_version=1,
        asset_class=stand_in.ASSET_CLASS,
        version=version,
        channels=(),
        feature_hash="",
        thresholds=limits,
        failure_modes=(),
        actions={},
        files={},
        opset={},
        minimum_gateway_version="0.1.0",
        not_after=NOW,
        metrics={},
        lineage=lineage,
    )


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Three gateways on this machine, version 1 live on each, ``gw-1`` the canary."""

    folder: Path
    url: str

    def inventory(self, *names: str) -> dict[str, Any]:
        """Return the inventory of the gateways *names*, the canary among them; of all when none is named."""
        program = self.folder / "wearsight-gateway"
        hosts = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "gateway_program": str(program),
                "gateway_config": str(self.folder / name / "gateway.toml"),
                "gateway_health_url": f"{self.url}/{name}/health",
            }
            for name in names or HOSTS
        }
        canary = {"hosts": {"gw-1": hosts.pop("gw-1")}}
        return {"gateways": {"children": {"canary": canary, "rest": {"hosts": hosts}}}}

    def release(self, bundle: dict[str, Any], **options: Any) -> RolloutReport:
        """Roll *bundle* out as version 2."""
        archive = self.folder / "bundle.tar"
        archive.write_text(json.dumps({"version": 2, **bundle}))
        settings: dict[str, Any] = {"inventory": self.inventory(), "watch": Watch(windows=20, timeout_s=3)}
        return roll_out(
            archive=archive, manifest=manifest(2), private_data_dir=self.folder / "runner", **(settings | options)
        )

    @property
    def versions(self) -> list[int]:
        """What is live on each gateway, in order."""
        return [json.loads((self.folder / name / "live.json").read_text())["version"] for name in HOSTS]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Three gateways that answer."""
    program = tmp_path / "wearsight-gateway"
    program.write_text(f"#!{sys.executable}\n" + Path(stand_in.__file__).read_text())
    program.chmod(0o755)
    for name in HOSTS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "live.json").write_text(json.dumps({"version": 1, "alarms": 0.02}))
    handler = type("Handler", (stand_in.HealthHandler,), {"folder": tmp_path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Fleet(folder=tmp_path, url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def statuses(report: RolloutReport) -> list[HostStatus]:
    return [outcome.status for outcome in report.hosts.values()]


def test_a_good_bundle_goes_to_the_canary_and_then_to_the_rest(fleet: Fleet) -> None:
    """No other gateway is asked to install before the canary was watched; a second rollout changes nothing."""
    heard: list[RolloutEvent] = []
    report = fleet.release({"alarms": 0.05}, on_event=heard.append)

    assert statuses(report) == [HostStatus.OK] * 3
    assert report.succeeded
    assert fleet.versions == [2, 2, 2]
    steps = [(event.host, event.step) for event in heard]
    watched = steps.index(("gw-1", "Wait until the new models have scored enough windows"))
    assert watched < steps.index(("gw-2", "Ask the gateway what is live"))
    again = fleet.release({"alarms": 0.05}, inventory=fleet.inventory("gw-1"))
    assert again.hosts["gw-1"].reason == "was live already"


def test_a_broken_bundle_ends_at_the_canary(fleet: Fleet) -> None:
    """The gateway's own reason is told, and no other gateway is touched."""
    report = fleet.release({"alarms": 0.0, "broken": True})

    assert statuses(report) == [HostStatus.REFUSED, HostStatus.SKIPPED, HostStatus.SKIPPED]
    assert "DigestMismatch" in report.hosts["gw-1"].reason
    assert fleet.versions == [1, 1, 1]


def test_a_broken_copy_of_what_is_live_is_refused(fleet: Fleet) -> None:
    """That its version is live already does not make it good."""
    (fleet.folder / "gw-1/live.json").write_text(json.dumps({"version": 2, "alarms": 0.02}))
    report = fleet.release({"alarms": 0.0, "broken": True})

    assert statuses(report) == [HostStatus.REFUSED, HostStatus.SKIPPED, HostStatus.SKIPPED]


def test_a_bundle_that_alarms_too_much_is_rolled_back(fleet: Fleet) -> None:
    """The canary gets its previous version back, and no other gateway is touched."""
    report = fleet.release({"alarms": 0.4})

    assert statuses(report) == [HostStatus.ROLLED_BACK, HostStatus.SKIPPED, HostStatus.SKIPPED]
    assert "0.400 of them in warning or alarm (0.020 before)" in report.hosts["gw-1"].reason
    assert fleet.versions == [1, 1, 1]


def test_a_wider_budget_lets_the_same_bundle_through(fleet: Fleet) -> None:
    """It is the budget that rolled it back, and nothing else."""
    watch = Watch(windows=20, timeout_s=3, alert_budget=0.5)
    report = fleet.release({"alarms": 0.4}, watch=watch, inventory=fleet.inventory("gw-1"))

    assert statuses(report) == [HostStatus.OK]


def test_a_bundle_that_cannot_be_judged_is_rolled_back(fleet: Fleet) -> None:
    """Too few windows in the time given is not doing well."""
    report = fleet.release({"alarms": 0.0}, watch=Watch(windows=stand_in.WINDOWS + 1, timeout_s=1))

    assert statuses(report) == [HostStatus.ROLLED_BACK, HostStatus.SKIPPED, HostStatus.SKIPPED]
    assert "too few windows to judge by" in report.hosts["gw-1"].reason
    assert fleet.versions == [1, 1, 1]


def test_an_archive_with_another_digest_is_not_handed_over(fleet: Fleet) -> None:
    """What the registry released is what is rolled out."""
    report = fleet.release({"alarms": 0.0}, digest=hashlib.sha256(b"the one released").hexdigest())

    assert statuses(report) == [HostStatus.FAILED, HostStatus.SKIPPED, HostStatus.SKIPPED]
    assert fleet.versions == [1, 1, 1]


def test_a_neighbour_of_a_failed_host_is_still_judged(fleet: Fleet) -> None:
    """A canary out of reach ends the rollout after its ring; the other one keeps the bundle, for it was watched."""
    inventory = fleet.inventory()
    rings = inventory["gateways"]["children"]
    rings["canary"]["hosts"] |= {"gw-2": rings["rest"]["hosts"].pop("gw-2")}
    rings["canary"]["hosts"]["gw-1"] |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    report = fleet.release({"alarms": 0.0}, inventory=inventory)

    assert statuses(report) == [HostStatus.UNREACHABLE, HostStatus.OK, HostStatus.SKIPPED]
    assert fleet.versions == [1, 2, 1]


def test_an_inventory_without_canary_releases_nothing(fleet: Fleet) -> None:
    """There must be someone to try it on first."""
    inventory = fleet.inventory()
    del inventory["gateways"]["children"]["canary"]
    report = fleet.release({"alarms": 0.0}, inventory=inventory)

    assert not report.succeeded
    assert fleet.versions == [1, 1, 1]
