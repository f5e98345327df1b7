"""Nothing is lost unsaid and nothing doubled, whatever happens to the link, the server, the disk or the tag list.

Each run drives the program from outside: configuration, HTTP, journal. See `tests.integration.faults.field`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.faults.chaos_proxy import ChaosProxy, Door, Ending, Way
from tests.integration.faults.field import BOUND_S, GOAL_S, PUMPS, Fault, Field, running
from tests.integration.faults.judge import Stored
from tests.integration.peers.asyncua_plant import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PLANT = Settings(assets=tuple(PUMPS), is_open=True, takes_few=False, history_page=500)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def lasting(seconds: float, *acts: Callable[[ChaosProxy], None]) -> Fault:
    """Return the fault that does *acts* to each link, one after the other, each for so many seconds."""

    async def fault(proxies: Sequence[ChaosProxy]) -> None:
        for act in acts:
            for proxy in proxies:
                act(proxy)
            await asyncio.sleep(seconds)

    return fault


CUTS: dict[str, Fault] = {
    "reset, 0.3 s": lasting(0.3, lambda link: link.cut(Ending.RESET)),
    "closed, 0.3 s": lasting(0.3, lambda link: link.cut(Ending.CLOSE)),
    "reset, nobody answers for 3 s": lasting(3, lambda link: link.cut(Ending.RESET, Door.SILENCE)),
    "closed, reset at the door for 6 s": lasting(6, lambda link: link.cut(Ending.CLOSE, Door.RESET)),
    "forgotten by a firewall": lasting(0, lambda link: link.cut(Ending.SILENCE, Door.OPEN)),
    "dead for 8 s": lasting(8, lambda link: link.cut(Ending.SILENCE, Door.SILENCE)),
    "frozen for 1 s": lasting(1, ChaosProxy.freeze),
    "frozen for 5 s": lasting(5, ChaosProxy.freeze),
    "frozen for 15 s": lasting(15, ChaosProxy.freeze),
    "frozen to the gateway for 4 s": lasting(4, lambda link: link.freeze(Way.TO_GATEWAY)),
    "frozen to the server for 4 s": lasting(4, lambda link: link.freeze(Way.TO_SERVER)),
    "loss to the gateway for 2 s": lasting(2, lambda link: link.lose(Way.TO_GATEWAY)),
    "loss to the server for 2 s": lasting(2, lambda link: link.lose(Way.TO_SERVER)),
    "loss both ways for 4 s": lasting(4, ChaosProxy.lose),
    "reset after one byte to the gateway": lasting(1, lambda link: link.reset_after(1, Way.TO_GATEWAY)),
    "reset inside a message": lasting(2, lambda link: link.reset_after(1500, Way.TO_GATEWAY)),
    "reset inside a request": lasting(2, lambda link: link.reset_after(60, Way.TO_SERVER)),
    "reset, then again while it connects": lasting(
        1.5,
        ChaosProxy.cut,
        lambda link: (link.heal(), link.reset_after(900, Way.TO_GATEWAY))[0],  # type: ignore[func-returns-value]  # two acts
    ),
    "slow: 2 kB/s for 5 s": lasting(5, lambda link: link.slow(bytes_per_s=2000)),
    "slow: a second late for 5 s": lasting(5, lambda link: link.slow(latency_s=1)),
    "flapping": lasting(0.4, *[ChaosProxy.cut, ChaosProxy.heal] * 5),
    "reset, 10 s": lasting(10, ChaosProxy.cut),
}


@pytest.mark.timeout(600)
async def test_twenty_link_cuts(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """However a link fails, nothing is missing unsaid, nothing doubled, and values flow again."""
    async with running(tmp_path, PLANT) as field:
        for name, fault in CUTS.items():
            await field.suffer(name, fault)
        await keeps_its_promise(field, record_property)


@pytest.mark.timeout(600)
async def test_five_restarts(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A server comes back without sessions, with other indexes, without its history, with nodes that come late."""
    late = {"pump-01": 30.0, "pump-02/speed_rpm": 30.0}
    restarts = {
        "the same server": (PLANT, 1.0),
        "indexes permuted": (replaced(PLANT, strangers=3), 2.0),
        "nodes late by 30 s, indexes permuted": (replaced(PLANT, strangers=1, late_s=late), 1.0),
        "history forgotten": (replaced(PLANT, remembers=False), 4.0),
        "indexes permuted, one channel late": (replaced(PLANT, strangers=2, late_s={"pump-01/load_pct": 5.0}), 0.0),
    }
    async with running(tmp_path, PLANT) as field:
        for name, (settings, down_s) in restarts.items():
            await field.restart_plant(name, settings, down_s=down_s)
        await keeps_its_promise(field, record_property)


def replaced(settings: Settings, **changes: object) -> Settings:
    """Return *settings* with *changes*."""
    import msgspec

    return msgspec.structs.replace(settings, **changes)


async def keeps_its_promise(field: Field, record: Callable[[str, object], None]) -> Stored:
    """End the run and hold that the promise was kept; that the judge would have seen it broken, too."""
    verdict, stored = await field.end()
    for name, seconds in field.again_s.items():
        print(f"{'LATE ' if seconds > GOAL_S else ''}live again after {seconds:5.1f} s: {name}")  # noqa: T201 - -rP shows it
        record(f"live again: {name}", round(seconds, 1))
    print(verdict)  # noqa: T201 - the same
    record("verdict", str(verdict))
    assert verdict.is_kept, str(verdict)
    assert max(field.again_s.values(), default=0.0) <= BOUND_S, field.again_s
    return stored
