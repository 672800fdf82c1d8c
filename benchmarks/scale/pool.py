"""A pool of any number of slots whose training is made up, and a clock that skips the time in which nothing happens."""

from __future__ import annotations

import heapq
import itertools
import time

from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.workers.base import Done, Evaluate, Evaluated, Message, Ready, Reported, Task, Train
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.figures import Figures

# Waits up to this long are real: the loop waits for its search.
_REAL = 0.01


class Clock:
    """The time in seconds since 1970, ahead of the system's by what was skipped."""

    def __init__(self) -> None:
        """Starts at the system's time."""
        self._offset = time.time() - time.monotonic()
        self.skipped = 0.0

    def __call__(self) -> float:
        """Returns the time."""
        return self._offset + self.skipped + time.monotonic()


class Simulated:
    """Workers that report each epoch after `epoch_seconds`, with made-up metrics, and train nothing.

    What the driver does takes its real time. Only waits are shortened: if nothing happens in the next seconds, the
    clock skips them, unless `real`.

    Attributes:
        first_task: When the first task came, by the clock.
    """

    def __init__(self, slots: int, epoch_seconds: float, clock: Clock, *, real: bool) -> None:
        """Makes the slots, which are ready at once."""
        self.clock, self.epoch_seconds, self._real = clock, epoch_seconds, real
        self.first_task = 0.0
        self._names = [f"cpu{i}" for i in range(slots)]
        self._tasks: dict[str, Train] = {}
        self._waiting: dict[str, int] = {}
        self._stops: dict[str, str] = {}
        self._best: dict[str, tuple[float, int]] = {}
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Message]] = []
        self._back: list[Message] = []
        for name in self._names:
            self._later(0.0, Ready(name))

    def set_up(self, data: object) -> None:
        """Needs no data."""

    def slots(self) -> list[str]:
        """Returns the slots' names."""
        return list(self._names)

    def places(self) -> list[Slot]:
        """Returns the slots."""
        return [Slot(name, 1) for name in self._names]

    def nodes(self) -> dict[str, str]:
        """Returns none, as the slots are on this machine."""
        return {}

    def measured(self) -> list[Figures]:
        """Returns nothing, as there are no processes."""
        return []

    def open(self, slot: Slot) -> None:
        """Is not called, as no slot is a GPU's."""

    def retire(self, slot: str) -> None:
        """Is not called either."""

    def submit(self, slot: str, task: Task) -> None:
        """Starts a trial, or the winner's test."""
        self.first_task = self.first_task or self.clock()
        if isinstance(task, Train):
            self._tasks[slot], self._best[slot] = task, (-1.0, 0)
            self._epoch(slot, task.trial.initial_epoch + 1)
        elif isinstance(task, Evaluate):
            self._later(0.0, Evaluated(slot, {"test_loss": 0.1, "test_accuracy": 0.9}, [[1, 0], [0, 1]]))
            self._later(0.0, Ready(slot))

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Ends a trial after its current epoch."""
        if slot in self._tasks and self._tasks[slot].trial.number == trial:
            self._stops[slot] = reason
            if (epoch := self._waiting.pop(slot, None)) is not None:
                self._end(slot, epoch)

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a slot continue."""
        if self._waiting.get(slot) == epoch:
            del self._waiting[slot]
            self._epoch(slot, epoch + 1)

    def kill(self, slot: str, reason: str) -> None:
        """Is not called, as no worker is silent."""

    def put_back(self, messages: list[Message]) -> None:
        """Returns messages again."""
        self._back += messages

    def close(self) -> None:
        """Has nothing to close."""

    def poll(self, timeout: float) -> list[Message]:
        """Returns what has happened by now, or by the end of `timeout` seconds."""
        found, self._back = self._back, []
        wait = min(timeout, self._queue[0][0] - self.clock()) if self._queue else timeout
        if wait > 0 and not found:
            if self._real or timeout <= _REAL:
                time.sleep(wait)
            else:
                self.clock.skipped += wait
        now = self.clock()
        while self._queue and self._queue[0][0] <= now:
            message = heapq.heappop(self._queue)[2]
            found.append(message)
            if isinstance(message, Reported):
                self._reported(message.slot, message.epoch)
        return found

    def _later(self, seconds: float, message: Message) -> None:
        heapq.heappush(self._queue, (self.clock() + seconds, next(self._order), message))

    def _epoch(self, slot: str, epoch: int) -> None:
        task = self._tasks[slot]
        score = _accuracy(task.trial.number, epoch)
        self._best[slot] = max(self._best[slot], (score, epoch))
        metrics = {
            "loss": 1 - score,
            "accuracy": score,
            "val_loss": 1.1 - score,
            "val_accuracy": score,
            "epoch_seconds": self.epoch_seconds,
            "learning_rate": 0.001,
        }
        self._later(self.epoch_seconds, Reported(slot, task.trial.number, epoch, metrics))

    def _reported(self, slot: str, epoch: int) -> None:
        task = self._tasks[slot]
        if epoch >= task.trial.epochs or slot in self._stops:
            self._end(slot, epoch)
        elif task.waits:
            self._waiting[slot] = epoch
        else:
            self._epoch(slot, epoch + 1)

    def _end(self, slot: str, epoch: int) -> None:
        task, (score, best) = self._tasks.pop(slot), self._best[slot]
        reason = self._stops.pop(slot, "") if epoch < task.trial.epochs else ""
        status, seconds = Status.STOPPED if reason else Status.COMPLETED, epoch * self.epoch_seconds
        metrics = {"loss": 1 - score, "val_accuracy": score, "parameters": 1000.0, "epoch_seconds": self.epoch_seconds}
        outcome = Outcome(status, reason, score, best, metrics, 1000, seconds, phases={"train": seconds})
        self._later(0.0, Done(slot, task.trial.number, outcome))
        self._later(0.0, Ready(slot))


def _accuracy(trial: int, epoch: int) -> float:
    """A made-up accuracy: no two trials have the same, and it rises with the epochs."""
    return 0.5 + (trial * 7919 % 10007) / 25000 + 0.01 * (1 - 1 / epoch)
