"""How a sweep that Python has started is shown: in a notebook's cell, in a terminal, or not at all."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mnist_sweep.common.errors import UserError

# Seconds between two updates of a notebook's cell.
_PAUSE = 1.0
# Lines of the process's output that are shown.
_LINES = 500
_USER_ERROR = 2
_PREFIX = "mnist_sweep: "


class View:
    """Shows nothing.

    Attributes:
        inherits: Whether the process that runs the sweep prints on this one's standard output itself.
        line: Takes each line that the process prints, if it does not; None to drop them.
        lines: The lines to show with the sweep.
    """

    def __init__(self, line: Callable[[str], None] | None = None, *, inherits: bool = False) -> None:
        self.line, self.inherits, self.lines = line, inherits, deque[str](maxlen=_LINES)

    def show(self, html: Callable[[], str], *, ended: bool = False) -> None:
        """Shows the sweep as it is now.

        Args:
            html: Draws it.
            ended: Whether this is the last time.
        """


class InCell(View):
    """A table and curves in a notebook's cell, which are replaced by newer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.line = self.lines.append
        self._handle: Any = None
        self._shown, self._next = "", 0.0

    def show(self, html: Callable[[], str], *, ended: bool = False) -> None:
        """Shows the sweep, at most once a second until it has ended."""
        # Without types.
        display: Any = importlib.import_module("IPython.display")
        if not ended and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PAUSE
        drawn = html()
        if self._handle is None:
            self._handle = display.display(display.HTML(drawn), display_id=True)
        elif drawn != self._shown:
            self._handle.update(display.HTML(drawn))
        self._shown = drawn


def choose(verbose: Literal["auto", 0, 1]) -> View:
    """Returns how to show a sweep.

    Args:
        verbose: As for `sweep`.

    Raises:
        UserError: It is something else.
    """
    if verbose not in ("auto", 0, 1):
        raise UserError(f"verbose={verbose!r}: must be 'auto', 0 or 1")
    if verbose == 0:
        return View()
    if verbose == "auto" and _in_notebook():
        return InCell()
    return View(inherits=True) if sys.stdout is sys.__stdout__ else View(print)


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook: of Jupyter, VS Code or Colab, not IPython in a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def run_command(arguments: Sequence[str]) -> None:
    """Runs a command of the command line in a process of its own, and prints what it prints.

    Raises:
        UserError: It has failed with one.
        RuntimeError: It has failed in another way.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mnist_sweep", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(_PREFIX)] or [done.stderr.strip()[-1000:]]
        kind = UserError if done.returncode == _USER_ERROR else RuntimeError
        raise kind(lines[-1].removeprefix(_PREFIX))
    print(done.stdout, end="")
