"""The socket between the driver and a worker: a line of JSON for each message.

The driver trusts nothing that comes through it, as the user's code runs on the other side: it neither waits for the
rest of a message nor for a worker to take one, and holds only so much of either.
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

# The longest message of ours is the confusion matrix of some thousand classes.
_LONGEST = 64 * 2**20
# What a worker is told and has not read: tasks have some kilobytes, and each waits for the answer to the one before.
_MOST_UNREAD = 16 * 2**20
# A worker that says more at once has to wait until the others were heard.
_AT_ONCE = 2**20
_CHUNK = 2**16
# The worker's end is moved here or as high as the process may: user code closes and reuses low numbers.
_HIGH = 1000


class Channel:
    """The driver's end, which never blocks.

    Attributes:
        ended: Whether the other end is closed, and all that it said was heard.
    """

    def __init__(self, end: socket.socket) -> None:
        """Takes a socket over, whose other end a worker has."""
        end.setblocking(False)
        self._socket, self.ended = end, False
        self._heard, self._searched = bytearray(), 0
        self._to_say = bytearray()

    def fileno(self) -> int:
        """The socket's number."""
        return self._socket.fileno()

    @property
    def behind(self) -> bool:
        """Whether the worker has not taken all that it was told."""
        return bool(self._to_say)

    def send(self, message: Mapping[str, Any]) -> None:
        """Says something as soon as the worker takes it; what is said to one that is gone is lost.

        Raises:
            GarbledError: The worker has taken nothing for so long that it does not behave as one.
        """
        self._to_say += json.dumps(message).encode() + b"\n"
        self.flush()
        if len(self._to_say) > _MOST_UNREAD:
            raise GarbledError("does not read what it is told")

    def flush(self) -> None:
        """Says what has been waiting, as far as the worker takes it now."""
        try:
            while self._to_say:
                del self._to_say[: self._socket.send(self._to_say)]
        except BlockingIOError:
            return
        except OSError:
            # It died; how, its process tells.
            self._to_say.clear()

    def receive(self, *, last: bool = False) -> Iterator[Any]:
        """What has come by now.

        Args:
            last: Whether nothing more will come: all of it, and not only so much that others are heard, too.

        Yields:
            Each message, as plain data.

        Raises:
            GarbledError: What comes next is not JSON, or too long.
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
            self._heard += chunk
            while (end := self._heard.find(b"\n", self._searched)) >= 0:
                line = bytes(self._heard[:end])
                del self._heard[: end + 1]
                self._searched = 0
                yield _read(line)
            self._searched = len(self._heard)
            if self._searched > _LONGEST:
                raise GarbledError(f"sent a message of more than {_LONGEST >> 20} MiB")

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


def wait(channels: Sequence[Channel], timeout: float) -> list[Channel]:
    """Waits at most `timeout` seconds until one of some channels has news, and says what is still to be said.

    Returns:
        Those that have.
    """
    with selectors.DefaultSelector() as selector:
        for channel in channels:
            if not channel.ended:
                behind = selectors.EVENT_WRITE if channel.behind else 0
                selector.register(channel, selectors.EVENT_READ | behind, channel)
        ready = []
        for key, events in selector.select(timeout):
            if events & selectors.EVENT_WRITE:
                key.data.flush()
            if events & selectors.EVENT_READ:
                ready.append(key.data)
        return ready


class Line:
    """The worker's end, which waits for the driver."""

    def __init__(self, end: socket.socket) -> None:
        """Takes a socket over, and moves it where the code of users does not come across it."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        high = _HIGH if most == resource.RLIM_INFINITY else min(_HIGH, most // 2)
        # Not inherited by what the user's code starts in the background, which would hold the socket.
        number = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, high)
        end.close()
        self._socket = socket.socket(fileno=number)
        self._speaking = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Says something; nothing where the driver is gone.

        Raises:
            OSError: The user's code has closed the socket.
        """
        with self._speaking, contextlib.suppress(ConnectionError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the driver says, until it is gone."""
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # The driver died as it spoke.
                    return
                yield json.loads(line)


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise GarbledError(f"sent something that is not a message ({len(line)} bytes)") from None
