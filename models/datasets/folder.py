"""A data set in a folder, told by its ``dataset.toml``."""

from models.datasets.tasks import (
    Anomaly,
    Classification,
    Dataset,
    FailureEvents,
    LifeSplit,
    RemainingLife,
    Runs,
    Series,
)

__all__ = [
    "Anomaly",
    "Classification",
    "Dataset",
    "FailureEvents",
    "LifeSplit",
    "RemainingLife",
    "Runs",
    "Series",
]
