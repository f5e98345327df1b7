"""The gateway's own OPC UA application certificate, made on first start."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import ConfigError

_VALIDITY = timedelta(days=10 * 365)


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
        _check_own(certificate_path, key_path, application_uri)
    else:
        pki_dir.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        pkcs8 = serialization.PrivateFormat.PKCS8
        _write(key_path, key.private_bytes(pem, pkcs8, serialization.NoEncryption()), mode=0o600)
        certificate = _self_signed(key, application_uri, common_name)
        # Last, so that a certificate that is there always has its key.
        _write(certificate_path, certificate.public_bytes(serialization.Encoding.DER), mode=0o644)
    return certificate_path, key_path


def _check_own(certificate_path: Path, key_path: Path, application_uri: str) -> None:
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
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Write *content* to *path* so that it is there whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
