"""Throw-away hosts with an address, a root and a systemd of their own, without Docker.

A lab is one network namespace that owns a bridge; whoever talks to the hosts runs in it. Each host is a namespace on
that bridge, an overlay over the shared root, and systemd-nspawn in control groups below our own. The machine's own
network gets no address, route or rule, so nothing can leave the lab and nothing can come in.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pytest

from tests.integration.hosts import base

NETWORK = "10.77.0"
CONTROLLERS = frozenset({"memory", "cpu", "cpuacct", "cpu,cpuacct", "pids", "devices", "blkio"})
SSH_OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3"),
)
_numbers = itertools.count()


def require() -> None:
    """Skip the test, by name of what is missing, where no host can be made; fail instead where nothing may skip."""
    missing = [
        program for program in ("systemd-nspawn", "mmdebstrap", "ip", "ssh", "ssh-keygen") if not shutil.which(program)
    ]
    if os.geteuid() != 0:
        reason = "test hosts need root"
    elif missing:
        reason = f"test hosts need {', '.join(missing)}; make integration installs them"
    elif subprocess.run(["unshare", "--net", "--mount", "true"], check=False, capture_output=True).returncode:
        reason = "test hosts need network namespaces, which this machine refuses"
    else:
        return
    if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def control_groups(run: str, name: str) -> list[Path]:
    """Return the host's own control groups, one in each of the machine's trees, all below the group we run in."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        below = f"{own.rstrip('/')}/{run}/{name}".lstrip("/")
        if controllers in CONTROLLERS:
            groups.append(Path("/sys/fs/cgroup") / controllers / below)
        elif controllers == "name=systemd":
            groups.append(Path("/sys/fs/cgroup/systemd") / below)
        elif controllers == "":
            unified = Path("/sys/fs/cgroup/unified")
            groups.append((unified if unified.is_dir() else Path("/sys/fs/cgroup")) / below)
    return groups


