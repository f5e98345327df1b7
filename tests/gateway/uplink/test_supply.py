"""Raw data that a policy kept back, supplied to a real cloud from a real journal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.testing import CloudProcess
from gateway.config import GatewayConfig, HistorianConfig, UplinkConfig, Upload
from gateway.historian import EmbeddedHistorian
from gateway.journal import Journal, SegmentStore, compact_once
from gateway.uplink import CloudClient, supply
from gateway.uplink.pacing import Priority
from gateway.uplink.supply import DataRequest, Supply
from models.records import Advisory, Results, to_ns
from tests.gateway.uplink.answering import answering
from tests.gateway.uplink.rig import Link, an_advisory, delivering, until, uplink
from tests.gateway.uplink.supplying import MINUTE_NS, ROWS_A_MINUTE, START, Rig, at, measured, run_machine, same

Rigs = Callable[..., Rig]


@pytest.fixture
def asset_id(gateway_id: str) -> str:
    """An asset that only this test has."""
    return f"pump-of-{gateway_id}"


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and closes what they opened."""
    made: list[Rig] = []

    def make(cloud: CloudProcess, journal: Journal, asset_id: str, **settings: Any) -> Rig:
        made.append(Rig(cloud, journal, asset_id, **settings))
        return made[-1]

    yield make
    for rig in made:
        rig.store.close()


async def test_what_was_kept_back_is_supplied_once(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """Bit by bit, waveforms among it; nothing of it is there before, and the rest is there anyway."""
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 30)
    async with rig.running():
        await rig.delivered()
        assert len(rig.in_lake()) == 0
        assert journal.counters.withheld == 30 * ROWS_A_MINUTE
        row = await rig.ended(rig.ask(5, 20))
    assert (row.state, row.observations, row.repeats) == ("done", 15 * ROWS_A_MINUTE, 0)
    assert same(rig.in_lake(), measured(asset_id, 5, 20))
    assert len(rig.in_lake("flow_m3_h")) == 30 * ROWS_A_MINUTE


@pytest.mark.parametrize("budget", [1_500, 5_000, 9_000, 14_000])
async def test_a_link_that_is_cut_repeats_nothing(
    cloud: CloudProcess, journal: Journal, asset_id: str, budget: int, monkeypatch: pytest.MonkeyPatch, rigs: Rigs
) -> None:
    """Cut in a handshake, a part, an answer, and mended: each row is there once."""
    monkeypatch.setattr(supply, "_MOST_ROWS", 5 * ROWS_A_MINUTE)
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 40)
    async with rig.running():
        await rig.delivered()
    port = urlsplit(cloud.ingest_url).port
    assert port is not None
    request_id = rig.ask(0, 40)
    async with Link(port).open() as link:
        link.budget = budget
        async with rigs(cloud, journal, asset_id, port=link.port).running():
            await until(lambda: not link.up)
            link.mend()
            row = await rig.ended(request_id)
    assert (row.observations, row.repeats) == (40 * ROWS_A_MINUTE, 0)
    assert same(rig.in_lake(), measured(asset_id, 0, 40))


async def test_a_gateway_goes_on_after_a_restart(
    cloud: CloudProcess, tmp_path: Path, gateway_id: str, asset_id: str, monkeypatch: pytest.MonkeyPatch, rigs: Rigs
) -> None:
    """It knows nothing of the request any more, and the cloud tells what it lacks."""
    monkeypatch.setattr(supply, "_MOST_ROWS", 5 * ROWS_A_MINUTE)
    journal = await Journal.open(tmp_path, gateway_id)
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 40)
    async with rig.running():
        await rig.delivered()
        request_id = rig.ask(0, 40)
        await until(lambda: rig.requests()[0].observations > 0)
    await journal.close()
    before = rig.requests()[0].observations
    assert before < 40 * ROWS_A_MINUTE

    journal = await Journal.open(tmp_path, gateway_id)
    async with rigs(cloud, journal, asset_id).running():
        row = await rig.ended(request_id)
    await journal.close()
    assert (row.observations, row.repeats) == (40 * ROWS_A_MINUTE, 0)
    assert same(rig.in_lake(), measured(asset_id, 0, 40))


