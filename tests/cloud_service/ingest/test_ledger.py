from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.ingest.ledger import missing_ranges
from models.fingerprints import page_fingerprints
from models.records import AssetDescription, Observations, Page, Results, Stream
from models.segment import decode_segment, encode_segment

RANGES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 15)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


@given(held=RANGES, first=st.integers(1, 60), length=st.integers(0, 30))
def test_missing_is_what_nobody_holds(held: list[tuple[int, int]], first: int, length: int) -> None:
    """Held and missing together are the range, and they never share a page."""
    last = first + length
    missing = missing_ranges(held, first, last)

    pages = [page for start, end in missing for page in range(start, end + 1)]
    covered = {page for start, end in held for page in range(start, end + 1)}
    assert pages == [page for page in range(first, last + 1) if page not in covered]
    assert all(following[0] > earlier[1] + 1 for earlier, following in itertools.pairwise(missing))


def page(seq: int, values: list[float], *, status: int = 0, samples: list[float] | None = None) -> Page:
    count = len(values)
    waveform = np.array(samples or [], np.float32)
    content = Observations(
        streams=(Stream("pump-01", "flow_m3_h"), Stream("pump-01", "speed_rpm")),
        stream=np.arange(count, dtype=np.uint32) % 2,
        source_time=np.arange(count, dtype=np.int64),
        value=np.array(values),
        status=np.full(count, status, np.uint32),
        sample_count=np.array([waveform.size] + [0] * (count - 1), np.uint32),
        samples=waveform,
    )
    return Page(gateway_id="gw", epoch="ab12cd34", seq=seq, committed_time=0, content=content)


def fingerprints(*pages: Page) -> list[int]:
    return [int(number) for number in page_fingerprints(decode_segment(encode_segment(pages)))]


def test_a_page_has_one_fingerprint_in_whatever_segment() -> None:
    """Segments that were cut elsewhere are compared page by page."""
    pages = [page(1, [1.0, 2.0, 3.0]), page(2, [4.0]), page(3, [5.0, 6.0], samples=[1.0, 2.0])]
    assert fingerprints(*pages) == [*fingerprints(pages[0]), *fingerprints(*pages[1:])]


@pytest.mark.parametrize(
    "other",
    [
        page(1, [1.0, 2.5]),
        page(1, [2.0, 1.0]),
        page(1, [1.0]),
        page(1, [1.0, 2.0], status=0x80000000),
        page(1, [1.0, 2.0], samples=[0.5]),
    ],
    ids=["value", "order", "count", "status", "waveform"],
)
def test_other_content_has_another_fingerprint(other: Page) -> None:
    """A cloned gateway's page is told from the one that is held."""
    assert fingerprints(other) != fingerprints(page(1, [1.0, 2.0]))


def test_results_have_a_fingerprint_too() -> None:
    """A page of results differs from another, and from none."""
    found = [
        fingerprints(
            Page(
                gateway_id="gw",
                epoch="ab12cd34",
                seq=1,
                committed_time=0,
                content=Results(assets=(AssetDescription(asset_id=name, asset_class="pump", channels=()),)),
            )
        )[0]
        for name in ("pump-01", "pump-02")
    ]
    assert 0 != found[0] != found[1]
