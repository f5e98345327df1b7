"""What ``dataset.toml`` may say: which files a data set has, what their columns are, and what is asked of it.

docs/reference/dataset-folder.md tells each key. Nothing in it is run; a path may not leave its folder.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

import msgspec

from models.datasets.files import BOM, DatasetError, read_bytes
from models.records import UNDECODABLE

DESCRIPTION_FILE: Final = "dataset.toml"
DESCRIPTION_LIMIT: Final = 1024 * 1024
MOST_FOLDS: Final = 100
LONGEST_NAME: Final = 100
_YEAR_S: Final = 366 * 86_400.0

Task = Literal["remaining_life", "anomaly", "classification", "failure_events", "series"]
Role = Literal["measurement", "setting", "static", "event"]
Separator = Literal["auto", "comma", "semicolon", "tab", "whitespace"]
Patterns = tuple[str, ...] | str
DEFAULT_MISSING: Final = ("", "NA", "N/A", "NaN", "nan", "null")


class Files(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths relative to the folder; ``*`` stands for any part of a name, ``**`` for folders. See the reference."""

    data: Patterns = ()
    train: Patterns = ()
    test: Patterns = ()
    test_life: str = ""
    healthy: Patterns = ()
    statics: str = ""
    labels: str = ""


class TableForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the files are written. ``columns`` names the columns of the files that hold rows, where no header does."""

    separator: Separator = "auto"
    header: bool | None = None
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = DEFAULT_MISSING
    decimal: Literal[".", ","] = "."
    time_format: str = "iso"
    repeated_times: Literal["refuse", "spread"] = "refuse"
    sampling_interval_s: float = 1.0


class Columns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns that are no channels, by name; empty: there is none."""

    asset: str = ""
    cycle: str = ""
    time: str = ""
    life: str = ""
    row: str = ""
    group: str = ""
    target: str = ""
    mode: str = ""
    anomaly: str = ""
    changepoint: str = ""


class ChannelForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One channel; ``column`` is its name when empty, ``low`` and ``high`` come from the rows that are learnt from."""

    column: str = ""
    unit: str = "1"
    role: Role = "measurement"
    low: float | None = None
    high: float | None = None
    levels: tuple[str, ...] = ()


class Life(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remaining life: its unit, the cap, and assets that did not fail."""

    unit: Literal["", "cycles", "hours"] = ""
    cap: float | None = None
    suspended: tuple[str, ...] = ()


class EventFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of events, a row an event; ``kind`` is its column, ``replacement`` says that a part was replaced."""

    file: str
    kind: str = ""
    replacement: bool = False


class FailureFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of failures, a row a failure; ``mode`` is its column."""

    file: str
    mode: str = ""
    horizon_h: float = 24.0


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be learnt from, and what is judged."""

    test_assets: tuple[str, ...] = ()
    folds: int | None = None
    healthy_rows: int | None = None
    healthy_share: float | None = None


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of ``dataset.toml``."""

    task: Task
    name: str = ""
    settings: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    changepoint_window_s: float = 60.0
    files: Files = Files()
    table: TableForm = TableForm()
    columns: Columns = Columns()
    channels: Mapping[str, ChannelForm] = {}
    life: Life = Life()
    split: Split = Split()
    events: tuple[EventFile, ...] = ()
    failures: FailureFile | None = None


def read_description(file: Path) -> Description:
    """Return what *file* says, checked in itself.

    Raises:
        DatasetError: If it cannot be read, is no TOML, has an unknown key, or a value that cannot be used. The message
            names the file, the line or the key, and what is expected.
    """
    content = read_bytes(file, DESCRIPTION_LIMIT).removeprefix(BOM)
    try:
        description = msgspec.toml.decode(content, type=Description)
    except UNDECODABLE as error:
        raise DatasetError(_refusal(file, content, _with_key(str(error)))) from error
    for problem in _problems(description):
        raise DatasetError(_refusal(file, content, problem))
    return description


def _refusal(file: Path, content: bytes, problem: str) -> str:
    """Return *problem* with its *file* and the line of the key that it names, where that can be found."""
    quoted = re.findall(r"`([^`]+)`", problem) or re.findall(r"^[\w.\[\]-]+", problem)
    line = _line_of(content.decode("utf-8", "replace"), quoted[-1].replace("[...]", "") if quoted else "")
    return f"{file}{f', line {line}' if line else ''}: {problem}; nothing of the data set is read"


def _line_of(text: str, path: str) -> int | None:
    """Return the line at which *path*, as ``files.train`` or ``events[1].kind``, or its nearest table, is written."""
    wanted, table, counts = path.strip("."), "", Counter[str]()
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
            table = header.group(2).replace('"', "")
            if header.group(1) == "[[":
                counts[table] += 1
                table = f"{table}[{counts[table] - 1}]"
            lines.setdefault(table, number)
        elif key := re.match(r'\s*([\w."-]+)\s*=', line):
            lines.setdefault(".".join(filter(None, (table, key.group(1).replace('"', "")))), number)
    while wanted:
        if wanted in lines:
            return lines[wanted]
        wanted = re.sub(r"(\.[^.]*|\[\d+\]|^[^.\[]*)$", "", wanted)
    return None


