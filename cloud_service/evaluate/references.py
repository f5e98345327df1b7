"""What others published on the same data, as they say they measured it, and what this project aims at.

A figure is here only if its source was read; where a source tells another paper's figure, it says so. Most sources do
not tell how settings were chosen; a figure from a table is the best that its authors printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published result: the figures under our names, rates as fractions.

    Attributes:
        method: As its authors call it.
        source: Paper, or repository and file, where the figures stand.
        figures: By the names of `Outcome.metrics`.
        note: How its protocol differs from ours, where that is known.
    """

    method: str
    source: str
    figures: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A figure that this project set itself: ``least`` or ``most``, or both."""

    least: float = float("-inf")
    most: float = float("inf")

    def is_met(self, value: float) -> bool:
        """Return whether *value* meets it."""
        return self.least <= value <= self.most


_FFVE = "LLerDagu/RUL-FFVE, Benchmark.md, table 4"
_STAR = "G. Fan et al., Sensors 24(3):824, 2024, table 5"
_RUDDER = "rudder-framework/prognostics, README"
_SKAB = "waico/SKAB, README, leaderboard"
_SKAB_STRICT = "waico/SKAB, README at the commit of the data"
_SECOND_HAND = "as the source tells it, not the authors"
_TRANSCRIBED = "as a copy of the table tells it; the paper itself was not read"
_OWN = "the authors' own table; how settings were chosen is not told"
_NO_PAPER = "no paper; one seed"
_NONE = float("nan")
_WHOLE_FILES = "rows of the training part count too; change points: window of 30 s around each"
_AFTER_TRAINING = "only rows after the training part count; change points: 60 s after each"

# Method, RMSE, score, source, note: last cycle of each test engine, labels capped at 125.
_FD001 = (
    ("Stacked gradient boosting", 10.45, 147.0, _RUDDER, _NO_PAPER),
    ("STAR, two-stage transformer", 10.61, 169.0, _STAR, _TRANSCRIBED),
    ("MTSTAN", 10.97, 175.36, _FFVE, _SECOND_HAND),
    ("BiLSTM-DAE-Transformer", 10.98, 186.0, _STAR, _SECOND_HAND),
    ("MS-DCNN", 11.44, 196.22, _FFVE, _SECOND_HAND),
    ("FFVE", 12.31, 280.21, _FFVE, _OWN),
    ("AGCNN", 12.42, 225.5, _FFVE, _SECOND_HAND),
    ("DCNN", 12.61, 274.0, "rudder-framework/manifold, C-MAPSS results", _SECOND_HAND),
    ("BiLSTM", 13.65, 295.0, _STAR, _SECOND_HAND),
    ("Deep LSTM", 16.14, 338.0, _FFVE, _SECOND_HAND),
    ("CNN", 18.45, 1299.0, _FFVE, _SECOND_HAND),
)
_FD002 = (
    ("FFVE", 12.55, 772.17, _FFVE, _OWN),
    ("Stacked gradient boosting", 12.70, 550.0, _RUDDER, _NO_PAPER),
    ("STAR, two-stage transformer", 13.47, 784.0, _STAR, _TRANSCRIBED),
    ("TF-SCN+HLS-VAE", 14.71, 1358.0, _FFVE, _SECOND_HAND),
    ("MTSTAN", 16.81, 1154.36, _FFVE, _SECOND_HAND),
    ("AGCNN", 19.43, 1492.0, _FFVE, _SECOND_HAND),
    ("BiLSTM", 23.18, 4130.0, _STAR, _SECOND_HAND),
    ("Deep LSTM", 24.49, 4450.0, _FFVE, _SECOND_HAND),
    ("CNN", 30.29, 13600.0, _FFVE, _SECOND_HAND),
)
# Method, F1, false-alarm rate, missed-alarm rate, NAB standard; NaN where there is none.
_SKAB_TABLE = (
    ("Conv-AE", 0.79, 0.1369, 0.1777, 10.09),
    ("MSET", 0.73, 0.2082, 0.2008, 12.71),
    ("LSTM-AE", 0.68, 0.1424, 0.3556, 22.12),
    ("T-squared + Q (PCA)", 0.67, 0.1395, 0.3632, 26.71),
    ("MSCRED", 0.64, 0.1356, 0.4116, 28.74),
    ("T-squared", 0.56, 0.1214, 0.5256, 17.87),
    ("Isolation forest", 0.40, 0.0686, 0.7209, 37.53),
)
# The same; a method without an outlier figure is in the change-point table alone.
_SKAB_STRICT_TABLE = (
    ("Conv-AE", 0.78, 0.1355, 0.2802, 23.61),
    ("MSET", 0.78, 0.3973, 0.1413, 13.84),
    ("T-squared + Q (PCA)", 0.76, 0.2662, 0.2492, 25.35),
    ("LSTM-AE", 0.74, 0.2996, 0.2592, 23.51),
    ("T-squared", 0.66, 0.1921, 0.4260, 19.54),
    ("Isolation forest", 0.29, 0.0256, 0.8289, 26.16),
    ("MSCRED", _NONE, _NONE, _NONE, 32.42),
)


def _lives(table: Sequence[tuple[str, float, float, str, str]]) -> tuple[Reference, ...]:
    return tuple(
        Reference(method=method, source=source, figures={"rmse_capped": rmse, "score_capped": score}, note=note)
        for method, rmse, score, source, note in table
    )


def _anomalies(table: Sequence[tuple[str, float, float, float, float]], source: str, note: str) -> list[Reference]:
    names = ("f1", "false_alarm_rate", "missed_alarm_rate", "nab_standard")
    told = [{name: one for name, one in zip(names, row[1:], strict=True) if not math.isnan(one)} for row in table]
    return [
        Reference(method=row[0], source=source, figures=figures, note=note)
        for row, figures in zip(table, told, strict=True)
    ]


REFERENCES: Final[Mapping[str, tuple[Reference, ...]]] = {
    "cmapss-fd001": _lives(_FD001),
    "cmapss-fd002": _lives(_FD002),
    "skab": (
        *_anomalies(_SKAB_STRICT_TABLE, _SKAB_STRICT, _AFTER_TRAINING),
        *_anomalies(_SKAB_TABLE, _SKAB, _WHOLE_FILES),
    ),
    "ai4i": (
        Reference(
            method="The rules HDF, PWF and OSF that the data was made by",
            source="S. Matzka, AI4I 2020, UCI 601: the rules, applied to all rows",
            figures={"precision": 1.0, "recall": 0.847, "f1": 0.917},
            note="nothing is learnt; figures much above it come from the cause columns",
        ),
    ),
    "azure-pdm": (
        Reference(
            method="Gradient boosting",
            source="Microsoft, Predictive Maintenance Modelling Guide, split 1",
            figures={"row_precision": 0.982, "row_recall": 0.978},
            note="100 machines, split by time: every machine is learnt from; by row, mean of five classes",
        ),
    ),
}

AIMS: Final[Mapping[str, Mapping[str, Aim]]] = {
    "cmapss-fd001": {
        "rmse_capped": Aim(most=10.3),
        "score_capped": Aim(most=175.0),
        "rmse_capped_last_40": Aim(most=14.5),
        "coverage_p10_p90": Aim(least=0.77, most=0.83),
    },
    "cmapss-fd002": {
        "rmse_capped": Aim(most=10.3),
        "score_capped": Aim(most=480.0),
        "rmse_capped_last_40": Aim(most=14.0),
        "coverage_p10_p90": Aim(least=0.77, most=0.83),
    },
    "skab": {
        "f1": Aim(least=0.80),
        "false_alarm_rate": Aim(most=0.13),
        "nab_standard": Aim(least=33.0),
    },
    "ai4i": {"f1": Aim(least=0.91)},
    "azure-pdm": {"event_recall": Aim(least=0.95), "precision": Aim(least=0.9)},
}
