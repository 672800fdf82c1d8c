"""The sweep loop: ask the search, run on the workers, tell the search."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnist_sweep.config import check_trial
from mnist_sweep.errors import UserError
from mnist_sweep.search.aside import Answered, Aside
from mnist_sweep.search.base import Answer, Suggestion
from mnist_sweep.settings import Objective, Settings, seconds
from mnist_sweep.space import Space
from mnist_sweep.trial import (
    MODEL_FILE,
    STATE_FILE,
    AttemptFailed,
    EpochEnded,
    Event,
    Outcome,
    Status,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    Trial,
    TrialAsked,
    TrialEnded,
    TrialStarted,
    WinnerTested,
    trial_folder,
)
from mnist_sweep.workers.base import Died, Done, Evaluate, Evaluated, Message, Ready, Reported, Train, Workers

_POLL = 0.2
_POLL_WHILE_ASKING = 0.01
# Seconds beyond two epochs that a trial has to stop in, before its process is ended.
_GRACE = 60.0


@dataclass
class Results:
    """What a sweep has found so far.

    Attributes:
        trials: Every trial that was started, by number.
        outcomes: The outcome of every trial that has ended.
    """

    objective: Objective
    trials: dict[int, Trial] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def ranking(self) -> list[int]:
        """The trials that have a score, the best first; of equal ones, the earlier first."""
        scored = {n: o.score for n, o in sorted(self.outcomes.items()) if o.score is not None}
        return sorted(scored, key=lambda n: scored[n], reverse=self.objective.direction == "max")

    def winner(self) -> int | None:
        """The best trial."""
        return next(iter(self.ranking()), None)

    def failures_in_a_row(self) -> list[Outcome]:
        """The failed trials since the last one that did not fail, in the order in which they ended."""
        row: list[Outcome] = []
        for outcome in self.outcomes.values():
            row = [*row, outcome] if outcome.status is Status.FAILED else []
        return row


@dataclass
class _Attempt:
    trial: Trial
    number: int
    avoid: str | None = None
    stopping: bool = False
    heard: float = 0.0
    longest_epoch: float = 0.0


class Sweep:
    """Runs one sweep to its end.

    Every event is handed to `emit` before the loop acts on it, so that the events alone tell where a sweep stands:
    `replay` takes them, and `run` goes on from there.
    """

    def __init__(
        self,
        settings: Settings,
        space: Space,
        search: Aside,
        workers: Workers,
        *,
        folder: Path,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        """Takes the parts.

        Args:
            settings: The objective, the budget, and how failures are met.
            space: The search space.
            search: The algorithm.
            workers: The slots.
            folder: The sweep's folder, under which models are written.
            emit: Takes each event: the journal first, then its views.
            clock: The time in seconds since 1970.
        """
        self._objective, self._budget, self._config = settings.objective, settings.search, settings.workers
        self.results = Results(self._objective)
        self._space, self._search, self._workers = space, search, workers
        self._folder, self._emit, self._clock = folder, emit, clock
        self._slots = set(workers.slots())
        self._idle: list[str] = []
        self._running: dict[str, _Attempt] = {}
        self._waiting: deque[_Attempt] = deque()
        self._epochs: dict[int, int] = {}
        self._asking = self._paused = self._finished = self._ended_since_ask = False
        self._past_answers = 0
        self._next = 0
        self._why_stop = self._failure = self._stop_wish = ""
        self._used = 0.0
        self._begun = clock()

    # ---- the whole ----------------------------------------------------------------------------------------------

    def replay(self, events: Sequence[Event]) -> None:
        """Takes up an interrupted sweep: the search is asked and told again all that it was, in the same order.

        Args:
            events: What the journal holds.
        """
        open_trials: dict[int, _Attempt] = {}
        asked: int | None = None
        session = last = 0.0
        for event in events:
            if isinstance(event, SweepStarted | SweepResumed):
                self._used += last - session
                session = event.time
            last = event.time
            if isinstance(event, TrialAsked):
                self._search.ask(event.trial)
                self._past_answers += 1
                asked, self._ended_since_ask = event.trial, False
            elif isinstance(event, TrialStarted):
                open_trials[event.trial.number] = _Attempt(event.trial, event.attempt)
                self.results.trials[event.trial.number] = event.trial
                self._next, asked = max(self._next, event.trial.number + 1), None
            elif isinstance(event, EpochEnded):
                self._epochs[event.trial] = event.epoch
                self._search.report(event.trial, event.epoch, event.metrics[self._objective.name])
            elif isinstance(event, AttemptFailed):
                open_trials[event.trial].number = event.attempt + 1
            elif isinstance(event, TrialEnded):
                open_trials.pop(event.trial, None)
                self.results.outcomes[event.trial] = event.outcome
                self._search.tell(event.trial, event.outcome.score)
                self._ended_since_ask = True
        self._used += last - session
        self._waiting.extend(open_trials[number] for number in sorted(open_trials))
        if asked is not None:
            # Its answer was not acted on yet, or was a pause: it is the one that the loop waits for.
            self._past_answers -= 1
            self._asking = True
        self._begun = self._clock()

    def stop(self, reason: str) -> None:
        """Interrupts the sweep: no more trials, and the running ones rest after their current epoch, to be resumed.

        May be called from a signal handler: the loop acts on it at its next turn.
        """
        self._stop_wish = reason

    @property
    def interrupted(self) -> bool:
        """Whether `stop` was called."""
        return bool(self._stop_wish)

    def run(self) -> Results:
        """Runs until the search, the space or a budget is used up, then tests the winner.

        Returns:
            All trials and their outcomes.

        Raises:
            UserError: No worker can start, or the search cannot go on.
        """
        try:
            while not self._over():
                self._check_end()
                self._take_answers()
                self._hand_out()
                for message in self._workers.poll(_POLL_WHILE_ASKING if self._asking else _POLL):
                    self._handle(message)
            if not self._stop_wish:
                self._test_winner()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            self._end(
                Status.STOPPED if interrupted else Status.FAILED,
                "interrupted" if interrupted else str(error) or type(error).__name__,
            )
            raise
        if self._stop_wish:
            self._end(Status.STOPPED, self._stop_wish)
        elif self._failure or self.results.winner() is None:
            self._end(Status.FAILED, self._failure or self._why_stop or "no trial has a result")
        else:
            self._end(Status.COMPLETED, self._why_stop)
        if self._finished:
            # No trial will go on from another any more, as one might with a longer budget.
            for number in self.results.outcomes:
                self._forget_state(number)
        return self.results

    def _over(self) -> bool:
        if self._running:
            return False
        if self._stop_wish:
            return True
        nothing_to_do = not (self._waiting or self._asking)
        return nothing_to_do and (self._finished or bool(self._why_stop) or self._used_up())

    def _used_up(self) -> bool:
        return self._budget.max_trials is not None and self._next >= self._budget.max_trials

    def _check_end(self) -> None:
        budget, now = self._budget.time_budget, self._clock()
        if self._stop_wish:
            for attempt in self._running.values():
                self._stop_attempt(attempt, self._stop_wish)
        elif budget is not None and self._used + now - self._begun >= seconds(budget):
            self._stop_all(f"the time budget of {budget} is used up")
        timeout = self._config.timeout
        for slot, attempt in self._running.items():
            silent = now - attempt.heard
            if attempt.stopping and silent > _GRACE + 2 * attempt.longest_epoch:
                attempt.heard = now
                self._workers.kill(slot, f"did not stop within {silent:.0f} s")
            elif timeout is not None and silent > seconds(timeout):
                attempt.heard = now
                self._workers.kill(slot, f"gave no sign of life for {timeout} (workers.timeout)")

    def _end(self, status: Status, reason: str) -> None:
        self._emit(SweepEnded(self._clock(), status, reason, self.results.winner()))

    # ---- ask ----------------------------------------------------------------------------------------------------

    def _take_answers(self) -> None:
        for answer in self._search.answers():
            if not isinstance(answer, Answered):
                for attempt in self._running.values():
                    if attempt.trial.number == answer.number:
                        self._stop_attempt(attempt, answer.reason)
            elif self._past_answers:
                self._past_answers -= 1
            else:
                self._answered(answer)

    def _hand_out(self) -> None:
        if self._stop_wish:
            return
        for attempt in list(self._waiting):
            slot = self._slot_for(attempt)
            if slot is not None:
                self._waiting.remove(attempt)
                self._start(attempt, slot)
        no_more = self._asking or self._paused or self._finished or self._why_stop or self._used_up()
        if self._idle and not no_more:
            self._asking, self._ended_since_ask = True, False
            self._emit(TrialAsked(self._clock(), self._next))
            self._search.ask(self._next)

    def _answered(self, answered: Answered) -> None:
        self._asking = False
        if answered.answer is Answer.FINISHED:
            self._finished = True
        elif answered.answer is Answer.PAUSE and not self._ended_since_ask:
            # Without a running trial whose end it could wait for, a pause would last for ever.
            self._paused, self._finished = bool(self._running or self._waiting), not (self._running or self._waiting)
        elif isinstance(answered.answer, Suggestion):
            self._next += 1
            if self._why_stop:
                return
            trial = self._trial(answered.number, answered.answer)
            self.results.trials[trial.number] = trial
            # Not started here: the slot that was idle when the search was asked may be gone or taken by now.
            self._waiting.append(_Attempt(trial, number=1))

    def _trial(self, number: int, suggestion: Suggestion) -> Trial:
        config = check_trial(self._space.config(suggestion.values))
        return Trial(
            number,
            suggestion.values,
            config.model_dump(mode="json"),
            suggestion.epochs or config.training.epochs,
            suggestion.initial_epoch,
            suggestion.parent,
            self._space.inactive(suggestion.values),
        )

    def _slot_for(self, attempt: _Attempt) -> str | None:
        """An idle slot, and another than the one where the attempt before failed, if there is or will be one."""
        others = [slot for slot in self._idle if slot != attempt.avoid]
        if others:
            return others[0]
        may_come = any(slot != attempt.avoid for slot in self._slots)
        return None if may_come or not self._idle else self._idle[0]

    def _start(self, attempt: _Attempt, slot: str) -> None:
        trial = attempt.trial
        self._idle.remove(slot)
        self._emit(TrialStarted(self._clock(), trial, attempt.number, slot))
        attempt.heard = self._clock()
        self._running[slot] = attempt
        parent = None if trial.parent is None else trial_folder(self._folder, trial.parent) / STATE_FILE
        self._workers.submit(
            slot,
            Train(
                trial,
                (self._objective.name, self._objective.direction),
                folder=str(trial_folder(self._folder, trial.number)),
                parent_state=None if parent is None else str(parent),
            ),
        )

    # ---- run ----------------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        if isinstance(message, Ready):
            self._idle.append(message.slot)
        elif isinstance(message, Reported):
            self._reported(message)
        elif isinstance(message, Done):
            self._done(message)
        elif isinstance(message, Died):
            self._died(message)

    def _reported(self, message: Reported) -> None:
        attempt, now = self._running[message.slot], self._clock()
        attempt.longest_epoch = max(attempt.longest_epoch, now - attempt.heard)
        attempt.heard = now
        if message.epoch <= self._epochs.get(message.trial, 0):
            # A second attempt, or a resumed one: the same epoch has the same metrics again.
            return
        self._epochs[message.trial] = message.epoch
        score = message.metrics[self._objective.name]
        self._emit(EpochEnded(self._clock(), message.trial, attempt.number, message.epoch, message.metrics))
        self._search.report(message.trial, message.epoch, score)
        target = self._budget.target
        if target is not None and self._objective.reached(score, target):
            self._stop_all(f"{self._objective.name} reached the target {target}")

    def _done(self, message: Done) -> None:
        attempt = self._running.pop(message.slot)
        if message.outcome.status is Status.FAILED:
            self._failed(attempt, message.slot, message.outcome, message.log)
        elif message.outcome.status is not Status.STOPPED or not self._stop_wish:
            self._ended(attempt.trial, message.outcome)
        # Else the trial only rests: resumed, it goes on from the epoch that it has reached.

    def _died(self, message: Died) -> None:
        self._idle = [slot for slot in self._idle if slot != message.slot]
        if message.lost:
            self._slots.discard(message.slot)
        attempt = self._running.pop(message.slot, None)
        if attempt is not None:
            outcome = Outcome(Status.FAILED, f"its worker {message.reason}")
            self._failed(attempt, message.slot, outcome, message.log)
        if not self._slots:
            raise UserError(f"workers: {message.slot} {message.reason}")

    def _failed(self, attempt: _Attempt, slot: str, outcome: Outcome, log: str) -> None:
        if self._stop_wish and attempt.stopping:
            # It only rests, as the others do.
            return
        last = attempt.number > self._config.retries or bool(self._why_stop)
        if last:
            self._ended(attempt.trial, outcome, log)
            return
        self._emit(AttemptFailed(self._clock(), attempt.trial.number, attempt.number, outcome.reason, log))
        self._waiting.append(_Attempt(attempt.trial, attempt.number + 1, avoid=slot))

    def _forget_state(self, number: int) -> None:
        (trial_folder(self._folder, number) / STATE_FILE).unlink(missing_ok=True)

    def _stop_all(self, reason: str) -> None:
        self._why_stop = self._why_stop or reason
        for attempt in self._running.values():
            self._stop_attempt(attempt, reason)
        while self._waiting:
            self._ended(self._waiting.popleft().trial, Outcome(Status.STOPPED, reason))

    def _stop_attempt(self, attempt: _Attempt, reason: str) -> None:
        if not attempt.stopping:
            attempt.stopping, attempt.heard = True, self._clock()
            slot = next(slot for slot, running in self._running.items() if running is attempt)
            self._workers.stop(slot, attempt.trial.number, reason)

    # ---- tell ---------------------------------------------------------------------------------------------------

    def _ended(self, trial: Trial, outcome: Outcome, log: str = "") -> None:
        self._emit(TrialEnded(self._clock(), trial.number, outcome, log))
        if self._budget.algorithm != "hyperband":
            self._forget_state(trial.number)
        self.results.outcomes[trial.number] = outcome
        self._search.tell(trial.number, outcome.score)
        self._paused, self._ended_since_ask = False, True
        failures = self.results.failures_in_a_row()
        limit = self._budget.max_failures
        if limit is not None and len(failures) >= limit and not self._why_stop:
            reasons = [failure.reason for failure in failures]
            common = max(reversed(reasons), key=reasons.count)
            self._failure = f"{len(failures)} trials in a row failed: {common} (search.max_failures={limit})"
            self._stop_all(self._failure)

    def _test_winner(self) -> None:
        winner = self.results.winner()
        attempts = 0
        while winner is not None and attempts <= self._config.retries:
            while not self._idle:
                for message in self._workers.poll(_POLL):
                    self._handle(message)
            slot = self._idle.pop(0)
            self._workers.submit(slot, Evaluate(str(trial_folder(self._folder, winner) / MODEL_FILE)))
            attempts += 1
            tested = self._wait_for_test(slot)
            if tested is not None:
                self._emit(WinnerTested(self._clock(), winner, tested.metrics, tested.confusion, tested.error))
                return

    def _wait_for_test(self, slot: str) -> Evaluated | None:
        while True:
            for message in self._workers.poll(_POLL):
                if isinstance(message, Evaluated):
                    return message
                self._handle(message)
                if isinstance(message, Died) and message.slot == slot:
                    return None
