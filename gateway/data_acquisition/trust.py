"""The trust list: which OPC UA servers the gateway talks to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.config import Tolerated
from gateway.data_acquisition.certificate import write_whole
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

    def add(self, server: str, certificate: bytes) -> Path:
        """Trust *certificate* (DER), in the name of the configured *server*; return the file it is in now."""
        self.trusted.mkdir(parents=True, exist_ok=True)
        path = self.trusted / _file_name(server, certificate)
        write_whole(path, certificate, mode=0o644)
        (self.rejected / path.name).unlink(missing_ok=True)
        return path

    def remove(self, chosen: Callable[[Path, bytes], bool]) -> list[Path]:
        """Trust no longer what *chosen* (file, DER) says; return the files that are gone."""
        gone = [path for path, certificate in self.entries() if chosen(path, certificate)]
        for path in gone:
            path.unlink()
        return gone

    def entries(self) -> list[tuple[Path, bytes]]:
        """Return the files of the trust list, each with its certificate (DER)."""
        return [
            (path, certificate.public_bytes(Encoding.DER))
            for path, certificate in _read(self.trusted, _LOAD_CERTIFICATE)
        ]

    def _known(self) -> Known:
        return Known(
            trusted=tuple(one for _, one in _read(self.trusted, _LOAD_CERTIFICATE)),
            issuers=tuple(one for _, one in _read(self.issuers, _LOAD_CERTIFICATE)),
            revocations=tuple(one for _, one in _read(self.revocations, _LOAD_CRL)),
        )

    def _keep(self, server: str, certificate: bytes) -> Path:
        """Put *certificate* into the folder of rejected ones, which does not grow for ever."""
        self.trusted.mkdir(parents=True, exist_ok=True)
        self.rejected.mkdir(parents=True, exist_ok=True)
        path = self.rejected / _file_name(server, certificate)
        if not path.exists() and len(list(self.rejected.glob("*.der"))) < _KEEP_REJECTED:
            path.write_bytes(certificate)
        return path


def _file_name(server: str, certificate: bytes) -> str:
    return f"{server}-{hashlib.sha256(certificate).hexdigest()[:16]}.der"


def _either(from_der: Callable[[bytes], _Read], from_pem: Callable[[bytes], _Read]) -> Callable[[bytes], _Read]:
    return lambda content: (from_pem if content.startswith(b"-----") else from_der)(content)


_LOAD_CERTIFICATE = _either(x509.load_der_x509_certificate, x509.load_pem_x509_certificate)
_LOAD_CRL = _either(x509.load_der_x509_crl, x509.load_pem_x509_crl)


def _read(folder: Path, load: Callable[[bytes], _Read]) -> list[tuple[Path, _Read]]:
    """Return what the files of *folder* hold; one that cannot be read is told and counts for nothing."""
    found = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in _SUFFIXES:
            try:
                found.append((path, load(path.read_bytes())))
            except (OSError, ValueError) as error:
                log.warning("not a certificate or revocation list", path=str(path), reason=str(error))
    return found
