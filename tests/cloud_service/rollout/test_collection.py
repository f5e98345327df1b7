"""The collection as a whole: its inputs are described as they are, and it is found where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cloud_service.errors import CollectionMissing
from cloud_service.rollout.collection import find_collection, link_collection, settings

ROLES = sorted(path.name for path in (find_collection() / "roles").iterdir())
STEPS = {
    "gateway": ["preflight", "install", "configure", "run", "verify"],
    "model_release": ["preflight", "fetch", "verify", "place", "switch", "watch", "roll_back"],
}


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_descriptions_say_the_same(role: str) -> None:
    """Every input is described, and has either the described default or none and is required."""
    folder = find_collection() / "roles" / role
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text())
    options = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]

    assert {name: option["default"] for name, option in options.items() if not option.get("required")} == defaults
    assert all(name.startswith(f"{role}_") for name in options)
    assert all(option["description"] for option in options.values())


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_told_in_its_steps(role: str) -> None:
    """One file a step, in this order, and nothing beside them."""
    tasks = find_collection() / "roles" / role / "tasks"
    told = [
        line.split()[-1].removesuffix(".yml")
        for line in (tasks / "main.yml").read_text().splitlines()
        if "_tasks:" in line
    ]

    assert told == STEPS[role]
    assert sorted(path.stem for path in tasks.iterdir()) == sorted([*told, "main"])


def test_the_installed_collection_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source tree it is where the wheel puts it."""
    monkeypatch.setattr("cloud_service.rollout.collection.__file__", str(tmp_path / "site-packages/a/b/c.py"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(CollectionMissing, match=r"wearsight\.fleet"):
        find_collection()
    installed = tmp_path / "share/wearsight/ansible_collections/wearsight/fleet"
    installed.mkdir(parents=True)
    (installed / "galaxy.yml").touch()

    assert find_collection() == installed


def test_a_folder_is_linked_anew(tmp_path: Path) -> None:
    """A run that finds the link of an earlier one points it to its own collection."""
    (tmp_path / "old").mkdir()
    link_collection(tmp_path / "old", tmp_path)
    collections = link_collection(find_collection(), tmp_path)

    assert (collections / "ansible_collections/wearsight/fleet/galaxy.yml").is_file()


def test_connections_end_when_their_host_is_gone(tmp_path: Path) -> None:
    """Without these two settings a playbook hangs on a host that was cut off."""
    arguments = settings(tmp_path, tmp_path)["ANSIBLE_SSH_ARGS"]

    assert "ServerAliveInterval=1" in arguments
    assert "ServerAliveCountMax=3" in arguments
