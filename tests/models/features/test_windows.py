"""Windows as columns: tables, selections and joins keep what each window holds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.specification import FeatureError, FeatureSpecification
from models.features.windower import Windower, windows_of
from models.features.windows import Windows, good_shares, typical_counts, windows_of_table
from models.records import Channel, FloatArray, Int64Array, Observations, Stream
from tests.models.features.slow_windower import contents

Recording = Callable[..., Observations]
CYCLE_NS = 60_000_000_000


@pytest.fixture(scope="module")
def cycles() -> FeatureSpecification:
    """Two channels told once a cycle of a minute."""
    return FeatureSpecification(
        asset_class="engine",
        channels=tuple(Channel(name=name, unit="", low=0.0, high=1.0) for name in ("t2", "ps30")),
        window_s=60.0,
        step_s=60.0,
        late_s=60.0,
    )


def table(rows: int, seed: int) -> tuple[Int64Array, Int64Array, FloatArray]:
    """Return asset, end and values of some cycles of three assets, by time, some values missing or infinite."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows * 3, 2))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[rng.random(values.shape) < 0.05] = np.inf
    end_ns = np.repeat(np.arange(1, rows + 1) * CYCLE_NS, 3)
    return np.tile(np.arange(3), rows), end_ns, values


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 8), seed=st.integers(0, 100), page=st.integers(1, 7))
def test_a_table_gives_the_windows_of_the_same_rows_as_a_log(
    cycles: FeatureSpecification, rows: int, seed: int, page: int
) -> None:
    """Cycle after cycle as observations, in pages of any size: all but the cycles that nothing has closed."""
    asset, end_ns, values = table(rows, seed)
    told = np.argwhere(~np.isnan(values))
    streams = tuple(Stream(f"e-{number}", name) for number in range(3) for name in ("t2", "ps30"))
    log = Observations.of_values(
        streams,
        (asset[told[:, 0]] * 2 + told[:, 1]).astype(np.uint32),
        end_ns[told[:, 0]] - CYCLE_NS,
        values[told[:, 0], told[:, 1]],
        np.zeros(len(told), np.uint32),
    )
    windower = Windower(cycles)
    closed = [
        windower.push(log.take(np.arange(first, min(first + page, len(log))))) for first in range(0, len(log), page)
    ]
    streamed = Windows.concatenate([Windows.empty(cycles), *closed])

    whole = windows_of_table(cycles, ("e-0", "e-1", "e-2"), asset, end_ns, values)
    whole = whole.take(np.flatnonzero(whole.counts.any(axis=1)))
    last = dict(zip(streamed.asset_id_of_rows, streamed.end_ns.tolist(), strict=True))
    known = [last.get(name, 0) >= end for name, end in zip(whole.asset_id_of_rows, whole.end_ns.tolist(), strict=True)]
    assert contents(streamed) == contents(whole.take(np.array(known, np.bool_)))
    assert contents(streamed) == contents(windows_of(cycles, log))


def test_a_table_that_does_not_fit_is_refused(cycles: FeatureSpecification, spec: FeatureSpecification) -> None:
    asset, end_ns, values = table(2, 1)
    with pytest.raises(FeatureError, match="is not 6 x 2"):
        windows_of_table(cycles, ("a", "b", "c"), asset, end_ns, values[:, :1])
    with pytest.raises(FeatureError, match="none of its 2 assets"):
        windows_of_table(cycles, ("a", "b"), asset, end_ns, values)
    with pytest.raises(FeatureError, match="vibration_m_s2 is a waveform"):
        windows_of_table(spec, ("a", "b", "c"), asset, end_ns, np.tile(values, 2))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_windows_taken_and_joined_hold_what_they_held(
    spec: FeatureSpecification, recording: Recording, data: st.DataObject
) -> None:
    """Overlapping windows with waveforms, in any order and more than once."""
    windows = windows_of(spec, recording(hours=6, bad_share=0.2))
    rows = np.array(data.draw(st.lists(st.integers(0, len(windows) - 1), max_size=6)), np.intp)

    taken = windows.take(rows)
    joined = Windows.concatenate([Windows.empty(spec), taken, windows])

    told = {key[:3]: key for key in contents(windows)}
    heads = list(zip(windows.end_ns.tolist(), windows.asset_id_of_rows, windows.start_ns.tolist(), strict=True))
    assert contents(taken) == sorted(told[heads[row]] for row in rows.tolist())
    assert contents(joined) == sorted([*contents(taken), *contents(windows)])
    assert taken.counts.tolist() == windows.counts[rows].tolist()
    assert joined.good_counts.tolist() == np.concatenate([windows.good_counts[rows], windows.good_counts]).tolist()


def test_taking_one_window_lets_go_of_the_others_rows(spec: FeatureSpecification, recording: Recording) -> None:
    windows = windows_of(spec, recording(hours=20), ["a-1"])

    one = windows.take(np.array([3]))

    assert [len(channel.time) for channel in one.channels] == one.counts[0].tolist()
    assert one.channels[3].samples.size == one.channels[3].sample_count.sum()


def test_good_share_counts_what_is_missing_and_bad(spec: FeatureSpecification, recording: Recording) -> None:
    complete = windows_of(spec, recording())
    expecting = replace(spec, expected_counts=typical_counts(complete.counts))
    sparse = recording()
    kept = np.arange(len(sparse)) % 2 == 0

    assert expecting.expected_counts == (12.0, 12.0, 12.0, 2.0)
    assert windows_of(expecting, sparse.take(kept)).good_share.max() < 0.8
    assert good_shares(np.array([[6, 0], [0, 0]]), np.array([[12, 0], [0, 0]]), [12.0, 0.0]).tolist() == [0.5, 0.0]
    assert good_shares(np.array([[0, 0]]), np.array([[0, 0]]), [0.0, 0.0]).tolist() == [0.0]
