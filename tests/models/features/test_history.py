"""What models are told of an asset's past, and that it does not depend on how windows came."""

from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.baseline import Baseline, deviations
from models.features.history import Histories
from models.features.inputs import inputs_of, sequences_of
from models.features.names import feature_names, input_names, mean_columns, quality_columns, sequence_names
from models.features.regimes import regimes_of
from models.features.specification import FeatureError, FeatureSpecification, History, Regimes
from models.records import FloatArray, Int64Array
from models.scoring import Prepared, past_of_table, prepare_table, prepared_of

HOUR_NS = 3_600_000_000_000


@dataclass(frozen=True, kw_only=True)
class Log:
    """Windows of some assets, by end, and the lives that begin among them."""

    asset_ids: list[str]
    end_ns: Int64Array
    features: FloatArray
    starts: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.asset_ids)


def log_of(spec: FeatureSpecification, seed: int, rows: int = 80, assets: int = 3) -> Log:
    """Return windows with gaps, missing values, silent stretches, wild values, both regimes, errors and repairs."""
    rng = np.random.default_rng(seed)
    features = 3.0 * rng.normal(size=(rows, len(feature_names(spec))))
    features[rng.random(features.shape) < 0.1] = np.nan
    features[rng.random(features.shape) < 0.01] = 1e300
    means = mean_columns(spec)
    features[:, means["speed_rpm"]] = rng.choice([900.0, 2100.0, np.nan], rows, p=[0.5, 0.4, 0.1])
    features[:, means["errors"]] = rng.choice([0.0, 2.0, np.nan], rows, p=[0.6, 0.1, 0.3])
    silent = rng.random(rows) < 0.35
    features[np.ix_(silent, np.delete(np.arange(features.shape[1]), quality_columns(spec)))] = np.nan
    asset_ids = [f"a-{number}" for number in rng.integers(0, assets, rows)]
    end_ns = 2 * HOUR_NS + np.cumsum(rng.integers(1, 3, rows)) * HOUR_NS
    starts = tuple((f"a-{rng.integers(assets)}", int(end_ns[rng.integers(rows)])) for _ in range(rng.integers(0, 4)))
    return Log(asset_ids=asset_ids, end_ns=end_ns, features=features, starts=starts)


def baseline_of(spec: FeatureSpecification, seed: int = 0) -> Baseline:
    """Return some baseline, with two known assets and a feature nobody had in the second regime."""
    rng = np.random.default_rng(seed)
    shape = (spec.regimes.count, len(feature_names(spec)))

    def table(numbers: FloatArray) -> tuple[tuple[float, ...], ...]:
        return tuple(map(tuple, numbers.tolist()))

    scale = 0.5 + rng.random(shape)
    scale[-1, 3] = np.nan
    return Baseline(
        centre={f"a-{number}": table(rng.normal(size=shape)) for number in range(2)},
        class_centre=table(rng.normal(size=shape)),
        class_scale=table(scale),
    )


def told(
    spec: FeatureSpecification, histories: Histories, log: Log, first: int = 0, last: int | None = None
) -> Prepared:
    rows = slice(first, last)
    past = histories.push(log.asset_ids[rows], log.end_ns[rows], log.features[rows])
    return prepared_of(spec, baseline_of(spec), past)


def begun(spec: FeatureSpecification, log: Log) -> Histories:
    histories = Histories(spec)
    for asset_id, start_ns in log.starts:
        histories.begin_life(asset_id, start_ns)
    return histories


def joined(parts: list[Prepared]) -> dict[str, object]:
    names = ["features", "deviations", "inputs", "windows_known", "whole"]
    names += ["sequences"] if parts[0].sequences is not None else []
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def assert_equal(one: dict[str, object], other: dict[str, object]) -> None:
    for name, numbers in one.items():
        np.testing.assert_array_equal(numbers, other[name], err_msg=name)


