"""A configuration that changes while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import reload
from gateway.config import GatewayConfig
from gateway.config_file import check_config
from gateway.data_acquisition import ensure_application_certificate, reconciler
from gateway.errors import ConfigError
from gateway.journal import Hole, Journal
from gateway.pipeline import Gateway
from gateway.reload import changes, needs_restart, with_tags_of
from models.records import AssetDescription, Gap, Observations, Results, Stream
from tests.gateway.data_acquisition.small_plant import NOON_NS, SECOND_NS, SmallPlant, free_port, until

CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
tags_file = "tags.csv"
[status]
address = "127.0.0.1:{status}"
[acquisition]
publishing_interval_ms = 50.0
[acquisition.group.slow]
publishing_interval_ms = 100.0
[[server]]
name = "cell-1"
endpoint = "{endpoint}"
user = "gateway"
password_file = "password"
[asset_class.pump]
"""
HEADER = "server,asset_id,asset_class,channel,node,group"
A, B, C = "speed_rpm", "load_pct", "oil_bar"


def row(channel: str, group: str = "", asset: str = "pump-01") -> str:
    return f"cell-1,{asset},pump,{channel},nsu=urn:test;s={channel},{group}"


class Files:
    """The configuration's files; each version has another stamp, however fast they come."""

    def __init__(self, folder: Path, endpoint: str = "opc.tcp://127.0.0.1:1/") -> None:
        self.config, self.tags = folder / "gateway.toml", folder / "tags.csv"
        (folder / "password").write_text("secret\n")
        self._time = 1_000_000_000
        self.text = CONFIG.format(endpoint=endpoint, status=free_port())
        self.list(row(A), row(B))
        self.configure(self.text)

    def list(self, *rows: str) -> None:
        self.write(self.tags, "\n".join([HEADER, *rows]) + "\n")

    def configure(self, text: str) -> None:
        self.write(self.config, text)

    def write(self, path: Path, text: str | bytes) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self._time += 1
        os.utime(path, (self._time, self._time))

    def read(self) -> GatewayConfig:
        return check_config(self.config)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "_LOOK_S", 0.02)
    monkeypatch.setattr(reconciler, "_RETRY_FIRST_S", 0.1)


async def looked(monkeypatch: pytest.MonkeyPatch, *between: Callable[[], object]) -> None:
    """Have each of *between* done before a look, one after the other, then wait for two looks more."""
    steps, stamps, done = list(between), reload._stamps, asyncio.Event()
    left = 3

    def after_a_step(paths: object) -> object:
        nonlocal left
        if steps:
            steps.pop(0)()
        elif left:
            left -= 1
        else:
            loop.call_soon_threadsafe(done.set)
        return stamps(paths)  # type: ignore[arg-type]  # passed on

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(reload, "_stamps", after_a_step)
    await done.wait()
    monkeypatch.setattr(reload, "_stamps", stamps)


@asynccontextmanager
async def following(files: Files) -> AsyncIterator[list[GatewayConfig | ConfigError]]:
    told: list[GatewayConfig | ConfigError] = []

    async def follow(config: GatewayConfig) -> None:
        async for version in changes(files.config, config):
            told.append(version)  # noqa: PERF401 - while it goes on

    task = asyncio.create_task(follow(files.read()))
    try:
        yield told
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def channels(version: GatewayConfig | ConfigError) -> list[str]:
    assert isinstance(version, GatewayConfig), version
    return [tag.channel for tag in version.tag]


