"""What came out: tables, the two ratios of the goal, and a plot."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.search_quality.players import BOUND, at_our_speed
from benchmarks.search_quality.simulate import PERCENTILES, Run

# Okabe and Ito's, which are told apart whatever colours one sees.
_COLOURS = {"mnist_sweep": "#D55E00", "keras-tuner": "#0072B2", "Optuna": "#009E73", BOUND: "#444444"}
_MARKERS = {"mnist_sweep": "o", "keras-tuner": "s", "Optuna": "D", BOUND: "|"}
OURS = "mnist_sweep"
THEIRS = ("keras-tuner", "Optuna")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a figure over seeds; infinite where so many runs never reached the target."""

    median: float
    low: float
    high: float
    runs: int
    censored: int

    @classmethod
    def of(cls, figures: Sequence[float | None]) -> Spread:
        """Of one figure for each seed, None where the target was not reached."""
        known = np.array([math.inf if f is None else f for f in figures])
        # Between a number and infinity there is nothing to interpolate.
        low, median, high = (
            float(np.percentile(known, q, method="linear" if np.isfinite(known).all() else "higher"))
            for q in (25, 50, 75)
        )
        return cls(median, low, high, len(known), int((~np.isfinite(known)).sum()))

    def text(self) -> str:
        """`12.3 (8.1–20)`, and how many runs never got there."""
        never = f" [{self.censored}/{self.runs} never]" if self.censored else ""
        return f"{_figure(self.median)} ({_figure(self.low)}–{_figure(self.high)}){never}"


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


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
        """Of one algorithm's seeds.

        Args:
            dataset: The curves.
            workers: How many.
            algorithm: Its family and name.
            figure: `seconds`, `epochs` or `trials`.
            target: The index in `PERCENTILES`.
        """
        runs = self._groups.get((dataset, workers, *algorithm))
        if runs is None or any(len(run.seconds) <= target for run in runs):
            return None
        return Spread.of([getattr(run, figure)[target] for run in runs])

    def best(
        self, dataset: str, workers: int, family: str, figure: str, target: int, only: str | None = None
    ) -> tuple[str, float] | None:
        """The algorithm of a family with the least median, and that median."""
        found = [
            (name, spread.median)
            for group, name in self.algorithms
            if group == family and only in (None, name)
            if (spread := self.spread(dataset, workers, (group, name), figure, target)) is not None
        ]
        return min(found, key=lambda pair: pair[1], default=None)


def tables(results: Results, console: Console) -> None:
    """Prints a table for each dataset, target and figure."""
    for dataset in results.datasets:
        for target, percentile in enumerate(PERCENTILES):
            for figure in ("seconds", "epochs"):
                table = Table(
                    title=f"{dataset}: {_what(figure)} to the {percentile}th-percentile setting, median (quartiles)",
                    box=box.SIMPLE,
                    title_justify="left",
                )
                table.add_column("algorithm")
                for count in results.workers:
                    table.add_column(f"{count} worker{'s' if count > 1 else ''}", justify="right")
                for row in _rows(results, dataset, figure, target):
                    table.add_row(*row)
                console.print(table)


