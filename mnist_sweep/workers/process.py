"""A worker process: `python -m mnist_sweep.workers.process FD`, started by `local.py` with its end of a socket.

Where that can be, it is forked from a process that has imported everything (`forkserver.py`). It imports Keras
once, loads the data once, and then does one task after another. It leaves when the driver does, which it notices by the
end of the socket.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import queue
import sys
import threading
import traceback
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import psutil

from mnist_sweep.errors import UserError
from mnist_sweep.trial import Execution, Outcome, Status
from mnist_sweep.workers import imports
from mnist_sweep.workers.base import (
    Discovered,
    Done,
    Evaluated,
    Executed,
    Message,
    Packaged,
    Ready,
    Reported,
    message_to_json,
)


class _Driver:
    """The driver's end: messages go out, tasks and stops come in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stop: tuple[int, str] | None = None
        self._gone_on: set[tuple[int, int, int]] = set()
        self._news = threading.Condition()
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Takes in what the driver says, until it is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._heard(json.loads(self._connection.recv_bytes()))
        # Not sys.exit: training runs in another thread, and nobody waits for its result any more.
        os._exit(0)

    def send(self, message: Message) -> None:
        """Says something to the driver."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(json.dumps(message_to_json(message)).encode())

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
                # What was said of an attempt before, perhaps of the same trial, does not count for this one.
                self._stop = None
                self._gone_on.clear()
                self.tasks.put(message)
            self._news.notify_all()


def run(connection: Connection) -> NoReturn:
    """Does what the driver says, until that is gone; then this process ends.

    Args:
        connection: The end of the socket to the driver.
    """
    # What the user's code starts in the background is not to hold the socket.
    os.set_inheritable(connection.fileno(), False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Whatever ends this process, its log has what the user's code has printed.
        sys.stdout.reconfigure(line_buffering=True)
    driver = _Driver(connection)
    threading.Thread(target=driver.listen, daemon=True).start()
    try:
        _work(driver)
    except BaseException:
        # The user's code may also have closed its output.
        with contextlib.suppress(Exception):
            traceback.print_exc()
            sys.stdout.flush()
    # Not sys.exit: threads that the user's code has started would keep this process, and the driver waiting, for ever.
    os._exit(1)


def _work(driver: _Driver) -> NoReturn:
    setup = driver.tasks.get()
    # Only here, as importing Keras takes seconds in which the driver may leave already.
    imports.load(own_code=setup["own_code"])
    from mnist_sweep.training.data import Dataset
    from mnist_sweep.training.fit import Trainer, configure

    configure(setup["threads"], gpu=setup["gpu"])
    trainer = Trainer(Dataset.open(Path(driver.tasks.get()["data"])))
    while True:
        driver.send(Ready("", _memory()))
        task = driver.tasks.get()
        message = _train(trainer, task, driver) if task["task"] == "train" else _OTHERS[task["task"]](trainer, task)
        driver.send(message)
        if setup["gpu"] and _failed(message):
            # After an error of CUDA a process can do nothing more; the next one shows whether the GPU is still there.
            # Not sys.exit: TensorFlow, putting its GPU in order, may wait for one that never answers.
            sys.stderr.flush()
            os._exit(1)


def _memory() -> int:
    """The bytes that this process has written to; not those of files, which it shares with others."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _train(trainer: Any, task: dict[str, Any], driver: _Driver) -> Message:  # noqa: ANN401
    from mnist_sweep.config import check_trial
    from mnist_sweep.settings import Objective
    from mnist_sweep.training import executions
    from mnist_sweep.training.fit import Job

    trial, number = task["trial"], task["trial"]["number"]

    def report(execution: int, epoch: int, metrics: dict[str, float]) -> None:
        driver.send(Reported("", number, epoch, metrics, execution))

    def ended(execution: int, outcome: Outcome) -> None:
        driver.send(Executed("", number, execution, outcome))

    def stop(execution: int, epoch: int) -> str:
        return driver.why_stop(number, execution, epoch, wait=task["waits"])

    try:
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
    except UserError as error:
        outcome = Outcome(Status.FAILED, str(error))
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(Status.FAILED, _summary(error))
    return Done("", number, outcome)


def _evaluate(trainer: Any, task: dict[str, Any]) -> Message:  # noqa: ANN401
    try:
        if task["made_by"]:
            # Layers of the user's own are known to Keras once their module is imported.
            importlib.import_module(task["made_by"].partition(":")[0])
        metrics, confusion = trainer.test(Path(task["model"]))
    except Exception as error:
        traceback.print_exc()
        return Evaluated("", error=_summary(error))
    return Evaluated("", metrics, confusion)


def _package(_: Any, task: dict[str, Any]) -> Message:  # noqa: ANN401
    from mnist_sweep.registry_package import package

    try:
        package(Path(task["trial"]), Path(task["to"]), task["made_by"])
    except Exception as error:
        traceback.print_exc()
        return Packaged("", _summary(error))
    return Packaged("")


def _discover(trainer: Any, task: dict[str, Any]) -> Message:  # noqa: ANN401
    try:
        return Discovered("", trainer.discover(task["hypermodel"]))
    except UserError as error:
        return Discovered("", error=str(error))
    except Exception as error:
        traceback.print_exc()
        return Discovered("", error=f"model.hypermodel={task['hypermodel']}: {_summary(error)}")


_OTHERS = {"evaluate": _evaluate, "package": _package, "discover": _discover}


def _failed(message: Message) -> bool:
    if isinstance(message, Evaluated | Packaged):
        return bool(message.error)
    return isinstance(message, Done) and message.outcome.status is Status.FAILED


def _summary(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    no_memory = type(error).__name__ == "ResourceExhaustedError" or "".join(lines[:1]).startswith("RESOURCE_EXHAUSTED")
    if no_memory or isinstance(error, MemoryError):
        return f"out of memory: {lines[0] if lines else type(error).__name__}"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    run(Connection(int(sys.argv[1])))
