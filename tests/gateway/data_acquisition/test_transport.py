"""What the lean protocol makes of bytes is what asyncua's makes of them; what it does not take ends the connection."""

from __future__ import annotations

import asyncio
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_acquisition import ensure_application_certificate
from gateway.data_acquisition.transport import LeanProtocol, install
from tests.gateway.data_acquisition.small_plant import SmallPlant

CHUNK = 8192
MESSAGE_MOST = 100_000
bodies = st.lists(st.binary(min_size=1, max_size=50) | st.integers(1, 40_000).map(bytes), min_size=1, max_size=6)


class Wire(asyncio.Transport):
    """The other side of a protocol: keeps what is sent, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def policy(mode: ua.MessageSecurityMode) -> security_policies.SecurityPolicy:
    """Return a policy whose keys are agreed already, the same for both sides."""
    of: Any = security_policies
    agreed: security_policies.SecurityPolicy = of.SecurityPolicyNone()
    if mode is not ua.MessageSecurityMode.None_:
        cryptography = of.Cryptography(mode)
        key, other, start = b"k" * 32, b"s" * 32, b"i" * 16
        cryptography.Encryptor, cryptography.Decryptor = of.EncryptorAesCbc(key, start), of.DecryptorAesCbc(key, start)
        cryptography.Signer, cryptography.Verifier = of.SignerHMac256(other), of.VerifierHMac256(other)
        agreed.symmetric_cryptography = cryptography
    return agreed


def frames(messages: list[bytes], mode: ua.MessageSecurityMode) -> bytes:
    """Return what a server sends that answers the requests 1, 2 and so on with *messages*, in chunks of 8 KiB."""
    sender = SecureConnection(policy(mode), TransportLimits(CHUNK, CHUNK, 0, 0))
    return b"".join(sender.message_to_binary(body, request_id=place) for place, body in enumerate(messages, 1))


class Receiver:
    """A client's protocol in the middle of a connection, waiting for *answers* answers."""

    def __init__(self, kind: type[UASocketProtocol], mode: ua.MessageSecurityMode, answers: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.wire = Wire()
        limits = TransportLimits(CHUNK, CHUNK, 0, MESSAGE_MOST)
        self.protocol = kind(1.0, policy(mode), limits)
        self.protocol.connection_made(self.wire)
        self.protocol._connection._open = True
        self.answers = [self.loop.create_future() for _ in range(answers)]
        self.protocol._callbackmap = dict(enumerate(self.answers, 1))

    def take(self, data: bytes) -> None:
        """Give *data* to the protocol as the event loop does."""
        if not isinstance(self.protocol, asyncio.BufferedProtocol):
            self.protocol.data_received(data)
            return
        while data and not self.wire.closed:
            room = memoryview(self.protocol.get_buffer(-1))
            some = min(len(room), len(data))
            room[:some] = data[:some]
            self.protocol.buffer_updated(some)
            data = data[some:]

    def received(self) -> list[bytes | None]:
        """Return what each request was answered with; None without answer, or with an error."""
        done = [f.done() and f.exception() is None for f in self.answers]
        self.loop.close()
        return [bytes(f.result()) if good else None for f, good in zip(self.answers, done, strict=True)]


modes = st.sampled_from(list(ua.MessageSecurityMode)[1:])


@given(messages=bodies, mode=modes, cuts=st.lists(st.floats(0, 1), max_size=8))
def test_messages_arrive_however_they_are_cut(
    messages: list[bytes], mode: ua.MessageSecurityMode, cuts: list[float]
) -> None:
    """One byte or many chunks at once, signed, encrypted or neither."""
    data = frames(messages, mode)
    places = sorted({int(cut * len(data)) for cut in cuts} | {0, len(data)})
    receiver = Receiver(LeanProtocol, mode, len(messages))
    for start, end in pairwise(places):
        receiver.take(data[start:end])
    assert receiver.received() == messages
    assert not receiver.wire.closed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(messages=bodies, mode=modes, data=st.data())
def test_changed_bytes_are_taken_as_asyncua_takes_them(
    messages: list[bytes], mode: ua.MessageSecurityMode, data: st.DataObject
) -> None:
    """The same answers, and the connection ends where asyncua ends it."""
    sent = bytearray(frames(messages, mode))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of what can go wrong is in the first bytes, sizes apart: asyncua waits for ever for what never comes.
        sent[data.draw(st.sampled_from([0, 1, 2, 3, 8, 12, 16, 20, 24]) | st.integers(8, len(sent) - 1))] ^= 1
    lean, stock = (Receiver(kind, mode, len(messages)) for kind in (LeanProtocol, UASocketProtocol))
    lean.take(bytes(sent))
    stock.take(bytes(sent))
    mine, theirs = lean.received(), stock.received()
    assert mine == theirs or lean.wire.closed
    if mode is not ua.MessageSecurityMode.None_:
        assert all(answer in (None, message) for answer, message in zip(mine, messages, strict=True))


@pytest.mark.parametrize("size", [0, 15, CHUNK + 1, 2**32 - 1])
def test_a_chunk_of_no_sensible_size_ends_the_connection(size: int) -> None:
    """It is refused by its head; nothing waits for it, no room is made for it."""
    receiver = Receiver(LeanProtocol, ua.MessageSecurityMode.None_, 1)
    receiver.take(struct.pack("<4sI", b"MSGF", size))
    assert receiver.wire.closed
    assert receiver.received() == [None]
    assert len(receiver.protocol.get_buffer(-1)) < 2**20  # type: ignore[attr-defined]  # it is lean


def test_a_message_above_the_limit_ends_the_connection() -> None:
    """However many small chunks it comes in; up to the limit it is taken."""
    for size, taken in ((MESSAGE_MOST - 1000, True), (MESSAGE_MOST + 1, False)):
        receiver = Receiver(LeanProtocol, ua.MessageSecurityMode.None_, 1)
        receiver.take(frames([bytes(size)], ua.MessageSecurityMode.None_))
        assert receiver.wire.closed is not taken
        assert (receiver.received() == [bytes(size)]) is taken


def test_a_chunk_that_comes_again_ends_the_connection() -> None:
    """Sequence numbers of chunks are checked as asyncua checks them: what was recorded cannot be played again."""
    mode = ua.MessageSecurityMode.SignAndEncrypt
    data = frames([b"one"], mode)
    receiver = Receiver(LeanProtocol, mode, 2)
    receiver.take(data + data)
    assert receiver.wire.closed
    assert receiver.received() == [b"one", None]


def secured(plant: SmallPlant, tmp_path: Path) -> tuple[CertProperties, CertProperties, CertProperties]:
    certificate, key = ensure_application_certificate(tmp_path, "urn:test:client", "client")
    return CertProperties(certificate, "der"), CertProperties(key, "pem"), CertProperties(plant.certificate, "der")


async def test_values_arrive_from_a_real_server_across_renewals(plant: SmallPlant, tmp_path: Path) -> None:
    """Messages of many chunks, encrypted; also after the channel got new keys, and while it gets them."""
    client = Client(plant.endpoint, timeout=10)
    install(client)
    client.application_uri = "urn:test:client"
    client.set_user("gateway")
    client.set_password("secret")
    own, key, server = secured(plant, tmp_path)
    await client.set_security(security_policies.SecurityPolicyBasic256Sha256, own, key, server_certificate=server)
    samples = np.arange(100_000, dtype=np.float32).tolist()
    await plant.write("vibration_waveform_m_s2", 1, samples)
    node = client.get_node(plant.nodes["vibration_waveform_m_s2"].nodeid)
    async with client:
        assert isinstance(client.uaclient.protocol, LeanProtocol)
        for _ in range(2):
            assert await node.read_value() == samples
            reading = asyncio.gather(*(node.read_value() for _ in range(3)))
            await client.open_secure_channel(renew=True)
            assert await reading == [samples] * 3
