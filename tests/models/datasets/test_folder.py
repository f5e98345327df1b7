from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from models.datasets import rows
from models.datasets.files import DatasetError
from models.datasets.folder import Anomaly, Classification, FailureEvents, RemainingLife, Series, read_folder
from models.datasets.rows import files_of
from models.datasets.tasks import CYCLE_ZERO_NS, NS_PER_HOUR


def folder_of(folder: Path, description: str, files: Mapping[str, str]) -> Path:
    (folder / "dataset.toml").write_text(description)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run_to_failure(assets: int, cycles: int) -> str:
    rows = [f"{asset},{cycle},{asset + cycle / 10}" for asset in range(assets) for cycle in range(1, cycles + 1)]
    return "engine,cycle,heat\n" + "\n".join(rows)


LIFE = 'task = "remaining_life"\n[columns]\nasset = "engine"\ncycle = "cycle"\n'


def test_runs_are_split_into_train_and_test_files(tmp_path: Path) -> None:
    """The last row of a training run is its failure; a test run's life comes from its own file, in its order."""
    files = {"train.csv": run_to_failure(2, 3), "test.csv": run_to_failure(2, 2), "rul.txt": "40\n7\n"}
    told = LIFE + '[files]\ntrain = "train.csv"\ntest = "test.csv"\ntest_life = "rul.txt"\n[life]\ncap = 30.0'
    dataset = read_folder(folder_of(tmp_path, told, files))
    assert isinstance(dataset, RemainingLife)
    (split,) = dataset.splits
    assert split.train.asset_ids == ("train/0", "train/1")
    assert split.train.life.tolist() == [2.0, 1.0, 0.0, 2.0, 1.0, 0.0]
    assert split.test.life.tolist() == [41.0, 40.0, 8.0, 7.0]
    assert split.test.time_ns[:2].tolist() == [CYCLE_ZERO_NS + NS_PER_HOUR, CYCLE_ZERO_NS + 2 * NS_PER_HOUR]
    assert (dataset.life_unit, dataset.cap, dataset.name) == ("cycles", 30.0, tmp_path.name)
    assert [channel.name for channel in dataset.channels] == ["heat"]


def test_runs_without_a_split_are_judged_by_asset_in_folds_and_cut_before_their_failure(tmp_path: Path) -> None:
    """Each asset is judged once, by models that have not seen it, and some time before it failed."""
    files = {"all.csv": run_to_failure(7, 40)}
    dataset = read_folder(folder_of(tmp_path, LIFE + '[files]\ndata = "all.csv"\n[split]\nfolds = 3', files))
    assert isinstance(dataset, RemainingLife)
    judged = [name for split in dataset.splits for name in split.test.asset_ids]
    assert sorted(judged) == [str(number) for number in range(7)]
    for split in dataset.splits:
        assert not set(split.train.asset_ids) & set(split.test.asset_ids)
        last = np.flatnonzero(np.diff(split.test.asset, append=-1))
        assert (split.test.life[last] >= 1.0).all()
        assert (split.train.life[np.flatnonzero(np.diff(split.train.asset, append=-1))] == 0.0).all()


def test_a_file_without_an_asset_column_is_an_asset_and_times_count_hours(tmp_path: Path) -> None:
    text = "time,a\n" + "\n".join(f"2020-01-01 {hour:02d}:30,{hour}" for hour in range(12))
    files = {f"runs/{name}.csv": text for name in ("m2", "m10", "m1")}
    told = 'task = "remaining_life"\n[files]\ndata = "runs/*.csv"\n[columns]\ntime = "time"\n'
    dataset = read_folder(folder_of(tmp_path, told + '[split]\ntest_assets = ["runs/m10"]', files))
    assert isinstance(dataset, RemainingLife)
    (split,) = dataset.splits
    assert (split.train.asset_ids, split.test.asset_ids) == (("runs/m1", "runs/m2"), ("runs/m10",))
    assert dataset.life_unit == "hours"
    assert split.train.life[:3].tolist() == [11.0, 10.0, 9.0]


