"""Linear heads on fixed kernels: what is learned of sequences is a sum over windows, so sites add up exactly.

The kernels of a bundle never change (see ``docs/explanation/sequence-models.md``); a head is the ridge regression of
one or more targets on them, and needs of all windows ever seen only the sums in `HeadStatistics`. Sums of parts equal
the sum of the whole, so heads of several sites, or of a bundle and a gateway's own windows, are solved from added
statistics as if all windows had been in one place, and none has to leave its site.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from models.records import Float32Array, FloatArray

MAX_COLUMNS = 4096
MAX_OUTPUTS = 256
_BATCH = 4096
_BLOCK = 64


class HeadError(ValueError):
    """Statistics or a head cannot be used; the head in use stays."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear map from kernels to what is predicted.

    Attributes:
        weights: Shape ``(K, o)``.
        bias: Shape ``(o,)``.
        ridge: With which it was solved, to solve it anew from added statistics; 0: not known.

    Example:
        >>> head = Head(weights=np.array([[2.0], [0.5]]), bias=np.array([1.0]))
        >>> head.predict(np.array([[3.0, 4.0]]))
        array([[9.]])
    """

    weights: FloatArray
    bias: FloatArray
    ridge: float = 0.0

    def predict(self, features: FloatArray | Float32Array) -> FloatArray:
        """Return the predictions, shape ``(n, o)``, of kernels of shape ``(n, K)``, summed in float64."""
        return np.asarray(features.astype(np.float64, copy=False) @ self.weights + self.bias)


@dataclass(frozen=True, kw_only=True)
class HeadStatistics:
    """All that a ridge regression needs to know of the windows it learns from; sums, so they add and subtract.

    Attributes:
        gram: Sum over windows of ``weight * z zᵀ``, shape ``(K+1, K+1)``, where ``z`` is the kernels and a final 1. Its
            last entry is the sum of the weights.
        moment: Sum of ``weight * z tᵀ`` with the targets ``t``, shape ``(K+1, o)``.
        square: Sum of ``weight * t²``, shape ``(o,)``: with it a head's error on these windows is known without them.
        rows: Number of windows.
    """

    gram: FloatArray
    moment: FloatArray
    square: FloatArray
    rows: int

    @classmethod
    def empty(cls, columns: int, outputs: int) -> Self:
        """Return the statistics of no window, of *columns* kernels and *outputs* targets."""
        return cls(
            gram=np.zeros((columns + 1, columns + 1)),
            moment=np.zeros((columns + 1, outputs)),
            square=np.zeros(outputs),
            rows=0,
        )

    @classmethod
    def of(cls, features: FloatArray | Float32Array, targets: FloatArray, weights: FloatArray | None = None) -> Self:
        """Return the statistics of some windows.

        Args:
            features: Their kernels, shape ``(n, K)``.
            targets: What is to be predicted, shape ``(n,)`` or ``(n, o)``.
            weights: How much each window counts, 0 or more, shape ``(n,)``; all 1 if left out.

        Raises:
            HeadError: If something is not finite, a weight is negative, or the shapes do not fit.
        """
        wanted = as_columns(targets)
        counts = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
        if (
            features.ndim != 2
            or len(wanted) != len(features)
            or counts.shape != (len(features),)
            or not (counts >= 0.0).all()
        ):
            raise HeadError("kernels, targets and weights of the windows do not fit together")
        columns, outputs = features.shape[1], wanted.shape[1]
        gram, moment = np.zeros((columns + 1, columns + 1)), np.zeros((columns + 1, outputs))
        for start in range(0, len(features), _BATCH):
            part = slice(start, start + _BATCH)
            root = np.sqrt(counts[part, None])
            given = np.column_stack([features[part].astype(np.float64), np.ones(len(root))]) * root
            gram += given.T @ given
            moment += given.T @ (wanted[part] * root)
        square = counts @ wanted**2
        if not (np.isfinite(gram).all() and np.isfinite(moment).all() and np.isfinite(square).all()):
            raise HeadError("kernels, targets or weights of the windows are not finite")
        return cls(gram=gram, moment=moment, square=square, rows=len(features))

    @property
    def columns(self) -> int:
        """Number of kernels."""
        return len(self.gram) - 1

    @property
    def outputs(self) -> int:
        """Number of targets."""
        return int(self.moment.shape[1])

    def __add__(self, other: Self) -> Self:
        """Return the statistics of the windows of both.

        Raises:
            HeadError: If they are not of as many kernels and targets.
        """
        return self._with(other, 1)

    def __sub__(self, other: Self) -> Self:
        """Return the statistics of these windows without those of *other*, which must be among them.

        Raises:
            HeadError: If they are not of as many kernels and targets, or *other* has more windows.
        """
        if other.rows > self.rows:
            raise HeadError(f"{other.rows} windows cannot be taken from {self.rows}")
        return self._with(other, -1)

    def solve(self, ridge: float) -> Head:
        """Return the head with the least ``sum(weight * (prediction - target)²) + ridge * sum(weights²)``.

        The bias is free of the penalty. It is solved around the mean, by Cholesky, or by eigenvalues where rounding has
        left the matrix without a Cholesky root.

        Args:
            ridge: Above 0, in units of windows: how many windows' worth of evidence a weight has against it.

        Raises:
            HeadError: If there is no window, or no finite solution.
        """
        total = self.gram[-1, -1]
        if not (ridge > 0.0 and total > 0.0):
            raise HeadError(f"a head of {self.rows} windows with ridge {ridge:g} has no solution")
        mean, target = self.gram[-1, :-1] / total, self.moment[-1] / total
        covariance = self.gram[:-1, :-1] - total * np.outer(mean, mean)
        covariance[np.diag_indices_from(covariance)] += ridge
        weights = _solve_positive(covariance, self.moment[:-1] - total * np.outer(mean, target), floor=ridge)
        if not np.isfinite(weights).all():
            raise HeadError(f"a head of {self.rows} windows with ridge {ridge:g} has no finite solution")
        return Head(weights=weights, bias=target - mean @ weights, ridge=ridge)

    def squared_error(self, head: Head) -> FloatArray:
        """Return the weighted sum of the squared errors of *head* on these windows, shape ``(o,)``, 0 or more."""
        whole = np.vstack([head.weights, head.bias])
        error: FloatArray = (
            self.square - 2.0 * (whole * self.moment).sum(axis=0) + (whole * (self.gram @ whole)).sum(axis=0)
        )
        return np.maximum(error, 0.0)

    def _with(self, other: Self, sign: int) -> Self:
        if self.moment.shape != other.moment.shape:
            raise HeadError(
                f"statistics of {self.columns} kernels and {self.outputs} targets do not go with those of "
                f"{other.columns} and {other.outputs}"
            )
        return type(self)(
            gram=self.gram + sign * other.gram,
            moment=self.moment + sign * other.moment,
            square=self.square + sign * other.square,
            rows=self.rows + sign * other.rows,
        )


def as_columns(targets: FloatArray) -> FloatArray:
    """Return *targets* ``(n,)`` or ``(n, o)`` as ``(n, o)``, float64."""
    wanted = np.asarray(targets, np.float64)
    return wanted[:, None] if wanted.ndim == 1 else wanted


def _solve_positive(matrix: FloatArray, right: FloatArray, *, floor: float) -> FloatArray:
    """Return ``matrix⁻¹ right`` for a symmetric *matrix* whose eigenvalues are, but for rounding, *floor* or more."""
    try:
        root = np.asarray(np.linalg.cholesky(matrix), np.float64)
    except np.linalg.LinAlgError:
        return _solve_by_eigenvalues(matrix, right, floor=floor)
    return _solve_lower(root[::-1, ::-1].T, _solve_lower(root, right)[::-1])[::-1]


def _solve_by_eigenvalues(matrix: FloatArray, right: FloatArray, *, floor: float) -> FloatArray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors @ ((vectors.T @ right) / np.maximum(values, floor)[:, None]))


def _solve_lower(lower: FloatArray, right: FloatArray) -> FloatArray:
    """Return ``lower⁻¹ right`` of a lower triangle, by blocks; an upper one is a lower one read backwards."""
    solution = np.array(right, np.float64)
    for start in range(0, len(lower), _BLOCK):
        here = slice(start, start + _BLOCK)
        solution[here] -= lower[here, :start] @ solution[:start]
        solution[here] = np.linalg.solve(lower[here, here], solution[here])
    return solution
