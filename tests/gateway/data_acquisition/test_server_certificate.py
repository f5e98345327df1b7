from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.crypto.security_policies import SecurityPolicyFactory, SecurityPolicyNone
from asyncua.server.uaprocessor import UaProcessor
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.config import Security, ServerConfig, Tolerated
from gateway.data_acquisition.connection import Identity, connected, prepare
from gateway.data_acquisition.server_certificate import Expected, Known, problems, split_chain
from gateway.data_acquisition.trust import TrustList, fingerprint
from gateway.errors import ServerUntrusted
from tests.gateway.data_acquisition.authority import (
    DAY,
    HOST,
    NOW,
    URI,
    USES,
    Authority,
    Key,
    certificate,
    der,
    rsa_key,
    signed_with_sha1,
)
from tests.gateway.data_acquisition.small_plant import SmallPlant, free_port

over_tcp = pytest.mark.asyncio(loop_scope="module")

EXPECTED = Expected(application_uri=URI, host="127.0.0.1")
OWN_URI = x509.UniformResourceIdentifier(URI)


@dataclass
class Shown:
    """What a server shows, and what the gateway knows of it."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()
    key: Key = field(default_factory=rsa_key)
    trusted: tuple[x509.Certificate, ...] | None = None  # None: the certificate itself
    issuers: tuple[x509.Certificate, ...] = ()
    revocations: tuple[x509.CertificateRevocationList, ...] = ()
    raw: bytes = b""  # shown instead
    tolerated: Tolerated | None = None

    @property
    def blob(self) -> bytes:
        return self.raw or b"".join(map(der, (self.certificate, *self.chain)))

    def known_to(self, pki: Path) -> None:
        """Put into the gateway's folders what it knows."""
        trusted = (self.certificate,) if self.trusted is None else self.trusted
        folders: dict[str, tuple[x509.Certificate | x509.CertificateRevocationList, ...]] = {
            "trusted": trusted,
            "issuers": self.issuers,
            "crl": self.revocations,
        }
        for folder, things in folders.items():
            (pki / folder).mkdir(parents=True, exist_ok=True)
            for number, thing in enumerate(things):
                (pki / folder / f"{number}.der").write_bytes(thing.public_bytes(Encoding.DER))


def issued(authority: Authority, *, revoked: bool = False, **wrong: Any) -> Shown:
    """A server with a certificate of a trusted authority."""
    one = certificate(issued_by=authority, **wrong)
    listed = authority.revoking(*([one] if revoked else []))
    return Shown(one, trusted=(authority.certificate,), revocations=(listed,))


def tower(floors: int, **wrong: Any) -> Shown:
    """A server below so many authorities, of which the topmost is trusted; it sends all of them."""
    authorities = [Authority("root", 1, **wrong)]
    for floor in range(1, floors):
        authorities.append(Authority(f"floor {floor}", 1, above=authorities[-1]))
    return Shown(
        certificate(issued_by=authorities[-1]),
        chain=tuple(a.certificate for a in reversed(authorities[1:])),
        trusted=(authorities[0].certificate,),
        revocations=tuple(a.revoking() for a in authorities),
    )


def forged() -> Shown:
    """With a signature that is not its own."""
    content = bytearray(der(certificate()))
    content[-1] ^= 1
    return Shown(x509.load_der_x509_certificate(bytes(content)))


def below_a_revoked_authority() -> Shown:
    root = Authority("root", 1)
    middle = Authority("middle", 2, above=root)
    shown = issued(middle)
    shown.trusted, shown.issuers = (root.certificate,), (middle.certificate,)
    shown.revocations += (root.revoking(middle.certificate),)
    return shown


def of_an_unknown_authority() -> Shown:
    return Shown(certificate(issued_by=Authority("stranger")), trusted=())


def of_a_false_authority() -> Shown:
    """By somebody who calls himself as the authority is called."""
    return Shown(certificate(issued_by=Authority(), signed_with=rsa_key(number=2)), trusted=(Authority().certificate,))


def without_a_list() -> Shown:
    shown = issued(Authority())
    shown.revocations, shown.tolerated = (), Tolerated.REVOCATION
    return shown


def with_an_old_list() -> Shown:
    authority = Authority()
    shown = issued(authority)
    shown.revocations, shown.tolerated = (authority.revoking(until=NOW - DAY),), Tolerated.REVOCATION
    return shown


def with_anothers_list() -> Shown:
    shown = issued(Authority())
    shown.revocations, shown.tolerated = (Authority(number=2).revoking(),), Tolerated.REVOCATION
    return shown


