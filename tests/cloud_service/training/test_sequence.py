import time

import numpy as np
import pytest

from cloud_service.training.sequence import kernel_features, make_kernels
from models.bundle.graph_form import read_form
from models.records import Float32Array
from models.sequence.heads import HeadStatistics

CHANNELS, WINDOWS, COUNT = 5, 30, 200


def sequences(rows: int = 300, *, seed: int = 1, windows: int = WINDOWS) -> Float32Array:
    """Random walks of very different size, one channel constant."""
    steps = np.random.default_rng(seed).normal(size=(rows, CHANNELS, windows))
    steps[:, 4] = 0.0
    return np.asarray(steps.cumsum(axis=2) * np.array([1.0, 1e-2, 10.0, 0.1, 0.0])[:, None], np.float32)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return make_kernels(CHANNELS, WINDOWS, COUNT, 3, sequences())


def test_columns_are_kernels_then_levels_of_mean_0_and_spread_1(graph: bytes) -> None:
    kernels = kernel_features(graph, sequences())

    assert kernels.shape == (300, COUNT + 2 * CHANNELS)
    assert np.isfinite(kernels).all()
    np.testing.assert_allclose(kernels[:, :COUNT].mean(axis=0), 0.0, atol=1e-4)
    varied = kernels[:, :COUNT].std(axis=0)
    np.testing.assert_allclose(varied[varied > 0.01], 1.0, atol=1e-3)
    np.testing.assert_array_less(np.abs(kernels[:, COUNT:]), 3.0 + 1e-6)


def test_the_same_seed_and_sequences_give_the_same_bytes(graph: bytes) -> None:
    assert make_kernels(CHANNELS, WINDOWS, COUNT, 3, sequences()) == graph
    assert make_kernels(CHANNELS, WINDOWS, COUNT, 4, sequences()) != graph


def test_one_window_at_a_time_answers_as_many_at_once(graph: bytes) -> None:
    asked = sequences(40, seed=9)

    alone = np.concatenate([kernel_features(graph, asked[row : row + 1]) for row in range(len(asked))])

    np.testing.assert_allclose(alone, kernel_features(graph, asked), atol=1e-5)


def test_the_last_bit_of_an_input_moves_no_kernel_by_a_step(graph: bytes) -> None:
    """The edge at a bias is soft: another processor's rounding is not another decision."""
    asked = sequences(seed=9)
    moved = np.nextafter(asked, np.float32(np.inf))

    np.testing.assert_allclose(kernel_features(graph, moved), kernel_features(graph, asked), atol=2e-3)


@pytest.mark.parametrize("wild", [1e30, -1e30])
def test_outputs_are_bounded_whatever_comes_in(graph: bytes, wild: float) -> None:
    kernels = kernel_features(graph, np.full((1, CHANNELS, WINDOWS), wild, np.float32))

    assert np.isfinite(kernels).all()


@pytest.mark.parametrize("windows", [3, 6, 7, 8, 60])
def test_sequences_of_any_length_have_kernels(windows: int) -> None:
    rows = sequences(60, windows=windows)

    assert np.isfinite(kernel_features(make_kernels(CHANNELS, windows, 100, 1, rows), rows)).all()


def test_kernels_are_standard_convolutions(graph: bytes) -> None:
    """A gateway's runtime needs nothing new for them."""
    operators = {operator for _, operator in read_form(graph).operators}

    assert operators == {"Clip", "Concat", "Conv", "Flatten", "Gather", "GlobalAveragePool", "Max", "Min", "Mul", "Sub"}


def test_a_head_on_kernels_tells_what_no_level_tells() -> None:
    """Control: the size of the last steps, wherever the walk has got to, is not in the newest value or the mean."""
    rng = np.random.default_rng(5)
    rows, rough = sequences(1500, seed=6), rng.uniform(0.2, 3.0, 1500)
    rows[:, 0] = (rng.normal(size=(1500, WINDOWS)) * rough[:, None] + rng.normal(size=(1500, 1)) * 30.0).astype(
        np.float32
    )
    kernels = kernel_features(make_kernels(CHANNELS, WINDOWS, 500, 1, rows), rows)

    def error(columns: slice) -> float:
        head = HeadStatistics.of(kernels[:1000, columns], rough[:1000]).solve(100.0)
        return float(np.sqrt(np.mean((head.predict(kernels[1000:, columns])[:, 0] - rough[1000:]) ** 2)))

    assert error(slice(None)) < 0.5
    assert error(slice(500, None)) > 0.7


@pytest.mark.parametrize(("count", "shape"), [(150, (4, 5, 30)), (0, (4, 5, 30)), (200, (4, 4, 30)), (200, (0, 5, 30))])
def test_what_does_not_fit_makes_no_kernels(count: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"kernels: the number|where \(n, 5, 30\)"):
        make_kernels(CHANNELS, WINDOWS, count, 1, np.zeros(shape, np.float32))


def test_a_thousand_kernels_cost_a_gateway_less_than_80_us_a_window() -> None:
    """Of processor time, at batch 100, one thread; twice the bound is allowed for a slow machine."""
    rows = np.random.default_rng(2).normal(size=(100, 30, WINDOWS)).astype(np.float32)
    graph = make_kernels(30, WINDOWS, 1000, 1, rows)
    spent = []
    for _ in range(5):
        began = time.process_time()
        kernel_features(graph, rows)
        spent.append(time.process_time() - began)

    assert min(spent) / len(rows) < 2 * 80e-6
