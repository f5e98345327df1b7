"""The parity gate: an exported graph answers and decides as its trainer did, or it is not released.

It asks with the rows where the two differ when they differ at all: training rows, rows with missing inputs, rows far
out, and rows that lie exactly on a split of the trained trees or on the next float32 to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.model import session_of
from models.export.graph import without_missing
from models.records import Float32Array, FloatArray, Int64Array

TOLERANCE = 1e-5
# Deviations are held to ±50; hours and cycles of a machine's life may be many.
FAR = (-1e4, -50.0, 50.0, 1e4)
_LEAST = 2e-35
_ALONE = 50

Decide = Callable[[FloatArray], Int64Array]


class ParityError(ValueError):
    """An exported graph does not answer or decide as its trainer; the release is stopped."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the gate saw of one model.

    Attributes:
        model: Which.
        rows: Rows asked.
        largest_difference: Among them, relative to the row's largest answer, or to 1 if less.
        decisions: Rows whose decisions were compared, all of them alike; 0 when the model decides nothing by itself.
    """

    model: str
    rows: int
    largest_difference: float
    decisions: int = 0


def gate_rows(
    training: Float32Array, splits: Sequence[tuple[int, float]], *, seed: int, limit: int = 2000
) -> Float32Array:
    """Return rows ``(n, f)`` to ask both sides with.

    Args:
        training: Rows the model was trained on, shape ``(m, f)``; up to *limit* are drawn.
        splits: The model's splits as ``(feature, threshold)``, as trained; up to *limit* are drawn.
        seed: Of the draws.
        limit: Rows of each kind at most.

    Raises:
        ParityError: If there are no rows, or they are not float32, as the model's own must be.
    """
    _check_training(training)
    rng = np.random.default_rng(seed)
    drawn = training[_draw(rng, len(training), limit)]
    edges = beside_splits(training, [splits[number] for number in _draw(rng, len(splits), limit)], rng)
    return np.concatenate([drawn, edges, _with_holes(drawn[: limit // 4], rng), _far_out(drawn, rng)])


def beside_splits(
    training: Float32Array, splits: Sequence[tuple[int, float]], rng: np.random.Generator
) -> Float32Array:
    """Return rows of *training* ``(m, f)`` moved onto each of *splits*, and to the float32 below and above it."""
    if not splits:
        return np.empty((0, training.shape[1]), np.float32)
    features = np.array([feature for feature, _ in splits])
    near = np.clip([edge for _, edge in splits], -3e38, 3e38).astype(np.float32)
    rows = np.repeat(training[rng.integers(len(training), size=len(splits))], 3, axis=0)
    beside = np.stack([np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))], axis=1)
    # LightGBM reads what is nearer to 0 than this as 0. No deviation is ever that small; its splits at 0 are.
    beside[np.abs(beside) < _LEAST] = 0.0
    rows[np.arange(len(rows)), np.repeat(features, 3)] = beside.ravel()
    return rows


def gate_sequences(training: Float32Array, *, seed: int, limit: int = 2000) -> Float32Array:
    """Return sequences ``(n, C, L)`` to ask both sides with, from *training* ``(m, C, L)``; as ``gate_rows``.

    Raises:
        ParityError: If there are none, or they are not float32.
    """
    _check_training(training)
    rng = np.random.default_rng(seed)
    drawn = training[_draw(rng, len(training), limit)]
    flat = drawn.reshape(len(drawn), -1)
    parts = [flat, without_missing(_with_holes(flat[: limit // 4], rng)), without_missing(_far_out(flat, rng))]
    return np.concatenate(parts).reshape(-1, *training.shape[1:])


def check_parity(
    model: str,
    graph: bytes,
    reference: Callable[[Float32Array], FloatArray],
    rows: Float32Array,
    *,
    decide: Decide | None = None,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare *graph* with *reference* on *rows*.

    Args:
        model: What is compared, for messages.
        graph: The serialised ONNX model with one input and one output ``(n, k)``.
        reference: The trainer's own answer ``(n,)`` or ``(n, k)``; it is given the rows with NaN as 0.
        rows: Shape ``(n, f)`` or ``(n, C, L)``, float32, may hold NaN.
        decide: From answers ``(n, k)`` to whole numbers ``(n,)`` or ``(n, d)``: see ``models.bundle.decisions``.
        tolerance: As ``check_answers``.

    Raises:
        ParityError: As ``check_answers``; also when a row's answer depends on the rows asked with it.
    """
    session = session_of(graph)
    name = session.get_inputs()[0].name
    answer = np.asarray(session.run(None, {name: rows})[0], np.float64)
    wanted = np.asarray(reference(without_missing(rows)), np.float64)
    parity = check_answers(model, answer, wanted, decide=decide, tolerance=tolerance)
    some = np.linspace(0, len(rows) - 1, min(len(rows), _ALONE)).astype(np.int64)
    alone = np.concatenate([np.asarray(session.run(None, {name: rows[row : row + 1]})[0], np.float64) for row in some])
    check_answers(f"{model}, rows asked one by one", alone, wanted[some], decide=decide, tolerance=tolerance)
    return parity


