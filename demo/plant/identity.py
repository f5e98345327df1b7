"""Who a cell's server is and whom it lets in: its certificate, its trust list, its users."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from asyncua.server.user_managers import UserManager
from asyncua.ua.status_codes import StatusCodes
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME: Final = timedelta(days=825)


def ensure_certificate(certificate: Path, key: Path, *, application_uri: str, common_name: str) -> None:
    """Make a self-signed application certificate (DER) and its key (PEM) unless both are there already."""
    if certificate.exists() and key.exists():
        return
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    names = [
        x509.UniformResourceIdentifier(application_uri),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(private, hashes.SHA256())
    )
    write_private(
        key,
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.DER))


def ensure_password(file: Path) -> None:
    """Draw a password into *file*, readable by its owner alone, unless it is there already."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(18).encode("ascii"))


def write_private(file: Path, content: bytes) -> None:
    """Write *content* to *file*, readable by its owner alone from the first moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)


class TrustList:
    """The client certificates in a folder (``*.der``); the folder is read anew at each connection.

    asyncua asks for it as a certificate validator. Date and application URI are checked first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._basic = CertificateValidator(
            CertificateValidatorOptions.BASIC_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
        )

    async def __call__(self, certificate: x509.Certificate, description: ua.ApplicationDescription) -> None:
        """Raise the OPC UA error that refuses *certificate*, or return."""
        await self._basic(certificate, description)
        if not self.trusts(certificate.public_bytes(serialization.Encoding.DER)):
            raise ServiceError(StatusCodes.BadCertificateUntrusted)

    def trusts(self, certificate: bytes | None) -> bool:
        """Return whether *certificate*, DER, is one of the folder's files, byte by byte."""
        return certificate is not None and any(file.read_bytes() == certificate for file in self._folder.glob("*.der"))


class PasswordFile(UserManager):
    """Sign-in of the one user by the password in a file; asyncua asks for it as a user manager.

    The certificate that secured the channel is looked up once more: a client could leave it out of the request that
    the certificate validator sees.
    """

    def __init__(self, user: str, file: Path, trust: TrustList) -> None:
        self._user, self._file, self._trust = user, file, trust

    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        """Return the user, or None when name, password or certificate are not right."""
        del iserver
        expected = self._file.read_text("utf-8").strip()
        matches = hmac.compare_digest((password or "").encode(), expected.encode())
        if username != self._user or not matches or not self._trust.trusts(_der(certificate)):
            return None
        return User(role=UserRole.User, name=self._user)


def _der(certificate: Any) -> bytes | None:
    if isinstance(certificate, x509.Certificate):
        return certificate.public_bytes(serialization.Encoding.DER)
    return certificate if isinstance(certificate, bytes) else None
