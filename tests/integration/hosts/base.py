"""The file system every test host starts from: a small Debian 12 with systemd, sshd and Python, built once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"
# What a gateway's Debian has before us: an init, sshd, sudo, and what Ansible's apt and pip modules need on the host.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo", "procps", "netbase"),
    *("python3", "python3-apt", "python3-packaging", "python3-venv", "ca-certificates", "iproute2"),
)
USER = "ansible"
# PID 1 until it hands over. nspawn mounts the v1 controllers read-only, and systemd would then ignore every
# limit in silence: so the host's own part is made writable first.
INIT = """#!/bin/sh
for c in memory cpu cpuacct pids devices blkio; do
  [ -d /sys/fs/cgroup/$c ] && mount -o remount,bind,rw /sys/fs/cgroup/$c
done
exec /usr/lib/systemd/systemd
"""
TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer")
REVISION = "1"  # raised when prepare() changes


def cache() -> Path:
    """Return the folder in the user's cache that holds roots and running hosts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wearsight" / "hosts"


def built() -> Path:
    """Return the root, building it first when there is none: 20 s and 270 MB from the Debian mirror."""
    key = hashlib.sha256("\n".join((REVISION, SUITE, INIT, *PACKAGES)).encode()).hexdigest()[:12]
    root = cache() / f"{SUITE}-{key}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once build it once
        if not root.is_dir():
            draft = root.with_suffix(".draft")
            if draft.exists():
                shutil.rmtree(draft)
            bootstrap(draft)
            prepare(draft)
            draft.rename(root)
    return root


def bootstrap(root: Path) -> None:
    """Unpack and configure the packages into *root*."""
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=apt",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(root),
    ]
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if sources.exists() and SUITE in sources.read_text():
        command.append(str(sources))
    subprocess.run(command, check=True)


def prepare(root: Path) -> None:
    """Give *root* its user, its silence (no package sources, no resolver, no timers) and the first process."""
    subprocess.run(["chroot", root, "useradd", "-m", "-s", "/bin/bash", "-p", "*", USER], check=True)
    for stale in (*root.glob("etc/ssh/ssh_host_*"), *root.glob("etc/apt/sources.list.d/*")):
        stale.unlink()
    (root / "etc/apt/sources.list").write_text("")
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").write_text("")
    sudoers = root / "etc/sudoers.d" / USER
    sudoers.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    (root / "etc/ssh/sshd_config.d/test-host.conf").write_text("UseDNS no\nPasswordAuthentication no\n")
    for timer in TIMERS:
        (root / "etc/systemd/system" / timer).symlink_to("/dev/null")
    init = root / "test-host-init"
    init.write_text(INIT)
    init.chmod(0o755)
