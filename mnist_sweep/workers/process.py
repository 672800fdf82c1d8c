"""A worker process: `python -m mnist_sweep.workers.process FD`, started by `local.py` with its end of a socket.

It imports TensorFlow once, loads the data once, and then does one task after another. It leaves when the driver does,
which it notices by the end of the socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mnist_sweep.errors import UserError
from mnist_sweep.trial import Outcome, Status
from mnist_sweep.workers.base import Done, Evaluated, Message, Ready, Reported, message_to_json


class _Driver:
    """The driver's end: messages go out, tasks and stops come in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stop: tuple[int, str] | None = None
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Takes in what the driver says, until it is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = json.loads(self._connection.recv_bytes())
                if message["task"] == "stop":
                    self._stop = (message["trial"], message["reason"])
                else:
                    self.tasks.put(message)
        # Not sys.exit: training runs in another thread, and nobody waits for its result any more.
        os._exit(0)

    def send(self, message: Message) -> None:
        """Says something to the driver."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(json.dumps(message_to_json(message)).encode())

    def why_stop(self, trial: int) -> str:
        """The reason to stop a trial, or ""; a stop that came too late for another trial does not count."""
        return self._stop[1] if self._stop and self._stop[0] == trial else ""


def main() -> None:
    """Runs until the driver is gone."""
    driver = _Driver(Connection(int(sys.argv[1])))
    threading.Thread(target=driver.listen, daemon=True).start()
    setup = driver.tasks.get()
    # Only here, as importing TensorFlow takes seconds in which the driver may leave already.
    from mnist_sweep.training.data import Dataset
    from mnist_sweep.training.fit import Trainer, configure

    configure(setup["threads"], gpu=setup["gpu"])
    trainer = Trainer(Dataset.open(Path(setup["data"])))
    while True:
        driver.send(Ready(""))
        task = driver.tasks.get()
        message = _train(trainer, task, driver) if task["task"] == "train" else _evaluate(trainer, task)
        driver.send(message)
        if setup["gpu"] and isinstance(message, Done) and message.outcome.status is Status.FAILED:
            # After an error of CUDA a process can do nothing more; the next one shows whether the GPU is still there.
            sys.exit(1)


def _train(trainer: Any, task: dict[str, Any], driver: _Driver) -> Message:  # noqa: ANN401
    from mnist_sweep.config import check_trial
    from mnist_sweep.settings import Objective
    from mnist_sweep.training.fit import Job

    trial, number = task["trial"], task["trial"]["number"]
    try:
        job = Job(
            config=check_trial(trial["config"]),
            objective=Objective(*task["objective"]),
            epochs=trial["epochs"],
            folder=Path(task["folder"]),
            parent_state=Path(task["parent_state"]) if task["parent_state"] else None,
        )
        outcome = trainer.train(
            job,
            report=lambda epoch, metrics: driver.send(Reported("", number, epoch, metrics)),
            stop=lambda: driver.why_stop(number),
        )
    except UserError as error:
        outcome = Outcome(Status.FAILED, str(error))
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(Status.FAILED, _summary(error))
    return Done("", number, outcome)


def _evaluate(trainer: Any, task: dict[str, Any]) -> Message:  # noqa: ANN401
    try:
        metrics, confusion = trainer.test(Path(task["model"]))
    except Exception as error:
        traceback.print_exc()
        return Evaluated("", error=_summary(error))
    return Evaluated("", metrics, confusion)


def _summary(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if type(error).__name__ == "ResourceExhaustedError" or isinstance(error, MemoryError):
        return f"out of memory: {lines[0] if lines else type(error).__name__}"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    main()
