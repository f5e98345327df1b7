"""A bundle loads only when its parts fit together and this software computes what they need."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle.contents import BASELINES, CLASSIFIER, DETECTOR, FEATURES, GOLDEN, LIFE, MANIFEST
from models.bundle.errors import DigestMismatch, FeatureHashMismatch, ManifestMismatch
from models.bundle.loaded import LoadedBundle
from models.features import plain
from models.features.names import input_names


def test_a_bundle_loads_from_its_folder(folder: Callable[[], Path]) -> None:
    bundle = LoadedBundle.load(folder())

    assert bundle.manifest.version == 7
    assert bundle.classifier is not None
    assert bundle.life is not None


def test_classifier_and_life_may_be_absent(release: Any) -> None:
    parts = {name: data for name, data in release.parts.items() if name not in {CLASSIFIER, LIFE}}

    bundle = LoadedBundle.of_parts(parts, replace(release.manifest, failure_modes=()))

    assert (bundle.classifier, bundle.life) == (None, None)


def test_a_file_changed_on_disk_is_noticed(folder: Callable[[], Path]) -> None:
    into = folder()
    data = bytearray((into / DETECTOR).read_bytes())
    data[100] ^= 1
    (into / DETECTOR).write_bytes(data)

    with pytest.raises(DigestMismatch, match="changed"):
        LoadedBundle.load(into)
    (into / MANIFEST).unlink()
    with pytest.raises(ManifestMismatch):
        LoadedBundle.load(into)
    with pytest.raises(ManifestMismatch, match="cannot be read"):
        LoadedBundle.load(into / "absent")


def test_other_features_than_trained_on_are_refused(release: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with the code as it was, the bundle loads."""
    assert release.loaded
    changed = replace(plain.PLAIN_FEATURES[1], revision=2)
    monkeypatch.setattr("models.features.names.PLAIN_FEATURES", (changed, *plain.PLAIN_FEATURES[1:]))

    with pytest.raises(FeatureHashMismatch, match="live one stays"):
        LoadedBundle.of_parts(release.parts, release.manifest)


def test_parts_that_do_not_fit_are_refused(release: Any) -> None:
    manifest = release.manifest
    without = {name: data for name, data in release.parts.items() if name != CLASSIFIER}
    for parts, said in (
        (without, manifest),
        (release.parts, replace(manifest, failure_modes=())),
        (release.parts, replace(manifest, asset_class="other")),
        (release.parts, replace(manifest, channels=manifest.channels[:2])),
        ({**release.parts, DETECTOR: b"no graph"}, manifest),
        ({**release.parts, FEATURES: b"{}"}, manifest),
        ({**release.parts, BASELINES: b"{}"}, manifest),
        ({GOLDEN: release.parts[GOLDEN]}, manifest),
    ):
        with pytest.raises(ManifestMismatch, match="live one stays"):
            LoadedBundle.of_parts(parts, said)


def test_a_graph_with_other_outputs_is_refused(release: Any) -> None:
    bundle = LoadedBundle.of_parts({**release.parts, DETECTOR: release.parts[LIFE]}, release.manifest)

    with pytest.raises(ManifestMismatch, match="columns are due"):
        bundle.detector(np.zeros((1, len(input_names(bundle.specification))), np.float32))
