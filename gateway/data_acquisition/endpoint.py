"""What a server offers: its endpoints, asked for without a secure channel, so nothing here is believed yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto import security_policies as policies

from gateway.config import Security
from gateway.data_acquisition.transport import install

REQUEST_TIMEOUT_S = 10.0
CLEAR = policies.SecurityPolicyNone.URI
POLICIES: dict[str, type[policies.SecurityPolicy]] = {
    "Aes256_Sha256_RsaPss": policies.SecurityPolicyAes256Sha256RsaPss,
    "Basic256Sha256": policies.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": policies.SecurityPolicyAes128Sha256RsaOaep,
    "Basic256": policies.SecurityPolicyBasic256,
    "Basic128Rsa15": policies.SecurityPolicyBasic128Rsa15,
    "None": policies.SecurityPolicyNone,
}  # the strongest first
_TRANSPORT = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
_DISCOVERY_MOST = 2 * 2**20
_CHUNK_LEAST = 2**10  # bytes of a message that a server puts into a chunk; all use eight times as many and more


class BoundedClient(Client):
    """asyncua's client, which takes no larger messages than *message_most* bytes.

    asyncua takes what the server says it can *receive* for what may come from it; both are set right here.
    """

    def __init__(self, url: str, *, message_most: int, watchdog_intervall: float = 1.0) -> None:
        super().__init__(url, timeout=REQUEST_TIMEOUT_S, watchdog_intervall=watchdog_intervall)
        self.name = self.description = "Wearsight gateway"
        self.max_messagesize = message_most
        install(self)

    async def send_hello(self) -> None:
        """Agree on sizes."""
        await super().send_hello()
        if self.uaclient.protocol is not None:
            limits = self.uaclient.protocol._connection._limits  # noqa: SLF001 - there is no other way to them
            limits.max_message_size = self.max_messagesize
            limits.max_chunk_count = self.max_messagesize // _CHUNK_LEAST

    def abort(self) -> None:
        """Drop the socket at once, whatever waits in it."""
        protocol = self.uaclient.protocol
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
        self.uaclient.disconnect_socket()


async def ask_endpoints(url: str, application_uri: str) -> list[ua.EndpointDescription]:
    """Return what the server at *url* says it offers.

    Raises:
        OSError, TimeoutError, UaError: If it does not answer as an OPC UA server.
    """
    client = BoundedClient(url, message_most=_DISCOVERY_MOST)
    client.application_uri = application_uri
    try:
        return await client.connect_and_get_server_endpoints()
    finally:
        client.abort()


def security_of(endpoint: ua.EndpointDescription) -> Security | None:
    """Return the setting that uses *endpoint*, or None when the gateway cannot."""
    name = next((name for name, policy in POLICIES.items() if endpoint.SecurityPolicyUri == policy.URI), "")
    value = name if endpoint.SecurityMode == ua.MessageSecurityMode.None_ else f"{name}-{endpoint.SecurityMode.name}"
    by_tcp = endpoint.TransportProfileUri in {_TRANSPORT, "", None}
    return Security(value) if by_tcp and value in set(Security) else None


def by_strength(endpoints: Iterable[ua.EndpointDescription]) -> list[ua.EndpointDescription]:
    """Return *endpoints*, the best protected first: encrypted, then signed, each by policy; last what we cannot use."""
    names = list(POLICIES)

    def rank(endpoint: ua.EndpointDescription) -> tuple[bool, bool, bool, bool, int]:
        security = security_of(endpoint)
        if security is None:
            return True, True, True, True, 0
        none = security is Security.NONE
        return False, none, security.deprecated, not security.encrypted, names.index(security.policy)

    return sorted(endpoints, key=rank)


def choose(endpoints: Sequence[ua.EndpointDescription], url: str, security: Security) -> ua.EndpointDescription | None:
    """Return the endpoint with exactly *security*, or None when there is none.

    Servers write their URLs with the host name that they know of themselves, or with none that leads to them. So the
    URL only chooses between several with the same security (path and port count before the host); the gateway always
    calls the configured one.
    """
    wanted = urlsplit(url)
    fitting = [
        e for e in endpoints if security_of(e) is security and (security is Security.NONE or e.ServerCertificate)
    ]

    def likeness(endpoint: ua.EndpointDescription) -> int:
        try:
            parts = urlsplit(endpoint.EndpointUrl or "")
            same_path = parts.path.rstrip("/") == wanted.path.rstrip("/")
            return 4 * same_path + 2 * (parts.port == wanted.port) + (parts.hostname == wanted.hostname)
        except ValueError:
            return 0

    return max(fitting, key=likeness, default=None)
