import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commissioning.pattern import Pattern

PUMP = ("Machines", "pump-01", "Monitoring", "speed_rpm")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("Machines/*/Monitoring/*", True),
        ("Machines/*/*", False),
        ("**", True),
        ("**/speed_*", True),
        ("Machines/**/Monitoring/**", True),
        ("Machines/pump-0[2-9]/**", False),
        ("machines/**", False),
    ],
)
def test_paths_are_compared_name_by_name(text: str, matches: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert (Pattern.parse(text).matches(PUMP) is not None) is matches


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("Machines/{asset}/Monitoring/{channel}", {"asset": "pump-01", "channel": "speed_rpm"}),
        ("Machines/pump-{asset}/**", {"asset": "01"}),
        ("{asset}/{asset}/{channel}/{channel}", {"asset": "Machines-pump-01", "channel": "Monitoring.speed_rpm"}),
    ],
)
def test_a_rule_names_asset_and_channel(rule: str, told: dict[str, str]) -> None:
    assert Pattern.parse(rule).matches(PUMP) == told


@pytest.mark.parametrize("text", ["", "/", "a/{machine}", "/".join("a" * 65)])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names with|not known"):
        Pattern.parse(text)


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "a*"]), min_size=1, max_size=6),
    st.lists(st.sampled_from("ab"), max_size=6),
)
def test_no_way_to_a_match_is_cut_off(steps: list[str], names: list[str]) -> None:
    """Every beginning of a path that matches may go on."""
    pattern = Pattern.parse("/".join(steps))
    if pattern.matches(names) is not None:
        assert all(pattern.may_go_on(names[:i]) for i in range(len(names)))
