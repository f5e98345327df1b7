"""The receiving end of asyncua's secure channel, without the work that large or frequent messages do not need.

asyncua joins and cuts what came so far for each piece that arrives from the socket, and decodes the heads of every
chunk field by field. Here a chunk is read where the socket put it, its heads by `struct`, and a message is joined
once. Keys, ciphers and checks are asyncua's own, and all that is not plainly the next chunk of an open channel (its
opening and renewal, errors, aborts; tokens, signatures and numbers that do not fit) is left to asyncua as it came.

Source: OPC 10000-6, 6.7.2 (chunks) and 7.1.2 (their heads).
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.utils import Buffer
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

_SIZE = struct.Struct("<4xI")  # of the whole chunk
_HEAD = struct.Struct("<4sIII")  # kind, size, channel, token
_SEQUENCE = struct.Struct("<II")  # number of the chunk, of the request
_LAST, _MORE = b"MSGF", b"MSGC"
_ROOM = 256 * 2**10  # bytes taken from the socket at once
_SMALLEST_CHUNK, _LARGEST_CHUNK = 16, 2**24
_BUFFER_LEAST = 8192  # OPC UA allows no smaller ones


def install(client: Client) -> None:
    """Have *client*, before it connects, receive by `LeanProtocol`."""
    uaclient = client.uaclient

    def make_protocol() -> UASocketProtocol:
        protocol = LeanProtocol(uaclient._timeout, uaclient.security_policy)  # noqa: SLF001 - as asyncua makes its own
        protocol.pre_request_hook = uaclient.pre_request_hook
        protocol.on_connection_lost = uaclient._on_transport_lost  # noqa: SLF001 - as above
        protocol.is_session_closing = uaclient._is_session_closing  # noqa: SLF001 - as above
        uaclient.protocol = protocol
        return protocol

    uaclient._make_protocol = make_protocol  # type: ignore[method-assign]  # noqa: SLF001 - called at each connect


class LeanProtocol(UASocketProtocol, asyncio.BufferedProtocol):
    """asyncua's protocol of a client, reading chunks in place; it keeps no more than one chunk that is not whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room = bytearray(_ROOM)
        self._filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the next bytes go."""
        return memoryview(self._room)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Read the chunks that are whole now and keep the rest."""
        self._filled += nbytes
        room = memoryview(self._room)
        start = size = 0
        while self._filled - start >= _SIZE.size:
            (size,) = _SIZE.unpack_from(room, start)
            if not _SMALLEST_CHUNK <= size <= self._connection._limits.max_recv_buffer:  # noqa: SLF001 - no other way
                self._refuse(size)
                return
            if self._filled - start < size:
                break
            chunk = room[start : start + size]
            if not self._receive(chunk):
                self._process_received_data(bytes(chunk))
            if self.transport is None or self.transport.is_closing():
                return
            start += size
        self._keep(start, size)

    def _keep(self, start: int, size: int) -> None:
        """Move what is from *start* on to the front, with room for a chunk of *size*."""
        left = self._room[start : self._filled]
        if size > len(self._room):
            self._room = bytearray(size)
        self._room[: len(left)] = left
        self._filled = len(left)

    def _refuse(self, size: int) -> None:
        self.logger.error("chunk of %s bytes is no chunk or above what is taken; the connection is closed", size)
        self._fail_all_pending(UaStatusCodeError(StatusCodes.BadTcpMessageTooLarge))  # type: ignore[no-untyped-call]  # asyncua
        self.disconnect_socket()

    def _receive(self, chunk: memoryview) -> bool:
        """Take *chunk* if it is plainly the next one; if not, nothing has changed, and asyncua judges it."""
        connection = self._connection
        kind, _, channel, token = _HEAD.unpack_from(chunk)
        known = connection.security_token
        if kind not in (_LAST, _MORE) or (channel, token) != (known.ChannelId, known.TokenId):
            return False
        body = self._opened(chunk)
        if body is None or len(body) < _SEQUENCE.size:
            return False
        number, request_id = _SEQUENCE.unpack_from(body)
        parts, before = connection._incoming_parts, connection._peer_sequence_number  # noqa: SLF001 - so far received
        size = connection._incoming_size + len(body)  # noqa: SLF001 - as above
        if (
            before is None
            or number != before + 1
            or request_id not in self._callbackmap
            or (parts and parts[0].SequenceHeader.RequestId != request_id)
            or not connection._limits.is_msg_size_within_limit(size)  # noqa: SLF001 - as above
            or not connection._limits.is_chunk_count_within_limit(len(parts) + 1)  # noqa: SLF001 - as above
        ):
            return False
        connection._peer_sequence_number = number  # noqa: SLF001 - as above
        parts.append(_Part(body[_SEQUENCE.size :], number, request_id))  # type: ignore[arg-type]  # all it looks at
        connection._incoming_size = size  # noqa: SLF001 - as above
        if kind == _LAST:
            message = b"".join([part.Body for part in parts])
            connection._drop_incoming_parts()  # noqa: SLF001 - as above
            self._call_callback(request_id, Buffer(message))
        return True

    def _opened(self, chunk: memoryview) -> memoryview | None:
        """Return the sequence header and body of *chunk*, decrypted, its signature checked; None if it cannot be."""
        crypto: Any = self._connection.security_policy.symmetric_cryptography
        crypto.use_prev_key = False
        try:
            plain = memoryview(crypto.decrypt(chunk[_HEAD.size :]))
            if signature_size := crypto.vsignature_size():
                plain, signature = plain[:-signature_size], bytes(plain[-signature_size:])
                crypto.verify(b"".join((chunk[: _HEAD.size], plain)), signature)
            plain = crypto.remove_padding(plain)
        except Exception:  # noqa: BLE001 - whatever it is, it happens to asyncua again, which says what follows
            return None
        return memoryview(bytes(plain)) if plain.obj is chunk.obj else plain

    def _process_received_message(self, msg: ua.Message | ua.Acknowledge | ua.ErrorMessage | None) -> None:
        super()._process_received_message(msg)
        if isinstance(msg, ua.Acknowledge):
            # asyncua takes what the server can receive for what it may send, and the other way round.
            limits = self._connection._limits  # noqa: SLF001 - as above
            limits.max_send_buffer = max(msg.ReceiveBufferSize, _BUFFER_LEAST)
            limits.max_recv_buffer = min(max(msg.SendBufferSize, limits.max_recv_buffer, _BUFFER_LEAST), _LARGEST_CHUNK)


class _Part:
    """A chunk of a message that is not whole yet: what asyncua looks at when it takes the next one."""

    __slots__ = ("Body", "RequestId", "SequenceNumber")

    def __init__(self, body: memoryview, sequence_number: int, request_id: int) -> None:
        self.Body = body
        self.SequenceNumber = sequence_number
        self.RequestId = request_id

    @property
    def SequenceHeader(self) -> _Part:  # noqa: N802 - asyncua's name
        return self
