"""The frames around values: answers to Publish, Republish and HistoryRead, read without an object per value.

What stands once in a message is read with asyncua's decoder or `struct`; the values go to `columns`.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import get_name_and_doc
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary

from gateway.data_acquisition.columns import Columns, MalformedMessage, read_values
from models.records import UInt32Array

_DATA_CHANGE = (0, ObjectIds.DataChangeNotification_Encoding_DefaultBinary)
_STATUS_CHANGE = (0, ObjectIds.StatusChangeNotification_Encoding_DefaultBinary)
_HISTORY_DATA = (0, ObjectIds.HistoryData_Encoding_DefaultBinary)
_UNIX_EPOCH_TICKS = 116_444_736_000_000_000
_BINARY_BODY, _XML_BODY = 1, 2
_FOUR_BYTE_ID = struct.Struct("<BBH")
# A response header as nearly all are: time, request handle, result, and after that no diagnostics (mask 0), no
# strings (length 0, or -1: null), no additional header (node id 0 in two bytes, no body).
_PLAIN_HEADER = struct.Struct("<qIIBiBBB")
_EMPTY_RESTS = ([0, -1, 0, 0, 0], [0, 0, 0, 0, 0])


@dataclass(frozen=True, kw_only=True, slots=True)
class NotificationMessage:
    """One message of a subscription; without values it is a keep-alive, and its number is the next one's.

    ``ended`` is the status with which the server ended the subscription, or None.
    """

    subscription_id: int
    sequence_number: int
    values: Columns | None
    ended: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPage:
    """One node's answer to HistoryRead; ``continuation`` is None when there is no more."""

    status: int
    continuation: bytes | None
    values: Columns | None


def status_name(status: int) -> str:
    """Return what OPC UA calls the *status* code, like ``BadNodeIdUnknown``."""
    return str(get_name_and_doc(status)[0])


class _Reader:
    """A place in the bytes of a message, moved by reading."""

    def __init__(self, body: bytes, position: int = 0) -> None:
        self.body = body
        self.position = position

    def number(self, code: str) -> int:
        """Read one number, little-endian."""
        try:
            (value,) = struct.unpack_from("<" + code, self.body, self.position)
        except struct.error as error:
            raise MalformedMessage(f"message ends after {len(self.body)} bytes") from error
        self.position += struct.calcsize("<" + code)
        return int(value)

    def count(self, item_bytes: int) -> int:
        """Read the length of an array whose items take *item_bytes* or more; null counts as empty."""
        count = max(self.number("i"), 0)
        if count * item_bytes > len(self.body) - self.position:
            raise MalformedMessage(f"array of {count} items is longer than the message")
        return count

    def skip(self, size: int) -> None:
        """Move on by *size* bytes."""
        if size > len(self.body) - self.position:
            raise MalformedMessage(f"message ends after {len(self.body)} bytes")
        self.position += size

    def node_id(self) -> tuple[int, object]:
        """Read a node id; return its namespace index and identifier."""
        with suppress(struct.error):
            form, namespace, identifier = _FOUR_BYTE_ID.unpack_from(self.body, self.position)
            if form == 1:  # as all that OPC UA itself defines are written
                self.position += _FOUR_BYTE_ID.size
                return namespace, identifier
        buffer = Buffer(self.body, self.position)
        try:
            node = nodeid_from_binary(buffer)
        except Exception as error:  # asyncua's decoder raises many things on strange bytes
            raise MalformedMessage(f"type at byte {self.position} cannot be read ({error!r})") from error
        self.position = buffer.cur_pos
        return node.NamespaceIndex, node.Identifier

    def extension_object(self) -> tuple[tuple[int, object], int]:
        """Read an ExtensionObject's head; return its type, (0, 0) without binary body, and where its body ends."""
        kind, encoding = self.node_id(), self.number("B")
        size = self.count(1) if encoding in (_BINARY_BODY, _XML_BODY) else 0
        return kind if encoding == _BINARY_BODY else (0, 0), self.position + size

    def response_header(self) -> int:
        """Read a response's header; return its time stamp in ns since 1970, 0 if that is no time.

        Raises:
            UaStatusCodeError: If the server answered with an error.
        """
        with suppress(struct.error):
            ticks, _, result, *rest = _PLAIN_HEADER.unpack_from(self.body, self.position)
            if rest in _EMPTY_RESTS:
                self.position += _PLAIN_HEADER.size
                if result:
                    ua.StatusCode(result).check()
                return _nanoseconds(ticks)
        ticks = self.number("q")
        buffer = Buffer(self.body, self.position - 8)
        try:
            header = struct_from_binary(ua.ResponseHeader, buffer)
        except Exception as error:  # as above
            raise MalformedMessage(f"response header cannot be read ({error!r})") from error
        header.ServiceResult.check()
        self.position = buffer.cur_pos
        return _nanoseconds(ticks)


