"""Fixed random convolution kernels: what sequence models see of an asset's last windows, without anything learned.

Each kernel mixes one or two channels, runs a short random filter without mean over the windows, spread out (dilated) to
look at short and long changes, and says in which share of the windows the result is above the kernel's own bias. Biases
are quantiles of the results on training sequences. What comes out depends on the shapes in a sequence and hardly on
their scale, and is bounded. Beside the kernels stand the levels, which filters without mean cannot see: each channel's
newest value and its mean over the sequence, bounded to 3 standard deviations.

The exported graph is itself the feature extractor in training, so training and gateway cannot differ. Mixing is its own
convolution of width 1, and the filters of one mix are one group: that costs a tenth of filters over all channels.
The edge at the bias is soft (a line over a tenth of the results), so that the last bit of a sum, which another
processor rounds otherwise, moves the output by a last bit and not by a step.

Source:
    A. Dempster, D. F. Schmidt, G. I. Webb, *MiniRocket: a very fast (almost) deterministic transform for time series
    classification*, KDD 2021, for the share above a quantile; the rest is by trial, see
    ``docs/explanation/sequence-models.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.bundle.model import session_of
from models.export.graph import SEQUENCE, finish
from models.records import Float32Array, FloatArray

OUTPUT = "kernels"
MIXES = 100
_LENGTH = 7
_DILATIONS = 4
_SOFT_SHARE = 0.1
_ASKED = 512
_SCALED = 2048
_LEAST_SPREAD = 1e-4
_LEVEL_LIMIT = 3.0
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Kernels of one dilation: mixes ``(m, C)``, filters ``(m * k, length)`` and their biases."""

    dilation: int
    mixes: FloatArray
    filters: FloatArray
    biases: FloatArray


