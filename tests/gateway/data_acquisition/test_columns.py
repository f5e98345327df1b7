from __future__ import annotations

import struct
import tracemalloc
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_acquisition.columns import BAD_TYPE_MISMATCH, Columns, MalformedMessage, read_values
from gateway.data_acquisition.messages import read_history_response, read_publish_response, read_read_response
from models.records import to_ns

NO_TIME = 42
_KINDS = {
    ua.VariantType.Boolean: st.booleans(),
    ua.VariantType.SByte: st.integers(-(2**7), 2**7 - 1),
    ua.VariantType.Byte: st.integers(0, 2**8 - 1),
    ua.VariantType.Int16: st.integers(-(2**15), 2**15 - 1),
    ua.VariantType.UInt16: st.integers(0, 2**16 - 1),
    ua.VariantType.Int32: st.integers(-(2**31), 2**31 - 1),
    ua.VariantType.UInt32: st.integers(0, 2**32 - 1),
    ua.VariantType.Int64: st.integers(-(2**63), 2**63 - 1),
    ua.VariantType.UInt64: st.integers(0, 2**64 - 1),
    ua.VariantType.Float: st.floats(width=32),
    ua.VariantType.Double: st.floats(),
}
_TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(lambda time: time.replace(tzinfo=UTC))  # noqa: DTZ001 - Hypothesis wants naive limits


# What is neither number nor array of numbers, as servers have it beside them
_OTHERS = st.sampled_from(
    [
        ua.Variant("text", ua.VariantType.String),
        ua.Variant(["one", None, ""], ua.VariantType.String),
        ua.Variant(b"bytes", ua.VariantType.ByteString),
        ua.Variant(uuid.UUID(int=7), ua.VariantType.Guid),
        ua.Variant(datetime(2026, 3, 2), ua.VariantType.DateTime),  # noqa: DTZ001 - as asyncua has them
        ua.Variant(ua.NodeId(ua.String("pump"), ua.Int16(2)), ua.VariantType.NodeId),
        ua.Variant(ua.QualifiedName("pump", 2), ua.VariantType.QualifiedName),
        ua.Variant(ua.LocalizedText("Pumpe", "de"), ua.VariantType.LocalizedText),
        ua.Variant(ua.StatusCode(ua.UInt32(0x80000000)), ua.VariantType.StatusCode),
        ua.Variant(ua.Range(Low=1.0, High=2.0), ua.VariantType.ExtensionObject),
        ua.Variant([ua.Range(), ua.EUInformation()], ua.VariantType.ExtensionObject),
        ua.Variant(ua.Variant(1.0), ua.VariantType.Variant),
        ua.Variant([ua.Variant(1.0), ua.Variant("two")], ua.VariantType.Variant),
    ]
)


@st.composite
def variants(draw: st.DrawFn) -> ua.Variant:
    kind = draw(st.sampled_from([*_KINDS, None, ua.VariantType.String]))
    if kind is None:
        return ua.Variant(None)
    if kind is ua.VariantType.String:
        return draw(_OTHERS)
    form = draw(st.sampled_from(["scalar", "scalar", "array", "matrix", "null array"]))
    if form == "array":
        return ua.Variant(draw(st.lists(_KINDS[kind], max_size=20)), kind, is_array=True)
    if form == "matrix":
        rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        row = st.lists(_KINDS[kind], min_size=columns, max_size=columns)
        return ua.Variant(draw(st.lists(row, min_size=rows, max_size=rows)), kind)
    if form == "null array":
        return ua.Variant(None, kind, is_array=True)
    return ua.Variant(draw(_KINDS[kind]), kind)


@st.composite
def data_values(draw: st.DrawFn) -> ua.DataValue:
    status = draw(st.none() | st.integers(0, 2**32 - 1))
    picoseconds = st.none() | st.integers(0, 2**16 - 1)
    fields: dict[str, Any] = {
        "SourceTimestamp": draw(st.none() | _TIMES),
        "SourcePicoseconds": draw(picoseconds),
        "ServerTimestamp": draw(st.none() | _TIMES),
        "ServerPicoseconds": draw(picoseconds),
    }
    if fields["SourcePicoseconds"] is not None:
        fields["ServerTimestamp"] = None  # asyncua 2.1 has these two in the wrong order; the test of the order is below
    value = draw(st.none() | variants())
    return ua.DataValue(value, ua.StatusCode(ua.UInt32(status)) if status is not None else None, **fields)


