"""A worker process: `python -m mnist_sweep.workers.process FD`, started by `local.py` with its end of a socket.

Where possible, it is forked from a process that has imported everything (`forkserver.py`). It imports Keras once, loads
the data once, and then does one task after another. It exits when the driver does, which closes the socket.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil

from mnist_sweep.common.errors import ImpossibleError, UserError, machine_fault, may_pass
from mnist_sweep.common.text import first_line, kind_and_line, one_line
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.workers import base, imports, orphans
from mnist_sweep.workers.wire import WorkerChannel


class _Driver:
    """The driver, as the worker sees it: receives messages, and sends tasks and answers."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._pid: int | None = None
        self._stop: tuple[int, str] | None = None
        self._continued: set[tuple[int, int, int]] = set()
        self._changed = threading.Condition()
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Receives messages until the driver is gone; then ends this process."""
        for message in self._channel.messages():
            self._take(message)
        # Training runs in another thread, and nothing waits for its result or its child processes any more.
        if self._pid is not None:
            orphans.kill_pool_without_driver(self._pid)
        os._exit(0)

    def send(self, message: base.Message) -> None:
        """Sends a message to the driver."""
        self._channel.send(base.message_to_json(message))

    def stop_reason(self, trial: int, execution: int, epoch: int, *, wait: bool) -> str:
        """Returns why the driver wants to stop a trial after an epoch; "" to continue.

        Args:
            trial: The trial. Answers about other trials, executions and epochs do not count.
            execution: Counted from 1.
            epoch: The epoch that has ended; 0 if the execution has ended.
            wait: Whether to wait for the driver's answer.
        """
        with self._changed:
            while self._stop is None or self._stop[0] != trial:
                if not wait or (trial, execution, epoch) in self._continued:
                    return ""
                self._changed.wait()
            return self._stop[1]

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            if message["task"] == "stop":
                self._stop = (message["trial"], message["reason"])
            elif message["task"] == "continue":
                self._continued.add((message["trial"], message["execution"], message["epoch"]))
            else:
                self._pid = message.get("driver", self._pid)
                # Answers to an earlier attempt, perhaps of the same trial, do not count for this one.
                self._stop = None
                self._continued.clear()
                self.tasks.put(message)
            self._changed.notify_all()


class _Output(io.RawIOBase):
    """A stream that drops what it cannot write, so that printing does not fail on a full disk."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def writable(self) -> bool:
        return True

    def write(self, text: Any) -> int:
        rest = memoryview(text).cast("B")
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._number, rest) :]
        return len(memoryview(text).cast("B"))


def run(end: socket.socket) -> NoReturn:
    """Does the driver's tasks until it is gone; then ends this process and its group.

    Args:
        end: The end of the socket to the driver.
    """
    # Written line by line, so that the log has what user code has printed, however this process ends.
    sys.stdout = io.TextIOWrapper(_Output(1), "utf-8", "backslashreplace", line_buffering=True)
    sys.stderr = io.TextIOWrapper(_Output(2), "utf-8", "backslashreplace", write_through=True)
    driver = _Driver(WorkerChannel(end))
    threading.Thread(target=driver.listen, daemon=True).start()
    try:
        _work(driver)
    except BaseException:
        _print_exception()
    # Not sys.exit: threads of user code would keep this process alive, and the driver waiting, forever.
    os._exit(1)


def _print_exception() -> None:
    """Writes the current exception to the log, unless user code has closed it."""
    with contextlib.suppress(Exception):
        traceback.print_exc()
    _flush()


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _work(driver: _Driver) -> NoReturn:
    setup = driver.tasks.get()
    # Only here: the imports take seconds, in which the driver may already exit.
    imports.load(custom_code=setup["custom_code"])
    from mnist_sweep.data.dataset import Dataset
    from mnist_sweep.training.fit import Trainer, configure

    configure(setup["threads"], gpu=setup["gpu"])
    data = Path(driver.tasks.get()["data"])
    try:
        dataset = Dataset.open(data)
    except (OSError, ValueError, EOFError) as error:
        # The driver has written them, so no trial is to blame.
        _print_exception()
        driver.send(base.MachineFailed("", machine_fault(error) or f"the sweep's images: {first_line(error)}"))
        os._exit(1)
    from mnist_sweep.training import user_code

    user_code.announce = lambda text: driver.send(base.Noted("", text))
    trainer = Trainer(dataset)
    trained = False
    while True:
        driver.send(base.Ready("", _memory()))
        task = driver.tasks.get()
        # After a trial with user code, the process may be broken, and the next trial is not to blame.
        lasts = partial(_lasts, gpu=setup["gpu"], fresh=not (trained and setup["custom_code"]))
        driver.send(_do(trainer, task, driver, data, lasts))
        trained = True


