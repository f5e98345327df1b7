"""Where a data set comes from: a name stands for a public one below the data folder, anything else is a folder."""

from __future__ import annotations

from pathlib import Path

from cloud_service.errors import EvaluationFailed
from models.datasets.files import DatasetError
from models.datasets.folder import read_folder
from models.datasets.named import FOLDERS, read_named
from models.datasets.tasks import Anomaly, Classification, Dataset, FailureEvents, RemainingLife, Series

TASKS = {
    RemainingLife: "remaining_life",
    Anomaly: "anomaly",
    Classification: "classification",
    FailureEvents: "failure_events",
    Series: "series",
}


def read_dataset(name: str, data: Path | None) -> Dataset:
    """Return the data set that *name* means: one of `FOLDERS` below *data*, or the folder at that path.

    Raises:
        EvaluationFailed: If it is neither, the data folder is not told, or what is there cannot be used.
    """
    try:
        if name not in FOLDERS:
            if not Path(name).is_dir():
                raise EvaluationFailed(
                    f"{name} is neither a folder nor one of {', '.join(FOLDERS)}; describe other data in a folder "
                    "(docs/reference/dataset-folder.md); nothing is evaluated"
                )
            return read_folder(Path(name))
        if data is None:
            raise EvaluationFailed(
                f"{name} is looked for below the data folder, and none is told; give it with --data DIR or in "
                "WEARSIGHT_DATA; nothing is evaluated"
            )
        return read_named(name, data)
    except DatasetError as error:
        raise EvaluationFailed(str(error)) from error


def task_of(dataset: Dataset) -> str:
    """Return the task's name as ``dataset.toml`` says it."""
    return TASKS[type(dataset)]


def summary(dataset: Dataset) -> dict[str, object]:
    """Return what was read, in a few figures, for people and programs."""
    told: dict[str, object] = {"channels": [f"{channel.name} ({channel.unit})" for channel in dataset.channels]}
    match dataset:
        case RemainingLife():
            told |= {
                "settings": list(dataset.settings),
                "life_unit": dataset.life_unit,
                "cap": dataset.cap,
                "splits": [
                    {
                        "assets_learnt_from": len(split.train.asset_ids),
                        "rows_learnt_from": len(split.train.asset),
                        "assets_judged": len(split.test.asset_ids),
                        "rows_judged": len(split.test.asset),
                    }
                    for split in dataset.splits
                ],
            }
        case Anomaly():
            told |= {
                "settings": list(dataset.settings),
                "files": len(dataset.file_ids),
                "files_judged": int(dataset.judged.sum()),
                "rows": len(dataset.file),
                "anomalous_rows": int(dataset.anomaly.sum()),
                "change_points": int(dataset.changepoint.sum()),
                "healthy_rows": int(dataset.healthy_rows.sum()),
            }
        case Classification():
            told |= {
                "rows": len(dataset.group),
                "failed_rows": int(dataset.target.sum()),
                "modes": dict(zip(dataset.modes, dataset.mode.sum(axis=0).tolist(), strict=True)),
                "folds": dataset.folds,
            }
        case FailureEvents():
            told |= {
                "machines": len(dataset.machine_ids),
                "rows": len(dataset.machine),
                "events": len(dataset.event_kind),
                "event_kinds": list(dataset.event_kinds),
                "failures": len(dataset.failure_mode),
                "modes": list(dataset.modes),
                "horizon_h": dataset.horizon_h,
                "folds": dataset.folds,
            }
        case Series():
            told |= {
                "series": len(dataset.file_ids),
                "rows": len(dataset.file),
                "labelled_windows": len(dataset.window_file),
                "healthy_rows": int(dataset.healthy_rows.sum()),
            }
    return told
