"""Pictures of runs, each a function that returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_sweep.outcomes import pareto
from mnist_sweep.settings import Objective

_PAIRS = (("loss", "Loss"), ("accuracy", "Accuracy"))
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_TRAINING, _VALIDATION, _BEST = "#0072B2", "#D55E00", "#555555"
# Points with their numbers beside them, before those cover each other.
_NUMBERED = 30


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


def pareto_front(scores: Mapping[int, Sequence[float]], objectives: Sequence[Objective], title: str) -> Figure:
    """The trials by their objectives, those of the Pareto set marked and numbered.

    Args:
        scores: A value for each objective, by trial.
        objectives: Two or more; each but the first has a picture of its own, against the first.
        title: Of the picture.
    """
    first, *others = objectives
    figure = Figure(figsize=(5.5 * len(others), 4.2), layout="constrained")
    front = sorted(pareto(dict(zip(scores, map(tuple, scores.values()), strict=True)), objectives))
    for i, (axes, objective) in enumerate(
        zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True), 1
    ):
        rest = [n for n in scores if n not in front]
        axes.scatter([scores[n][i] for n in rest], [scores[n][0] for n in rest], s=18, color="#999999", label="trials")
        line = sorted((scores[n][i], scores[n][0], n) for n in front)
        # With a third objective, what lies between two points of the set here need not lie beyond them.
        style = "o-" if len(objectives) == 2 else "o"
        axes.plot([x for x, _, _ in line], [y for _, y, _ in line], style, color=_VALIDATION, label="Pareto set")
        for x, y, number in line if len(line) <= _NUMBERED else ():
            axes.annotate(str(number), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        spread = [scores[n][i] for n in scores]
        if min(spread, default=0) > 0 and max(spread) > 20 * min(spread):
            axes.set_xscale("log")
        axes.set(xlabel=_labelled(objective), ylabel=_labelled(first))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    return figure


def _labelled(objective: Objective) -> str:
    unit = " in seconds" if objective.name in ("latency", "epoch_seconds") else ""
    return f"{objective.name}{unit}, {'larger' if objective.direction == 'max' else 'smaller'} is better"
