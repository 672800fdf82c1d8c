"""A pool of persistent worker processes on this machine, one for each slot."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

from mnist_sweep.common.errors import MachineError
from mnist_sweep.common.files import break_hard_links, make_folder
from mnist_sweep.journal.files import COMPILED
from mnist_sweep.workers import base, forkserver, orphans, wire
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.figures import Figures, Gauge, Use
from mnist_sweep.workers.forkserver import ForkedProcess, ForkServer
from mnist_sweep.workers.handle import WorkerHandle, file_size
from mnist_sweep.workers.wire import DriverChannel

# How often to look for dead processes whose socket something else keeps open.
_LOOK = 0.5
# Deaths in a row before a slot's process is ready, after which the slot is given up. A process that ends by itself will
# do it again; one that is killed may only have been unlucky.
_ENDS_BEFORE_READY = 2
_KILLS_BEFORE_READY = 10
# Seconds in which a process must become ready. TensorFlow takes 10, several times as long on a busy machine.
_LONGEST_START = 600.0
# Seconds from the end of a worker's socket to the end of its process; how often to look in that time.
_DISCONNECTED, _LOOK_AGAIN = 5.0, 0.01
_CHUNK = 2**20


class LocalWorkers:
    """Worker processes that import Keras once, keep the data in memory, and train trial after trial.

    On CPU they are forked from a process that has imported Keras, so that starting another takes a tenth of a second.

    Trials are isolated from each other: a process in which something has failed is not used again, and a user-defined
    model has a process to itself where forking is possible. A process that dies is replaced at once. The memory of a
    process grows by some megabytes with each trial, because of TensorFlow; it is replaced when that is too much.

    The driver is isolated, too, whatever user code does to a worker's end of the socket: a worker that sends something
    that cannot be understood is killed and counts as dead.
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
        say: Callable[[str], None] = lambda _: None,
        waker: wire.Waker | None = None,
        code: Path | None = None,
        measures: bool = False,
    ) -> None:
        """Starts a process for each slot. They become ready some seconds later, once there is data.

        Args:
            slots: Where to run; slots without a GPU must have the same number of threads.
            data: The folder that `Dataset.save` wrote; None if `set_up` will name it.
            logs: The folder for the output of the processes; created if it does not exist.
            recycle_after: Tasks before a process is replaced; `auto` to replace it when its memory has grown.
            custom_code: Whether the tasks run user code, which may use any part of Keras.
            backend: The Keras backend.
            say: Prints what a process wants the user to know while it works.
            waker: Lets another thread end a `poll`.
            code: A folder from which the processes can import modules besides; None if there is none.
            measures: Whether to measure what the slots use, while `poll` is called.

        Raises:
            MachineError: No process can be started.
        """
        self._data, self._logs, self._recycle_after = data, logs, recycle_after
        self._custom_code, self._backend, self._code = custom_code, backend, code
        self._say, self._said, self._waker = say, set[str](), waker
        self._gauge = Gauge() if measures else None
        # Not from Python's `random`, whose state belongs to the caller.
        self._mark = uuid.uuid4().hex
        self._sizes = _file_sizes(data)
        self._put_back: list[base.Message] = []
        self._broken: MachineError | None = None
        self._server: ForkServer | None = None
        self._workers: dict[str, WorkerHandle] = {}
        try:
            logs.parent.mkdir(parents=True, exist_ok=True)
            make_folder(logs)
        except OSError as error:
            raise _log_error(logs, error) from error
        try:
            for slot in slots:
                self._workers[slot.name] = self._start(slot)
        except BaseException:
            self.close()
            raise

    def set_up(self, data: Path) -> None:
        """Sends the processes the place of the data, which they wait for.

        Args:
            data: The folder that `Dataset.save` wrote.
        """
        self._data, self._sizes = data, _file_sizes(data)
        for worker in self._workers.values():
            worker.started = time.monotonic()
            worker.send({"task": "open", "data": str(data)})

    def places(self) -> list[Slot]:
        """Returns the slots."""
        return [worker.slot for worker in self._workers.values()]

    def nodes(self) -> dict[str, str]:
        """Returns nothing: all slots are on this machine."""
        return {}

    def slots(self) -> list[str]:
        """Returns the slots' names."""
        return list(self._workers)

    def open(self, slot: Slot) -> None:
        """Adds a slot and starts its process, which becomes ready some seconds later.

        Raises:
            MachineError: No process can be started.
        """
        self._workers[slot.name] = self._start(slot)

    def retire(self, slot: str) -> Slot:
        """Removes a slot, kills its process, and returns it."""
        worker = self._workers.pop(slot)
        worker.end()
        return worker.slot

    def submit(self, slot: str, task: base.Task) -> None:
        """Gives a task to a slot that is ready."""
        forkserver.reap()
        self._workers[slot].submit(task)

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Asks a slot to end its trial after the current epoch."""
        self._workers[slot].send({"task": "stop", "trial": trial, "reason": reason})

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a slot continue that waits after an epoch of its trial."""
        message = {"task": "continue", "trial": trial, "execution": execution, "epoch": epoch}
        self._workers[slot].send(message)

    def poll(self, timeout: float) -> list[base.Message]:
        """Waits up to `timeout` seconds for messages.

        Raises:
            MachineError: A process has ended, and no other can be started in its place.
        """
        if self._broken is not None:
            raise self._broken
        if self._gauge is not None:
            self._gauge.tick(self._uses)
        messages, self._put_back = self._put_back, []
        try:
            self._listen(timeout, messages)
        except MachineError as error:
            if not messages:
                raise
            # The messages that arrived before come first.
            self._broken = error
        return messages

    def put_back(self, messages: list[base.Message]) -> None:
        """Makes the next poll return messages again, for other code that expects them."""
        self._put_back += messages

    def kill(self, slot: str, reason: str) -> None:
        """Kills a slot's process."""
        self._workers[slot].kill(reason)

    def close(self) -> None:
        """Kills all processes, and those that they have started."""
        if self._gauge is not None:
            self._gauge.close()
        if self._server is not None:
            self._server.close()
        for worker in self._workers.values():
            worker.end()
        self._workers = {}
        orphans.kill_marked(self._mark)
        forkserver.reap()

    def measured(self) -> list[Figures]:
        """Returns what the slots use, as far as it was measured since the last call."""
        return [] if self._gauge is None else self._gauge.take()

    def _uses(self) -> list[Use]:
        return [Use(worker.slot, worker.process.pid, worker.trial) for worker in self._workers.values()]

    def pids(self) -> dict[str, int]:
        """Returns the process id of each slot that has a process."""
        for worker in self._workers.values():
            worker.process.poll()
        return {name: w.process.pid for name, w in self._workers.items() if w.process.pid is not None}

    # ---- messages -----------------------------------------------------------------------------------------------

    def _listen(self, timeout: float, messages: list[base.Message]) -> None:
        until = time.monotonic() + timeout
        while not messages:
            rest = max(0.0, until - time.monotonic())
            disconnected = any(worker.channel.ended for worker in self._workers.values())
            workers = {worker.channel: worker for worker in self._workers.values()}
            longest = min(rest, _LOOK_AGAIN if disconnected else _LOOK)
            for channel in wire.wait(list(workers), longest, self._waker):
                self._receive(workers[channel], messages)
            for worker in list(self._workers.values()):
                self._look_after(worker, messages)
            if rest == 0 or self._waker is not None:
                break

    def _look_after(self, worker: WorkerHandle, messages: list[base.Message]) -> None:
        """Notices a process that has died, and kills one that hangs or is disconnected."""
        now = time.monotonic()
        if worker.process.poll() is not None:
            self._receive(worker, messages, last=True)
            if self._has(worker):
                self._bury(worker, messages)
        elif not worker.ready and now - worker.started > _LONGEST_START:
            worker.kill(f"did not start within {_LONGEST_START:.0f} s")
        elif worker.channel.ended:
            worker.disconnected = min(worker.disconnected, now)
            if now - worker.disconnected > _DISCONNECTED:
                worker.kill("has closed its connection to the driver")

    def _has(self, worker: WorkerHandle) -> bool:
        return self._workers.get(worker.slot.name) is worker

    def _receive(self, worker: WorkerHandle, messages: list[base.Message], *, last: bool = False) -> None:
        try:
            for message in worker.receive(last=last):
                self._take(worker, message, messages)
                if not self._has(worker):
                    return
        except base.GarbledError as error:
            worker.channel.ended = True
            worker.kill(str(error))

    def _take(self, worker: WorkerHandle, message: base.Message, messages: list[base.Message]) -> None:
        """Takes a message; replaces a process that should not have another task."""
        if isinstance(message, base.MachineFailed):
            message = replace(message, trial=worker.trial)
        elif isinstance(message, base.Done) and message.outcome.failed:
            message = replace(message, log=worker.end_of_log())
        worker.record(message)
        if isinstance(message, base.Noted):
            lines = worker.end_of_log().strip().splitlines()[-1:]
            if message.reason in self._said:
                return
            self._said.add(message.reason)
            self._say(message.reason + "".join(f"; the end of its output: {base.one_reason(line)}" for line in lines))
            return
        if isinstance(message, base.Ready) and worker.is_used_up(message.memory, self._recycle_after):
            # Its successor will be ready instead.
            self._replace(worker)
            return
        messages.append(message)
        if isinstance(message, base.MachineFailed) and not worker.ready:
            # It counts as dead: the next process may fail in the same way, and this must end some time.
            worker.channel.ended = True
            worker.kill(f"hit a machine fault: {message.reason}")
        elif _has_failed(message) or (isinstance(message, base.Done | base.Discovered) and self._is_tainted(worker)):
            self._replace(worker)

    def _is_tainted(self, worker: WorkerHandle) -> bool:
        """Returns whether user code may have changed a process, and another one is quickly made."""
        return self._custom_code and isinstance(worker.process, ForkedProcess)

    # ---- processes ----------------------------------------------------------------------------------------------

    def _bury(self, worker: WorkerHandle, messages: list[base.Message]) -> None:
        """Reports a death; starts another process, or gives the slot up."""
        reason, log = worker.cause_of_death(), worker.end_of_log()
        code = worker.process.returncode or 0
        deaths = 0 if worker.ready else worker.early_deaths + 1
        killed = code < 0 and not worker.kill_reason
        name = worker.slot.name
        if deaths < (_KILLS_BEFORE_READY if killed else _ENDS_BEFORE_READY):
            fault = self._check_images() if code == -signal.SIGBUS else ""
            messages.append(base.MachineFailed(name, fault, worker.trial) if fault else base.Died(name, reason, log))
            self._replace(worker, early_deaths=deaths)
            return
        worker.end()
        del self._workers[name]
        messages.append(
            base.Died(name, f"cannot start: it {reason}; see its log {worker.find_log()[0]}", log, lost=True)
        )

    def _check_images(self) -> str:
        """Returns what is wrong with the files that workers map into memory; "" if nothing is."""
        for path, size in self._sizes.items():
            try:
                if path.stat().st_size != size:
                    return f"another program has changed the sweep's images ({path})"
                # Read, not mapped: a fault in a mapped file would kill this process, too.
                with open(path, "rb") as file:
                    while file.read(_CHUNK):
                        pass
            except OSError as error:
                return f"the sweep's images cannot be read ({path}: {error.strerror})"
        return ""

    def _replace(self, worker: WorkerHandle, early_deaths: int = 0) -> None:
        # A GPU's memory is needed at once. On CPU, a new process is made while the system clears the old one away.
        on_gpu = worker.slot.gpu is not None
        if on_gpu:
            worker.end()
        self._workers[worker.slot.name] = self._start(worker.slot, early_deaths)
        if not on_gpu:
            worker.end()

    def _start(self, slot: Slot, early_deaths: int = 0) -> WorkerHandle:
        log = self._logs / f"{slot.name}.log"
        with contextlib.ExitStack() as cleanup:
            try:
                break_hard_links(log)
                output = cleanup.enter_context(open(log, "ab"))
            except OSError as error:
                raise _log_error(log, error) from error
            try:
                ours, theirs = map(cleanup.enter_context, socket.socketpair())
                process = self._start_process(slot, theirs, output)
                channel = DriverChannel(ours.dup())
            except OSError as error:
                raise MachineError(
                    f"workers: {slot.name}: no process can be started ({error.strerror}); check the limits on "
                    "processes, open files and memory, then resume"
                ) from error
        worker = WorkerHandle(slot, process, channel, log, early_deaths=early_deaths, log_start=file_size(log))
        about = {"threads": slot.threads, "gpu": slot.gpu is not None, "custom_code": self._custom_code}
        worker.send({"task": "set up", "driver": os.getpid(), **about})
        if self._data is not None:
            worker.send({"task": "open", "data": str(self._data)})
        return worker

    def _start_process(
        self, slot: Slot, theirs: socket.socket, output: IO[bytes]
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        environment = {**_environment(slot, self._backend, self._code), orphans.MARK: self._mark}
        if self._backend == "jax":
            # So that a process that replaces another one need not compile what that one has compiled.
            environment |= {
                "JAX_COMPILATION_CACHE_DIR": str(self._logs.parent.absolute() / COMPILED),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
        # Not on a GPU: CUDA's libraries may not survive a fork after their import.
        if slot.gpu is None and forkserver.is_supported():
            if self._server is None or self._server.has_ended():
                self._server = ForkServer(environment, self._logs / "server.log", custom_code=self._custom_code)
            return self._server.fork(theirs, output)
        module = "mnist_sweep.workers.process"
        return forkserver.start_module(orphans.GroupLeader, module, theirs, environment, output)


def with_code(folder: Path | None) -> dict[str, str]:
    """Returns this process's environment, for one that can also import modules from a folder."""
    environment = dict(os.environ)
    if folder is not None:
        paths = (str(folder.absolute()), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _environment(slot: Slot, backend: str, code: Path | None) -> dict[str, str]:
    # GPUs are numbered as nvidia-smi does it; by default CUDA starts with the fastest.
    unless_set = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {
        **unless_set,
        **with_code(code),
        "KERAS_BACKEND": backend,
        # "-1", as some versions of the GPU driver treat an empty value as unset.
        "CUDA_VISIBLE_DEVICES": slot.gpu or "-1",
        # Numeric libraries other than TensorFlow set the size of their thread pools by this.
        "OMP_NUM_THREADS": str(slot.threads),
    }


def _has_failed(message: base.Message) -> bool:
    if isinstance(message, base.Evaluated | base.Packaged | base.Discovered):
        return bool(message.error)
    if isinstance(message, base.Done):
        return message.outcome.failed
    return isinstance(message, base.MachineFailed)


def _log_error(path: Path, error: OSError) -> MachineError:
    return MachineError(f"workers: {path}: cannot be written ({error.strerror}); fix that, then resume")


def _file_sizes(data: Path | None) -> dict[Path, int]:
    return {} if data is None else {path: file_size(path) for path in sorted(data.glob("*.npy"))}
