"""What the slots use while they train: CPU, memory, and GPU."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from mnist_sweep.common.text import kind_and_line
from mnist_sweep.workers import devices
from mnist_sweep.workers.devices import GpuReading, Slot

_LOG = logging.getLogger(__name__)
# Seconds between two measurements.
EVERY = 2.0
# Measurements between two looks for processes that the workers have started, as that reads all of the machine's.
_LOOKS = 5


class Use(NamedTuple):
    """A slot, the worker process that it has, and the trial that this trains; None without one."""

    slot: Slot
    process: int | None
    trial: int | None


@dataclass(frozen=True)
class Figures:
    """What a slot uses; None for what is not known.

    Attributes:
        slot: The slot's name.
        device: Where it is: `GPU 0`, or `2 CPU cores`.
        trial: The trial that it trains.
        cpu: The processor time of the worker's processes since the last measurement, in percent of the slot's cores.
        memory: The bytes of memory of the worker's processes. What several of them share counts in each.
        memory_total: The bytes of memory of its machine.
        gpu: How much of the last moments its GPU computed, for any program, in percent.
        gpu_memory: The bytes of the GPU's memory that any program uses.
        gpu_memory_total: The bytes of memory of the GPU.
        watts: What the GPU draws.
    """

    slot: str
    device: str
    trial: int | None = None
    cpu: float | None = None
    memory: int | None = None
    memory_total: int | None = None
    gpu: float | None = None
    gpu_memory: int | None = None
    gpu_memory_total: int | None = None
    watts: float | None = None


class Gauge:
    """Measures what the slots use, in a thread of its own, which starts with the first measurement."""

    def __init__(self, read_gpu: Callable[[str], GpuReading | None] = devices.read_gpu, every: float = EVERY) -> None:
        """Measures nothing yet.

        Args:
            read_gpu: Reads a GPU, as CUDA_VISIBLE_DEVICES names it.
            every: Seconds between two measurements.
        """
        self._read_gpu, self._every = read_gpu, every
        self._trees = _Trees()
        self._wanted: queue.SimpleQueue[list[Use] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._due, self._measures = 0.0, False
        self._found: dict[str, Figures] = {}
        self._lock = threading.Lock()

    def tick(self, uses: Callable[[], list[Use]]) -> None:
        """Begins a measurement if it is time for one. Called again and again.

        Args:
            uses: Returns what to measure.
        """
        now = time.monotonic()
        if now < self._due or self._measures:
            return
        self._due, self._measures = now + self._every, True
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="figures", daemon=True)
            self._thread.start()
        self._wanted.put(uses())

    def take(self) -> list[Figures]:
        """Returns the figures that are new since the last call, without waiting."""
        if not self._found:
            return []
        with self._lock:
            found, self._found = self._found, {}
        return list(found.values())

    def close(self) -> None:
        """Ends the thread, without waiting for it."""
        self._wanted.put(None)

    def _work(self) -> None:
        with devices.driver():
            while (uses := self._wanted.get()) is not None:
                found: list[Figures] = []
                try:
                    found = self._measure(uses)
                except Exception as error:
                    # Such as an old driver of the GPU. The sweep does not need the figures.
                    _LOG.warning("what the slots use cannot be measured: %s", kind_and_line(error))
                    self._due = math.inf
                with self._lock:
                    self._found |= {one.slot: one for one in found}
                self._measures = False

    def _measure(self, uses: Sequence[Use]) -> list[Figures]:
        trees = self._trees.read([use.process for use in uses if use.process is not None])
        total = int(psutil.virtual_memory().total)
        gpus = {gpu: self._read_gpu(gpu) for gpu in {use.slot.gpu for use in uses} if gpu is not None}
        found = []
        for use in uses:
            cpu, memory = trees.get(use.process or 0, (None, None))
            gpu = None if use.slot.gpu is None else gpus[use.slot.gpu]
            found.append(
                Figures(
                    use.slot.name,
                    _device(use.slot),
                    use.trial,
                    None if cpu is None else 100 * cpu / max(1, use.slot.threads),
                    memory,
                    total,
                    None if gpu is None else gpu.use,
                    None if gpu is None else gpu.used,
                    None if gpu is None else gpu.total,
                    None if gpu is None else gpu.watts,
                )
            )
        return found


def _device(slot: Slot) -> str:
    if slot.gpu is not None:
        # The number by which nvidia-smi knows it, or, if it was chosen by its UUID, that among the chosen ones.
        number = slot.gpu if slot.gpu.isdigit() else devices.device(slot.name).removeprefix("gpu")
        return f"GPU {number}"
    return f"{slot.threads} CPU core{'' if slot.threads == 1 else 's'}"


class _Trees:
    """Measures processes, each together with those that it has started."""

    def __init__(self) -> None:
        self._reads = 0
        self._below: dict[int, list[int]] = {}
        self._processes: dict[int, psutil.Process] = {}
        # When each process was read last, and the processor time that it had used then.
        self._before: dict[int, tuple[float, float]] = {}

    def read(self, roots: Sequence[int]) -> dict[int, tuple[float, int]]:
        """Returns for each process how many cores it uses, and its bytes of memory; nothing for those that are gone."""
        if self._reads % _LOOKS == 0:
            self._below = _below(roots)
        self._reads += 1
        every = {pid for root in roots for pid in (root, *self._below.get(root, ()))}
        read = {pid: one for pid in every if (one := self._read(pid)) is not None}
        for gone in self._processes.keys() - read.keys():
            del self._processes[gone]
            self._before.pop(gone, None)
        found = {}
        for root in roots:
            if root in read:
                parts = [read[pid] for pid in (root, *self._below.get(root, ())) if pid in read]
                found[root] = (sum(cores for cores, _ in parts), sum(memory for _, memory in parts))
        return found

    def _read(self, pid: int) -> tuple[float, int] | None:
        try:
            if pid not in self._processes:
                process = self._processes[pid] = psutil.Process(pid)
                # Its first figure is the mean since its start.
                age = max(0.0, time.time() - process.create_time())
                self._before[pid] = (time.monotonic() - age, 0.0)
            process = self._processes[pid]
            times, memory = process.cpu_times(), process.memory_info().rss
        except psutil.Error:
            return None
        now, used = time.monotonic(), times.user + times.system
        then, before = self._before[pid]
        self._before[pid] = (now, used)
        return max(0.0, used - before) / max(now - then, 1e-3), int(memory)


def _below(roots: Iterable[int]) -> dict[int, list[int]]:
    """Returns the ids of the processes that each process has started, and those that these have, with one look."""
    children = defaultdict[int, list[int]](list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children[process.ppid()].append(process.pid)
    found: dict[int, list[int]] = {}
    for root in roots:
        below = list(children.get(root, ()))
        for pid in below:
            below += children.get(pid, ())
        if below:
            found[root] = below
    return found
