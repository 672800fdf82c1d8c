"""Tables that stay readable in a narrow terminal."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_sweep.common.text import one_line

_UNLIMITED = 1000


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
    weight: int = 0

    def __post_init__(self) -> None:
        """Escapes the texts, which may come from a user's names and values."""
        self.heading = one_line(self.heading)
        self.cells = [cell if isinstance(cell, Text) else one_line(cell) for cell in self.cells]

    @property
    def width(self) -> int:
        """The number of characters of its widest cell."""
        return max(len(self.heading), *(len(cell) for cell in self.cells), 0)


class _Output(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with code 1 here, even in the middle of a sweep.
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            # EIO: the terminal was closed.
            if error.errno != errno.EIO:
                raise
            self.on_broken_pipe()


def standard_output() -> Console:
    """Returns the console to print on; a file or a pipe gets lines of any length."""
    # A process may be started without a standard output.
    return _Output(width=None if sys.stdout is not None and sys.stdout.isatty() else _UNLIMITED)


def show(console: Console, columns: Sequence[Column], title: str) -> int:
    """Prints a table.

    Args:
        console: The console; columns that do not fit its width are left out.
        columns: All columns, in order.
        title: The table's title.

    Returns:
        How many columns were left out.
    """
    table, left_out = fitting(columns, title, console.width)
    console.print(table)
    return left_out


def fitting(columns: Sequence[Column], title: str, limit: int) -> tuple[Table, int]:
    """Makes a table with as many columns as fit into a line.

    Args:
        columns: All columns, in order.
        title: The table's title.
        limit: The most characters in a line.

    Returns:
        The table, and how many columns were left out.
    """
    kept = list(columns)
    # Each column is followed by two spaces of padding and one of the box.
    while len(kept) > 1 and sum(column.width + 3 for column in kept) + 1 > limit:
        kept.remove(min(reversed(kept), key=lambda column: column.weight))
    # As Text, because brackets in a name or a value are not markup.
    table = Table(
        title=Text(one_line(title)),
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
    return table, len(columns) - len(kept)


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


def line_printer(console: Console) -> Callable[[str], None]:
    """Returns a function that prints a line unchanged: not wrapped, without markup or highlighting."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return say
