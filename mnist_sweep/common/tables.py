"""Tables that stay readable in a narrow terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_sweep.common.text import one_line

# Characters of the longest line in a file, a pipe or a notebook, unless the variable COLUMNS says otherwise.
LONGEST_LINE = 160
# The time before each line of progress, and how many characters that leaves.
_STAMP = "%m-%d %H:%M:%S"
PROGRESS_LINE = LONGEST_LINE - len("MM-DD HH:MM:SS  ")
# Between two lines of `counting`.
_SECONDS_PER_LINE = 10.0


@dataclass
class Column:
    """A column; characters that would break a line or control a terminal are escaped.

    Attributes:
        heading: Its heading.
        cells: A text for each row.
        weight: In a narrow terminal, columns of lower weight are left out first, and of equal ones the last.
    """

    heading: str
    cells: Sequence[str | Text] = field(default_factory=list)
    weight: float = 0

    def __post_init__(self) -> None:
        """Escapes the texts, which may come from a user's names and values."""
        self.heading = one_line(self.heading)
        self.cells = [cell if isinstance(cell, Text) else one_line(cell) for cell in self.cells]

    @property
    def width(self) -> int:
        """The number of characters of its widest cell."""
        return max(len(self.heading), *(len(cell) for cell in self.cells), 0)


class _Output(Console):
    def __init__(self, **options: Any) -> None:
        # Else rich makes an emoji of a name such as `own:ok:`.
        super().__init__(emoji=False, **options)

    def on_broken_pipe(self) -> None:
        # Rich would exit with code 1 here, even in the middle of a sweep.
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            # EIO: the terminal was closed.
            if error.errno != errno.EIO:
                raise
            self.on_broken_pipe()


def standard_output() -> Console:
    """Returns the console to print on; a file or a pipe gets lines of 160 characters, or of COLUMNS."""
    # A process may be started without a standard output.
    if sys.stdout is not None and sys.stdout.isatty():
        return _Output()
    wished = os.environ.get("COLUMNS", "")
    # A notebook's kernel sets FORCE_COLOR, and control sequences are of no use in a file.
    return _Output(width=int(wished) if wished.isdigit() and int(wished) else LONGEST_LINE, force_terminal=False)


def can_redraw(console: Console) -> bool:
    """Whether what was printed can be replaced: in a terminal, but not if it is a dumb one, or a notebook's."""
    # A notebook gives `!command` a pseudo-terminal, and shows all that is written to it.
    in_notebook = "JPY_PARENT_PID" in os.environ
    return console.is_terminal and console.file.isatty() and not (console.is_dumb_terminal or in_notebook)


def show(console: Console, columns: Sequence[Column], title: str) -> list[str]:
    """Prints a table.

    Args:
        console: The console; columns that do not fit its width are left out.
        columns: All columns, in order.
        title: The table's title.

    Returns:
        The headings of the columns that were left out.
    """
    table, left_out = fitting(columns, "", console.width)
    # Not the table's own title, which would be wrapped at the width of a narrow table.
    console.print(Text(one_line(title), "bold"), highlight=False, soft_wrap=True)
    console.print(table)
    return left_out


def fitting(columns: Sequence[Column], title: str, limit: int) -> tuple[Table, list[str]]:
    """Makes a table with as many columns as fit into a line.

    Args:
        columns: All columns, in order.
        title: The table's title.
        limit: The most characters in a line.

    Returns:
        The table, and the headings of the columns that were left out.
    """
    kept = list(columns)
    # Each column is followed by two spaces of padding and one of the box.
    while len(kept) > 1 and sum(column.width + 3 for column in kept) + 1 > limit:
        last = min(reversed(range(len(kept))), key=lambda place: kept[place].weight)
        del kept[last]
    # As Text, because brackets in a name or a value are not markup.
    table = Table(
        title=Text(one_line(title)) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for column in kept:
        table.add_column(Text(column.heading), no_wrap=True)
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table, [column.heading for column in columns if not any(column is one for one in kept)]


def markdown(columns: Sequence[Column]) -> str:
    """Makes a Markdown table.

    Args:
        columns: The columns, in their order.

    Returns:
        Lines that end with a line feed. Pipes in texts are escaped, because they would end the cell.
    """
    headings = [column.heading for column in columns]
    rows = [headings, ["---"] * len(columns), *zip(*(column.cells for column in columns), strict=True)]
    lines = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


class ProgressPrinter(Protocol):
    """Prints a line on what happens now, in a style of rich."""

    def __call__(self, line: str, style: str = "") -> None:
        """Prints the line."""


def progress_printer(console: Console) -> ProgressPrinter:
    """Returns a function that prints a line on what happens now.

    Where nothing can be redrawn, as in a log file, the line starts with the time, and a long one becomes several.
    """
    redraws = can_redraw(console)

    def say(line: str, style: str = "") -> None:
        lines = [line]
        if not redraws:
            stamp = time.strftime(_STAMP)
            wrapped = textwrap.wrap(line, PROGRESS_LINE, subsequent_indent="  ", break_on_hyphens=False)
            lines = [f"{stamp}  {part}" for part in wrapped]
        for text in lines:
            console.print(Text(text, style), highlight=False, soft_wrap=True)

    return say


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows how much of some work is done, on standard error: a bar in a terminal, else a line now and then.

    Args:
        what: What is done, such as `Reading pictures`.
        total: How many steps there are.

    Yields:
        A function to call after each step, from any thread.
    """
    console = _Output(stderr=True)
    if can_redraw(console):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    say, lock = progress_printer(console), threading.Lock()
    done, told = 0, time.monotonic()

    def step() -> None:
        nonlocal done, told
        with lock:
            done += 1
            if done < total and time.monotonic() >= told + _SECONDS_PER_LINE:
                told = time.monotonic()
                say(f"{what}: {done:,} of {total:,}")

    yield step


def line_printer(console: Console) -> Callable[[str], None]:
    """Returns a function that prints a line unchanged: not wrapped, without markup or highlighting."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    return say
