"""A bundle ready to score: manifest, specification, baseline and ONNX sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort

from models.bundle.contents import (
    BASELINES,
    CLASSIFIER,
    DETECTOR,
    FEATURES,
    LIFE,
    MANIFEST,
    REQUIRED,
    SIGNATURE,
    check_files,
    decode_manifest,
)
from models.bundle.errors import FeatureHashMismatch, ManifestMismatch
from models.bundle.manifest import Manifest
from models.features.baseline import Baseline, decode_baseline
from models.features.hashing import feature_hash
from models.features.names import input_names
from models.features.specification import FeatureError, FeatureSpecification
from models.records import Float32Array, FloatArray


class Model:
    """One ONNX graph with one float32 input ``(n, inputs)`` and one output ``(n, columns)``, on one CPU thread."""

    def __init__(self, name: str, graph: bytes, *, inputs: int, columns: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises many kinds, none of them exported
            raise ManifestMismatch(
                f"{name} does not load ({error}); the bundle is refused, the live one stays"
            ) from error
        given, made = self._session.get_inputs(), self._session.get_outputs()
        if len(given) != 1 or given[0].type != "tensor(float)" or given[0].shape[-1] != inputs:
            raise ManifestMismatch(
                f"{name} does not take {inputs} float32 inputs; the bundle is refused, the live one stays"
            )
        if len(made) != 1:
            raise ManifestMismatch(
                f"{name} has {len(made)} outputs, not one; the bundle is refused, the live one stays"
            )
        self._name, self._input, self._columns = name, given[0].name, columns

    def __call__(self, inputs: Float32Array) -> FloatArray:
        """Return the answers, shape ``(n, columns)``.

        Raises:
            ManifestMismatch: If the graph answers with another shape.
        """
        if not len(inputs):
            return np.empty((0, self._columns))
        answer = np.asarray(self._session.run(None, {self._input: inputs})[0], np.float64)
        if answer.size != len(inputs) * self._columns:
            raise ManifestMismatch(f"{self._name} answers {answer.shape} where {self._columns} columns are due")
        return answer.reshape(len(inputs), self._columns)


@dataclass(frozen=True, kw_only=True)
class LoadedBundle:
    """A bundle whose parts fit together.

    Attributes:
        manifest: What was signed.
        specification: Of its features.
        baseline: What is ordinary for the class and its assets.
        detector: Inputs to one number that grows with the deviation; thresholds are in its units.
        classifier: Inputs to the probabilities of ``manifest.failure_modes``, or None.
        life: Inputs to the remaining life in hours, quantiles .1, .5, .9, or None.
    """

    manifest: Manifest
    specification: FeatureSpecification
    baseline: Baseline
    detector: Model
    classifier: Model | None
    life: Model | None

    @classmethod
    def load(cls, folder: Path) -> LoadedBundle:
        """Return the bundle unpacked in *folder*. Who signed it was checked when it was unpacked.

        Raises:
            BundleError: If a file is missing or changed, or the parts do not fit together or to this software.
        """
        try:
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise ManifestMismatch(f"bundle in {folder} cannot be read ({error}); the live one stays") from error
        manifest = decode_manifest(files.pop(MANIFEST, b""))
        files.pop(SIGNATURE, None)
        check_files(files, manifest)
        return cls.of_parts(files, manifest)

    @classmethod
    def of_parts(cls, parts: Mapping[str, bytes], manifest: Manifest) -> LoadedBundle:
        """Return the bundle made of *parts* by file name; `manifest.files` is not looked at.

        Raises:
            ManifestMismatch: If a part is missing or does not fit the manifest.
            FeatureHashMismatch: If this software computes other features.
        """
        missing = [name for name in REQUIRED if name not in parts]
        if missing:
            raise _mismatch(manifest, f"{', '.join(missing)} is missing")
        try:
            spec = msgspec.json.decode(parts[FEATURES], type=FeatureSpecification)
            baseline = decode_baseline(parts[BASELINES], spec)
        except (msgspec.DecodeError, FeatureError) as error:
            raise _mismatch(manifest, str(error)) from error
        _check_features(spec, manifest)
        if (CLASSIFIER in parts) != bool(manifest.failure_modes):
            raise _mismatch(manifest, "failure modes and classifier do not go together")
        inputs = len(input_names(spec))
        return cls(
            manifest=manifest,
            specification=spec,
            baseline=baseline,
            detector=Model(DETECTOR, parts[DETECTOR], inputs=inputs, columns=1),
            classifier=Model(CLASSIFIER, parts[CLASSIFIER], inputs=inputs, columns=len(manifest.failure_modes))
            if CLASSIFIER in parts
            else None,
            life=Model(LIFE, parts[LIFE], inputs=inputs, columns=3) if LIFE in parts else None,
        )


def _check_features(spec: FeatureSpecification, manifest: Manifest) -> None:
    if (spec.asset_class, spec.channels) != (manifest.asset_class, manifest.channels):
        raise _mismatch(manifest, "features are of another asset class or other channels than the manifest's")
    here = feature_hash(spec)
    if here != manifest.feature_hash:
        raise FeatureHashMismatch(
            f"{manifest.asset_class} version {manifest.version}: trained on features {manifest.feature_hash[:12]}, "
            f"this software computes {here[:12]}; the bundle is refused, the live one stays"
        )


def _mismatch(manifest: Manifest, why: str) -> ManifestMismatch:
    return ManifestMismatch(
        f"{manifest.asset_class} version {manifest.version}: {why}; the bundle is refused, the live one stays"
    )
