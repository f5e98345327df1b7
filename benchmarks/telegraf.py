"""Telegraf's OPC UA listener, writing a file: how it is configured to do what the gateway does, and what it wrote."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from benchmarks.frame_server import CHANNELS
from gateway.data_acquisition import ensure_application_certificate

VERSION = "1.37.2"  # scripts/telegraf/build builds it
_READ_BYTES = 2**20

_HEAD = """\
[agent]
  omit_hostname = true
  flush_interval = "250ms"
  metric_batch_size = 10000
  metric_buffer_limit = 1000000

[[outputs.file]]
  files = ["{values}"]
  data_format = "influx"

[[inputs.opcua_listener]]
  endpoint = "{endpoint}"
  subscription_interval = "{publishing_interval_ms:g}ms"
  auth_method = "Anonymous"
  timestamp = "source"
"""
_ENCRYPTED = """\
  security_policy = "Basic256Sha256"
  security_mode = "SignAndEncrypt"
  certificate = "{certificate}"
  private_key = "{key}"
"""
_OPEN = """\
  security_policy = "None"
  security_mode = "None"
"""
_NODE = """\
  [[inputs.opcua_listener.nodes]]
    name = "{name}"
    namespace = "{namespace}"
    identifier_type = "s"
    identifier = "{name}"
    [inputs.opcua_listener.nodes.monitoring_params]
      sampling_interval = "0s"
      queue_size = {queue_size}
"""


def program() -> Path:
    """Return where `scripts/telegraf/build` puts the program."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "wearsight" / f"telegraf-{VERSION}" / "telegraf"


def lacking() -> str:
    """Return what is not there; nothing when all is."""
    return "" if program().is_file() else f"Telegraf {VERSION} is not there; scripts/telegraf/build builds it"


def write_config(
    folder: Path,
    endpoint: str,
    *,
    namespace: int,
    encrypted: bool,
    nodes: int,
    publishing_interval_ms: float,
    queue_size: int,
) -> tuple[Path, Path]:
    """Write ``telegraf.conf`` into *folder*; return it and the file that the values go to.

    By the index of the *namespace*: with its URI this version ends at once ("namespace array is not available").
    """
    values = folder / "values.lp"
    text = _HEAD.format(values=values, endpoint=endpoint, publishing_interval_ms=publishing_interval_ms)
    if encrypted:
        own, key = ensure_application_certificate(folder, "urn:wearsight:benchmark:telegraf", "telegraf")
        pem = folder / "application.pem"
        pem.write_bytes(load_der_x509_certificate(own.read_bytes()).public_bytes(Encoding.PEM))
        text += _ENCRYPTED.format(certificate=pem, key=key)
    else:
        text += _OPEN
    for number in range(nodes):
        name = f"machine-{number // CHANNELS:02d}.c{number % CHANNELS:02d}"
        text += _NODE.format(name=name, namespace=namespace, queue_size=queue_size)
    path = folder / "telegraf.conf"
    path.write_text(text)
    return path, values


class Written:
    """The lines of a file that grows; each is a value."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._lines = 0

    def count(self) -> int:
        """Return how many whole lines there are now."""
        if not self._path.exists():
            return 0
        end = self._path.stat().st_size
        with self._path.open("rb") as file:
            file.seek(self._position)
            while self._position < end:
                part = file.read(min(_READ_BYTES, end - self._position))
                self._position += len(part)
                self._lines += part.count(b"\n")
        return self._lines
