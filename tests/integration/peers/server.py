"""OPC UA servers of other makers, as processes: a pump that keeps a book of all it ever measured.

Each is a small server of ours on a maker's library (`scripts/opcua-peers` gets the libraries), started with a port and
a folder. The folder holds its certificate and key in the forms that makers want, and ``clients/*.der``, the clients it
trusts. It writes ``measured.csv``: channel (or asset/channel), source time in ns, status, numbers; a line before
anybody can see the value. What a channel WITH_HISTORY measured is also its history, before a restart too; the other
channels have none. It takes very few nodes in one request, lets in the user ``gateway`` with the password ``secret``,
and ends when its input does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import IO

import pytest

from tests.integration.peers.certificate import write_certificate

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
UNITS = {
    "bearing_temperature_c": ("°C", -40.0, 150.0, 0.0),
    "load_pct": ("%", 0.0, 100.0, 0.0),
    "speed_rpm": ("1/min", 0.0, 3600.0, 0.0),
    "vibration_waveform_m_s2": ("m/s²", -500.0, 500.0, 6400.0),
}
WITH_HISTORY = ("speed_rpm", "vibration_waveform_m_s2")
CHANNELS = tuple(UNITS)


@dataclass(frozen=True)
class Measured:
    """One value: when, with which status, and the number, or the samples of a waveform; NaN where there was none."""

    source_time: int
    status: int
    numbers: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(map(math.isnan, self.numbers)):  # one NaN for all, so that rows with it are equal
            object.__setattr__(self, "numbers", tuple(math.nan if math.isnan(n) else n for n in self.numbers))


class Maker(ABC):
    """Whose library a server stands on."""

    name: str
    version: str
    programs: tuple[str, ...]

    @property
    def library(self) -> Path:
        """Return where `scripts/opcua-peers` puts the library."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "wearsight" / f"{self.name}-{self.version}"

    def lacking(self) -> str:
        """Return what is not there that a server of this maker needs; nothing when all is."""
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{self.name} needs {program}, which is not on PATH"
        return "" if self.library.is_dir() else f"{self.name} {self.version} is not there; scripts/opcua-peers gets it"

    @abstractmethod
    def prepare(self, work: Path) -> None:
        """Make what starting needs, in the empty folder *work*."""

    @abstractmethod
    def command(self, work: Path) -> Sequence[str | Path]:
        """Return the program and its arguments before port and folder."""


class NodeOpcua(Maker):
    """node-opcua, in JavaScript."""

    name = "node-opcua"
    version = json.loads((HERE / name / "package.json").read_text())["dependencies"]["node-opcua-server"]
    programs = ("node",)

    def prepare(self, work: Path) -> None:
        """Put the script beside the library, where it looks for it."""
        (work / "node_modules").symlink_to(self.library / "node_modules")
        shutil.copy(HERE / self.name / "server.cjs", work)

    def command(self, work: Path) -> Sequence[str | Path]:
        """Run the script."""
        return ["node", work / "server.cjs"]


class Asyncua(Maker):
    """asyncua, in Python: the library the gateway itself stands on."""

    name = "asyncua"
    version = installed_version(name)
    programs = ()

    @property
    def library(self) -> Path:
        """Return where this Python has it."""
        return Path(sys.prefix)

    def prepare(self, work: Path) -> None:
        """Nothing is needed."""

    def command(self, work: Path) -> Sequence[str | Path]:  # noqa: ARG002 - the others' signature
        """Run the module."""
        return [sys.executable, "-m", "tests.integration.peers.asyncua_plant"]