def markdown(results: Results) -> str:
    """The same as markdown."""
    lines: list[str] = []
    for dataset in results.datasets:
        for target, percentile in enumerate(PERCENTILES):
            for figure in ("seconds", "epochs"):
                lines += [f"**{dataset}: {_what(figure)} to the {percentile}th-percentile setting**, by workers", ""]
                heading = ["algorithm", *map(str, results.workers)]
                lines += [markdown_table([heading, *_rows(results, dataset, figure, target)]), ""]
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown, of a heading and rows."""
    ruler = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ruler, *rows[1:]])


def _what(figure: str) -> str:
    return {"seconds": "simulated seconds", "epochs": "epochs trained in all"}[figure]


def _rows(results: Results, dataset: str, figure: str, target: int) -> list[list[str]]:
    rows = []
    for family, name in results.algorithms:
        spreads = [results.spread(dataset, count, (family, name), figure, target) for count in results.workers]
        if any(spreads):
            rows.append([f"{family}: {name}", *("" if spread is None else spread.text() for spread in spreads)])
    return rows


def ratios(results: Results, default: str) -> list[list[str]]:
    """Ours against the best of the others, by dataset, target and number of workers.

    Args:
        results: All runs.
        default: The algorithm of ours that is the default.

    Returns:
        A heading, then a row each: what is compared, and whose training is under the others' algorithms; then the
        ratios of the medians: the default's and our best's to keras-tuner's best and to Optuna's best, and the bound's
        to keras-tuner's best.
    """
    rows = [["seconds to", "workers", "the others train with"]]
    rows[0] += [f"{ours} / {theirs}'s best" for theirs in THEIRS for ours in (default, "our best")]
    rows[0].append("perfect stopping / keras-tuner's best")
    for families, training in ((THEIRS, "Keras's fit"), (tuple(map(at_our_speed, THEIRS)), "our workers")):
        for dataset in results.datasets:
            for target, percentile in enumerate(PERCENTILES):
                for count in results.workers:
                    row = [f"{dataset}, {percentile}th percentile", str(count), training]
                    for family in families:
                        row += [
                            _ratio(results, dataset, count, target, family, only, named=only is None)
                            for only in (default, None)
                        ]
                    row.append(_ratio(results, dataset, count, target, families[0], ours=BOUND))
                    rows.append(row)
    return rows


def _ratio(
    results: Results,
    dataset: str,
    workers: int,
    target: int,
    theirs: str,
    only: str | None = None,
    *,
    ours: str = OURS,
    named: bool = False,
) -> str:
    our = results.best(dataset, workers, ours, "seconds", target, only)
    their = results.best(dataset, workers, theirs, "seconds", target)
    if our is None or their is None or not (math.isfinite(our[1]) and math.isfinite(their[1])):
        return ""
    return f"{our[1] / their[1]:.2f}" + (f" ({our[0]} / {their[0]})" if named else "")


def show_ratios(rows: Sequence[Sequence[str]], console: Console) -> None:
    """Prints them."""
    table = Table(title="Ratios of the medians", box=box.SIMPLE, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == rows[0][0] else "right")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def plot(results: Results, path: Path, shown: Sequence[tuple[str, str]]) -> None:
    """Draws median and quartiles of the seconds to the 95th-percentile setting.

    Args:
        results: All runs.
        path: The picture to write.
        shown: Families and names of the algorithms to draw, from top to bottom.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [pair for pair in shown if pair in results.algorithms and pair[0] in _COLOURS]
    size = (2.9 * len(results.workers) + 1.6, 0.25 * len(shown) * len(results.datasets) + 1.6)
    figure, axes = plt.subplots(len(results.datasets), len(results.workers), sharey=True, squeeze=False, figsize=size)
    for row, dataset in zip(axes, results.datasets, strict=True):
        for axis, count in zip(row, results.workers, strict=True):
            for place, algorithm in enumerate(shown):
                family, name = algorithm
                for group, filled in ((family, True), (at_our_speed(family), False)):
                    spread = results.spread(dataset, count, (group, name), "seconds", 0)
                    if spread is not None and math.isfinite(spread.median):
                        _draw(axis, spread, place, family, filled=filled)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(axis="x", alpha=0.25)
            axis.set_title(f"{dataset}, {count} worker{'s' if count > 1 else ''}", fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
    axes[0][0].set_yticks(range(len(shown)), [f"{family}: {name}" for family, name in shown])
    axes[0][0].invert_yaxis()
    for row in axes:
        for label, (family, _) in zip(row[0].get_yticklabels(), shown, strict=True):
            label.set_color(_COLOURS[family])
    figure.supxlabel(
        "simulated seconds to the 95th-percentile setting: median and quartiles, > for never (left is better); "
        "hollow: with our training under it",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Any, spread: Spread, place: int, family: str, *, filled: bool) -> None:
    colour, face = _COLOURS[family], _COLOURS[family] if filled else "white"
    high = spread.high
    if not math.isfinite(high):
        high = 2 * spread.median
        axis.plot(high, place, ">", color=colour, markerfacecolor=face, markersize=6)
    width = 2 if filled else 1
    axis.plot([spread.low, high], [place, place], color=colour, linewidth=width, solid_capstyle="round")
    axis.plot(spread.median, place, _MARKERS[family], color=colour, markerfacecolor=face, markersize=6)
