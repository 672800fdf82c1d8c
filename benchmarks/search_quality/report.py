"""The results: tables, the ratios of the goal, and a plot."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import show
from benchmarks.harness.records import Spread, count
from benchmarks.search_quality.players import BOUND, at_our_speed
from benchmarks.search_quality.simulate import PERCENTILES, Run

_COLORS = {"mnist_sweep": show.RED, "keras-tuner": show.BLUE, "Optuna": show.GREEN, BOUND: "#444444"}
_MARKERS = {"mnist_sweep": "o", "keras-tuner": "s", "Optuna": "D", BOUND: "|"}
_FIGURES = {"seconds": "simulated seconds", "epochs": "epochs trained in all"}
OURS = "mnist_sweep"
THEIRS = ("keras-tuner", "Optuna")


class Results:
    """All runs, by dataset and number of workers."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """Sorts them."""
        self.runs = sorted(runs, key=lambda r: (r.dataset, r.workers, r.family, r.algorithm, r.seed))
        self._groups: dict[tuple[str, int, str, str], list[Run]] = defaultdict(list)
        for run in self.runs:
            self._groups[run.dataset, run.workers, run.family, run.algorithm].append(run)
        self.datasets = sorted({run.dataset for run in self.runs}, reverse=True)
        self.workers = sorted({run.workers for run in self.runs})
        self.algorithms = list(dict.fromkeys((run.family, run.algorithm) for run in self.runs))

    def spread(self, dataset: str, workers: int, algorithm: tuple[str, str], figure: str, target: int) -> Spread | None:
        """Returns median and quartiles of a figure of an algorithm's runs; None if it was not run until that target.

        An algorithm is its family and name; a target is an index of `PERCENTILES`.
        """
        runs = self._groups.get((dataset, workers, *algorithm))
        if runs is None or any(len(run.seconds) <= target for run in runs):
            return None
        return Spread.quartiles([getattr(run, figure)[target] for run in runs])

    def best(
        self, dataset: str, workers: int, family: str, target: int, only: str | None = None
    ) -> tuple[str, float] | None:
        """Returns the algorithm of a family with the least median of seconds, and that median."""
        found = [
            (name, spread.median)
            for group, name in self.algorithms
            if group == family and only in (None, name)
            if (spread := self.spread(dataset, workers, (group, name), "seconds", target)) is not None
        ]
        return min(found, key=lambda pair: pair[1], default=None)


@dataclass(frozen=True)
class Table:
    """A table for the terminal and for markdown.

    Attributes:
        title: Above it.
        headings: Of the columns.
        rows: Their cells.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def print(self, console: Console) -> None:
        """Prints it."""
        console.print(show.table(self.headings, self.rows, self.title))

    def markdown(self) -> str:
        """Returns it as markdown."""
        ruler = ["---"] + ["---:"] * (len(self.headings) - 1)
        lines = ["| " + " | ".join(row) + " |" for row in [self.headings, ruler, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *lines])


def tables(results: Results) -> Iterable[Table]:
    """Yields a table for each dataset, target and figure."""
    for dataset in results.datasets:
        for target, percentile in enumerate(PERCENTILES):
            for figure, what in _FIGURES.items():
                rows = []
                for family, name in results.algorithms:
                    spreads = [results.spread(dataset, n, (family, name), figure, target) for n in results.workers]
                    if any(spreads):
                        cells = ["" if spread is None else spread.text(decimals=1) for spread in spreads]
                        rows.append([f"{family}: {name}", *cells])
                title = (
                    f"{dataset}: {what} to the {percentile}th-percentile configuration, by workers; median (quartiles)"
                )
                yield Table(title, ["algorithm", *map(str, results.workers)], rows)


def ratios(results: Results, default: str) -> Table:
    """Compares this program with the best of the others, by dataset, target and number of workers.

    The columns: what is compared, and with whose training the others' algorithms run; then the ratios of the medians:
    of the default algorithm and of this program's best to keras-tuner's best and to Optuna's best, and of the bound to
    keras-tuner's best.
    """
    headings = ["seconds to", "workers", "the others train with"]
    headings += [f"{ours} / {theirs}'s best" for theirs in THEIRS for ours in (default, "our best")]
    headings.append("perfect stopping / keras-tuner's best")
    rows = []
    for families, training in ((THEIRS, "Keras's fit"), (tuple(map(at_our_speed, THEIRS)), "our workers")):
        for dataset in results.datasets:
            for target, percentile in enumerate(PERCENTILES):
                for workers in results.workers:
                    row = [f"{dataset}, {percentile}th percentile", str(workers), training]
                    bests = {family: results.best(dataset, workers, family, target) for family in (*families, OURS)}
                    for family in families:
                        row.append(_ratio(results.best(dataset, workers, OURS, target, default), bests[family]))
                        row.append(_ratio(bests[OURS], bests[family], named=True))
                    row.append(_ratio(results.best(dataset, workers, BOUND, target), bests[families[0]]))
                    rows.append(row)
    return Table("Ratios of the medians", headings, rows)


def _ratio(ours: tuple[str, float] | None, theirs: tuple[str, float] | None, *, named: bool = False) -> str:
    if ours is None or theirs is None or not (math.isfinite(ours[1]) and math.isfinite(theirs[1])):
        return ""
    return f"{ours[1] / theirs[1]:.2f}" + (f" ({ours[0]} / {theirs[0]})" if named else "")


def plot(results: Results, path: Path, shown: Sequence[tuple[str, str]]) -> None:
    """Draws the seconds to the 95th-percentile configuration of some algorithms (family, name), from top to bottom."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [pair for pair in shown if pair in results.algorithms and pair[0] in _COLORS]
    rows, columns = len(results.datasets), len(results.workers)
    size = (2.9 * columns + 1.6, 0.25 * len(shown) * rows + 1.6)
    with show.plot(path, rows, columns, dpi=110, sharey=True, figsize=size) as (figure, axes):
        for row, dataset in zip(axes, results.datasets, strict=True):
            for axis, workers in zip(row, results.workers, strict=True):
                for place, (family, name) in enumerate(shown):
                    for group, filled in ((family, True), (at_our_speed(family), False)):
                        spread = results.spread(dataset, workers, (group, name), "seconds", 0)
                        if spread is not None and math.isfinite(spread.median):
                            _draw(axis, spread, place, family, filled=filled)
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_minor_formatter(NullFormatter())
                axis.grid(axis="x", alpha=0.25)
                axis.set_title(f"{dataset}, {count(workers, 'worker')}", fontsize=10)
                axis.tick_params(labelsize=8)
        axes[0][0].set_yticks(range(len(shown)), [f"{family}: {name}" for family, name in shown])
        axes[0][0].invert_yaxis()
        for row in axes:
            for label, (family, _) in zip(row[0].get_yticklabels(), shown, strict=True):
                label.set_color(_COLORS[family])
        figure.supxlabel(
            "simulated seconds to the 95th-percentile configuration: median and quartiles, > for never "
            "(left is better); hollow: with this program's training",
            fontsize=10,
        )
        figure.tight_layout()


def _draw(axis: Any, spread: Spread, place: int, family: str, *, filled: bool) -> None:
    color, high = _COLORS[family], spread.high
    style = {"color": color, "markerfacecolor": color if filled else "white", "markersize": 6}
    if not math.isfinite(high):
        high = 2 * spread.median
        axis.plot(high, place, ">", **style)
    axis.plot([spread.low, high], [place, place], color=color, linewidth=2 if filled else 1, solid_capstyle="round")
    axis.plot(spread.median, place, _MARKERS[family], **style)
