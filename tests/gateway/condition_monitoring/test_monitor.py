import asyncio
import math
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring import monitor as monitoring
from gateway.condition_monitoring.blocks import Blocks
from gateway.condition_monitoring.monitor import LONGEST_WAIT_S, Pace, batches, monitor
from gateway.journal import Journal, JournalReader
from gateway.testing import ASSET_CLASS, Fault, cut, encoded, public_pem, run_machine
from models.records import Observations, Page, Results, State

ASSETS = {"m-1": ASSET_CLASS}
MACHINE = run_machine("m-1", hours=60, fault=Fault(start_h=30, celsius_per_h=3.0))


def make_blocks(slots: BundleSlots) -> Blocks:
    return Blocks(gateway_id="gw-1", assets=ASSETS, slots=slots)


async def read_to_the_end(journal: Journal, blocks: Blocks) -> None:
    """Run the monitor until it has done every page there is."""
    reader = await journal.reader("monitor")
    task = asyncio.create_task(monitor(reader, blocks))
    await _until(lambda: reader.position >= journal.last_seq or task.done())
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error


async def logged(journal: Journal) -> list[Results]:
    """Return all results in the journal."""
    pages = await journal.read(lambda database: database.decoded_pages(0, limit=10_000, max_bytes=2**30))
    return [page.content for page in pages if isinstance(page.content, Results)]


def states_of(results: list[Results]) -> list[State]:
    return [state for part in results for state in part.states]


async def test_results_go_through_the_journal(journal: Journal, slots: BundleSlots, archives: dict[int, Path]) -> None:
    """States, health, prognoses, advisories and the activation are pages like any other."""
    slots.install(archives[1])
    for piece in cut(MACHINE, 10):
        await journal.append(piece)
    await read_to_the_end(journal, make_blocks(slots))

    results = await logged(journal)
    assert [e.kind for r in results for e in r.events] == ["bundle_activated"]
    assert len(states_of(results)) > 50
    assert any(r.advisories for r in results)
    assert any(r.prognoses for r in results)
    assert sum(len(r.health) for r in results) == len(states_of(results))


class _Died(Exception):
    pass


