"""One ONNX graph of a bundle, ready to be asked."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from models.bundle.errors import ManifestMismatch
from models.bundle.graph_form import GraphRefused, check_form
from models.records import Float32Array, FloatArray


class Model:
    """A graph with one float32 input ``(n, *shape)`` and one output ``(n, columns)``, on one CPU thread.

    Args:
        name: Of the part, for messages.
        graph: Its bytes; they are not kept.
        shape: Of one row of the input: ``(inputs,)``, or channels and windows of a sequence.
        columns: Of the output; None: as many as the graph says.

    Raises:
        ManifestMismatch: If the graph is not what a bundle may hold, or of another shape.
    """

    def __init__(self, name: str, graph: bytes, *, shape: tuple[int, ...], columns: int | None = None) -> None:
        try:
            form = check_form(graph)
        except GraphRefused as error:
            raise _refused(f"{name}: {error}") from error
        given, made = form.inputs[0].shape[1:], form.outputs[0].shape[1]
        if made is None or given != shape or columns not in {None, made}:
            due = f"{shape} and {'any' if columns is None else columns}"
            raise _refused(f"{name} takes rows of {given} and gives {made} columns, where {due} are due")
        try:
            self._session = session_of(graph)
        except Exception as error:  # the runtime raises many kinds, none of them exported
            raise _refused(f"{name} does not load ({error})") from error
        self.columns = made
        self._name, self._input, self._shape = name, form.inputs[0].name, shape

    def __call__(self, rows: Float32Array) -> FloatArray:
        """Return the answers to *rows* ``(n, *shape)``, shape ``(n, columns)``.

        Raises:
            ManifestMismatch: If the graph cannot be run on them, or answers with another shape than it says.
        """
        if not len(rows):
            return np.empty((0, self.columns))
        given = np.ascontiguousarray(rows, np.float32)
        try:
            answer = np.asarray(self._session.run(None, {self._input: given})[0], np.float64)
        except Exception as error:  # as when it is loaded
            raise _refused(f"{self._name} does not answer {len(rows)} rows ({error})") from error
        if answer.shape != (len(rows), self.columns):
            raise _refused(f"{self._name} answers {answer.shape} where {(len(rows), self.columns)} is due")
        return answer


def session_of(graph: bytes) -> ort.InferenceSession:
    """Return *graph* ready to be run on one CPU thread, as gateways run it; the runtime raises errors of many kinds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The arena keeps what the largest batch ever took, for each graph, and saves little time.
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _refused(why: str) -> ManifestMismatch:
    return ManifestMismatch(f"{why}; the bundle is refused, the live one stays")
