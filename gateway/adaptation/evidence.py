"""From the journal to an adaptation: the windows somebody confirmed, and what the models say of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np

from gateway.adaptation.store import release_of
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, silent
from models.bundle.loaded import LoadedBundle
from models.detection.adaptation import Adaptation, AdaptationError, HealthyEvidence, adapt
from models.detection.detector import detect
from models.features.baseline import Baseline
from models.features.extraction import extract
from models.features.windower import windows_of
from models.features.windows import Windows
from models.records import FloatArray, Observations
from models.scoring import prepare_table


def windows_between(
    view: JournalView, bundle: LoadedBundle, asset_id: str, stretch: Stretch, progress: Progress = silent
) -> Windows:
    """Return the windows of *asset_id* in *stretch* that have enough good values to be judged.

    Raises:
        AdaptationError: If pages of the stretch cannot be read: a gap could hide what was not healthy.
    """
    parts: list[Observations] = []
    last = view.last_seq()
    for part in read_pages(view, stretch, results=False):
        if isinstance(part, Lost):
            raise AdaptationError(
                f"{asset_id}: pages {part.first_seq} to {part.last_seq} cannot be read ({part.reason}); "
                "choose a time without them; nothing is adapted"
            )
        for page in part:
            if isinstance(page.content, Observations):
                own = np.array([stream.asset_id == asset_id for stream in page.content.streams], np.bool_)
                parts.append(page.content.take(own[page.content.stream]))
        progress(part[-1].seq if part else last, last)
    windows = windows_of(bundle.specification, Observations.concatenate(parts), [asset_id])
    return windows.take(windows.good_share >= bundle.manifest.thresholds.minimum_good_share)


def adaptation_of(
    bundle: LoadedBundle, asset_id: str, windows: Windows, *, confirmed_by: str, confirmed_at: datetime
) -> Adaptation:
    """Return how the models of *bundle* are to be fitted to *asset_id*, of whose *windows* somebody said they are well.

    Raises:
        AdaptationError: If the windows are too few, or look like the way into a fault.
    """
    features = extract(bundle.specification, windows)

    def scored(baseline: Baseline) -> FloatArray:
        life = np.zeros(len(features), np.int64)
        prepared = prepare_table(
            bundle.specification, baseline, [asset_id], life, windows.end_ns, features, whole=False
        )
        return detect(replace(bundle, baseline=baseline), prepared)

    evidence = HealthyEvidence(
        asset_id=asset_id,
        features=features,
        end_ns=windows.end_ns,
        confirmed_by=confirmed_by,
        confirmed_at=confirmed_at,
    )
    return adapt(release_of(bundle), evidence, scored)