HISTORIES = [
    History(
        rolling=(3, 6), statistics=("mean", "std", "trend"), since_start=True, first_windows=4, cycles=True,
        events=("errors",), sequence_windows=8,
    ),
    History(rolling=(5,), of=("mean", "residual"), since_start=True, sequence_windows=2),
    History(first_windows=3, sequence_windows=20),
    History(since_start=True, first_windows=1, cycles=True),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 80), max_size=20),
    restart=st.booleans(),
    history=st.sampled_from(HISTORIES),
    regimes=st.booleans(),
)
def test_calls_and_restarts_make_no_difference(
    full_spec: FeatureSpecification, seed: int, cuts: list[int], history: History, *, restart: bool, regimes: bool
) -> None:
    """The gateway asks window by window, training all at once: everything is equal to the last bit."""
    spec = replace(full_spec, history=history, regimes=full_spec.regimes if regimes else Regimes())
    log = log_of(spec, seed)
    expected = told(spec, begun(spec, log), log)

    histories, parts = begun(spec, log), []
    for first, last in pairwise([0, *sorted(cuts), len(log)]):
        parts.append(told(spec, histories, log, first, last))
        if restart:
            state = histories.state()
            histories = Histories(spec)
            histories.restore(state)

    assert_equal(joined(parts), joined([expected]))


def test_losing_the_state_would_show(full_spec: FeatureSpecification) -> None:
    """Control for the above: a restart that forgets gives other inputs, in every part that looks back."""
    log = log_of(full_spec, 3, assets=1)
    whole = told(full_spec, Histories(full_spec), log)
    forgetful = told(full_spec, Histories(full_spec), log, 40)
    names = np.array(input_names(full_spec))

    differ = names[(~np.isclose(forgetful.inputs, whole.inputs[40:], equal_nan=True)).any(axis=0)].tolist()

    assert not [name for name in differ if ":" not in name and name != "cycles"]
    for part in (":mean3", ":std6", ":trend6", ":life_mean", ":change", "cycles", "hours_since:errors"):
        assert any(part in name for name in differ), part


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_table_is_as_a_gateway_would_have_told(full_spec: FeatureSpecification, seed: int) -> None:
    """Training's way in, with each life an asset of its own."""
    log = log_of(full_spec, seed)
    expected = told(full_spec, Histories(full_spec), log)
    ids = tuple(sorted(set(log.asset_ids)))
    asset = np.array([ids.index(asset_id) for asset_id in log.asset_ids])

    got = prepare_table(full_spec, baseline_of(full_spec), ids, asset, log.end_ns, log.features, whole=False)

    assert_equal(joined([got]), joined([expected]))
    assert prepare_table(full_spec, baseline_of(full_spec), ids, asset, log.end_ns, log.features).whole.all()


def test_lives_of_one_asset_share_its_centres_and_nothing_else(full_spec: FeatureSpecification) -> None:
    """In a table a name may stand for several lives."""
    log = log_of(full_spec, 5, assets=1)
    life = (np.arange(len(log)) >= 30).astype(np.int64)
    both = prepare_table(full_spec, baseline_of(full_spec), ("a-0", "a-0"), life, log.end_ns, log.features)
    second = prepare_table(
        full_spec, baseline_of(full_spec), ("a-0",), life[30:] - 1, log.end_ns[30:], log.features[30:]
    )

    assert_equal(joined([both.take(life == 1)]), joined([second]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), late=st.integers(0, 4))
def test_a_repair_told_late_counts_as_if_told_in_time(full_spec: FeatureSpecification, seed: int, late: int) -> None:
    """As long as the windows since are remembered one by one."""
    log = log_of(full_spec, seed, assets=1)
    start_ns = int(log.end_ns[40])
    in_time, afterwards = Histories(full_spec), Histories(full_spec)
    in_time.begin_life("a-0", start_ns)
    seen = 40 + 1 + late
    for histories in (in_time, afterwards):
        told(full_spec, histories, log, 0, seen)
    afterwards.begin_life("a-0", start_ns)
    afterwards.begin_life("a-0", start_ns)  # told again

    assert_equal(joined([told(full_spec, afterwards, log, seen)]), joined([told(full_spec, in_time, log, seen)]))


def test_a_start_before_the_present_life_is_ignored(full_spec: FeatureSpecification) -> None:
    """Records of maintenance come more than once, and not in order."""
    log = log_of(full_spec, 3, assets=1)
    histories = Histories(full_spec)
    histories.begin_life("a-0", int(log.end_ns[20]))
    told(full_spec, histories, log)
    state = histories.state()

    for start_ns in (int(log.end_ns[20]), int(log.end_ns[5])):
        histories.begin_life("a-0", start_ns)

    assert histories.state() == state


