"""The command, with a baseline in the place of a protocol: what it reads, prints and writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cloud_service.cli import main
from cloud_service.evaluate.protocols import PROTOCOLS

ROOT = Path(__file__).parents[3]
DESCRIPTION = """
task = "remaining_life"
[files]
data = "runs.csv"
[columns]
asset = "pump"
cycle = "cycle"
[split]
test_assets = ["3", "4"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of five pumps, judged by a baseline."""
    monkeypatch.setitem(PROTOCOLS, "remaining_life", "tests.cloud_service.evaluate.mean_life")
    monkeypatch.syspath_prepend(str(ROOT))
    rows = [f"{pump},{cycle},{pump + cycle}" for pump in range(5) for cycle in range(1, 30 + pump)]
    (tmp_path / "pumps").mkdir()
    (tmp_path / "pumps" / "runs.csv").write_text("pump,cycle,heat\n" + "\n".join(rows))
    (tmp_path / "pumps" / "dataset.toml").write_text(DESCRIPTION)
    return tmp_path / "pumps"


def run(*arguments: str | int | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def told(*arguments: str | int | Path, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def test_a_folder_is_judged_and_told_as_one_object(folder: Path) -> None:
    """Progress goes to standard error; standard output is one JSON object and nothing else."""
    result = run(folder, "--json", "--seeds", 2)
    content = json.loads(result.stdout)
    assert (content["dataset"], content["task"]) == ("pumps", "remaining_life")
    assert content["metrics"]["assets"] == 2.0
    assert set(content["seeds"]) == {"0", "1"}
    assert content["spread"]["rmse_raw"] > 0.0
    assert content["seconds"] >= 0.0
    assert "pumps: seed 0" in result.stderr


def test_processes_share_the_seeds_and_come_to_the_same(folder: Path) -> None:
    """What differs from seed to seed in the protocol is told by seed."""
    alone, shared = told(folder, "--seeds", 3), told(folder, "--seeds", 3, "--jobs", 2)
    for key in ("metrics", "spread", "seeds", "parity"):
        assert alone[key] == shared[key], key
    assert shared["protocol"]["seeds"] == [0, 1, 2]
    assert shared["protocol"]["model"] == "mean"
    assert shared["protocol"]["noise_from_seed"] == {"seed 0": 0, "seed 1": 1, "seed 2": 2}


def test_out_has_the_report_the_card_the_plots_and_the_data(folder: Path, tmp_path: Path) -> None:
    content = told(folder, "--out", tmp_path / "out")
    names = {"evaluation.json", "report.md", "model-card.md", "predicted-against-true-life.png"}
    assert (
        {Path(file).name for file in content["files"]} == names == {file.name for file in (tmp_path / "out").iterdir()}
    )
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["metrics"] == content["metrics"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "wearsight-cloud evaluate pumps --seeds 3" in report
    assert str(tmp_path) not in report


def test_people_get_tables(folder: Path) -> None:
    shown = run(folder).stdout
    assert "RMSE, raw" in shown
    assert "0 of 6 decisions differ" in shown
    assert "It knows nothing of the asset but its age." in shown


def test_a_dry_run_reads_and_checks_and_judges_nothing(folder: Path) -> None:
    content = told(folder, "--dry-run")
    assert content["splits"] == [
        {
            "assets_learnt_from": 3,
            "rows_learnt_from": 90,
            "assets_judged": 2,
            "rows_judged": content["splits"][0]["rows_judged"],
        }
    ]
    assert content["protocol"].startswith("A baseline")
    assert "metrics" not in content
    assert "channels: heat (1)" in run(folder, "--dry-run").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "neither a folder nor one of cmapss-fd001"),
        (["skab"], "none is told; give it with --data DIR or in WEARSIGHT_DATA"),
        (["skab", "--data", "."], "skab: is not there; give the folder that holds skab/"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(arguments: list[str], reason: str) -> None:
    assert reason in told(*arguments, code=1)["reason"]


def test_a_description_that_cannot_be_used_is_told_by_line(folder: Path) -> None:
    (folder / "dataset.toml").write_text(DESCRIPTION + "fold = 3\n")
    assert "dataset.toml, line 10: unknown key `split.fold`" in told(folder, code=1)["reason"]


def test_out_that_is_a_file_is_refused_before_anything_is_judged(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--out" in run(folder, "--out", tmp_path / "file" / "below", code=1).stderr


def test_what_no_model_can_be_made_of_is_told_plainly(tmp_path: Path) -> None:
    """There is a limit to the channels of a model; it is only met when there is to be one."""
    (tmp_path / "dataset.toml").write_text('task = "anomaly"\n[files]\ndata = "a.csv"\n[columns]\nanomaly = "bad"')
    rows = [",".join([*["1"] * 300, str(row % 2)]) for row in range(40)]
    (tmp_path / "a.csv").write_text("\n".join([",".join([*(f"c{n}" for n in range(300)), "bad"]), *rows]))
    reason = told(tmp_path, code=1)["reason"]
    assert reason.endswith("1 to 256 channels with different names are needed; nothing is judged")


def test_a_missing_package_is_told_by_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.cloud_service.evaluate.mean_life", None)
    assert "extra train" in told(folder, code=1)["reason"]
