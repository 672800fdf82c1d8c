"""Forks worker processes from a server that has imported TensorFlow, so that they need not import it.

`python -m mnist_sweep.workers.forkserver FD CUSTOM_CODE MODULE…` is the server. It imports the modules, and then forks
a worker process for each request that arrives at the socket FD; the worker continues in `process.run`. So all workers
cost one import, another one costs a tenth of a second, and they share the memory of what was imported.

The server imports TensorFlow but must not use it: the threads that it starts would be missing in the children. The
standard library's `multiprocessing.forkserver` would import the driver's `__main__`, which can be a user's notebook.
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
from typing import IO, TypeVar

from mnist_sweep.common.files import break_hard_links
from mnist_sweep.workers import imports, orphans

_Popen = TypeVar("_Popen", bound="subprocess.Popen[bytes]")
_PR_SET_CHILD_SUBREAPER = 36
# Seconds within which a server reports what it has forked, unless it is busy importing.
_REPORTS = 1.0
# The process groups of forked workers, until they are empty.
_groups: set[int] = set()


# ---- in the driver ----------------------------------------------------------------------------------------------


@cache
def is_supported() -> bool:
    """Returns whether this system can do it; from then on this process adopts descendants whose parent has ended.

    The parent of a forked worker ends at once (see `_fork`), so that the driver learns how the worker ends even if the
    server is gone. Windows cannot do this, and neither can macOS, whose libraries do not survive a fork.
    """
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def reap() -> None:
    """Takes the exit codes of processes that user code has started in a worker and not waited for.

    This process has adopted them, and they would stay zombies until it ends. The workers themselves, which lead their
    groups, are left to `ForkedProcess`.
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


def start_module(
    kind: type[_Popen],
    module: str,
    end: socket.socket,
    environment: Mapping[str, str],
    output: IO[bytes],
    arguments: Sequence[str] = (),
) -> _Popen:
    """Starts `python -m MODULE FD ARGUMENTS…` as a process of some kind; FD is its end of the socket to the driver."""
    return kind(
        [sys.executable, "-m", module, str(end.fileno()), *arguments],
        env=environment,
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # Ctrl-C in the terminal is for the driver, which stops its workers itself.
        start_new_session=True,
    )


