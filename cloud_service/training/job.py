"""The training job of one asset class: observations and failures in, a signed bundle and a decision out.

It reads top to bottom: table, labels, held-out assets, baseline, models, graphs, parity, figures, comparison, archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.training.actions import actions_for
from cloud_service.training.budget import AlarmLimits
from cloud_service.training.card import model_card
from cloud_service.training.compression import Compression
from cloud_service.training.dataset import (
    Known,
    Table,
    TrainingData,
    TrainingError,
    baseline_of,
    build_table,
    know,
    lesson_of,
    unfitted,
    with_fitted,
)
from cloud_service.training.evaluation import evaluate
from cloud_service.training.fitting import FittedModels, fit_models
from cloud_service.training.judges import Unseen, compress_parts
from cloud_service.training.labels import NORMAL
from cloud_service.training.lesson import UNKNOWN, Lesson
from cloud_service.training.specifications import TrainingSettings, specification_for
from models.bundle.archive import archive_name, pack
from models.bundle.contents import (
    BASELINES,
    FEATURES,
    GOLDEN,
    MODEL_CARD,
    digest,
    encode_specification,
)
from models.bundle.errors import BundleError
from models.bundle.golden import make_golden
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import SCHEMA_VERSION, Lineage, Manifest, Thresholds
from models.evaluation.gate import Decision, decide
from models.evaluation.splits import held_out_assets
from models.export.golden_rows import golden_rows
from models.export.graph import OPSET, ExportError
from models.export.parity import Parity
from models.features.baseline import encode_baseline
from models.features.hashing import feature_hash
from models.features.specification import FeatureError, FeatureSpecification
from models.features.windows import Windows
from models.prognosis.prognoses import PrognosisError
from models.sequence.heads import HeadError

# The first gateway that reads manifest schema 1.
MINIMUM_GATEWAY_VERSION = "0.1.0"
_GOLDEN_WINDOWS = 48

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What a training gave.

    Attributes:
        archive: The signed bundle.
        archive_name: Its file name.
        manifest: What it says of itself; ``files`` are as in the archive's own manifest.
        metrics: The candidate's figures on the held-out assets, as in the manifest.
        live_metrics: The live bundle's figures on the same assets, None when nothing is live.
        compared_on: The assets both were compared on.
        decision: Whether it may be released, and why.
        parity: How closely the graphs answered as their trainers.
        bundle: The same, loaded.
        compressions: Which smaller forms of the models were tried, what they cost, and which were taken.
    """

    archive: bytes
    archive_name: str
    manifest: Manifest
    metrics: dict[str, float]
    live_metrics: dict[str, float] | None
    compared_on: tuple[str, ...]
    decision: Decision
    parity: tuple[Parity, ...]
    bundle: LoadedBundle
    compressions: tuple[Compression, ...] = ()


@contextmanager
def _told_as_training() -> Iterator[None]:
    """Tell as `train_class` says of what cannot be learnt from, and of parts that no gateway would take."""
    try:
        yield
    except (FeatureError, PrognosisError, HeadError) as error:
        raise TrainingError(f"{error}; nothing is trained") from error
    except BundleError as error:
        raise ExportError(f"no gateway would take the bundle: {error}") from error


