"""A pool of workers that trains nothing, on a simulated clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from statistics import fmean
from typing import Any

from mnist_sweep.journal.events import Event
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.workers.base import (
    Died,
    Done,
    Evaluate,
    Evaluated,
    Executed,
    Joined,
    MachineFailed,
    Message,
    Package,
    Packaged,
    Ready,
    Reported,
    Task,
    Train,
)
from mnist_sweep.workers.devices import Slot, device, node_of

Curve = Callable[[dict[str, Any], int], float]
# The metrics of each epoch, by trial and execution.
History = dict[tuple[int, int], dict[int, dict[str, float]]]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Calls:
    """A listener that calls a function with each event."""

    def __init__(self, call: Callable[[Event], None]) -> None:
        self.call = call

    def handle(self, *events: Event) -> None:
        for event in events:
            self.call(event)


class InlineExecutor(Executor):
    """Runs a call at once, in the thread of the caller."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class FakeWorkers:
    """Each epoch of a trial takes `epoch_seconds`, unless `faults` says otherwise.

    As with real workers, a waiting trial trains its next epoch, or execution, only when it is told to continue. Until
    then the clock does not move.

    Args:
        slots: The number of slots.
        curve: Returns the objective for hyperparameters and an epoch.
        clock: Advanced by `poll`.
        faults: Maps (trial, attempt) to the epoch after which its worker dies, to an Outcome, a Done or a MachineFailed
            with which it ends at once, to "hang", or to "lose" if it takes its node with it.
        test_error: How every test of the winner ends.
        test_deaths: How many tests kill their worker.
        test_hangs: How many tests, before those, never end.
        spread: Returns what an execution adds to the objective.
        parameters: Returns the size of the model for hyperparameters.
        history: What earlier attempts have reported, for the sweep of a killed driver: ending a trial needs it.
        lost: The slot where no worker can start.
        packaged: Returns the message after packaging the winner in a slot.
        package_seconds: How long packaging takes; the winner's test takes one second.
        broken: The node on which every task kills its worker at once.
        pace: Returns for hyperparameters, a device and its number of trials how many `epoch_seconds` an epoch takes.
    """

    def __init__(
        self,
        slots: int,
        curve: Curve,
        clock: FakeClock,
        *,
        epoch_seconds: float = 1.0,
        faults: dict[tuple[int, int], int | str | Outcome | Done | MachineFailed] | None = None,
        objective: str = "val_accuracy",
        test_error: str | MachineFailed = "",
        test_deaths: int = 0,
        test_hangs: int = 0,
        spread: Callable[[Execution], float] = lambda execution: 0.0,
        parameters: Callable[[dict[str, Any]], int] = lambda values: 1000,
        history: History | None = None,
        names: list[str] | None = None,
        lost: str = "",
        broken: str = "",
        packaged: Callable[[str], Message] = Packaged,
        package_seconds: float = 2.0,
        pace: Callable[[dict[str, Any], str, int], float] = lambda values, device, trials: 1.0,
    ) -> None:
        self.names = names or [f"cpu{i}" for i in range(slots)]
        self.curve, self.clock, self.epoch_seconds = curve, clock, epoch_seconds
        self.faults, self.objective = faults or {}, objective
        self.test_error, self.test_deaths, self.test_hangs = test_error, test_deaths, test_hangs
        self.spread, self.parameters = spread, parameters
        self.pace, self.lost, self.broken = pace, lost, broken
        self.packaged, self.package_seconds = packaged, package_seconds
        self.history: History = {} if history is None else history
        self.attempts: dict[int, int] = {}
        self.tasks: list[tuple[str, Task]] = []
        self.busy: dict[str, int] = {}
        self.most_busy = 0
        self.stops: dict[int, str] = {}
        self.waiting: dict[str, tuple[int, int, int]] = {}
        self.interrupt_at: float | None = None
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Message]] = []
        for name in self.names:
            self._begin(name)

    def slots(self) -> list[str]:
        return self.names

    def open(self, slot: Slot) -> None:
        assert slot.name not in self.names
        self.names.append(slot.name)
        self._begin(slot.name)

    def retire(self, slot: str) -> Slot:
        assert slot not in self.busy, f"{slot} is busy"
        self.names.remove(slot)
        self._forget(slot)
        return Slot(slot, 1)

    def submit(self, slot: str, task: Task) -> None:
        assert slot in self.names
        assert slot not in self.busy, f"{slot} is busy"
        self.tasks.append((slot, task))
        if isinstance(task, Evaluate):
            self._test(slot)
            return
        if isinstance(task, Package):
            self._later(self.package_seconds, self.packaged(slot))
            self._later(self.package_seconds, Ready(slot))
            return
        number = task.trial.number
        self.busy[slot] = number
        self.most_busy = max(self.most_busy, len(self.busy))
        self.attempts[number] = self.attempts.get(number, 0) + 1
        self.stops.pop(number, None)
        most, has = task.limits.get("parameters"), self.parameters(task.trial.values)
        if most is not None and has > most:
            reason = f"limits.parameters={most}: its model has {has}"
            self._end(slot, number, Outcome(Status.REFUSED, reason, parameters=has))
        elif task.stop:
            self._finish(slot, task, task.stop)
        else:
            self._next(slot, task, 1, task.trial.initial_epoch + 1)

    def stop(self, slot: str, trial: int, reason: str) -> None:
        if self.busy.get(slot) == trial:
            self.stops[trial] = reason
            if self.waiting.pop(slot, None):
                self._finish(slot, self._task(slot), reason)

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        if self.waiting.get(slot) == (trial, execution, epoch):
            del self.waiting[slot]
            self._proceed(slot, execution, epoch)

    def kill(self, slot: str, reason: str) -> None:
        self._forget(slot)
        self.waiting.pop(slot, None)
        self._later(0.1, Died(slot, reason))
        self._later(5.0, Ready(slot))

    def poll(self, timeout: float) -> list[Message]:
        if self.interrupt_at is not None and self.clock.now >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        if not self._queue or self._queue[0][0] > self.clock.now + timeout:
            self.clock.now += timeout
            return []
        # As with real workers, returns all messages that have arrived by then.
        when = self._queue[0][0]
        self.clock.now = max(self.clock.now, when)
        due: list[Message] = []
        while self._queue and self._queue[0][0] <= when:
            due.append(heapq.heappop(self._queue)[2])
        for message in due:
            if isinstance(message, Done | Died | MachineFailed):
                self.busy.pop(message.slot, None)
            if isinstance(message, Reported):
                self.history.setdefault((message.trial, message.execution), {})[message.epoch] = message.metrics
                self._continue_after(message.slot, message.execution, message.epoch)
            if isinstance(message, Executed):
                self._continue_after(message.slot, message.execution, 0)
        return due

    def close(self) -> None:
        self._queue = []

    def lose(self, node: str) -> None:
        """Loses a node, as if it were switched off."""
        for slot in [name for name in self.names if node_of(name) == node]:
            self.names.remove(slot)
            self.waiting.pop(slot, None)
            self._forget(slot)
            self._later(0.0, Died(slot, "was lost", lost=True))

    def join(self, slot: str, seconds: float) -> None:
        """Adds a slot of a node later."""
        self.names.append(slot)
        self._later(seconds, Joined(slot, "the node has joined"))
        self._later(seconds + 5.0, Ready(slot))

    def _begin(self, slot: str) -> None:
        self._later(5.0, Died(slot, "cannot start", lost=True) if slot == self.lost else Ready(slot))

    def _forget(self, slot: str) -> None:
        self._queue = [entry for entry in self._queue if entry[2].slot != slot]
        heapq.heapify(self._queue)

    def _later(self, seconds: float, message: Message) -> None:
        heapq.heappush(self._queue, (self.clock.now + seconds, next(self._order), message))

    def _task(self, slot: str) -> Train:
        task = next(t for s, t in reversed(self.tasks) if s == slot)
        assert isinstance(task, Train)
        return task

    def _next(self, slot: str, task: Train, execution: int, epoch: int) -> None:
        number, values = task.trial.number, task.trial.values
        fault = self.faults.get((number, self.attempts[number]))
        if self.broken and node_of(slot) == self.broken:
            self._later(0.1, Died(slot, "was killed by SIGKILL"))
            self._later(0.2, Ready(slot))
        elif isinstance(fault, Outcome):
            self._end(slot, number, fault)
        elif isinstance(fault, Done):
            self._later(0.0, replace(fault, slot=slot, trial=number))
            self._later(0.0, Ready(slot))
        elif isinstance(fault, MachineFailed):
            self._later(0.0, replace(fault, slot=slot, trial=number))
            self._later(5.0, Ready(slot))
        elif fault == "hang" and epoch > 1:
            return
        elif fault == "lose":
            self.lose(node_of(slot))
        elif isinstance(fault, int) and epoch > fault:
            self._later(self.epoch_seconds, Died(slot, "was killed by SIGKILL"))
            self._later(self.epoch_seconds + 5, Ready(slot))
        else:
            spread = self.spread(task.trial.executions[execution - 1]) if task.trial.executions else 0.0
            metrics = {"loss": 0.1, self.objective: self.curve(values, epoch) + spread}
            here = device(slot)
            parallel = sum(device(other) == here for other in self.busy)
            self._later(
                self.epoch_seconds * self.pace(values, here, parallel),
                Reported(slot, number, epoch, metrics, execution),
            )

    def _continue_after(self, slot: str, execution: int, epoch: int) -> None:
        """Continues after the report of an epoch, or of an execution's end (epoch 0)."""
        task = self._task(slot)
        trial = task.trial
        over = execution >= len(trial.executions) if epoch == 0 else epoch >= trial.epochs
        if over and epoch and trial.executions:
            self._later(0.0, Executed(slot, trial.number, execution, self._outcome(task, execution)))
        elif over:
            self._finish(slot, task, "")
        # As with real workers, a stop takes effect after a report.
        elif trial.number in self.stops:
            self._finish(slot, task, self.stops[trial.number])
        elif task.waits:
            self.waiting[slot] = (trial.number, execution, epoch)
        else:
            self._proceed(slot, execution, epoch)

    def _proceed(self, slot: str, execution: int, epoch: int) -> None:
        task = self._task(slot)
        if epoch == 0:
            self._next(slot, task, execution + 1, task.trial.initial_epoch + 1)
        else:
            self._next(slot, task, execution, epoch + 1)

    def _finish(self, slot: str, task: Train, reason: str) -> None:
        trial = task.trial
        count = max(1, len(trial.executions))
        ended = [i for i in range(1, count + 1) if trial.epochs in self.history.get((trial.number, i), {})]
        status, reason = (Status.COMPLETED, "") if len(ended) == count else (Status.STOPPED, reason)
        outcomes = [self._outcome(task, i) for i in ended or [1]]
        scores = [o.score for o in outcomes if o.score is not None]
        best = (max if task.objective[1] == "max" else min)(outcomes, key=lambda o: o.score or 0.0)
        names = [name for name in outcomes[0].metrics if all(name in o.metrics for o in outcomes)]
        outcome = Outcome(
            status,
            reason,
            fmean(scores) if scores else None,
            best.best_epoch,
            {name: fmean(o.metrics[name] for o in outcomes) for name in names},
            self.parameters(trial.values),
            sum(o.seconds for o in outcomes),
            scores if ended and trial.executions else [],
        )
        self._end(slot, trial.number, outcome)

    def _outcome(self, task: Train, execution: int) -> Outcome:
        epochs = self.history.get((task.trial.number, execution))
        if not epochs:
            return Outcome(Status.STOPPED)
        sign = 1 if task.objective[1] == "max" else -1
        best = max(epochs, key=lambda e: (sign * epochs[e][self.objective], -e))
        parameters = self.parameters(task.trial.values)
        metrics = {**epochs[best], "parameters": float(parameters), "epoch_seconds": self.epoch_seconds}
        if task.latency:
            metrics["latency"] = parameters / 1e6
        seconds = len(epochs) * self.epoch_seconds
        return Outcome(Status.COMPLETED, "", epochs[best][self.objective], best, metrics, parameters, seconds)

    def _end(self, slot: str, number: int, outcome: Outcome) -> None:
        self._later(0.0, Done(slot, number, outcome))
        self._later(0.0, Ready(slot))

    def _test(self, slot: str) -> None:
        if self.test_hangs:
            self.test_hangs -= 1
            return
        if self.test_deaths:
            self.test_deaths -= 1
            self._later(1.0, Died(slot, "was killed by SIGKILL"))
            self._later(6.0, Ready(slot))
            return
        if isinstance(self.test_error, MachineFailed):
            self._later(1.0, replace(self.test_error, slot=slot, trial=None))
            self._later(6.0, Ready(slot))
            return
        metrics = {} if self.test_error else {"test_loss": 0.2, "test_accuracy": 0.9}
        self._later(1.0, Evaluated(slot, metrics, [[1, 0], [0, 1]], self.test_error))
        self._later(1.0, Ready(slot))
