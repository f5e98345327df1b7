"""A release scored beside the live one on this gateway's own recent history, before it goes live."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from models.bundle.loaded import LoadedBundle
from models.bundle.scored import score
from models.features.history import Histories
from models.features.windower import windows_of
from models.records import BoolArray, Observations
from models.segment import SegmentError, decode_segment

log = structlog.get_logger()

RECENT_BYTES = 4 * 2**20  # of segment files: minutes of a large gateway, days of a small one, seconds of work


@dataclass(frozen=True, kw_only=True)
class ShadowReport:
    """How the candidate's decisions compare with the live bundle's on the same windows.

    Attributes:
        windows: Windows that both could judge.
        agreement: Share of them on which both say normal or both say not, 0 to 1.
        live_out_of_normal: Share that the live bundle finds out of normal.
        candidate_out_of_normal: Share that the candidate does.
    """

    windows: int
    agreement: float
    live_out_of_normal: float
    candidate_out_of_normal: float


def compare(
    candidate: LoadedBundle, live: LoadedBundle, segments: Path, assets: Collection[str]
) -> ShadowReport | None:
    """Return how both judge windows of *assets* in the newest *segments*; None where there is none."""
    history = _recent(segments)
    if not len(history):
        return None
    theirs, ours = _out_of_normal(candidate, history, assets), _out_of_normal(live, history, assets)
    shared = sorted(theirs.keys() & ours.keys())
    if not shared:
        return None
    new: BoolArray = np.array([theirs[key] for key in shared])
    old: BoolArray = np.array([ours[key] for key in shared])
    return ShadowReport(
        windows=len(shared),
        agreement=float(np.mean(new == old)),
        live_out_of_normal=float(np.mean(old)),
        candidate_out_of_normal=float(np.mean(new)),
    )


def _recent(segments: Path) -> Observations:
    """Return the observations of the newest segment files; the gateway may be writing and removing them meanwhile."""
    parts: list[Observations] = []
    size = 0
    for path in sorted(segments.glob("*.wseg"), key=_written_ns, reverse=True):
        try:
            data = path.read_bytes()
            size += len(data)
            if parts and size > RECENT_BYTES:
                break
            parts.append(decode_segment(data).observations)
        except (OSError, SegmentError) as error:
            log.warning("segment left out of shadow scoring", path=path.name, error=str(error))
    return Observations.concatenate(parts[::-1])


def _written_ns(path: Path) -> int:
    """Return when *path* was last written, 0 for a file that has just been removed."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _out_of_normal(bundle: LoadedBundle, history: Observations, assets: Collection[str]) -> dict[tuple[str, int], bool]:
    """Return by asset and window end whether *bundle* finds the window out of normal; unknown ones are left out."""
    windows = windows_of(bundle.specification, history, assets)
    outputs = score(bundle, Histories(bundle.specification), windows).detector_output
    limits = bundle.manifest.thresholds
    judged = np.flatnonzero(windows.good_share >= limits.minimum_good_share)
    names, ends = windows.asset_id_of_rows, windows.end_ns.tolist()
    return {(names[row], ends[row]): bool(outputs[row] >= limits.warning) for row in judged.tolist()}
