"""Attempts to train a trial: which wait, which run on which slot, which do not respond, and which are retried."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.text import counted, most_common
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, identity
from mnist_sweep.config.units import seconds
from mnist_sweep.driver import trials
from mnist_sweep.driver.resting import RestingNodes
from mnist_sweep.driver.state import LoopState, Phase
from mnist_sweep.driver.suggestions import Suggestions
from mnist_sweep.journal.events import (
    NO_SLOT,
    AttemptFailed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotLost,
    SlotOpened,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.files import forget, trial_folder
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.search.choose import spent
from mnist_sweep.workers.base import (
    Died,
    Done,
    Executed,
    Joined,
    MachineFailed,
    Message,
    Ready,
    Reported,
    Task,
    Workers,
)
from mnist_sweep.workers.devices import Slot, node_of, place
from mnist_sweep.workers.sharing import Sharing

# Seconds beyond two epochs in which a trial that was asked to stop must stop, before its process is ended.
_GRACE = 60.0
# If this process did not listen to the workers for so many seconds, it was stopped itself, by Ctrl-Z or with its
# machine. The workers' messages have yet to be read, so they were not silent.
_STALL = 5.0
# How many nodes in a row a trial may lose before it counts as its failure.
_MOST_LOSSES = 3
_NODES = "start nodes"
# The search ends after so many refused trials in a row: if their models exceed the limits, or others have been trained;
# if no model could be built yet, each try of which takes a second; and whatever the trials are.
_MOST_REFUSED, _MOST_UNBUILT, _MOST_OF_ALL = 200, 20, 2000


@dataclass
class _Attempt:
    trial: Trial
    number: int = 1
    avoid: str | None = None
    """The node or the device on which the attempt before failed."""
    impossible: str = ""
    """Why it cannot be trained."""
    slot: str = ""
    stopping: bool = False
    longest_epoch: float = 0.0
    trained: bool = False
    """Whether it has trained an epoch that no attempt before had."""
    losses: int = 0
    """How many attempts in a row, until this one, a node has taken with it before they trained an epoch."""
    excused: int = 0
    """How many attempts before this one do not count, as the trial did not make them fail."""


class Attempts:
    """The slots, and the trials that wait for one or run on one.

    Attributes:
        slots: All slots.
        idle: The slots that are ready for a task.
        waiting: The attempts that wait for a slot, the next one first.
        running: The attempts that run, by slot.
    """

    def __init__(
        self,
        settings: Settings,
        space: Space,
        image: Sequence[int] | None,
        folder: Path,
        workers: Workers,
        state: LoopState,
        suggestions: Suggestions,
        sharing: Sharing,
        emit: Callable[[Event], None],
        then: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
    ) -> None:
        """Takes the parts of the sweep's loop; `then` does something once the journal has all events so far."""
        self._image = image
        self._searched = {h.name for h in space.hyperparameters if h.domain.size != 1}
        self._settings, self._folder, self._workers, self._state = settings, folder, workers, state
        self._suggestions, self._sharing, self._clock = suggestions, sharing, clock
        self._emit, self._then = emit, then
        self.slots = set(workers.slots())
        self.idle: list[str] = []
        self.waiting: deque[_Attempt] = deque()
        self.running: dict[str, _Attempt] = {}
        self._resting = RestingNodes(clock)
        # Since when there is no slot, and why.
        self._empty: tuple[float, str] | None = None
        # When each slot with a task was last heard from, and when this process last listened.
        self._heard: dict[str, float] = {}
        self._listened = clock()

    # ---- start and stop -----------------------------------------------------------------------------------------

    def add(self, new: Iterable[Trial]) -> None:
        """Adds trials, which start when a slot is idle; those that are impossible are refused."""
        for trial in new:
            self._add(trial)

    def add_interrupted(self, *, confirming: bool, only: Container[int] | None = None) -> None:
        """Adds the trials that an interruption has cut off: those that retrain others, or those of the search.

        Args:
            confirming: Which of the two.
            only: Leaves out all others; None for all of them.
        """
        for number, start in sorted(self._state.open.items()):
            if (start.trial.confirms is not None) == confirming and (only is None or number in only):
                self._add(start.trial, start.attempt)

    def _add(self, trial: Trial, number: int = 1) -> None:
        self.waiting.append(_Attempt(trial, number, impossible=trials.impossible(trial, self._image)))

    def start(self) -> None:
        """Starts the attempts that have a slot, and ends those that cannot be trained."""
        state = self._state
        while (attempt := next((one for one in self.waiting if one.impossible), None)) is not None:
            self.waiting.remove(attempt)
            if attempt.trial.number not in state.open:
                # The journal needs the values that the search has suggested.
                self._emit(TrialStarted(self._clock(), attempt.trial, attempt.number, NO_SLOT))
            self._ended(attempt.trial, Outcome(Status.REFUSED, attempt.impossible))
        for attempt in list(self.waiting):
            slot, trial = self._slot_for(attempt), attempt.trial
            if slot is None:
                continue
            self.waiting.remove(attempt)
            self.idle.remove(slot)
            self._emit(TrialStarted(self._clock(), trial, attempt.number, slot))
            attempt.slot, self.running[slot] = slot, attempt
            # A trial that was asked to stop before its worker died must not train any further.
            stop = state.cut.get(trial.number, state.stopped if state.phase is Phase.STOPPING else "")
            self.submit(slot, trials.task(self._settings, self._folder, trial, state, stop))

    def _slot_for(self, attempt: _Attempt) -> str | None:
        """An idle slot, on another device than the one where the attempt before failed, if there is or will be one."""
        free = self.free()
        other = next((slot for slot in free if place(slot) != attempt.avoid), None)
        if other is not None or not free:
            return other
        may_come = any(place(slot) != attempt.avoid for slot in self.slots)
        return None if may_come else free[0]

    def free(self) -> list[str]:
        """Returns the idle slots whose node does not rest."""
        if not self._resting.any:
            return self.idle
        return [slot for slot in self.idle if not self._resting.rests(slot, self.slots)]

    def submit(self, slot: str, task: Task) -> None:
        """Gives a task to an idle slot, which must not be silent for too long until `end`."""
        self._heard[slot] = self._clock()
        self._then(partial(self._workers.submit, slot, task))

    def stop(self, reason: str) -> None:
        """Ends the search, and all its trials."""
        self._state.stop(reason)
        self.stop_running(reason)
        # Those that have trained an epoch start once more, to save what they have.
        for attempt in [a for a in self.waiting if not self._state.last_epoch(a.trial.number)]:
            self.waiting.remove(attempt)
            self._ended(attempt.trial, Outcome(Status.STOPPED, reason))

    def stop_running(self, reason: str) -> None:
        """Asks the running trials to stop after their current epoch."""
        for attempt in self.running.values():
            self._stop(attempt, reason)

    def _stop(self, attempt: _Attempt, reason: str) -> None:
        if not attempt.stopping:
            attempt.stopping, self._heard[attempt.slot] = True, self._clock()
            self._then(partial(self._workers.stop, attempt.slot, attempt.trial.number, reason))

    def open(self, new: Slot) -> None:
        """Adds a slot."""
        self.slots.add(new.name)
        self._then(partial(self._workers.open, new))

    def retire(self, slot: str) -> None:
        """Removes an idle slot for good."""
        self.slots.discard(slot)
        self._not_idle(slot)
        self._then(partial(self._workers.retire, slot))

    def _not_idle(self, slot: str) -> None:
        self.idle = [idle for idle in self.idle if idle != slot]

    # ---- silence ------------------------------------------------------------------------------------------------

    def check_slots(self) -> None:
        """Ends the sweep, to be resumed, if there has been no slot for too long.

        Raises:
            MachineError: No node has joined within `workers.wait`.
        """
        wait = self._settings.workers.wait
        if self._empty is None:
            return
        since, reason = self._empty
        if wait is None:
            raise MachineError(f"workers: {reason}; no slot is left", todo=_NODES)
        if self._clock() - since > seconds(wait):
            raise MachineError(f"workers: {reason}; no node has joined within {wait} (workers.wait)", todo=_NODES)

    def check_silence(self) -> None:
        """Ends the processes that have been silent for too long; `Died` follows."""
        now, timeout = self._clock(), self._settings.workers.timeout
        stalled, self._listened = now - self._listened, now
        if stalled > _STALL:
            self._heard = {slot: heard + stalled for slot, heard in self._heard.items()}
        for slot, heard in self._heard.items():
            silent, attempt = now - heard, self.running.get(slot)
            if attempt is not None and attempt.stopping and silent > _GRACE + 2 * attempt.longest_epoch:
                reason = f"did not stop within {silent:.0f} s"
            elif timeout is not None and silent > seconds(timeout):
                reason = f"did not respond for {timeout} (workers.timeout)"
            else:
                continue
            self._heard[slot] = now
            self._then(partial(self._workers.kill, slot, reason))

    def heard(self, slot: str) -> float:
        """Takes note of a message from a slot with a task, and returns the seconds since the one before."""
        now = self._clock()
        before, self._heard[slot] = self._heard[slot], now
        return now - before

    def end(self, slot: str) -> _Attempt | None:
        """Takes note of the end of a slot's task, and returns the attempt if it was one."""
        self._heard.pop(slot, None)
        return self.running.pop(slot, None)

    # ---- messages -----------------------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Takes a message from a slot.

        Raises:
            UserError: No worker can start any more on this machine.
        """
        attempt = self.running.get(message.slot)
        match message:
            case Joined():
                self.slots.add(message.slot)
                self._empty = None
                self._emit(SlotOpened(self._clock(), message.slot, message.reason))
            case Ready():
                self.idle.append(message.slot)
            case Died():
                self._died(message)
            case MachineFailed():
                # Its trial has not failed. Like the others, it waits until the machine works again.
                self.end(message.slot)
                self._state.machine = self._state.machine or message.reason
                self._state.interruption = self._state.machine
            # Without an attempt, the slot had more to report when its trial was taken away.
            case Reported() if attempt is not None:
                self._reported(message, attempt)
            case Executed() if attempt is not None:
                self._executed(message, attempt)
            case Done() if attempt is not None:
                self._done(message, attempt)

    def _reported(self, message: Reported, attempt: _Attempt) -> None:
        attempt.longest_epoch = max(attempt.longest_epoch, self.heard(message.slot))
        number, epoch, execution = message.trial, message.epoch, message.execution
        # After a failure or an interruption, the same epoch may come again, with the same metrics.
        if epoch > self._state.last_epoch(number, execution):
            attempt.trained = True
            self._resting.worked(attempt.slot)
            self._emit(EpochEnded(self._clock(), number, attempt.number, epoch, message.metrics, execution))
        self._check_target()
        self._go_on(attempt, execution, epoch)

    def _executed(self, message: Executed, attempt: _Attempt) -> None:
        self.heard(message.slot)
        if message.execution not in self._state.executions.get(message.trial, {}):
            self._emit(ExecutionEnded(self._clock(), message.trial, message.execution, message.outcome))
        self._go_on(attempt, message.execution, 0)

    def _go_on(self, attempt: _Attempt, execution: int, epoch: int) -> None:
        number = attempt.trial.number
        if number in self._state.cut:
            self._stop(attempt, self._state.cut[number])
        elif self._state.may_be_cut(attempt.trial):
            self._then(partial(self._workers.go_on, attempt.slot, number, execution, epoch))

    def _done(self, message: Done, attempt: _Attempt) -> None:
        self.end(message.slot)
        if message.outcome.status is Status.FAILED:
            self._failed(attempt, message.outcome, message.log, lasting=message.lasting)
            return
        stopped = message.outcome.status is Status.STOPPED and message.trial not in self._state.cut
        # An interrupted trial has not ended: when resumed, it continues from the last epoch that it reached.
        if not (stopped and self._state.interruption):
            self._ended(attempt.trial, message.outcome, message.log)

    def _died(self, message: Died) -> None:
        self._not_idle(message.slot)
        if message.lost:
            self.slots.discard(message.slot)
            if self.slots or node_of(message.slot):
                self._emit(SlotLost(self._clock(), message.slot, message.reason))
        attempt = self.end(message.slot)
        if attempt is not None:
            gone = message.lost and bool(node_of(message.slot))
            self._failed(attempt, Outcome(Status.FAILED, f"its worker {message.reason}"), message.log, gone=gone)
        if not self.slots and node_of(message.slot):
            # Another node may join.
            self._empty = (self._clock(), f"{message.slot} {message.reason}")
        elif not self.slots:
            raise UserError(f"workers: {message.slot} {message.reason}")

    # ---- retry or end -------------------------------------------------------------------------------------------

    def _failed(
        self, attempt: _Attempt, outcome: Outcome, log: str, *, lasting: bool = False, gone: bool = False
    ) -> None:
        """Retries or ends a trial; `gone` is whether its node is lost."""
        if self._state.interruption and attempt.stopping:
            # It has not ended either: it continues when the sweep is resumed.
            return
        number = attempt.trial.number
        losses = attempt.losses + 1 if gone and not attempt.trained else 0
        # A trial that takes its node with it again and again is no accident.
        excused = self._sharing.excuses(number, outcome.reason) or (gone and losses <= _MOST_LOSSES)
        tries = attempt.number - self._state.spent.get(number, 0) - attempt.excused
        if not (attempt.trained or lasting):
            self._resting.failed(attempt.slot)
        last = lasting or (tries > self._settings.workers.retries and not excused)
        if last or self._state.phase is Phase.STOPPING:
            self._ended(attempt.trial, outcome, log)
            return
        self._emit(AttemptFailed(self._clock(), number, attempt.number, outcome.reason, log))
        again = _Attempt(attempt.trial, attempt.number + 1, avoid=place(attempt.slot), losses=losses)
        again.excused = attempt.excused + (1 if excused else 0)
        self.waiting.append(again)

    def _ended(self, trial: Trial, outcome: Outcome, log: str = "") -> None:
        results = self._state.results
        self._emit(TrialEnded(self._clock(), trial.number, outcome, log))
        for number in spent(self._settings, trial.number, results.trials, results.outcomes):
            self._then(partial(forget, trial_folder(self._folder, number)))
        self._suggestions.tell(trial.number, self._state.result(trial.number))
        self._check_target()
        self._check_failures()

    def _check_target(self) -> None:
        if self._state.reached and self._state.phase is Phase.SEARCHING:
            self.stop(self._state.reached)

    def _check_failures(self) -> None:
        if self._state.phase is Phase.STOPPING:
            return
        limit = self._settings.search.max_failures
        failed = self._state.results.in_a_row(Status.FAILED)
        if limit is not None and len(failed) >= limit:
            common = most_common(outcome.reason for outcome in failed.values())
            row = f"{counted(len(failed), 'trial')} in a row"
            self._state.failure = f"{row} failed (search.max_failures={limit}): {common}"
            self.stop(self._state.failure)
        elif reason := self._refused_too_often():
            # If some of the space was searched before, its results are those of the sweep.
            self._state.failure = reason if self._state.results.winner() is None else ""
            self.stop(reason)

    def _refused_too_often(self) -> str:
        """Returns why no other trial of the space is expected to be possible; "" if one may be."""
        results = self._state.results
        row = results.in_a_row(Status.REFUSED)
        if len(row) < _MOST_UNBUILT:
            return ""
        tried = all(outcome.seconds and outcome.unbuilt for outcome in row.values())
        built = any(outcome.parameters is not None for outcome in results.outcomes.values())
        if len(row) < (_MOST_UNBUILT if tried and not built else _MOST_REFUSED):
            return ""
        # A value that all of them have may be the cause, as in a grid, whose first hyperparameters change last.
        shared = set.intersection(*(self._choices(results.trials[number]) for number in row))
        if shared and len(row) < _MOST_OF_ALL:
            return ""
        common = most_common(outcome.reason for outcome in row.values())
        return f"{counted(len(row), 'trial')} in a row were refused: {common}"

    def _choices(self, trial: Trial) -> set[str]:
        """Returns the values of the hyperparameters that have several, each with its name."""
        return {identity({name: value}) for name, value in trial.values.items() if name in self._searched}
