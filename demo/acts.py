"""What the demo and the replays have in common: waiting until values arrived, releasing models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from demo.account import Account
from demo.stage import Stage

SETTLE_DEADLINE_S = 120.0


class PromiseBroken(RuntimeError):
    """The demo cannot go on, because something that it shows did not happen."""


async def settle(stage: Stage, account: Account, what: str) -> None:
    """Wait until the gateways have stored and judged what their cells made, and the cloud holds it all.

    Raises:
        PromiseBroken: If that does not happen in time.
    """
    made = sum(cell.made for cell in stage.cells.values())
    with account.progress(what, max(made, 1)) as bar:
        try:
            async with asyncio.timeout(SETTLE_DEADLINE_S):
                while not await _is_settled(stage, made, bar.to):
                    await asyncio.sleep(0.3)
        except TimeoutError as error:
            raise PromiseBroken(f"{what}: not within {SETTLE_DEADLINE_S:.0f} s") from error
    account.say(f"{what}: {made:,} observations", kind="ok")


async def _is_settled(stage: Stage, made: int, tell: Callable[[float], None]) -> bool:
    stage.check_running()
    told = [await stage.health(gateway) for gateway in stage.layout.gateways]
    stored = sum(health["uplink"]["observations_stored"] for health in told)
    delivered = sum(health["uplink"]["observations_delivered"] for health in told)
    tell(delivered)
    judged = all(health["readers"]["monitor"] >= health["journal"]["last_seq"] for health in told)
    return judged and stored >= made and delivered >= made and not any(_pending(health) for health in told)


def _pending(health: dict[str, Any]) -> int:
    return int(health["uplink"]["segments_pending"]) + int(health["uplink"]["observations_pending"])


async def rollout_command(stage: Stage, arguments: Sequence[str]) -> dict[str, Any]:
    """Run ``wearsight-cloud rollout`` on all of the stage's gateways and return its report."""
    path = stage.layout.folder / "inventory.json"
    path.write_text(json.dumps(stage.inventory(), indent=1))
    report: dict[str, Any] = await stage.cloud_command("rollout", *arguments, "--inventory", str(path), allowed=(0, 3))
    return report


async def roll_out(
    stage: Stage, account: Account, asset_class: str, version: int, *, options: Sequence[str] = ()
) -> bool:
    """Roll a release out, canary first, tell how it went, and return whether it is live everywhere."""
    report = await rollout_command(stage, ["--asset-class", asset_class, "--version", str(version), *options])
    hosts = ", ".join(_host(host) for host in report["hosts"])
    good = len(report["hosts"]) == len(stage.layout.gateways) and all(h["outcome"] == "ok" for h in report["hosts"])
    account.say(f"{asset_class} version {version} rolled out: {hosts}", kind="ok" if good else "broken")
    return good


def _host(host: dict[str, Any]) -> str:
    reason = f" ({host['reason']})" if host["reason"] and host["outcome"] != "ok" else ""
    return f"{host['host']} {host['outcome']} in {host['seconds']:.0f} s{reason}"
