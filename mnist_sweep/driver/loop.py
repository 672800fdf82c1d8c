"""The sweep loop: ask the search, run on the workers, tell the search."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.text import first_line
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, identity
from mnist_sweep.config.trial_config import check_trial
from mnist_sweep.config.units import seconds, size
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.state import SweepState, answered
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SweepEnded,
    TrialAsked,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.files import MODEL_FILE, forget, trial_folder
from mnist_sweep.journal.ranking import Ranking, confirm
from mnist_sweep.journal.trial import Execution, Outcome, Status, Trial
from mnist_sweep.search.base import Answer, Result, Suggestion
from mnist_sweep.search.choose import go_on, spent
from mnist_sweep.search.in_thread import Answered, ThreadedSearch
from mnist_sweep.search.stopping import Stopping
from mnist_sweep.workers.base import (
    Died,
    Done,
    Evaluate,
    Evaluated,
    Executed,
    MachineFailed,
    Message,
    Ready,
    Reported,
    Train,
    Workers,
)
from mnist_sweep.workers.devices import device
from mnist_sweep.workers.sharing import Sharing

_POLL = 0.2
# Most searches answer within milliseconds.
_POLL_WHILE_ASKING = 0.002
# Seconds beyond two epochs that a trial has to stop in, before its process is ended.
_GRACE = 60.0
# Seconds between two turns of the loop beyond which this process itself was stopped, by Ctrl-Z or with its machine:
# what the workers have said meanwhile is still to be heard, and they were not silent.
_STALL = 5.0
# Trials in a row that exceed the limits, after which no other is expected to keep within them.
_MOST_REFUSED = 200
_SEED = "training.seed"
# Between the seeds of a search's trials and those on which the best are trained anew.
_SEEDS_ANEW = 1000


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
        search: ThreadedSearch,
        stopping: Stopping | None,
        workers: Workers,
        *,
        folder: Path,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
        sharing: Sharing | None = None,
        packaging: Packaging | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes the parts.

        Args:
            settings: The objectives, the budget, and how failures are met.
            space: The search space.
            search: The algorithm.
            stopping: The rule that ends hopeless trials; None where there is none.
            workers: The slots.
            folder: The sweep's folder, under which models are written.
            emit: Takes each event: the journal first, then its views.
            clock: The time in seconds since 1970, which no change of the system's clock may move.
            sharing: What opens and closes shares of GPUs; None where the slots stay as they are.
            packaging: Makes the winner an MLflow model; None where that is not wanted.
            meanwhile: What to do while the winner is tested.
        """
        self._settings, self._objective = settings, settings.objective
        self._budget, self._config = settings.search, settings.workers
        self._state = SweepState(settings, stopping)
        self._space, self._search, self._workers = space, search, workers
        self._folder, self._out, self._clock = folder, emit, clock
        self._packaging, self._meanwhile = packaging, meanwhile
        self._waits = stopping is not None or settings.search.target is not None
        self._limits = _limits(settings)
        self._slots, self._sharing = set(workers.slots()), sharing or Sharing()
        self._idle: list[str] = []
        self._running: dict[str, _Attempt] = {}
        self._waiting: deque[_Attempt] = deque()
        self._asking = self._paused = self._finished = self._ended_since_ask = self._confirming = False
        self._past_answers = 0
        self._why_stop = self._failure = self._stop_wish = self._machine = ""
        self._begun = self._turned = clock()

    @property
    def results(self) -> Ranking:
        """What the sweep has found so far."""
        return self._state.results

    # ---- the whole ----------------------------------------------------------------------------------------------

    def replay(self, events: Sequence[Event]) -> None:
        """Takes up an interrupted sweep: the search is asked and told again all that it was, in the same order.

        Args:
            events: What the journal holds.
        """
        answers = answered(events)
        waited_for: int | None = None
        for position, event in enumerate(events):
            self._state.take(event)
            if isinstance(event, TrialAsked):
                waited_for, self._ended_since_ask = event.trial, False
                if position in answers:
                    self._search.restore(event.trial, answers[position])
                else:
                    self._search.ask(event.trial)
                    self._past_answers += 1
            elif isinstance(event, TrialStarted):
                waited_for = None
            elif isinstance(event, TrialEnded):
                waited_for = None if event.trial == waited_for else waited_for
                self._tell(event.trial)
        self._state.end_session()
        if waited_for is not None:
            # Its answer was not acted on yet, or was a pause: it is the one that the loop waits for.
            self._past_answers -= 1
            self._asking = True
        self._waiting.extend(self._open(confirming=False))
        self._begun = self._clock()
        self._why_stop = self._state.reached

    def stop(self, reason: str) -> None:
        """Interrupts the sweep: no more trials, and the running ones rest after their current epoch, to be resumed.

        May be called from a signal handler: the loop acts on it at its next turn.
        """
        self._stop_wish = reason

    @property
    def interrupted(self) -> bool:
        """Whether `stop` was called."""
        return bool(self._stop_wish)

    def run(self) -> Ranking:
        """Runs until the search, the space or a budget is used up, then confirms and tests the winner.

        Returns:
            All trials and their outcomes.

        Raises:
            UserError: No worker can start, or the search cannot continue.
            MachineError: A disk is full or broken, or a folder is gone; the sweep can be resumed.
        """
        try:
            while not self._over():
                self._turn()
            if not (self._stop_wish or self._failure):
                self._confirm()
            if not self._stop_wish:
                self._test_winner()
            if self._machine:
                raise MachineError(self._machine)
        except BaseException as error:
            resumable = isinstance(error, KeyboardInterrupt | MachineError)
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
            # A journal that cannot be written has told so already, if it is not what ended the sweep.
            with contextlib.suppress(MachineError):
                self._end(Status.STOPPED if resumable else Status.FAILED, reason)
            raise
        if self._stop_wish:
            self._end(Status.STOPPED, self._stop_wish)
        elif self._failure or self.results.winner() is None:
            nothing = "no trial has a result" if self.results.outcomes else "the search has suggested no trial"
            self._end(Status.FAILED, self._failure or self._why_stop or nothing)
        else:
            self._end(Status.COMPLETED, self._why_stop)
        if self._finished:
            # No trial will go on from another any more, as one might with a longer budget.
            for number in self.results.outcomes:
                forget(trial_folder(self._folder, number))
        return self.results

    def _turn(self) -> None:
        stalled = self._stalled()
        for attempt in self._running.values():
            attempt.heard += stalled
        self._check_end()
        self._take_answers()
        self._share()
        self._hand_out()
        for message in self._workers.poll(_POLL_WHILE_ASKING if self._asking else _POLL):
            self._handle(message)

    def _over(self) -> bool:
        if self._running:
            return False
        if self._stop_wish:
            return True
        nothing_to_do = not (self._waiting or self._asking)
        return nothing_to_do and (self._confirming or self._finished or bool(self._why_stop) or self._used_up())

    def _used_up(self) -> bool:
        started = self.results.trials
        to_start = sum(a.trial.number not in started and a.trial.confirms is None for a in self._waiting)
        most = self._budget.max_trials
        return most is not None and self._state.searched + to_start >= most

    def _stalled(self) -> float:
        """Seconds since it was last asked in which this process itself did not listen to the workers, else 0."""
        passed, self._turned = self._clock() - self._turned, self._clock()
        return passed if passed > _STALL else 0.0

    def _check_end(self) -> None:
        budget, now = self._budget.time_budget, self._clock()
        if self._stop_wish:
            for attempt in self._running.values():
                self._stop_attempt(attempt, self._stop_wish)
        elif self._confirming:
            # What the search found is not thrown away for the minutes that confirming it takes.
            pass
        elif budget is not None and self._state.used + now - self._begun >= seconds(budget):
            self._stop_all(f"the time budget of {budget} is used up")
        for slot, attempt in self._running.items():
            silent = now - attempt.heard
            if attempt.stopping and silent > _GRACE + 2 * attempt.longest_epoch:
                attempt.heard = now
                self._workers.kill(slot, f"did not stop within {silent:.0f} s")
            elif self._kill_silent(slot, attempt.heard):
                attempt.heard = now

    def _kill_silent(self, slot: str, heard: float) -> bool:
        """Ends the process of a slot that has not been heard of for too long."""
        timeout = self._config.timeout
        silent = timeout is not None and self._clock() - heard > seconds(timeout)
        if silent:
            self._workers.kill(slot, f"gave no sign of life for {timeout} (workers.timeout)")
        return silent

    def _end(self, status: Status, reason: str) -> None:
        self._emit(SweepEnded(self._clock(), status, reason, self.results.winner()))

    def _emit(self, event: Event) -> None:
        self._out(event)
        self._state.take(event)
        self._sharing.take(event)

    def _share(self) -> None:
        """Opens and closes shares of GPUs."""
        for slot, reason in self._sharing.surplus(self._slots - self._running.keys()):
            self._emit(SlotClosed(self._clock(), slot, reason))
            self._slots.discard(slot)
            self._idle = [idle for idle in self._idle if idle != slot]
            self._workers.retire(slot)
        most = self._budget.max_trials
        # Where every slot has one of the trials that are left, another has none.
        few = most is not None and most - self._state.searched < len(self._slots)
        if few or self._paused or self._finished or self._confirming or self._why_stop:
            return
        for place, reason in self._sharing.wanted():
            self._emit(SlotOpened(self._clock(), place.name, reason))
            self._slots.add(place.name)
            self._workers.open(place)

    # ---- ask ----------------------------------------------------------------------------------------------------

    def _take_answers(self) -> None:
        for answer in self._search.answers():
            if self._past_answers:
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
        no_more = self._asking or self._paused or self._finished or self._confirming or self._why_stop
        if self._idle and not no_more and not self._used_up():
            self._asking, self._ended_since_ask = True, False
            number = self._state.next
            self._emit(TrialAsked(self._clock(), number))
            self._search.ask(number)

    def _answered(self, answered: Answered) -> None:
        self._asking = False
        if answered.answer is Answer.FINISHED:
            self._finished = True
        elif answered.answer is Answer.PAUSE and not self._ended_since_ask:
            # Without a running trial whose end it could wait for, a pause would last for ever.
            self._paused, self._finished = bool(self._running or self._waiting), not (self._running or self._waiting)
        elif isinstance(answered.answer, Suggestion):
            self._state.next = answered.number + 1
            if self._why_stop:
                return
            # Not started here: the slot that was idle when the search was asked may be gone or taken by now.
            self._waiting.append(_Attempt(self._trial(answered.number, answered.answer), number=1))

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
            executions(self._settings, config.training.seed),
        )

    def _open(self, *, confirming: bool) -> list[_Attempt]:
        """The trials that an interruption cut off, to be gone on with."""
        standing = self._state
        trials = [t for _, t in sorted(standing.open.items()) if (t.confirms is not None) == confirming]
        return [_Attempt(trial, standing.attempts[trial.number]) for trial in trials]

    def _slot_for(self, attempt: _Attempt) -> str | None:
        """An idle slot, on another device than that where the attempt before failed, if there is or will be one."""
        others = [slot for slot in self._idle if device(slot) != attempt.avoid]
        if others:
            return others[0]
        may_come = any(device(slot) != attempt.avoid for slot in self._slots)
        return None if may_come or not self._idle else self._idle[0]

    def _start(self, attempt: _Attempt, slot: str) -> None:
        trial = attempt.trial
        self._idle.remove(slot)
        self._emit(TrialStarted(self._clock(), trial, attempt.number, slot))
        attempt.heard = self._clock()
        self._running[slot] = attempt
        self._workers.submit(
            slot,
            Train(
                trial,
                (self._objective.name, self._objective.direction),
                folder=str(trial_folder(self._folder, trial.number)),
                parent=None if trial.parent is None else str(trial_folder(self._folder, trial.parent)),
                waits=self._waits_for(trial),
                # Told to stop before its worker died, it is to train no epoch more.
                stop=self._state.cut.get(trial.number, "" if self._confirming else self._why_stop),
                known=[self._state.epochs.get((trial.number, 1 + i), 0) for i in range(len(trial.executions) or 1)],
                limits=self._limits,
                latency=any(objective.name == "latency" for objective in self._settings.objectives),
                checkpoint_every=seconds(self._config.checkpoint_every),
                keep=trial.confirms is None and go_on(self._settings),
            ),
        )

    def _waits_for(self, trial: Trial) -> bool:
        """Whether a trial goes on after each epoch only when it is told to: where it may be cut."""
        return trial.confirms is None and (self._waits or len(trial.executions) > 1)

    # ---- run ----------------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        attempt = self._running.get(message.slot)
        if isinstance(message, Ready):
            self._idle.append(message.slot)
        elif isinstance(message, Died):
            self._died(message)
        elif isinstance(message, MachineFailed):
            self._machine_failed(message)
        elif isinstance(message, Reported | Executed | Done) and attempt is not None:
            # Without one, the slot had more to say when it was taken away.
            if isinstance(message, Reported):
                self._reported(message, attempt)
            elif isinstance(message, Executed):
                self._executed(message, attempt)
            else:
                self._done(message, attempt)
        if self._packaging is not None:
            self._packaging.take(message)

    def _reported(self, message: Reported, attempt: _Attempt) -> None:
        now = self._clock()
        attempt.longest_epoch = max(attempt.longest_epoch, now - attempt.heard)
        attempt.heard = now
        # A second attempt, or a resumed one: the same epoch has the same metrics again.
        known = message.epoch <= self._state.epochs.get((message.trial, message.execution), 0)
        if not known:
            self._emit(
                EpochEnded(now, message.trial, attempt.number, message.epoch, message.metrics, message.execution)
            )
        self._check_target()
        self._go_on(message.slot, attempt, message.execution, message.epoch)

    def _executed(self, message: Executed, attempt: _Attempt) -> None:
        attempt.heard = self._clock()
        if message.execution not in self._state.executions.get(message.trial, {}):
            self._emit(ExecutionEnded(self._clock(), message.trial, message.execution, message.outcome))
        self._go_on(message.slot, attempt, message.execution, 0)

    def _go_on(self, slot: str, attempt: _Attempt, execution: int, epoch: int) -> None:
        number = attempt.trial.number
        if number in self._state.cut:
            self._stop_attempt(attempt, self._state.cut[number])
        elif self._waits_for(attempt.trial):
            self._workers.go_on(slot, number, execution, epoch)

    def _done(self, message: Done, attempt: _Attempt) -> None:
        del self._running[message.slot]
        if message.outcome.status is Status.FAILED:
            self._failed(attempt, message.slot, message.outcome, message.log)
        elif message.outcome.status is not Status.STOPPED or not self._stop_wish or message.trial in self._state.cut:
            self._ended(attempt.trial, message.outcome)
        # Else the trial only rests: resumed, it continues from the epoch that it has reached.

    def _machine_failed(self, message: MachineFailed) -> None:
        """Stops the sweep: its trial, like the others, rests until there is room again, and has not failed."""
        self._running.pop(message.slot, None)
        self._machine = self._machine or message.reason
        self.stop(self._machine)

    def _died(self, message: Died) -> None:
        self._idle = [slot for slot in self._idle if slot != message.slot]
        if message.lost:
            self._slots.discard(message.slot)
            if self._slots:
                self._emit(SlotLost(self._clock(), message.slot, message.reason))
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
        excused = self._sharing.excuses(attempt.trial.number, outcome.reason)
        spent_all = attempt.number > self._config.retries and not excused
        last = spent_all or (bool(self._why_stop) and not self._confirming)
        if last:
            self._ended(attempt.trial, outcome, log)
            return
        self._emit(AttemptFailed(self._clock(), attempt.trial.number, attempt.number, outcome.reason, log))
        self._waiting.append(_Attempt(attempt.trial, attempt.number + 1, avoid=device(slot)))

    def _check_target(self) -> None:
        if self._state.reached and not self._why_stop:
            self._stop_all(self._state.reached)

    def _stop_all(self, reason: str) -> None:
        self._why_stop = self._why_stop or reason
        for attempt in self._running.values():
            self._stop_attempt(attempt, reason)
        # Those that have trained an epoch are started once more, to save what they have.
        for attempt in [a for a in self._waiting if (a.trial.number, 1) not in self._state.epochs]:
            self._waiting.remove(attempt)
            self._ended(attempt.trial, Outcome(Status.STOPPED, reason))

    def _stop_attempt(self, attempt: _Attempt, reason: str) -> None:
        if not attempt.stopping:
            attempt.stopping, attempt.heard = True, self._clock()
            slot = next(slot for slot, running in self._running.items() if running is attempt)
            self._workers.stop(slot, attempt.trial.number, reason)

    # ---- tell ---------------------------------------------------------------------------------------------------

    def _ended(self, trial: Trial, outcome: Outcome, log: str = "") -> None:
        self._emit(TrialEnded(self._clock(), trial.number, outcome, log))
        for number in spent(self._settings, trial.number, self.results.trials, self.results.outcomes):
            forget(trial_folder(self._folder, number))
        self._tell(trial.number)
        self._paused, self._ended_since_ask = False, True
        self._check_target()
        self._check_failures()

    def _tell(self, number: int) -> None:
        trial = self.results.trials.get(number)
        if trial is None:
            # It was stopped before it was started.
            self._search.tell(number, Result(None))
        elif trial.confirms is None:
            epoch = self._state.epochs.get((number, 1), 0)
            whole = self.results.outcomes[number].whole(trial)
            self._search.tell(number, Result(self.results.scores(number), epoch, number in self._state.cut, whole))

    def _check_failures(self) -> None:
        failed, limit = self.results.in_a_row(Status.FAILED), self._budget.max_failures
        refused = self.results.in_a_row(Status.REFUSED)
        if self._why_stop and not self._confirming:
            return
        if limit is not None and len(failed) >= limit:
            reasons = [failure.reason for failure in failed]
            common = max(reversed(reasons), key=reasons.count)
            self._failure = f"{len(failed)} trials in a row failed: {common} (search.max_failures={limit})"
        elif len(refused) >= _MOST_REFUSED:
            self._failure = f"{len(refused)} trials in a row were refused: {refused[-1].reason}"
        if self._failure:
            self._stop_all(self._failure)

    # ---- the winner ---------------------------------------------------------------------------------------------

    def _confirm(self) -> None:
        """Trains the best trials anew, each on the same seeds."""
        config, confirmed = self._settings.confirm, self.results.confirmed
        candidates = _best_settings(self.results)[: config.top] if config is not None else []
        if config is None or not candidates:
            return
        self._confirming = True
        self._waiting.extend(self._open(confirming=True))
        for i in range(config.seeds):
            for candidate in candidates:
                trial = self.results.trials[candidate]
                # The same for all of them, also where the seed is searched.
                seed = (self.results.trials[candidates[0]].config["training"]["seed"] + _SEEDS_ANEW + i) % 2**31
                if seed not in self.results.confirmations(candidate):
                    self._waiting.append(_Attempt(self._anew(trial, seed), number=1))
        while not self._over():
            self._turn()
        chosen = None if self._stop_wish or self._failure else confirm(self.results, candidates, self._clock())
        if chosen is not None and (confirmed is None or confirmed.candidates != chosen.candidates):
            self._emit(chosen)

    def _anew(self, trial: Trial, seed: int) -> Trial:
        number, self._state.next = self._state.next, self._state.next + 1
        config = {**trial.config, "training": {**trial.config["training"], "seed": seed}}
        values = {**trial.values, _SEED: seed} if _SEED in trial.values else trial.values
        folds = self._settings.validation == "kfold"
        trainings = [e for e in executions(self._settings, seed) if e.seed == seed] if folds else []
        return replace(
            trial,
            number=number,
            values=values,
            config=config,
            initial_epoch=0,
            parent=None,
            executions=trainings,
            confirms=trial.number,
        )

    def _test_winner(self) -> None:
        model = self.results.model()
        if model is None:
            return
        built = self.results.trials[model].config["model"]
        made_by = built.get("builder") or built.get("hypermodel")
        for _ in range(1 + self._config.retries):
            while not self._idle:
                for message in self._workers.poll(_POLL):
                    self._handle(message)
            slot = self._idle.pop(0)
            digest = self.results.outcomes[model].digest
            self._workers.submit(slot, Evaluate(str(trial_folder(self._folder, model) / MODEL_FILE), made_by, digest))
            # Beside the test, where another slot is free.
            self._package(model, made_by)
            self._meanwhile()
            tested = self._wait_for_test(slot)
            if not tested.error:
                break
        self._emit(WinnerTested(self._clock(), model, tested.metrics, tested.confusion, tested.error))
        if tested.error:
            return
        if not self._idle:
            # The slot says that it is ready.
            for message in self._workers.poll(_POLL):
                self._handle(message)
        self._package(model, made_by)

    def _package(self, model: int, made_by: str | None) -> None:
        if self._packaging is not None and self._idle and not self._packaging.begun:
            digest = self.results.outcomes[model].digest
            self._packaging.begin(self._idle.pop(0), trial_folder(self._folder, model), made_by, digest)

    def _wait_for_test(self, slot: str) -> Evaluated:
        tested: Evaluated | None = None
        heard = self._turned = self._clock()
        while tested is None:
            heard += self._stalled()
            if self._kill_silent(slot, heard):
                heard = self._clock()
            # All of them are handled: what another slot says at the same time must not be lost.
            for message in self._workers.poll(_POLL):
                if isinstance(message, Evaluated):
                    tested = message
                    continue
                self._handle(message)
                if isinstance(message, MachineFailed):
                    raise MachineError(message.reason)
                if isinstance(message, Died) and message.slot == slot:
                    tested = Evaluated(slot, error=f"its worker {message.reason}")
        return tested


def executions(settings: Settings, seed: int) -> list[Execution]:
    """The trainings that a trial consists of.

    Args:
        settings: The sweep's config.
        seed: The trial's own.

    Returns:
        Every fold on the first seed, then on the next; empty where there is one training only.
    """
    seeds = [(seed + i) % 2**31 for i in range(settings.repeats)]
    if settings.validation == "kfold":
        return [Execution(s, fold, settings.folds) for s in seeds for fold in range(1, settings.folds + 1)]
    return [Execution(s) for s in seeds] if settings.repeats > 1 else []


def _best_settings(results: Ranking) -> list[int]:
    """The best trial of each setting, the best first: seeds do not make settings, nor do the rounds of Hyperband."""
    found: dict[str, int] = {}
    for number in results.ranked():
        values = results.trials[number].values
        found.setdefault(identity({key: value for key, value in values.items() if key != _SEED}), number)
    return list(found.values())


def _limits(settings: Settings) -> dict[str, int]:
    written: dict[str, Any] = settings.limits.model_dump(exclude_none=True)
    return {name: size(value) if isinstance(value, str) else value for name, value in written.items()}
