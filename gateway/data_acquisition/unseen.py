"""What lies unseen before values that come: holes that history may fill, and gaps where there is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gateway.config import ServerConfig, TimeSource
from gateway.data_acquisition.backfill import Wanted
from gateway.data_acquisition.batch import Stored
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.tags import WantedTags
from gateway.data_acquisition.watched import NEVER, Watched
from gateway.journal import Hole
from models.records import BoolArray, Gap, Stream, from_ns

_OVERFLOW = np.uint32(0x80)  # the server's queue dropped values
_INFO = np.uint32(0xC80)  # InfoType and Overflow bit; the bit counts with InfoType DataValue
_OVERFLOW_BEFORE = np.uint32(0x480)
_NEVER_SEEN = "never read before"
_NOT_LISTENED = "not listened"
_OVERFLOWED = "server's queue overflowed"


class Unseen:
    """Finds the holes of one server's tags.

    Args:
        server: Its configuration; only values timed by their source are found again in history.
        watched: What is known of the tags.
        stored: What is stored, and which holes are open.
        limit_ns: How far back history is fetched for a stream never seen before.
    """

    def __init__(self, server: ServerConfig, watched: Watched, stored: Stored, limit_ns: int) -> None:
        self._is_timed_by_source = server.time is TimeSource.SOURCE
        self._watched = watched
        self._stored = stored
        self._limit_ns = limit_ns

    def before(self, values: Columns) -> list[Hole]:
        """Return the holes before *values*: before the first of each tag, and where the server's queue overflowed."""
        fresh = ~self._watched.ready[values.handle]
        holes = self._before_first(values, fresh) if fresh.any() else []
        overflowed = _is_overflowed(values)
        return holes + self._overflowed(values, fresh, overflowed) if overflowed.any() else holes

    def overflowed(self, values: Columns) -> tuple[str, ...]:
        """Return ``asset/channel`` of each of *values* before which the server's queue dropped some."""
        return self._watched.named(values.handle[_is_overflowed(values)].astype(np.intp))

    def wanted(self, hole: Hole) -> Wanted | None:
        """Return what to ask history for to fill *hole*; None when its tag was not found."""
        handle = self._watched.handle(hole.stream)
        if handle is None:
            return None
        node = self._watched.found[handle].node
        # Before the first value ever there is nothing stored that history has to reach back to.
        return Wanted(stream=hole.stream, node=node, hole=hole, anchored=hole.cause != _NEVER_SEEN)

    def has_history(self, stream: Stream) -> bool:
        """Return whether the server keeps history of *stream* from which holes can be filled."""
        handle = self._watched.handle(stream)
        return handle is not None and self._is_timed_by_source and self._watched.found[handle].has_history

    def gap(self, hole: Hole) -> Gap | None:
        """Return the gap that *hole* is for good without history; None where nothing was expected."""
        if hole.cause == _NEVER_SEEN:
            return None
        reason = "the server keeps no history of it" if self._is_timed_by_source else "history has not the chosen time"
        return _gap(hole, reason)

    def _before_first(self, values: Columns, fresh: BoolArray) -> list[Hole]:
        order = np.argsort(values.source_time, kind="stable")
        order = order[fresh[order]]
        handles, first = np.unique(values.handle[order], return_index=True)
        ends_of_open: dict[Stream, int] = {}
        for hole in self._stored.holes():
            ends_of_open[hole.stream] = max(hole.end_ns, ends_of_open.get(hole.stream, 0))
        holes = []
        for handle, end in zip(handles.tolist(), values.source_time[order[first]].tolist(), strict=True):
            stream, newest = self._watched.streams[handle], self._newest(handle)
            start = max(newest + 1 if newest is not None else end - self._limit_ns, ends_of_open.get(stream, 0))
            cause = _NOT_LISTENED if newest is not None else _NEVER_SEEN
            if start < end:
                holes.append(Hole(stream=stream, start_ns=start, end_ns=end, cause=cause))
        return holes

    def _newest(self, handle: int) -> int | None:
        """Return the newest source time of a tag that is stored, or will be in a moment."""
        stored, seen = self._stored.newest_source_time(self._watched.streams[handle]), int(self._watched.time[handle])
        if stored is None and seen == NEVER:
            return None
        return max(seen, NEVER if stored is None else stored)

    def _overflowed(self, values: Columns, fresh: BoolArray, overflowed: BoolArray) -> list[Hole]:
        holes = []
        for row in np.flatnonzero(overflowed).tolist():
            handle, end = int(values.handle[row]), int(values.source_time[row])
            earlier = values.source_time[:row][values.handle[:row] == handle]
            # Without its InfoType (async-opcua) the bit may stand on any value of the queue, not where the loss is.
            is_exact = values.status[row] & _INFO == _OVERFLOW_BEFORE
            if not len(earlier) and fresh[row]:
                continue  # the hole before the first value holds what was dropped too
            if len(earlier) and (is_exact or fresh[row]):
                start = 1 + int(earlier[-1 if is_exact else 0])
            else:
                start = 1 + int(self._watched.time[handle])
            if start < end:
                stream = self._watched.streams[handle]
                holes.append(Hole(stream=stream, start_ns=start, end_ns=end, cause=_OVERFLOWED))
        return holes


def no_longer_wanted(holes: Iterable[Hole], wanted: Iterable[WantedTags]) -> tuple[tuple[Hole, ...], tuple[Gap, ...]]:
    """Return those of *holes* whose streams are *wanted* of no server, and the gaps that they are for good."""
    streams: set[Stream] = set()
    assets: set[str] = set()
    for tags in wanted:
        streams |= {tag.stream for tag in tags.tags}
        assets |= {folder.asset_id for folder in tags.folders}
    left = tuple(hole for hole in holes if hole.stream not in streams and hole.stream.asset_id not in assets)
    return left, tuple(_gap(hole, "the channel is no longer wanted") for hole in left)


def _gap(hole: Hole, reason: str) -> Gap:
    return Gap(
        asset_id=hole.stream.asset_id,
        channel=hole.stream.channel,
        from_time=from_ns(hole.start_ns - 1),
        to_time=from_ns(hole.end_ns),
        cause=f"{hole.cause}, and {reason}",
    )


def _is_overflowed(values: Columns) -> BoolArray:
    """Return which of *values* have the overflow bit, with InfoType DataValue or, against the book, without one."""
    info = values.status & _INFO
    return np.asarray((info == _OVERFLOW_BEFORE) | (info == _OVERFLOW), np.bool_)
