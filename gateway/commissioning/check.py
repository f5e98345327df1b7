"""Whether the configured tags do what is expected of them: each is read once, then all are watched for a while."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds

from gateway.commissioning.server_argument import NothingConfigured, Session, Target, session
from gateway.commissioning.watching import Arrived, Granted, watched
from gateway.data_acquisition.clock import EARLIEST_NS
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.messages import status_name
from gateway.data_acquisition.profiles import budget
from gateway.data_acquisition.publishing import Item
from gateway.data_acquisition.resolution import Discovery, FoundChannel, resolve
from gateway.data_acquisition.tags import wanted_tags
from gateway.progress import progress_bar
from models.records import Int64Array

_SECOND_NS = 1_000_000_000
_AHEAD_NS = 2 * _SECOND_NS  # clocks that NTP keeps are closer
_BEHIND_NS = 10 * _SECOND_NS  # of a value that is new
_OVERFLOW = 0x0480  # InfoType DataValue, and the overflow bit


class Verdict(StrEnum):
    """What is said of a tag, the worst first."""

    MISSING = "missing"
    DEAD = "dead"
    BAD = "bad"
    CONSTANT = "constant"
    GOOD = "good"


FAULTS = frozenset({Verdict.MISSING, Verdict.DEAD, Verdict.BAD})


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One tag.

    Attributes:
        tag: ``asset/channel``, or the asset of a folder.
        verdict: What is said of it.
        reason: Why, where it is not good.
        value: The last number; None without one, and for waveforms.
        length: Samples of the last waveform; 0 for a plain value.
        unit: Its unit.
        status: OPC UA name of the last status.
        values: How many came.
        rate_hz: How many a second, after the first.
        overflows: Values with the overflow bit: others were lost before them.
        remarks: What is odd about times, queues and ranges.
    """

    tag: str
    verdict: Verdict
    reason: str = ""
    value: float | None = None
    length: int = 0
    unit: str = ""
    status: str = ""
    values: int = 0
    rate_hz: float = 0.0
    overflows: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """All tags of a server, the worst first; ``budget`` says if the server monitors fewer than are wanted."""

    server: str
    seconds: float
    profile: str
    budget: str
    tags: tuple[Checked, ...]

    @property
    def is_fine(self) -> bool:
        """Whether nothing is missing, dead or bad."""
        return not any(tag.verdict in FAULTS for tag in self.tags)


@dataclass(kw_only=True)
class _Seen:
    """What came of one tag."""

    times: list[Int64Array] = field(default_factory=list)
    received: list[Int64Array] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    different: set[bytes] = field(default_factory=set)
    count: int = 0
    overflows: int = 0
    last: float | None = None
    length: int = 0


async def check(target: Target, seconds: float) -> Report:
    """Return what there is to say of each tag that the configuration wants of the target's server.

    Raises:
        ConfigError: If nothing is configured.
        SourceUnavailable: If the server cannot be reached, or the link is lost.
    """
    wanted = wanted_tags(target.needs_config(), target.server.name)
    if not wanted.tags and not wanted.folders:
        raise NothingConfigured(f"{target.config_file}: no tag and no asset is read from {target.server.name}")
    async with session(target) as opened:
        discovery = await resolve(opened.client, wanted, opened.profile.limits)
        items = [Item(handle=i, node=f.node, sampling=f.sampling) for i, f in enumerate(discovery.found, 1)]
        asked = [(item.node, AttributeIds.Value) for item in items]
        read = await opened.space.read(asked)
        granted = Granted()
        seen = await _watch(opened, target.server.name, items, seconds, granted)
        tags = list(_missing(discovery))
        for item, found, value in zip(items, discovery.found, read, strict=True):
            tags.append(_checked(found, item, value, seen[item.handle], granted, discovery.notes, seconds))
        tags.sort(key=lambda tag: (list(Verdict).index(tag.verdict), tag.tag))
        return Report(
            server=target.server.name,
            seconds=seconds,
            profile=opened.profile.name,
            budget=budget(opened.profile, len(items)),
            tags=tuple(tags),
        )


async def _watch(
    opened: Session, server: str, items: Sequence[Item], seconds: float, granted: Granted
) -> Mapping[int, _Seen]:
    """Return what came of each of *items* within *seconds*."""
    seen = {item.handle: _Seen() for item in items}
    with progress_bar("watching ") as progress:
        async for arrived in watched(opened, server, items, seconds, granted, progress):
            _note(arrived, seen)
    return seen


def _note(arrived: Arrived, seen: Mapping[int, _Seen]) -> None:
    """Add what *arrived* to what was *seen*, a tag at a time."""
    values = arrived.values
    order = np.argsort(values.handle, kind="stable")
    handles, first = np.unique(values.handle[order], return_index=True)
    ends = np.append(first[1:], len(order))
    starts = np.concatenate([[0], np.cumsum(values.sample_count, dtype=np.int64)])
    for handle, begin, end in zip(handles.tolist(), first.tolist(), ends.tolist(), strict=True):
        if (tag := seen.get(handle)) is None:
            continue
        rows = order[begin:end]
        tag.count += len(rows)
        tag.times.append(values.source_time[rows])
        tag.received.append(np.full(len(rows), arrived.received_ns, np.int64))
        tag.statuses += np.unique(values.status[rows]).tolist()
        tag.statuses.append(int(values.status[rows[-1]]))
        tag.overflows += int(((values.status[rows] & _OVERFLOW) == _OVERFLOW).sum())
        _note_last(tag, values, int(rows[-1]), starts)
        if len(tag.different) < 2:
            tag.different |= {_content(values, int(row), starts) for row in rows[:100]}


