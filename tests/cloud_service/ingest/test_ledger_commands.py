"""``wearsight-cloud ledger`` as a program: status, verify, export, repair."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from cloud_service.cli import main
from cloud_service.config import IngestConfig
from cloud_service.errors import Quarantined
from cloud_service.fleet import gateways
from cloud_service.ingest.upload import Claim
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity
from cloud_service.store import HeldRow, LedgerRow, Store
from models.records import AssetDescription, GatewayEvent, Observations, Results, Stream, from_ns
from models.segment import cut_segment, decode_segment, encode_segment, segment_digest
from tests.cloud_service.conftest import EPOCH, make_advisory, make_page
from tests.cloud_service.ingest.conftest import OWNER, pages

NEWER = "0badcafe0badcafe"
WAVE = Stream("pump-02", "vibration_waveform_m_s2")


@dataclass
class Site:
    """A cloud that was set up, with its configuration."""

    folder: Path
    store: Store
    intake: Intake

    def put(self, data: bytes) -> None:
        self.intake.store_segment(decode_segment(data), segment_digest(data))

    def run(self, *arguments: str | Path, code: int = 0) -> Result:
        config = ["--config", str(self.folder / "cloud.toml")]
        result = CliRunner().invoke(main, ["ledger", *map(str, arguments), *config])
        assert result.exit_code == code, result.output
        return result

    def told(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def files(self, pattern: str = "*.parquet") -> list[Path]:
        return sorted((self.folder / "lake").rglob(pattern))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Three segments: one with results, one cut, one with waveforms."""
    CliRunner().invoke(main, ["init", str(tmp_path)], catch_exceptions=False)
    store = Store(tmp_path / "cloud.sqlite")
    with store.writing() as session:
        gateways.enroll(session, Identity(gateway_id=OWNER, certificate_sha256="00"))
    made = Site(folder=tmp_path, store=store, intake=Intake(store, tmp_path / "lake", IngestConfig()))
    described = AssetDescription(asset_id="pump-01", asset_class="centrifugal_pump", channels=())
    event = GatewayEvent(kind="started", gateway_time=from_ns(0), message="°", detail={"b": "1", "a": "2"})
    results = Results(assets=(described,), advisories=(make_advisory(), make_advisory(revision=2)), events=(event,))
    first = encode_segment([*pages(1, 3), make_page(OWNER, 4, results)])
    cut = cut_segment(encode_segment(pages(5, 6), previous=segment_digest(first)), [Stream("pump-01", "flow_m3_h")])
    for data in (first, cut, encode_segment([make_page(OWNER, 9, waveforms())])):
        made.put(data)
    yield made
    store.close()


def waveforms() -> Observations:
    return Observations(
        streams=(WAVE, Stream("pump-02", "speed_rpm")),
        stream=np.array([0, 1, 0], np.uint32),
        source_time=np.array([5_000_000_000, 5_000_000_001, 6_000_000_000], np.int64),
        value=np.array([np.nan, -0.0, np.nan]),
        status=np.array([0, 0x80000000, 0], np.uint32),
        sample_count=np.array([3, 0, 1], np.uint32),
        samples=np.array([0.5, -0.25, 1.0, 7.0], np.float32),
    )


def test_status_is_told_with_and_without_its_name(site: Site) -> None:
    """The group alone answers as before; there is one entry a journal."""
    (journal,) = site.told()["journals"]
    assert site.told("status")["journals"] == [journal]
    assert {key: journal[key] for key in ("gateway_id", "epoch", "segments", "pages", "observations", "results")} == {
        "gateway_id": OWNER,
        "epoch": EPOCH,
        "segments": 3,
        "pages": 7,
        "observations": 15 + 6 + 3,
        "results": 4,
    }
    assert (journal["held"], journal["missing"], journal["withheld"]) == ([[1, 6], [9, 9]], [[7, 8]], 4)
    assert "missing: 7-8" in site.run().output


def test_options_before_a_command_count(site: Site) -> None:
    """Nobody has to remember where they go."""
    arguments = ["ledger", "--json", "--config", str(site.folder / "cloud.toml"), "status"]
    assert json.loads(CliRunner().invoke(main, arguments).stdout)["journals"][0]["pages"] == 7


def test_a_whole_ledger_verifies(site: Site) -> None:
    """Files, digests, rows and each page's fingerprint, of cut segments and waveforms too."""
    verified = site.told("verify")
    assert (verified["ranges"], verified["files"], verified["observations"]) == (3, 4, 24)
    assert verified["findings"] == []
    assert "nothing wrong" in site.run("verify").output


Spoil = Callable[[Site], None]


