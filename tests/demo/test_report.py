"""The demo's page."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from demo.report import Timeline, write_report
from models.records import Health
from tests.demo.test_outcome import ADVISORY, DAY, FAULT, KEPT, START

HEALTH = Health(
    asset_id="pump-01",
    window_end=START + DAY,
    index=40.0,
    grade="C",
    failure_mode="imbalance",
    confidence=0.8,
    probabilities={},
    model_version=1,
)


def test_the_page_shows_each_machine_and_escapes_what_it_is_told(tmp_path: Path) -> None:
    """Health, truth and advisories are drawn; hostile text stays text; labels at the end share no lane."""
    end = START + 5 * DAY
    last = replace(ADVISORY, raised_at=end - timedelta(hours=2), updated_at=end)
    late = [
        replace(last, advisory_id="bad", model_version=9),
        replace(last, advisory_id="hostile", failure_mode="<script>alert(1)</script>"),
    ]
    path = tmp_path / "report.html"
    write_report(
        path,
        KEPT,
        timeline=Timeline(start=START, end=end),
        faults=[FAULT],
        severity={"pump-01": [(START, 0.0), (START + 4 * DAY, 1.0)], "pump-02": [(START, 0.0)]},
        health=[HEALTH],
        advisories=[ADVISORY, *late],
        bad_versions=frozenset({("centrifugal_pump", 9)}),
        account=["<b>told</b>"],
    )
    page = path.read_text()
    lanes = re.findall(r'class="label" x="[\d.]+" y="([\d.]+)"[^>]*text-anchor="end"', page)

    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "<b>told" not in page
    assert "the bad bundle&#39;s" in page
    assert len(lanes) == len(set(lanes)) == 2


@pytest.mark.parametrize("days", [1, 15, 66, 400])
def test_labels_of_the_time_axis_have_room(days: int) -> None:
    """However long a slow machine took, no label reaches into the next one or out of the picture."""
    places = [tick.x for tick in Timeline(start=START, end=START + days * DAY).ticks()]

    assert all(after - before >= 40.0 for before, after in pairwise(places))
    assert 0.0 <= places[0] <= places[-1] <= 880.0
