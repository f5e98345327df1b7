"""The fleet's keys: a certificate authority, the server's and the gateways' certificates, the key that signs bundles.

Private keys are files that only their owner may read. A gateway's certificate is good for signing in as that gateway
and for nothing else; the server's is good for being the server.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_service.errors import EnrollmentError

GATEWAY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
CA_YEARS = 10
CERTIFICATE_DAYS = 825
# Clocks of gateways that start without a time server run late.
BACKDATED = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a client certificate belongs to."""

    gateway_id: str
    certificate_sha256: str


class Pki:
    """The folder of certificates and keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_certificate = folder / "ca.pem"
        self.ca_key = folder / "ca.key"
        self.server_certificate = folder / "server.pem"
        self.server_key = folder / "server.key"
        self.signing_key = folder / "bundle-signing.key"
        self.signing_public_key = folder / "bundle-signing.pub"

    def create(self, server_names: Sequence[str]) -> None:
        """Make the authority, a server certificate for *server_names* (DNS names or addresses) and the signing key.

        Raises:
            EnrollmentError: If there is an authority already; all gateways would lose their way in.
        """
        if self.ca_certificate.exists():
            raise EnrollmentError(f"{self.ca_certificate} exists; the authority stays as it is")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Wearsight fleet CA")])
        builder = _builder(name, name, key.public_key(), timedelta(days=365 * CA_YEARS), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        write_private(self.ca_key, _private_pem(key))
        self.issue_server_certificate(server_names, builder.sign(key, hashes.SHA256()), key)
        signing_key = ed25519.Ed25519PrivateKey.generate()
        write_private(self.signing_key, _private_pem(signing_key))
        write_public(self.signing_public_key, _public_pem(signing_key.public_key()))
        # Last: the folder counts as made when this file is there.
        write_public(self.ca_certificate, _certificate_pem(builder.sign(key, hashes.SHA256())))

    def issue_server_certificate(
        self, server_names: Sequence[str], ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
    ) -> None:
        """Write a new server key and certificate for *server_names*."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_names[0])])
        builder = _leaf(subject, ca.subject, key, ca_key, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in server_names]), False)
        write_private(self.server_key, _private_pem(key))
        write_public(self.server_certificate, _certificate_pem(builder.sign(ca_key, hashes.SHA256())))

    def issue_gateway_certificate(self, gateway_id: str, folder: Path) -> Identity:
        """Write ``gateway.pem``, ``gateway.key``, ``ca.pem`` and ``bundle-signing.pub`` into *folder*.

        Raises:
            EnrollmentError: If *gateway_id* cannot be one, or there is no authority yet.
        """
        if not GATEWAY_ID.fullmatch(gateway_id):
            raise EnrollmentError(
                f"{gateway_id!r} cannot be a gateway's id (letters, digits, '.', '_', '-'; 64 at most)"
            )
        ca, ca_key = self._authority()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway_id)])
        builder = _leaf(subject, ca.subject, key, ca_key, ExtendedKeyUsageOID.CLIENT_AUTH)
        certificate = builder.sign(ca_key, hashes.SHA256())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(folder / "gateway.key", _private_pem(key))
        write_public(folder / "gateway.pem", _certificate_pem(certificate))
        write_public(folder / "ca.pem", _certificate_pem(ca))
        write_public(folder / "bundle-signing.pub", self.signing_public_key.read_bytes())
        return Identity(gateway_id=gateway_id, certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex())

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            ca = x509.load_pem_x509_certificate(self.ca_certificate.read_bytes())
            key = serialization.load_pem_private_key(self.ca_key.read_bytes(), password=None)
        except OSError as error:
            raise EnrollmentError(f"{error.filename}: {error.strerror}; run `wearsight-cloud init` first") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnrollmentError(f"{self.ca_key} does not hold an elliptic-curve key; no certificate is made")
        return ca, key


def identity_of(certificate_der: bytes) -> Identity:
    """Return who *certificate_der* belongs to; that the authority signed it is the TLS layer's word.

    Raises:
        EnrollmentError: If it does not carry exactly one common name that can be a gateway's id.
    """
    certificate = x509.load_der_x509_certificate(certificate_der)
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not GATEWAY_ID.fullmatch(names[0]):
        raise EnrollmentError(f"certificate of {names} is not a gateway's")
    return Identity(gateway_id=names[0], certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex())


def write_private(path: Path, data: bytes) -> None:
    """Write *data* to *path* so that only the owner can ever read it."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write *data* to *path*, readable by all."""
    _write(path, data, 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _leaf(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    lifetime = timedelta(days=CERTIFICATE_DAYS)
    builder = _builder(subject, issuer, key.public_key(), lifetime, ca_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    lifetime: timedelta,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_pem(key: ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