def decoded_by_asyncua(items: list[bytes], kind: Any) -> list[Any]:
    return [struct_from_binary(kind, Buffer(item)) for item in items]


def time_of(time: datetime | None, picoseconds: int | None) -> int | None:
    """What a time of OPC UA is in ns; its picoseconds count in tens."""
    return None if time is None else to_ns(time) + min(picoseconds or 0, 9999) // 100


def expected(value: ua.DataValue) -> tuple[int, int, float, int, list[float]]:
    """What a value means in columns, by way of asyncua's decoder."""
    held = value.Value.Value if value.Value is not None else None
    kind = value.Value.VariantType if value.Value is not None else ua.VariantType.Null
    status = int(value.StatusCode.value) if value.StatusCode is not None else 0
    source = time_of(value.SourceTimestamp, value.SourcePicoseconds)
    server = time_of(value.ServerTimestamp, value.ServerPicoseconds)
    time = source if source is not None else server if server is not None else NO_TIME
    if kind not in _KINDS and kind is not ua.VariantType.Null:
        return time, server or 0, np.nan, status if status >> 30 == 2 else BAD_TYPE_MISMATCH, []
    if isinstance(held, list):
        return time, server or 0, np.nan, status, np.array(held).astype(np.float32).ravel().tolist()
    return time, server or 0, float(held) if held is not None else np.nan, status, []


def assert_equal(columns: Columns, values: list[ua.DataValue]) -> None:
    rows = [expected(value) for value in values]
    assert columns.source_time.tolist() == [row[0] for row in rows]
    assert columns.server_time.tolist() == [row[1] for row in rows]
    np.testing.assert_array_equal(columns.value, np.array([row[2] for row in rows]))
    assert columns.status.tolist() == [row[3] for row in rows]
    assert columns.sample_count.tolist() == [len(row[4]) for row in rows]
    np.testing.assert_array_equal(columns.samples, np.array([x for row in rows for x in row[4]], np.float32))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(
    runs=st.lists(st.tuples(st.integers(1, 100), data_values()), max_size=8),
    mixed=st.lists(data_values(), max_size=4),
    turns=st.integers(0, 100),
)
# Runs and turns, because many items alike, or of the same few kinds, are what servers send and what Hypothesis alone
# would hardly draw.
def test_columns_are_what_asyncua_decodes(
    runs: list[tuple[int, ua.DataValue]], mixed: list[ua.DataValue], turns: int
) -> None:
    """Long and short runs of any mask and type, kinds that take turns, arrays and texts between them."""
    values = mixed * turns + [value for length, value in runs for _ in range(length)]
    items = [struct_to_binary(ua.MonitoredItemNotification(i, value)) for i, value in enumerate(values)]
    decoded = [item.Value for item in decoded_by_asyncua(items, ua.MonitoredItemNotification)]
    body = b"".join(items)
    columns, end = read_values(b"xx" + body + b"yy", 2, len(values), handles=True, no_time=NO_TIME)
    assert end == 2 + len(body)
    assert columns.handle.tolist() == list(range(len(values)))
    assert_equal(columns, decoded)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(st.lists(data_values(), max_size=20))
def test_history_is_what_asyncua_decodes(values: list[ua.DataValue]) -> None:
    """The same without client handles, in the answer to HistoryRead."""
    result = ua.HistoryReadResult(ContinuationPoint=b"more", HistoryData=ua.HistoryData(DataValues=values))
    response = ua.HistoryReadResponse(Results=[result, ua.HistoryReadResult()])
    first, second = read_history_response(struct_to_binary(response), 2)
    assert first.continuation == b"more"
    assert (second.continuation, second.values) == (None, None)
    decoded = decoded_by_asyncua([struct_to_binary(value) for value in values], ua.DataValue)
    assert first.values is not None
    assert first.values.handle.tolist() == [0] * len(values)
    timed = [value for value in decoded if value.SourceTimestamp or value.ServerTimestamp]
    if len(timed) == len(values):
        assert_equal(first.values, decoded)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(st.lists(data_values(), max_size=20))
