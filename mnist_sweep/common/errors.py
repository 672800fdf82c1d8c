"""Errors for users: one line, no traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mnist_sweep.common.text import first_line

# Errors of disks, quotas and mounts, which no hyperparameter can cause or fix.
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
# Libraries that write files themselves (HDF5, TensorFlow, NumPy) give the reason only in their message.
_TEXTS = (
    (
        re.compile(r"No space left on device|database or disk is full|errno = 28\b|\d+ requested and \d+ written"),
        "the disk is full",
    ),
    (re.compile(r"Disk quota exceeded|errno = 122\b"), "the disk quota is used up"),
    (re.compile(r"readonly database|Read-only file system"), "the disk is mounted read-only"),
    (re.compile(r"Input/output error|errno = 5\b"), "the disk cannot be read or written"),
)


# The exit code of a sweep that is complete although MLflow lacks results of it.
NOT_LOGGED = 3
# Errors of TensorFlow and JAX by name, as this module imports neither.
_PASSING_KINDS = {
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "InternalError",
    "ResourceExhaustedError",
    "UnavailableError",
    "UnknownError",
}
_LASTING_OS_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_PASSING_TEXT = re.compile(
    "^(RESOURCE_EXHAUSTED|INTERNAL|UNAVAILABLE|UNKNOWN|ABORTED|CANCELLED)|out of memory|can't start new thread"
)
# Names that fit into a message.
_MOST_NAMES = 40


class UserError(Exception):
    """A mistake that the user can fix.

    Its message is one line that names the key, the value and what to do. The command line prints it and exits with
    code 2.
    """


class ImpossibleError(UserError):
    """Hyperparameter values that are each allowed, but not together: no trial can train with them."""


class MachineError(UserError):
    """The machine failed: a disk is full or broken, a folder is gone, or all nodes are. No trial caused it.

    Attributes:
        todo: What to do before the sweep is resumed; "" if that follows from the message.
    """

    def __init__(self, message: str, *, todo: str = "") -> None:
        super().__init__(message)
        self.todo = todo


class UnreachableError(UserError):
    """A store or server does not answer now, but may later."""


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raises a `MachineError` if writing files fails because the folder is gone or the disk fails.

    Args:
        folder: Where the files are written.

    Raises:
        MachineError: A file could not be written, and the machine is the cause. Other exceptions pass unchanged.
    """
    gone = f"{folder}: cannot be written (the folder is gone)"
    if not folder.is_dir():
        # Keras would create the folder again, where nothing would find the model.
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


def may_pass(error: BaseException, *, gpu: bool) -> bool:
    """Returns whether a trial that failed may succeed when it is retried.

    Memory, a connection, a file of a network folder or a GPU may be there again. Any other error comes from the trial's
    values and the user's code, and would come again.

    Args:
        error: The exception; its causes and contexts are searched too.
        gpu: Whether the trial ran on a GPU, whose errors can be of any kind that a backend raises.
    """
    chain = list(with_causes(error))
    if any(type(one).__name__ == "FailedTrialError" for one in chain):
        # With it, users of keras-tuner say that the values are at fault, whatever came before.
        return False
    for one in chain:
        if isinstance(one, MachineError | MemoryError) or type(one).__name__ in _PASSING_KINDS:
            return True
        if isinstance(one, OSError) and not isinstance(one, _LASTING_OS_ERRORS):
            return True
        unspecific = isinstance(one, RuntimeError) and not isinstance(one, NotImplementedError | RecursionError)
        if unspecific and (gpu or _PASSING_TEXT.search(first_line(one))):
            return True
    return False


def machine_fault(error: BaseException) -> str | None:
    """Returns what failed on the machine, if that caused an exception.

    Args:
        error: The exception; its causes and contexts are searched too.

    Returns:
        What failed and where, such as `the disk is full (experiments/a/model.h5)`; None if the machine is not the
        cause.
    """
    for cause in with_causes(error):
        if isinstance(cause, MachineError):
            return str(cause)
        if not isinstance(cause, OSError) and "Error" not in type(cause).__name__:
            continue
        code = cause.errno if isinstance(cause, OSError) else None
        text = str(cause)[:10_000]
        what = _MACHINE.get(code or 0) or next((what for pattern, what in _TEXTS if pattern.search(text)), None)
        if what is not None:
            # When a file is copied, the second name is the one that is written.
            where = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
            return f"{what} ({where})" if where else what
    return None


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, then its causes and contexts."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            queue += [current.__cause__, None if current.__suppress_context__ else current.__context__]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Suggests the known name that is closest to a misspelt one, as the end of a message; "" if none is close.

    Args:
        name: What the user wrote.
        known: The valid names.
    """
    names = {n.lower(): n for n in sorted(known, reverse=True)}
    found = difflib.get_close_matches(name.lower(), sorted(names), n=1, cutoff=0.6)
    return f"; did you mean {names[found[0]]!r}?" if found else ""


def did_you_mean(name: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """Suggests the known name that is closest to a misspelt one, as the end of a message.

    Args:
        name: What the user wrote.
        known: The valid names.
        listed: Those to list if none is close, where not all are worth a look.

    Returns:
        `"; did you mean 'adam'?"`, or `"; choose one of: adam, sgd"` if no name is close.
    """
    names = sorted(known)
    if hint := suggestion(name, names):
        return hint
    names = names if listed is None else sorted(listed)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"; choose one of: {', '.join(names[:_MOST_NAMES])}{more}"
