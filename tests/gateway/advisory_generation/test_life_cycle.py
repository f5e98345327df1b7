import pytest

from gateway.advisory_generation.life_cycle import TRANSITIONS, Action, IllegalTransition, next_state
from models.records import AdvisoryState


def test_an_active_advisory_is_acknowledged_returns_and_closes() -> None:
    """The plain way through the life cycle."""
    state = AdvisoryState.ACTIVE
    for action in (Action.ACKNOWLEDGE, Action.RETURN, Action.CLOSE):
        state = next_state(state, action)

    assert state is AdvisoryState.CLOSED


@pytest.mark.parametrize(
    ("state", "action"),
    [(s, a) for s in AdvisoryState for a in Action if a not in TRANSITIONS[s]],
)
def test_a_step_the_table_does_not_have_is_refused(state: AdvisoryState, action: Action) -> None:
    with pytest.raises(IllegalTransition, match=f"is {state} cannot {action}"):
        next_state(state, action)


def test_every_state_has_its_row_and_every_state_but_closed_can_close() -> None:
    """Nothing an advisory can get into holds it for ever."""
    assert set(TRANSITIONS) == set(AdvisoryState)
    assert all(Action.CLOSE in row for state, row in TRANSITIONS.items() if state is not AdvisoryState.CLOSED)
    assert TRANSITIONS[AdvisoryState.CLOSED] == {}
