"""From states, health and prognoses to advisories: one for each asset and failure mode.

All times are source times of windows, so the same observations give the same advisories whenever they
are read. The advisor keeps what it knows in :class:`AssetContext`, which is saved with the journal position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np

from gateway.advisory_generation.context import (
    AssetContext,
    Open,
    active_in,
    confidence_in,
    forget,
    life_left,
    modes_of,
    remember,
)
from gateway.advisory_generation.life_cycle import Action, next_state
from gateway.advisory_generation.reason import UNCLASSIFIED, action_text, reason_text
from models.bundle.manifest import Thresholds
from models.records import Advisory, AdvisoryState, Health, Prognosis, State, Zone

CLOSE_FACTOR = 6  # a returned advisory closes after this many off-delays in normal
BESIDE_SHARE = 0.2  # a mode that keeps this much probability stands beside the new one, it was not mistaken for it
DEFAULT_ACTION = "Inspect the machine at the named channels."


class Advisor:
    """Raises, revises and returns the advisories of one asset class.

    Args:
        gateway_id: Part of each advisory's identity.
        asset_class: The class all given assets belong to.
        thresholds: On- and off-delay and the least confidence for a named mode, from the bundle's manifest.
        actions: Recommended action by failure mode, from the same place.
        model_version: The bundle's version, put on what is revised from now on.
        contexts: What an earlier advisor of the class remembered, by asset.
    """

    def __init__(
        self,
        *,
        gateway_id: str,
        asset_class: str,
        thresholds: Thresholds,
        actions: dict[str, str],
        model_version: int,
        contexts: dict[str, AssetContext] | None = None,
    ) -> None:
        self._gateway_id = gateway_id
        self._asset_class = asset_class
        self._thresholds = thresholds
        self._actions = actions
        self._model_version = model_version
        self.contexts: dict[str, AssetContext] = {} if contexts is None else contexts

    def advise(
        self, states: Iterable[State], health: Iterable[Health], prognoses: Iterable[Prognosis]
    ) -> tuple[Advisory, ...]:
        """Return the advisories that are new or changed by these windows, in the order of the windows."""
        life = {(p.asset_id, p.window_end): p for p in prognoses}
        changed: list[Advisory] = []
        for state, assessed in zip(states, health, strict=True):
            context = self.contexts.setdefault(state.asset_id, AssetContext())
            changed += self._window(context, state, assessed, life.get((state.asset_id, state.window_end)))
        return tuple(changed)

    def withdraw(self) -> tuple[Advisory, ...]:
        """Close what a newer version raised that is live no more, and return it: its evidence went with it."""
        withdrawn: list[Advisory] = []
        for context in self.contexts.values():
            doubted = [o for o in context.opened if o.raised_by > self._model_version]
            if doubted:
                context.opened = [o for o in context.opened if o not in doubted]
                context.out_windows = 0
                forget(context)
            withdrawn += [_withdrawn(o) for o in doubted]
        return tuple(withdrawn)

    def _window(
        self, context: AssetContext, state: State, health: Health, prognosis: Prognosis | None
    ) -> list[Advisory]:
        if state.zone is Zone.UNKNOWN:  # says nothing either way: no delay counts up and none starts anew
            return []
        if state.zone is Zone.NORMAL:
            return self._normal(context, state)
        remember(context, state, health, prognosis)
        if context.out_windows < self._thresholds.on_delay_windows:
            return []
        mode = self._leading(context)
        changed = self._raise(context, state, mode) if not active_in(context) else self._rename(context, state, mode)
        return changed + self._revise(context, state, {a.advisory_id for a in changed})

    def _normal(self, context: AssetContext, state: State) -> list[Advisory]:
        context.out_windows = 0
        context.normal_windows += 1
        off_delay = self._thresholds.off_delay_windows
        changed: list[Advisory] = []
        if context.normal_windows >= off_delay:
            changed += [self._move(o, Action.RETURN, state) for o in active_in(context)]
        if context.normal_windows >= off_delay * CLOSE_FACTOR:
            changed += [self._move(o, Action.CLOSE, state) for o in context.opened]
            context.opened = []
        if not active_in(context):
            forget(context)
        return changed

    def _leading(self, context: AssetContext) -> str:
        """Return the likeliest mode over the evidence, ``unclassified`` below the least confidence."""
        best = max(modes_of(context), key=lambda mode: confidence_in(context, mode), default=UNCLASSIFIED)
        return best if confidence_in(context, best) >= self._thresholds.minimum_confidence else UNCLASSIFIED

    def _raise(self, context: AssetContext, state: State, mode: str) -> list[Advisory]:
        """Raise a returned advisory of the same problem again, or a new one."""
        for known in reversed(context.opened):
            if known.advisory.failure_mode in {mode, UNCLASSIFIED} or mode == UNCLASSIFIED:
                named = known.advisory.failure_mode if mode == UNCLASSIFIED else mode
                again = next_state(known.advisory.state, Action.RAISE_AGAIN)
                known.raised_by = self._model_version
                return [self._tell(context, known, state, mode=named, state_now=again)]
        return [self._new(context, state, mode)]

    def _new(self, context: AssetContext, state: State, mode: str) -> Advisory:
        identity = f"{self._gateway_id}/{state.asset_id}/{mode}/{state.window_end.isoformat()}"
        blank = Advisory(
            advisory_id=hashlib.sha256(identity.encode()).hexdigest()[:20],
            revision=0,
            asset_id=state.asset_id,
            asset_class=self._asset_class,
            failure_mode=mode,
            state=AdvisoryState.ACTIVE,
            raised_at=state.window_end,
            updated_at=state.window_end,
            evidence_start=context.evidence_start or state.window_start,
            evidence_end=state.window_end,
            top_channels=(),
            confidence=0.0,
            life_p10_s=None,
            life_p50_s=None,
            life_p90_s=None,
            act_by=None,
            model_version=self._model_version,
            data_trust=0.0,
            reason="",
            recommended_action="",
        )
        context.opened.append(Open(advisory=blank, told_windows=0, raised_by=self._model_version))
        return self._tell(context, context.opened[-1], state, mode=mode, state_now=AdvisoryState.ACTIVE)

    def _rename(self, context: AssetContext, state: State, mode: str) -> list[Advisory]:
        """Let a mode that became clear take over, correct a mistaken one, or stand beside one that stays."""
        active = active_in(context)
        if mode == UNCLASSIFIED or mode in {o.advisory.failure_mode for o in active}:
            context.challenger, context.challenger_windows = "", 0
            return []
        context.challenger_windows = context.challenger_windows + 1 if mode == context.challenger else 1
        context.challenger = mode
        unclear = [o for o in active if o.advisory.failure_mode == UNCLASSIFIED]
        if unclear and context.challenger_windows >= self._thresholds.on_delay_windows:
            return [self._tell(context, unclear[0], state, mode=mode, state_now=unclear[0].advisory.state)]
        if unclear or context.challenger_windows < 2 * self._thresholds.on_delay_windows:
            return []
        mistaken = [o for o in active if confidence_in(context, o.advisory.failure_mode) < BESIDE_SHARE]
        if mistaken:
            return [self._tell(context, mistaken[-1], state, mode=mode, state_now=mistaken[-1].advisory.state)]
        return [self._new(context, state, mode)]

    def _revise(self, context: AssetContext, state: State, done: set[str]) -> list[Advisory]:
        """Tell again what changed enough to matter to a reader."""
        revised: list[Advisory] = []
        for known in active_in(context):
            before = known.advisory
            if before.advisory_id in done:
                continue
            now = self._describe(context, before, state, before.failure_mode)
            if context.evidence_windows >= 1.5 * known.told_windows or _differs(before, now):
                revised.append(self._tell(context, known, state, mode=before.failure_mode, state_now=before.state))
        return revised

    def _tell(
        self, context: AssetContext, known: Open, state: State, *, mode: str, state_now: AdvisoryState
    ) -> Advisory:
        described = self._describe(context, known.advisory, state, mode)
        known.advisory = replace(described, state=state_now, revision=known.advisory.revision + 1)
        known.told_windows = context.evidence_windows
        return known.advisory

    def _move(self, known: Open, action: Action, state: State) -> Advisory:
        before = known.advisory
        known.advisory = replace(
            before,
            state=next_state(before.state, action),
            revision=before.revision + 1,
            updated_at=state.window_end,
            model_version=self._model_version,
        )
        return known.advisory

    def _describe(self, context: AssetContext, advisory: Advisory, state: State, mode: str) -> Advisory:
        """Return *advisory* as the evidence of now tells it, with state and revision untouched."""
        now = state.window_end
        p10, p50, p90 = life_left(context, now)
        act_by = None if p10 is None else now + timedelta(seconds=p10)
        confidence = confidence_in(context, mode)
        trust = float(np.mean([e.good_share for e in context.evidence]))
        channels = context.evidence[-1].top_channels
        return replace(
            advisory,
            failure_mode=mode,
            updated_at=now,
            evidence_end=now,
            top_channels=channels,
            confidence=confidence,
            life_p10_s=p10,
            life_p50_s=p50,
            life_p90_s=p90,
            act_by=act_by,
            model_version=self._model_version,
            data_trust=trust,
            reason=reason_text(
                asset_id=advisory.asset_id,
                failure_mode=mode,
                confidence=confidence,
                evidence_start=advisory.evidence_start,
                windows=context.evidence_windows,
                top_channels=channels,
                data_trust=trust,
            ),
            recommended_action=action_text(
                action=self._actions.get(mode, DEFAULT_ACTION),
                act_by=act_by,
                life_p10_s=p10,
                life_p50_s=p50,
                basis=context.basis,
            ),
        )


def _withdrawn(known: Open) -> Advisory:
    before = known.advisory
    return replace(
        before,
        state=next_state(before.state, Action.CLOSE),
        revision=before.revision + 1,
        reason=f"{before.asset_id}: withdrawn with model version {known.raised_by}, which raised it. {before.reason}",
    )


def _differs(before: Advisory, now: Advisory) -> bool:
    """Return whether confidence or life changed enough to say so, or another version tells them."""
    if abs(before.confidence - now.confidence) >= 0.15 or before.model_version != now.model_version:
        return True
    if (before.life_p50_s is None) != (now.life_p50_s is None):
        return True
    if before.act_by is None or now.act_by is None or now.life_p50_s is None:
        return False
    moved = abs((now.act_by - before.act_by).total_seconds())
    return moved > max(0.25 * now.life_p50_s, 4 * 3600.0)
