"""Runs all algorithms on the recorded curves."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from benchmarks.search_quality import curves
from benchmarks.search_quality.curves import Curves
from benchmarks.search_quality.players import BOUND, FIELD, VARIANTS, Entry
from benchmarks.search_quality.pool import Pool

WORKERS = (1, 4, 16, 64)
PERCENTILES = (95, 99)
# When a sweep ends that has not reached its targets: after so many trials for each configuration of the grid.
# Hyperband, whose rounds count as trials here, gets more. keras-tuner's Gaussian process, which takes a second for a
# suggestion, ends at its first target, or after so many trials besides the first of each worker.
_TRIALS_FOR_EACH, _HYPERBAND_TRIALS_FOR_EACH = 1, 3
_SLOW_TRIALS = 50
_SAY_EVERY = 20.0


@dataclass(frozen=True)
class Run:
    """One simulated sweep.

    Attributes:
        dataset: Which curves.
        algorithm: The entry's name.
        family: The entry's family.
        workers: How many trials ran at once.
        seed: Of the algorithm.
        seconds: Until each of `PERCENTILES` was reached, or the first of them; None if it was not.
        epochs: Trained by then, in all trials.
        trials: Started by then.
        until: When the sweep ended, on the simulated clock.
        suggestions: Seconds of processor time that the algorithm took, per trial.
    """

    dataset: str
    algorithm: str
    family: str
    workers: int
    seed: int
    seconds: list[float | None]
    epochs: list[int | None]
    trials: list[int | None]
    until: float
    suggestions: float


@functools.lru_cache
def _curves(dataset: str, trainer: str, epoch_scale: float) -> Curves:
    return curves.load(dataset, trainer=trainer, epoch_scale=epoch_scale)


def simulate(dataset: str, entry: Entry, workers: int, seed: int, epoch_scale: float = 1.0) -> Run:
    """Simulates one sweep, whose epochs take `epoch_scale` times as long as recorded; seeds start at 1."""
    table = _curves(dataset, entry.trainer, epoch_scale)
    for_each = _HYPERBAND_TRIALS_FOR_EACH if entry.name.lower() == "hyperband" else _TRIALS_FOR_EACH
    most = workers + _SLOW_TRIALS if entry.repeats < 1 else for_each * len(table.values)
    percentiles = PERCENTILES[:1] if entry.repeats < 1 or entry.family == BOUND else PERCENTILES
    targets = [table.target(percentile) for percentile in percentiles]
    outcome = Pool(table, entry.create(table, seed), workers=workers, targets=targets, max_trials=most).run()

    seconds, epochs, trials = (
        [None if reached is None else getattr(reached, figure) for reached in outcome.reached]
        for figure in ("seconds", "epochs", "trials")
    )
    suggestions = outcome.suggestions / max(outcome.trials, 1)
    return Run(dataset, entry.name, entry.family, workers, seed, seconds, epochs, trials, outcome.seconds, suggestions)


def _named(dataset: str, family: str, name: str, workers: int, seed: int, epoch_scale: float) -> Run:
    entry = next(e for e in (*FIELD, *VARIANTS) if (e.family, e.name) == (family, name))
    return simulate(dataset, entry, workers, seed, epoch_scale)


def simulate_all(
    datasets: Sequence[str],
    entries: Sequence[Entry],
    workers: Sequence[int],
    *,
    seeds: int,
    processes: int,
    epoch_scale: float,
    say: Callable[[str], None],
) -> Iterator[Run]:
    """Simulates all combinations, the slow ones first, and yields each run when it ends.

    Args:
        datasets: Of `curves.DATASETS`.
        entries: The algorithms, of `players.FIELD` or `VARIANTS`.
        workers: Numbers of workers.
        seeds: Repetitions, multiplied by each entry's `repeats`, but at least 10 of them.
        processes: How many to simulate at once.
        epoch_scale: As for `simulate`.
        say: Prints the progress.
    """
    start, said = time.monotonic(), 0.0
    tasks = [
        (dataset, entry.family, entry.name, count, seed, epoch_scale)
        for entry in sorted(entries, key=lambda e: e.repeats)
        for dataset in datasets
        for count in workers
        for seed in range(1, max(round(seeds * entry.repeats), min(seeds, 10)) + 1)
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        futures = [executor.submit(_named, *task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            yield future.result()
            elapsed = time.monotonic() - start
            if elapsed >= said + _SAY_EVERY or done == len(tasks):
                said = elapsed
                say(f"{done} of {len(tasks)} simulated sweeps, {elapsed:.0f} s")
