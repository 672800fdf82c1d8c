"""What came out: a table for each shape, the ratios, and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import limit
from benchmarks.throughput.record import OURS, PEERS, SYSTEMS, Record
from benchmarks.throughput.shapes import SHAPES, settings

TITLES = {OURS: "mnist_sweep", "keras-tuner": "keras-tuner", "optuna": "Optuna", "ray": "Ray Tune"}
# Okabe and Ito's, which are told apart whatever colours one sees.
_COLOURS = {OURS: "#D55E00", "keras-tuner": "#0072B2", "optuna": "#009E73", "ray": "#CC79A7"}
# Of the processor time of the whole machine, what all else may take without a remark.
_OTHERS = 0.03
# What may be counted of all that the cores could give: the clocks of the two differ a little.
_MOST = 1.02


@dataclass(frozen=True)
class Spread:
    """Median, least and most of a figure over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of one figure for each round, at least one."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def text(self) -> str:
        """`12.3 (11.8–14.0)`; `12.3` where there was one round."""
        if self.low == self.high:
            return _figure(self.median)
        return f"{_figure(self.median)} ({_figure(self.low)}–{_figure(self.high)})"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


Work = tuple[Any, ...]


def by_work(records: Iterable[Record]) -> dict[Work, list[Record]]:
    """The records that may be compared with one another: the same shape, trials, epochs and images."""
    found: dict[Work, list[Record]] = {}
    for record in sorted(records, key=lambda r: (list(SHAPES).index(r.shape), r.time)):
        found.setdefault(record.work, []).append(record)
    return found


def ratios(records: Sequence[Record], against: Sequence[str]) -> list[float]:
    """This program's trials per minute against those of the fastest of some others, within each round.

    Args:
        records: Of one `Record.work`.
        against: The others.

    Returns:
        One for each round that has this program and all of the others, in the order of the rounds.
    """
    speeds = {(r.round, r.system): r.per_minute for r in records}
    rounds = sorted({r.round for r in records if all((r.round, s) in speeds for s in (OURS, *against))})
    return [speeds[n, OURS] / max(speeds[n, system] for system in against) for n in rounds]


def comparisons(records: Sequence[Record]) -> dict[str, Spread]:
    """The ratios to each peer, and to the faster of Optuna and Ray Tune, by what they are to."""
    wanted = {TITLES[peer]: (peer,) for peer in PEERS}
    wanted["the faster of Optuna and Ray Tune"] = ("optuna", "ray")
    found = {title: ratios(records, peers) for title, peers in wanted.items()}
    return {title: Spread.of(values) for title, values in found.items() if values}


def show(records: Sequence[Record], console: Console, bound: Mapping[str, Any] | None) -> None:
    """Prints a table and the ratios for each shape.

    Args:
        records: All.
        console: Where to.
        bound: What `benchmarks.limit` wrote, if it was run on this machine.
    """
    for group in by_work(records).values():
        first = group[0]
        rounds = len({r.round for r in group})
        arithmetic = _arithmetic(first, bound)
        console.print(
            f"{first.shape} ({SHAPES[first.shape].title}): {first.trials} trials of {_count(first.epochs, 'epoch')} on "
            f"{first.images:,} images of {first.data}, {first.validation:,} held out; {_count(rounds, 'round')}, "
            "median (least–most)",
            highlight=False,
        )
        table = Table(box=box.SIMPLE)
        for heading, _ in _COLUMNS:
            table.add_column(heading, justify="right" if table.columns else "left")
        if arithmetic is not None:
            table.add_column("arithmetic / wall", justify="right")
        table.add_column("best, mean accuracy", justify="right")
        for system in SYSTEMS:
            runs = [r for r in group if r.system == system]
            if not runs:
                continue
            row = [TITLES[system], *(Spread.of([figure(r) for r in runs]).text() for _, figure in _COLUMNS[1:])]
            if arithmetic is not None:
                row.append(Spread.of([arithmetic / r.wall_seconds for r in runs]).text())
            row.append(
                ", ".join(f"{statistics.median(v):.4f}" for v in ([r.best for r in runs], [r.mean for r in runs]))
            )
            table.add_row(*row)
        console.print(table)
        for title, spread in comparisons(group).items():
            console.print(f"  trials per minute against {title}: {spread.text()} times", highlight=False)
        for text in doubts(group):
            console.print(f"  {text}", style="yellow", highlight=False)
        console.print()


