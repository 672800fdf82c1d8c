"""The socket through which a user's other processes reach the one that runs a sweep."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pwd
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_sweep.common.files import remove, remove_empty, write_whole
from mnist_sweep.journal.files import SOCKET

# A request has a line of so many bytes, and comes within so many seconds.
_LONGEST, _SECONDS = 2**16, 10.0
_MOST_CONNECTIONS = 16
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Request:
    """What a user wants of the running sweep.

    Attributes:
        wish: What: `do` is its name.
        by: Who: `user@host`.
        pid: The process that asks for it.
        answer: Takes the answer, once.
    """

    wish: Mapping[str, Any]
    by: str
    pid: int
    answer: Callable[[Mapping[str, Any]], None]


@dataclass
class _Connection:
    socket: socket.socket
    pid: int
    may: bool
    since: float = field(default_factory=time.monotonic)
    text: bytes = b""

    def answer(self, answer: Mapping[str, Any]) -> None:
        # An answer fits into the buffer of the socket; a process that is gone does not need it.
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(answer).encode() + b"\n")
        self.socket.close()


class SteeringSocket:
    """Listens for requests of the user who runs the sweep, without ever waiting for one.

    The socket is in the sweep's folder, with the owner's rights. Where the folder's disk has no sockets, it is in a
    folder of its own below the system's temporary one, and a file in the sweep's folder says where.
    """

    def __init__(self, folder: Path) -> None:
        """Starts to listen. What a killed process of the sweep has left is replaced.

        Args:
            folder: The sweep's folder, which no other process runs.

        Raises:
            OSError: There can be no socket here.
        """
        self._connections: list[_Connection] = []
        self._by = f"{_user()}@{platform.node()}"
        self._elsewhere: Path | None = None
        self._path = folder / SOCKET
        remove(self._path)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.setblocking(False)
        try:
            with near(folder) as place:
                self._server.bind(f"{place}/{SOCKET}")
        except OSError:
            self._elsewhere = Path(tempfile.mkdtemp(prefix="mnist_sweep-steer-"))
            self._server.bind(str(self._elsewhere / SOCKET))
            write_whole(self._path, str(self._elsewhere / SOCKET))
        # Nobody can connect before it listens.
        (self._path if self._elsewhere is None else self._elsewhere / SOCKET).chmod(0o600)
        self._server.listen(_MOST_CONNECTIONS)

    def requests(self) -> list[Request]:
        """Returns the requests that have come since the last call."""
        self._accept()
        found, left = [], []
        for connection in self._connections:
            ended = self._read(connection)
            line, newline, _ = connection.text.partition(b"\n")
            if newline and not connection.may:
                # The rights of the socket keep out all but root.
                connection.answer({"error": f"steer: only {self._by}, who runs the sweep, can steer it"})
            elif newline:
                found.append(Request(_wish(line), self._by, connection.pid, connection.answer))
            elif ended or len(line) > _LONGEST or time.monotonic() - connection.since > _SECONDS:
                connection.socket.close()
            else:
                left.append(connection)
        self._connections = left
        return found

    def __enter__(self) -> SteeringSocket:
        return self

    def __exit__(self, *_: object) -> None:
        remove(self._path)
        if self._elsewhere is not None:
            remove(self._elsewhere / SOCKET)
            remove_empty([self._elsewhere])
        self._server.close()
        for connection in self._connections:
            connection.socket.close()

    def _accept(self) -> None:
        while len(self._connections) < _MOST_CONNECTIONS:
            try:
                connected, _ = self._server.accept()
            except OSError:
                return
            connected.setblocking(False)
            pid, user = _peer(connected)
            self._connections.append(_Connection(connected, pid, user == os.getuid()))

    def _read(self, connection: _Connection) -> bool:
        """Reads what has come; returns whether nothing more will."""
        try:
            while len(connection.text) <= _LONGEST and b"\n" not in connection.text:
                received = connection.socket.recv(_LONGEST)
                if not received:
                    return True
                connection.text += received
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False


@contextlib.contextmanager
def near(folder: Path) -> Iterator[str]:
    """Gives a short path of a folder, as the path of a socket may have 107 bytes at most."""
    if not Path("/proc/self/fd").is_dir():
        yield str(folder)
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def _peer(connected: socket.socket) -> tuple[int, int]:
    """Returns the process and the user at the other end. Where they are unknown, the socket's rights must suffice."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0, os.getuid()
    pid, user, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return pid, user


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # In a container, a user may have no name.
        return str(os.getuid())


def _wish(line: bytes) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        wish = json.loads(line)
        if isinstance(wish, dict):
            return wish
    return {}
