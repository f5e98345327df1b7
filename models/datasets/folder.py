"""A data set in a folder, told by its ``dataset.toml``: read whole, checked, and put into one of five classes.

The public data sets that have a name are such folders too; their descriptions are in ``models/datasets/named``.
"""

from __future__ import annotations

from pathlib import Path

from models.datasets.classified import classification
from models.datasets.description import DESCRIPTION_FILE, read_description
from models.datasets.files import DatasetError
from models.datasets.labelled import anomaly, series
from models.datasets.lives import remaining_life
from models.datasets.machine_events import failure_events
from models.datasets.source import Source
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
    "read_folder",
]


def read_folder(folder: Path, description: Path | None = None) -> Dataset:
    """Return the data set in *folder*, as its ``dataset.toml``, or *description* instead of it, tells.

    Raises:
        DatasetError: If the description or a file is missing, too large, or not what it should be. The message names
            the file, the line and column or the key, what is wrong, and what to do.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is no folder; give the folder that holds the data set")
    file = description or folder / DESCRIPTION_FILE
    if not file.is_file():
        raise DatasetError(f"{file}: is not there; describe the data set in it (docs/reference/dataset-folder.md)")
    source = Source(folder=folder, told=read_description(file))
    match source.told.task:
        case "remaining_life":
            return remaining_life(source)
        case "anomaly":
            return anomaly(source)
        case "classification":
            return classification(source)
        case "failure_events":
            return failure_events(source)
        case "series":
            return series(source)
