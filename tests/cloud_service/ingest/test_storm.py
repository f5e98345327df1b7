"""Thousands of uploads that nobody of ours sends: refused by name, and nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI
from sqlalchemy import func, select

from cloud_service.config import IngestConfig
from cloud_service.fleet import gateways
from cloud_service.ingest.admission import UPLOADS_PER_GATEWAY
from cloud_service.ingest.routes import ingest_app
from cloud_service.pipeline import Intake
from cloud_service.pki import Pki
from cloud_service.store import (
    AdvisoryRevisionRow,
    AssetRow,
    HeldRow,
    IntakeRow,
    JournalRow,
    LedgerRow,
    RejectionRow,
    SegmentRow,
    Store,
    UploadRow,
)
from models.records import Observations, Stream
from models.segment import decode_segment, encode_segment
from tests.cloud_service.conftest import make_page
from tests.cloud_service.ingest.hostile import GATEWAY, Upload, held_segments, storm, upload_of

AT_ONCE = 8
MEMORY_MIB = 100
_TABLES = (LedgerRow, HeldRow, SegmentRow, UploadRow, JournalRow, AssetRow, AdvisoryRevisionRow)


@dataclass
class Site:
    """A cloud without listeners, and the identity of a gateway that speaks to it."""

    folder: Path
    store: Store
    intake: Intake
    app: FastAPI
    certificate: bytes
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, upload: Upload) -> tuple[int, Any]:
        """Return status and answer, or 0 and None where the sender was gone by then."""
        waiting = list(upload.chunks)
        answer: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or upload.cut}
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            answer.append(message)

        headers = [(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in upload.headers.items()]
        scope = {
            "type": "http", "method": upload.method, "path": upload.path, "raw_path": upload.path.encode(),
            "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "https", "root_path": "",
            "asgi": {"version": "3.0"}, "extensions": {"tls": {"client_cert_der": self.certificate}},
        }  # fmt: skip
        await self.app(scope, receive, send)  # type: ignore[arg-type]  # dicts, as any server has them
        status = int(answer[0]["status"]) if answer else 0
        self.headers = {k.decode(): v.decode() for k, v in answer[0]["headers"]} if answer else {}
        body = b"".join(message.get("body", b"") for message in answer)
        return status, json.loads(body) if body else None

    def rows(self) -> dict[str, int]:
        """Return how many rows the tables of what was stored have."""
        with self.store.reading() as session:
            counts = {
                table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0 for table in _TABLES
            }
        return counts | {"files": sum(1 for path in (self.folder / "lake").rglob("*.parquet"))}

    def law(self) -> tuple[int, int, int]:
        """Return how many uploads were received, are stored, and were rejected."""
        with self.store.reading() as session:
            received = session.scalar(select(func.sum(IntakeRow.received))) or 0
            stored = session.scalar(select(func.count(LedgerRow.upload_id.distinct()))) or 0
            rejected = session.scalar(select(func.sum(RejectionRow.count))) or 0
        return received, stored, rejected


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A cloud that holds some segments of one gateway."""
    pki = Pki(tmp_path / "pki")
    pki.create(["localhost"])
    identity = pki.issue_gateway_certificate(GATEWAY, tmp_path / "tls")
    pem = (tmp_path / "tls" / "gateway.pem").read_bytes()
    store = Store(tmp_path / "cloud.sqlite")
    with store.writing() as session:
        gateways.enroll(session, identity)
    intake = Intake(store, tmp_path / "lake", IngestConfig())
    certificate = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    made = Site(folder=tmp_path, store=store, intake=intake, app=ingest_app(intake), certificate=certificate)
    for pages, data in held_segments():
        assert (await made.send(upload_of(data, pages, "held")))[0] == 200
    yield made
    store.close()


