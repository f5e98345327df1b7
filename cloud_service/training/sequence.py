"""Fixed random convolution kernels: what sequence models see of an asset's last windows, without anything learned.

Each kernel mixes one or two channels, runs a short random filter without mean over the windows, spread out (dilated) to
look at short and long changes, and says in which share of the windows the result is above the kernel's own bias. Biases
are quantiles of the results on training sequences. What comes out depends on the shapes in a sequence and hardly on
their scale, is bounded, and carries linear heads (``models.sequence.heads``) well.

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
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.export.graph import SEQUENCE, finish
from models.records import Float32Array, FloatArray

OUTPUT = "kernels"
KERNELS_PER_MIX = 25
_LENGTH = 7
_DILATIONS = 4
_SOFT_SHARE = 0.1
_ASKED = 512
_SCALED = 2048
_LEAST_SPREAD = 1e-4
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Kernels of one dilation: mixes ``(m, C)``, filters ``(m * KERNELS_PER_MIX, length)`` and their biases."""

    dilation: int
    mixes: FloatArray
    filters: FloatArray
    biases: FloatArray


def make_kernels(channels: int, windows: int, count: int, seed: int, sequences: Float32Array) -> bytes:
    """Return the graph of *count* kernels, ``sequence (n, channels, windows)`` to ``kernels (n, count)``, float32.

    Args:
        channels: Channels of a sequence.
        windows: Length of a sequence, at least 3.
        count: Number of kernels, a multiple of 25.
        seed: The same seed and sequences give the same kernels.
        sequences: Training sequences, shape ``(n, channels, windows)``; biases and the scaling of the outputs (mean 0,
            standard deviation 1 over these sequences) are of a sample of them.

    Raises:
        ValueError: If *count* or the sequences do not fit.
    """
    if count < KERNELS_PER_MIX or count % KERNELS_PER_MIX:
        raise ValueError(f"{count} kernels: the number must be a multiple of {KERNELS_PER_MIX}")
    if windows < 3 or sequences.shape[1:] != (channels, windows) or not len(sequences):
        raise ValueError(f"sequences of shape {sequences.shape} where (n, {channels}, {windows}) are due")
    rng = np.random.default_rng(seed)
    asked = sequences[np.sort(rng.choice(len(sequences), min(len(sequences), _ASKED), replace=False))]
    spread = np.maximum(asked.std(axis=(0, 2), dtype=np.float64), _LEAST_SPREAD)
    dilations = _dilations(windows, count // KERNELS_PER_MIX)
    share = np.array_split(np.arange(count // KERNELS_PER_MIX), len(dilations))
    blocks = [
        _joined([_with_biases(_draw(rng, dilation, spread, windows), asked, rng) for _ in mixes])
        for dilation, mixes in zip(dilations, share, strict=True)
    ]
    plain = _graph(blocks, channels, windows, scaling=None)
    sample = sequences[np.sort(rng.choice(len(sequences), min(len(sequences), _SCALED), replace=False))]
    made = np.concatenate(list(kernel_batches(plain, sample))).astype(np.float64)
    scale = made.std(axis=0)
    scale = np.where(scale > _LEAST_SPREAD, scale, 1.0)
    return _graph(blocks, channels, windows, scaling=(made.mean(axis=0), 1.0 / scale))


def kernel_batches(graph: bytes, sequences: Float32Array, *, batch: int = _BATCH) -> Iterator[Float32Array]:
    """Yield the kernels of *sequences*, shape ``(n, C, L)``, in parts of *batch* rows, on one thread."""
    session = _session(graph)
    for start in range(0, len(sequences), batch):
        part = np.ascontiguousarray(sequences[start : start + batch], np.float32)
        yield np.asarray(session.run(None, {SEQUENCE: part})[0], np.float32)


def kernel_features(graph: bytes, sequences: Float32Array) -> Float32Array:
    """Return the kernels of *sequences* ``(n, C, L)``, shape ``(n, K)``, as a gateway computes them."""
    columns = _session(graph).get_outputs()[0].shape[1]
    made = np.empty((len(sequences), columns), np.float32)
    for number, part in enumerate(kernel_batches(graph, sequences)):
        made[number * _BATCH : number * _BATCH + len(part)] = part
    return made


def _dilations(windows: int, most: int) -> list[int]:
    """Return up to four dilations, from neighbours to as wide as fits into *windows*."""
    widest = max((windows - 1) // (_LENGTH - 1), 1)
    spread = np.unique(np.rint(np.geomspace(1, widest, min(_DILATIONS, most))).astype(int))
    return [int(dilation) for dilation in spread]


def _draw(rng: np.random.Generator, dilation: int, spread: FloatArray, windows: int) -> _Block:
    """Return the kernels of one mix, without biases yet."""
    mix = np.zeros((1, len(spread)))
    chosen = rng.choice(len(spread), min(int(rng.integers(1, 3)), len(spread)), replace=False)
    weight = rng.normal(size=len(chosen))
    mix[0, chosen] = weight / (np.linalg.norm(weight) * spread[chosen])
    filters = rng.normal(size=(KERNELS_PER_MIX, min(_LENGTH, windows - 1 + windows % 2)))
    filters -= filters.mean(axis=1, keepdims=True)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    return _Block(dilation=dilation, mixes=mix, filters=filters, biases=np.zeros(len(filters)))


def _joined(parts: Sequence[_Block]) -> _Block:
    return _Block(
        dilation=parts[0].dilation,
        mixes=np.concatenate([part.mixes for part in parts]),
        filters=np.concatenate([part.filters for part in parts]),
        biases=np.concatenate([part.biases for part in parts]),
    )


def _with_biases(block: _Block, asked: Float32Array, rng: np.random.Generator) -> _Block:
    """Return *block* scaled so that the share between two near quantiles of its results lies between 0 and 1."""
    graph = _graph([block], asked.shape[1], asked.shape[2], scaling=None, raw=True)
    raw = np.asarray(_session(graph).run(None, {SEQUENCE: asked})[0], np.float64)
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
    blocks: list[_Block],
    channels: int,
    windows: int,
    *,
    scaling: tuple[FloatArray, FloatArray] | None,
    raw: bool = False,
) -> bytes:
    nodes: list[NodeProto] = []
    constants = [] if raw else [_constant("zero", np.zeros(())), _constant("one", np.ones(()))]
    for number, block in enumerate(blocks):
        made, held = _block_nodes(block, f"d{number}", raw=raw)
        nodes += made
        constants += held
    outputs = [f"d{number}_share" for number in range(len(blocks))]
    if scaling is None:
        nodes.append(helper.make_node("Concat", outputs, [OUTPUT], axis=1))
    else:
        nodes.append(helper.make_node("Concat", outputs, ["shares"], axis=1))
        constants += [_constant("centre", scaling[0][None]), _constant("scale", scaling[1][None])]
        nodes.append(helper.make_node("Sub", ["shares", "centre"], ["centred"]))
        nodes.append(helper.make_node("Mul", ["centred", "scale"], [OUTPUT]))
    columns = sum(len(block.filters) for block in blocks) * (windows if raw else 1)
    return finish(OUTPUT, nodes, constants, inputs=(channels, windows), output=OUTPUT, columns=columns, source=SEQUENCE)


def _block_nodes(block: _Block, name: str, *, raw: bool) -> tuple[list[NodeProto], list[TensorProto]]:
    length = block.filters.shape[1]
    pad = block.dilation * (length - 1) // 2
    constants = [
        _constant(f"{name}_mixes", block.mixes[:, :, None]),
        _constant(f"{name}_filters", block.filters[:, None, :]),
        _constant(f"{name}_biases", block.biases),
    ]
    filtered = helper.make_node(
        "Conv",
        [f"{name}_mixed", f"{name}_filters", f"{name}_biases"],
        [f"{name}_result"],
        kernel_shape=[length],
        dilations=[block.dilation],
        pads=[pad, pad],
        group=len(block.mixes),
    )
    nodes = [helper.make_node("Conv", [SEQUENCE, f"{name}_mixes"], [f"{name}_mixed"], kernel_shape=[1]), filtered]
    if raw:
        nodes.append(helper.make_node("Flatten", [f"{name}_result"], [f"{name}_share"], axis=1))
    else:
        nodes += [
            helper.make_node("Clip", [f"{name}_result", "zero", "one"], [f"{name}_above"]),
            helper.make_node("GlobalAveragePool", [f"{name}_above"], [f"{name}_pooled"]),
            helper.make_node("Flatten", [f"{name}_pooled"], [f"{name}_share"], axis=1),
        ]
    return nodes, constants


def _constant(name: str, values: FloatArray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values, np.float32).reshape(values.shape), name)


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
