"""A detector's members as one ONNX graph, and what each answers by its trainer's own arithmetic.

All members look at *screened* inputs: some columns of the models' inputs, each less its centre and in multiples of what
it strays in good health. The graph is built by hand. The general converters make 27 nodes of each isolation tree, and
give an MLP with several outputs a wrong shape; here a member is a handful of nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from sklearn.ensemble import IsolationForest

from models.export.graph import INPUT, ExportError, finish, missing_as_zero
from models.export.isolation_forest import forest_nodes, reference_scores, thresholds_of
from models.records import Float32Array, FloatArray

OUTPUT: Final = "members"
MAX_STRAY: Final = 100.0
AUTOENCODER_REACH: Final = 10.0

Part = tuple[list[NodeProto], list[TensorProto]]


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Which inputs a member looks at, and in what units.

    Attributes:
        columns: Columns of the inputs, shape ``(k,)``.
        centre: Taken off, shape ``(k,)``.
        stray: What each strays in good health, above 0, shape ``(k,)``.
    """

    columns: NDArray[np.int64]
    centre: FloatArray
    stray: FloatArray

    @property
    def weight(self) -> Float32Array:
        """What inputs are multiplied by, shape ``(k,)``."""
        return np.asarray(1.0 / self.stray, np.float32)

    def __call__(self, rows: Float32Array) -> Float32Array:
        """Return the screened inputs of *rows* ``(n, i)`` without NaN, shape ``(n, k)``, as the graph computes them."""
        screened = (rows[:, self.columns] - self.centre.astype(np.float32)) * self.weight
        return np.asarray(np.clip(screened, np.float32(-MAX_STRAY), np.float32(MAX_STRAY)), np.float32)


@dataclass(frozen=True, kw_only=True)
class Largest:
    """A control chart of each input: the largest stray of any; what one instrument alone shows."""

    def __call__(self, screened: Float32Array) -> FloatArray:
        """Return the largest absolute value of each row ``(n, k)``, shape ``(n,)``."""
        return np.asarray(np.abs(screened).max(axis=1), np.float64)

    def nodes(self, source: str, target: str) -> Part:
        """Return what answers for *source* in *target* ``(n, 1)``."""
        size = f"{target}_size"
        return [
            helper.make_node("Abs", [source], [size]),
            helper.make_node("ReduceMax", [size], [target], axes=[1], keepdims=1),
        ], []


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """Hotelling's T² within the main directions and Q beside them, as one index: the length of ``row @ loadings``.

    Attributes:
        loadings: Shape ``(k, k)``: directions, each in units of its own limit.

    Source:
        H. H. Yue, S. J. Qin, *Reconstruction-based fault identification using a combined index*, Ind. Eng. Chem. Res.
        40 (2001) 4403-4414: ``T²/limit + Q/limit``.
    """

    loadings: FloatArray

    def __call__(self, screened: Float32Array) -> FloatArray:
        """Return the index of each row ``(n, k)``, shape ``(n,)``."""
        return np.asarray(np.linalg.norm(screened @ self.loadings, axis=1), np.float64)

    def nodes(self, source: str, target: str) -> Part:
        """Return what answers for *source* in *target* ``(n, 1)``."""
        loadings, scores = f"{target}_loadings", f"{target}_scores"
        return [
            helper.make_node("MatMul", [source, loadings], [scores]),
            helper.make_node("ReduceL2", [scores], [target], axes=[1], keepdims=1),
        ], [_constant(loadings, self.loadings)]


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """A network with a narrow hidden layer that gives back what is put in; what it cannot give back is unusual.

    Attributes:
        first: Weights to the hidden layer, shape ``(k, h)``; it answers with a hyperbolic tangent.
        first_bias: Shape ``(h,)``.
        second: Weights from it, shape ``(h, k)``.
        second_bias: Shape ``(k,)``.
    """

    first: FloatArray
    first_bias: FloatArray
    second: FloatArray
    second_bias: FloatArray

    def reconstruct(self, screened: Float32Array) -> FloatArray:
        """Return what the network gives back for each row ``(n, k)``; it is put in within ±10."""
        given = np.clip(screened, -AUTOENCODER_REACH, AUTOENCODER_REACH)
        hidden = np.tanh(given @ self.first + self.first_bias)
        return np.asarray(hidden @ self.second + self.second_bias, np.float64)

    def __call__(self, screened: Float32Array) -> FloatArray:
        """Return the root mean square of what is not given back, shape ``(n,)``."""
        return np.asarray(np.sqrt(np.mean((screened - self.reconstruct(screened)) ** 2, axis=1)), np.float64)

    def nodes(self, source: str, target: str) -> Part:
        """Return what answers for *source* in *target* ``(n, 1)``."""
        given, summed, hidden, again, rest, length, low, high, share = (
            f"{target}_{what}"
            for what in ("given", "summed", "hidden", "again", "rest", "length", "low", "high", "share")
        )
        names = [f"{target}_{what}" for what in ("first", "first_bias", "second", "second_bias")]
        weights = (self.first, self.first_bias, self.second, self.second_bias)
        return [
            helper.make_node("Clip", [source, low, high], [given]),
            helper.make_node("Gemm", [given, names[0], names[1]], [summed]),
            helper.make_node("Tanh", [summed], [hidden]),
            helper.make_node("Gemm", [hidden, names[2], names[3]], [again]),
            helper.make_node("Sub", [source, again], [rest]),
            helper.make_node("ReduceL2", [rest], [length], axes=[1], keepdims=1),
            helper.make_node("Mul", [length, share], [target]),
        ], [
            *(_constant(name, numbers) for name, numbers in zip(names, weights, strict=True)),
            helper.make_tensor(low, TensorProto.FLOAT, [], [-AUTOENCODER_REACH]),
            helper.make_tensor(high, TensorProto.FLOAT, [], [AUTOENCODER_REACH]),
            helper.make_tensor(share, TensorProto.FLOAT, [], [1.0 / math.sqrt(len(self.second_bias))]),
        ]