@pytest.mark.parametrize("cut_at", ["before-the-commit", "after-the-commit"])
async def test_a_position_moves_with_its_results_or_not_at_all(
    journal: Journal, slots: BundleSlots, archives: dict[int, Path], cut_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever cuts the monitor off at a commit, it ends with the results of one run, none lost or doubled."""
    monkeypatch.setattr(monitoring, "BATCH_ROWS", 40)
    monkeypatch.setattr(monitoring, "SAVING_SHARE", math.inf)
    slots.install(archives[1])
    for piece in cut(MACHINE, 20):
        await journal.append(piece)
    commit = JournalReader.commit

    async def cut_off(self: JournalReader, seq: int, **named: object) -> None:
        if cut_at == "before-the-commit":
            raise _Died
        await commit(self, seq, **named)  # type: ignore[arg-type]  # handed through as it came
        raise _Died

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(JournalReader, "commit", cut_off)
            with pytest.raises(_Died):
                await read_to_the_end(journal, make_blocks(slots))
        positions = await journal.positions()
        states = states_of(await logged(journal))
        assert bool(positions["monitor"]) or not states
    await read_to_the_end(journal, make_blocks(slots))

    assert encoded(states_of(await logged(journal))) == encoded(expected_states(slots))


def expected_states(slots: BundleSlots) -> tuple[State, ...]:
    """Return what one run without interruption gives."""
    blocks = make_blocks(slots)
    blocks.follow_bundles()
    return blocks.advance(MACHINE)[0].states


def _monitor_until_killed(state_dir: Path, key: bytes, commits: int, *, before: bool) -> None:
    """Monitor the journal in *state_dir*; be killed at the given commit, or end when all pages are done."""
    monitoring.BATCH_ROWS = 40
    monitoring.SAVING_SHARE = math.inf  # save at each batch
    commit = JournalReader.commit
    done = 0

    async def killing(self: JournalReader, seq: int, **named: object) -> None:
        nonlocal done
        done += 1
        if before and done == commits:
            os.kill(os.getpid(), signal.SIGKILL)
        await commit(self, seq, **named)  # type: ignore[arg-type]  # handed through as it came
        if done == commits:
            os.kill(os.getpid(), signal.SIGKILL)

    JournalReader.commit = killing  # type: ignore[method-assign]  # this process is the test's own

    async def work() -> None:
        journal = await Journal.open(state_dir, "gw-1")
        slots = BundleSlots(state_dir / "bundles", key, software_version="0.1.0")
        await read_to_the_end(journal, make_blocks(slots))
        await journal.close()

    asyncio.run(work())
    os._exit(0)


@pytest.mark.slow
def test_after_sigkill_states_are_neither_lost_nor_doubled(
    tmp_path: Path, slots: BundleSlots, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    """A monitor that is killed again and again, before and after commits, tells what an undisturbed one tells."""
    slots.install(archives[1])

    async def prepare() -> None:
        journal = await Journal.open(tmp_path, "gw-1")
        for piece in cut(MACHINE, 60):
            await journal.append(piece)
        await journal.close()

    async def read() -> list[Results]:
        journal = await Journal.open(tmp_path, "gw-1")
        results = await logged(journal)
        await journal.close()
        return results

    asyncio.run(prepare())
    key, killed, exitcode = public_pem(signing_key), 0, None
    spawned = multiprocessing.get_context("fork")
    while exitcode != 0:
        child = spawned.Process(
            target=_monitor_until_killed, args=(tmp_path, key, 3 + killed), kwargs={"before": killed % 2 == 0}
        )
        child.start()
        child.join()
        exitcode = child.exitcode
        killed += exitcode != 0
        assert exitcode in {0, -signal.SIGKILL}

    assert killed >= 3
    assert encoded(states_of(asyncio.run(read()))) == encoded(expected_states(slots))


def test_saving_takes_a_small_share_of_the_time() -> None:
    """The first time is now; then the wait grows with what saving took, up to a limit."""
    pace = Pace()
    assert pace.is_due(0.0)
    pace.saved(10.0, 10.2)
    assert not pace.is_due(14.0)
    assert pace.is_due(14.21)
    pace.saved(20.0, 60.0)
    assert not pace.is_due(60.0 + LONGEST_WAIT_S - 1)
    assert pace.is_due(60.0 + LONGEST_WAIT_S)


async def test_between_two_savings_nothing_is_told_and_nothing_lost(
    journal: Journal, slots: BundleSlots, archives: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While saving is dear, position and results wait together, and go together."""
    monkeypatch.setattr(monitoring, "BATCH_ROWS", 40)
    monkeypatch.setattr(Pace, "is_due", lambda _self, _now: False)
    slots.install(archives[1])
    for piece in cut(MACHINE, 20):
        await journal.append(piece)
    reader = await journal.reader("monitor")
    advanced = asyncio.Event()
    blocks = make_blocks(slots)
    results_of = blocks.results

    def watched(contents: Sequence[Observations | Results]) -> Results:
        found = results_of(contents)
        if found.states:
            asyncio.run_coroutine_threadsafe(_set(advanced), loop)
        return found

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(blocks, "results", watched)
    task = asyncio.create_task(monitor(reader, blocks))
    await advanced.wait()
    task.cancel()
    await asyncio.wait([task])
    told, position = states_of(await logged(journal)), reader.position
    monkeypatch.undo()
    await read_to_the_end(journal, make_blocks(slots))

    assert position < journal.last_seq
    assert len(told) < len(expected_states(slots))
    assert encoded(states_of(await logged(journal))) == encoded(expected_states(slots))


async def _set(event: asyncio.Event) -> None:
    event.set()


async def pages_of(*sizes: int) -> AsyncIterator[Page]:
    """Yield pages with so many rows each."""
    rows = run_machine("m-1", hours=10)
    for seq, size in enumerate(sizes, 1):
        content = rows.take(np.arange(size))
        yield Page(gateway_id="gw-1", epoch="e", seq=seq, committed_time=0, content=content)


async def test_pages_that_wait_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog is worked off in large strides, none above the limit by more than a page."""
    monkeypatch.setattr(monitoring, "BATCH_ROWS", 100)

    sizes = [
        [len(p.content) for p in batch if isinstance(p.content, Observations)]
        async for batch in batches(pages_of(*[30] * 10))
    ]

    assert sizes == [[30] * 4, [30] * 4, [30] * 2]


async def test_while_no_page_comes_bundles_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle gateway takes up a new bundle too."""
    monkeypatch.setattr(monitoring, "BUNDLE_CHECK_S", 0.01)
    forever = asyncio.Event()

    async def nothing() -> AsyncIterator[Page]:
        await forever.wait()
        yield Page(gateway_id="gw-1", epoch="e", seq=1, committed_time=0, content=Results())

    async with aclosing(batches(nothing())) as empty:
        assert await anext(empty) == []
        assert await anext(empty) == []


async def test_a_bundle_installed_while_running_is_taken_up(
    journal: Journal, slots: BundleSlots, archives: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First unknown for want of a bundle, then scored, with the activation logged between."""
    monkeypatch.setattr(monitoring, "BUNDLE_CHECK_S", 0.02)
    first, second = cut(MACHINE, 2)
    blocks = make_blocks(slots)
    reader = await journal.reader("monitor")
    task = asyncio.create_task(monitor(reader, blocks))
    await journal.append(first)
    await _until(lambda: reader.position >= 1)
    slots.install(archives[1])
    await _until(lambda: bool(blocks.active()))
    await journal.append(second)
    last = journal.last_seq
    await _until(lambda: reader.position >= last)
    task.cancel()
    await asyncio.wait([task])

    versions = [s.model_version for s in states_of(await logged(journal))]
    assert set(versions) == {None, 1}
    assert versions == sorted(versions, key=lambda version: version or 0)


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110 - no event tells of another task's position
            await asyncio.sleep(0.01)