def test_a_repair_told_too_late_leaves_a_life_that_is_not_whole(full_spec: FeatureSpecification) -> None:
    """Its windows are known from those that are remembered; control: told in time it is whole."""
    log = log_of(full_spec, 3, assets=1)
    histories = Histories(full_spec)
    told(full_spec, histories, log, 0, 60)
    histories.begin_life("a-0", int(log.end_ns[20]))
    after = told(full_spec, histories, log, 60)

    assert not after.whole.any()
    assert after.windows_known[0] <= full_spec.history.kept_windows + 1
    in_time = Histories(full_spec)
    in_time.begin_life("a-0", int(log.end_ns[20]))
    assert told(full_spec, in_time, log).whole[60:].all()


@pytest.mark.parametrize(("hours", "whole"), [(12, True), (13, False)])
@pytest.mark.parametrize("told_first", [True, False])
def test_a_life_of_which_the_beginning_is_missing_is_not_whole(
    full_spec: FeatureSpecification, hours: int, *, told_first: bool, whole: bool
) -> None:
    """A gateway that came years later, or begins anew, does not know all of a life for being told its start."""
    rows = np.ones((3, len(feature_names(full_spec))))
    end_ns = (10 + hours + 2 + np.arange(3)) * HOUR_NS
    histories = Histories(full_spec)
    if told_first:
        histories.begin_life("a", 10 * HOUR_NS)
    histories.push(["a"], end_ns[:1], rows[:1])
    histories.begin_life("a", 10 * HOUR_NS)

    past = histories.push(["a", "a"], end_ns[1:], rows[1:])

    assert past.whole.tolist() == [whole] * 2
    assert past.windows_known.tolist() == [2, 3]


def test_windows_in_which_the_repair_happened_are_of_the_old_life(full_spec: FeatureSpecification) -> None:
    """Windows are two hours long: that which starts at the repair is the first of the new life."""
    rows = np.ones((6, len(feature_names(full_spec))))
    rows[:, mean_columns(full_spec)["speed_rpm"]] = 1000.0
    histories = Histories(full_spec)
    histories.begin_life("a", 4 * HOUR_NS)

    past = histories.push(["a"] * 6, (3 + np.arange(6)) * HOUR_NS, rows)

    assert past.windows_known.tolist() == [1, 2, 3, 1, 2, 3]
    assert past.whole.tolist() == [False] * 3 + [True] * 3


def only_mean(spec: FeatureSpecification, **history: object) -> FeatureSpecification:
    """Return *spec* with the mean of each channel alone, one regime, and the given history."""
    return replace(
        spec,
        channels=spec.channels[:3],
        statistics=("mean",),
        history=History(**history),  # type: ignore[arg-type]
    )


def flat(spec: FeatureSpecification, centre: float = 0.0, scale: float = 1.0) -> Baseline:
    shape = (spec.regimes.count, len(feature_names(spec)))
    return Baseline(
        centre={},
        class_centre=tuple(map(tuple, np.full(shape, centre).tolist())),
        class_scale=tuple(map(tuple, np.full(shape, scale).tolist())),
    )


def inputs_for(spec: FeatureSpecification, end_h: Int64Array, values: FloatArray) -> dict[str, FloatArray]:
    """Return the inputs of one asset by name; each channel's mean is *values*."""
    rows = np.repeat(np.asarray(values, np.float64)[:, None], len(feature_names(spec)), axis=1)
    past = Histories(spec).push(["a"] * len(rows), np.asarray(end_h, np.int64) * HOUR_NS, rows)
    return dict(zip(input_names(spec), inputs_of(spec, flat(spec), past).T.astype(np.float64), strict=True))


def test_rolling_statistics_are_of_the_last_windows(spec: FeatureSpecification) -> None:
    asked = only_mean(spec, rolling=(4, 6), statistics=("mean", "std", "trend"))
    inputs = inputs_for(asked, np.arange(20), np.arange(20.0))

    assert inputs["flow_m3_h.mean"][19] == 19.0
    assert inputs["flow_m3_h.mean:mean6"][19] == 16.5  # of 14 to 19
    assert inputs["flow_m3_h.mean:mean4"][19] == 17.5
    assert inputs["flow_m3_h.mean:trend6"][19] == 3.0  # 17 to 19 less 14 to 16
    assert inputs["flow_m3_h.mean:std4"][19] == pytest.approx(np.std([16.0, 17.0, 18.0, 19.0]))
    assert inputs["flow_m3_h.mean:mean6"][0] == 0.0
    assert inputs["flow_m3_h.mean:std6"][0] == 0.0
    assert np.isnan(inputs["flow_m3_h.mean:trend6"][0])


