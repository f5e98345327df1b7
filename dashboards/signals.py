"""What can be drawn: one measured thing each, with its name, unit, description and query, written once."""

from __future__ import annotations

from dataclasses import dataclass

MEASUREMENTS: dict[str, frozenset[str]] = {
    "observation": frozenset({"value", "status"}),
    "state": frozenset({"score", "zone", "good_share", "reason"}),
    "health": frozenset({"index", "grade", "failure_mode", "confidence"}),
    "prognosis": frozenset({"p10_s", "p50_s", "p90_s"}),
    "advisory": frozenset({"state", "failure_mode", "confidence", "reason", "recommended_action", "revision"}),
    "gateway_event": frozenset({"message"}),
    "gap": frozenset({"cause"}),
}


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One measured thing.

    Attributes:
        title: As a technician would say it.
        description: What it tells and how to read it, one or two sentences.
        unit: Grafana's unit id; empty for none.
        measurement: InfluxDB measurement, a key of `MEASUREMENTS`.
        fields: Its fields that are read.
        group: Tags that tell one line from another.
        aggregate: How values of one pixel are made one: ``mean``, ``max`` or ``last``.
        divisor: What a stored number is divided by to be in ``unit``.
    """

    title: str
    description: str
    unit: str = ""
    measurement: str
    fields: tuple[str, ...]
    group: tuple[str, ...] = ("asset_id",)
    aggregate: str = "mean"
    divisor: float = 1.0

    def series(self, condition: str = "") -> str:
        """Return the Flux query of this signal over the board's time range, one point a pixel."""
        return "\n".join(
            (
                *self._selected(condition),
                f"  |> aggregateWindow(every: v.windowPeriod, fn: {self.aggregate}, createEmpty: false)",
                *(
                    [f"  |> map(fn: (r) => ({{r with _value: r._value / {self.divisor:.1f}}}))"]
                    if self.divisor != 1.0
                    else []
                ),
            )
        )

    def latest(self, condition: str = "") -> str:
        """Return the Flux query of this signal's last value by group."""
        return "\n".join((*self._selected(condition), "  |> last()"))

    def table(self, condition: str = "") -> str:
        """Return the Flux query of this signal's last record by group: one row with all fields, newest first."""
        return "\n".join(
            (
                *self._selected(condition),
                "  |> last()",
                f'  |> pivot(rowKey: [{_names(("_time", *self.group))}], columnKey: ["_field"], valueColumn: "_value")',
                "  |> group()",
                '  |> sort(columns: ["_time"], desc: true)',
            )
        )

    def _selected(self, condition: str) -> tuple[str, ...]:
        fields = " or ".join(f'r._field == "{name}"' for name in self.fields)
        return (
            'from(bucket: "${bucket}")',
            "  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)",
            f'  |> filter(fn: (r) => r._measurement == "{self.measurement}" and ({fields}))',
            *([f"  |> filter(fn: (r) => {condition})"] if condition else []),
            f"  |> group(columns: [{_names((*self.group, '_field'))}])",
        )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


OBSERVATION = Signal(
    title="Channels",
    description="What the machine's sensors said, each channel in its own unit. Bad values are stored, not drawn.",
    measurement="observation",
    fields=("value",),
    group=("asset_id", "channel"),
)
SCORE = Signal(
    title="Deviation score",
    description="How far the machine is from its own healthy self. 1 is the release's warning threshold.",
    measurement="state",
    fields=("score",),
    aggregate="max",
)
ZONE = Signal(
    title="State",
    description="Zone of each machine's last windows. Unknown means too few good values, never that all is well.",
    measurement="state",
    fields=("zone",),
    aggregate="last",
)
GOOD_SHARE = Signal(
    title="Good values",
    description="Share of a window's expected values that came with Good status.",
    unit="percentunit",
    measurement="state",
    fields=("good_share",),
)
HEALTH = Signal(
    title="Health index",
    description="100 as new, 0 failed.",
    measurement="health",
    fields=("index",),
)
FAILURE_MODE = Signal(
    title="Likely failure mode",
    description="What the classifier takes the deviation for, with its confidence; empty while healthy.",
    measurement="health",
    fields=("failure_mode", "confidence", "grade"),
    aggregate="last",
)
LIFE = Signal(
    title="Remaining life",
    description="Operating days left, as P10, P50 and P90: nine of ten machines live longer than P10.",
    unit="d",
    measurement="prognosis",
    fields=("p10_s", "p50_s", "p90_s"),
    divisor=86400.0,
)
ADVISORIES = Signal(
    title="Advisories",
    description="Each maintenance problem's last word: what, how sure, why, what to do.",
    measurement="advisory",
    fields=("state", "failure_mode", "confidence", "reason", "recommended_action"),
    group=("asset_id", "advisory_id"),
    aggregate="last",
)
EVENTS = Signal(
    title="Gateway events",
    description="What the gateways met: starts, lost and restored links, bundles switched or refused.",
    measurement="gateway_event",
    fields=("message",),
    group=("gateway_id", "kind"),
    aggregate="last",
)
GAPS = Signal(
    title="Gaps",
    description="Values that could not be had, by stream, with the cause. No row is good news.",
    measurement="gap",
    fields=("cause",),
    group=("asset_id", "channel"),
    aggregate="last",
)
