"""Delivery: one more reader of the journal, which ends when the cloud holds every segment.

Each connection begins with the cloud's ledger. What it does not hold is not delivered, whatever this side believed.
Then four things are sent side by side, and share the bandwidth in this order: *express* pages that people wait for,
*live* segments as they close, the *backlog*, and what the cloud asked for. A segment ends *accepted* (the ledger has
it), *refused* (kept, with the cloud's reason) or *kept* (sent again, for ever).

Only the cloud's answer to a segment's own bytes marks it as delivered: the ledger knows pages by number, and a journal
that was cloned or restored from a backup has other pages under the same numbers. A segment whose answer was lost is
sent twice and stored once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from gateway.config import UplinkConfig
from gateway.errors import JournalError, UploadDeferred, UploadRefused
from gateway.journal import Journal, SegmentEntry, SegmentStore
from gateway.journal.errors import CommitFailed, SegmentDamaged
from gateway.uplink.backoff import Backoff
from gateway.uplink.client import CloudClient, Range
from gateway.uplink.condition import UplinkCondition
from gateway.uplink.cutting import Cutting
from gateway.uplink.express import Express
from gateway.uplink.outbox import Outbox
from gateway.uplink.pacing import Pacer, Priority
from gateway.uplink.policy import Policies
from gateway.uplink.schedule import Schedule
from models.records import Advisory, Page, Results
from models.segment import SegmentError, express_segment, segment_digest

log = structlog.get_logger()

Supply = Callable[[CloudClient], Awaitable[bool]]
OnAdvisories = Callable[[CloudClient, tuple[Advisory, ...]], Awaitable[None]]

_BACKLOG_SENDERS = 3  # one reads and one waits for its answer while the third sends
_MEASURE_S = 5.0
_SCHEDULE_S = 30.0  # how often the clock is looked at: somebody may set it


async def deliver(
    journal: Journal,
    config: UplinkConfig,
    condition: UplinkCondition,
    *,
    policies: Policies | None = None,
    on_advisories: OnAdvisories | None = None,
    supply: Supply | None = None,
) -> None:
    """Send every segment of *journal* to the cloud, until the journal is closed.

    Args:
        journal: What is sent.
        config: Where to, and how.
        condition: Is told how it goes.
        policies: What of each stream is sent; everything by default.
        on_advisories: Called with the advisories of a page that the cloud has just got; again when it raises
            UploadDeferred, or the gateway stops before it returns.
        supply: Called when nothing else is to be sent and raw data may be; returns whether it sent something.

    Raises:
        ConfigError: If the certificate files or the proxy's password cannot be read.
    """
    try:
        express = await Express.open(journal)
        delivery = Delivery(
            journal, config, condition, express, policies=policies, on_advisories=on_advisories, supply=supply
        )
        await _until_one_ends(express.watch(), delivery.run(), delivery.measure())
    except JournalError:
        if not journal.closed:
            raise


class Delivery:
    """Connections to the cloud, one after the other, and what is sent over each."""

    def __init__(
        self,
        journal: Journal,
        config: UplinkConfig,
        condition: UplinkCondition,
        express: Express,
        *,
        policies: Policies | None,
        on_advisories: OnAdvisories | None,
        supply: Supply | None,
    ) -> None:
        self._journal = journal
        self._config = config
        self._condition = condition
        self._express = express
        self._on_advisories = on_advisories
        self._supply = supply
        self._segments = SegmentStore(journal)
        self._outbox = Outbox(journal, condition, config.backlog)
        self._schedule = Schedule(config.schedule)
        self._backoff = Backoff(config.retry_min_s, config.retry_max_s)
        self._cutting = Cutting(journal, config, policies, express)
        self._held: list[Range] = []
        self._pacer = Pacer(config.bandwidth_kib_s * 1024)

    async def run(self) -> None:
        """Connect, and connect again, until the journal is closed."""
        with suppress(CommitFailed):  # then they stay on the shelf for this time
            await self._outbox.offer_again()
        async with CloudClient(self._config, self._journal.gateway_id, self._pacer) as cloud:
            while not self._journal.closed:
                try:
                    await self._connection(cloud)
                except UploadDeferred as deferred:
                    _disconnected(self._condition, str(deferred))
                    await asyncio.sleep(self._backoff.wait_s(deferred.wait_s))
                except JournalError as error:
                    if self._journal.closed:
                        return
                    # A disk that is full or fails for a while: what was sent and not noted is sent again.
                    _disconnected(self._condition, str(error))
                    await asyncio.sleep(self._backoff.wait_s())

    async def measure(self) -> None:
        """Tell the condition, every few seconds, what waits."""
        while not self._journal.closed:
            with suppress(CommitFailed):  # the disk fails now, which others tell
                await self._outbox.measure()
            self._condition.budget_left_bytes = self._cutting.budget_left_bytes
            self._condition.bytes_sent = self._pacer.taken
            self._condition.express_waiting = len(self._express)
            self._condition.next_window = self._schedule.next_opening(_local_time())
            await asyncio.sleep(_MEASURE_S)

    async def _connection(self, cloud: CloudClient) -> None:
        await self._compare(cloud)
        _connected(self._condition)
        backlog_senders = (
            1 if self._pacer.capped else _BACKLOG_SENDERS
        )  # a cut then loses one half-sent body, not three
        await _until_one_ends(
            self._send_express(cloud),
            self._send_live(cloud),
            *(self._send_backlog(cloud) for _ in range(backlog_senders)),
            self._send_supply(cloud),
            self._compare_again(cloud),
        )

    async def _compare(self, cloud: CloudClient) -> None:
        """Take back what the cloud does not hold, and notice when it holds what this journal never wrote."""
        self._held = held = await cloud.ledger(self._journal.epoch)
        await self._segments.withdraw_outside(held)
        last, most = self._journal.last_seq, max((last for _, last in held), default=0)
        self._condition.restored = (
            f"the cloud holds pages up to {most} of this journal, which ends at {last}: it was restored from a backup, "
            "or runs twice; stop the gateway and run `wearsight-gateway journal repair --new-epoch`"
            if most > last
            else ""
        )

    async def _compare_again(self, cloud: CloudClient) -> None:
        """Ask for the ledger now and then: the cloud itself may come back from a backup."""
        while True:
            await asyncio.sleep(self._config.retry_max_s)
            if self._outbox.idle:
                await self._compare(cloud)
                self._outbox.wake()
                self._backoff.reset()

    async def _send_express(self, cloud: CloudClient) -> None:
        while True:
            seq = await self._express.next()
            try:
                page = await self._express.page(seq)
            except JournalError as error:
                if self._journal.closed or isinstance(error, CommitFailed):
                    raise  # the disk fails now; the page is there
                log.warning("page cannot be sent ahead of its segment", seq=seq, reason=str(error))
                await self._express.done([seq])
                continue
            if not _inside((seq, seq), self._held):
                await self._send_page(cloud, page)
            if self._on_advisories is not None and isinstance(page.content, Results) and page.content.advisories:
                await self._on_advisories(cloud, page.content.advisories)
            await self._express.done([seq])
            self._backoff.reset()

    async def _send_page(self, cloud: CloudClient, page: Page) -> None:
        pages = (page.seq, page.seq)
        data = await asyncio.to_thread(express_segment, page)
        try:
            await cloud.put(self._journal.epoch, pages, data, segment_digest(data), Priority.EXPRESS)
            self._condition.express_sent += 1
        except UploadRefused as error:
            log.warning("page not taken ahead of its segment, which will tell", seq=page.seq, reason=str(error))

    async def _send_live(self, cloud: CloudClient) -> None:
        await self._window()
        while (entry := await self._outbox.next_live()) is not None:
            await self._send(cloud, entry, Priority.LIVE)
            await self._window()

    async def _send_backlog(self, cloud: CloudClient) -> None:
        while True:
            await self._window()
            changed = self._outbox.changed
            entry = await self._outbox.next_backlog()
            if entry is None:
                await self._outbox.wait(changed, self._config.retry_max_s)
            else:
                await self._send(cloud, entry, Priority.BACKLOG)

    async def _send_supply(self, cloud: CloudClient) -> None:
        while self._supply is not None:
            await self._window()
            changed = self._outbox.changed
            if not self._outbox.drained:
                await self._outbox.wait(changed, self._config.retry_max_s)
            elif not await self._supply(cloud):
                await asyncio.sleep(self._config.retry_max_s)
        await asyncio.Event().wait()

    async def _window(self) -> None:
        """Wait until the schedule lets raw data go."""
        while not self._schedule.is_open(_local_time()):  # noqa: ASYNC110 - the clock tells nobody
            await asyncio.sleep(min(_SCHEDULE_S, _until_s(self._schedule.next_opening(_local_time()))))

    async def _send(self, cloud: CloudClient, entry: SegmentEntry, priority: Priority) -> None:
        """Send *entry*, which was taken, and say what became of it."""
        live, pages = priority is Priority.LIVE, (entry.first_seq, entry.last_seq)
        try:
            whole = await self._segments.read(entry)
            data = await self._cutting.cut(entry, whole, sent_before=_inside(pages, self._held))
            held = await cloud.put(self._journal.epoch, pages, data, segment_digest(data), priority)
            if not _inside(pages, held):
                raise UploadDeferred(  # noqa: TRY301 - as if it had been answered so
                    f"the cloud took segment {pages[0]}-{pages[1]}, but its ledger does not have it", 0.0, answered=True
                )
            await self._outbox.accepted(entry)
            self._accepted(entry, live=live)
        except UploadRefused as error:
            await self._refused(entry, f"{error.reason or 'refused'}: {error}")
        except UploadDeferred as deferred:
            self._outbox.put_back(entry, live=live, failed=deferred.answered)
            raise
        except (SegmentDamaged, SegmentError) as error:
            await self._refused(entry, f"unreadable: {error}")
        except JournalError as error:
            self._outbox.put_back(entry, live=live, failed=True)
            if self._journal.closed:
                raise
            raise UploadDeferred(str(error), 0.0) from error
        except asyncio.CancelledError:
            self._outbox.put_back(entry, live=live, failed=False)
            raise
        finally:
            self._outbox.release(entry)

    def _accepted(self, entry: SegmentEntry, *, live: bool) -> None:
        self._backoff.reset()
        self._condition.segments_sent += 1
        self._condition.bytes_sent = self._pacer.taken
        if live:
            with suppress(OSError):  # what is delivered may be purged at once
                self._condition.live_latency_s = max(time.time() - entry.path.stat().st_mtime, 0.0)

    async def _refused(self, entry: SegmentEntry, reason: str) -> None:
        log.error("segment refused; it is kept on the shelf", pages=(entry.first_seq, entry.last_seq), reason=reason)
        await self._outbox.refused(entry, reason)


def _inside(pages: Range, held: Sequence[Range]) -> bool:
    return any(first <= pages[0] and pages[1] <= last for first, last in held)


async def _until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Run all *work* side by side until the first ends, and end the others; raise what it raised."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _local_time() -> datetime:
    return datetime.now().astimezone()


def _until_s(moment: datetime | None) -> float:
    return 0.0 if moment is None else max((moment - _local_time()).total_seconds(), 0.0)


def _connected(condition: UplinkCondition) -> None:
    if not condition.connected:
        log.info("uplink connected")
    condition.connected, condition.trouble = True, ""


def _disconnected(condition: UplinkCondition, trouble: str) -> None:
    if condition.connected or condition.trouble != trouble:
        log.warning("uplink down; segments are kept", reason=trouble)
    condition.connected, condition.trouble = False, trouble
