"""The trust list: which OPC UA servers the gateway talks to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog
from cryptography import x509

from gateway.config import Tolerated
from gateway.data_acquisition.server_certificate import (
    UNTRUSTED,
    Expected,
    Known,
    Problem,
    not_tolerated,
    problems,
    split_chain,
)
from gateway.errors import ServerUntrusted

log = structlog.get_logger()

_KEEP_REJECTED = 20
_SUFFIXES = frozenset({".der", ".cer", ".crt", ".pem", ".crl"})
_Read = TypeVar("_Read")


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of the DER *certificate*, as people compare it: ``AB:CD:…``."""
    return hashlib.sha256(certificate).digest().hex(":").upper()


def own_part(chain: bytes) -> bytes:
    """Return the server's own certificate of what it sent, which may be a *chain*; what cannot be split stays whole."""
    try:
        return split_chain(chain)[0]
    except ValueError:
        return chain


class TrustList:
    """Whom this gateway trusts, in the folders of OPC 10000-12, DER or PEM.

    ``trusted`` holds servers, and authorities whose servers are all trusted; ``issuers`` authorities that are not
    trusted but complete chains; ``crl`` what authorities have revoked. They are read at each check, so that what is
    put there counts at the next try. A certificate that is refused is kept in ``rejected`` for whoever decides.
    """

    def __init__(self, pki_dir: Path) -> None:
        self.trusted = pki_dir / "trusted"
        self.issuers = pki_dir / "issuers"
        self.revocations = pki_dir / "crl"
        self.rejected = pki_dir / "rejected"

    def check(self, server: str, chain: bytes, expected: Expected, tolerate: Sequence[Tolerated] = ()) -> None:
        """Return if the certificate of the configured *server*, the first of *chain* (DER), is good and trusted.

        Raises:
            ServerUntrusted: If it is not; the message gives every reason, its fingerprint and what to do.
        """
        found = not_tolerated(self.problems(chain, expected), tolerate)
        if not found:
            return
        certificate = own_part(chain)
        path = self._keep(server, certificate)
        reasons = "; it ".join(problem.reason for problem in found)
        remedy = f"if it is the right one, move {path} to {self.trusted}; " if found[-1].status == UNTRUSTED else ""
        raise ServerUntrusted(
            f"{server}: the server's certificate {reasons} (SHA-256 {fingerprint(certificate)}); {remedy}"
            "nothing was sent, and it is tried again"
        )

    def problems(self, chain: bytes, expected: Expected) -> list[Problem]:
        """Return all that is wrong with *chain* (DER); that it is not trusted, if it is not, is the last."""
        return sorted(problems(chain, self._known(), expected), key=lambda problem: problem.status == UNTRUSTED)

    def _known(self) -> Known:
        load_certificate = _either(x509.load_der_x509_certificate, x509.load_pem_x509_certificate)
        return Known(
            trusted=_read(self.trusted, load_certificate),
            issuers=_read(self.issuers, load_certificate),
            revocations=_read(self.revocations, _either(x509.load_der_x509_crl, x509.load_pem_x509_crl)),
        )

    def _keep(self, server: str, certificate: bytes) -> Path:
        """Put *certificate* into the folder of rejected ones, which does not grow for ever."""
        self.trusted.mkdir(parents=True, exist_ok=True)
        self.rejected.mkdir(parents=True, exist_ok=True)
        path = self.rejected / f"{server}-{hashlib.sha256(certificate).hexdigest()[:16]}.der"
        if not path.exists() and len(list(self.rejected.glob("*.der"))) < _KEEP_REJECTED:
            path.write_bytes(certificate)
        return path


def _either(from_der: Callable[[bytes], _Read], from_pem: Callable[[bytes], _Read]) -> Callable[[bytes], _Read]:
    return lambda content: (from_pem if content.startswith(b"-----") else from_der)(content)


def _read(folder: Path, load: Callable[[bytes], _Read]) -> tuple[_Read, ...]:
    """Return what the files of *folder* hold; one that cannot be read is told and counts for nothing."""
    found = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in _SUFFIXES:
            try:
                found.append(load(path.read_bytes()))
            except (OSError, ValueError) as error:
                log.warning("not a certificate or revocation list", path=str(path), reason=str(error))
    return tuple(found)
