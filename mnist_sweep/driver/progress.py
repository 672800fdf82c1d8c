"""How far a running sweep is, and when it is expected to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import fmean

from mnist_sweep.common.text import counted, format_duration
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import SearchConfig
from mnist_sweep.config.settings import ConfirmConfig
from mnist_sweep.config.units import seconds
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SettingsChanged,
    SweepResumed,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
)
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import WITHOUT_RESULT, Outcome, Status, Trial


@dataclass(frozen=True)
class Row:
    """A trial: where it runs, what it has reached, and how it ended."""

    trial: Trial
    slot: str
    epoch: int
    execution: int
    best: float | None
    outcome: Outcome | None

    @property
    def status(self) -> Status:
        """Its status."""
        return Status.RUNNING if self.outcome is None else self.outcome.status

    @property
    def place(self) -> str:
        """Its epoch: `3/10`, and in the second of its five executions `3/10 (2/5)`."""
        executions = _executions(self.trial)
        which = f" ({self.execution}/{executions})" if executions > 1 else ""
        return f"{self.epoch}/{self.trial.epochs}{which}"


class _Mean:
    """The mean of numbers that come and go."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, number: float, times: int = 1) -> None:
        """Adds a number, or takes it away with -1 `times`."""
        self._total, self._count = self._total + times * number, self._count + times

    @property
    def value(self) -> float | None:
        return self._total / self._count if self._count else None


