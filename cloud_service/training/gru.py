"""A gated recurrent unit in plain JAX, for who can spare the extra: it reads a sequence window by window.

It sees deviations as they are, and means since a life's start less their own mean over the sequence, both in units of
their spread: such a mean differs more between machines than it moves in any one, and a unit that sees it whole learns
the training machines by heart.

The graph uses ONNX's own GRU operator. JAX is imported when a unit is trained, and only then: neither a gateway nor a
training without sequence models needs it.

Source:
    K. Cho et al., *Learning phrase representations using RNN encoder-decoder*, EMNLP 2014; the reset gate stands after
    the recurrent product (ONNX: ``linear_before_reset=1``). D. P. Kingma, J. Ba, *Adam*, ICLR 2015, with decoupled
    weight decay (I. Loshchilov, F. Hutter, ICLR 2019).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.export.graph import SEQUENCE, finish
from models.records import Float32Array, FloatArray

OUTPUT = "predicted"
_LIMIT = 5.0
_LEAST_SPREAD = 1e-4
_BATCH = 1024
_BETA_1, _BETA_2 = 0.9, 0.999
_RISE = 100.0
_STEEPEST = 1.0


class SequenceExtraMissing(RuntimeError):
    """JAX is not installed; no recurrent unit is trained, and everything else is."""


@dataclass(frozen=True, kw_only=True)
class GruSettings:
    """How a unit is trained.

    Attributes:
        units: Width of its state.
        steps: Batches it sees.
        batch: Sequences in each.
        learning_rate: Of Adam, at its highest: it rises over the first 100 steps and falls as a cosine to 0.
        weight_decay: Share of each weight that a step at learning rate 1 would take off.
    """

    units: int = 48
    steps: int = 600
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Gru:
    """A trained unit as numbers; names of weights as in the ONNX operator, gates in its order (update, reset, new).

    Attributes:
        change: 1 for a channel seen less its mean over the sequence, 0 for one seen as it is, shape ``(C,)``.
        centre: Of what is seen, shape ``(C,)``.
        scale: What it is divided by, shape ``(C,)``.
        w: Input weights, shape ``(3 H, C)``.
        r: Recurrent weights, shape ``(3 H, H)``.
        wb: Input biases, shape ``(3 H,)``.
        rb: Recurrent biases, shape ``(3 H,)``.
        out: Weights of the answer, shape ``(H,)``.
        out_bias: Of the answer, shape ``(1,)``.
    """

    change: Float32Array
    centre: Float32Array
    scale: Float32Array
    w: Float32Array
    r: Float32Array
    wb: Float32Array
    rb: Float32Array
    out: Float32Array
    out_bias: Float32Array

    def predict(self, sequences: Float32Array) -> FloatArray:
        """Return the answers of JAX, shape ``(n, 1)``: what the exported graph is held against.

        Raises:
            SequenceExtraMissing: If JAX is not installed.
        """
        answer = _compiled_answer()
        told = [
            np.asarray(answer(self._weights, _filled_up(self._inputs(part))), np.float64)[: len(part)]
            for part in (sequences[start : start + _BATCH] for start in range(0, len(sequences), _BATCH))
        ]
        return np.concatenate(told)[:, None] if told else np.empty((0, 1))

    def _inputs(self, sequences: Float32Array) -> Float32Array:
        return _bounded(_seen(sequences, self.change), self.centre, self.scale)

    @property
    def _weights(self) -> dict[str, Float32Array]:
        return {name: getattr(self, name) for name in ("w", "r", "wb", "rb", "out", "out_bias")}


def train_gru(
    sequences: Float32Array,
    target: FloatArray,
    settings: GruSettings,
    seed: int,
    *,
    levels: int | None = None,
    weights: FloatArray | None = None,
) -> Gru:
    """Return a unit that predicts *target* with the least mean square error.

    Where gateways may not know a machine's whole life, some sequences must be of lives cut at random, or the unit is
    lost without the beginning (``docs/explanation/sequence-models.md``).

    Args:
        sequences: Shape ``(n, C, L)``, oldest window first, finite.
        target: Shape ``(n,)``.
        settings: How it is trained.
        seed: The same seed, data and machine give the same unit.
        levels: The first so many channels are seen as they are, the others as changes; all as they are if left out.
        weights: How often each sequence is drawn, relative to the others, shape ``(n,)``; all alike if left out.

    Raises:
        SequenceExtraMissing: If JAX is not installed.
    """
    rng = np.random.default_rng(seed)
    channels = sequences.shape[1]
    change = (np.arange(channels) >= (channels if levels is None else levels)).astype(np.float32)
    seen = _seen(sequences, change)
    centre = seen.mean(axis=(0, 2), dtype=np.float64).astype(np.float32)
    scale = np.maximum(seen.std(axis=(0, 2), dtype=np.float64), _LEAST_SPREAD).astype(np.float32)
    seen = _bounded(seen, centre, scale)
    mean, spread = float(target.mean()), float(max(target.std(), _LEAST_SPREAD))
    wanted = ((target - mean) / spread).astype(np.float32)
    share = None if weights is None else weights / weights.sum()
    weights_now = _start(rng, settings.units, channels)
    nothing = {name: np.zeros_like(value) for name, value in weights_now.items()}
    state: Any = (weights_now, nothing, nothing)
    update = _compiled_update(settings)
    for taken in range(settings.steps):
        rows = rng.choice(len(sequences), settings.batch, p=share)
        state = update(state, np.float32(taken), seen[rows], wanted[rows])
    found = {name: np.asarray(value, np.float32) for name, value in state[0].items()}
    found["out"] = (found["out"] * spread).astype(np.float32)
    found["out_bias"] = (found["out_bias"] * spread + mean).astype(np.float32)
    return Gru(change=change, centre=centre, scale=scale, **found)


def export_gru(unit: Gru, channels: int, windows: int) -> bytes:
    """Return the graph ``sequence (n, channels, windows)`` to ``predicted (n, 1)``, float32."""
    width = unit.r.shape[1]
    constants = [
        _constant("change", unit.change[None, :, None]),
        _constant("centre", unit.centre[None, :, None]),
        _constant("per_scale", (1.0 / unit.scale.astype(np.float64))[None, :, None]),
        _constant("lowest", np.array(-_LIMIT)),
        _constant("highest", np.array(_LIMIT)),
        _constant("w", unit.w[None]),
        _constant("r", unit.r[None]),
        _constant("b", np.concatenate([unit.wb, unit.rb])[None]),
        _constant("out", unit.out[:, None]),
        _constant("out_bias", unit.out_bias),
    ]
    nodes: list[NodeProto] = [
        helper.make_node("GlobalAveragePool", [SEQUENCE], ["mean"]),
        helper.make_node("Mul", ["mean", "change"], ["taken_off"]),
        helper.make_node("Sub", [SEQUENCE, "taken_off"], ["seen"]),
        helper.make_node("Sub", ["seen", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "per_scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "lowest", "highest"], ["bounded"]),
        helper.make_node("Transpose", ["bounded"], ["by_window"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["by_window", "w", "r", "b"], ["", "state"], hidden_size=width, linear_before_reset=1),
        helper.make_node("Squeeze", ["state", "first"], ["final"]),
        helper.make_node("Gemm", ["final", "out", "out_bias"], [OUTPUT]),
    ]
    constants.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    return finish("gru", nodes, constants, inputs=(channels, windows), output=OUTPUT, columns=1, source=SEQUENCE)


def _start(rng: np.random.Generator, units: int, inputs: int) -> dict[str, Float32Array]:
    reach = 1.0 / np.sqrt(units)

    def drawn(*shape: int) -> Float32Array:
        return rng.uniform(-reach, reach, shape).astype(np.float32)

    return {
        "w": drawn(3 * units, inputs),
        "r": drawn(3 * units, units),
        "wb": np.zeros(3 * units, np.float32),
        "rb": np.zeros(3 * units, np.float32),
        "out": drawn(units),
        "out_bias": np.zeros(1, np.float32),
    }


def _answer(jax: Any, numpy: Any, weights: Any, given: Any) -> Any:
    """Return the unit's answers ``(n,)`` to bounded inputs ``(n, C, L)``."""
    units = weights["r"].shape[1]
    by_window = numpy.einsum("ncl,gc->lng", given, weights["w"]) + weights["wb"]

    def step(state: Any, told: Any) -> tuple[Any, None]:
        kept = state @ weights["r"].T + weights["rb"]
        update = jax.nn.sigmoid(told[:, :units] + kept[:, :units])
        reset = jax.nn.sigmoid(told[:, units : 2 * units] + kept[:, units : 2 * units])
        new = numpy.tanh(told[:, 2 * units :] + reset * kept[:, 2 * units :])
        return (1.0 - update) * new + update * state, None

    final, _ = jax.lax.scan(step, numpy.zeros((given.shape[0], units), given.dtype), by_window)
    return final @ weights["out"] + weights["out_bias"]


