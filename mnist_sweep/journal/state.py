"""The state of a sweep, as it follows from its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnist_sweep.config.dotted import replaced
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import (
    NO_SLOT,
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SettingsChanged,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SlotsChanged,
    Steered,
    SweepContinued,
    SweepEnded,
    SweepPaused,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
    WinnerTested,
)
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Retrains, Status

# How the keys of the budget start, which `SettingsChanged` may change.
BUDGET = "search."


class SweepState:
    """Follows a sweep, event by event, from the first one of its journal.

    The loop, the screen and the recorder each have an instance. Events may be handled again, as after a failure of
    MLflow, without changing the state.

    Attributes:
        started: The first event; None before it, or if the journal starts with another one.
        config: The config of the last session.
        versions: The versions of the packages in the last session.
        space: The domain of each hyperparameter in the last session, as text.
        results: The trials and their outcomes.
        searched: The trials that count in the budget: not those that were refused, or retrain others.
        refused: The trials that were refused.
        open: The last start of each trial that has not ended; after a failed attempt, with the number of the next one.
        slots: The slots on which trials have run.
        latest: The last epoch of each trial.
        epochs: The metrics of each epoch, by trial and execution.
        executions: The outcomes of an open trial's executions, by trial and execution.
        spent: The attempts of each trial that was retried by the user's wish, as they were counted then.
        slots_added: How many more slots there are than when the session began.
        steered: What users changed while it ran, in order.
        added: The trials that users have added and that have not started yet, by number.
        stopped_by: Who stopped a trial, by number.
        paused: Whether no trial starts.
        most_slots: How many slots to use at most; None for all.
        narrowed: The part of a hyperparameter's domain from which to suggest, as text by name. Never changed in place.
        tests: The tests of the winner; a resumed sweep may have found a better one.
        next: The number of the next trial.
        last: The last event.
    """

    def __init__(self, objectives: Sequence[Objective] = ()) -> None:
        """Starts before the first event.

        Args:
            objectives: What is optimized; needed only to rank the trials.
        """
        self.started: SweepStarted | None = None
        self.config: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        self.space: dict[str, str] = {}
        self.results = Ranking(tuple(objectives))
        self.searched: set[int] = set()
        self.refused: set[int] = set()
        self.open: dict[int, TrialStarted] = {}
        self.slots: set[str] = set()
        self.latest: dict[int, EpochEnded] = {}
        self.epochs: dict[tuple[int, int], dict[int, Mapping[str, float]]] = {}
        self.executions: dict[int, dict[int, Outcome]] = {}
        self.spent: dict[int, int] = {}
        self._starts: dict[int, TrialStarted] = {}
        self.slots_added = 0
        self.steered: list[Steered] = []
        self.added: dict[int, TrialAdded] = {}
        self.stopped_by: dict[int, str] = {}
        self.paused = False
        self.most_slots: int | None = None
        self.narrowed: dict[str, str] = {}
        self.tests: list[WinnerTested] = []
        self.next = 0
        self.last: Event | None = None

    @classmethod
    def after(cls, events: Iterable[Event], objectives: Sequence[Objective] = ()) -> SweepState:
        """Returns the state after some events."""
        state = cls(objectives)
        for event in events:
            state.handle(event)
        return state

    def handle(self, event: Event) -> None:
        """Follows an event."""
        match event:
            case SweepStarted() | SweepResumed():
                if isinstance(event, SweepStarted) and self.last is None:
                    self.started = event
                if event.config.get("workers") != self.config.get("workers"):
                    # Other workers are a newer wish.
                    self.most_slots = None
                space = event.space or self.space
                self.narrowed = {k: part for k, part in self.narrowed.items() if space.get(k) == self.space.get(k)}
                self.config, self.slots_added, self.space = event.config, 0, space
                self.versions = self.versions | event.versions
            case TrialStarted(trial=trial):
                if trial.confirms is None and trial.number not in self.results.trials:
                    self.searched.add(trial.number)
                self.results.trials[trial.number] = trial
                self.open[trial.number] = self._starts[trial.number] = event
                if event.slot != NO_SLOT:
                    self.slots.add(event.slot)
                self.added.pop(trial.number, None)
                self.next = max(self.next, trial.number + 1)
            case EpochEnded():
                self.latest[event.trial] = event
                self.epochs.setdefault((event.trial, event.execution), {})[event.epoch] = event.metrics
            case ExecutionEnded():
                self.executions.setdefault(event.trial, {})[event.execution] = event.outcome
            case AttemptFailed() if event.trial in self.open:
                self.open[event.trial] = replace(self.open[event.trial], attempt=event.attempt + 1)
            case TrialEnded() if event.trial in self.added:
                # It was stopped before it started.
                del self.added[event.trial]
            case TrialEnded() if event.trial in self.results.trials:
                self.results.end(event.trial, event.outcome)
                self.open.pop(event.trial, None)
                self.executions.pop(event.trial, None)
                if event.outcome.status is Status.REFUSED:
                    self.searched.discard(event.trial)
                    if self.results.trials[event.trial].confirms is None:
                        self.refused.add(event.trial)
            case TrialsRetried():
                for number in event.trials:
                    if number in self.results.outcomes:
                        self._reopen(number)
            case Confirmed():
                self.results.confirmed = event
            case SlotOpened():
                self.slots_added += 1
            case SlotClosed() | SlotLost():
                self.slots_added -= 1
            case WinnerTested():
                self.tests.append(event)
            case Steered() if event not in self.steered:
                self.steered.append(event)
                self._steer(event)
        self.last = event

    def _steer(self, event: Steered) -> None:
        match event:
            case TrialStopped():
                self.stopped_by[event.trial] = event.by
            case TrialAdded():
                self.added[event.trial] = event
                self.next = max(self.next, event.trial + 1)
            case SweepPaused() | SweepContinued():
                self.paused = isinstance(event, SweepPaused)
            case SettingsChanged():
                for key, value in event.settings.items():
                    if key.startswith(BUDGET):
                        self.config = replaced(self.config, key, value)
                    else:
                        self.narrowed = {**self.narrowed, key: value}
            case SlotsChanged():
                self.most_slots = event.slots

    def _reopen(self, number: int) -> None:
        """Forgets what has become of a trial, except for the number of its attempts."""
        start, results = self._starts[number], self.results
        results.reopen(number)
        self.open[number] = replace(start, attempt=start.attempt + 1)
        self.spent[number] = start.attempt
        if start.trial.confirms is None:
            self.searched.add(number)
        self.refused.discard(number)
        self.latest.pop(number, None)
        for part in [part for part in self.epochs if part[0] == number]:
            del self.epochs[part]

    @property
    def failed(self) -> list[int]:
        """The trials that failed, or whose model could not be built; not those whose model exceeds `limits`."""
        return sorted(number for number, outcome in self.results.outcomes.items() if outcome.failed)

    @property
    def ended(self) -> SweepEnded | None:
        """The end of the sweep, or of its last session; None while it runs, or where it was killed."""
        return self.last if isinstance(self.last, SweepEnded) else None

    @property
    def single(self) -> bool:
        """Whether it is a single run, which searches nothing."""
        return self.started is not None and not self.started.space

    @property
    def completed(self) -> bool:
        """Whether the sweep has come to its end, rather than being interrupted."""
        return self.ended is not None and self.ended.status is Status.COMPLETED

    @property
    def retrains(self) -> Retrains | None:
        """The trial that this run retrains; None if it is a sweep."""
        return None if self.started is None else self.started.retrains

    @property
    def has_model(self) -> bool:
        """Whether there is a model to publish. That of a sweep has been tested."""
        if self.retrains is not None and not self.retrains.test:
            return self.ended is not None and self.ended.winner is not None
        return any(not test.error for test in self.tests)

    @property
    def tested(self) -> WinnerTested | None:
        """The last test of the winner."""
        return self.tests[-1] if self.tests else None

    def last_epoch(self, trial: int, execution: int = 1) -> int:
        """Returns the last epoch of a trial's execution; 0 before the first."""
        return next(reversed(self.epochs.get((trial, execution), {})), 0)
