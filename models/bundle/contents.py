"""The files of a bundle, and what the manifest says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from models.bundle.errors import DigestMismatch, ManifestMismatch
from models.bundle.manifest import SCHEMA_VERSION, Manifest
from models.features.specification import FeatureSpecification

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
FEATURES = "features.json"
BASELINES = "baselines.json"
DETECTOR = "detector.onnx"
DETECTION = "detection.json"
CLASSIFIER = "classifier.onnx"
FAILURE = "failure.json"
LIFE = "life.onnx"
LIFE_CUT = "life_cut.onnx"
GRU = "gru.onnx"
GRU_CUT = "gru_cut.onnx"
PROGNOSIS = "prognosis.json"
KERNELS = "kernels.onnx"
HEADS = "heads.msgpack"
STATISTICS = "statistics.msgpack"
GOLDEN = "golden.msgpack"
MODEL_CARD = "model_card.md"

FORECAST_HEAD = "forecast"
"""The head on the kernels that foretells the newest window's deviations; see ``models.sequence.forecast``."""

REQUIRED = (FEATURES, BASELINES, DETECTOR, DETECTION)
# Parts that make no sense without each other: where one of a pair is, the other must be.
TOGETHER = ((CLASSIFIER, FAILURE), (KERNELS, HEADS))
LIFE_GRAPHS = (LIFE, LIFE_CUT, GRU, GRU_CUT)
"""Of these none makes sense without ``prognosis.json``, which says which of them count."""

# Parts that a gateway keeps on disk and does not read into memory when it loads a bundle.
ON_DISK_ONLY = frozenset({STATISTICS, GOLDEN, MODEL_CARD})


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical JSON of *manifest*: what is signed."""
    return msgspec.json.encode(manifest, order="sorted")


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest in *data*.

    Raises:
        ManifestMismatch: If it is not one, or of another schema version.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            older = "of an older release: train the class again" if version < SCHEMA_VERSION else "of a newer release"
            raise ManifestMismatch(
                f"manifest has schema version {version}, this software reads {SCHEMA_VERSION} ({older}); "
                "the bundle is refused, the live one stays"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise ManifestMismatch(
            f"manifest does not decode ({error}); the bundle is refused, the live one stays"
        ) from error
    limits = manifest.thresholds
    if manifest.version < 1 or not 0.0 < limits.warning <= limits.alarm:
        raise ManifestMismatch(
            f"{manifest.asset_class} version {manifest.version}: version or thresholds are out of range; "
            "the bundle is refused, the live one stays"
        )
    return manifest


def encode_specification(spec: FeatureSpecification) -> bytes:
    """Return ``features.json``."""
    return msgspec.json.encode(spec, order="sorted")


def digest(data: bytes) -> str:
    """Return the SHA-256 of *data* in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_digests(digests: Mapping[str, str], manifest: Manifest) -> None:
    """Check that files with *digests* by name, all but manifest and signature, are those of *manifest*.

    Raises:
        DigestMismatch: With the first file that is missing, too many or changed.
    """
    for name in sorted({*digests, *manifest.files}):
        if digests.get(name) != manifest.files.get(name):
            state = (
                "missing" if name not in digests else "not in the manifest" if name not in manifest.files else "changed"
            )
            raise DigestMismatch(
                f"{manifest.asset_class} version {manifest.version}: {name} is {state}; "
                "the bundle is refused, the live one stays"
            )


class _Version(msgspec.Struct):
    schema_version: int
