from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from demo.plant.fleet import HOUR_NS
from demo.plant.replay import CMAPSS_LIVE_NS, cmapss_source, skab_source
from demo.plant.timeline import Timeline
from models.datasets import cmapss, skab

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / "cmapss").is_dir() or not (DATA / "skab").is_dir(), reason="no data sets here"),
]


def test_both_cells_together_serve_all_of_fd001() -> None:
    """Every engine once; training engines as history, test engines live, one cycle an hour."""
    subset = cmapss.read_subset(DATA / "cmapss")
    live = 0
    names: list[str] = []
    for cell in ("cell-1", "cell-2"):
        source = cmapss_source(DATA, cell)
        names += [machine.asset_id for machine in source.machines]
        timeline = Timeline(source)
        history = timeline.behind()
        assert {history.streams[number].asset_id[:9] for number in np.unique(history.stream)} == {"engine-tr"}
        while not timeline.ended:
            live += len(timeline.due(timeline.now + 20 * HOUR_NS, 5000))
    assert sorted(names) == [f"engine-{kind}-{unit:03d}" for kind in ("te", "tr") for unit in range(1, 101)]
    assert live == 24 * sum(len(engine.values) for engine in subset.test)


def test_fd001s_truth_is_the_files() -> None:
    """A test engine fails its RUL, in hours here, after its last cycle."""
    subset = cmapss.read_subset(DATA / "cmapss")
    faults = {fault["asset"]: fault for fault in cmapss_source(DATA, "cell-2").truth(0)["faults"]}
    assert faults["engine-te-100"]["rul_s"] == subset.rul[99] * 3600
    assert faults["engine-tr-051"]["rul_s"] == 0


def test_an_engines_values_come_as_they_stand_in_the_file() -> None:
    source = cmapss_source(DATA, "cell-1")
    timeline = Timeline(source)
    timeline.due(CMAPSS_LIVE_NS + 400 * HOUR_NS, 10**9)
    while not timeline.ended:
        timeline.due(source.end or 0, 10**9)
    first = [number for number, stream in enumerate(timeline.streams) if stream.asset_id == "engine-te-003"]
    columns = [timeline.history(number, 0, 2**62).value for number in first]
    np.testing.assert_array_equal(np.stack(columns, 1), cmapss.read_subset(DATA / "cmapss").test[2].values)


def test_skab_keeps_gaps_values_and_labels() -> None:
    """Moved as a whole: 400 rows are behind at the start, and time steps are the recording's."""
    experiments = {f"rig-{e.group}-{e.name}": e for e in skab.read_experiments(DATA / "skab")}
    for cell in ("cell-1", "cell-2"):
        source = skab_source(DATA, cell)
        timeline = Timeline(source)
        labels = source.truth(0)["labels"]
        for machine in source.machines:
            number = timeline.index[machine.asset_id, "pressure_bar"]  # type: ignore[index]  # a stream is a tuple
            rows = timeline.history(number, 0, 2**62)
            if machine.asset_id == "rig-anomaly-free":
                assert len(rows) == 9_405
                continue
            experiment = experiments[machine.asset_id]
            assert len(rows) == 400
            np.testing.assert_array_equal(np.diff(rows.source_time), np.diff(experiment.time_ns[:400]))
            np.testing.assert_array_equal(rows.value, experiment.values[:400, 3])
            assert labels[machine.asset_id]["anomaly"] == experiment.anomaly.astype(int).tolist()
            assert labels[machine.asset_id]["time_ns"][:400] == rows.source_time.tolist()
