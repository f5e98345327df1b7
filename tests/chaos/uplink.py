"""The way to the cloud breaks: for minutes, at the moment of the answer, at the cloud's end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from cloud_service.testing import CloudProcess
from models.records import Observations, Stream
from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.oracle import GATEWAY_ID, found_at, judge, judge_rows
from tests.chaos.plant import Plant
from tests.chaos.sender import plant_of
from tests.integration.faults.chaos_proxy import ChaosProxy, Door, Ending, Way
from tests.integration.peers.server import ROOT

_FULL_RATE, _LOW_RATE = 10_000, 2_000  # rows a second
_OUTAGE_TRIAL_S = 5.0
_PATIENCE_S = 60.0
_DRAIN_S = 240.0
_BODY_BYTES = 3_000  # more than a question to the ledger or a handshake takes
_TRIES = 20


class Sender:
    """``python -m tests.chaos.sender`` as a process, and what it said last."""

    def __init__(self, folder: Path, seed: int, rate: int, cloud_url: str, tls: Path, *, careless: bool) -> None:
        self.last: dict[str, Any] = {"appended": 0, "delivered": 0, "pending": 0, "at": 0.0, "ended": False}
        self._log = folder / "sender.log"
        self._command = (
            *(sys.executable, "-m", "tests.chaos.sender", str(folder / "state"), str(seed), cloud_url, str(tls)),
            str(rate),
        )
        self._environment = {**os.environ, **({"CARELESS": "1"} if careless else {})}
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=self._environment,
            )
        self._listening = asyncio.create_task(self._listen())

    async def until(self, reached: Callable[[dict[str, Any]], bool], patience_s: float = _PATIENCE_S) -> bool:
        """Wait until it says what *reached* wants; return False when it does not within *patience_s*, or ended."""
        assert self._listening is not None
        deadline = asyncio.get_running_loop().time() + patience_s
        while not reached(self.last):
            if self._listening.done() or asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def end(self) -> str:
        """Have it store no more and send what is left; return what went wrong, empty when nothing did."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_DRAIN_S):
                code = await self._process.wait()
        except TimeoutError:
            return f"after {_DRAIN_S:.0f} s there are still {self.last['pending']} rows to be sent"
        return "" if code == 0 else f"the sender ended with {code}: {self._log.read_text()[-1500:]}"

    async def kill(self) -> None:
        """End it at once, when it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.last = json.loads(line)


class Rig:
    """A cloud, a link that can be broken, a sender."""

    def __init__(self, folder: Path, seed: int, rate: int) -> None:
        self.folder = folder
        self.plant: Plant = plant_of(seed, rate)
        self.cloud = CloudProcess(folder / "cloud")
        self.proxy: ChaosProxy
        self.sender: Sender

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, seed: int, rate: int, *, careless: bool = False) -> AsyncIterator[Rig]:
        """Run all three, until the block ends."""
        await asyncio.to_thread(folder.mkdir, parents=True)
        rig = cls(folder, seed, rate)
        tls = rig.cloud.enroll(GATEWAY_ID)
        await asyncio.to_thread(rig.cloud.start)
        try:
            async with ChaosProxy(int(rig.cloud.ingest_url.rpartition(":")[2])) as rig.proxy:
                url = f"https://127.0.0.1:{rig.proxy.port}"
                rig.sender = Sender(folder, seed, rate, url, tls, careless=careless)
                await rig.sender.start()
                try:
                    if not await rig.sender.until(lambda said: said["delivered"] > 0):
                        raise RuntimeError(f"nothing is delivered: {(folder / 'sender.log').read_text()[-1500:]}")
                    yield rig
                finally:
                    await rig.sender.kill()
        finally:
            rig.cloud.__exit__(None, None, None)

    def held(self) -> int:
        """Return how many pages the cloud's ledger holds."""
        store = self.cloud.store()
        try:
            with store.reading() as session:
                connection = session.connection()
                query = "SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM held"
                return int(connection.exec_driver_sql(query).scalar_one())
        finally:
            store.close()

    async def judged(self) -> tuple[str, ...]:
        """Have the sender finish, and return every promise that is broken."""
        if trouble := await self.sender.end():
            return (trouble,)
        return await asyncio.to_thread(self._judged)

    def _judged(self) -> tuple[str, ...]:
        found = asyncio.run(found_at(self.folder / "state"))
        made = self.plant.batches(range(int(np.max(self.plant.batches_of(found.rows.source_time))) + 1))
        lake = rows_of_lake(self.cloud.lake)
        wrong = [f"journal: {line}" for line in judge(made, found).wrong]
        wrong += [f"lake: {line}" for line in judge_rows(made, lake).wrong]
        if found.counters.delivered != len(lake):
            wrong.append(f"{found.counters.delivered} rows count as delivered, {len(lake)} are in the lake")
        return (*wrong, *self._uncounted(len(lake)))

    def _uncounted(self, rows: int) -> list[str]:
        """Return what the cloud's own figures break: received = stored + rejected, and rows as they lie there."""
        with urllib.request.urlopen(f"{self.cloud.web_url}/metrics", timeout=30) as answer:  # noqa: S310 - our own
            text = answer.read().decode()
        figures = {
            name: sum(map(float, re.findall(rf"(?m)^wearsight_cloud_{name}_total(?:{{.*}})? (\S+)$", text)))
            for name in ("segments_received", "segments_stored", "segments_rejected", "observations_stored")
        }
        wrong = []
        if figures["segments_received"] != figures["segments_stored"] + figures["segments_rejected"]:
            wrong.append(f"received is not stored + rejected: {figures}")
        if figures["observations_stored"] != rows:
            wrong.append(f"{figures['observations_stored']:.0f} rows count as stored, {rows} are in the lake")
        return wrong


