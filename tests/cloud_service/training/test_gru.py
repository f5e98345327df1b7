import re
import sys

import numpy as np
import pytest

from cloud_service.training.gru import Gru, GruSettings, SequenceExtraMissing, export_gru, train_gru
from models.bundle.model import Model
from models.records import Float32Array, FloatArray

CHANNELS, WINDOWS, UNITS = 6, 30, 48


def sequences(rows: int, *, seed: int) -> Float32Array:
    return np.random.default_rng(seed).normal(size=(rows, CHANNELS, WINDOWS)).cumsum(axis=2).astype(np.float32)


def made_up() -> Gru:
    """A unit as if it were trained."""
    rng = np.random.default_rng(4)

    def drawn(*shape: int) -> Float32Array:
        return rng.normal(scale=0.3, size=shape).astype(np.float32)

    return Gru(
        change=np.array([0, 0, 0, 0, 1, 1], np.float32),
        centre=drawn(CHANNELS),
        scale=np.full(CHANNELS, 3.0, np.float32),
        w=drawn(3 * UNITS, CHANNELS),
        r=drawn(3 * UNITS, UNITS),
        wb=drawn(3 * UNITS),
        rb=drawn(3 * UNITS),
        out=drawn(UNITS),
        out_bias=drawn(1),
    )


def asked_of_graph(unit: Gru, rows: Float32Array) -> FloatArray:
    from onnxruntime import InferenceSession

    graph = export_gru(unit, CHANNELS, WINDOWS)
    session = InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"sequence": rows})[0], np.float64)


def told_by_paper(unit: Gru, rows: Float32Array) -> FloatArray:
    """Return the answers by the equations, in float64."""
    given = rows.astype(np.float64)
    given[:, 4:] -= given[:, 4:].mean(axis=2, keepdims=True)
    given = np.clip((given - unit.centre[:, None]) / unit.scale[:, None], -5.0, 5.0)
    state = np.zeros((len(rows), UNITS))
    for window in range(WINDOWS):
        new = given[:, :, window] @ unit.w.T.astype(np.float64) + unit.wb
        kept = state @ unit.r.T.astype(np.float64) + unit.rb
        update, reset = (
            1.0 / (1.0 + np.exp(-(new[:, gate] + kept[:, gate]))) for gate in (slice(UNITS), slice(UNITS, 2 * UNITS))
        )
        candidate = np.tanh(new[:, 2 * UNITS :] + reset * kept[:, 2 * UNITS :])
        state = (1.0 - update) * candidate + update * state
    return np.asarray(state @ unit.out[:, None] + unit.out_bias)


def test_the_graph_is_the_unit_of_the_paper() -> None:
    rows = sequences(500, seed=1)

    np.testing.assert_allclose(asked_of_graph(made_up(), rows), told_by_paper(made_up(), rows), atol=1e-5)


def test_a_gateways_runtime_takes_the_graph() -> None:
    model = Model("gru", export_gru(made_up(), CHANNELS, WINDOWS), shape=(CHANNELS, WINDOWS), columns=1)

    assert model(sequences(3, seed=1)).shape == (3, 1)


def test_without_jax_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)

    with pytest.raises(SequenceExtraMissing, match=re.escape("pip install 'wearsight[sequence]'")):
        train_gru(sequences(10, seed=1), np.zeros(10), GruSettings(steps=1), 1)


@pytest.mark.integration
def test_a_trained_unit_answers_in_onnx_as_in_jax() -> None:
    rows = sequences(3000, seed=2)
    target = rows[:500, 0, -1].astype(np.float64) * 30.0
    unit = train_gru(rows[:500], target, GruSettings(steps=60), 1, levels=4)

    told, asked = unit.predict(rows), asked_of_graph(unit, rows)

    assert np.abs(asked - told).max() < 1e-5 * np.abs(told).max()
    assert told.std() > 1.0


@pytest.mark.integration
def test_a_unit_learns_what_happened_when() -> None:
    """Control: how steep the last third was is not in any one window; a mean guess would miss by the spread."""
    rows = sequences(3000, seed=3)
    steep = (rows[:, 0, -1] - rows[:, 0, -10]).astype(np.float64)

    unit = train_gru(rows[:2500], steep[:2500], GruSettings(steps=400, learning_rate=5e-3), 1)

    assert np.sqrt(np.mean((unit.predict(rows[2500:])[:, 0] - steep[2500:]) ** 2)) < 0.4 * steep.std()


@pytest.mark.integration
def test_the_same_seed_trains_the_same_unit() -> None:
    rows = sequences(200, seed=5)
    first, again, other = (
        train_gru(rows, rows[:, 0, 0].astype(np.float64), GruSettings(steps=5), seed, weights=np.arange(200.0))
        for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first.w, again.w)
    assert (first.w != other.w).any()
