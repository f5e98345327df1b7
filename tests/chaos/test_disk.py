"""The disk under test writes down, fails and tells the time as it is told; a cut leaves what was flushed."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.cuts import Keeps, ReplayedDisk
from tests.chaos.disk import FOR_EVER, Disk, Fault, Op

WRITER = """
import os, sys
folder = sys.argv[1]
sync = lambda path, flags: (lambda fd: (os.fsync(fd), os.close(fd)))(os.open(path, flags))
with open(folder + "/new.part", "wb") as file:
    file.write(b"a" * 1500)
    file.flush()
    os.fsync(file.fileno())
os.rename(folder + "/new.part", folder + "/new")
sync(folder, os.O_RDONLY)
with open(folder + "/new", "r+b") as file:
    file.write(b"b" * 1500)
open(folder + "/late", "wb").close()
"""


def _write(disk: Disk, folder: Path, program: str = WRITER) -> None:
    subprocess.run([sys.executable, "-c", program, folder], env={**os.environ, **disk.environment}, check=True)


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    """A folder."""
    folder = tmp_path.resolve() / "watched"
    folder.mkdir()
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("keeps", list(Keeps))
def test_a_cut_leaves_what_was_flushed(keeps: Keeps, watched: Path, tmp_path: Path) -> None:
    """Bytes and names that were not flushed are gone, there in part, or there."""
    disk = Disk(tmp_path / "disk", watched, is_recorded=True)
    _write(disk, watched)
    replayed = ReplayedDisk(watched)
    for record in disk.records():
        replayed.apply(record)
    replayed.rebuild(tmp_path / "after", keeps, random.Random(1))

    after = {path.name: path.read_bytes() for path in (tmp_path / "after").iterdir()}
    if keeps == Keeps.NOTHING:
        assert after == {"new": b"a" * 1500}
    elif keeps == Keeps.ALL:
        assert after == {"new": b"b" * 1500, "late": b""}
    else:
        assert set(after["new"]) == {ord("a"), ord("b")}


@pytest.mark.integration
def test_what_was_flushed_before_its_name_was_safe_is_gone_with_it(watched: Path, tmp_path: Path) -> None:
    """Without a flush of the folder the file has no name after the cut."""
    disk = Disk(tmp_path / "disk", watched, is_recorded=True)
    _write(disk, watched, WRITER.replace("sync(folder, os.O_RDONLY)", ""))
    replayed = ReplayedDisk(watched)
    for record in disk.records():
        replayed.apply(record)
    replayed.rebuild(tmp_path / "after", Keeps.NOTHING, random.Random(1))
    assert list((tmp_path / "after").iterdir()) == []


@pytest.mark.integration
def test_the_nth_call_fails_and_the_next_does_not(watched: Path, tmp_path: Path) -> None:
    """A fault hits the calls it is for, in the folder it is for."""
    disk = Disk(tmp_path / "disk", watched)
    disk.control.fail(Fault(ops=[Op.WRITE], first=2, until=3, error=errno.ENOSPC))
    program = (
        "import json, os, sys\nanswers = []\nfd = os.open(sys.argv[1] + '/file', os.O_CREAT | os.O_RDWR)\n"
        "for _ in range(3):\n"
        "    try: answers.append(os.write(fd, b'four'))\n"
        "    except OSError as error: answers.append(error.errno)\n"
        "open(os.path.dirname(sys.argv[1]) + '/answers', 'w').write(json.dumps(answers))\n"
    )
    _write(disk, watched, program)
    assert json.loads((tmp_path / "answers").read_text()) == [4, errno.ENOSPC, 4]
    disk.control.fail(Fault(ops=[Op.WRITE], first=1, until=FOR_EVER, error=errno.ENOSPC, is_short=True))
    _write(disk, watched, program)
    assert json.loads((tmp_path / "answers").read_text()) == [2, 2, 2]


@pytest.mark.integration
def test_the_wall_clock_steps_and_the_monotonic_clock_does_not(watched: Path, tmp_path: Path) -> None:
    """A program sees the time it is told, from SQLite too."""
    disk = Disk(tmp_path / "disk", watched)
    disk.control.shift_clock(-86_400)
    program = (
        "import json, sqlite3, sys, time\n"
        "sql = sqlite3.connect(':memory:').execute(\"SELECT unixepoch('now')\").fetchone()[0]\n"
        "open(sys.argv[1] + '/clock', 'w').write(json.dumps([time.time(), sql, time.monotonic()]))\n"
    )
    before = time.monotonic()
    _write(disk, watched, program)
    wall, sql, monotonic = json.loads((watched / "clock").read_text())
    assert abs(time.time() - 86_400 - wall) < 60
    assert abs(wall - sql) < 60
    assert before < monotonic < time.monotonic()


@pytest.mark.integration
def test_flushes_wait_while_the_disk_stalls(watched: Path, tmp_path: Path) -> None:
    """A program that flushes gets no further until the disk goes on."""
    disk = Disk(tmp_path / "disk", watched)
    disk.control.stall(holds=True)
    command = [sys.executable, "-c", WRITER, str(watched)]
    with subprocess.Popen(command, env={**os.environ, **disk.environment}) as writer:
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(1.0)
        assert not (watched / "new").exists()
        disk.control.stall(holds=False)
        assert writer.wait(60) == 0
    assert (watched / "new").exists()
