"""Lets a worker make the winner an MLflow model, while the sweep's last results and its report are written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from mnist_sweep.common.errors import MachineError
from mnist_sweep.driver.receive import receive
from mnist_sweep.workers.base import Died, MachineFailed, Message, Package, Packaged, Workers

# As many as a process of its own would have.
_SECONDS = 300.0


class Packaging:
    """One model's way from a trial's folder to an MLflow model, which takes seconds where TensorFlow is loaded."""

    def __init__(self, workers: Workers, to: Path, clock: Callable[[], float]) -> None:
        """Takes what it needs.

        Args:
            workers: Of which one does it.
            to: The folder to make.
            clock: The time in seconds.
        """
        self._workers, self._to, self._clock = workers, to, clock
        self._slot, self._made = "", False

    def begin(self, slot: str, trial: Path, made_by: str | None, digest: str = "") -> None:
        """Gives the model to a slot that is ready.

        Args:
            slot: The slot.
            trial: The trial's folder.
            made_by: The user's own `package.module:name` that built it.
            digest: The SHA-256 of its file as it was written; empty where that is not known.
        """
        self._slot = slot
        self._workers.submit(slot, Package(str(trial), str(self._to), made_by, digest))

    @property
    def begun(self) -> bool:
        """Whether a slot was given the model."""
        return bool(self._slot)

    def take(self, message: Message) -> None:
        """Takes what a slot says."""
        if message.slot == self._slot and isinstance(message, Packaged | MachineFailed | Died):
            self._made = isinstance(message, Packaged) and not message.error
            # Not "", which is where none has begun.
            self._slot = "-"

    def result(self) -> Path | None:
        """Waits for the worker; nobody else may poll meanwhile.

        Returns:
            The folder; None where there is none, for whatever reason: the worker's log tells.
        """
        until = self._clock() + _SECONDS
        # What was trained and logged does not fail by a package that the disk has no room for.
        with contextlib.suppress(MachineError):
            receive(self._workers, self.take, lambda: self._slot not in self._workers.slots() or self._clock() >= until)
        return self._to if self._made else None
