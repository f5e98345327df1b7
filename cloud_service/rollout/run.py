"""Roll a bundle out to gateways, the canary first, through the collection's playbook."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_runner

from cloud_service.errors import RolloutError
from cloud_service.rollout.collection import find_collection, link_collection, settings
from cloud_service.rollout.report import Listener, RolloutEvent, RolloutReport
from models.bundle.manifest import Manifest

KEPT_RUNS = 10


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How new models are judged on a gateway before they count as live.

    Attributes:
        windows: Windows they must have scored, and the previous models beside them; at most 1000.
        timeout_s: Seconds to wait for them; too few by then is not well.
        alert_budget: How much the share of windows in warning or alarm may grow over the previous models', 0 to 1.
        unknown_budget: The same for windows whose state is unknown.
    """

    windows: int = 20
    timeout_s: int = 120
    alert_budget: float = 0.1
    unknown_budget: float = 0.1


def roll_out(
    *,
    archive: Path,
    manifest: Manifest,
    inventory: Path | Mapping[str, Any],
    private_data_dir: Path,
    digest: str | None = None,
    watch: Watch | None = None,
    collection: Path | None = None,
    on_event: Callable[[RolloutEvent], None] | None = None,
) -> RolloutReport:
    """Release *archive* to the inventory's canary, and to the rest when the canary does well.

    A gateway that refuses the bundle, or is rolled back, or cannot be reached ends the rollout after its ring.

    Args:
        archive: The bundle's archive.
        manifest: Its manifest as the registry has it.
        inventory: An inventory file, or its content, with a group ``gateways`` and in it a group ``canary``.
        private_data_dir: Where ansible-runner keeps what it writes, a folder for each class; the last ten runs stay.
        digest: The archive's SHA-256 as the registry has it; None takes the archive as it is now.
        watch: How new models are judged; None for the defaults.
        collection: The collection's folder; None looks for it.
        on_event: Called with each step's end on each host, from the thread that called this.

    Raises:
        CollectionMissing: If there is no collection.
        RolloutError: If Ansible cannot run on this inventory.
    """
    watch = watch or Watch()
    # ansible-runner keeps one run's variables there: two classes may be rolled out at the same time.
    private_data_dir = private_data_dir.resolve() / re.sub(r"[^a-z0-9_]", "-", manifest.asset_class)
    private_data_dir.mkdir(parents=True, exist_ok=True)
    collections = link_collection(collection or find_collection(), private_data_dir)
    inventory_file = _inventory_file(inventory, private_data_dir)
    listener = Listener()

    def handle(event: dict[str, Any]) -> bool:
        heard = listener.hear(event)
        if heard is not None and on_event is not None:
            on_event(heard)
        return True  # else ansible-runner forgets the event

    with tempfile.TemporaryDirectory(prefix="ws-") as control_path_dir:
        environment = settings(collections, Path(control_path_dir))
        hosts = _hosts(inventory_file, environment)
        run = ansible_runner.run(
            private_data_dir=str(private_data_dir),
            playbook="wearsight.fleet.rollout",
            inventory=str(inventory_file),
            envvars=environment,
            extravars={
                "model_release_archive": str(archive.resolve()),
                "model_release_sha256": digest or hashlib.sha256(archive.read_bytes()).hexdigest(),
                "model_release_asset_class": manifest.asset_class,
                "model_release_version": manifest.version,
                "model_release_watch_windows": watch.windows,
                "model_release_watch_timeout_s": watch.timeout_s,
                "model_release_alert_budget": watch.alert_budget,
                "model_release_unknown_budget": watch.unknown_budget,
            },
            event_handler=handle,
            rotate_artifacts=KEPT_RUNS,
            quiet=True,
        )
    if not listener.accounts:
        raise RolloutError(f"ansible-playbook ended with {run.status} before any host: {run.stdout.read()[-2000:]}")
    return RolloutReport(asset_class=manifest.asset_class, version=manifest.version, hosts=listener.outcomes(hosts))


def _inventory_file(inventory: Path | Mapping[str, Any], folder: Path) -> Path:
    """Return the inventory as a file."""
    if isinstance(inventory, Path):
        return inventory.resolve()
    path = folder / "inventory.json"
    path.write_text(json.dumps(inventory, indent=2))
    return path


def _hosts(inventory: Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the hosts of the group ``gateways``, the canary first."""
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "--inventory", str(inventory), "--list"]
    done = subprocess.run(command, env=dict(os.environ, **environment), check=False, capture_output=True, text=True)
    if done.returncode:
        raise RolloutError(f"{inventory} is no inventory ({done.stderr.strip()}); nothing was rolled out")
    listed = json.loads(done.stdout)
    canary, everyone = _members(listed, "canary"), _members(listed, "gateways")
    return tuple(sorted(everyone, key=lambda host: host not in canary))


def _members(listed: Mapping[str, Any], group: str) -> tuple[str, ...]:
    """Return the hosts of *group* and of the groups in it, each once."""
    entry = listed.get(group, {})
    hosts = [
        *entry.get("hosts", ()),
        *(host for child in entry.get("children", ()) for host in _members(listed, child)),
    ]
    return tuple(dict.fromkeys(hosts))
