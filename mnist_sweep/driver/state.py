"""Where a sweep stands, as its events tell it."""

from __future__ import annotations

from collections.abc import Sequence

from mnist_sweep.config.settings import Settings
from mnist_sweep.journal.events import (
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SweepResumed,
    SweepStarted,
    TrialAsked,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.search.base import Suggestion
from mnist_sweep.search.stopping import Stopping


class SweepState:
    """Takes every event, those of earlier sessions first, and knows what follows from them.

    Attributes:
        results: The trials and their outcomes.
        open: The trials that were started and have not ended, by number.
        attempts: The number of each open trial's current attempt, from 1.
        epochs: The last epoch of each execution, by trial and execution.
        executions: The outcomes of an open trial's executions, by trial and execution.
        cut: Why a stopping rule ends a trial.
        reached: That the target was reached; "" before that.
        searched: How many trials the search has had; those that were refused, or confirm others, do not count.
        next: The number of the next trial.
        used: Seconds that earlier sessions took, but for training the best anew.
    """

    def __init__(self, settings: Settings, stopping: Stopping | None) -> None:
        """Begins with nothing.

        Args:
            settings: The objectives and the target.
            stopping: The rule that is asked after each epoch; None where every trial trains to its end.
        """
        self._settings, self._stopping = settings, stopping
        self.results = Ranking(settings.objectives)
        self.open: dict[int, Trial] = {}
        self.attempts: dict[int, int] = {}
        self.epochs: dict[tuple[int, int], int] = {}
        self.executions: dict[int, dict[int, Outcome]] = {}
        self.cut: dict[int, str] = {}
        self.reached = ""
        self.searched = 0
        self.next = 0
        self.used = self._session = self._last = 0.0
        self._confirming = False

    def take(self, event: Event) -> None:
        """Takes an event."""
        if isinstance(event, SweepStarted | SweepResumed):
            self.end_session()
            self._session, self._confirming = event.time, False
        self._confirming |= isinstance(event, TrialStarted) and event.trial.confirms is not None
        if not self._confirming:
            self._last = event.time
        if isinstance(event, TrialStarted):
            self._started(event)
        elif isinstance(event, EpochEnded):
            self._epoch(event)
        elif isinstance(event, ExecutionEnded):
            self._execution(event)
        elif isinstance(event, AttemptFailed):
            self.attempts[event.trial] = event.attempt + 1
        elif isinstance(event, TrialEnded):
            self.open.pop(event.trial, None)
            self.executions.pop(event.trial, None)
            trial = self.results.trials.get(event.trial)
            if trial is not None:
                self.results.outcomes[event.trial] = event.outcome
                if trial.executions and event.outcome.whole(trial):
                    self._compare_with_target(trial, event.outcome.score)
                self.searched -= trial.confirms is None and event.outcome.status is Status.REFUSED
        elif isinstance(event, Confirmed):
            self.results.confirmed = event

    def end_session(self) -> None:
        """Counts the time of the last session, which no event of a next one has counted yet."""
        self.used += self._last - self._session
        self._session = self._last

    def _started(self, event: TrialStarted) -> None:
        trial = event.trial
        if trial.number not in self.results.trials:
            self.searched += trial.confirms is None
        self.open[trial.number] = self.results.trials[trial.number] = trial
        self.attempts[trial.number] = event.attempt
        self.next = max(self.next, trial.number + 1)

    def _epoch(self, event: EpochEnded) -> None:
        self.epochs[event.trial, event.execution] = event.epoch
        trial = self.results.trials[event.trial]
        if trial.confirms is not None:
            return
        score = event.metrics[self._settings.objective.name]
        if self._stopping is not None and event.execution == 1:
            reason = self._stopping.report(event.trial, event.epoch, score)
            if reason and event.trial not in self.cut:
                self.cut[event.trial] = reason
        if not trial.executions:
            self._compare_with_target(trial, score)

    def _compare_with_target(self, trial: Trial, score: float | None) -> None:
        """Of a trial with several executions it is their mean that counts, of any other each epoch."""
        objective, target = self._settings.objective, self._settings.search.target
        if target is not None and score is not None and trial.confirms is None and objective.reached(score, target):
            self.reached = f"{objective.name} reached the target {target}"

    def _execution(self, event: ExecutionEnded) -> None:
        self.executions.setdefault(event.trial, {})[event.execution] = event.outcome
        searched = self.results.trials[event.trial].confirms is None
        first = event.execution == 1 and searched and event.trial not in self.cut
        if first and event.outcome.score is not None and self.results.hopeless(event.outcome.score):
            self.cut[event.trial] = "its first training is too far behind the best"


def answered(events: Sequence[Event]) -> dict[int, Suggestion]:
    """The asks that were answered by a trial.

    Args:
        events: Of a journal.

    Returns:
        From the position of each such `TrialAsked` to the answer; an ask without one was answered by a pause or the
        end of the search, or its answer was never acted on.
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
