"""A bundle ready to score: manifest, specification, baseline, graphs, and what they say is read by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from models.bundle.contents import (
    BASELINES,
    CLASSIFIER,
    DETECTION,
    DETECTOR,
    FAILURE,
    FEATURES,
    FORECAST_HEAD,
    GRU,
    GRU_CUT,
    HEADS,
    KERNELS,
    LIFE,
    LIFE_CUT,
    LIFE_GRAPHS,
    MANIFEST,
    ON_DISK_ONLY,
    PROGNOSIS,
    REQUIRED,
    SIGNATURE,
    STATISTICS,
    TOGETHER,
    check_digests,
    decode_manifest,
    digest,
)
from models.bundle.errors import FeatureHashMismatch, ManifestMismatch
from models.bundle.manifest import Manifest
from models.bundle.model import Model
from models.detection.detection import Detection, decode_detection
from models.failure.modes import FailureModes, decode_failure_modes
from models.features.baseline import Baseline, decode_baseline
from models.features.hashing import feature_hash
from models.features.names import feature_names, input_names, sequence_names
from models.features.specification import FeatureSpecification
from models.prognosis.life import LIFE_CUT_HEAD, LIFE_HEAD, check_life_models
from models.prognosis.prognoses import Prognoses, decode_prognoses
from models.records import UNDECODABLE
from models.sequence.encoding import decode_heads, decode_statistics
from models.sequence.heads import MAX_COLUMNS, Head, HeadStatistics


@dataclass(frozen=True, kw_only=True)
class LoadedBundle:
    """A bundle whose parts fit together.

    Attributes:
        manifest: What was signed.
        specification: Of its features.
        baseline: What is ordinary for the class and its assets.
        detector: Inputs to the outputs of the detector's members, but the sequence model's.
        detection: How they are read.
        classifier: Inputs to the probabilities of ``manifest.failure_modes``, or None.
        failure: How they are read and explained, or None.
        life: Inputs to the remaining life where it is known from its start, or None.
        life_cut: The same where it is not.
        gru: Sequences to the remaining life, or None.
        gru_cut: The same where the life is not known from its start.
        prognosis: How lives are put together, or None.
        kernels: Sequences to the kernels that heads are on, or None.
        heads: Linear heads on the kernels, by name.
    """

    manifest: Manifest
    specification: FeatureSpecification
    baseline: Baseline
    detector: Model
    detection: Detection
    classifier: Model | None
    failure: FailureModes | None
    life: Model | None
    life_cut: Model | None
    gru: Model | None
    gru_cut: Model | None
    prognosis: Prognoses | None
    kernels: Model | None
    heads: Mapping[str, Head]

    @classmethod
    def load(cls, folder: Path) -> LoadedBundle:
        """Return the bundle unpacked in *folder*. Who signed it was checked when it was unpacked.

        Parts that are only kept (the heads' statistics, golden vectors, the card) are not read into memory, but their
        digests are checked.

        Raises:
            BundleError: If a file is missing or changed, or the parts do not fit together or to this software.
        """
        try:
            paths = [path for path in folder.iterdir() if path.is_file()]
            kept = {path.name: _digest_of(path) for path in paths if path.name in ON_DISK_ONLY}
            files = {path.name: path.read_bytes() for path in paths if path.name not in ON_DISK_ONLY}
        except OSError as error:
            raise ManifestMismatch(f"bundle in {folder} cannot be read ({error}); the live one stays") from error
        manifest = decode_manifest(files.pop(MANIFEST, b""))
        files.pop(SIGNATURE, None)
        check_digests(kept | {name: digest(data) for name, data in files.items()}, manifest)
        return cls.of_parts(files, manifest)

    @classmethod
    def of_parts(cls, parts: Mapping[str, bytes], manifest: Manifest) -> LoadedBundle:
        """Return the bundle made of *parts* by file name; `manifest.files` is not looked at.

        Raises:
            ManifestMismatch: If a part is missing, hostile, or does not fit the others or the manifest.
            FeatureHashMismatch: If this software computes other features.
        """
        _check_parts(parts, manifest)
        try:
            return cls._decoded(parts, manifest)
        except (*UNDECODABLE, ValueError) as error:  # features, baselines, detection, heads: each has its own
            raise _mismatch(manifest, str(error)) from error

    @classmethod
    def _decoded(cls, parts: Mapping[str, bytes], manifest: Manifest) -> LoadedBundle:
        spec = msgspec.json.decode(parts[FEATURES], type=FeatureSpecification)
        _check_features(spec, manifest)
        detection = decode_detection(parts[DETECTION])
        heads = decode_heads(parts[HEADS]) if HEADS in parts else {}
        graphs = _Graphs(parts, spec)
        bundle = cls(
            manifest=manifest,
            specification=spec,
            baseline=decode_baseline(parts[BASELINES], spec),
            detector=graphs.tabular(DETECTOR, detection.columns),
            detection=detection,
            classifier=graphs.tabular(CLASSIFIER, len(manifest.failure_modes)) if CLASSIFIER in parts else None,
            failure=decode_failure_modes(parts[FAILURE], spec) if FAILURE in parts else None,
            life=graphs.tabular(LIFE, 1) if LIFE in parts else None,
            life_cut=graphs.tabular(LIFE_CUT, 1) if LIFE_CUT in parts else None,
            gru=graphs.sequential(GRU, 1) if GRU in parts else None,
            gru_cut=graphs.sequential(GRU_CUT, 1) if GRU_CUT in parts else None,
            prognosis=decode_prognoses(parts[PROGNOSIS]) if PROGNOSIS in parts else None,
            kernels=graphs.sequential(KERNELS) if KERNELS in parts else None,
            heads=heads,
        )
        _check_modes(bundle)
        _check_heads(bundle)
        check_life_models(bundle)
        return bundle


def load_statistics(folder: Path, manifest: Manifest) -> dict[str, HeadStatistics]:
    """Return what the heads of the bundle unpacked in *folder* were solved from, by head; none where it has none.

    Raises:
        BundleError: If the file is missing, changed or hostile.
    """
    if STATISTICS not in manifest.files:
        return {}
    try:
        data = (folder / STATISTICS).read_bytes()
    except OSError as error:
        raise _mismatch(manifest, f"{STATISTICS} cannot be read ({error})") from error
    check_digests(manifest.files | {STATISTICS: digest(data)}, manifest)
    try:
        return decode_statistics(data)
    except (*UNDECODABLE, ValueError) as error:
        raise _mismatch(manifest, f"{STATISTICS}: {error}") from error


class _Graphs:
    """The graphs among *parts*, loaded as they are asked for."""

    def __init__(self, parts: Mapping[str, bytes], spec: FeatureSpecification) -> None:
        self._parts = parts
        self._inputs = (len(input_names(spec)),)
        self._sequence = (len(sequence_names(spec)), spec.history.sequence_windows)

    def tabular(self, name: str, columns: int | None = None) -> Model:
        """Return the model of inputs in the part *name*."""
        return Model(name, self._parts[name], shape=self._inputs, columns=columns)

    def sequential(self, name: str, columns: int | None = None) -> Model:
        """Return the model of sequences in the part *name*."""
        if not self._sequence[1]:
            raise ValueError(f"{name} looks at sequences, and the features have none")
        return Model(name, self._parts[name], shape=self._sequence, columns=columns)


def _check_parts(parts: Mapping[str, bytes], manifest: Manifest) -> None:
    missing = [name for name in REQUIRED if name not in parts]
    missing += [name for pair in TOGETHER for name in pair if name not in parts and any(one in parts for one in pair)]
    if PROGNOSIS not in parts and any(name in parts for name in LIFE_GRAPHS):
        missing.append(PROGNOSIS)
    if missing:
        raise _mismatch(manifest, f"{', '.join(missing)} is missing")
    if (CLASSIFIER in parts) != bool(manifest.failure_modes):
        raise _mismatch(manifest, "failure modes and classifier do not go together")


def _check_features(spec: FeatureSpecification, manifest: Manifest) -> None:
    if (spec.asset_class, spec.channels) != (manifest.asset_class, manifest.channels):
        raise _mismatch(manifest, "features are of another asset class or other channels than the manifest's")
    here = feature_hash(spec)
    if here != manifest.feature_hash:
        raise FeatureHashMismatch(
            f"{manifest.asset_class} version {manifest.version}: trained on features {manifest.feature_hash[:12]}, "
            f"this software computes {here[:12]}; the bundle is refused, the live one stays"
        )


def _check_modes(bundle: LoadedBundle) -> None:
    """Check that manifest and failure modes name the same, ``normal`` before them."""
    if bundle.failure is not None and bundle.manifest.failure_modes != ("normal", *bundle.failure.names):
        raise ValueError(f"the manifest names failure modes {bundle.manifest.failure_modes}, {FAILURE} others")


def _check_heads(bundle: LoadedBundle) -> None:
    """Check that heads are on as many kernels as there are."""
    kernels = 0 if bundle.kernels is None else bundle.kernels.columns
    if kernels > MAX_COLUMNS:
        raise ValueError(f"{KERNELS} gives {kernels} kernels, more than {MAX_COLUMNS}")
    for name, head in bundle.heads.items():
        if len(head.weights) != kernels:
            raise ValueError(f"head {name!r} is on {len(head.weights)} kernels, and there are {kernels}")
        if name in {LIFE_HEAD, LIFE_CUT_HEAD} and head.bias.size != 1:
            raise ValueError(f"head {name!r} tells {head.bias.size} lives, not one")
    if bundle.detection.stray and len(bundle.detection.stray) != len(feature_names(bundle.specification)):
        raise ValueError(f"{DETECTION} tells what {len(bundle.detection.stray)} features stray, and there are others")
    if bundle.detection.has_sequence:
        foretold = bundle.heads[FORECAST_HEAD].bias.size if FORECAST_HEAD in bundle.heads else 0
        scales, channels = len(bundle.detection.forecast_scale), len(sequence_names(bundle.specification))
        if not 0 < foretold == scales <= channels:
            raise ValueError(f"{DETECTION} has {scales} errors of a forecast, {HEADS} foretells {foretold} deviations")


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mismatch(manifest: Manifest, why: str) -> ManifestMismatch:
    return ManifestMismatch(
        f"{manifest.asset_class} version {manifest.version}: {why}; the bundle is refused, the live one stays"
    )
