"""Items on their way from one subscription to another: no value is left out, none comes twice, none out of order.

For a while both subscriptions tell of an item, and what the new one tells is held back. When the old one has told all
it had when the new one began (it says that it has nothing more, or has sent some messages more), it counts no longer;
when the new one has spoken once more, it has told at least as much, and what is behind the last value of the old one
passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.monitored_items import Subscription
from models.records import BoolArray

_MESSAGES = 3  # of the old subscription, begun to be told after the new one was


class Handover:
    """Some items that leave a subscription.

    Args:
        source: The subscription they leave.
        ids: The server's numbers of them there, by client handle.

    Attributes:
        is_over: Whether what was held back may pass.
        is_told: Whether it was given out.
    """

    def __init__(self, source: Subscription, ids: Mapping[int, int]) -> None:
        self.source = source
        self.ids = dict(ids)
        self.is_over = False
        self.is_told = False
        self._targets: frozenset[Subscription] = frozenset()
        self._awaited: set[Subscription] | None = None  # targets that have to speak before it goes on
        self._messages = 0  # of the old subscription since all targets spoke
        self._handles = np.fromiter(ids, np.uint32)
        self._last: dict[int, tuple[float, ...]] = {}
        self._held: list[Columns] = []

    def begun(self, ids: Mapping[int, int], targets: Iterable[Subscription]) -> None:
        """Take note that the items *ids* are in the subscriptions *targets* too, and the others stay."""
        self.ids = dict(ids)
        self._handles = np.fromiter(ids, np.uint32)
        self._targets = frozenset(targets)
        self._awaited = set(self._targets)

    def is_of(self, subscription: Subscription) -> bool:
        """Return whether items go from *subscription*, or to it."""
        return subscription is self.source or subscription in self._targets

    def sort_out(self, subscription: Subscription, values: Columns | None) -> Columns | None:
        """Return what passes of *values*, a message of *subscription*; None is a keep-alive."""
        if subscription is self.source:
            return self._old(values)
        if values is not None and (ours := np.isin(values.handle, self._handles)).any():
            self._held.append(select(values, ours))
            values = select(values, ~ours)
        if self._awaited is not None:
            self._awaited.discard(subscription)
            self.is_over = self._has_told_all() and not self._awaited
        return values

    def _old(self, values: Columns | None) -> Columns | None:
        """Return what passes of *values* of the old subscription."""
        if self._has_told_all():
            return values if values is None else select(values, ~np.isin(values.handle, self._handles))
        if values is not None:
            self._remember(values)
        if self._awaited is not None and not self._awaited:
            self._messages += 1 if values is not None else _MESSAGES
            if self._has_told_all():
                self._awaited = set(self._targets)
        return values

    def _has_told_all(self) -> bool:
        return self._messages >= _MESSAGES

    def end(self) -> Columns | None:
        """Return what was held back and has not been told yet; None when there is none."""
        self.is_over = self.is_told = True
        if not self._held:
            return None
        values = Columns.concatenate(self._held)
        self._held = []
        rows = np.arange(len(values.handle))
        fresh = np.ones(len(rows), np.bool_)
        for handle, last in self._last.items():
            ours = rows[values.handle == handle]
            told = [row for row in ours.tolist() if _row(values, row) == last]
            if told:
                fresh[ours[ours <= told[-1]]] = False
        return select(values, fresh)

    def _remember(self, values: Columns) -> None:
        for row in np.flatnonzero(np.isin(values.handle, self._handles)).tolist():
            self._last[int(values.handle[row])] = _row(values, row)


def select(values: Columns, kept: BoolArray) -> Columns:
    """Return the rows of *values* that are *kept*, shape ``(n,)``, with their waveforms."""
    names = [field.name for field in dataclasses.fields(Columns) if field.name != "samples"]
    columns: dict[str, Any] = {name: getattr(values, name)[kept] for name in names}
    samples = values.samples[np.repeat(kept, values.sample_count)]
    return dataclasses.replace(values, samples=samples, **columns)


def _row(values: Columns, row: int) -> tuple[float, ...]:
    value = float(values.value[row])
    return (
        int(values.source_time[row]),
        0.0 if np.isnan(value) else value,
        int(values.status[row]),
        int(values.sample_count[row]),
    )
