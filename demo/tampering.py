"""Releases that must fail: one that was changed on its way, one that is signed but useless."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from models.bundle.archive import archive_name, pack, unpack_verified
from models.bundle.contents import GOLDEN, MANIFEST, SIGNATURE
from models.bundle.golden import golden_windows, make_golden
from models.bundle.loaded import LoadedBundle


def broken_copy(archive: Path, target: Path) -> Path:
    """Write *archive* to *target* with one bit of one byte in its middle changed, and return the target."""
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


def crying_wolf_copy(archive: Path, folder: Path, key_file: Path, version: int) -> Path:
    """Write a release to *folder* that calls nearly everything an alarm, signed like a good one.

    Args:
        archive: The release it is made of; its models stay, and its golden vectors say what it says, so that it passes
            every check that does not look at what a model says of real machines.
        folder: Where it goes.
        key_file: The fleet's signing key.
        version: Its version.

    Returns:
        The archive's path.
    """
    key = load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    with tempfile.TemporaryDirectory() as unpacked:
        manifest = unpack_verified(archive, key.public_key(), into=Path(unpacked))
        parts = {
            path.name: path.read_bytes() for path in Path(unpacked).iterdir() if path.name not in {MANIFEST, SIGNATURE}
        }
    limits = replace(
        manifest.thresholds, warning=manifest.thresholds.warning / 20, alarm=manifest.thresholds.alarm / 20
    )
    lineage = replace(manifest.lineage, trained_at=datetime.now(UTC), replaces_version=manifest.version)
    bad = replace(manifest, version=version, thresholds=limits, lineage=lineage)
    bundle = LoadedBundle.of_parts(parts, bad)
    windows = golden_windows(parts[GOLDEN], channels=len(bundle.specification.channels))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / archive_name(bad)
    target.write_bytes(pack(parts | {GOLDEN: make_golden(bundle, windows)}, bad, key))
    return target