def check_answers(
    model: str, answer: FloatArray, wanted: FloatArray, *, decide: Decide | None = None, tolerance: float = TOLERANCE
) -> Parity:
    """Compare *answer* ``(n, k)``, as a gateway gives it, with *wanted* ``(n,)`` or ``(n, k)``, as the trainer does.

    Args:
        model: What is compared, for messages.
        answer: What graphs and gateway code say.
        wanted: What the trainer says; NaN must be NaN on both sides.
        decide: From answers ``(n, k)`` to whole numbers ``(n,)`` or ``(n, d)``, all of which must be the same.
        tolerance: Largest difference allowed, relative to the row's largest answer, or to 1 if less.

    Raises:
        ParityError: With model, row, output and both answers.
    """
    if wanted.ndim == 1:
        wanted = wanted[:, None]
    if answer.shape != wanted.shape or not answer.size:
        raise ParityError(f"{model}: the graph answers with shape {answer.shape}, the trainer with {wanted.shape}")
    scale = np.maximum(np.abs(np.nan_to_num(wanted)).max(axis=1, keepdims=True), 1.0)
    difference = np.abs(answer - wanted) / scale
    difference[np.isnan(answer) & np.isnan(wanted)] = 0.0
    difference[~np.isfinite(difference)] = np.inf
    worst = np.unravel_index(int(np.argmax(difference)), difference.shape)
    if difference[worst] > tolerance:
        raise ParityError(
            f"{model}: row {worst[0]}, output {worst[1]}: the graph answers {answer[worst]:.8g}, the trainer "
            f"{wanted[worst]:.8g} ({(difference > tolerance).any(axis=1).sum()} of {len(answer)} rows beyond "
            f"{tolerance:g}); the release is stopped"
        )
    if decide is not None:
        _check_decisions(model, decide(answer), decide(wanted))
    return Parity(
        model=model,
        rows=len(answer),
        largest_difference=float(difference[worst]),
        decisions=0 if decide is None else len(answer),
    )


def clear_of(limit: float, outputs: FloatArray, *, tolerance: float = TOLERANCE) -> float:
    """Return the number nearest to *limit* that none of *outputs* lies on: what a decision's threshold should be.

    A limit taken from data may be a row's own answer, where one float32 digit decides. What is returned has no output
    within *tolerance*, relative to *limit* or to 1 if less; where the outputs nearby lie closer than that, it is the
    middle between the two that lie furthest apart.
    """
    known = np.unique(outputs[np.isfinite(outputs)])
    free = tolerance * max(abs(limit), 1.0)
    if not known.size or np.abs(known - limit).min() > free:
        return limit
    near = np.sort(known[np.argsort(np.abs(known - limit), kind="stable")[:1000]])
    # The first and the last reach out of what was looked at, and have room beyond only if nothing lies there.
    below, above = known[known < near[0]], known[known > near[-1]]
    edges = np.concatenate([below[-1:] if below.size else [-np.inf], near, above[:1] if above.size else [np.inf]])
    low, high = edges[:-1], edges[1:]
    keep = np.minimum(free, (high - low) / 2.0)
    places = np.clip(limit, low + keep, high - keep)
    wide = keep >= min(free, float(keep.max()))
    return float(places[wide][np.argmin(np.abs(places[wide] - limit))])


def _check_decisions(model: str, answer: Int64Array, wanted: Int64Array) -> None:
    changed = (answer.reshape(len(answer), -1) != wanted.reshape(len(wanted), -1)).any(axis=1)
    if changed.any():
        row = int(np.argmax(changed))
        raise ParityError(
            f"{model}: row {row} is decided {answer[row]} by the graph, {wanted[row]} by the trainer "
            f"({changed.sum()} of {len(changed)} rows decided differently); the release is stopped"
        )


def _check_training(training: Float32Array) -> None:
    if training.dtype != np.float32 or not len(training):
        raise ParityError(
            f"{len(training)} training rows of {training.dtype}: models are trained on float32 rows, as gateways ask; "
            "the release is stopped"
        )


def _with_holes(rows: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return *rows* with every fifth input missing, and one row of nothing else."""
    holes = rows.copy()
    holes[rng.random(holes.shape) < 0.2] = np.nan
    return np.concatenate([holes, np.full((1, rows.shape[1]), np.nan, np.float32)])


def _far_out(rows: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return the ends of what was seen, and rows of which some inputs are further out than any."""
    present = without_missing(rows)
    ends = [present.min(axis=0), present.max(axis=0), np.zeros(rows.shape[1], np.float32)]
    some = present[rng.integers(len(rows), size=8 * len(FAR))]
    far = np.repeat(np.array(FAR, np.float32), 8)[:, None]
    return np.concatenate([np.stack(ends), np.where(rng.random(some.shape) < 0.1, far, some)])


def _draw(rng: np.random.Generator, size: int, limit: int) -> NDArray[np.intp]:
    return np.arange(size) if size <= limit else np.sort(rng.choice(size, limit, replace=False))
