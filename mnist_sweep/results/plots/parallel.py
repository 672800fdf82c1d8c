"""Parallel coordinates: each trial a line through its hyperparameters to its score."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from mnist_sweep.progress import short_names
from mnist_sweep.results.plots.common import (
    DARK,
    SCORES,
    VERMILION,
    WIDTH,
    Floats,
    best_label,
    count_of,
    legend,
    limits,
    nothing,
    of_search,
    outside,
    ranking,
    scores,
)
from mnist_sweep.results.plots.scales import Scale, scale_of
from mnist_sweep.results.runs import searched
from mnist_sweep.settings import Objective

# Where an inactive hyperparameter lies, below the least value at 0.
_INACTIVE = -0.13
_HALO = [withStroke(linewidth=2.5, foreground="white")]


def parallel_coordinates(frame: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """Each trial as a line through its searched hyperparameters to its score, coloured by that, the best on top.

    Args:
        frame: As `load_runs` gives it, of one sweep. Trials without a score, and those that train others anew, are left
            out.
        objective: What it optimised.
        title: Of the picture.

    Returns:
        An axis for each hyperparameter, inactive values below it at "–", and one for the score, better upwards.
    """
    search = of_search(frame)
    names = [column.removeprefix("params.") for column in searched(search)]
    figure = Figure(figsize=(min(max(WIDTH, 0.85 * len(names)), 16), 5.6), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title)
    order = ranking(frame, objective)
    if not order:
        nothing(axes, "No trial has a score.")
        return figure
    found = scores(search, objective)
    low, high = limits(found, objective)
    rows = search.iloc[order]
    scales = [scale_of(rows[f"params.{name}"]) for name in names]
    upwards = found[order] if objective.direction == "max" else -found[order]
    ends = (low, high) if objective.direction == "max" else (-high, -low)
    goodness = np.clip(Normalize(*ends)(upwards).filled(0), 0, 1)
    heights = [_heights(scale, len(order)) for scale in scales]
    points = np.stack([*heights, np.asarray(goodness)], axis=1)
    lines = np.stack([np.broadcast_to(np.arange(len(names) + 1.0), points.shape), points], axis=2)[::-1]
    many = len(order)
    alpha = np.linspace(max(0.25, min(0.7, 40 / many)), 0.9, many) if many > 1 else np.ones(1)
    colours = colormaps[SCORES](np.asarray(goodness)[::-1])
    colours[:, 3] = alpha
    axes.add_collection(
        LineCollection(list(lines), colors=colours, linewidths=0.7 if many > 200 else 1.2, label="trials")
    )
    axes.plot(*lines[-1].T, color=VERMILION, linewidth=2.4, marker="o", markersize=4, label="best", zorder=4)
    short = short_names(names)
    for x, (name, scale) in enumerate(zip(names, scales, strict=True)):
        _axis(axes, x, scale)
        axes.text(x, 1.04, short[name], rotation=25, fontsize=9, rotation_mode="anchor")
    last = len(names)
    strip = colormaps[SCORES](np.linspace(0, 1, 256))[:, None]
    axes.imshow(strip, extent=(last, last + 0.12, 0, 1), origin="lower", aspect="auto", zorder=3)
    for value in MaxNLocator(8).tick_values(low, high):
        if low <= value <= high:
            height = (value - low) / (high - low)
            _text(axes, last + 0.16, height if objective.direction == "max" else 1 - height, f"{value:g}", "left")
    axes.text(last, 1.04, objective.name, rotation=25, fontsize=9, rotation_mode="anchor", weight="bold")
    inactive = any(np.isnan(scale.places).any() for scale in scales)
    axes.set(xlim=(-0.35, len(names) + 0.5), ylim=(_INACTIVE - 0.05 if inactive else -0.05, 1.05), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    handle = Line2D(
        [], [], color=VERMILION, linewidth=2.4, marker="o", markersize=4, label=best_label(frame, objective)
    )
    left_out = len(search) - len(order)
    notes = [
        f"{count_of(left_out, 'trial')} without a score left out" if left_out else "",
        "–: the hyperparameter is not active" if inactive else "",
        outside(found, low, high),
    ]
    legend(figure, [handle], notes)
    return figure


def _heights(scale: Scale, seed: int) -> Floats:
    """Where a hyperparameter's values (N,) lie on its axis; those of a category a little apart."""
    heights = scale.shares()
    if scale.labels is not None:
        room = 0.3 / max(len(scale.labels), 2)
        heights = heights + np.random.default_rng(seed).uniform(-room / 2, room / 2, len(heights))
    return np.where(np.isnan(heights), _INACTIVE, heights)


def _axis(axes: Axes, x: float, scale: Scale) -> None:
    axes.axvline(x, ymin=0, color=DARK, linewidth=0.8, zorder=3)
    told = scale.ticks()
    heights = scale.share(np.array([place for place, _ in told]))
    marks = [(float(height), label) for height, (_, label) in zip(heights, told, strict=True)]
    if scale.inactive:
        marks.append((_INACTIVE, "–"))
    for height, label in marks:
        axes.plot([x - 0.03, x], [height, height], color=DARK, linewidth=0.8, zorder=5)
        _text(axes, x - 0.05, height, label, "right")


def _text(axes: Axes, x: float, y: float, text: str, side: Literal["left", "right"]) -> None:
    axes.text(x, y, text, ha=side, va="center", fontsize=8, zorder=6, path_effects=_HALO)
