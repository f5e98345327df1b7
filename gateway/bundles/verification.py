"""What a release must pass on this gateway after its signature: order, age of the software, golden vectors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from gateway.errors import BundleRefused
from models.bundle.errors import BundleError, GoldenMismatch, ManifestMismatch, VersionNotNewer
from models.bundle.manifest import Manifest

GOLDEN_TIMEOUT_S = 120.0
LAST_VERSION = 999_999
_NUMBERS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}")
_LONGEST_REASON = 1000
_REFUSALS = {kind.__name__: kind for kind in BundleError.__subclasses__()}  # as the process names them
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class GatewayTooOld(BundleRefused):
    """The release needs a newer gateway; it is refused and what was live stays."""


def check_release(manifest: Manifest, *, software_version: str) -> None:
    """Check that *manifest* can have a slot, and is not too new for this gateway.

    Raises:
        ManifestMismatch: If class or version cannot name a slot.
        GatewayTooOld: If this gateway is older than the release needs.
    """
    name = f"{manifest.asset_class} version {manifest.version}"
    if not _PLAIN_NAME.fullmatch(manifest.asset_class) or manifest.version > LAST_VERSION:
        raise ManifestMismatch(f"{name}: class or version cannot name a slot; the bundle is refused")
    if _numbers(software_version) < _numbers(manifest.minimum_gateway_version):
        raise GatewayTooOld(
            f"{name} needs gateway {manifest.minimum_gateway_version} or newer, this is {software_version}; refused"
        )


def check_newer(manifest: Manifest, live_version: int | None) -> None:
    """Check that *manifest* is newer than what is live.

    Raises:
        VersionNotNewer: If a version as new is live; going back is for rollback.
    """
    if live_version is not None and manifest.version <= live_version:
        raise VersionNotNewer(
            f"{manifest.asset_class} version {manifest.version} is not newer than version {live_version}, "
            "which stays live"
        )


def run_golden(folder: Path) -> None:
    """Compute the golden vectors of the bundle in *folder* on this CPU, in a limited subprocess.

    Raises:
        GoldenMismatch: If an answer differs, or the process fails, takes too long or asks for too much.
        BundleError: Of another kind, if the bundle does not even load there.
    """
    # -P: nothing is taken for a module that lies in the folder from which somebody installs.
    command = [sys.executable, "-P", "-m", "gateway.bundles.limited", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, errors="replace", timeout=GOLDEN_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise GoldenMismatch(
            f"golden vectors took more than {GOLDEN_TIMEOUT_S:.0f} s; the bundle is refused, the live one stays"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1][:_LONGEST_REASON]
        kind, _, reason = last.partition(": ")
        if refused := _REFUSALS.get(kind):
            raise refused(reason)
        raise GoldenMismatch(
            f"golden vectors failed (exit {done.returncode}): {last}; the bundle is refused, the live one stays"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the three leading numbers of *version*, enough to order releases; 0 for what it does not tell."""
    told = _NUMBERS.match(version)
    numbers = [int(number) for number in told[0].split(".")] if told else []
    return (*numbers, 0, 0, 0)[:3]