def read_publish_response(body: bytes) -> NotificationMessage:
    """Read the answer to a PublishRequest, from its TypeId on.

    Raises:
        MalformedMessage: If it is not one.
        UaStatusCodeError: If the server answered with an error.
    """
    reader, _ = _answer(body, ObjectIds.PublishResponse_Encoding_DefaultBinary)
    subscription_id = reader.number("I")
    available = reader.count(4)
    reader.skip(4 * available + 1)  # AvailableSequenceNumbers, MoreNotifications
    return _read_notification_message(reader, subscription_id)


def read_republish_response(body: bytes, subscription_id: int) -> NotificationMessage:
    """Read the answer to a RepublishRequest for *subscription_id*, from its TypeId on; raises as for Publish."""
    reader, _ = _answer(body, ObjectIds.RepublishResponse_Encoding_DefaultBinary)
    return _read_notification_message(reader, subscription_id)


def read_history_response(body: bytes, nodes: int) -> list[HistoryPage]:
    """Read the answer to a HistoryReadRequest for *nodes* nodes, from its TypeId on; raises as for Publish."""
    reader, _ = _answer(body, ObjectIds.HistoryReadResponse_Encoding_DefaultBinary)
    count = reader.count(9)
    if count != nodes:
        raise MalformedMessage(f"history of {count} nodes, but {nodes} were asked for")
    return [_read_history_page(reader) for _ in range(count)]


def read_read_response(body: bytes, handles: UInt32Array) -> Columns:
    """Read the answer to a ReadRequest for the values of nodes, from its TypeId on; raises as for Publish.

    Args:
        body: The answer.
        handles: What each node's value comes under, in the order of the request, shape ``(n,)``. A value without any
            time takes the time of the answer.
    """
    reader, answered = _answer(body, ObjectIds.ReadResponse_Encoding_DefaultBinary)
    count = reader.count(1)
    if count != len(handles):
        raise MalformedMessage(f"values of {count} nodes, but {len(handles)} were asked for")
    columns, _ = read_values(body, reader.position, count, handles=False, no_time=answered)
    columns.handle[:] = handles
    return columns


def _answer(body: bytes, kind: int) -> tuple[_Reader, int]:
    """Return a reader behind the header of the answer of *kind*, and when it was given, in ns since 1970."""
    reader = _Reader(body)
    found = reader.node_id()
    answered = reader.response_header()
    if found != (0, kind):
        raise MalformedMessage(f"answer of type {found}, not {kind}")
    return reader, answered


def _read_notification_message(reader: _Reader, subscription_id: int) -> NotificationMessage:
    sequence_number = reader.number("I")
    no_time = _nanoseconds(reader.number("q"))
    parts: list[Columns] = []
    ended: int | None = None
    for _ in range(reader.count(3)):
        kind, end = reader.extension_object()
        if kind == _DATA_CHANGE:
            count = reader.count(5)
            columns, reader.position = read_values(reader.body, reader.position, count, handles=True, no_time=no_time)
            parts.append(columns)
        elif kind == _STATUS_CHANGE:
            ended = reader.number("I")
        if reader.position > end:
            raise MalformedMessage("notification is longer than it says")
        reader.position = end
    return NotificationMessage(
        subscription_id=subscription_id,
        sequence_number=sequence_number,
        values=Columns.concatenate(parts) if parts else None,
        ended=ended,
    )


def _read_history_page(reader: _Reader) -> HistoryPage:
    status = reader.number("I")
    length = reader.count(1)
    continuation = reader.body[reader.position : reader.position + length] or None
    reader.skip(length)
    kind, end = reader.extension_object()
    values = None
    if kind == _HISTORY_DATA:
        count = reader.count(1)
        values, reader.position = read_values(reader.body, reader.position, count, handles=False, no_time=0)
    if reader.position > end:
        raise MalformedMessage("history is longer than it says")
    reader.position = end
    return HistoryPage(status=status, continuation=continuation, values=values)


def _nanoseconds(ticks: int) -> int:
    nanoseconds = (ticks - _UNIX_EPOCH_TICKS) * 100
    return nanoseconds if 0 <= nanoseconds < 2**63 else 0
