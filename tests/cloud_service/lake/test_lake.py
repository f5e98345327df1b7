from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cloud_service.config import IngestConfig
from cloud_service.fleet import gateways
from cloud_service.lake.lake import Lake
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity
from cloud_service.store import Store
from models.records import Gap, GatewayEvent, Observations, Page, Results, Stream, from_ns
from models.segment import decode_segment, encode_segment, segment_digest

EPOCH = "ab12cd34"
SPEED, WAVE = Stream("pump-01", "speed_rpm"), Stream("pump-02", "vibration_waveform_m_s2")
BAD = 0x80000000

PutAway = Callable[..., Lake]


@pytest.fixture
def put_away(tmp_path: Path) -> Iterator[PutAway]:
    """Puts contents into a lake, one page and one segment each."""
    store = Store(tmp_path / "cloud.sqlite")
    with store.writing() as session:
        gateways.enroll(session, Identity(gateway_id="gw-1", certificate_sha256="00"))
    intake = Intake(store, tmp_path / "lake", IngestConfig())

    def put(*contents: Observations | Results) -> Lake:
        for seq, content in enumerate(contents, 1):
            page = Page(gateway_id="gw-1", epoch=EPOCH, seq=seq, committed_time=0, content=content)
            data = encode_segment([page])
            intake.store_segment(decode_segment(data), segment_digest(data))
        return Lake(tmp_path / "lake", store)

    yield put
    store.close()


def mixed(start: int) -> Observations:
    """Return two plain values, one of them Bad, and a waveform."""
    return Observations(
        streams=(WAVE, SPEED),
        stream=np.array([1, 0, 1], np.uint32),
        source_time=np.array([start, start + 1, start + 2], np.int64),
        value=np.array([1480.0, np.nan, np.nan]),
        status=np.array([0, 0, BAD], np.uint32),
        sample_count=np.array([0, 3, 0], np.uint32),
        samples=np.array([0.5, -0.25, 1.0], np.float32),
    )


def test_what_goes_in_comes_out(put_away: PutAway) -> None:
    """Values, statuses and waveforms, by stream and time, over all files."""
    found = put_away(mixed(100), mixed(0)).observations(["pump-01", "pump-02"])
    assert found.streams == (SPEED, WAVE)
    assert found.stream.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.source_time.tolist() == [0, 2, 100, 102, 1, 101]
    assert found.status.tolist() == [0, BAD, 0, BAD, 0, 0]
    assert np.isnan(found.value[[1, 3, 4, 5]]).all()
    assert found.sample_count.tolist() == [0, 0, 0, 0, 3, 3]
    assert found.samples.tolist() == [0.5, -0.25, 1.0] * 2


def test_reading_takes_assets_channels_and_a_span(put_away: PutAway) -> None:
    """The start belongs to the span, the end does not."""
    lake = put_away(mixed(0), mixed(1000), mixed(2000))
    assert len(lake.observations(["pump-01"])) == 6
    assert len(lake.observations(["pump-01"], ["flow_m3_h"])) == 0
    assert len(lake.observations(["pump-03"])) == 0
    assert lake.observations(["pump-01"], start=from_ns(1000), end=from_ns(2000)).source_time.tolist() == [1000, 1002]


def test_files_of_another_time_are_not_opened(put_away: PutAway) -> None:
    """The ledger knows from when to when each reaches; there are thousands of a day."""
    second = 10**9
    lake = put_away(mixed(0), mixed(5 * second), mixed(9 * second))
    first, middle, last = sorted((lake.folder / "observations").rglob("*.parquet"))
    for path in (first, last):
        path.unlink()
    assert len(lake.observations(["pump-01"], start=from_ns(5 * second), end=from_ns(6 * second))) == 2
    assert len(lake.observations(["pump-01"], start=from_ns(5 * second + 2000), end=from_ns(6 * second))) == 0
    middle.unlink()
    with pytest.raises(FileNotFoundError):
        lake.observations(["pump-01"], start=from_ns(5 * second), end=from_ns(6 * second))


def test_a_lake_without_a_drop_gives_nothing(put_away: PutAway) -> None:
    assert len(put_away().observations(["pump-01"])) == 0


def test_a_plain_value_has_no_samples_in_the_file(put_away: PutAway) -> None:
    """Null and empty are not the same to whoever reads the files."""
    lake = put_away(mixed(0))
    table = pq.ParquetFile(next((lake.folder / "observations").rglob("*.parquet"))).read()
    assert table["samples"].to_pylist() == [[0.5, -0.25, 1.0], None, None]
    assert table.column_names == ["asset_id", "channel", "source_time", "value", "status", "seq", "samples"]


def test_results_become_rows(put_away: PutAway) -> None:
    """Each record is one row of JSON with its kind, asset, time and page."""
    gap = Gap(asset_id="pump-01", channel="speed_rpm", from_time=from_ns(0), to_time=from_ns(1000), cause="bad")
    event = GatewayEvent(kind="started", gateway_time=from_ns(5000), message="started")
    lake = put_away(Results(gaps=(gap,), events=(event,)))
    rows = pq.ParquetFile(next((lake.folder / "results").rglob("*.parquet"))).read().to_pylist()
    assert [(row["kind"], row["asset_id"], row["time"], row["seq"]) for row in rows] == [
        ("gap", "pump-01", 0, 1),
        ("event", None, 5000, 1),
    ]


def test_the_digest_names_what_is_in_it(put_away: PutAway) -> None:
    """Another segment gives another digest; reading again gives the same."""
    lake = put_away(mixed(0))
    before = lake.digest()
    assert lake.digest() == before
    assert put_away(mixed(0), mixed(7)).digest() != before
