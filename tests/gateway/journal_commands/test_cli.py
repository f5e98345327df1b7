"""The commands `wearsight-gateway journal`: what they print, as text and as data, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.journal import Journal
from tests.gateway.journal.damage import ROWS, change_page, execute, flip_byte, make_journal, segment_file

CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
[journal]
max_size_mib = 100
max_age_days = 30
"""


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A folder with a configuration and a journal."""
    (tmp_path / "gateway.toml").write_text(CONFIG)
    await make_journal(tmp_path / "state")
    return tmp_path


def call(folder: Path, *words: str) -> Result:
    """Run ``wearsight-gateway journal`` with *words* on the journal of *folder*."""
    return CliRunner().invoke(main, ["journal", *words, "--config", str(folder / "gateway.toml")])


def test_status_tells_the_numbers_and_the_limits(folder: Path) -> None:
    """As text with the conservation law, and as data."""
    answer = call(folder, "status")
    assert answer.exit_code == 0
    assert "these add up" in answer.output
    assert "max_size_mib" in answer.output
    assert "7 behind" in answer.output

    data = json.loads(call(folder, "status", "--json").stdout)
    assert data["observations_stored"] == 7 * 3 * ROWS
    assert data["adds_up"] is True
    assert {limit["key"] for limit in data["limits"]} == {"max_size_mib", "max_age_days", "min_free_mib"}


def test_status_of_a_journal_that_does_not_add_up_says_so(folder: Path) -> None:
    """And what to do next."""
    execute(folder / "state", "UPDATE journal SET appended = appended + 1")
    assert "do not add up: wearsight-gateway journal verify" in call(folder, "status").output


def test_a_copy_needs_no_configuration(folder: Path) -> None:
    """A folder is enough; limits are those of a gateway, not of a copy."""
    answer = CliRunner().invoke(main, ["journal", "status", "--journal", str(folder / "state"), "--json"])
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["limits"] == []


def test_verify_ends_with_0_when_all_is_whole_and_with_3_when_not(folder: Path) -> None:
    """A script can rely on it; the text says what to do."""
    whole = call(folder, "verify")
    assert (whole.exit_code, "all is whole" in whole.output) == (0, True)

    flip_byte(segment_file(folder / "state", 0))
    damaged = call(folder, "verify")
    assert damaged.exit_code == 3
    assert "segment 1-3" in damaged.output
    assert "journal repair" in damaged.output
    assert call(folder, "verify", "--fast").exit_code == 0
    data = json.loads(call(folder, "verify", "--json").stdout)
    assert [finding["kind"] for finding in data["findings"]] == ["segment_lost"]


def test_export_writes_to_a_pipe_and_to_a_file(folder: Path) -> None:
    """The rows alone on standard output, what was done on standard error."""
    answer = call(folder, "export", "--from", "7", "--channel", "channel_0")
    assert len(answer.stdout.splitlines()) == 1 + 2 * ROWS

    path = folder / "rows.jsonl"
    told = call(folder, "export", "--format", "jsonl", "--to", "1", "-o", str(path), "--json")
    assert json.loads(told.stdout)["written"] == 3 * ROWS == len(path.read_text().splitlines())


def test_export_of_a_damaged_stretch_is_exit_code_3(folder: Path) -> None:
    """Everything else is written."""
    change_page(folder / "state", 8)
    answer = call(folder, "export", "--from", "7")
    assert answer.exit_code == 3
    assert len(answer.stdout.splitlines()) == 1 + 3 * ROWS
    assert "left out: pages 8-8" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--from", "yesterday"],
        ["export", "--to", "0001-01-01"],
        ["export", "--format", "parquet"],
        ["export", "--results"],
        ["export", "--results", "--format", "jsonl", "--channel", "flow"],
        ["export", "--format", "segments", "-o", "x", "--asset", "pump-01"],
        ["export", "--json"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(folder: Path, words: list[str]) -> None:
    """With exit code 2 and a sentence."""
    answer = call(folder, *words)
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()[-1]) > 20


@pytest.mark.parametrize("command", ["status", "verify", "export"])
@pytest.mark.parametrize(
    ("content", "code"), [(None, 1), (b"", 1), (b"garbage " * 999, 1)], ids=["none", "empty", "garbage"]
)
def test_what_is_no_journal_gets_one_clear_line(tmp_path: Path, command: str, content: bytes | None, code: int) -> None:
    """No traceback, whatever lies there; verify calls garbage damage."""
    if content is not None:
        (tmp_path / "journal.sqlite").write_bytes(content)
    answer = CliRunner().invoke(main, ["journal", command, "--journal", str(tmp_path)])

    expected = 3 if command == "verify" and content and len(content) > 100 else code
    assert answer.exit_code == expected
    assert isinstance(answer.exception, SystemExit)
    assert "journal.sqlite" in answer.output
    assert len(answer.output.splitlines()) <= 4


def test_wrong_options_are_data_too(folder: Path) -> None:
    """A script that asked for JSON gets JSON."""
    answer = call(folder, "export", "--from", "soon", "-o", "x", "--json")
    assert answer.exit_code == 2
    assert "neither a seq" in json.loads(answer.stdout)["reason"]


def test_errors_are_data_too(tmp_path: Path) -> None:
    """Under --json the reason and the next step are on standard output."""
    answer = CliRunner().invoke(main, ["journal", "status", "--config", str(tmp_path / "no.toml"), "--json"])
    assert answer.exit_code == 2
    assert json.loads(answer.stdout).keys() == {"error", "reason", "next_step"}


async def test_the_real_program_looks_while_a_gateway_has_the_journal(folder: Path) -> None:
    """As a person does in a terminal: verify, export through a pipe."""
    journal = await Journal.open(folder / "state", "gw-1")
    results = [
        subprocess.run(  # noqa: ASYNC221 - the journal need not run meanwhile
            [sys.executable, "-m", "gateway", "journal", command, "--config", str(folder / "gateway.toml")],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        )
        for command in ("verify", "export")
    ]
    await journal.close()

    assert "all is whole" in results[0].stdout
    assert len(results[1].stdout.splitlines()) == 1 + 7 * 3 * ROWS