def rows_of_lake(lake: Path) -> Observations:
    """Return all rows in the *lake*'s files, whatever a ledger says of them."""
    table = ds.dataset(lake / "observations", format="parquet").to_table(
        columns=["asset_id", "channel", "source_time", "value", "status"]
    )
    assets, channels = (
        pc.dictionary_encode(table[name].cast("string")).combine_chunks() for name in table.column_names[:2]
    )
    names = channels.dictionary.to_pylist()
    pairs = assets.indices.to_numpy().astype(np.int64) * len(names) + channels.indices.to_numpy()
    used, stream = np.unique(pairs, return_inverse=True)
    streams = tuple(
        Stream(assets.dictionary[pair // len(names)].as_py(), names[pair % len(names)]) for pair in used.tolist()
    )
    return Observations.of_values(
        streams,
        stream.astype(np.uint32),
        table["source_time"].to_numpy(),
        table["value"].to_numpy(),
        table["status"].to_numpy(),
    )


async def _outage(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    """The link is cut, in ways the seed chooses; the plant goes on at full rate."""
    chance = random.Random(seed)
    async with Rig.running(folder, seed, _FULL_RATE) as rig:
        await asyncio.sleep(3.0)
        for place in range(trials):
            before = rig.sender.last["appended"]
            ending, door = chance.choice(list(Ending)), chance.choice((Door.RESET, Door.SILENCE))
            rig.proxy.cut(ending, door)
            await asyncio.sleep(_OUTAGE_TRIAL_S)
            stored = rig.sender.last["appended"] - before
            wrong = () if stored > _FULL_RATE * _OUTAGE_TRIAL_S / 4 else (f"only {stored} rows were stored meanwhile",)
            if place < trials - 1:
                yield Trial(what=f"{_OUTAGE_TRIAL_S:.0f} s more without the cloud ({ending}, {door})", wrong=wrong)
        rig.proxy.heal()
        begin, waiting = asyncio.get_running_loop().time(), rig.sender.last["pending"]
        verdict = await rig.judged()
        seconds = asyncio.get_running_loop().time() - begin
        yield Trial(what=f"{waiting} rows waited and were sent in {seconds:.0f} s", wrong=(*wrong, *verdict))


async def _lost_answers(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    """The cloud stores a segment and its answer is lost; the connection then ends as the seed chooses."""
    chance = random.Random(seed)
    async with Rig.running(folder, seed, _LOW_RATE) as rig:
        for place in range(trials):
            lost = await _lose_an_answer(rig)
            rig.proxy.cut(chance.choice((Ending.RESET, Ending.CLOSE)))
            rig.proxy.heal()
            wrong = () if lost else ("no answer was lost, for all that was tried",)
            if not await rig.sender.until(_delivered_beyond(rig.sender.last["delivered"])):
                wrong = (*wrong, "nothing more is delivered")
            if place < trials - 1:
                yield Trial(what=f"an answer of {lost} bytes lost after the commit", wrong=wrong)
        yield Trial(what="the last answer lost, then everything sent", wrong=(*wrong, *await rig.judged()))


async def _lose_an_answer(rig: Rig) -> int:
    """Swallow what the cloud says from the moment a segment goes to it; return how many bytes, 0 when none came.

    The cloud has stored the segment then: its ledger has grown meanwhile.
    """
    for _ in range(_TRIES):
        sent = rig.proxy.passed(Way.TO_SERVER)
        await _beyond(partial(rig.proxy.passed, Way.TO_SERVER), sent + _BODY_BYTES)
        held, swallowed = rig.held(), rig.proxy.lost(Way.TO_GATEWAY)
        rig.proxy.lose(Way.TO_GATEWAY)
        grown = await _beyond(rig.held, held, patience_s=2.0)
        await asyncio.sleep(0.1)  # the answer is on its way, into nothing
        if grown and (lost := rig.proxy.lost(Way.TO_GATEWAY) - swallowed):
            return lost
        rig.proxy.cut()
        rig.proxy.heal()
    return 0


async def _beyond(figure: Callable[[], int], limit: int, patience_s: float = _PATIENCE_S) -> bool:
    """Wait until *figure* is above *limit*; return False when it is not within *patience_s*."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while figure() <= limit:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.002)
    return True


def _delivered_beyond(delivered: int) -> Callable[[dict[str, Any]], bool]:
    return lambda said: bool(said["delivered"] > delivered)


async def _cloud_kills(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _cloud_kill_series(folder, seed, trials, careless=False):
        yield trial


async def _careless(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _cloud_kill_series(folder, seed, trials, careless=True):
        yield trial


async def _cloud_kill_series(folder: Path, seed: int, trials: int, *, careless: bool) -> AsyncIterator[Trial]:
    """SIGKILL for the cloud in the midst of segments, at moments the seed chooses; it is started again on its data."""
    chance = random.Random(seed)
    wrong: tuple[str, ...] = ()
    async with Rig.running(folder, seed, _FULL_RATE, careless=careless) as rig:
        for place in range(trials):
            moment_s = chance.uniform(0.0, 1.5)
            await asyncio.sleep(moment_s)
            await asyncio.to_thread(rig.cloud.stop, signal.SIGKILL)
            if careless:
                await asyncio.sleep(2.0)
            delivered = rig.sender.last["delivered"]
            await asyncio.to_thread(rig.cloud.start)
            going_on = await rig.sender.until(_delivered_beyond(delivered))
            wrong = () if going_on else ("nothing more is delivered after the cloud came back",)
            if place < trials - 1:
                yield Trial(what=f"the cloud killed after {moment_s:.2f} s", wrong=wrong)
        yield Trial(what="the cloud killed, then everything sent", wrong=(*wrong, *await rig.judged()))


OUTAGE = Act(
    name="outage",
    promise="with the uplink cut at full rate everything is stored, and sent once when it is back",
    series=_outage,
    trials={Dose.QUICK: 1, Dose.STANDARD: 60, Dose.NIGHTLY: 720},
    per_series=60,
    stage="uplink",
)
LOST_ANSWERS = Act(
    name="lost-answers",
    promise="an answer lost after the cloud's commit makes nothing lost and nothing twice",
    series=_lost_answers,
    trials={Dose.QUICK: 3, Dose.STANDARD: 100, Dose.NIGHTLY: 1000},
    per_series=100,
    stage="cloud",
)
CLOUD_KILLS = Act(
    name="cloud-kills",
    promise="a cloud that is killed has what it answered for, once",
    series=_cloud_kills,
    trials={Dose.QUICK: 2, Dose.STANDARD: 20, Dose.NIGHTLY: 200},
    per_series=20,
    stage="cloud",
)
CLOUD_KILLS_CONTROL = Act(
    name="cloud-kills-control",
    promise="an uplink that takes what it sent for delivered loses rows by it",
    series=_careless,
    trials={Dose.QUICK: 2, Dose.STANDARD: 3, Dose.NIGHTLY: 3},
    per_series=3,
    is_control=True,
    stage="cloud",
)
