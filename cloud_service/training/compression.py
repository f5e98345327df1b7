"""Smaller models, and whether one of them may stand in for the model that was trained.

Variants of a graph are made (weights in fewer bits, fewer trees, a small booster that has learnt what the large model
says), each is measured on rows that no model has learnt from, and the smallest within stated limits on the figure of
merit and on decisions changed is chosen; else the original stays. The report goes into the model card.

The choice is by size, which is the same in every run. Time is measured and shown, and rules out only what is plainly
slower: it differs from run to run, and the same training must make the same bundle.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeVar

import lightgbm as lgb
import numpy as np
from onnx import NodeProto, TensorProto, helper

from models.bundle.model import session_of
from models.export.graph import INPUT, ExportError, finish, without_missing
from models.export.lightgbm import booster_nodes
from models.export.parity import check_parity
from models.export.variants import byte_weights, coarse_trees, fewer_kernels, fewer_trees, half_weights
from models.records import Float32Array, FloatArray, Int64Array
from models.sequence.heads import Head

BATCHES = (1, 100)
_ORIGINAL = "original"
_LEAST_PROBABILITY = 1e-4
_TURNS, _TURN_S = 3, 0.01
_PARITY_ROWS = 2000

Rows = TypeVar("Rows")
Kind = Literal["original", "quantised", "pruned", "distilled"]


class Judge(Protocol):
    """What a model's answers are worth, on rows that it has not learnt from."""

    @property
    def rows(self) -> Float32Array:
        """What the graph is asked with, shape ``(n, ...)``."""
        ...

    @property
    def metric_name(self) -> str:
        """What ``metric`` is called."""
        ...

    @property
    def larger_is_better(self) -> bool:
        """Which way ``metric`` counts."""
        ...

    def metric(self, answers: FloatArray) -> float:
        """Return the figure of merit of *answers* ``(n, k)``: the graph's, or its head's where it has one."""
        ...

    def decide(self, answers: FloatArray) -> Int64Array:
        """Return what is decided by *answers*, shape ``(n,)`` or ``(n, d)``; see ``models.bundle.decisions``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of a model.

    Attributes:
        name: In the report.
        kind: What was done to it.
        graph: As a bundle holds it.
        head: What becomes of the graph's answers ``(n, k)`` in NumPy: of kernels, the linear head. None: nothing.
    """

    name: str
    kind: Kind
    graph: bytes
    head: Head | None = None


@dataclass(frozen=True, kw_only=True)
class CompressionLimits:
    """What a variant may cost.

    Attributes:
        metric_loss: Share of the original's figure of merit, 0 to 1, that may be lost.
        decisions_changed: Share of the rows, 0 to 1, that may be decided otherwise, if one more row were too: few rows
            cannot vouch for a small share. At 0 every original stays.
        slower: Times the original's time at batch 100 that it may take.
        least_saving: Share of the original's size, 0 to 1, that must be saved: for less nothing is changed.
    """

    metric_loss: float = 0.005
    decisions_changed: float = 0.001
    slower: float = 2.0
    least_saving: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one variant is and costs.

    Attributes:
        name: Of the variant.
        kind: What was done.
        size_bytes: Of the graph, and of its head.
        packed_bytes: The same, packed by zlib as on a slow line.
        us_alone: µs a window, asked one by one.
        us_batched: µs a window, asked by the hundred.
        metric: Figure of merit on the judge's rows.
        decisions_changed: Share of the rows, 0 to 1, decided otherwise than by the original.
        largest_difference: Between its answers and the original's.
        within_limits: Whether it keeps within the limits on figure of merit, decisions and time.
    """

    name: str
    kind: Kind
    size_bytes: int
    packed_bytes: int
    us_alone: float
    us_batched: float
    metric: float
    decisions_changed: float
    largest_difference: float
    within_limits: bool


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What became of one model: its variants, the original first, and the one chosen."""

    model: str
    metric_name: str
    limits: CompressionLimits
    rows: int
    measured: tuple[Measured, ...]
    chosen: str

    def markdown(self, *, times: bool = True) -> str:
        """Return the table for the model card; without *times* the same training gives the same words."""
        said = (
            f"{self.model}: {self.chosen} chosen on {self.rows} rows that no model has learnt from; allowed were "
            f"{self.limits.metric_loss:.2%} of {self.metric_name} and {self.limits.decisions_changed:.2%} of "
            "the decisions."
        )
        timed = " µs alone | µs batched |" if times else ""
        columns = 9 if times else 7
        lines = [
            said,
            "",
            f"| variant | kind | KiB | packed |{timed} {self.metric_name} | decisions changed | |",
            "|---" * columns + "|",
        ]
        for one in self.measured:
            mark = "chosen" if one.name == self.chosen else "" if one.within_limits else "beyond the limits"
            took = f" {one.us_alone:.1f} | {one.us_batched:.2f} |" if times else ""
            lines.append(
                f"| {one.name} | {one.kind} | {one.size_bytes / 1024:.1f} | {one.packed_bytes / 1024:.1f} |{took} "
                f"{one.metric:.5g} | {one.decisions_changed:.3%} | {mark} |"
            )
        return "\n".join(lines) + "\n"


