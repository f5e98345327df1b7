"""Clones and restored backups: noticed, told, kept aside within bounds, and decided by people."""

from __future__ import annotations

import pytest

from cloud_service.config import IngestConfig
from cloud_service.errors import CloneRefused, LedgerError, RangeConflict
from cloud_service.ingest import quarantine
from cloud_service.ingest.quarantine import Quarantine
from cloud_service.ingest.tally import Rejection, count_received, count_rejected
from cloud_service.ingest.upload import Claim
from cloud_service.lake.repair import accept, discard
from cloud_service.metrics import metrics_text
from cloud_service.pipeline import Intake
from models.segment import encode_segment, segment_digest
from tests.cloud_service.conftest import EPOCH, Gateway, make_page, pages_of
from tests.cloud_service.ingest.conftest import OWNER, Cloud, pages

NEWER = "0badcafe0badcafe"


def claim_of(data: bytes, first: int, last: int, *, gateway_id: str = OWNER, epoch: str = EPOCH) -> Claim:
    return Claim(
        gateway_id=gateway_id,
        epoch=epoch,
        first_seq=first,
        last_seq=last,
        digest=segment_digest(data),
        size=len(data),
    )


def refuse(bare: Cloud, data: bytes, first: int, last: int) -> None:
    """Send what must be refused, keep it and count it, as the listener does."""
    with pytest.raises((RangeConflict, CloneRefused)) as refused:
        bare.put(data)
    bare.intake.quarantine.keep(claim_of(data, first, last), data, refused.value)
    with bare.store.writing() as session:
        count_rejected(session, Rejection.of(OWNER, refused.value))
        count_received(session, OWNER)


def figures(bare: Cloud, *names: str) -> list[float]:
    lines = metrics_text(bare.store).decode().splitlines()
    values = {line.split("{")[0]: 0.0 for line in lines}
    for line in lines:
        values[line.split("{")[0]] += float(line.rpartition(" ")[2]) if not line.startswith("#") else 0.0
    return [values.get(f"wearsight_cloud_{name}", 0.0) for name in names]


def test_an_older_journal_brings_nothing_new_after_a_newer_one(bare: Cloud) -> None:
    """What it sends again is held, as ever; the newer one goes on."""
    bare.put(encode_segment(pages(1, 3)))
    bare.put(encode_segment(pages(1, 3, NEWER)))
    with pytest.raises(CloneRefused) as refused:
        bare.put(encode_segment(pages(4, 5)))
    assert (refused.value.reason, refused.value.field, refused.value.status) == ("clone", "epoch", 409)
    assert bare.put(encode_segment(pages(1, 3))) == [(1, 3)]
    assert bare.put(encode_segment(pages(4, 5, NEWER))) == [(1, 5)]
    assert [bare.journal(epoch).status for epoch in (EPOCH, NEWER)] == ["superseded", "active"]


