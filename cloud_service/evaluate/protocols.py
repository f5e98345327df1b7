"""Which protocol judges which task, and running it: in this process, or a process a seed."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from types import ModuleType
from typing import Any, Final

from cloud_service.errors import EvaluationFailed
from cloud_service.evaluate.named import TASKS, task_of
from cloud_service.evaluate.outcome import Outcome, Parity, Progress, over_seeds
from models.datasets.tasks import Dataset
from models.export.graph import ExportError
from models.export.parity import ParityError
from models.features.specification import FeatureError

PROTOCOLS: Final = {task: f"cloud_service.evaluate.{task}" for task in TASKS.values()}
"""The module of each task: it has ``evaluate_<task>(dataset, *, seeds, progress) -> Outcome``, and its docstring tells
the protocol in words."""
_POLL_S: Final = 0.2
_WAY_HOME: dict[str, Any] = {}  # of a worker process: the queue that its progress goes through


def protocol_words(task: str) -> str:
    """Return the protocol of *task* in words: what its module says of itself."""
    return (_protocol(PROTOCOLS[task]).__doc__ or "").strip()


def run_protocol(dataset: Dataset, *, seeds: Sequence[int], jobs: int, progress: Progress) -> Outcome:
    """Return the outcome of the protocol for *dataset* over *seeds*.

    Args:
        dataset: Any of the five kinds.
        seeds: At least one; all that is random follows from them.
        jobs: Processes to share the seeds among; results are the same for any number.
        progress: Told how far it is.

    Raises:
        EvaluationFailed: If there is nothing to learn from, the data set has what no model can be made of, or there is
            not enough memory.
    """
    began = time.perf_counter()
    module = PROTOCOLS[task_of(dataset)]
    try:
        outcome = (
            _evaluate(module, dataset, seeds, progress)
            if jobs == 1 or len(seeds) == 1
            else _in_processes(module, dataset, seeds, min(jobs, len(seeds)), progress)
        )
    except (FeatureError, ExportError, ParityError) as error:
        raise EvaluationFailed(f"{dataset.name}: {error}; nothing is judged") from error
    except (MemoryError, BrokenProcessPool) as error:
        raise EvaluationFailed(
            f"{dataset.name}: the memory is not enough ({type(error).__name__}); give fewer rows or channels, or "
            "use --jobs 1; nothing is judged"
        ) from error
    return replace(outcome, seconds=time.perf_counter() - began)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Return one outcome of *outcomes* of one seed each: settings that differ between seeds are told by seed."""
    first = outcomes[0]
    seeds = {seed: figures for outcome in outcomes for seed, figures in outcome.seeds.items()}
    metrics, spread = over_seeds(seeds)
    parities = [outcome.parity for outcome in outcomes if outcome.parity is not None]
    return replace(
        first,
        protocol=_joined_protocol([outcome.protocol for outcome in outcomes], tuple(seeds)),
        metrics=metrics,
        spread=spread,
        seeds=seeds,
        parity=_joined_parity(parities) if parities else None,
        limits=tuple(dict.fromkeys(sentence for outcome in outcomes for sentence in outcome.limits)),
    )


def _joined_parity(parities: Sequence[Parity]) -> Parity:
    return Parity(
        windows=sum(parity.windows for parity in parities),
        decisions_changed=sum(parity.decisions_changed for parity in parities),
        largest_difference=max(parity.largest_difference for parity in parities),
    )


def _joined_protocol(protocols: Sequence[Mapping[str, object]], seeds: Sequence[int]) -> dict[str, object]:
    """Return the first protocol, with all seeds, and a table by seed under each key of which the values differ."""
    found: dict[str, object] = {}
    for key in dict.fromkeys(key for protocol in protocols for key in protocol):
        values = [protocol.get(key) for protocol in protocols]
        alike = all(value == values[0] for value in values)
        found[key] = values[0] if alike else {f"seed {seed}": v for seed, v in zip(seeds, values, strict=True)}
    if "seeds" in found:
        found["seeds"] = list(seeds)
    return found


def _protocol(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("cloud_service", "models"):
            raise  # ours: no package is missing
        raise EvaluationFailed(
            f"evaluation needs the packages of the extra train, and {error.name} is not installed; "
            "install wearsight[cloud,train]"
        ) from error


def _evaluate(module: str, dataset: Dataset, seeds: Sequence[int], progress: Progress) -> Outcome:
    evaluate = getattr(_protocol(module), f"evaluate_{task_of(dataset)}")
    outcome: Outcome = evaluate(dataset, seeds=seeds, progress=progress)
    return outcome


def _in_processes(module: str, dataset: Dataset, seeds: Sequence[int], jobs: int, progress: Progress) -> Outcome:
    context = get_context("spawn")  # a fork would share the locks of threads that it does not have
    with context.Manager() as manager:
        told = manager.Queue()
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(told,)) as pool:
            running = [pool.submit(_one_seed, module, dataset, seed) for seed in seeds]
            shares = dict.fromkeys(seeds, 0.0)
            while not all(future.done() for future in running):
                shares |= {seed: 1.0 for seed, future in zip(seeds, running, strict=True) if future.done()}
                _pass_on(told, shares, progress)
            return joined([future.result() for future in running])


def _begin(told: Any) -> None:
    _WAY_HOME["queue"] = told


def _one_seed(module: str, dataset: Dataset, seed: int) -> Outcome:
    return _evaluate(module, dataset, [seed], lambda stage, share: _WAY_HOME["queue"].put((seed, stage, share)))


def _pass_on(told: Any, shares: dict[int, float], progress: Progress) -> None:
    try:
        seed, stage, share = told.get(timeout=_POLL_S)
    except queue.Empty:
        return
    shares[seed] = max(share, shares[seed])
    progress(f"seed {seed}: {stage}", sum(shares.values()) / len(shares))