def make_kernels(channels: int, windows: int, count: int, seed: int, sequences: Float32Array) -> bytes:
    """Return the graph ``sequence (n, channels, windows)`` to ``kernels (n, K)``, float32.

    The columns are *count* kernels, then each channel's newest value, then each channel's mean: ``K = count + 2
    channels``. All have mean 0 and standard deviation 1 over a sample of *sequences*.

    Args:
        channels: Channels of a sequence.
        windows: Length of a sequence, at least 3.
        count: Number of kernels, a multiple of 100.
        seed: The same seed and sequences give the same kernels.
        sequences: Training sequences, shape ``(n, channels, windows)``, finite.

    Raises:
        ValueError: If *count* or the sequences do not fit.
    """
    if count < MIXES or count % MIXES:
        raise ValueError(f"{count} kernels: the number must be a multiple of {MIXES}")
    if windows < 3 or sequences.shape[1:] != (channels, windows) or not len(sequences):
        raise ValueError(f"sequences of shape {sequences.shape} where (n, {channels}, {windows}) are due")
    rng = np.random.default_rng(seed)
    asked = _sample(sequences, _ASKED, rng)
    spread = np.maximum(asked.std(axis=(0, 2), dtype=np.float64), _LEAST_SPREAD)
    dilations = _dilations(windows)
    blocks = [
        _joined([_with_biases(_draw(rng, dilation, count // MIXES, spread, windows), asked, rng) for _ in mixes])
        for dilation, mixes in zip(dilations, np.array_split(np.arange(MIXES), len(dilations)), strict=True)
    ]
    made = np.concatenate(list(kernel_batches(_graph(blocks, channels, windows), _sample(sequences, _SCALED, rng))))
    centre, scale = made.mean(axis=0, dtype=np.float64), made.std(axis=0, dtype=np.float64)
    return _graph(blocks, channels, windows, scaling=(centre, 1.0 / np.where(scale > _LEAST_SPREAD, scale, 1.0)))


def kernel_batches(graph: bytes, sequences: Float32Array, *, batch: int = _BATCH) -> Iterator[Float32Array]:
    """Yield the kernels of *sequences*, shape ``(n, C, L)``, in parts of *batch* rows, on one thread."""
    session = session_of(graph)
    for start in range(0, len(sequences), batch):
        part = np.ascontiguousarray(sequences[start : start + batch], np.float32)
        yield np.asarray(session.run(None, {SEQUENCE: part})[0], np.float32)


def kernel_features(graph: bytes, sequences: Float32Array) -> Float32Array:
    """Return the kernels of *sequences* ``(n, C, L)``, shape ``(n, K)``, as a gateway computes them."""
    made = np.empty((len(sequences), session_of(graph).get_outputs()[0].shape[1]), np.float32)
    for number, part in enumerate(kernel_batches(graph, sequences)):
        made[number * _BATCH : number * _BATCH + len(part)] = part
    return made


def _sample(sequences: Float32Array, most: int, rng: np.random.Generator) -> Float32Array:
    if len(sequences) <= most:
        return sequences
    return sequences[np.sort(rng.choice(len(sequences), most, replace=False))]


def _dilations(windows: int) -> list[int]:
    """Return up to four dilations, from neighbours to as wide as fits into *windows*."""
    widest = max((windows - 1) // (_LENGTH - 1), 1)
    return [int(dilation) for dilation in np.unique(np.rint(np.geomspace(1, widest, _DILATIONS)))]


def _draw(rng: np.random.Generator, dilation: int, filters: int, spread: FloatArray, windows: int) -> _Block:
    """Return the kernels of one mix, without biases yet."""
    mix = np.zeros((1, len(spread)))
    chosen = rng.choice(len(spread), min(int(rng.integers(1, 3)), len(spread)), replace=False)
    weight = rng.normal(size=len(chosen))
    mix[0, chosen] = weight / (np.linalg.norm(weight) * spread[chosen])
    drawn = rng.normal(size=(filters, min(_LENGTH, windows)))
    drawn -= drawn.mean(axis=1, keepdims=True)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return _Block(dilation=dilation, mixes=mix, filters=drawn, biases=np.zeros(filters))


def _joined(parts: Sequence[_Block]) -> _Block:
    return _Block(
        dilation=parts[0].dilation,
        mixes=np.concatenate([part.mixes for part in parts]),
        filters=np.concatenate([part.filters for part in parts]),
        biases=np.concatenate([part.biases for part in parts]),
    )


def _with_biases(block: _Block, asked: Float32Array, rng: np.random.Generator) -> _Block:
    """Return *block* scaled so that what lies between two near quantiles of its results lies between 0 and 1."""
    raw = np.concatenate(list(kernel_batches(_results_graph(block, *asked.shape[1:]), asked))).astype(np.float64)
    ordered = np.sort(
        raw.reshape(len(asked), len(block.filters), -1).transpose(1, 0, 2).reshape(len(block.filters), -1)
    )
    middle = rng.uniform(0.0, 1.0, len(ordered))
    rows, last = np.arange(len(ordered)), ordered.shape[1] - 1
    low = ordered[rows, np.rint(np.maximum(middle - _SOFT_SHARE / 2, 0.0) * last).astype(int)]
    high = ordered[rows, np.rint(np.minimum(middle + _SOFT_SHARE / 2, 1.0) * last).astype(int)]
    wide = np.maximum(high - low, _LEAST_SPREAD * np.maximum(ordered.std(axis=1), 1.0))
    return _Block(dilation=block.dilation, mixes=block.mixes, filters=block.filters / wide[:, None], biases=-low / wide)


def _graph(
    blocks: Sequence[_Block], channels: int, windows: int, scaling: tuple[FloatArray, FloatArray] | None = None
) -> bytes:
    count = sum(len(block.filters) for block in blocks)
    columns = count + 2 * channels
    centre, scale = scaling or (np.zeros(columns), np.ones(columns))
    # Kernels are bounded by what they are, levels by a multiple of their spread.
    limit = np.where(np.arange(columns) < count, np.inf, _LEVEL_LIMIT) if scaling else np.full(columns, np.inf)
    limit = np.minimum(limit, np.finfo(np.float32).max)
    constants = [
        _constant("zero", np.zeros(())),
        _constant("one", np.ones(())),
        _constant("centre", centre[None]),
        _constant("scale", scale[None]),
        _constant("highest", limit[None]),
        _constant("lowest", -limit[None]),
    ]
    nodes: list[NodeProto] = []
    for number, block in enumerate(blocks):
        made, held = _filter_nodes(block, f"d{number}")
        nodes += [*made, *_share_nodes(f"d{number}")]
        constants += held
    made, held = _level_nodes(windows)
    shares = [f"d{number}_share" for number in range(len(blocks))]
    nodes += [
        *made,
        helper.make_node("Concat", [*shares, "newest", "mean"], ["columns"], axis=1),
        helper.make_node("Sub", ["columns", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Min", ["scaled", "highest"], ["not_high"]),
        helper.make_node("Max", ["not_high", "lowest"], [OUTPUT]),
    ]
    return finish(
        OUTPUT, nodes, [*constants, *held], inputs=(channels, windows), output=OUTPUT, columns=columns, source=SEQUENCE
    )


def _results_graph(block: _Block, channels: int, windows: int) -> bytes:
    """Return the graph of what the filters of *block* say before pooling, ``(n, filters * places)``."""
    nodes, constants = _filter_nodes(block, "d")
    nodes.append(helper.make_node("Flatten", ["d_result"], [OUTPUT], axis=1))
    filters, length = block.filters.shape
    columns = filters * (windows - block.dilation * (length - 1))
    return finish(OUTPUT, nodes, constants, inputs=(channels, windows), output=OUTPUT, columns=columns, source=SEQUENCE)


def _filter_nodes(block: _Block, name: str) -> tuple[list[NodeProto], list[TensorProto]]:
    constants = [
        _constant(f"{name}_mixes", block.mixes[:, :, None]),
        _constant(f"{name}_filters", block.filters[:, None, :]),
        _constant(f"{name}_biases", block.biases),
    ]
    nodes = [
        helper.make_node("Conv", [SEQUENCE, f"{name}_mixes"], [f"{name}_mixed"], kernel_shape=[1]),
        helper.make_node(
            "Conv",
            [f"{name}_mixed", f"{name}_filters", f"{name}_biases"],
            [f"{name}_result"],
            kernel_shape=[block.filters.shape[1]],
            dilations=[block.dilation],
            group=len(block.mixes),
        ),
    ]
    return nodes, constants


def _share_nodes(name: str) -> list[NodeProto]:
    return [
        helper.make_node("Clip", [f"{name}_result", "zero", "one"], [f"{name}_above"]),
        helper.make_node("GlobalAveragePool", [f"{name}_above"], [f"{name}_pooled"]),
        helper.make_node("Flatten", [f"{name}_pooled"], [f"{name}_share"], axis=1),
    ]


def _level_nodes(windows: int) -> tuple[list[NodeProto], list[TensorProto]]:
    nodes = [
        helper.make_node("Gather", [SEQUENCE, "last"], ["newest"], axis=2),
        helper.make_node("GlobalAveragePool", [SEQUENCE], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"], axis=1),
    ]
    return nodes, [helper.make_tensor("last", TensorProto.INT64, [], [windows - 1])]


def _constant(name: str, values: FloatArray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values, np.float32).reshape(values.shape), name)
