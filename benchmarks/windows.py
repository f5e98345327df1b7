"""Observations cut into windows per cpu-second: ``python -m benchmarks.windows [--json]``.

Pages come as a gateway's journal gives them, every stream once a second. Beside the windower stands the least that must
be done with the same rows: all of them at once put in order of channel, asset and time, and the good ones counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.measurement import Measurement, compared, tell
from models.features.specification import FeatureSpecification
from models.features.windower import Windower
from models.records import Channel, Observations, Stream

START_NS = 1_772_409_600_000_000_000
SECOND_NS = 1_000_000_000
CHANNELS = 5


@dataclass(frozen=True, kw_only=True)
class Load:
    """Assets of five channels at 1 Hz, and how their windows lie.

    ``staggered`` puts the assets' clocks apart by up to a step, so that each page closes windows of some of them.
    """

    name: str
    assets: int
    window_s: float
    step_s: float
    seconds: int
    pages_per_s: int = 1
    staggered: bool = False

    @property
    def specification(self) -> FeatureSpecification:
        """How the windows are cut."""
        return FeatureSpecification(
            asset_class="bench",
            channels=tuple(Channel(name=f"c{number}", unit="", low=0.0, high=1.0) for number in range(CHANNELS)),
            window_s=self.window_s,
            step_s=self.step_s,
            late_s=60.0,
        )

    def pages(self) -> Iterator[Observations]:
        """Yield the pages, by arrival; the streams of one second are spread over its pages."""
        streams = tuple(Stream(f"a-{asset:05d}", f"c{one}") for asset in range(self.assets) for one in range(CHANNELS))
        chance = np.random.default_rng(1)
        value = chance.normal(size=len(streams))
        page_of = chance.integers(0, self.pages_per_s, len(streams))
        behind = chance.integers(0, int(self.step_s), self.assets) * SECOND_NS * self.staggered
        offset = page_of * (SECOND_NS // self.pages_per_s) - np.repeat(behind, CHANNELS)
        rows = [np.flatnonzero(page_of == page).astype(np.uint32) for page in range(self.pages_per_s)]
        for second in range(self.seconds):
            for part in rows:
                times = START_NS + second * SECOND_NS + offset[part]
                yield Observations.of_values(streams, part, times, value[part], np.zeros(len(part), np.uint32))


LOADS = (
    Load(name="1,000 streams, windows of 10 s, a page a second", assets=200, window_s=10, step_s=10, seconds=600),
    Load(
        name="1,000 streams, windows of 10 s, five pages a second",
        assets=200,
        window_s=10,
        step_s=10,
        seconds=600,
        pages_per_s=5,
    ),
    Load(name="10,000 streams, windows of 720 s each 360 s", assets=2000, window_s=720, step_s=360, seconds=1100),
    Load(
        name="the same, each page closes some of them",
        assets=2000,
        window_s=720,
        step_s=360,
        seconds=1100,
        staggered=True,
    ),
)


def windowing_s(load: Load) -> tuple[int, float]:
    """Return how many observations were cut into windows, and the cpu-seconds it took."""
    windower, rows, spent = Windower(load.specification), 0, 0.0
    for page in load.pages():
        began = time.process_time()
        windower.push(page)
        spent += time.process_time() - began
        rows += len(page)
    return rows, spent


def sorting_s(load: Load) -> float:
    """Return the cpu-seconds for ordering the same rows once, and counting the good ones of each stream."""
    rows = Observations.concatenate(list(load.pages()))
    began = time.process_time()
    asset, channel = rows.stream // CHANNELS, rows.stream % CHANNELS
    order = np.lexsort((rows.source_time, asset, channel))
    ordered = rows.value[order], rows.source_time[order]
    np.bincount(rows.stream[order], weights=np.isfinite(ordered[0]))
    return time.process_time() - began


def measurements() -> list[Measurement]:
    """Return observations per cpu-second for each load, beside the reference."""
    found = []
    for load in LOADS:
        rows, spent = windowing_s(load)
        floor = sorting_s(load)
        found.append(
            compared(load.name, rows / spent, rows / floor, "ordered once, all at hand", "observations/cpu-second")
        )
    return found


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    tell(measurements(), as_json=arguments.json)


if __name__ == "__main__":
    main()
