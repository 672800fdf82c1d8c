"""A pool of workers that trains nothing, on a clock that nobody waits for."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from mnist_sweep.trial import Outcome, Status
from mnist_sweep.workers.base import Died, Done, Evaluate, Evaluated, Message, Ready, Reported, Task, Train

Curve = Callable[[dict[str, Any], int], float]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class InlineExecutor(Executor):
    """Runs a call at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class FakeWorkers:
    """Every epoch of every trial takes `epoch_seconds`; `faults` says what happens to which attempt.

    Args:
        slots: How many there are.
        curve: The objective by hyperparameters and epoch.
        clock: Advanced by `poll`.
        faults: From (trial, attempt) to the epoch after which its worker dies, or to an Outcome to end with at once.
    """

    def __init__(
        self,
        slots: int,
        curve: Curve,
        clock: FakeClock,
        *,
        epoch_seconds: float = 1.0,
        faults: dict[tuple[int, int], int | str | Outcome] | None = None,
        objective: str = "val_accuracy",
        test_error: str = "",
        test_deaths: int = 0,
    ) -> None:
        self.names = [f"cpu{i}" for i in range(slots)]
        self.curve, self.clock, self.epoch_seconds = curve, clock, epoch_seconds
        self.faults, self.objective = faults or {}, objective
        self.test_error, self.test_deaths = test_error, test_deaths
        self.attempts: dict[int, int] = {}
        self.tasks: list[tuple[str, Task]] = []
        self.busy: dict[str, int] = {}
        self.most_busy = 0
        self.stops: dict[int, str] = {}
        self.interrupt_at: float | None = None
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Message]] = []
        for name in self.names:
            self._later(5.0, Ready(name))

    def slots(self) -> list[str]:
        return self.names

    def submit(self, slot: str, task: Task) -> None:
        assert slot not in self.busy, f"{slot} is busy"
        self.tasks.append((slot, task))
        if isinstance(task, Evaluate):
            self._test(slot)
            return
        number = task.trial.number
        self.busy[slot] = number
        self.most_busy = max(self.most_busy, len(self.busy))
        self.attempts[number] = self.attempts.get(number, 0) + 1
        self._next(slot, task, task.trial.initial_epoch + 1)

    def stop(self, slot: str, trial: int, reason: str) -> None:
        if self.busy.get(slot) == trial:
            self.stops[trial] = reason

    def kill(self, slot: str, reason: str) -> None:
        self._queue = [entry for entry in self._queue if entry[2].slot != slot]
        heapq.heapify(self._queue)
        self._later(0.1, Died(slot, reason))
        self._later(5.0, Ready(slot))

    def poll(self, timeout: float) -> list[Message]:
        if self.interrupt_at is not None and self.clock.now >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        if not self._queue or self._queue[0][0] > self.clock.now + timeout:
            self.clock.now += timeout
            return []
        when, _, message = heapq.heappop(self._queue)
        self.clock.now = max(self.clock.now, when)
        if isinstance(message, Done | Died):
            self.busy.pop(message.slot, None)
        if isinstance(message, Reported):
            self._reported(message)
        return [message]

    def close(self) -> None:
        self._queue = []

    def _later(self, seconds: float, message: Message) -> None:
        heapq.heappush(self._queue, (self.clock.now + seconds, next(self._order), message))

    def _next(self, slot: str, task: Train, epoch: int) -> None:
        number = task.trial.number
        fault = self.faults.get((number, self.attempts[number]))
        if isinstance(fault, Outcome):
            self._end(slot, number, fault)
        elif fault == "hang" and epoch > 1:
            return
        elif isinstance(fault, int) and epoch > fault:
            self._later(self.epoch_seconds, Died(slot, "was killed by SIGKILL"))
            self._later(self.epoch_seconds + 5, Ready(slot))
        else:
            metrics = {"loss": 0.1, self.objective: self.curve(task.trial.values, epoch)}
            self._later(self.epoch_seconds, Reported(slot, number, epoch, metrics))

    def _reported(self, message: Reported) -> None:
        task = next(t for s, t in reversed(self.tasks) if s == message.slot)
        assert isinstance(task, Train)
        self._history.setdefault(message.trial, {})[message.epoch] = message.metrics
        # As a real worker, it hears of a stop only after it has reported.
        if message.epoch >= task.trial.epochs:
            self._finish(message.slot, task, Status.COMPLETED, "")
        elif message.trial in self.stops:
            self._finish(message.slot, task, Status.STOPPED, self.stops[message.trial])
        else:
            self._next(message.slot, task, message.epoch + 1)

    @property
    def _history(self) -> dict[int, dict[int, dict[str, float]]]:
        return self.__dict__.setdefault("history", {})

    def _finish(self, slot: str, task: Train, status: Status, reason: str) -> None:
        epochs = self._history[task.trial.number]
        sign = 1 if task.objective[1] == "max" else -1
        best = max(epochs, key=lambda e: (sign * epochs[e][self.objective], -e))
        self._end(
            slot,
            task.trial.number,
            Outcome(
                status, reason, epochs[best][self.objective], best, epochs[best], 1000, len(epochs) * self.epoch_seconds
            ),
        )

    def _end(self, slot: str, number: int, outcome: Outcome) -> None:
        self._later(0.0, Done(slot, number, outcome))
        self._later(0.0, Ready(slot))

    def _test(self, slot: str) -> None:
        if self.test_deaths:
            self.test_deaths -= 1
            self._later(1.0, Died(slot, "was killed by SIGKILL"))
            self._later(6.0, Ready(slot))
            return
        metrics = {} if self.test_error else {"test_loss": 0.2, "test_accuracy": 0.9}
        self._later(1.0, Evaluated(slot, metrics, [[1, 0], [0, 1]], self.test_error))
        self._later(1.0, Ready(slot))
