"""`python -m benchmarks.overhead`: what a sweep costs besides its training steps.

Its parts: `profile` (where the slots' time goes), `scaling` (over more and more slots), `trivial` (trials of one step),
`logging` (with everything that is written, and without), `start` (to the first step), `memory` (of a worker after many
trials), `commands` (that answer at once). Cases that are compared take turns. The results are written after each
measurement, and the same command resumes after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import Benchmark, Case
from benchmarks.harness.records import Store
from benchmarks.overhead import measure, report
from benchmarks.overhead.parts import PARTS, Setup

_FEW = 5000


class Overhead(Benchmark):
    """What a sweep costs besides its training steps."""

    name, about = "overhead", __doc__ or ""
    quick = {"rounds": 1, "trials": 2, "long_trials": 1, "memory_trials": 2, "trivial": 4, "images": 600}  # noqa: RUF012

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("--parts", type=_parts, default=list(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)}")
        for option, default, what in (
            ("--trials", 24, "of a sweep of short trials"),
            ("--long-trials", 3, "per slot, of a sweep of long trials"),
            ("--memory-trials", 100, "for the memory of a worker, and for `compare`"),
            ("--trivial", 1000, "of one step"),
        ):
            parser.add_argument(option, type=int, default=default, metavar="TRIALS", help=f"{what} ({default})")
        sweeps.add_options(parser)

    def cases(self, options: argparse.Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
        """Returns the cases of each part."""
        counts = {"all": options.images, "few": min(options.images or _FEW, _FEW)}
        arrays = sweeps.prepare(options.data, counts, folder / "data")
        trials = (options.trials, options.long_trials, options.memory_trials, options.trivial)
        tiny = measure.tiny(folder / "data" / "tiny.npz")
        setup = Setup(arrays["all"], arrays["few"], tiny, *trials, options.timeout)
        return [(PARTS[part][0](setup), options.rounds or PARTS[part][1]) for part in options.parts]

    def show(self, store: Store, options: argparse.Namespace, console: Console) -> None:
        """Prints the tables."""
        report.tables(store, options.parts, console)

    def plot(self, store: Store, path: Path, footer: str) -> bool:
        """Draws the plot."""
        return report.plot(store, path, footer)


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


main = Overhead().main

if __name__ == "__main__":
    main()
