from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud_service.errors import EnrollmentError
from cloud_service.pki import Pki, identity_of


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made.create(["cloud.example", "127.0.0.1"])
    return made


def test_private_keys_are_their_owners_alone(pki: Pki, tmp_path: Path) -> None:
    """Every file with a private key has mode 0600."""
    pki.issue_gateway_certificate("gw-1", tmp_path / "out")
    private = [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert {path.name for path in private} == {"ca.key", "server.key", "bundle-signing.key", "gateway.key"}
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_a_gateway_gets_what_it_needs(pki: Pki, tmp_path: Path) -> None:
    """Its identity reads back from its certificate, which the authority signed for signing in alone."""
    identity = pki.issue_gateway_certificate("gw-1", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "gateway.pem",
        "gateway.key",
        "ca.pem",
        "bundle-signing.pub",
    }
    certificate = x509.load_pem_x509_certificate((tmp_path / "out" / "gateway.pem").read_bytes())
    ca = x509.load_pem_x509_certificate((tmp_path / "out" / "ca.pem").read_bytes())
    certificate.verify_directly_issued_by(ca)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert identity_of(certificate.public_bytes(serialization.Encoding.DER)) == identity


@pytest.mark.parametrize("gateway_id", ["", "../gw", "gw 1", "-gw", "gw/1", "a" * 65, "gw\n", "ü"])
def test_a_name_that_cannot_be_a_gateways_gets_nothing(pki: Pki, tmp_path: Path, gateway_id: str) -> None:
    """It would become a folder's name."""
    with pytest.raises(EnrollmentError, match="gateway's id"):
        pki.issue_gateway_certificate(gateway_id, tmp_path / "out")


def test_a_second_authority_is_not_made_over_the_first(pki: Pki) -> None:
    """Every gateway would lose its way in."""
    before = pki.ca_certificate.read_bytes()
    with pytest.raises(EnrollmentError, match="exists"):
        pki.create(["cloud.example"])
    assert pki.ca_certificate.read_bytes() == before


def test_the_bundle_key_is_ed25519(pki: Pki) -> None:
    """The public half stands beside it and fits."""
    key = serialization.load_pem_private_key(pki.signing_key.read_bytes(), None)
    public = serialization.load_pem_public_key(pki.signing_public_key.read_bytes())
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(key.sign(b"manifest"), b"manifest")
