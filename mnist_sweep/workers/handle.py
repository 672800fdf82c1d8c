"""The driver's handle on a worker process: what it is doing, its socket and its log."""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mnist_sweep.workers import base
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.forkserver import ForkedProcess
from mnist_sweep.workers.wire import DriverChannel

# How much the memory of a process may grow before it is replaced: by a tenth of what it had after its first task, when
# TensorFlow has loaded what it needs, and not for a few megabytes. What it grows by is missing for the next trial.
_GROWTH = 0.1
_LEAST_GROWTH = 24 * 2**20
# Tasks before a process is replaced if a new one has to import TensorFlow.
_TASKS = 25
_ANSWERS = {base.Evaluated: base.Evaluate, base.Packaged: base.Package, base.Discovered: base.Discover | base.Check}


@dataclass
class WorkerHandle:
    """A slot's process, as the driver sees it.

    Attributes:
        slot: The slot.
        process: The process.
        channel: The socket to it.
        log: The file with its output.
        log_start: Where the output of its current task begins in this file.
        ready: Whether it has ever been ready for a task.
        idle: Whether it waits for a task.
        task: The task that it has.
        progress: The execution and the epoch of its last report.
        tasks: How many tasks it was given.
        first_memory: Its private memory after the first task, in bytes.
        early_deaths: How many processes in a row have died in this slot before they were ready.
        kill_reason: Why the driver has killed it.
        started: When it was started, or, if later, when it learned where the data is.
        disconnected: When its end of the socket was closed.
    """

    slot: Slot
    process: subprocess.Popen[bytes] | ForkedProcess
    channel: DriverChannel
    log: Path
    ready: bool = False
    idle: bool = False
    task: base.Task | None = None
    progress: tuple[int, float] = (0, 0)
    tasks: int = 0
    first_memory: int | None = None
    early_deaths: int = 0
    log_start: int = 0
    kill_reason: str = ""
    started: float = field(default_factory=time.monotonic)
    disconnected: float = math.inf

    @property
    def trial(self) -> int | None:
        """The number of the trial that it trains."""
        return self.task.trial.number if isinstance(self.task, base.Train) else None

    # ---- messages -----------------------------------------------------------------------------------------------

    def submit(self, task: base.Task) -> None:
        """Gives it a task."""
        self.tasks += 1
        self.task, self.idle, self.progress = task, False, (0, 0)
        self.log_start = file_size(self.log)
        self.send({"task": type(task).__name__.lower(), **asdict(task)})

    def send(self, message: dict[str, Any]) -> None:
        """Sends it a message; kills it if it does not read its messages."""
        try:
            self.channel.send(message)
        except base.GarbledError as error:
            self.kill(str(error))

    def receive(self, *, last: bool = False) -> Iterator[base.Message]:
        """Yields the messages that have arrived; the caller must `record` each before the next.

        Args:
            last: Whether the process is dead, so that nothing more will come.

        Raises:
            GarbledError: The next message cannot be understood, or is out of place.
        """
        for raw in self.channel.receive(last=last):
            message = base.message_from_json(self.slot.name, raw)
            if not self._expects(message):
                raise base.GarbledError(f"sent a message that does not belong to its task ({type(message).__name__})")
            yield message

    def record(self, message: base.Message) -> None:
        """Updates its state after a message."""
        if isinstance(message, base.Reported):
            self.progress = (message.execution, message.epoch)
        elif isinstance(message, base.Executed):
            self.progress = (message.execution, math.inf)
        elif isinstance(message, base.Ready):
            self.ready, self.idle, self.early_deaths = True, True, 0
        elif not isinstance(message, base.Noted):
            self.task = None

    def _expects(self, message: base.Message) -> bool:
        """Returns whether a message is about its task, and new."""
        task = self.task
        if isinstance(message, base.Ready):
            return task is None and not self.idle
        if isinstance(message, base.MachineFailed | base.Noted):
            return not self.idle
        if isinstance(message, base.Evaluated | base.Packaged | base.Discovered):
            return isinstance(task, _ANSWERS[type(message)])
        assert isinstance(message, base.Reported | base.Executed | base.Done)
        if not isinstance(task, base.Train) or message.trial != task.trial.number:
            return False
        if isinstance(message, base.Done):
            return True
        epoch, last = (message.epoch, task.trial.epochs) if isinstance(message, base.Reported) else (math.inf, math.inf)
        executions = max(1, len(task.trial.executions))
        return epoch <= last and message.execution <= executions and self.progress < (message.execution, epoch)

    # ---- the process --------------------------------------------------------------------------------------------

    def kill(self, reason: str) -> None:
        """Kills the process; the pool reports its death later."""
        self.kill_reason = self.kill_reason or reason
        self.process.kill()

    def end(self) -> None:
        """Kills the process, waits for its end, and closes the socket."""
        # Killed first: when the socket is closed, the worker notices that the driver is gone.
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.channel.close()

    def is_used_up(self, memory: int, recycle_after: int | Literal["auto"]) -> bool:
        """Returns whether the process should be replaced before its next task.

        Args:
            memory: Its private memory, in bytes.
            recycle_after: `workers.recycle_after`.
        """
        if recycle_after != "auto":
            return self.tasks >= recycle_after
        if isinstance(self.process, subprocess.Popen):
            return self.tasks >= _TASKS
        if self.tasks == 1:
            self.first_memory = memory
        first = self.first_memory
        return first is not None and memory - first > max(_GROWTH * first, _LEAST_GROWTH)

    def cause_of_death(self) -> str:
        """Returns how the process ended: `was killed by SIGKILL (out of memory?)`."""
        if self.kill_reason:
            return self.kill_reason
        code = self.process.returncode
        if code is not None and code < 0:
            name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
            return f"was killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        lines = self.end_of_log().strip().splitlines()
        return f"ended with exit code {code}" + (f" ({base.one_reason(lines[-1])})" if lines else "")

    def end_of_log(self) -> str:
        """Returns the end of what the process has written since its current task began."""
        path, start = self.find_log()
        try:
            with open(path, "rb") as log:
                # Reads twice what is kept: passwords are masked first, and are recognized by what precedes them.
                log.seek(max(start, file_size(path) - 2 * base.LOG))
                return base.end_of_log(log.read(4 * base.LOG).decode(errors="replace"))
        except OSError:
            return ""

    def find_log(self) -> tuple[Path, int]:
        """Returns the log file and where its task begins there; the fork server's if the process was never forked."""
        if isinstance(self.process, ForkedProcess) and self.process.pid is None and not self.ready:
            return self.process.server.log, self.process.server.log_start
        return self.log, self.log_start


def file_size(path: Path) -> int:
    """Returns a file's size; 0 if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
