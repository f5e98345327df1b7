"""What is damaged is put right as far as it can be, and what is lost is counted, to the observation."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.errors import JournalError
from gateway.journal import Journal, JournalLocked
from gateway.journal_commands.repair import repair
from gateway.journal_commands.verify import verify
from tests.gateway.journal.damage import (
    ROWS,
    change_page,
    execute,
    flip_byte,
    make_journal,
    segment_file,
    truncate,
)
from tests.gateway.journal.stored import stored_observations
from tests.strategies import make_observations

PAGE = 3 * ROWS  # observations


async def contents(folder: Path) -> tuple[list[float], dict[str, int], int]:
    """Return the values that are stored, what is expired by reason, and how many there ever were."""
    journal = await Journal.open(folder, "gw-1")
    try:
        rows = await stored_observations(journal)
        return sorted(rows.value.tolist()), dict(journal.counters.expired), journal.counters.appended
    finally:
        await journal.close()


def lose_segment(folder: Path) -> None:
    """Cut a segment off whose pages are in no row any more."""
    execute(folder, "DELETE FROM page WHERE seq <= 6")
    truncate(segment_file(folder, 1), 0.5)


def count_too_many(folder: Path) -> None:
    """Claim more than is there, and remove what would tell the truth."""
    execute(folder, "UPDATE journal SET appended = appended + 5")
    (folder / "journal.last").unlink()


def lose_segment_and_row(folder: Path) -> None:
    """Lose a segment with everything that knows of it."""
    execute(folder, "DELETE FROM page WHERE seq <= 6")
    segment_file(folder, 0).unlink()
    execute(folder, "DELETE FROM segment WHERE first_seq = 1")


def lose_the_end(folder: Path) -> None:
    """Lose the last commit, as a damaged write-ahead log does."""
    execute(folder, "DELETE FROM page WHERE seq = 8")
    execute(folder, f"UPDATE journal SET appended = appended - {PAGE}")  # noqa: S608 - our own number


DAMAGES: dict[str, tuple[Callable[[Path], None], int]] = {
    "page": (lambda folder: change_page(folder, 8), PAGE),
    "page in a segment": (lambda folder: change_page(folder, 1), 0),
    "segment with pages": (lambda folder: flip_byte(segment_file(folder, 1)), 0),
    "segment gone": (lambda folder: segment_file(folder, 1).unlink(), 0),
    "segment without pages": (lose_segment, 3 * PAGE),
    "sums too high": (lambda folder: execute(folder, "UPDATE journal SET appended = appended + 5"), 0),
    "sums too high, no witness": (count_too_many, 5),
    "sums too low": (lambda folder: execute(folder, "UPDATE journal SET appended = appended - 5"), 0),
    "counts of a segment": (
        lambda folder: execute(folder, "UPDATE segment SET observations = 1 WHERE first_seq = 4"),
        0,
    ),
    "link of a segment": (lambda folder: execute(folder, "UPDATE segment SET previous = 'f0' WHERE first_seq = 4"), 0),
    "row of a segment": (lambda folder: execute(folder, "DELETE FROM segment WHERE first_seq = 1"), 0),
    "row of a page": (lambda folder: execute(folder, "DELETE FROM page WHERE seq = 7"), PAGE),
    "name of a segment": (lambda folder: execute(folder, "UPDATE segment SET path = 'a' || char(0)"), 0),
    "segment and its row": (lose_segment_and_row, 2 * PAGE),
    "the end": (lose_the_end, PAGE),
    "position": (lambda folder: execute(folder, "UPDATE position SET seq = 99"), 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_repaired_and_losses_are_counted(tmp_path: Path, name: str) -> None:
    """Afterwards a gateway starts, everything adds up, and exactly what could not be had back is expired."""
    asyncio.run(make_journal(tmp_path))
    whole, _, appended = asyncio.run(contents(tmp_path))
    damage, lost = DAMAGES[name]
    damage(tmp_path)
    assert not verify(tmp_path).is_fine

    done = repair(tmp_path, "gw-1")
    values, expired, counted = asyncio.run(contents(tmp_path))

    assert done.left == ()
    assert done.actions
    assert verify(tmp_path).is_fine
    assert sum(expired.values()) == lost
    assert counted == appended + 5 * (name == "sums too high, no witness")
    assert len(values) == counted - lost
    assert set(values) <= set(whole)
    again = repair(tmp_path, "gw-1")
    assert again.actions == ()


def test_a_damaged_file_is_salvaged(tmp_path: Path) -> None:
    """Garbage in the middle of the database: what can be read goes on, the rest is counted as lost."""
    asyncio.run(make_journal(tmp_path, pages=200, compacted=6))
    path = tmp_path / "journal.sqlite"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 2 * 4096] = b"\xee" * 8192
    path.write_bytes(bytes(data))
    assert "file_damaged" in {finding.kind for finding in verify(tmp_path).findings}

    done = repair(tmp_path, "gw-1")
    values, expired, counted = asyncio.run(contents(tmp_path))

    assert done.left == ()
    assert bytes(data) in [file.read_bytes() for file in tmp_path.rglob("*.sqlite")]
    assert counted == 175 * PAGE == len(values) + sum(expired.values())
    assert 0 < sum(expired.values()) < 40 * PAGE


def harm(folder: Path, chance: random.Random) -> None:
    """Flip bits, blank a stretch or cut the end, in the database, the witness or a segment."""
    database = folder / "journal.sqlite"
    path = chance.choice([database, database, folder / "journal.last", *sorted((folder / "segments").iterdir())])
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    match chance.choice(["flips", "blank", "cut"]):
        case "flips":
            for _ in range(chance.choice([1, 20])):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "blank":
            data[start : start + 4096] = bytes(len(data[start : start + 4096]))
        case "cut":
            del data[start:]
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("seed", range(10))
def test_any_damage_is_told_and_repaired(tmp_path: Path, seed: int) -> None:
    """Whatever a disk does: findings or one clear error, and a repair after which everything adds up."""
    asyncio.run(make_journal(tmp_path, pages=40, compacted=18, delivered=6))
    whole = asyncio.run(contents(tmp_path))[0]
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        harm(tmp_path, chance)
    with suppress(JournalError):
        verify(tmp_path)

    assert repair(tmp_path, "gw-1").left == ()
    values, expired, counted = asyncio.run(contents(tmp_path))
    assert len(values) + sum(expired.values()) == counted
    assert set(values) <= set(whole)
    assert len(values) == len(set(values))


def test_nothing_is_done_to_a_whole_journal(tmp_path: Path) -> None:
    """Nor is anything copied or logged."""
    asyncio.run(make_journal(tmp_path))
    done = repair(tmp_path, None)
    assert (done.actions, done.copy, done.left) == ((), None, ())
    assert verify(tmp_path).pages == 8
    assert not (tmp_path / "before-repair").exists()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    """Byte for byte."""
    asyncio.run(make_journal(tmp_path))
    change_page(tmp_path, 8)
    segment_file(tmp_path, 0).unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = repair(tmp_path, "gw-1", dry_run=True, new_epoch=True)

    assert len(done.actions) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


async def test_a_running_gateway_is_not_disturbed(tmp_path: Path) -> None:
    """A repair needs the journal for itself, and says how."""
    await make_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    with pytest.raises(JournalLocked):
        repair(tmp_path, "gw-1")
    answer = CliRunner().invoke(main, ["journal", "repair", "--journal", str(tmp_path)])
    assert answer.exit_code == 1
    assert "stop the gateway first" in answer.output
    await journal.append(make_observations(first_value=5e6))
    await journal.close()


def test_the_refused_shelf_is_offered_again(tmp_path: Path) -> None:
    """Only when asked to."""
    asyncio.run(make_journal(tmp_path))
    execute(tmp_path, "UPDATE segment SET refused = 'conflict' WHERE first_seq = 4")
    assert repair(tmp_path, None).offered == 0
    answer = CliRunner().invoke(main, ["journal", "repair", "--offer-refused", "--journal", str(tmp_path), "--json"])

    assert json.loads(answer.stdout)["offered"] == 1
    assert verify(tmp_path).findings == ()


def test_what_cannot_be_repaired_is_exit_code_3(tmp_path: Path) -> None:
    """An exchanged segment of the same range: only a new chain helps, and that is said."""
    asyncio.run(make_journal(tmp_path))
    asyncio.run(make_journal(tmp_path / "other", compacted=3))
    execute(tmp_path, "UPDATE segment SET digest = '" + "0" * 64 + "' WHERE first_seq = 1")
    execute(tmp_path, "DELETE FROM page WHERE seq <= 6")
    shutil.copy(segment_file(tmp_path / "other", 0), segment_file(tmp_path, 0))
    answer = CliRunner().invoke(main, ["journal", "verify", "--journal", str(tmp_path)])
    assert answer.exit_code == 3
    assert "repair" in answer.output
    CliRunner().invoke(main, ["journal", "repair", "--journal", str(tmp_path)])
    assert asyncio.run(contents(tmp_path))[2] == 7 * PAGE
