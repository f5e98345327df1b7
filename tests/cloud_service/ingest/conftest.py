"""A cloud without listeners, for what happens behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloud_service.config import IngestConfig
from cloud_service.fleet import gateways
from cloud_service.ingest.ledger import Range
from cloud_service.ingest.overview import JournalOverview, overview
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity
from cloud_service.store import Store
from models.records import Page
from models.segment import decode_segment, segment_digest
from tests.cloud_service.conftest import EPOCH, make_page

OWNER = "gw-1"


@dataclass
class Cloud:
    """The intake of a cloud in *folder*."""

    folder: Path
    store: Store
    intake: Intake

    def put(self, data: bytes) -> list[Range]:
        """Store the segment *data* and return what is held."""
        return self.intake.store_segment(decode_segment(data), segment_digest(data))

    def journal(self, epoch: str = EPOCH) -> JournalOverview:
        """Return what the ledger says of *epoch*."""
        with self.store.reading() as session:
            return next(journal for journal in overview(session) if journal.epoch == epoch)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud that knows one gateway."""
    store = Store(tmp_path / "cloud.sqlite")
    with store.writing() as session:
        gateways.enroll(session, Identity(gateway_id=OWNER, certificate_sha256="00"))
    yield Cloud(folder=tmp_path, store=store, intake=Intake(store, tmp_path / "lake", IngestConfig()))
    store.close()


def pages(first: int, last: int, epoch: str = EPOCH, *, rows: int = 5) -> list[Page]:
    """Return the pages *first* to *last* of the gateway's journal *epoch*."""
    return [replace(make_page(OWNER, seq, rows=rows), epoch=epoch) for seq in range(first, last + 1)]
