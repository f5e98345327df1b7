"""The frames around values: answers to Publish, Republish and HistoryRead, read without an object per value.

What stands once in a message is read with asyncua's decoder or `struct`; the values go to `columns`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import get_name_and_doc
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary

from gateway.data_acquisition.columns import Columns, MalformedMessage, read_values

_DATA_CHANGE = (0, ObjectIds.DataChangeNotification_Encoding_DefaultBinary)
_STATUS_CHANGE = (0, ObjectIds.StatusChangeNotification_Encoding_DefaultBinary)
_HISTORY_DATA = (0, ObjectIds.HistoryData_Encoding_DefaultBinary)
_UNIX_EPOCH_TICKS = 116_444_736_000_000_000


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

    def extension_object(self) -> tuple[tuple[int, object], int]:
        """Read an ExtensionObject's head; return its type and where its body ends."""
        buffer = Buffer(self.body, self.position)
        try:
            kind = nodeid_from_binary(buffer)
        except Exception as error:  # asyncua's decoder raises many things on strange bytes
            raise MalformedMessage(f"type at byte {self.position} cannot be read ({error!r})") from error
        self.position = buffer.cur_pos
        size = self.count(1) if self.number("B") & 0x01 else 0
        return (kind.NamespaceIndex, kind.Identifier), self.position + size


def read_publish_response(body: bytes) -> NotificationMessage:
    """Read the answer to a PublishRequest, from its TypeId on.

    Raises:
        MalformedMessage: If it is not one.
        UaStatusCodeError: If the server answered with an error.
    """
    reader = _after_response_header(body)
    subscription_id = reader.number("I")
    available = reader.count(4)
    reader.skip(4 * available + 1)  # AvailableSequenceNumbers, MoreNotifications
    return _read_notification_message(reader, subscription_id)


def read_republish_response(body: bytes, subscription_id: int) -> NotificationMessage:
    """Read the answer to a RepublishRequest for *subscription_id*, from its TypeId on; raises as for Publish."""
    return _read_notification_message(_after_response_header(body), subscription_id)


def read_history_response(body: bytes, nodes: int) -> list[HistoryPage]:
    """Read the answer to a HistoryReadRequest for *nodes* nodes, from its TypeId on; raises as for Publish."""
    reader = _after_response_header(body)
    count = reader.count(9)
    if count != nodes:
        raise MalformedMessage(f"history of {count} nodes, but {nodes} were asked for")
    return [_read_history_page(reader) for _ in range(count)]


def _after_response_header(body: bytes) -> _Reader:
    buffer = Buffer(body)
    try:
        nodeid_from_binary(buffer)
        header = struct_from_binary(ua.ResponseHeader, buffer)
    except Exception as error:  # asyncua's decoder raises many things on strange bytes
        raise MalformedMessage(f"response header cannot be read ({error!r})") from error
    header.ServiceResult.check()
    return _Reader(body, buffer.cur_pos)


def _read_notification_message(reader: _Reader, subscription_id: int) -> NotificationMessage:
    sequence_number = reader.number("I")
    published = (reader.number("q") - _UNIX_EPOCH_TICKS) * 100
    no_time = published if 0 <= published < 2**63 else 0
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
