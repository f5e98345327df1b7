"""One connection to an OPC UA server: trusted, signed, encrypted, signed in. A new one is made for each attempt.

asyncua's own reconnecting is not used: on an encrypted channel it may leave a client that says it is connected and
receives nothing (see docs/adr).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError

from gateway.config import Security, ServerConfig, read_secret
from gateway.data_acquisition.certificate import ensure_application_certificate
from gateway.data_acquisition.trust import TrustList
from gateway.errors import ServerUntrusted, SourceUnavailable

REQUEST_TIMEOUT_S = 10.0
_CLOSE_S = 2.0
# asyncua looks at the server's state this often and calls the link lost when no answer comes for as long.
_PROBE_S = 10.0
_MESSAGE_LIMIT = 64 * 2**20
_CHANNEL_LIFETIME_MS = 3_600_000
_SESSION_TIMEOUT_MS = 60_000
_CHANNEL_REFUSED = frozenset(
    {StatusCodes.BadSecurityChecksFailed, StatusCodes.BadCertificateUntrusted, StatusCodes.BadCertificateUriInvalid}
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who the gateway is towards OPC UA servers."""

    application_uri: str
    common_name: str
    pki_dir: Path


@asynccontextmanager
async def connected(server: ServerConfig, identity: Identity) -> AsyncIterator[Client]:
    """Hold a session with *server*, and end it, kindly if that is quick.

    Raises:
        ServerUntrusted: If its certificate is not on the trust list; nothing was sent then.
        SourceUnavailable: If it cannot be reached, offers no such security, or does not let us in.
        ConfigError: If the password cannot be read.
    """
    client = Client(server.endpoint, timeout=REQUEST_TIMEOUT_S, watchdog_intervall=_PROBE_S)
    client.name = client.description = "Wearsight gateway"
    client.application_uri = identity.application_uri
    client.max_messagesize = _MESSAGE_LIMIT
    client.secure_channel_timeout = _CHANNEL_LIFETIME_MS
    client.session_timeout = _SESSION_TIMEOUT_MS
    try:
        await _secure(client, server, identity)
        _sign_in(client, server)
        await client.connect()
    except ServerUntrusted:
        raise
    except (OSError, TimeoutError, UaError, AssertionError) as error:
        raise SourceUnavailable(
            f"{server.name}: cannot connect to {server.endpoint} ({_reason(error, identity)}); it is tried again"
        ) from error
    try:
        yield client
    finally:
        await _close(client)


async def _secure(client: Client, server: ServerConfig, identity: Identity) -> None:
    """Have *client* use the configured security with the certificate the server shows, if that is trusted."""
    if server.security is Security.NONE:
        return
    mode_name = server.security.value.removeprefix("Basic256Sha256-")
    mode = ua.MessageSecurityMode[mode_name]
    endpoints = await client.connect_and_get_server_endpoints()
    certificate = next(
        (
            bytes(e.ServerCertificate)
            for e in endpoints
            if e.SecurityMode == mode
            and e.SecurityPolicyUri == SecurityPolicyBasic256Sha256.URI
            and e.ServerCertificate
        ),
        None,
    )
    if certificate is None:
        raise SourceUnavailable(f"{server.name}: {server.endpoint} does not offer {server.security}; it is tried again")
    TrustList(identity.pki_dir).check(server.name, certificate)
    own, key = await asyncio.to_thread(
        ensure_application_certificate, identity.pki_dir, identity.application_uri, identity.common_name
    )
    # The channel is opened to this very certificate, and asyncua refuses a session that shows another.
    await client.set_security(
        SecurityPolicyBasic256Sha256,
        CertProperties(own, "der"),
        CertProperties(key, "pem"),
        server_certificate=CertProperties(certificate, "der"),
        mode=mode,
    )


def _sign_in(client: Client, server: ServerConfig) -> None:
    if server.user is not None and server.password_file is not None:
        client.set_user(server.user)
        client.set_password(read_secret(server.password_file, f"{server.name}: password_file"))


async def _close(client: Client) -> None:
    """End the session if the server answers soon; the socket in any case."""
    with suppress(Exception):
        await asyncio.wait_for(client.disconnect(), _CLOSE_S)
    with suppress(Exception):
        client.disconnect_socket()


def _reason(error: BaseException, identity: Identity) -> str:
    # asyncua 2.1 fails its own assertion when a server answers the opening of the channel with a fault, as node-opcua
    # does to a client it does not trust.
    if isinstance(error, AssertionError) or getattr(error, "code", None) in _CHANNEL_REFUSED:
        certificate = identity.pki_dir / "application.der"
        return f"the server refuses the secure channel; it may have to be told to trust {certificate}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
