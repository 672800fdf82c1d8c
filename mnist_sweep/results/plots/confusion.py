"""The confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_sweep.results.plots.common import INVISIBLE, Floats, drawn, legend, tell

# With more classes than this, the cells have no numbers.
_WRITTEN = 20
# The number of pairs of classes that are named instead.
_NAMED = 5
_LONGEST_NAME = 18


def confusion_matrix(counts: Sequence[Sequence[int]], title: str, names: Sequence[str] = ()) -> Figure:
    """Plots how often each class was predicted as which.

    Args:
        counts: A row for each true class, a column for each predicted class.
        title: The title of the plot.
        names: The names of the classes; empty for their numbers.

    Returns:
        For up to 20 classes, all counts. For more, only the errors have colours, as the diagonal would outshine them,
        and the most frequent ones are named.
    """
    named = [drawn(str(name), _LONGEST_NAME) for name in names] or [str(i) for i in range(len(counts))]
    size = min(max(3.4, 0.36 * len(counts) + 0.9 + 0.05 * max(map(len, named))), 8)
    figure = Figure(figsize=(size + 0.3, size if len(counts) <= _WRITTEN else 0.9 * size), layout="constrained")
    axes: Any = figure.subplots()
    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.set_title(title, fontsize=9 if len(counts) > 5 else 7)
    _tell(axes, counts, shares, named)
    if len(counts) > _WRITTEN:
        _errors(figure, axes, shares, named)
        return figure
    # The square root makes single mistakes visible.
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    font = 8 if len(counts) <= 12 else 6.5
    for i, row in enumerate(counts):
        for j, n in enumerate(row):
            if n:
                colour = "white" if shares[i][j] > 0.3 else "black"
                axes.text(j, i, str(n), ha="center", va="center", color=colour, fontsize=font)
    lying = max(map(len, named)) <= (3 if len(counts) > 5 else 8)
    axes.set_xticks(range(len(counts)), named, rotation=0 if lying else 90)
    axes.set_yticks(range(len(counts)), named)
    axes.tick_params(labelsize=None if lying else 8)
    return figure


def _tell(axes: Any, counts: Sequence[Sequence[int]], shares: Floats, names: Sequence[str]) -> None:
    """Lays an invisible square on each cell, which tells its count."""
    cells = [(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n]
    corners = [[(j + x, i + y) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))] for i, j in cells]
    squares = axes.add_collection(PolyCollection(corners, facecolors=INVISIBLE, linewidths=0, zorder=5))
    texts = [f"{names[i]} predicted as {names[j]}: {counts[i][j]:,} ({100 * shares[i, j]:.1f} %)" for i, j in cells]
    tell(squares, texts)


def _errors(figure: Figure, axes: Any, shares: Floats, names: Sequence[str]) -> None:
    errors = np.where(np.eye(len(shares), dtype=bool), np.nan, shares)
    norm = PowerNorm(0.5, 0, max(float(np.nanmax(errors)), 1e-9))
    axes.imshow(np.where(np.isnan(errors), 1.0, np.nan), cmap="Greys", vmin=0, vmax=4)
    axes.imshow(errors, cmap="Blues", norm=norm, interpolation="nearest")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(alpha=0.25)
    bar = figure.colorbar(ScalarMappable(norm, "Blues"), ax=axes, shrink=0.7)
    bar.set_label("Share of the true class")
    places = np.argsort(-np.nan_to_num(errors), axis=None, kind="stable")[:_NAMED]
    pairs = zip(*np.unravel_index(places, errors.shape), strict=True)
    found = [(f"{names[i]} as {names[j]}", errors[i, j]) for i, j in pairs if errors[i, j] > 0]
    worst = [f"{pair} ({share:.0%})".replace("%", " %") for pair, share in found]
    legend(figure, [], [f"most frequent mistakes: {', '.join(worst)}" if worst else ""])