def _with_key(message: str) -> str:
    """Return msgspec's message with an unknown key joined to its table, as ``files.tran``, and the keys there are."""
    unknown = re.fullmatch(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if unknown is None:
        hint = f"; the tasks are {', '.join(get_args(Task))}" if "`task`" in message or "`$.task`" in message else ""
        return message.replace("`$.", "`") + hint
    key, table = unknown.group(1), unknown.group(2) or ""
    return f"unknown key `{f'{table}.' if table else ''}{key}`; there are {', '.join(_keys_of(table))}"


def _keys_of(table: str) -> tuple[str, ...]:
    part = table.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0]
    kinds: dict[str, type[msgspec.Struct]] = {
        "files": Files,
        "table": TableForm,
        "columns": Columns,
        "channels": ChannelForm,
        "life": Life,
        "split": Split,
        "events": EventFile,
        "failures": FailureFile,
    }
    return kinds.get(part, Description).__struct_fields__


def _problems(told: Description) -> Iterator[str]:
    """Yield what is wrong, naming the key and what is expected."""
    yield from _name_problems(told)
    yield from _path_problems(told)
    yield from _unused_problems(told)
    yield from _channel_problems(told)
    yield from _number_problems(told)
    yield from _PROBLEMS[told.task](told)


def _name_problems(told: Description) -> Iterator[str]:
    if len(told.name) > LONGEST_NAME or not told.name.isprintable():
        yield f"name: {told.name[:20]!r} has not 1 to {LONGEST_NAME} printable characters"


def _path_problems(told: Description) -> Iterator[str]:
    paths = {f"files.{key}": getattr(told.files, key) for key in told.files.__struct_fields__}
    paths |= {f"events[{number}].file": event.file for number, event in enumerate(told.events)}
    paths |= {"failures.file": told.failures.file} if told.failures else {}
    for key, named in paths.items():
        for path in (named,) if isinstance(named, str) else named:
            parts = PurePosixPath(path.replace("\\", "/"))
            if path and (parts.is_absolute() or ".." in parts.parts or "\0" in path or re.match("[A-Za-z]:", path)):
                yield f"{key}: {path!r} leads out of the folder; give a path inside it"


def _channel_problems(told: Description) -> Iterator[str]:
    for name, channel in told.channels.items():
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            yield f"channels.{name[:20]!r}: a name has 1 to {LONGEST_NAME} printable characters"
        if not math.isfinite(channel.low or 0.0) or not math.isfinite(channel.high or 0.0):
            yield f"channels.{name}: low and high are numbers; leave out what is not known"
        low = -math.inf if channel.low is None else channel.low
        high = math.inf if channel.high is None else channel.high
        if not low < high:
            yield f"channels.{name}: low {channel.low} must be below high {channel.high}"
        if channel.levels and len(set(channel.levels)) != len(channel.levels):
            yield f"channels.{name}.levels: a text stands twice"
        if channel.role not in _ROLES[told.task]:
            yield f"channels.{name}.role: {channel.role!r} has no meaning for {told.task}; use {_or(_ROLES[told.task])}"
    if told.settings and "setting" not in _ROLES[told.task]:
        yield f"settings: have no meaning for {told.task}; leave the key out"


def _unused_problems(told: Description) -> Iterator[str]:
    """A key that does nothing for the task is no silent nothing."""
    for table, used in {"files": _FILES, "columns": _COLUMNS, "split": _SPLIT}.items():
        form = getattr(told, table)
        given = [key for key in form.__struct_fields__ if getattr(form, key) not in ("", (), None)]
        for key in given:
            if key not in used[told.task]:
                yield f"{table}.{key}: has no meaning for {told.task}; its keys are {', '.join(used[told.task])}"
    others = {
        "modes": (bool(told.modes), ("classification",)),
        "normal": (bool(told.normal), ("classification",)),
        "events": (bool(told.events), ("failure_events",)),
        "failures": (told.failures is not None, ("failure_events",)),
        "life": (told.life != Life(), ("remaining_life",)),
    }
    for key, (is_given, tasks) in others.items():
        if is_given and told.task not in tasks:
            yield f"{key}: has no meaning for {told.task}; leave it out"