def compress(
    model: str, variants: Sequence[Variant], judge: Judge, limits: CompressionLimits
) -> tuple[Variant, Compression]:
    """Return the smallest of *variants* within *limits*, and the report on all of them.

    Args:
        model: Which, for the report.
        variants: The original first.
        judge: Says what answers are worth.
        limits: What a variant may cost.
    """
    original = _Asked(variants[0], judge)
    measured = []
    for variant in variants:
        asked = original if variant is variants[0] else _Asked(variant, judge)
        measured.append(_measured(asked, original, judge, limits))
    most = (1.0 - limits.least_saving) * measured[0].size_bytes
    allowed = [0]
    allowed += [place for place, one in enumerate(measured) if one.within_limits and one.size_bytes <= most]
    best = min(allowed, key=lambda number: (measured[number].size_bytes, measured[number].packed_bytes, number))
    return variants[best], Compression(
        model=model,
        metric_name=judge.metric_name,
        limits=limits,
        rows=len(judge.rows),
        measured=tuple(measured),
        chosen=variants[best].name,
    )


def variants_of(graph: bytes, *, averaged: bool = False, shares: Sequence[float] = (0.75, 0.5, 0.25)) -> list[Variant]:
    """Return *graph* and its quantised and pruned forms, as far as it has weights or trees.

    Args:
        graph: Of any model.
        averaged: Whether its trees are a forest, whose sum is read as a mean.
        shares: Of its trees that the pruned forms keep.
    """
    found = [Variant(name=_ORIGINAL, kind="original", graph=graph)]
    makers: list[tuple[str, Kind, Callable[[], bytes]]] = [
        ("float16 weights", "quantised", partial(half_weights, graph)),
        ("int8 weights", "quantised", partial(byte_weights, graph)),
        ("coarse trees", "quantised", partial(coarse_trees, graph)),
    ]
    makers += [
        (f"{share:.0%} of the trees", "pruned", partial(fewer_trees, graph, share, averaged=averaged))
        for share in shares
    ]
    for name, kind, make in makers:
        try:
            found.append(Variant(name=name, kind=kind, graph=make()))
        except ExportError:  # a graph without trees has none to prune, one without weights none to store in fewer bits
            continue
    return found


def kernel_variants(
    graph: bytes, learn: Callable[[bytes], Head], *, shares: Sequence[float] = (0.5, 0.25)
) -> list[Variant]:
    """Return the kernels in *graph* with their head, quantised, and fewer of them by the head's weights.

    Each has a head learnt anew on its own kernels: a head leans on small differences between many kernels, and would
    not forgive other ones.

    Args:
        graph: Of ``cloud_service.training.sequence.make_kernels``.
        learn: Returns the head of such a graph.
        shares: Of the mixes of channels that the pruned forms keep, with all kernels of each.
    """
    found = [replace(one, head=learn(one.graph)) for one in variants_of(graph)]
    assert found[0].head is not None
    weight = np.abs(found[0].head.weights).sum(axis=1)
    for share in shares:
        smaller, _ = fewer_kernels(graph, weight, share)
        found.append(Variant(name=f"{share:.0%} of the kernels", kind="pruned", graph=smaller, head=learn(smaller)))
    return found


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """A small booster that learns what a large model says: *rounds* of trees with *leaves*, learning *rate*."""

    rounds: int = 40
    leaves: int = 8
    rate: float = 0.15