def test_windows_too_long_ago_do_not_count(spec: FeatureSpecification) -> None:
    """Six windows of an hour reach back less than six hours."""
    asked = only_mean(spec, rolling=(6,))

    assert inputs_for(asked, np.array([0, 5]), np.array([10.0, 1.0]))["flow_m3_h.mean:mean6"][1] == 5.5
    assert inputs_for(asked, np.array([0, 6]), np.array([10.0, 1.0]))["flow_m3_h.mean:mean6"][1] == 1.0


@pytest.mark.parametrize(("silent", "mean"), [(2, 5.5), (3, 1.0)])
def test_a_stop_ends_what_is_rolling_but_not_the_life(spec: FeatureSpecification, silent: int, mean: float) -> None:
    """What was before a stop says little of the machine after it; a short silence is no stop."""
    asked = only_mean(spec, rolling=(6,), since_start=True, cycles=True)
    values = np.array([10.0, *[np.nan] * silent, 1.0])

    inputs = inputs_for(asked, np.arange(silent + 2), values)

    assert inputs["flow_m3_h.mean:mean6"][-1] == mean
    assert inputs["flow_m3_h.mean:life_mean"][-1] == 5.5
    assert inputs["cycles"].tolist() == [1.0] * (silent + 1) + [2.0]  # silent windows are no cycles


