"""A worker process: `python -m mnist_sweep.workers.process FD`, started by `local.py` with its end of a socket.

Where that can be, it is forked from a process that has imported everything (`forkserver.py`). It imports Keras
once, loads the data once, and then does one task after another. It leaves when the driver does, which it notices by the
end of the socket.
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
import traceback
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil

from mnist_sweep.common.errors import UserError, machine_fault
from mnist_sweep.common.text import first_line, kind_and_line, one_line
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.workers import imports, orphans
from mnist_sweep.workers.base import (
    Discovered,
    Done,
    Evaluated,
    Executed,
    MachineFailed,
    Message,
    Packaged,
    Ready,
    Reported,
    message_to_json,
)
from mnist_sweep.workers.wire import Line


class _Driver:
    """The driver's end: messages go out, tasks and stops come in."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._pid: int | None = None
        self._stop: tuple[int, str] | None = None
        self._gone_on: set[tuple[int, int, int]] = set()
        self._news = threading.Condition()
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Takes in what the driver says, until it is gone."""
        for message in self._line.messages():
            self._heard(message)
        # Training runs in another thread, and nobody waits for its result any more; nor for what it has started.
        if self._pid is not None:
            orphans.end_with_driver(self._pid)
        os._exit(0)

    def send(self, message: Message) -> None:
        """Says something to the driver."""
        self._line.send(message_to_json(message))

    def why_stop(self, trial: int, execution: int, epoch: int, *, wait: bool) -> str:
        """What the driver decided after an epoch: what it said of another trial, execution or epoch does not count.

        Args:
            trial: The trial.
            execution: Counted from 1.
            epoch: The one that has ended; 0 where the whole execution has.
            wait: Whether to wait until the driver has said that the trial is to stop or to go on.

        Returns:
            The reason to stop, or "".
        """
        with self._news:
            while not self._is_to_stop(trial):
                if not wait or (trial, execution, epoch) in self._gone_on:
                    return ""
                self._news.wait()
            return self._stop[1] if self._stop else ""

    def _is_to_stop(self, trial: int) -> bool:
        return self._stop is not None and self._stop[0] == trial

    def _heard(self, message: dict[str, Any]) -> None:
        with self._news:
            if message["task"] == "stop":
                self._stop = (message["trial"], message["reason"])
            elif message["task"] == "go on":
                self._gone_on.add((message["trial"], message["execution"], message["epoch"]))
            else:
                self._pid = message.get("driver", self._pid)
                # What was said of an attempt before, perhaps of the same trial, does not count for this one.
                self._stop = None
                self._gone_on.clear()
                self.tasks.put(message)
            self._news.notify_all()


class _Output(io.RawIOBase):
    """What this process prints: it is lost where it cannot be written, as on a full disk, and nobody fails by that."""

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
    """Does what the driver says, until that is gone; then this process ends, and all of its group.

    Args:
        end: The end of the socket to the driver.
    """
    # Whatever ends this process, its log has what the user's code has printed, a line at a time.
    sys.stdout = io.TextIOWrapper(_Output(1), "utf-8", "backslashreplace", line_buffering=True)
    sys.stderr = io.TextIOWrapper(_Output(2), "utf-8", "backslashreplace", write_through=True)
    driver = _Driver(Line(end))
    threading.Thread(target=driver.listen, daemon=True).start()
    try:
        _work(driver)
    except BaseException:
        _tell()
    # Not sys.exit: threads that the user's code has started would keep this process, and the driver waiting, for ever.
    os._exit(1)


def _tell() -> None:
    """Writes the exception to the log, unless the user's code has closed that."""
    with contextlib.suppress(Exception):
        traceback.print_exc()
    _flush()


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _work(driver: _Driver) -> NoReturn:
    setup = driver.tasks.get()
    # Only here, as importing Keras takes seconds in which the driver may leave already.
    imports.load(custom_code=setup["custom_code"])
    from mnist_sweep.data.images import Dataset
    from mnist_sweep.training.fit import Trainer, configure

    configure(setup["threads"], gpu=setup["gpu"])
    data = Path(driver.tasks.get()["data"])
    try:
        dataset = Dataset.open(data)
    except (OSError, ValueError, EOFError) as error:
        # The driver has written them: whatever is wrong now is not for a trial to answer.
        _tell()
        driver.send(MachineFailed("", machine_fault(error) or f"the sweep's images: {first_line(error)}"))
        os._exit(1)
    trainer = Trainer(dataset)
    while True:
        driver.send(Ready("", _memory()))
        driver.send(_do(trainer, driver.tasks.get(), driver, data))