def _wall(record: Record) -> float:
    return record.wall_seconds


_COLUMNS: tuple[tuple[str, Callable[[Record], float]], ...] = (
    ("", _wall),
    ("wall s", _wall),
    ("trials / min", lambda r: r.per_minute),
    ("CPU s", lambda r: r.cpu_seconds),
    ("peak MiB", lambda r: r.peak_mib),
)


def doubts(records: Sequence[Record]) -> list[str]:
    """What is odd about some records of the same work, for people: each is a reason not to trust the ratios."""
    found: list[str] = []
    for record in records:
        name = f"{TITLES[record.system]}, round {record.round}"
        if not record.whole:
            found.append(f"{name}: {record.ended} of {record.trials} trials were trained to their end")
        others = record.others_seconds / (record.wall_seconds * record.cores)
        if others > _OTHERS:
            found.append(f"{name}: all else took {others:.0%} of the machine's processor time meanwhile")
        if record.cpu_seconds > _MOST * record.wall_seconds * record.cores:
            found.append(f"{name}: more processor time was counted than there was; was the machine paused?")
        if record.left_behind:
            found.append(f"{name}: {_count(record.left_behind, 'process')} had to be killed after its exit")
    for what in ("best", "mean"):
        medians = {
            TITLES[s]: statistics.median(getattr(r, what) for r in records if r.system == s)
            for s in SYSTEMS
            if any(r.system == s for r in records)
        }
        low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
        # Three standard errors: every system has the same images to validate on.
        error = math.sqrt(medians[high] * (1 - medians[high]) / records[0].validation)
        if medians[high] - medians[low] > max(3 * error, 0.01):
            found.append(
                f"{what} validation accuracy {medians[low]:.4f} of {low}, {medians[high]:.4f} of {high}: "
                "do they train the same?"
            )
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"


def _arithmetic(record: Record, bound: Mapping[str, Any] | None) -> float | None:
    """Seconds that the arithmetic of a record's trials alone takes on all cores; None where that was not measured."""
    if bound is None:
        return None
    seconds = [
        limit.epoch_seconds(bound, setting, record.images, record.validation)
        for setting in settings(record.shape, record.trials)
    ]
    return None if None in seconds else record.epochs * sum(s for s in seconds if s is not None)


def plot(records: Sequence[Record], path: Path, machine: str) -> None:
    """Draws trials per minute, a dot for the median and a line from least to most.

    Args:
        records: All; of each shape, those of its newest work are drawn.
        path: The picture to write.
        machine: Where they come from, in a line.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    newest = {group[0].shape: group for group in by_work(records).values()}
    figure, axes = plt.subplots(1, len(newest), squeeze=False, figsize=(3.1 * len(newest) + 1.2, 2.9), sharey=True)
    for axis, (shape, group) in zip(axes[0], newest.items(), strict=True):
        for place, system in enumerate(SYSTEMS):
            runs = [r.per_minute for r in group if r.system == system]
            if not runs:
                continue
            spread = Spread.of(runs)
            axis.barh(place, spread.median, color=_COLOURS[system], height=0.6)
            axis.plot([spread.low, spread.high], [place, place], color="black", linewidth=1.2)
            axis.annotate(
                f" {_figure(spread.median)}", (spread.high, place), va="center", fontsize=9, annotation_clip=False
            )
        axis.set_title(
            f"{SHAPES[shape].title}\n{_count(group[0].epochs, 'epoch')}, {group[0].images:,} images", fontsize=9
        )
        axis.set_xlim(0, axis.get_xlim()[1] * 1.15)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(SYSTEMS)), [TITLES[system] for system in SYSTEMS], fontsize=9)
    axes[0][0].invert_yaxis()
    figure.supxlabel("trials per minute, imports and all else included (longer is better)", fontsize=9, y=0.07)
    figure.text(0.5, 0.01, machine, fontsize=6, ha="center", va="bottom", color="#555555")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
