from __future__ import annotations

import asyncio
import copy
import dataclasses
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client

from gateway.config import Security, ServerConfig, Tolerated
from gateway.data_acquisition.connection import Connection, Identity, SavedSession, connect, connected, prepare
from gateway.data_acquisition.endpoint import CLEAR
from gateway.data_acquisition.endpoint import POLICIES as POLICY
from gateway.errors import ConfigError, ServerUntrusted, SourceUnavailable
from tests.gateway.data_acquisition.small_plant import Cable, SmallPlant, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

PolicyType = ua.SecurityPolicyType
POLICIES = {
    Security.NONE: PolicyType.NoSecurity,
    Security.SIGN: PolicyType.Basic256Sha256_Sign,
    Security.SIGN_AND_ENCRYPT: PolicyType.Basic256Sha256_SignAndEncrypt,
    Security.AES128_SIGN: PolicyType.Aes128Sha256RsaOaep_Sign,
    Security.AES128_SIGN_AND_ENCRYPT: PolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
    Security.AES256_SIGN: PolicyType.Aes256Sha256RsaPss_Sign,
    Security.AES256_SIGN_AND_ENCRYPT: PolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
    Security.BASIC256_SIGN: PolicyType.Basic256_Sign,
    Security.BASIC256_SIGN_AND_ENCRYPT: PolicyType.Basic256_SignAndEncrypt,
    Security.BASIC128_SIGN: PolicyType.Basic128Rsa15_Sign,
    Security.BASIC128_SIGN_AND_ENCRYPT: PolicyType.Basic128Rsa15_SignAndEncrypt,
}
REUSABLE = [Security.NONE, Security.SIGN, Security.SIGN_AND_ENCRYPT, Security.AES256_SIGN_AND_ENCRYPT]


class OpenPlant(SmallPlant):
    """The plant with every security there is."""

    async def start(self) -> None:
        await super().start()
        assert self.server is not None
        assert self.server.bserver is not None
        self.server._security_policy = list(POLICIES.values())
        self.server.iserver.endpoints.clear()
        self.server._policies.clear()
        await self.server._setup_server_nodes()

    @property
    def sessions(self) -> int:
        assert self.server is not None
        return len(self.server.iserver._external_sessions)


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="plant")
async def _plant(plant_pki: Path) -> AsyncIterator[OpenPlant]:
    plant = OpenPlant(plant_pki, free_port())
    await plant.start()
    yield plant
    await plant.stop()


@pytest.fixture(scope="module")
def identity(plant_pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    pki = tmp_path_factory.mktemp("gateway-pki")
    (pki / "trusted").mkdir()
    (pki / "trusted" / "plant.der").write_bytes((plant_pki / "application.der").read_bytes())
    return Identity(application_uri="urn:wearsight:gateway:gw-1", common_name="gw-1", pki_dir=pki)


@pytest.fixture
def server(plant: OpenPlant, identity: Identity, tmp_path: Path) -> ServerConfig:
    password = tmp_path / "password"
    password.write_text("secret\n")
    server = ServerConfig(name="s", endpoint=plant.endpoint, user="gateway", password_file=password)
    prepare(server, identity)
    return server


def secured(server: ServerConfig, security: Security, *tolerate: Tolerated) -> ServerConfig:
    return ServerConfig(
        name=server.name,
        endpoint=server.endpoint,
        user=server.user,
        password_file=server.password_file,
        security=security,
        tolerate=tolerate,
    )


async def subscribed(client: Client) -> int:
    """Have a subscription with one item; return its id."""
    subscription = await client.uaclient.create_subscription(
        ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=100,
            RequestedLifetimeCount=1000,
            RequestedMaxKeepAliveCount=10,
            PublishingEnabled=True,
        ),
        lambda _: None,
    )
    return int(subscription.SubscriptionId)


async def cut(connection: Connection) -> SavedSession:
    """Drop the connection as a cut cable does; return what its session needs to be taken over."""
    saved = connection.saved()
    assert saved is not None
    await connection.close(kindly=False)
    return saved


