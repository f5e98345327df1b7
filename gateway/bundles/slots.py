"""The folder of bundles, and the one switch that makes a release live.

```
bundles/.lock                        held while something changes
bundles/.incoming-*                  a release being checked; swept by the next install
bundles/centrifugal_pump/v000001/    a slot: a verified bundle, never changed again
bundles/centrifugal_pump/v000001.json   how it came in: when, in whose place, what the checks found
bundles/centrifugal_pump/live        symlink to a slot; replaced by one rename
```

A release is complete and on disk in its slot before ``live`` points to it, and the slot it replaces stays. So
whatever interrupts an install, ``live`` names a whole bundle: the old one or the new one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import msgspec
import structlog

from gateway.bundles.shadow import ShadowReport, compare
from gateway.bundles.verification import check_newer, check_release, run_golden
from gateway.errors import BundleRefused
from models.bundle.archive import unpack_verified
from models.bundle.contents import MANIFEST, decode_manifest
from models.bundle.errors import BundleError
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import Manifest
from models.records import UNDECODABLE

log = structlog.get_logger()

KEPT_PREVIOUS = 2
BUSY_LIMIT_S = 60.0  # two classes rolled out together meet here; an install takes seconds
_BUSY_STEP_S = 0.2
_SLOT = re.compile(r"v(\d{6})")


class NoBundle(BundleRefused):
    """There is nothing to go back to, or nothing live; what is there stays as it is."""


class InstallBusy(BundleRefused):
    """Another install or rollback has been at work for too long; this one has changed nothing."""


class SlotNotWritten(BundleRefused):
    """The disk did not take the bundle; what was live stays live."""


@dataclass(frozen=True, kw_only=True)
class InstallReport:
    """How a slot was filled. ``replaced`` is the version that was live before; rollback goes there."""

    asset_class: str
    version: int
    installed_at: datetime
    replaced: int | None
    archive: str
    shadow: ShadowReport | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One bundle on disk."""

    asset_class: str
    version: int
    live: bool
    installed_at: datetime | None
    replaced: int | None
    metrics: dict[str, float] = field(default_factory=dict)


