"""How the InfluxDB historian meets a server that does not take what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gateway.config import HistorianConfig
from gateway.errors import HistorianError
from gateway.historian import InfluxHistorian
from models.records import Page, Results, Stream
from tests.strategies import make_observations, make_results

Answer = Callable[[bytes], web.Response]


@dataclass
class WriteEndpoint:
    """An HTTP server that answers writes as a test wants, and keeps what it took."""

    answer: Answer = field(default=lambda body: web.Response(status=204))  # noqa: ARG005 - takes all
    requests: int = 0
    taken: list[str] = field(default_factory=list)

    async def write(self, request: web.Request) -> web.Response:
        """Answer one write."""
        self.requests += 1
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
    pauses: list[float] = []

    async def note(pause_s: float) -> None:
        pauses.append(pause_s)

    endpoint[0].answer = in_turn(429, headers={"Retry-After": "7"})
    monkeypatch.setattr("gateway.historian.writing.asyncio.sleep", note)
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
    endpoint[0].answer = lambda body: web.Response(status=status if b"value=42.0" in body else 204)
    await historian.write(page(streams=1, rows=100))
    assert (len(set(endpoint[0].taken)), historian.condition.refused.total()) == (99, 1)


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


async def test_a_missing_token_is_named(tmp_path: Path) -> None:
    config = config_for("http://127.0.0.1:1", tmp_path)
    config.influxdb_token_file.unlink()
    with pytest.raises(HistorianError, match="influxdb_token_file"):
        InfluxHistorian(config)
