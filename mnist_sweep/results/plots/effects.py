"""The effect of the hyperparameters on the score, alone and in pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnist_sweep.common.text import counted, format_value, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import of_search, ranked
from mnist_sweep.results.plots import common
from mnist_sweep.results.plots.scales import Scale, scales_of
from mnist_sweep.results.runs.frames import searched

_ACROSS = 5
# The most hyperparameters in one plot.
_MOST = 30
_SCATTER = 0.18


def importance(importances: pd.DataFrame, title: str) -> Figure:
    """Plots how much each hyperparameter matters, the most important one on top.

    Args:
        importances: As `mnist_sweep.results.importance.importances` gives it, a row per hyperparameter: its
            name in `hyperparameter`, its share in `importance`, and its 90 % interval in `low` and `high`, if known.
        title: The title of the plot.
    """
    known = importances[importances["importance"].notna()].sort_values("importance", ascending=False, kind="stable")
    drawn = known.head(_MOST)
    figure, axes = common.canvas(title, max(1.8, 0.9 + 0.28 * len(drawn)))
    if drawn.empty:
        return common.nothing(figure, "There are no importances.")
    names = [str(name).removeprefix("params.") for name in drawn["hyperparameter"]]
    short = short_names(names)
    value = common.numbers(drawn, "importance")
    low, high = common.numbers(drawn, "low"), common.numbers(drawn, "high")
    rows = np.arange(len(drawn))
    for bar, name, *numbers in zip(
        axes.barh(rows, value, color=common.BLUE, height=0.62, alpha=0.75), names, value, low, high, strict=True
    ):
        share, *ends = (f"{number:.2f}" for number in numbers)
        common.tell(
            bar, [f"{name}: {share}" + ("" if np.isnan(numbers).any() else f" (90 % interval {' to '.join(ends)})")]
        )
    spread = np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))
    axes.errorbar(value, rows, xerr=spread, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    rights = np.fmax(value, high)
    for row, end, share in zip(rows, rights, value, strict=True):
        axes.annotate(f"{share:.2f}", (end, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(rows, [short[name] for name in names])
    axes.set(ylim=(len(drawn) - 0.4, -0.6), xlim=(0, float(rights.max()) * 1.08 or 1.0))
    axes.set_xlabel("Importance, as a share of all")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    intervals = "the lines are 90 % intervals: the range for other trials of the same search" if spread.any() else ""
    left_out = common.note(len(known) - len(drawn), "less important hyperparameter")
    return common.legend(figure, [], [intervals, left_out])


def marginal_effects(frame: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """Plots the score over each searched hyperparameter.

    Args:
        frame: As `load_runs` gives it, of one sweep. Trials without a score, and those that retrain others, are left
            out.
        objective: The sweep's objective.
        title: The title of the plot.

    Returns:
        A panel for each hyperparameter with the trials, and the running median of a number or the quartiles of each
        category.
    """
    search = of_search(frame)
    varied = searched(search)
    ordered = ranked(frame, objective)
    rows = ordered.sort_values("trial")
    names = varied[:_MOST]
    across = min(max(len(names), 1), _ACROSS)
    down = max(math.ceil(len(names) / across), 1)
    figure = common.empty(title, 1.1 + 1.95 * down, common.WIDTH if across > 2 else common.HALF)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    if rows.empty or not names:
        return common.nothing(figure, "No trial has a score." if rows.empty else "No hyperparameter was searched.")
    figure.supylabel(common.labelled(objective), fontsize=9)
    found = common.scores(rows, objective)
    low, high = common.limits(found, objective)
    heights = np.clip(found, low, high)
    best = int(np.flatnonzero(rows["trial"] == ordered["trial"].iloc[0])[0])
    statuses = common.by_status(rows)
    marks: dict[str, Any] = (
        {"s": 22, "alpha": 0.8} if len(rows) <= common.FEW else {"s": 8, "alpha": max(0.25, min(0.7, 150 / len(rows)))}
    )
    marks |= {"linewidths": 1.0, "clip_on": False}
    short = short_names(varied)
    for axes, name, scale in zip(panels.flat, names, scales_of(rows, names), strict=False):
        places = _spread(scale)
        texts = _about(rows, name, found, objective)
        for status, style, mine in statuses:
            # A numeric axis has no place for inactive values.
            there = mine & ~np.isnan(places)
            dots = axes.scatter(
                places[there], heights[there], marker=style.marker, color=style.colour, label=status, **marks
            )
            common.tell(dots, texts[there].tolist())
        common.star(axes, places[best], heights[best], 12)
        if scale.labels is None:
            _median(axes, scale, heights)
        else:
            groups = [heights[scale.places == i] for i in range(len(scale.labels))]
            _boxes(axes, [*groups, heights[np.isnan(scale.places)]] if scale.inactive else groups)
        _ticks(axes, scale)
        missing = f" (not active in {scale.inactive})" if scale.labels is None and scale.inactive else ""
        axes.set_xlabel(f"{short[name]}{missing}")
        axes.set_ylim(low, high)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    handles = [
        common.star_swatch(frame, objective),
        *(common.swatch(style.marker, style.colour, status) for status, style, _ in statuses),
        Line2D([], [], color="black", linewidth=2, label="median"),
    ]
    notes = [common.outside(found, low, high), common.note(len(varied) - len(names), "hyperparameter")]
    return common.legend(figure, handles, notes)


def pairwise_effects(frame: pd.DataFrame, objective: Objective, first: str, second: str, title: str) -> Figure:
    """Plots the score over two hyperparameters.

    Args:
        frame: As for `marginal_effects`.
        objective: The sweep's objective.
        first: The hyperparameter on the x axis, such as `model.units`, with or without `params.`.
        second: The hyperparameter on the y axis.
        title: The title of the plot.

    Returns:
        A point for each trial, coloured by its score. If both hyperparameters have few values, a cell for each pair of
        values with the median score and the number of trials.
    """
    figure, axes = common.canvas(title, 3.8)
    rows = ranked(frame, objective)[::-1]
    if rows.empty:
        return common.nothing(figure, "No trial has a score.")
    names = [name.removeprefix("params.") for name in (first, second)]
    x, y = scales_of(rows, names)
    found = common.scores(rows, objective)
    cells = x.labels is not None and y.labels is not None
    shown_scores = _cells(x, y, found)[0] if cells else found
    low, high = common.limits(shown_scores.ravel(), objective)
    # Better is darker.
    colours = colormaps[common.SCORES if objective.maximize else common.SCORES.removesuffix("_r")]
    norm = Normalize(low, high)
    notes = [
        common.outside(shown_scores, low, high, "the scale, in the colour of its end", "median" if cells else "score")
    ]
    best = []
    if cells:
        _draw_cells(axes, x, y, found, norm, colours)
    else:
        left, up = _spread(x), _spread(y)
        # A numeric axis has no place for inactive values.
        there = ~(np.isnan(left) | np.isnan(up))
        size = 60 if len(rows) <= common.FEW else 26
        marks: dict[str, Any] = {"cmap": colours, "norm": norm, "edgecolors": "white", "linewidths": 0.4}
        dots = axes.scatter(left[there], up[there], c=found[there], s=size, clip_on=False, **marks)
        common.tell(dots, np.array(common.about(rows, objective), dtype=object)[there].tolist(), mapped=True)
        if there[-1]:
            common.star(axes, left[-1], up[-1], 15, "best")
            best = [common.star_swatch(frame, objective)]
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        notes.append(common.note(int((~there).sum()), "trial", "left out because one of the two is not active"))
    _ticks(axes, x)
    _ticks(axes, y, vertical=True)
    short = short_names(names)
    axes.set(xlabel=short[names[0]], ylabel=short[names[1]])
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=common.labelled(objective))
    return common.legend(figure, best, notes)


def _about(rows: pd.DataFrame, name: str, found: common.Floats, objective: Objective) -> npt.NDArray[np.object_]:
    values = common.values_of(rows, [name])
    return np.array(
        [
            f"trial {number}: {value or 'not active'}, {objective.name} {format_value(float(score))}"
            for number, value, score in zip(rows["trial"], values, found, strict=True)
        ],
        dtype=object,
    )


def _spread(scale: Scale) -> common.Floats:
    """Where to draw the trials (N,): those of a category next to each other, inactive ones after the last."""
    if scale.labels is None:
        return scale.places
    places = np.where(np.isnan(scale.places), len(scale.labels), scale.places)
    return places + np.random.default_rng(0).uniform(-_SCATTER, _SCATTER, len(places))


def _median(axes: Axes, scale: Scale, heights: common.Floats) -> None:
    """Draws a running median of the scores, each over a fifth of the trials, at least six."""
    there = ~np.isnan(scale.places)
    order = np.argsort(scale.places[there], kind="stable")
    x, y = scale.places[there][order], heights[there][order]
    width = max(6, len(x) // 5)
    if len(x) < 2 * width:
        return
    starts = np.unique(np.linspace(0, len(x) - width, 25).astype(int))
    middle = [(np.median(x[i : i + width]), np.median(y[i : i + width])) for i in starts]
    axes.plot(*zip(*middle, strict=True), color="white", linewidth=4, zorder=4)
    axes.plot(*zip(*middle, strict=True), color="black", linewidth=2, zorder=5, label="median")


def _boxes(axes: Axes, groups: list[common.Floats]) -> None:
    """Draws the quartiles of each group with at least three scores."""
    enough = [(i, group) for i, group in enumerate(groups) if len(group) >= 3]
    if enough:
        places, values = zip(*enough, strict=True)
        lines: dict[str, Any] = {"boxprops": {"color": common.DARK}, "whiskerprops": {"linewidth": 0}, "zorder": 4}
        lines |= {"medianprops": {"color": "black", "linewidth": 2}, "showcaps": False, "showfliers": False}
        axes.boxplot(values, positions=places, widths=0.6, manage_ticks=False, **lines)


def _ticks(axes: Axes, scale: Scale, vertical: bool = False) -> None:
    axis = axes.yaxis if vertical else axes.xaxis
    if scale.log:
        (axes.set_yscale if vertical else axes.set_xscale)("log")
    marks = scale.ticks(5)
    if scale.labels is not None:
        marks = [*marks, (float(len(scale.labels)), "–")] if scale.inactive else marks
        last = len(scale.labels) + (0.5 if scale.inactive else -0.5)
        (axes.set_ylim if vertical else axes.set_xlim)(-0.5, last)
    axis.set_ticks([place for place, _ in marks], [label for _, label in marks])
    axis.set_ticks([], minor=True)
    if not vertical and sum(len(label) for _, label in marks) > 30:
        axes.tick_params(axis="x", rotation=30)


def _cells(x: Scale, y: Scale, found: common.Floats) -> tuple[common.Floats, npt.NDArray[np.int64]]:
    """The median score and the number of trials of each pair of categories (rows, columns), the inactive last."""
    shape = len(y.labels or ()) + bool(y.inactive), len(x.labels or ()) + bool(x.inactive)
    column = np.where(np.isnan(x.places), shape[1] - 1, x.places).astype(int)
    row = np.where(np.isnan(y.places), shape[0] - 1, y.places).astype(int)
    medians, counts = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    for i, j in set(zip(row.tolist(), column.tolist(), strict=True)):
        mine = found[(row == i) & (column == j)]
        medians[i, j], counts[i, j] = np.median(mine), len(mine)
    return medians, counts


def _draw_cells(axes: Axes, x: Scale, y: Scale, found: common.Floats, norm: Normalize, colours: Colormap) -> None:
    medians, counts = _cells(x, y, found)
    for i, j in np.argwhere(counts).tolist():
        median, count = float(medians[i, j]), int(counts[i, j])
        dark = np.dot(colours(norm(median))[:3], (0.299, 0.587, 0.114)) < 0.5
        text = str(count) if medians.size > 100 else f"{format_value(median)}\n{counted(count, 'trial')}"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.imshow(medians, cmap=colours, norm=norm, origin="lower", aspect="auto")