async def test_a_cloud_that_is_killed_gets_the_rest(
    tmp_path: Path, asset_id: str, monkeypatch: pytest.MonkeyPatch, rigs: Rigs
) -> None:
    """SIGKILL between two parts, a new start on the same port."""
    monkeypatch.setattr(supply, "_MOST_ROWS", 5 * ROWS_A_MINUTE)
    journal = await Journal.open(tmp_path / "state", "gw-1")
    with CloudProcess(tmp_path / "cloud") as cloud:
        rig = rigs(cloud, journal, asset_id)
        await run_machine(journal, asset_id, 0, 40)
        async with rig.running() as condition:
            await rig.delivered()
            request_id = rig.ask(0, 40)
            await until(lambda: rig.requests()[0].observations > 0)
            await asyncio.to_thread(cloud.stop, signal.SIGKILL)
            await until(lambda: not condition.connected)
            await asyncio.to_thread(cloud.start)
            row = await rig.ended(request_id)
        assert (row.state, row.observations) == ("done", 40 * ROWS_A_MINUTE)
        assert same(rig.in_lake(), measured(asset_id, 0, 40))
    await journal.close()


async def test_nothing_that_is_still_on_another_way_is_supplied(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """Rows that are in no segment yet are sent with theirs: the request waits for it, and finds repeats."""
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 10)
    async with rig.running() as condition:
        await rig.delivered()
        await journal.append(measured(asset_id, 10, 15, "flow_m3_h"))
        request_id = rig.order(0, 15, "flow_m3_h")
        await asyncio.sleep(1.0)
        assert condition.connected
        assert rig.state(request_id) == "open"
        await compact_once(journal, max_pages=10)
        row = await rig.ended(request_id)
    assert (row.observations, row.repeats) == (0, 15 * ROWS_A_MINUTE)
    assert same(rig.in_lake("flow_m3_h"), measured(asset_id, 0, 15, "flow_m3_h"))


async def test_without_waiting_they_would_be_there_twice(
    cloud: CloudProcess, journal: Journal, asset_id: str, monkeypatch: pytest.MonkeyPatch, rigs: Rigs
) -> None:
    """The control: every request is ready at once."""

    async def ready(request: DataRequest) -> bool:
        answers._watched.setdefault(request.request_id, supply._Watch(behind={}, since=0.0))
        return True

    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 10)
    answers = Supply(journal, EmbeddedHistorian(journal), rig.config)
    monkeypatch.setattr(answers, "_is_ready", ready)
    async with delivering(journal, rig.uplink, supply=answers.send):
        await rig.delivered()
        await journal.append(measured(asset_id, 10, 15, "flow_m3_h"))
        await rig.ended(rig.order(0, 15, "flow_m3_h"))
        await compact_once(journal, max_pages=10)
        await until(lambda: journal.counters.pending == 0)
    assert len(rig.in_lake("flow_m3_h")) == 20 * ROWS_A_MINUTE


async def test_the_historian_has_to_come_that_far(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """A historian that is behind the journal would answer without the newest rows."""
    rig = rigs(cloud, journal, asset_id)
    reader = await journal.reader("historian")
    await run_machine(journal, asset_id, 0, 10)
    async with rig.running():
        await rig.delivered()
        request_id = rig.ask(0, 10)
        await asyncio.sleep(1.0)
        assert rig.state(request_id) == "open"
        await reader.commit(journal.last_seq)
        assert (await rig.ended(request_id)).observations == 10 * ROWS_A_MINUTE


async def test_what_the_historian_lacks_comes_out_of_the_journal(
    cloud: CloudProcess, journal: Journal, asset_id: str, tmp_path: Path, rigs: Rigs
) -> None:
    """An InfluxDB that was set up later, or keeps less, does not hide what the segments have."""
    rig = rigs(cloud, journal, asset_id)
    empty = await Journal.open(tmp_path / "empty", "gw-empty")
    database = HistorianConfig(
        influxdb_url="http://127.0.0.1:1", influxdb_org="", influxdb_bucket="", influxdb_token_file=tmp_path / "token"
    )
    settings = msgspec.structs.replace(rig.config(), historian=database)
    rig.config = lambda: settings  # type: ignore[method-assign]  # a database that is not there
    await run_machine(journal, asset_id, 0, 10)
    async with rig.running(historian=EmbeddedHistorian(empty)):
        await rig.delivered()
        row = await rig.ended(rig.ask(0, 9))
    await empty.close()
    assert row.state == "done"
    assert same(rig.in_lake(), measured(asset_id, 0, 9))


async def test_late_rows_come_with_the_parts_that_are_not_held_yet(
    cloud: CloudProcess, journal: Journal, asset_id: str, monkeypatch: pytest.MonkeyPatch, rigs: Rigs
) -> None:
    """A part that is held stays as it is; another is read as history is then."""
    monkeypatch.setattr(supply, "_MOST_PARTS", 1)
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 2)
    async with rig.running():
        await rig.delivered()
    request_id = rig.ask(0, 2)
    answers = Supply(journal, EmbeddedHistorian(journal), rig.config, settle_s=0.0)
    async with CloudClient(rig.uplink, journal.gateway_id) as client:
        assert await answers.send(client)
        late = replace(measured(asset_id, 0, 2), source_time=measured(asset_id, 0, 2).source_time + 1)
        await journal.append(late)
        await compact_once(journal, max_pages=10)
        await SegmentStore(journal).mark_delivered([(1, journal.last_seq)])
        while await answers.send(client):
            pass
    row = rig.requests()[0]
    assert (rig.state(request_id), row.observations) == ("done", 3 * ROWS_A_MINUTE)


