from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.config import Security, Tolerated
from gateway.data_acquisition import OpcuaSource, ensure_application_certificate
from gateway.data_acquisition.certificate import certificate_warnings, load_own_certificate
from gateway.data_acquisition.server_certificate import Expected
from gateway.data_acquisition.trust import TrustList
from gateway.errors import ConfigError, ServerUntrusted
from tests.gateway.data_acquisition.small_plant import SmallPlant, Store, collecting, until

MakeSource = Callable[..., OpcuaSource]


async def test_an_untrusted_server_is_refused_until_it_is_trusted(
    plant: SmallPlant, source_of: MakeSource, store: Store, tmp_path: Path
) -> None:
    """Nothing is sent to it, the message tells fingerprint and remedy; following it makes values come."""
    source = source_of(plant, trusted=False)
    async with collecting(source, store):
        await until(lambda: bool(source.warnings))
        (warning,) = source.warnings
        assert hashlib.sha256(plant.certificate.read_bytes()).digest().hex(":").upper() in warning
        assert "move" in warning
        assert store.rows == {}
        assert plant.subscriptions() == []
        (rejected,) = (tmp_path / "pki" / "rejected").glob("*.der")
        rejected.rename(tmp_path / "pki" / "trusted" / "plant.der")
        await until(lambda: store.seconds("speed_rpm") == [0.0])
    assert source.warnings == ()


async def test_a_server_without_the_security_asked_for_is_refused(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A weaker channel is never taken instead, and one asked for raises a standing warning."""
    source = source_of(plant, security=Security.SIGN)
    async with collecting(source, store):
        await until(lambda: len(source.warnings) == 2)
    assert "signed but not encrypted" in source.warnings[0]
    assert "does not offer" in source.warnings[1]
    assert store.rows == {}


@pytest.mark.parametrize(
    ("offered", "asked", "warning"),
    [
        (ua.SecurityPolicyType.NoSecurity, Security.NONE, "neither signed nor encrypted"),
        (ua.SecurityPolicyType.Basic256Sha256_Sign, Security.SIGN, "signed but not encrypted"),
    ],
)
async def test_weaker_security_works_when_chosen_and_is_warned_of(
    plant_pki: Path,
    unused_port: int,
    source_of: MakeSource,
    store: Store,
    offered: ua.SecurityPolicyType,
    asked: Security,
    warning: str,
) -> None:
    """Old machines can be read, by explicit setting; the warning stands as long as the setting does."""
    plant = SmallPlant(plant_pki, unused_port, security=offered)
    await plant.start()
    try:
        source = source_of(plant, security=asked, tolerate=(Tolerated.CLEAR_PASSWORD,))
        async with collecting(source, store):
            await until(lambda: store.seconds("speed_rpm") == [0.0])
            weaker, password = source.warnings
    finally:
        await plant.stop()
    assert warning in weaker
    assert "clear text" in password


def test_the_trust_list_takes_what_is_in_it(tmp_path: Path) -> None:
    """The very certificate counts, not its names; what is refused is kept for whoever decides."""
    known, _ = ensure_application_certificate(tmp_path / "a", "urn:server", "server")
    other, _ = ensure_application_certificate(tmp_path / "b", "urn:server", "server")
    (tmp_path / "pki" / "trusted").mkdir(parents=True)
    (tmp_path / "pki" / "trusted" / "any-name.der").write_bytes(known.read_bytes())
    trust, expected = TrustList(tmp_path / "pki"), Expected(application_uri="urn:server", host="10.0.0.1")
    trust.check("cell-1", known.read_bytes(), expected)
    with pytest.raises(ServerUntrusted, match="cell-1: the server's certificate is not trusted"):
        trust.check("cell-1", other.read_bytes(), expected)
    with pytest.raises(ServerUntrusted, match="cannot be read"):
        trust.check("cell-1", b"no certificate", expected)


def test_the_own_certificate_is_made_once(tmp_path: Path) -> None:
    """The second start finds what the first made; the key is its owner's alone."""
    certificate, key = ensure_application_certificate(tmp_path, "urn:wearsight:gateway:gw-1", "gw-1")
    before = certificate.read_bytes(), key.read_bytes()
    assert ensure_application_certificate(tmp_path, "urn:wearsight:gateway:gw-1", "gw-1") == (certificate, key)
    assert (certificate.read_bytes(), key.read_bytes()) == before
    assert key.stat().st_mode & 0o777 == 0o600


def test_another_gateways_certificate_is_refused(tmp_path: Path) -> None:
    """A copied folder is noticed, and so is a certificate without its key."""
    _, key = ensure_application_certificate(tmp_path, "urn:wearsight:gateway:gw-1", "gw-1")
    with pytest.raises(ConfigError, match="not of urn:wearsight:gateway:gw-2"):
        ensure_application_certificate(tmp_path, "urn:wearsight:gateway:gw-2", "gw-2")
    key.unlink()
    with pytest.raises(ConfigError, match="is missing"):
        ensure_application_certificate(tmp_path, "urn:wearsight:gateway:gw-1", "gw-1")


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """Two gateways' folders were mixed; the file is named."""
    ensure_application_certificate(tmp_path / "a", "urn:wearsight:gateway:gw-1", "gw-1")
    _, key = ensure_application_certificate(tmp_path / "b", "urn:wearsight:gateway:gw-1", "gw-1")
    key.write_bytes((tmp_path / "a" / "application.key").read_bytes())
    with pytest.raises(ConfigError, match=r"is not the key of application\.der"):
        load_own_certificate(tmp_path / "b", "urn:wearsight:gateway:gw-1")


def test_the_end_of_the_own_certificate_is_told_ninety_days_before(tmp_path: Path) -> None:
    """Early enough to have servers trust the next one; while it is good there is nothing to say."""
    assert certificate_warnings(tmp_path) == ()
    path, _ = ensure_application_certificate(tmp_path, "urn:wearsight:gateway:gw-1", "gw-1")
    end = x509.load_der_x509_certificate(path.read_bytes()).not_valid_after_utc
    assert certificate_warnings(tmp_path) == ()
    assert certificate_warnings(tmp_path, end - timedelta(days=91)) == ()
    (soon,) = certificate_warnings(tmp_path, end - timedelta(days=89))
    (late,) = certificate_warnings(tmp_path, end + timedelta(days=1))
    assert f"{path} ends on {end:%Y-%m-%d}" in soon
    assert "has ended" in late
    assert "opcua renew" in late


def test_what_is_no_certificate_in_the_trust_list_counts_for_nothing(tmp_path: Path) -> None:
    """PEM counts as DER does; a note somebody left there harms nobody."""
    known, _ = ensure_application_certificate(tmp_path / "a", "urn:server", "server")
    trusted = tmp_path / "pki" / "trusted"
    trusted.mkdir(parents=True)
    pem = x509.load_der_x509_certificate(known.read_bytes()).public_bytes(Encoding.PEM)
    (trusted / "server.pem").write_bytes(pem)
    (trusted / "broken.der").write_bytes(b"nothing")
    (trusted / "README").write_text("ours")
    trust = TrustList(tmp_path / "pki")
    trust.check("cell-1", known.read_bytes(), Expected(application_uri="urn:server", host="10.0.0.1"))
    assert [path.name for path, _ in trust.entries()] == ["server.pem"]
