"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# So many classes have their numbers in their cells.
_WRITTEN = 20


def confusion_matrix(counts: Sequence[Sequence[int]], title: str) -> Figure:
    """How often each true class was taken for which.

    Args:
        counts: A row for each true class, a column for each predicted one.
        title: Of the picture.

    Returns:
        Up to 20 classes with the counts. Of more only the errors are coloured: there are few of each, and beside the
        diagonal none would be seen.
    """
    size = min(max(4.5, 0.55 * len(counts) + 1), 10)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes: Any = figure.subplots()
    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.set(xlabel="Predicted class", ylabel="True class", title=title)
    if len(counts) > _WRITTEN:
        _errors(figure, axes, shares)
        return figure
    # The root lets single mistakes be seen.
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    font = 10 if len(counts) <= 12 else 8
    for i, row in enumerate(counts):
        for j, n in enumerate(row):
            if n:
                colour = "white" if shares[i][j] > 0.3 else "black"
                axes.text(j, i, str(n), ha="center", va="center", color=colour, fontsize=font)
    axes.set(xticks=range(len(counts)), yticks=range(len(counts)))
    return figure


def _errors(figure: Figure, axes: Any, shares: Any) -> None:  # noqa: ANN401
    errors = np.where(np.eye(len(shares), dtype=bool), np.nan, shares)
    most = max(float(np.nanmax(errors)), 1e-9)
    norm = PowerNorm(0.5, 0, most)
    axes.imshow(np.where(np.isnan(errors), 1.0, np.nan), cmap="Greys", vmin=0, vmax=4)
    axes.imshow(errors, cmap="viridis_r", norm=norm, interpolation="nearest")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    label = "Share of the true class that is taken for another (the diagonal is grey)"
    figure.colorbar(ScalarMappable(norm, "viridis_r"), ax=axes, shrink=0.7, label=label)