def issued_by_a_server() -> Shown:
    """A trusted server that issues certificates for others."""
    server = Authority("other plant", ca=False)
    return Shown(certificate(issued_by=server), trusted=(server.certificate,), revocations=(server.revoking(),))


def _tolerating(shown: Shown, tolerated: Tolerated) -> Shown:
    shown.tolerated = tolerated
    return shown


def _untrusted_authority() -> Shown:
    shown = issued(Authority())
    shown.issuers, shown.trusted = (Authority().certificate,), ()
    return shown


def _below_a_short_key() -> Shown:
    authority = Authority()
    authority.key = rsa_key(1024)
    authority.certificate = certificate(
        "plant CA", authority.key, uses=("key_cert_sign", "crl_sign"), extended=None, names=None, ca=True
    )
    return issued(authority)


def _with_sha1_of_an_authority() -> Shown:
    authority = Authority()
    shown = issued(authority)
    shown.certificate = signed_with_sha1(shown.certificate, authority.key)
    return shown


VALIDITY, HOST_NAME, USAGE = Tolerated.VALIDITY, Tolerated.HOST_NAME, Tolerated.USAGE
USES_WITHOUT_KEYS = tuple(use for use in USES if use != "key_encipherment")
BAD: dict[str, tuple[Callable[[], Shown], str]] = {
    "not trusted": (lambda: Shown(certificate(), trusted=()), r"is not trusted \(SHA-256"),
    "not trusted authority": (_untrusted_authority, r"is not trusted \(SHA-256"),
    "expired": (lambda: Shown(certificate(end=NOW - DAY), tolerated=VALIDITY), "expired on"),
    "not valid yet": (lambda: Shown(certificate(start=NOW + DAY), tolerated=VALIDITY), "is not valid before"),
    "other application": (
        lambda: Shown(certificate(names=[x509.UniformResourceIdentifier("urn:other"), HOST])),
        "is of urn:other, not of urn:test:plant",
    ),
    "no application": (lambda: Shown(certificate(names=None)), "is of no application, not of urn:test:plant"),
    "other host": (
        lambda: _tolerating(issued(Authority(), names=[OWN_URI, x509.DNSName("other-plc")]), HOST_NAME),
        "is of other-plc, not of 127.0.0.1",
    ),
    "short key": (
        lambda: Shown(certificate(key=rsa_key(1024)), key=rsa_key(1024)),
        "has a key of 1024 bits, at least 2048 are needed",
    ),
    "authority's short key": (_below_a_short_key, "plant CA, which has a key of 1024 bits"),
    "no RSA key": (
        lambda: Shown(certificate(key=ec.generate_private_key(ec.SECP256R1())), trusted=None),
        "has no RSA key",
    ),
    "SHA-1": (lambda: Shown(signed_with_sha1(certificate(), rsa_key())), "is signed with SHA1, which can be forged"),
    "SHA-1 of an authority": (_with_sha1_of_an_authority, "is signed with SHA1, which can be forged"),
    "key usage": (
        lambda: Shown(certificate(uses=USES_WITHOUT_KEYS), tolerated=USAGE),
        "is not made for key encipherment",
    ),
    "an authority's": (lambda: Shown(certificate(ca=True), tolerated=USAGE), "is an authority's"),
    "not for servers": (
        lambda: Shown(certificate(extended=[ExtendedKeyUsageOID.CLIENT_AUTH]), tolerated=USAGE),
        "is not made for servers",
    ),
    "revoked": (lambda: issued(Authority(), revoked=True), "was revoked by CN=plant CA"),
    "authority revoked": (below_a_revoked_authority, "by CN=middle, which was revoked by CN=root"),
    "no revocation list": (without_a_list, "the folder crl has no list of CN=plant CA that is good now"),
    "old revocation list": (with_an_old_list, "the folder crl has no list of CN=plant CA that is good now"),
    "another's revocation list": (with_anothers_list, "the folder crl has no list of CN=plant CA that is good now"),
    "unknown authority": (of_an_unknown_authority, "was issued by CN=stranger, which is not known"),
    "expired authority": (
        lambda: _tolerating(issued(Authority(end=NOW - DAY)), VALIDITY),
        "was issued by CN=plant CA, which expired on",
    ),
    "issued by a server": (issued_by_a_server, "was issued by CN=other plant, which is no authority"),
    "forged": (forged, "a signature that is not of its issuer CN=plant"),
    "of a false authority": (of_a_false_authority, "a signature that is not of its issuer CN=plant CA"),
    "chain too deep for its authority": (
        lambda: tower(3, path_length=1),
        "has more issuers below CN=root than that allows",
    ),
    "chain too long": (lambda: tower(9), "has more than 8 issuers above it"),
    "no certificate": (lambda: Shown(certificate(), raw=b"0\x82\x01"), r"cannot be read \(its length cannot be read"),
    "cut off": (lambda: Shown(certificate(), raw=der(certificate())[:-7]), r"cannot be read \(it is cut off"),
    "garbage": (lambda: Shown(certificate(), raw=b"0\x05hello"), "cannot be read"),
    "endless": (lambda: Shown(certificate(), raw=b"0" * 70_000), "70000 bytes are too many"),
}
# What does not reach an authority is not trusted by it either.
UNTRUSTED_TOO = {"SHA-1 of an authority", "unknown authority", "of a false authority", "chain too long"}
NO_CHANNEL = {"no RSA key", "no certificate", "cut off", "garbage", "endless"}  # nobody could open one


