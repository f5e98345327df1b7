import numpy as np

from models.bundle.decisions import horizons, named_modes, zones
from models.bundle.manifest import Thresholds

LIMITS = Thresholds(
    warning=2.0,
    alarm=3.0,
    minimum_good_share=0.5,
    on_delay_windows=1,
    off_delay_windows=1,
    minimum_confidence=0.5,
)


def test_a_zone_begins_at_its_threshold() -> None:
    outputs = np.array([1.0, np.nextafter(2.0, 0.0), 2.0, 3.0, np.nan, np.inf])

    assert zones(outputs, LIMITS).tolist() == [0, 0, 1, 2, -1, -1]


def test_the_likeliest_mode_but_normal_is_named_when_it_is_sure_enough() -> None:
    told = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.1, 0.4, 0.5], [0.2, 0.4, 0.4], [np.nan] * 3])

    assert named_modes(told, ("normal", "a", "b"), LIMITS).tolist() == [-1, 1, 2, -1, -1]
    assert named_modes(told[:, :1], ("normal",), LIMITS).tolist() == [-1] * 5


def test_a_life_outlives_the_horizons_it_reaches() -> None:
    life_s = np.array([[0.0, 8 * 3600.0, 9e9], [np.nan] * 3])

    assert horizons(life_s).tolist() == [[0, 1, 5], [-1, -1, -1]]
