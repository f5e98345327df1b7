"""The ingest listener over real sockets, with real certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cloud_service.config import IngestConfig
from cloud_service.fleet import gateways
from cloud_service.pipeline import Intake
from cloud_service.store import Store
from cloud_service.testing import CloudProcess
from models.segment import decode_segment, encode_segment, segment_digest
from tests.cloud_service.conftest import EPOCH, Gateway, make_page, metrics, pages_of

MIB = 2**20


def rows_in_lake(gateway: Gateway) -> list[int]:
    """Return the page of every row that lies in the gateway's files, ledger or not."""
    folder = gateway.cloud.lake / "observations" / f"gateway={gateway.gateway_id}"
    return sorted(
        seq for path in folder.glob("*.parquet") for seq in pq.ParquetFile(path).read(["seq"])["seq"].to_pylist()
    )


def expected_rows(*pages: int) -> list[int]:
    return sorted(seq for seq in pages for _ in range(5))


def test_a_segment_sent_again_is_counted_once(gateway: Gateway) -> None:
    """Twice, thrice: the same answer, and nothing changes."""
    for _ in range(3):
        assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 4)) == (200, {"held": [[1, 4]]})
    assert rows_in_lake(gateway) == expected_rows(1, 2, 3, 4)
    assert metrics(gateway.cloud, gateway.gateway_id)["segments_received_total"] == 1


def test_segments_may_come_in_any_order(gateway: Gateway) -> None:
    """The ledger says what is held, with its hole, and joins it when the hole is filled."""
    assert gateway.put_pages(pages_of(gateway.gateway_id, 7, 9)) == (200, {"held": [[7, 9]]})
    assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 3)) == (200, {"held": [[1, 3], [7, 9]]})
    assert gateway.put_pages(pages_of(gateway.gateway_id, 4, 6)) == (200, {"held": [[1, 9]]})
    assert gateway.ledger() == (200, {"held": [[1, 9]]})
    assert rows_in_lake(gateway) == expected_rows(*range(1, 10))


def test_of_an_overlapping_segment_only_the_missing_pages_are_stored(gateway: Gateway) -> None:
    """Two holes on both sides of what is held are filled by one segment, and nothing is stored twice."""
    gateway.put_pages(pages_of(gateway.gateway_id, 3, 4))
    gateway.put_pages(pages_of(gateway.gateway_id, 6, 7))
    assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 9)) == (200, {"held": [[1, 9]]})
    assert gateway.put_pages(pages_of(gateway.gateway_id, 2, 8)) == (200, {"held": [[1, 9]]})
    assert rows_in_lake(gateway) == expected_rows(*range(1, 10))


def test_without_the_ledger_an_overlap_would_be_stored_twice(tmp_path: Path) -> None:
    """The control: the same two uploads, with everything taken for missing."""
    store = Store(tmp_path / "cloud.sqlite")
    intake = Intake(store, tmp_path / "lake", IngestConfig())
    intake._missing = lambda segment: [(segment.first_seq, segment.last_seq)]  # type: ignore[method-assign]
    intake._record = lambda *_: []  # type: ignore[method-assign]
    for first, last in ((1, 3), (2, 4)):
        data = encode_segment(pages_of("gw-control", first, last))
        intake.store_segment(decode_segment(data), segment_digest(data))
    store.close()
    files = (tmp_path / "lake" / "observations").rglob("*.parquet")
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in files) == 30 > len(expected_rows(1, 2, 3, 4))


def test_a_cloned_gateway_is_noticed(gateway: Gateway) -> None:
    """The same range with other content is refused, and so is one that only overlaps it; nothing is stored."""
    gateway.put_pages(pages_of(gateway.gateway_id, 1, 4))
    for first, last in ((1, 4), (3, 6)):
        pages = [make_page(gateway.gateway_id, seq, rows=4) for seq in range(first, last + 1)]
        status, answer = gateway.put_pages(pages)
        assert status == 409
        assert "cloned or restored" in answer["detail"]
    assert gateway.ledger() == (200, {"held": [[1, 4]]})
    assert rows_in_lake(gateway) == expected_rows(1, 2, 3, 4)


