"""The playbook ``rollout`` as the cloud runs it, to running gateways: canary first, and the rest only after it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_service.rollout import HostStatus, RolloutEvent, RolloutReport
from demo.tampering import broken_copy
from gateway.testing import ASSET_CLASS
from tests.cloud_service.rollout.small_fleet import WATCH, Fleet, manifest_of, running_fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The fleet, started once; what a test leaves live, the next one begins with."""
    with running_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


def statuses(report: RolloutReport) -> list[HostStatus]:
    return [outcome.status for outcome in report.hosts.values()]


def test_a_good_release_goes_to_the_canary_and_then_to_the_rest(fleet: Fleet) -> None:
    """No other gateway is asked to install before the canary was watched.

    Half of the canary's windows are alarms, by the old models and the new, and it has just been restarted.
    """
    heard: list[RolloutEvent] = []
    fleet.stop(fleet.gateways[0])
    fleet.start(fleet.gateways[0])
    fleet.wait_until_watched(fleet.gateways[0])
    archive = fleet.bundle()
    before = fleet.versions
    report = fleet.release(archive, on_event=heard.append)

    version = manifest_of(archive).version
    assert statuses(report) == [HostStatus.OK, HostStatus.OK], report
    assert report.succeeded
    assert fleet.versions == [version, version]
    listed = json.loads(fleet.call(fleet.gateways[0], "list", "--json").stdout)
    assert [slot["version"] for slot in listed if slot["live"]] == [version]
    assert [fleet.health(gateway)["bundles"][ASSET_CLASS]["version"] for gateway in fleet.gateways] == fleet.versions
    assert f"by version {before[0]}" in report.hosts["gw-1"].reason
    steps = [(event.host, event.step) for event in heard]
    watched = steps.index(("gw-1", "Wait until the new models have scored enough windows"))
    assert watched < steps.index(("gw-2", "Ask the gateway what is live"))


@pytest.mark.parametrize("which", ["new", "live"])
def test_a_changed_byte_ends_the_release_at_the_canary(fleet: Fleet, tmp_path: Path, which: str) -> None:
    """The gateway's own reason is told, no other is touched; that the version is live does not make a copy good."""
    before = fleet.versions
    archive = fleet.bundle() if which == "new" else fleet.archive(before[0])
    broken = broken_copy(archive, tmp_path / archive.name)
    report = fleet.release(broken, manifest=manifest_of(archive))

    assert statuses(report) == [HostStatus.REFUSED, HostStatus.SKIPPED], report
    assert "is changed; the bundle is refused" in report.hosts["gw-1"].reason
    assert fleet.versions == before


def test_a_release_that_cries_wolf_is_rolled_back(fleet: Fleet) -> None:
    """Signed and sound, but it alarms on healthy machines: the canary goes back, and no other gateway is touched."""
    before = fleet.versions
    report = fleet.release(fleet.bundle(wolf=True))

    assert statuses(report) == [HostStatus.ROLLED_BACK, HostStatus.SKIPPED], report
    assert "alerts grew by more than the budget" in report.hosts["gw-1"].reason
    assert fleet.versions == before


def test_a_wider_budget_lets_the_same_release_through(fleet: Fleet) -> None:
    """Control to the one above: it is the budget that rolled it back, and nothing else."""
    before = fleet.versions
    wolf = fleet.bundle(wolf=True)
    report = fleet.release(wolf, watch=replace(WATCH, alert_budget=0.9), inventory=fleet.canary_alone())

    assert statuses(report) == [HostStatus.OK], report
    assert fleet.versions[0] == manifest_of(wolf).version
    fleet.roll_back(fleet.gateways[0])
    assert fleet.versions == before


def test_a_release_that_cannot_be_judged_is_rolled_back(fleet: Fleet) -> None:
    """Too few windows in the time given is not doing well."""
    before = fleet.versions
    report = fleet.release(fleet.bundle(), watch=replace(WATCH, windows=1_000_000, timeout_s=1))

    assert statuses(report) == [HostStatus.ROLLED_BACK, HostStatus.SKIPPED], report
    assert "too few windows to judge by" in report.hosts["gw-1"].reason
    assert fleet.versions == before


def test_an_archive_with_another_digest_is_not_handed_over(fleet: Fleet) -> None:
    """What the registry released is what is rolled out."""
    before = fleet.versions
    report = fleet.release(fleet.bundle(), digest=hashlib.sha256(b"the one released").hexdigest())

    assert statuses(report) == [HostStatus.FAILED, HostStatus.SKIPPED], report
    assert fleet.versions == before


def test_a_neighbour_of_a_failed_host_is_still_judged(fleet: Fleet) -> None:
    """A canary out of reach ends the rollout after its ring; the other one keeps the release, for it was watched."""
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    inventory: dict[str, Any] = fleet.inventory()
    inventory["gateways"]["children"]["canary"]["hosts"] |= {"gone": gone}
    archive = fleet.bundle()
    rest = fleet.versions[1]
    report = fleet.release(archive, inventory=inventory)

    assert {host: outcome.status for host, outcome in report.hosts.items()} == {
        "gw-1": HostStatus.OK,
        "gone": HostStatus.UNREACHABLE,
        "gw-2": HostStatus.SKIPPED,
    }, report
    assert fleet.versions == [manifest_of(archive).version, rest]


def test_an_inventory_without_canary_releases_nothing(fleet: Fleet) -> None:
    """There must be someone to try it on first."""
    before = fleet.versions
    inventory = fleet.inventory()
    del inventory["gateways"]["children"]
    report = fleet.release(fleet.bundle(), inventory=inventory)

    assert not report.succeeded
    assert fleet.versions == before
