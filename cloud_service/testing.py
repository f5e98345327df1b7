"""A real cloud service in a process of its own, for tests of whatever talks to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from cloud_service.config import SAMPLE, load_config
from cloud_service.fleet import gateways
from cloud_service.pki import Pki
from cloud_service.store import Store

_STOP_S = 20


class _Ready(msgspec.Struct):
    ingest: str
    web: str


class CloudProcess:
    """A cloud service in *folder*, with its keys. Entered, it runs, on the ports it ran on before.

    Attributes:
        folder: Where it keeps everything.
        ingest_url: Where gateways upload, once it ran.
        web_url: Where people read, once it ran.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ingest_url = self.web_url = ""
        self._addresses = _Ready("127.0.0.1:0", "127.0.0.1:0")
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._configure()
        self.pki = Pki(load_config(self.config_path).storage.pki)
        self.pki.create(["localhost", "127.0.0.1"])

    @property
    def config_path(self) -> Path:
        """Its configuration."""
        return self.folder / "cloud.toml"

    @property
    def lake(self) -> Path:
        """Its Parquet files."""
        return self.folder / "lake"

    def store(self) -> Store:
        """Open its database; the caller closes it."""
        return Store(load_config(self.config_path).storage.database)

    def enroll(self, gateway_id: str) -> Path:
        """Give *gateway_id* an identity and return the folder that holds it."""
        folder = self.folder / "enrolled" / gateway_id
        identity = self.pki.issue_gateway_certificate(gateway_id, folder)
        store = self.store()
        with store.writing() as session:
            gateways.enroll(session, identity)
        store.close()
        return folder

    def start(self) -> None:
        """Start it and wait until both listeners answer."""
        command = [sys.executable, "-m", "cloud_service", "serve", "--config", str(self.config_path)]
        with (self.folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cloud did not start: {(self.folder / 'serve.log').read_text()}")
        self._addresses = msgspec.json.decode(line, type=_Ready)
        self.ingest_url = f"https://{self._addresses.ingest}"
        self.web_url = f"http://{self._addresses.web}"
        self._configure()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it with the signal *number* and return its exit code."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)
        code = self._process.wait(_STOP_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)

    def _configure(self) -> None:
        text = SAMPLE.replace("127.0.0.1:8443", self._addresses.ingest).replace("127.0.0.1:8080", self._addresses.web)
        self.config_path.write_text(text, "utf-8")
