"""Advisories ahead of raw data, the schedule, and what other parts are called for, with a real cloud."""

from __future__ import annotations

import asyncio
from datetime import datetime
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web

from cloud_service.testing import CloudProcess
from gateway.errors import JournalError, UploadDeferred
from gateway.journal import CommitFailed, Journal, SegmentStore, compact_once
from gateway.uplink import CloudClient, delivery
from gateway.uplink.express import Express
from models.records import Advisory, Page, Results
from tests.gateway.uplink.answering import answering
from tests.gateway.uplink.rig import ROWS, an_advisory, delivering, enrolled, fill, times_in_lake, until, uplink
from tests.integration.faults.chaos_proxy import ChaosProxy, Way


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noon."""
    monkeypatch.setattr(delivery, "_local_time", lambda: datetime.fromisoformat("2026-03-04T12:00").astimezone())


class _Held(msgspec.Struct):
    held: list[tuple[int, int]]


async def ledger(cloud: CloudProcess, journal: Journal) -> list[tuple[int, int]]:
    """Return what the cloud holds."""
    config = enrolled(cloud, journal.gateway_id)
    async with CloudClient(config, journal.gateway_id) as asking:
        return (await asking.ask("GET", "ledger", journal.gateway_id, journal.epoch, answer=_Held)).held


@pytest.mark.usefixtures("noon")
async def test_outside_of_the_schedule_advisories_go_and_raw_data_waits(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """Before its segment, before its page is in any segment; the next window is told."""
    await fill(journal, 2)
    config = uplink(cloud, gateway_id, schedule=("22:00-06:00",))
    async with delivering(journal, config) as condition:
        await until(lambda: condition.connected)
        await journal.append_results(Results(advisories=(an_advisory(),)))
        await until(lambda: condition.express_sent == 1)
        assert await ledger(cloud, journal) == [(3, 3)]
        assert condition.next_window is not None
        assert condition.next_window.hour == 22
        assert journal.counters.segments_pending == 2


@pytest.mark.usefixtures("noon")
async def test_inside_of_the_schedule_everything_goes(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """The control; the page that went ahead comes again in its segment, and the cloud stores what it lacks."""
    async with delivering(journal, uplink(cloud, gateway_id, schedule=("11:00-13:00",))) as condition:
        await until(lambda: condition.connected)
        await journal.append_results(Results(advisories=(an_advisory(),)))
        await until(lambda: condition.express_sent == 1)
        await compact_once(journal, max_pages=1)
        await fill(journal, 2)
        await until(lambda: journal.counters.segments_pending == 0)
    assert await ledger(cloud, journal) == [(1, 3)]
    assert times_in_lake(cloud, gateway_id) == list(range(2 * ROWS))


@pytest.mark.parametrize("asks", [True, False])
async def test_an_advisory_whose_answer_was_lost_is_not_sent_again(
    cloud: CloudProcess, journal: Journal, gateway_id: str, monkeypatch: pytest.MonkeyPatch, *, asks: bool
) -> None:
    """The ledger says that the cloud has it; the control does not ask, and sends it twice."""
    if not asks:
        ask = CloudClient.ledger

        async def ask_and_forget(client: CloudClient, epoch: str) -> list[tuple[int, int]]:
            await ask(client, epoch)
            return []

        monkeypatch.setattr("gateway.uplink.delivery.CloudClient.ledger", ask_and_forget)
    port = urlsplit(cloud.ingest_url).port
    assert port is not None
    async with (
        ChaosProxy(port) as link,
        delivering(journal, uplink(cloud, gateway_id, link.port, retry_max_s=30.0)) as condition,
    ):
        await until(lambda: condition.connected)
        link.freeze(Way.TO_GATEWAY)
        await journal.append_results(Results(advisories=(an_advisory(),)))
        async with asyncio.timeout(30.0):
            while await ledger(cloud, journal) != [(1, 1)]:  # noqa: ASYNC110 - the cloud tells nobody
                await asyncio.sleep(0.02)
        link.cut()
        await until(lambda: not condition.connected)
        link.heal()
        await until(lambda: condition.connected)
        await journal.append_results(Results(advisories=(an_advisory("pump-02/seal"),)))
        await until(lambda: condition.express_sent == (1 if asks else 2))
        await until(lambda: condition.express_waiting == 0)
    assert await ledger(cloud, journal) == [(1, 2)]


async def test_who_waits_for_advisories_is_called_once_the_cloud_has_them(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """And again when the cloud could not be asked."""
    called: list[str] = []

    async def on_advisories(asking: CloudClient, advisories: tuple[Advisory, ...]) -> None:
        called.extend(advisory.advisory_id for advisory in advisories)
        assert await asking.ledger(journal.epoch) == [(1, 1)]
        if len(called) == 1:
            raise UploadDeferred("not now", 0.0)

    await journal.append_results(Results(advisories=(an_advisory("a"),)))
    async with delivering(journal, uplink(cloud, gateway_id), on_advisories=on_advisories):
        await until(lambda: len(called) == 2)
    assert called == ["a", "a"]


async def test_supply_comes_after_live_and_backlog(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """It is called when nothing else is to be sent, again at once while it sends, and does not hold live data up."""
    await fill(journal, 12)
    pending: list[int] = []

    async def supply(_: CloudClient) -> bool:
        pending.append(journal.counters.segments_pending)
        return len(pending) < 5

    async with delivering(journal, uplink(cloud, gateway_id, retry_max_s=30.0), supply=supply):
        await until(lambda: len(pending) == 5)
        await fill(journal, 1, start=12)
        await until(lambda: journal.counters.segments_pending == 0)
    assert max(pending) <= 4  # which are on their way


async def test_the_cloud_is_left_alone_for_as_long_as_it_asks(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """An answer with Retry-After is the last request for that time, whatever waits."""
    await fill(journal, 3)
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.method)
        return web.json_response({"detail": "too many"}, status=429, headers={"Retry-After": "600"})

    async with (
        answering(cloud.pki, answer) as port,
        delivering(journal, uplink(cloud, gateway_id, port)) as condition,
    ):
        await until(lambda: "429" in condition.trouble)
        await journal.append_results(Results(advisories=(an_advisory(),)))
        await asyncio.sleep(0.5)
    assert asked == ["GET"]


async def test_a_segment_the_cloud_fails_on_keeps_no_other_waiting(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """A 500 for one of them: it stays pending and is tried last; all others arrive."""
    await fill(journal, 10)
    held: list[tuple[int, int]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "PUT":
            first, last = (int(text) for text in request.path.rsplit("/", 1)[-1].split("-"))
            await request.read()
            if first == 3:
                return web.json_response({"detail": "a fault"}, status=500)
            held.append((first, last))
        return web.json_response({"held": held})

    async with (
        answering(cloud.pki, answer) as port,
        delivering(journal, uplink(cloud, gateway_id, port)) as condition,
    ):
        await until(lambda: journal.counters.segments_pending == 1)
        await fill(journal, 1, start=10)
        await until(lambda: (11, 11) in held)
        await until(lambda: "500" in condition.trouble)
    assert not condition.refused


async def test_a_segment_whose_page_went_ahead_is_delivered_too(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """A segment of nothing but a page that went ahead is delivered like any other."""
    async with delivering(journal, uplink(cloud, gateway_id)) as condition:
        await journal.append_results(Results(advisories=(an_advisory(),)))
        await until(lambda: condition.express_sent == 1)
        await compact_once(journal, max_pages=10)
        await until(lambda: journal.counters.segments_pending == 0)
    assert await ledger(cloud, journal) == [(1, 1)]


@pytest.mark.parametrize("method", ["mark_delivered", "withdraw_outside"])
async def test_a_disk_that_fails_for_a_while_ends_nothing(
    cloud: CloudProcess, journal: Journal, gateway_id: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What the cloud has and could not be noted here is sent again and stored once."""
    note = getattr(SegmentStore, method)
    failures: list[list[tuple[int, int]]] = []

    async def fail_twice(store: SegmentStore, ranges: list[tuple[int, int]]) -> int:
        if len(failures) < 2:
            failures.append(ranges)
            raise CommitFailed("the disk is full")
        return int(await note(store, ranges))

    monkeypatch.setattr(SegmentStore, method, fail_twice)
    await fill(journal, 3)
    async with delivering(journal, uplink(cloud, gateway_id)):
        await until(lambda: journal.counters.segments_pending == 0)
    assert len(failures) == 2
    assert times_in_lake(cloud, gateway_id) == list(range(3 * ROWS))


async def test_a_page_that_is_gone_is_not_waited_for(
    cloud: CloudProcess, journal: Journal, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its segment, or what took its place, tells what became of it; others go ahead."""
    page = Express.page

    async def gone(express: Express, seq: int) -> Page:
        if seq == 1:
            raise JournalError("page 1 is gone")
        return await page(express, seq)

    monkeypatch.setattr(Express, "page", gone)
    for name in ("a", "b"):
        await journal.append_results(Results(advisories=(an_advisory(name),)))
    async with delivering(journal, uplink(cloud, gateway_id)) as condition:
        await until(lambda: condition.express_sent == 1)
    assert await ledger(cloud, journal) == [(2, 2)]
