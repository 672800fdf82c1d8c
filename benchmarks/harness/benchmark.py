"""The command line of a benchmark: measures cases in turns, keeps every record, and shows them."""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import machine, show
from benchmarks.harness.records import Store
from mnist_sweep.common.errors import UserError

RESULTS = Path(__file__).parents[1] / "results"
SHARED = "shared"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One measurement, done once in each round.

    Attributes:
        part: The part of the benchmark, whose cases take turns.
        variant: What is measured.
        work: What must be the same in two records to compare them.
        measure: Measures it, in a folder that it may write to.
    """

    part: str
    variant: str
    work: dict[str, Any]
    measure: Callable[[Path], Figures]


def rotated(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Returns the order of a round: each round starts with another case."""
    first = (number - 1) % len(cases)
    return [*cases[first:], *cases[:first]]


def alternated(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Returns the order of a round: every other one goes backwards, as a machine that gets slower favors the first."""
    return cases[:: 1 if number % 2 else -1]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: Of its module and its files: `NAME.json` and `NAME.png`.
        about: What `--help` says.
        add_options: Adds its own options.
        cases: Returns groups of cases and how many rounds of each, from the command line and a folder for images and
            what else the cases share; `SHARED` in it is removed at the end.
        show: Prints the tables; by default one for each part, of all figures.
        plot: Draws the results (store, file, footer), and returns whether it did.
        quick: The options that `--quick` sets.
        order: The order of the cases in a round.
        told: The figures to print after each measurement.
        resumes: Whether the same command skips what it has measured before.
    """

    name: str
    about: str
    add_options: Callable[[ArgumentParser], None]
    cases: Callable[[Namespace, Path], Iterable[tuple[Sequence[Case], int]]]
    show: Callable[[Store, Namespace, Console], None] = show.everything
    plot: Callable[[Store, Path, str], bool] = lambda store, path, footer: False
    quick: Mapping[str, Any] = field(default_factory=dict)
    order: Callable[[Sequence[Case], int], Sequence[Case]] = alternated
    told: Sequence[str] = ("wall_seconds", "cpu_seconds", "peak_mib")
    resumes: bool = True

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Measures what is missing, then prints and draws everything."""
        parser = command_line(self.name, self.about)
        parser.add_argument("--to", type=Path, help=f"folder for {self.name}.json and the plot (default: {RESULTS})")
        parser.add_argument("--show", action="store_true", help="measure nothing")
        if self.resumes:
            parser.add_argument("--again", action="store_true", help="forget what was measured before")
        self.add_options(parser)
        options = parse(parser, arguments, self.quick)
        folder = options.to or RESULTS / ("runs/quick" if options.quick else "")
        # As with Ctrl-C, the command that is running ends, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        console = show.console()
        try:
            store = Store(folder / f"{self.name}.json")
            if not options.show:
                self._measure(store, options, console, folder.absolute() / "runs" / self.name)
        except UserError as error:
            parser.error(str(error))
        if not store.records or store.machine is None:
            console.print(f"There is nothing in {store.path}.")
            return
        self.show(store, options, console)
        footer, path = machine.line(store.machine), folder / f"{self.name}.png"
        files = [store.path, path] if self.plot(store, path, footer) else [store.path]
        console.print(footer, *files, sep="\n", soft_wrap=True)

    def _measure(self, store: Store, options: Namespace, console: Console, folder: Path) -> None:
        described, groups = machine.describe(), list(self.cases(options, folder))
        if not self.resumes or options.again or options.quick:
            store.forget(case.part for cases, _ in groups for case in cases)
        for cases, rounds in groups:
            parts = [list(found) for _, found in itertools.groupby(cases, key=lambda case: case.part)]
            for number, part in itertools.product(range(1, rounds + 1), parts):
                for case in self.order(part, number):
                    if store.has(case.part, case.variant, number, case.work):
                        continue
                    figures = case.measure(folder / case.part)
                    store.add(case.part, case.variant, number, case.work, figures, described)
                    told = [f"{name} {figures[name]:.4g}" for name in self.told if figures.get(name) is not None]
                    console.print(f"{case.part}, round {number}, {case.variant}: {', '.join(told) or 'done'}")
        shutil.rmtree(folder / SHARED, ignore_errors=True)


def command_line(name: str, about: str) -> ArgumentParser:
    """Returns the parser of `python -m benchmarks.NAME`."""
    prog = f"python -m benchmarks.{name}"
    return ArgumentParser(prog=prog, description=about, formatter_class=RawDescriptionHelpFormatter)


def parse(parser: ArgumentParser, arguments: Sequence[str] | None, quick: Mapping[str, Any]) -> Namespace:
    """Parses a command line, with `--quick` for other defaults, to try everything within a minute or so."""
    values = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in quick.items())
    parser.add_argument("--quick", action="store_true", help=f"only try whether everything works: {values}")
    options = parser.parse_intermixed_args(arguments)
    if options.quick:
        parser.set_defaults(**quick)
        options = parser.parse_intermixed_args(arguments)
    return options
