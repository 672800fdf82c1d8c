"""`python -m benchmarks.search_quality.real`: real searches until a validation accuracy, beside keras-tuner and Optuna.

Each search is a process of its own, timed from its start, imports included, to the first epoch that reaches the target.
It ends at `--limit`. The other systems train one trial at a time on all cores, with Keras's `fit`; this program trains
one on each core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import processes, show, sweeps
from benchmarks.harness.benchmark import Benchmark, Case, rotated
from benchmarks.harness.records import Spread, Store
from benchmarks.search_quality.peers import SYSTEMS
from mnist_sweep.trial import EpochEnded

# The space of experiment=mlp, without its early stopping, which the other systems would need a callback for.
SPACE = (
    "+experiment=mlp",
    "data=mnist_5k",
    "data.validation_split=0.25",
    "training.epochs=27",
    "training.early_stopping.patience=null",
)
OURS = ("mnist_sweep: asha", "mnist_sweep: random")
_MAX_TRIALS = 10_000
# Seconds that a sweep gets to start and end, besides its time budget.
_GRACE = 300
_NEVER = {"seconds": None, "epochs": None}


def ours(algorithm: str, target: float, limit: float, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs a sweep of this program; the seed is among the overrides.

    Returns:
        Seconds and epochs trained until the target; None if it was not reached.

    Raises:
        RuntimeError: It failed.
    """
    wanted = (
        f"search={algorithm}",
        f"search.max_trials={_MAX_TRIALS}",
        f"search.target={target}",
        f"search.time_budget={limit}s",
        "confirm=null",
    )
    swept = sweeps.run([*overrides, *wanted], folder, timeout=limit + _GRACE)
    shutil.rmtree(folder)
    epochs = [event for event in swept.events if isinstance(event, EpochEnded)]
    for number, event in enumerate(epochs, start=1):
        if event.metrics["val_accuracy"] >= target:
            return {"seconds": event.time - swept.begin, "epochs": number}
    return _NEVER


def peer(system: str, target: float, seed: int, limit: float, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs a search of another system (`peers.SYSTEMS`), and returns the same as `ours`.

    Raises:
        RuntimeError: It failed.
    """
    options = [f"--target={target}", f"--seed={seed}", f"--limit={limit}"]
    command = [sys.executable, "-m", "benchmarks.search_quality.peers", system, *options, *overrides]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    usage = processes.run(command, folder, sweeps.environment(), timeout=limit + _GRACE)
    found = json.loads((folder / "log.txt").read_text().splitlines()[-1])
    shutil.rmtree(folder)
    return _NEVER if found["seconds"] is None else {"seconds": usage.wall_seconds, "epochs": found["epochs"]}


class Real(Benchmark):
    """Real searches until a validation accuracy."""

    name, about = "search_quality.real", __doc__ or ""
    quick = {"seeds": 1, "target": 0.5, "limit": 20}  # noqa: RUF012
    told = ("seconds", "epochs")
    order = staticmethod(rotated)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("--target", type=float, default=0.95, help="validation accuracy")
        parser.add_argument("--seeds", type=int, default=3)
        parser.add_argument("--limit", type=float, default=600, help="seconds for each search")
        parser.add_argument("overrides", nargs="*", help="changes to the space, as on this program's command line")

    def cases(self, options: argparse.Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
        """Returns a case for each system and seed; those of a seed take turns."""
        overrides, target, limit = [*SPACE, *options.overrides], options.target, options.limit
        work = {"target": target, "limit": limit, "overrides": overrides}
        found = []
        for seed in range(1, options.seeds + 1):
            for system in OURS:
                algorithm = system.partition(": ")[2]
                measure = partial(ours, algorithm, target, limit, [*overrides, f"search.seed={seed}"])
                found.append(Case(f"seed {seed}", system, work, measure))
            for system in SYSTEMS:
                found.append(Case(f"seed {seed}", system, work, partial(peer, system, target, seed, limit, overrides)))
        return [(found, 1)]

    def show(self, store: Store, options: argparse.Namespace, console: Console) -> None:
        """Prints the table."""
        work = store.records[-1].work
        title = f"to a validation accuracy of {work['target']}, median (quartiles)"
        table = show.table("search", "seconds", "epochs", title=title)
        for system in (*OURS, *SYSTEMS):
            runs = [record.figures for record in store.records if (record.variant, record.work) == (system, work)]
            if runs:
                figures = (Spread.quartiles([run[name] for run in runs]) for name in ("seconds", "epochs"))
                table.add_row(system, *(figure.text(decimals=1) for figure in figures))
        console.print(table)


main = Real().main

if __name__ == "__main__":
    main()