def test_means_since_the_start_and_changes_from_the_first_windows(spec: FeatureSpecification) -> None:
    asked = only_mean(spec, since_start=True, first_windows=2)
    rolling = only_mean(spec, rolling=(2,), first_windows=2)
    values = np.array([1.0, 3.0, np.nan, 8.0, 4.0])

    inputs = inputs_for(asked, np.arange(5), values)
    smoothed = inputs_for(rolling, np.arange(5), values)

    np.testing.assert_allclose(inputs["flow_m3_h.mean:life_mean"], [1.0, 2.0, 2.0, 4.0, 4.0])
    np.testing.assert_allclose(inputs["flow_m3_h.mean:change"], [0.0, 1.0, np.nan, 6.0, 2.0])
    np.testing.assert_allclose(smoothed["flow_m3_h.mean:change"], [0.0, 0.0, 1.0, 6.0, 4.0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_mean_since_the_start_is_the_mean_of_deviations(full_spec: FeatureSpecification, seed: int) -> None:
    """Made of raw sums by regime, it is what the deviations' own mean is, where none was clipped."""
    log = log_of(full_spec, seed, assets=1)
    log.features[np.abs(log.features) > 1e5] = np.nan
    baseline = baseline_of(full_spec)
    past = past_of_table(full_spec, ("a-0",), np.zeros(len(log), np.int64), log.end_ns, log.features)
    names = input_names(full_spec)
    since = inputs_of(full_spec, baseline, past)[:, [name.endswith(":life_mean") for name in names]]
    rows = deviations(full_spec, log.features, log.asset_ids, baseline).astype(np.float64)
    counted = np.cumsum(~np.isnan(rows), axis=0)
    expected = np.where(counted > 0, np.nancumsum(rows, axis=0) / np.maximum(counted, 1), np.nan)
    free = ~(np.abs(rows) >= 50.0).any(axis=0)

    assert free.sum() > 20
    np.testing.assert_allclose(since[:, free], expected[:, free], rtol=1e-4, atol=1e-4)


def test_one_wild_value_does_not_weigh_on_a_life(spec: FeatureSpecification) -> None:
    """It counts with what the channel's range allows. Control: without limits the life would be spoiled."""
    asked = only_mean(spec, since_start=True)
    values = np.zeros(200)
    values[3] = 1e300

    since = inputs_for(asked, np.arange(200), values)["flow_m3_h.mean:life_mean"]

    assert since[-1] == pytest.approx(600.0 / 200.0)


@pytest.mark.parametrize("value", [1e160, 1.7e308, -1.7e308])
def test_the_largest_numbers_are_far_from_ordinary(full_spec: FeatureSpecification, value: float) -> None:
    """In settings too; a good status and a wild number make no warning, and nothing infinite."""
    features = np.zeros((3, len(feature_names(full_spec))))
    features[1] = value
    log = Log(asset_ids=["a-1"] * 3, end_ns=np.arange(2, 5) * HOUR_NS, features=features, starts=())

    prepared = told(full_spec, Histories(full_spec), log)

    assert np.nanmax(np.abs(prepared.deviations[1])) == 50.0
    assert not np.isinf(prepared.inputs).any()


def test_what_is_remembered_is_valid_under_another_baseline(full_spec: FeatureSpecification) -> None:
    """A new release changes what is ordinary; the life so far need not be told again."""
    log = log_of(full_spec, 4)
    histories = Histories(full_spec)
    told(full_spec, histories, log, 0, 60)
    other = baseline_of(full_spec, seed=9)

    past = histories.push(log.asset_ids[60:], log.end_ns[60:], log.features[60:])

    whole = Histories(full_spec).push(log.asset_ids, log.end_ns, log.features)
    assert_equal(
        joined([prepared_of(full_spec, other, past)]),
        joined([prepared_of(full_spec, other, whole).take(slice(60, None))]),
    )


def test_hours_since_an_event(spec: FeatureSpecification) -> None:
    """From the end of the newest window that holds one; not known before the first."""
    asked = only_mean(spec, events=("flow_m3_h",))

    hours = inputs_for(asked, np.array([0, 1, 2, 3, 7, 8]), np.array([0.0, 2.0, 0.0, np.nan, 0.0, 1.0]))

    np.testing.assert_array_equal(hours["hours_since:flow_m3_h"], [np.nan, 0.0, 1.0, 2.0, 6.0, 0.0])


def test_events_outlive_a_repair(spec: FeatureSpecification) -> None:
    """What happened to the machine happened, whatever was put into it since."""
    asked = only_mean(spec, events=("flow_m3_h",), cycles=True)
    histories = Histories(asked)
    rows = np.repeat(np.array([3.0, 0.0, 0.0])[:, None], 3, axis=1)
    histories.push(["a"], np.array([2 * HOUR_NS]), rows[:1])
    histories.begin_life("a", 2 * HOUR_NS)

    past = histories.push(["a", "a"], np.array([4, 5]) * HOUR_NS, rows[1:])

    assert past.hours_since[:, 0].tolist() == [2.0, 3.0]
    assert past.windows_known.tolist() == [1, 2]


def test_sequences_hold_the_last_windows_oldest_first(spec: FeatureSpecification) -> None:
    """What is missing, and what would be before the start, is 0; means since the start stand beside."""
    asked = only_mean(spec, since_start=True, sequence_windows=3)
    rows = np.repeat(np.array([4.0, np.nan, 2.0, 9.0])[:, None], 3, axis=1)
    past = Histories(asked).push(["a"] * 4, np.arange(4) * HOUR_NS, rows)

    sequences = sequences_of(asked, flat(asked), past)
    chosen = sequences_of(asked, flat(asked), past, np.array([3, 0]))

    assert sequences is not None
    assert sequence_names(asked)[3] == "speed_rpm.mean:life_mean"
    assert sequences.dtype == np.float32
    np.testing.assert_array_equal(sequences[:, 0], [[0, 0, 4], [0, 4, 0], [4, 0, 2], [0, 2, 9]])
    np.testing.assert_array_equal(sequences[:, 3], [[0, 0, 4], [0, 4, 4], [4, 4, 3], [4, 3, 5]])
    np.testing.assert_array_equal(chosen, sequences[[3, 0]])


def test_without_a_history_there_is_the_present(spec: FeatureSpecification) -> None:
    asked = replace(spec, history=History())
    rows = np.random.default_rng(1).normal(size=(5, len(feature_names(asked))))
    past = Histories(asked).push(["a"] * 5, np.arange(5) * HOUR_NS, rows)

    assert input_names(asked) == feature_names(asked)
    assert inputs_of(asked, flat(asked), past).shape == (5, len(feature_names(asked)))
    assert sequences_of(asked, flat(asked), past) is None
    nothing = Histories(asked).push([], np.empty(0, np.int64), rows[:0])
    assert inputs_of(asked, flat(asked), nothing).shape == (0, len(feature_names(asked)))


def test_a_regime_that_is_not_known_counts_for_nothing(full_spec: FeatureSpecification) -> None:
    log = log_of(full_spec, 7)
    known = regimes_of(full_spec, log.features) >= 0
    prepared = told(full_spec, Histories(full_spec), log)

    assert not known.all()
    assert np.isnan(prepared.deviations[~known]).all()
    assert np.isfinite(prepared.deviations[known]).any(axis=1).sum() > 20


def test_what_is_remembered_is_bounded(full_spec: FeatureSpecification) -> None:
    """However long a machine runs; only the number of assets counts."""
    log = log_of(full_spec, 2, rows=600)
    histories = Histories(full_spec)
    sizes = []
    for first in range(0, 600, 100):
        told(full_spec, histories, log, first, first + 100)
        sizes.append(len(histories.state()))

    assert sizes[-1] == sizes[1]


def test_a_state_that_names_many_assets_takes_no_memory(spec: FeatureSpecification) -> None:
    """The names of a hundred thousand assets, without their histories, are refused before room is made for these."""
    endless = Histories(replace(spec, history=History(rolling=(1000,))))
    saved = msgspec.msgpack.decode(endless.state())

    with pytest.raises(FeatureError, match="do not fit together"):
        endless.restore(msgspec.msgpack.encode({**saved, "asset_ids": list(map(str, range(100_000)))}))


def test_a_life_that_begins_at_no_time_changes_nothing(full_spec: FeatureSpecification) -> None:
    """A date in the year 9999, as a careless configuration may have it, comes after all windows."""
    log = log_of(full_spec, 4)
    histories = Histories(full_spec)
    for start_ns in (253_370_764_800 * 10**9, -62_135_596_800 * 10**9):
        histories.begin_life("a-1", start_ns)

    assert_equal(joined([told(full_spec, histories, log)]), joined([told(full_spec, Histories(full_spec), log)]))
    Histories(full_spec).restore(histories.state())


def test_a_state_that_cannot_be_is_refused(full_spec: FeatureSpecification) -> None:
    """Of another specification, cut off, of other lengths, or with numbers that no history has; nothing changes."""
    log = log_of(full_spec, 1)
    histories = Histories(full_spec)
    told(full_spec, histories, log, 0, 40)
    state = histories.state()
    saved = msgspec.msgpack.decode(state)

    def refused(match: str, **changes: object) -> None:
        untouched = histories.state()
        with pytest.raises(FeatureError, match=match):
            histories.restore(msgspec.msgpack.encode({**saved, **changes}))
        assert histories.state() == untouched

    def with_column(name: str, data: bytes) -> dict[str, bytes]:
        return {**saved["columns"], name: data}

    with pytest.raises(FeatureError, match="other specification"):
        Histories(replace(full_spec, quality=False)).restore(state)
    for damaged in (state[:-5], state.replace(b"a-1", b"a-\xff"), b"\x81\xa1x" + b"\x91" * 5000 + b"\x00"):
        with pytest.raises(FeatureError, match="do not decode"):
            histories.restore(damaged)
    refused("different assets", asset_ids=["a", "a", "b"])
    refused("starts of no asset", starts={7: [1]})
    refused("starts at no time", starts={0: [2**63]})
    refused("do not fit together", columns=with_column("end_ns", b"123"))
    refused("do not fit together", columns={"end_ns": b""})
    refused("what cannot be", columns=with_column("kept", np.full(3, 999).tobytes()))
    refused("what cannot be", columns=with_column("cycles", np.full(3, -1).tobytes()))
    infinite = np.full(len(saved["columns"]["total"]) // 8, np.inf)
    refused("what cannot be", columns=with_column("total", infinite.tobytes()))
    of_no_regime = np.full(len(saved["columns"]["regime"]) // 8, 2)
    refused("what cannot be", columns=with_column("regime", of_no_regime.tobytes()))
    refused("what cannot be", columns=with_column("newest", np.full(3, 2**62).tobytes()))
    refused("what cannot be", columns=with_column("whole", b"\x07" * 3))
    negative = np.full(len(saved["columns"]["first_number"]) // 8, -1.0)
    refused("what cannot be", columns=with_column("first_number", negative.tobytes()))
    Histories(full_spec).restore(state)
