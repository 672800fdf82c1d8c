"""The command line of a benchmark: measures cases in turns, keeps every record, and shows them."""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from benchmarks.harness import machine, show
from benchmarks.harness.records import Store
from mnist_sweep.errors import UserError

RESULTS = Path(__file__).parents[1] / "results"
SHARED = "shared"


@dataclass(frozen=True)
class Case:
    """One measurement, done once in each round.

    Attributes:
        part: The part of the benchmark, whose cases take turns.
        variant: What is measured.
        work: What must be the same in two records to compare them.
        measure: Measures it, in a folder that it may write to, and returns the figures.
    """

    part: str
    variant: str
    work: dict[str, Any]
    measure: Callable[[Path], dict[str, Any]]


def rotated(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Returns the cases in the order of a round: each round starts with another one."""
    first = (number - 1) % len(cases)
    return [*cases[first:], *cases[:first]]


def alternated(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Returns the cases in the order of a round: every other round goes backwards.

    A machine that gets slower favours what comes first.
    """
    return cases[:: 1 if number % 2 else -1]


class Benchmark(ABC):
    """A benchmark.

    Attributes:
        name: Of its module and its files: `NAME.json` and `NAME.png`.
        about: What `--help` says.
        quick: The options that `--quick` sets.
        resumes: Whether the same command skips what it has measured before.
        told: The figures to print after each measurement.
        order: The order of the cases in a round.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    quick: ClassVar[Mapping[str, Any]]
    resumes: ClassVar[bool] = True
    told: ClassVar[Sequence[str]] = ("wall_seconds", "cpu_seconds", "peak_mib")
    order: Callable[[Sequence[Case], int], Sequence[Case]] = staticmethod(alternated)

    @abstractmethod
    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the benchmark's own options."""

    @abstractmethod
    def cases(self, options: argparse.Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
        """Returns what to measure: groups of cases, and how many rounds of each.

        Args:
            options: The command line.
            folder: For the images and whatever else the cases share; `SHARED` in it is removed at the end.

        Raises:
            UserError: Something cannot be measured.
        """

    @abstractmethod
    def show(self, store: Store, options: argparse.Namespace, console: Console) -> None:
        """Prints the tables."""

    def plot(self, store: Store, path: Path, footer: str) -> bool:
        """Draws the results, and returns whether there is a plot."""
        return False

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

    def _measure(self, store: Store, options: argparse.Namespace, console: Console, folder: Path) -> None:
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
                    told = [f"{name} {figures[name]:.4g}" for name in self.told if name in figures]
                    console.print(f"{case.part}, round {number}, {case.variant}: {', '.join(told) or 'done'}")
        shutil.rmtree(folder / SHARED, ignore_errors=True)


def command_line(name: str, about: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m benchmarks.NAME`."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, quick: Mapping[str, Any]
) -> argparse.Namespace:
    """Parses a command line, to which it adds `--quick`: other defaults, to try everything within a minute or so.

    Args:
        parser: With all other options.
        arguments: The command line; None for this process's.
        quick: The defaults of `--quick`.
    """
    values = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in quick.items())
    parser.add_argument("--quick", action="store_true", help=f"only try whether everything works: {values}")
    options = parser.parse_intermixed_args(arguments)
    if options.quick:
        parser.set_defaults(**quick)
        options = parser.parse_intermixed_args(arguments)
    return options
