"""Where Ansible finds the collection ``wearsight.fleet``, and the settings it runs with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cloud_service.errors import CollectionMissing

# Without the ServerAlive settings a host that is cut off while a connection is open hangs the playbook for minutes.
SSH_ARGUMENTS = (
    "-o ControlMaster=auto -o ControlPersist=15s -o ConnectTimeout=3 -o ServerAliveInterval=1 -o ServerAliveCountMax=3"
)


def find_collection() -> Path:
    """Return the collection's folder: of the source tree this runs from, or as the distribution installs it.

    Raises:
        CollectionMissing: If it is in neither place.
    """
    candidates = (
        Path(__file__).resolve().parents[2] / "ansible",
        Path(sys.prefix) / "share/wearsight/ansible_collections/wearsight/fleet",
    )
    for candidate in candidates:
        if (candidate / "galaxy.yml").is_file():
            return candidate
    raise CollectionMissing(f"collection wearsight.fleet is in none of {', '.join(map(str, candidates))}")


def link_collection(collection: Path, folder: Path) -> Path:
    """Give *collection* the path Ansible looks for below *folder*; return what goes on the collections path."""
    link = folder / "collections/ansible_collections/wearsight/fleet"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(collection.resolve(), target_is_directory=True)
    return folder / "collections"


def settings(collections: Path, control_path_dir: Path) -> dict[str, str]:
    """Return the environment of an Ansible run: this interpreter's programs, our collection, connections that end.

    Args:
        collections: The folder that holds ``ansible_collections``.
        control_path_dir: Where connections are shared; short, for a socket's path has at most 107 bytes, and of this
            run alone, for a connection of an earlier one may lead nowhere.
    """
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_SSH_ARGS": SSH_ARGUMENTS,
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control_path_dir),
    }