def _memory() -> int:
    """The bytes that this process has written to; not those of files, which it shares with others."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _do(trainer: Any, task: dict[str, Any], driver: _Driver, data: Path) -> Message:
    """Does a task, whatever comes of it."""
    kind = task["task"]
    try:
        return _TASKS[kind](trainer, task, driver)
    except Exception as error:
        fault = machine_fault(error)
        if fault is None and isinstance(error, OSError) and not data.is_dir():
            fault = f"the sweep's folder is gone ({data})"
        if fault is not None:
            _tell()
            return MachineFailed("", fault)
        mendable = isinstance(error, UserError) and kind in ("train", "discover")
        # Before the driver hears of it, who ends this process then.
        _flush() if mendable else _tell()
        reason = _summary(error)
        if kind == "train":
            return Done("", task["trial"]["number"], Outcome(Status.FAILED, reason))
        if kind == "discover":
            return Discovered("", error=reason if mendable else f"model.hypermodel={task['hypermodel']}: {reason}")
        return Evaluated("", error=reason) if kind == "evaluate" else Packaged("", reason)


def _train(trainer: Any, task: dict[str, Any], driver: _Driver) -> Message:
    from mnist_sweep.config.objective import Objective
    from mnist_sweep.config.trial_config import check_trial
    from mnist_sweep.training import executions
    from mnist_sweep.training.fit import Job

    trial, number = task["trial"], task["trial"]["number"]

    def report(execution: int, epoch: int, metrics: dict[str, float]) -> None:
        driver.send(Reported("", number, epoch, metrics, execution))

    def ended(execution: int, outcome: Outcome) -> None:
        driver.send(Executed("", number, execution, outcome))

    def stop(execution: int, epoch: int) -> str:
        return driver.why_stop(number, execution, epoch, wait=task["waits"])

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
        outcome = executions.train(trainer, job, several, known, report, ended, stop)
    else:
        outcome = trainer.train(job, partial(report, 1), partial(stop, 1))
    return Done("", number, outcome)


def _evaluate(trainer: Any, task: dict[str, Any], _: _Driver) -> Message:
    if task["made_by"]:
        # Layers of the user's own are known to Keras once their module is imported.
        importlib.import_module(task["made_by"].partition(":")[0])
    return Evaluated("", *trainer.test(Path(task["model"]), task["digest"]))


def _package(_: Any, task: dict[str, Any], __: _Driver) -> Message:
    from mnist_sweep.training.packaged import package

    package(Path(task["trial"]), Path(task["to"]), task["made_by"], task["digest"])
    return Packaged("")


def _discover(trainer: Any, task: dict[str, Any], _: _Driver) -> Message:
    return Discovered("", trainer.discover(task["hypermodel"]))


_TASKS = {"train": _train, "evaluate": _evaluate, "package": _package, "discover": _discover}


def _summary(error: Exception) -> str:
    if isinstance(error, UserError):
        return one_line(str(error))
    line, kind = first_line(error), type(error).__name__
    if kind == "ResourceExhaustedError" or line.startswith("RESOURCE_EXHAUSTED") or isinstance(error, MemoryError):
        return f"out of memory: {line}"
    return kind_and_line(error)


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
