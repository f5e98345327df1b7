"""What the client makes of a server's answers, of proxies, of renewed certificates and of links that hang."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from yarl import URL

from cloud_service.testing import CloudProcess
from gateway.config import UplinkConfig
from gateway.errors import UploadDeferred, UploadRefused
from gateway.journal import Journal
from gateway.uplink import CloudClient, client
from gateway.uplink.client import retry_after_s
from tests.gateway.uplink.answering import answering
from tests.gateway.uplink.rig import uplink
from tests.integration.faults.chaos_proxy import ChaosProxy, Way

EPOCH = "0123456789abcdef"
DIGEST = "0" * 64


@contextlib.asynccontextmanager
async def talking(config: UplinkConfig, gateway_id: str = "gw-1") -> AsyncIterator[CloudClient]:
    """Enter a client of *config*."""
    async with CloudClient(config, gateway_id) as cloud:
        yield cloud


@pytest.mark.parametrize("status", [409, 413, 415, 422])
async def test_what_stays_so_is_refused_with_the_clouds_word(cloud: CloudProcess, gateway_id: str, status: int) -> None:
    """The reason goes with it, for people and for programs."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"reason": "clone", "field": "epoch", "detail": "a newer journal"}, status=status)

    async with answering(cloud.pki, answer) as port, talking(uplink(cloud, gateway_id, port)) as sender:
        with pytest.raises(UploadRefused, match="a newer journal") as refused:
            await sender.put(EPOCH, (1, 1), b"x", DIGEST)
    assert refused.value.reason == "clone"


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 408, 429, 500, 503])
async def test_what_may_change_is_tried_again_when_asked(cloud: CloudProcess, gateway_id: str, status: int) -> None:
    """A redirect is not followed, and Retry-After is told to whoever waits."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"detail": "no"}, status=status, headers={"Retry-After": "7", "Location": "/"})

    async with answering(cloud.pki, answer) as port, talking(uplink(cloud, gateway_id, port)) as sender:
        with pytest.raises(UploadDeferred, match=str(status)) as deferred:
            await sender.put(EPOCH, (1, 1), b"x", DIGEST)
    assert deferred.value.wait_s == 7.0
    assert deferred.value.answered


def test_retry_after_is_seconds_or_a_date() -> None:
    """A date counts from the answer's own, whatever the gateway's clock says; more than an hour is not believed."""
    then = datetime(2001, 1, 1, tzinfo=UTC)
    dated = {"Date": format_datetime(then, usegmt=True)}
    assert retry_after_s({"Retry-After": "12"}) == 12.0
    assert retry_after_s(dated | {"Retry-After": format_datetime(then + timedelta(seconds=90), usegmt=True)}) == 90.0
    assert retry_after_s(dated | {"Retry-After": format_datetime(then - timedelta(seconds=90), usegmt=True)}) == 0.0
    assert retry_after_s({"Retry-After": "9" * 400}) == 3600.0
    for nonsense in ("", "soon", "-5", "1e9", "Wed, 32 Foo"):
        assert retry_after_s({"Retry-After": nonsense}) == 0.0


async def test_an_endless_answer_is_cut_off(
    cloud: CloudProcess, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of it is read than an answer of ours can have."""
    monkeypatch.setattr(client, "_ANSWER_LIMIT", 100_000)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        endless = web.StreamResponse()
        await endless.prepare(request)
        with contextlib.suppress(OSError):
            while True:
                await endless.write(b" " * 10_000)
        return endless

    async with answering(cloud.pki, answer) as port, talking(uplink(cloud, gateway_id, port)) as sender:
        with pytest.raises(UploadDeferred, match="longer than any"):
            await sender.ledger(EPOCH)


