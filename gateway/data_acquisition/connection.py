"""One connection to an OPC UA server: trusted, signed, encrypted, signed in. A new one is made for each attempt.

asyncua's own reconnecting is not used: on an encrypted channel it may leave a client that says it is connected and
receives nothing (see docs/adr). What a lost connection leaves at the server, its session with all subscriptions, can be
taken over by the next one: see `SavedSession`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_session import SessionState
from asyncua.crypto.security_policies import SecurityPolicy
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError
from cryptography.exceptions import InvalidSignature

from gateway.config import Security, ServerConfig, Tolerated, read_secret
from gateway.data_acquisition.certificate import ensure_application_certificate, load_own_certificate
from gateway.data_acquisition.endpoint import CLEAR, POLICIES, BoundedClient, ask_endpoints, choose, security_of
from gateway.data_acquisition.server_certificate import Expected
from gateway.data_acquisition.trust import TrustList, own_part
from gateway.errors import ConfigError, ServerUntrusted, SourceUnavailable

log = structlog.get_logger()

_CLOSE_S = 2.0
# asyncua looks at the server's state this often and calls the link lost when no answer comes for as long.
_PROBE_S = 10.0
_MESSAGE_LIMIT = 64 * 2**20
_CHANNEL_LIFETIME_MS = 3_600_000
# So long a server keeps the session of a link that is cut. A gateway that crashed holds it for as long too.
_SESSION_TIMEOUT_MS = 300_000
_DOES_NOT_START = "; the service does not start"
_CHANNEL_REFUSED = frozenset(
    {StatusCodes.BadSecurityChecksFailed, StatusCodes.BadCertificateUntrusted, StatusCodes.BadCertificateUriInvalid}
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who the gateway is towards OPC UA servers."""

    application_uri: str
    common_name: str
    pki_dir: Path


@dataclass(frozen=True, kw_only=True)
class SavedSession:
    """What another secure channel needs to take a session over; as secret as a password, and so not shown."""

    authentication_token: ua.NodeId = field(repr=False)
    server_nonce: bytes | None = field(repr=False)
    server_certificate: bytes | None = field(repr=False)
    token_policies: tuple[ua.UserTokenPolicy, ...] = field(repr=False)
    server_start: datetime | None = field(repr=False)


class Connection:
    """A session that is signed in.

    Attributes:
        client: asyncua's client.
        reused: Whether the session is the saved one, with its subscriptions.
        server_start: Since when the server runs, as it says; None when it does not.
    """

    def __init__(self, client: _SessionClient) -> None:
        self.client: Client = client
        self.reused = client.reused
        self.server_start = client.server_start
        self._client = client

    async def close(self, *, kindly: bool) -> None:
        """End the connection; the socket and all tasks are gone then.

        Kindly, the session is closed too, if the server answers soon. Else the server keeps it for a while, with its
        subscriptions.
        """
        await self._client.end(kindly=kindly)

    def saved(self) -> SavedSession | None:
        """Return what is needed to take the session over, or None when there is none any more."""
        return self._client.saved()


def prepare(server: ServerConfig, identity: Identity) -> None:
    """Make the gateway's own certificate if there is none, and read what signing in needs, once before the start.

    Raises:
        ConfigError: If certificate, key or password cannot be used. Later on, `connect` takes that for a passing fault.
    """
    ensure_application_certificate(identity.pki_dir, identity.application_uri, identity.common_name)
    _password(server)


async def connect(server: ServerConfig, identity: Identity, *, saved: SavedSession | None = None) -> Connection:
    """Return a session with *server*: the *saved* one when the server still has it, else a new one.

    Raises:
        ServerUntrusted: If its certificate is not good or not trusted; nothing was sent then.
        SourceUnavailable: If it cannot be reached, offers no such security, does not let us in, or when password, own
            certificate or key cannot be read now.
    """
    try:
        client = await _prepared_client(server, identity, saved)
        try:
            await client.connect()
        except BaseException:
            await client.end(kindly=False)
            raise
    except SourceUnavailable:
        raise
    except ConfigError as error:
        reason = str(error).removesuffix(_DOES_NOT_START)
        raise SourceUnavailable(f"{server.name}: {reason}; it is tried again") from error
    except (OSError, TimeoutError, UaError, InvalidSignature, AssertionError) as error:
        raise SourceUnavailable(
            f"{server.name}: cannot connect to {server.endpoint} ({_reason(error, identity)}); it is tried again"
        ) from error
    return Connection(client)


@asynccontextmanager
async def connected(server: ServerConfig, identity: Identity) -> AsyncIterator[Client]:
    """Hold a session with *server*, and end it, kindly if that is quick.

    Raises:
        ServerUntrusted, SourceUnavailable: As `connect`.
        ConfigError: If own certificate, key or password cannot be used.
    """
    await asyncio.to_thread(prepare, server, identity)
    connection = await connect(server, identity)
    try:
        yield connection.client
    finally:
        await connection.close(kindly=True)