def _memory() -> int:
    """Returns this process's private memory in bytes, without the files that it shares with others."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _lasts(failure: Exception | Outcome, *, gpu: bool, fresh: bool) -> bool:
    """Returns whether a trial would fail in the same way if it were retried.

    Args:
        failure: What it raised, or its outcome: then its loss was not finite.
        gpu: Whether it ran on a GPU, where the same training may give other numbers.
        fresh: Whether nothing before it can have broken this process.
    """
    if isinstance(failure, Outcome):
        return failure.status is Status.FAILED and fresh and not gpu
    return fresh and not may_pass(failure, gpu=gpu)


def _do(
    trainer: Any, task: dict[str, Any], driver: _Driver, data: Path, lasts: Callable[[Exception | Outcome], bool]
) -> base.Message:
    """Does a task; returns its result or how it failed."""
    kind, started = task["task"], time.monotonic()
    try:
        message = _TASKS[kind](trainer, task, driver)
        return replace(message, lasting=lasts(message.outcome)) if isinstance(message, base.Done) else message
    except Exception as error:
        fault = machine_fault(error)
        if fault is None and isinstance(error, OSError) and not data.is_dir():
            fault = f"the sweep's folder is gone ({data})"
        if fault is not None:
            _print_exception()
            return base.MachineFailed("", fault)
        fixable = isinstance(error, UserError) and kind in ("train", "discover", "check")
        # Before the driver gets the answer, and kills this process.
        _flush() if fixable else _print_exception()
        reason = _summary(error)
        if kind == "train":
            lasting, seconds = lasts(error), time.monotonic() - started
            # Its model was not built, so it has not begun to train.
            refused = lasting and isinstance(error, ImpossibleError)
            outcome = Outcome(Status.REFUSED if refused else Status.FAILED, reason, seconds=seconds)
            return base.Done("", task["trial"]["number"], outcome, lasting=lasting)
        if kind in ("discover", "check"):
            made_by = task["hypermodel"] if kind == "discover" else task["configs"][0]["model"]["builder"]
            key = "model.hypermodel" if kind == "discover" else "model.builder"
            return base.Discovered("", error=reason if fixable else f"{key}={made_by}: {reason}")
        return base.Evaluated("", error=reason) if kind == "evaluate" else base.Packaged("", reason)


def _train(trainer: Any, task: dict[str, Any], driver: _Driver) -> base.Message:
    from mnist_sweep.config.objective import Objective
    from mnist_sweep.config.trial_config import check_trial
    from mnist_sweep.training import executions
    from mnist_sweep.training.fit import Job

    trial, number = task["trial"], task["trial"]["number"]

    def report(execution: int, epoch: int, metrics: dict[str, float]) -> None:
        driver.send(base.Reported("", number, epoch, metrics, execution))

    def end(execution: int, outcome: Outcome) -> None:
        driver.send(base.Executed("", number, execution, outcome))

    def stop(execution: int, epoch: int) -> str:
        return driver.stop_reason(number, execution, epoch, wait=task["waits"])

    several = [Execution(**execution) for execution in trial["executions"]]
    known = task["known"] or [0] * (len(several) or 1)
    job = Job(
        config=check_trial(trial["config"]),
        objective=Objective(*task["objective"]),
        epochs=trial["epochs"],
        folder=Path(task["folder"]),
        parent=Path(task["parent"]) if task["parent"] else None,
        stop=task["stop"],
        known=known[0],
        limits=task["limits"],
        latency=task["latency"],
        checkpoint_every=task["checkpoint_every"],
        keep=task["keep"],
    )
    if several:
        outcome = executions.train(trainer, job, several, known, report, end, stop)
    else:
        outcome = trainer.train(job, partial(report, 1), partial(stop, 1))
    return base.Done("", number, outcome)


def _evaluate(trainer: Any, task: dict[str, Any], _: _Driver) -> base.Message:
    from mnist_sweep.config.task import CLASSIFICATION, TaskConfig
    from mnist_sweep.config.trial_config import check_trial

    if task["made_by"]:
        # Registers the user's layers with Keras.
        importlib.import_module(task["made_by"].partition(":")[0])
    trained_for = TaskConfig.model_validate(task["trained_for"]) if task["trained_for"] else CLASSIFICATION
    config = check_trial(task["config"]) if task["config"] else None
    return base.Evaluated("", *trainer.test(Path(task["model"]), task["digest"], trained_for, config))


def _package(_: Any, task: dict[str, Any], __: _Driver) -> base.Message:
    from mnist_sweep.training.packaged import package

    package(Path(task["trial"]), Path(task["to"]), task["made_by"], task["digest"])
    return base.Packaged("")


def _discover(trainer: Any, task: dict[str, Any], _: _Driver) -> base.Message:
    return base.Discovered("", trainer.discover(task["hypermodel"], task["objectives"]))


def _check(trainer: Any, task: dict[str, Any], _: _Driver) -> base.Message:
    return base.Discovered("", trainer.check(task["configs"], task["objectives"]))


_TASKS = {"check": _check, "train": _train, "evaluate": _evaluate, "package": _package, "discover": _discover}


def _summary(error: BaseException) -> str:
    if isinstance(error, ImpossibleError) and error.__cause__ is not None:
        return _summary(error.__cause__)
    if isinstance(error, UserError):
        return one_line(str(error))
    line, kind = first_line(error), type(error).__name__
    if kind == "ResourceExhaustedError" or line.startswith("RESOURCE_EXHAUSTED") or isinstance(error, MemoryError):
        return f"out of memory: {line}"
    return kind_and_line(error)


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
