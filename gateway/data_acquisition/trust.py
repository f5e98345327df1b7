"""The trust list: which OPC UA servers the gateway talks to."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from gateway.errors import ServerUntrusted

_KEEP_REJECTED = 20


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of the DER *certificate*, as people compare it: ``AB:CD:…``."""
    return hashlib.sha256(certificate).digest().hex(":").upper()


class TrustList:
    """The server certificates in ``<pki>/trusted/*.der``; every other one is refused.

    The folder is read at each check, so that a certificate put there counts at the next try. A refused one is kept
    in ``<pki>/rejected`` for whoever decides about it.
    """

    def __init__(self, pki_dir: Path) -> None:
        self.trusted = pki_dir / "trusted"
        self.rejected = pki_dir / "rejected"

    def check(self, server: str, certificate: bytes) -> None:
        """Return if *certificate* (DER) of the configured *server* is on the list and in its time.

        Raises:
            ServerUntrusted: If it is not; the message gives its fingerprint and what to do.
        """
        if not any(path.read_bytes() == certificate for path in sorted(self.trusted.glob("*.der"))):
            path = self._keep(server, certificate)
            raise ServerUntrusted(
                f"{server}: the server's certificate is not trusted (SHA-256 {fingerprint(certificate)}); if it is the "
                f"right one, move {path} to {self.trusted}; nothing was sent, and it is tried again"
            )
        try:
            parsed = x509.load_der_x509_certificate(certificate)
        except ValueError as error:
            raise ServerUntrusted(f"{server}: the server's certificate cannot be read ({error})") from error
        now = datetime.now(UTC)
        if not parsed.not_valid_before_utc <= now <= parsed.not_valid_after_utc:
            raise ServerUntrusted(
                f"{server}: the server's certificate is valid from {parsed.not_valid_before_utc:%Y-%m-%d} to "
                f"{parsed.not_valid_after_utc:%Y-%m-%d} only; renew it at the server; it is tried again"
            )

    def _keep(self, server: str, certificate: bytes) -> Path:
        """Put *certificate* into the folder of rejected ones, which does not grow for ever."""
        self.trusted.mkdir(parents=True, exist_ok=True)
        self.rejected.mkdir(parents=True, exist_ok=True)
        path = self.rejected / f"{server}-{hashlib.sha256(certificate).hexdigest()[:16]}.der"
        if not path.exists() and len(list(self.rejected.glob("*.der"))) < _KEEP_REJECTED:
            path.write_bytes(certificate)
        return path