class Milo(Maker):
    """Eclipse Milo, in Java."""

    name = "milo"
    version = re.findall(r"milo-sdk-server</artifactId><version>(.+?)<", (HERE / name / "pom.xml").read_text())[0]
    programs = ("java", "javac")

    def prepare(self, work: Path) -> None:
        """Compile our servers."""
        sources = [HERE / self.name / f"{name}.java" for name in ("Server", "Load")]
        command: list[str | Path] = [
            "javac",
            "-nowarn",
            "-encoding",
            "UTF-8",
            "-cp",
            f"{self.library}/lib/*",
            "-d",
            work,
        ]
        done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def command(self, work: Path) -> Sequence[str | Path]:
        """Run it, made for a short life in little room."""
        options = (
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xmx256m",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        )
        return ["java", *options, "-cp", f"{self.library}/lib/*:{work}", "Server"]


class MiloLoad(Milo):
    """Eclipse Milo with *nodes* that all change every *period_ms*: see ``Load.java``."""

    def __init__(self, nodes: int, period_ms: int) -> None:
        log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        self._options = ("-Xmx1g", log, f"-Dnodes={nodes}", f"-Dperiod={period_ms}")

    def command(self, work: Path) -> Sequence[str | Path]:
        """Run it, made for a long life."""
        return ["java", *self._options, "-cp", f"{self.library}/lib/*:{work}", "Load"]


class AsyncOpcua(Maker):
    """async-opcua, in Rust; the server is built with the library."""

    name = "async-opcua"
    version = re.findall(r'^async-opcua = .*"=([^"]+)"', (HERE / name / "Cargo.toml").read_text(), re.MULTILINE)[0]
    programs = ()
    # 0.19 sets the overflow bit without the info type that makes it one (0x80), on the newest value; we take it anyway.

    @property
    def library(self) -> Path:
        """Return where the server is that was built from the source as it is."""
        files = [HERE / self.name / "Cargo.toml", *sorted((HERE / self.name / "src").glob("*.rs"))]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        return Path(f"{super().library}-{digest[:8]}")

    def prepare(self, work: Path) -> None:
        """Nothing is needed."""

    def command(self, work: Path) -> Sequence[str | Path]:  # noqa: ARG002 - the others' signature
        """Run the program."""
        return [self.library / "server", "pump"]


class Peer:
    """One server, which can be killed and started again on the same port and book.

    Args:
        maker: Whose.
        folder: Its folder; made here.
        port: Its port on 127.0.0.1.
        clients: The certificates (DER) of the clients it trusts.
    """

    def __init__(self, maker: Maker, folder: Path, port: int, clients: Sequence[bytes]) -> None:
        self.maker = maker
        self.folder = folder
        self.port = port
        self.endpoint = f"opc.tcp://127.0.0.1:{port}/peer"
        self._work = folder / "work"
        self._process: subprocess.Popen[bytes] | None = None
        self._work.mkdir(parents=True)
        (folder / "clients").mkdir()
        for number, client in enumerate(clients):
            (folder / "clients" / f"{number}.der").write_bytes(client)
        self.certificate = write_certificate(folder, "urn:wearsight:test:peer", "peer")
        maker.prepare(self._work)

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert self._process is None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.maker.command(self._work), str(self.port), self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "HOME": str(self.folder), "PYTHONPATH": str(ROOT)},
            )
        assert self._process.stdout is not None
        if not _says_up(self._process.stdout):
            self.kill()
            pytest.fail(f"{self.maker.name} does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def tell(self, command: str) -> str:
        """Have it do what the line *command* says, if it is one that listens; return what it answers after ``done``."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(command.encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline().decode().strip()
        assert answer.startswith("done"), answer
        return answer.removeprefix("done").strip()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def book(self) -> dict[str, list[Measured]]:
        """Return all it ever measured, by channel, in time order; it goes on measuring meanwhile."""
        book: dict[str, list[Measured]] = {channel: [] for channel in CHANNELS}
        whole_lines = (self.folder / "measured.csv").read_text().split("\n")[:-1]
        for line in whole_lines:
            place, source_time, status, numbers = line.split(",")
            row = Measured(int(source_time), int(status), tuple(float(number) for number in numbers.split()))
            book[place.rpartition("/")[2]].append(row)
        return book


def _says_up(output: IO[bytes]) -> bool:
    return any(line.strip() == b"up" for line in output)
