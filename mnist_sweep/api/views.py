"""How a sweep that Python has started is shown: in a notebook's cell, in a terminal, or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mnist_sweep.common.errors import UserError

# Seconds between two updates of a notebook's cell.
_PAUSE = 1.0
_USER_ERROR = 2
_PREFIX = "mnist_sweep: "


class NoView:
    """Shows nothing.

    Attributes:
        inherits: Whether the process that runs the sweep prints on this one's standard output itself.
        lines: What it has printed, if it does not.
    """

    inherits = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def line(self) -> Callable[[str], None] | None:
        """Takes a line that the process prints; None to drop them."""
        return None

    def show(self, html: Callable[[], str], *, ended: bool = False) -> None:
        """Shows the sweep as it is now.

        Args:
            html: Draws it.
            ended: Whether this is the last time.
        """


class Inherited(NoView):
    """Leaves it to the process: a table in a terminal, lines in a file."""

    inherits = True


class Printed(NoView):
    """Prints its lines, for standard outputs that a process cannot inherit."""

    @property
    def line(self) -> Callable[[str], None]:
        return print


class InCell(NoView):
    """A table and curves in a notebook's cell, which are replaced by newer ones."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None
        self._shown, self._next = "", 0.0

    @property
    def line(self) -> Callable[[str], None]:
        return self.lines.append

    def show(self, html: Callable[[], str], *, ended: bool = False) -> None:
        from IPython.display import HTML, display

        if not ended and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PAUSE
        drawn = html()
        if self._handle is None:
            self._handle = display(HTML(drawn), display_id=True)
        elif drawn != self._shown:
            self._handle.update(HTML(drawn))
        self._shown = drawn


def choose(verbose: Literal["auto", 0, 1]) -> NoView:
    """Returns how to show a sweep.

    Args:
        verbose: As for `sweep`.
    """
    if verbose == 0:
        return NoView()
    if verbose == "auto" and _in_notebook():
        return InCell()
    return Inherited() if sys.stdout is sys.__stdout__ else Printed()


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
