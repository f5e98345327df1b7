"""Where a gateway keeps how its models are fitted to single assets: one file an asset class, whole or as before."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from gateway.errors import ModelError
from models.bundle.loaded import LoadedBundle
from models.detection.adaptation import (
    MAX_BYTES,
    AdaptationError,
    Adaptations,
    Release,
    decode_adaptations,
    encode_adaptations,
)

Stamp = tuple[int, int, int] | None


class AdaptationStore:
    """The adaptations of a gateway.

    Args:
        folder: Below the gateway's state; made with the first adaptation.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, asset_class: str) -> Path:
        """Return where the adaptations of *asset_class* are, or would be."""
        return self._folder / f"{asset_class}.json"

    def read(self, asset_class: str) -> Adaptations:
        """Return the adaptations of *asset_class*, for whichever release; none where there is no file.

        Raises:
            ModelError: If the file cannot be read or is not what it should be.
        """
        file = self.file(asset_class)
        try:
            with file.open("rb") as opened:
                return decode_adaptations(opened.read(MAX_BYTES + 1))
        except FileNotFoundError:
            return Adaptations()
        except OSError as error:
            raise ModelError(f"{file}: {error}") from error
        except AdaptationError as error:
            raise ModelError(f"{file}: {error}; once it is removed, machines can be confirmed anew") from error

    def change(self, asset_class: str, changed: Callable[[Adaptations], Adaptations]) -> None:
        """Keep what *changed* makes of the adaptations; who does so at the same time waits.

        After an interruption either are there, whole.

        Raises:
            ModelError: As `read`; nothing is changed.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write(self.file(asset_class), changed(self.read(asset_class)))

    def _write(self, file: Path, adaptations: Adaptations) -> None:
        new = file.with_suffix(".new")
        with new.open("wb") as opened:
            opened.write(encode_adaptations(adaptations))
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def stamp(self, asset_class: str) -> Stamp:
        """Return what tells one version of the file from another; None where there is none."""
        try:
            status = self.file(asset_class).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def release_of(bundle: LoadedBundle) -> Release:
    """Return what of *bundle* adaptations are made of."""
    return Release(
        asset_class=bundle.manifest.asset_class,
        version=bundle.manifest.version,
        feature_hash=bundle.manifest.feature_hash,
        specification=bundle.specification,
        baseline=bundle.baseline,
        detection=bundle.detection,
        warning=bundle.manifest.thresholds.warning,
    )