def _number_problems(told: Description) -> Iterator[str]:
    split, table = told.split, told.table
    if split.folds is not None and not 2 <= split.folds <= MOST_FOLDS:
        yield f"split.folds: {split.folds} must be 2 to {MOST_FOLDS}"
    if split.healthy_rows is not None and split.healthy_share is not None:
        yield "split: give healthy_rows or healthy_share, not both"
    if split.healthy_rows is not None and split.healthy_rows < 1:
        yield f"split.healthy_rows: {split.healthy_rows} must be 1 or more"
    if split.healthy_share is not None and not 0.0 < split.healthy_share < 1.0:
        yield f"split.healthy_share: {split.healthy_share} must lie between 0 and 1"
    for key, value, most in (
        ("table.sampling_interval_s", table.sampling_interval_s, _YEAR_S),
        ("changepoint_window_s", told.changepoint_window_s, _YEAR_S),
        ("life.cap", 1.0 if told.life.cap is None else told.life.cap, 1e9),
        ("failures.horizon_h", told.failures.horizon_h if told.failures else 1.0, _YEAR_S / 360.0),
    ):
        if not 0.0 < value <= most:
            yield f"{key}: {value} must be above 0, and {most:g} at most"


def _life_problems(told: Description) -> Iterator[str]:
    files = told.files
    if bool(files.train) == bool(files.data):
        yield 'files: give train and test, or data with a split, e.g. data = ["*.csv"]'
    if files.train and not files.test:
        yield "files.test: is missing; without test files give all as data, and split.test_assets or split.folds"
    if files.test and not files.test_life and not told.columns.life:
        yield "files.test_life: is missing; give the file with the life left of each test asset, or columns.life"
    if told.columns.cycle and told.columns.time:
        yield "columns: give cycle or time, not both"
    if told.life.unit == "cycles" and told.columns.time:
        yield "life.unit: with columns.time a life is counted in hours"
    if files.train and told.split != Split():
        yield "split: files.train and files.test are the split; leave it out"
    if told.split.test_assets and told.split.folds is not None:
        yield "split: give test_assets or folds, not both"
    if files.test_life and not files.test:
        yield "files.test_life: has a meaning only beside files.test; leave it out"


def _anomaly_problems(told: Description) -> Iterator[str]:
    if not told.files.data:
        yield 'files.data: is missing; give the files that are judged, e.g. data = ["*.csv"]'
    if bool(told.columns.anomaly) == bool(told.files.labels):
        yield "columns.anomaly: give the column that is 1 where a row is anomalous, or files.labels with windows"
    if told.files.labels and not told.columns.time:
        yield "columns.time: is missing; labelled windows are told by time"


def _classification_problems(told: Description) -> Iterator[str]:
    if not told.files.data:
        yield "files.data: is missing; give the file of rows"
    if not told.columns.target and not told.columns.mode:
        yield "columns.target: is missing; give the column that says whether a row failed, or columns.mode"
    if told.columns.mode and (told.modes or not told.normal):
        yield 'columns.mode: is a text; say with normal = ["..."] which texts mean no failure, and leave modes out'


def _events_problems(told: Description) -> Iterator[str]:
    if not told.files.data:
        yield "files.data: is missing; give the telemetry's files"
    if told.failures is None:
        yield 'failures: is missing; give [failures] with file = "..."'
    if not told.columns.time:
        yield "columns.time: is missing; events and telemetry meet by time"
    if not told.columns.asset:
        yield "columns.asset: is missing; events and telemetry meet by machine"


def _series_problems(told: Description) -> Iterator[str]:
    if not told.files.data:
        yield "files.data: is missing; give the files of series"
    if not told.files.labels and not told.columns.anomaly:
        yield "files.labels: is missing; give the file of labelled windows, or columns.anomaly"
    if told.files.labels and not told.columns.time:
        yield "columns.time: is missing; labelled windows are told by time"


def _or(words: tuple[str, ...]) -> str:
    return " or ".join(words)


_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "remaining_life": ("measurement", "setting"),
    "anomaly": ("measurement", "setting"),
    "classification": ("measurement",),
    "failure_events": ("measurement", "static", "event"),
    "series": ("measurement",),
}
_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "remaining_life": ("data", "train", "test", "test_life"),
    "anomaly": ("data", "healthy", "labels"),
    "classification": ("data",),
    "failure_events": ("data", "statics"),
    "series": ("data", "labels"),
}
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "remaining_life": ("asset", "cycle", "time", "life"),
    "anomaly": ("asset", "time", "anomaly", "changepoint"),
    "classification": ("row", "group", "target", "mode"),
    "failure_events": ("asset", "time"),
    "series": ("asset", "time", "anomaly"),
}
_SPLIT: Final[Mapping[str, tuple[str, ...]]] = {
    "remaining_life": ("test_assets", "folds"),
    "anomaly": ("healthy_rows", "healthy_share"),
    "classification": ("folds",),
    "failure_events": ("folds",),
    "series": ("healthy_rows", "healthy_share"),
}
_PROBLEMS: Final = {
    "remaining_life": _life_problems,
    "anomaly": _anomaly_problems,
    "classification": _classification_problems,
    "failure_events": _events_problems,
    "series": _series_problems,
}
