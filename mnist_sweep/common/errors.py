"""Errors that are meant for the user: one line, no traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# What a disk, a quota or a mount says when it fails; no setting of a model can cause or cure any of these.
_MACHINE = {
    code: what
    for name, what in (
        ("ENOSPC", "the disk is full"),
        ("EDQUOT", "the disk quota is used up"),
        ("EIO", "the disk cannot be read or written"),
        ("EROFS", "the disk is mounted read-only"),
        ("ESTALE", "the network folder is gone"),
        ("ENOTCONN", "the network folder is not connected"),
        ("ENODEV", "the disk is gone"),
        ("ENXIO", "the disk is gone"),
        ("ENFILE", "the system has too many open files"),
    )
    if (code := getattr(errno, name, None)) is not None
}
# Libraries that write files by themselves (HDF5, TensorFlow, NumPy) give the reason in their text only.
_TEXTS = (
    (re.compile(r"No space left on device|errno = 28\b|\d+ requested and \d+ written"), "the disk is full"),
    (re.compile(r"Disk quota exceeded|errno = 122\b"), "the disk quota is used up"),
    (re.compile(r"readonly database|Read-only file system"), "the disk is mounted read-only"),
    (re.compile(r"Input/output error|errno = 5\b"), "the disk cannot be read or written"),
)


class UserError(Exception):
    """A mistake that the user can mend.

    Its message is one line that names the key, the value and what to do; the command line prints it and
    ends with exit code 2.
    """


class MachineError(UserError):
    """The machine failed: its disk is full or broken, or a folder is gone. No trial is to blame for it."""


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Tells a folder that is gone, or a disk that fails, from a fault of what is written there.

    Args:
        folder: Where the files go.

    Raises:
        MachineError: A file could not be written, and the machine is to blame.
    """
    gone = f"{folder}: cannot be written (the folder is gone)"
    if not folder.is_dir():
        # Keras would create it again, and nobody would look for the model there.
        raise MachineError(gone)
    try:
        yield
    except MachineError:
        raise
    except Exception as error:
        fault = machine_fault(error)
        if fault is not None:
            raise MachineError(f"{folder}: cannot be written ({fault})") from error
        if not folder.is_dir():
            raise MachineError(gone) from error
        raise


def machine_fault(error: BaseException) -> str | None:
    """Whether the machine, not the code that ran on it, is the cause of an exception.

    Args:
        error: The exception; its causes and contexts are looked at, too.

    Returns:
        What failed and where, in plain words, such as `the disk is full (experiments/a/model.h5)`; None where the
        exception is no fault of the machine's.
    """
    for one in _chain(error):
        if isinstance(one, MachineError):
            return str(one)
        if not isinstance(one, OSError) and "Error" not in type(one).__name__:
            continue
        code = one.errno if isinstance(one, OSError) else None
        text = str(one)[:10_000]
        what = _MACHINE.get(code or 0) or next((what for pattern, what in _TEXTS if pattern.search(text)), None)
        if what is not None:
            # Of a copy, the second one is what is written.
            where = getattr(one, "filename2", None) or getattr(one, "filename", None)
            return f"{what} ({where})" if where else what
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggests the known name nearest to a misspelt one.

    Args:
        name: What the user wrote.
        known: The names that would have been right.

    Returns:
        `"; did you mean 'adam'?"`, or `"; known: adam, sgd"` where nothing is near.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {next(n for n in names if n.lower() == near[0])!r}?"
    return f"; known: {', '.join(names)}"
