"""A pool of persistent worker processes on this machine, one for each slot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Literal

from mnist_sweep.errors import UserError
from mnist_sweep.trial import Status
from mnist_sweep.workers import forkserver
from mnist_sweep.workers.base import Died, Done, Message, Ready, Task, message_from_json
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.forkserver import Forked, ForkServer

# How often to look for processes that died while something else holds their end of the socket open.
_LOOK = 0.5
# Deaths in a row before a slot's process is ready, after which the slot is given up: a process that ends by itself will
# do so again, one that is killed may only have been unlucky.
_ENDS_BEFORE_READY = 2
_KILLS_BEFORE_READY = 10
_LOG_TAIL = 4000
# Seconds in which a process has to become ready; TensorFlow takes 10, on a busy machine some times as many.
_LONGEST_START = 600.0
# By how much the memory of a process may grow before it is replaced: by the tenth part of what it had after its first
# task, when TensorFlow has loaded what it needs, and not for a few megabytes; with it goes what the next trial may use.
_GROWTH = 0.1
_LEAST_GROWTH = 24 * 2**20
_SETTLED = 1
# Tasks before a process is replaced where that costs as much as importing TensorFlow.
_TASKS = 25


@dataclass
class _Process:
    slot: Slot
    process: subprocess.Popen[bytes] | Forked
    connection: Connection
    log: Path
    ready: bool = False
    tasks: int = 0
    settled: int | None = None
    early_deaths: int = 0
    log_start: int = 0
    cause: str = ""
    born: float = field(default_factory=time.monotonic)


class LocalWorkers:
    """Worker processes that import Keras once, keep the data in memory, and train trial after trial.

    On CPU they are forked from one process that has done the import, so that another takes a tenth of a second.

    A process that dies is replaced at once; one whose memory has grown, as TensorFlow's does by some megabytes with
    each trial, is replaced when it is idle.
    """

    def __init__(
        self,
        slots: list[Slot],
        data: Path | None,
        logs: Path,
        recycle_after: int | Literal["auto"] = "auto",
        *,
        own_code: bool = True,
        backend: str = "tensorflow",
    ) -> None:
        """Starts a process for each slot; they become ready some seconds later, when there are data.

        Args:
            slots: Where to run; those without a GPU have the same number of threads.
            data: The folder that `Dataset.save` wrote; None if `set_up` will name it.
            logs: The folder for the processes' output; created if need be.
            recycle_after: Tasks before a process is replaced; `auto`: when its memory has grown.
            own_code: Whether a task's model is made by code of the user's, who may use all of Keras.
            backend: What Keras computes with.
        """
        self._data, self._logs, self._recycle_after = data, logs, recycle_after
        self._own_code, self._backend = own_code, backend
        logs.mkdir(parents=True, exist_ok=True)
        self._kept: list[Message] = []
        self._server: ForkServer | None = None
        self._processes: dict[str, _Process] = {}
        try:
            for slot in slots:
                self._processes[slot.name] = self._start(slot)
        except BaseException:
            self.close()
            raise

    def set_up(self, data: Path) -> None:
        """Tells where the data are, for which the processes wait.

        Args:
            data: The folder that `Dataset.save` wrote.
        """
        self._data = data
        for worker in self._processes.values():
            worker.born = time.monotonic()
            _send(worker, {"task": "open", "data": str(data)})

    def slots(self) -> list[str]:
        """The slots' names."""
        return list(self._processes)

    def open(self, slot: Slot) -> None:
        """Adds a slot and starts its process, which becomes ready some seconds later."""
        self._processes[slot.name] = self._start(slot)

    def retire(self, slot: str) -> None:
        """Takes a slot away and ends its process, whatever it does."""
        _end(self._processes.pop(slot))

    def submit(self, slot: str, task: Task) -> None:
        """Gives a task to a slot that is ready."""
        forkserver.reap()
        worker = self._processes[slot]
        worker.tasks += 1
        worker.log_start = worker.log.stat().st_size
        _send(worker, {"task": type(task).__name__.lower(), **asdict(task)})

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Asks a slot to end its trial after the epoch it is in."""
        _send(self._processes[slot], {"task": "stop", "trial": trial, "reason": reason})

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a slot go on that waits after an epoch of its trial."""
        message = {"task": "go on", "trial": trial, "execution": execution, "epoch": epoch}
        _send(self._processes[slot], message)

    def poll(self, timeout: float) -> list[Message]:
        """Waits at most `timeout` seconds for messages."""
        messages, self._kept = self._kept, []
        until = time.monotonic() + timeout
        while not messages:
            rest = max(0.0, until - time.monotonic())
            by_connection = {w.connection: w for w in self._processes.values()}
            for connection in wait(list(by_connection), min(rest, _LOOK)):
                messages += self._receive(by_connection[connection])  # type: ignore[index]
            for worker in list(self._processes.values()):
                if not worker.ready and time.monotonic() - worker.born > _LONGEST_START:
                    self.kill(worker.slot.name, f"did not start within {_LONGEST_START:.0f} s")
                if worker.process.poll() is not None and not worker.connection.poll():
                    messages.append(self._bury(worker))
            if rest == 0:
                break
        return messages

    def put_back(self, messages: list[Message]) -> None:
        """Hands messages out again at the next poll, for whom they are meant."""
        self._kept += messages

    def kill(self, slot: str, reason: str) -> None:
        """Ends a slot's process at once."""
        worker = self._processes[slot]
        worker.cause = reason
        worker.process.kill()

    def close(self) -> None:
        """Ends all processes, whatever they do."""
        if self._server is not None:
            self._server.close()
        for worker in self._processes.values():
            _end(worker)
        self._processes = {}

    def pids(self) -> dict[str, int]:
        """The process id of each slot that has a process."""
        for worker in self._processes.values():
            worker.process.poll()
        return {name: w.process.pid for name, w in self._processes.items() if w.process.pid is not None}

    def _receive(self, worker: _Process) -> list[Message]:
        try:
            message = message_from_json(worker.slot.name, json.loads(worker.connection.recv_bytes()))
        except (EOFError, OSError):
            worker.process.wait()
            return [self._bury(worker)]
        if isinstance(message, Ready):
            worker.ready, worker.early_deaths = True, 0
            if self._is_used_up(worker, message.memory):
                self._replace(worker)
                return []
        if isinstance(message, Done) and message.outcome.status is Status.FAILED:
            message = replace(message, log=_tail(worker))
        return [message]

    def _is_used_up(self, worker: _Process, memory: int) -> bool:
        if self._recycle_after != "auto":
            return worker.tasks >= self._recycle_after
        if isinstance(worker.process, subprocess.Popen):
            return worker.tasks >= _TASKS
        if worker.tasks == _SETTLED:
            worker.settled = memory
        return worker.settled is not None and memory - worker.settled > max(_GROWTH * worker.settled, _LEAST_GROWTH)

    def _bury(self, worker: _Process) -> Message:
        reason, log = worker.cause or _cause_of_death(worker), _tail(worker)
        deaths = 0 if worker.ready else worker.early_deaths + 1
        killed = (worker.process.returncode or 0) < 0 and not worker.cause
        if deaths < (_KILLS_BEFORE_READY if killed else _ENDS_BEFORE_READY):
            self._replace(worker, early_deaths=deaths)
            return Died(worker.slot.name, reason, log)
        _end(worker)
        del self._processes[worker.slot.name]
        return Died(worker.slot.name, f"cannot start, it {reason}; its log is {_log(worker)[0]}", log, lost=True)

    def _replace(self, worker: _Process, early_deaths: int = 0) -> None:
        _end(worker)
        self._processes[worker.slot.name] = self._start(worker.slot, early_deaths)

    def _start(self, slot: Slot, early_deaths: int = 0) -> _Process:
        ours, theirs = socket.socketpair()
        log = self._logs / f"{slot.name}.log"
        with theirs, open(log, "ab") as output:
            try:
                process = self._process(slot, theirs, output)
            except OSError as error:
                ours.close()
                raise UserError(
                    f"workers: {slot.name}: no process can be started ({error.strerror}); look at the limits on "
                    "processes and memory, then resume"
                ) from error
        worker = _Process(
            slot, process, Connection(ours.detach()), log, early_deaths=early_deaths, log_start=log.stat().st_size
        )
        about = {"threads": slot.threads, "gpu": slot.gpu is not None, "own_code": self._own_code}
        _send(worker, {"task": "set up", **about})
        if self._data is not None:
            _send(worker, {"task": "open", "data": str(self._data)})
        return worker

    def _process(self, slot: Slot, theirs: socket.socket, output: IO[bytes]) -> subprocess.Popen[bytes] | Forked:
        # Not on a GPU: what CUDA's libraries do as they are imported need not survive a fork, and was never tried.
        if slot.gpu is None and forkserver.possible():
            if self._server is None or self._server.gone():
                self._server = ForkServer(
                    _environment(slot, self._backend), self._logs / "server.log", own_code=self._own_code
                )
            return self._server.fork(theirs, output)
        return subprocess.Popen(
            [sys.executable, "-m", "mnist_sweep.workers.process", str(theirs.fileno())],
            env=_environment(slot, self._backend),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C in the terminal is for the driver, which stops its workers as it sees fit.
            start_new_session=True,
        )


