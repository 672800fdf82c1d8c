"""Parallel coordinates: each trial is a line through its hyperparameters to its score."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from mnist_sweep.common.text import format_value, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import of_search, ranked
from mnist_sweep.results.plots import common
from mnist_sweep.results.plots.scales import Scale, scales_of
from mnist_sweep.results.runs.frames import searched

# The height of inactive hyperparameters, below the smallest value at 0.
_INACTIVE = -0.13
_HALO = [withStroke(linewidth=2.5, foreground="white")]


def parallel_coordinates(frame: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """Plots each trial as a line through its searched hyperparameters to its score, which gives the line its colour.

    Args:
        frame: As for `marginal_effects`.
        objective: The sweep's objective.
        title: The title of the plot.

    Returns:
        An axis for each hyperparameter, with inactive values at "–" below it, and one for the score, with the best on
        top. The scores are spaced by rank, so one bad trial does not squeeze the others together.
    """
    search = of_search(frame)
    names = searched(search)
    figure, axes = common.canvas(title, 5.0, min(max(10, 0.85 * len(names)), 16))
    rows = ranked(frame, objective)
    if rows.empty:
        return common.nothing(figure, "No trial has a score.")
    found = common.scores(rows, objective)
    scales = scales_of(rows, names)
    goodness = _goodness(found, objective)
    points = np.stack([*(_heights(scale, seed) for seed, scale in enumerate(scales)), goodness], axis=1)
    upwards = np.argsort(goodness, kind="stable")
    lines = np.stack([np.broadcast_to(np.arange(len(names) + 1.0), points.shape), points], axis=2)
    colours = colormaps[common.SCORES](goodness)
    # Among many lines, the good ones stand out.
    faint = max(0.1, min(0.7, 30 / len(rows)))
    colours[:, 3] = faint + (0.9 - faint) * goodness**8
    width = 1.0 if len(rows) > 4 * common.FEW else 1.4
    axes.add_collection(LineCollection(list(lines[upwards]), colors=colours[upwards], linewidths=width, label="trials"))
    best: dict[str, Any] = {"color": common.VERMILION, "linewidth": 2.4, "marker": "o", "markersize": 4}
    axes.plot(*lines[0].T, **best, label="best", zorder=4)
    short = short_names(names)
    for x, (name, scale) in enumerate(zip(names, scales, strict=True)):
        _axis(axes, x, scale)
        axes.text(x, 1.04, short[name], rotation=25, fontsize=9, rotation_mode="anchor")
    last = len(names)
    strip = colormaps[common.SCORES](np.linspace(0, 1, 256))[:, None]
    axes.imshow(strip, extent=(last, last + 0.12, 0, 1), origin="lower", aspect="auto", zorder=3)
    listed: list[str] = []
    for height in (1, 0.9, 0.75, 0.5, 0.25, 0):
        value = format_value(float(np.quantile(found, height if objective.maximize else 1 - height)))
        if value not in listed:
            listed.append(value)
            _text(axes, last + 0.16, height, value, "left")
    axes.text(last, 1.04, objective.name, rotation=25, fontsize=9, rotation_mode="anchor", weight="bold")
    inactive = any(np.isnan(scale.places).any() for scale in scales)
    axes.set(xlim=(-0.35, len(names) + 0.5), ylim=(_INACTIVE - 0.05 if inactive else -0.07, 1.07), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    handle = Line2D([], [], **best, label=common.best_label(frame, objective))
    notes = [
        common.note(len(search) - len(rows), "trial", "without a score left out"),
        "–: the hyperparameter is not active" if inactive else "",
        "the scores are spaced by rank",
    ]
    return common.legend(figure, [handle], notes)


def _goodness(found: common.Floats, objective: Objective) -> common.Floats:
    """The ranks (N,) of the scores from 0 (worst) to 1 (best); ties have the best of their ranks."""
    ranks = pd.Series(found).rank(method="max", ascending=objective.maximize).to_numpy(dtype=np.float64)
    return np.asarray((ranks - 1) / max(len(found) - 1, 1)) if len(found) > 1 else np.ones(1)


def _heights(scale: Scale, seed: int) -> common.Floats:
    """The heights (N,) of a hyperparameter's values on its axis; those of a category are spread a little."""
    heights = scale.share(scale.places)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, len(heights))
    if scale.labels is not None:
        heights = heights + noise * 0.2 / max(len(scale.labels), 2)
    return np.where(np.isnan(heights), _INACTIVE + noise * 0.03, heights)


def _axis(axes: Axes, x: float, scale: Scale) -> None:
    axes.axvline(x, ymin=0, color=common.DARK, linewidth=0.8, zorder=3)
    labelled = scale.ticks()
    heights = scale.share(np.array([place for place, _ in labelled]))
    marks = [(float(height), label) for height, (_, label) in zip(heights, labelled, strict=True)]
    if scale.inactive:
        marks.append((_INACTIVE, "–"))
    for height, label in marks:
        axes.plot([x - 0.03, x], [height, height], color=common.DARK, linewidth=0.8, zorder=5)
        _text(axes, x - 0.05, height, label, "right")


def _text(axes: Axes, x: float, y: float, text: str, side: Literal["left", "right"]) -> None:
    axes.text(x, y, text, ha=side, va="center", fontsize=8, zorder=6, path_effects=_HALO)
