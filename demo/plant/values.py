"""Rows of observations as OPC UA data values."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from models.records import Observations, from_ns

_NOTHING = ua.Variant(None, ua.VariantType.Null)


class Sample(ua.DataValue):
    """A data value that nobody changes once it is made, so that a copy of it is itself.

    The server copies every value deeply for every subscriber; for a waveform that is 512 floats each time.
    """

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Sample:
        return self


NOT_YET = Sample(Value=_NOTHING, StatusCode=ua.StatusCode(ua.UInt32(StatusCodes.BadWaitingForInitialData)))


def data_values(rows: Observations) -> Iterator[ua.DataValue]:
    """Yield a data value for each of *rows*, with its source time and status; Bad status carries no value."""
    now: Any = datetime.now(UTC)
    codes: dict[int, ua.StatusCode] = {}
    waves = rows.waveforms()
    columns = zip(
        rows.source_time.tolist(), rows.value.tolist(), rows.status.tolist(), rows.sample_count.tolist(), strict=True
    )
    for number, (time_ns, value, status, count) in enumerate(columns):
        code = codes.setdefault(status, ua.StatusCode(status))
        if status >> 30 == 2:
            variant = _NOTHING
        elif count:
            variant = ua.Variant(waves[number].tolist(), ua.VariantType.Float, is_array=True)
        else:
            variant = ua.Variant(value, ua.VariantType.Double)
        # asyncua types its times as a subclass of datetime and takes any.
        source_time: Any = from_ns(time_ns)
        yield Sample(Value=variant, StatusCode=code, SourceTimestamp=source_time, ServerTimestamp=now)
