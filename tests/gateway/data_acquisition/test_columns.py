from __future__ import annotations

import struct
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
from gateway.data_acquisition.messages import read_history_response, read_publish_response
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


@st.composite
def variants(draw: st.DrawFn) -> ua.Variant:
    kind = draw(st.sampled_from([*_KINDS, None, ua.VariantType.String]))
    if kind is None:
        return ua.Variant(None)
    if kind is ua.VariantType.String:
        return ua.Variant(draw(st.text(max_size=5)), kind)
    if draw(st.booleans()):
        return ua.Variant(draw(st.lists(_KINDS[kind], max_size=20)), kind, is_array=True)
    return ua.Variant(draw(_KINDS[kind]), kind)


@st.composite
def data_values(draw: st.DrawFn) -> ua.DataValue:
    status = draw(st.none() | st.integers(0, 2**32 - 1))
    fields: dict[str, Any] = {"SourceTimestamp": draw(st.none() | _TIMES)}
    return ua.DataValue(draw(variants()), ua.StatusCode(ua.UInt32(status)) if status is not None else None, **fields)


def decoded_by_asyncua(items: list[bytes], kind: Any) -> list[Any]:
    return [struct_from_binary(kind, Buffer(item)) for item in items]


def expected(value: ua.DataValue) -> tuple[int, float, int, list[float]]:
    """What a value means in columns, by way of asyncua's decoder."""
    held = value.Value.Value if value.Value is not None else None
    kind = value.Value.VariantType if value.Value is not None else ua.VariantType.Null
    status = int(value.StatusCode.value) if value.StatusCode is not None else 0
    time = to_ns(value.SourceTimestamp) if value.SourceTimestamp is not None else NO_TIME
    if kind is ua.VariantType.String:
        return time, np.nan, status if status >> 30 == 2 else BAD_TYPE_MISMATCH, []
    if isinstance(held, list):
        return time, np.nan, status, np.array(held).astype(np.float32).tolist()
    return time, float(held) if held is not None else np.nan, status, []


def assert_equal(columns: Columns, values: list[ua.DataValue]) -> None:
    rows = [expected(value) for value in values]
    assert columns.source_time.tolist() == [row[0] for row in rows]
    np.testing.assert_array_equal(columns.value, np.array([row[1] for row in rows]))
    assert columns.status.tolist() == [row[2] for row in rows]
    assert columns.sample_count.tolist() == [len(row[3]) for row in rows]
    np.testing.assert_array_equal(columns.samples, np.array([x for row in rows for x in row[3]], np.float32))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(st.lists(st.tuples(st.integers(1, 50), data_values()), max_size=8))
# Runs, because many items alike is what servers send and what Hypothesis alone would hardly draw.
def test_columns_are_what_asyncua_decodes(runs: list[tuple[int, ua.DataValue]]) -> None:
    """Long and short runs of any mask and type, arrays and texts between them, read as asyncua reads them."""
    values = [value for length, value in runs for _ in range(length)]
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
    timed = [value for value in decoded if value.SourceTimestamp is not None]
    assert len(first.values.source_time) == len(values)
    if len(timed) == len(values):
        assert_equal(first.values, decoded)


def publish_response(values: list[ua.DataValue]) -> bytes:
    notification = ua.DataChangeNotification(
        MonitoredItems=[ua.MonitoredItemNotification(i, value) for i, value in enumerate(values)]
    )
    result = ua.PublishResult(SubscriptionId=7, AvailableSequenceNumbers=[3, 4])
    result.NotificationMessage.SequenceNumber = 5
    result.NotificationMessage.NotificationData = [notification] if values else []
    return struct_to_binary(ua.PublishResponse(Parameters=result))


@given(st.lists(data_values(), max_size=10))
def test_a_publish_response_is_read(values: list[ua.DataValue]) -> None:
    """Subscription, sequence number and values; without values it is a keep-alive."""
    message = read_publish_response(publish_response(values))
    assert (message.subscription_id, message.sequence_number, message.ended) == (7, 5, None)
    assert (message.values is None) == (not values)
    assert message.values is None or len(message.values.handle) == len(values)


@given(st.data())
def test_a_cut_or_changed_message_is_refused_or_read(data: st.DataObject) -> None:
    """Whatever a server sends, it is read or named malformed; nothing else comes out."""
    body = bytearray(publish_response(data.draw(st.lists(data_values(), min_size=1, max_size=5))))
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