def test_an_asset_that_was_taken_out_in_time_has_no_known_life(tmp_path: Path) -> None:
    """It may still be learnt from for what healthy looks like; it is never judged."""
    told = LIFE + '[files]\ndata = "all.csv"\n[life]\nsuspended = ["0"]\n[split]\nfolds = 2'
    dataset = read_folder(folder_of(tmp_path, told, {"all.csv": run_to_failure(5, 20)}))
    assert isinstance(dataset, RemainingLife)
    for split in dataset.splits:
        assert "0" in split.train.asset_ids
        assert np.isnan(split.train.life[split.train.asset == split.train.asset_ids.index("0")]).all()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('[life]\nsuspended = ["7"]', r"life\.suspended: '7' names no asset; there are 0, 1, 2"),
        ('[split]\ntest_assets = ["0", "engine 1"]', r"split\.test_assets: 'engine 1' names no asset"),
        ("[channels]\nheat = {}\nleft = {}", r"channels\.left: column 'left' is the answer"),
    ],
)
def test_what_names_nothing_or_the_answer_is_refused(tmp_path: Path, more: str, reason: str) -> None:
    rows = run_to_failure(5, 20).replace("heat", "heat,left").replace("\n", ",1\n").replace("left,1", "left") + ",1"
    told = LIFE.replace("[columns]", '[files]\ndata = "all.csv"\n[columns]\nlife = "left"') + more
    with pytest.raises(DatasetError, match=reason):
        read_folder(folder_of(tmp_path, told, {"all.csv": rows}))


def test_what_is_learnt_from_is_never_judged(tmp_path: Path) -> None:
    """Not even where a description names one file twice, under whatever name."""
    told = LIFE + '[files]\ntrain = "train.csv"\ntest = "test.csv"\ntest_life = "rul.txt"'
    folder = folder_of(tmp_path, told, {"train.csv": run_to_failure(4, 20), "rul.txt": "0\n" * 4})
    (folder / "test.csv").symlink_to("train.csv")
    with pytest.raises(DatasetError, match=r"train\.csv: is among files\.train and files\.test"):
        read_folder(folder)


def test_cycles_beyond_the_calendar_are_refused(tmp_path: Path) -> None:
    told = LIFE + '[files]\ndata = "all.csv"'
    with pytest.raises(DatasetError, match=r"column 'cycle': leads to 1e\+18 steps"):
        read_folder(folder_of(tmp_path, told, {"all.csv": run_to_failure(5, 20) + "\n4,1000000000000000000,1"}))


def test_a_column_without_a_name_is_no_channel(tmp_path: Path) -> None:
    """A data frame that was written with its index has one: the number of the row."""
    rows = [f"{number},{row}" for number, row in enumerate(run_to_failure(5, 20).splitlines()[1:])]
    dataset = read_folder(
        folder_of(tmp_path, LIFE + '[files]\ndata = "a.csv"', {"a.csv": "\n".join([",engine,cycle,heat", *rows])})
    )
    assert [channel.name for channel in dataset.channels] == ["heat"]


@pytest.mark.parametrize("name", ["heat " * 30, "heat\u200b"])
def test_a_column_whose_name_no_channel_may_have_is_told(tmp_path: Path, name: str) -> None:
    files = {"a.csv": run_to_failure(5, 20).replace("heat", name.strip(" "))}
    with pytest.raises(DatasetError, match=r"is no name of 1 to 100 printable characters; name it under channels"):
        read_folder(folder_of(tmp_path, LIFE + '[files]\ndata = "a.csv"', files))


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    """They are put asset by asset, in order of appearance, and by cycle."""
    header, *rows = run_to_failure(3, 6).splitlines()
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    told = LIFE + '[files]\ndata = "all.csv"\n[split]\nfolds = 3'
    ordered = read_folder(folder_of(tmp_path, told, {"all.csv": "\n".join([header, *rows])}))
    mixed = read_folder(folder_of(tmp_path, told, {"all.csv": "\n".join([header, *shuffled])}))
    assert isinstance(ordered, RemainingLife)
    assert isinstance(mixed, RemainingLife)
    of = dict(_rows_by_asset(ordered))
    assert all(np.array_equal(of[name], values) for name, values in _rows_by_asset(mixed))


