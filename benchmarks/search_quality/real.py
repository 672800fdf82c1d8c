"""`python -m benchmarks.search_quality.real`: real searches until a validation accuracy, here and with other systems.

Each search is a process of its own, timed from its start, imports included, to the first epoch that reaches the target.
It ends at `--limit`. The other systems train one trial at a time on all cores, with Keras's `fit`; this program trains
one on each core.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import processes, show, sweeps
from benchmarks.harness.benchmark import Benchmark, Case, Figures
from benchmarks.harness.records import Spread, Store
from benchmarks.search_quality.peers import SYSTEMS
from mnist_sweep.journal.events import EpochEnded

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


def ours(system: str, seed: int, work: Mapping[str, Any], folder: Path) -> Figures:
    """Runs a sweep of this program.

    Returns:
        Seconds and epochs trained until the target; None if it was not reached.

    Raises:
        RuntimeError: It failed.
    """
    wanted = (
        f"search={system.partition(': ')[2]}",
        f"search.max_trials={_MAX_TRIALS}",
        f"search.target={work['target']}",
        f"search.seed={seed}",
        f"search.time_budget={work['limit']}s",
        "confirm=null",
    )
    swept = sweeps.run([*work["overrides"], *wanted], folder, timeout=work["limit"] + _GRACE)
    shutil.rmtree(folder)
    epochs = [event for event in swept.events if isinstance(event, EpochEnded)]
    for number, event in enumerate(epochs, start=1):
        if event.metrics["val_accuracy"] >= work["target"]:
            return {"seconds": event.time - swept.begin, "epochs": number}
    return {"seconds": None, "epochs": None}


def peer(system: str, seed: int, work: Mapping[str, Any], folder: Path) -> Figures:
    """Runs a search of another system (`peers.SYSTEMS`), and returns the same as `ours`."""
    options = [f"--target={work['target']}", f"--seed={seed}", f"--limit={work['limit']}", *work["overrides"]]
    command = [sys.executable, "-m", "benchmarks.search_quality.peers", system, *options]
    folder.mkdir(parents=True, exist_ok=True)
    usage = processes.run(command, folder, sweeps.environment(), timeout=work["limit"] + _GRACE)
    epochs = json.loads((folder / "log.txt").read_text().splitlines()[-1])
    shutil.rmtree(folder)
    return {"seconds": None if epochs is None else usage.wall_seconds, "epochs": epochs}


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--target", type=float, default=0.95, help="validation accuracy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="seconds for each search")
    parser.add_argument("overrides", nargs="*", help="changes to the space, as on this program's command line")


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    work = {"target": options.target, "limit": options.limit, "overrides": [*SPACE, *options.overrides]}
    return [
        (
            [
                Case(f"seed {seed}", system, work, partial(ours if system in OURS else peer, system, seed, work))
                for seed in range(1, options.seeds + 1)
                for system in (*OURS, *SYSTEMS)
            ],
            1,
        )
    ]


def _show(store: Store, options: Namespace, console: Console) -> None:
    work, rows = store.records[-1].work, []
    for system in (*OURS, *SYSTEMS):
        runs = [record.figures for record in store.records if (record.variant, record.work) == (system, work)]
        if runs:
            spreads = (Spread.quartiles([run[figure] for run in runs]) for figure in ("seconds", "epochs"))
            rows.append([system, *(spread.text(decimals=1) for spread in spreads)])
    title = f"to a validation accuracy of {work['target']}, median (quartiles)"
    console.print(show.table(("search", "seconds", "epochs"), rows, title))


main = Benchmark(
    "search_quality.real",
    __doc__ or "",
    _add_options,
    _cases,
    _show,
    quick={"seeds": 1, "target": 0.5, "limit": 20},
    told=("seconds", "epochs"),
).main

if __name__ == "__main__":
    main()
