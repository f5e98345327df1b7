"""Figures of failure probabilities, on cases one can count."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, matthews_corrcoef

from models.evaluation.failure import average_precision, brier, calibration_error, matthews, reliability


def test_they_are_what_scikit_learn_says() -> None:
    """Ties of probability are taken together."""
    rng = np.random.default_rng(1)
    failed = rng.random(300) < 0.3
    probability = np.asarray(np.round(0.4 * failed + rng.random(300) * 0.6, 1), np.float64)
    assert average_precision(probability, failed) == pytest.approx(average_precision_score(failed, probability))
    assert matthews(probability > 0.5, failed) == pytest.approx(matthews_corrcoef(failed, probability > 0.5))


def test_without_failures_there_is_nothing_to_tell() -> None:
    """No precision over recall, and no correlation."""
    quiet = np.zeros(4, np.bool_)
    assert np.isnan(average_precision(np.full(4, 0.5), quiet))
    assert matthews(quiet, quiet) == 0.0
    assert np.isnan(brier(np.empty(0), np.empty(0, np.bool_)))
    assert np.isnan(calibration_error(np.empty(0), np.empty(0, np.bool_)))


def test_calibration_error_is_the_distance_of_promised_and_observed() -> None:
    """Half of what is promised at .8 comes true, all that is promised at 1.0."""
    probability = np.array([0.8, 0.8, 1.0, 1.0])
    failed = np.array([True, False, True, True])
    promised, observed, count = reliability(probability, failed)
    np.testing.assert_allclose(promised, [0.8, 1.0])
    np.testing.assert_allclose(observed, [0.5, 1.0])
    assert count.tolist() == [2, 2]
    assert calibration_error(probability, failed) == pytest.approx(0.15)
    assert brier(probability, failed) == pytest.approx((0.04 + 0.64) / 4)