def _rows_by_asset(dataset: RemainingLife) -> list[tuple[str, np.ndarray]]:
    runs = dataset.splits[0].train
    return [(name, runs.values[runs.asset == number]) for number, name in enumerate(runs.asset_ids)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"train.csv": run_to_failure(2, 3), "rul.txt": "1\n"}, r"files.test: 'test.csv' names no file|is not a file"),
        ({"train.csv": run_to_failure(2, 3), "test.csv": run_to_failure(2, 2), "rul.txt": "1\n"}, "has 1 values"),
        (
            {"train.csv": run_to_failure(2, 3), "test.csv": run_to_failure(1, 2), "rul.txt": "-1\n"},
            "line 1, .* is below 0",
        ),
        ({"train.csv": run_to_failure(1, 3), "test.csv": run_to_failure(1, 2), "rul.txt": "1\n"}, "needs 2 and 1"),
        ({"train.csv": run_to_failure(2, 3) + "\n0,2,1"}, "line 8, column 'cycle': 0 has a row of that cycle already"),
        ({"train.csv": run_to_failure(2, 3) + "\n,2,1"}, "line 8, column 'engine': is missing"),
        ({"train.csv": run_to_failure(2, 3) + "\n0,,1"}, "line 8, column 'cycle': is missing"),
        ({"train.csv": run_to_failure(2, 3) + "\n1,9,hot"}, "line 8, column 'heat': 'hot' is no number"),
    ],
)
def test_runs_that_do_not_fit_are_refused_by_file_and_line(
    tmp_path: Path, files: Mapping[str, str], reason: str
) -> None:
    good = {"test.csv": run_to_failure(1, 2), "rul.txt": "1\n"} if len(files) == 1 else {}
    told = LIFE + '[files]\ntrain = "train.csv"\ntest = "test.csv"\ntest_life = "rul.txt"'
    with pytest.raises(DatasetError, match=reason):
        read_folder(folder_of(tmp_path, told, {**good, **files}))


RIG = "time;flow;fault\n" + "\n".join(f"2020-01-01 00:00:{s:02d};{s / 7:.3f};{int(s >= 30)}" for s in range(40))


def test_files_are_judged_after_their_first_healthy_rows(tmp_path: Path) -> None:
    """Without a word on it, the first three tenths are healthy."""
    told = 'task = "anomaly"\n[files]\ndata = "rig/*.csv"\nhealthy = "calm.csv"\n[columns]\ntime = "time"\n'
    files = {"rig/1.csv": RIG, "rig/2.csv": RIG, "calm.csv": "\n".join(RIG.splitlines()[:11])}
    dataset = read_folder(folder_of(tmp_path, told + 'anomaly = "fault"', files))
    assert isinstance(dataset, Anomaly)
    assert dataset.file_ids == ("calm", "rig/1", "rig/2")
    assert dataset.judged.tolist() == [False, True, True]
    assert dataset.healthy_rows.tolist() == [10, 12, 12]
    assert dataset.anomaly.sum() == 20
    assert not dataset.changepoint.any()
    assert [channel.name for channel in dataset.channels] == ["flow"]
    assert dataset.channels[0].high < 39 / 7, "the range comes from the healthy rows alone"


