"""Learning curves: of one trial, and of all trials of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mnist_sweep.progress import shown
from mnist_sweep.results.plots.common import (
    BLUE,
    DARK,
    FEW,
    GREEN,
    GREY,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    Floats,
    best_label,
    count_of,
    labelled,
    legend,
    limits,
    look,
    nothing,
    of_search,
    ranking,
    scores,
    swatch,
)
from mnist_sweep.settings import Objective

_PAIRS = (("loss", "Loss"), ("accuracy", "Accuracy"))
# The trials behind the best one that are told apart, and how.
_NEXT: tuple[tuple[str, Any], ...] = ((BLUE, "--"), (GREEN, "-."), (PURPLE, (0, (5, 1, 1, 1, 1, 1))), (SKY, ":"))


def learning_curves(epochs: Mapping[int, Mapping[str, float]], best_epoch: int | None, title: str) -> Figure:
    """One trial's loss and accuracy over its epochs.

    Args:
        epochs: The metrics of each epoch, by its number from 1.
        best_epoch: The epoch whose weights were kept, marked by a line.
        title: Of the picture.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, 2), _PAIRS, strict=True):
        for name, colour, part in (
            (metric, BLUE, "training"),
            (f"val_{metric}", VERMILION, "validation"),
        ):
            points = [(epoch, values[name]) for epoch, values in sorted(epochs.items()) if name in values]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=part)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=DARK, linestyle=":", label=f"best epoch ({best_epoch})")
        axes.set(xlabel="Epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.suptitle(title)
    return figure


def all_learning_curves(frame: pd.DataFrame, curves: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """The objective over the epochs of every trial of the search, the best of them highlighted.

    Args:
        frame: As `load_runs` gives it, of one sweep. Failed trials and those that train others anew are left out.
        curves: As `load_curves` gives it, of the same sweep.
        objective: Whose curves to draw.
        title: Of the picture.

    Returns:
        A line for each trial with a mark at its last epoch that tells its status: a stopped one is cut there.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title)
    axes.set(xlabel="Epoch", ylabel=labelled(objective))
    search = of_search(frame)
    drawn = search[~search["status"].isin(["failed", "refused"])]
    lines = _lines(drawn, curves, objective)
    if not lines:
        nothing(axes, f"No trial has a curve of {objective.name}.")
        return figure
    many = len(lines) > FEW
    top = [n for n in search["trial"].iloc[ranking(frame, objective)] if n in lines][: len(_NEXT) + 1]
    if len(lines) <= len(top):
        top = top[:1]
    rest = [line for number, line in lines.items() if number not in top]
    alpha = max(0.15, min(0.7, 20 / len(lines)))
    axes.add_collection(LineCollection(rest, colors=GREY, linewidths=0.7 if many else 1.2, alpha=alpha, label="rest"))
    handles: list[Any] = []
    for status, group in drawn.groupby("status", sort=True):
        ends = np.array([lines[n][-1] for n in group["trial"] if n in lines])
        if len(ends):
            style = look(status)
            marks: dict[str, Any] = {"marker": style.marker, "color": style.colour, "label": str(status)}
            marks |= {"s": 12, "linewidths": 0.8, "alpha": 0.5} if many else {"s": 30, "linewidths": 1.5, "alpha": 0.9}
            axes.scatter(ends[:, 0], ends[:, 1], zorder=3, **marks)
            handles.append(swatch(style.marker, style.colour, f"{status}, its last epoch"))
    known = dict(zip(search["trial"], scores(search, objective), strict=True))
    for number, (colour, dashes) in zip(top[1:], _NEXT, strict=False):
        axes.plot(*lines[number].T, color=colour, linestyle=dashes, linewidth=1.6, zorder=4, label=f"trial {number}")
        label = f"trial {number} ({shown(float(known[number]))})"
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=1.6, label=label))
    if top:
        best = lines[top[0]]
        label = best_label(frame, objective)
        axes.plot(*best.T, color=VERMILION, linewidth=2.6, zorder=5, label="best")
        at = best[int((np.nanargmax if objective.direction == "max" else np.nanargmin)(best[:, 1]))]
        axes.plot(*at[:, None], marker="*", markersize=13, color=VERMILION, markeredgecolor="white", zorder=6)
        handles.insert(0, Line2D([], [], color=VERMILION, linewidth=2.6, marker="*", markersize=11, label=label))
    ends = np.concatenate([line[:, 0] for line in lines.values()])
    first, last = float(ends.min()), float(ends.max())
    low, high = limits(np.concatenate([line[:, 1] for line in lines.values()]), objective)
    axes.set(xlim=(first - 0.5, last + 0.5), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    hidden = sum(bool((line[:, 1] < low).all() or (line[:, 1] > high).all()) for line in lines.values())
    failed = int((search["status"] == "failed").sum())
    notes = [
        f"{count_of(failed, 'failed trial')} left out" if failed else "",
        f"{count_of(hidden, 'curve')} wholly outside the picture" if hidden else "",
    ]
    legend(figure, handles, notes)
    return figure


def _lines(frame: pd.DataFrame, curves: pd.DataFrame, objective: Objective) -> dict[int, Floats]:
    """The points (epochs, 2) of each trial's curve, in order; values that are not finite are gaps."""
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