class BundleSlots:
    """The bundles of one gateway.

    Args:
        root: The gateway's ``bundles`` folder; made when the first bundle comes.
        trusted_key: Ed25519 public key in PEM; without one nothing can be installed.
        software_version: What runs here, held against each manifest's minimum.
        segments: Folder of local history for scoring in shadow, or None for none.
        assets: Asset class by asset_id, to know whose history to score.
    """

    def __init__(
        self,
        root: Path,
        trusted_key: bytes | None,
        *,
        software_version: str,
        segments: Path | None = None,
        assets: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root
        self._trusted_key = trusted_key
        self._software_version = software_version
        self._segments = segments
        self._assets = dict(assets or {})

    def install(self, archive: Path) -> InstallReport:
        """Check *archive*, put it into a slot and make it live.

        Raises:
            BundleError: If it is refused; its class names the cause, and what was live stays live.
            BundleRefused: If nothing can be installed now; the same holds.
        """
        if self._trusted_key is None:
            raise NoBundle(f"{archive.name}: no [bundles] trusted_key_file is configured; nothing is installed")
        try:
            with self._exclusive():
                incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._root))
                try:
                    return self._install(archive, incoming, self._trusted_key)
                finally:
                    shutil.rmtree(incoming, ignore_errors=True)
        except OSError as error:
            raise SlotNotWritten(
                f"{archive.name}: {self._root} cannot be written ({error}); what is live stays"
            ) from error

    def rollback(self, asset_class: str) -> Manifest:
        """Make the bundle live that was live before, from this disk alone, and return its manifest.

        Raises:
            NoBundle: If there is none.
            BundleError: If it is damaged; what was live stays live.
            SlotNotWritten: If the disk does not take the switch; the same holds.
        """
        try:
            with self._exclusive():
                return self._rollback(asset_class)
        except OSError as error:
            raise SlotNotWritten(
                f"{asset_class}: {self._root} cannot be written ({error}); what is live stays"
            ) from error

    def live(self, asset_class: str) -> LoadedBundle | None:
        """Return the live bundle of *asset_class*, loaded, or None when there is none."""
        version = self.live_version(asset_class)
        return None if version is None else self.load(asset_class, version)

    def load(self, asset_class: str, version: int) -> LoadedBundle:
        """Return the bundle in the slot of *version*, live or not; raises when it is not there or damaged."""
        return LoadedBundle.load(self._slot(asset_class, version))

    def live_version(self, asset_class: str) -> int | None:
        """Return the live version of *asset_class*, from its symlink alone."""
        try:
            match = _SLOT.fullmatch(Path(self._live(asset_class).readlink()).name)
        except OSError:
            return None
        return int(match[1]) if match else None

    def token(self, asset_class: str) -> tuple[int, int] | None:
        """Return something cheap that changes whenever another slot becomes live; None only where nothing is."""
        version = self.live_version(asset_class)
        if version is None:
            return None
        try:
            return version, self._slot(asset_class, version).stat().st_ino
        except OSError:
            return version, 0  # a slot that is gone; whoever loads it is told so

    def listing(self) -> tuple[Slot, ...]:
        """Return all bundles on disk, by class and version, also those that this software cannot load."""
        slots: list[Slot] = []
        for folder in sorted(p for p in self._root.glob("*/v*") if p.is_dir() and _SLOT.fullmatch(p.name)):
            asset_class, version = folder.parent.name, int(folder.name[1:])
            report = self._report(asset_class, version)
            slots.append(
                Slot(
                    asset_class=asset_class,
                    version=version,
                    live=self.live_version(asset_class) == version,
                    installed_at=report.installed_at if report else None,
                    replaced=report.replaced if report else None,
                    metrics=_metrics(folder),
                )
            )
        return tuple(slots)

    def _rollback(self, asset_class: str) -> Manifest:
        live = self.live_version(asset_class)
        report = None if live is None else self._report(asset_class, live)
        before = None if report is None else report.replaced
        if before is None or not self._slot(asset_class, before).is_dir():
            raise NoBundle(f"{asset_class}: no earlier bundle is on disk; version {live or 'none'} stays live")
        manifest = LoadedBundle.load(self._slot(asset_class, before)).manifest
        self._switch(asset_class, before)
        log.info("bundle rolled back", asset_class=asset_class, from_version=live, to_version=before)
        return manifest

    def _install(self, archive: Path, incoming: Path, trusted_key: bytes) -> InstallReport:
        manifest = unpack_verified(archive, trusted_key, into=incoming)
        check_release(manifest, software_version=self._software_version)
        live = self.live_version(manifest.asset_class)
        check_newer(manifest, live)
        run_golden(incoming)
        shadow, notes = self._shadow(manifest.asset_class, incoming)
        if self._assets and manifest.asset_class not in self._assets.values():
            notes = (*notes, f"no asset of class {manifest.asset_class} is configured here; the bundle judges nothing")
        report = InstallReport(
            asset_class=manifest.asset_class,
            version=manifest.version,
            installed_at=datetime.now(UTC),
            replaced=live,
            archive=archive.name,
            shadow=shadow,
            notes=notes,
        )
        self._place(manifest, incoming, report)
        self._switch(manifest.asset_class, manifest.version)
        self._prune(manifest.asset_class)
        log.info("bundle installed", asset_class=manifest.asset_class, version=manifest.version, replaced=live)
        return report

    def _shadow(self, asset_class: str, incoming: Path) -> tuple[ShadowReport | None, tuple[str, ...]]:
        """Return how candidate and live bundle compare, or why they were not compared.

        A live bundle that does not load (a damaged file, features of an older software) is no reason to refuse what
        would replace it.
        """
        try:
            live = self.live(asset_class)
        except BundleError as error:
            return None, (f"not scored in shadow: the live bundle does not load ({error})",)
        if live is not None and self._segments is not None:
            mine = [asset_id for asset_id, of in self._assets.items() if of == asset_class]
            if report := compare(LoadedBundle.load(incoming), live, self._segments, mine):
                return report, ()
        return None, ("not scored in shadow: no live bundle or no local history",)

    def _place(self, manifest: Manifest, incoming: Path, report: InstallReport) -> None:
        """Put the checked files into their slot, on disk for good, with the report beside it."""
        slot = self._slot(manifest.asset_class, manifest.version)
        slot.parent.mkdir(parents=True, exist_ok=True)
        if slot.exists():  # from an install that was interrupted, or of a release that was rolled back
            shutil.rmtree(slot)
        for path in incoming.rglob("*"):
            if path.is_file():
                _sync(path)
        _sync(incoming)
        incoming.chmod(0o755)
        incoming.rename(slot)
        beside = slot.with_suffix(".json.new")
        beside.write_bytes(msgspec.json.encode(report))
        _sync(beside)
        beside.replace(slot.with_suffix(".json"))
        _sync(slot.parent)
        _sync(self._root)

    def _switch(self, asset_class: str, version: int) -> None:
        live = self._live(asset_class)
        new = live.with_name(".live-new")
        new.unlink(missing_ok=True)
        new.symlink_to(self._slot(asset_class, version).name)
        new.replace(live)
        _sync(live.parent)

    def _prune(self, asset_class: str) -> None:
        """Remove what is neither live nor one of the two that were live before it."""
        kept: list[int] = []
        version = self.live_version(asset_class)
        while version is not None and len(kept) <= KEPT_PREVIOUS:
            kept.append(version)
            report = self._report(asset_class, version)
            version = report.replaced if report else None
        for folder in (self._root / asset_class).glob("v*"):
            match = _SLOT.fullmatch(folder.stem)
            if match and int(match[1]) not in kept:
                shutil.rmtree(folder, ignore_errors=True) if folder.is_dir() else folder.unlink(missing_ok=True)

    def _report(self, asset_class: str, version: int) -> InstallReport | None:
        try:
            data = self._slot(asset_class, version).with_suffix(".json").read_bytes()
            return msgspec.json.decode(data, type=InstallReport)
        except (OSError, *UNDECODABLE):
            return None

    def _slot(self, asset_class: str, version: int) -> Path:
        return self._root / asset_class / f"v{version:06d}"

    def _live(self, asset_class: str) -> Path:
        return self._root / asset_class / "live"

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the folder's lock, and sweep what an interrupted install left."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".lock").open("a") as lock:
            self._wait_for(lock)
            for left in self._root.glob(".incoming-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    def _wait_for(self, lock: TextIO) -> None:
        deadline = time.monotonic() + BUSY_LIMIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise InstallBusy(
                        f"{self._root}: another install has been at work for {BUSY_LIMIT_S:.0f} s; nothing is changed"
                    ) from None
                time.sleep(_BUSY_STEP_S)
            else:
                return


def _metrics(slot: Path) -> dict[str, float]:
    """Return the metrics in the manifest of *slot*, none where it cannot be read."""
    try:
        return decode_manifest((slot / MANIFEST).read_bytes()).metrics
    except (OSError, BundleError):
        return {}


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