class Progress:
    """How far a running sweep is, and when it is expected to end.

    Attributes:
        state: The state of the sweep.
        counted: The trials of the search that have ended: without those that were refused, or retrain others.
        started: When this session started.
        store: Says why MLflow waits; "" if it does not.
        single: Whether nothing is searched.
        lock: Held while the state changes, for a thread that reads it.
    """

    def __init__(
        self,
        objective: Objective,
        budget: SearchConfig,
        slots: int | None,
        size: Callable[[SweepState], int | None],
        clock: Callable[[], float],
        *,
        confirm: ConfirmConfig | None = None,
        single: bool = False,
    ) -> None:
        """Starts the clock.

        Args:
            objective: What is optimized.
            budget: When the sweep ends.
            slots: How many trials run at once; None to count the slots on which trials have run.
            size: Returns how many combinations of values there are to try in the whole sweep; None if they cannot be
                counted.
            clock: The time in seconds since 1970.
            confirm: How the best trials are retrained; None if they are not.
            single: Whether nothing is searched.
        """
        self.objective, self.clock, self.started, self.single = objective, clock, clock(), single
        self.state, self.lock = SweepState((objective,)), threading.Lock()
        self.store: Callable[[], str] = str
        self.counted: set[int] = set()
        # How much of each open trial is done, from 0 to 1.
        self._parts: dict[int, float] = {}
        # The means of what the trials took, and of one execution: of all, and of those that trained to their end.
        self._mean, self._mean_execution, self._mean_complete = _Mean(), _Mean(), _Mean()
        self._slots, self._confirm = slots, confirm
        repeats = budget.algorithm in ("hyperband", "pbt")
        self._count_space: Callable[[SweepState], int | None] = (lambda _: None) if repeats else size
        self._size = self._count_space(self.state)
        self._set_budget(budget.max_trials, budget.time_budget)
        self._failed_alike: dict[tuple[Status, str], int] = {}

    def handle(self, event: Event) -> None:
        """Takes note of an event."""
        with self.lock:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if isinstance(event, TrialsRetried):
            for number in event.trials:
                self._count(number, -1)
        self.state.handle(event)
        match event:
            case SweepResumed() | SettingsChanged():
                if search := self.state.config.get("search"):
                    self._set_budget(search.get("max_trials"), search.get("time_budget"))
                self._size = self._count_space(self.state)
            case TrialStarted():
                self._parts[event.trial.number] = self._part(event.trial.number)
            case EpochEnded() | AttemptFailed() if event.trial in self.state.open:
                self._parts[event.trial] = self._part(event.trial)
            case TrialEnded() if event.trial in self.state.results.trials:
                self._parts.pop(event.trial, None)
                self._count(event.trial, 1)
                if event.outcome.status in WITHOUT_RESULT:
                    self._failed_alike.setdefault(event.outcome.cause, event.trial)
            case TrialsRetried():
                self._parts |= dict.fromkeys(self.state.open.keys() & set(event.trials), 0.0)

    def _set_budget(self, trials: int | None, time: str | None) -> None:
        self._budget, self._seconds = trials, seconds(time) if time else None

    def _count(self, number: int, times: int) -> None:
        """Counts a trial that has ended; with -1 `times`, no longer."""
        outcome, trial = self.state.results.outcomes.get(number), self.state.results.trials.get(number)
        if outcome is None or trial is None:
            return
        if number in self.state.searched:
            (self.counted.add if times > 0 else self.counted.discard)(number)
        if outcome.seconds > 0 and number not in self.state.refused:
            each = outcome.seconds / _executions(trial)
            self._mean.add(outcome.seconds, times)
            self._mean_execution.add(each, times)
            if outcome.status is Status.COMPLETED:
                self._mean_complete.add(each, times)

    def first_alike(self, number: int) -> int | None:
        """Returns the first trial that failed, or was refused, for the same reason; None if it was not before this."""
        first = self._failed_alike.get(self.state.results.outcomes[number].cause, number)
        return None if first == number else first

    @property
    def most(self) -> int | None:
        """The most trials that the search can have; None if there is no limit."""
        refused = len(self.state.refused)
        left = None if self._size is None else self._size - refused
        return min((n for n in (self._budget, left) if n is not None), default=None)

    @property
    def names(self) -> list[str]:
        """The names of the hyperparameters."""
        return list(self.state.space)

    @property
    def slots(self) -> int:
        """How many trials run at once."""
        return len(self.state.slots) if self._slots is None else self._slots + self.state.slots_added

    @property
    def running(self) -> list[Row]:
        """The trials that run now, or wait to be retried."""
        return [self.row(number) for number in self.state.open]

    def row(self, number: int) -> Row:
        """Returns what is known of a trial that has started."""
        state, results = self.state, self.state.results
        trial, outcome = results.trials[number], results.outcomes.get(number)
        start, latest, best = state.open.get(number), self._latest(number), None
        if outcome is not None:
            best = outcome.score
        elif latest is not None:
            parts = [state.epochs.get((number, 1 + i), {}) for i in range(latest.execution)]
            for score in (metrics[self.objective.name] for part in parts for metrics in part.values()):
                best = score if self.objective.better(score, best) else best
        slot, epoch, execution = (
            start.slot if start else "",
            latest.epoch if latest else 0,
            latest.execution if latest else 1,
        )
        return Row(trial, slot, epoch, execution, best, outcome)

    def _latest(self, number: int) -> EpochEnded | None:
        """Returns the last epoch of a trial; None if a new attempt has not reported anything yet."""
        start, latest = self.state.open.get(number), self.state.latest.get(number)
        return None if latest is not None and start is not None and latest.attempt < start.attempt else latest

    def _part(self, number: int) -> float:
        """Returns how much of a trial is done, from 0 to 1."""
        trial, latest = self.state.results.trials[number], self._latest(number)
        if latest is None:
            return 0.0
        return (latest.execution - 1 + latest.epoch / max(trial.epochs, 1)) / _executions(trial)

    def best(self) -> int | None:
        """The first trial of the leaderboard."""
        return self.state.results.winner()

    def seconds_left(self) -> float | None:
        """An estimate from the mean duration of the trials so far, which counts those that retrain the best.

        Returns:
            Seconds; None before the first epoch, or if it cannot be known how many trials there will be.
        """
        trials, parts = self.state.results.trials, self._parts
        if self.state.paused or not self.slots:
            return None
        retrains = bool(trials) and trials[max(trials)].confirms is not None
        if self._confirm is None:
            return self._search_left(list(parts.values()))
        again = {number for number in parts if trials[number].confirms is not None}
        search = 0.0 if retrains else self._search_left([parts[number] for number in parts.keys() - again])
        retraining = self._retraining_left([parts[number] for number in again], retrains)
        return None if search is None or retraining is None else search + retraining

    def _search_left(self, running: list[float]) -> float | None:
        left = None if self._seconds is None else max(0.0, self._seconds - (self.clock() - self.started))
        mean = self._mean.value
        if mean is None and (expected := self._expected()):
            mean = fmean(passed for _, passed in expected)
        if self.most is None or mean is None:
            return left
        estimate = self._together(self.most - len(self.counted), running, mean)
        return estimate if left is None else min(left, estimate)

    def _retraining_left(self, running: list[float], begun: bool) -> float | None:
        if self._confirm is None:
            return 0.0
        results, seeds = self.state.results, self._confirm.seeds
        if begun:
            best = results.ranked()[: self._confirm.top]
            retrained = [n for trial in best for n in results.confirmations(trial).values() if n in results.outcomes]
            ahead = len(best) * seeds - len(retrained)
        else:
            ahead = seeds * min(self._confirm.top, self.most or self._confirm.top)
        # It is trained to its last epoch, and once.
        mean = self._mean_complete.value or self._mean_execution.value
        if mean is None and (expected := self._expected()):
            mean = fmean(passed / _executions(trial) for trial, passed in expected)
        return None if mean is None else self._together(ahead, running, mean)

    def _expected(self) -> list[tuple[Trial, float]]:
        """How long each running trial will take from start to end, as far as its epochs show it."""
        state, found = self.state, []
        for number, part in self._parts.items():
            if part > 0 and (passed := state.latest[number].time - state.open[number].time) > 0:
                found.append((state.open[number].trial, passed / part))
        return found

    def _together(self, ahead: int, running: Collection[float], mean: float) -> float:
        """How long it takes to train so many trials, some of which are running and done in part."""
        work = max(0.0, ahead - sum(running))
        # A trial does not end sooner because there are more slots.
        longest = 1 - min(running, default=1.0) if ahead <= len(running) else min(work, 1.0)
        return mean * max(work / max(self.slots, 1), longest)

    def done(self) -> str:
        """How many trials of the search have ended: `3 of 20 trials`."""
        done = len(self.counted)
        return counted(done, "trial") if self.most is None else f"{done:,} of {counted(self.most, 'trial')}"

    def _limit(self) -> str:
        """Says that users have slots back for now; "" if not."""
        most = self.state.most_slots
        return "" if most is None or self.state.slots_added >= 0 else f", {-self.state.slots_added} given back"

    def headline(self, *, busy: bool = True) -> str:
        """One line on the sweep so far.

        Args:
            busy: Whether to say how many slots are busy.
        """
        results = self.state.results
        parts = [] if self.single else [f"{self.done()} done"]
        retrained = [number for number, trial in results.trials.items() if trial.confirms is not None]
        if retrained:
            ended = sum(number in results.outcomes for number in retrained)
            parts.append(f"{counted(ended, 'retraining')} {'' if self.single else 'of the best '}done")
        if self.state.paused:
            parts.append("paused")
        if busy:
            parts.append(f"{len(self.state.open)} of {counted(self.slots, 'slot')} busy{self._limit()}")
        elif self._limit():
            parts.append(f"{counted(self.slots, 'slot')} in use{self._limit()}")
        parts.append(f"{format_duration(self.clock() - self.started)} elapsed")
        left = self.seconds_left()
        if left is not None and self.state.ended is None:
            parts.append(f"about {format_duration(left)} left")
        best = self.best()
        if best is not None and not self.single:
            parts.append(f"best {self.objective.name} {results.outcomes[best].score:.4f} (trial {best})")
        if store := self.store():
            parts.append(store)
        return " · ".join(parts)


def _executions(trial: Trial) -> int:
    """Returns how often a trial is trained."""
    return max(len(trial.executions), 1)