def test_polled_values_are_what_asyncua_decodes(values: list[ua.DataValue]) -> None:
    """They come under the handles that were asked for; one without any time takes the time of the answer."""
    response = ua.ReadResponse(Results=values, DiagnosticInfos=[ua.DiagnosticInfo()])
    response.ResponseHeader.Timestamp = datetime(1970, 1, 1) + timedelta(microseconds=1)  # noqa: DTZ001 - as asyncua has it
    handles = np.arange(7, 7 + len(values), dtype=np.uint32)
    columns = read_read_response(struct_to_binary(response), handles)
    decoded = decoded_by_asyncua([struct_to_binary(value) for value in values], ua.DataValue)
    assert columns.handle.tolist() == handles.tolist()
    columns.source_time[columns.source_time == 1000] = NO_TIME
    assert_equal(columns, decoded)
    with pytest.raises(MalformedMessage, match="were asked for"):
        read_read_response(struct_to_binary(response), np.zeros(len(values) + 1, np.uint32))


def publish_response(*notifications: list[ua.DataValue], diagnostics: bool = False) -> bytes:
    told = [ua.DiagnosticInfo(Locale=ua.Int32(1), AdditionalInfo=ua.String("why"))]
    result = ua.PublishResult(SubscriptionId=7, AvailableSequenceNumbers=[3, 4])
    result.NotificationMessage.SequenceNumber = 5
    result.NotificationMessage.NotificationData = [
        ua.DataChangeNotification(
            MonitoredItems=[ua.MonitoredItemNotification(i, value) for i, value in enumerate(values)],
            DiagnosticInfos=told * diagnostics,
        )
        for values in notifications
    ]
    response = ua.PublishResponse(Parameters=result)
    if diagnostics:
        result.DiagnosticInfos = told
        response.ResponseHeader.ServiceDiagnostics = told[0]
        response.ResponseHeader.StringTable = ["a", None]
    return struct_to_binary(response)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(notifications=st.lists(st.lists(data_values(), max_size=8), max_size=3), diagnostics=st.booleans())
def test_a_publish_response_is_read(notifications: list[list[ua.DataValue]], diagnostics: bool) -> None:  # noqa: FBT001 - drawn
    """Subscription, sequence number, values of all notifications; diagnostics are none; without any, a keep-alive."""
    body = publish_response(*notifications, diagnostics=diagnostics)
    message = read_publish_response(body)
    assert (message.subscription_id, message.sequence_number, message.ended) == (7, 5, None)
    assert (message.values is None) == (not notifications)
    if message.values is not None:
        answer = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters.NotificationMessage
        items = [item for notification in answer.NotificationData for item in notification.MonitoredItems]
        assert message.values.handle.tolist() == [item.ClientHandle for item in items]
        published = to_ns(answer.PublishTime.replace(tzinfo=UTC))
        message.values.source_time[message.values.source_time == published] = NO_TIME
        assert_equal(message.values, [item.Value for item in items])


@given(st.data())
def test_a_cut_or_changed_message_is_refused_or_read(data: st.DataObject) -> None:
    """Whatever a server sends, it is read or named malformed; nothing else comes out."""
    values = data.draw(st.lists(data_values(), min_size=1, max_size=5)) * data.draw(st.sampled_from([1, 20]))
    body = bytearray(publish_response(values, diagnostics=data.draw(st.booleans())))
    body = body[: data.draw(st.integers(0, len(body)))]
    for place in data.draw(st.lists(st.integers(0, max(len(body) - 1, 0)), max_size=4)):
        if body:
            body[place] = data.draw(st.integers(0, 255))
    try:
        message = read_publish_response(bytes(body))
    except (MalformedMessage, ua.uaerrors.UaStatusCodeError):
        return
    if message.values is not None:
        assert len(message.values.samples) == message.values.sample_count.sum()


@given(st.binary(max_size=200), st.integers(0, 50), st.booleans())
def test_any_bytes_are_values_or_refused(body: bytes, count: int, handles: bool) -> None:  # noqa: FBT001 - drawn
    """Without a head that has to be right first."""
    with suppress(MalformedMessage):
        columns, end = read_values(body, 0, count, handles=handles, no_time=NO_TIME)
        assert end <= len(body)
        assert len(columns.handle) == count


