"""The machine and the versions that figures come from, and its use by processes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = (
    "mnist_sweep",
    "tensorflow",
    "keras",
    "keras-tuner",
    "optuna",
    "ray",
    "mlflow",
    "numpy",
    "jax",
    "torch",
)
_PR_SET_CHILD_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")
_INTERVAL = 0.2
# Of one core, for reading how much memory each process has: the kernel walks all of its pages.
_SHARE = 0.01
# Seconds for the processes that a command has left to end by themselves.
_GRACE = 10.0


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def gpus() -> list[str]:
    """The names of the NVIDIA GPUs, as far as CUDA_VISIBLE_DEVICES lets them be seen."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []


def describe() -> dict[str, Any]:
    """CPU, cores, memory, GPUs, versions and date, for a file of results."""
    info = _fields("/proc/cpuinfo")
    versions = {"python": platform.python_version(), "linux": platform.release()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": info.get("model name", platform.processor()),
        "cores": cores(),
        "memory_gib": round(int(_fields("/proc/meminfo")["MemTotal"].split()[0]) / 2**20, 1),
        "gpus": gpus(),
        "versions": versions,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def line(machine: Mapping[str, Any]) -> str:
    """The same in one line."""
    parts = [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB", *machine["gpus"]]
    versions = machine["versions"]
    parts += [
        f"{name} {versions[name]}"
        for name in ("tensorflow", "keras", "keras-tuner", "optuna", "ray")
        if name in versions
    ]
    return ", ".join([*parts, machine["date"][:10]])


def _fields(path: str) -> dict[str, str]:
    pairs = (text.partition(":") for text in Path(path).read_text().splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def commit() -> str | None:
    """Of this program, as git describes it; None outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip() or None


# ---- a command's use of it ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        returncode: Its exit status.
        wall_seconds: From its start to its exit.
        cpu_seconds: User and system time of it and all its descendants.
        peak_mib: The most memory that all of them had together at one time, shared pages counted once.
        left_behind: Processes that were still there some seconds after its exit, and were killed.
        others_seconds: Processor time that all else on the machine took meanwhile, that lost to other virtual machines
            included.
    """

    returncode: int
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    left_behind: int
    others_seconds: float


def measure(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, timeout: float) -> Usage:
    """Runs a command to its end, and measures it with all its descendants. Linux only; one at a time.

    This process becomes the subreaper of its descendants (`prctl(2)`), so that what the command leaves behind, a
    daemon of Ray's for instance, is still a child of this process: it is waited for, and its processor time counts.
    The kernel's count for waited-for children misses those that their own parent did not wait for (most of Ray's); a
    sum over /proc, taken every 0.2 s, misses what each process did after the last look. Neither is ever too high, so
    the larger counts.

    Memory is the sum of the processes' proportional set sizes (a page that n processes share counts 1/n for each),
    looked at every 0.2 s, or as seldom as it must be for that to take 1 % of a core.

    Args:
        command: With its arguments.
        cwd: Where it runs.
        env: Its whole environment.
        log: Where its output goes.
        timeout: Seconds, after which it is killed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    busy, own, before = _busy(), time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        sampler = _Sampler()
        try:
            returncode = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            returncode = process.wait()
        except BaseException:
            _end_all(0)
            raise
        finally:
            wall = time.perf_counter() - begun
        left = _end_all(_GRACE)
        sampler.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = max(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, sampler.cpu_seconds)
    others = _busy() - busy - cpu - (time.process_time() - own)
    return Usage(returncode, wall, cpu, sampler.peak / 2**20, left, max(others, 0.0))


def _busy() -> float:
    """Processor seconds that the whole machine has been busy for, since it started."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


class _Sampler:
    """Looks at this process's descendants from time to time, in a thread."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._ticks: dict[tuple[int, int], int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all descendants seen, as of the last look at each."""
        return sum(self._ticks.values()) / _TICK

    def stop(self) -> None:
        """Ends it."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        memory_next = 0.0
        while not self._ended.wait(_INTERVAL):
            found = descendants()
            for process in found:
                self._ticks[process.pid, process.started] = process.ticks
            now = time.perf_counter()
            if now >= memory_next:
                used = time.thread_time()
                self.peak = max(self.peak, sum(_memory(process.pid) for process in found))
                memory_next = now + (time.thread_time() - used) / _SHARE


@dataclass(frozen=True)
class Process:
    """One of /proc: its parent, when it was started and what it has worked, in clock ticks."""

    pid: int
    parent: int
    started: int
    ticks: int
    zombie: bool


def descendants() -> list[Process]:
    """This process's, by /proc."""
    processes: dict[int, list[Process]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The name, in brackets, may hold anything.
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                process = Process(
                    int(entry), int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]), fields[0] == "Z"
                )
                processes.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    parents = [os.getpid()]
    while parents:
        children = processes.get(parents.pop(), [])
        found += children
        parents += [child.pid for child in children]
    return found


def _memory(pid: int) -> float:
    """Bytes; 0 for a process that has gone."""
    with contextlib.suppress(OSError):
        for text in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if text.startswith("Pss:"):
                return int(text.split()[1]) * 1024
    return 0.0


def _end_all(grace: float) -> int:
    """Waits for all descendants to end.

    Args:
        grace: Seconds after which they are killed.

    Returns:
        How many had to be.
    """
    deadline = time.monotonic() + grace
    killed: set[int] = set()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        living = [process for process in descendants() if not process.zombie]
        if not living:
            break
        if time.monotonic() >= deadline:
            for process in living:
                with contextlib.suppress(OSError):
                    os.kill(process.pid, signal.SIGKILL)
                killed.add(process.pid)
        time.sleep(0.05)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return len(killed)
