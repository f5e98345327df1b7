"""Windows and histories of one class, by its bundle."""

from dataclasses import replace

import numpy as np
import pytest

from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring.data_manipulation import Manipulator
from gateway.testing import ASSET_CLASS, SPECIFICATION, START_NS, run_machine
from models.bundle.loaded import LoadedBundle
from models.features.specification import FeatureError

HOUR_NS = 3600 * 10**9


@pytest.fixture
def bundle(live_slots: BundleSlots) -> LoadedBundle:
    live = live_slots.live(ASSET_CLASS)
    assert live is not None
    return live


def test_a_restart_goes_on_where_it_was(bundle: LoadedBundle) -> None:
    """Control: without the state the inputs are others."""
    machine = run_machine("m-1", hours=40)
    first, second = (machine.take(rows) for rows in np.array_split(np.arange(len(machine)), 2))
    steady = Manipulator(bundle, ["m-1"])
    steady.manipulate(first)
    state = steady.state()
    _, expected = steady.manipulate(second)

    restarted, forgetful = Manipulator(bundle, ["m-1"]), Manipulator(bundle, ["m-1"])
    restarted.restore(state)
    _, again = restarted.manipulate(second)
    _, other = forgetful.manipulate(second)

    np.testing.assert_array_equal(again.inputs, expected.inputs)
    assert other.windows_known[0] == 1 < expected.windows_known[0]


def test_state_of_other_features_is_refused(bundle: LoadedBundle) -> None:
    state = Manipulator(bundle, ["m-1"]).state()
    other = replace(bundle, manifest=replace(bundle.manifest, feature_hash="0" * 64))

    with pytest.raises(FeatureError, match="other features"):
        Manipulator(other, ["m-1"]).restore(state)
    for damaged in (state[:20], state.replace(b"feature_hash", b"feature_has\xff"), b"\x81\xa1x" + b"\x91" * 5000):
        with pytest.raises(FeatureError, match="do not decode"):
            Manipulator(bundle, ["m-1"]).restore(damaged)


def test_a_life_that_was_told_is_whole(bundle: LoadedBundle) -> None:
    """From the first window that starts at the repair or later."""
    manipulator = Manipulator(bundle, ["m-1", "m-2"])
    manipulator.begin_life("m-1", START_NS + 10 * HOUR_NS)

    windows, prepared = manipulator.manipulate(run_machine("m-1", hours=30))

    np.testing.assert_array_equal(prepared.whole, windows.start_ns >= START_NS + 10 * HOUR_NS)
    assert prepared.windows_known[prepared.whole][0] == 1


def test_the_past_it_asks_for_is_what_it_remembers_one_by_one(bundle: LoadedBundle) -> None:
    """Told that much of the past and no more, the next windows' rolling inputs are as if it had always run."""
    machine = run_machine("m-1", hours=60)
    now_ns = START_NS + 40 * HOUR_NS
    always, primed = Manipulator(bundle, ["m-1"]), Manipulator(bundle, ["m-1"])
    always.prime(machine.take(machine.source_time < now_ns))
    primed.prime(machine.take((machine.source_time < now_ns) & (machine.source_time >= now_ns - primed.past_ns)))

    _, expected = always.manipulate(machine.take(machine.source_time >= now_ns))
    _, got = primed.manipulate(machine.take(machine.source_time >= now_ns))

    assert SPECIFICATION.history.kept_windows > 0
    np.testing.assert_array_equal(got.inputs, expected.inputs)
