"""How to call this program again: the commands in messages, with the interpreter that runs."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
from pathlib import Path


def command(arguments: str = "") -> str:
    """Returns a command line of this program that works in this terminal.

    Args:
        arguments: The command and its arguments, quoted for the shell where needed.

    Returns:
        `python -m mnist_sweep ARGUMENTS` if the virtual environment is active; otherwise with the path of the
        interpreter, such as `.venv/bin/python -m mnist_sweep ARGUMENTS`.
    """
    return f"{interpreter()} -m mnist_sweep {arguments}".rstrip()


def pip_install(*requirements: str) -> str:
    """Returns the command that installs packages for this interpreter.

    Args:
        requirements: The packages, as pip takes them, such as `jax` or `mnist_sweep[gp]`.
    """
    return f"{interpreter()} -m pip install {' '.join(map(shlex.quote, requirements))}"


def interpreter() -> str:
    """Returns the shortest way to call the running interpreter from the working directory, quoted for the shell."""
    try:
        working = os.getcwd()
    except OSError:
        # It was removed.
        working = "/nowhere"
    return _interpreter(sys.executable, os.environ.get("PATH", ""), working)


@functools.cache
def _interpreter(executable: str, path: str, working: str) -> str:
    if not executable:
        return "python"
    for name in ("python", "python3"):
        found = shutil.which(name, path=path)
        if found is not None and _same(found, executable):
            return name
    inside = Path(executable).is_relative_to(working)
    return shlex.quote(os.path.relpath(executable, working) if inside else executable)


def _same(one: str, other: str) -> bool:
    """Whether two paths start the same Python with the same packages."""
    # The interpreter of a virtual environment may be a link to one without its packages.
    return (
        os.path.exists(other)
        and os.path.samefile(one, other)
        and os.path.realpath(Path(one).parent) == os.path.realpath(Path(other).parent)
    )
