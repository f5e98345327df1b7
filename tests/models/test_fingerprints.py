"""What identifies a page must not change with the records' shape: stored numbers are compared with new ones."""

from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from models.fingerprints import results_fingerprint
from models.records import Basis, ChannelShare, Health, Prognosis, Results

AT = datetime(2026, 3, 2, 8, 0, 0, 250000, tzinfo=UTC)
HEALTH = Health(
    asset_id="pump-01",
    window_end=AT,
    index=None,
    grade="U",
    failure_mode=None,
    confidence=0.1,
    probabilities={"b": 0.25, "a": 1e-7},
    model_version=None,
)
PROGNOSIS = Prognosis(asset_id="pump-01", window_end=AT, p10_s=0.0, p50_s=3600.5, p90_s=1e9, model_version=3)
# As the release before `Prognosis.basis` and `Health.top_channels` computed it.
BEFORE = 1889351783902247564


def number(results: Results) -> int:
    return int(results_fingerprint({name: getattr(results, name) for name in results.__dataclass_fields__}))


def test_pages_from_before_a_field_came_keep_their_number() -> None:
    """A gateway that was upgraded is not taken for a clone of itself."""
    assert number(Results(health=(HEALTH,), prognoses=(PROGNOSIS,))) == BEFORE


def test_records_and_what_they_are_as_json_have_one_number() -> None:
    """The lake holds JSON, the segment records; both tell the same page."""
    share = ChannelShare(
        channel="flow", share=1.0, feature="mean", now=1.0, normal_low=2.0, normal_high=3.0, unit="m³/h"
    )
    results = Results(
        health=(replace(HEALTH, top_channels=(share,)),), prognoses=(replace(PROGNOSIS, basis=Basis.CUT_HISTORY),)
    )
    told = {name: msgspec.json.decode(msgspec.json.encode(getattr(results, name))) for name in Results.__annotations__}
    assert int(results_fingerprint(told)) == number(results)


def test_what_came_later_counts_once_it_says_something() -> None:
    """Pages that differ only in a later field are different pages."""
    assert number(Results(prognoses=(replace(PROGNOSIS, basis=Basis.CUT_HISTORY),))) != number(
        Results(prognoses=(PROGNOSIS,))
    )
