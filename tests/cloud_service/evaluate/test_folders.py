"""Data sets that no code knows, described in a folder, through the protocols and the command as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cloud_service.cli import main
from cloud_service.evaluate import remaining_life
from cloud_service.training.prognosis import PrognosisSettings

pytestmark = pytest.mark.slow


def rows(header: str, *columns: Any) -> str:
    return header + "\n" + "\n".join(",".join(map(str, row)) for row in zip(*columns, strict=True))


def milling() -> Mapping[str, str]:
    """Rows that failed when they were worn under load; the line they ran on has nothing to do with it."""
    rng = np.random.default_rng(3)
    load, wear = rng.normal(500.0, 80.0, 400), rng.uniform(0.0, 100.0, 400)
    state = np.where(load * wear > 40_000.0, "worn", "ok")
    told = 'task = "classification"\nnormal = ["ok"]\n[files]\ndata = "a.csv"\n[columns]\nmode = "state"\n'
    line = np.array(["north", "south"])[rng.integers(0, 2, 400)]
    told += "[split]\nfolds = 2"
    return {"dataset.toml": told, "a.csv": rows("line,load_n,wear_um,state", line, load.round(2), wear.round(2), state)}


def rigs() -> Mapping[str, str]:
    """A pump whose pressure drops for a while, twice the same."""
    rng = np.random.default_rng(4)
    files = {}
    for number in range(2):
        pressure, flow = rng.normal(3.0, 0.05, 300), rng.normal(20.0, 0.3, 300)
        bad = (np.arange(300) >= 200) & (np.arange(300) < 260)
        files[f"rig{number}.csv"] = rows(
            "t,pressure,flow,bad", np.arange(300), (pressure - 0.8 * bad).round(4), flow.round(4), bad.astype(int)
        )
    told = 'task = "anomaly"\n[files]\ndata = "rig*.csv"\n[table]\ntime_format = "unix_s"\n[columns]\ntime = "t"\n'
    return {"dataset.toml": told + 'anomaly = "bad"', **files}


def pumps() -> Mapping[str, str]:
    """Pumps that run warmer and warmer until they seize, after 40 to 60 cycles."""
    rng = np.random.default_rng(5)
    unit, cycle, heat, load = [], [], [], []
    for number in range(9):
        life = int(rng.integers(40, 60))
        age = np.arange(1, life + 1)
        unit += [number] * life
        cycle += age.tolist()
        heat += (40.0 + 20.0 * (age / life) ** 3 + rng.normal(0.0, 0.4, life)).round(3).tolist()
        load += rng.normal(5.0, 0.5, life).round(3).tolist()
    told = 'task = "remaining_life"\n[files]\ndata = "all.csv"\n[columns]\nasset = "unit"\ncycle = "cycle"\n'
    told += '[life]\ncap = 40.0\n[split]\ntest_assets = ["0", "1", "2"]'
    return {"dataset.toml": told, "all.csv": rows("unit,cycle,heat,load", unit, cycle, heat, load)}


def fleet() -> Mapping[str, str]:
    """Machines whose vibration rises for a day before the belt snaps; it is replaced at once."""
    rng = np.random.default_rng(6)
    hours = np.datetime64("2020-01-01T00") + np.arange(600).astype("timedelta64[h]")
    machine, time, vibration, failed = [], [], [], []
    for number in range(6):
        signal = rng.normal(2.0, 0.2, 600)
        for at in range(100 + 20 * number, 600, 150):
            signal[at - 24 : at] += 1.5
            failed.append(f"m{number},{hours[at]}:00,belt")
        machine += [f"m{number}"] * 600
        time += [f"{hour}:00" for hour in hours]
        vibration += signal.round(4).tolist()
    told = """
task = "failure_events"
[files]
data = "t.csv"
[columns]
asset = "machine"
time = "time"
[[events]]
file = "swaps.csv"
kind = "part"
replacement = true
[failures]
file = "failures.csv"
mode = "part"
[split]
folds = 2
"""
    events = "machine,time,part\n" + "\n".join(failed)
    telemetry = rows("machine,time,vibration", machine, time, vibration)
    return {"dataset.toml": told, "t.csv": telemetry, "failures.csv": events, "swaps.csv": events}


def line() -> Mapping[str, str]:
    """A temperature that falls out of its daily swing once."""
    time = np.datetime64("2020-01-01T00:00") + np.arange(600).astype("timedelta64[m]") * 10
    value = 50.0 + 5.0 * np.sin(np.arange(600) / 144.0 * 2 * np.pi) + np.random.default_rng(7).normal(0.0, 0.3, 600)
    value[450:480] -= 15.0
    labels = json.dumps([[str(time[445]), str(time[485])]])
    told = 'task = "series"\n[files]\ndata = "s.csv"\nlabels = "l.json"\n[columns]\ntime = "time"'
    return {"dataset.toml": told, "s.csv": rows("time,celsius", time, value.round(3)), "l.json": labels}


@pytest.mark.parametrize(
    ("files", "figure", "least", "most"),
    [
        (milling, "f1", 0.8, 1.0),
        (rigs, "f1", 0.7, 1.0),
        (pumps, "rmse_capped", 0.0, 12.0),
        (fleet, "event_recall", 0.8, 1.0),
        (line, None, 0.0, 0.0),
    ],
    ids=["classification", "anomaly", "remaining_life", "failure_events", "series"],
)
def test_a_data_set_that_no_code_knows_is_judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Callable[[], Mapping[str, str]],
    figure: str | None,
    least: float,
    most: float,
) -> None:
    """A short description is enough, what is easy is told well, and exported models decide as their trainers."""
    # Fewer trees and kernels: what is easy is told by these too, and the test is over sooner.
    monkeypatch.setattr(remaining_life, "PrognosisSettings", partial(PrognosisSettings, rounds=(40,), folds=2))
    monkeypatch.setattr(remaining_life, "KERNELS", 100)
    (tmp_path / "plant").mkdir()
    for name, text in files().items():
        (tmp_path / "plant" / name).write_text(text)
    arguments = ["evaluate", str(tmp_path / "plant"), "--seeds", "1", "--json", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    if figure is not None:
        assert least <= told["metrics"][figure] <= most
    assert told["protocol"]
    assert told["parity"] is None or told["parity"]["decisions_changed"] == 0
    assert len(list((tmp_path / "out").glob("*.png"))) >= 1
