"""The socket between the driver and a worker: a line of JSON for each message.

User code runs in the worker, so the driver trusts nothing that it receives. It waits neither for the rest of a message
nor for a worker to read one, and it limits how much it buffers of either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import resource
import selectors
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnist_sweep.workers.base import GarbledError

# The longest message of a worker is the confusion matrix of some thousand classes.
_LONGEST = 64 * 2**20
# What a worker may leave unread: tasks have some kilobytes, and each waits for the answer to the one before.
_MOST_UNREAD = 16 * 2**20
# How much to read from one worker before the others get their turn.
_AT_ONCE = 2**20
_CHUNK = 2**16
# The worker's end gets this file descriptor, or as high a one as it may have: user code closes and reuses low ones.
_HIGH = 1000


class DriverChannel:
    """The driver's end, which never blocks.

    Attributes:
        ended: Whether the other end is closed, and everything from it was read.
    """

    def __init__(self, end: socket.socket) -> None:
        """Takes over a socket whose other end a worker has."""
        end.setblocking(False)
        self._socket, self.ended = end, False
        self._received, self._searched = bytearray(), 0
        self._unsent = bytearray()

    def fileno(self) -> int:
        """Returns the socket's file descriptor."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether messages wait until the worker reads."""
        return bool(self._unsent)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message as soon as the worker reads it; drops it if the worker is gone.

        Raises:
            GarbledError: The worker has not read its messages for too long.
        """
        self._unsent += json.dumps(message).encode() + b"\n"
        self.flush()
        if len(self._unsent) > _MOST_UNREAD:
            raise GarbledError("does not read its messages")

    def flush(self) -> None:
        """Sends what is waiting, as far as the worker reads it now."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            # The worker is dead; its exit code shows how it died.
            self._unsent.clear()

    def receive(self, *, last: bool = False) -> Iterator[Any]:
        """Reads what has arrived.

        Args:
            last: Whether the worker is dead: then reads everything, otherwise only so much that others get their turn.

        Yields:
            Each message, as plain data.

        Raises:
            GarbledError: The next message is not JSON, or too long.
        """
        taken = 0
        while not self.ended and taken < (2 * _LONGEST if last else _AT_ONCE):
            try:
                chunk = self._socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            self.ended = not chunk
            taken += len(chunk)
            self._received += chunk
            while (end := self._received.find(b"\n", self._searched)) >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                self._searched = 0
                yield _parse(line)
            self._searched = len(self._received)
            if self._searched > _LONGEST:
                raise GarbledError(f"sent a message of more than {_LONGEST >> 20} MiB")

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def wait(channels: Sequence[DriverChannel], timeout: float, waker: Waker | None = None) -> list[DriverChannel]:
    """Waits up to `timeout` seconds until a channel has something to read, and sends what is waiting to be sent.

    Args:
        channels: The channels.
        timeout: The most seconds.
        waker: Another thread ends the wait with it.

    Returns:
        The channels that have something to read.
    """
    with selectors.DefaultSelector() as selector:
        if waker is not None:
            selector.register(waker, selectors.EVENT_READ)
        for channel in channels:
            if not channel.ended:
                write = selectors.EVENT_WRITE if channel.has_unsent else 0
                selector.register(channel, selectors.EVENT_READ | write, channel)
        ready = []
        for key, events in selector.select(timeout):
            if key.fileobj is waker:
                continue
            if events & selectors.EVENT_WRITE:
                key.data.flush()
            if events & selectors.EVENT_READ:
                ready.append(key.data)
        return ready


class Waker:
    """Ends a `wait` from another thread."""

    def __init__(self) -> None:
        """Opens a pair of sockets."""
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        """Returns the file descriptor to wait for."""
        return self._ours.fileno()

    def wake(self) -> None:
        """Ends the `wait` that runs, or the next one; may be called by any thread."""
        with contextlib.suppress(OSError):
            self._theirs.send(b"w")

    def clear(self) -> None:
        """Takes note of the calls of `wake` so far."""
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(_CHUNK):
                pass

    def close(self) -> None:
        """Closes the sockets."""
        self._ours.close()
        self._theirs.close()


class WorkerChannel:
    """The worker's end, which blocks until the driver reads or sends."""

    def __init__(self, end: socket.socket) -> None:
        """Takes over a socket, and moves it to a file descriptor that user code does not come across."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        high = _HIGH if most == resource.RLIM_INFINITY else min(_HIGH, most // 2)
        # Not inherited by the background processes of user code, which would keep the socket open.
        number = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, high)
        end.close()
        self._socket = socket.socket(fileno=number)
        self._send_lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; drops it if the driver is gone.

        Raises:
            OSError: User code has closed the socket.
        """
        with self._send_lock, contextlib.suppress(ConnectionError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yields the driver's messages, until it is gone."""
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # The driver died while it was sending.
                    return
                yield json.loads(line)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise GarbledError(f"sent something that is not a message ({len(line)} bytes)") from None
