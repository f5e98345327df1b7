"""A smaller model stands in for the one that was trained only within stated limits."""

from dataclasses import dataclass, replace

import lightgbm as lgb
import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from cloud_service.training.compression import (
    Compression,
    CompressionLimits,
    Judge,
    StudentSettings,
    Variant,
    compress,
    distilled,
    kernel_variants,
    parts_of,
    us_per_row,
    variants_of,
)
from cloud_service.training.sequence import kernel_features, make_kernels
from models.evaluation.metrics import rmse
from models.export.graph import ExportError
from models.export.lightgbm import export_life
from models.export.variants import fewer_kernels
from models.records import Float32Array, FloatArray, Int64Array
from models.sequence.heads import Head, HeadStatistics

RANDOM = np.random.default_rng(9)
ROWS = RANDOM.normal(size=(3000, 6)).astype(np.float32)
TARGET = np.asarray(50.0 + 10.0 * ROWS[:, 0] + 8.0 * ROWS[:, 1] * ROWS[:, 2] + RANDOM.normal(size=3000), np.float64)
TRAINED, HELD_OUT = slice(0, 2000), slice(2000, 3000)
GENEROUS = CompressionLimits(metric_loss=10.0, decisions_changed=1.0, slower=1e9)


@dataclass(frozen=True, kw_only=True)
class LifeJudge:
    """Decides by the whole day."""

    rows: Float32Array
    target: FloatArray
    metric_name: str = "rmse"
    larger_is_better: bool = False

    def metric(self, answers: FloatArray) -> float:
        return rmse(answers[:, 0] - self.target)

    def decide(self, answers: FloatArray) -> Int64Array:
        return np.floor(answers[:, 0]).astype(np.int64)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return LifeJudge(rows=ROWS[HELD_OUT], target=TARGET[HELD_OUT])


@pytest.fixture(scope="module")
def graph() -> bytes:
    settings = {"verbosity": -1, "num_leaves": 15, "num_threads": 1, "seed": 1, "objective": "regression"}
    booster = lgb.train(settings, lgb.Dataset(ROWS[TRAINED], TARGET[TRAINED], params=settings), 120)
    return export_life(booster)


@pytest.fixture(scope="module")
def report(graph: bytes, judge: Judge) -> Compression:
    return compress("life", [*variants_of(graph), student(graph)], judge, GENEROUS)[1]


def student(graph: bytes) -> Variant:
    """Return a small booster that has learnt what the large one says."""
    answers = ort.InferenceSession(graph).run(None, {"features": ROWS[TRAINED]})[0].astype(np.float64)
    settings = StudentSettings(rounds=30, leaves=7)
    return distilled(ROWS[TRAINED], answers, link="plain", output="life", settings=settings, seed=1)


def test_every_variant_is_measured(report: Compression) -> None:
    assert [one.kind for one in report.measured] == ["original", "quantised", *["pruned"] * 3, "distilled"]
    original = report.measured[0]
    assert (original.decisions_changed, original.largest_difference) == (0.0, 0.0)
    assert all(one.decisions_changed > 0.0 for one in report.measured[1:])
    assert all(one.us_alone > 0.0 and one.us_batched > 0.0 for one in report.measured)
    assert all(one.size_bytes < 0.8 * original.size_bytes for one in report.measured[2:])
    assert report.measured[1].packed_bytes < 0.9 * original.packed_bytes


def test_the_smallest_within_the_limits_is_chosen(graph: bytes, judge: Judge, report: Compression) -> None:
    """With a limit that everything meets the smallest of all, with a narrow one the smallest that meets it."""
    by_size = sorted(report.measured, key=lambda one: one.size_bytes)
    assert report.chosen == by_size[0].name

    half = next(one for one in report.measured if one.name == "50% of the trees")
    loss = (half.metric - report.measured[0].metric) / report.measured[0].metric
    limits = replace(GENEROUS, metric_loss=max(loss, 0.0) + 1e-9, decisions_changed=half.decisions_changed + 1e-3)
    chosen, told = compress("life", variants_of(graph), judge, limits)

    assert told.chosen == "50% of the trees"
    assert chosen.graph != graph


def test_for_a_small_saving_nothing_is_changed(graph: bytes, judge: Judge) -> None:
    """Control: without a least saving the coarse trees are chosen, which are as large but pack smaller."""
    variants = variants_of(graph, shares=())

    assert compress("life", variants, judge, replace(GENEROUS, least_saving=0.0))[1].chosen == "coarse trees"
    assert compress("life", variants, judge, GENEROUS)[1].chosen == "original"


@pytest.mark.parametrize(
    "limits",
    [
        CompressionLimits(metric_loss=-1.0, decisions_changed=1.0, slower=1e9),
        CompressionLimits(metric_loss=10.0, decisions_changed=0.0, slower=1e9),
        CompressionLimits(metric_loss=10.0, decisions_changed=1.0, slower=0.0),
    ],
    ids=["metric", "decisions", "time"],
)
def test_without_a_variant_within_the_limits_the_original_stays(
    graph: bytes, judge: Judge, limits: CompressionLimits
) -> None:
    """Each limit by itself keeps every variant out; control: with generous ones another is chosen, see above."""
    chosen, told = compress("life", variants_of(graph), judge, limits)

    assert chosen.graph == graph
    assert told.chosen == "original"
    assert [one.within_limits for one in told.measured] == [True] + [False] * (len(told.measured) - 1)


