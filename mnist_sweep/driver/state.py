"""The state of a sweep as its loop needs it: with what its budget and its stopping rule decide."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from mnist_sweep.config.settings import Settings
from mnist_sweep.journal.events import (
    EpochEnded,
    Event,
    ExecutionEnded,
    SettingsChanged,
    SweepContinued,
    SweepPaused,
    SweepResumed,
    SweepStarted,
    TrialAsked,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
)
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Status, Trial
from mnist_sweep.search.base import Result, Suggestion
from mnist_sweep.search.stopping import Stopping


class Phase(Enum):
    """What a sweep is doing."""

    SEARCHING = auto()
    """The search suggests trials."""
    STOPPING = auto()
    """The running trials end, because the budget is used up, the target is reached or too much has failed."""
    CONFIRMING = auto()
    """The best trials are retrained on new seeds."""
    TESTING = auto()
    """The winner is tested."""
    OVER = auto()


class LoopState(SweepState):
    """Follows a sweep, and decides which trials to cut and whether the target is reached.

    Each event must be handled once. The same events in the same order give the same decisions, also in a resumed sweep.
    The phase and the reasons to end are those of this session.

    Attributes:
        phase: What the sweep is doing.
        stopped: Why the search was stopped; like the others "" unless it was.
        failure: Why the sweep has failed.
        interruption: Why it stops, to be resumed later; set at any time, also by a signal handler.
        machine: What failed of the machine, which is why it was interrupted.
        cut: Why a trial is stopped early, by number.
        reached: That the target was reached; "" before that.
        settings: The config, with the budget that users have set since.
        asked: The number with which the search was asked, until it suggests a trial.
        used: Seconds that earlier sessions took, without pauses and without retraining the best trials.
    """

    def __init__(self, settings: Settings, stopping: Stopping | None) -> None:
        """Starts before the first event.

        Args:
            settings: The objectives and the target.
            stopping: The rule that is asked after each epoch; None if every trial trains to its end.
        """
        super().__init__(settings.objectives)
        self.settings, self._stopping = settings, stopping
        self.phase = Phase.SEARCHING
        self.stopped = self.failure = self.interruption = self.machine = self.reached = ""
        self.cut: dict[int, str] = {}
        # The trials whose epochs the stopping rule has seen, and those that it must not see again.
        self._judged: set[int] = set()
        self._unjudged: set[int] = set()
        self.used = self._session = self._last = 0.0
        self._confirming = False
        self.asked: int | None = None

    def handle(self, event: Event) -> None:
        """Follows an event."""
        super().handle(event)
        if isinstance(event, SweepStarted | SweepResumed):
            self.begin_session(event.time)
        self._confirming |= isinstance(event, TrialStarted) and event.trial.confirms is not None
        if not (self._confirming or self.paused):
            self._last = event.time
        match event:
            case TrialAsked():
                self.asked = event.trial
            case TrialStarted() if event.trial.number == self.asked:
                self.asked = None
            case TrialStopped():
                self.cut.setdefault(event.trial, f"stopped by {event.by}")
            case SweepPaused():
                self._last = max(self._last, event.time)
                self.end_session()
            case SweepContinued():
                self._session = self._last = event.time
            case EpochEnded():
                self._judge_epoch(event)
            case ExecutionEnded():
                self._judge_execution(event)
            case TrialsRetried():
                self._unjudged |= self._judged.intersection(event.trials)
                for number in event.trials:
                    self.cut.pop(number, None)
            case TrialEnded() if (trial := self.results.trials.get(event.trial)) is not None:
                if trial.executions and event.outcome.whole(trial):
                    self._compare_with_target(trial, event.outcome.score)

    def begin_session(self, time: float) -> None:
        """Starts to count the time of a session, or of what follows a pause."""
        self.end_session()
        self._session = self._last = time
        self._confirming = False

    def end_session(self) -> None:
        """Adds the time of the last session, which ended without another event."""
        self.used += self._last - self._session
        self._session = self._last

    def seconds(self, now: float) -> float:
        """Returns how much of the time budget is used up."""
        return self.used + (0.0 if self.paused else now - self._session)

    def stop(self, reason: str) -> None:
        """Ends the search."""
        self.stopped = self.stopped or reason
        if self.phase is Phase.SEARCHING:
            self.phase = Phase.STOPPING

    def may_be_cut(self, trial: Trial) -> bool:
        """Whether a trial may be stopped early, so that its worker must wait after each epoch."""
        judged = self._stopping is not None or self.settings.search.target is not None
        return trial.confirms is None and (judged or len(trial.executions) > 1)

    def result(self, number: int) -> Result | None:
        """Returns the result of a trial for the search; None if the search did not suggest it."""
        trial = self.results.trials.get(number)
        if trial is None:
            # It was stopped before it started.
            return Result(None)
        if trial.confirms is not None:
            return None
        outcome = self.results.outcomes[number]
        diverged, refused = outcome.status is Status.DIVERGED, outcome.status is Status.REFUSED
        return Result(
            self.results.scores(number),
            self.last_epoch(number),
            cut=number in self.cut and outcome.status is Status.STOPPED,
            whole=outcome.whole(trial) and not diverged,
            diverged=diverged,
            refused=refused,
        )

    def compare_all_with_target(self) -> None:
        """Checks whether a trial has reached the target, which has changed."""
        for number, trial in self.results.trials.items():
            outcome = self.results.outcomes.get(number)
            if not trial.executions:
                for metrics in self.epochs.get((number, 1), {}).values():
                    self._compare_with_target(trial, metrics[self.settings.objective.name])
            elif outcome is not None and outcome.whole(trial):
                self._compare_with_target(trial, outcome.score)

    def _judge_epoch(self, event: EpochEnded) -> None:
        trial = self.results.trials[event.trial]
        if trial.confirms is not None:
            return
        score = event.metrics[self.settings.objective.name]
        if self._stopping is not None and event.execution == 1 and event.trial not in self._unjudged:
            self._judged.add(event.trial)
            reason = self._stopping.report(event.trial, event.epoch, score)
            if reason:
                self.cut.setdefault(event.trial, reason)
        if not trial.executions:
            self._compare_with_target(trial, score)

    def _judge_execution(self, event: ExecutionEnded) -> None:
        searched = self.results.trials[event.trial].confirms is None
        first = event.execution == 1 and searched and event.trial not in self.cut
        if first and event.outcome.score is not None and self.results.hopeless(event.outcome.score):
            self.cut[event.trial] = "its first training is too far behind the best"

    def _compare_with_target(self, trial: Trial, score: float | None) -> None:
        """Checks the mean of a trial with several executions, and each epoch of any other."""
        objective, target = self.settings.objective, self.settings.search.target
        if target is not None and score is not None and trial.confirms is None and objective.reached(score, target):
            self.reached = f"{objective.name} reached the target {target}"


def last_narrowing(events: Sequence[Event]) -> int:
    """Returns the position of the last event that changed from which values to suggest; -1 if there is none.

    Args:
        events: The events of a journal.
    """
    state, found = SweepState(), -1
    for position, event in enumerate(events):
        if isinstance(event, SweepStarted | SweepResumed | SettingsChanged):
            before = state.narrowed
            state.handle(event)
            found = position if state.narrowed != before else found
    return found


def answers(events: Sequence[Event]) -> dict[int, Suggestion]:
    """Returns the suggestions that a search made, by the position of the `TrialAsked` that each answered.

    An ask that is not among them was answered by a pause or the end of the search, or nothing was done with its answer.

    Args:
        events: The events of a journal.
    """
    asks: dict[int, int] = {}
    found: dict[int, Suggestion] = {}
    for position, event in enumerate(events):
        if isinstance(event, TrialAsked):
            asks[event.trial] = position
        elif isinstance(event, TrialStarted) and event.trial.number in asks:
            trial = event.trial
            found[asks.pop(trial.number)] = Suggestion(trial.values, trial.epochs, trial.initial_epoch, trial.parent)
    return found
