"""What the user's code has started in a worker: it ends with the worker, and at the latest with the pool.

Each worker leads a process group, in which most of what it starts stays. What leaves the group (a daemon, a new
session) still has the environment that it was started with, and in that the pool's mark, which nothing else has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil

# The environment variable with the mark.
MARK = "MNIST_SWEEP_POOL"
# What is ended may have started something just before.
_ROUNDS = 5
_SECONDS = 2.0


class Leader(subprocess.Popen[bytes]):
    """A process that leads a group, whose other processes end with it."""

    def poll(self) -> int | None:
        """The exit code; None as long as the process runs."""
        if self.returncode is None and has_ended(self.pid):
            end_group(self.pid)
        return super().poll()

    def kill(self) -> None:
        """Ends the process and its group at once."""
        if self.poll() is None:
            end_group(self.pid)
            super().kill()


def has_ended(pid: int) -> bool:
    """Whether a child of this process has ended, whose exit code stays to be taken.

    So long nobody else gets its number. False also where the system cannot tell.
    """
    with contextlib.suppress(ChildProcessError):
        return hasattr(os, "waitid") and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def end_group(leader: int) -> None:
    """Ends all processes of a group.

    Args:
        leader: A child of this process whose exit code was not taken yet, or this process itself.
    """
    with contextlib.suppress(OSError):
        # Before it has made a group of its own, it is in one with this process.
        if os.getpgid(leader) == leader:
            os.killpg(leader, signal.SIGKILL)


def end_marked(mark: str) -> None:
    """Ends all processes of a pool but this one, wherever they are.

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


def end_with_driver(driver: int) -> None:
    """Ends all of the pool, this process included, if the driver is gone and can no longer do that itself.

    Args:
        driver: The process id of this one's parent.
    """
    until = time.monotonic() + 1
    # The end of a socket is seen a moment before its process is gone.
    while os.getppid() == driver and time.monotonic() < until:
        time.sleep(0.01)
    if os.getppid() == driver:
        return
    with contextlib.suppress(psutil.Error, OSError, KeyError):
        end_marked(os.environ[MARK])
    end_group(os.getpid())


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):
        # It has ended, or is another user's.
        return False
