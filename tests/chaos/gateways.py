"""The whole gateway is killed while a real OPC UA server feeds it: every value is stored once, or told as a gap."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.chaos.acts import Act, Dose, Trial
from tests.integration.faults.field import BOUND_S, PUMPS, Field, running
from tests.integration.peers.asyncua_plant import Settings

_PLANT = Settings(assets=tuple(PUMPS), is_open=True, takes_few=False, history_page=500)
_STARTING_S = 1.5


async def _gateways(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    """Kill the gateway at moments the seed chooses, some of them while it starts; judge all of it at the end."""
    chance = random.Random(seed)
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
    await asyncio.to_thread(folder.mkdir, parents=True)
    async with running(folder, _PLANT) as field:
        for place in range(trials):
            moment_s, again_s = chance.uniform(0.2, 3.0), chance.choice((0.0, chance.uniform(0.1, _STARTING_S)))
            what = f"gateway killed after {moment_s:.1f} s" + f", and {again_s:.1f} s into its start" * (again_s > 0)
            await asyncio.sleep(moment_s)
            wrong = await _killed(field, again_s)
            if place < trials - 1:
                yield Trial(what=what, wrong=wrong)
        verdict, _ = await field.end()
        yield Trial(what=f"{what}, then stopped: {verdict.made} values made", wrong=(*wrong, *verdict.wrong))


async def _killed(field: Field, again_s: float) -> tuple[str, ...]:
    """Kill the gateway, once more while it starts when *again_s* is above 0, and wait until all streams are live."""
    field.gateway.kill()
    if again_s:
        starting = asyncio.create_task(field.gateway.start())
        await asyncio.sleep(again_s)
        field.gateway.kill()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    killed = time.time_ns()
    try:
        await field.gateway.start()
        await field.tail.until_live(field.streams, killed, within_s=2 * BOUND_S)
    except (AssertionError, TimeoutError) as error:
        return (f"not live again: {error}",)
    return ()


GATEWAYS = Act(
    name="gateways",
    promise="a whole gateway that is killed has every value of its plant once, or in a gap record that says why",
    series=_gateways,
    trials={Dose.QUICK: 1, Dose.STANDARD: 6, Dose.NIGHTLY: 200},
    per_series=10,
)