def test_a_gateway_cannot_write_or_ask_for_another_ones_segments(gateway: Gateway) -> None:
    """Neither by address nor by a segment that names itself someone else's."""
    data = encode_segment(pages_of("gw-victim", 1, 2))
    assert gateway.put(data, 1, 2, owner="gw-victim")[0] == 403
    assert gateway.put(data, 1, 2)[0] == 422
    assert gateway.ledger("gw-victim")[0] == 403
    assert not (gateway.cloud.lake / "observations" / "gateway=gw-victim").exists()


def test_without_a_certificate_there_is_no_connection(gateway: Gateway) -> None:
    """The TLS layer already ends it."""
    gateway.context = ssl.create_default_context(cafile=str(gateway.cloud.pki.ca_certificate))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        gateway.ledger()


def test_a_certificate_of_another_fleet_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    """A name alone opens nothing."""
    other = CloudProcess(tmp_path / "other")
    folder = other.enroll(gateway.gateway_id)
    gateway.context.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        gateway.ledger()


def test_the_servers_certificate_is_no_gateways(gateway: Gateway) -> None:
    """It may be the server, not speak to it."""
    gateway.context.load_cert_chain(gateway.cloud.pki.server_certificate, gateway.cloud.pki.server_key)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        gateway.ledger()


def test_a_revoked_gateway_is_out_at_its_next_request(gateway: Gateway) -> None:
    """What it sent before stays; enrolled anew, it goes on with its new certificate, not with the old one."""
    gateway.put_pages(pages_of(gateway.gateway_id, 1, 1))
    store = gateway.cloud.store()
    with store.writing() as session:
        gateways.revoke(session, gateway.gateway_id)
    store.close()
    assert gateway.put_pages(pages_of(gateway.gateway_id, 2, 2))[0] == 403
    assert gateway.ledger()[0] == 403

    again = Gateway(gateway.cloud, gateway.gateway_id)
    assert again.ledger() == (200, {"held": [[1, 1]]})
    assert gateway.ledger()[0] == 403


def test_an_oversize_body_is_refused_before_it_is_read(gateway: Gateway) -> None:
    """The answer comes while not a byte of the body has been sent."""
    connection = gateway.connect()
    connection.putrequest("PUT", f"/api/v1/segments/{gateway.gateway_id}/{EPOCH}/1-2")
    connection.putheader("Content-Length", str(65 * MIB))
    connection.putheader("X-Segment-SHA256", "0" * 64)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_of_unknown_length_is_refused(gateway: Gateway) -> None:
    """Chunks could go on for ever."""
    connection = gateway.connect()
    headers = {"X-Segment-SHA256": "0" * 64}
    body = iter([b"x" * 10])
    connection.request("PUT", f"/api/v1/segments/{gateway.gateway_id}/{EPOCH}/1-2", body, headers, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_a_tampered_segment_is_rejected_and_counted(gateway: Gateway) -> None:
    """Changed on the way, or changed with a new digest around it: not stored, and the figures say so."""
    data = bytearray(encode_segment(pages_of(gateway.gateway_id, 1, 3)))
    digest = segment_digest(bytes(data))
    data[-20] ^= 1
    assert gateway.put(bytes(data), 1, 3, digest=digest)[0] == 422
    assert gateway.put(bytes(data), 1, 3)[0] == 422
    assert gateway.put(b"not a segment", 1, 3)[0] == 422
    assert gateway.put_pages(pages_of(gateway.gateway_id, 1, 3))[0] == 200

    told = metrics(gateway.cloud, gateway.gateway_id)
    assert told["segments_rejected_total"] == 3
    assert told["segments_received_total"] == told["segments_stored_total"] + told["segments_rejected_total"]


@pytest.mark.parametrize("pages", ["0-3", "3-1", "1-", "1-9999999999999", "a-b", "1-2%2f..%2f3", "1-2000000"])
def test_a_range_that_cannot_be_is_rejected(gateway: Gateway, pages: str) -> None:
    """Whatever stands in the address, the answer is a reason."""
    path = f"/api/v1/segments/{gateway.gateway_id}/{EPOCH}/{pages}"
    status, _ = gateway.ask("PUT", path, b"x", {"X-Segment-SHA256": "0" * 64})
    assert status in {404, 422}
