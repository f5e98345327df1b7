"""A real InfluxDB 2 for tests: what ``make influxdb`` builds, on a loopback port, with a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gateway.config import HistorianConfig

VERSION = "2.7.12"
ORG = "wearsight"
TOKEN = "token-of-a-throw-away-server"


def program() -> Path:
    """Return where ``make influxdb`` puts the server."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "wearsight" / f"influxdb-{VERSION}" / "influxd"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class InfluxServer:
    """One influxd with its data in *folder*; it can be killed and started again on the same port and data.

    With *engine_mib* its data lies on a disk of that size of its own, which only it sees and which `discard` removes.
    """

    folder: Path
    port: int = field(default_factory=_free_port)
    org_id: str = ""
    buckets: int = 0
    engine_mib: int = 0
    process: subprocess.Popen[bytes] | None = None
    disk: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, wait until it answers, and on the first start make organisation and token."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._disk(),
                    program(),
                    *("--bolt-path", self.folder / "influxd.bolt"),
                    *("--engine-path", self.folder / "engine"),
                    *("--sqlite-path", self.folder / "influxd.sqlite"),
                    *("--http-bind-address", f"127.0.0.1:{self.port}"),
                    *("--reporting-disabled", "--log-level", "warn"),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 90
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"influxd does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        if not self.org_id:
            body = {"username": "admin", "password": "a password", "org": ORG, "bucket": "first", "token": TOKEN}
            self.org_id = self.call("/api/v2/setup", body)["org"]["id"]

    def _disk(self) -> tuple[str, ...]:
        """Return what is to run the program where its small disk is; made at the first start, in a mount namespace."""
        engine = self.folder / "engine"
        engine.mkdir(exist_ok=True)
        if not self.engine_mib:
            return ()
        if self.disk is None:
            mount = 'mount -t tmpfs -o size="$1"m tmpfs "$2" && echo mounted && exec sleep infinity'
            self.disk = subprocess.Popen(
                ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(self.engine_mib), str(engine)],
                stdout=subprocess.PIPE,
            )
            assert self.disk.stdout is not None
            if self.disk.stdout.readline() != b"mounted\n":
                self.disk.wait()
                refuse_or_skip("no mount namespace can be made here (unshare), so no small disk")
        return ("nsenter", "--user", "--mount", "--preserve-credentials", "--target", str(self.disk.pid))

    def on_disk(self, name: str) -> Path:
        """Return the path of *name* on the disk of its own, from outside."""
        assert self.disk is not None
        return Path(f"/proc/{self.disk.pid}/root") / (self.folder / "engine" / name).relative_to("/")

    def freeze(self) -> None:
        """Stop it where it stands, as a machine that swaps or a snapshot does; `thaw` lets it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def discard(self) -> None:
        """Kill it, and remove its disk."""
        self.kill()
        if self.disk is not None:
            self.disk.kill()
            self.disk.communicate()

    def end(self) -> None:
        """End it in an orderly way."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def call(self, path: str, body: dict[str, Any], *, method: str = "POST") -> Any:
        """Send *body* and return the answer."""
        request = urllib.request.Request(  # noqa: S310 - our own loopback server
            self.url + path, json.dumps(body).encode(), {"Authorization": f"Token {TOKEN}"}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return json.loads(answer.read() or b"null")

    def delete(self, path: str) -> None:
        """Delete what stands at *path*."""
        request = urllib.request.Request(  # noqa: S310 - the same
            self.url + path, headers={"Authorization": f"Token {TOKEN}"}, method="DELETE"
        )
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - the same
            pass

    def delete_points(self, config: HistorianConfig, since_ns: int) -> None:
        """Delete what is in the bucket of *config* from *since_ns* on."""
        since = f"{datetime.fromtimestamp(since_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
        query = f"org={ORG}&bucket={config.influxdb_bucket}"
        self.call(f"/api/v2/delete?{query}", {"start": since, "stop": "2200-01-01T00:00:00Z"})

    def get(self, path: str) -> Any:
        """Return what stands at *path*."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Token {TOKEN}"})  # noqa: S310 - the same
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return json.load(answer)

    def influxql(self, token: str, database: str, query: str) -> str:
        """Return what the server answers *query* with *token*, as it is."""
        asked = urllib.parse.urlencode({"db": database, "epoch": "ns", "q": query})
        request = urllib.request.Request(  # noqa: S310 - the same
            f"{self.url}/query?{asked}", b"", {"Authorization": f"Token {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return str(answer.read().decode())

    def write(self, config: HistorianConfig, line: str) -> None:
        """Write *line* into the bucket of *config*, as somebody else would."""
        query = f"org={ORG}&bucket={config.influxdb_bucket}&precision=ns"
        request = urllib.request.Request(  # noqa: S310 - our own loopback server
            f"{self.url}/api/v2/write?{query}", line.encode(), {"Authorization": f"Token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - the same
            pass

    def bucket(self, *, retention_s: int = 0) -> HistorianConfig:
        """Return the configuration for a new, empty bucket, whose values are kept *retention_s* (0: for ever)."""
        self.buckets += 1
        name = f"bucket-{self.buckets}"
        rules = [{"type": "expire", "everySeconds": retention_s}] if retention_s else []
        self.call("/api/v2/buckets", {"orgID": self.org_id, "name": name, "retentionRules": rules})
        token_file = self.folder / "token"
        token_file.write_text(TOKEN + "\n")
        return HistorianConfig(
            influxdb_url=self.url,
            influxdb_org=ORG,
            influxdb_bucket=name,
            influxdb_token_file=token_file,
            retention_days=retention_s / 86400.0,
        )

    def token(self, config: HistorianConfig) -> tuple[str, str]:
        """Make a token that may write and read the bucket of *config*; return its id and itself."""
        bucket = self.get(f"/api/v2/buckets?name={config.influxdb_bucket}")["buckets"][0]["id"]
        resource = {"type": "buckets", "id": bucket, "orgID": self.org_id}
        permissions = [{"action": action, "resource": resource} for action in ("read", "write")]
        made = self.call("/api/v2/authorizations", {"orgID": self.org_id, "permissions": permissions})
        return made["id"], made["token"]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:  # noqa: S310 - the same
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def require_influxd() -> None:
    """Skip the test, by name, where the server was not built; fail instead where nothing may be skipped."""
    if not program().exists():
        refuse_or_skip(f"InfluxDB {VERSION} is not built; `make influxdb` builds it into {program()}")


def refuse_or_skip(reason: str) -> NoReturn:
    """Skip the test for *reason*; fail instead where nothing may be skipped."""
    if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxServer]:
    """One server for all tests of a run; each test takes a bucket of its own."""
    require_influxd()
    server = InfluxServer(tmp_path_factory.mktemp("influxdb"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def influxdb(influx_server: InfluxServer) -> HistorianConfig:
    """A new bucket: its url, organisation, name and token, as a gateway's configuration has them."""
    return influx_server.bucket()