async def _prepared_client(server: ServerConfig, identity: Identity, saved: SavedSession | None) -> _SessionClient:
    """Return a client of the configured security, set to the certificate that the server shows, if that is trusted."""
    endpoints = await ask_endpoints(server.endpoint, identity.application_uri)
    endpoint = choose(endpoints, server.endpoint, server.security)
    if endpoint is None:
        offered = (
            ", ".join(sorted({str(s) for e in endpoints if (s := security_of(e)) is not None})) or "nothing usable"
        )
        raise SourceUnavailable(
            f"{server.name}: {server.endpoint} does not offer {server.security}, but {offered}; nothing weaker is "
            "taken by itself; it is tried again"
        )
    client = _SessionClient(server, identity, endpoint, saved)
    if server.security is not Security.NONE:
        client.check_certificate(endpoint.ServerCertificate, server.security)
        own = await asyncio.to_thread(load_own_certificate, identity.pki_dir, identity.application_uri)
        # The channel is opened to this very certificate, and asyncua refuses a session that shows another.
        client.use(
            POLICIES[server.security.policy](
                own_part(endpoint.ServerCertificate), own.certificate, own.key, endpoint.SecurityMode
            )
        )
    password = await asyncio.to_thread(_password, server)
    if server.user is not None and password is not None:
        client.set_user(server.user)
        client.set_password(password)
    return client


