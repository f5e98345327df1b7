"""The demo's play: healthy history, first models, faults, a kill and a cut, better models, releases that must fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from demo.account import Account
from demo.acts import roll_out, rollout_command, settle
from demo.archive import upload_archive
from demo.layout import GatewaySite
from demo.outcome import InjectedFault, ModelOutcome, RolloutOutcome
from demo.plant.fleet import LIVE_START_NS
from demo.stage import Stage
from demo.tampering import broken_copy, crying_wolf_copy
from models.records import Advisory, from_ns

LIVE_DAYS = 10.0
# While the first models go out, time runs slowly: on a slow machine no fault ends before there is a model to see it.
ROLLOUT_SPEED = 3000
LIVE_START = from_ns(LIVE_START_NS)
ASSET_CLASSES = ("centrifugal_pump", "spindle_drive")
HEADLINES = {
    "event_recall": "share of failures foreseen",
    "false_alarms_per_asset_day": "false alarms per machine and day",
    "classifier_macro_f1": "macro F1 of the failure mode",
    "life_rmse_h": "RMSE of life in hours",
}
KILL_ON_DAY, CUT_ON_DAY, JOIN_ON_DAY = 3.0, 5.0, 6.0
LIVE_DEADLINE_S = 400.0
PAUSE_DEADLINE_S = 30.0


@dataclass(kw_only=True)
class Records:
    """What the play found out while it ran."""

    models: dict[str, ModelOutcome] = field(default_factory=dict)
    released: bool = True
    refused_broken: bool = False
    rolled_back_bad: bool = False
    bad_versions: set[tuple[str, int]] = field(default_factory=set)
    disturbances: dict[str, Any] = field(default_factory=dict)

    def rollout(self) -> RolloutOutcome:
        """Return how the releases went."""
        return RolloutOutcome(
            released=self.released, refused_broken=self.refused_broken, rolled_back_bad=self.rolled_back_bad
        )


class Scenario:
    """Plays the demo on a stage and tells what happens."""

    def __init__(self, stage: Stage, account: Account, *, speed: float) -> None:
        self._stage = stage
        self._account = account
        self._speed = speed
        self._told: dict[str, str] = {}
        self._repairs: set[tuple[str, datetime]] = set()
        self.records = Records()

    async def play(self) -> None:
        """Play from the first start to the last release; programs go on running."""
        say = self._account.say
        say("starting a plant of 12 machines behind 2 OPC UA servers, and a cloud service", kind="step")
        await asyncio.gather(self._stage.start_cloud(), self._stage.start_cells())
        say("starting 2 gateways; they fetch ten healthy days from the servers' history", kind="step")
        await self._stage.start_gateways()
        archive = await upload_archive(self._stage)
        say(
            f"earlier records of {archive.assets} machines of the fleet uploaded: {archive.observations:,} observations"
        )
        await settle(self._stage, self._account, "history stored and delivered")
        first = await self._train("first models, from the fleet's earlier records and these machines' healthy days")
        say("the plant goes live; the first models go out, canary first; then faults begin", kind="step")
        await self._tell_cells(f"speed {ROLLOUT_SPEED}", "go")
        await self._release(first)
        await self._tell_cells(f"speed {self._speed}")
        await self._live()
        await self._release(await self._train("better models, from what the faults taught"))
        await self._release_broken(ASSET_CLASSES[0])
        await self._release_bad(ASSET_CLASSES[0])
        say("the plant stands still; what is under way arrives", kind="step")
        await self._pause()
        await settle(self._stage, self._account, "everything stored and delivered")

    async def _tell_cells(self, *commands: str) -> None:
        for cell in self._stage.cells.values():
            for command in commands:
                await cell.program.tell(command)

    async def _live(self) -> None:
        """Follow the live plant; kill a gateway and cut a link on the way."""
        first, second = self._stage.layout.gateways
        acts: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (KILL_ON_DAY, lambda: self._kill(second)),
            (CUT_ON_DAY, lambda: self._cut(first)),
            (JOIN_ON_DAY, lambda: self._join(first)),
        ]
        with self._account.progress("live", LIVE_DAYS) as bar:
            async with asyncio.timeout(LIVE_DEADLINE_S):
                while (day := self._day()) < LIVE_DAYS:
                    bar.to(day, f"live, day {day:4.1f}")
                    if acts and day >= acts[0][0]:
                        await acts.pop(0)[1]()
                    await self._tell_news()
                    await asyncio.sleep(0.5)

    def _day(self) -> float:
        """Return how many simulated days every cell has been live."""
        clocks = [cell.clock or LIVE_START for cell in self._stage.cells.values()]
        return (min(clocks) - LIVE_START) / timedelta(days=1)

    async def _tell_news(self) -> None:
        """Tell new advisories and better names, and hand in the work orders of machines that failed."""
        self._stage.check_running()
        web = self._stage.layout.cloud.web_url
        for item in (await self._stage.get(f"{web}/api/v1/advisories?scope=all"))["advisories"]:
            advisory = msgspec.convert(item["advisory"], Advisory)
            if self._told.get(advisory.advisory_id) != advisory.failure_mode:
                verb = "advisory" if advisory.advisory_id not in self._told else "advisory now says"
                self._told[advisory.advisory_id] = advisory.failure_mode
                self._account.say(f"{verb}: {_in_words(advisory)}", kind="advisory")
        for fault in self.faults():
            clock = self._stage.cells[self._cell_of(fault.asset_id)].clock
            if clock and clock >= fault.repaired and (fault.asset_id, fault.failure) not in self._repairs:
                self._repairs.add((fault.asset_id, fault.failure))
                await self._hand_in(fault)

    async def _hand_in(self, fault: InjectedFault) -> None:
        """Do what a technician does after a repair: write down what it was."""
        order = {
            "asset_id": fault.asset_id,
            "failed_at": fault.failure.isoformat(),
            "failure_mode": fault.mode,
            "in_service_again": fault.repaired.isoformat(),
            "note": "found at repair",
        }
        await self._stage.post(f"{self._stage.layout.cloud.web_url}/api/v1/maintenance", order)
        self._account.say(f"{fault.asset_id} failed and was repaired: {fault.mode.replace('_', ' ')}", kind="fault")

    def faults(self) -> list[InjectedFault]:
        """Return the plant's truth, as its cells wrote it down."""
        return [
            InjectedFault(
                asset_id=fault["asset"],
                mode=fault["mode"],
                onset=datetime.fromisoformat(fault["onset"]),
                failure=datetime.fromisoformat(fault["failure"]),
                repaired=datetime.fromisoformat(fault["repaired"]),
            )
            for gateway in self._stage.layout.gateways
            for fault in self._stage.layout.truth(gateway.cell)["faults"]
        ]

    def _cell_of(self, asset_id: str) -> str:
        return next(name for name, cell in self._stage.cells.items() if asset_id in cell.ready["assets"])

    async def _kill(self, gateway: GatewaySite) -> None:
        before = await self._stage.health(gateway)
        await self._stage.gateways[gateway.gateway_id].kill()
        self._account.say(f"{gateway.gateway_id} killed with SIGKILL in the middle of its work", kind="broken")
        await asyncio.sleep(3.0)
        await self._stage.start_gateway(gateway)
        self._account.say(f"{gateway.gateway_id} started again; what it missed comes from the servers' history")
        self.records.disturbances["killed"] = {
            "gateway": gateway.gateway_id,
            "last_seq_before": before["journal"]["last_seq"],
        }

    async def _cut(self, gateway: GatewaySite) -> None:
        self._stage.links[gateway.gateway_id].cut()
        self._account.say(f"uplink of {gateway.gateway_id} cut; it goes on reading, storing and judging", kind="broken")

    async def _join(self, gateway: GatewaySite) -> None:
        pending = (await self._stage.health(gateway))["uplink"]["observations_pending"]
        self._stage.links[gateway.gateway_id].join()
        self._account.say(f"uplink of {gateway.gateway_id} back; {pending:,} observations had waited")
        self.records.disturbances["cut"] = {"gateway": gateway.gateway_id, "observations_pending": pending}

    async def _pause(self) -> None:
        await self._tell_cells("pause")
        async with asyncio.timeout(PAUSE_DEADLINE_S):
            while not all(cell.paused for cell in self._stage.cells.values()):
                await asyncio.sleep(0.1)

    async def _train(self, why: str) -> list[dict[str, Any]]:
        """Train every class and tell how each did on machines held out."""
        self._account.say(f"training {why}", kind="step")
        outcomes = await asyncio.gather(
            *(self._stage.cloud_command("train", "--asset-class", c, allowed=(0, 3)) for c in ASSET_CLASSES)
        )
        for asset_class, outcome in zip(ASSET_CLASSES, outcomes, strict=True):
            self._note_model(asset_class, outcome)
        return outcomes

    async def _release(self, outcomes: Sequence[dict[str, Any]]) -> None:
        """Roll out what the model quality gate let pass."""
        released = await asyncio.gather(
            *(
                roll_out(self._stage, self._account, asset_class, outcome["version"])
                for asset_class, outcome in zip(ASSET_CLASSES, outcomes, strict=True)
                if outcome["released"]
            )
        )
        self.records.released &= all(released)

    def _note_model(self, asset_class: str, outcome: dict[str, Any]) -> None:
        version, figures = outcome["version"], outcome["held_out"]
        shown = in_short(figures)
        verdict = "released" if outcome["released"] else f"not released: {'; '.join(outcome['reasons'])}"
        self._account.say(f"{asset_class} version {version} on held-out machines: {shown} ({verdict})")
        earlier = self.records.models.get(asset_class)
        after = version if outcome["released"] else (earlier.version_after if earlier else None)
        held_out = {**(earlier.held_out if earlier else {}), f"version {version}": figures}
        if outcome.get("live_held_out"):
            held_out[f"version {outcome['live_version']}, judged again"] = outcome["live_held_out"]
        self.records.models[asset_class] = ModelOutcome(
            asset_class=asset_class,
            version_before=earlier.version_after if earlier else None,
            version_after=after,
            held_out=held_out,
        )

    async def _release_broken(self, asset_class: str) -> None:
        """Roll out a copy of the newest archive with one byte changed."""
        version, archive = await self._newest(asset_class)
        broken = broken_copy(archive, self._stage.layout.folder / "broken" / archive.name)
        report = await rollout_command(self._stage, ["--archive", str(broken)])
        canary, *rest = report["hosts"]
        live = [await self._live_version(g, asset_class) for g in self._stage.layout.gateways]
        untouched = live == [version, version] and all(h["outcome"] == "skipped" for h in rest)
        self.records.refused_broken = canary["outcome"] == "refused" and untouched
        self._account.say(
            f"a bundle with one changed byte: {canary['outcome']} by {canary['host']} ({canary['reason']}); "
            f"live still {live}",
            kind="ok" if self.records.refused_broken else "broken",
        )

    async def _release_bad(self, asset_class: str) -> None:
        """Roll out a signed release whose thresholds call everything an alarm."""
        version, archive = await self._newest(asset_class)
        pki = self._stage.layout.cloud.folder / "pki"
        bad = crying_wolf_copy(archive, self._stage.layout.folder / "bad", pki / "bundle-signing.key", version + 1)
        self.records.bad_versions.add((asset_class, version + 1))
        report = await rollout_command(self._stage, ["--archive", str(bad)])
        canary, *rest = report["hosts"]
        live = [await self._live_version(g, asset_class) for g in self._stage.layout.gateways]
        untouched = live == [version, version] and all(h["outcome"] == "skipped" for h in rest)
        self.records.rolled_back_bad = canary["outcome"] == "rolled_back" and untouched
        self._account.say(
            f"a signed bundle that cries wolf: {canary['outcome'].replace('_', ' ')} on {canary['host']} "
            f"({canary['reason']}); live again {live}",
            kind="ok" if self.records.rolled_back_bad else "broken",
        )

    async def _newest(self, asset_class: str) -> tuple[int, Path]:
        bundles = await self._stage.cloud_command("bundles")
        newest = max(
            (b for b in bundles if b["asset_class"] == asset_class and b["status"] == "live"),
            key=lambda b: b["version"],
        )
        return newest["version"], Path(newest["archive"])

    async def _live_version(self, gateway: GatewaySite, asset_class: str) -> int | None:
        health = await self._stage.health(gateway)
        version: int | None = health["bundles"].get(asset_class, {}).get("version")
        return version


def in_short(figures: Mapping[str, float]) -> str:
    """Return the figures that one looks at first."""
    return ", ".join(f"{name} {figures[key]:.3g}" for key, name in HEADLINES.items() if key in figures)


def _in_words(advisory: Advisory) -> str:
    top = ", ".join(f"{share.channel} {share.share:.0%}" for share in advisory.top_channels[:2])
    life = f", life P50 {advisory.life_p50_s / 86400:.1f} days" if advisory.life_p50_s is not None else ""
    return (
        f"{advisory.asset_id} {advisory.failure_mode.replace('_', ' ')}, {advisory.confidence:.0%} sure ({top}){life}"
    )
