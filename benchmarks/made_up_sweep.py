"""A made-up sweep, event by event: what a page or a table has to keep up with."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.journal.events import EpochEnded, Event, SweepStarted, TrialAsked, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Outcome, Status, Trial

_SPACE = (
    "model.layers=range(1,4)",
    "model.units=choice(16,32,64,128,256)",
    "model.dropout=interval(0,0.5)",
    "optimizer.name=adam,sgd",
    "+optimizer.arguments.momentum=interval(0,0.95)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "training.batch_size=32,64,128",
)
_FAILS, _STOPS = 0.02, 0.3


def config(trials: int, epochs: int) -> dict[str, Any]:
    """Returns the config of a sweep of so many trials."""
    given = [f"search.max_trials={trials}", f"training.epochs={epochs}", *_SPACE]
    return {**compose.defaults(quote_sweeps(given)), "objective": "val_accuracy max"}


def events(name: str, trials: int, epochs: int, slots: int = 4, start: float = 0.0, seed: int = 0) -> Iterator[Event]:
    """Yields the events of a sweep whose slots train one epoch a second each, in turns, up to its last trial.

    Args:
        name: The sweep's name, `name/time`.
        trials: How many trials.
        epochs: The epochs of each.
        slots: How many trials run at once.
        start: When it starts, in seconds since 1970.
        seed: Of the made-up scores.
    """
    rng, made = random.Random(seed), config(trials, epochs)
    settings = check_settings(made)
    space = Space(settings.trial, written=settings.conditions)
    now = start
    data = {"name": "mnist_5k", "digest": "0" * 32, "source": "made up"}
    yield SweepStarted(now, name, made, space.describe(), data, {"python": "3"})
    running: dict[int, tuple[Trial, list[float], float]] = {}
    on: dict[int, str] = {}
    waiting = iter(range(trials))
    free = [f"cpu{slot}" for slot in range(slots)]
    while True:
        while free and (number := next(waiting, None)) is not None:
            trial = Trial(number, space.sample(rng), {"training": {"seed": number}}, epochs)
            yield TrialAsked(now, number)
            on[number] = free.pop(0)
            yield TrialStarted(now, trial, 1, on[number])
            running[number] = trial, [], now
        if not running:
            return
        now += 1
        for number, (trial, scores, began) in list(running.items()):
            slot = on[number]
            scores.append(_score(trial, len(scores) + 1, rng))
            metrics = {
                "val_accuracy": scores[-1],
                "loss": 2.3 * (1 - scores[-1]) + 0.02,
                "val_loss": 2.5 * (1 - scores[-1]),
            }
            yield EpochEnded(now, number, 1, len(scores), metrics)
            fails = len(scores) == 1 and rng.random() < _FAILS
            stops = len(scores) == max(1, epochs // 3) and rng.random() < _STOPS
            if not (fails or stops or len(scores) == epochs):
                continue
            status = Status.FAILED if fails else Status.STOPPED if stops else Status.COMPLETED
            reason = (
                "ValueError: made up to fail" if fails else "asha: not in the best third at this epoch" if stops else ""
            )
            best = max(scores)
            outcome = Outcome(
                status,
                reason,
                None if fails else best,
                None if fails else scores.index(best) + 1,
                {},
                20_000,
                now - began,
            )
            yield TrialEnded(now, number, outcome)
            del running[number]
            free.append(slot)


def _score(trial: Trial, epoch: int, rng: random.Random) -> float:
    values = trial.values
    rate = math.log10(values["optimizer.learning_rate"])
    quality = 0.985 - 0.06 * abs(rate + 2.5) - 0.5 / values["model.units"] - 0.05 * values["model.dropout"]
    return round(max(0.08, quality * (1 - 0.6 * math.exp(-epoch / 4)) + rng.gauss(0, 0.004)), 5)
