"""Runs a command and measures it and all its descendants. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import machine

_PR_SET_CHILD_SUBREAPER = 36
# Seconds between two looks at the processes: usually, and when the workers' memory is recorded.
_INTERVAL, _WORKERS_INTERVAL = 0.2, 0.1
# The share of one core that reading the memory may take: the kernel walks all pages of each process.
_SHARE = 0.01
# Seconds that the processes which a command leaves behind have to end by themselves.
_GRACE = 10.0


@dataclass(frozen=True)
class Sample:
    """A worker's memory at one moment, in MiB.

    Attributes:
        time: In seconds since 1970.
        slot: The worker's slot, or `server` for the process that workers are forked from.
        pid: Its process.
        rss: Its resident memory.
        pss: The same, but a page that n processes share counts 1/n.
    """

    time: float
    slot: str
    pid: int
    rss: float
    pss: float


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        wall_seconds: From its start to its exit.
        cpu_seconds: User and system time of it and all its descendants.
        driver_seconds: User and system time of its own process.
        peak_mib: The most memory that all of them had together at one time; shared pages count once.
        others_seconds: Processor time that everything else on the machine took in the meantime, including the time
            lost to other virtual machines.
        left_behind: Processes that were still running some seconds after its exit, and were killed.
        samples: The memory of its workers, if that was asked for.
    """

    wall_seconds: float
    cpu_seconds: float
    driver_seconds: float
    peak_mib: float
    others_seconds: float
    left_behind: int
    samples: Sequence[Sample] = ()

    def figures(self) -> dict[str, Any]:
        """Returns everything but the samples, and the machine's cores, for a record."""
        return {**{k: v for k, v in vars(self).items() if k != "samples"}, "cores": machine.cores()}


def run(
    command: Sequence[str], folder: Path, env: Mapping[str, str], *, timeout: float, workers: bool = False
) -> Usage:
    """Runs a command to its end and measures it, one at a time.

    This process becomes the subreaper of its descendants (`prctl(2)`). A daemon that the command leaves behind is then
    a child of this process, which waits for it, and its processor time counts. The kernel's count for waited-for
    children misses those that their own parent did not wait for (most of Ray's). A sum over /proc, taken every 0.2 s,
    misses what each process did after the last look. Neither is ever too high, so the larger one counts.

    Memory is the sum of the processes' proportional set sizes (a page that n processes share counts 1/n for each),
    read every 0.2 s, or less often if that would take more than 1 % of a core.

    Args:
        command: The program and its arguments.
        folder: The working directory, which gets `log.txt` with the output.
        env: The whole environment, except for `TMPDIR`: it names a folder that is removed at the end, with a path
            short enough for Ray's sockets.
        timeout: Seconds, after which the command is killed.
        workers: Whether to record the memory of this program's workers, which takes some percent of a core.

    Raises:
        RuntimeError: The command failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    log = folder / "log.txt"
    busy, own, before = _busy(), time.process_time(), _children()
    with log.open("wb") as output, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**env, "TMPDIR": temporary},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        sampler = _Sampler(workers=workers)
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            # The process stays a zombie until `wait`, so that its processor time can be read.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            wall = time.perf_counter() - start
            driver = _seconds(psutil.Process(process.pid))
            timer.cancel()
            returncode = process.wait()
        except BaseException:
            timer.cancel()
            _end_descendants(0)
            raise
        left = _end_descendants(_GRACE)
        sampler.stop()
    if returncode:
        raise RuntimeError(f"ended with {returncode}: {' '.join(command)}\n{log} ends with\n{_tail(log)}")
    cpu = max(_children() - before, sampler.cpu_seconds)
    others = max(_busy() - busy - cpu - (time.process_time() - own), 0.0)
    return Usage(wall, cpu, driver, sampler.peak / 2**20, others, left, sampler.samples)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _busy() -> float:
    """Returns the processor seconds that the whole machine has been busy for since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class _Sampler:
    """Looks at this process's descendants again and again, in a thread."""

    def __init__(self, *, workers: bool) -> None:
        self.peak = 0.0
        self.samples: list[Sample] = []
        self._workers = workers
        self._seconds: dict[psutil.Process, float] = {}
        self._slots: dict[psutil.Process, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_seconds(self) -> float:
        """The processor time of all descendants seen, as of the last look at each."""
        return sum(self._seconds.values())

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        memory_next = 0.0
        while not self._ended.wait(_WORKERS_INTERVAL if self._workers else _INTERVAL):
            found = psutil.Process().children(recursive=True)
            for process in found:
                with contextlib.suppress(psutil.Error):
                    self._seconds[process] = _seconds(process)
                if self._workers:
                    with contextlib.suppress(psutil.Error, OSError):
                        self._look_at_worker(process)
            now = time.perf_counter()
            if now >= memory_next:
                used, total = time.thread_time(), 0
                for process in found:
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().pss
                self.peak = max(self.peak, total)
                memory_next = now + (time.thread_time() - used) / _SHARE

    def _look_at_worker(self, process: psutil.Process) -> None:
        if process not in self._slots:
            # Every worker writes to its slot's log, however it was started.
            log = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
            if log.parent.name != "workers" or log.suffix != ".log":
                return
            self._slots[process] = log.stem
        memory = process.memory_full_info()
        sample = Sample(time.time(), self._slots[process], process.pid, memory.rss / 2**20, memory.pss / 2**20)
        self.samples.append(sample)


def _end_descendants(grace: float) -> int:
    """Waits for all descendants to end, kills them after `grace` seconds, and returns how many had to be killed."""
    deadline = time.monotonic() + grace
    killed: set[psutil.Process] = set()
    while True:
        running = [process for process in psutil.Process().children(recursive=True) if _is_running(process)]
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not running:
            return len(killed)
        if time.monotonic() >= deadline:
            for process in running:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            killed.update(running)
        time.sleep(0.05)


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
