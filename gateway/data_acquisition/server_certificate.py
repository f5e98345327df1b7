"""What may be wrong with a server's certificate: the checks of OPC 10000-4, 6.1.3, each with its own reason."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.config import Security, Tolerated

UNTRUSTED = "BadCertificateUntrusted"
_BLOB_MOST = 64 * 2**10
_CHAIN_MOST = 8
_BITS_LEAST = 2048
_BITS_LEAST_DEPRECATED = 1024
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_GOOD_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        status: OPC UA's name for it.
        reason: What is wrong and what to do, without who it is about.
        tolerated_by: The setting that lets it pass, or None when nothing does.
    """

    status: str
    reason: str
    tolerated_by: Tolerated | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """The certificates that this gateway knows.

    Attributes:
        trusted: Servers and authorities that are trusted.
        issuers: Authorities that only complete chains.
        revocations: Their lists of revoked certificates.
    """

    trusted: tuple[x509.Certificate, ...] = ()
    issuers: tuple[x509.Certificate, ...] = ()
    revocations: tuple[x509.CertificateRevocationList, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the certificate has to match: the endpoint's application, the host we call, the security we use."""

    application_uri: str
    host: str
    security: Security = Security.SIGN_AND_ENCRYPT


def split_chain(blob: bytes) -> list[bytes]:
    """Return the DER certificates of *blob*, the server's own first; servers join those of their issuers to it.

    Raises:
        ValueError: If it is not made of whole DER sequences, or is too large.
    """
    if not blob:
        raise ValueError("there is none")
    if len(blob) > _BLOB_MOST:
        raise ValueError(f"{len(blob)} bytes are too many")
    parts = []
    while blob:
        size = _sequence_size(blob)
        if size > len(blob):
            raise ValueError(f"it is cut off after {len(blob)} of {size} bytes")
        parts.append(blob[:size])
        blob = blob[size:]
    return parts


def _sequence_size(blob: bytes) -> int:
    """Return how long the DER sequence at the start of *blob* says it is, its header with it."""
    if len(blob) < 2 or blob[0] != 0x30:
        raise ValueError("it is no DER sequence")
    if blob[1] < 0x80:
        return 2 + blob[1]
    width = blob[1] & 0x7F
    if not 1 <= width <= 4 or len(blob) < 2 + width:
        raise ValueError("its length cannot be read")
    return 2 + width + int.from_bytes(blob[2 : 2 + width], "big")


def problems(blob: bytes, known: Known, expected: Expected, now: datetime | None = None) -> list[Problem]:
    """Return all that is wrong with the certificate (and chain) *blob* at *now*; nothing when it is good."""
    try:
        leaf, *sent = [x509.load_der_x509_certificate(part) for part in split_chain(blob)]
        # Extensions are decoded when they are asked for; a fault in them shows here.
        for certificate in (leaf, *sent):
            _ = certificate.extensions, certificate.public_key()
        return list(_problems(leaf, sent, known, expected, now or datetime.now(UTC)))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        return [Problem(status="BadCertificateInvalid", reason=f"cannot be read ({error}); renew it at the server")]


def _problems(
    leaf: x509.Certificate, sent: Sequence[x509.Certificate], known: Known, expected: Expected, now: datetime
) -> Iterator[Problem]:
    pinned = leaf in known.trusted
    chain, broken = _chain(leaf, [*sent, *known.trusted, *known.issuers])
    if broken is not None and not (pinned and leaf.issuer != leaf.subject):
        yield broken
    yield from _authority_problems(chain)
    yield from _key_problems(chain, expected.security)
    if not any(certificate in known.trusted for certificate in chain):
        yield Problem(status=UNTRUSTED, reason="is not trusted")
    yield from _time_problems(chain, now)
    if len(chain) > 1 and not pinned:
        yield from _host_problems(leaf, expected.host)
    yield from _uri_problems(leaf, expected.application_uri)
    yield from _usage_problems(leaf)
    yield from _revocation_problems(chain, known, now, pinned=pinned)


def _chain(
    leaf: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> tuple[list[x509.Certificate], Problem | None]:
    """Return *leaf* and its issuers up to one that signed itself, and why it does not get there."""
    chain = [leaf]
    while len(chain) <= _CHAIN_MOST:
        last = chain[-1]
        signed_itself = last.issuer == last.subject
        # A hash too weak to be looked at: `_key_problems` tells it.
        if signed_itself and _signed_by(last, last) is not False:
            return chain, None
        named = [c for c in candidates if c.subject == last.issuer and c not in chain]
        signatures = [_signed_by(last, c) for c in named]
        if True in signatures:
            chain.append(named[signatures.index(True)])
        elif None in signatures:
            return chain, None
        else:
            return chain, _no_issuer(last, known=signed_itself or bool(named))
    return chain, Problem(
        status="BadCertificateChainIncomplete", reason=f"has more than {_CHAIN_MOST} issuers above it; renew it shorter"
    )


def _no_issuer(certificate: x509.Certificate, *, known: bool) -> Problem:
    name = certificate.issuer.rfc4514_string()
    if known:
        return Problem(
            status="BadCertificateInvalid",
            reason=f"bears a signature that is not of its issuer {name}: it was forged or damaged; renew it",
        )
    return Problem(
        status="BadCertificateChainIncomplete",
        reason=f"was issued by {name}, which is not known; put that authority's certificate into the folder issuers "
        "(or trusted, to trust all it issues)",
    )


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool | None:
    """Return whether *issuer* signed *certificate*; None when the signature is of a kind that proves nothing."""
    if isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
        return None
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _authority_problems(chain: Sequence[x509.Certificate]) -> Iterator[Problem]:
    """Yield which issuers may not issue."""
    for below, issuer in enumerate(chain[1:]):
        basic = _extension(issuer, x509.BasicConstraints)
        usage = _extension(issuer, x509.KeyUsage)
        if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
            reason = f"was issued by {_name(issuer)}, which is no authority; have it issued by one"
        elif basic.path_length is not None and below > basic.path_length:
            reason = f"has more issuers below {_name(issuer)} than that allows ({basic.path_length})"
        else:
            continue
        yield Problem(status="BadCertificateIssuerUseNotAllowed", reason=reason)


def _key_problems(chain: Sequence[x509.Certificate], security: Security) -> Iterator[Problem]:
    """Yield which keys and signatures are too weak for the policy; a root's signature of itself proves nothing."""
    least = _BITS_LEAST_DEPRECATED if security.deprecated else _BITS_LEAST
    good = (*_GOOD_HASHES, hashes.SHA1) if security.deprecated else _GOOD_HASHES
    status = "BadCertificatePolicyCheckFailed"
    for certificate in chain:
        whose = "" if certificate is chain[0] else f"was issued by {_name(certificate)}, which "
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            yield Problem(status=status, reason=f"{whose}has no RSA key; renew it with one")
        elif key.key_size < least:
            yield Problem(
                status=status, reason=f"{whose}has a key of {key.key_size} bits, at least {least} are needed; renew it"
            )
        algorithm = certificate.signature_hash_algorithm
        is_root = certificate is not chain[0] and certificate.issuer == certificate.subject
        if not is_root and not isinstance(algorithm, good):
            name = algorithm.name.upper() if algorithm is not None else "no known hash"
            yield Problem(status=status, reason=f"{whose}is signed with {name}, which can be forged; renew it")


def _time_problems(chain: Sequence[x509.Certificate], now: datetime) -> Iterator[Problem]:
    for certificate in chain:
        issuer = certificate is not chain[0]
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > end:
            when = f"expired on {end:%Y-%m-%d}; renew it"
        elif now < start:
            when = f"is not valid before {start:%Y-%m-%d %H:%M} UTC; look at the clocks here and there"
        else:
            continue
        yield Problem(
            status="BadCertificateIssuerTimeInvalid" if issuer else "BadCertificateTimeInvalid",
            reason=f"was issued by {_name(certificate)}, which {when}" if issuer else when,
            tolerated_by=Tolerated.VALIDITY,
        )


def _host_problems(leaf: x509.Certificate, host: str) -> Iterator[Problem]:
    """Yield that *leaf* is of another host; beneath an authority the name is what tells its servers apart."""
    names = _extension(leaf, x509.SubjectAlternativeName) or x509.SubjectAlternativeName([])
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    with suppress(ValueError):
        if ipaddress.ip_address(host) in addresses:
            return
    if host.casefold() not in {name.casefold() for name in hosts}:
        told = ", ".join([*hosts, *map(str, addresses)]) or "no host"
        yield Problem(
            status="BadCertificateHostNameInvalid",
            reason=f"is of {told}, not of {host}; use that name in endpoint, renew it, or trust this very certificate",
            tolerated_by=Tolerated.HOST_NAME,
        )


def _uri_problems(leaf: x509.Certificate, application_uri: str) -> Iterator[Problem]:
    names = _extension(leaf, x509.SubjectAlternativeName) or x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if application_uri not in uris:
        yield Problem(
            status="BadCertificateUriInvalid",
            reason=f"is of {', '.join(uris) or 'no application'}, not of {application_uri}, as the server "
            "calls itself; renew it",
        )


def _usage_problems(leaf: x509.Certificate) -> Iterator[Problem]:
    """Yield what *leaf* may not be used for; an extension that is not there limits nothing (RFC 5280)."""
    found = []
    basic = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if basic is not None and basic.ca:
        found.append("is an authority's and not an application's")
    if usage is not None:
        needed = ("digital_signature", "key_encipherment", "data_encipherment")
        if missing := [name.replace("_", " ") for name in needed if not getattr(usage, name)]:
            found.append(f"is not made for {', '.join(missing)}")
    if extended is not None and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
        extended
    ):
        found.append("is not made for servers")
    for what in found:
        reason = f"{what}; renew it"
        yield Problem(status="BadCertificateUseNotAllowed", reason=reason, tolerated_by=Tolerated.USAGE)


def _revocation_problems(
    chain: Sequence[x509.Certificate], known: Known, now: datetime, *, pinned: bool
) -> Iterator[Problem]:
    """Yield what its issuers have taken back; one that is trusted by itself needs no list to be good."""
    for certificate, issuer in pairwise(chain):
        whose = "" if certificate is chain[0] else f"was issued by {_name(certificate)}, which "
        lists = [crl for crl in known.revocations if crl.issuer == issuer.subject and _list_signed_by(crl, issuer)]
        if any(crl.get_revoked_certificate_by_serial_number(certificate.serial_number) for crl in lists):
            yield Problem(
                status="BadCertificateIssuerRevoked" if whose else "BadCertificateRevoked",
                reason=f"{whose}was revoked by {_name(issuer)}; renew it",
            )
        elif not pinned and not any(crl.next_update_utc is None or now <= crl.next_update_utc for crl in lists):
            yield Problem(
                status="BadCertificateRevocationUnknown",
                reason=f"{whose}may have been revoked: the folder crl has no list of {_name(issuer)} that is good now",
                tolerated_by=Tolerated.REVOCATION,
            )


def _list_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    try:
        return isinstance(key, rsa.RSAPublicKey) and crl.is_signature_valid(key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def not_tolerated(found: Iterable[Problem], tolerate: Sequence[Tolerated]) -> list[Problem]:
    """Return those of *found* that no setting lets pass."""
    return [problem for problem in found if problem.tolerated_by is None or problem.tolerated_by not in tolerate]