async def test_a_request_waits_until_its_time_has_passed(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """Every stream has to come to its end, whatever the wall clock says, unless it stands still."""
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 10)
    async with rig.running(settle_s=3600.0):
        await rig.delivered()
        request_id = rig.ask(5, 20)
        await asyncio.sleep(1.0)
        assert rig.state(request_id) == "open"
        await run_machine(journal, asset_id, 10, 21)
        assert (await rig.ended(request_id)).observations == 15 * ROWS_A_MINUTE


async def test_a_machine_that_stands_still_is_not_waited_for(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """When the time has passed and nothing came for a while, what there is is all there is."""
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 10)
    async with rig.running(settle_s=0.5):
        await rig.delivered()
        assert (await rig.ended(rig.ask(5, 20))).observations == 5 * ROWS_A_MINUTE


@pytest.mark.parametrize(
    ("other_asset", "minutes", "says"),
    [("pump-99", (0, 5), "never stored"), ("", (-500, -400), "purged, or never measured")],
    ids=["unknown asset", "purged"],
)
async def test_what_cannot_be_answered_is_refused_with_its_reason(
    cloud: CloudProcess,
    journal: Journal,
    asset_id: str,
    other_asset: str,
    minutes: tuple[int, int],
    says: str,
    rigs: Rigs,
) -> None:
    """The cloud knows it, and whoever asked can read it."""
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 5)
    async with rig.running():
        await rig.delivered()
        row = await rig.ended(rig.order(*minutes, "speed_rpm", other_asset))
    assert row.state == "refused"
    assert says in row.reason


