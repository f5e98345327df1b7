"""The windower once more, row by row and window by window: slow, and short enough to be seen to be right."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.features.specification import FeatureSpecification
from models.features.windows import Windows
from models.records import Observations, is_good

# A window as asset, start, end, and by channel its rows: time, value and whether it is good.
PlainWindow = tuple[str, int, int, tuple[tuple[tuple[int, float, bool], ...], ...]]


@dataclass
class _Asset:
    newest: list[float]
    rows: list[tuple[int, int, float, bool]] = field(default_factory=list)  # channel, time, value, good
    oldest: int | None = None
    next_end: int | None = None


@dataclass
class SlowWindower:
    """Takes plain rows alone. ``most_rows`` is how many of the newest rows of an asset are looked at."""

    spec: FeatureSpecification
    most_rows: int = 10**9
    late_rows: int = 0
    windows: list[PlainWindow] = field(default_factory=list)
    assets: dict[str, _Asset] = field(default_factory=dict)

    def push(self, observations: Observations) -> None:
        """Take all rows, one after the other."""
        names = [channel.name for channel in self.spec.channels]
        good = is_good(observations.status) & np.isfinite(observations.value)
        for row in range(len(observations)):
            stream = observations.streams[observations.stream[row]]
            value, time = float(observations.value[row]), int(observations.source_time[row])
            if stream.channel in names and time >= 0:
                self._row(stream.asset_id, names.index(stream.channel), time, value, bool(good[row]))

    def _row(self, asset_id: str, channel: int, time: int, value: float, good: bool) -> None:  # noqa: FBT001
        spec = self.spec
        asset = self.assets.setdefault(asset_id, _Asset([-np.inf] * len(spec.channels)))
        asset.rows.append((channel, time, value, good))
        if asset.next_end is not None and time < asset.next_end - spec.step_ns:
            self.late_rows += 1
        asset.newest[channel] = max(asset.newest[channel], time)
        asset.oldest = time if asset.oldest is None else min(asset.oldest, time)
        ahead = sorted(asset.newest)[-2 if len(asset.newest) > 2 else -1] - spec.late_ns
        clock = max(min(asset.newest), ahead)
        first = -(-(asset.oldest + spec.window_ns) // spec.step_ns) * spec.step_ns
        end = first if asset.next_end is None else asset.next_end
        while clock >= end:
            self._cut(asset_id, asset, end)
            end += spec.step_ns
            asset.next_end = end

    def _cut(self, asset_id: str, asset: _Asset, end: int) -> None:
        start = end - self.spec.window_ns
        looked_at = asset.rows[-self.most_rows :]
        inside = [one for one in looked_at if start <= one[1] < end]
        by_channel = tuple(
            tuple(sorted((one[1:] for one in inside if one[0] == channel), key=lambda one: one[0]))
            for channel in range(len(self.spec.channels))
        )
        if inside:
            self.windows.append((asset_id, start, end, by_channel))


def plain(windows: Windows) -> list[PlainWindow]:
    """Return *windows* as the slow windower tells them."""
    told = []
    for row, (asset_id, start, end) in enumerate(
        zip(windows.asset_id_of_rows, windows.start_ns.tolist(), windows.end_ns.tolist(), strict=True)
    ):
        parts = []
        for channel in windows.channels:
            inside = slice(int(channel.first[row]), int(channel.last[row]))
            columns = (channel.time[inside], channel.value[inside], channel.good[inside])
            parts.append(tuple(zip(*(column.tolist() for column in columns), strict=True)))
        told.append((asset_id, start, end, tuple(parts)))
    return told


def contents(windows: Windows) -> list[tuple[object, ...]]:
    """Return all that each window holds, bit by bit and waveforms too, sorted by end and asset."""
    told = []
    for row, asset_id in enumerate(windows.asset_id_of_rows):
        parts: list[bytes] = []
        for channel in windows.channels:
            inside = slice(int(channel.first[row]), int(channel.last[row]))
            samples = np.concatenate([[0], np.cumsum(channel.sample_count)])
            columns = (channel.time, channel.value, channel.good, channel.sample_count)
            parts += [column[inside].tobytes() for column in columns]
            parts.append(channel.samples[samples[inside.start] : samples[inside.stop]].tobytes())
        head = (int(windows.end_ns[row]), asset_id, int(windows.start_ns[row]), float(windows.good_share[row]))
        told.append((*head, *parts))
    return sorted(told)
