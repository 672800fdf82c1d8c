"""Attempts to train a trial: which wait for a slot, which run where, and which have fallen silent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mnist_sweep.config.settings import WorkersConfig
from mnist_sweep.config.units import seconds
from mnist_sweep.journal.trial import Trial
from mnist_sweep.workers.base import Task, Workers
from mnist_sweep.workers.devices import Slot, device

# Seconds beyond two epochs in which a trial that was told to stop must stop, before its process is ended.
_GRACE = 60.0
# If this process did not listen to the workers for so many seconds, it was stopped itself, by Ctrl-Z or with its
# machine. The workers' messages have yet to be read, so they were not silent.
_STALL = 5.0


@dataclass
class Attempt:
    """One attempt to train a trial.

    Attributes:
        trial: The trial.
        number: Counted from 1.
        avoid: The device on which the attempt before failed.
        slot: Where it runs; "" while it waits.
        stopping: Whether it was told to stop.
        longest_epoch: The seconds of its longest epoch.
    """

    trial: Trial
    number: int = 1
    avoid: str | None = None
    slot: str = ""
    stopping: bool = False
    longest_epoch: float = 0.0


class Attempts:
    """The slots, and the attempts that wait for one or run on one.

    Attributes:
        waiting: The attempts that wait, the next one first.
        running: The attempts that run, by slot.
        slots: All slots.
        idle: The slots that are ready for a task.
    """

    def __init__(self, workers: Workers, config: WorkersConfig, clock: Callable[[], float]) -> None:
        """Takes the pool.

        Args:
            workers: The pool.
            config: How long a worker may be silent.
            clock: The time in seconds.
        """
        self._workers, self._config, self._clock = workers, config, clock
        self.waiting: deque[Attempt] = deque()
        self.running: dict[str, Attempt] = {}
        self.slots = set(workers.slots())
        self.idle: list[str] = []
        # When each slot with a task was last heard from, and when this process last listened.
        self._heard: dict[str, float] = {}
        self._listened = clock()

    def __bool__(self) -> bool:
        """Whether any attempt waits or runs."""
        return bool(self.waiting or self.running)

    # ---- start and stop -----------------------------------------------------------------------------------------

    def startable(self) -> Iterator[tuple[Attempt, str]]:
        """Yields the attempts that can start now, each with its slot, and takes both off the lists."""
        for attempt in list(self.waiting):
            slot = self._slot_for(attempt)
            if slot is not None:
                self.waiting.remove(attempt)
                self.idle.remove(slot)
                yield attempt, slot

    def _slot_for(self, attempt: Attempt) -> str | None:
        """An idle slot, on another device than the one where the attempt before failed, if there is or will be one."""
        others = [slot for slot in self.idle if device(slot) != attempt.avoid]
        if others:
            return others[0]
        may_come = any(device(slot) != attempt.avoid for slot in self.slots)
        return None if may_come or not self.idle else self.idle[0]

    def start(self, attempt: Attempt, slot: str, task: Task) -> None:
        """Starts an attempt on a slot that `startable` gave."""
        attempt.slot = slot
        self.running[slot] = attempt
        self.submit(slot, task)

    def stop(self, attempt: Attempt, reason: str) -> None:
        """Asks for the end of an attempt after its current epoch, once."""
        if not attempt.stopping:
            attempt.stopping = True
            self._heard[attempt.slot] = self._clock()
            self._workers.stop(attempt.slot, attempt.trial.number, reason)

    def end(self, slot: str) -> Attempt | None:
        """Takes note of the end of a slot's task, and returns the attempt if it was one."""
        self._heard.pop(slot, None)
        return self.running.pop(slot, None)

    # ---- slots --------------------------------------------------------------------------------------------------

    def submit(self, slot: str, task: Task) -> None:
        """Gives a task to an idle slot, from which something must be heard in time."""
        self._heard[slot] = self._clock()
        self._workers.submit(slot, task)

    def open(self, place: Slot) -> None:
        """Adds a slot."""
        self.slots.add(place.name)
        self._workers.open(place)

    def retire(self, slot: str) -> None:
        """Takes an idle slot away for good."""
        self.slots.discard(slot)
        self.not_idle(slot)
        self._workers.retire(slot)

    def not_idle(self, slot: str) -> None:
        """Takes note that a slot is not ready for a task."""
        self.idle = [idle for idle in self.idle if idle != slot]

    # ---- silence ------------------------------------------------------------------------------------------------

    def heard(self, slot: str) -> float:
        """Takes note of a message from a slot with a task, and returns the seconds since the one before."""
        now = self._clock()
        before, self._heard[slot] = self._heard.get(slot, now), now
        return now - before

    def check_silence(self) -> None:
        """Ends the processes that have been silent for too long; `Died` follows."""
        now = self._clock()
        stalled, self._listened = now - self._listened, now
        if stalled > _STALL:
            self._heard = {slot: heard + stalled for slot, heard in self._heard.items()}
        timeout = self._config.timeout
        for slot, heard in self._heard.items():
            silent, attempt = now - heard, self.running.get(slot)
            if attempt is not None and attempt.stopping and silent > _GRACE + 2 * attempt.longest_epoch:
                reason = f"did not stop within {silent:.0f} s"
            elif timeout is not None and silent > seconds(timeout):
                reason = f"gave no sign of life for {timeout} (workers.timeout)"
            else:
                continue
            self._heard[slot] = now
            self._workers.kill(slot, reason)