def test_a_file_that_is_to_be_judged_must_say_where_it_is_anomalous(tmp_path: Path) -> None:
    """One without the column would count as healthy, and the true labels would be a channel."""
    told = 'task = "anomaly"\n[files]\ndata = "*.csv"\n[columns]\ntime = "time"\nanomaly = "fault"\n'
    with pytest.raises(DatasetError, match=r"2\.csv: has no column 'fault', which columns\.anomaly names"):
        read_folder(folder_of(tmp_path, told, {"1.csv": RIG, "2.csv": RIG.replace("fault", "bad")}))
    with pytest.raises(DatasetError, match=r"has no column 'change', which columns\.changepoint names"):
        read_folder(folder_of(tmp_path, told + 'changepoint = "change"', {"2.csv": RIG}))


def test_a_healthy_file_among_the_data_is_not_judged(tmp_path: Path) -> None:
    """Nor does it share its name with what is judged, where assets stand in a column."""
    told = 'task = "anomaly"\n[files]\ndata = "*.csv"\nhealthy = "2.csv"\n[columns]\nanomaly = "fault"\nasset = "rig"\n'
    rig = "\n".join(["rig,flow,fault", *(f"a,{row},{int(row > 30)}" for row in range(40))])
    dataset = read_folder(folder_of(tmp_path, told, {"1.csv": rig, "2.csv": rig.replace(",1\n", ",0\n")}))
    assert isinstance(dataset, Anomaly)
    assert (dataset.file_ids, dataset.judged.tolist()) == (("healthy/a", "a"), [False, True])
    assert dataset.anomaly.sum() == 9
    with pytest.raises(DatasetError, match=r"files\.healthy: names all files"):
        read_folder(folder_of(tmp_path, told.replace('"2.csv"', '"*.csv"'), {}))


def test_few_healthy_rows_are_refused(tmp_path: Path) -> None:
    told = 'task = "anomaly"\n[files]\ndata = "r.csv"\n[columns]\ntime = "time"\nanomaly = "fault"\n'
    with pytest.raises(DatasetError, match=r"r has 40 rows, of which the first 4 are to be learnt from; it needs 10"):
        read_folder(folder_of(tmp_path, told + "[split]\nhealthy_share = 0.1", {"r.csv": RIG}))


def test_a_file_with_nothing_left_to_judge_is_refused(tmp_path: Path) -> None:
    told = 'task = "anomaly"\n[files]\ndata = "r.csv"\n[columns]\ntime = "time"\nanomaly = "fault"\n'
    with pytest.raises(DatasetError, match=r"r has 40 rows, and split\.healthy_rows is 40"):
        read_folder(folder_of(tmp_path, told + "[split]\nhealthy_rows = 40", {"r.csv": RIG}))


def test_rows_of_a_table_are_classified_with_their_modes(tmp_path: Path) -> None:
    """A column of texts becomes whole numbers, in the order of its levels; the modes never become inputs."""
    rows = [f"{n},{'LMH'[n % 3]},{n / 2},{int(n % 4 == 0)},{int(n % 8 == 0)}" for n in range(40)]
    told = 'task = "classification"\nmodes = ["wear"]\n[files]\ndata = "a.csv"\n[columns]\nrow = "id"\ntarget = "fail"'
    dataset = read_folder(folder_of(tmp_path, told, {"a.csv": "id,kind,load,fail,wear\n" + "\n".join(rows)}))
    assert isinstance(dataset, Classification)
    assert [channel.name for channel in dataset.channels] == ["kind", "load"]
    assert dataset.levels == (("H", "L", "M"), ())
    assert dataset.values[:3, 0].tolist() == [1.0, 2.0, 0.0]
    assert (dataset.target.sum(), dataset.mode.sum(), dataset.folds) == (10, 5, 5)
    assert dataset.row_ids[:2] == ("0", "1")


def test_modes_may_stand_in_one_column_of_texts(tmp_path: Path) -> None:
    rows = "\n".join(f"{n},{['ok', 'leak', 'ok', 'wear'][n % 4]}" for n in range(40))
    told = 'task = "classification"\nnormal = ["ok"]\n[files]\ndata = "a.csv"\n[columns]\nmode = "state"'
    dataset = read_folder(folder_of(tmp_path, told, {"a.csv": "load,state\n" + rows}))
    assert isinstance(dataset, Classification)
    assert dataset.modes == ("leak", "wear")
    assert (dataset.target.sum(), dataset.mode.sum(axis=0).tolist()) == (20, [10, 10])


