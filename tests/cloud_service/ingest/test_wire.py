"""Hostile bytes over real TLS: what is no HTTP, what is no segment, and who takes for ever."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from cloud_service import server
from cloud_service.testing import CloudProcess
from models.segment import segment_digest
from tests.cloud_service.conftest import EPOCH, Gateway, pages_of
from tests.cloud_service.ingest.hostile import GATEWAY, Upload, held_segments, storm


@pytest.fixture(scope="module")
def storm_gateway(cloud: CloudProcess) -> Gateway:
    """The gateway of the storm, with its two segments held."""
    gateway = Gateway(cloud, GATEWAY)
    for pages, data in held_segments():
        assert gateway.put(data, *pages)[0] == 200
    return gateway


@contextmanager
def connected(gateway: Gateway) -> Iterator[ssl.SSLSocket]:
    host, _, port = urlsplit(gateway.cloud.ingest_url).netloc.partition(":")
    plain = socket.create_connection((host, int(port)), timeout=30)
    with plain, gateway.context.wrap_socket(plain, server_hostname=host) as tls:
        yield tls


def exchange(gateway: Gateway, data: bytes) -> tuple[int, Any]:
    """Send *data* on a connection of its own and return status and answer; 0 where the connection just ended."""
    answer = b""
    with connected(gateway) as tls:
        try:
            tls.sendall(data)
            while chunk := tls.recv(65536):
                answer += chunk
        except (ConnectionError, ssl.SSLError):
            pass  # it was ended while there was something left to say
    if not answer:
        return 0, None
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else None


def metrics(gateway: Gateway) -> str:
    return httpx.get(f"{gateway.cloud.web_url}/metrics").text


def as_bytes(upload: Upload) -> bytes:
    head = f"{upload.method} {quote(upload.path)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in upload.headers.items())
    return head.encode("latin-1", "replace") + b"\r\n" + b"".join(upload.chunks)


def comes_whole(upload: Upload) -> bool:
    """Return whether the server gets what it waits for; else the connection would have to end first."""
    said = upload.headers.get("Content-Length", "0")
    return not said.isascii() or not said.isdecimal() or int(said) <= sum(map(len, upload.chunks))


def test_hundreds_of_hostile_uploads_over_tls(storm_gateway: Gateway) -> None:
    """The same promises on the wire: 4xx with a reason and a field, or nothing new; and the process stays small."""
    seed = random.SystemRandom().randrange(2**32)
    before = storm_gateway.ledger()
    for upload in storm(seed, 200):
        if not comes_whole(upload):
            continue
        status, answer = exchange(storm_gateway, as_bytes(upload))
        told = f"seed {seed}, {upload.how}: {status} {answer}"
        assert status == 200 or 400 <= status < 500, told
        assert status == 200 or all(answer.get(key) for key in ("reason", "field", "detail")), told
    assert storm_gateway.ledger() == before
    process = storm_gateway.cloud._process
    assert process is not None
    peak = Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) < 700 * 1024
    assert "Traceback" not in (storm_gateway.cloud.folder / "serve.log").read_text()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"PUT / FTP/1\r\n\r\n",
        b"PUT /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000,
        b"PUT / HTTP/1.1\r\n" + b"a: b\r\n" * 30_000,
    ],
    ids=["noise", "version", "target", "two lengths", "long header", "many headers"],
)
def test_what_is_no_http_is_answered_alike(gateway: Gateway, data: bytes) -> None:
    """400 with reason, field and detail; a sender that goes on while it is answered sees the connection end."""
    status, answer = exchange(gateway, data)
    assert status in {0, 400}
    assert status == 0 or (answer["reason"], answer["field"]) == ("malformed", "request")


def test_a_body_that_is_cut_off_leaves_nothing(gateway: Gateway) -> None:
    """The connection ends in the middle; the upload is counted as rejected, and the next one is stored."""
    head = f"PUT /api/v1/segments/{gateway.gateway_id}/{EPOCH}/1-2 HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n"
    with connected(gateway) as tls:
        tls.sendall(head.encode() + f"X-Segment-SHA256: {segment_digest(b'')}\r\n\r\n".encode() + b"half")
    for _ in range(500):
        if f'segments_rejected_total{{gateway_id="{gateway.gateway_id}",reason="body"}} 1.0' in metrics(gateway):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the upload that was cut off was never counted")
    assert gateway.ledger() == (200, {"held": []})
    assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 2)) == (200, {"held": [[1, 2]]})
    assert "Traceback" not in (gateway.cloud.folder / "serve.log").read_text()


def test_slow_senders_keep_nobody_waiting(gateway: Gateway, enrolled: Any) -> None:
    """Many bodies that stand still, and one that comes: it is answered."""
    slow = enrolled("gw-slow")
    head = f"PUT /api/v1/segments/gw-slow/{EPOCH}/1-2 HTTP/1.1\r\nHost: a\r\nContent-Length: {60 * 2**20}\r\n"
    head += f"X-Segment-SHA256: {segment_digest(b'')}\r\n\r\n"
    open_connections = []
    for _ in range(8):
        context = connected(slow)
        tls = context.__enter__()
        tls.sendall(head.encode() + bytes(100_000))
        open_connections.append(context)
    assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 2)) == (200, {"held": [[1, 2]]})
    for context in open_connections:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("start", [b"", b"PUT /api HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a head"])
async def test_a_request_that_never_gets_whole_is_given_up(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing, or begins and does not go on, ends by itself; a whole request is answered."""
    monkeypatch.setattr(server, "_HEAD_S", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    running = server._Server(server._uvicorn_config(FastAPI(), http=server.TlsProtocol))
    serving = asyncio.create_task(running.serve(sockets=[listening]))
    await running.listening.wait()
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" if start else b"")
        if start:
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404")
        writer.write(start)
        assert await reader.read() == b""
    writer.close()
    running.should_exit = True
    await serving
