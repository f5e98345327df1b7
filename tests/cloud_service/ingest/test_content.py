"""What decodes, and is refused all the same, by the field at fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_service.errors import IngestError, SegmentRejected
from cloud_service.ingest import content
from cloud_service.ingest.content import check_content
from cloud_service.ingest.tally import Rejection
from cloud_service.lake.verify import verify
from models.records import AssetDescription, Observations, Results, Stream
from models.segment import Expired, Segment, decode_segment, encode_segment, tombstone
from tests.cloud_service.conftest import EPOCH, make_advisory, make_page
from tests.cloud_service.ingest.conftest import OWNER, Cloud


def segment_of(page_content: Observations | Results) -> Segment:
    return decode_segment(encode_segment([make_page(OWNER, 1, page_content)]))


def row_of(stream: Stream) -> Observations:
    one = np.zeros(1, np.int64)
    return Observations.of_values((stream,), one.astype(np.uint32), one, one.astype(float), one.astype(np.uint32))


def refused_field(segment: Segment) -> str:
    with pytest.raises(SegmentRejected) as refused:
        check_content(segment)
    return refused.value.field


@pytest.mark.parametrize("name", ["\x00", "a\x1b[2J", "a\nb", "\x85", "\u202egnp", "a\u2028b", "", "x" * 201])
def test_a_name_that_would_act_on_a_screen_is_refused(name: str) -> None:
    """Wherever names become keys, labels and lines on a terminal."""
    assert refused_field(segment_of(row_of(Stream(name, "speed")))) == "streams"
    assert refused_field(segment_of(row_of(Stream("pump", name)))) == "streams"
    described = AssetDescription(asset_id="pump", asset_class=name, channels=())
    assert refused_field(segment_of(Results(assets=(described,)))) == "asset_class"
    assert refused_field(segment_of(Results(advisories=(replace(make_advisory(), advisory_id=name),)))) == "advisory_id"


@pytest.mark.parametrize("name", ["Pumpe 1 °C", "泵/压力", "מנוע", "a\u00a0b", "x" * 200])
def test_a_name_of_any_language_is_taken(name: str) -> None:
    """The control: no honest name is in the way."""
    check_content(segment_of(row_of(Stream(name, name))))


@pytest.mark.parametrize("reason", ["damaged", "size_limit", "age_limit", "", "r1", 'a"} 1'])
def test_observations_expire_for_known_reasons(reason: str) -> None:
    """Each is a label of a metric; a gateway cannot make as many as it likes."""
    gone = tombstone(
        gateway_id=OWNER,
        epoch=EPOCH,
        first_seq=1,
        last_seq=1,
        previous="",
        stands_for="0" * 64,
        expired=Expired(reason=reason, observations=1),
        results=Results(),
    )
    if reason in {"damaged", "size_limit", "age_limit"}:
        check_content(decode_segment(gone))
    else:
        assert refused_field(decode_segment(gone)) == "expired"


def test_a_segment_describes_no_more_than_can_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes while others wait writes little; the same asset again does not count."""
    monkeypatch.setattr(content, "ASSETS_LIMIT", 3)
    monkeypatch.setattr(content, "ADVISORIES_LIMIT", 3)
    described = [AssetDescription(asset_id=f"pump-{n}", asset_class="pump", channels=()) for n in range(4)]
    assert refused_field(segment_of(Results(assets=tuple(described)))) == "assets"
    check_content(segment_of(Results(assets=tuple(described[:3] * 3))))
    revisions = tuple(make_advisory(revision=n) for n in range(4))
    assert refused_field(segment_of(Results(advisories=revisions))) == "advisories"


def test_what_a_stranger_said_does_nothing_on_a_terminal() -> None:
    """It is kept as the detail of the last rejection, which is logged and told."""
    rejection = Rejection.of(OWNER, IngestError("unknown field `\x1b[2J\u202e`"))
    assert rejection.detail == r"unknown field `\x1b[2J\u202e`"


def test_a_page_of_no_results_verifies(bare: Cloud) -> None:
    """It is a page, and has no row in the lake."""
    bare.put(encode_segment([make_page(OWNER, 1), make_page(OWNER, 2, Results())]))
    assert verify(bare.store, bare.folder / "lake", bare.intake.quarantine, lambda _: None).findings == []