def test_hostile_counts_cost_no_memory() -> None:
    """Items, samples and nested variants that a message only claims to have are never made."""
    size = 200_000
    hostile = [
        struct.pack("<IBBi", 1, 0x01, 0x80 | 11, 2**31 - 1) + bytes(size),
        struct.pack("<IBBii", 1, 0x01, 0xC0 | 11, 0, 2**31 - 1) + bytes(size),
        struct.pack("<IBBi", 1, 0x01, 0x80 | 12, 2**31 - 1) + bytes(size),
        struct.pack("<IB", 1, 0x01) + bytes([0x80 | 24, 1, 0, 0, 0]) * 5000,
        struct.pack("<IB", 1, 0x01) + bytes([24]) * size,
    ]
    tracemalloc.start()
    try:
        for item in hostile:
            with pytest.raises(MalformedMessage):
                read_values(item, 0, 1, handles=True, no_time=0)
        with pytest.raises(MalformedMessage, match="more than"):
            read_values(bytes(size), 0, 2**31 - 1, handles=False, no_time=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * size


def test_an_array_longer_than_the_message_is_refused() -> None:
    """A length is checked before anything is made of it."""
    item = struct.pack("<IBBi", 1, 0x01, 0x80 | 11, 2**31 - 1)
    with pytest.raises(MalformedMessage, match="longer than the message"):
        read_values(item, 0, 1, handles=True, no_time=0)


def test_a_time_out_of_range_counts_as_none() -> None:
    """A source time before 1970 is no source time."""
    item = struct.pack("<IBBdIq", 1, 0x07, 11, 1.0, 0, 5)
    columns, _ = read_values(item, 0, 1, handles=True, no_time=NO_TIME)
    assert columns.source_time.tolist() == [NO_TIME]


def test_ticks_and_picoseconds_become_nanoseconds() -> None:
    """A source time keeps its 100 ns, and the whole nanoseconds of its picoseconds."""
    ticks = 116_444_736_000_000_000 + 12_345
    item = struct.pack("<IBBdIqH", 1, 0x17, 11, 1.0, 0, ticks, 1234)
    columns, _ = read_values(item, 0, 1, handles=True, no_time=NO_TIME)
    assert columns.source_time.tolist() == [1_234_500 + 12]


def test_times_and_their_picoseconds_stand_as_opc_ua_says() -> None:
    """The source's picoseconds before the server's time, whether one value is read or many."""
    epoch = 116_444_736_000_000_000
    item = struct.pack("<IBBdIqHqH", 1, 0x3F, 11, 1.0, 0, epoch + 7, 300, epoch + 9, 500)
    for count in (1, 100):
        columns, _ = read_values(item * count, 0, count, handles=True, no_time=NO_TIME)
        assert columns.source_time.tolist() == [703] * count
        assert columns.server_time.tolist() == [905] * count


def test_a_datetime_of_asyncua_keeps_its_microsecond() -> None:
    """Asyncua's microseconds survive."""
    moment: Any = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(microseconds=1)
    item = struct_to_binary(ua.MonitoredItemNotification(0, ua.DataValue(ua.Variant(1.0), SourceTimestamp=moment)))
    columns, _ = read_values(item, 0, 1, handles=True, no_time=NO_TIME)
    assert columns.source_time.tolist() == [to_ns(moment)]


def test_a_waveform_beyond_what_a_page_holds_is_bad_and_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends millions of samples at once must not stop the journal: Bad, without samples."""
    monkeypatch.setattr("gateway.data_acquisition.columns.LONGEST_WAVEFORM", 3)
    values = [ua.DataValue(ua.Variant([1.0] * count, ua.VariantType.Float)) for count in (4, 3)]
    body = b"".join(struct_to_binary(value) for value in values)

    columns, end = read_values(body, 0, 2, handles=False, no_time=NO_TIME)
    assert columns.status.tolist() == [BAD_TYPE_MISMATCH, 0]
    assert columns.sample_count.tolist() == [0, 3]
    assert end == len(body)


def test_without_source_time_the_servers_counts() -> None:
    """Also where the source time is the null of OPC UA, 1601."""
    null, noon = datetime(1601, 1, 1, tzinfo=UTC), datetime(2026, 3, 2, 12, tzinfo=UTC)
    values = [ua.DataValue(ua.Variant(1.0), SourceTimestamp=time, ServerTimestamp=noon) for time in (None, null)]  # type: ignore[arg-type]  # asyncua takes aware times
    body = b"".join(struct_to_binary(value) for value in values)

    columns, _ = read_values(body, 0, 2, handles=False, no_time=NO_TIME)
    assert columns.source_time.tolist() == [to_ns(noon)] * 2