GOOD: dict[str, Callable[[], Shown]] = {
    "trusted by itself": lambda: Shown(certificate()),
    "trusted by itself, another host's": lambda: Shown(certificate(names=[OWN_URI, x509.DNSName("cell-1")])),
    "trusted by itself, without limits of use": lambda: Shown(certificate(extended=None)),
    "trusted by itself, its authority unknown": lambda: Shown(certificate(issued_by=Authority("stranger"))),
    "trusted by its authority": lambda: issued(Authority()),
    "trusted by an authority above that, sent along": lambda: tower(4),
}


class Turncoat(SmallPlant):
    """A plant whose server can be given any certificate while it runs, and that notes who opens a secure channel."""

    channels_opened = 0

    async def show(self, shown: Shown) -> None:
        assert self.server is not None
        self.server.iserver.certificate = shown.certificate
        self.server.iserver.private_key = shown.key
        self.server.iserver.endpoints.clear()
        self.server._policies.clear()
        await self.server._setup_server_nodes()
        for endpoint in self.server.iserver.endpoints:
            endpoint.ServerCertificate = shown.blob
        self.channels_opened = 0

    def sessions(self) -> int:
        assert self.server is not None
        return len(self.server.iserver._external_sessions)


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="plant")
async def _plant(plant_pki: Path) -> AsyncIterator[Turncoat]:
    plant = Turncoat(plant_pki, free_port())
    await plant.start()
    yield plant
    await plant.stop()


