"""Worker processes that need not import TensorFlow, as they are forked from one that has.

`python -m mnist_sweep.workers.forkserver FD CUSTOM_CODE MODULE…` is the server: it imports the modules
and then, for each request that comes through the socket FD, forks a worker process, which continues in `process.run`.
So several workers cost one import, one more costs a tenth of a second, and they share the memory of what was imported.

The server may have imported TensorFlow, but must not have used it: its threads would be missing in the children.
The standard library's `multiprocessing.forkserver` would import the driver's `__main__`, a user's notebook perhaps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from mnist_sweep.common.files import break_hard_links
from mnist_sweep.workers import imports, orphans

_PR_SET_CHILD_SUBREAPER = 36
# Seconds in which a server tells what it has forked, unless it is busy importing.
_TELLS = 1.0
# The process groups of what was forked, as long as anything is in them.
_groups: set[int] = set()


# ---- in the driver ----------------------------------------------------------------------------------------------


@cache
def possible() -> bool:
    """Whether this system can; from now on processes whose parent has ended become children of this one.

    A forked worker's parent ends at once (see `_fork`), so that the driver learns how the worker ends, whatever became
    of the server. On macOS, whose libraries do not survive a fork, and on Windows there is nothing like that.
    """
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def reap() -> None:
    """Takes the exit codes of processes that a forked one's code has started and left alone.

    They have become children of this one, and would stay in the system's table until this ends. The forked processes
    themselves, each of which leads its group, are left to `Forked`.
    """
    for group in list(_groups):
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == group:
                    break
                os.waitpid(ended.si_pid, 0)
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            _groups.discard(group)
        except PermissionError:
            continue


class ForkServer:
    """The driver's end of a server, which leaves when this does."""

    def __init__(
        self, environment: Mapping[str, str], log: Path, *, custom_code: bool, modules: Sequence[str] = imports.MODULES
    ) -> None:
        """Starts it; requests are answered when it has imported everything.

        Args:
            environment: That of the server and of all its children.
            log: The file for the server's own output.
            custom_code: Whether its children will run code of the user's.
            modules: What it imports first.
        """
        self.log, self.log_start = log, log.stat().st_size if log.exists() else 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        break_hard_links(log)
        with theirs, open(log, "ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "mnist_sweep.workers.forkserver",
                    str(theirs.fileno()),
                    str(int(custom_code)),
                    *modules,
                ],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._unborn: deque[Forked] = deque()

    def fork(self, connection: socket.socket, output: IO[bytes]) -> Forked:
        """Asks for a process.

        Args:
            connection: The worker's end of the socket to the driver.
            output: Where the worker writes to.
        """
        child = Forked(self)
        try:
            socket.send_fds(self._socket, [b"fork"], [connection.fileno(), output.fileno()])
            self._unborn.append(child)
        except OSError:
            # It died: the child tells so, when those before it are known.
            self.close()
        return child

    def gone(self) -> bool:
        """Whether it has ended, and forks no more."""
        self.listen(wait=False)
        return self.process.returncode is not None

    def listen(self, *, wait: bool) -> None:
        """Takes in which processes it has forked.

        Args:
            wait: Whether to wait until there is something to take in.
        """
        while self.process.returncode is None:
            try:
                pid = self._socket.recv(32, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # It died with requests unread; what it said before comes now.
                continue
            except OSError:
                pid = b""
            if not pid:
                self._ended()
                return
            # It forks in the order in which it was asked.
            self._unborn.popleft().pid = int(pid)
            _groups.add(int(pid))
            wait = False

    def close(self) -> None:
        """Ends it, but not its children."""
        if not self.gone():
            self.process.kill()
            # What it has still forked is told first.
            while self.process.returncode is None:
                self.listen(wait=True)

    def _ended(self) -> None:
        self._socket.close()
        self.process.kill()
        self.process.wait()
        self._unborn.clear()


class Forked:
    """A process that a server forks or has forked, to be used as a `subprocess.Popen`.

    Attributes:
        server: What forks it.
        pid: Its number; None as long as the server has not come to it.
        returncode: As Popen's; that of the server where the process was never made.
    """

    def __init__(self, server: ForkServer) -> None:
        self.server = server
        self.pid: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None as long as the process runs, or is still to be made."""
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        """Waits for the process's end and gives its exit code."""
        while self.pid is None and self.server.process.returncode is None:
            self.server.listen(wait=True)
        code = self._look(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """Ends the process and its group at once; the server where that has not come to it, whatever it does."""
        until = time.monotonic() + _TELLS
        # It may be there already, and even have done its work, before the server has told its number.
        while self.poll() is None and self.pid is None and time.monotonic() < until:
            time.sleep(0.001)
        if self.poll() is None and self.pid is None:
            self.server.close()
        if self.poll() is None and self.pid is not None:
            orphans.end_group(self.pid)
            os.kill(self.pid, signal.SIGKILL)

    def _look(self, how: int) -> int | None:
        if self.returncode is None and self.pid is None and self.server.gone() and self.pid is None:
            self.returncode = self.server.process.returncode
        if self.returncode is None and self.pid is not None:
            try:
                # First, as its number may be somebody else's afterwards.
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | how) is not None:
                    orphans.end_group(self.pid)
                pid, status = os.waitpid(self.pid, how)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
                if pid:
                    # Again, as `reap` may have looked before it had made the group.
                    _groups.add(pid)
            except ChildProcessError:
                # Somebody else, or a SIGCHLD that is ignored, has taken its exit code, as with a Popen.
                self.returncode = 0
        return self.returncode


# ---- in the server ----------------------------------------------------------------------------------------------


def main() -> None:
    """Serves until the driver is gone; in a forked process, does a worker's work."""
    driver = socket.socket(fileno=int(sys.argv[1]))
    # Where the driver was started with SIGCHLD ignored, nothing could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _import(driver, sys.argv[3:], custom_code=sys.argv[2] == "1")
    connection = _serve(driver)
    if connection is not None:
        from mnist_sweep.workers import process

        process.run(socket.socket(fileno=connection))


def _import(driver: socket.socket, modules: Sequence[str], *, custom_code: bool) -> None:
    imported = threading.Event()
    watch = threading.Thread(target=_leave_with, args=(driver, imported), daemon=True)
    watch.start()
    imports.load(modules, custom_code=custom_code)
    imported.set()
    # A thread that is there at a fork would be missing in the child.
    watch.join()


def _leave_with(driver: socket.socket, imported: threading.Event) -> None:
    """Ends this process if the driver is gone before everything is imported, which takes seconds."""
    hung_up = select.poll()
    hung_up.register(driver, 0)
    while not imported.is_set():
        if hung_up.poll(50):
            os._exit(0)


def _serve(driver: socket.socket) -> int | None:
    """Forks a process for each request.

    Returns:
        In the server None, when the driver is gone; in a forked process its end of the socket to the driver.
    """
    # Where the user's code needs them, some libraries have a thread, which the children do without.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    while True:
        try:
            message, received, _, _ = socket.recv_fds(driver, 16, 2)
        except OSError:
            return None
        if not message:
            return None
        connection, output = received
        # What the imports have printed would be written by each child again.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        pid = _fork()
        if pid == 0:
            os.setsid()
            driver.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            return connection
        os.close(connection)
        os.close(output)
        driver.send(str(pid).encode())


def _fork() -> int:
    """Forks a process whose parent is the driver.

    That is the one to which a process falls whose own parent has ended (`possible`): so this forks twice.

    Returns:
        0 in the new process; in the server its number.

    Raises:
        OSError: There is no memory, or no process more is allowed.
    """
    reader, writer = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(writer, str(pid).encode())
            os._exit(0)
        os.close(reader)
        os.close(writer)
        return 0
    os.close(writer)
    pid = int(os.read(reader, 32) or 0)
    os.close(reader)
    os.waitpid(between, 0)
    if not pid:
        raise OSError("cannot fork a second time")
    return pid


if __name__ == "__main__":
    main()
