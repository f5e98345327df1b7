"""``demo replay``: recorded data over the same path, judged by what the data set itself says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from demo.account import Account
from demo.acts import PromiseBroken, roll_out, settle
from demo.layout import Layout, lay_out
from demo.plant.fleet import CELLS
from demo.plant.replay import PUMP_RIG, TURBOFAN
from demo.scenario import in_short
from demo.stage import Stage
from demo.verdict import balance, read_results
from models.evaluation.metrics import point_scores, rmse
from models.records import Advisory, BoolArray, Int64Array, Prognosis, State, Zone, to_ns

CYCLE_S = 3600.0
# Labels above this tell nothing: an engine's first hundreds of cycles look alike. The usual cap of the literature.
LIFE_CAP_CYCLES = 125.0
NEAR_FAILURE_CYCLES = 30.0
LIVE_DEADLINE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A data set that can be replayed: its class of assets, how fast its live part is told, how it is judged."""

    source: str
    asset_class: str
    speed: float
    judge: Callable[[Account, Layout], dict[str, Any]]


async def replay(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Replay a data set and return what came of it.

    Args:
        name: A key of `REPLAYS`.
        data: Folder of the public data sets.
        folder: Where everything of the run is kept; emptied first.

    Raises:
        ProgramFailed: If one of the programs ended by itself.
        PromiseBroken: If values did not arrive, or no release went live.
    """
    what = REPLAYS[name]
    account = Account()
    layout = lay_out(folder, list(CELLS))
    stage = Stage(layout, ["--source", what.source, "--data", str(data), "--speed", str(what.speed)])
    async with stage.running():
        account.say(f"{name}: starting 2 OPC UA servers with the recorded machines, 2 gateways, a cloud", kind="step")
        await asyncio.gather(stage.start_cloud(), stage.start_cells())
        await stage.start_gateways()
        await settle(stage, account, "recorded history stored and delivered")
        await _hand_in_failures(stage)
        await _release(stage, account, what.asset_class)
        await _live(stage, account)
        await settle(stage, account, "live part stored and delivered")
        told = [await stage.health(gateway) for gateway in layout.gateways]
        stored = sum(health["uplink"]["observations_stored"] for health in told)
        await stage.stop_cells()
        counted = await balance(layout, stored=stored)
        account.say(
            f"made {counted.made:,}, stored {counted.stored:,}, delivered {counted.delivered:,}, "
            f"lost {counted.lost}, twice {counted.duplicated}",
            kind="ok" if counted.balanced else "broken",
        )
        if not counted.balanced:
            raise PromiseBroken("what the plant made is not what arrived")
        return {"replay": name, "seconds": round(account.seconds, 1), **what.judge(account, layout)}


async def _hand_in_failures(stage: Stage) -> None:
    """Write down the failures of machines whose record ends in one."""
    for gateway in stage.layout.gateways:
        for fault in stage.layout.truth(gateway.cell)["faults"]:
            if fault.get("rul_s") == 0:
                order = {"asset_id": fault["asset"], "failed_at": fault["failure"], "failure_mode": fault["mode"]}
                await stage.post(f"{stage.layout.cloud.web_url}/api/v1/maintenance", order)


async def _release(stage: Stage, account: Account, asset_class: str) -> None:
    account.say(f"training {asset_class} from what arrived", kind="step")
    outcome = await stage.cloud_command("train", "--asset-class", asset_class, allowed=(0, 3))
    shown = in_short(outcome["held_out"])
    account.say(f"{asset_class} version {outcome['version']} on held-out machines: {shown}")
    if not outcome["released"]:
        raise PromiseBroken(f"no release of {asset_class}: {'; '.join(outcome['reasons'])}")
    # Nothing is live yet, neither values nor models: there is nothing to watch and nothing to compare with.
    options = ["--watch-windows", "0"]
    if not await roll_out(stage, account, asset_class, outcome["version"], options=options):
        raise PromiseBroken(f"{asset_class} version {outcome['version']} is not live everywhere")


async def _live(stage: Stage, account: Account) -> None:
    """Let the live part run to its end."""
    account.say("the live part begins", kind="step")
    for cell in stage.cells.values():
        await cell.program.tell("go")
    async with asyncio.timeout(LIVE_DEADLINE_S):
        while not all(cell.paused for cell in stage.cells.values()):
            stage.check_running()
            await asyncio.sleep(0.5)


def judge_cmapss(account: Account, layout: Layout) -> dict[str, Any]:
    """Say which test engines got an advisory near failure, and how far the last prognoses were off."""
    truth = {f["asset"]: f for cell in CELLS for f in layout.truth(cell)["faults"] if f["asset"][7:9] == "te"}
    last: dict[str, Prognosis] = {}
    for prognosis in sorted(read_results(layout, "prognosis", Prognosis), key=lambda p: p.window_end):
        if prognosis.p50_s is not None:
            last[prognosis.asset_id] = prognosis
    engines = sorted(set(last) & set(truth))
    left = np.array([truth[e]["rul_s"] / CYCLE_S for e in engines])
    told = np.array([_cycles(last[e].p50_s) for e in engines])
    error = np.minimum(told, LIFE_CAP_CYCLES) - np.minimum(left, LIFE_CAP_CYCLES)
    off = rmse(error)
    advised = {a.asset_id for a in read_results(layout, "advisory", Advisory)}
    near = [e for e, cycles in zip(engines, left, strict=True) if cycles <= NEAR_FAILURE_CYCLES]
    for engine in sorted(near, key=lambda e: float(truth[e]["rul_s"]))[:10]:
        p, sign = last[engine], "advisory" if engine in advised else "no advisory"
        account.say(
            f"{engine}: {truth[engine]['rul_s'] / CYCLE_S:.0f} cycles left, told {_cycles(p.p10_s):.0f}-"
            f"{_cycles(p.p50_s):.0f}-{_cycles(p.p90_s):.0f} (P10-P50-P90, {p.basis}), {sign}",
            kind="advisory" if engine in advised else "fault",
        )
    found = sum(e in advised for e in near)
    account.say(f"advisories for {found} of {len(near)} engines within {NEAR_FAILURE_CYCLES:.0f} cycles of failure")
    account.say(
        f"held-out RMSE of the last prognosis over {len(engines)} test engines: {off:.2f} cycles "
        f"(labels and prognoses capped at {LIFE_CAP_CYCLES:.0f}; saying the same of every engine: "
        f"{float(np.minimum(left, LIFE_CAP_CYCLES).std()):.2f})",
        kind="ok",
    )
    return {"engines": len(engines), "rmse_cycles": off, "near_failure": len(near), "near_failure_advised": found}


def _cycles(life_s: float | None) -> float:
    return float("nan") if life_s is None else life_s / CYCLE_S


def judge_skab(account: Account, layout: Layout) -> dict[str, Any]:
    """Say how well the states tell anomalous rows from others, row by row, after each rig's first 400."""
    states: dict[str, list[State]] = {}
    for state in sorted(read_results(layout, "state", State), key=lambda s: s.window_end):
        states.setdefault(state.asset_id, []).append(state)
    flagged, labelled = [], []
    for cell in CELLS:
        truth = layout.truth(cell)
        start = to_ns(datetime.fromisoformat(truth["live_start"]))
        for asset_id, labels in truth["labels"].items():
            times = np.array(labels["time_ns"], np.int64)
            live = times >= start
            if asset_id in states and live.any():
                flagged.append(_flags(states[asset_id], times[live]))
                labelled.append(np.array(labels["anomaly"], np.bool_)[live])
    anomalous = np.concatenate(labelled)
    scores = point_scores(np.concatenate(flagged), anomalous)
    all_flagged = point_scores(np.ones_like(anomalous), anomalous)
    advised = {a.asset_id for a in read_results(layout, "advisory", Advisory)}
    account.say(f"advisories for {len(advised)} of {len(flagged)} rigs, every one of which is disturbed at some time")
    account.say(
        f"held-out F1 over {sum(map(len, labelled)):,} rows of {len(flagged)} experiments: {scores.f1:.3f} "
        f"(precision {scores.precision:.3f}, recall {scores.recall:.3f}; flagging every row: {all_flagged.f1:.3f})",
        kind="ok",
    )
    return {
        "experiments": len(flagged),
        "f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "f1_of_flagging_all": all_flagged.f1,
    }


def _flags(states: Iterable[State], times: Int64Array) -> BoolArray:
    """Return which rows lie in the last step of a window that was out of normal."""
    known = [s for s in states if s.zone is not Zone.UNKNOWN]
    ends = np.array([to_ns(s.window_end) for s in known], np.int64)
    out = np.array([s.zone is not Zone.NORMAL for s in known], np.bool_)
    # A row is judged by the first window that ends after it.
    place = np.searchsorted(ends, times, side="right")
    return np.where(place < len(out), out[np.minimum(place, len(out) - 1)], out[-1] if len(out) else False)


REPLAYS = {
    "cmapss-fd001": Replay(source="cmapss-fd001", asset_class=TURBOFAN, speed=3.0 * 3600.0, judge=judge_cmapss),
    "skab": Replay(source="skab", asset_class=PUMP_RIG, speed=15.0, judge=judge_skab),
}