@pytest.fixture(autouse=True)
def _count_channels(plant: Turncoat, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SecurityPolicyFactory.create

    def counted(factory: SecurityPolicyFactory, peer: bytes | None) -> Any:
        plant.channels_opened += factory.cls is not SecurityPolicyNone
        return create(factory, peer)  # type: ignore[no-untyped-call]  # asyncua's

    monkeypatch.setattr(SecurityPolicyFactory, "create", counted)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def identity(own: Path, tmp_path: Path) -> Identity:
    """The gateway, with folders of its own and always the same key."""
    identity = Identity(application_uri="urn:wearsight:gateway:gw-1", common_name="gw-1", pki_dir=tmp_path / "pki")
    server = ServerConfig(name="s", endpoint="opc.tcp://127.0.0.1:1/")
    prepare(server, Identity(application_uri=identity.application_uri, common_name="gw-1", pki_dir=own))
    identity.pki_dir.mkdir()
    for path in own.glob("application.*"):
        (identity.pki_dir / path.name).write_bytes(path.read_bytes())
    return identity


def configured(plant: SmallPlant, tmp_path: Path, **others: Any) -> ServerConfig:
    (tmp_path / "password").write_text("secret\n")
    return ServerConfig(
        name="cell-1", endpoint=plant.endpoint, user="gateway", password_file=tmp_path / "password", **others
    )


@pytest.mark.parametrize("name", BAD)
@over_tcp
async def test_a_bad_certificate_is_refused_with_its_reason(
    plant: Turncoat, identity: Identity, tmp_path: Path, name: str
) -> None:
    """Before a secure channel is opened; the message tells which server, what is wrong, and the fingerprint."""
    shown, reason = BAD[name][0](), BAD[name][1]
    await plant.show(shown)
    shown.known_to(identity.pki_dir)
    with pytest.raises(ServerUntrusted, match=rf"^cell-1: the server's certificate .*{reason}") as refused:
        async with connected(configured(plant, tmp_path), identity):
            pass
    assert "nothing was sent" in str(refused.value)
    assert str(refused.value).count("; it is not trusted (") == (name in UNTRUSTED_TOO)
    assert len(TrustList(identity.pki_dir).problems(shown.blob, EXPECTED)) == 1 + (name in UNTRUSTED_TOO)
    assert fingerprint(shown.raw or der(shown.certificate)) in str(refused.value)
    assert (plant.channels_opened, plant.sessions()) == (0, 0)


@pytest.mark.parametrize("name", sorted(set(BAD) - NO_CHANNEL))
@over_tcp
async def test_without_the_check_it_would_connect(
    plant: Turncoat, identity: Identity, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: nothing else than the check stands between the gateway and these servers."""
    monkeypatch.setattr(TrustList, "check", lambda *_: None)
    await plant.show(BAD[name][0]())
    async with connected(configured(plant, tmp_path), identity):
        assert plant.channels_opened > 0
        assert plant.sessions() == 1


@pytest.mark.parametrize("name", [name for name, (make, _) in BAD.items() if make().tolerated is not None])
@over_tcp
async def test_what_is_tolerated_by_setting_connects(
    plant: Turncoat, identity: Identity, tmp_path: Path, name: str
) -> None:
    """Each setting lets its own kind pass, and no setting lets one pass that is not trusted."""
    shown = BAD[name][0]()
    assert shown.tolerated is not None
    await plant.show(shown)
    shown.known_to(identity.pki_dir)
    async with connected(configured(plant, tmp_path, tolerate=(shown.tolerated,)), identity):
        assert plant.sessions() == 1
    for path in (identity.pki_dir / "trusted").iterdir():
        path.unlink()
    with pytest.raises(ServerUntrusted):
        async with connected(configured(plant, tmp_path, tolerate=tuple(Tolerated)), identity):
            pass


@pytest.mark.parametrize("name", GOOD)
@over_tcp
async def test_a_good_certificate_connects(plant: Turncoat, identity: Identity, tmp_path: Path, name: str) -> None:
    """Trusted by itself or by an authority."""
    shown = GOOD[name]()
    await plant.show(shown)
    shown.known_to(identity.pki_dir)
    async with connected(configured(plant, tmp_path), identity):
        assert plant.sessions() == 1


@pytest.mark.parametrize("what", ["certificate", "application"])
@over_tcp
async def test_a_session_of_somebody_else_is_not_signed_in(
    plant: Turncoat, identity: Identity, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the session shows is what the endpoint told, or no password goes there."""
    shown = Shown(certificate())
    await plant.show(shown)
    shown.known_to(identity.pki_dir)
    send = UaProcessor.send_response

    def false(processor: UaProcessor, handle: Any, header: Any, response: Any, *others: Any) -> None:
        if isinstance(response, ua.CreateSessionResponse):
            if what == "certificate":
                response.Parameters.ServerCertificate = der(certificate("somebody"))
            for endpoint in response.Parameters.ServerEndpoints:
                endpoint.Server.ApplicationUri = "urn:somebody" if what == "application" else URI
        send(processor, handle, header, response, *others)  # type: ignore[no-untyped-call]  # asyncua's

    monkeypatch.setattr(UaProcessor, "send_response", false)
    monkeypatch.setattr(type(plant.server.iserver), "decrypt_user_token", None)  # type: ignore[union-attr]  # it runs
    with pytest.raises(ServerUntrusted, match=f"the session is of another {what} than the endpoint told"):
        async with connected(configured(plant, tmp_path), identity):
            pass


def test_deprecated_policies_take_the_keys_of_their_time() -> None:
    """A key of 1024 bits and SHA-1 are what Basic128Rsa15 was made with."""
    old = signed_with_sha1(certificate(key=rsa_key(1024)), rsa_key(1024))
    expected = Expected(application_uri=URI, host="127.0.0.1", security=Security.BASIC128_SIGN)
    assert problems(der(old), Known(trusted=(old,)), expected) == []


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Who decides about trust sees everything."""
    bad = certificate(end=NOW - DAY, names=None, ca=True)
    found = problems(der(bad), Known(), Expected(application_uri=URI, host="127.0.0.1"), NOW + timedelta(hours=1))
    assert {problem.status for problem in found} == {
        "BadCertificateUntrusted",
        "BadCertificateTimeInvalid",
        "BadCertificateUriInvalid",
        "BadCertificateUseNotAllowed",
    }


def test_a_chain_is_split_where_its_certificates_end() -> None:
    """However many there are."""
    parts = [der(certificate()), der(Authority().certificate), b"0\x02ab"]
    assert split_chain(b"".join(parts)) == parts