class ForkServer:
    """The driver's handle on a server, which exits when the driver does."""

    def __init__(
        self, environment: Mapping[str, str], log: Path, *, custom_code: bool, modules: Sequence[str] = imports.MODULES
    ) -> None:
        """Starts the server, which answers requests after it has imported everything.

        Args:
            environment: The environment of the server and its children.
            log: The file for the server's output.
            custom_code: Whether its children will run user code.
            modules: What it imports first.
        """
        self.log, self.log_start = log, log.stat().st_size if log.exists() else 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        break_hard_links(log)
        with theirs, open(log, "ab") as output:
            module, arguments = "mnist_sweep.workers.forkserver", [str(int(custom_code)), *modules]
            self.process = start_module(subprocess.Popen, module, theirs, environment, output, arguments)
        self._requested: deque[ForkedProcess] = deque()

    def fork(self, connection: socket.socket, output: IO[bytes]) -> ForkedProcess:
        """Requests a process.

        Args:
            connection: The worker's end of the socket to the driver.
            output: The file for the worker's output.
        """
        child = ForkedProcess(self)
        try:
            socket.send_fds(self._socket, [b"fork"], [connection.fileno(), output.fileno()])
            self._requested.append(child)
        except OSError:
            # The server died. The child's exit code shows it, when those of earlier requests are known.
            self.close()
        return child

    def has_ended(self) -> bool:
        """Returns whether the server has ended, so that it does not fork any more."""
        self.listen(wait=False)
        return self.process.returncode is not None

    def listen(self, *, wait: bool) -> None:
        """Reads which processes the server has forked.

        Args:
            wait: Whether to wait for the next one.
        """
        while self.process.returncode is None:
            try:
                pid = self._socket.recv(32, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # The server died with requests unread. What it sent before can still be read.
                continue
            except OSError:
                pid = b""
            if not pid:
                self._ended()
                return
            # The server forks in the order of the requests.
            self._requested.popleft().pid = int(pid)
            _groups.add(int(pid))
            wait = False

    def close(self) -> None:
        """Kills the server, but not its children."""
        if not self.has_ended():
            self.process.kill()
            # First read what it has still forked.
            while self.process.returncode is None:
                self.listen(wait=True)

    def _ended(self) -> None:
        self._socket.close()
        self.process.kill()
        self.process.wait()
        self._requested.clear()


class ForkedProcess:
    """A process that a server has forked or will fork, with the methods of `subprocess.Popen` that the pool needs.

    Attributes:
        server: The server.
        pid: The process id; None until the server has forked it.
        returncode: As in Popen; the server's if the process was never forked.
    """

    def __init__(self, server: ForkServer) -> None:
        self.server = server
        self.pid: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code; None while the process runs or is yet to be forked."""
        return self._take_exit_code(os.WNOHANG)

    def wait(self) -> int:
        """Waits until the process ends, and returns its exit code."""
        while self.pid is None and self.server.process.returncode is None:
            self.server.listen(wait=True)
        code = self._take_exit_code(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """Kills the process and its group; kills the server if it does not fork the process in time."""
        until = time.monotonic() + _REPORTS
        # The process may exist already, and even have done its work, before the server reports its id.
        while self.poll() is None and self.pid is None and time.monotonic() < until:
            time.sleep(0.001)
        if self.poll() is None and self.pid is None:
            self.server.close()
        if self.poll() is None and self.pid is not None:
            orphans.kill_group(self.pid)
            os.kill(self.pid, signal.SIGKILL)

    def _take_exit_code(self, options: int) -> int | None:
        if self.returncode is None and self.pid is None and self.server.has_ended() and self.pid is None:
            self.returncode = self.server.process.returncode
        if self.returncode is None and self.pid is not None:
            try:
                # Before the exit code is taken: afterwards another process can get the id.
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | options) is not None:
                    orphans.kill_group(self.pid)
                pid, status = os.waitpid(self.pid, options)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
                if pid:
                    # Again, as `reap` may have run before the process created its group.
                    _groups.add(pid)
            except ChildProcessError:
                # Other code, or an ignored SIGCHLD, has taken its exit code; Popen does the same.
                self.returncode = 0
        return self.returncode


# ---- in the server ----------------------------------------------------------------------------------------------


def main() -> None:
    """Serves requests until the driver is gone; in a forked process, runs a worker."""
    driver = socket.socket(fileno=int(sys.argv[1]))
    # If the driver was started with SIGCHLD ignored, no process could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _import(driver, sys.argv[3:], custom_code=sys.argv[2] == "1")
    connection = _serve(driver)
    if connection is not None:
        from mnist_sweep.workers import process

        process.run(socket.socket(fileno=connection))


def _import(driver: socket.socket, modules: Sequence[str], *, custom_code: bool) -> None:
    imported = threading.Event()
    watch = threading.Thread(target=_exit_with_driver, args=(driver, imported), daemon=True)
    watch.start()
    imports.load(modules, custom_code=custom_code)
    imported.set()
    # The child of a fork lacks all threads but one.
    watch.join()


def _exit_with_driver(driver: socket.socket, imported: threading.Event) -> None:
    """Ends this process if the driver exits during the imports, which take seconds."""
    hung_up = select.poll()
    hung_up.register(driver, 0)
    while not imported.is_set():
        if hung_up.poll(50):
            os._exit(0)


def _serve(driver: socket.socket) -> int | None:
    """Forks a process for each request.

    Returns:
        In the server None, when the driver is gone; in a forked process, its end of the socket to the driver.
    """
    # Some libraries that user code needs start a thread. The children do without it.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    while True:
        try:
            message, received, _, _ = socket.recv_fds(driver, 16, 2)
        except OSError:
            return None
        if not message:
            return None
        connection, output = received
        # Otherwise each child would write again what the imports have printed.
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

    The driver adopts a process whose parent has ended (`is_supported`), so this forks twice.

    Returns:
        0 in the new process; its process id in the server.

    Raises:
        OSError: There is not enough memory, or the limit on processes is reached.
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
