"""Whatever is damaged is found, named, and told with the next step; what is whole is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import JournalError
from gateway.journal import Journal
from gateway.journal_commands.verify import Level, verify
from tests.gateway.journal.damage import (
    ROWS,
    change_page,
    execute,
    flip_byte,
    make_journal,
    segment_file,
    truncate,
)
from tests.strategies import make_observations


def problems(folder: Path, *, fast: bool = False) -> set[tuple[str, str]]:
    """Return kind and subject of every problem."""
    found = verify(folder, fast=fast).findings
    return {(finding.kind, finding.subject) for finding in found if finding.level is Level.PROBLEM}


async def test_a_whole_journal_is_fine(tmp_path: Path) -> None:
    """The control of all that follows: every row was looked at, nothing is wrong."""
    await make_journal(tmp_path)
    told: list[tuple[int, int]] = []
    found = verify(tmp_path, progress=lambda done, of: told.append((done, of)))

    assert found.is_fine
    assert found.findings == ()
    assert (found.pages, found.segments, found.observations) == (8, 2, 7 * 3 * ROWS)
    assert told[-1][0] == told[-1][1]


async def test_a_running_gateway_is_no_fault(tmp_path: Path) -> None:
    """It can be verified while somebody has it open."""
    await make_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    await journal.append(make_observations(first_value=9e9))
    assert verify(tmp_path).is_fine
    await journal.close()


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str, bool]] = {
    "page": (lambda folder: change_page(folder, 8), "page_damaged", "page 8", True),
    "segment": (lambda folder: flip_byte(segment_file(folder, 0)), "segment_lost", "segment 1-3", False),
    "truncated": (lambda folder: truncate(segment_file(folder, 1), 0.7), "segment_lost", "segment 4-6", True),
    "gone": (lambda folder: segment_file(folder, 1).unlink(), "segment_lost", "segment 4-6", True),
    "counts": (
        lambda folder: execute(folder, "UPDATE segment SET observations = 41 WHERE first_seq = 1"),
        "segment_differs", "segment 1-3", False,
    ),
    "times": (
        lambda folder: execute(folder, "UPDATE segment SET end_time = 7 WHERE first_seq = 4"),
        "segment_differs", "segment 4-6", False,
    ),
    "sums": (
        lambda folder: execute(folder, "UPDATE journal SET appended = appended + 1"),
        "sums_differ", "observations", True,
    ),
    "position": (
        lambda folder: execute(folder, "UPDATE position SET seq = 99"),
        "position_ahead", "reader monitor", True,
    ),
    "page gone": (lambda folder: execute(folder, "DELETE FROM page WHERE seq = 7"), "page_missing", "pages 7-7", True),
    "segment row gone": (
        lambda folder: execute(folder, "DELETE FROM segment WHERE first_seq = 1"),
        "segment_gap", "segment 4-6", True,
    ),
    "end": (lambda folder: execute(folder, "DELETE FROM page WHERE seq = 8"), "page_vanished", "pages 8-8", True),
    "exchanged": (
        lambda folder: execute(folder, "UPDATE segment SET previous = 'f00' WHERE first_seq = 4"),
        "chain_broken", "segment 4-6", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found(tmp_path: Path, name: str) -> None:
    """Each kind of damage by its name and place, with what it means and the next step; by --fast where it can."""
    await make_journal(tmp_path)
    damage, kind, subject, is_seen_fast = DAMAGES[name]
    damage(tmp_path)

    assert (kind, subject) in problems(tmp_path)
    assert ((kind, subject) in problems(tmp_path, fast=True)) is is_seen_fast
    found = verify(tmp_path).findings[0]
    assert found.message
    assert found.meaning
    assert found.next_step


async def test_a_damaged_database_is_found_and_the_rest_still_looked_at(tmp_path: Path) -> None:
    """Garbage in the middle of the file: a problem, no crash."""
    await make_journal(tmp_path, pages=60, compacted=6)
    path = tmp_path / "journal.sqlite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = b"\xee" * 8192
    path.write_bytes(bytes(data))

    found = verify(tmp_path)
    assert "file_damaged" in {finding.kind for finding in found.findings}
    assert found.segments == 2


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
async def test_a_truncated_database_is_found(tmp_path: Path, share: float) -> None:
    """However much of it is left."""
    await make_journal(tmp_path, pages=30)
    truncate(tmp_path / "journal.sqlite", share)
    try:
        assert not verify(tmp_path).is_fine
    except JournalError as error:
        assert "journal.sqlite" in str(error)  # noqa: PT017 - nothing of it is left, not even whose it is


async def test_what_lies_aside_is_for_the_record(tmp_path: Path) -> None:
    """Refused segments, pages put aside and files of a crash are notes: nothing has to be repaired."""
    await make_journal(tmp_path)
    execute(tmp_path, "UPDATE segment SET refused = 'conflict' WHERE first_seq = 4")
    execute(tmp_path, "INSERT INTO quarantine VALUES (7, 0, 'its checksum differs', 60, x'00')")
    (tmp_path / "segments" / "left.wseg.part").write_bytes(b"half")

    found = verify(tmp_path)

    assert found.is_fine
    assert [finding.kind for finding in found.findings] == ["quarantined", "refused", "unrecorded"]


async def test_many_findings_of_a_kind_are_summed_up(tmp_path: Path) -> None:
    """A disk that died tells a hundred times what is wrong, then how often more."""
    await make_journal(tmp_path, pages=130, compacted=0)
    execute(tmp_path, "UPDATE page SET payload = x'00' WHERE observations > 0")

    subjects = [finding.subject for finding in verify(tmp_path).findings]
    assert len(subjects) == 101
    assert subjects[-1].endswith("more")
