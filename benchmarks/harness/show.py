"""Tables and plots."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

# Okabe and Ito's colours, which colour-blind people can tell apart.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, RED, PURPLE = "#0072B2", "#D55E00", "#CC79A7"


def console(width: int = 140) -> Console:
    """Returns a console for standard output, as wide as the terminal or else `width` columns."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def table(*headings: str, title: str | None = None, left: tuple[str, ...] = ()) -> Table:
    """Returns an empty table; the first column and those in `left` are text, the others figures."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in headings:
        made.add_column(heading, justify="right" if made.columns and heading not in left else "left")
    return made


@contextmanager
def plot(
    path: Path, rows: int = 1, columns: int = 1, *, dpi: int = 130, footer: str = "", **options: object
) -> Iterator[tuple[Any, Any]]:
    """Draws a plot: gives the figure and its grid of axes, then writes the file.

    Args:
        path: The image file.
        rows: Of the grid.
        columns: Of the grid.
        dpi: Dots per inch.
        footer: A line below everything.
        options: For `matplotlib.pyplot.subplots`.
    """
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
