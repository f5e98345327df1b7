"""A segment of real recordings stays as small as was promised."""

from __future__ import annotations

from itertools import islice

import pytest

from benchmarks import segments
from models.segment import encode_segment

LIMITS = {"SKAB": 2.5, "C-MAPSS FD001": 1.5}


def test_an_observation_takes_few_bytes() -> None:
    """Value, time, quality and all framing, at 600 rows a stream."""
    recordings = {name: parts for name, parts in segments.recordings() if name in LIMITS}
    if not recordings:
        pytest.skip("neither SKAB nor C-MAPSS is here")
    for name, parts in recordings.items():
        for pages in islice(parts, 0, None, 10):
            size = len(encode_segment(pages, previous="0" * 64))
            assert size <= LIMITS[name] * segments.rows_in(pages)
