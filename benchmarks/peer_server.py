"""The servers that `benchmarks.acquisition` reads, as processes: one on async-opcua, and the frame server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from asyncua.client.client import Client
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from benchmarks.frame_server import NAMESPACE, URI
from gateway.data_acquisition import ensure_application_certificate

_SOURCE = Path(__file__).parents[1] / "tests" / "integration" / "peers" / "async-opcua"
_START_S = 30.0
_END_S = 5.0
_LAST_TICK_S = 0.2  # the one that was under way when it was told to stop


class Process:
    """A program that answers lines on its standard input with lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def line(self) -> str:
        """Return the next line it prints.

        Raises:
            RuntimeError: If it ended; what it said is on standard error.
        """
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        if not line:
            raise RuntimeError("a program of the benchmark ended by itself; see its message above")
        return line

    def tell(self, line: str) -> None:
        """Send it *line*."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def ask(self, line: str) -> Any:
        """Send it *line* and return its answer, JSON."""
        self.tell(line)
        return json.loads(await self.line())

    @property
    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process.returncode is not None


@asynccontextmanager
async def running(*command: str | Path, log: Path | None = None) -> AsyncIterator[Process]:
    """Run *command*; with the block its input ends, then it is interrupted, then killed."""
    with (log or Path(os.devnull)).open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors if log is not None else None,
        )
    try:
        yield Process(process)
    except RuntimeError:
        if log is not None:
            print(log.read_text()[-2000:], file=sys.stderr)  # noqa: ASYNC240 - nothing else runs
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()
        for insist in (process.terminate, process.kill):
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
            if process.returncode is None:
                insist()
        await process.wait()


class LoadServer:
    """A server with a load that is switched on and off, and the certificate (DER) it shows."""

    def __init__(self, process: Process, endpoint: str, certificate: Path) -> None:
        self.process = process
        self.endpoint = endpoint
        self.certificate = certificate

    async def namespace(self) -> int:
        """Return the index of the nodes' namespace."""
        async with Client(self.endpoint) as client:
            return await client.get_namespace_index(NAMESPACE)

    async def go(self) -> None:
        """Change every node, each period, from now on."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Change nothing from now on."""
        raise NotImplementedError

    async def changes(self) -> int:
        """Return how many values the nodes took since the start."""
        raise NotImplementedError


class AsyncOpcua(LoadServer):
    """Our server on async-opcua, in Rust: `scripts/opcua-peers` builds it."""

    def __init__(self, process: Process, endpoint: str, certificate: Path, nodes: int) -> None:
        super().__init__(process, endpoint, certificate)
        self._nodes = nodes

    @staticmethod
    def version() -> str:
        """Return the library's version."""
        text = (_SOURCE / "Cargo.toml").read_text()
        return str(re.findall(r'^async-opcua = .*"=([^"]+)"', text, re.MULTILINE)[0])

    @staticmethod
    @cache
    def program() -> Path:
        """Return where `scripts/opcua-peers` puts the server that is built from the source as it is."""
        files = [_SOURCE / "Cargo.toml", *sorted((_SOURCE / "src").glob("*.rs"))]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "wearsight" / f"async-opcua-{AsyncOpcua.version()}-{digest[:8]}" / "server"

    @classmethod
    def lacking(cls) -> str:
        """Return what is not there; nothing when all is."""
        there = cls.program().is_file()
        return "" if there else f"async-opcua {cls.version()} is not there; scripts/opcua-peers builds it"

    @classmethod
    @asynccontextmanager
    async def serving(cls, folder: Path, nodes: int, period_ms: int) -> AsyncIterator[AsyncOpcua]:
        """Run it with *nodes* nodes that change every *period_ms*, once it is told to."""
        certificate, key = ensure_application_certificate(folder, URI, "benchmark")
        (folder / "server.der").write_bytes(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), None)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "server.key.pem").touch(mode=0o600)
        (folder / "server.key.pem").write_bytes(pem)
        port = _free_port()
        async with running(cls.program(), "load", str(port), folder, str(nodes), str(period_ms)) as process:
            assert await process.line() == "up"
            endpoint = f"opc.tcp://127.0.0.1:{port}/"
            await _answers(endpoint)
            yield cls(process, endpoint, certificate, nodes)

    async def go(self) -> None:
        """Start the ticks."""
        self.process.tell("go")

    async def stop(self) -> None:
        """Stop them."""
        self.process.tell("stop")
        await asyncio.sleep(_LAST_TICK_S)

    async def changes(self) -> int:
        """Return how many values the ticks were so far."""
        return self._nodes * int(await self.process.ask("ticks"))


class FrameServer(LoadServer):
    """The frame server, at a fixed rate or as fast as it is asked."""

    def __init__(self, process: Process, endpoint: str, certificate: Path, rate: float) -> None:
        super().__init__(process, endpoint, certificate)
        self.rate = rate

    @classmethod
    @asynccontextmanager
    async def serving(cls, folder: Path, nodes: int, rate: float = 0.0) -> AsyncIterator[FrameServer]:
        """Run it with *nodes* nodes; *rate* values per second are what `go` asks of it."""
        command = (sys.executable, "-m", "benchmarks.frame_server", "--folder", folder, "--nodes", str(nodes))
        async with running(*command) as process:
            yield cls(process, await process.line(), folder / "application.der", rate)

    async def go(self) -> None:
        """Start sending."""
        self.process.tell(f"rate {'max' if self.rate == float('inf') else self.rate}")

    async def stop(self) -> None:
        """Stop sending; what is behind is forgotten."""
        self.process.tell("rate 0")

    async def changes(self) -> int:
        """Return how many values were sent so far."""
        return int((await self.told())["sent"])

    async def told(self) -> dict[str, float]:
        """Return how many values were ``due`` and ``sent`` so far."""
        return dict(await self.process.ask("told"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(endpoint: str) -> None:
    """Return when the server at *endpoint* does."""
    async with asyncio.timeout(_START_S):
        while True:
            with suppress(OSError):
                await Client(endpoint).connect_and_get_server_endpoints()
                return
            await asyncio.sleep(0.05)
