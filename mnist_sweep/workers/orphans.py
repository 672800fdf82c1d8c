"""Ends the processes that user code starts in a worker: with the worker, or at latest with the pool.

Each worker leads a process group, in which most of its child processes stay. A process that leaves the group (a daemon,
a new session) still has the environment that it was started with, which contains a mark of the pool.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil

# The environment variable with the pool's mark.
MARK = "MNIST_SWEEP_POOL"
# A process can start another one just before it is killed.
_ROUNDS = 5
_SECONDS = 2.0


class GroupLeader(subprocess.Popen[bytes]):
    """A process that leads a group, whose other processes end with it."""

    def poll(self) -> int | None:
        """Returns the exit code; None while the process runs."""
        if self.returncode is None and has_ended(self.pid):
            kill_group(self.pid)
        return super().poll()

    def kill(self) -> None:
        """Kills the process and its group."""
        if self.poll() is None:
            kill_group(self.pid)
            super().kill()


def has_ended(pid: int) -> bool:
    """Returns whether a child of this process has ended, without taking its exit code.

    Until the exit code is taken, no other process gets its id. Returns False if the system cannot tell.
    """
    with contextlib.suppress(ChildProcessError):
        return hasattr(os, "waitid") and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def kill_group(leader: int) -> None:
    """Kills all processes of a group.

    Args:
        leader: A child of this process whose exit code was not taken yet, or this process itself.
    """
    with contextlib.suppress(OSError):
        # Before it has created its group, it is in one with this process.
        if os.getpgid(leader) == leader:
            os.killpg(leader, signal.SIGKILL)


def kill_marked(mark: str) -> None:
    """Kills all processes of a pool, wherever they are, except this one.

    Args:
        mark: The value of `MARK` in their environment.
    """
    for _ in range(_ROUNDS):
        found = [process for process in psutil.process_iter() if process.pid != os.getpid() and _has(process, mark)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not found or psutil.wait_procs(found, timeout=_SECONDS)[1]:
            return


def kill_pool_without_driver(driver: int) -> None:
    """Kills all processes of the pool, this one included, if the driver is gone and cannot do it.

    Args:
        driver: The process id of this one's parent.
    """
    until = time.monotonic() + 1
    # The end of a socket is noticed a moment before its process is gone.
    while os.getppid() == driver and time.monotonic() < until:
        time.sleep(0.01)
    if os.getppid() == driver:
        return
    with contextlib.suppress(psutil.Error, OSError, KeyError):
        kill_marked(os.environ[MARK])
    kill_group(os.getpid())


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):
        # It has ended, or belongs to another user.
        return False
