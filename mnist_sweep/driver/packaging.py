"""Has a worker turn the best trial's model into an MLflow model: one of the sweep's, or one that is started for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.config import backend
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.data.dataset import Dataset, Rows
from mnist_sweep.data.schema import ONLY, of_images
from mnist_sweep.driver.receive import receive
from mnist_sweep.journal.files import ARRAYS, PACKAGE, SAMPLE_FILE, WORKERS
from mnist_sweep.workers.base import Died, MachineFailed, Message, Package, Packaged, Ready, Workers
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.local import LocalWorkers

if TYPE_CHECKING:
    from mnist_sweep.results.models.model_run import ModelRun

_SECONDS = 300.0


class Packaging:
    """Packages a model in one of the sweep's workers, while the sweep's last results and its report are written."""

    def __init__(self, workers: Workers, to: Path, clock: Callable[[], float]) -> None:
        """Takes what it needs.

        Args:
            workers: The sweep's worker pool.
            to: The folder to make.
            clock: The time in seconds.
        """
        self._workers, self._to, self._clock = workers, to, clock
        self._slot, self._made = "", False

    def begin(self, slot: str, trial: Path, made_by: str | None, digest: str = "") -> None:
        """Gives the task to a slot that is ready.

        Args:
            slot: The slot.
            trial: The trial's folder.
            made_by: The user's `package.module:name` that built the model.
            digest: The SHA-256 of the model's file when it was written; empty if unknown.
        """
        self._slot = slot
        self._workers.submit(slot, Package(str(trial), str(self._to), made_by, digest))

    @property
    def begun(self) -> bool:
        """Whether a slot has been given the task."""
        return bool(self._slot)

    def take(self, message: Message) -> None:
        """Handles a worker's message."""
        if message.slot == self._slot and (error := _error(message)) is not None:
            self._made = not error
            # Not "", which means that no slot has been given the task.
            self._slot = "-"

    def result(self) -> Path | None:
        """Waits for the worker. Nothing else may poll the workers meanwhile.

        Returns:
            The folder; None if there is none, for whatever reason. The worker's log has it.
        """
        until = self._clock() + _SECONDS
        # A full disk must not fail a sweep whose results are already logged.
        with contextlib.suppress(MachineError):
            receive(self._workers, self.take, lambda: self._slot not in self._workers.slots() or self._clock() >= until)
        return self._to if self._made else None


def package(run: ModelRun, folder: Path, given_up: threading.Event) -> Path:
    """Packages a model that MLflow has, in a worker that is started for it and closed again.

    Args:
        run: The model's run.
        folder: Where the model is fetched to and packaged.
        given_up: Once it is set, this function stops waiting.

    Returns:
        The package's folder, in `folder`.

    Raises:
        UserError: The run lacks a file, or the model cannot be packaged.
        MachineError: No worker can be started.
    """
    run.fetch_model(folder)
    run.fetch(SAMPLE_FILE, folder)
    config = run.config(folder, ("model", "training"))
    builder = made_by(config["model"])
    # A worker opens a data set before it takes a task. Packaging does not look at it.
    (folder / ARRAYS).mkdir()
    none = Rows({ONLY: np.zeros((1, 1, 1, 1), np.uint8)}, np.zeros(1, np.int64))
    Dataset(of_images(1, 1, 1, classes=1), none, none, none, seed=0).save(folder / ARRAYS)
    # On the CPU, as another sweep may be using the GPU.
    workers = LocalWorkers(
        [Slot("cpu0", 1)],
        folder / ARRAYS,
        folder / WORKERS,
        custom_code=builder is not None,
        backend=backend.to_load(config),
        code=run.fetch_code(config, folder),
    )
    try:
        error = run_task(workers, Package(str(folder), str(folder / PACKAGE), builder), time.monotonic, given_up)
    finally:
        workers.close()
    if error:
        raise UserError(f"{run.sweep}: the model of trial {run.trial} cannot be packaged ({error})")
    return folder / PACKAGE


def run_task(workers: Workers, task: Package, clock: Callable[[], float], given_up: threading.Event) -> str:
    """Has the first worker that is ready package a model.

    Args:
        workers: The pool, which may still be starting.
        task: The model.
        clock: The time in seconds.
        given_up: Once it is set, this function stops waiting.

    Returns:
        Why the worker failed; "" if it did not.
    """
    until = clock() + _SECONDS
    errors: list[str] = []

    def handle(message: Message) -> None:
        if isinstance(message, Ready) and not errors:
            workers.submit(message.slot, task)
        elif (error := _error(message)) is not None:
            errors.append(error)

    receive(workers, handle, lambda: errors or clock() >= until or given_up.is_set())
    if errors:
        return errors[0]
    return "interrupted" if given_up.is_set() else f"it takes more than {_SECONDS:.0f} s"


def _error(message: Message) -> str | None:
    """Why a worker could not package a model; "" if it could, and None for a message that does not say."""
    if isinstance(message, Packaged):
        return message.error
    return message.reason if isinstance(message, Died | MachineFailed) else None
