"""Learning curves. `mnist_sweep.tracking.curves_plot` draws those in MLflow, in a fraction of the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mnist_sweep.common.text import format_value
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import of_search, ranked
from mnist_sweep.results.plots import common
from mnist_sweep.results.runs.frames import searched

# The colours and line styles of the best trial and of the next ones.
_NEXT: tuple[tuple[str, Any], ...] = (
    (common.BLUE, "--"),
    (common.GREEN, "-."),
    (common.PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    (common.SKY, ":"),
)
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": common.VERMILION, "linewidth": 2.4, "linestyle": "-"},
    *({"color": colour, "linewidth": 1.6, "linestyle": dashes} for colour, dashes in _NEXT),
)
# A page gets a picture of the other curves if they have more points, and the values of a curve with at most so many.
_MOST_POINTS, _MOST_DOTS = 4000, 60
# Metrics without a counterpart on the validation data.
_NOT_DRAWN = ("learning_rate", "epoch_seconds")
# The most hyperparameters that the legend names, and the characters of a label for which half of the page has room.
_MOST_NAMED, _SHORT = 6, 70


def all_learning_curves(frame: pd.DataFrame, curves: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """Plots the objective over the epochs of all trials, and highlights the best ones.

    Args:
        frame: As `load_runs` gives it, of one sweep. Failed trials, and those that retrain others, are left out.
        curves: As `load_curves` gives it, of the same sweep.
        objective: The objective.
        title: The title of the plot.

    Returns:
        A line for each trial, with a mark at its last epoch that shows its status. If the same metric is known on the
        training and the validation data, training is on the left, on the same scale. The legend tells the best trials
        apart by the hyperparameters in which they differ.
    """
    search = of_search(frame)
    drawn = search[~search["status"].isin(["failed", "refused"])]
    lines = {name: found for name in _both(objective.name) if (found := _lines(drawn, curves, name))}
    ordered = ranked(frame, objective)
    own = lines.get(objective.name)
    if own is None:
        figure, _ = common.canvas(title, 3.6)
        return common.nothing(figure, f"No trial has a curve of {objective.name}.")
    top = ordered[ordered["trial"].isin(list(own))][: len(_NEXT) + 1]
    labels = _labels(frame, top, objective)
    # Long labels need room, too.
    wide = len(lines) > 1 or max((len(str(label.get_label())) for label in labels), default=0) > _SHORT
    figure = common.empty(title, 3.9, common.WIDTH if wide else common.HALF)
    # A wide fence, as the first epochs are far below the others.
    values = np.concatenate([line[:, 1] for found in lines.values() for line in found.values()])
    low, high = common.limits(values, objective, fence=3)
    styles = dict(zip(top["trial"], _STYLES, strict=False))
    texts = dict(zip(drawn["trial"], common.about(drawn, objective), strict=True))
    panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(panels, lines.items(), strict=True):
        _draw(axes, found, styles, texts, name)
        epochs = np.concatenate([line[:, 0] for line in found.values()])
        axes.set(
            xlabel="Epoch", xlim=(float(np.nanmin(epochs)) - 0.5, float(np.nanmax(epochs)) + 0.5), ylim=(low, high)
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            part = "validation" if name.startswith("val_") else "training"
            axes.set_title(f"{name} on the {part} data", fontsize=9)
        if name == objective.name:
            handles = _ends(axes, drawn, found, texts, (low, high))
            if len(top):
                best = found[int(top["trial"].iloc[0])]
                at = best[int((np.nanargmax if objective.maximize else np.nanargmin)(best[:, 1]))]
                common.star(axes, at[0], at[1], 13)
    panels[0].set_ylabel(common.labelled(objective) if len(lines) == 1 else objective.hint)
    hidden = sum(not low <= line[-1, 1] <= high for line in own.values() if not np.isnan(line[-1, 1]))
    failed = int((search["status"] == "failed").sum())
    notes = [
        common.note(failed, "failed trial"),
        common.note(hidden, "curve", "ending outside the plot, marked at its edge"),
    ]
    return common.legend(figure, [*labels, *handles], notes)


def _both(name: str) -> tuple[str, ...]:
    """A metric on the training and on the validation data."""
    plain = name.removeprefix("val_")
    return plain, f"val_{plain}"


def _draw(
    axes: Axes,
    lines: Mapping[int, common.Floats],
    styles: Mapping[int, Mapping[str, Any]],
    texts: Mapping[int, str],
    name: str,
) -> None:
    """Draws a line for each trial; those with a style are on top, with their values."""
    many = len(lines) > common.FEW
    rest = {number: line for number, line in lines.items() if number not in styles}
    alpha = max(0.15, min(0.7, 35 / len(lines)))
    drawn = LineCollection(
        list(rest.values()), colors=common.GREY, linewidths=0.7 if many else 1.2, alpha=alpha, label="rest"
    )
    axes.add_collection(drawn)
    if sum(map(len, rest.values())) > _MOST_POINTS:
        drawn.set_rasterized(True)
    elif rest:
        # A thin line is hard to point at.
        wide = LineCollection(list(rest.values()), colors=[common.INVISIBLE], linewidths=6, label="wide")
        axes.add_collection(wide)
        common.tell(wide, [texts[number] for number in rest])
    for place, (number, style) in enumerate(styles.items()):
        if number not in lines:
            continue
        line = lines[number]
        axes.plot(*line.T, **style, zorder=5 - 0.1 * place, label="best" if place == 0 else f"trial {number}")
        known = line[~np.isnan(line[:, 1])]
        if len(known) <= _MOST_DOTS:
            dots = axes.scatter(known[:, 0], known[:, 1], s=9, color=style["color"], zorder=5)
            common.tell(dots, [f"trial {number}, epoch {e:.0f}: {name} {format_value(float(v))}" for e, v in known])


def _ends(
    axes: Axes,
    frame: pd.DataFrame,
    lines: Mapping[int, common.Floats],
    texts: Mapping[int, str],
    limits: tuple[float, float],
) -> list[Any]:
    """Marks the last epoch of each trial by its status, and returns the marks for the legend."""
    many = len(lines) > common.FEW
    handles: list[Any] = []
    for status, style, mine in common.by_status(frame):
        numbers = [n for n in frame.loc[mine, "trial"] if n in lines and not np.isnan(lines[n][-1, 1])]
        if numbers:
            ends = np.array([lines[n][-1] for n in numbers])
            marks: dict[str, Any] = {"marker": style.marker, "color": style.colour, "label": status}
            marks |= {"s": 12, "linewidths": 0.8, "alpha": 0.5} if many else {"s": 30, "linewidths": 1.5, "alpha": 0.9}
            dots = axes.scatter(ends[:, 0], np.clip(ends[:, 1], *limits), zorder=3, clip_on=False, **marks)
            common.tell(dots, [texts[n] for n in numbers])
            handles.append(common.swatch(style.marker, style.colour, f"{status}, its last epoch"))
    return handles


def _labels(frame: pd.DataFrame, top: pd.DataFrame, objective: Objective) -> list[Line2D]:
    """The legend of the best trials, with the hyperparameters in which they differ."""
    values = common.values_of(top, searched(top)[:_MOST_NAMED]) if len(top) > 1 else [""] * len(top)
    labels = []
    for place, (number, score) in enumerate(zip(top["trial"], common.scores(top, objective), strict=True)):
        text = common.best_label(frame, objective) if place == 0 else f"trial {number} ({format_value(float(score))})"
        style = dict(_STYLES[place]) | ({"marker": "*", "markersize": 11} if place == 0 else {})
        labels.append(Line2D([], [], **style, label=": ".join(filter(None, (text, values[place])))))
    return labels


def trial_learning_curves(curves: pd.DataFrame, best_epoch: int | None, title: str) -> Figure:
    """Plots a trial's metrics over its epochs.

    Args:
        curves: As `load_curves` gives it, of this trial.
        best_epoch: The epoch whose weights were kept, if it is known.
        title: The title of the plot.

    Returns:
        A panel for each metric, with training and validation in it; at most four.
    """
    known = [str(name) for name in curves["metric"].unique() if name not in _NOT_DRAWN]
    names = sorted({name.removeprefix("val_") for name in known}, key=lambda name: (name != "loss", name))[:4]
    figure = common.empty(title, 3.2, common.WIDTH if len(names) > 1 else common.HALF)
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    if not names:
        return common.nothing(figure, "No metrics were logged.")
    for axes, plain in zip(panels, names, strict=True):
        for name, colour in zip(_both(plain), (common.BLUE, common.VERMILION), strict=True):
            points = curves.loc[curves["metric"] == name, ["epoch", "value"]].to_numpy(dtype=np.float64)
            points = points[np.isfinite(points).all(axis=1)]
            axes.plot(*points.T, color=colour, linewidth=1.8, label=name)
            if len(points) <= _MOST_DOTS:
                dots = axes.scatter(*points.T, s=12, color=colour, zorder=3)
                common.tell(dots, [f"epoch {epoch:.0f}: {name} {format_value(float(v))}" for epoch, v in points])
        if best_epoch is not None:
            axes.axvline(best_epoch, color=common.DARK, linewidth=1, linestyle=":")
        axes.set(xlabel="Epoch", ylabel=plain)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    handles = [
        Line2D([], [], color=common.BLUE, linewidth=1.8, label="training data"),
        Line2D([], [], color=common.VERMILION, linewidth=1.8, label="validation data"),
    ]
    if best_epoch is not None:
        handles.append(Line2D([], [], color=common.DARK, linewidth=1, linestyle=":", label="the epoch that was kept"))
    return common.legend(figure, handles)


def _lines(frame: pd.DataFrame, curves: pd.DataFrame, name: str) -> dict[int, common.Floats]:
    """The points (epochs, 2) of each trial's curve, in order; NaN where a value is not finite."""
    chosen = curves[(curves["metric"] == name) & curves["trial"].isin(frame["trial"])]
    if chosen.empty:
        return {}
    chosen = chosen.sort_values(["trial", "epoch"], kind="stable")
    points = chosen[["epoch", "value"]].to_numpy(dtype=np.float64, na_value=np.nan)
    points[~np.isfinite(points)] = np.nan
    trials = chosen["trial"].to_numpy(dtype=np.int64)
    cuts = np.flatnonzero(np.diff(trials)) + 1
    parts = zip(trials[np.r_[0, cuts]], np.split(points, cuts), strict=True)
    return {int(number): line for number, line in parts if not np.isnan(line[:, 1]).all()}
