"""A pool of simulated workers that replays recorded curves on a simulated clock."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, TypeVar

from benchmarks.search_quality.curves import Curves

_T = TypeVar("_T")
# As many architectures as a worker of this program keeps traced (`mnist_sweep.training.model_cache`).
_KEPT = 16


@dataclass(frozen=True)
class Job:
    """A setting to train.

    Attributes:
        row: Its row in the table of curves.
        last: The last epoch.
        first: The epochs that it, or the trial that it goes on from, has been trained already.
    """

    row: int
    last: int
    first: int = 0


class Answer(Enum):
    """What a player may say instead of a job."""

    PAUSE = "ask again when a running trial has ended"
    FINISHED = "there is nothing more to try"


class Player(ABC):
    """An algorithm, as the pool meets it.

    Attributes:
        side_by_side: Whether each worker computes its own suggestions, as Optuna's do; else one process computes all of
            them, one after another.
    """

    side_by_side: ClassVar[bool] = False

    @abstractmethod
    def ask(self, number: int, slot: int) -> Job | Answer:
        """The next job.

        Args:
            number: Of the trial, if there is one; after an `Answer` the next ask has the same.
            slot: The worker that is to train it, counted from 0.
        """

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Takes note of an epoch, and says whether to stop the trial."""
        return False

    @abstractmethod
    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Takes note of a trial's end.

        Args:
            number: The trial.
            accuracy: The best of the epochs that it trained; None where it diverged.
            epoch: The last epoch that it trained.
            cut: Whether `report` stopped it.
        """


@dataclass
class Reached:
    """When a target was first reached.

    Attributes:
        seconds: On the simulated clock; infinite where it never was.
        epochs: All epochs that had been trained by then.
        trials: All trials that had been started by then.
    """

    seconds: float = math.inf
    epochs: float = math.inf
    trials: float = math.inf


@dataclass
class Outcome:
    """What came of a simulated sweep.

    Attributes:
        reached: For each target.
        seconds: When it ended.
        epochs: All epochs trained.
        trials: All trials started.
        suggestions: Seconds of processor time that the algorithm took.
        best: Each improvement of the best accuracy: (seconds, epochs, accuracy).
    """

    reached: list[Reached]
    seconds: float = 0.0
    epochs: int = 0
    trials: int = 0
    suggestions: float = 0.0
    best: list[tuple[float, int, float]] = field(default_factory=list)


@dataclass
class _Running:
    number: int
    job: Job
    epoch: int
    best: float = -math.inf


class Pool:
    """Runs one player to the last of its targets, or until it ends or has had its trials.

    The player's own processor time passes on the simulated clock, while the other workers train on: a worker gets its
    job when it is computed. Handing out jobs and reports takes no time, for any player.
    """

    def __init__(
        self, curves: Curves, player: Player, *, workers: int, targets: Sequence[float], max_trials: int
    ) -> None:
        """Takes the parts.

        Args:
            curves: What there is to replay.
            player: The algorithm.
            workers: How many trials run at once.
            targets: Accuracies.
            max_trials: How many trials to start at most.
        """
        self._curves, self._player, self._targets, self._max_trials = curves, player, targets, max_trials
        self._outcome = Outcome([Reached() for _ in targets])
        self._now = self._free_at = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._paused: list[int] = []
        self._traced: list[OrderedDict[str, None]] = [OrderedDict() for _ in range(workers)]
        for slot in range(workers):
            self._at(0.0, lambda slot=slot: self._ask(slot))  # type: ignore[misc]

    def run(self) -> Outcome:
        """Simulates the sweep."""
        while self._events and not all(math.isfinite(r.seconds) for r in self._outcome.reached):
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
            self._at(self._free_at, lambda: self._ask(slot))
            return
        number = self._outcome.trials
        answer, took = self._timed(lambda: self._player.ask(number, slot))
        if answer is Answer.PAUSE:
            self._paused.append(slot)
        elif isinstance(answer, Job):
            self._outcome.trials += 1
            running = _Running(number, answer, answer.first)
            first = self._startup(slot, answer.row) + self._curves.epoch_seconds[answer.row]
            self._at(self._now + took + first, lambda: self._epoch(slot, running))

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
        self._note(accuracy)
        running.best = max(running.best, accuracy)
        stop, _ = self._timed(lambda: self._player.report(running.number, running.epoch, accuracy))
        if running.epoch >= running.job.last or stop:
            self._end(slot, running, running.best, cut=running.epoch < running.job.last)
        else:
            later = self._now + self._curves.epoch_seconds[running.job.row]
            self._at(later, lambda: self._epoch(slot, running))

    def _end(self, slot: int, running: _Running, accuracy: float | None, *, cut: bool) -> None:
        self._timed(lambda: self._player.end(running.number, accuracy, running.epoch, cut=cut))
        for waiting in [slot, *self._paused]:
            self._at(self._now, lambda waiting=waiting: self._ask(waiting))  # type: ignore[misc]
        self._paused = []

    def _note(self, accuracy: float) -> None:
        outcome = self._outcome
        if not outcome.best or accuracy > outcome.best[-1][2]:
            outcome.best.append((self._now, outcome.epochs, accuracy))
        for reached, target in zip(outcome.reached, self._targets, strict=True):
            if accuracy >= target and not math.isfinite(reached.seconds):
                reached.seconds, reached.epochs, reached.trials = self._now, outcome.epochs, outcome.trials

    def _timed(self, call: Callable[[], _T]) -> tuple[_T, float]:
        """A call's result and its processor time, which is what it would take on a machine with nothing else to do."""
        begun = time.process_time()
        result = call()
        took = time.process_time() - begun
        self._outcome.suggestions += took
        if not self._player.side_by_side:
            self._free_at = max(self._free_at, self._now) + took
        return result, took
