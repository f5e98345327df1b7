"""What the models say of windows, and which channels they say it of."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.bundle.contents import CLASSIFIER, FAILURE, LIFE, LIFE_CUT, PROGNOSIS
from models.bundle.loaded import LoadedBundle
from models.bundle.scored import score
from models.detection.contribution import top_channels
from models.detection.detector import member_outputs
from models.features.history import Histories
from models.features.names import feature_names
from models.features.windows import Windows
from models.records import Basis
from models.scoring import prepare
from models.sequence.forecast import past_of


def test_scores_are_row_by_window(release: Any) -> None:
    bundle = release.loaded
    scored = score(bundle, Histories(bundle.specification), release.windows)

    assert scored.detector_output.shape == (6,)
    assert (np.diff(scored.detector_output) > 0.0).all()  # the flow rises
    assert scored.probabilities is not None
    assert scored.probabilities.sum(axis=1) == pytest.approx(np.ones(6))
    assert scored.probabilities.argmax(axis=1)[-1] == 1


def test_what_the_sequence_model_did_not_foresee_is_a_member(release: Any) -> None:
    """The forecast is on the kernels of the windows before the newest, once there are as many as a sequence has."""
    bundle = release.loaded
    rows = prepare(bundle.specification, bundle.baseline, Histories(bundle.specification), release.windows)
    outputs = member_outputs(bundle, rows)

    assert outputs.shape == (6, 2)
    assert np.isfinite(outputs[:, 0]).all()
    assert rows.sequences is not None
    whole = rows.windows_known >= rows.sequences.shape[2]
    assert np.isfinite(outputs[:, 1]).tolist() == whole.tolist()
    assert set(whole) == {False, True}
    kernels = bundle.kernels(past_of(rows.sequences))
    missed = rows.sequences[:, :2, -1] - bundle.heads["forecast"].predict(kernels)
    assert outputs[whole, 1] == pytest.approx(np.sqrt((missed[whole] ** 2).mean(axis=1)), rel=1e-5)


def test_life_is_told_in_seconds_with_what_it_rests_on(release: Any) -> None:
    """The trees say 50 hours at no deviation, the kernels 70; whole lives are told by the trees alone."""
    bundle = release.loaded
    histories = Histories(bundle.specification)
    histories.begin_life("reference", int(release.windows.start_ns[0]))
    whole = score(bundle, histories, release.windows).life
    cut = score(bundle, Histories(bundle.specification), release.windows).life

    assert whole is not None
    assert whole.life_s[0] == pytest.approx([36_000.0, 180_000.0, 360_000.0])
    assert set(whole.basis) == {Basis.WHOLE_HISTORY}
    assert cut is not None
    assert np.isnan(cut.life_s[0]).all()
    assert list(cut.basis) == [Basis.NOT_ENOUGH_DATA] + [Basis.CUT_HISTORY] * 5
    assert cut.life_s[1:, 1] == pytest.approx((whole.life_s[1:, 1] + 70 * 3600.0) / 2.0)


def test_absent_models_say_nothing(release: Any) -> None:
    parts = {
        name: data
        for name, data in release.parts.items()
        if name not in {CLASSIFIER, FAILURE, LIFE, LIFE_CUT, PROGNOSIS}
    }
    bundle = LoadedBundle.of_parts(parts, replace(release.manifest, failure_modes=()))

    scored = score(bundle, Histories(bundle.specification), release.windows)

    assert (scored.probabilities, scored.life) == (None, None)


def test_window_by_window_scores_as_all_at_once(release: Any) -> None:
    """The gateway does the one, training the other."""
    bundle = release.loaded
    together = score(bundle, Histories(bundle.specification), release.windows)
    histories = Histories(bundle.specification)
    alone = [score(bundle, histories, release.windows.take(np.array([row]))) for row in range(6)]

    np.testing.assert_array_equal(np.concatenate([one.inputs for one in alone]), together.inputs)
    # Sums of a matrix product may come in another order; inputs and trees are the same to the last bit.
    output = np.concatenate([one.detector_output for one in alone])
    np.testing.assert_allclose(output, together.detector_output, rtol=1e-6, atol=1e-9)


def test_no_windows_give_no_rows(release: Any) -> None:
    bundle = release.loaded
    scored = score(bundle, Histories(bundle.specification), Windows.empty(bundle.specification))

    assert scored.detector_output.shape == (0,)
    assert scored.life is not None
    assert scored.life.life_s.shape == (0, 3)


def test_the_channel_that_moved_is_named_with_its_normal_band(release: Any) -> None:
    bundle = release.loaded
    rows = prepare(bundle.specification, bundle.baseline, Histories(bundle.specification), release.windows)

    shares = top_channels(bundle, "reference", rows.features[-1], rows.deviations[-1])

    assert shares[0].channel == "flow_m3_h"
    assert shares[0].share == pytest.approx(1.0)
    assert shares[0].unit in {"m³/h", "m³/h/h"}
    assert not shares[0].normal_low <= shares[0].now <= shares[0].normal_high


def test_a_channel_that_wanders_anyway_is_not_named_for_wandering(release: Any) -> None:
    """The flow is five scales out and strays as far in health; the speed is four out, and never is."""
    bundle = release.loaded
    names = feature_names(bundle.specification)
    flow, speed = names.index("flow_m3_h.mean"), names.index("speed_rpm.mean")
    stray = np.ones(len(names))
    stray[flow] = 5.0
    deviating = np.zeros(len(names), np.float32)
    deviating[[flow, speed]] = 5.0, 4.0
    features = np.array(bundle.baseline.class_centre[0])
    knowing = replace(bundle, detection=replace(bundle.detection, stray=tuple(stray.tolist())))

    assert [share.channel for share in top_channels(bundle, "new", features, deviating)] == ["flow_m3_h", "speed_rpm"]
    told = top_channels(knowing, "new", features, deviating)
    assert [share.channel for share in told] == ["speed_rpm", "flow_m3_h"]
    assert told[1].normal_high - told[1].now == pytest.approx(15.0 * bundle.baseline.class_scale[0][flow])


def test_shares_add_up_and_leave_out_what_is_not_known(release: Any) -> None:
    bundle = release.loaded
    width = len(bundle.baseline.class_centre[0])
    deviating = np.random.default_rng(1).normal(size=width).astype(np.float32)
    features = np.zeros(width)

    everything = top_channels(bundle, "reference", features, deviating, k=10)
    nothing = top_channels(bundle, "reference", features, np.full(width, np.nan, np.float32))

    assert sum(share.share for share in everything) == pytest.approx(1.0)
    assert [share.share for share in everything] == sorted((share.share for share in everything), reverse=True)
    assert nothing == ()