def _environment(slot: Slot, backend: str) -> dict[str, str]:
    # GPUs are counted as nvidia-smi does; CUDA by itself begins with the fastest.
    unless_given = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {
        **unless_given,
        **os.environ,
        "KERAS_BACKEND": backend,
        # "-1", as an empty value counts as unset in some versions of the driver.
        "CUDA_VISIBLE_DEVICES": slot.gpu or "-1",
        # Numeric libraries other than TensorFlow size their pools by this.
        "OMP_NUM_THREADS": str(slot.threads),
    }


def _send(worker: _Process, message: dict[str, Any]) -> None:
    try:
        worker.connection.send_bytes(json.dumps(message).encode())
    except OSError:
        # It died; `poll` says so.
        return


def _end(worker: _Process) -> None:
    worker.connection.close()
    if worker.process.poll() is None:
        worker.process.kill()
    worker.process.wait()


def _cause_of_death(worker: _Process) -> str:
    code = worker.process.returncode
    if code is not None and code < 0:
        cause = f"was killed by {signal.Signals(-code).name}"
        return cause + (" (out of memory?)" if code == -signal.SIGKILL else "")
    lines = _tail(worker).strip().splitlines()
    return f"ended with exit code {code}" + (f" ({lines[-1].strip()})" if lines else "")


def _tail(worker: _Process) -> str:
    """The end of what a process has written since its last task began."""
    path, start = _log(worker)
    with open(path, "rb") as log:
        log.seek(max(start, path.stat().st_size - _LOG_TAIL))
        return log.read().decode(errors="replace")


def _log(worker: _Process) -> tuple[Path, int]:
    """The file with a process's output, and where its task's begins; the server's for a process that never was."""
    if isinstance(worker.process, Forked) and worker.process.pid is None:
        return worker.process.server.log, worker.process.server.log_start
    return worker.log, worker.log_start