def ip(*arguments: str) -> None:
    """Run iproute2 and raise with its words when it fails."""
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def retried(attempt: str, seconds: float, probe: Sequence[str]) -> None:
    """Run *probe* until it succeeds; *seconds* is only when to give up."""
    deadline = time.monotonic() + seconds
    while (done := subprocess.run(probe, check=False, capture_output=True, text=True)).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{attempt}: not after {seconds:.0f} s; last words: {done.stderr.strip()}")
        time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Host:
    """One running host.

    Attributes:
        name: Its name in the lab, at most 8 letters.
        address: Its address on the lab's bridge.
        namespace: Its network namespace.
        folder: What it keeps: ``root`` (mounted), ``up`` (all it wrote), ``console``.
        groups: Its control groups.
        ssh_command: Words that start a command on it as the user Ansible comes as, who may sudo.
    """

    name: str
    address: str
    namespace: str
    folder: Path
    groups: tuple[Path, ...]
    ssh_command: tuple[str, ...]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run *command* there over ssh; each word is the remote shell's to read."""
        done = subprocess.run([*self.ssh_command, *command], check=False, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def kill(self) -> None:
        """End every process of this host at once, as a power cut would, and no other."""
        unified = next(group for group in self.groups if (group / "cgroup.kill").exists())
        (unified / "cgroup.kill").write_text("1")


@dataclass(kw_only=True)
class Lab:
    """The bridge and its hosts, gone when the block ends; ``address`` is the controller's on the bridge."""

    address: str = f"{NETWORK}.1"
    folder: Path = field(init=False)
    run_name: str = field(init=False)
    hosts: dict[str, Host] = field(default_factory=dict)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)
    _booted: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Make the namespace and the bridge, after clearing what runs that were killed left of theirs."""
        runs = base.cache() / "runs"
        for left in runs.glob("ws*"):
            if not Path(f"/proc/{left.name[2:].split('-')[0]}").exists():
                clear(left)
        self.run_name = f"ws{os.getpid()}-{next(_numbers)}"
        self.folder = runs / self.run_name
        self.folder.mkdir(parents=True)
        try:
            ip("netns", "add", self.run_name)
            self._ip("link", "set", "lo", "up")
            self._ip("link", "add", "br0", "type", "bridge")
            self._ip("addr", "add", f"{self.address}/24", "dev", "br0")
            self._ip("link", "set", "br0", "up")
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        except BaseException:
            clear(self.folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was started here and remove every trace of the hosts."""
        for process in reversed(self._started):
            if process.poll() is None:
                process.terminate()
        for process in self._started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        clear(self.folder)
        for process in self._booted:
            process.wait()

    @property
    def key(self) -> Path:
        """The private key this run's hosts let in."""
        return self.folder / "key"

    def _ip(self, *arguments: str) -> None:
        ip("-n", self.run_name, *arguments)

    def inside(self, *command: str | Path) -> list[str]:
        """Return the words that run *command* in the lab."""
        return ["ip", "netns", "exec", self.run_name, *map(str, command)]

    def start(
        self, *command: str | Path, log: IO[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start *command* in the lab, its words going to *log*, its input a pipe; it ends with the lab."""
        process = subprocess.Popen(
            self.inside(*command),
            text=True,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        self._started.append(process)
        return process

    def host(self, name: str, number: int) -> Host:
        """Make and boot a host; returns when it answers over ssh."""
        folder = self.folder / name
        for part in ("up", "work", "root"):
            (folder / part).mkdir(parents=True)
        namespace, address = f"{self.run_name}-{name}", f"{NETWORK}.{number}"
        layers = f"lowerdir={base.built()},upperdir={folder / 'up'},workdir={folder / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(folder / "root")], check=True)
        self._furnish(folder / "root", name, address)
        ip("netns", "add", namespace)
        ip(
            "link",
            "add",
            f"v-{name}",
            "netns",
            self.run_name,
            "type",
            "veth",
            "peer",
            "name",
            "host0",
            "netns",
            namespace,
        )
        self._ip("link", "set", f"v-{name}", "master", "br0", "up")
        for change in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{address}/24", "dev", "host0"),
            ("link", "set", "host0", "up"),
        ):
            ip("-n", namespace, *change)
        ssh = self.inside("ssh", "-i", self.key, *SSH_OPTIONS, f"{base.USER}@{address}")
        groups = tuple(control_groups(self.run_name, name))
        (folder / "groups").write_text("\n".join(map(str, groups)))
        self.hosts[name] = Host(
            name=name, address=address, namespace=namespace, folder=folder, groups=groups, ssh_command=tuple(ssh)
        )
        self._boot(self.hosts[name])
        return self.hosts[name]

    def cut(self, host: Host) -> None:
        """Pull the cable of *host*: nobody tells either end."""
        self._ip("link", "set", f"v-{host.name}", "down")

    def join(self, host: Host) -> None:
        """Put the cable back."""
        self._ip("link", "set", f"v-{host.name}", "up")

    def _furnish(self, system: Path, name: str, address: str) -> None:
        (system / "etc/hostname").write_text(f"{name}\n")
        (system / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        host_key = system / "etc/ssh/ssh_host_ed25519_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)], check=True)
        keys = system / "home" / base.USER / ".ssh"
        keys.mkdir(mode=0o700)
        (keys / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (keys / "authorized_keys").chmod(0o600)
        owner = (system / "home" / base.USER).stat()
        for path in (keys, keys / "authorized_keys"):
            os.chown(path, owner.st_uid, owner.st_gid)

    def _boot(self, host: Host) -> None:
        for group in host.groups:
            group.mkdir(parents=True, exist_ok=True)
        join = 'for group in "$@"; do echo $$ > "$group/cgroup.procs"; done'
        nspawn = [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine={host.namespace}"),
            *(f"--directory={host.folder / 'root'}", f"--network-namespace-path=/run/netns/{host.namespace}"),
            *("--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--kill-signal=SIGRTMIN+3"),
            *("--capability=CAP_NET_ADMIN,CAP_BPF", "--drop-capability=CAP_MKNOD", "--system-call-filter=bpf"),
            "/test-host-init",
        ]
        with (host.folder / "console").open("w") as console:
            process = subprocess.Popen(
                ["bash", "-c", f"{join}; exec {' '.join(nspawn)}", "boot", *map(str, host.groups)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        self._booted.append(process)
        try:
            retried(f"{host.name} answers over ssh", 20, [*host.ssh_command, "true"])
        except TimeoutError as error:
            raise TimeoutError(f"{error}\nconsole: {(host.folder / 'console').read_text()[-2000:]}") from None


def clear(run: Path) -> None:
    """Remove the hosts, namespaces and control groups of the lab that kept its things in *run*, and nothing else."""
    for folder in (path for path in run.iterdir() if path.is_dir()):
        listed = folder / "groups"
        groups = [Path(line) for line in listed.read_text().split()] if listed.exists() else []
        _end_processes(groups)
        subprocess.run(["umount", str(folder / "root")], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", f"{run.name}-{folder.name}"], check=False, capture_output=True)
        for group in groups:
            _remove_group(group)
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{run.name}-{folder.name}", ignore_errors=True)
    subprocess.run(["ip", "netns", "del", run.name], check=False, capture_output=True)
    if not any(os.path.ismount(folder / "root") for folder in run.iterdir()):
        shutil.rmtree(run)


def _end_processes(groups: Sequence[Path]) -> None:
    for group in groups:
        kill = group / "cgroup.kill"
        if not kill.exists():
            continue
        kill.write_text("1")
        deadline = time.monotonic() + 10
        while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)


def _remove_group(group: Path) -> None:
    for _ in range(20):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):  # a process of it may still be leaving
                Path(folder).rmdir()
        if not group.exists():
            break
        time.sleep(0.05)
    with contextlib.suppress(OSError):  # the next host's group may still be in it
        group.parent.rmdir()
