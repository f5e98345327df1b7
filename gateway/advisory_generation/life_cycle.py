"""The life cycle of an advisory, after the alarm states of ISA-18.2, as a table."""

from __future__ import annotations

from enum import StrEnum

from models.records import AdvisoryState


class Action(StrEnum):
    """What happens to an advisory: by the evidence, by a person, or by design."""

    RETURN = "return"
    RAISE_AGAIN = "raise_again"
    CLOSE = "close"
    ACKNOWLEDGE = "acknowledge"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    SUPPRESS = "suppress"
    UNSUPPRESS = "unsuppress"
    REMOVE_FROM_SERVICE = "remove_from_service"
    RETURN_TO_SERVICE = "return_to_service"


class IllegalTransition(ValueError):
    """An action that does not exist in the advisory's state; the advisory stays as it was."""


_S = AdvisoryState
TRANSITIONS: dict[AdvisoryState, dict[Action, AdvisoryState]] = {
    _S.ACTIVE: {
        Action.ACKNOWLEDGE: _S.ACKNOWLEDGED,
        Action.RETURN: _S.RETURNED,
        Action.SHELVE: _S.SHELVED,
        Action.SUPPRESS: _S.SUPPRESSED,
        Action.REMOVE_FROM_SERVICE: _S.OUT_OF_SERVICE,
        Action.CLOSE: _S.CLOSED,
    },
    _S.ACKNOWLEDGED: {
        Action.RETURN: _S.RETURNED,
        Action.SHELVE: _S.SHELVED,
        Action.SUPPRESS: _S.SUPPRESSED,
        Action.REMOVE_FROM_SERVICE: _S.OUT_OF_SERVICE,
        Action.CLOSE: _S.CLOSED,
    },
    _S.RETURNED: {
        Action.RAISE_AGAIN: _S.ACTIVE,
        Action.REMOVE_FROM_SERVICE: _S.OUT_OF_SERVICE,
        Action.CLOSE: _S.CLOSED,
    },
    _S.SHELVED: {
        Action.UNSHELVE: _S.ACTIVE,
        Action.RETURN: _S.RETURNED,
        Action.REMOVE_FROM_SERVICE: _S.OUT_OF_SERVICE,
        Action.CLOSE: _S.CLOSED,
    },
    _S.SUPPRESSED: {
        Action.UNSUPPRESS: _S.ACTIVE,
        Action.RETURN: _S.RETURNED,
        Action.REMOVE_FROM_SERVICE: _S.OUT_OF_SERVICE,
        Action.CLOSE: _S.CLOSED,
    },
    _S.OUT_OF_SERVICE: {Action.RETURN_TO_SERVICE: _S.ACTIVE, Action.CLOSE: _S.CLOSED},
    _S.CLOSED: {},
}


def next_state(state: AdvisoryState, action: Action) -> AdvisoryState:
    """Return the state that *action* leads to from *state*.

    Raises:
        IllegalTransition: If the table has no such step.
    """
    try:
        return TRANSITIONS[state][action]
    except KeyError:
        allowed = ", ".join(TRANSITIONS[state]) or "nothing"
        raise IllegalTransition(
            f"an advisory that is {state} cannot {action} (possible: {allowed}); it stays {state}"
        ) from None
