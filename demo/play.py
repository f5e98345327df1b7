"""``make demo``: the whole path on the simulated plant, from its history to a redeployed model, in one run."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from demo.account import Account
from demo.acts import PromiseBroken
from demo.layout import lay_out
from demo.plant.fleet import CELLS
from demo.processes import ProgramFailed
from demo.scenario import Scenario
from demo.stage import Stage
from demo.verdict import balance, conclude, print_tables, write_reports

ROOT = Path(__file__).parents[1]
PLANT_SEED = 7
# Simulated seconds in one second: 15 values of a channel, so that ten days take a minute and a half.
SPEED = 9000


async def play(folder: Path, report_folder: Path, *, keep: bool) -> int:
    """Run the demo and return its exit code: 0 when every promise was kept."""
    account = Account()
    layout = lay_out(folder, list(CELLS))
    stage = Stage(layout, ["--seed", str(PLANT_SEED), "--speed", str(SPEED)])
    try:
        async with stage.running():
            scenario = Scenario(stage, account, speed=SPEED)
            await scenario.play()
            told = [await stage.health(gateway) for gateway in layout.gateways]
            stored = sum(health["uplink"]["observations_stored"] for health in told)
            await stage.stop_cells()
            faults = scenario.faults()
            counted = await balance(layout, stored=stored)
            outcome, advisories = conclude(account, layout, scenario.records, faults, counted)
            truths = [layout.truth(gateway.cell) for gateway in layout.gateways]
            bad_versions = frozenset(scenario.records.bad_versions)
            write_reports(report_folder, layout, account, outcome, faults, truths, advisories, bad_versions)
            print_tables(account, outcome)
            broken = outcome.broken_promises()
            for promise in broken:
                account.say(f"promise broken: {promise}", kind="broken")
            if not broken:
                account.say("every promise was kept", kind="ok")
            account.say(f"look at {report_folder / 'demo-report.html'}")
            if keep:
                await _stay(account, layout.cloud.web_url)
            return 1 if broken else 0
    except (ProgramFailed, PromiseBroken, TimeoutError) as error:
        account.say(f"the demo stops: {str(error) or 'it took too long'} (logs in {folder / 'logs'})", kind="broken")
        return 1


async def _stay(account: Account, inbox: str) -> None:
    """Stay up until Ctrl-C or SIGTERM."""
    account.say(f"the inbox is at {inbox}; Ctrl-C ends everything", kind="step")
    ended = asyncio.Event()
    for wanted in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(wanted, ended.set)
    with contextlib.suppress(asyncio.CancelledError):
        await ended.wait()
