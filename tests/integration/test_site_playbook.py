"""The playbook ``site`` on a real host: what it installs reads a plant across the bridge and uploads to a cloud."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud_service.rollout.collection import find_collection, link_collection, settings
from gateway.tag_list import TagRow, format_tags
from gateway.testing import ASSET_CLASS, make_bundle
from tests.integration.hosts.lab import Host, Lab, require

pytestmark = [pytest.mark.integration, pytest.mark.hosts, pytest.mark.timeout(300)]

TREE = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
VERSION = "0.1.0"
CUT_OFF_TOLD_S = (
    30  # four seconds by the ssh settings, seven with all around; a playbook without them hangs for minutes
)
WHEELS_PORT, PLANT_PORT, CLOUD_PORT = 8000, 4841, 8443

CONFIG = """\
# {{ ansible_managed }}
gateway_id = "{{ gateway_id }}"
state_dir = "/var/lib/wearsight"
tags_file = "/var/lib/wearsight/tags.csv"

[status]
address = "{{ gateway_status_address }}"

[[server]]
name = "cell-1"
endpoint = "{{ plant.endpoint }}"
user = "{{ plant.user }}"
password_file = "/etc/wearsight/secrets/cell-1.password"

{% for asset_id, asset_class in plant.assets.items() %}
[[asset]]
asset_id = "{{ asset_id }}"
asset_class = "{{ asset_class }}"
server = "cell-1"
path = "Machines/{{ asset_id }}/Monitoring"

{% endfor %}
{% for asset_class in plant.assets.values() | unique %}
[asset_class.{{ asset_class }}]

{% endfor %}
[uplink]
cloud_url = "{{ cloud_url }}"
ca_file = "/etc/wearsight/tls/ca.pem"
certificate_file = "/etc/wearsight/tls/gateway.pem"
key_file = "/etc/wearsight/secrets/gateway.key"
segment_interval_s = 1.0

