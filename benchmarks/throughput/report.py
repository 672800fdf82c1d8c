"""The results: a table for each shape, the ratios, and a plot."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks import limit
from benchmarks.harness import records, show
from benchmarks.harness.records import Found, Record, Spread, Store, count, of, per_minute, ratios, spread
from benchmarks.throughput.record import OURS, PEERS, SYSTEMS
from benchmarks.throughput.shapes import SHAPES, settings

TITLES = {OURS: "mnist_sweep", "keras-tuner": "keras-tuner", "optuna": "Optuna", "ray": "Ray Tune"}
_COLOURS = {OURS: show.RED, "keras-tuner": show.BLUE, "optuna": show.GREEN, "ray": show.PURPLE}
_CELLS = {
    "wall s": show.text(of("wall_seconds")),
    "trials / min": show.text(per_minute),
    "CPU s": show.text(of("cpu_seconds")),
    "peak MiB": show.text(of("peak_mib")),
}


def by_work(runs: Iterable[Record]) -> list[dict[str, list[Record]]]:
    """Groups the records that can be compared, then by system: the same shape, trials, epochs and images."""
    found: list[dict[str, list[Record]]] = []
    works: list[object] = []
    for run in sorted(runs, key=lambda r: (list(SHAPES).index(r.part), r.time)):
        if (work := (run.part, run.work)) not in works:
            works.append(work)
            found.append({})
        found[works.index(work)].setdefault(run.variant, []).append(run)
    return [{system: group[system] for system in SYSTEMS if system in group} for group in found]


def comparisons(group: Found) -> dict[str, Spread]:
    """Returns the ratios of trials per minute to each peer, and to the faster of Optuna and Ray Tune."""
    wanted: dict[str, Sequence[str]] = {TITLES[peer]: (peer,) for peer in PEERS}
    wanted["the faster of Optuna and Ray Tune"] = ("optuna", "ray")
    found = {title: ratios(group, OURS, peers, per_minute) for title, peers in wanted.items()}
    return {title: Spread.of(values) for title, values in found.items() if values}


def tables(store: Store, options: Namespace, console: Console) -> None:
    """Prints a table and the ratios for each shape, also to the arithmetic if `benchmarks.limit` has measured it."""
    bound = limit.rates(Store(store.path.with_name("limit.json")))
    for group in by_work(store.records):
        every = [run for system in group.values() for run in system]
        shape, work = every[0].part, every[0].work
        console.print(
            f"{shape} ({SHAPES[shape].title}): {work['trials']} trials of {count(work['epochs'], 'epoch')} on "
            f"{work['images']:,} images of {work['data']}, {work['validation']:,} for validation; "
            f"{count(len({run.round for run in every}), 'round')}, median (least–most)"
        )
        cells = dict(_CELLS)
        if (arithmetic := _arithmetic(every[0], bound)) is not None:
            cells["arithmetic / wall"] = show.text(partial(_share, arithmetic))
        cells["best, mean accuracy"] = _accuracies
        console.print(show.grid({TITLES[system]: runs for system, runs in group.items()}, cells))
        for title, ratio in comparisons(group).items():
            console.print(f"  trials per minute against {title}: {ratio.text()} times")
        for text in doubts(group):
            console.print(f"  {text}", style="yellow")
        console.print()


def _share(seconds: float, run: Record) -> float:
    return seconds / run["wall_seconds"]


def _accuracies(runs: Sequence[Record]) -> str:
    return ", ".join(f"{spread(runs, of(what)).median:.4f}" for what in ("best", "mean"))


def doubts(group: Found) -> list[str]:
    """Returns what is odd about some records of the same work: each is a reason not to trust the ratios."""
    found: list[str] = []
    every = sorted((run for system in group.values() for run in system), key=lambda run: run.time)
    for run in every:
        odd = records.doubts(run)
        if run["ended"] < run["trials"]:
            odd.insert(0, f"{run['ended']:.0f} of {run['trials']:.0f} trials were trained to their end")
        found += [f"{TITLES[run.variant]}, round {run.round}: {text}" for text in odd]
    for what in ("best", "mean"):
        medians = {TITLES[system]: spread(runs, of(what)).median for system, runs in group.items()}
        low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
        # Three standard errors: every system has the same validation images.
        error = math.sqrt(medians[high] * (1 - medians[high]) / every[0].work["validation"])
        if medians[high] - medians[low] > max(3 * error, 0.01):
            found.append(
                f"{what} validation accuracy {medians[low]:.4f} of {low}, {medians[high]:.4f} of {high}: "
                "do they train the same?"
            )
    return found


def _arithmetic(run: Record, bound: limit.Rates) -> float | None:
    """Returns the seconds that the arithmetic of a record's trials takes on all cores; None if it was not measured."""
    total, work = 0.0, run.work
    for setting in settings(run.part, work["trials"]):
        seconds = limit.epoch_seconds(bound, setting, work["images"], work["validation"])
        if seconds is None:
            return None
        total += work["epochs"] * seconds
    return total


def plot(store: Store, path: Path, footer: str) -> bool:
    """Draws trials per minute of each shape's newest work: a bar for the median and a line from least to most."""
    newest = {next(iter(group.values()))[0].part: group for group in by_work(store.records)}
    size = (3.1 * len(newest) + 1.2, 2.9)
    with show.plot(path, 1, len(newest), footer=footer, figsize=size, sharey=True) as (figure, axes):
        for axis, (shape, group) in zip(axes[0], newest.items(), strict=True):
            for place, system in enumerate(SYSTEMS):
                if system not in group:
                    continue
                found = spread(group[system], per_minute)
                axis.barh(place, found.median, color=_COLOURS[system], height=0.6)
                axis.plot([found.low, found.high], [place, place], color="black", linewidth=1.2)
                label = f" {records.shown(found.median)}"
                axis.annotate(label, (found.high, place), va="center", fontsize=9, annotation_clip=False)
            work = next(iter(group.values()))[0].work
            title = f"{SHAPES[shape].title}\n{count(work['epochs'], 'epoch')}, {count(work['images'], 'image')}"
            axis.set_title(title, fontsize=9)
            axis.set_xlim(0, axis.get_xlim()[1] * 1.15)
            axis.tick_params(labelsize=8)
            axis.grid(axis="x", alpha=0.25)
            axis.set_axisbelow(True)
        axes[0][0].set_yticks(range(len(SYSTEMS)), [TITLES[system] for system in SYSTEMS], fontsize=9)
        axes[0][0].invert_yaxis()
        figure.supxlabel(
            "trials per minute, including imports and everything else (longer is better)", fontsize=9, y=0.07
        )
        figure.tight_layout(rect=(0, 0.06, 1, 1))
    return True
