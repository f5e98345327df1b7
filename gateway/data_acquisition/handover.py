"""Items on their way from one subscription to another: no value is left out, none comes twice, none out of order.

For a while both subscriptions tell of an item. What the new one tells is held back until the old one has told all it
had when the new one began; then the rest follows. For a while is: until the old one says that it has nothing more (a
keep-alive), or has sent some messages more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
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
        targets: The subscriptions they go to.

    Attributes:
        is_over: Whether the old subscription has told all.
        is_told: Whether what was held back was given out.
    """

    def __init__(self, source: Subscription, ids: Mapping[int, int], targets: Collection[Subscription]) -> None:
        self.source = source
        self.ids = dict(ids)
        self.is_over = False
        self.is_told = False
        self._subscriptions = (source, *targets)
        self._handles = np.fromiter(ids, np.uint32)
        self._last: dict[int, tuple[float, ...]] = {}
        self._held: list[Columns] = []
        self._messages: int | None = None

    def sort_out(self, subscription: Subscription, values: Columns | None) -> Columns | None:
        """Return what passes of *values*, a message of *subscription*; None is a keep-alive."""
        if self.is_over:
            return values
        if subscription is self.source:
            if self._messages is not None:
                self._messages += 1
                self.is_over = values is None or self._messages >= _MESSAGES
            if values is not None:
                self._remember(values)
            return values
        if values is None or not (ours := np.isin(values.handle, self._handles)).any():
            return values
        self._messages = self._messages or 0
        self._held.append(select(values, ours))
        return select(values, ~ours)

    def is_of(self, subscription: Subscription) -> bool:
        """Return whether items go from *subscription*, or to it."""
        return subscription in self._subscriptions

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
