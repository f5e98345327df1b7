"""Delivery: one more reader of the journal, which ends when the cloud holds every segment.

Each connection begins with the cloud's ledger. What it does not hold is not delivered, whatever this side believed; the
segments that are not delivered are sent, oldest first. One ends *accepted* (the ledger has it), *refused* (kept, with
the cloud's reason, and offered again when the gateway starts anew) or *kept* (sent again, for ever). Only the cloud's
answer to a segment's own bytes marks it as delivered: the ledger knows pages by number, and a journal that was cloned
or restored from a backup has other pages under the same numbers. A segment whose answer was lost is sent twice and
stored once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog

from gateway.config import UplinkConfig
from gateway.errors import JournalError, UploadDeferred, UploadRefused
from gateway.journal import Journal, SegmentEntry, SegmentStore
from gateway.uplink.client import CloudClient, Range

log = structlog.get_logger()

_BATCH = 64


@dataclass(kw_only=True)
class UplinkCondition:
    """How delivery is doing, for the gateway's health.

    Attributes:
        connected: Whether the cloud answered last time.
        trouble: Why it is not connected; empty when it is.
        refused: The shelf: ranges of segments the cloud will not take, or that cannot be read, with the reason.
    """

    connected: bool = False
    trouble: str = "not connected yet"
    refused: dict[Range, str] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each segment on the shelf."""
        return tuple(f"segment {first}-{last} not delivered: {why}" for (first, last), why in self.refused.items())


async def deliver(journal: Journal, config: UplinkConfig, condition: UplinkCondition) -> None:
    """Send every segment of *journal* to the cloud, until the journal is closed.

    Raises:
        ConfigError: If the certificate files cannot be used.
    """
    segments = SegmentStore(journal)
    wait_s = config.retry_min_s
    async with CloudClient(config, journal.gateway_id) as cloud:
        while True:
            try:
                seen = journal.counters.compacted_pages
                await segments.withdraw_outside(await cloud.ledger(journal.epoch))
                _connected(condition)
                wait_s = config.retry_min_s
                async for entry in _pending(segments, condition):
                    await _send(entry, cloud, journal.epoch, segments, condition)
                if not await _news(segments, seen, config.retry_max_s):
                    return
            except UploadDeferred as deferred:
                _disconnected(condition, str(deferred))
                # Gateways that lost the same cloud must not come back at the same moment.
                await asyncio.sleep(max(deferred.wait_s, random.uniform(0.5, 1.0) * wait_s))  # noqa: S311 - no secret
                wait_s = min(2 * wait_s, config.retry_max_s)
            except JournalError:
                if await journal.wait_until(lambda _: True):
                    raise
                return  # it was closed while the cloud was asked


async def _pending(segments: SegmentStore, condition: UplinkCondition) -> AsyncIterator[SegmentEntry]:
    """Yield what is neither delivered nor on the shelf, oldest first, until nothing is."""
    while True:
        pending = await segments.pending(_BATCH + len(condition.refused))
        batch = [entry for entry in pending if (entry.first_seq, entry.last_seq) not in condition.refused]
        if not batch:
            return
        for entry in batch:
            yield entry


async def _send(
    entry: SegmentEntry, cloud: CloudClient, epoch: str, segments: SegmentStore, condition: UplinkCondition
) -> None:
    pages = (entry.first_seq, entry.last_seq)
    try:
        held = await cloud.put(epoch, pages, await segments.read(entry), entry.digest)
    except (UploadRefused, JournalError) as error:
        condition.refused[pages] = str(error)
        log.error("segment refused; it is kept on the shelf", pages=pages, reason=str(error))  # noqa: TRY400 - the reason says all
        return
    if not any(first <= pages[0] and pages[1] <= last for first, last in held):
        raise UploadDeferred(f"the cloud took segment {pages[0]}-{pages[1]}, but its ledger does not have it", 0.0)
    await segments.mark_delivered([pages])


async def _news(segments: SegmentStore, seen: int, patience_s: float) -> bool:
    """Wait for a segment beyond *seen*, or until it is time to ask again; return False when the journal is closed."""
    try:
        async with asyncio.timeout(patience_s):
            return await segments.wait_beyond(seen)
    except TimeoutError:
        return True


def _connected(condition: UplinkCondition) -> None:
    if not condition.connected:
        log.info("uplink connected")
    condition.connected, condition.trouble = True, ""


def _disconnected(condition: UplinkCondition, trouble: str) -> None:
    if condition.connected or condition.trouble != trouble:
        log.warning("uplink down; segments are kept", reason=trouble)
    condition.connected, condition.trouble = False, trouble