async def test_an_upload_that_gets_on_is_not_cut_by_time(
    cloud: CloudProcess, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than any single wait may, and arrives whole, with its length told ahead."""
    monkeypatch.setattr(client, "_IDLE_S", 0.5)
    seen = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((request.content_length, len(await request.read())))
        return web.json_response({"held": [[1, 1]]})

    async with answering(cloud.pki, answer) as port:
        config = uplink(cloud, gateway_id, port, bandwidth_kib_s=64.0)
        async with talking(config) as sender:
            assert await sender.put(EPOCH, (1, 1), bytes(160 * 1024), DIGEST) == [(1, 1)]
    assert seen == [(160 * 1024, 160 * 1024)]


async def test_a_link_that_hangs_is_given_up(
    cloud: CloudProcess, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body goes nowhere, or the answer does not come; which one is told."""
    monkeypatch.setattr(client, "_IDLE_S", 0.3)
    monkeypatch.setattr(client, "_ANSWER_S", 0.3)
    port = urlsplit(cloud.ingest_url).port
    assert port is not None
    async with ChaosProxy(port) as link, talking(uplink(cloud, gateway_id, link.port), gateway_id) as sender:
        await sender.ledger(EPOCH)
        link.freeze(Way.TO_GATEWAY)
        with pytest.raises(UploadDeferred, match="for the answer"):
            await sender.put(EPOCH, (1, 1), b"x", DIGEST)
        link.heal()
        await sender.ledger(EPOCH)
        link.freeze()
        with pytest.raises(UploadDeferred, match="network to take more"):
            await sender.put(EPOCH, (1, 1), bytes(30 * 2**20), DIGEST)


class Proxy:
    """An HTTP proxy that knows CONNECT, asks for a password, and counts."""

    def __init__(self, user: str, password: str) -> None:
        self.port = self.tunnels = self.refused = 0
        self._wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        """Listen while entered."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        method, target, _ = head[0].split()
        assert method == "CONNECT"
        if headers.get("Proxy-Authorization") != self._wanted:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        self.tunnels += 1
        host, _, port = target.rpartition(":")
        cloud_reader, cloud_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_carry(reader, cloud_writer), _carry(cloud_reader, writer))


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(4096):
            sink.write(data)
            await sink.drain()
    sink.close()


async def test_a_proxy_is_gone_through_with_its_password(
    cloud: CloudProcess, journal: Journal, gateway_id: str, tmp_path: Path
) -> None:
    """Mutual TLS to the cloud goes through a tunnel; a wrong password is told, and a renewed one counts at once."""
    password = tmp_path / "proxy.password"
    password.write_text("wrong\n")
    async with Proxy("gateway", "s3cret").open() as proxy:
        config = uplink(
            cloud,
            gateway_id,
            proxy_url=f"http://127.0.0.1:{proxy.port}",
            proxy_user="gateway",
            proxy_password_file=password,
        )
        async with CloudClient(config, gateway_id) as sender:
            with pytest.raises(UploadDeferred, match="407"):
                await sender.ledger(journal.epoch)
            password.write_text("s3cret\n")
            assert await sender.ledger(journal.epoch) == []
            password.unlink()
            with pytest.raises(UploadDeferred, match="proxy_password_file"):
                await sender.ledger(journal.epoch)
        assert (proxy.refused, proxy.tunnels) == (1, 1)


async def test_a_renewed_certificate_counts_without_a_restart(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """Files that do not fit together leave what was; a certificate that is enrolled anew is used for the next."""
    config = uplink(cloud, gateway_id)
    async with CloudClient(config, gateway_id) as sender:
        assert await sender.ledger(journal.epoch) == []
        renewed = cloud.enroll(gateway_id)  # writes other files in the same place, and revokes what was there before
        whole = (renewed / "gateway.key").read_bytes()
        (renewed / "gateway.key").write_bytes(whole[:100])
        with pytest.raises(UploadDeferred, match="403"):
            await sender.ledger(journal.epoch)
        (renewed / "gateway.key").write_bytes(whole)
        assert await sender.ledger(journal.epoch) == []


async def test_other_parts_ask_in_json(cloud: CloudProcess, gateway_id: str) -> None:
    """A body goes as JSON and the answer comes as what was asked for, or is trouble."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({"path": request.path, "got": await request.json()})

    async with answering(cloud.pki, answer) as port, talking(uplink(cloud, gateway_id, port)) as sender:
        got = await sender.ask("POST", "requests", "gw-1", "ab/cd", body={"parts": 3}, answer=dict)
        assert got["got"] == {"parts": 3}
        assert URL(got["path"]).parts[1:5] == ("api", "v1", "requests", "gw-1")
        with pytest.raises(UploadDeferred, match="not the cloud's"):
            await sender.ask("POST", "requests", body={}, answer=int)


async def test_a_cloud_that_is_away_is_told_in_words_for_people(cloud: CloudProcess, gateway_id: str) -> None:
    """Where, why and what happens now, without addresses in memory."""
    async with ChaosProxy(1) as proxy:  # for a port on which nobody listens any more
        port = proxy.port
    async with talking(uplink(cloud, gateway_id, port)) as sender:
        with pytest.raises(UploadDeferred, match=f"{port}.*sent again later") as deferred:
            await sender.ledger(EPOCH)
    assert "object at" not in str(deferred.value)
