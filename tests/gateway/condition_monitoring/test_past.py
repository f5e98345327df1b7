import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring import monitor as monitoring
from gateway.condition_monitoring.blocks import Blocks
from gateway.condition_monitoring.monitor import monitor
from gateway.historian.past import Past
from gateway.journal import Journal, compact_once
from gateway.testing import ASSET_CLASS, MINUTE_NS, SPECIFICATION, START_NS, Fault, cut, run_machine
from models.records import Results, State, Stream, to_ns

MACHINE = run_machine("m-1", hours=40, fault=Fault(start_h=10, celsius_per_h=3.0))
HALF_NS = START_NS + 20 * 60 * MINUTE_NS
STREAMS = tuple(Stream("m-1", channel.name) for channel in SPECIFICATION.channels)


def make_blocks(slots: BundleSlots) -> Blocks:
    return Blocks(gateway_id="gw-1", assets={"m-1": ASSET_CLASS}, slots=slots)


async def scored(
    journal: Journal, slots: BundleSlots, archive: Path, past: Past | None, *, compacted: bool = False
) -> list[State]:
    """Return the scored states of the second half, of a bundle that is installed after the first."""
    blocks = make_blocks(slots)
    reader = await journal.reader("monitor")
    task = asyncio.create_task(monitor(reader, blocks, past))
    await journal.append(MACHINE.take(MACHINE.source_time < HALF_NS))
    await _until(lambda: reader.position >= 1)
    if compacted:
        await compact_once(journal, max_pages=1)
    before = journal.last_seq
    slots.install(archive)
    await _until(lambda: journal.last_seq > before)  # the page that tells of the bundle comes after the past was read
    await journal.append(MACHINE.take(MACHINE.source_time >= HALF_NS))
    last = journal.last_seq
    await _until(lambda: reader.position >= last)
    task.cancel()
    await asyncio.wait([task])
    pages = await journal.read(lambda database: database.decoded_pages(0, limit=1000, max_bytes=2**30))
    states = [state for page in pages if isinstance(page.content, Results) for state in page.content.states]
    return [state for state in states if state.score is not None]


def always_scored(slots: BundleSlots) -> list[State]:
    """Return the states a bundle gives that was live from the beginning."""
    blocks = make_blocks(slots)
    blocks.follow_bundles()
    return [state for state in blocks.advance(MACHINE)[0].states if state.score is not None]


@pytest.mark.parametrize("compacted", [False, True], ids=["pages", "segments"])
async def test_windows_that_begin_anew_know_the_past(
    journal: Journal,
    slots: BundleSlots,
    archives: dict[int, Path],
    monkeypatch: pytest.MonkeyPatch,
    *,
    compacted: bool,
) -> None:
    """A bundle that comes later scores as if it had been there all the time."""
    monkeypatch.setattr(monitoring, "BUNDLE_CHECK_S", 0.02)

    found = await scored(journal, slots, archives[1], Past(journal), compacted=compacted)

    assert to_ns(found[0].window_end) <= HALF_NS + SPECIFICATION.step_ns
    assert [s.score for s in found] == [s.score for s in always_scored(slots)[-len(found) :]]


async def test_without_a_past_the_first_windows_differ(
    journal: Journal, slots: BundleSlots, archives: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: it is the past that makes the first windows whole."""
    monkeypatch.setattr(monitoring, "BUNDLE_CHECK_S", 0.02)

    found = await scored(journal, slots, archives[1], None)

    assert [s.score for s in found] != [s.score for s in always_scored(slots)[-len(found) :]]


async def test_the_past_ends_at_the_page_asked_for(journal: Journal) -> None:
    """What is stored later is no past: it comes by itself."""
    for piece in cut(MACHINE, 4):
        await journal.append(piece)
    await compact_once(journal, max_pages=3)
    past = Past(journal)

    whole = await past.read(STREAMS, 10**18, 4)
    first = await past.read(STREAMS, 10**18, 2)
    assert len(whole) == len(MACHINE)
    assert len(first) == sum(len(piece) for piece in cut(MACHINE, 4)[:2])
    assert (whole.source_time[1:] >= whole.source_time[:-1]).all()
    assert len(await past.read(STREAMS[:1], 60 * MINUTE_NS, 4)) <= 7
    assert len(await past.read(STREAMS, 10**18, 0)) == 0


async def test_assets_are_read_together_when_they_end_together(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets at least the past it would get alone; one that ended long before, or wants another past, is alone."""
    late = run_machine("m-late", hours=40)
    for machine in (MACHINE, run_machine("m-2", hours=40), late.take(late.source_time < HALF_NS)):
        await journal.append(machine)
    past = Past(journal)
    length_ns = 60 * MINUTE_NS
    of = {name: tuple(Stream(name, stream.channel) for stream in STREAMS) for name in ("m-1", "m-2", "m-late", "m-3")}
    wanted = [*((streams, length_ns) for streams in of.values()), (of["m-1"], 2 * length_ns)]

    lots = past.together(wanted)
    assert sorted(lots) == sorted(
        [(of["m-1"] + of["m-2"], length_ns), (of["m-late"], length_ns), (of["m-3"], length_ns), wanted[-1]]
    )
    both = await past.read(*lots[-2], 10)
    alone = [await past.read(of[name], length_ns, 10) for name in ("m-1", "m-2")]
    assert len(both) == sum(map(len, alone)) > 0

    monkeypatch.setattr("gateway.historian.past._MOST_STREAMS", len(STREAMS))
    assert len(past.together(wanted)) == len(wanted)


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110 - no event tells of another task's position
            await asyncio.sleep(0.01)
