"""The cloud dies at bad moments; afterwards nothing is lost and nothing is there twice."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cloud_service.config import IngestConfig
from cloud_service.fleet import gateways
from cloud_service.lake.lake import Lake
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity
from cloud_service.store import Store
from cloud_service.testing import CloudProcess
from models.segment import Segment, decode_segment, encode_segment, segment_digest
from tests.cloud_service.conftest import EPOCH, Gateway, metrics, pages_of


class Killed(Exception):
    """Stands for the process that ended here."""


def seqs_on_disk(lake: Path) -> list[int]:
    files = (lake / "observations").rglob("*.parquet")
    return sorted(seq for path in files for seq in pq.ParquetFile(path).read(["seq"])["seq"].to_pylist())


def segment_of(first: int, last: int) -> tuple[Segment, str]:
    data = encode_segment(pages_of("gw-1", first, last))
    return decode_segment(data), segment_digest(data)


def enroll(store: Store) -> None:
    """Make gw-1 known, without a certificate that anyone has."""
    with store.writing() as session:
        gateways.enroll(session, Identity(gateway_id="gw-1", certificate_sha256="00"))


def interrupted(store: Store, lake: Path) -> None:
    """Store pages 1 to 4 up to the moment between files and ledger row."""

    def die(*_: object) -> None:
        raise Killed

    intake = Intake(store, lake, IngestConfig())
    intake._record = die  # type: ignore[method-assign, assignment]  # the process ends here
    with pytest.raises(Killed):
        intake.store_segment(*segment_of(1, 4))


@pytest.mark.parametrize("cuts", [[(1, 4)], [(1, 2), (3, 6)], [(1, 9)]], ids=["same", "cut elsewhere", "longer"])
def test_files_without_their_ledger_row_do_not_count(tmp_path: Path, cuts: list[tuple[int, int]]) -> None:
    """Nothing is held after such a crash; whatever segments come then, each row is there once, on disk too."""
    store = Store(tmp_path / "cloud.sqlite")
    interrupted(store, tmp_path / "lake")
    intake = Intake(store, tmp_path / "lake", IngestConfig())
    assert seqs_on_disk(tmp_path / "lake") != []
    assert intake.held("gw-1", EPOCH) == []
    assert len(Lake(tmp_path / "lake", store).observations(["pump-01"])) == 0

    enroll(store)
    for first, last in cuts:
        intake.store_segment(*segment_of(first, last))
    expected = sorted(seq for seq in range(1, cuts[-1][1] + 1) for _ in range(5))
    assert intake.held("gw-1", EPOCH) == [(1, cuts[-1][1])]
    assert seqs_on_disk(tmp_path / "lake") == expected
    store.close()


def test_without_the_sweep_such_files_would_be_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same crash, with what it left behind left there."""
    store = Store(tmp_path / "cloud.sqlite")
    interrupted(store, tmp_path / "lake")
    enroll(store)
    monkeypatch.setattr("cloud_service.pipeline.remove_strays", lambda *_: [])
    Intake(store, tmp_path / "lake", IngestConfig()).store_segment(*segment_of(1, 9))
    assert len(seqs_on_disk(tmp_path / "lake")) == 65
    store.close()


def test_a_kill_in_the_middle_of_an_upload_stores_nothing(tmp_path: Path) -> None:
    """Half a body, SIGKILL, a new start: the whole segment is missing, and is taken when it comes again."""
    with CloudProcess(tmp_path / "cloud") as cloud:
        gateway = Gateway(cloud, "gw-1")
        data = encode_segment(pages_of("gw-1", 1, 50))
        connection = gateway.connect()
        connection.putrequest("PUT", f"/api/v1/segments/gw-1/{EPOCH}/1-50")
        connection.putheader("Content-Length", str(len(data)))
        connection.putheader("X-Segment-SHA256", segment_digest(data))
        connection.endheaders(data[: len(data) // 2])
        cloud.stop(signal.SIGKILL)
        connection.close()

        cloud.start()
        assert gateway.ledger() == (200, {"held": []})
        assert gateway.put(data, 1, 50) == (200, {"held": [[1, 50]]})
        assert seqs_on_disk(cloud.lake) == sorted(seq for seq in range(1, 51) for _ in range(5))


def test_kills_among_uploads_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Whatever the moments of three kills, what was answered is held, and in the end each row is there once."""
    with CloudProcess(tmp_path / "cloud") as cloud:
        gateway = Gateway(cloud, "gw-1")
        answered: set[int] = set()
        for _ in range(3):
            killer = threading.Timer(0.25, lambda: cloud.stop(signal.SIGKILL))
            try:
                for first in range(1, 400, 4):
                    if gateway.put_pages(pages_of("gw-1", first, first + 3))[0] == 200:
                        answered.update(range(first, first + 4))
                    if first == 1:
                        killer.start()
            except OSError:
                pass  # it was killed
            killer.join()
            cloud.start()
            held = [(first, last) for first, last in gateway.ledger()[1]["held"]]
            assert answered <= {seq for first, last in held for seq in range(first, last + 1)}
        assert answered
        assert gateway.put_pages(pages_of("gw-1", 1, 400)) == (200, {"held": [[1, 400]]})
        assert gateway.put(b"no segment", 401, 402)[0] == 422
        told = metrics(cloud, "gw-1")
        assert told["segments_received_total"] == told["segments_stored_total"] + told["segments_rejected_total"]
        assert seqs_on_disk(cloud.lake) == sorted(seq for seq in range(1, 401) for _ in range(5))