[bundles]
trusted_key_file = "/etc/wearsight/tls/bundle-signing.pub"
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A plant, a cloud and a host, all on one bridge, and the inventory that names them."""

    lab: Lab
    host: Host
    folder: Path
    inventory: Path
    plant: dict[str, Any]
    plant_commands: IO[str]
    cloud: Path

    def play(self, playbook: str, *options: str) -> str:
        """Run one of the collection's playbooks over ssh; return what it said."""
        with self.playing(playbook, *options) as run:
            said, _ = run.communicate(timeout=280)
        assert run.returncode == 0, said
        return said

    def playing(self, playbook: str, *options: str) -> subprocess.Popen[str]:
        """Start one of the collection's playbooks."""
        collections = link_collection(find_collection(), self.folder)
        environment = settings(collections, self.lab.folder) | {"ANSIBLE_HOST_KEY_CHECKING": "0", "LC_ALL": "C.UTF-8"}
        command = self.lab.inside("ansible-playbook", f"wearsight.fleet.{playbook}", "-i", self.inventory, *options)
        return subprocess.Popen(
            command, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def bundle(self, version: int) -> Path:
        """Return the archive of a release that the cloud's key signed."""
        key = load_pem_private_key((self.cloud / "pki/bundle-signing.key").read_bytes(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return make_bundle(self.folder, version=version, signing_key=key)

    def health(self) -> dict[str, Any]:
        """Return what the gateway on the host says of itself."""
        answer = self.host.run(
            "python3",
            "-c",
            "'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9101/health\").read().decode())'",
        )
        health: dict[str, Any] = json.loads(answer.stdout)
        return health

    def ledger(self) -> list[dict[str, Any]]:
        """Return what the cloud holds, by journal."""
        command = [str(PROGRAMS / "wearsight-cloud"), "ledger", "--json", "--config", str(self.cloud / "cloud.toml")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        journals: list[dict[str, Any]] = json.loads(done.stdout)["journals"]
        return journals


def changed(output: str) -> int:
    """Return how many tasks changed something, from the play's last lines."""
    return sum(map(int, re.findall(r"changed=(\d+)", output)))


def wheelhouse(folder: Path) -> Path:
    """Fill *folder* with the wheels of this tree and of all it needs."""
    subprocess.run([sys.executable, TREE / "scripts/wheelhouse", folder], check=True)
    return folder


def cloud(lab: Lab, folder: Path) -> Path:
    """Make a cloud that knows the gateway ``h1``, and start it on the bridge."""
    program = PROGRAMS / "wearsight-cloud"
    subprocess.run([program, "init", folder, "--server-name", lab.address], check=True)
    (folder / "cloud.toml").write_text(
        f'[ingest]\naddress = "{lab.address}:{CLOUD_PORT}"\n[web]\naddress = "127.0.0.1:8080"\n'
    )
    enroll = ["enroll", "h1", "--out", str(folder / "h1"), "--config", str(folder / "cloud.toml")]
    subprocess.run([str(program), *enroll], check=True)
    with (folder / "cloud.log").open("w") as log:
        process = lab.start(
            program, "serve", "--config", folder / "cloud.toml", "--ready-file", folder / "ready", log=log
        )
    while not (folder / "ready").exists():
        assert process.poll() is None, (folder / "cloud.log").read_text()
        time.sleep(0.05)
    return folder


def plant(lab: Lab, folder: Path) -> tuple[dict[str, Any], IO[str]]:
    """Start a cell of the plant on the bridge; return what it says when it is ready, and where it takes commands."""
    folder.mkdir()
    words = ["-m", "demo.plant", "--cell", "cell-1", "--host", lab.address, "--port", PLANT_PORT, "--folder", folder]
    with (folder / "plant.log").open("w") as log:
        process = lab.start(sys.executable, *map(str, words), log=log)
    while not (said := (folder / "plant.log").read_text()).startswith("{") or "\n" not in said:
        assert process.poll() is None, said
        time.sleep(0.05)
    ready: dict[str, Any] = json.loads(said.splitlines()[0])
    assert process.stdin is not None
    return ready, process.stdin


def inventory(path: Path, *, lab: Lab, host: Host, plant: dict[str, Any], cloud: Path, wheels: Path) -> Path:
    """Write the inventory that a user would: one gateway, its files, and where to reach it."""
    (path.parent / "gateway.toml.j2").write_text(CONFIG)
    (path.parent / "tags.csv").write_text(format_tags([]))
    variables = {
        "ansible_host": host.address,
        "ansible_user": "ansible",
        "ansible_ssh_private_key_file": str(lab.key),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": True,
        "gateway_user": "wearsight",
        "gateway_version": VERSION,
        "gateway_wheelhouse": f"http://{lab.address}:{WHEELS_PORT}",
        "gateway_requirements": str(wheels / "requirements.txt"),
        "gateway_config_file": str(path.parent / "gateway.toml.j2"),
        "gateway_certificates": [
            {"name": name, "source": str(cloud / "h1" / name)}
            for name in ("ca.pem", "gateway.pem", "bundle-signing.pub")
        ],
        "gateway_secrets": [
            {"name": "gateway.key", "source": str(cloud / "h1/gateway.key")},
            {"name": "cell-1.password", "source": plant["password_file"]},
        ],
        "gateway_trusted_servers": [plant["certificate"]],
        "gateway_tags_file": str(path.parent / "tags.csv"),
        "gateway_memory_max": "512M",
        # The bench is a machine the plant does not have: there is only the model release for its class to see.
        "plant": {**plant, "assets": {**plant["assets"], "bench-1": ASSET_CLASS}},
        "cloud_url": f"https://{lab.address}:{CLOUD_PORT}",
    }
    path.write_text(json.dumps({"gateways": {"children": {"canary": {"hosts": {"h1": variables}}}}}, indent=2))
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The whole site, with the gateway installed once; the tests look at what came of it."""
    require()
    folder = tmp_path_factory.mktemp("site")
    wheels = wheelhouse(folder / "wheels")
    with Lab() as lab:
        host = lab.host("h1", 11)
        with (folder / "wheels.log").open("w") as log:
            serve = ["-m", "http.server", str(WHEELS_PORT), "--bind", lab.address, "--directory", str(wheels)]
            lab.start(sys.executable, *serve, log=log)
        cloud_folder = cloud(lab, folder / "cloud")
        ready, commands = plant(lab, folder / "plant")
        listed = inventory(
            folder / "inventory.json", lab=lab, host=host, plant=ready, cloud=cloud_folder, wheels=wheels
        )
        yield Site(
            lab=lab,
            host=host,
            folder=folder,
            inventory=listed,
            plant=ready,
            plant_commands=commands,
            cloud=cloud_folder,
        )


@pytest.fixture(scope="module")
def installed(site: Site) -> Site:
    """The site with the gateway installed, and let in by the plant, which knows its certificate from then on."""
    site.play("site")
    certificate = site.host.run("sudo", "base64", "/var/lib/wearsight/pki/application.der").stdout
    Path(site.plant["trusted"], "h1.der").write_bytes(base64.b64decode(certificate))
    return site


def until(what: str, probe: Callable[[], bool], state: Callable[[], object], seconds: float = 120) -> None:
    """Wait until *probe* holds; *seconds* is only when to give up, telling *state*."""
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s; {state()}"
        time.sleep(0.5)


def test_a_check_of_an_empty_host_is_honest(site: Site) -> None:
    """It says that all would be installed, and nothing is there afterwards."""
    assert changed(site.play("site", "--check")) == 1
    assert site.host.run("test", "-e", "/opt/wearsight", check=False).returncode != 0


def test_the_gateway_runs_as_its_user_under_systemd(installed: Site) -> None:
    """It is active, comes back with the host, and is nobody else's process."""
    assert installed.host.run("systemctl", "is-active", "wearsight-gateway").stdout.strip() == "active"
    assert installed.host.run("systemctl", "is-enabled", "wearsight-gateway").stdout.strip() == "enabled"
    pid = installed.host.run("systemctl", "show", "-P", "MainPID", "wearsight-gateway").stdout.strip()
    assert installed.host.run("ps", "-o", "user=", "-p", pid).stdout.strip() == "wearsight"


def test_secrets_are_the_gateways_alone(installed: Site) -> None:
    """Mode and owner are what keeps another user of the host from the gateway's key."""
    listed = installed.host.run(
        "sudo", "find", "/etc/wearsight/secrets", "-type", "f", "-printf", r"'%m %u %f\n'"
    ).stdout
    assert sorted(listed.splitlines()) == ["600 wearsight cell-1.password", "600 wearsight gateway.key"]
    assert installed.host.run("cat", "/etc/wearsight/secrets/gateway.key", check=False).returncode != 0


def test_what_the_plant_makes_arrives_in_the_cloud(installed: Site) -> None:
    """Across the bridge: OPC UA in, mutual TLS out, and the ledger holds as much as the gateway stored."""
    installed.plant_commands.write("go\n")
    installed.plant_commands.flush()

    def arrived() -> bool:
        journals = installed.ledger()
        return bool(journals) and journals[0]["gateway_id"] == "h1" and journals[0]["observations"] > 10_000

    until("observations in the ledger", arrived, lambda: (installed.ledger(), installed.health()))
    installed.plant_commands.write("pause\n")
    installed.plant_commands.flush()

    def balance() -> tuple[int, int, int]:
        held = sum(journal["observations"] for journal in installed.ledger())
        return made_by(installed.folder / "plant"), installed.health()["uplink"]["observations_stored"], held

    until("made = stored = held", lambda: len({*balance()}) == 1, balance)


def made_by(plant_folder: Path) -> int:
    """Return how many observations the plant counted when it was paused; 0 while it is not."""
    lines = (plant_folder / "plant.log").read_text().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return sum(line["made"] for line in said if line["event"] == "paused")


def test_a_second_run_changes_nothing(installed: Site) -> None:
    """What is installed is left alone, and a check says the same without being asked to change."""
    assert changed(installed.play("site")) == 0
    assert changed(installed.play("site", "--check")) == 0


@pytest.fixture(scope="module")
def released(installed: Site) -> Site:
    """The site with version 1 of a bundle live on the host."""
    installed.play("rollout", *release(installed.bundle(1), version=1))
    return installed


def test_a_bundle_is_released_over_ssh_and_a_changed_one_refused(released: Site) -> None:
    """The gateway on the host takes what the cloud signed, once, and gives its reason for what it does not take."""
    first, second = (released.bundle(version) for version in (1, 2))
    assert released.health()["bundles"][ASSET_CLASS]["version"] == 1
    assert changed(released.play("rollout", *release(first, version=1))) == 0

    second.write_bytes(second.read_bytes().replace(b"test_machine", b"best_machine", 1))
    with pytest.raises(AssertionError, match="refused"):
        released.play("rollout", *release(second, version=2))
    assert released.health()["bundles"][ASSET_CLASS]["version"] == 1


def test_a_host_cut_off_while_it_is_watched_is_told_soon_and_the_next_rollout_heals_it(released: Site) -> None:
    """The rollout ends within seconds of the cut; with the cable back, the next one judges what was left unwatched.

    Nothing is measured on the bench, so here that is the way back, over ssh and as the service's user.
    """
    archive = released.bundle(3)
    with released.playing("rollout", *release(archive, version=3, windows=1)) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "Wait until the new models have scored enough windows" in line:
                break
        released.lab.cut(released.host)
        since = time.monotonic()
        try:
            said, _ = run.communicate(timeout=60)
        finally:
            released.lab.join(released.host)
        seconds = time.monotonic() - since
    assert seconds < CUT_OFF_TOLD_S
    assert re.search(r"h1 .*unreachable=1", said), said
    assert run.returncode != 0
    with pytest.raises(AssertionError, match="too few windows to judge by"):
        released.play("rollout", *release(archive, version=3, windows=1, timeout_s=1))
    assert released.health()["bundles"][ASSET_CLASS]["version"] == 1
    owners = released.host.run("sudo", "find", "/var/lib/wearsight/bundles", "-printf", r"'%u\n'").stdout
    assert set(owners.split()) == {"wearsight"}


def release(archive: Path, *, version: int, windows: int = 0, timeout_s: int = 120) -> tuple[str, ...]:
    """Return what the playbook is told of a release; nothing is measured on the bench, so none are waited for."""
    told = {
        "model_release_archive": str(archive),
        "model_release_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "model_release_asset_class": ASSET_CLASS,
        "model_release_version": version,
        "model_release_watch_windows": windows,
        "model_release_watch_timeout_s": timeout_s,
    }
    return ("-e", json.dumps(told))


def test_a_configuration_with_a_fault_does_not_land(installed: Site) -> None:
    """The gateway's own check refuses it, and the one that runs stays."""
    before = installed.host.run("sudo", "sha256sum", "/etc/wearsight/gateway.toml").stdout
    wrong = installed.folder / "wrong.toml.j2"
    wrong.write_text(CONFIG + "surprise = 1\n")
    with pytest.raises(AssertionError, match="surprise"):
        installed.play("site", "-e", f"gateway_config_file={wrong}")
    assert installed.host.run("sudo", "sha256sum", "/etc/wearsight/gateway.toml").stdout == before
    assert installed.health()["gateway_id"] == "h1"


def test_a_tag_list_that_fits_nothing_is_told(installed: Site) -> None:
    """The playbook ends with the reason; the gateway goes on with what it read before, and the next run heals it."""
    wrong = installed.folder / "wrong.csv"
    wrong.write_text(
        format_tags([TagRow(server="nobody", asset_id="a", asset_class=ASSET_CLASS, channel="c", path="P")])
    )
    with pytest.raises(AssertionError, match="names no server"):
        installed.play("site", "-e", f"gateway_tags_file={wrong}")
    assert installed.health()["acquisition"]["cell-1"]["connected"]
    installed.play("site")


def test_the_memory_limit_ends_a_process_that_takes_too_much(installed: Site) -> None:
    """The unit has the limit, and this host enforces limits: the same process lives without one."""
    assert installed.host.run("systemctl", "show", "-P", "MemoryMax", "wearsight-gateway").stdout.strip() == "536870912"
    hog = ("python3", "-c", "'x = bytearray(200 << 20)'")
    run = ("sudo", "systemd-run", "--wait", "--quiet")
    assert installed.host.run(*run, *hog, check=False).returncode == 0
    assert installed.host.run(*run, "-p", "MemoryMax=64M", *hog, check=False).returncode != 0


def test_the_unit_is_sandboxed(installed: Site) -> None:
    """The own measure of systemd of what the service could do, 0 to 10, stays low."""
    said = installed.host.run("systemd-analyze", "security", "--threshold=25", "wearsight-gateway", check=False)
    assert said.returncode == 0, said.stdout[-300:]
