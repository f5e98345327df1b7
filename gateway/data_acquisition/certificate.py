"""The gateway's own OPC UA application certificate, made on first start."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import ConfigError

EXPIRES_SOON = timedelta(days=90)  # so long servers' owners are given to trust the next one
_VALIDITY = timedelta(days=10 * 365)
# A server too, for `opcua simulate` and those who test with this certificate.
_USES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass(frozen=True, kw_only=True)
class OwnCertificate:
    """The gateway's certificate and its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)


def application_uri(gateway_id: str) -> str:
    """Return the OPC UA application URI of the gateway *gateway_id*."""
    return f"urn:wearsight:gateway:{gateway_id}"


def ensure_application_certificate(pki_dir: Path, application_uri: str, common_name: str) -> tuple[Path, Path]:
    """Return the certificate (DER) and the key (PEM) in *pki_dir*; they are made when the certificate is not there.

    The key is RSA-2048, readable by its owner alone. The certificate signs itself and is valid for ten years; the
    OPC UA servers have to trust it, so it is never replaced by itself.

    Raises:
        ConfigError: If the certificate there cannot be read, is another application's, or has no key beside it.
    """
    certificate_path, key_path = pki_dir / "application.der", pki_dir / "application.key"
    if certificate_path.exists():
        load_own_certificate(pki_dir, application_uri)
    else:
        pki_dir.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        pkcs8 = serialization.PrivateFormat.PKCS8
        write_whole(key_path, key.private_bytes(pem, pkcs8, serialization.NoEncryption()), mode=0o600)
        certificate = _self_signed(key, application_uri, common_name)
        # Last, so that a certificate that is there always has its key.
        write_whole(certificate_path, certificate.public_bytes(serialization.Encoding.DER), mode=0o644)
    return certificate_path, key_path


def load_own_certificate(pki_dir: Path, application_uri: str) -> OwnCertificate:
    """Return what `ensure_application_certificate` made in *pki_dir*.

    Raises:
        ConfigError: If the certificate cannot be read, is another application's, or the key is not its key.
    """
    certificate_path, key_path = pki_dir / "application.der", pki_dir / "application.key"
    try:
        certificate = x509.load_der_x509_certificate(certificate_path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"{certificate_path} cannot be used ({error}); the service does not start") from error
    if application_uri not in uris:
        raise ConfigError(
            f"{certificate_path} is of {', '.join(uris) or 'no application'}, not of {application_uri}; move it away "
            "together with its key to have a new one made; the service does not start"
        )
    if not key_path.is_file():
        raise ConfigError(f"{key_path}, the key of {certificate_path.name}, is missing; the service does not start")
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key_path} cannot be used ({error}); the service does not start") from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{key_path} is not the key of {certificate_path.name}; the service does not start")
    return OwnCertificate(certificate=certificate, key=key)


def certificate_warnings(pki_dir: Path, now: datetime | None = None) -> tuple[str, ...]:
    """Return that the gateway's own certificate ends soon, or has ended, at *now*; nothing while it is good."""
    path = pki_dir / "application.der"
    try:
        end = x509.load_der_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):  # told elsewhere: without it there is no secure channel
        return ()
    left = end - (now or datetime.now(UTC))
    if left > EXPIRES_SOON:
        return ()
    when = f"ends on {end:%Y-%m-%d}" if left > timedelta(0) else f"has ended on {end:%Y-%m-%d}"
    told = f"the gateway's own certificate {path} {when}, and servers refuse it then; have the next one made with "
    return (told + "`wearsight-gateway opcua renew`, and let the servers trust that",)


def renew_application_certificate(pki_dir: Path, application_uri: str, common_name: str) -> tuple[Path, Path]:
    """Make a new certificate and key in *pki_dir*; the old ones are kept beside them, named by today.

    Servers have to trust the new one: until then they refuse the gateway.

    Returns:
        The old certificate's new place, and the new certificate.

    Raises:
        ConfigError: If there is none to renew.
    """
    certificate, key = pki_dir / "application.der", pki_dir / "application.key"
    if not certificate.is_file():
        raise ConfigError(f"{certificate} is not there: nothing to renew")
    today = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
    kept = pki_dir / f"application-until-{today}.der.old"
    # The certificate goes first and comes last: whenever this is cut off, what is there fits or is made anew.
    certificate.replace(kept)
    if key.is_file():
        key.replace(pki_dir / f"application-until-{today}.key.old")
    made, _ = ensure_application_certificate(pki_dir, application_uri, common_name)
    return kept, made


def _self_signed(key: rsa.RSAPrivateKey, application_uri: str, common_name: str) -> x509.Certificate:
    """Return a certificate as OPC 10000-6, 6.2.2 asks of an application instance."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Wearsight"),
        ]
    )
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # a plant's clocks are not all right
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(application_uri)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Write *content* to *path* so that it is there whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
