import importlib.util
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cloud_service.training.gru import Gru, GruSettings, SequenceExtraMissing, export_gru, train_gru
from models.bundle.model import Model
from models.records import Float32Array, FloatArray

CHANNELS, WINDOWS, UNITS = 6, 30, 48
ROOT = Path(__file__).parents[3]


@pytest.fixture
def jax() -> None:
    """Skip where the extra is not installed, or fail where nothing may be skipped."""
    if importlib.util.find_spec("jax") is None:
        if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
            pytest.fail("JAX is not installed; scripts/integration-setup installs it")
        pytest.skip("JAX is not installed (pip install 'wearsight[sequence]')")


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


def test_the_extra_adds_to_the_default_environment_and_changes_nothing_in_it() -> None:
    """Whatever both files pin has the same versions in both, and neither names a host."""

    def pins(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for package, version in re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), re.MULTILINE):
            found.setdefault(package, set()).add(version)
        return found

    default, extra = pins("constraints.txt"), pins("constraints-sequence.txt")

    assert {"jax", "jaxlib"} <= set(extra) - set(default)
    assert {package: versions for package, versions in extra.items() if package in default} == {
        package: versions for package, versions in default.items() if package in extra
    }
    assert "://" not in (ROOT / "constraints-sequence.txt").read_text()


@pytest.mark.integration
@pytest.mark.usefixtures("jax")
def test_a_trained_unit_answers_in_onnx_as_in_jax() -> None:
    rows = sequences(12_000, seed=2)
    target = rows[:500, 0, -1].astype(np.float64) * 30.0
    unit = train_gru(rows[:500], target, GruSettings(steps=60), 1, levels=4)

    told, asked = unit.predict(rows), asked_of_graph(unit, rows)

    assert np.abs(asked - told).max() < 1e-5 * np.abs(told).max()
    assert told.std() > 1.0


@pytest.mark.integration
@pytest.mark.usefixtures("jax")
def test_a_unit_learns_what_happened_when() -> None:
    """Control: how steep the last third was is not in any one window; a mean guess would miss by the spread."""
    rows = sequences(3000, seed=3)
    steep = (rows[:, 0, -1] - rows[:, 0, -10]).astype(np.float64)

    unit = train_gru(rows[:2500], steep[:2500], GruSettings(steps=400, learning_rate=5e-3), 1)

    assert np.sqrt(np.mean((unit.predict(rows[2500:])[:, 0] - steep[2500:]) ** 2)) < 0.4 * steep.std()


@pytest.mark.integration
@pytest.mark.usefixtures("jax")
def test_the_same_seed_trains_the_same_unit() -> None:
    rows = sequences(200, seed=5)
    first, again, other = (
        train_gru(rows, rows[:, 0, 0].astype(np.float64), GruSettings(steps=5), seed, weights=np.arange(200.0))
        for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first.w, again.w)
    assert (first.w != other.w).any()


@pytest.mark.integration
@pytest.mark.usefixtures("jax")
def test_a_unit_costs_a_gateway_less_than_80_us_a_window() -> None:
    """Of processor time, at batch 100, one thread; twice the bound is allowed for a slow machine."""
    rows = np.random.default_rng(2).normal(size=(500, 30, WINDOWS)).astype(np.float32)
    unit = train_gru(rows, rows[:, 0, 0].astype(np.float64), GruSettings(steps=2), 1)
    model = Model("gru", export_gru(unit, 30, WINDOWS), shape=(30, WINDOWS), columns=1)
    model(rows[:100])
    spent = []
    for _ in range(5):
        began = time.process_time()
        model(rows[:100])
        spent.append(time.process_time() - began)

    assert min(spent) / 100 < 2 * 80e-6
