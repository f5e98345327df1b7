"""What a windower saved is checked when it is read again: a disk may give anything back."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.specification import FeatureError, FeatureSpecification
from models.features.windower import Windower
from models.records import Observations
from tests.models.features.slow_windower import contents

Recording = Callable[..., Observations]
NEVER = int(np.iinfo(np.int64).min)


@pytest.fixture(scope="session")
def state(spec: FeatureSpecification, recording: Recording) -> bytes:
    """What a windower saves in the middle of a recording, with some rows, waveforms too."""
    windower = Windower(spec)
    windower.push(recording(hours=5, shuffle_rows=10))
    return windower.state()


def changed(state: bytes, **columns: object) -> bytes:
    saved: dict[str, Any] = msgspec.msgpack.decode(state)
    for name, column in columns.items():
        place = saved["rows"] if name in saved["rows"] else saved
        assert name in place
        place[name] = column.tobytes() if isinstance(column, np.ndarray) else column
    return msgspec.msgpack.encode(saved)


def column(state: bytes, name: str, dtype: type) -> np.ndarray[Any, Any]:
    saved: dict[str, Any] = msgspec.msgpack.decode(state)
    return np.frombuffer({**saved, **saved["rows"]}[name], dtype).copy()


def with_first(state: bytes, name: str, dtype: type, value: int) -> bytes:
    values = column(state, name, dtype)
    values[0] = value
    return changed(state, **{name: values})


def test_state_of_another_specification_is_refused(spec: FeatureSpecification, state: bytes) -> None:
    with pytest.raises(FeatureError, match="another specification"):
        Windower(replace(spec, window_s=3600.0)).restore(state)
    with pytest.raises(FeatureError, match="do not decode"):
        Windower(spec).restore(state[:-40])


def test_it_is_small_and_goes_on_where_it_was(spec: FeatureSpecification, recording: Recording, state: bytes) -> None:
    """Control for the refusals: the state itself is taken, saves as the same bytes, and gives the windows it should."""
    one, other = Windower(spec), Windower(spec)
    one.push(recording(hours=5, shuffle_rows=10))
    other.restore(state)
    later = recording(hours=12)

    assert other.state() == state
    assert contents(one.push(later)) == contents(other.push(later))


@pytest.mark.parametrize(
    ("name", "dtype", "value", "reason"),
    [
        ("place", np.int32, -1, "places"),
        ("place", np.int32, 8, "places"),
        ("number", np.int64, -1, "row numbers"),
        ("number", np.int64, 2**40, "row numbers"),
        ("time", np.int64, -5, "times"),
        ("good", np.uint8, 2, "good marks"),
        ("newest", np.int64, -5, "newest times"),
        ("oldest", np.int64, -5, "oldest times"),
        ("next_end", np.int64, 17, "next ends"),
        ("next_end", np.int64, 9_000_000_000_000_000_000 // 3_600_000_000_000 * 3_600_000_000_000, "later ends"),
        ("count", np.int64, -1, "row counts"),
        ("sample_count", np.int64, -1, "sample counts"),
        ("sample_count", np.int64, 2**40, "sample counts"),
    ],
)
def test_numbers_out_of_range_are_refused(
    spec: FeatureSpecification, state: bytes, name: str, dtype: type, value: int, reason: str
) -> None:
    windower = Windower(spec)

    with pytest.raises(FeatureError, match=reason):
        windower.restore(with_first(state, name, dtype, value))
    assert windower.state() == Windower(spec).state()  # nothing has changed


def test_columns_that_do_not_fit_together_are_refused(spec: FeatureSpecification, state: bytes) -> None:
    counts = column(state, "sample_count", np.int64)
    waveform, plain = int(np.flatnonzero(counts)[0]), int(np.flatnonzero(counts == 0)[0])
    moved = counts.copy()
    moved[[waveform, plain]] = counts[[plain, waveform]]
    for damaged in (
        changed(state, time=column(state, "time", np.int64)[1:]),
        changed(state, count=column(state, "count", np.int64)[1:]),
        changed(state, newest=column(state, "newest", np.int64)[1:]),
        changed(state, asset_ids=["a-1", "a-1"]),
        changed(state, samples=b"123"),
        changed(state, sample_count=moved),
        changed(state, sample_count=counts, samples=b"1234" * (int(counts.sum()) - 1)),
        # In 64 bits these add up to no sample at all; taken at their word they end the process.
        changed(state, sample_count=np.where(np.cumsum(counts > 0) <= 4, 2**62 * (counts > 0), 0), samples=b""),
        changed(state, counters={"rows": 2**64 - 1}),
        b"\x81\xa1x" + b"\x91" * 5000 + b"\x00",
    ):
        with pytest.raises(FeatureError, match="do not decode"):
            Windower(spec).restore(damaged)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.floats(0, 1))
def test_any_damage_is_refused_or_harmless(
    spec: FeatureSpecification, recording: Recording, state: bytes, place: float, value: int, cut: float
) -> None:
    """A changed byte or a short file ends in a FeatureError, or in a windower that works on."""
    damaged = bytearray(state)
    damaged[int(place * len(damaged))] = value
    later = recording(hours=3)
    for one in (bytes(damaged), state[: int(cut * len(state))]):
        windower = Windower(spec)
        try:
            windower.restore(one)
        except FeatureError:
            continue
        windower.push(later)
