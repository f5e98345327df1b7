"""``python -m tests.chaos``: breaks disks, processes and clocks under a journal, and says which promises hold."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time

import structlog

from tests.chaos.acts import Dose
from tests.chaos.driver import Outcome, play, table
from tests.chaos.repertoire import ACTS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [act.name for act in ACTS]
    parser.add_argument(
        "--dose", choices=[*Dose], default=Dose.STANDARD, type=Dose, help="how much (default: standard)"
    )
    parser.add_argument("--only", action="append", choices=names, metavar="ACT", help=f"one of {', '.join(names)}")
    parser.add_argument("--seed", type=int, help="of the first series of each act; without it a new one is drawn")
    parser.add_argument("--series", type=int, help="how many series of each act; 1 with --seed replays one")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on stdout, progress on stderr")
    return parser.parse_args()


def _as_json(outcomes: list[Outcome], seed: int) -> str:
    acts = [
        {
            "act": outcome.act.name,
            "promise": outcome.act.promise,
            "is_control": outcome.act.is_control,
            "trials": outcome.trials,
            "seconds": round(outcome.seconds, 1),
            "is_kept": outcome.is_kept,
            "failed": [{"seed": number, "what": what} for number, what in outcome.failed],
            "broken": [{"seed": number, "what": what} for number, what in outcome.broken],
        }
        for outcome in outcomes
    ]
    return json.dumps({"seed": seed, "is_kept": all(o.is_kept for o in outcomes), "acts": acts}, indent=2)


def main() -> int:
    """Run as the arguments say; return 0 when all promises hold and all controls fail."""
    arguments = _arguments()
    seed = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # errors are wanted here
    started = time.monotonic()
    out = sys.stderr if arguments.json else sys.stdout

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {line}", file=out, flush=True)

    tell(f"chaos, {arguments.dose} dose, seed {seed}")
    acts = [act for act in ACTS if not arguments.only or act.name in arguments.only]
    outcomes = asyncio.run(play(acts, arguments.dose, seed, tell, series=arguments.series))
    print(f"\n{table(outcomes)}", file=out)
    for outcome in outcomes:
        for number, what in [] if outcome.is_kept else [*outcome.failed, *outcome.broken][:20]:
            print(f"\n{outcome.act.name}: {what}\n  replay: make chaos ONLY={outcome.act.name} SEED={number}", file=out)
    if arguments.json:
        sys.stdout.write(_as_json(outcomes, seed) + "\n")
    return 0 if all(outcome.is_kept for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
