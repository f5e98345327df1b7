"""How the InfluxDB historian meets a server that does not take what it gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from gateway.config import HistorianConfig
from gateway.errors import HistorianError
from gateway.historian import InfluxHistorian
from models.records import Page, Results, Stream
from tests.strategies import make_observations, make_results

Answer = Callable[[bytes], web.Response]
TAKEN = partial(web.Response, status=204)


@dataclass
class WriteEndpoint:
    """An HTTP server that answers writes as a test wants, and keeps what it took."""

    answer: Answer = field(default=lambda body: web.Response(status=204))  # noqa: ARG005 - takes all
    requests: int = 0
    taken: list[str] = field(default_factory=list)
    noted: Callable[[str | None], None] = field(default=lambda encoding: None)  # noqa: ARG005 - of no interest

    async def write(self, request: web.Request) -> web.Response:
        """Answer one write."""
        self.requests += 1
        self.noted(request.headers.get("Content-Encoding"))
        body = await request.read()
        answer = self.answer(body)
        if answer.status == 204:
            self.taken += body.decode().split("\n")
        return answer


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[WriteEndpoint, str]]:
    """A listening endpoint and its address."""
    endpoint = WriteEndpoint()
    application = web.Application()
    application.router.add_post("/api/v2/write", endpoint.write)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield endpoint, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def historian(endpoint: tuple[WriteEndpoint, str], tmp_path: Path) -> AsyncIterator[InfluxHistorian]:
    """A historian that writes there, with short pauses."""
    historian = InfluxHistorian(config_for(endpoint[1], tmp_path), retry_min_s=0.001, retry_max_s=0.01)
    yield historian
    await historian.close()


def config_for(url: str, tmp_path: Path) -> HistorianConfig:
    """Return a configuration with a token."""
    (tmp_path / "token").write_text("secret\n")
    return HistorianConfig(
        influxdb_url=url, influxdb_org="o", influxdb_bucket="b", influxdb_token_file=tmp_path / "token"
    )


def page(content: Results | None = None, **rows: int) -> Page:
    """Return a page of results or of observations."""
    held = make_observations(**rows) if content is None else content  # type: ignore[arg-type]  # streams and rows
    return Page(gateway_id="gw-1", epoch="e0", seq=1, committed_time=0, content=held)


def in_turn(*statuses: int, headers: dict[str, str] | None = None) -> Answer:
    """Answer with each status in turn, then with 204."""
    left = list(statuses)
    return lambda _: web.Response(status=left.pop(0), headers=headers) if left else web.Response(status=204)


def pauses_at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the writer, and nobody else in this process, go on at once; return the pauses it would have made, seconds."""
    pauses: list[float] = []

    async def note(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr("gateway.historian.writing.asyncio", SimpleNamespace(sleep=note, to_thread=asyncio.to_thread))
    return pauses


@pytest.mark.parametrize("status", [401, 404, 408, 429, 500, 503])
async def test_a_server_that_cannot_now_is_asked_again(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian, status: int
) -> None:
    """Nothing is left out for a reason that lies with the server or its settings."""
    endpoint[0].answer = in_turn(status, status, status)
    await historian.write(page(streams=1, rows=2))
    assert (endpoint[0].requests, len(endpoint[0].taken), historian.condition.refused.total()) == (4, 2, 0)


async def test_the_pause_a_server_asks_for_is_kept(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint[0].answer = in_turn(429, headers={"Retry-After": "7"})
    pauses = pauses_at_once(monkeypatch)
    await historian.write(page(streams=1, rows=1))
    assert pauses == [7.0]


async def test_a_server_that_is_not_there_is_waited_for(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian, tmp_path: Path, unused_port: int
) -> None:
    """The write ends when the server has come, and not before."""
    waiting = InfluxHistorian(
        config_for(f"http://127.0.0.1:{unused_port}", tmp_path), retry_min_s=0.001, retry_max_s=0.01
    )
    writing = asyncio.create_task(waiting.write(page(streams=1, rows=2)))
    await historian.write(page(streams=1, rows=2))
    assert not writing.done()
    application = web.Application()
    application.router.add_post("/api/v2/write", endpoint[0].write)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_port).start()
    async with asyncio.timeout(30):
        await writing
    assert len(endpoint[0].taken) == 4
    await waiting.close()
    await runner.cleanup()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_only_the_point_that_is_refused_is_left_out(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian, status: int
) -> None:
    """One point at fault among a hundred: ninety-nine are stored, it is counted, the page ends."""
    words = {"code": "invalid", "message": "unable to parse"}
    endpoint[0].answer = lambda body: web.json_response(words, status=status) if b"value=42.0" in body else TAKEN()
    await historian.write(page(streams=1, rows=100))
    assert (len(set(endpoint[0].taken)), historian.condition.refused.total()) == (99, 1)


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refusal_that_is_not_influxdb_s_refuses_nothing(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian, status: int
) -> None:
    """A proxy that answers 400 to everything does not make the historian give points up."""
    endpoint[0].answer = in_turn(status, status)
    await historian.write(page(streams=1, rows=2))
    assert (endpoint[0].requests, historian.condition.written, historian.condition.refused.total()) == (3, 2, 0)


async def test_a_large_page_goes_in_batches(endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian) -> None:
    await historian.write(page(streams=1000, rows=11))
    assert (endpoint[0].requests, len(set(endpoint[0].taken))) == (2, 11_000)


async def test_a_page_without_points_asks_nobody(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian
) -> None:
    await historian.write(page(Results(assets=make_results().assets)))
    assert endpoint[0].requests == 0


async def test_a_reading_that_fails_says_so(historian: InfluxHistorian) -> None:
    """Reading is not tried for ever: whoever asks decides."""
    with pytest.raises(HistorianError, match="cannot be read"):
        await historian.read([Stream("a", "b")], 0, 1)


async def test_a_token_that_comes_later_is_taken(endpoint: tuple[WriteEndpoint, str], tmp_path: Path) -> None:
    """Without one the gateway goes on, and tells which file is missing."""
    config = config_for(endpoint[1], tmp_path)
    config.influxdb_token_file.unlink()
    waiting, told = InfluxHistorian(config, retry_min_s=0.001, retry_max_s=0.01), list[str]()

    def answer(_body: bytes) -> web.Response:
        told.append(waiting.condition.trouble)
        if len(told) == 3:
            config.influxdb_token_file.write_text("secret\n")
        return web.Response(status=401 if len(told) <= 3 else 204)

    endpoint[0].answer = answer
    await waiting.write(page(streams=1, rows=2))
    assert ["influxdb_token_file" in trouble for trouble in told] == [True, True, True, False]
    assert (len(endpoint[0].taken), waiting.condition.trouble) == (2, "")
    await waiting.close()


async def test_the_date_until_which_a_server_wants_peace_is_kept(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retry-After may be a date; more than five minutes are not waited for."""
    dates = [format_datetime(datetime.now(UTC) + timedelta(seconds=s), usegmt=True) for s in (100, 9999)]
    answers = [in_turn(503, headers={"Retry-After": date}) for date in dates]
    pauses = pauses_at_once(monkeypatch)
    for answer in answers:
        endpoint[0].answer = answer
        await historian.write(page(streams=1, rows=1))
    assert 90 < pauses[0] <= 100
    assert pauses[1] == 300.0


async def test_pauses_grow_and_are_never_alike(
    endpoint: tuple[WriteEndpoint, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full jitter: anything from none to the doubled pause, so that gateways do not come back all at once."""
    limits: list[float] = []

    def note(least_s: float, most_s: float) -> float:
        limits.append(most_s)
        return least_s

    endpoint[0].answer = in_turn(*[503] * 6)
    pauses_at_once(monkeypatch)
    monkeypatch.setattr("gateway.historian.writing.random.uniform", note)
    historian = InfluxHistorian(config_for(endpoint[1], tmp_path), retry_min_s=0.5, retry_max_s=6.0)
    await historian.write(page(streams=1, rows=1))
    await historian.close()
    assert limits == [0.5, 1.0, 2.0, 4.0, 6.0, 6.0]


async def test_a_server_that_does_not_answer_is_told_before_it_is_given_up(
    historian: InfluxHistorian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within seconds, not after the whole timeout; and it is no trouble any more once it answered."""
    await historian.write(page(streams=1, rows=1))
    assert (historian.condition.connected, historian.condition.warnings) == (True, ())
    historian.condition.asked()
    now_s = time.monotonic()
    monkeypatch.setattr("gateway.historian.condition.time.monotonic", lambda: now_s + 7.0)
    assert historian.condition.trouble == "no answer for 7 s"
    historian.condition.answered()
    assert historian.condition.trouble == ""


async def test_what_the_server_says_of_the_retention_is_counted_at_once(
    endpoint: tuple[WriteEndpoint, str], historian: InfluxHistorian
) -> None:
    """The answer tells how many were dropped: no point is sent twice to find out."""
    words = "partial write: dropped 3 points outside retention policy of duration 1h0m0s - x dropped=3 for database: d"
    endpoint[0].answer = lambda _: web.json_response({"message": words}, status=422)
    await historian.write(page(streams=1, rows=100))
    condition = historian.condition
    assert (endpoint[0].requests, condition.written, condition.refused) == (1, 97, {"beyond retention": 3})
    assert condition.warnings == ("historian refused 3 points (beyond retention); they are in the journal alone",)


async def test_a_write_beside_the_loopback_is_compressed(endpoint: tuple[WriteEndpoint, str], tmp_path: Path) -> None:
    """To another host bytes cost more than the CPU; to this one they cost nothing."""
    encodings: list[str | None] = []
    endpoint[0].noted = encodings.append
    for url in (endpoint[1], endpoint[1].replace("127.0.0.1", "0.0.0.0")):  # noqa: S104 - a name of this host
        historian = InfluxHistorian(config_for(url, tmp_path))
        await historian.write(page(streams=1, rows=2))
        await historian.close()
    assert encodings == [None, "gzip"]
    assert len(endpoint[0].taken) == 4
    assert len(set(endpoint[0].taken)) == 2
