"""A pool of simulated workers that replays recorded curves on a simulated clock."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

from benchmarks.search_quality.curves import Curves

_T = TypeVar("_T")
# As many architectures as a worker of this program keeps traced (`mnist_sweep.training.model_cache`).
_KEPT = 16


@dataclass(frozen=True)
class Job:
    """A configuration to train.

    Attributes:
        row: Its row in the table of curves.
        last: The last epoch.
        first: The number of epochs that it, or the trial that it continues, has trained before.
    """

    row: int
    last: int
    first: int = 0


class Answer(Enum):
    """What a player may answer instead of a job."""

    PAUSE = "ask again when a running trial has ended"
    FINISHED = "there is nothing more to try"


class Player(ABC):
    """An algorithm.

    Attributes:
        side_by_side: Whether each worker computes its own suggestions, as Optuna's do; else one process computes all
            of them, one after another.
    """

    side_by_side: ClassVar[bool] = False

    @abstractmethod
    def ask(self, number: int, slot: int) -> Job | Answer:
        """Returns the next job.

        Args:
            number: The trial's, if there is one; after an `Answer`, the next call has the same.
            slot: The worker that will train it, from 0.
        """

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Takes an epoch's accuracy, and returns whether to stop the trial."""
        return False

    @abstractmethod
    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Takes a trial's result.

        Args:
            number: The trial.
            accuracy: The best of the epochs that it trained; None if it diverged.
            epoch: The last epoch that it trained.
            cut: Whether `report` stopped it.
        """


class Reached(NamedTuple):
    """When a target was first reached, on the simulated clock, and after how many epochs and trials in all."""

    seconds: float
    epochs: int
    trials: int


@dataclass
class Outcome:
    """The result of a simulated sweep.

    Attributes:
        reached: For each target; None if it was not reached.
        seconds: When it ended.
        epochs: All epochs trained.
        trials: All trials started.
        suggestions: Seconds of processor time that the algorithm took.
    """

    reached: list[Reached | None]
    seconds: float = 0.0
    epochs: int = 0
    trials: int = 0
    suggestions: float = 0.0


@dataclass
class _Running:
    number: int
    job: Job
    epoch: int
    best: float = -math.inf


class Pool:
    """Runs one player until it has reached all targets, ends, or has had its trials.

    The player's own processor time passes on the simulated clock, while the other workers keep training: a worker gets
    its job when it is computed. Sending jobs and reports takes no time, for any player.
    """

    def __init__(
        self, curves: Curves, player: Player, *, workers: int, targets: Sequence[float], max_trials: int
    ) -> None:
        """Sets up the workers; `targets` are accuracies."""
        self._curves, self._player, self._targets, self._max_trials = curves, player, targets, max_trials
        self._outcome = Outcome([None for _ in targets])
        self._now = self._free_at = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._paused: list[int] = []
        self._traced: list[OrderedDict[str, None]] = [OrderedDict() for _ in range(workers)]
        for slot in range(workers):
            self._at(0.0, partial(self._ask, slot))

    def run(self) -> Outcome:
        """Simulates the sweep."""
        while self._events and None in self._outcome.reached:
            self._now, _, event = heapq.heappop(self._events)
            event()
        self._outcome.seconds = self._now
        return self._outcome

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _ask(self, slot: int) -> None:
        if self._outcome.trials >= self._max_trials:
            return
        if self._free_at > self._now:
            self._at(self._free_at, partial(self._ask, slot))
            return
        number = self._outcome.trials
        answer, took = self._timed(lambda: self._player.ask(number, slot))
        if answer is Answer.PAUSE:
            self._paused.append(slot)
        elif isinstance(answer, Job):
            self._outcome.trials += 1
            first = self._startup(slot, answer.row) + self._curves.epoch_seconds[answer.row]
            self._at(self._now + took + first, partial(self._epoch, slot, _Running(number, answer, answer.first)))

    def _startup(self, slot: int, row: int) -> float:
        architecture, traced = self._curves.architectures[row], self._traced[slot]
        seconds = self._curves.again_seconds if architecture in traced else self._curves.startup_seconds
        traced[architecture] = None
        traced.move_to_end(architecture)
        if len(traced) > _KEPT:
            traced.popitem(last=False)
        return float(seconds[row])

    def _epoch(self, slot: int, running: _Running) -> None:
        running.epoch += 1
        self._outcome.epochs += 1
        accuracy = float(self._curves.accuracy[running.job.row, running.epoch - 1])
        if math.isnan(accuracy):
            self._end(slot, running, None, cut=False)
            return
        reached = Reached(self._now, self._outcome.epochs, self._outcome.trials)
        for index, target in enumerate(self._targets):
            if accuracy >= target and self._outcome.reached[index] is None:
                self._outcome.reached[index] = reached
        running.best = max(running.best, accuracy)
        stop, _ = self._timed(lambda: self._player.report(running.number, running.epoch, accuracy))
        if running.epoch >= running.job.last or stop:
            self._end(slot, running, running.best, cut=running.epoch < running.job.last)
        else:
            later = self._now + self._curves.epoch_seconds[running.job.row]
            self._at(later, partial(self._epoch, slot, running))

    def _end(self, slot: int, running: _Running, accuracy: float | None, *, cut: bool) -> None:
        self._timed(lambda: self._player.end(running.number, accuracy, running.epoch, cut=cut))
        for waiting in [slot, *self._paused]:
            self._at(self._now, partial(self._ask, waiting))
        self._paused = []

    def _timed(self, call: Callable[[], _T]) -> tuple[_T, float]:
        """Returns a call's result and its processor time: what it would take on an idle machine."""
        start = time.process_time()
        result = call()
        took = time.process_time() - start
        self._outcome.suggestions += took
        if not self._player.side_by_side:
            self._free_at = max(self._free_at, self._now) + took
        return result, took