def _note_last(tag: _Seen, values: Columns, row: int, starts: Int64Array) -> None:
    number = float(values.value[row])
    tag.last = number if math.isfinite(number) else None
    tag.length = int(starts[row + 1] - starts[row])


def _content(values: Columns, row: int, starts: Int64Array) -> bytes:
    """Return what one value holds, to tell it from another."""
    samples = values.samples[starts[row] : starts[row + 1]]
    return bytes(values.value[row].tobytes()) + bytes(samples.tobytes())


def _missing(discovery: Discovery) -> Iterator[Checked]:
    for place, why in discovery.missing.items():
        yield Checked(tag=place, verdict=Verdict.MISSING, reason=why.partition("; channel left out")[0])


def _checked(
    found: FoundChannel,
    item: Item,
    read: ua.DataValue,
    seen: _Seen,
    granted: Granted,
    notes: Mapping[str, str],
    seconds: float,
) -> Checked:
    """Return what there is to say of one tag."""
    tag = f"{found.stream.asset_id}/{found.stream.channel}"
    status = seen.statuses[-1] if seen.statuses else read.StatusCode.value if read.StatusCode is not None else 0
    verdict, reason = _verdict(read, seen, granted.refused.get(item.handle, ""), status, seconds)
    remarks = [*_time_remarks(read, seen), *_queue_remarks(item, granted, seen)]
    if note := notes.get(tag):
        remarks.append(note.removeprefix(f"{tag}: "))
    if seen.last is not None and not found.channel.low <= seen.last <= found.channel.high:
        remarks.append(f"outside its range {found.channel.low:g} … {found.channel.high:g}")
    return Checked(
        tag=tag,
        verdict=verdict,
        reason=reason,
        value=seen.last,
        length=seen.length,
        unit=found.channel.unit,
        status=status_name(status),
        values=seen.count,
        rate_hz=max(seen.count - 1, 0) / seconds,
        overflows=seen.overflows,
        remarks=tuple(remarks),
    )


def _verdict(read: ua.DataValue, seen: _Seen, refused: str, status: int, seconds: float) -> tuple[Verdict, str]:
    if status >> 31 and not refused:
        was_good = any(not code >> 31 for code in seen.statuses)
        return Verdict.BAD, f"{status_name(status)} now, and Good in between" if was_good else status_name(status)
    if refused or not seen.count or (seen.last is None and not seen.length):
        has_value = read.Value is not None and read.Value.Value is not None
        silent = "it can be read, but nothing came of watching it" if has_value else "no value"
        return Verdict.DEAD, refused or (silent if not seen.count else "no number in it")
    if bad := sorted({code for code in seen.statuses if code >> 31}):
        return Verdict.BAD, f"Good now, and {', '.join(status_name(code) for code in bad)} in between"
    if len(seen.different) < 2:
        times = "one value" if seen.count == 1 else f"{seen.count:,} times the same value"
        return Verdict.CONSTANT, f"{times} in {seconds:g} s"
    return Verdict.GOOD, ""


def _time_remarks(read: ua.DataValue, seen: _Seen) -> Iterator[str]:
    """Yield what is odd about the times of the values."""
    if read.SourceTimestamp is None and read.Value is not None and read.Value.Value is not None:
        yield "comes without a source time"
    if not seen.times:
        return
    times, received = np.concatenate(seen.times), np.concatenate(seen.received)
    if (times < EARLIEST_NS).any():
        yield "source times before 2001: a clock was never set"
    if (backwards := int((np.diff(times) < 0).sum())) > 0:
        yield f"source time went back {backwards:,} times"
    ahead, behind = int((times - received).max()), int((received - times)[1:].max(initial=0))
    if ahead > _AHEAD_NS:
        yield f"source time {ahead / _SECOND_NS:,.0f} s ahead of the clock here"
    if behind > _BEHIND_NS and not (times < EARLIEST_NS).any():
        yield f"source time {behind / _SECOND_NS:,.0f} s behind the clock here"


def _queue_remarks(item: Item, granted: Granted, seen: _Seen) -> Iterator[str]:
    """Yield what the server did not grant, and what was lost by it."""
    if note := granted.notes.get(item.handle):
        yield note
    if seen.overflows:
        yield f"overflowed {seen.overflows:,} times: values were lost in the server's queue"


def shared_remarks(report: Report) -> dict[str, int]:
    """Return what is remarked of most tags that were watched, and of how many: it is told once."""
    watched_tags = [tag for tag in report.tags if tag.verdict is not Verdict.MISSING]
    counts = Counter(remark for tag in watched_tags for remark in tag.remarks)
    return {remark: count for remark, count in counts.items() if count > max(1, len(watched_tags) / 2)}


def as_data(report: Report) -> dict[str, Any]:
    """Return *report* for JSON."""
    counts = {verdict: sum(tag.verdict is verdict for tag in report.tags) for verdict in Verdict}
    return {
        "server": report.server,
        "profile": report.profile,
        "seconds": report.seconds,
        "budget": report.budget or None,
        "counts": counts,
        "tags": report.tags,
    }
