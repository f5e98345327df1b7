"""What a bundle is worth on assets it has not learnt from, asked through the very graphs that a gateway runs."""

from __future__ import annotations

import numpy as np

from cloud_service.training.dataset import Known, Table, prepared_of
from models.bundle.loaded import LoadedBundle
from models.bundle.scored import Scored, score_prepared
from models.evaluation.metrics import (
    alarm_onsets,
    confusion,
    coverage,
    lead_hours,
    macro_f1,
    mean_or_nan,
    nasa_score,
    ranking_auc,
    rmse,
)
from models.records import BoolArray, FloatArray, Int64Array, to_ns

_S_PER_HOUR = 3600.0


def ask(bundle: LoadedBundle, table: Table, known: Known) -> Scored:
    """Return what *bundle* says of the windows of *table*, which must be of its specification's windows."""
    return score_prepared(bundle, prepared_of(table, known, bundle.specification, bundle.baseline))


def evaluate(
    bundle: LoadedBundle, table: Table, known: Known, asset_ids: frozenset[str], clear_h: float
) -> dict[str, float]:
    """Return the figures of *bundle* on *asset_ids*, by name; a figure without cases is absent.

    ``event_recall`` (share of failures warned of in the last *clear_h*), ``lead_h`` (median), ``named_share`` (of the
    found failures, those whose likeliest mode after the warning is right), ``detector_auc`` (fault against healthy
    windows), ``fault_windows_flagged``, ``false_alarms_per_asset_day`` (on healthy windows), ``classifier_macro_f1``,
    ``life_rmse_h``, ``life_rmse_below_cap_h``, ``life_bias_h``, ``life_coverage`` (P10 to P90; .8 is nominal),
    ``life_score`` (NASA's, mean a window).
    """
    answers = ask(bundle, table, known)
    rows = table.rows_of(asset_ids)
    thresholds = bundle.manifest.thresholds
    usable = table.good_share >= thresholds.minimum_good_share
    flagged = usable & (answers.detector_output >= thresholds.warning)
    raised = _raised(table, flagged, thresholds.on_delay_windows)
    figures = _detector_figures(table, known, rows, answers.detector_output, flagged, raised)
    figures |= _event_figures(bundle, table, known, asset_ids, answers, raised & usable, clear_h)
    if answers.probabilities is not None:
        figures |= _classifier_figures(bundle.manifest.failure_modes, known, rows, answers.probabilities)
    if answers.life is not None:
        figures |= _life_figures(known, rows, answers.life.life_s / _S_PER_HOUR)
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _raised(table: Table, flagged: BoolArray, on_delay_windows: int) -> BoolArray:
    """Return where an alarm is raised, asset by asset."""
    raised = np.zeros(len(table), np.bool_)
    for number in range(len(table.asset_ids)):
        own = table.asset == number
        raised[own] = alarm_onsets(flagged[own], on_delay_windows)
    return raised


def _detector_figures(
    table: Table, known: Known, rows: BoolArray, output: FloatArray, flagged: BoolArray, raised: BoolArray
) -> dict[str, float]:
    healthy, faulty = rows & (known.mode == 0), rows & (known.mode > 0)
    asset_days = healthy.sum() * table.spec.step_s / (24.0 * _S_PER_HOUR)
    both = healthy | faulty
    return {
        "detector_auc": ranking_auc(output[both], faulty[both]),
        "fault_windows_flagged": float(flagged[faulty].mean()) if faulty.any() else float("nan"),
        "false_alarms_per_asset_day": float((raised & healthy).sum() / asset_days) if asset_days else float("nan"),
    }


def _event_figures(
    bundle: LoadedBundle,
    table: Table,
    known: Known,
    asset_ids: frozenset[str],
    answers: Scored,
    raised: BoolArray,
    clear_h: float,
) -> dict[str, float]:
    """Return how many failures were warned of, how early, and how many by their right name."""
    leads: list[float] = []
    named: list[float] = []
    events = 0
    for number, failure in enumerate(known.failures):
        before = known.event == number
        if failure.asset_id not in asset_ids or not before.any():
            continue
        events += 1
        failed_ns = to_ns(failure.failed_at)
        lead = lead_hours(table.end_ns[before], raised[before], failed_ns, clear_h)
        if lead is None:
            continue
        leads.append(lead)
        if answers.probabilities is not None:
            since = before & (table.end_ns >= failed_ns - int(lead * _S_PER_HOUR * 1e9))
            likeliest = 1 + int(answers.probabilities[since, 1:].mean(axis=0).argmax())
            named.append(float(bundle.manifest.failure_modes[likeliest] == failure.failure_mode))
    return {
        "events": float(events),
        "event_recall": len(leads) / events if events else float("nan"),
        "lead_h": float(np.median(leads)) if leads else float("nan"),
        "named_share": mean_or_nan(named),
    }


def _classifier_figures(
    failure_modes: tuple[str, ...], known: Known, rows: BoolArray, probabilities: FloatArray
) -> dict[str, float]:
    """Return the macro F1 over windows whose mode is known, by the names of the modes."""
    names = tuple(dict.fromkeys((*known.modes, *failure_modes)))
    told = rows & (known.mode >= 0)
    truth: Int64Array = known.mode[told]
    answer = np.array([names.index(mode) for mode in failure_modes], np.int64)[probabilities[told].argmax(axis=1)]
    return {"classifier_macro_f1": macro_f1(confusion(truth, answer, len(names)))}


def _life_figures(known: Known, rows: BoolArray, life_h: FloatArray) -> dict[str, float]:
    told = rows & np.isfinite(known.life_h) & np.isfinite(life_h).all(axis=1)
    truth = known.life_h[told]
    if not truth.size:
        return {}
    low, middle, high = np.minimum(life_h[told], truth.max()).T
    error = middle - truth
    dying = truth < truth.max()
    return {
        "life_rmse_h": rmse(error),
        "life_rmse_below_cap_h": rmse(error[dying]),
        "life_bias_h": float(error.mean()),
        "life_coverage": coverage(truth[dying], low[dying], high[dying]),
        "life_score": nasa_score(error) / len(error),
    }
