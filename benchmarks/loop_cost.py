"""`python -m benchmarks.loop_cost`: what the sweep loop itself costs per epoch report.

The real loop, journal, search, stopping rule and progress, with workers that train nothing. Printed for the first and
the last tenth of the reports, in milliseconds per report: all of the loop's work between one report and the next, which
includes asking the search, starting trials and printing. Only the second figure includes waiting for the disk, which
every event of the journal does.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import Benchmark, Case, Figures
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.progress import Progress
from mnist_sweep.driver.screen import Screen
from mnist_sweep.journal.events import EpochEnded, Event, Listener
from mnist_sweep.journal.journal import Journal
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch

SPACE = (
    "model.layers=range(1,4)",
    "model.units=int(interval(16,512))",
    "model.per_layer=[units]",
    "model.activation=relu,tanh,gelu",
    "model.dropout=interval(0,0.5)",
    "model.batch_normalization=true,false",
    "model.l2=interval(0,0.001)",
    "optimizer.name=adam,sgd,rmsprop",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "training.batch_size=32,64,128",
    "training.epochs=9",
)
_SEARCHES = (("search=random",), ("search=asha", "search.sampler=random"))


class _Stopwatch:
    """Notes when each epoch was reported, after the listeners before it have handled that."""

    def __init__(self, times: list[tuple[float, float]]) -> None:
        self._times = times

    def handle(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._times.append((time.thread_time(), time.perf_counter()))


def measure(trials: int, slots: int, overrides: Sequence[str], _: Path) -> Figures:
    """Runs a sweep, and returns the means of the first and the last tenth of its reports."""
    sys.path.insert(0, str(sweeps.ROOT / "tests"))
    from fakes import FakeClock, FakeWorkers, InlineExecutor

    settings = check_settings(compose.defaults(quote_sweeps([*SPACE, f"search.max_trials={trials}", *overrides])))
    space, clock = Space(settings.trial), FakeClock()
    workers = FakeWorkers(slots, lambda values, epoch: values["model.dropout"] + epoch / 100, clock)
    search = ThreadedSearch(lambda: choose.create_search(settings, space), InlineExecutor())
    progress = Progress(settings.objective, settings.search, slots, lambda _: space.size, clock)
    # Processor time of this thread, and the time of the clock.
    times: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder)) as journal,
        open(os.devnull, "w") as nowhere,
    ):
        screen = Screen(progress, Console(file=nowhere, width=120))
        listeners: list[Listener] = [journal, screen, _Stopwatch(times)]
        rule = choose.create_stopping(settings)
        Sweep(
            settings,
            space,
            search,
            rule,
            workers,
            folder=Path(folder),
            listeners=listeners,
            clock=clock,
            image=(28, 28, 1),
        ).run()
    spent = [(1000 * (b[0] - a[0]), 1000 * (b[1] - a[1])) for a, b in itertools.pairwise(times)]
    tenth = len(spent) // 10
    figures: Figures = {}
    for name, part in (("first", spent[:tenth]), ("last", spent[-tenth:])):
        figures[f"{name} tenth: work ms"] = statistics.fmean(work for work, _ in part)
        figures[f"{name} tenth: ms with the disk"] = statistics.fmean(passed for _, passed in part)
    return figures


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8)


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    work = {"trials": options.trials, "slots": options.slots}
    measured = [(" ".join(some), partial(measure, options.trials, options.slots, some)) for some in _SEARCHES]
    return [([Case("loop", variant, work, run) for variant, run in measured], 1)]


main = Benchmark("loop_cost", __doc__ or "", _add_options, _cases, quick={"trials": 60}, told=(), resumes=False).main

if __name__ == "__main__":
    main()