@dataclass(frozen=True, kw_only=True)
class Forest:
    """An isolation forest of screened inputs; see ``models.export.isolation_forest``."""

    forest: IsolationForest

    def __call__(self, screened: Float32Array) -> FloatArray:
        """Return the score of each row ``(n, k)``, shape ``(n,)``: about 0.5 is ordinary, towards 1 is not."""
        return reference_scores(self.forest, screened)

    def nodes(self, source: str, target: str) -> Part:
        """Return what answers for *source* in *target* ``(n, 1)``."""
        return forest_nodes(self.forest, source, target)


MemberModel = Largest | PrincipalComponents | Autoencoder | Forest


@dataclass(frozen=True, kw_only=True)
class DetectorModel:
    """A trained detector: its members in the order of the graph's columns, each with the screen it looks through."""

    members: tuple[tuple[Screen, MemberModel], ...]

    def __call__(self, rows: Float32Array) -> FloatArray:
        """Return the answers for *rows* ``(n, i)`` without NaN, shape ``(n, members)``, by the trainers' arithmetic."""
        return np.stack([member(screen(rows)) for screen, member in self.members], axis=1)

    @property
    def splits(self) -> list[tuple[int, float]]:
        """Splits of the forests as ``(input, threshold)``, nearly: where to ask when answers are compared."""
        return [
            (int(screen.columns[column]), float(split * screen.stray[column] + screen.centre[column]))
            for screen, member in self.members
            if isinstance(member, Forest)
            for column, split in thresholds_of(member.forest)
        ]


def export_detector(model: DetectorModel, *, inputs: int) -> bytes:
    """Return *model* as an ONNX model, ``features (n, inputs)`` to ``members (n, members)``; NaN counts as 0.

    Raises:
        ExportError: If it has no member, or a number of it is not finite.
    """
    if not model.members:
        raise ExportError("detector: it has no member; nothing was exported")
    nodes, constants = missing_as_zero(INPUT, "present")
    sources: dict[int, str] = {}
    columns = []
    for place, (screen, member) in enumerate(model.members):
        source = sources.get(id(screen))
        if source is None:
            source = sources[id(screen)] = f"screened_{len(sources)}"
            _extend(nodes, constants, _screen_nodes(screen, source))
        columns.append(f"member_{place}")
        _extend(nodes, constants, member.nodes(source, columns[-1]))
    nodes.append(helper.make_node("Concat", columns, [OUTPUT], axis=1))
    return finish("detector", nodes, constants, inputs=inputs, output=OUTPUT, columns=len(columns))


def _screen_nodes(screen: Screen, target: str) -> Part:
    if not ((screen.stray > 0.0).all() and np.isfinite(screen.centre).all() and np.isfinite(screen.weight).all()):
        raise ExportError("detector: what its inputs stray is not finite and above 0; nothing was exported")
    columns, centre, weight, low, high, chosen, moved, scaled = (
        f"{target}_{what}" for what in ("columns", "centre", "weight", "low", "high", "chosen", "moved", "scaled")
    )
    return [
        helper.make_node("Gather", ["present", columns], [chosen], axis=1),
        helper.make_node("Sub", [chosen, centre], [moved]),
        helper.make_node("Mul", [moved, weight], [scaled]),
        helper.make_node("Clip", [scaled, low, high], [target]),
    ], [
        helper.make_tensor(columns, TensorProto.INT64, [len(screen.columns)], screen.columns.tolist()),
        _constant(centre, screen.centre),
        _constant(weight, screen.weight),
        helper.make_tensor(low, TensorProto.FLOAT, [], [-MAX_STRAY]),
        helper.make_tensor(high, TensorProto.FLOAT, [], [MAX_STRAY]),
    ]


def _extend(nodes: list[NodeProto], constants: list[TensorProto], part: Part) -> None:
    nodes.extend(part[0])
    constants.extend(part[1])


def _constant(name: str, numbers: FloatArray | Float32Array) -> TensorProto:
    if not np.isfinite(numbers).all():
        raise ExportError(f"detector: {name} holds a number that is not finite; nothing was exported")
    return helper.make_tensor(name, TensorProto.FLOAT, numbers.shape, np.asarray(numbers, np.float32).ravel().tolist())