@_told_as_training()
def train_class(
    data: TrainingData,
    settings: TrainingSettings,
    live: LoadedBundle | None,
    version: int,
    signing_key: Ed25519PrivateKey,
    *,
    progress: Progress = lambda _stage, _share: None,
    spec: FeatureSpecification | None = None,
    trained_at: datetime | None = None,
    missing: Sequence[str] = (),
) -> TrainingOutcome:
    """Train, export, prove, evaluate and sign the models of one class.

    Args:
        data: Observations and failures.
        settings: See ``specifications.settings_for``.
        live: The bundle that is live now, None before the first release.
        version: Of the bundle made.
        signing_key: Whose public half the gateways trust.
        progress: Called with a stage and the share, 0 to 1, of the whole job that is done.
        spec: Of windows and features; default ``specification_for`` the class.
        trained_at: For the lineage and the not-after; default: the clock. The same value gives the same bytes.
        missing: What data had not come, a sentence each, for the model card.

    Raises:
        TrainingError: If there is nothing to train from, or a failure is recorded as none.
        ParityError: If a graph does not answer as its trainer. Nothing is released.
        ExportError: If a model has no ONNX form, or a part is one that no gateway would take.
    """
    if nameless := sorted({failure.asset_id for failure in data.failures if failure.failure_mode == NORMAL}):
        raise TrainingError(
            f"{data.asset_class}: a failure of {nameless[0]} is recorded as {NORMAL!r}, which is no failure mode; "
            "correct the record; nothing is trained"
        )
    wanted = spec or specification_for(data.asset_class, data.channels)
    table = build_table(data, wanted, lambda share: progress("features", 0.5 * share))
    known = know(table, data, settings)
    held_out = held_out_assets({asset_id: data.mode_of(asset_id) for asset_id in table.asset_ids})
    learnt_from = ~table.rows_of(held_out)
    table = with_fitted(table, known, learnt_from, None if live is None else live.specification, settings.seed)
    baseline = baseline_of(table, known, settings)
    everything = lesson_of(table, known, baseline)
    lesson = everything.take(learnt_from).with_modes_seen()
    fitted = fit_models(lesson, settings, lambda share: progress("models", 0.5 + 0.3 * share))
    progress("evaluation", 0.8)
    manifest = _manifest(table, data, settings, fitted, held_out, live, version, trained_at or datetime.now(UTC))
    parts = {FEATURES: encode_specification(table.spec), BASELINES: encode_baseline(baseline), **fitted.parts}
    unseen = _unseen(everything.take(~learnt_from), fitted.modes or (NORMAL,))
    parts, compressions = compress_parts(parts, manifest, unseen, settings.compression)
    bundle = LoadedBundle.of_parts(parts, manifest)
    metrics = evaluate(bundle, table, known, held_out, settings.horizons.clear_h)
    compared_on, ours, theirs = _compare(bundle, live, table, data, known, held_out, settings)
    decision = decide(ours, theirs)
    progress("bundle", 0.95)
    manifest = replace(manifest, metrics=metrics)
    further = golden_rows(table.spec, parts, lesson.prepared, seed=settings.seed, splits=fitted.splits)
    parts[GOLDEN] = make_golden(bundle, _every_so_many(table.samples, _GOLDEN_WINDOWS), further)
    parts[MODEL_CARD] = model_card(manifest, decision, fitted.parity, missing, fitted.notes, compressions).encode()
    archive = pack(parts, manifest, signing_key)
    progress("done", 1.0)
    return TrainingOutcome(
        archive=archive,
        archive_name=archive_name(manifest),
        manifest=replace(manifest, files={name: digest(part) for name, part in parts.items()}),
        metrics=metrics,
        live_metrics=theirs,
        compared_on=tuple(sorted(compared_on)),
        decision=decision,
        parity=fitted.parity,
        bundle=bundle,
        compressions=compressions,
    )


def _every_so_many(windows: Windows, most: int) -> Windows:
    return windows.take(np.arange(0, len(windows), -(-len(windows) // most)))


def _unseen(lesson: Lesson, modes: Sequence[str]) -> Unseen:
    """Return the windows of *lesson*, of assets that nothing was learnt from, with their modes as places in *modes*."""
    place = np.array([modes.index(mode) if mode in modes else UNKNOWN for mode in (*lesson.modes, "")], np.int64)
    return Unseen(prepared=lesson.prepared, mode=place[lesson.mode], life_h=lesson.life_h)


def _compare(
    bundle: LoadedBundle,
    live: LoadedBundle | None,
    table: Table,
    data: TrainingData,
    known: Known,
    held_out: frozenset[str],
    settings: TrainingSettings,
) -> tuple[frozenset[str], dict[str, float], dict[str, float] | None]:
    """Return the assets that neither bundle has learnt from, and the figures of both on them."""
    if live is None:
        return held_out, {}, None
    clear_h = settings.horizons.clear_h
    unseen = held_out - set(live.manifest.lineage.trained_on_assets) or held_out
    if unfitted(live.specification) != unfitted(table.spec):
        told = build_table(data, live.specification, lambda _share: None)
        theirs = evaluate(live, told, know(told, data, settings), unseen, clear_h)
    else:
        theirs = evaluate(live, table, known, unseen, clear_h)
    return unseen, evaluate(bundle, table, known, unseen, clear_h), theirs


def _manifest(
    table: Table,
    data: TrainingData,
    settings: TrainingSettings,
    fitted: FittedModels,
    held_out: frozenset[str],
    live: LoadedBundle | None,
    version: int,
    trained_at: datetime,
) -> Manifest:
    trained_on = set(table.asset_ids) - held_out
    return Manifest(
        schema_version=SCHEMA_VERSION,
        asset_class=data.asset_class,
        version=version,
        channels=table.spec.channels,
        feature_hash=feature_hash(table.spec),
        thresholds=_thresholds(fitted.limits, settings),
        failure_modes=fitted.modes,
        actions=actions_for(fitted.modes or (NORMAL,)),
        files={},
        opset=OPSET,
        minimum_gateway_version=MINIMUM_GATEWAY_VERSION,
        not_after=trained_at + timedelta(days=settings.validity_days),
        metrics={},
        lineage=Lineage(
            trained_at=trained_at,
            trained_on_assets=tuple(sorted(trained_on)),
            held_out_assets=tuple(sorted(held_out)),
            observations=table.observations,
            lake_digest=table.digest,
            replaces_version=None if live is None else live.manifest.version,
            software_version=installed_version("wearsight"),
        ),
    )


def _thresholds(limits: AlarmLimits, settings: TrainingSettings) -> Thresholds:
    return Thresholds(
        warning=limits.warning,
        alarm=limits.alarm,
        minimum_good_share=settings.minimum_good_share,
        on_delay_windows=settings.detection.on_delay_windows,
        off_delay_windows=settings.off_delay_windows,
        minimum_confidence=settings.minimum_confidence,
    )
