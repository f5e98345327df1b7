"""Whatever happens to segments, in whatever order: every observation is accounted for once, and the chain holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.config import JournalConfig
from gateway.journal import Journal, SegmentStore, compact_once, merging, retention
from gateway.journal.merging import merge_small
from gateway.journal.retention import enforce, usage
from tests.gateway.journal.chain import verify_chain
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations

STEPS = 40


class Life:
    """One journal, and what may happen to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.journal: Journal

    @property
    def store(self) -> SegmentStore:
        """Its segments."""
        return SegmentStore(self.journal)

    async def append(self) -> None:
        start = NOON_NS + self.journal.last_seq * 1000 * SECOND_NS
        await self.journal.append(make_observations(rows=self.chance.randrange(1, 30), start_ns=start))
        await self.journal.append_results(make_event("between"))

    async def compact(self) -> None:
        await compact_once(self.journal, max_pages=self.chance.randrange(1, 4))

    async def deliver(self) -> None:
        for entry in self.chance.sample(entries := await self.store.segments(), min(2, len(entries))):
            await self.store.mark_delivered([(entry.first_seq, entry.last_seq)])

    async def withdraw(self) -> None:
        half = self.journal.last_seq // 2
        await self.store.withdraw_outside([(1, half)] if half else [])

    async def refuse(self) -> None:
        for entry in (await self.store.pending())[:1]:
            await self.store.refuse(entry, "chain")

    async def cut(self) -> None:
        for entry in (await self.store.pending(newest_first=True))[:1]:
            if entry.cut is None and not entry.is_tombstone:
                await self.store.set_cut(entry, b"policy", self.chance.randrange(entry.observations + 1))

    async def damage(self) -> None:
        for entry in self.chance.sample(entries := await self.store.segments(), min(1, len(entries))):
            entry.path.write_bytes(b"damaged")
            if self.chance.random() < 0.5:
                assert await self.store.read(entry)

    async def limit(self) -> None:
        size = (await usage(self.journal)).size // retention._MIB
        limits = JournalConfig(
            max_size_mib=max(size - self.chance.randrange(6), 1),
            min_free_mib=0,
            max_age_days=self.chance.choice([0.0, 1e-12]),
            purge_unsent=self.chance.random() < 0.5,
        )
        await enforce(self.journal, limits)

    async def merge(self) -> None:
        await merge_small(self.journal)

    async def restart(self) -> None:
        counters = self.journal.counters
        await self.journal.close()
        self.journal = await Journal.open(self.folder, "gw-1")
        assert self.journal.counters == counters


@pytest.mark.parametrize("seed", range(6))
async def test_every_observation_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """After every step, and after a restart; at the end each segment can be read, and no file is left over."""
    monkeypatch.setattr(merging, "_AT_LEAST", 3)
    monkeypatch.setattr(retention, "_MIB", 1024)
    monkeypatch.setattr(retention, "_LOT", 3)
    life = Life(tmp_path, seed)
    life.journal = await Journal.open(tmp_path, "gw-1")
    others = (life.deliver, life.withdraw, life.refuse, life.cut, life.damage, life.limit, life.merge, life.restart)
    for _ in range(STEPS):
        await life.chance.choice((life.append, life.append, life.compact, life.compact, *others))()
        now = life.journal.counters
        assert now.appended == now.delivered + now.withheld + now.pending + sum(now.expired.values())
        assert min(now.delivered, now.withheld, now.pending) >= 0
    for entry in await life.store.segments():
        await life.store.read(entry)
    entries = await life.store.segments()
    assert verify_chain(entries) == []
    assert {path.name for path in (tmp_path / "segments").glob("*.wseg*")} == {entry.path.name for entry in entries}
    await life.journal.close()