def distilled(
    rows: Float32Array,
    answers: FloatArray,
    *,
    link: Literal["plain", "probabilities"],
    output: str,
    settings: StudentSettings,
    seed: int,
) -> Variant:
    """Return a small booster that has learnt the *answers* of a large model, or of a blend of models.

    Args:
        rows: Training rows ``(n, f)``; what the student is given, whatever the teacher saw.
        answers: The teacher's, ``(n, k)``; one booster a column.
        link: Whether the answers are numbers or each a probability, which is learnt as its logit.
        output: Name of the graph's output.
        settings: Of the boosters.
        seed: Of the draws.

    Raises:
        ParityError: If the student's graph does not answer as the student.
        ExportError: If it has no ONNX form.
    """
    given = without_missing(rows)
    target = np.log(_held(answers) / (1.0 - _held(answers))) if link == "probabilities" else answers
    boosters = [_student(given, column, settings, seed) for column in target.T]
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    columns = [f"column_{number}" for number in range(len(boosters))]
    for booster, column in zip(boosters, columns, strict=True):
        more_nodes, more_constants = booster_nodes(booster, column, f"{column}_said", source=INPUT)
        nodes += more_nodes
        constants += more_constants
    joined = output if link == "plain" else "logits"
    nodes.append(helper.make_node("Concat", [f"{column}_said" for column in columns], [joined], axis=1))
    if link == "probabilities":
        nodes.append(helper.make_node("Sigmoid", [joined], [output]))
    graph = finish("distilled", nodes, constants, inputs=rows.shape[1], output=output, columns=len(boosters))

    def says(asked: Float32Array) -> FloatArray:
        said = np.column_stack([np.asarray(booster.predict(asked), np.float64) for booster in boosters])
        return 1.0 / (1.0 + np.exp(-said)) if link == "probabilities" else said

    check_parity("distilled", graph, says, rows[:_PARITY_ROWS])
    return Variant(
        name=f"distilled, {settings.rounds} trees of {settings.leaves} leaves", kind="distilled", graph=graph
    )


def us_per_row(ask: Callable[[Rows], object], parts: Sequence[Rows], rows: int) -> float:
    """Return the µs of CPU a row takes when *ask* is given *parts* of so many *rows* each; the best of three turns."""
    ask(parts[0])
    best = np.inf
    for _ in range(_TURNS):
        done, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < _TURN_S or not done:
            for part in parts:
                ask(part)
            done += len(parts) * rows
        best = min(best, spent / done)
    return best * 1e6


def parts_of(rows: Float32Array, size: int) -> list[Float32Array]:
    """Return up to ten parts of *rows* of that *size*; where there are fewer, rows are repeated."""
    enough = np.resize(rows, (max(len(rows), size), *rows.shape[1:]))
    return [enough[start : start + size] for start in range(0, min(len(enough), 10 * size) - size + 1, size)]


class _Asked:
    """A variant with its answers and times."""

    def __init__(self, variant: Variant, judge: Judge) -> None:
        session = session_of(variant.graph)
        name = session.get_inputs()[0].name

        def ask(rows: Float32Array) -> FloatArray:
            answers = np.asarray(session.run(None, {name: rows})[0], np.float64)
            return answers if variant.head is None else variant.head.predict(answers)

        self.variant = variant
        self.answers = ask(judge.rows)
        self.metric = float(judge.metric(self.answers))
        self.decisions = judge.decide(self.answers).reshape(len(judge.rows), -1)
        self.us = tuple(us_per_row(ask, parts_of(judge.rows, batch), batch) for batch in BATCHES)


def _measured(asked: _Asked, original: _Asked, judge: Judge, limits: CompressionLimits) -> Measured:
    lost = (original.metric - asked.metric) * (1.0 if judge.larger_is_better else -1.0)
    changed = (asked.decisions != original.decisions).any(axis=1)
    within = (
        lost <= limits.metric_loss * abs(original.metric)
        and changed.sum() + 1 <= limits.decisions_changed * (len(changed) + 1)
        and asked.us[1] <= limits.slower * original.us[1]
    )
    stored = asked.variant.graph
    if asked.variant.head is not None:
        stored += asked.variant.head.weights.tobytes() + asked.variant.head.bias.tobytes()
    return Measured(
        name=asked.variant.name,
        kind=asked.variant.kind,
        size_bytes=len(stored),
        packed_bytes=len(zlib.compress(stored, 6)),
        us_alone=asked.us[0],
        us_batched=asked.us[1],
        metric=asked.metric,
        decisions_changed=float(changed.mean()),
        largest_difference=float(np.abs(asked.answers - original.answers).max()),
        within_limits=within or asked is original,
    )


def _held(probabilities: FloatArray) -> FloatArray:
    return np.clip(probabilities, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)


def _student(rows: Float32Array, target: FloatArray, settings: StudentSettings, seed: int) -> lgb.Booster:
    parameters = {
        "objective": "regression",
        "num_leaves": settings.leaves,
        "learning_rate": settings.rate,
        "min_data_in_leaf": max(1, min(20, len(rows) // 20)),
        "max_bin": 63,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }
    data = lgb.Dataset(np.ascontiguousarray(rows), np.ascontiguousarray(target), params=parameters)
    return lgb.train(parameters, data, settings.rounds)
