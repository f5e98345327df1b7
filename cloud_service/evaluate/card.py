"""The model card of an evaluation: what was tried on what, how, how well it did, and where it does not work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloud_service.evaluate.outcome import Outcome
from cloud_service.evaluate.references import AIMS
from cloud_service.evaluate.report import figures_grid, markdown_table, parity_sentence, protocol_list

_TASKS: Final[Mapping[str, str]] = {
    "remaining_life": "Tell how long a machine still runs, as P10, P50 and P90, from its records up to now.",
    "anomaly": "Tell which rows of a file are anomalous, from its first, healthy rows alone.",
    "classification": "Tell which rows failed, and by which mode, from what was measured at that row.",
    "failure_events": "Tell before a machine fails that it will, within the horizon and by which mode.",
    "series": "Score a signal against its first rows; too few events for more than a look.",
}
_LIMITS: Final[Mapping[str, str]] = {
    "remaining_life": "Failure modes and operating settings that no learnt-from asset had are not known to the models.",
    "anomaly": "What the first rows show is taken for healthy, whatever it is; a slow fault begun before is not seen.",
    "classification": "Rows from another machine or another maker's settings are outside of what was learnt.",
    "failure_events": "A mode with a handful of failures is learnt from a handful: its figures move with each of them.",
    "series": "Figures on a handful of labelled windows say little; look at the plot.",
}


def model_card(outcome: Outcome) -> str:
    """Return the card as Markdown."""
    missed = [
        name
        for name, aim in AIMS.get(outcome.dataset, {}).items()
        if name in outcome.metrics and not aim.is_met(outcome.metrics[name])
    ]
    limits = (_LIMITS[outcome.task], *outcome.limits, *(f"The aim for {name} is missed." for name in missed))
    parity = parity_sentence(outcome) or "No exported model was compared with its trainer."
    return f"""# Model card: {outcome.dataset}

## What

{_TASKS[outcome.task]} The models of this card were trained for this evaluation and are not released; a release is
trained, compared and signed by `wearsight-cloud train`.

## How it was judged

What is judged was never learnt from, nor used to choose a setting: it is held out by asset, file, machine or group.

{protocol_list(outcome.protocol)}

## Figures

{markdown_table(figures_grid(outcome))}

The spread is the standard deviation over the seeds; differences below it are noise. {parity}

## Where it does not work

{chr(10).join(f"- {sentence}" for sentence in limits)}
"""