async def test_a_time_without_rows_of_the_channel_is_refused_too(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """Other channels have history there: only reading tells."""
    rig = rigs(cloud, journal, asset_id)
    await run_machine(journal, asset_id, 0, 5)
    await journal.append(measured(asset_id, 20, 25, "head_m"))
    await compact_once(journal, max_pages=10)
    async with rig.running():
        await rig.delivered()
        row = await rig.ended(rig.order(0, 4, "head_m"))
    assert (row.state, row.observations) == ("refused", 0)


def evidence(asset_id: str, start: float, end: float, **changes: Any) -> Advisory:
    return replace(
        an_advisory(f"{asset_id}/bearing"), asset_id=asset_id, evidence_start=at(start), evidence_end=at(end), **changes
    )


async def tell(journal: Journal, advisory: Advisory) -> None:
    await journal.append_results(Results(advisories=(advisory,)))
    await compact_once(journal, max_pages=10)


async def test_with_an_advisory_goes_what_happened_around_it(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """Policy events: from so long before the evidence to so long after it, once that has passed."""
    rig = rigs(cloud, journal, asset_id, policy=Upload.EVENTS, events_before_s=300.0, events_after_s=600.0)
    rig.no_more_context()
    async with rig.running(settle_s=3600.0) as condition:
        await run_machine(journal, asset_id, 0, 20)
        await tell(journal, evidence(asset_id, 10, 18))
        await until(lambda: len(rig.requests()) == 1)
        assert condition.connected
        row = rig.requests()[0]
        assert (row.start, row.end, row.asked_by) == (at(5), at(28), "gateway")
        await run_machine(journal, asset_id, 20, 35)
        row = await rig.ended(row.request_id)
    assert row.state == "done"
    assert same(rig.in_lake(), measured(asset_id, 5, 28))


async def test_a_restart_forgets_no_advisory(
    cloud: CloudProcess, tmp_path: Path, gateway_id: str, asset_id: str, rigs: Rigs
) -> None:
    """Told while the gateway could not reach the cloud, and supplied by the next start."""
    journal = await Journal.open(tmp_path, gateway_id)
    rig = rigs(cloud, journal, asset_id, policy=Upload.EVENTS, events_before_s=60.0, events_after_s=60.0)
    rig.no_more_context()
    async with rig.running():
        await run_machine(journal, asset_id, 0, 10)
        await rig.delivered()
    await tell(journal, evidence(asset_id, 2, 8))
    await journal.close()
    journal = await Journal.open(tmp_path, gateway_id)
    again = rigs(cloud, journal, asset_id, policy=Upload.EVENTS, events_before_s=60.0, events_after_s=60.0)
    async with again.running():
        await until(lambda: len(rig.requests()) == 1)
        row = await rig.ended(rig.requests()[0].request_id)
    await journal.close()
    assert same(rig.in_lake(), measured(asset_id, 1, 9))
    assert row.observations == 8 * ROWS_A_MINUTE


async def test_an_advisory_that_grows_asks_for_what_it_grew_by(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """Each revision once; one that has no more evidence asks for nothing."""
    rig = rigs(cloud, journal, asset_id, policy=Upload.EVENTS, events_before_s=0.0, events_after_s=0.0)
    rig.no_more_context()
    await run_machine(journal, asset_id, 0, 40)
    async with rig.running():
        await rig.delivered()
        for revision, end in enumerate((10, 10, 20), start=1):
            await tell(journal, evidence(asset_id, 5, end, revision=revision))
        await until(lambda: len(rig.requests()) == 2)
        for row in rig.requests():
            assert (await rig.ended(row.request_id)).repeats == 0
    assert [(row.start, row.end) for row in rig.requests()] == [(at(5), at(10)), (at(10), at(20))]
    assert same(rig.in_lake(), measured(asset_id, 5, 20))


async def test_what_the_cloud_asks_for_by_itself_is_not_asked_for_again(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs
) -> None:
    """The cloud wants an advisory's context, the gateway would send more: both together bring each row once."""
    rig = rigs(cloud, journal, asset_id, policy=Upload.EVENTS, events_before_s=1200.0, events_after_s=1200.0)
    await run_machine(journal, asset_id, 0, 70)
    async with rig.running():
        await rig.delivered()
        await tell(journal, evidence(asset_id, 30, 40))
        await until(lambda: len(rig.requests()) == 3)
        ended = [await rig.ended(row.request_id) for row in rig.requests()]
    assert [(row.asked_by, row.start, row.end, row.repeats) for row in ended] == [
        ("gateway", at(10), at(20), 0),
        ("advisory", at(20), at(50), 0),
        ("gateway", at(50), at(60), 0),
    ]
    assert same(rig.in_lake(), measured(asset_id, 10, 60))


def told_request(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "0123456789abcdef" * 2,
        "asset_id": "pump-01",
        "channels": ["speed_rpm"],
        "start_ns": to_ns(at(0)),
        "end_ns": to_ns(at(5)),
        "part_ns": MINUTE_NS,
        "held": [],
        "received": 0,
        **changes,
    }


@pytest.mark.parametrize(
    "answer",
    [
        {"request_id": "../../../etc"},
        {"request_id": "0" * 65},
        {"asset_id": ""},
        {"asset_id": "x" * 201},
        {"channels": []},
        {"channels": ["c"] * 1001},
        {"channels": ["x" * 201]},
        {"start_ns": -1},
        {"end_ns": to_ns(at(0))},
        {"end_ns": to_ns(at(32 * 1440))},
        {"end_ns": 2**63},
        {"part_ns": 1},
        {"part_ns": 2**60},
        {"held": [[0, 1]]},
        {"held": [[1, 2**41]]},
        {"received": -1},
    ],
    ids=lambda answer: f"{next(iter(answer))}-{str(next(iter(answer.values())))[:12]}",
)
def test_a_request_that_cannot_be_one_is_none(answer: dict[str, Any]) -> None:
    """Names, times and sizes are checked before anything is done by them."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(told_request(**answer)), type=DataRequest)
    assert msgspec.json.decode(msgspec.json.encode(told_request()), type=DataRequest).parts == 5


async def asked_by_a_stranger(
    cloud: CloudProcess, journal: Journal, handler: Callable[[web.BaseRequest], Any]
) -> list[bool]:
    """Return what three sends come to with a cloud that answers with *handler*."""
    async with answering(cloud.pki, handler) as port:
        config: UplinkConfig = uplink(cloud, journal.gateway_id, port)
        settings = GatewayConfig(gateway_id=journal.gateway_id, state_dir=journal.state_dir, uplink=config)
        answers = Supply(journal, EmbeddedHistorian(journal), lambda: settings, settle_s=0.0)
        async with CloudClient(config, journal.gateway_id) as client:
            return [await answers.send(client) for _ in range(3)]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"no JSON"),
        (200, b'{"requests": 7}'),
        (200, b'{"requests": [1, null, {}, "x"]}'),
        (200, b'{"requests": [' + b"[" * 5000),
        (404, b"nothing of that kind here"),
        (500, b"{}"),
        (429, b"{}"),
    ],
    ids=["empty", "text", "number", "no requests", "deep", "earlier cloud", "broken", "busy"],
)
async def test_nonsense_is_waited_out_and_disturbs_nobody(
    cloud: CloudProcess, journal: Journal, status: int, body: bytes
) -> None:
    """Delivery goes on: supply tells that it sent nothing, whatever the cloud says."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=body)

    assert await asked_by_a_stranger(cloud, journal, answer) == [False, False, False]


async def test_one_bad_request_does_not_stop_the_others(cloud: CloudProcess, journal: Journal) -> None:
    """What cannot be one is passed over; the next is answered."""
    ended: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return web.json_response({"requests": [told_request(part_ns=0), told_request()]})
        ended.append(request.path)
        return web.json_response({"state": "refused", "reason": ""})

    assert await asked_by_a_stranger(cloud, journal, answer) == [True, True, True]
    assert {path.rsplit("/", 1)[1] for path in ended} == {"refused"}


parts = st.integers(1, 12)
ranges = st.lists(st.tuples(parts, parts).map(sorted).map(tuple), max_size=5)


@given(held=ranges, seconds=st.integers(1, 700))
def test_the_first_missing_run_is_what_no_range_covers(held: Sequence[Any], seconds: int) -> None:
    """And its time is that of its parts, the last one cut where the request ends."""
    end_ns = to_ns(START) + seconds * 10**9
    request = DataRequest(**{**told_request(end_ns=end_ns), "channels": ("speed_rpm",), "held": list(held)})
    left = [part for part in range(1, request.parts + 1) if not any(a <= part <= b for a, b in held)]
    missing = request.missing()
    assert (missing is None) == (not left)
    if missing is not None:
        run = range(missing[0], missing[1] + 1)
        assert list(run) == left[: len(run)]
        assert missing[1] + 1 not in left
        start, end = request.span(missing)
        assert (start - request.start_ns) == (missing[0] - 1) * MINUTE_NS
        assert end == min(request.start_ns + missing[1] * MINUTE_NS, end_ns)


async def test_what_is_supplied_waits_behind_all_else_and_goes_in_small_pieces(
    cloud: CloudProcess, journal: Journal, asset_id: str, rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a bandwidth cap an upload takes seconds, and every piece of it lets live data pass."""
    sent: list[tuple[str, int, Priority]] = []
    put = CloudClient.put

    async def noted(self: CloudClient, epoch: str, *more: Any) -> Any:
        pages, data, _, priority = more
        sent.append((epoch, pages[1] - pages[0] + 1, priority))
        assert len(data) < 10 * 64 * 1024
        return await put(self, epoch, *more)

    monkeypatch.setattr(CloudClient, "put", noted)
    monkeypatch.setattr(supply, "_BYTES_PER_ROW", 10_000)
    rig = rigs(cloud, journal, asset_id, bandwidth_kib_s=64.0)
    await run_machine(journal, asset_id, 0, 40)
    async with rig.running():
        await rig.delivered()
        request_id = rig.ask(0, 40)
        row = await rig.ended(request_id)
    supplied = [(parts, priority) for epoch, parts, priority in sent if epoch == request_id]
    assert row.observations == 40 * ROWS_A_MINUTE
    assert {priority for _, priority in supplied} == {Priority.SUPPLY}
    assert len(supplied) > 1
    assert sum(parts for parts, _ in supplied) == 40
