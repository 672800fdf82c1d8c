"""Pictures of runs, each a function that returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PAIRS = (("loss", "Loss"), ("accuracy", "Accuracy"))
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_TRAINING, _VALIDATION, _BEST = "#0072B2", "#D55E00", "#555555"


def learning_curves(epochs: Mapping[int, Mapping[str, float]], best_epoch: int | None, title: str) -> Figure:
    """One trial's loss and accuracy over its epochs.

    Args:
        epochs: The metrics of each epoch, by its number from 1.
        best_epoch: The epoch whose weights were kept, marked by a line.
        title: Of the picture.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, 2), _PAIRS, strict=True):
        for name, colour, legend in (
            (metric, _TRAINING, "training"),
            (f"val_{metric}", _VALIDATION, "validation"),
        ):
            points = [(epoch, values[name]) for epoch, values in sorted(epochs.items()) if name in values]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=legend)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=_BEST, linestyle=":", label=f"best epoch ({best_epoch})")
        axes.set(xlabel="Epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.suptitle(title)
    return figure


def confusion_matrix(counts: Sequence[Sequence[int]], title: str) -> Figure:
    """How often each true class was taken for which.

    Args:
        counts: A row for each true class, a column for each predicted one.
        title: Of the picture.
    """
    size = min(max(4.5, 0.55 * len(counts) + 1), 14)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes: Any = figure.subplots()
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(counts) <= 20:
        for i, row in enumerate(counts):
            for j, n in enumerate(row):
                if n:
                    axes.text(
                        j,
                        i,
                        str(n),
                        ha="center",
                        va="center",
                        color="white" if shares[i][j] > 0.5 else "black",
                    )
        axes.set(xticks=range(len(counts)), yticks=range(len(counts)))
    axes.set(xlabel="Predicted class", ylabel="True class", title=title)
    return figure