async def judged(site: Site, uploads: Iterable[Upload]) -> tuple[list[str], Counter[str]]:
    """Send *uploads*, many at once, and return what broke the promise, and how they were answered."""
    broken: list[str] = []
    answers: Counter[str] = Counter()
    waiting = iter(uploads)

    async def sender() -> None:
        for upload in waiting:
            try:
                status, answer = await site.send(upload)
            except Exception as error:  # noqa: BLE001 - a server would answer 500
                broken.append(f"{upload.how}: {error!r}")
                continue
            answers[f"{upload.how} {status} {answer.get('reason', '') if answer else ''}"] += 1
            refused = 400 <= status < 500 and all(answer.get(key) for key in ("reason", "field", "detail"))
            gone = status == 0 and upload.cut
            if not refused and not gone and not (status == 200 and _is_replay(upload)):
                broken.append(f"{upload.how}: answered {status} {answer}")

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    return broken, answers


def _is_replay(upload: Upload) -> bool:
    """Return whether the upload says what is held: a bit that means nothing may differ."""
    segment = decode_segment(b"".join(upload.chunks))
    return any((segment.first_seq, segment.last_seq) == pages for pages, _ in held_segments())


def peak_mib() -> float:
    """Return the most memory that this process had since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> float:
    """Start to watch for a new peak and return what the process has now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2_500, pytest.param(10_000, marks=pytest.mark.integration)])
async def test_thousands_of_hostile_uploads_leave_nothing(site: Site, count: int) -> None:
    """Each is refused by a 4xx that names a field, or changes nothing; the counts agree; memory stays bounded."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure replays from it
    before, at_first = site.rows(), forget_peak()
    broken, answers = await judged(site, storm(seed, count))

    assert broken == [], f"seed {seed}"
    assert site.rows() == before, f"seed {seed}"
    received, stored, rejected = site.law()
    assert received == stored + rejected
    assert stored == len(held_segments())
    assert rejected > 0.8 * count
    assert len({answer.split()[0] for answer in answers}) == 19
    assert peak_mib() - at_first < MEMORY_MIB


async def test_a_segment_that_unpacks_to_much_would_show(site: Site) -> None:
    """The control of the memory's bound: what pays for its growth and is stored goes beyond it."""
    rows = 2_000_000
    flat = Observations.of_values(
        (Stream("pump-01", "speed_rpm"),),
        np.zeros(rows, np.uint32),
        np.arange(rows, dtype=np.int64),
        np.zeros(rows),
        np.zeros(rows, np.uint32),
    )
    data = encode_segment([make_page(GATEWAY, 10, flat)])
    at_first = forget_peak()
    assert (await site.send(upload_of(data, (10, 10), "large")))[0] == 200
    assert peak_mib() - at_first > MEMORY_MIB


async def test_who_sends_too_much_at_once_is_told_when_to_come_again(site: Site) -> None:
    """429, with a time to wait; counted as rejected, and taken when there is room."""
    pages, data = held_segments()[0]
    with contextlib.ExitStack() as others:
        for _ in range(UPLOADS_PER_GATEWAY):
            others.enter_context(site.intake._incoming.admit(GATEWAY, 1))
        status, answer = await site.send(upload_of(data, pages, "held"))
    assert (status, answer["reason"], site.headers["retry-after"]) == (429, "busy", "5")
    assert site.law() == (5, 4, 1)
    assert (await site.send(upload_of(data, pages, "held")))[0] == 200


async def test_a_full_disk_of_the_cloud_is_nobodys_fault(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with a time to wait, nothing half stored; when there is room again the same segment is taken."""
    data = encode_segment([make_page(GATEWAY, 10)])
    before = site.rows(), site.law()
    with monkeypatch.context() as full:
        full.setattr("os.fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        status, answer = await site.send(upload_of(data, (10, 10), "full"))
    assert (status, answer["reason"], answer["field"]) == (503, "unavailable", "storage")
    assert site.headers["retry-after"] == "30"
    assert (site.rows(), site.law()) == before
    assert (await site.send(upload_of(data, (10, 10), "again")))[0] == 200


async def test_a_judge_of_a_cloud_that_checks_nothing_would_tell(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the checks of what decodes, the same kinds of uploads break the promise."""
    monkeypatch.setattr("cloud_service.ingest.upload.check_content", lambda _: None)
    monkeypatch.setattr("cloud_service.ingest.ledger.check_same_pages", lambda *_: None)
    before = site.rows()
    broken, _ = await judged(site, storm(7, 400))

    assert broken
    assert site.rows() != before
