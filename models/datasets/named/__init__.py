"""The public data sets that have a name: a description of each, and the folder it is looked for in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from models.datasets.files import DatasetError
from models.datasets.folder import read_folder
from models.datasets.tasks import Dataset

FOLDERS: Final = {
    "cmapss-fd001": "cmapss",
    "cmapss-fd002": "cmapss",
    "skab": "skab",
    "ai4i": "ai4i2020",
    "azure-pdm": "azure_pdm",
    "nab-machine-temperature": "nab_machine_temperature",
}


def description_of(name: str) -> Path:
    """Return the file that describes the data set *name*, one of `FOLDERS`."""
    return Path(__file__).parent / f"{name}.toml"


def read_named(name: str, data: Path) -> Dataset:
    """Return the data set *name* from its folder in *data*.

    Raises:
        DatasetError: If the folder is not there, or as `read_folder`.
    """
    folder = data / FOLDERS[name]
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: is not there; give the folder that holds {FOLDERS[name]}/ with --data or WEARSIGHT_DATA"
        )
    return read_folder(folder, description_of(name))
