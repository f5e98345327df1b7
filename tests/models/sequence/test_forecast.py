import numpy as np
import pytest

from models.sequence.forecast import forecast_residuals, past_of, present_of
from models.sequence.heads import Head, HeadError


def test_the_past_knows_nothing_of_the_newest_window() -> None:
    sequences = np.arange(12, dtype=np.float32).reshape(1, 2, 6) + 1.0
    other = sequences.copy()
    other[:, :, -1] = 99.0

    np.testing.assert_array_equal(past_of(sequences)[0, 0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(past_of(other), past_of(sequences))
    np.testing.assert_array_equal(present_of(other, 1), [[99.0]])


def test_residuals_are_in_usual_errors_and_what_is_missing_stays_so() -> None:
    head = Head(weights=np.array([[1.0, 0.0], [0.0, 2.0]]), bias=np.array([0.0, 1.0]))
    kernels = np.array([[3.0, 4.0]], np.float32)

    found = forecast_residuals(head, kernels, np.array([[5.0, np.nan]]), np.array([0.5, 1.0]))

    np.testing.assert_array_equal(found, [[4.0, np.nan]])
    with pytest.raises(HeadError, match="does not go with"):
        forecast_residuals(head, kernels, np.array([[5.0]]), np.array([0.5]))
