"""Windows come out of their bytes as they went in, and bytes that do not fit together are refused."""

from dataclasses import replace

import numpy as np
import pytest

from models.bundle import packed_windows
from models.bundle.packed_windows import PackedWindows, pack_windows, unpack_windows
from models.features.specification import FeatureSpecification
from models.features.windower import windows_of
from models.features.windows import Windows
from models.records import Channel, Observations, Stream

HOUR_NS = 3_600_000_000_000
SPEC = FeatureSpecification(
    asset_class="fan",
    channels=(
        Channel(name="speed_rpm", unit="rpm", low=0.0, high=3000.0),
        Channel(name="vibration", unit="m/s²", low=-9.0, high=9.0, sample_rate_hz=1000.0),
    ),
    window_s=7200.0,
    step_s=3600.0,
    late_s=3600.0,
)


def windows() -> Windows:
    """Return overlapping windows of one asset, some observations bad, waveforms of different lengths."""
    hours = np.arange(24)
    counts = np.where(hours % 2 == 0, 0, 3 + hours)
    return windows_of(
        SPEC,
        Observations(
            streams=(Stream("fan-1", "speed_rpm"), Stream("fan-1", "vibration")),
            stream=(hours % 2).astype(np.uint32),
            source_time=hours.astype(np.int64) * HOUR_NS // 2,
            value=np.where(hours % 2 == 0, 1000.0 + hours, np.nan),
            status=np.where(hours % 7 == 6, 0x80000000, 0).astype(np.uint32),
            sample_count=counts.astype(np.uint32),
            samples=np.arange(counts.sum(), dtype=np.float32),
        ),
    )


@pytest.fixture(scope="module")
def packed() -> PackedWindows:
    return pack_windows(windows())


def test_windows_come_out_as_they_went_in(packed: PackedWindows) -> None:
    before, after = windows(), unpack_windows(packed, channels=2)

    assert len(after) == len(before) > 5
    assert after.asset_ids == before.asset_ids
    for name in ("asset", "start_ns", "end_ns", "good_share"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for ours, theirs in zip(after.channels, before.channels, strict=True):
        for name in ("time", "value", "good", "sample_count", "samples", "first", "last"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype


@pytest.mark.parametrize("name", ["asset", "start_ns", "end_ns", "good_share"])
def test_a_column_cut_short_is_refused(packed: PackedWindows, name: str) -> None:
    for cut in (getattr(packed, name)[:-8], getattr(packed, name)[:-3]):
        with pytest.raises(ValueError, match=r".+"):
            unpack_windows(replace(packed, **{name: cut}), channels=2)


@pytest.mark.parametrize("name", ["time", "value", "good", "sample_count", "samples", "first", "last"])
def test_a_channels_column_cut_short_is_refused(packed: PackedWindows, name: str) -> None:
    waveforms = packed.channels[1]
    cut = replace(waveforms, **{name: getattr(waveforms, name)[:-8]})

    with pytest.raises(ValueError, match="not there"):
        unpack_windows(replace(packed, channels=(packed.channels[0], cut)), channels=2)


@pytest.mark.parametrize(
    ("name", "wrong"), [("first", -1), ("first", 10**6), ("last", 10**6), ("sample_count", -5), ("sample_count", 2**62)]
)
def test_ranges_of_what_is_not_there_are_refused(packed: PackedWindows, name: str, wrong: int) -> None:
    waveforms = packed.channels[1]
    numbers = np.frombuffer(getattr(waveforms, name), np.int64).copy()
    numbers[:4] = wrong

    changed = replace(waveforms, **{name: numbers.tobytes()})

    with pytest.raises(ValueError, match="not there"):
        unpack_windows(replace(packed, channels=(packed.channels[0], changed)), channels=2)


def test_windows_of_other_channels_or_no_asset_are_refused(packed: PackedWindows) -> None:
    with pytest.raises(ValueError, match="channels"):
        unpack_windows(packed, channels=3)
    with pytest.raises(ValueError, match="assets"):
        unpack_windows(replace(packed, asset_ids=()), channels=2)
    with pytest.raises(ValueError, match="before they start"):
        unpack_windows(replace(packed, start_ns=packed.end_ns), channels=2)


def test_the_number_of_observations_is_bounded(packed: PackedWindows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_windows, "MAX_ROWS", 3)

    with pytest.raises(ValueError, match="not there"):
        unpack_windows(packed, channels=2)
