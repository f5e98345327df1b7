r"""Patterns over browse paths: ``Machines/*/Monitoring/*``, and rules that name what they find.

A pattern is compared step by step. ``*`` and ``?`` stand for characters of one name, ``[ab]`` for one of some, ``**``
for any number of steps. In a rule ``{asset}`` and ``{channel}`` stand for characters too, and what they stood for names
the asset and the channel: ``Machines/{asset}/Monitoring/{channel}``. Several of a kind are joined, assets by ``-`` and
channels by ``.``; a rule without ``{channel}`` takes the last name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.tag_list import split_path

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_JOINED_BY = {"asset": "-", "channel": "."}
_STEPS_MOST = 64


@dataclass(frozen=True)
class Pattern:
    """What paths have to look like; made by `parse`.

    Attributes:
        steps: An expression for each name; None for any number of names.
    """

    steps: tuple[re.Pattern[str] | None, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Return the pattern that *text* describes.

        Raises:
            ValueError: If it has no step, too many, or a placeholder that is not known.
        """
        names = split_path(text)
        if not 1 <= len(names) <= _STEPS_MOST:
            raise ValueError(f"{text!r} needs 1 to {_STEPS_MOST} names with / between them")
        return cls(tuple(None if name == "**" else re.compile(_expression(name)) for name in names))

    @property
    def placeholders(self) -> frozenset[str]:
        """Which of ``asset`` and ``channel`` the pattern names."""
        groups = [group for step in self.steps if step is not None for group in step.groupindex]
        return frozenset(group.rstrip("0123456789") for group in groups)

    def begins_with(self, name: str) -> bool:
        """Return whether the pattern itself begins with *name*, not with something that may stand for it."""
        first = self.steps[0]
        return first is not None and first.pattern == _expression(name)

    def matches(self, names: Sequence[str]) -> dict[str, str] | None:
        """Return what the placeholders stood for if *names* is such a path, else None."""
        for reached, captured in _reached(self.steps, names):
            if all(step is None for step in self.steps[reached:]):
                return {kind: joint.join(captured[kind]) for kind, joint in _JOINED_BY.items() if captured[kind]}
        return None

    def may_go_on(self, names: Sequence[str]) -> bool:
        """Return whether a path that begins with *names* and is longer may match."""
        return any(reached < len(self.steps) for reached, _ in _reached(self.steps, names))


def _expression(name: str) -> str:
    """Return the regular expression of one step."""
    parts, end = [], 0
    for i, found in enumerate(_PLACEHOLDER.finditer(name)):
        if found[1] not in _JOINED_BY:
            raise ValueError(f"{found[0]} is not known; there are {{asset}} and {{channel}}")
        parts += [_plain(name[end : found.start()]), f"(?P<{found[1]}{i}>.+)"]
        end = found.end()
    return "(?s:" + "".join([*parts, _plain(name[end:])]) + r")\Z"


def _plain(text: str) -> str:
    """Return the regular expression of the wildcards in *text*, without the frame that fnmatch puts around it."""
    return fnmatch.translate(text).removeprefix("(?s:").removesuffix(r")\Z") if text else ""


_Captured = dict[str, tuple[str, ...]]


def _reached(steps: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> list[tuple[int, _Captured]]:
    """Return how many of *steps* may be used up after all of *names*, each with what its placeholders stood for."""
    nothing: _Captured = dict.fromkeys(_JOINED_BY, ())
    states: dict[int, _Captured] = {0: nothing}
    for name in names:
        after: dict[int, _Captured] = {}
        for reached, captured in _skipping(steps, states).items():
            step = steps[reached] if reached < len(steps) else re.compile(r"(?!)")
            if step is None:
                after.setdefault(reached, captured)
            elif found := step.match(name):
                told = dict(captured)
                for group, text in found.groupdict().items():
                    kind = group.rstrip("0123456789")
                    told[kind] = (*told[kind], text)
                after.setdefault(reached + 1, told)
        states = after
    return list(_skipping(steps, states).items())


def _skipping(steps: Sequence[re.Pattern[str] | None], states: dict[int, _Captured]) -> dict[int, _Captured]:
    """Return *states* and those behind a ``**`` that stands for nothing."""
    told = dict(states)
    for reached in sorted(states):
        at = reached
        while at < len(steps) and steps[at] is None:
            at += 1
            told.setdefault(at, states[reached])
    return told
