"""The parity gate: an exported graph answers as its trainer did, or it is not released.

It asks with the rows where the two differ when they differ at all: training rows, rows with missing inputs, and rows
that lie exactly on a split of the trained trees or on the next float32 to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from models.export.graph import INPUT, without_missing
from models.records import BoolArray, Float32Array, FloatArray

TOLERANCE = 1e-5
_LEAST = 2e-35


class ParityError(ValueError):
    """An exported graph does not answer as its trainer; the release is stopped."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the gate saw of one model: ``rows`` asked and the largest relative difference among them."""

    model: str
    rows: int
    largest_difference: float


def gate_rows(
    training: Float32Array, splits: Sequence[tuple[int, float]], *, seed: int, limit: int = 2000
) -> Float32Array:
    """Return rows ``(n, f)`` to ask both sides with.

    Args:
        training: Rows the model was trained on, shape ``(m, f)``; up to *limit* are drawn.
        splits: The model's splits as ``(feature, threshold)``, as trained; up to *limit* are drawn.
        seed: Of the draws.
        limit: Rows of each kind at most.
    """
    rng = np.random.default_rng(seed)
    drawn = training[_draw(rng, len(training), limit)]
    holes = drawn[: limit // 4].copy()
    holes[rng.random(holes.shape) < 0.2] = np.nan
    empty = np.full((1, training.shape[1]), np.nan, np.float32)
    return np.concatenate([drawn, _edges(training, splits, rng, limit), holes, empty]).astype(np.float32)


def check_parity(
    model: str,
    graph: bytes,
    reference: Callable[[Float32Array], FloatArray],
    rows: Float32Array,
    *,
    labels: bool = False,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare *graph* with *reference* on *rows*.

    Args:
        model: What is compared, for messages.
        graph: The serialised ONNX model with one output ``(n, k)``.
        reference: The trainer's own answer ``(n,)`` or ``(n, k)``; it is given the rows with NaN as 0.
        rows: Shape ``(n, f)``, float32, may hold NaN.
        labels: Whether the outputs are class probabilities, whose largest must be of the same class on both sides.
        tolerance: Largest difference allowed, relative to the row's largest answer, or to 1 if less.

    Raises:
        ParityError: With model, row, output and both answers.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    answer = np.asarray(session.run(None, {INPUT: rows})[0], np.float64)
    wanted = np.asarray(reference(without_missing(rows)), np.float64).reshape(len(rows), -1)
    if answer.shape != wanted.shape:
        raise ParityError(f"{model}: the graph answers with shape {answer.shape}, the trainer with {wanted.shape}")
    difference = np.abs(answer - wanted) / np.maximum(np.abs(wanted).max(axis=1, keepdims=True), 1.0)
    difference[~np.isfinite(difference)] = np.inf
    worst = np.unravel_index(int(np.argmax(difference)), difference.shape)
    if difference[worst] > tolerance:
        raise ParityError(
            f"{model}: row {worst[0]}, output {worst[1]}: the graph answers {answer[worst]:.8g}, the trainer "
            f"{wanted[worst]:.8g} ({(difference > tolerance).any(axis=1).sum()} of {len(rows)} rows beyond "
            f"{tolerance:g}); the release is stopped"
        )
    if labels and (wrong := _other_label(answer, wanted, tolerance)).any():
        raise ParityError(f"{model}: {wrong.sum()} of {len(rows)} rows get another label; the release is stopped")
    return Parity(model=model, rows=len(rows), largest_difference=float(difference[worst]))


def _other_label(answer: FloatArray, wanted: FloatArray, tolerance: float) -> BoolArray:
    """Return where the likeliest class differs, ties within *tolerance* left aside."""
    ordered = np.sort(wanted, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > tolerance
    return np.asarray(clear & (answer.argmax(axis=1) != wanted.argmax(axis=1)), np.bool_)


def _edges(
    training: Float32Array, splits: Sequence[tuple[int, float]], rng: np.random.Generator, limit: int
) -> Float32Array:
    """Return training rows moved onto a split, and to the float32 below and above it."""
    if not splits:
        return np.empty((0, training.shape[1]), np.float32)
    chosen = [splits[number] for number in _draw(rng, len(splits), limit)]
    features = np.array([feature for feature, _ in chosen])
    near = np.clip([edge for _, edge in chosen], -3e38, 3e38).astype(np.float32)
    rows = np.repeat(training[rng.integers(len(training), size=len(chosen))], 3, axis=0)
    beside = np.stack([np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))], axis=1)
    # LightGBM reads what is nearer to 0 than this as 0. No deviation is ever that small; its splits at 0 are.
    beside[np.abs(beside) < _LEAST] = 0.0
    rows[np.arange(len(rows)), np.repeat(features, 3)] = beside.ravel()
    return rows


def _draw(rng: np.random.Generator, size: int, limit: int) -> np.typing.NDArray[np.intp]:
    return np.arange(size) if size <= limit else np.sort(rng.choice(size, limit, replace=False))
