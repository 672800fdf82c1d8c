"""`python -m benchmarks.throughput`: the same trials with this program and with what people would use instead.

Every process is timed as a whole, from its command to its exit: imports, data, training, and what the system saves.
This program runs with its defaults (MLflow, .h5 files, checkpoints, journal, report, registry, the test of the winner);
`peers.py` says what the others are given. The systems take turns, and each round starts with another one. The results
are written after each process, and the same command resumes after an interruption.
"""

from __future__ import annotations

import importlib.util
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import Benchmark, Case, rotated
from benchmarks.throughput import record, report
from benchmarks.throughput.record import SYSTEMS
from benchmarks.throughput.shapes import SHAPES
from mnist_sweep.common.errors import UserError


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, help="of each trial (default: 3 small, 1 large, 1 cnn, 2 mixed)")
    parser.add_argument("--trials-per-gpu", type=int, default=4, help="for Ray Tune, if there are GPUs")
    parser.add_argument("--override", action="append", default=[], help="more of this program's command line")
    sweeps.add_options(parser)


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    if "ray" in options.systems and importlib.util.find_spec("ray") is None:
        raise UserError("--systems ray: is not installed; pip install -e '.[bench]', or name the other systems")
    counts = {shape: options.images or SHAPES[shape].images for shape in options.shapes}
    found = []
    for shape, arrays in sweeps.prepare(options.data, counts, folder / "data").items():
        epochs = options.epochs or SHAPES[shape].epochs
        work = {"trials": options.trials, "epochs": epochs, **arrays.work()}
        for system in (system for system in SYSTEMS if system in options.systems):
            found.append(Case(shape, system, work, partial(record.run, system, shape, epochs, arrays, options)))
    return [(found, options.rounds or 3)]


main = Benchmark(
    "throughput",
    __doc__ or "",
    _add_options,
    _cases,
    report.tables,
    report.plot,
    quick={"rounds": 1, "trials": 2, "epochs": 1, "images": 600},
    order=rotated,
    told=("wall_seconds", "cpu_seconds", "peak_mib", "best"),
).main

if __name__ == "__main__":
    main()
