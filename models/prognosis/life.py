from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.prognosis.prognoses import Member, Prognoses, PrognosisError, Variant, blend, quantiles
from models.records import Basis, BoolArray, Float32Array, FloatArray
from models.scoring import Prepared
from models.sequence.heads import Head

LIFE_HEAD: Final = "life"
LIFE_CUT_HEAD: Final = "life_cut"
_S_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Life:
    """Remaining life, row by window.

    Attributes:
        life_s: P10, P50, P90 in seconds, ascending, 0 or more, shape ``(n, 3)``; NaN where there is not enough data.
        basis: What each rests on, of ``models.records.Basis``, shape ``(n,)``.
    """

    life_s: FloatArray
    basis: NDArray[np.object_]


class Graph(Protocol):
    """A model that maps rows ``(n, ...)`` to answers ``(n, columns)``; lives are in hours."""

    def __call__(self, rows: Float32Array, /) -> FloatArray:
        """Return the answers to *rows*."""
        ...


class LifeModels(Protocol):
    """What of a bundle tells lives; None: the bundle has no such part."""

    @property
    def prognosis(self) -> Prognoses | None:
        """How the members are read."""
        ...

    @property
    def life(self) -> Graph | None:
        """Inputs to life, where it is known from its start."""
        ...

    @property
    def life_cut(self) -> Graph | None:
        """The same, where it is not."""
        ...

    @property
    def gru(self) -> Graph | None:
        """Sequences to life."""
        ...

    @property
    def gru_cut(self) -> Graph | None:
        """The same, where the life is not known from its start."""
        ...

    @property
    def kernels(self) -> Graph | None:
        """Sequences to kernels."""
        ...

    @property
    def heads(self) -> Mapping[str, Head]:
        """Heads on the kernels, by name."""
        ...


def predict_life(models: LifeModels, prepared: Prepared) -> Life | None:
    """Return the remaining life of each window's asset; None without a life model.

    A window whose asset's life is known from its start is judged by the models for whole histories. Others, and all
    where there is no such model, are judged by those for cut histories. Where fewer windows of the life are known than
    the models need, there is not enough data.
    """
    told = models.prognosis
    if told is None:
        return None
    basis = bases(told, prepared)
    life_s = np.full((len(prepared), 3), np.nan)
    for variant, kind in ((told.whole, Basis.WHOLE_HISTORY), (told.cut, Basis.CUT_HISTORY)):
        rows: BoolArray = np.asarray(basis == kind, np.bool_)
        if variant is not None and rows.any():
            answers = _answers(models, variant, prepared, rows, cut=kind is Basis.CUT_HISTORY)
            life_h = blend(told, variant, answers)
            life_s[rows] = quantiles(told, variant, life_h, prepared.windows_known[rows]) * _S_PER_HOUR
    return Life(life_s=life_s, basis=basis)


def bases(told: Prognoses, prepared: Prepared) -> NDArray[np.object_]:
    """Return what the prognosis of each window rests on, of ``models.records.Basis``, shape ``(n,)``."""
    basis = np.full(len(prepared), Basis.NOT_ENOUGH_DATA, np.object_)
    if told.cut is not None:
        basis[prepared.windows_known >= told.cut.least_windows] = Basis.CUT_HISTORY
    if told.whole is not None:
        basis[prepared.whole] = Basis.NOT_ENOUGH_DATA
        basis[prepared.whole & (prepared.windows_known >= told.whole.least_windows)] = Basis.WHOLE_HISTORY
    return basis


def check_life_models(models: LifeModels) -> None:
    """Check that every member that counts is there.

    Raises:
        PrognosisError: With the first member that is not.
    """
    told = models.prognosis
    if told is None:
        return
    for name, members in told.members.items():
        for member in sorted(members):
            if _graph(models, member, cut=name == "cut") is None or (
                member == "kernels" and _head(models, name) is None
            ):
                raise PrognosisError(f"the life of assets with a {name} history needs {member}, which is missing")


def _answers(
    models: LifeModels, variant: Variant, prepared: Prepared, rows: BoolArray, *, cut: bool
) -> dict[Member, FloatArray]:
    """Return the answers of the members of *variant* that count for *rows*, in hours, shape ``(rows,)`` each."""
    answers: dict[Member, FloatArray] = {}
    for member, weight in variant.weights.items():
        if weight <= 0.0:
            continue
        graph = _graph(models, member, cut=cut)
        given = prepared.inputs if member == "trees" else prepared.sequences
        if graph is None or given is None:
            raise PrognosisError(f"the life of assets needs {member}, which is missing")
        answer = graph(given[rows])
        if member == "kernels":
            answer = models.heads[LIFE_CUT_HEAD if cut else LIFE_HEAD].predict(answer)
        answers[member] = answer[:, 0]
    return answers


def _graph(models: LifeModels, member: Member, *, cut: bool) -> Graph | None:
    if member == "kernels":
        return models.kernels
    if member == "trees":
        return models.life_cut if cut else models.life
    return models.gru_cut if cut else models.gru


def _head(models: LifeModels, name: str) -> Head | None:
    return models.heads.get(LIFE_CUT_HEAD if name == "cut" else LIFE_HEAD)
