"""Certificates for servers, good ones and ones that are wrong in one thing."""

from __future__ import annotations

import functools
import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
URI = "urn:test:plant"
HOST = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
NAMES = (x509.UniformResourceIdentifier(URI), HOST)
USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")


@functools.cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:  # noqa: ARG001 - tells keys apart
    """Return a key, the same for the same arguments: keys take their time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def der(certificate: x509.Certificate) -> bytes:
    """Return it as servers send it."""
    return certificate.public_bytes(Encoding.DER)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """One that issues certificates and takes them back."""

    def __init__(
        self, name: str = "plant CA", number: int = 1, *, above: Authority | None = None, **wrong: Any
    ) -> None:
        self.key = rsa_key(number=number)
        usage = {"uses": ("key_cert_sign", "crl_sign"), "extended": None, "names": None, "ca": True}
        self.certificate = certificate(name, self.key, issued_by=above, **{**usage, **wrong})

    def revoking(self, *taken_back: x509.Certificate, until: datetime = NOW + DAY) -> x509.CertificateRevocationList:
        """Return the list with *taken_back* in it, good until *until*."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(NOW - 9 * DAY)
            .next_update(until)
        )
        for one in taken_back:
            entry = x509.RevokedCertificateBuilder().serial_number(one.serial_number).revocation_date(NOW - DAY)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256())


def certificate(
    name: str = "plant",
    key: Key | None = None,
    *,
    issued_by: Authority | None = None,
    signed_with: Key | None = None,
    start: datetime = NOW - 8 * DAY,
    end: datetime = NOW + 8 * DAY,
    names: list[x509.GeneralName] | None = [*NAMES],  # noqa: B006 - never changed
    uses: tuple[str, ...] = USES,
    extended: list[x509.ObjectIdentifier] | None = [ExtendedKeyUsageOID.SERVER_AUTH],  # noqa: B006 - the same
    ca: bool = False,
    path_length: int | None = None,
) -> x509.Certificate:
    """Return a certificate; signed by itself unless an authority issues it."""
    key = key or rsa_key()
    subject = named(name)
    all_uses = (*USES, "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by.certificate.subject if issued_by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(**{use: use in uses for use in all_uses}), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    signer = signed_with or (issued_by.key if issued_by else key)
    return builder.sign(signer, hashes.SHA256())


def signed_with_sha1(good: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """Return *good* signed anew by *key* with SHA-1, which cryptography itself does no more."""
    sha256_with_rsa, sha1_with_rsa = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
    signed = good.tbs_certificate_bytes.replace(sha256_with_rsa, sha1_with_rsa)
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - that is it
    whole = der(good).replace(sha256_with_rsa, sha1_with_rsa)
    return x509.load_der_x509_certificate(whole[: -len(signature)] + signature)
