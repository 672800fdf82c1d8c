"""How a sweep went: its scores in order, and which trial ran when."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mnist_sweep.common.text import format_duration
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import of_search, ranked
from mnist_sweep.results.plots import common

_UNKNOWN = "unknown slot"
# Units of time: the shortest time for which to use it, its length in seconds, its name.
_UNITS = ((3 * 86400, 86400, "days"), (3 * 3600, 3600, "hours"), (300, 60, "minutes"), (0, 1, "seconds"))
_FONT = 7.0


def optimisation_history(frame: pd.DataFrame, objective: Objective, title: str) -> Figure:
    """Plots the score of each trial, and the best score so far.

    Args:
        frame: As `load_runs` gives it, of one sweep.
        objective: The sweep's objective.
        title: The title of the plot.

    Returns:
        A mark for each trial that shows its status, at the lower edge if it has no score; and the mean and standard
        deviation on new seeds of the trials that were retrained.
    """
    figure, axes = common.canvas(title, 3.4)
    axes.set(xlabel="Trial", ylabel=common.labelled(objective))
    search = of_search(frame).sort_values("trial")
    if search.empty:
        return common.nothing(figure, "There are no trials.")
    trials, found = search["trial"].to_numpy(dtype=np.float64), common.scores(search, objective)
    means = common.numbers(search, f"metrics.confirmed_{objective.name}")
    spread = np.nan_to_num(common.numbers(search, f"metrics.confirmed_{objective.name}_std"))
    low, high = common.limits(np.concatenate([found, means - spread, means + spread]), objective)
    # Trials without a score get their own strip at the lower edge.
    strip = 0.08 * (high - low) if np.isnan(found).any() else 0.0
    many = len(search) > 4 * common.FEW
    texts = np.array(common.about(search, objective), dtype=object)
    handles: list[Any] = []
    for status, style, mine in common.by_status(search):
        marks: dict[str, Any] = {"marker": style.marker, "color": style.colour, "linewidths": 1.0 if many else 1.5}
        marks |= {"s": 12 if many else 34, "alpha": 0.6 if many else 0.9}
        with_score = mine & ~np.isnan(found)
        heights = np.clip(found[with_score], low, high)
        dots = axes.scatter(trials[with_score], heights, **marks, zorder=3, clip_on=False, label=status)
        common.tell(dots, texts[with_score].tolist())
        without = mine & np.isnan(found)
        if without.any():
            heights = np.full(int(without.sum()), low - strip / 2)
            dots = axes.scatter(trials[without], heights, **marks, zorder=3, clip_on=False, label=f"{status}, no score")
            common.tell(dots, texts[without].tolist())
        suffix = "" if with_score.any() else ", no score"
        handles.append(common.swatch(style.marker, style.colour, f"{status}{suffix}"))
    best_so_far = np.fmax.accumulate(found) if objective.maximize else np.fmin.accumulate(found)
    scored = ~np.isnan(best_so_far)
    if scored.any():
        x, y = np.append(trials[scored], trials[-1] + 0.5), best_so_far[scored]
        axes.step(x, np.append(y, y[-1]), where="post", color=common.DARK, linewidth=1.6, zorder=2, label="best so far")
        handles.append(Line2D([], [], color=common.DARK, linewidth=1.6, label="best so far"))
    with_mean = ~np.isnan(means)
    if with_mean.any():
        label = "on new seeds, mean ± standard deviation"
        # A little to the right, to not hide the trial's own score.
        shifted = trials + 0.008 * (len(trials) + 1)
        style_of = {"fmt": "D", "color": common.PURPLE, "markersize": 5, "capsize": 4, "zorder": 7}
        axes.errorbar(shifted[with_mean], means[with_mean], yerr=spread[with_mean], **style_of, label=label)  # type: ignore[arg-type]
        handles.append(common.swatch("D", common.PURPLE, label, markersize=5))
    ordered = ranked(frame, objective)
    if len(ordered):
        best = int(ordered["trial"].iloc[0])
        common.star(axes, best, found[trials == best].item(), 15, "best")
        handles.insert(0, common.star_swatch(frame, objective))
    axes.set(xlim=(trials[0] - 0.5 - 0.01 * len(trials), trials[-1] + 0.5 + 0.01 * len(trials)), ylim=(low, high))
    if strip:
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        axes.axhline(low, color="black", linewidth=0.8)
        axes.set_ylim(low - strip, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    return common.legend(figure, handles, [common.outside(found, low, high)])


def slot_timeline(frame: pd.DataFrame, title: str) -> Figure:
    """Plots which trial ran when, and in which slot.

    Args:
        frame: As `load_runs` gives it, of one sweep. A trial without an `end` ends `seconds` after its `start`; if it
            is still running, its bar ends at the latest known time.
        title: The title of the plot.

    Returns:
        A row for each slot, and a bar for each trial with its number if there is room. Trials with an unknown slot get
        as many rows as ran at the same time. Trials that never ran have no bar.
    """
    bars = _bars(frame)
    rows = _rows(bars)
    height = max(0.16, min(0.4, 8 / max(len(rows), 1)))
    figure, axes = common.canvas(title, min(max(1.9, 1.3 + height * len(rows)), 10))
    if bars.empty:
        return common.nothing(figure, "No trial has run.")
    total = float(bars["to"].max())
    size, unit = next((size, unit) for least, size, unit in _UNITS if total >= least)
    begin, to = bars["begin"].to_numpy(float) / size, bars["to"].to_numpy(float) / size
    row = bars["row"].map({name: i for i, name in enumerate(rows)}).to_numpy(float)
    # Keeps very short trials visible.
    to = np.maximum(to, begin + 0.001 * total / size)
    corners = np.stack([begin, row - 0.42, begin, row + 0.42, to, row + 0.42, to, row - 0.42], 1).reshape(-1, 4, 2)
    handles: list[Any] = []
    dense = len(bars) > 4 * common.FEW
    retrains = bars["retrains"].to_numpy(bool)
    texts = np.array([_about(row) for row in bars.itertuples()], dtype=object)
    for status, style, mine in common.by_status(bars):
        shape: dict[str, Any] = {"facecolors": f"{style.colour}80", "hatch": style.hatch}
        for chosen, edge in ((mine & ~retrains, style.colour), (mine & retrains, "black")):
            if chosen.any():
                width = (1.2 if edge == "black" else 0.6) * (0.5 if dense else 1)
                drawn = PolyCollection(corners[chosen], edgecolors=edge, linewidths=width, label=status, **shape)
                axes.add_collection(drawn)
                common.tell(drawn, texts[chosen].tolist())
        handles.append(Patch(facecolor=f"{style.colour}80", edgecolor=style.colour, hatch=style.hatch, label=status))
    if bars["retrains"].any():
        handles.append(Patch(facecolor="white", edgecolor="black", linewidth=1.2, label="retrains another trial"))
    axes.set(xlim=(0, total / size * 1.005), ylim=(len(rows) - 0.45, -0.55), xlabel=f"Time since the start in {unit}")
    font = _FONT if height > 0.2 else _FONT - 1
    axes.set_yticks(range(len(rows)), rows, fontsize=max(font, 8 if height > 0.2 else font))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    # The width of a character, in units of time.
    character = font * 0.66 / 72 * (total / size) / (common.HALF - 1.0)
    hatches = [bool(common.look(status).hatch) for status in bars["status"]]
    for number, x, end, y, hatched in zip(
        bars["trial"], begin.tolist(), to.tolist(), row.tolist(), hatches, strict=True
    ):
        if (len(str(number)) + 0.6) * character < end - x:
            text = axes.text((x + end) / 2, y, str(number), ha="center", va="center", fontsize=font, clip_on=True)
            text.set_in_layout(False)
            if hatched:
                text.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4})
    return common.legend(figure, handles, [common.note(len(frame) - len(bars), "trial", "that never ran left out")])


def _bars(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials that ran; `begin` and `to` are in seconds since the first start."""
    ran = frame[frame["start"].notna() & (frame["status"] != "refused")].reset_index(drop=True)
    since = {name: (ran[name] - ran["start"].min()).dt.total_seconds() for name in ("start", "end")}
    begin, end = (common.numbers(pd.DataFrame(since), name) for name in since)
    end = np.where(np.isnan(end), begin + common.numbers(ran, "seconds"), end)
    latest = max([0.0, *begin, *end[~np.isnan(end)]])
    end = np.where(np.isnan(end), np.where(ran["status"] == "running", latest, begin), end)
    bars = ran.assign(begin=begin, to=np.maximum(begin, end), row=ran["slot"], retrains=ran["confirms"].notna())
    lost = bars["row"].isna()
    lanes = _lanes(bars.loc[lost, "begin"].to_numpy(float), bars.loc[lost, "to"].to_numpy(float))
    bars.loc[lost, "row"] = [f"{_UNKNOWN} {lane + 1}" for lane in lanes]
    return bars


def _about(bar: Any) -> str:
    what = f"trial {bar.trial}" + (f" (retrains {bar.confirms})" if bar.retrains else "")
    return f"{what}: {bar.status}, {format_duration(float(bar.to - bar.begin))} on {bar.row}"


def _lanes(begin: common.Floats, end: common.Floats) -> list[int]:
    """Assigns spans of time to as few lanes as possible, so that those in one lane do not overlap."""
    ends: list[float] = []
    lanes = [0] * len(begin)
    for i in np.argsort(begin, kind="stable"):
        free = next((lane for lane, until in enumerate(ends) if until <= begin[i]), len(ends))
        ends[free : free + 1] = [float(end[i])]
        lanes[i] = free
    return lanes


def _rows(bars: pd.DataFrame) -> list[str]:
    """The slots in natural order (`cpu2` before `cpu10`), unknown ones last."""

    def key(name: str) -> tuple[bool, list[tuple[int, str]]]:
        parts = re.findall(r"\d+|\D+", name)
        return name.startswith(_UNKNOWN), [(int(p), "") if p.isdigit() else (-1, p) for p in parts]

    return sorted(bars["row"].unique(), key=key)
