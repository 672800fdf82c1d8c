"""The sweep loop: ask the search, run on the workers, tell the search."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mnist_sweep.config import check_trial
from mnist_sweep.errors import UserError
from mnist_sweep.search.aside import Answered, Aside
from mnist_sweep.search.base import Answer, Suggestion
from mnist_sweep.settings import Objective, Search, seconds
from mnist_sweep.space import Space
from mnist_sweep.trial import (
    AttemptFailed,
    EpochEnded,
    Event,
    Outcome,
    Status,
    SweepEnded,
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


@dataclass
class _Running:
    trial: Trial
    attempt: int
    stopping: bool = False


class Sweep:
    """Runs one sweep to its end.

    Every event is handed to `emit` before the loop acts on it.
    """

    def __init__(
        self,
        space: Space,
        search: Aside,
        workers: Workers,
        *,
        objective: Objective,
        budget: Search,
        retries: int,
        folder: Path,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        """Takes the parts.

        Args:
            space: The search space.
            search: The algorithm.
            workers: The slots.
            objective: What is optimised.
            budget: When to end.
            retries: How often a trial is tried again whose worker died.
            folder: The sweep's folder, under which models are written.
            emit: Takes each event: the journal first, then its views.
            clock: The time in seconds since 1970.
        """
        self.results = Results(objective)
        self._space, self._search, self._workers = space, search, workers
        self._objective, self._budget, self._retries = objective, budget, retries
        self._folder, self._emit, self._clock = folder, emit, clock
        self._idle: list[str] = []
        self._running: dict[str, _Running] = {}
        self._waiting: deque[_Running] = deque()
        self._asking = self._paused = self._finished = False
        self._next = 0
        self._why_stop = ""
        self._stop_wish = ""
        self._deadline = clock() + seconds(budget.time_budget) if budget.time_budget else None

    def stop(self, reason: str) -> None:
        """Ends the sweep early: no more trials, and the running ones end with their current epoch.

        May be called from a signal handler: the loop acts on it at its next turn.
        """
        self._stop_wish = reason

    @property
    def stopped_by_user(self) -> bool:
        """Whether `stop` was called."""
        return bool(self._stop_wish)

    def run(self) -> Results:
        """Runs until the search, the space or a budget is used up, then tests the winner.

        Returns:
            All trials and their outcomes.

        Raises:
            UserError: Workers cannot start.
        """
        try:
            while not self._over():
                self._check_end()
                self._hand_out()
                for message in self._workers.poll(_POLL_WHILE_ASKING if self._asking else _POLL):
                    self._handle(message)
            self._test_winner()
        except BaseException as error:
            self._abandon("interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__)
            raise
        status, reason = Status.COMPLETED, self._why_stop
        if self._stop_wish:
            status = Status.STOPPED
        elif self.results.winner() is None:
            status, reason = Status.FAILED, reason or "no trial has a result"
        self._end(status, reason)
        return self.results

    def _over(self) -> bool:
        nothing_to_do = not (self._running or self._waiting or self._asking)
        return nothing_to_do and (self._finished or bool(self._why_stop) or self._used_up())

    def _used_up(self) -> bool:
        return self._budget.max_trials is not None and self._next >= self._budget.max_trials

    def _check_end(self) -> None:
        if self._stop_wish:
            self._stop_all(self._stop_wish)
        if self._deadline is not None and self._clock() >= self._deadline:
            self._stop_all(f"the time budget of {self._budget.time_budget} is used up")

    # ---- ask ----------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        for answer in self._search.answers():
            if isinstance(answer, Answered):
                self._answered(answer)
            else:
                self._stop_trial(answer.number, answer.reason)
        while self._waiting and self._idle:
            self._start(self._waiting.popleft())
        no_more = self._asking or self._paused or self._finished or self._why_stop or self._used_up()
        if self._idle and not no_more:
            self._asking = True
            self._emit(TrialAsked(self._clock(), self._next))
            self._search.ask(self._next)

    def _answered(self, answered: Answered) -> None:
        self._asking = False
        if answered.answer is Answer.FINISHED:
            self._finished = True
        elif answered.answer is Answer.PAUSE:
            # Without a running trial whose end it could wait for, a pause would last for ever.
            self._paused, self._finished = (
                bool(self._running or self._waiting),
                not (self._running or self._waiting),
            )
        elif isinstance(answered.answer, Suggestion):
            self._next += 1
            if self._why_stop:
                return
            trial = self._trial(answered.number, answered.answer)
            self.results.trials[trial.number] = trial
            # Not started here: the slot that was idle when the search was asked may be gone or taken by now.
            self._waiting.append(_Running(trial, attempt=1))

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

    def _start(self, running: _Running) -> None:
        slot, trial = self._idle.pop(0), running.trial
        self._emit(TrialStarted(self._clock(), trial, running.attempt, slot))
        self._running[slot] = running
        state = None if trial.parent is None else trial_folder(self._folder, trial.parent) / "state.weights.h5"
        self._workers.submit(
            slot,
            Train(
                trial,
                (self._objective.name, self._objective.direction),
                folder=str(trial_folder(self._folder, trial.number)),
                state=None if state is None else str(state),
                keep_state=self._budget.algorithm == "hyperband",
            ),
        )

    # ---- run ----------------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        if isinstance(message, Ready):
            self._idle.append(message.slot)
        elif isinstance(message, Reported):
            self._reported(message)
        elif isinstance(message, Done):
            self._ended(self._running.pop(message.slot).trial, message.outcome)
        elif isinstance(message, Died):
            self._died(message)

    def _reported(self, message: Reported) -> None:
        running = self._running[message.slot]
        score = message.metrics[self._objective.name]
        self._emit(EpochEnded(self._clock(), message.trial, running.attempt, message.epoch, message.metrics))
        self._search.report(message.trial, message.epoch, score)
        target = self._budget.target
        if target is not None and self._objective.reached(score, target):
            self._stop_all(f"{self._objective.name} reached the target {target}")

    def _died(self, message: Died) -> None:
        self._idle = [slot for slot in self._idle if slot != message.slot]
        running = self._running.pop(message.slot, None)
        if running is None:
            return
        reason = f"its worker {message.reason}"
        if running.attempt > self._retries or self._why_stop:
            self._ended(running.trial, Outcome(Status.FAILED, reason))
            return
        self._emit(AttemptFailed(self._clock(), running.trial.number, running.attempt, reason))
        self._waiting.append(_Running(running.trial, running.attempt + 1))

    def _stop_all(self, reason: str) -> None:
        self._why_stop = self._why_stop or reason
        for running in self._running.values():
            self._stop_trial(running.trial.number, reason)
        while self._waiting:
            self._ended(self._waiting.popleft().trial, Outcome(Status.STOPPED, reason))

    def _stop_trial(self, number: int, reason: str) -> None:
        for slot, running in self._running.items():
            if running.trial.number == number and not running.stopping:
                running.stopping = True
                self._workers.stop(slot, number, reason)

    # ---- tell ---------------------------------------------------------------------------------------------------

    def _ended(self, trial: Trial, outcome: Outcome) -> None:
        self._emit(TrialEnded(self._clock(), trial.number, outcome))
        self.results.outcomes[trial.number] = outcome
        self._search.tell(trial.number, outcome.score)
        self._paused = False

    def _test_winner(self) -> None:
        winner = self.results.winner()
        attempts = 0
        while winner is not None and attempts <= self._retries:
            while not self._idle:
                for message in self._workers.poll(_POLL):
                    self._handle(message)
            slot = self._idle.pop(0)
            self._workers.submit(slot, Evaluate(str(trial_folder(self._folder, winner) / "model.h5")))
            attempts += 1
            tested = self._wait_for_test(slot)
            if tested is not None:
                if tested.error:
                    raise UserError(f"trial {winner}: its model cannot be tested ({tested.error})")
                self._emit(WinnerTested(self._clock(), winner, tested.metrics, tested.confusion))
                return

    def _wait_for_test(self, slot: str) -> Evaluated | None:
        while True:
            for message in self._workers.poll(_POLL):
                if isinstance(message, Evaluated):
                    return message
                self._handle(message)
                if isinstance(message, Died) and message.slot == slot:
                    return None

    def _abandon(self, reason: str) -> None:
        for running in [*self._running.values(), *self._waiting]:
            outcome = Outcome(Status.STOPPED, reason)
            self._emit(TrialEnded(self._clock(), running.trial.number, outcome))
            self.results.outcomes[running.trial.number] = outcome
        self._end(Status.STOPPED if reason == "interrupted" else Status.FAILED, reason)

    def _end(self, status: Status, reason: str) -> None:
        self._emit(SweepEnded(self._clock(), status, reason, self.results.winner()))