def test_without_the_rule_both_would_be_stored(bare: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: two machines with one identity go unnoticed."""
    monkeypatch.setattr("cloud_service.ingest.journals.superseded_by", lambda *_: None)
    for data in (encode_segment(pages(1, 3)), encode_segment(pages(1, 3, NEWER))):
        bare.put(data)
    assert bare.put(encode_segment(pages(4, 5))) == [(1, 5)]


def test_an_operator_takes_a_rescued_disk_for_legitimate(bare: Cloud) -> None:
    """What waited in quarantine is stored, counted as such, and what comes then is stored at once."""
    bare.put(encode_segment(pages(1, 3)))
    bare.put(encode_segment(pages(1, 3, NEWER)))
    for first in (6, 4):
        refuse(bare, encode_segment(pages(first, first + 1)), first, first + 1)
    assert len(bare.journal().quarantined) == 2
    assert figures(bare, "segments_received_total", "segments_stored_total", "segments_rejected_total") == [4, 2, 2]

    done = accept(bare.intake, OWNER, EPOCH)
    assert (done.stored, done.refused) == ([(4, 5), (6, 7)], {})
    assert figures(bare, "segments_received_total", "segments_stored_total", "segments_rejected_total") == [4, 4, 0]
    assert (bare.journal().status, bare.journal().held, bare.journal().quarantined) == ("accepted", [(1, 7)], [])
    assert not list((bare.folder / "quarantine").rglob("*.segment"))
    assert bare.put(encode_segment(pages(8, 9))) == [(1, 9)]


def test_accepting_stores_no_page_over_another(bare: Cloud) -> None:
    """Pages that are held with other content stay in quarantine, with the reason."""
    bare.put(encode_segment(pages(1, 3)))
    refuse(bare, encode_segment(pages(2, 4, rows=3)), 2, 4)
    done = accept(bare.intake, OWNER, EPOCH)
    assert done.stored == []
    assert "page 2" in done.refused["2-4"]
    assert discard(bare.store, bare.intake.quarantine, OWNER, EPOCH) == 1
    assert (bare.journal().held, bare.journal().quarantined) == ([(1, 3)], [])
    with pytest.raises(LedgerError, match="no journal"):
        accept(bare.intake, OWNER, "ffffffffffff")


def test_what_comes_again_is_kept_once(bare: Cloud) -> None:
    """A gateway tries again for ever; the count says so."""
    bare.put(encode_segment(pages(1, 3)))
    for _ in range(3):
        refuse(bare, encode_segment(pages(2, 4, rows=3)), 2, 4)
    (kept,) = bare.journal().quarantined
    assert (kept.times, kept.reason) == (3, "conflict")
    assert len(list((bare.folder / "quarantine").rglob("*.segment"))) == 1


def test_the_quarantine_has_a_limit(bare: Cloud) -> None:
    """The oldest of the gateway that takes most of it goes, and is counted; the other gateway's stays."""
    kept = Quarantine(folder=bare.folder / "quarantine", store=bare.store, limit=10_000)
    error = CloneRefused("a second machine")
    for number, (gateway_id, size) in enumerate([("gw-2", 2000), *[(OWNER, 3000)] * 4]):
        data = bytes([number]) * size
        kept.keep(claim_of(data, number + 1, number + 1, gateway_id=gateway_id), data, error)
    kept.keep(claim_of(bytes(10_001), 9, 9), bytes(10_001), error)
    with bare.store.reading() as session:
        found = [(row.gateway_id, row.first_seq) for row in quarantine.rows(session)]
    assert found == [(OWNER, 4), (OWNER, 5), ("gw-2", 1)]
    assert sum(path.stat().st_size for path in kept.folder.rglob("*.segment")) == 8000
    assert figures(bare, "quarantine_dropped_total", "quarantine_bytes", "quarantine_segments") == [3, 8000, 3]


def test_small_segments_fill_the_quarantine_too(bare: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a file and a row, however few bytes it has; the other gateway's stays."""
    monkeypatch.setattr(quarantine, "MOST_KEPT", 3)
    kept = Quarantine(folder=bare.folder / "quarantine", store=bare.store, limit=10_000)
    for number, gateway_id in enumerate(["gw-2", OWNER, OWNER, OWNER, OWNER]):
        data = bytes([number])
        kept.keep(claim_of(data, number + 1, number + 1, gateway_id=gateway_id), data, CloneRefused("another"))
    with bare.store.reading() as session:
        found = [(row.gateway_id, row.first_seq) for row in quarantine.rows(session)]
    assert found == [(OWNER, 4), (OWNER, 5), ("gw-2", 1)]


def test_a_clone_is_told_over_the_wire(gateway: Gateway) -> None:
    """409 with reason and field; the bytes are in quarantine, and health and metrics say so."""
    assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 3))[0] == 200
    other = [make_page(gateway.gateway_id, seq, rows=3) for seq in (1, 2)]
    status, answer = gateway.put_pages(other)
    assert (status, answer["reason"], answer["field"]) == (409, "conflict", "pages")
    store = gateway.cloud.store()
    text = metrics_text(store).decode()
    kept = Intake(store, gateway.cloud.lake, IngestConfig()).quarantine
    with store.reading() as session:
        (row,) = quarantine.rows(session, gateway.gateway_id)
    store.close()
    assert kept.read(row) == encode_segment(other)
    assert f'quarantine_segments{{gateway_id="{gateway.gateway_id}",reason="conflict"}} 1.0' in text
