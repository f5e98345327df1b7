"""`wearsight-gateway replay --into historian` against a real InfluxDB 2: pages are there once, however often."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import HistorianConfig
from gateway.historian import InfluxHistorian
from gateway.journal import Journal, compact_once
from gateway.journal_commands.reading import Stretch
from gateway.journal_commands.view import JournalView
from gateway.replay.history import task_of, write_again
from models.records import Observations, Stream
from tests.integration.influxdb import InfluxServer, influx_server
from tests.strategies import NOON_NS, SECOND_NS, make_observations

__all__ = ["influx_server"]
pytestmark = [pytest.mark.integration, pytest.mark.influxdb]

PAGES, ROWS, STREAMS = 12, 50, 4
CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
[historian]
influxdb_url = "{0.influxdb_url}"
influxdb_org = "{0.influxdb_org}"
influxdb_bucket = "{0.influxdb_bucket}"
influxdb_token_file = "{0.influxdb_token_file}"
"""


@pytest.fixture
async def journal(tmp_path: Path) -> Journal:
    """A journal that a gateway has open: half of its pages are in a segment."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    for number in range(PAGES):
        start = NOON_NS + number * ROWS * SECOND_NS
        await journal.append(make_observations(streams=STREAMS, rows=ROWS, start_ns=start, first_value=number * 1e4))
    await compact_once(journal, max_pages=PAGES // 2)
    return journal


async def stored(config: HistorianConfig) -> Observations:
    """Return every row that the server has."""
    historian = InfluxHistorian(config)
    try:
        streams = [Stream("pump-01", f"channel_{place}") for place in range(STREAMS)]
        return await historian.read(streams, 0, 2**62)
    finally:
        await historian.close()


async def call(config_file: Path, *words: str) -> dict[str, object]:
    """Run the command in a thread, where no event loop runs, and return what it says."""
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(
            CliRunner().invoke,
            main,
            ["replay", "--into", "historian", "--config", str(config_file), "--json", *words],
        )
        answer = await asyncio.wrap_future(job)
    assert answer.exit_code == 0, answer.output
    said: dict[str, object] = json.loads(answer.stdout)
    return said


async def test_pages_are_written_again_and_are_there_once(
    influx_server: InfluxServer, journal: Journal, tmp_path: Path
) -> None:
    """A stretch, then everything, twice: each row once, while the gateway has the journal open."""
    config = influx_server.bucket()
    config_file = tmp_path / "gateway.toml"
    config_file.write_text(CONFIG.format(config))

    assert (await call(config_file, "--from", "3", "--to", "8"))["pages"] == 6
    assert len(await stored(config)) == 6 * ROWS * STREAMS
    for _ in range(2):
        said = await call(config_file)
        assert (said["pages"], said["points"], said["resumed_after"]) == (PAGES, PAGES * ROWS * STREAMS, 0)
    rows = await stored(config)
    assert len(rows) == PAGES * ROWS * STREAMS == journal.counters.appended
    assert sorted(rows.value.tolist()) == sorted(n * 1e4 + i for n in range(PAGES) for i in range(ROWS * STREAMS))
    await journal.close()


async def test_what_was_cut_off_goes_on_where_it_was(
    influx_server: InfluxServer, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same task begins behind the last page that was written; another task begins at its beginning."""
    monkeypatch.setattr("gateway.replay.history._BATCH_PAGES", 2)
    config = influx_server.bucket()
    place_file = tmp_path / "place.json"
    with JournalView(tmp_path / "state") as view:
        task = task_of(view, Stretch(), config)
        historian = InfluxHistorian(config)
        running = asyncio.current_task()
        assert running is not None

        def cut(done: int, _of: int) -> None:
            if done >= 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await write_again(view, task, historian, place_file, cut)
        await journal.append(make_observations(streams=1, rows=1, first_value=-1.0))
        again = await write_again(view, task, historian, place_file)
        assert (again.resumed_after, again.pages) == (2, PAGES - 2)
        assert not place_file.exists()
        other = await write_again(view, task_of(view, Stretch(first_seq=12), config), historian, place_file)
        assert (other.resumed_after, other.pages) == (0, 2)
        await historian.close()
    assert len(await stored(config)) == PAGES * ROWS * STREAMS
    await journal.close()
