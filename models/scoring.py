"""From windows to what models are given: the lines that gateway and training share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.features.baseline import Baseline
from models.features.extraction import extract
from models.features.history import Histories, Past, past_of
from models.features.inputs import Deviating
from models.features.memory import Memory
from models.features.names import feature_names
from models.features.specification import FeatureSpecification
from models.features.windows import Windows
from models.records import BoolArray, Float32Array, FloatArray, Int64Array


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the models are given, row by window.

    Attributes:
        features: Raw features, shape ``(n, f)``; NaN where a channel has no good value.
        deviations: Shape ``(n, f)``.
        inputs: Shape ``(n, inputs)``; the deviations come first.
        sequences: Shape ``(n, channels, windows)``, or None where the specification asks for none.
        windows_known: How many windows of its life are known at each, itself included, shape ``(n,)``.
        whole: Whether the life is known from its start, shape ``(n,)``.
    """

    features: FloatArray
    deviations: Float32Array
    inputs: Float32Array
    sequences: Float32Array | None
    windows_known: Int64Array
    whole: BoolArray

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: BoolArray | NDArray[np.intp] | slice) -> Prepared:
        """Return the given *rows*."""
        return Prepared(
            features=self.features[rows],
            deviations=self.deviations[rows],
            inputs=self.inputs[rows],
            sequences=None if self.sequences is None else self.sequences[rows],
            windows_known=self.windows_known[rows],
            whole=self.whole[rows],
        )


def prepare(spec: FeatureSpecification, baseline: Baseline, histories: Histories, windows: Windows) -> Prepared:
    """Return what models take of *windows*, which must come by end for each asset; *histories* remembers them."""
    features = extract(spec, windows)
    return prepared_of(spec, baseline, histories.push(windows.asset_id_of_rows, windows.end_ns, features))


def prepare_table(
    spec: FeatureSpecification,
    baseline: Baseline,
    asset_ids: Sequence[str],
    asset: Int64Array,
    end_ns: Int64Array,
    features: FloatArray,
    *,
    whole: BoolArray | bool = True,
    sequences: bool = True,
) -> Prepared:
    """Return what models take of windows of which the features are known, as a gateway that got them one by one.

    Args:
        spec: Of the features.
        baseline: What is ordinary.
        asset_ids: The lives, each by its asset's name; a name may occur more than once.
        asset: Whose life each window is of, an index into *asset_ids*, shape ``(n,)``.
        end_ns: Ends, ascending in each life, shape ``(n,)``.
        features: Raw features, shape ``(n, f)``.
        whole: Whether each window's life is known from its start, one for all or shape ``(n,)``.
        sequences: Whether to make sequences too; they are large.
    """
    past = past_of_table(spec, asset_ids, asset, end_ns, features, whole=whole)
    return prepared_of(spec, baseline, past, sequences=sequences)


def past_of_table(
    spec: FeatureSpecification,
    asset_ids: Sequence[str],
    asset: Int64Array,
    end_ns: Int64Array,
    features: FloatArray,
    *,
    whole: BoolArray | bool = True,
) -> Past:
    """Return the windows of a table among those before them; see `prepare_table`."""
    begun = np.zeros(len(asset), np.int64)
    names = [asset_ids[place] for place in asset.tolist()]
    past = past_of(spec, Memory.empty(spec, len(asset_ids), kept=0), names, asset, begun, end_ns, features)
    return replace(past, whole=np.broadcast_to(np.asarray(whole, np.bool_), asset.shape).copy())


def prepared_of(spec: FeatureSpecification, baseline: Baseline, past: Past, *, sequences: bool = True) -> Prepared:
    """Return what models take of the new windows of *past*."""
    deviating = Deviating(spec, baseline, past)
    inputs = deviating.inputs()
    return Prepared(
        features=past.features,
        deviations=inputs[:, : len(feature_names(spec))],
        inputs=inputs,
        sequences=deviating.sequences() if sequences else None,
        windows_known=past.windows_known,
        whole=past.whole,
    )