def test_a_normal_text_that_never_comes_is_refused(tmp_path: Path) -> None:
    """Misspelt, it would make a failure mode of all that is fine; and no text is no mode."""
    rows = [f"{number},{'worn' if number % 3 else 'ok'}" for number in range(60)]
    told = 'task = "classification"\nnormal = ["OK"]\n[files]\ndata = "a.csv"\n[columns]\nmode = "state"'
    with pytest.raises(DatasetError, match=r"normal: column 'state' never holds 'OK'; it holds ok, worn"):
        read_folder(folder_of(tmp_path, told, {"a.csv": "\n".join(["x,state", *rows])}))
    with pytest.raises(DatasetError, match=r"line 62, column 'state': is missing"):
        read_folder(folder_of(tmp_path, told, {"a.csv": "\n".join(["x,state", *rows, "61,"])}))


def test_a_text_that_is_no_level_is_refused(tmp_path: Path) -> None:
    told = 'task = "classification"\n[files]\ndata = "a.csv"\n[columns]\ntarget = "fail"\n[channels]\n'
    with pytest.raises(DatasetError, match=r"line 3, column 'kind': 'X' is none of channels.kind.levels"):
        read_folder(folder_of(tmp_path, told + 'kind = { levels = ["L"] }', {"a.csv": "kind,fail\nL,0\nX,1\n"}))


def hours(count: int, machine: str) -> str:
    return "\n".join(f"{machine},2020-01-{1 + h // 24:02d} {h % 24:02d}:00,{h},{int(h == 7)}" for h in range(count))


FLEET_FILES = {
    "t.csv": "id,time,volt,door\n" + hours(48, "a") + "\n" + hours(48, "b"),
    "m.csv": "id,model,age\na,X,3\nb,Y,5\nc,X,9\n",
    "errors.csv": "id,time,code\nb,2020-01-01 05:00,e2\na,2020-01-01 03:00,e1\nc,2020-01-01 03:00,e9\n",
    "swaps.csv": "id,time,part\na,2019-12-01 00:00,pump\na,2020-01-01 20:00,pump\n",
    "failures.csv": "id,time,part\n"
    "a,2020-01-01 20:00,pump\na,2020-01-01 20:00,pump\na,2021-01-01 20:00,pump\nc,2020-01-01 20:00,belt\n",
}
FLEET = """
task = "failure_events"
[files]
data = "t.csv"
statics = "m.csv"
[columns]
asset = "id"
time = "time"
[[events]]
file = "errors.csv"
kind = "code"
[[events]]
file = "swaps.csv"
kind = "part"
replacement = true
[failures]
file = "failures.csv"
mode = "part"
horizon_h = 12.0
[split]
folds = 2
[channels]
volt = {}
door = { role = "event" }
model = { role = "static", levels = ["X", "Y"] }
age = { role = "static", unit = "a" }
"""


