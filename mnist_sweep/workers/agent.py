"""The driver's agent on a node: runs the node's own worker pool, and moves the files of its tasks.

It knows nothing about how its messages travel. A transport (`on_ray.py`) hands it the driver's calls and takes what it
sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import queue
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mnist_sweep.common.errors import MachineError, UserError, machine_fault
from mnist_sweep.common.files import make_folder, remove_tree, write_whole
from mnist_sweep.common.text import first_line
from mnist_sweep.common.versions import versions
from mnist_sweep.config.settings import WorkersConfig
from mnist_sweep.journal.files import ARRAYS, CODE, LOCK, WORKERS, code_folder
from mnist_sweep.workers import base, devices, wire
from mnist_sweep.workers.carrying import Carrier, Files, files_in, signature
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.figures import Figures
from mnist_sweep.workers.local import LocalWorkers, with_code

_PREFIX = "mnist_sweep-node-"
# Seconds that the import of a user's module may take on a busy node.
_LONGEST_IMPORT = 300.0
# Seconds between two looks for processes that have died silently.
_LOOK = 0.5


@dataclass(frozen=True)
class Job:
    """What a sweep tells each node.

    Attributes:
        config: The group `workers`.
        most: The most trials that can run at once; None if unknown.
        custom_code: Whether the tasks run user code.
        backend: The Keras backend.
        carrier: How files travel.
        module: The user's module, which each node must be able to import; "" if there is none, or it is known.
        code: The modules that the sweep carries: their files, by name.
        measures: Whether to measure what the slots use.
    """

    config: WorkersConfig
    most: int | None
    custom_code: bool
    backend: str
    carrier: Carrier
    module: str = ""
    code: Mapping[str, bytes] = field(default_factory=dict)
    measures: bool = False


def carried_code(sweep: Path) -> dict[str, bytes]:
    """Returns the modules that a sweep carries, for `Job.code`."""
    folder = code_folder(sweep)
    return {} if folder is None else {path.name: path.read_bytes() for path in folder.glob("*.py")}


@dataclass(frozen=True)
class Call:
    """What the driver wants: a method of the agent's pool, or `start`, `set_up` and `end`.

    Attributes:
        method: The method.
        arguments: Its arguments.
        files: The files that a task needs, by their names relative to the sweep's folder.
    """

    method: Literal["start", "set_up", "end", "open", "retire", "submit", "stop", "go_on", "kill"]
    arguments: tuple[Any, ...] = ()
    files: Files = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """What an agent sends."""


@dataclass(frozen=True)
class Hello(Sent):
    """The first thing that an agent sends.

    Attributes:
        slots: The slots that the node can offer.
        about: What the user should know about the node: its host, cores, processor and GPUs.
        versions: The versions of the software that a result depends on.
        missing: Why the user's module cannot be imported; "" if it can.
    """

    slots: list[Slot]
    about: dict[str, str]
    versions: dict[str, str]
    missing: str = ""


@dataclass(frozen=True)
class Passed(Sent):
    """A message of a worker, with the files that it has written before.

    Attributes:
        message: The message; its slot has the node's own name.
        files: The files, by their names relative to the sweep's folder.
    """

    message: base.Message
    files: Files


@dataclass(frozen=True)
class Said(Sent):
    """Something that the user should know."""

    text: str


@dataclass(frozen=True)
class Measured(Sent):
    """What the node's slots use; these have the node's own names."""

    figures: list[Figures]


@dataclass(frozen=True)
class Failed(Sent):
    """The node cannot go on; nothing follows."""

    reason: str


class _Task:
    """A task, and the folder that stands for the sweep's folder while it runs."""

    def __init__(self, task: base.Task, root: Path, carrier: Carrier) -> None:
        self.root, self._carrier = root, carrier
        self._known: dict[str, tuple[int, int, int]] = {}
        self._output = base.output_of(task)
        self.task = base.moved(task, lambda path: str(root / path))

    def bring(self, files: Files) -> None:
        self._carrier.unpack(files, self.root)
        for path in files_in(self.root):
            self._known[path.relative_to(self.root).as_posix()] = signature(path)

    def new_files(self) -> Files:
        """Returns the files that the worker has written since the last call."""
        found: dict[str, Any] = {}
        for path in files_in(self.root / self._output) if self._output is not None else ():
            name = path.relative_to(self.root).as_posix()
            try:
                now = signature(path)
                if self._known.get(name) != now:
                    found[name] = self._carrier.pack(path)
                    self._known[name] = now
            except FileNotFoundError:
                # User code has removed it.
                continue
        return found


