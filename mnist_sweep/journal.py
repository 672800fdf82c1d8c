"""The append-only record of a sweep's events: the truth of which the search, MLflow and the screen are views."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from mnist_sweep.errors import UserError
from mnist_sweep.trial import Event, event_from_json

FILE = "journal.jsonl"
LOCK = "lock"
# Where sweeps have their folders, under the working directory.
SWEEPS = Path("experiments")


class Journal:
    """Writes events, one JSON line each; a line is on the disk before `append` returns.

    As long as it is open, no other process can open it. The lock is the operating system's, which releases it when its
    holder dies, however that happens.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        """Opens a journal.

        Args:
            folder: The sweep's folder, which exists.
            resume: Whether to go on with the one that is there, rather than to begin a new one.

        Raises:
            UserError: Another process runs the sweep, the folder already holds a journal, or it cannot be written.
        """
        self.path = folder / FILE
        try:
            self._lock = _acquire(folder / LOCK, folder)
            if resume:
                # A line that was cut off had not been acted on; the next one must not be glued to it.
                whole = self.path.read_bytes().rpartition(b"\n")
                os.truncate(self.path, len(whole[0]) + len(whole[1]))
            self._file = open(self.path, "a" if resume else "x", encoding="utf-8")  # noqa: SIM115 - stays open
        except FileExistsError:
            raise UserError(f"{folder}: already holds a sweep; choose another folder with hydra.run.dir") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None

    def append(self, event: Event) -> None:
        """Writes an event to the disk.

        Raises:
            UserError: It cannot be written; what was written before is whole.
        """
        try:
            self._file.write(json.dumps(event.to_json()) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); mend that, then resume") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._lock.close()


def _acquire(path: Path, folder: Path) -> IO[str]:
    lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the sweep runs
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise UserError(f"{folder}: this sweep is being run by {holder}") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()
    return lock


def is_running(folder: Path) -> bool:
    """Whether a process runs the sweep now."""
    path = folder / LOCK
    if not path.exists():
        return False
    with open(path, encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def sweeps(below: Path) -> list[Path]:
    """The folders of the sweeps below a folder, or that folder itself, the last one written to at the end.

    One that was killed before its first event is none.
    """
    found = [(path.stat(), path) for path in below.glob(f"**/{FILE}")]
    return [path.parent for stat, path in sorted(found, key=lambda f: f[0].st_mtime) if stat.st_size]


def never_begun(below: Path) -> list[Path]:
    """The folders right below a folder in which a sweep was killed before its first event."""
    found = [path for path in below.glob(f"*/{FILE}") if not path.stat().st_size]
    return [path.parent for path in found if not is_running(path.parent)]


def find(sweep: str, wanted_by: str) -> Path:
    """Finds the folder of a sweep under the working directory.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for its last one.
        wanted_by: The command or the key of the config, for the message.

    Raises:
        UserError: There is no such sweep.
    """
    for folder in (Path(sweep), SWEEPS / sweep):
        if (folder / FILE).is_file():
            return folder
        found = sweeps(folder)
        if found:
            return found[-1]
    raise UserError(f"{wanted_by} {sweep}: there is no such sweep in {SWEEPS}/; write NAME, NAME/TIME or its folder")


def elsewhere(folder: Path) -> Path | None:
    """The folder that a sweep was run in, from which its config's paths count; None where it is the working directory.

    There they stay as they are, so that they are still true when the project is moved.

    Args:
        folder: The sweep's; it is taken for the working directory's if it lies in no `experiments/`.
    """
    parents = [parent for parent in folder.absolute().resolve().parents if parent.name == str(SWEEPS)]
    project = parents[0].parent if parents else Path.cwd().resolve()
    return None if project == Path.cwd().resolve() else project


def read(folder: Path) -> Iterator[Event]:
    """Reads a sweep's events back, in order.

    A last line that was cut off while it was written is left out: what it told had not been acted on.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: There is no journal, or a line before the last is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no {FILE}, so it is not a sweep's folder")
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines):
            return
        try:
            yield event_from_json(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: line {number} is damaged ({error})") from None
