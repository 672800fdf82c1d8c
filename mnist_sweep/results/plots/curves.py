"""The learning curves of all trials of a sweep. `mnist_sweep.tracking.curves_plot` plots those of one trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mnist_sweep.common.text import format_value
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import of_search, ranked
from mnist_sweep.results.plots import common

# The colours and line styles of the trials after the best one.
_NEXT: tuple[tuple[str, Any], ...] = (
    (common.BLUE, "--"),
    (common.GREEN, "-."),
    (common.PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    (common.SKY, ":"),
)


def all_learning_curves(frame: pd.DataFrame, curves: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """Plots the objective over the epochs of all trials, and highlights the best ones.

    Args:
        frame: As `load_runs` gives it, of one sweep. Failed trials, and those that retrain others, are left out.
        curves: As `load_curves` gives it, of the same sweep.
        objective: The objective.
        title: The title of the plot.

    Returns:
        A line for each trial, with a mark at its last epoch that shows its status.
    """
    figure, axes = common.canvas(title, 5.2)
    axes.set(xlabel="Epoch", ylabel=common.labelled(objective))
    search = of_search(frame)
    drawn = search[~search["status"].isin(["failed", "refused"])]
    lines = _lines(drawn, curves, objective)
    if not lines:
        return common.nothing(figure, f"No trial has a curve of {objective.name}.")
    # A wide fence, as the first epochs are far below the others.
    low, high = common.limits(np.concatenate([line[:, 1] for line in lines.values()]), objective, fence=3)
    many = len(lines) > common.FEW
    ordered = ranked(frame, objective)
    top = [n for n in ordered["trial"] if n in lines][: len(_NEXT) + 1]
    rest = [line for number, line in lines.items() if number not in top]
    alpha = max(0.15, min(0.7, 35 / len(lines)))
    axes.add_collection(
        LineCollection(rest, colors=common.GREY, linewidths=0.7 if many else 1.2, alpha=alpha, label="rest")
    )
    handles: list[Any] = []
    for status, style, mine in common.by_status(drawn):
        ends = np.array([lines[n][-1] for n in drawn.loc[mine, "trial"] if n in lines])
        if len(ends):
            marks: dict[str, Any] = {"marker": style.marker, "color": style.colour, "label": status}
            marks |= {"s": 12, "linewidths": 0.8, "alpha": 0.5} if many else {"s": 30, "linewidths": 1.5, "alpha": 0.9}
            axes.scatter(ends[:, 0], np.clip(ends[:, 1], low, high), zorder=3, clip_on=False, **marks)
            handles.append(common.swatch(style.marker, style.colour, f"{status}, its last epoch"))
    known = dict(zip(ordered["trial"], common.scores(ordered, objective), strict=True))
    for number, (colour, dashes) in zip(top[1:], _NEXT, strict=False):
        axes.plot(*lines[number].T, color=colour, linestyle=dashes, linewidth=1.6, zorder=4, label=f"trial {number}")
        label = f"trial {number} ({format_value(float(known[number]))})"
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=1.6, label=label))
    if top:
        best = lines[top[0]]
        line: dict[str, Any] = {"color": common.VERMILION, "linewidth": 2.6}
        axes.plot(*best.T, **line, zorder=5, label="best")
        at = best[int((np.nanargmax if objective.maximize else np.nanargmin)(best[:, 1]))]
        common.star(axes, at[0], at[1], 13)
        label = common.best_label(frame, objective)
        handles.insert(0, Line2D([], [], **line, marker="*", markersize=11, label=label))
    epochs = np.concatenate([line[:, 0] for line in lines.values()])
    first, last = float(np.nanmin(epochs)), float(np.nanmax(epochs))
    axes.set(xlim=(first - 0.5, last + 0.5), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    hidden = sum(not low <= line[-1, 1] <= high for line in lines.values() if not np.isnan(line[-1, 1]))
    failed = int((search["status"] == "failed").sum())
    notes = [
        common.note(failed, "failed trial"),
        common.note(hidden, "curve", "ending outside the plot, marked at its edge"),
    ]
    return common.legend(figure, handles, notes)


def _lines(frame: pd.DataFrame, curves: pd.DataFrame, objective: Objective) -> dict[int, common.Floats]:
    """The points (epochs, 2) of each trial's curve, in order; NaN where a value is not finite."""
    chosen = curves[(curves["metric"] == objective.name) & curves["trial"].isin(frame["trial"])]
    if chosen.empty:
        return {}
    chosen = chosen.sort_values(["trial", "epoch"], kind="stable")
    points = chosen[["epoch", "value"]].to_numpy(dtype=np.float64, na_value=np.nan)
    points[~np.isfinite(points)] = np.nan
    trials = chosen["trial"].to_numpy(dtype=np.int64)
    cuts = np.flatnonzero(np.diff(trials)) + 1
    parts = zip(trials[np.r_[0, cuts]], np.split(points, cuts), strict=True)
    return {int(number): line for number, line in parts if not np.isnan(line[:, 1]).all()}
