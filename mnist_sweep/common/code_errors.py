"""Describes what goes wrong in a user's code."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import first_line

# Of TensorFlow's settings that only take effect before its first operation, which this process has run already.
_TOO_LATE = re.compile(
    r"cannot be (modified|set|changed) after|must be (called|set) (at|before)|after being initialized"
)


def code_error(setting: str, module: str, problem: str, error: BaseException) -> UserError:
    """Describes an exception in a user's code in one line with its place; prints the traceback to the worker's log.

    Args:
        setting: The config key and its value, with which the message starts.
        module: The user's module.
        problem: What went wrong: `cannot be imported`.
        error: The exception.
    """
    traceback.print_exception(error)
    place = _place(module, traceback.extract_tb(error.__traceback__))
    kind, line = type(error).__name__, first_line(error)
    todo = ""
    if isinstance(error, RuntimeError | ValueError) and _TOO_LATE.search(str(error)):
        todo = "; remove that line: each worker sets its own threads (workers.threads) and devices"
    return UserError(f"{setting}: {problem} ({kind}{place}{'' if line == kind else f': {line}'}){todo}")


def import_error(setting: str, module: str, error: Exception) -> UserError:
    """Describes why a user's module cannot be imported; if there is none, suggests one of this folder.

    Args:
        setting: The config key and its value, with which the message starts.
        module: The user's module.
        error: The exception.
    """
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None or not f"{module}.".startswith(f"{missing}."):
        return code_error(setting, module, "cannot be imported", error)
    here = sorted(path.stem for path in Path().glob("*.py") if path.stem.isidentifier())
    folders = sorted(path.parent.name for path in Path().glob("*/__init__.py"))
    hint = did_you_mean(missing, [*here, *folders]) if here or folders else ""
    return UserError(f"{setting}: there is no module {missing}{hint or '; it must be in this folder, or installed'}")


def _place(module: str, stack: traceback.StackSummary) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    # A module that fails while it is imported is not in `sys.modules` any more.
    names = {file} if file else {f.filename for f in stack if Path(f.filename).stem == module.rpartition(".")[2]}
    # A sweep's own module has its code from elsewhere, such as a notebook's cells.
    names.update(getattr(sys.modules.get(module), "__sources__", ()))
    lines = [(frame.filename, frame.lineno) for frame in stack if frame.filename in names]
    return f" at {Path(lines[-1][0]).name}:{lines[-1][1]}" if lines else ""
