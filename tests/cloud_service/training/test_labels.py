from datetime import timedelta

import numpy as np

from cloud_service.training.actions import GENERIC, actions_for
from cloud_service.training.labels import Failure, Horizons, Labels, label
from models.evaluation.metrics import NS_PER_HOUR
from models.records import EPOCH

MODES = ("normal", "cavitation", "seal_leak")
HORIZONS = Horizons(fault_h=10.0, clear_h=20.0, life_cap_h=40.0)


def labelled(hours: int, *failures: Failure) -> Labels:
    """Label windows of two hours, one an hour."""
    end_ns = np.arange(2, hours + 1, dtype=np.int64) * NS_PER_HOUR
    return label(end_ns - 2 * NS_PER_HOUR, end_ns, failures, MODES, HORIZONS)


def failure(hour: float, mode: str, again: float | None = None) -> Failure:
    return Failure(
        asset_id="pump-01",
        failed_at=EPOCH + timedelta(hours=hour),
        failure_mode=mode,
        in_service_again=None if again is None else EPOCH + timedelta(hours=again),
    )


def at(labels: Labels, hour: int) -> tuple[int, float]:
    """Return mode and life of the window that ends at *hour*."""
    return int(labels.mode[hour - 2]), float(labels.life_h[hour - 2])


def test_a_life_is_healthy_then_unknown_then_its_failure_mode() -> None:
    labels = labelled(100, failure(100, "seal_leak"))
    assert at(labels, 30) == (0, 40.0)
    assert at(labels, 79) == (0, 21.0)
    assert at(labels, 85) == (-1, 15.0)
    assert at(labels, 90) == (2, 10.0)
    assert at(labels, 100) == (2, 0.0)


def test_time_out_of_service_is_left_out_of_everything() -> None:
    labels = labelled(200, failure(100, "seal_leak", 110), failure(200, "cavitation"))
    assert at(labels, 101)[0] == -1
    assert np.isnan(at(labels, 101)[1])
    assert at(labels, 111)[0] == -1, "this window still began before the asset was back"
    assert at(labels, 112) == (0, 40.0)
    assert at(labels, 195) == (1, 5.0)
    assert labels.event[100 - 2] == 0
    assert labels.event[195 - 2] == 1


def test_an_asset_that_stands_still_is_not_healthy() -> None:
    labels = labelled(150, failure(100, "seal_leak"))
    assert {at(labels, hour)[0] for hour in range(101, 151)} == {-1}


def test_the_end_of_a_record_without_a_failure_is_not_known_to_be_healthy() -> None:
    """A fault may be under way that nobody has written down yet."""
    labels = labelled(200)
    assert at(labels, 180)[0] == 0
    assert at(labels, 181)[0] == -1
    assert np.isnan(labels.life_h).all()


def test_each_mode_has_an_action() -> None:
    actions = actions_for(("normal", "cavitation", "never_seen"))
    assert "suction" in actions["cavitation"]
    assert actions["never_seen"] == actions["unclassified"] == GENERIC
    assert "normal" not in actions