class _SessionClient(BoundedClient):
    """A client that takes a saved session over when it can, and keeps the password from who may not see it."""

    def __init__(
        self, server: ServerConfig, identity: Identity, endpoint: ua.EndpointDescription, saved: SavedSession | None
    ) -> None:
        super().__init__(server.endpoint, message_most=_MESSAGE_LIMIT, watchdog_intervall=_PROBE_S)
        self.application_uri = identity.application_uri
        self.secure_channel_timeout = _CHANNEL_LIFETIME_MS
        self.session_timeout = _SESSION_TIMEOUT_MS
        self.reused = False
        self.server_start: datetime | None = None
        self._server = server
        self._pki_dir = identity.pki_dir
        self._server_application_uri = endpoint.Server.ApplicationUri or ""
        self._saved = saved

    def use(self, policy: SecurityPolicy) -> None:
        """Secure the channel by *policy*."""
        self.security_policy = policy  # type: ignore[assignment]  # asyncua's annotation knows only None
        self.uaclient.set_security(policy)

    def check_certificate(self, chain: bytes, security: Security) -> None:
        """Raise ServerUntrusted unless *chain* is good for *security* and trusted."""
        host = urlsplit(self._server.endpoint).hostname or ""
        expected = Expected(application_uri=self._server_application_uri, host=host, security=security)
        TrustList(self._pki_dir).check(self._server.name, chain, expected, self._server.tolerate)

    async def _connect_sequence(self) -> None:
        """Open socket and channel, take the saved session over or make a new one, sign in; `connect` calls this."""
        await self._open_channel()
        self.reused = self._saved is not None and await self._take_over(self._saved)
        if not self.reused:
            await self._create_and_activate_session()
            self.server_start = await self._read_start()
        self._start_renew_loop()

    async def _open_channel(self) -> None:
        await self.connect_socket()
        await self.send_hello()
        await self.open_secure_channel()

    async def _take_over(self, saved: SavedSession) -> bool:
        """Return whether the *saved* session is ours again; if not, a channel is open for a new one all the same."""
        session, policy = self.uaclient.session, self.security_policy
        session.restore_authentication_token(saved.authentication_token)
        self._server_nonce = saved.server_nonce  # type: ignore[assignment]  # asyncua's annotation: never one
        self._policy_ids = list(saved.token_policies)
        certificate = policy.peer_certificate or saved.server_certificate
        policy.peer_certificate = certificate
        try:
            await self._activate_with_credentials()
        except (UaError, OSError, TimeoutError) as error:
            log.info("session not taken over", server=self._server.name, reason=_told(error))
        else:
            self.server_start = await self._read_start()
            if self.server_start == saved.server_start:
                return True
            # Servers that count their tokens give them anew after a restart: it is somebody else's, and is left alone.
            log.info("session not taken over", server=self._server.name, reason="the server was started anew")
            self.abort()
        session.reset_authentication_token()
        self._server_nonce = None
        if self._server.security is Security.NONE:
            policy.peer_certificate = None
        protocol = self.uaclient.protocol
        if protocol is None or protocol.transport is None or protocol.transport.is_closing():
            # It is not told with an answer but with the end of the channel.
            self.abort()
            await self._open_channel()
        return False

    async def _read_start(self) -> datetime | None:
        node = ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_StartTime))
        (value,) = await self.uaclient.read_attributes([node], AttributeIds.Value)
        told = value.Value.Value if value.Value is not None else None
        return told if isinstance(told, datetime) else None

    async def create_session(self) -> ua.CreateSessionResult:
        """Make a session whose certificate and application are those that the endpoint showed.

        Raises:
            ServerUntrusted: If they are others.
        """
        try:
            response = await super().create_session()
        except UaError as error:
            if str(error) != "Server certificate mismatch":  # asyncua's words; it has no type for it
                raise
            raise self._stranger("certificate") from error
        # Servers leave the certificate out of these endpoints, as OPC 10000-4 5.6.2 has it.
        same = [e for e in response.ServerEndpoints or () if security_of(e) is self._server.security]
        if not same or any((e.Server.ApplicationUri or "") != self._server_application_uri for e in same):
            raise self._stranger("application")
        return response

    def _stranger(self, what: str) -> ServerUntrusted:
        return ServerUntrusted(
            f"{self._server.name}: the session is of another {what} than the endpoint told; somebody may stand "
            "between; it was not signed in, and it is tried again"
        )

    async def _activate_with_credentials(self) -> ua.ActivateSessionResult:
        if self._password is not None:
            self._protect_password()
        return await super()._activate_with_credentials()

    def server_policy(self, token_type: ua.UserTokenType) -> ua.UserTokenPolicy:
        """Return the strongest way the server takes *token_type*; asyncua would take the first."""
        usable = {policy.URI: rank for rank, policy in enumerate(POLICIES.values())}
        own = self.security_policy.URI
        offered = [
            replace(p, SecurityPolicyUri=p.SecurityPolicyUri or own)
            for p in self._policy_ids
            if p.TokenType == token_type
        ]
        known = [p for p in offered if p.SecurityPolicyUri in usable]
        return min(known, key=lambda p: usable[p.SecurityPolicyUri], default=super().server_policy(token_type))

    def _protect_password(self) -> None:
        """Raise unless the password goes encrypted, to whom it is meant for."""
        if self._server.security.encrypted or Tolerated.CLEAR_PASSWORD in self._server.tolerate:
            return
        policy = self.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri
        # PKCS#1 v1.5, the padding of Basic128Rsa15, can be undone by asking the server; who wants that, says so.
        weak = POLICIES["Basic128Rsa15"].URI
        if policy in {CLEAR, ""} or (policy == weak != self.security_policy.URI):
            raise SourceUnavailable(
                f"{self._server.name}: the server wants the password in clear text (over {self._server.security}); it "
                'was not sent; use an encrypted security, or set tolerate = ["clear-password"]; it is tried again'
            )
        if self._server.security is Security.NONE:
            # Without a secure channel nobody has looked at the certificate to whose key the password is encrypted.
            self.check_certificate(self.security_policy.peer_certificate or b"", Security.SIGN_AND_ENCRYPT)

    def saved(self) -> SavedSession | None:
        """Return the session as it stands."""
        session = self.uaclient.session
        if session.state is not SessionState.ACTIVATED or session.authentication_token.is_null():
            return None
        return SavedSession(
            authentication_token=session.authentication_token,
            server_nonce=self._server_nonce,
            server_certificate=self.security_policy.peer_certificate,
            token_policies=tuple(self._policy_ids),
            server_start=self.server_start,
        )

    async def end(self, *, kindly: bool) -> None:
        """Close the session if that is wanted and quick; then socket and tasks in any case."""
        try:
            if kindly:
                with suppress(Exception):
                    await asyncio.wait_for(self.disconnect(), _CLOSE_S)
        finally:
            self.uaclient.request_disconnect()
            self.uaclient.pre_request_hook = None
            tasks = [self._supervisor_task, self._stale_watchdog_task, self._renew_channel_task]
            running = [task for task in tasks if task is not None]
            for task in running:
                task.cancel()
            self.abort()
            await asyncio.gather(*running, return_exceptions=True)


def _password(server: ServerConfig) -> str | None:
    if server.user is None or server.password_file is None:
        return None
    return read_secret(server.password_file, f"{server.name}: password_file")


def _reason(error: BaseException, identity: Identity) -> str:
    # asyncua 2.1 fails its own assertion when a server answers the opening of the channel with a fault, as node-opcua
    # does to a client it does not trust.
    if isinstance(error, AssertionError) or getattr(error, "code", None) in _CHANNEL_REFUSED:
        certificate = identity.pki_dir / "application.der"
        return f"the server refuses the secure channel; it may have to be told to trust {certificate}"
    return _told(error)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
