"""Life models as parts of a bundle: exported, and proven against their trainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import lightgbm as lgb
import numpy as np

from cloud_service.training.gru import Gru, export_gru
from cloud_service.training.sequence import kernel_batches
from models.bundle.contents import GRU, GRU_CUT, LIFE, LIFE_CUT, PROGNOSIS
from models.export.graph import without_missing
from models.export.lightgbm import export_life, thresholds_of
from models.export.parity import TOLERANCE, Parity, check_parity, gate_rows, gate_sequences
from models.prognosis.life import LIFE_CUT_HEAD, LIFE_HEAD, Graph, LifeModels
from models.prognosis.prognoses import Member, Prognoses, Variant, encode_prognoses
from models.records import Float32Array, FloatArray
from models.sequence.heads import Head, HeadStatistics


@dataclass(frozen=True, kw_only=True)
class VariantReport:
    """What cross-validation said of one variant.

    Attributes:
        trees: Number of trees chosen.
        ridge: Of the head, NaN where there is none.
        weights: Of the members.
        rmse_h: Of each member and of the ``blend``, in hours, each life counting the same.
        levels: Of P10 and P90, as chosen; see ``conformal``.
        coverage: Share of lives between P10 and P90 where the offsets come from other lives.
        least_windows: Known windows from which on there is a prognosis.
        lives: Learnt from.
        rows: Windows learnt from.
    """

    trees: int
    ridge: float
    weights: Mapping[Member, float]
    rmse_h: Mapping[str, float]
    levels: tuple[float, float]
    coverage: float
    least_windows: int
    lives: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class FittedPrognosis:
    """The life models of a class, as parts of a bundle and as their trainers know them.

    Attributes:
        prognosis: How the members are read.
        parts: ``life.onnx`` and ``gru.onnx``, the same for cut histories, as far as there are such; ``prognosis.json``.
        heads: On the kernels, by name, for ``heads.msgpack``.
        statistics: What the heads were solved from, for ``statistics.msgpack``.
        boosters: The trees' trainers, by part.
        units: The recurrent units' trainers, by part.
        kernels: The graph of the kernels that the heads are on, None without heads.
        proofs: How closely the graphs answer as the boosters.
        reports: By variant, ``whole`` and ``cut``.
    """

    prognosis: Prognoses
    parts: Mapping[str, bytes]
    heads: Mapping[str, Head]
    statistics: Mapping[str, HeadStatistics]
    boosters: Mapping[str, lgb.Booster] = field(repr=False)
    units: Mapping[str, Gru] = field(repr=False)
    kernels: bytes | None = field(repr=False)
    proofs: tuple[Parity, ...]
    reports: Mapping[str, VariantReport]

    @property
    def trainers(self) -> LifeModels:
        """The trainers in place of a bundle's graphs: LightGBM in float64, and the heads on the same kernels."""
        return _Trainers(self)


@dataclass(frozen=True, kw_only=True)
class FittedVariant:
    """The members for one kind of history, how they are read, and what they learnt from."""

    booster: lgb.Booster
    head: Head | None
    statistics: HeadStatistics | None
    unit: Gru | None
    variant: Variant
    report: VariantReport
    inputs: Float32Array
    sequences: Float32Array | None


def export_prognosis(
    fitted: Mapping[str, FittedVariant], prognosis: Prognoses, seed: int, kernels: bytes | None
) -> FittedPrognosis:
    """Export those members of *fitted* that *prognosis* gives a weight, and prove them.

    Args:
        fitted: By variant, ``whole`` and ``cut``.
        prognosis: How they are read.
        seed: Of the rows that graphs and trainers are both asked.
        kernels: The graph of the kernels that heads are on.

    Raises:
        ParityError: If a graph does not answer as its trainer.
    """
    names = {"whole": (LIFE, LIFE_HEAD, GRU), "cut": (LIFE_CUT, LIFE_CUT_HEAD, GRU_CUT)}
    parts, proofs = {PROGNOSIS: encode_prognoses(prognosis)}, []
    boosters, heads, statistics, units = {}, {}, {}, {}
    # Lives as long as the cap are added up with the digits of float32, also to answers near 0.
    near = TOLERANCE * max(prognosis.cap_h, 1.0)
    for name, one in fitted.items():
        part, head, gru = names[name]
        members = prognosis.members[name]
        if "trees" in members:
            parts[part] = export_life(one.booster)
            boosters[part] = one.booster
            asked = gate_rows(one.inputs, thresholds_of(one.booster), seed=seed)
            proofs.append(check_parity(part, parts[part], _reference(one.booster), asked, tolerance=near))
        if "gru" in members and one.unit is not None and one.sequences is not None:
            parts[gru] = export_gru(one.unit, one.sequences.shape[1], one.sequences.shape[2])
            units[gru] = one.unit
            asked = gate_sequences(one.sequences, seed=seed)
            proofs.append(check_parity(gru, parts[gru], one.unit.predict, asked, tolerance=near))
        if "kernels" in members and one.head is not None and one.statistics is not None:
            heads[head], statistics[head] = one.head, one.statistics
    return FittedPrognosis(
        prognosis=prognosis,
        parts=parts,
        heads=heads,
        statistics=statistics,
        boosters=boosters,
        units=units,
        kernels=kernels if heads else None,
        proofs=tuple(proofs),
        reports={name: one.report for name, one in fitted.items()},
    )


class _Trainers:
    """The trainers in place of the graphs of a bundle."""

    def __init__(self, fitted: FittedPrognosis) -> None:
        self.prognosis = fitted.prognosis
        self.life = self._trees(fitted, LIFE)
        self.life_cut = self._trees(fitted, LIFE_CUT)
        self.gru: Graph | None = fitted.units[GRU].predict if GRU in fitted.units else None
        self.gru_cut: Graph | None = fitted.units[GRU_CUT].predict if GRU_CUT in fitted.units else None
        self.heads = fitted.heads
        graph = fitted.kernels
        self.kernels: Graph | None = None if graph is None else lambda rows: _all_kernels(graph, rows)

    @staticmethod
    def _trees(fitted: FittedPrognosis, part: str) -> Graph | None:
        booster = fitted.boosters.get(part)
        if booster is None:
            return None
        reference = _reference(booster)
        return lambda rows: reference(without_missing(rows))[:, None]


def _all_kernels(graph: bytes, rows: Float32Array) -> FloatArray:
    return np.concatenate(list(kernel_batches(graph, rows))).astype(np.float64)


def _reference(booster: lgb.Booster) -> Callable[[Float32Array], FloatArray]:
    return lambda rows: np.asarray(booster.predict(rows), np.float64)