@cache
def _compiled_answer() -> Any:
    """Return what answers bounded inputs, compiled once for each number of rows: that takes longer than answering."""
    jax, numpy = load_jax()
    return jax.jit(lambda weights, given: _answer(jax, numpy, weights, given))


def _filled_up(given: Float32Array) -> Float32Array:
    """Return *given* with rows of 0 up to the next power of two, so that few numbers of rows are compiled for."""
    rows = 1 << max(len(given) - 1, 0).bit_length()
    return np.concatenate([given, np.zeros((rows - len(given), *given.shape[1:]), np.float32)])


@cache
def _compiled_update(settings: GruSettings) -> Any:
    """Return the compiled step from weights and their moments to the next ones."""
    jax, numpy = load_jax()

    def error(weights: Any, given: Any, wanted: Any) -> Any:
        return numpy.mean((_answer(jax, numpy, weights, given) - wanted) ** 2)

    def update(state: Any, taken: Any, given: Any, wanted: Any) -> Any:
        weights, first, second = state
        slope = jax.grad(error)(weights, given, wanted)
        size = numpy.sqrt(sum(numpy.sum(part**2) for part in jax.tree.leaves(slope)))
        slope = jax.tree.map(lambda part: part * numpy.minimum(1.0, _STEEPEST / (size + 1e-9)), slope)
        first = jax.tree.map(lambda held, part: _BETA_1 * held + (1.0 - _BETA_1) * part, first, slope)
        second = jax.tree.map(lambda held, part: _BETA_2 * held + (1.0 - _BETA_2) * part**2, second, slope)
        rate = settings.learning_rate * numpy.minimum(1.0, (taken + 1.0) / _RISE)
        rate = rate * 0.5 * (1.0 + numpy.cos(numpy.pi * taken / settings.steps))

        def moved(weight: Any, mean: Any, square: Any) -> Any:
            mean = mean / (1.0 - _BETA_1 ** (taken + 1.0))
            square = square / (1.0 - _BETA_2 ** (taken + 1.0))
            return weight - rate * (mean / (numpy.sqrt(square) + 1e-8) + settings.weight_decay * weight)

        return jax.tree.map(moved, weights, first, second), first, second

    return jax.jit(update)


def _seen(sequences: Float32Array, change: Float32Array) -> Float32Array:
    """Return *sequences* with the mean over each taken off the channels that are seen as changes."""
    return np.asarray(sequences - sequences.mean(axis=2, keepdims=True) * change[:, None], np.float32)


def _bounded(seen: Float32Array, centre: Float32Array, scale: Float32Array) -> Float32Array:
    return np.asarray(np.clip((seen - centre[:, None]) / scale[:, None], -_LIMIT, _LIMIT), np.float32)


def _constant(name: str, values: FloatArray | Float32Array) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def load_jax() -> tuple[Any, Any]:
    """Return the modules ``jax`` and ``jax.numpy``.

    Raises:
        SequenceExtraMissing: If they are not installed.
    """
    try:
        return importlib.import_module("jax"), importlib.import_module("jax.numpy")
    except ImportError as error:
        raise SequenceExtraMissing(
            "a recurrent unit is trained with JAX, which is not installed: pip install 'wearsight[sequence]'; "
            "random kernels need no extra"
        ) from error
