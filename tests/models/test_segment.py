"""A segment holds what its pages held, and bytes from outside either are one or are refused."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import segment_layout as layout
from models.fingerprints import page_fingerprints
from models.records import Observations, Page, Results, Stream, WindowFeatures, from_ns
from models.segment import (
    MAX_ROWS,
    MAX_SAMPLES,
    MAX_SEGMENT_BYTES,
    Expired,
    Segment,
    SegmentError,
    SegmentKind,
    cut_segment,
    decode_segment,
    encode_segment,
    express_segment,
    segment_digest,
    segment_streams,
    tombstone,
)
from tests import strategies

BODY = len(layout.MAGIC) + 32

contents = st.lists(strategies.observations() | strategies.results, min_size=1, max_size=5)


def pages_of(items: Sequence[Observations | Results], first: int = 7) -> list[Page]:
    """Return pages that hold *items*, with seq numbers from *first*."""
    return [
        Page(gateway_id="gw-1", epoch="e0", seq=seq, committed_time=0, content=item)
        for seq, item in enumerate(items, first)
    ]


def rows_of_page(segment: Segment, seq: int) -> Observations:
    """Return the rows of one page, as a segment keeps them: by stream, in their order."""
    return segment.observations.take(segment.seq == seq)


def by_stream(rows: Observations) -> Observations:
    """Return *rows* sorted by the names of their streams, in their order inside each."""
    places = {stream: place for place, stream in enumerate(sorted(rows.streams))}
    keys = np.array([places[stream] for stream in rows.streams], np.int64)[rows.stream]
    return rows.take(np.argsort(keys, kind="stable"))


@given(items=contents)
def test_every_page_comes_back(items: list[Observations | Results]) -> None:
    """Each row with its page, in its order inside its stream; each page of results with its seq."""
    segment = decode_segment(encode_segment(pages_of(items)))
    assert (segment.gateway_id, segment.epoch) == ("gw-1", "e0")
    assert (segment.first_seq, segment.last_seq) == (7, 6 + len(items))
    assert (np.diff(segment.observations.stream.astype(np.int64)) >= 0).all()
    for page in pages_of(items):
        if isinstance(page.content, Observations):
            assert strategies.same(by_stream(rows_of_page(segment, page.seq)), by_stream(page.content))
        else:
            assert (page.seq, page.content) in segment.results


def test_long_streams_come_back() -> None:
    """Columns longer than one block of values, of streams of unlike length."""
    items = [strategies.make_observations(streams=3, rows=rows) for rows in (1, 200, 63, 65)]
    segment = decode_segment(encode_segment(pages_of(items)))
    for page, item in zip(pages_of(items), items, strict=True):
        assert strategies.same(by_stream(rows_of_page(segment, page.seq)), by_stream(item))


@given(items=contents)
def test_the_same_pages_give_the_same_bytes(items: list[Observations | Results]) -> None:
    """A segment that is made again after a crash has the digest it had."""
    assert encode_segment(pages_of(items)) == encode_segment(pages_of(items))


@given(items=contents, place=st.integers(0), change=st.integers(1, 255))
def test_a_changed_byte_is_refused(items: list[Observations | Results], place: int, change: int) -> None:
    data = bytearray(encode_segment(pages_of(items)))
    data[place % len(data)] ^= change
    with pytest.raises(SegmentError):
        decode_segment(bytes(data))


@given(items=contents, place=st.integers(0), change=st.integers(1, 255), cut=st.integers(0, 30))
def test_a_forged_body_decodes_or_is_refused(
    items: list[Observations | Results], place: int, change: int, cut: int
) -> None:
    """With its digest made right again, a changed body still ends in SegmentError or in columns that fit together."""
    body = bytearray(encode_segment(pages_of(items))[BODY:])
    body[place % len(body)] ^= change
    try:
        segment = decode_segment(sealed(bytes(body[: len(body) - cut])))
    except SegmentError:
        return
    rows = segment.observations
    assert len(segment.seq) == len(rows) == len(rows.value) == len(rows.status) == len(rows.waveforms())
    assert not len(rows) or int(rows.stream.max()) < len(rows.streams)
    assert len(page_fingerprints(segment)) == segment.last_seq - segment.first_seq + 1


def test_without_the_digest_a_changed_value_would_pass() -> None:
    """The control: the check of the digest is what refuses a change that still decodes."""
    data = encode_segment(pages_of([strategies.make_event("normal")]))
    forged = decode_segment(sealed(data[BODY:].replace(b"gw-1", b"gw-2")))
    assert forged.gateway_id == "gw-2"


def forged(data: bytes, **claims: object) -> bytes:
    """Return *data* with other *claims* in its head, and a digest that is right."""
    size = int.from_bytes(data[BODY : BODY + 2], "little")
    head = layout._head_decoder.decode(data[BODY + 2 : BODY + 2 + size])
    packed = msgspec.msgpack.encode(msgspec.structs.replace(head, **claims))
    return sealed(len(packed).to_bytes(2, "little") + packed + data[BODY + 2 + size :])


@pytest.mark.parametrize(
    "claims",
    [
        {"rows": MAX_ROWS},
        {"rows": MAX_ROWS + 1},
        {"rows": 20_000},
        {"rows": -1},
        {"samples": MAX_SAMPLES},
        {"samples": 250_000},
        {"samples": -1},
        {"streams": 100_000},
        {"streams": 4_000},
        {"streams": 0},
        {"withheld": 1},
        {"first_seq": 0},
        {"last_seq": 0},
        {"last_seq": 2**62},
        {"last_seq": 900_000},
        {"result_pages": 900_000},
        {"result_pages": 2},
        {"names_bytes": 16 * 2**20},
        {"results_bytes": 16 * 2**20},
        {"results_bytes": 2**30},
        {"lengths": (2**62,) * 27},
        {"lengths": ()},
        {"previous": b"short"},
        {"stands_for": bytes(32)},
        {"expired": ("damaged", 3)},
        {"kind": SegmentKind.EXPRESS},
        {"kind": SegmentKind.CUT},
        {"kind": SegmentKind.TOMBSTONE},
    ],
    ids=str,
)
def test_a_lying_head_is_refused_before_memory_is_taken(claims: dict[str, object]) -> None:
    data = encode_segment(pages_of([strategies.make_observations(streams=3), strategies.make_event("one")]))
    tracemalloc.start()
    try:
        with pytest.raises(SegmentError):
            decode_segment(forged(data, **claims))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_bytes_above_the_limit_are_refused() -> None:
    with pytest.raises(SegmentError, match="above the limit"):
        decode_segment(bytes(MAX_SEGMENT_BYTES + 1))


def test_a_block_too_many_is_refused_even_when_empty() -> None:
    """A segment is written in one way."""
    data = encode_segment(pages_of([strategies.make_event("normal")]))
    size = int.from_bytes(data[BODY : BODY + 2], "little")
    lengths = layout._head_decoder.decode(data[BODY + 2 : BODY + 2 + size]).lengths
    assert decode_segment(forged(data, lengths=lengths)).results
    with pytest.raises(SegmentError, match="more blocks"):
        decode_segment(forged(data, lengths=(*lengths, 0)))


def test_pages_with_a_hole_make_no_segment() -> None:
    items = [strategies.make_event("one"), strategies.make_event("two"), strategies.make_event("three")]
    pages = pages_of(items)
    with pytest.raises(SegmentError, match="hole"):
        encode_segment([pages[0], pages[2]])
    with pytest.raises(SegmentError, match="at least one page"):
        encode_segment([])


def sealed(body: bytes) -> bytes:
    """Return *body* as a segment whose digest is right."""
    return layout.MAGIC + hashlib.sha256(body).digest() + body


@given(items=contents, data=st.data())
def test_a_cut_segment_counts_what_it_leaves_out(items: list[Observations | Results], data: st.DataObject) -> None:
    """Its pages are known by the same numbers, and it stands where the full one stood."""
    whole_bytes = encode_segment(pages_of(items), previous="ab" * 32)
    whole = decode_segment(whole_bytes)
    out = data.draw(st.sets(st.sampled_from(whole.observations.streams or [Stream("a", "b")])))
    cut = decode_segment(cut_segment(whole_bytes, out))
    of_row = np.array([stream in out for stream in whole.observations.streams], np.bool_)[whole.observations.stream]
    left = Segment(**{**vars(whole), "observations": whole.observations.take(~of_row), "seq": whole.seq[~of_row]})
    for seq in range(whole.first_seq, whole.last_seq + 1):
        assert strategies.same(by_stream(rows_of_page(left, seq)), by_stream(rows_of_page(cut, seq)))
    assert {part.stream: part.observations for part in cut.withheld} == {
        stream: int(np.count_nonzero(whole.observations.stream == place))
        for place, stream in enumerate(whole.observations.streams)
        if stream in out
    }
    assert cut.results == whole.results
    assert (cut.previous, cut.chain_digest) == (whole.previous, segment_digest(whole_bytes))
    assert (page_fingerprints(cut) == page_fingerprints(whole)).all()


def test_a_page_that_differs_has_another_fingerprint() -> None:
    """The control: what is left out counts, so a cut of other pages does not pass for a cut of these."""
    rows, others = (strategies.make_observations(first_value=value) for value in (0.0, 1.0))
    out = rows.streams[:1]
    cuts = [decode_segment(cut_segment(encode_segment(pages_of([part])), out)) for part in (rows, others)]
    assert cuts[0].withheld == cuts[1].withheld
    assert page_fingerprints(cuts[0]) != page_fingerprints(cuts[1])


def test_the_rows_left_out_are_told_with_their_times() -> None:
    rows = strategies.make_observations(streams=2, rows=3)
    (part,) = decode_segment(cut_segment(encode_segment(pages_of([rows])), rows.streams[1:])).withheld
    assert (part.stream, part.observations) == (rows.streams[1], 3)
    assert (part.start_ns, part.end_ns) == (strategies.NOON_NS, strategies.NOON_NS + 2 * strategies.SECOND_NS)


def test_a_tombstone_says_what_is_gone_and_takes_the_place_in_the_chain() -> None:
    """Its results stand on its last page: whoever reads on goes on behind it."""
    data = tombstone(
        gateway_id="gw-1",
        epoch="e0",
        first_seq=7,
        last_seq=9,
        previous="ab" * 32,
        stands_for="cd" * 32,
        expired=Expired(reason="damaged", observations=12),
        results=strategies.make_event("gone"),
    )
    segment = decode_segment(data)
    assert (segment.kind, segment.previous, segment.chain_digest) == ("tombstone", "ab" * 32, "cd" * 32)
    assert segment.expired == Expired(reason="damaged", observations=12)
    assert segment.results == ((9, strategies.make_event("gone")),)
    assert cut_segment(data, ()) == data


def test_results_go_ahead_with_the_fingerprint_of_their_page() -> None:
    pages = pages_of([strategies.make_observations(), strategies.make_event("now")])
    ahead = decode_segment(express_segment(pages[1]))
    assert (ahead.kind, ahead.previous, ahead.chain_digest) == ("express", "", "")
    assert page_fingerprints(ahead) == page_fingerprints(decode_segment(encode_segment(pages)))[1]
    with pytest.raises(SegmentError, match="only results"):
        express_segment(pages[0])


def test_a_segment_of_the_first_version_is_read() -> None:
    """As version 1 wrote it; it is a full one without a link."""
    items: list[Observations | Results] = [
        *(strategies.make_observations(streams=3, rows=rows) for rows in (1, 200, 63)),
        strategies.make_waveform([0.5, -1.0, 2.25]),
        strategies.make_event("one"),
    ]
    data = (Path(__file__).parent / "data" / "segment-v1.wseg").read_bytes()
    old, new = decode_segment(data), decode_segment(encode_segment(pages_of(items)))
    assert (old.kind, old.previous, old.chain_digest) == ("full", "", segment_digest(data))
    assert (page_fingerprints(old) == page_fingerprints(new)).all()
    assert old.results == new.results
    for seq in range(7, 11):
        assert strategies.same(by_stream(rows_of_page(old, seq)), by_stream(rows_of_page(new, seq)))


def test_what_compresses_too_well_is_filled_up() -> None:
    """So that no one may send a kilobyte that unpacks to a gigabyte; ours pays for what it holds."""
    rows = 200_000
    still = Observations.of_values(
        (Stream("pump-01", "set_point"),),
        np.zeros(rows, np.uint32),
        np.arange(rows) * strategies.SECOND_NS,
        np.full(rows, 20.0),
        np.zeros(rows, np.uint32),
    )
    data = encode_segment(pages_of([still]))
    assert rows * 36 / layout.MAX_GROWTH < len(data) < rows / 10
    assert strategies.same(decode_segment(data).observations, still)
    with pytest.raises(SegmentError, match="unpack to"):
        decode_segment(sealed(data[BODY:].rstrip(b"\0")))


def test_the_streams_are_told_by_the_first_bytes() -> None:
    """Also when what comes behind them is damaged; but not when they are damaged themselves."""
    rows = strategies.make_observations(streams=40, rows=100)
    data = bytearray(encode_segment(pages_of([rows])))
    data[-1] ^= 1
    assert set(segment_streams(bytes(data[:1000])) or ()) == set(rows.streams)
    assert segment_streams(bytes(data[:100])) is None
    data[data.index(b"pump-01")] ^= 1
    assert segment_streams(bytes(data)) is None
    assert segment_streams(b"") is None


def test_results_that_pack_too_well_are_paid_for() -> None:
    """A small number takes one byte and becomes a float of 32: what it comes to is what counts."""
    many = WindowFeatures(
        asset_id="a",
        asset_class="b",
        window_start=from_ns(0),
        window_end=from_ns(0),
        feature_hash="",
        model_version=1,
        good_share=1.0,
        values=(0.0,) * 200_000,
    )
    data = encode_segment(pages_of([Results(features=(many,))]))
    assert len(data) > 200_000 * 32 / layout.MAX_GROWTH
    assert decode_segment(data).results[0][1].features == (many,)
    with pytest.raises(SegmentError, match="unpack to"):
        decode_segment(sealed(data[BODY:].rstrip(b"\0")))