def asyncua_tasks() -> set[str]:
    """The tasks that asyncua's client has in this loop."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    return {name for c in coroutines if "Client" in (name := getattr(c, "__qualname__", ""))}


@pytest.mark.parametrize("security", POLICIES, ids=str)
async def test_every_policy_and_mode_connects(
    plant: OpenPlant, server: ServerConfig, identity: Identity, security: Security
) -> None:
    """With the security that is set, and no other; values come."""
    async with connected(secured(server, security), identity) as client:
        assert client.security_policy.URI.rsplit("#", 1)[1] == security.policy
        assert await client.get_node(plant.nodes["speed_rpm"].nodeid).read_value() == 0.0
    assert asyncua_tasks() == set()


@pytest.mark.parametrize("security", REUSABLE, ids=str)
async def test_a_session_is_taken_over(
    plant: OpenPlant, server: ServerConfig, identity: Identity, security: Security
) -> None:
    """After a cut the session goes on over another channel, twice, its subscription with it."""
    server = secured(server, security)
    connection = await connect(server, identity)
    assert not connection.reused
    subscription = await subscribed(connection.client)
    for _ in range(2):
        saved = await cut(connection)
        assert asyncua_tasks() == set()
        connection = await connect(server, identity, saved=saved)
        assert connection.reused
        assert subscription in {s.data.SubscriptionId for s in plant.subscriptions()}
        assert await connection.client.get_node(plant.nodes["speed_rpm"].nodeid).read_value() == 0.0
    await connection.close(kindly=True)
    assert connection.saved() is None
    assert plant.subscriptions() == []
    assert asyncua_tasks() == set()


@pytest.mark.parametrize("security", REUSABLE, ids=str)
async def test_a_forgotten_session_is_made_anew(server: ServerConfig, identity: Identity, security: Security) -> None:
    """A server that was restarted knows no session; the connection comes all the same."""
    server = secured(server, security)
    saved = await cut(await connect(server, identity))
    lost = replace(saved, authentication_token=ua.NodeId(ua.Int32(987654), ua.Int16(0)))
    connection = await connect(server, identity, saved=lost)
    assert not connection.reused
    await connection.close(kindly=True)


async def test_a_session_is_taken_over_by_its_owner_alone(server: ServerConfig, identity: Identity) -> None:
    """The token alone opens nothing: the signature needs the server's last nonce too; and the owner still can."""
    connection = await connect(server, identity)
    await subscribed(connection.client)
    saved = await cut(connection)
    for key, reused in ((replace(saved, server_nonce=b"0" * 32), False), (saved, True)):
        connection = await connect(server, identity, saved=key)
        assert connection.reused is reused
        await connection.close(kindly=True)


async def test_a_saved_session_is_not_shown(server: ServerConfig, identity: Identity) -> None:
    """It is as good as a password, and logs show what is printed."""
    connection = await connect(server, identity)
    assert repr(connection.saved()) == "SavedSession()"
    await connection.close(kindly=True)