async def test_nothing_is_told_while_nothing_changes(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written again as it was is no change either."""
    async with following(files) as told:
        await looked(monkeypatch, *[lambda: files.list(row(A), row(B)), lambda: None, lambda: None])
    assert told == []


async def test_a_changed_list_and_a_changed_file_are_told_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(files) as told:
        await looked(monkeypatch, lambda: files.list(row(A)))
        await looked(monkeypatch, lambda: files.configure(files.text + "[asset_class.press]\n"))
    assert [channels(version) for version in told] == [[A], [A]]


async def test_what_changed_while_the_gateway_was_starting_is_told(files: Files) -> None:
    """Between the reading of the configuration and the first look."""
    config = files.read()
    files.list(row(B))
    assert channels(await anext(aiter(changes(files.config, config)))) == [B]


async def test_a_file_that_is_being_written_is_waited_for(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as each look finds another version, none is read; the control reads the half one that stays."""
    whole = "\n".join([HEADER, row(A), row(B), row(C)]) + "\n"
    parts = [lambda end=end: files.write(files.tags, whole[:end]) for end in range(10, len(whole), 20)]
    async with following(files) as told:
        await looked(monkeypatch, *parts, lambda: files.write(files.tags, whole))
        assert [channels(version) for version in told] == [[A, B, C]]
        await looked(monkeypatch, lambda: files.write(files.tags, whole[:-20]))
        assert isinstance(told[-1], ConfigError)


async def test_a_list_that_changes_while_it_is_read_is_read_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_changed(path: Path) -> GatewayConfig:
        config = check_config(path)
        if later:
            later.pop()()
        return config

    later = [lambda: files.list(row(C))]
    monkeypatch.setattr(reload, "check_config", read_and_changed)
    async with following(files) as told:
        files.list(row(B))
        await until(lambda: len(told) == 2)
    assert [channels(version) for version in told] == [[B], [C]]


BROKEN: dict[str, Callable[[Files], object]] = {
    "no table": lambda files: files.write(files.tags, b"\x00\xff\xfe"),
    "a bad row": lambda files: files.list(row(A), "cell-1,pump-01,pump,x,ns=2;s=x,"),
    "no TOML": lambda files: files.configure("gateway_id = "),
    "no text": lambda files: files.configure("\x00"),
    "no UTF-8": lambda files: files.write(files.config, b"gateway_id = '\xff'"),
    "unknown key": lambda files: files.configure(files.text + "[nonsense]\n"),
    "list gone": lambda files: files.tags.unlink(),
    "file gone": lambda files: files.config.unlink(),
}


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_is_told_and_then_the_mended_one(
    files: Files, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[Files], object]
) -> None:
    """Once each; the mended one even when it is as it was, for the trouble is over."""
    async with following(files) as told:
        await looked(monkeypatch, lambda: break_it(files))
        assert [type(version) for version in told] == [ConfigError]
        await looked(monkeypatch, lambda: files.list(row(A), row(B)), lambda: files.configure(files.text))
    assert len(told) == 2
    assert channels(told[-1]) == [A, B]


def test_what_counts_at_once_and_what_after_a_restart(files: Files) -> None:
    before = files.read()
    files.list(row(C))
    assert not needs_restart(before, files.read())
    for edit in (
        ("gw-1", "gw-2"),
        ('user = "gateway"', 'user = "other"'),
        ("[acquisition]", "[acquisition]\nbackfill_limit_h = 2.0"),
    ):
        files.configure(files.text.replace(*edit))
        changed = files.read()
        assert needs_restart(before, changed)
        assert not needs_restart(before, with_tags_of(before, changed))


def test_assets_of_a_server_that_is_not_there_yet_wait(files: Files) -> None:
    """A server that is added is read after a restart, and its assets are none before."""
    before = files.read()
    files.configure(files.text + '[[server]]\nname = "cell-2"\nendpoint = "opc.tcp://127.0.0.1:2/"\n')
    files.list(row(A), row(B, asset="pump-02").replace("cell-1", "cell-2"))
    after = with_tags_of(before, files.read())
    assert [asset.asset_id for asset in after.asset] == ["pump-01"]
    assert [tag.channel for tag in after.tag] == [A]


@pytest.fixture
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


