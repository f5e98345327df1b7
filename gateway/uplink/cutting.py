"""Cutting: what an upload policy keeps back is left out of a segment before it is sent, and counted.

What is left out is decided once, when a segment is first about to be sent, and durable before it is: whenever it is
sent again, it is sent with the same bytes, whatever the configuration or the budget says by then. The segment itself
stays here whole.
"""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np

from gateway.config import UplinkConfig
from gateway.journal import Journal, SegmentEntry
from gateway.uplink.express import Express
from gateway.uplink.policy import Budget, Policies
from models.records import Stream
from models.segment import cut_segment, decode_segment

_decoder = msgspec.msgpack.Decoder(list[tuple[str, str]])


class Cutting:
    """Decides what of each segment is sent, and makes the bytes.

    Args:
        journal: Where decisions are kept.
        config: How large the budget is.
        policies: What is kept back of each stream; None keeps back nothing.
        express: Where is kept what is left of the budget.
    """

    def __init__(self, journal: Journal, config: UplinkConfig, policies: Policies | None, express: Express) -> None:
        self._journal = journal
        self._policies = policies
        self._express = express
        self._budget = Budget(config.budget_mib_per_day * 2**20, left=express.budget_left)
        self._deciding = asyncio.Lock()

    @property
    def budget_left_bytes(self) -> int | None:
        """What is left of the budget; None when no channel has one."""
        return int(self._budget.left) if self._policies is not None and self._policies.has_budget else None

    async def cut(self, entry: SegmentEntry, data: bytes, *, sent_before: bool) -> bytes:
        """Return what is sent of *data*, the bytes of *entry*.

        Args:
            entry: What the journal says of it.
            data: Its bytes.
            sent_before: Whether the cloud holds its pages: without a decision it was sent whole.

        Raises:
            JournalError: If the decision cannot be kept; then nothing may be sent.
            SegmentError: If *data* is no segment.
        """
        if entry.cut is not None:
            left_out = [Stream(*names) for names in _decoder.decode(entry.cut)]
        elif sent_before or entry.stands_for or self._policies is None or self._policies.everything:
            return data
        else:
            async with self._deciding:  # one budget
                left_out = await self._decide(entry, data, self._policies)
        return await asyncio.to_thread(cut_segment, data, left_out) if left_out else data

    async def _decide(self, entry: SegmentEntry, data: bytes, policies: Policies) -> list[Stream]:
        rows = await asyncio.to_thread(_rows_by_stream, data)
        left_out = policies.kept_back(rows)
        if budgeted := policies.budgeted(rows):
            left_out |= await self._beyond_budget(data, left_out, budgeted)
        decision = msgspec.msgpack.encode(sorted(left_out))
        withheld = sum(rows[stream] for stream in left_out)
        await self._journal.write(lambda database: database.segments.set_cut(entry.first_seq, decision, withheld))
        return list(left_out)

    async def _beyond_budget(
        self, data: bytes, left_out: frozenset[Stream], budgeted: frozenset[Stream]
    ) -> frozenset[Stream]:
        """Pay for the *budgeted* streams what they add to the segment; return them when that is not left."""
        with_them = await asyncio.to_thread(cut_segment, data, left_out)
        without = await asyncio.to_thread(cut_segment, data, left_out | budgeted)
        if not self._budget.spend(len(with_them) - len(without)):
            return budgeted
        self._express.budget_left = self._budget.left
        await self._express.save()  # first: a crash here costs the budget, not the one who pays by volume
        return frozenset()


def _rows_by_stream(data: bytes) -> dict[Stream, int]:
    rows = decode_segment(data).observations
    counts = np.bincount(rows.stream, minlength=len(rows.streams)).tolist()
    return {stream: count for stream, count in zip(rows.streams, counts, strict=True) if count}
