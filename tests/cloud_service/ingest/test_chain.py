"""What segments say of each other and of themselves: the chain, and what is not in them."""

from __future__ import annotations

import itertools

import pytest

from cloud_service.errors import ChainBroken
from cloud_service.metrics import metrics_text
from models.records import AssetDescription, GatewayEvent, Results, Stream, from_ns
from models.segment import (
    Expired,
    cut_segment,
    decode_segment,
    encode_segment,
    express_segment,
    segment_digest,
    tombstone,
)
from tests.cloud_service.conftest import EPOCH, make_page
from tests.cloud_service.ingest.conftest import OWNER, Cloud, pages

FLOW = Stream("pump-01", "flow_m3_h")


def chained(*ranges: tuple[int, int]) -> list[bytes]:
    """Return full segments of *ranges*, each naming the one before it."""
    segments: list[bytes] = []
    previous = ""
    for first, last in ranges:
        segments.append(encode_segment(pages(first, last), previous=previous))
        previous = segment_digest(segments[-1])
    return segments


def lost(first: int, last: int, previous: str, stands_for: str, observations: int) -> bytes:
    event = GatewayEvent(kind="expired", gateway_time=from_ns(0), message="gone")
    return tombstone(
        gateway_id=OWNER,
        epoch=EPOCH,
        first_seq=first,
        last_seq=last,
        previous=previous,
        stands_for=stands_for,
        expired=Expired(reason="size_limit", observations=observations),
        results=Results(events=(event,)),
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_chain_comes_in_any_order(bare: Cloud, order: tuple[int, ...]) -> None:
    """Backlog after live data, or before it."""
    segments = chained((1, 3), (4, 5), (6, 9))
    for place in order:
        held = bare.put(segments[place])
    assert held == [(1, 9)]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_neighbour_that_does_not_fit_is_refused(bare: Cloud, first: int) -> None:
    """Whichever side came first: the journal was changed in between."""
    one, two, three = chained((1, 3), (4, 5), (6, 9))
    forged = encode_segment(pages(4, 5), previous=segment_digest(three))
    bare.put((one, forged, three)[first])
    other = (forged, one, forged)[first]
    with pytest.raises(ChainBroken) as refused:
        bare.put(other)
    assert (refused.value.reason, refused.value.field, refused.value.status) == ("chain", "previous", 409)
    assert bare.put(two if first != 1 else forged) != []


def test_a_segment_without_a_chain_is_not_checked(bare: Cloud) -> None:
    """Segments from before chains, and the first one after them."""
    for first in (1, 4, 7):
        bare.put(encode_segment(pages(first, first + 2)))
    assert bare.journal().held == [(1, 9)]


def test_a_cut_segment_stands_where_the_whole_one_stood(bare: Cloud) -> None:
    """Its rows are stored, the others counted; the whole one is no conflict later, and brings nothing."""
    one, two, three = chained((1, 3), (4, 5), (6, 9))
    for data in (one, cut_segment(two, [FLOW]), three):
        bare.put(data)
    journal = bare.journal()
    assert (journal.observations, journal.withheld) == (45 - 4, 4)
    assert bare.put(two) == [(1, 9)]
    assert (bare.journal().observations, bare.journal().withheld) == (45 - 4, 4)
    assert f'observations_withheld_total{{gateway_id="{OWNER}"}} 4.0' in metrics_text(bare.store).decode()


def test_a_tombstone_fills_its_place_for_good(bare: Cloud) -> None:
    """Nothing of it is missing any more, what is gone is counted by reason, and the chain goes on behind it."""
    one, two, three = chained((1, 3), (4, 5), (6, 9))
    gone = lost(4, 5, segment_digest(one), segment_digest(two), 10)
    for data in (one, gone, three, gone):
        bare.put(data)
    journal = bare.journal()
    assert (journal.held, journal.missing) == ([(1, 9)], [])
    assert (journal.observations, journal.expired) == (35, {"size_limit": 10})
    line = f'observations_expired_total{{gateway_id="{OWNER}",reason="size_limit"}} 10.0'
    assert line in metrics_text(bare.store).decode()


def test_a_tombstone_of_what_is_held_changes_nothing(bare: Cloud) -> None:
    """The answer to the segment was lost, and the gateway had to let it go."""
    one, two = chained((1, 3), (4, 5))
    for data in (one, two, lost(4, 5, segment_digest(one), segment_digest(two), 10)):
        held = bare.put(data)
    assert held == [(1, 5)]
    assert (bare.journal().observations, bare.journal().expired) == (25, {})


def test_stored_withheld_and_expired_are_all_of_the_pages(bare: Cloud) -> None:
    """Whatever was uploaded of each segment, the sum is what the gateway appended."""
    one, two, three, four = chained((1, 3), (4, 5), (6, 9), (10, 10))
    gone = lost(6, 9, segment_digest(two), segment_digest(three), 20)
    for data in (four, cut_segment(one, [FLOW]), gone, two):
        bare.put(data)
    journal = bare.journal()
    assert journal.held == [(1, 10)]
    assert journal.observations + journal.withheld + sum(journal.expired.values()) == 10 * 5


def test_a_page_goes_ahead_of_its_segment(bare: Cloud) -> None:
    """It is stored once; what the segment has beside it is stored when it comes, and checked as ever."""
    described = AssetDescription(asset_id="pump-01", asset_class="centrifugal_pump", channels=())
    ahead = make_page(OWNER, 5, Results(assets=(described,)))
    (one,) = chained((1, 3))
    two = encode_segment([*pages(4, 4), ahead, *pages(6, 6)], previous=segment_digest(one))
    assert bare.put(express_segment(ahead)) == [(5, 5)]
    assert bare.put(one) == [(1, 3), (5, 5)]
    assert bare.put(two) == [(1, 6)]
    assert (bare.journal().results, bare.journal().observations) == (1, 25)
    with pytest.raises(ChainBroken):
        bare.put(encode_segment(pages(7, 8), previous=segment_digest(one)))


def test_a_segment_all_of_whose_pages_went_ahead_is_in_the_chain(bare: Cloud) -> None:
    """It brings no page, and its neighbour is checked all the same."""
    ahead = make_page(OWNER, 1, Results(events=(GatewayEvent(kind="started", gateway_time=from_ns(0), message=""),)))
    whole = encode_segment([ahead])
    for data in (express_segment(ahead), whole, whole):
        assert bare.put(data) == [(1, 1)]
    with pytest.raises(ChainBroken):
        bare.put(encode_segment(pages(2, 3), previous=segment_digest(b"another")))


def test_without_the_check_a_changed_chain_would_be_stored(bare: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr("cloud_service.pipeline.check_chain", lambda *_: None)
    one, _, three = chained((1, 3), (4, 5), (6, 9))
    for data in (one, encode_segment(pages(4, 5), previous=segment_digest(three))):
        held = bare.put(data)
    assert held == [(1, 5)]
    assert decode_segment(one).chain_digest == segment_digest(one)
