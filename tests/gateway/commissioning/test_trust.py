from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.ua.status_codes import StatusCodes
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.data_acquisition.trust import fingerprint
from tests.gateway.data_acquisition.small_plant import SmallPlant, free_port

Opcua = Callable[..., Result]


class Doorkeeper:
    """A plant in a thread of its own that can be told to refuse clients."""

    def __init__(self, pki: Path) -> None:
        self.plant = SmallPlant(pki, free_port())
        self.lets_in = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def _check(self, *_: Any) -> None:
        if not self.lets_in:
            raise ServiceError(StatusCodes.BadCertificateUntrusted)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.plant.start(), self._loop).result(60)
        server = self.plant.server
        assert server is not None
        server.set_certificate_validator(self._check)
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_Sign])
        weaker = server._setup_server_nodes()  # beside the encrypted one that it has
        asyncio.run_coroutine_threadsafe(weaker, self._loop).result(60)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.plant.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.plant.certificate.read_bytes())


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doorkeeper]:
    keeper = Doorkeeper(tmp_path_factory.mktemp("plant"))
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.fixture
def config(tmp_path: Path, keeper: Doorkeeper) -> Path:
    keeper.lets_in = True
    (tmp_path / "password").write_text("secret\n")
    path = tmp_path / "gateway.toml"
    path.write_text(f"""
gateway_id = "gw-1"
state_dir = "state"
[[server]]
name = "cell-1"
endpoint = "{keeper.plant.endpoint}"
user = "gateway"
password_file = "password"
""")
    return path


@pytest.fixture
def opcua(config: Path) -> Opcua:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["opcua", *arguments, "--config", str(config)])

    return call


def test_endpoints_are_ranked_and_say_what_to_set(opcua: Opcua, keeper: Doorkeeper) -> None:
    """The best first, with certificate and trust; what is weaker says so."""
    listed = opcua("endpoints", keeper.plant.endpoint)
    assert listed.exit_code == 0, listed.output
    assert listed.output.index("Basic256Sha256-SignAndEncrypt") < listed.output.index("signed but not encrypted")
    assert 'security = "Basic256Sha256-SignAndEncrypt"' in listed.output
    assert keeper.fingerprint in listed.output
    first, second = json.loads(opcua("endpoints", "cell-1", "--json").stdout)["offers"]
    assert first["security"] == "Basic256Sha256-SignAndEncrypt"
    assert first["sign_in"] == ["user and password"]
    assert (first["trusted"], first["fingerprint"], first["weaker"]) == (False, keeper.fingerprint, [])
    assert second["security"] == "Basic256Sha256-Sign"
    assert len(second["weaker"]) == 1


def test_nothing_is_trusted_unasked(opcua: Opcua, config: Path) -> None:
    """Without a terminal and without a word for it the list stays as it is."""
    shown = opcua("trust", "cell-1")
    assert shown.exit_code == 1
    assert "is not trusted" in shown.output
    assert "--fingerprint SHA256" in shown.output
    assert json.loads(opcua("trust", "cell-1", "--json").stdout)["trusted"] is False
    assert not list((config.parent / "state" / "pki" / "trusted").glob("*"))


def test_trust_by_fingerprint(opcua: Opcua, keeper: Doorkeeper) -> None:
    """However it is written; with another one nothing is trusted; removed, it is refused again."""
    wrong = opcua("trust", "cell-1", "--fingerprint", "AB" * 32)
    assert wrong.exit_code == 1
    assert "shows another certificate" in wrong.output
    assert json.loads(opcua("trusted", "--json").stdout) == []
    right = opcua("trust", "cell-1", "--fingerprint", keeper.fingerprint.replace(":", "").lower())
    assert right.exit_code == 0, right.output
    assert "The server accepts us: cell-1 is ready." in right.output
    (entry,) = json.loads(opcua("trusted", "--json").stdout)
    assert entry["fingerprint"] == keeper.fingerprint
    assert json.loads(opcua("endpoints", "cell-1", "--json").stdout)["offers"][0]["trusted"] is True
    assert opcua("trust", "cell-1", "--remove").exit_code == 0
    assert opcua("trust", "cell-1", "--remove").exit_code == 2
    assert "no server is trusted" in opcua("trusted").output
    assert opcua("trust", "cell-1").exit_code == 1


def test_a_thumbprint_that_can_be_imitated_is_not_taken(opcua: Opcua) -> None:
    """Makers' tools show SHA-1 too."""
    refused = opcua("trust", "cell-1", "--fingerprint", "AB" * 20)
    assert refused.exit_code == 2
    assert "SHA-1" in refused.output


def test_a_server_that_does_not_trust_us_yet(opcua: Opcua, keeper: Doorkeeper, config: Path) -> None:
    """It is told where our certificate is and what to do there; done, it works."""
    keeper.lets_in = False
    refused = opcua("trust", "cell-1", "--yes")
    assert refused.exit_code == 1
    own = config.parent / "state" / "pki" / "application.der"
    assert str(own) in refused.output
    assert fingerprint(own.read_bytes()) in refused.output
    assert "urn:wearsight:gateway:gw-1" in refused.output
    keeper.lets_in = True
    assert opcua("trust", "cell-1").exit_code == 0


def test_a_wrong_password_is_told_as_such(opcua: Opcua, config: Path) -> None:
    """It is not our certificate then."""
    (config.parent / "password").write_text("wrong\n")
    refused = opcua("trust", "cell-1", "--yes")
    assert refused.exit_code == 1
    assert "BadUserAccessDenied" in refused.output
    assert "our certificate" not in refused.output


def test_a_server_that_is_not_there(opcua: Opcua) -> None:
    """A reason and the next step, no traceback."""
    for command in ("endpoints", "trust"):
        refused = opcua(command, f"opc.tcp://127.0.0.1:{free_port()}")
        assert refused.exit_code == 1
        assert "cannot connect" in refused.output
        assert "→" in refused.output


def test_a_renewed_certificate_is_another_one(opcua: Opcua, config: Path) -> None:
    """The old one is kept; without one there is nothing to renew."""
    assert opcua("renew").exit_code == 2
    opcua("trust", "cell-1", "--yes")
    own = config.parent / "state" / "pki" / "application.der"
    before = own.read_bytes()
    renewed = json.loads(opcua("renew", "--json").stdout)
    assert renewed["fingerprint"] == fingerprint(own.read_bytes()) != fingerprint(before)
    assert Path(renewed["kept"]).read_bytes() == before
    assert opcua("trust", "cell-1").exit_code == 0


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_in_a_terminal_it_asks(config: Path, answer: str, code: int) -> None:
    """After showing what is to be compared; no is the answer of who just presses return."""
    own, its = pty.openpty()
    command = [sys.executable, "-m", "gateway", "opcua", "trust", "cell-1", "--config", str(config)]
    with subprocess.Popen(command, stdin=its, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.write(own, f"{answer}\n".encode())
        output, _ = process.communicate(timeout=60)
    os.close(own)
    os.close(its)
    assert b"is this server to be trusted? [y/N]" in output
    assert process.returncode == code, output.decode()
