"""Tables and plots."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.harness.records import Figure, Found, Record, Spread, Store, of, spread

# Okabe and Ito's colors, which color-blind people can tell apart.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, RED, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
Cell = Callable[[Sequence[Record]], str]
"""Formats a cell of a table from a variant's records."""


def console(width: int = 140) -> Console:
    """Returns a console for standard output, as wide as the terminal or else `width` columns."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Returns a table; the first column is text, the others are figures."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in headings:
        made.add_column(heading, justify="right" if made.columns else "left")
    for row in rows:
        made.add_row(*row)
    return made


def grid(found: Found, cells: Mapping[str, Cell], corner: str = "", *, flip: bool = False) -> Table:
    """Returns a table with a row for each variant and a column for each kind of cell, or the other way round."""
    rows = [[corner, *cells], *([name, *(cell(runs) for cell in cells.values())] for name, runs in found.items())]
    if flip:
        rows = [list(row) for row in zip(*rows, strict=True)]
    return table(rows[0], rows[1:])


def text(figure: Figure) -> Cell:
    """Returns the cell of a figure's median, least and greatest."""
    return lambda runs: spread(runs, figure).text()


def percent(figure: Figure) -> Cell:
    """Returns the cell of a share's median."""
    return lambda runs: f"{spread(runs, figure).median:.1%}"


def optional(value: Spread | None) -> str:
    """Formats a spread, if there is one."""
    return "" if value is None else value.text()


def everything(store: Store, options: Namespace, console: Console) -> None:
    """Prints a table for each part, with a column for each figure; text comes below."""
    for part in dict.fromkeys(record.part for record in store.records):
        found = store.newest(part)
        numbers = {name: runs for name, runs in found.items() if "error" not in runs[0].figures}
        figures = dict.fromkeys(name for runs in numbers.values() for name in runs[0].figures)
        console.print(grid(numbers, {name: text(of(name)) for name in figures}))
        for name in found.keys() - numbers.keys():
            console.print(f"{name}: {found[name][0].figures['error']}")


@contextmanager
def plot(
    path: Path, rows: int = 1, columns: int = 1, *, dpi: int = 130, footer: str = "", **options: Any
) -> Iterator[tuple[Any, Any]]:
    """Gives a figure and its grid of axes to draw on (`matplotlib.pyplot.subplots`), then writes the image."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, squeeze=False, **options)
    yield figure, axes
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.text(0.5, 0.01, footer, fontsize=6, ha="center", va="bottom", color="#555555")
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
