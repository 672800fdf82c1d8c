"""A pool of persistent worker processes on this machine, one for each slot."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from mnist_sweep.common.errors import MachineError
from mnist_sweep.common.files import break_hard_links, make_folder
from mnist_sweep.journal.trial import Status
from mnist_sweep.workers import forkserver, orphans, wire
from mnist_sweep.workers.base import (
    LOG,
    Died,
    Discover,
    Discovered,
    Done,
    Evaluate,
    Evaluated,
    Executed,
    GarbledError,
    MachineFailed,
    Message,
    Package,
    Packaged,
    Ready,
    Reported,
    Task,
    Train,
    end_of_log,
    message_from_json,
    one_reason,
)
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.forkserver import Forked, ForkServer
from mnist_sweep.workers.wire import Channel

# How often to look for processes that died while something else holds their end of the socket open.
_LOOK = 0.5
# Deaths in a row before a slot's process is ready, after which the slot is given up: a process that ends by itself will
# do so again, one that is killed may only have been unlucky.
_ENDS_BEFORE_READY = 2
_KILLS_BEFORE_READY = 10
# Seconds in which a process has to become ready; TensorFlow takes 10, on a busy machine some times as many.
_LONGEST_START = 600.0
# By how much the memory of a process may grow before it is replaced: by the tenth part of what it had after its first
# task, when TensorFlow has loaded what it needs, and not for a few megabytes; with it goes what the next trial may use.
_GROWTH = 0.1
_LEAST_GROWTH = 24 * 2**20
_SETTLED = 1
# Tasks before a process is replaced where that costs as much as importing TensorFlow.
_TASKS = 25
# Seconds between the end of a worker's socket and that of its process; how often to look then.
_HUNG_UP, _LOOK_AGAIN = 5.0, 0.01
_CHUNK = 2**20
_ASKED = {Evaluated: Evaluate, Packaged: Package, Discovered: Discover}


@dataclass
class _Process:
    """A slot's process.

    Attributes:
        slot: The slot.
        process: The process itself.
        channel: What it says and is told.
        log: The file with its output; what belongs to its task begins at `log_start`.
        ready: Whether it has ever taken a task.
        idle: Whether it waits for a task.
        task: The one that it has.
        said: The execution and the epoch that it has last told of.
        tasks: How many it was given.
        settled: The bytes that it had for itself after the first of them.
        early_deaths: How many processes in a row have died here before they were ready.
        cause: Why it was ended from here.
        born: When it was started, or, if later, was told where the data are.
        hung_up: When its end of the socket was closed.
    """

    slot: Slot
    process: subprocess.Popen[bytes] | Forked
    channel: Channel
    log: Path
    ready: bool = False
    idle: bool = False
    task: Task | None = None
    said: tuple[int, float] = (0, 0)
    tasks: int = 0
    settled: int | None = None
    early_deaths: int = 0
    log_start: int = 0
    cause: str = ""
    born: float = field(default_factory=time.monotonic)
    hung_up: float = math.inf


class LocalWorkers:
    """Worker processes that import Keras once, keep the data in memory, and train trial after trial.

    On CPU they are forked from one process that has done the import, so that another takes a tenth of a second.

    One trial does not touch the next: a process in which something has failed is not used again, and a model of the
    user's own code has a process to itself where it can be forked. A process that dies is replaced at once; one whose
    memory has grown, as TensorFlow's does by some megabytes with each trial, is replaced when it is idle.

    Nor does it touch this process, whatever the user's code does to a worker's end of the socket: a slot that sends
    what cannot be understood is ended as one that has died.
    """

    def __init__(
        self,
        slots: list[Slot],
        data: Path | None,
        logs: Path,
        recycle_after: int | Literal["auto"] = "auto",
        *,
        custom_code: bool = True,
        backend: str = "tensorflow",
    ) -> None:
        """Starts a process for each slot; they become ready some seconds later, when there are data.

        Args:
            slots: Where to run; those without a GPU have the same number of threads.
            data: The folder that `Dataset.save` wrote; None if `set_up` will name it.
            logs: The folder for the processes' output; created if need be.
            recycle_after: Tasks before a process is replaced; `auto`: when its memory has grown.
            custom_code: Whether a task's model is made by code of the user's, who may use all of Keras.
            backend: What Keras computes with.

        Raises:
            MachineError: No process can be started.
        """
        self._data, self._logs, self._recycle_after = data, logs, recycle_after
        self._own_code, self._backend = custom_code, backend
        # Not by Python's `random`, whose state is the caller's.
        self._mark = uuid.uuid4().hex
        self._sizes = _sizes(data)
        self._kept: list[Message] = []
        self._broken: MachineError | None = None
        self._server: ForkServer | None = None
        self._processes: dict[str, _Process] = {}
        try:
            logs.parent.mkdir(parents=True, exist_ok=True)
            make_folder(logs)
        except OSError as error:
            raise _no_log(logs, error) from error
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
        self._data, self._sizes = data, _sizes(data)
        for worker in self._processes.values():
            worker.born = time.monotonic()
            _send(worker, {"task": "open", "data": str(data)})

    def slots(self) -> list[str]:
        """The slots' names."""
        return list(self._processes)

    def open(self, slot: Slot) -> None:
        """Adds a slot and starts its process, which becomes ready some seconds later.

        Raises:
            MachineError: No process can be started.
        """
        self._processes[slot.name] = self._start(slot)

    def retire(self, slot: str) -> None:
        """Takes a slot away and ends its process, whatever it does."""
        _end(self._processes.pop(slot))

    def submit(self, slot: str, task: Task) -> None:
        """Gives a task to a slot that is ready."""
        forkserver.reap()
        worker = self._processes[slot]
        worker.tasks += 1
        worker.task, worker.idle, worker.said = task, False, (0, 0)
        worker.log_start = _size(worker.log)
        _send(worker, {"task": type(task).__name__.lower(), **asdict(task)})

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Asks a slot to end its trial after the epoch it is in."""
        _send(self._processes[slot], {"task": "stop", "trial": trial, "reason": reason})

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a slot go on that waits after an epoch of its trial."""
        message = {"task": "go on", "trial": trial, "execution": execution, "epoch": epoch}
        _send(self._processes[slot], message)

    def poll(self, timeout: float) -> list[Message]:
        """Waits at most `timeout` seconds for messages.

        Raises:
            MachineError: No process can be started in the place of one that has ended.
        """
        if self._broken is not None:
            raise self._broken
        messages, self._kept = self._kept, []
        try:
            self._listen(timeout, messages)
        except MachineError as error:
            if not messages:
                raise
            # What was said before is heard first.
            self._broken = error
        return messages

    def put_back(self, messages: list[Message]) -> None:
        """Hands messages out again at the next poll, for whom they are meant."""
        self._kept += messages

    def kill(self, slot: str, reason: str) -> None:
        """Ends a slot's process at once."""
        _kill(self._processes[slot], reason)

    def close(self) -> None:
        """Ends all processes, and those that they have started, whatever they do."""
        if self._server is not None:
            self._server.close()
        for worker in self._processes.values():
            _end(worker)
        self._processes = {}
        orphans.end_marked(self._mark)
        forkserver.reap()

    def pids(self) -> dict[str, int]:
        """The process id of each slot that has a process."""
        for worker in self._processes.values():
            worker.process.poll()
        return {name: w.process.pid for name, w in self._processes.items() if w.process.pid is not None}

    # ---- what the workers say -----------------------------------------------------------------------------------

    def _listen(self, timeout: float, messages: list[Message]) -> None:
        until = time.monotonic() + timeout
        while not messages:
            rest = max(0.0, until - time.monotonic())
            hung_up = any(worker.channel.ended for worker in self._processes.values())
            channels = {worker.channel: worker for worker in self._processes.values()}
            for channel in wire.wait(list(channels), min(rest, _LOOK_AGAIN if hung_up else _LOOK)):
                self._hear(channels[channel], messages)
            for worker in list(self._processes.values()):
                self._look_after(worker, messages)
            if rest == 0:
                break

    def _look_after(self, worker: _Process, messages: list[Message]) -> None:
        now = time.monotonic()
        if worker.process.poll() is not None:
            self._hear(worker, messages, last=True)
            if self._has(worker):
                self._bury(worker, messages)
        elif not worker.ready and now - worker.born > _LONGEST_START:
            _kill(worker, f"did not start within {_LONGEST_START:.0f} s")
        elif worker.channel.ended:
            worker.hung_up = min(worker.hung_up, now)
            if now - worker.hung_up > _HUNG_UP:
                _kill(worker, "has closed its connection to the driver")

    def _has(self, worker: _Process) -> bool:
        return self._processes.get(worker.slot.name) is worker

    def _hear(self, worker: _Process, messages: list[Message], *, last: bool = False) -> None:
        try:
            for raw in worker.channel.receive(last=last):
                message = message_from_json(worker.slot.name, raw)
                _check(worker, message)
                self._take(worker, message, messages)
                if not self._has(worker):
                    return
        except GarbledError as error:
            worker.channel.ended = True
            _kill(worker, str(error))

    def _take(self, worker: _Process, message: Message, messages: list[Message]) -> None:
        if isinstance(message, Reported):
            worker.said = (message.execution, message.epoch)
        elif isinstance(message, Executed):
            worker.said = (message.execution, math.inf)
        elif isinstance(message, Ready):
            worker.ready, worker.idle, worker.early_deaths = True, True, 0
            if self._is_used_up(worker, message.memory):
                self._replace(worker)
                return
        else:
            self._take_end(worker, message, messages)
            return
        messages.append(message)

    def _take_end(self, worker: _Process, message: Message, messages: list[Message]) -> None:
        """Takes what a task has come to; a process that cannot have the next one is replaced."""
        if isinstance(message, MachineFailed):
            trial = worker.task.trial.number if isinstance(worker.task, Train) else None
            message = replace(message, trial=trial)
        elif isinstance(message, Done) and message.outcome.status is Status.FAILED:
            message = replace(message, log=_tail(worker))
        worker.task = None
        messages.append(message)
        if isinstance(message, MachineFailed) and not worker.ready:
            # The next one may end alike: it counts as dead, so that this does not go on for ever.
            worker.channel.ended = True
            _kill(worker, f"met a fault of the machine: {message.reason}")
        elif _failed(message) or (isinstance(message, Done | Discovered) and self._is_users(worker)):
            self._replace(worker)

    def _is_users(self, worker: _Process) -> bool:
        """Whether a trial leaves a process in a state that nobody knows, and another is made at once."""
        return self._own_code and isinstance(worker.process, Forked)

    def _is_used_up(self, worker: _Process, memory: int) -> bool:
        if self._recycle_after != "auto":
            return worker.tasks >= self._recycle_after
        if isinstance(worker.process, subprocess.Popen):
            return worker.tasks >= _TASKS
        if worker.tasks == _SETTLED:
            worker.settled = memory
        return worker.settled is not None and memory - worker.settled > max(_GROWTH * worker.settled, _LEAST_GROWTH)

    # ---- processes ----------------------------------------------------------------------------------------------

    def _bury(self, worker: _Process, messages: list[Message]) -> None:
        reason, log = worker.cause or _cause_of_death(worker), _tail(worker)
        code = worker.process.returncode or 0
        deaths = 0 if worker.ready else worker.early_deaths + 1
        killed = code < 0 and not worker.cause
        name = worker.slot.name
        if deaths < (_KILLS_BEFORE_READY if killed else _ENDS_BEFORE_READY):
            fault = self._images_gone() if code == -signal.SIGBUS else ""
            if fault:
                trial = worker.task.trial.number if isinstance(worker.task, Train) else None
                messages.append(MachineFailed(name, fault, trial))
            else:
                messages.append(Died(name, reason, log))
            self._replace(worker, early_deaths=deaths)
            return
        _end(worker)
        del self._processes[name]
        messages.append(Died(name, f"cannot start, it {reason}; its log is {_log(worker)[0]}", log, lost=True))

    def _images_gone(self) -> str:
        """What is wrong with the files that workers map into memory; "" where nothing is."""
        for path, size in self._sizes.items():
            try:
                if path.stat().st_size != size:
                    return f"the sweep's images were changed by something else ({path})"
                # Read, not mapped: that could end this process, too.
                with open(path, "rb") as file:
                    while file.read(_CHUNK):
                        pass
            except OSError as error:
                return f"the sweep's images cannot be read ({path}: {error.strerror})"
        return ""

    def _replace(self, worker: _Process, early_deaths: int = 0) -> None:
        # A GPU's memory is needed at once; another process can be made while the system clears the old one away.
        on_gpu = worker.slot.gpu is not None
        if on_gpu:
            _end(worker)
        self._processes[worker.slot.name] = self._start(worker.slot, early_deaths)
        if not on_gpu:
            _end(worker)

    def _start(self, slot: Slot, early_deaths: int = 0) -> _Process:
        log = self._logs / f"{slot.name}.log"
        with contextlib.ExitStack() as cleanup:
            try:
                break_hard_links(log)
                output = cleanup.enter_context(open(log, "ab"))
            except OSError as error:
                raise _no_log(log, error) from error
            try:
                ours, theirs = map(cleanup.enter_context, socket.socketpair())
                process = self._process(slot, theirs, output)
                channel = Channel(ours.dup())
            except OSError as error:
                raise MachineError(
                    f"workers: {slot.name}: no process can be started ({error.strerror}); look at the limits on "
                    "processes, open files and memory, then resume"
                ) from error
        worker = _Process(slot, process, channel, log, early_deaths=early_deaths, log_start=_size(log))
        about = {"threads": slot.threads, "gpu": slot.gpu is not None, "custom_code": self._own_code}
        _send(worker, {"task": "set up", "driver": os.getpid(), **about})
        if self._data is not None:
            _send(worker, {"task": "open", "data": str(self._data)})
        return worker

    def _process(self, slot: Slot, theirs: socket.socket, output: IO[bytes]) -> subprocess.Popen[bytes] | Forked:
        environment = {**_environment(slot, self._backend), orphans.MARK: self._mark}
        # Not on a GPU: what CUDA's libraries do as they are imported need not survive a fork, and was never tried.
        if slot.gpu is None and forkserver.possible():
            if self._server is None or self._server.gone():
                self._server = ForkServer(environment, self._logs / "server.log", custom_code=self._own_code)
            return self._server.fork(theirs, output)
        return orphans.Leader(
            [sys.executable, "-m", "mnist_sweep.workers.process", str(theirs.fileno())],
            env=environment,
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
        worker.channel.send(message)
    except GarbledError as error:
        _kill(worker, str(error))


def _kill(worker: _Process, cause: str) -> None:
    """Ends a process; `poll` tells of its death."""
    worker.cause = worker.cause or cause
    worker.process.kill()


def _end(worker: _Process) -> None:
    # Before its socket is closed, by which it would see that the driver is gone.
    if worker.process.poll() is None:
        worker.process.kill()
    worker.process.wait()
    worker.channel.close()


def _check(worker: _Process, message: Message) -> None:
    """Refuses a message that has no place where the worker is.

    Raises:
        GarbledError: The message is not about the worker's task, or was said before.
    """
    task = worker.task
    if isinstance(message, Ready):
        fits = task is None and not worker.idle
    elif isinstance(message, MachineFailed):
        fits = not worker.idle
    elif isinstance(message, Evaluated | Packaged | Discovered):
        fits = isinstance(task, _ASKED[type(message)])
    else:
        assert isinstance(message, Reported | Executed | Done)
        fits = isinstance(task, Train) and message.trial == task.trial.number
        if isinstance(task, Train) and isinstance(message, Reported | Executed):
            epoch = message.epoch if isinstance(message, Reported) else 1
            fits = fits and epoch <= task.trial.epochs and message.execution <= max(1, len(task.trial.executions))
            fits = fits and worker.said < (message.execution, epoch if isinstance(message, Reported) else math.inf)
    if not fits:
        raise GarbledError(f"sent a message that does not belong to its task ({type(message).__name__})")


def _failed(message: Message) -> bool:
    if isinstance(message, Evaluated | Packaged | Discovered):
        return bool(message.error)
    return isinstance(message, MachineFailed) or (isinstance(message, Done) and message.outcome.status is Status.FAILED)


def _cause_of_death(worker: _Process) -> str:
    code = worker.process.returncode
    if code is not None and code < 0:
        cause = f"was killed by {_signal(-code)}"
        return cause + (" (out of memory?)" if code == -signal.SIGKILL else "")
    lines = _tail(worker).strip().splitlines()
    return f"ended with exit code {code}" + (f" ({one_reason(lines[-1])})" if lines else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(worker: _Process) -> str:
    """The end of what a process has written since its last task began."""
    path, start = _log(worker)
    try:
        with open(path, "rb") as log:
            # Twice what is kept, as passwords are masked first, of which the beginning tells where they are.
            log.seek(max(start, _size(path) - 2 * LOG))
            return end_of_log(log.read(4 * LOG).decode(errors="replace"))
    except OSError:
        return ""


def _log(worker: _Process) -> tuple[Path, int]:
    """The file with a process's output, and where its task's begins; the server's for a process that never was."""
    if isinstance(worker.process, Forked) and worker.process.pid is None and not worker.ready:
        return worker.process.server.log, worker.process.server.log_start
    return worker.log, worker.log_start


def _no_log(path: Path, error: OSError) -> MachineError:
    return MachineError(f"workers: {path}: cannot be written ({error.strerror}); mend that, then resume")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sizes(data: Path | None) -> dict[Path, int]:
    return {} if data is None else {path: _size(path) for path in sorted(data.glob("*.npy"))}
