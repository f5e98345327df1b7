"""Batches of several sources made one, and the results of several commits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from models.records import Observations, Results, Stream, UInt32Array

_KEPT = 8


class Joiner:
    """Joins batches over one table of streams, and hands down the same table while the batches' tables are the same.

    That is what makes the next steps cheap: they know a table that they have seen before by its identity.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[list[tuple[Stream, ...]], tuple[Stream, ...], list[UInt32Array]]] = {}

    def join(self, parts: Sequence[Observations]) -> Observations:
        """Return the rows of *parts*, one after the other."""
        filled = [part for part in parts if len(part)]
        if len(filled) < 2:
            return filled[0] if filled else Observations.empty()
        streams, places = self._table([part.streams for part in filled])
        return Observations(
            streams=streams,
            stream=np.concatenate([place[part.stream] for place, part in zip(places, filled, strict=True)]),
            source_time=np.concatenate([part.source_time for part in filled]),
            value=np.concatenate([part.value for part in filled]),
            status=np.concatenate([part.status for part in filled]),
            sample_count=np.concatenate([part.sample_count for part in filled]),
            samples=np.concatenate([part.samples for part in filled]),
        )

    def _table(self, tables: list[tuple[Stream, ...]]) -> tuple[tuple[Stream, ...], list[UInt32Array]]:
        key = tuple(id(table) for table in tables)
        known = self._known.get(key)
        if known is None:
            index: dict[Stream, int] = {}
            places = [np.array([index.setdefault(s, len(index)) for s in table], np.uint32) for table in tables]
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[key] = tables, tuple(index), places  # tables are kept so that no id is used again
        return known[1], known[2]


def joined(parts: Iterable[Results]) -> Results:
    """Return all records of *parts*, in order."""
    several = [part for part in parts if part]
    if len(several) < 2:
        return several[0] if several else Results()
    names = [one.name for one in dataclasses.fields(Results)]
    return Results(**{name: tuple(record for part in several for record in getattr(part, name)) for name in names})