def flip(site: Site) -> None:
    path = site.files()[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def truncate(site: Site) -> None:
    path = site.files()[1]
    path.write_bytes(path.read_bytes()[:-10])


def remove(site: Site) -> None:
    site.files("results/*/*.parquet")[0].unlink()


def rewrite(site: Site) -> None:
    """Change one value in a file of a range that has no digest, as of an earlier version."""
    with site.store.writing() as session:
        session.execute(update(LedgerRow).values(observations_sha256="", results_sha256=""))
    path = site.files()[0]
    table = pq.ParquetFile(path).read()
    values = table["value"].to_numpy().copy()
    values[3] += 1e-9
    pq.write_table(table.set_column(3, "value", [values]), path)


@pytest.mark.parametrize(
    ("spoil", "wrong"), [(flip, "damaged"), (truncate, "damaged"), (remove, "missing"), (rewrite, "damaged")]
)
def test_what_is_damaged_is_found_and_sent_again(site: Site, spoil: Spoil, wrong: str) -> None:
    """Exit code 3; a repair takes the range out of the ledger, and what comes again makes it whole."""
    spoil(site)
    (finding,) = site.told("verify", code=3)["findings"]
    assert finding["wrong"] == wrong

    planned = site.told("repair", "--dry-run")
    assert site.told("verify", code=3)["findings"] == [finding]
    done = site.told("repair")
    assert done == {**planned, "dry_run": False}
    assert site.told("verify")["findings"] == []
    ((gateway_id, epoch, first, last),) = done["withdrawn"]
    assert (gateway_id, epoch, [first, last]) == (OWNER, EPOCH, finding["pages"])
    assert not any(start <= first <= end for start, end in site.told()["journals"][0]["held"])
    for path in done["set_aside"]:
        assert (site.folder / "damaged" / Path(path).relative_to(site.folder / "lake")).exists()


def test_a_withdrawn_upload_is_counted_and_comes_again(site: Site) -> None:
    """``received = stored + rejected`` holds before, between and after."""
    flip(site)
    site.run("repair")
    told = site.told()
    (journal,) = told["journals"]
    assert (journal["held"], journal["withheld"]) == ([[5, 6], [9, 9]], 4)
    text = site.run("status").output
    assert "1 upload rejected (withdrawn)" in text
    site.put(encode_segment(pages(1, 3)))
    assert site.told()["journals"][0]["held"] == [[1, 3], [5, 6], [9, 9]]


def test_stray_files_are_found_and_removed(site: Site) -> None:
    """Of an interrupted upload, whoever left them."""
    folder = site.files()[0].parent
    (folder / f"{EPOCH}-000000000700-000000000701.parquet").write_bytes(b"half")
    (folder / f"{EPOCH}-000000000702-000000000703.new").write_bytes(b"half")
    assert [finding["wrong"] for finding in site.told("verify", code=3)["findings"]] == ["stray", "stray"]
    assert len(site.told("repair")["removed"]) == 2
    assert site.told("verify")["findings"] == []


def test_a_gateway_is_told_what_is_stored_again(site: Site) -> None:
    """When the two tables went apart, the stored ranges count."""
    with site.store.writing() as session:
        session.execute(update(HeldRow).where(HeldRow.first_seq == 9).values(last_seq=90))
    assert [finding["wrong"] for finding in site.told("verify", code=3)["findings"]] == ["held"]
    site.run("repair")
    assert site.told()["journals"][0]["held"] == [[1, 6], [9, 9]]


def test_a_clone_is_told_and_decided(site: Site) -> None:
    """Status shows what waits; accepting stores it, discarding throws it away."""
    site.put(encode_segment(pages(1, 2, NEWER)))
    data = encode_segment(pages(7, 8))
    claim = Claim(gateway_id=OWNER, epoch=EPOCH, first_seq=7, last_seq=8, digest=segment_digest(data), size=len(data))
    with pytest.raises(Quarantined) as refused:
        site.put(data)
    site.intake.quarantine.keep(claim, data, refused.value)
    assert "superseded" in site.run().output
    assert "in quarantine (clone): 7-8; refused 1 time" in site.run().output

    assert site.told("repair", "--accept", OWNER, EPOCH) == {"stored": [[7, 8]], "refused": {}}
    assert site.told()["journals"][0]["held"] == [[1, 9]]
    assert site.told("repair", "--discard", OWNER, EPOCH) == {"discarded": 0}
    assert "no journal" in site.run("repair", "--accept", OWNER, "00000000", code=1).output
    assert "only one" in site.run("repair", "--accept", OWNER, EPOCH, "--dry-run", code=2).output


def test_what_is_exported_is_what_was_sent(site: Site, tmp_path: Path) -> None:
    """All of it, or of one channel between two times; the start belongs to the time, the end does not."""
    out = tmp_path / "out.parquet"
    assert site.told("export", "--output", out)["written"] == 24
    table = pq.ParquetFile(out).read()
    assert table.num_rows == 24
    assert [0.5, -0.25, 1.0] in table["samples"].to_pylist()
    limits = ["--from", "1970-01-01T00:00:02Z", "--to", "1970-01-01T00:00:05Z"]
    assert site.told("export", "--output", out, "--asset", "pump-01", "--channel", "flow_m3_h", *limits) == {
        "output": str(out),
        "written": 4,
    }
    assert set(pq.ParquetFile(out).read()["channel"].to_pylist()) == {"flow_m3_h"}
    assert site.told("export", "--output", out, "--gateway", "gw-2")["written"] == 0


def test_an_export_as_text_has_times_and_waveforms(site: Site, tmp_path: Path) -> None:
    """Nanoseconds and all samples, for programs that read nothing better."""
    out = tmp_path / "out.csv"
    site.run("export", "--output", out, "--asset", "pump-02")
    rows = pacsv.read_csv(out).select(["channel", "samples"]).to_pylist()
    assert {"channel": WAVE.channel, "samples": "0.5 -0.25 1"} in rows
    assert "1970-01-01 00:00:05.000000001" in out.read_text()


def test_an_export_that_cannot_be_leaves_no_file(site: Site, tmp_path: Path) -> None:
    """A wrong suffix, a lake that is damaged: one line."""
    assert "end in .parquet or .csv" in site.run("export", "--output", tmp_path / "out.xlsx", code=1).output
    truncate(site)
    assert "nothing is written" in site.run("export", "--output", tmp_path / "a.csv", code=1).output
    assert not list(tmp_path.glob("*.csv*"))