async def test_no_answer_to_a_take_over_costs_one_more_channel(
    plant: OpenPlant, server: ServerConfig, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends the channel when it is asked for a session it forgot is called once more, without."""
    connection = await connect(server, identity)
    saved = await cut(connection)
    assert plant.server is not None
    found = plant.server.iserver.lookup_external_session

    def hang_up(_token: ua.NodeId) -> None:
        monkeypatch.setattr(plant.server.iserver, "lookup_external_session", found)  # type: ignore[union-attr]  # it runs
        for transport in list(plant.server.iserver.asyncio_transports):  # type: ignore[union-attr]  # it runs
            transport.abort()

    monkeypatch.setattr(plant.server.iserver, "lookup_external_session", hang_up)
    connection = await connect(server, identity, saved=saved)
    assert not connection.reused
    assert await connection.client.get_node(plant.nodes["speed_rpm"].nodeid).read_value() == 0.0
    await connection.close(kindly=True)


@pytest.fixture
def endpoints(plant: OpenPlant) -> Iterator[list[Any]]:
    """What the server offers, to be changed."""
    assert plant.server is not None
    offered = plant.server.iserver.endpoints
    before = copy.deepcopy(offered)
    yield offered
    offered[:] = before


@pytest.fixture
def tokens(plant: OpenPlant, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The user tokens that reach the server."""
    assert plant.server is not None
    seen: list[Any] = []
    decrypt = plant.server.iserver.decrypt_user_token

    def noting(session: Any, token: Any) -> tuple[str, str]:
        seen.append(token)
        return decrypt(session, token)

    monkeypatch.setattr(plant.server.iserver, "decrypt_user_token", noting)
    return seen


async def test_a_server_that_offers_less_is_refused(
    plant: OpenPlant, server: ServerConfig, identity: Identity, endpoints: list[Any]
) -> None:
    """Somebody who strikes out the good endpoints gets nothing, and the message tells what is left."""
    endpoints[:] = [e for e in endpoints if e.SecurityMode != ua.MessageSecurityMode.SignAndEncrypt]
    with pytest.raises(SourceUnavailable, match=r"does not offer Basic256Sha256-SignAndEncrypt, but .*-Sign.*, None"):
        await connect(server, identity)
    assert plant.sessions == 0


async def test_the_configured_address_is_called_whatever_the_endpoint_says(
    server: ServerConfig, identity: Identity, endpoints: list[Any]
) -> None:
    """Servers write the name that they know of themselves; it leads nowhere, or to somebody else."""
    for endpoint in endpoints:
        endpoint.EndpointUrl = "opc.tcp://plc-7.line-3.invalid:4840/UA/Server"
    async with connected(server, identity) as client:
        assert client.server_url.geturl() == server.endpoint


@pytest.mark.parametrize("security", [Security.NONE, Security.SIGN], ids=str)
@pytest.mark.parametrize("policy", [CLEAR, POLICY["Basic128Rsa15"].URI], ids=["clear", "Basic128Rsa15"])
async def test_a_password_is_not_sent_in_clear(
    server: ServerConfig,
    identity: Identity,
    endpoints: list[Any],
    tokens: list[Any],
    security: Security,
    policy: str,
) -> None:
    """Over a channel that others can read it is kept back, unless the setting says that it may go."""
    for endpoint in endpoints:
        for token in endpoint.UserIdentityTokens:
            token.SecurityPolicyUri = policy
    with pytest.raises(SourceUnavailable, match=r"wants the password in clear text .* it was not sent"):
        await connect(secured(server, security), identity)
    assert tokens == []
    async with connected(secured(server, security, Tolerated.CLEAR_PASSWORD), identity):
        assert bool(tokens[0].EncryptionAlgorithm) == (policy != CLEAR)


async def test_the_strongest_protection_of_a_password_is_taken(
    server: ServerConfig, identity: Identity, endpoints: list[Any], tokens: list[Any]
) -> None:
    """Of several ways to send it, in whichever order they are told."""
    for endpoint in endpoints:
        (token,) = endpoint.UserIdentityTokens
        endpoint.UserIdentityTokens = [
            dataclasses.replace(token, SecurityPolicyUri=uri)
            for uri in (CLEAR, POLICY["Basic128Rsa15"].URI, POLICY["Aes256_Sha256_RsaPss"].URI, "urn:unknown")
        ]
    async with connected(secured(server, Security.NONE), identity):
        assert tokens[0].EncryptionAlgorithm == "http://opcfoundation.org/UA/security/rsa-oaep-sha2-256"


async def test_without_a_channel_a_password_goes_to_a_trusted_key_alone(
    plant: OpenPlant, server: ServerConfig, identity: Identity, tokens: list[Any], tmp_path: Path
) -> None:
    """With security None nobody has looked at the certificate yet to which it would be encrypted."""
    stranger = replace(identity, pki_dir=tmp_path / "pki")
    with pytest.raises(ServerUntrusted, match="is not trusted"):
        await connect(secured(server, Security.NONE), stranger)
    assert tokens == []
    assert plant.sessions == 0


@pytest.mark.parametrize("what", ["password", "application.key", "application.der"])
async def test_what_cannot_be_read_now_is_tried_again(
    plant: OpenPlant, server: ServerConfig, identity: Identity, tmp_path: Path, what: str
) -> None:
    """At the start it is a fault of the configuration; later, a disk that comes back: no reason to end."""
    mine = replace(identity, pki_dir=tmp_path / "pki")
    shutil.copytree(identity.pki_dir, mine.pki_dir)
    path = tmp_path / what if what == "password" else mine.pki_dir / what
    content = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=f"{what}.*the service does not start"):
        prepare(server, mine)
    with pytest.raises(SourceUnavailable, match=rf"^s: .*{what}.*; it is tried again$"):
        await connect(server, mine)
    path.write_bytes(content)
    connection = await connect(server, mine)
    await connection.close(kindly=True)
    assert plant.sessions == 0


async def test_a_frozen_server_leaves_nothing_behind(
    plant: OpenPlant, server: ServerConfig, identity: Identity
) -> None:
    """Neither task nor socket of an attempt that is given up."""
    async with Cable(plant) as cable:
        cable.freeze()
        frozen = ServerConfig(name="s", endpoint=cable.endpoint, user=server.user, password_file=server.password_file)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connect(frozen, identity)
    assert asyncua_tasks() == set()
