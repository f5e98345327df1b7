"""``demo trial``: many machines over a month of simulated time, judged against the plant's truth, without servers.

The models are trained as the cloud trains them, on the fleet's earlier records and on each machine's commissioning;
then every machine's observations run through the gateway's blocks as pages do, day by day. What OPC UA, journal,
uplink and rollout add is not in it: that is ``demo run``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.training.dataset import TrainingData
from cloud_service.training.job import train_class
from cloud_service.training.labels import Failure
from cloud_service.training.specifications import settings_for
from demo.archive import LIVES_PER_CLASS, SEED
from demo.outcome import FaultOutcome, InjectedFault, false_advisories, judge_faults
from demo.plant.channels import CHANNELS, FAILURE_MODES
from demo.plant.conditions import generator
from demo.plant.faults import Fault
from demo.plant.fleet import HOUR_NS, LIVE_START_NS, PLANT_START_NS, Life, archive_assets
from demo.plant.simulator import DAY_NS, Asset, simulate
from gateway.condition_monitoring.class_blocks import ClassBlocks
from models.bundle.loaded import LoadedBundle
from models.records import Advisory, Observations, from_ns

ASSET_CLASSES: Final = ("centrifugal_pump", "spindle_drive")
# A machine's faults in a month: none, one, two; a machine that is repaired runs on for a week at least.
_FAULT_ODDS: Final = (0.2, 0.5, 0.3)
_LEAST_DAYS_APART: Final = 12.0

Tell = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a trial.

    Attributes:
        machines: How many there were.
        days: Simulated days of each, after its commissioning.
        faults: What became of each fault.
        false_advisories: Advisories that no fault explains.
    """

    machines: int
    days: int
    faults: tuple[FaultOutcome, ...]
    false_advisories: int

    def figures(self) -> dict[str, Any]:
        """Return the trial in figures, shares 0 to 1, lead time in hours."""
        found = [fault for fault in self.faults if fault.found]
        leads = [fault.lead_time_s / 3600.0 for fault in found if fault.lead_time_s is not None]
        return {
            "machines": self.machines,
            "days": self.days,
            "faults": len(self.faults),
            "event_recall": len(found) / len(self.faults) if self.faults else None,
            "named_share": sum(fault.right_mode for fault in found) / len(found) if found else None,
            "median_lead_time_h": median(leads) if leads else None,
            "shortest_lead_time_h": min(leads, default=None),
            "false_advisories": self.false_advisories,
            "false_advisories_per_machine_month": self.false_advisories * 30.0 / (self.machines * self.days),
        }

    def report(self) -> dict[str, Any]:
        """Return figures and faults for JSON."""
        return {"metrics": self.figures(), "faults": [asdict(fault) for fault in self.faults]}


def run_trial(*, machines: int, days: int, seed: int, tell: Tell = lambda _share: None) -> Trial:
    """Train both classes and run *machines* of them, half and half, for *days*.

    Args:
        machines: 2 or more.
        days: 5 or more; of simulated time after ten days of commissioning.
        seed: Of the machines' make, noise and faults; the earlier records that are learnt from are always the same.
        tell: Called with the share of the work, 0 to 1, that is done.
    """
    fleet = trial_fleet(machines, days, seed)
    end = LIVE_START_NS + days * DAY_NS
    advisories: list[Advisory] = []
    for place, asset_class in enumerate(ASSET_CLASSES):
        members = [asset for asset in fleet if asset.asset_class == asset_class]
        begin = place / len(ASSET_CLASSES)
        bundle = _bundle(asset_class, members)
        tell(begin + 0.25)
        for number, asset in enumerate(members):
            advisories += _advisories(bundle, asset, end)
            tell(begin + 0.25 + 0.25 * (number + 1) / len(members))
    faults = [
        InjectedFault(
            asset_id=fault.asset_id,
            mode=fault.mode,
            onset=from_ns(fault.onset),
            failure=from_ns(fault.failure),
            repaired=from_ns(fault.repaired),
        )
        for asset in fleet
        for fault in asset.faults
    ]
    return Trial(
        machines=machines,
        days=days,
        faults=judge_faults(faults, advisories),
        false_advisories=len(false_advisories(faults, advisories, except_versions=frozenset())),
    )


def trial_fleet(machines: int, days: int, seed: int) -> tuple[Asset, ...]:
    """Return *machines* with the faults that befall them within *days* after commissioning."""
    fleet = []
    for number in range(machines):
        asset_class = ASSET_CLASSES[number % 2]
        asset_id = f"{'pump' if asset_class == 'centrifugal_pump' else 'spindle'}-t{number + 1:03d}"
        fleet.append(
            Asset(
                asset_id=asset_id,
                asset_class=asset_class,
                seed=seed,
                faults=_faults(asset_id, FAILURE_MODES[asset_class], days, seed),
            )
        )
    return tuple(fleet)


def _faults(asset_id: str, modes: Sequence[str], days: int, seed: int) -> tuple[Fault, ...]:
    draw = generator(seed, asset_id, "trial")
    faults: list[Fault] = []
    day = 0.0
    for _ in range(int(draw.choice(len(_FAULT_ODDS), p=_FAULT_ODDS))):
        day += float(draw.uniform(5.0, max(days - 2.0 - _LEAST_DAYS_APART, 6.0))) if not faults else _LEAST_DAYS_APART
        failure = LIVE_START_NS + int(day * 24) * HOUR_NS
        if day > days - 1.0:
            break
        onset = failure - int(draw.uniform(3.0, 4.6) * 24) * HOUR_NS
        repaired = failure + int(draw.integers(8, 15)) * HOUR_NS
        mode = str(draw.choice(list(modes)))
        faults.append(Fault(asset_id=asset_id, mode=mode, onset=onset, failure=failure, repaired=repaired))
    return tuple(faults)


def _bundle(asset_class: str, members: Sequence[Asset]) -> LoadedBundle:
    """Return the models of a class as the cloud would train them on the day the trial begins."""
    lives = {life.asset.asset_id: life for life in archive_assets(asset_class, LIVES_PER_CLASS, SEED)}
    commissioned = {
        asset.asset_id: Life(asset=replace(asset, faults=()), start=PLANT_START_NS, end=LIVE_START_NS)
        for asset in members
    }
    known = lives | commissioned

    def observations_of(asset_id: str) -> Observations:
        life = known[asset_id]
        return simulate(life.asset, life.start, life.end)

    data = TrainingData(
        asset_class=asset_class,
        channels=CHANNELS[asset_class],
        asset_ids=tuple(known),
        observations_of=observations_of,
        failures=tuple(
            Failure(
                asset_id=fault.asset_id,
                failed_at=from_ns(fault.failure),
                failure_mode=fault.mode,
                in_service_again=from_ns(fault.repaired),
            )
            for life in lives.values()
            for fault in life.asset.faults
        ),
    )
    outcome = train_class(
        data,
        settings_for(asset_class),
        None,
        1,
        Ed25519PrivateKey.generate(),
        trained_at=from_ns(LIVE_START_NS),
    )
    return outcome.bundle


def _advisories(bundle: LoadedBundle, asset: Asset, end: int) -> list[Advisory]:
    """Return all revisions of the advisories that a gateway would raise for *asset*."""
    blocks = ClassBlocks(gateway_id="trial", bundle=bundle, asset_ids=[asset.asset_id], contexts={}, described={})
    advisories: list[Advisory] = []
    for start in range(PLANT_START_NS, end, DAY_NS):
        day = simulate(asset, start, start + DAY_NS)
        advisories += blocks.results(day).advisories
    return advisories
