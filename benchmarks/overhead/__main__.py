"""`python -m benchmarks.overhead`: what a sweep costs besides its training steps.

Its parts: `profile` (where the slots' time goes), `scaling` (over more and more slots), `trivial` (trials of one step),
`logging` (with everything that is written, and without), `figures` (with what the slots use measured, and without),
`start` (to the first step), `memory` (of a worker after many trials), `commands` (that answer at once). Cases that are
compared take turns. The results are written after each measurement, and the same command resumes after an interruption.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import Benchmark, Case
from benchmarks.overhead import measure, report
from benchmarks.overhead.parts import PARTS, Setup

_FEW = 5000


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise ArgumentTypeError(f"{unknown[0]}: there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--parts", type=_parts, default=list(PARTS), metavar="A,B", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--trials", type=int, default=24, help="of a sweep of short trials")
    parser.add_argument("--long-trials", type=int, default=3, help="per slot, of a sweep of long trials")
    parser.add_argument("--memory-trials", type=int, default=100, help="for a worker's memory, and for `compare`")
    parser.add_argument("--trivial", type=int, default=1000, metavar="TRIALS", help="of one step")
    sweeps.add_options(parser)


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    counts = {"all": options.images, "few": min(options.images or _FEW, _FEW)}
    arrays = sweeps.prepare(options.data, counts, folder / "data")
    setup = Setup(arrays["all"], arrays["few"], measure.tiny(folder / "data" / "tiny.npz"), options)
    return [(PARTS[part][0](setup), options.rounds or PARTS[part][1]) for part in options.parts]


main = Benchmark(
    "overhead",
    __doc__ or "",
    _add_options,
    _cases,
    report.tables,
    report.plot,
    quick={"rounds": 1, "trials": 2, "long_trials": 1, "memory_trials": 2, "trivial": 4, "images": 600},
).main

if __name__ == "__main__":
    main()