class Agent:
    """Runs a pool of workers on this node for a driver elsewhere."""

    def __init__(self, job: Job, send: Callable[[Sent], None], usable: int | None = None) -> None:
        """Takes what the sweep tells, and makes the folder for its files on this node.

        Args:
            job: What the sweep tells.
            send: Takes what the driver must get; called by the thread that runs `run`.
            usable: How many CPU cores to use; None for all of them.
        """
        self._job, self._send, self._usable = job, send, usable
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._waker = wire.Waker()
        _remove_left_behind()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # As long as this process lives, in whatever way it ends.
        self._lock = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for name, content in job.code.items():
            make_folder(self._folder / CODE)
            write_whole(self._folder / CODE / Path(name).name, content, flush=False)
        self._workers: LocalWorkers | None = None
        self._tasks: dict[str, _Task] = {}
        self._number = 0

    def call(self, call: Call) -> None:
        """Takes what the driver wants; may be called by any thread."""
        self._calls.put(call)
        self._waker.wake()

    def run(self) -> None:
        """Does what the driver wants until it says `end`, or the node cannot go on."""
        try:
            job = self._job
            slots = devices.slots(job.config, job.most, self._usable)
            missing = job.module and _missing(job.module, job.backend, code_folder(self._folder))
            self._send(Hello(slots, _about(), versions(), missing))
            while self._turn():
                pass
        except UserError as error:
            self._send(Failed(str(error)))
        except Exception as error:
            self._send(Failed(f"failed ({type(error).__name__}: {first_line(error)})"))
        finally:
            self.close()

    def close(self) -> None:
        """Kills all processes, and removes the files on this node."""
        if self._workers is not None:
            self._workers.close()
        remove_tree(self._folder)
        os.close(self._lock)

    # ---- from the driver ----------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        if self._workers is None:
            return self._do(self._calls.get())
        self._waker.clear()
        while not self._calls.empty():
            if not self._do(self._calls.get()):
                return False
        for message in self._workers.poll(_LOOK):
            self._pass_on(message)
        if figures := self._workers.measured():
            self._send(Measured(figures))
        return True

    def _do(self, call: Call) -> bool:
        """Does one call; returns False at the end."""
        if call.method == "end":
            return False
        if call.method == "start":
            job = self._job
            self._workers = LocalWorkers(
                list(call.arguments),
                None,
                self._folder / WORKERS,
                job.config.recycle_after,
                custom_code=job.custom_code,
                backend=job.backend,
                say=lambda text: self._send(Said(text)),
                waker=self._waker,
                code=code_folder(self._folder),
                measures=job.measures,
            )
            return True
        assert self._workers is not None
        if call.method == "set_up":
            arrays = self._folder / ARRAYS
            arrays.mkdir()
            self._job.carrier.unpack(call.files, arrays)
            self._workers.set_up(arrays)
        elif call.method == "open":
            self._workers.open(*call.arguments)
        elif call.arguments[0] in self._workers.slots():
            # Otherwise the slot is lost, and the driver does not know it yet.
            if call.method == "submit":
                slot, task = call.arguments
                self._submit(slot, task, call.files)
            else:
                getattr(self._workers, call.method)(*call.arguments)
        return True

    def _submit(self, slot: str, task: base.Task, files: Files) -> None:
        assert self._workers is not None
        self._number += 1
        root = self._folder / f"task{self._number}"
        try:
            root.mkdir()
            mine = _Task(task, root, self._job.carrier)
            mine.bring(files)
        except (OSError, MachineError) as error:
            remove_tree(root)
            self._send(Passed(_fault(slot, task, error), {}))
            return
        self._tasks[slot] = mine
        self._workers.submit(slot, mine.task)

    # ---- to the driver ------------------------------------------------------------------------------------------

    def _pass_on(self, message: base.Message) -> None:
        task = self._tasks.get(message.slot)
        if task is not None:
            message = _as_in_sweep(message, f"{task.root}/")
        try:
            files = task.new_files() if task is not None and not isinstance(message, base.Died) else {}
            self._send(Passed(message, files))
        except (OSError, MachineError) as error:
            assert task is not None
            self._send(Passed(_fault(message.slot, task.task, error), {}))
        if task is not None and not isinstance(message, base.Reported | base.Executed):
            del self._tasks[message.slot]
            remove_tree(task.root)


def _as_in_sweep(message: base.Message, root: str) -> base.Message:
    """Returns a message in whose texts the files have the names that they have in the sweep's folder."""
    match message:
        case base.Done():
            outcome = replace(message.outcome, reason=message.outcome.reason.replace(root, ""))
            return replace(message, outcome=outcome, log=message.log.replace(root, ""))
        case base.Evaluated() | base.Packaged() | base.Discovered():
            return replace(message, error=message.error.replace(root, ""))
    return message


def _fault(slot: str, task: base.Task, error: Exception) -> base.Message:
    trial = task.trial.number if isinstance(task, base.Train) else None
    return base.MachineFailed(slot, machine_fault(error) or first_line(error), trial)


def _remove_left_behind() -> None:
    """Removes the folders of agents that were killed on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                with open(folder / LOCK, "rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(folder)


def _missing(module: str, backend: str, carried: Path | None) -> str:
    """Returns why a module of the user, or one that it needs, cannot be imported on this node; "" if it can."""
    code = "import importlib, sys; importlib.import_module(sys.argv[1])"
    environment = {**with_code(carried), "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, module],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_IMPORT,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    last = (done.stderr.strip().splitlines() or [""])[-1]
    # Other errors are the module's own, and are told by the check of the user's function.
    return base.one_reason(last) if done.returncode and last.startswith(("ModuleNotFoundError", "ImportError")) else ""


def _about() -> dict[str, str]:
    found = {"host": platform.node(), "processor": _processor(), "cores": str(devices.cores())}
    names = [name for gpu in devices.visible_gpus() if (name := devices.name_of(gpu))]
    return {**found, **({"gpus": ", ".join(names)} if names else {})}


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