def test_few_rows_vouch_for_nothing(graph: bytes) -> None:
    """Of eight rows none is decided otherwise, which says little of the next; nine are enough for a tenth."""

    class Unmoved(LifeJudge):
        def decide(self, answers: FloatArray) -> Int64Array:
            return np.zeros(len(answers), np.int64)

    limits = replace(GENEROUS, decisions_changed=0.1)
    told = [
        compress("life", variants_of(graph, shares=(0.5,)), Unmoved(rows=ROWS[:few], target=TARGET[:few]), limits)[1]
        for few in (8, 9)
    ]

    assert [one.chosen for one in told] == ["original", "50% of the trees"]


def test_a_figure_that_should_be_large_counts_the_other_way(graph: bytes, judge: Judge) -> None:
    """The same loss, told as a gain, keeps nothing out."""

    class Inverse(LifeJudge):
        def metric(self, answers: FloatArray) -> float:
            return -1.0 * super().metric(answers)

    assert isinstance(judge, LifeJudge)
    inverse = Inverse(rows=judge.rows, target=judge.target, larger_is_better=True)
    limits = CompressionLimits(metric_loss=0.0, decisions_changed=1.0, slower=1e9)

    ours, theirs = (compress("life", variants_of(graph), one, limits)[1] for one in (judge, inverse))

    assert [one.within_limits for one in ours.measured] == [one.within_limits for one in theirs.measured]


def test_a_student_of_probabilities_gives_probabilities(judge: Judge) -> None:
    odds = np.column_stack([ROWS[:, 0] * 3.0, -ROWS[:, 1] * 3.0]).astype(np.float64)
    teacher = 1.0 / (1.0 + np.exp(-odds))
    made = distilled(
        ROWS[TRAINED],
        teacher[TRAINED],
        link="probabilities",
        output="probabilities",
        settings=StudentSettings(),
        seed=1,
    )
    said = ort.InferenceSession(made.graph).run(None, {"features": judge.rows})[0]

    assert said.min() > 0.0
    assert said.max() < 1.0
    assert np.abs(said - teacher[HELD_OUT]).mean() < 0.05


def test_fewer_kernels_come_with_a_head_of_their_own() -> None:
    """What is left are the kernels as they were, and the head is as good as one can be on them."""
    random = np.random.default_rng(3)
    sequences = random.normal(size=(1200, 5, 30)).astype(np.float32).cumsum(axis=2)
    target = np.asarray(sequences[:, 2, 20:].mean(axis=1) - sequences[:, 0, :5].mean(axis=1), np.float64)
    graph = make_kernels(5, 30, 200, 1, sequences[:800])
    kernels = kernel_features(graph, sequences)

    def learn(some: bytes) -> Head:
        return HeadStatistics.of(kernel_features(some, sequences[:800]), target[:800]).solve(1.0)

    head = learn(graph)
    variants = kernel_variants(graph, learn)
    judge = LifeJudge(rows=sequences[800:], target=target[800:])
    report = compress("kernels", variants, judge, GENEROUS)[1]

    by_name = {variant.name: variant for variant in variants}
    assert list(by_name) == ["original", "float16 weights", "int8 weights", "50% of the kernels", "25% of the kernels"]
    assert [one.metric < 1.5 * report.measured[0].metric for one in report.measured[:3]] == [True] * 3
    half = by_name["50% of the kernels"]
    _, kept = fewer_kernels(graph, np.abs(head.weights).sum(axis=1), 0.5)
    np.testing.assert_allclose(kernel_features(half.graph, sequences), kernels[:, kept], atol=1e-5)
    assert half.head is not None
    alone = HeadStatistics.of(kernels[:800, kept], target[:800]).solve(1.0)
    np.testing.assert_allclose(half.head.weights, alone.weights, atol=1e-8)
    assert report.measured[3].size_bytes < 0.75 * report.measured[0].size_bytes


def test_what_is_no_graph_of_kernels_has_no_fewer(graph: bytes) -> None:
    with pytest.raises(ExportError, match="no graph of 7 kernels"):
        fewer_kernels(graph, np.ones(7), 0.5)


def test_the_report_is_a_table_and_a_record(report: Compression) -> None:
    told = report.markdown()

    assert told.count("\n|") == 2 + len(report.measured)
    assert f"| {report.chosen} |" in told
    assert told.count("chosen |") == 1
    again = msgspec.json.decode(msgspec.json.encode(report), type=Compression)
    assert again == report


def test_rows_are_repeated_where_there_are_too_few() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)

    assert [part.tolist() for part in parts_of(rows, 4)] == [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [0.0, 1.0]]]
    assert len(parts_of(rows, 1)) == 3


def test_time_is_told_a_row() -> None:
    """A row costs the same however many are asked together, when all the work is by row."""
    work = np.random.default_rng(1).normal(size=(80, 80))
    rows = np.zeros((200, 6), np.float32)

    alone, batched = (
        us_per_row(lambda some: [work @ work for _ in some], parts_of(rows, batch), batch) for batch in (1, 4)
    )

    assert 0.2 < alone / batched < 5.0
