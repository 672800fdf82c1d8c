"""Runs trials on the workers: starts them, hears from them, retries failed ones, and tells the search how they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import Settings
from mnist_sweep.driver import trials
from mnist_sweep.driver.attempts import Attempt, Attempts
from mnist_sweep.driver.phase import Course, Phase
from mnist_sweep.driver.state import LoopState
from mnist_sweep.driver.suggestions import Suggestions
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotLost,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.files import forget, trial_folder
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.search.choose import spent
from mnist_sweep.workers.base import Died, Done, Executed, MachineFailed, Message, Ready, Reported, Workers
from mnist_sweep.workers.devices import device
from mnist_sweep.workers.sharing import Sharing

# So many trials in a row that exceed the limits end the sweep, as no other is expected to keep within them.
_MOST_REFUSED = 200


class TrialRunner:
    """Runs the trials that are added.

    Attributes:
        attempts: The trials that wait or run.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        workers: Workers,
        state: LoopState,
        course: Course,
        suggestions: Suggestions,
        sharing: Sharing,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        """Takes the parts of the sweep's loop."""
        self._settings, self._folder, self._workers, self._state = settings, folder, workers, state
        self._course, self._suggestions, self._sharing = course, suggestions, sharing
        self._emit, self._clock = emit, clock
        self.attempts = Attempts(workers, settings.workers, clock)

    # ---- start and stop -----------------------------------------------------------------------------------------

    def add(self, new: Iterable[Trial]) -> None:
        """Adds trials, which start when a slot is idle."""
        self.attempts.waiting.extend(map(Attempt, new))

    def add_interrupted(self, *, confirming: bool) -> None:
        """Adds the trials that an interruption has cut off.

        Args:
            confirming: Whether to add those that retrain others, or those of the search.
        """
        starts = [start for _, start in sorted(self._state.open.items())]
        chosen = [start for start in starts if (start.trial.confirms is not None) == confirming]
        self.attempts.waiting.extend(Attempt(start.trial, start.attempt) for start in chosen)

    def start(self) -> None:
        """Starts what can start."""
        for attempt, slot in self.attempts.startable():
            trial, course = attempt.trial, self._course
            self._emit(TrialStarted(self._clock(), trial, attempt.number, slot))
            # A trial that was told to stop before its worker died must not train any further.
            stopped = course.stopped if course.phase is Phase.STOPPING else ""
            stop = self._state.cut.get(trial.number, stopped)
            self.attempts.start(attempt, slot, trials.task(self._settings, self._folder, trial, self._state, stop))

    def stop(self, reason: str) -> None:
        """Ends the search, and all its trials."""
        self._course.stop(reason)
        for attempt in self.attempts.running.values():
            self.attempts.stop(attempt, reason)
        # Those that have trained an epoch start once more, to save what they have.
        for attempt in [a for a in self.attempts.waiting if not self._state.last_epoch(a.trial.number)]:
            self.attempts.waiting.remove(attempt)
            self._ended(attempt.trial, Outcome(Status.STOPPED, reason))

    def interrupt(self, reason: str) -> None:
        """Lets the running trials rest after their current epoch, to be resumed."""
        for attempt in self.attempts.running.values():
            self.attempts.stop(attempt, reason)

    # ---- hear ---------------------------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Takes a message.

        Raises:
            UserError: No worker can start any more.
        """
        attempt = self.attempts.running.get(message.slot)
        match message:
            case Ready():
                self.attempts.idle.append(message.slot)
            case Died():
                self._died(message)
            case MachineFailed():
                # Its trial, like the others, rests until the machine works again, and has not failed.
                self.attempts.end(message.slot)
                self._course.machine = self._course.machine or message.reason
                self._course.interruption = self._course.machine
            # Without an attempt, the slot had more to report when its trial was taken away.
            case Reported() if attempt is not None:
                self._reported(message, attempt)
            case Executed() if attempt is not None:
                self._executed(message, attempt)
            case Done() if attempt is not None:
                self._done(message, attempt)

    def _reported(self, message: Reported, attempt: Attempt) -> None:
        attempt.longest_epoch = max(attempt.longest_epoch, self.attempts.heard(message.slot))
        number, epoch, execution = message.trial, message.epoch, message.execution
        # After a failure or an interruption, the same epoch may come again, with the same metrics.
        if epoch > self._state.last_epoch(number, execution):
            self._emit(EpochEnded(self._clock(), number, attempt.number, epoch, message.metrics, execution))
        self._check_target()
        self._go_on(attempt, execution, epoch)

    def _executed(self, message: Executed, attempt: Attempt) -> None:
        self.attempts.heard(message.slot)
        if message.execution not in self._state.executions.get(message.trial, {}):
            self._emit(ExecutionEnded(self._clock(), message.trial, message.execution, message.outcome))
        self._go_on(attempt, message.execution, 0)

    def _go_on(self, attempt: Attempt, execution: int, epoch: int) -> None:
        number = attempt.trial.number
        if number in self._state.cut:
            self.attempts.stop(attempt, self._state.cut[number])
        elif self._state.may_be_cut(attempt.trial):
            self._workers.go_on(attempt.slot, number, execution, epoch)

    def _done(self, message: Done, attempt: Attempt) -> None:
        self.attempts.end(message.slot)
        if message.outcome.status is Status.FAILED:
            self._failed(attempt, message.outcome, message.log)
        elif (
            message.outcome.status is not Status.STOPPED
            or not self._course.interruption
            or message.trial in self._state.cut
        ):
            self._ended(attempt.trial, message.outcome)
        # Else the trial only rests: resumed, it continues from the epoch that it has reached.

    def _died(self, message: Died) -> None:
        self.attempts.not_idle(message.slot)
        if message.lost:
            self.attempts.slots.discard(message.slot)
            if self.attempts.slots:
                self._emit(SlotLost(self._clock(), message.slot, message.reason))
        attempt = self.attempts.end(message.slot)
        if attempt is not None:
            self._failed(attempt, Outcome(Status.FAILED, f"its worker {message.reason}"), message.log)
        if not self.attempts.slots:
            raise UserError(f"workers: {message.slot} {message.reason}")

    # ---- retry or end -------------------------------------------------------------------------------------------

    def _failed(self, attempt: Attempt, outcome: Outcome, log: str) -> None:
        if self._course.interruption and attempt.stopping:
            # It only rests, as the others do.
            return
        number = attempt.trial.number
        excused = self._sharing.excuses(number, outcome.reason)
        last = attempt.number > self._settings.workers.retries and not excused
        if last or self._course.phase is Phase.STOPPING:
            self._ended(attempt.trial, outcome, log)
            return
        self._emit(AttemptFailed(self._clock(), number, attempt.number, outcome.reason, log))
        self.attempts.waiting.append(Attempt(attempt.trial, attempt.number + 1, avoid=device(attempt.slot)))

    def _ended(self, trial: Trial, outcome: Outcome, log: str = "") -> None:
        results = self._state.results
        self._emit(TrialEnded(self._clock(), trial.number, outcome, log))
        for number in spent(self._settings, trial.number, results.trials, results.outcomes):
            forget(trial_folder(self._folder, number))
        self.tell(trial.number)
        self._check_target()
        self._check_failures()

    def tell(self, number: int) -> None:
        """Tells the search how a trial ended, if it is one of the search's."""
        result = self._state.result(number)
        if result is not None:
            self._suggestions.tell(number, result)

    def _check_target(self) -> None:
        if self._state.reached and self._course.phase is Phase.SEARCHING:
            self.stop(self._state.reached)

    def _check_failures(self) -> None:
        if self._course.phase is Phase.STOPPING:
            return
        results, limit = self._state.results, self._settings.search.max_failures
        failed, refused = results.in_a_row(Status.FAILED), results.in_a_row(Status.REFUSED)
        if limit is not None and len(failed) >= limit:
            reasons = [failure.reason for failure in failed]
            common = max(reversed(reasons), key=reasons.count)
            self._course.failure = f"{len(failed)} trials in a row failed: {common} (search.max_failures={limit})"
        elif len(refused) >= _MOST_REFUSED:
            self._course.failure = f"{len(refused)} trials in a row were refused: {refused[-1].reason}"
        if self._course.failure:
            self.stop(self._course.failure)
