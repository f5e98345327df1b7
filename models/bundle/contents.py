"""The files of a bundle, and what the manifest says of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from models.bundle.errors import DigestMismatch, ManifestMismatch
from models.bundle.manifest import SCHEMA_VERSION, Manifest
from models.features.specification import FeatureSpecification
from models.records import UNDECODABLE

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


_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,2}(?![0-9]).{0,64}")


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
    except UNDECODABLE as error:
        raise ManifestMismatch(
            f"manifest does not decode ({error}); the bundle is refused, the live one stays"
        ) from error
    if wrong := _out_of_range(manifest):
        raise ManifestMismatch(
            f"{manifest.asset_class} version {manifest.version}: {wrong}; the bundle is refused, the live one stays"
        )
    return manifest


def _out_of_range(manifest: Manifest) -> str:
    """Return what in *manifest* no gateway can act on, or nothing."""
    limits = manifest.thresholds
    must_hold = {
        "its version is below 1": manifest.version >= 1,
        "its thresholds are not above 0, or alarm lies below warning": 0.0 < limits.warning <= limits.alarm,
        "its least good share is not 0 to 1": 0.0 <= limits.minimum_good_share <= 1.0,
        "its least confidence is not 0 to 1": 0.0 <= limits.minimum_confidence <= 1.0,
        "its delays are not 1 window or more": min(limits.on_delay_windows, limits.off_delay_windows) >= 1,
        "its times are without a zone": None not in {manifest.not_after.tzinfo, manifest.lineage.trained_at.tzinfo},
        "its least gateway version is none": _VERSION.fullmatch(manifest.minimum_gateway_version) is not None,
    }
    return next((wrong for wrong, holds in must_hold.items() if not holds), "")


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
