"""What the sweep loop itself costs per epoch report: `python benchmarks/loop_cost.py`.

The real loop, journal, search, stopping rule and progress, on workers that train nothing. Printed for the first and the
last hundred of 1,000 trials, as milliseconds per report: all of the loop's work between one report and the next, asking
the search, starting trials and printing included. Waiting for the disk, which each event of the journal does, is in the
second figure only.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes import FakeClock, FakeWorkers, InlineExecutor

from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.progress import Progress, Screen
from mnist_sweep.journal.events import EpochEnded, Event
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


def measure(trials: int, slots: int, *overrides: str) -> list[tuple[float, float]]:
    """Runs a sweep.

    Returns:
        Milliseconds between one epoch's report and the next: of this thread's processor time, and of the clock.
    """
    settings = check_settings(compose.defaults(quote_sweeps([*SPACE, f"search.max_trials={trials}", *overrides])))
    space, clock = Space(settings.trial), FakeClock()
    workers = FakeWorkers(slots, lambda values, epoch: values["model.dropout"] + epoch / 100, clock)
    aside = ThreadedSearch(lambda: choose.create_search(settings, space), InlineExecutor())
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as temporary, Journal(Path(temporary)) as journal:
        progress = Progress(settings.objective, settings.search, slots, space.size, clock)
        screen = Screen(progress, Console(file=open("/dev/null", "w"), width=120))  # noqa: SIM115

        def emit(event: Event) -> None:
            journal.append(event)
            screen.handle(event)
            if isinstance(event, EpochEnded):
                times.append((time.thread_time(), time.perf_counter()))

        rule = choose.create_stopping(settings)
        Sweep(settings, space, aside, rule, workers, folder=Path(temporary), emit=emit, clock=clock).run()
    return [(1000 * (b[0] - a[0]), 1000 * (b[1] - a[1])) for a, b in itertools.pairwise(times)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    for overrides in (("search=random",), ("search=asha", "search.sampler=random")):
        found = measure(options.trials, options.slots, *overrides)
        tenth = len(found) // 10
        for name, part in (("first", found[:tenth]), ("last", found[-tenth:])):
            work, clock = (statistics.fmean(column) for column in zip(*part, strict=True))
            print(f"{' '.join(overrides):36} {name} tenth: {work:5.2f} ms of work, {clock:5.2f} ms with the disk")


if __name__ == "__main__":
    main()
