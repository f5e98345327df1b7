"""Whether a tag still lives, judged from its data, and where none come, from a read beside them: never from the socket.

A tag that changes seldom is quiet, not dead. It is read, and what the server then says is held against the last value
the subscription told: the same means that it is alive; another, and another still when it should have been told by
then, means that the server no longer reports it, though it says it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from asyncua.ua.status_codes import StatusCodes
from numpy.typing import NDArray

from gateway.data_acquisition.columns import BAD_WAITING_FOR_INITIAL_DATA, Columns
from gateway.data_acquisition.watched import Watched
from models.records import BoolArray, UInt32Array

Handles = NDArray[np.intp]

# The node is not where it was found: its server restarted with other indexes, or its device went away.
GONE = np.array([StatusCodes.BadNodeIdUnknown, StatusCodes.BadNodeIdInvalid], np.uint32)
READ_AT_ONCE = 1_000
_WITHOUT_INFO = np.uint32(0xFFFFFB7F)  # a status less its InfoType and Overflow bits


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a look at quiet tags found, by client handle.

    Attributes:
        alive: The server says what the subscription said last.
        dead: The server says something else than the subscription, and has for longer than that may be late.
        gone: The node is not there any more.
        silent: The server itself has no value of it yet.
    """

    alive: Handles
    dead: Handles
    gone: Handles
    silent: Handles


def due(watched: Watched, now: float) -> Handles:
    """Return the handles of the tags to look at: quiet for long, or with a heartbeat to tell; the longest first."""
    quiet_s = now - watched.evidence
    doubted = watched.suspect & (now - watched.suspect_at >= watched.patience_s)
    wanted = watched.active & ((quiet_s > watched.silence_s) & ~watched.suspect | beating(watched, now) | doubted)
    handles = np.flatnonzero(wanted)
    return handles[np.argsort(-quiet_s[handles], kind="stable")][:READ_AT_ONCE]


def beating(watched: Watched, now: float) -> BoolArray:
    """Return which tags have a heartbeat to tell, shape ``(n,)``."""
    return watched.active & (watched.heartbeat_s > 0) & (now - watched.told >= watched.heartbeat_s)


def judge(watched: Watched, read: Columns, now: float) -> Verdict:
    """Hold what the server says when it is *read* against what it told last; take note in *watched*."""
    handles = read.handle.astype(np.intp)
    gone = is_gone(read.status)
    silent = (read.status == BAD_WAITING_FOR_INITIAL_DATA) | (
        (read.status == 0) & np.isnan(read.value) & ~_has_samples(read)
    )
    differs = _differs(watched, handles, read) & ~gone & ~silent
    before = watched.suspect[handles]
    dead = differs & before & (now - watched.suspect_at[handles] >= watched.patience_s[handles])
    alive = ~differs & ~gone & ~silent
    watched.suspect[handles] = differs & ~dead
    watched.suspect_at[handles[differs & ~before]] = now
    # Where nothing but the time differs, it may be the read that made it.
    same_value = _same_value(watched, handles, read)
    watched.by_value[handles[dead & same_value]] = True
    watched.evidence[handles[alive | silent]] = now
    return Verdict(alive=handles[alive], dead=handles[dead], gone=handles[gone], silent=handles[silent])


def is_gone(status: UInt32Array) -> BoolArray:
    """Return which *status* codes say that the node is not there, shape ``(n,)``."""
    return np.asarray(np.isin(status, GONE), np.bool_)


def _differs(watched: Watched, handles: Handles, read: Columns) -> BoolArray:
    newer = (read.source_time > watched.time[handles]) & ~watched.by_value[handles]
    with np.errstate(invalid="ignore"):  # NaN is of waveforms, and of values that are none
        inside = np.abs(read.value - watched.value[handles]) <= watched.band[handles] * (1 + 1e-9)
    same_status = _same_status(watched, handles, read)
    # Inside a deadband value and time may go on untold; a change of the status may not.
    is_told = np.where(watched.band[handles] > 0, same_status & inside, _same_value(watched, handles, read) & ~newer)
    return np.asarray(~is_told, np.bool_)


def _same_value(watched: Watched, handles: Handles, read: Columns) -> BoolArray:
    last = watched.value[handles]
    equal = (last == read.value) | (np.isnan(last) & np.isnan(read.value))
    return np.asarray(equal & _same_status(watched, handles, read), np.bool_)


def _same_status(watched: Watched, handles: Handles, read: Columns) -> BoolArray:
    return np.asarray((watched.status[handles] & _WITHOUT_INFO) == (read.status & _WITHOUT_INFO), np.bool_)


def _has_samples(read: Columns) -> BoolArray:
    return read.sample_count > 0