async def contents(journal: Journal) -> tuple[dict[str, list[int]], list[Gap], list[AssetDescription]]:
    """Return seconds after noon by ``asset/channel``, gaps and assets."""
    pages = await journal.read(lambda database: database.decoded_pages(0, limit=10_000, max_bytes=2**30))
    seconds: dict[str, list[int]] = {}
    gaps: list[Gap] = []
    assets: list[AssetDescription] = []
    for page in pages:
        if isinstance(o := page.content, Observations):
            for i, t in zip(o.stream.tolist(), o.source_time.tolist(), strict=True):
                seconds.setdefault("/".join(o.streams[i]), []).append((t - NOON_NS) // SECOND_NS)
        elif isinstance(page.content, Results):
            gaps += page.content.gaps
            assets += page.content.assets
    return seconds, gaps, assets


class Running:
    """A gateway with its plant, in this process."""

    def __init__(self, plant: SmallPlant, files: Files, journal: Journal, gateway: Gateway) -> None:
        self.plant, self.files, self.journal, self.gateway = plant, files, journal, gateway
        self._seconds = iter(range(1, 1000))

    def newest(self, channel: str, asset: str = "pump-01") -> float:
        stored = self.journal.newest_source_time(Stream(asset, channel))
        return -1.0 if stored is None else (stored - NOON_NS) / SECOND_NS

    async def carries_on(self, channel: str, asset: str = "pump-01") -> None:
        """Have *channel* measure something, and wait until it is stored."""
        second = next(self._seconds)
        await self.plant.write(channel, second, 1.0)
        await until(lambda: self.newest(channel, asset) == second)


@asynccontextmanager
async def running(folder: Path, *holes: Hole) -> AsyncIterator[Running]:
    """Run a gateway whose journal has *holes* from an earlier time."""
    ensure_application_certificate(folder / "plant", "urn:test:plant", "plant")
    plant = SmallPlant(folder / "plant", free_port(), channels=(A, B, C))
    await plant.start()
    files = Files(folder, plant.endpoint)
    config = files.read()
    trusted = config.pki_dir / "trusted"
    trusted.mkdir(parents=True)
    (trusted / "plant.der").write_bytes(plant.certificate.read_bytes())
    journal = await Journal.open(config.state_dir, config.gateway_id)
    await journal.append(Observations.empty(), opened=holes)
    gateway, stop = Gateway(config, journal, files.config), asyncio.Event()
    task = asyncio.create_task(gateway.run_until(stop))
    run = Running(plant, files, journal, gateway)
    try:
        await until(lambda: run.newest(A) == run.newest(B) == 0)
        yield run
        assert gateway._sources["cell-1"].counters.reconnects == 0
    finally:
        stop.set()
        await task
        await plant.stop()
        await journal.close()


@pytest.mark.usefixtures("_quiet")
async def test_a_running_gateway_touches_the_changed_tags_alone(tmp_path: Path) -> None:
    """A tag added, grouped otherwise, taken out, a file that is broken: the others have no gap and no new item."""
    async with running(tmp_path) as run:
        plant, files = run.plant, run.files
        item = plant.items()[A]
        plant.asked_for.clear()
        files.list(row(A), row(B), row(C))
        await until(lambda: run.newest(C) == 0)
        await run.carries_on(A)
        files.list(row(A), row(B, "slow"), row(C))
        await until(lambda: B in plant.asked_for)
        await run.carries_on(A)
        await run.carries_on(B)
        files.list(row(A), "nonsense")
        await until(lambda: any("goes on with what it read before" in told for told in run.gateway.report().warnings))
        await run.carries_on(A)
        await run.carries_on(C)
        files.list(row(A))
        await until(lambda: set(plant.items()) == {A})
        assert not any("goes on" in told for told in run.gateway.report().warnings)
        await run.carries_on(A)
        assert plant.items()[A] == item
        assert A not in plant.asked_for
        seen, gaps, _ = await contents(run.journal)
    assert seen[f"pump-01/{A}"] == [0, 1, 2, 4, 6]
    assert seen[f"pump-01/{B}"] == [0, 3]
    assert gaps == []


@pytest.mark.usefixtures("_quiet")
async def test_a_running_gateway_reads_and_monitors_an_asset_that_is_added(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.files.list(row(A), row(B), row(C, asset="pump-02"))
        await until(lambda: run.newest(C, "pump-02") == 0)
        await until(lambda: "pump-02" in run.gateway._blocks._assets["pump"])
        await run.carries_on(A)
        await run.carries_on(C, "pump-02")
        seq = run.journal.last_seq
        await until(lambda: run.gateway._positions.get("monitor", 0) >= seq)
        _, gaps, assets = await contents(run.journal)
    assert {asset.asset_id for asset in assets} == {"pump-01", "pump-02"}
    assert gaps == []


@pytest.mark.usefixtures("_quiet")
async def test_holes_of_channels_that_nobody_wants_become_gaps(tmp_path: Path) -> None:
    """At the start and when a tag is taken out, for nothing would ever fill them; those of others stay on the list."""
    before, wanted = Stream("pump-09", "gone"), Stream("pump-01", "late")
    hole = Hole(stream=before, start_ns=NOON_NS - SECOND_NS, end_ns=NOON_NS, cause="not listened")
    async with running(tmp_path, hole) as run:
        assert run.journal.holes() == ()
        await run.journal.append(Observations.empty(), opened=[replace(hole, stream=wanted)])
        run.files.list(row(A), row("late"), row(C))
        await until(lambda: run.newest(C) == 0)
        assert run.journal.holes() != ()
        run.files.list(row(A), row(C))
        await until(lambda: run.journal.holes() == ())
        _, gaps, _ = await contents(run.journal)
    assert [(gap.asset_id, gap.channel) for gap in gaps] == [before, wanted]
    assert {gap.cause for gap in gaps} == {"not listened, and the channel is no longer wanted"}