def test_telemetry_events_and_failures_meet_by_machine_and_time(tmp_path: Path) -> None:
    """Machines without telemetry are left out, and so are failures outside of it or told twice; earlier events stay."""
    dataset = read_folder(folder_of(tmp_path, FLEET, FLEET_FILES))
    assert isinstance(dataset, FailureEvents)
    assert dataset.machine_ids == ("a", "b")
    assert dataset.statics.tolist() == [[0.0, 3.0], [1.0, 5.0]]
    assert dataset.event_kinds == ("e1", "e2", "pump", "door")
    assert dataset.replacement_kinds == ("pump",)
    kinds = [(dataset.machine_ids[m], dataset.event_kinds[k]) for m, k in zip(
        dataset.event_machine, dataset.event_kind, strict=True
    )]  # fmt: skip
    assert kinds == [("a", "pump"), ("a", "e1"), ("a", "door"), ("a", "pump"), ("b", "e2"), ("b", "door")]
    assert (np.diff(dataset.event_time_ns)[dataset.event_machine[1:] == dataset.event_machine[:-1]] >= 0).all()
    assert dataset.modes == ("pump",)
    assert dataset.failure_machine.tolist() == [0]
    assert (dataset.values.shape, dataset.horizon_h) == ((96, 1), 12.0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"failures.csv": "id,time,part\nb,2021-01-01 20:00,pump\n"}, "no failure of a machine in files.data"),
        ({"m.csv": "id,model,age\na,X,3\n"}, "has no row of b, which has telemetry"),
        ({"m.csv": "id,model,age\na,X,3\nb,Z,1\n"}, "'Z' is none of channels.model.levels"),
        ({"errors.csv": "id,time\na,2020-01-01 03:00\n"}, "has no column 'code'; it has id, time"),
        ({"t.csv": "id,time,volt,door\n" + hours(48, "a")}, "1 machines; needs one for each of 2 folds"),
        ({"t.csv": "id,time,volt,door\na,2020-01-01 25:00,1,0"}, "line 2, column 'time': '2020-01-01 25:00' is no"),
    ],
)
def test_a_fleet_that_does_not_fit_is_refused(tmp_path: Path, changed: Mapping[str, str], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        read_folder(folder_of(tmp_path, FLEET, {**FLEET_FILES, **changed}))


SIGNAL = "time,value\n" + "\n".join(f"2020-01-01 00:{m:02d},{m}" for m in range(60))
SERIES = 'task = "series"\n[files]\ndata = "*.csv"\nlabels = "LABELS"\n[columns]\ntime = "time"\n'
PAIRS = [["2020-01-01 00:10", "2020-01-01 00:20"], ["2020-01-01 00:40", "2020-01-01 00:40"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.json", json.dumps(PAIRS)),
        ("l.json", json.dumps({"combined_windows": PAIRS})),
        ("l.json", json.dumps({"realKnownCause/s.csv": PAIRS, "realKnownCause/other.csv": PAIRS})),
        ("l.txt", "start,end\n" + "\n".join(",".join(pair) for pair in PAIRS)),
        ("l.txt", "file,start,end\n" + "\n".join(f"s.csv,{start},{end}" for start, end in PAIRS)),
    ],
)
def test_windows_of_a_series_are_labelled_as_csv_or_json(tmp_path: Path, name: str, text: str) -> None:
    dataset = read_folder(folder_of(tmp_path, SERIES.replace("LABELS", name), {"s.csv": SIGNAL, name: text}))
    assert isinstance(dataset, Series)
    minutes = (np.array([dataset.window_start_ns, dataset.window_end_ns]) - dataset.time_ns[0]) / 60e9
    assert minutes.tolist() == [[10.0, 40.0], [20.0, 40.0]]
    assert dataset.healthy_rows.tolist() == [18]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "needs pairs of times"),
        ('[["2020-01-01 00:10"]]', "needs pairs of times"),
        ('[["2020-01-01 00:10", "2020-01-01 00:05"]]', "the first not the later"),
        ('[["soon", "2020-01-01 00:05"]]', "needs two times"),
        ('[["2021-01-01 00:10", "2021-01-01 00:15"]]', "lies outside of s, which has rows from 2020-01-01 00:00:00"),
        ("[" * 100_000, "needs pairs of times"),
        (json.dumps({"other.csv": PAIRS}), "none of its files, as 'other.csv', is one of the series, as 's'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        read_folder(folder_of(tmp_path, SERIES.replace("LABELS", "l.json"), {"s.csv": SIGNAL, "l.json": text}))


def test_flagged_rows_of_a_series_become_windows(tmp_path: Path) -> None:
    rows = "\n".join(f"2020-01-01 00:{m:02d},{m},{int(m in (0, 5, 6, 59))}" for m in range(60))
    files = {"a.csv": "time,v,bad\n" + rows, "b.csv": "time,v,bad\n" + rows}
    told = SERIES.replace('labels = "LABELS"\n', "") + 'anomaly = "bad"'
    dataset = read_folder(folder_of(tmp_path, told, files))
    assert isinstance(dataset, Series)
    assert dataset.window_file.tolist() == [0, 0, 0, 1, 1, 1]
    assert ((dataset.window_end_ns - dataset.window_start_ns) / 60e9).tolist() == [0.0, 1.0, 0.0] * 2


def test_a_clock_that_was_set_back_is_refused_unless_its_rows_are_to_be_spread(tmp_path: Path) -> None:
    """Spread, the rows keep their order, and those of the hour that came twice lie between their neighbours."""
    minutes_told = (*range(10), 10, 20, 30, 20, 30, 40)
    text = "time,value\n" + "\n".join(f"2020-01-01 00:{m:02d},{v}" for v, m in enumerate(minutes_told))
    files = {"s.csv": text, "l.json": "[]"}
    told = SERIES.replace("LABELS", "l.json") + "[split]\nhealthy_rows = 10\n"
    with pytest.raises(DatasetError, match=r"line 15, column 'time': s has a row of that time .*\"spread\""):
        read_folder(folder_of(tmp_path, told, files))
    dataset = read_folder(folder_of(tmp_path, told + '[table]\nrepeated_times = "spread"', files))
    assert isinstance(dataset, Series)
    assert dataset.values[:, 0].tolist() == [float(place) for place in range(16)]
    minutes = (dataset.time_ns - dataset.time_ns[0]) / 60e9
    assert minutes[10:] == pytest.approx([10.0, 20.0, 30.0, 30.0 + 10 / 3, 30.0 + 20 / 3, 40.0])


def test_a_clock_set_back_at_the_end_goes_on_in_its_own_steps(tmp_path: Path) -> None:
    text = "time,value\n" + "\n".join(f"2020-01-01 00:{m:02d},0" for m in (*range(10), 10, 20, 10, 20))
    told = SERIES.replace("LABELS", "l.json") + '[split]\nhealthy_rows = 10\n[table]\nrepeated_times = "spread"'
    dataset = read_folder(folder_of(tmp_path, told, {"s.csv": text, "l.json": "[]"}))
    assert isinstance(dataset, Series)
    assert (np.diff(dataset.time_ns) > 0).all()


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10.csv", "9.csv", "a2.csv", "a10.csv"):
        (tmp_path / name).touch()
    assert [file.name for file in files_of(tmp_path, ["*.csv"], "files.data")] == [
        "9.csv",
        "10.csv",
        "a2.csv",
        "a10.csv",
    ]


@pytest.mark.parametrize(("limit", "most"), [("ROWS_LIMIT", 150), ("SIZE_LIMIT", 3000)])
def test_all_files_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    monkeypatch.setattr(rows, limit, most)
    folder = folder_of(tmp_path, LIFE + '[files]\ndata = "*.csv"', {f"{n}.csv": run_to_failure(2, 50) for n in (1, 2)})
    with pytest.raises(DatasetError, match=r"2\.csv: with it the data set has more than"):
        read_folder(folder)


def test_columns_are_ignored_by_pattern_and_settings_must_be_channels(tmp_path: Path) -> None:
    files = {"all.csv": run_to_failure(5, 20).replace("heat", "s1")}
    told = 'settings = ["s2"]\n' + LIFE + '[files]\ndata = "all.csv"'
    with pytest.raises(DatasetError, match="settings: 's2' is no channel; there are s1"):
        read_folder(folder_of(tmp_path, told, files))
    with pytest.raises(DatasetError, match="has no column left to be a channel"):
        read_folder(folder_of(tmp_path, told.replace('settings = ["s2"]', 'ignore = ["s*"]'), files))


def test_a_folder_without_a_description_is_told_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.toml: is not there; describe the data set in it"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="is no folder"):
        read_folder(tmp_path / "nowhere")
