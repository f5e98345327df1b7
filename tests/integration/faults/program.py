"""The gateway as people run it: the program, its configuration file and its HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.data_acquisition import ensure_application_certificate
from gateway.data_acquisition.certificate import application_uri
from tests.gateway.data_acquisition.small_plant import free_port
from tests.integration.peers.server import ROOT

GATEWAY_ID = "gw-1"
_STARTED_S, _STOPPED_S = 60.0, 60.0
_SECURED = 'user = "gateway"\npassword_file = "password"\n'
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says
_OPEN = 'security = "None"\n'


@dataclass(frozen=True, kw_only=True)
class Server:
    """One ``[[server]]`` of the configuration: secured with a user, or open without one."""

    name: str
    port: int
    is_open: bool = False

    def table(self) -> str:
        """Return it as TOML."""
        return (
            f'[[server]]\nname = "{self.name}"\nendpoint = "opc.tcp://127.0.0.1:{self.port}/peer"\n'
            f"{_OPEN if self.is_open else _SECURED}\n"
        )


class GatewayProgram:
    """``wearsight-gateway run`` in a folder of its own.

    Args:
        folder: Made here.
        trusted: Certificates (DER) of the servers it trusts.
    """

    def __init__(self, folder: Path, trusted: Iterable[bytes] = ()) -> None:
        self.folder, self.state_dir = folder, folder / "state"
        self.certificate = b""
        self._status_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        pki = self.state_dir / "pki"
        pki.mkdir(parents=True)
        ensure_application_certificate(pki, application_uri(GATEWAY_ID), f"Wearsight gateway {GATEWAY_ID}")
        self.certificate = (pki / "application.der").read_bytes()
        (pki / "trusted").mkdir(exist_ok=True)
        for number, certificate in enumerate(trusted):
            self.trust(certificate, f"server-{number}")
        (folder / "password").write_text("secret\n")

    def trust(self, certificate: bytes, name: str) -> None:
        """Put a server's certificate among the trusted ones."""
        (self.state_dir / "pki" / "trusted" / f"{name}.der").write_bytes(certificate)

    def configure(
        self,
        servers: Sequence[Server],
        assets: Mapping[str, str],
        *,
        acquisition: Mapping[str, float] | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Write ``gateway.toml``.

        Args:
            servers: The servers.
            assets: Asset ids of pumps found by path, each with its server's name.
            acquisition: Keys of ``[acquisition]``.
            tags: Lines of the tag list, without its header; none: there is no tag list.
        """
        keys = {"publishing_interval_ms": 100.0, **(acquisition or {})}
        text = [
            f'gateway_id = "{GATEWAY_ID}"\nstate_dir = "state"\n' + 'tags_file = "tags.csv"\n' * bool(tags),
            f'[status]\naddress = "127.0.0.1:{self._status_port}"\n',
            "[acquisition]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()),
            *(server.table() for server in servers),
            *(
                f'[[asset]]\nasset_id = "{asset}"\nasset_class = "pump"\nserver = "{server}"\n'
                f'path = "Machines/{asset}/Monitoring"\n'
                for asset, server in assets.items()
            ),
            "[asset_class.pump]\n",
        ]
        if tags:
            self.list_tags(tags)
        (self.folder / "gateway.toml").write_text("\n".join(text))

    def list_tags(self, tags: Sequence[str]) -> None:
        """Replace the tag list, whole, as an editor does: server, asset, class, channel, node."""
        beside = self.folder / "tags.csv.new"
        beside.write_text("\n".join(["server,asset_id,asset_class,channel,node", *tags]) + "\n")
        beside.rename(self.folder / "tags.csv")

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it answers."""
        self._process = self._spawn(environment or {})
        await self.until(bool, within_s=_STARTED_S)

    def _spawn(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("wearsight-gateway")
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [program, "run", "--config", self.folder / "gateway.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **environment},
            )

    async def stop(self) -> float:
        """End it kindly and return how many seconds that took; that it fails, or does not end, is a failure."""
        process = self._process
        assert process is not None
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(process.wait, _STOPPED_S)
        finally:
            self.kill()
        assert code == 0, f"the gateway ended with {code}: {self.log()[-2000:]}"
        return time.monotonic() - started

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """Return what it wrote so far."""
        return (self.folder / "log").read_text(errors="replace")

    async def health(self) -> dict[str, Any]:
        """Return what /health answers; empty while it does not."""
        assert self._process is not None
        assert self._process.poll() is None, f"the gateway ended by itself: {self.log()[-4000:]}"
        return await asyncio.to_thread(_fetched, f"http://127.0.0.1:{self._status_port}/health")

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, within_s: float = 60.0) -> dict[str, Any]:
        """Return its health once it answers and is as wanted."""
        health: dict[str, Any] = {}
        try:
            async with asyncio.timeout(within_s):
                while not (health := await self.health()) or not holds(health):  # noqa: ASYNC110 - it does not tell
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"not within {within_s:g} s: {health}") from None
        return health

    def rss_mib(self) -> float:
        """Return the memory it has now, in MiB."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024


def _fetched(url: str) -> dict[str, Any]:
    try:
        with _DIRECTLY.open(url, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except OSError:
        return {}
