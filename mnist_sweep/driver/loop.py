"""The sweep loop: ask the search, run on the workers, tell the search."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.text import first_line, numbered
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.units import seconds
from mnist_sweep.driver import trials
from mnist_sweep.driver.attempts import Attempts
from mnist_sweep.driver.outbox import Outbox
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.receive import receive
from mnist_sweep.driver.state import LoopState, Phase, answers
from mnist_sweep.driver.suggestions import SearchState, Suggestions
from mnist_sweep.driver.winner import WinnerTest, candidates, retrainings
from mnist_sweep.journal.events import (
    Event,
    Listener,
    SlotClosed,
    SlotOpened,
    SweepEnded,
    SweepResumed,
    TrialAsked,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
)
from mnist_sweep.journal.files import STATE_FILE, forget, trial_folder
from mnist_sweep.journal.ranking import Ranking, confirm
from mnist_sweep.journal.trial import Status
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.search.stopping import Stopping
from mnist_sweep.workers.base import Message, Workers
from mnist_sweep.workers.sharing import Sharing

# Seconds to wait for a message; most searches answer within milliseconds.
_WAIT, _WAIT_FOR_SEARCH = 0.2, 0.002
# How many trials the search is asked for before the workers' messages get their turn.
_MOST_ASKED = 32


class Sweep:
    """Runs one sweep to its end.

    Every event is handed to the listeners, the journal first, before the loop acts on it: before it gives workers
    something to do, or removes files. So the state of a sweep follows from its events alone: `replay` takes them, and
    `run` continues from there.

    Attributes:
        state: The state of the sweep.
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
        listeners: Sequence[Listener],
        clock: Callable[[], float],
        image: Sequence[int] | None,
        sharing: Sharing | None = None,
        packaging: Packaging | None = None,
        tests: bool = True,
        meanwhile: Callable[[], None] = lambda: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes the parts.

        Args:
            settings: The objectives, the budget, and how failures are handled.
            space: The search space.
            search: The algorithm.
            stopping: The rule that ends hopeless trials; None if there is none.
            workers: The slots.
            folder: The sweep's folder, under which models are written.
            listeners: They take the events, one listener after another, the journal first.
            clock: The time in seconds since 1970, which a change of the system's clock must not move.
            image: Height, width and channels of the images; None if the data are not images.
            sharing: Opens and closes shares of GPUs; None if the slots stay as they are.
            packaging: Makes the winner an MLflow model; None to skip that.
            tests: Whether the winner is tested on the test images.
            meanwhile: What to do while the winner is tested.
            tick: Called several times a second.
        """
        self._settings, self._budget, self._space = settings, settings.search, space
        self._workers, self._folder, self._clock = workers, folder, clock
        self._sharing, self._packaging, self._tests = sharing or Sharing(), packaging, tests
        self.state, self._suggestions = LoopState(settings, stopping), Suggestions(search)
        self._outbox = Outbox(listeners)
        self._attempts = Attempts(
            settings,
            space,
            image,
            folder,
            workers,
            self.state,
            self._suggestions,
            self._sharing,
            self._emit,
            self._outbox.then,
            clock,
        )
        self._test = WinnerTest(folder, self._attempts, packaging, meanwhile, self._receive)
        self._started, self._tick = clock(), tick

    @property
    def results(self) -> Ranking:
        """The trials and their outcomes so far."""
        return self.state.results

    @property
    def interrupted(self) -> bool:
        """Whether `stop` was called."""
        return bool(self.state.interruption)

    # ---- from start to end --------------------------------------------------------------------------------------

    def replay(self, events: Sequence[Event], *, grown: bool = False) -> None:
        """Continues an interrupted sweep: repeats all calls to the search in the same order.

        Args:
            events: What the journal holds.
            grown: Whether the search space is larger now.
        """
        suggestions = answers(events)
        larger = [i for i, event in enumerate(events) if isinstance(event, SweepResumed) and event.space]
        last_growth = len(events) if grown else max(larger, default=-1)
        unanswered: int | None = None
        for position, event in enumerate(events):
            self.state.handle(event)
            match event:
                case TrialAsked() if position < last_growth and position not in suggestions:
                    # The end of the smaller space; in the larger one it would be a suggestion.
                    unanswered = None
                case TrialAsked():
                    unanswered = event.trial
                    self._suggestions.ask_again(event.trial, suggestions.get(position))
                case TrialStarted() if event.trial.number == unanswered:
                    unanswered = None
                case TrialEnded():
                    unanswered = None if event.trial == unanswered else unanswered
                    self._suggestions.tell(event.trial, self.state.result(event.trial))
        self.state.end_session()
        self._suggestions.resume(unanswered=unanswered is not None)
        self._attempts.add_interrupted(confirming=False)
        self._started = self._clock()
        if self.state.reached:
            self.state.stop(self.state.reached)

    def to_retry(self, say: Callable[[str], None]) -> list[int]:
        """Returns the failed trials that can be trained again; to be called after `replay`.

        Args:
            say: Prints which they are, and which cannot.

        Raises:
            UserError: The sweep would stop them at once.
        """
        failed, trials = self.state.failed, self.results.trials
        budget = self._budget.time_budget
        if failed and budget is not None and self.state.used >= seconds(budget):
            raise UserError(f"resume: the time budget of {budget} is used up; add a longer one, search.time_budget=…")
        if failed and self.state.reached:
            raise UserError(f"resume: {self.state.reached}; add a better one, search.target=…")
        parents = {number: trials[number].parent for number in failed}
        lost = {n for n, p in parents.items() if p is not None and not _has_state(self._folder, p)}
        for number in sorted(lost):
            say(f"Trial {number} cannot be retried: it continued from trial {parents[number]}, whose state is gone")
        found = [number for number in failed if number not in lost]
        if found:
            say(f"Trains again: {numbered('trial', found)}")
        return found

    def retry(self, trials: Sequence[int]) -> None:
        """Trains trials that have failed again from their start, when the loop runs; to be called after `replay`."""
        for number in trials:
            # Before the event: a failed trial does not need the state that its last attempt has saved.
            forget(trial_folder(self._folder, number))
        self.emit(TrialsRetried(self._clock(), list(trials)))
        self._attempts.add_interrupted(confirming=False, only=trials)

    def stop(self, reason: str) -> None:
        """Interrupts the sweep: no more trials, and the running ones pause after their current epoch, to be resumed.

        May be called from a signal handler: the loop acts on it at its next turn.
        """
        self.state.interruption = reason

    def emit(self, event: Event) -> None:
        """Hands an event to all listeners, after those that wait."""
        self._emit(event)
        self._outbox.send()

    def _emit(self, event: Event) -> None:
        """Adds an event, which the listeners get at the end of this turn."""
        self._outbox.add(event)
        self.state.handle(event)
        self._sharing.handle(event)

    def run(self) -> Ranking:
        """Runs until the search, the space or a budget is used up, then confirms and tests the winner.

        Returns:
            All trials and their outcomes.

        Raises:
            UserError: No worker can start, or the search cannot continue.
            MachineError: A disk is full or broken, or a folder is gone; the sweep can be resumed.
        """
        try:
            self._receive(self._trained)
            if not (self.state.interruption or self.state.failure):
                self._confirm()
            if not self.state.interruption:
                self._test_winner()
            if self.state.machine:
                raise MachineError(self.state.machine)
        except BaseException as error:
            resumable = isinstance(error, KeyboardInterrupt | MachineError)
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
            # If the journal cannot be written, that has been reported already, unless it is what ended the sweep.
            with contextlib.suppress(MachineError):
                self._end(Status.STOPPED if resumable else Status.FAILED, reason)
            raise
        if self.state.interruption:
            self._end(Status.STOPPED, self.state.interruption)
        elif self.state.failure or self.results.winner() is None:
            nothing = "no trial has a result" if self.results.outcomes else "the search has suggested no trial"
            if any(outcome.score is not None for outcome in self.results.outcomes.values()):
                names = [objective.name for objective in self.results.objectives]
                nothing = f"no trial has a value of each objective ({', '.join(names)})"
            self._end(Status.FAILED, self.state.failure or self.state.stopped or nothing)
        else:
            self._end(Status.COMPLETED, self.state.stopped)
        if self._suggestions.state is SearchState.FINISHED:
            # No trial will continue from another any more, as one might with a longer budget.
            for number in self.results.outcomes:
                forget(trial_folder(self._folder, number))
        return self.results

    def _end(self, status: Status, reason: str) -> None:
        self.state.phase = Phase.OVER
        self.emit(SweepEnded(self._clock(), status, reason, self.results.winner()))

    def _confirm(self) -> None:
        """Retrains the best trials, each on the same new seeds."""
        before, chosen = self.results.confirmed, candidates(self._settings, self.results)
        if not chosen:
            return
        self.state.phase = Phase.CONFIRMING
        self._attempts.add_interrupted(confirming=True)
        self._attempts.add(retrainings(self._settings, self.results, chosen, self.state.next))
        self._receive(self._trained)
        if self.state.interruption or self.state.failure:
            return
        confirmed = confirm(self.results, chosen, self._clock())
        if confirmed is not None and (before is None or before.candidates != confirmed.candidates):
            self.emit(confirmed)

    def _test_winner(self) -> None:
        self.state.phase = Phase.TESTING
        if self._tests:
            tested = self._test.run(self.results, 1 + self._settings.workers.retries, self._clock)
            if tested is None:
                return
            self.emit(tested)
            if tested.error:
                return
        # The slot is about to report that it is ready.
        until = self._clock() + _WAIT
        self._receive(lambda: self._attempts.idle or self._clock() >= until)
        self._test.package(self.results)

    # ---- one turn -----------------------------------------------------------------------------------------------

    def _receive(self, until: Callable[[], object]) -> None:
        def wait() -> float:
            if self._suggestions.state is not SearchState.ASKED:
                return _WAIT
            return 0.0 if self._suggestions.answered(_WAIT_FOR_SEARCH) else _WAIT_FOR_SEARCH

        receive(self._workers, self._handle, until, before=self._turn, timeout=wait)
        self._outbox.send()

    def _turn(self) -> None:
        """Starts, stops and asks, before the next wait for messages."""
        self._tick()
        self._attempts.check_silence()
        self._attempts.check_slots()
        if self.state.phase is not Phase.TESTING:
            self._check_interruption_and_time()
            # Each needs an idle slot. The workers' messages wait meanwhile.
            for _ in range(_MOST_ASKED):
                self._take_answer()
                self._share()
                if self.state.interruption:
                    break
                self._attempts.start()
                self._ask()
                if not self._suggestions.answered(_WAIT_FOR_SEARCH):
                    break
        self._outbox.send()

    def _trained(self) -> bool:
        """Whether no trial runs, and none will start in this phase."""
        if self._attempts.running:
            return False
        if self.state.interruption:
            return True
        if self._attempts.waiting or self._suggestions.state is SearchState.ASKED:
            return False
        finished = self._suggestions.state is SearchState.FINISHED
        return self.state.phase is not Phase.SEARCHING or finished or self._used_up()

    def _used_up(self) -> bool:
        """Whether `search.max_trials` have started, or wait to start."""
        started, most = self.results.trials, self._budget.max_trials
        to_start = sum(a.trial.number not in started and a.trial.confirms is None for a in self._attempts.waiting)
        return most is not None and len(self.state.searched) + to_start >= most

    def _check_interruption_and_time(self) -> None:
        budget, used = self._budget.time_budget, self.state.used + self._clock() - self._started
        if self.state.interruption:
            self._attempts.stop_running(self.state.interruption)
        elif self.state.phase is not Phase.CONFIRMING and budget is not None and used >= seconds(budget):
            self._attempts.stop(f"the time budget of {budget} is used up")

    def _take_answer(self) -> None:
        answer = self._suggestions.answer(trials_open=bool(self._attempts.waiting or self._attempts.running))
        if answer is not None:
            number, suggestion = answer
            self.state.next = number + 1
            if self.state.phase is Phase.SEARCHING:
                # It does not start here: the slot that was idle at the ask may be gone or busy by now.
                self._attempts.add([trials.suggested(self._settings, self._space, number, suggestion)])

    def _share(self) -> None:
        """Opens and closes shares of GPUs."""
        slots, most = self._attempts.slots, self._budget.max_trials
        for slot, reason in self._sharing.surplus(slots - self._attempts.running.keys()):
            self._emit(SlotClosed(self._clock(), slot, reason))
            self._attempts.retire(slot)
        # If every slot has one of the trials that are left, there is none for another slot.
        few = most is not None and most - len(self.state.searched) < len(slots)
        suggests = self._suggestions.state in (SearchState.SUGGESTED, SearchState.ASKED)
        if few or not suggests or self.state.phase is not Phase.SEARCHING:
            return
        for place, reason in self._sharing.wanted():
            self._emit(SlotOpened(self._clock(), place.name, reason))
            self._attempts.open(place)

    def _ask(self) -> None:
        may_ask = self.state.phase is Phase.SEARCHING and self._suggestions.state is SearchState.SUGGESTED
        if self._attempts.free() and may_ask and not self._used_up():
            number = self.state.next
            self._emit(TrialAsked(self._clock(), number))
            self._suggestions.ask(number)

    def _handle(self, message: Message) -> None:
        self._attempts.handle(message)
        if self._packaging is not None:
            self._packaging.take(message)
        if self.state.phase is Phase.TESTING:
            self._test.handle(message)


def _has_state(folder: Path, trial: int) -> bool:
    return (trial_folder(folder, trial) / STATE_FILE).exists()
