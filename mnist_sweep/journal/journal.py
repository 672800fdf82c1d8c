"""The append-only record of a sweep's events, from which the search, MLflow and the screen can be rebuilt."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.files import break_hard_links
from mnist_sweep.common.text import first_line, one_line
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SweepResumed,
    SweepStarted,
    TrialStarted,
    event_from_json,
)
from mnist_sweep.journal.files import FILE, LOCK

# Bytes of a line; the longest hold a confusion matrix of a thousand classes, or the trials of earlier sweeps.
_LONGEST_LINE = 64 * 2**20
_HOLDER = 200


class Journal:
    """Writes events, one JSON line each; the lines are on the disk before `handle` returns.

    While it is open, no other process can open it. The lock belongs to the operating system, which releases it when
    its holder dies in any way.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        """Opens a journal.

        Args:
            folder: The sweep's folder, which exists.
            resume: Whether to continue the journal in the folder, rather than to start a new one.

        Raises:
            UserError: Another process runs the sweep, the folder already holds a journal, or it cannot be written.
        """
        self.path = folder / FILE
        self._broken: MachineError | None = None
        try:
            self._lock = _acquire(folder / LOCK, folder)
            if resume:
                break_hard_links(self.path)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self.path, flags if resume else flags | os.O_CREAT | os.O_EXCL, 0o666)
            # A line that was cut off was not acted on; the next one must not continue it.
            self._size = _whole(self.path) if resume else 0
            os.ftruncate(self._file, self._size)
        except FileExistsError:
            raise UserError(f"{folder}: already contains a sweep; choose another folder with hydra.run.dir") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None

    def handle(self, *events: Event) -> None:
        """Writes events to the disk, and waits for it once.

        Raises:
            MachineError: They cannot be written. All earlier events are intact, and nothing is written afterwards.
        """
        if self._broken is not None:
            raise self._broken
        lines = "".join(f"{event.to_json()}\n" for event in events).encode()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
            self._check_place()
        except OSError as error:
            # After a failure to flush, the content of the disk is unknown, so trying again would not help.
            gone = error.errno in (errno.ENOENT, errno.ESTALE)
            self._broken = MachineError(
                f"{self.path.parent}: was moved, deleted or replaced while its sweep ran"
                if gone
                else f"{self.path}: cannot be written ({error.strerror})"
            )
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise self._broken from None
        self._size += len(lines)

    def _check_place(self) -> None:
        """Checks that the file is still in its place: one that was deleted can still be written to."""
        ours, there = os.fstat(self._file), os.stat(self.path)
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            raise OSError(errno.ESTALE, "another file has taken its place")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, self._lock):
            with contextlib.suppress(OSError):
                os.close(file)


def _whole(path: Path) -> int:
    """Returns the number of bytes up to the end of the last complete line."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            cut = file.read(end - start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            end = start
    return 0


def _acquire(path: Path, folder: Path) -> int:
    """Takes the lock of a sweep, and returns the file that holds it while it is open."""
    # Without waiting, as a named pipe would.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = one_line(os.read(lock, _HOLDER).decode(errors="replace")) or "another process"
        os.close(lock)
        raise UserError(f"{folder}: this sweep is being run by {holder}") from None
    if os.fstat(lock).st_nlink > 1:
        # Shared with a hard-linked copy, which is another sweep. No process holds it now, so it can be replaced.
        break_hard_links(path)
        os.close(lock)
        return _acquire(path, folder)
    # The holder is for people to read; a full disk must not prevent resuming.
    with contextlib.suppress(OSError):
        if os.read(lock, _HOLDER)[:8] not in (b"", b"process "):
            # Not a lock of this program: it stays as it is.
            return lock
        os.ftruncate(lock, 0)
        os.lseek(lock, 0, os.SEEK_SET)
        os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
    return lock


def read(folder: Path) -> Iterator[Event]:
    """Yields a sweep's events in order.

    A last line that was cut off while it was written is left out, as nothing was done about it yet.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: There is no journal, it cannot be read, or a line before the last is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: contains no {FILE}, so it is not a sweep folder")
    started: set[int] = set()
    number = 0
    try:
        with open(path, "rb") as file:
            while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
                number += 1
                event = event_from_json(json.loads(line[:-1]))
                if isinstance(event, TrialStarted):
                    started.add(event.trial.number)
                elif isinstance(event, EpochEnded | ExecutionEnded | AttemptFailed) and event.trial not in started:
                    raise ValueError(f"trial {event.trial} was never started")
                yield event
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: line {number} is damaged ({first_line(error, 200)})") from None
    if len(line) >= _LONGEST_LINE:
        raise UserError(f"{path}: line {number + 1} is damaged (it is longer than any that a sweep writes)")


def started(folder: Path) -> SweepStarted:
    """Returns the first event of a sweep, without reading the others.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: The journal is damaged, or starts with another event.
    """
    first = next(read(folder), None)
    if not isinstance(first, SweepStarted):
        raise UserError(f"{folder / FILE}: lacks the start of the sweep")
    return first


def last_config(folder: Path) -> dict[str, Any]:
    """Returns the config that a sweep was last run with. Reads only those events that have one.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: The journal cannot be read, or one of these events is damaged.
    """
    path, config = folder / FILE, dict[str, Any]()
    try:
        with open(path, "rb") as file:
            while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
                if line.startswith((b'{"event": "sweep_started"', b'{"event": "sweep_resumed"')):
                    event = event_from_json(json.loads(line))
                    config = event.config if isinstance(event, SweepStarted | SweepResumed) else config
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: the sweep's config is damaged ({first_line(error, 200)})") from None
    return config
