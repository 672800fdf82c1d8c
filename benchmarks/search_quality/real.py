"""Real sweeps to a given validation accuracy: this program beside keras-tuner's own Tuner and Optuna.

Each search is a process of its own, timed from its start to the first epoch that reaches the target, imports included,
and ended at `--limit`. The peers train one trial at a time on all cores, with Keras's `fit`; this program trains one on
each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.search_quality.peers import SYSTEMS
from benchmarks.search_quality.report import Spread
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import EpochEnded

# The space of experiment=mlp, without its early stopping, which the peers' Tuner would need a callback for.
SPACE = (
    "+experiment=mlp",
    "data=mnist_5k",
    "data.validation_split=0.25",
    "training.epochs=27",
    "training.early_stopping.patience=null",
)
OURS = ("asha", "random")
_MAX_TRIALS = 10_000


@dataclass(frozen=True)
class Reached:
    """When a search reached the target; None where it did not within its time."""

    seconds: float | None
    epochs: int | None


def ours(algorithm: str, target: float, seed: int, limit: float, overrides: Sequence[str]) -> Reached:
    """One sweep of this program.

    Args:
        algorithm: Of its group `search`.
        target: The validation accuracy.
        seed: Of the search.
        limit: Seconds.
        overrides: The space, as on the command line.

    Raises:
        RuntimeError: It failed.
    """
    wanted = (
        f"search={algorithm}",
        f"search.max_trials={_MAX_TRIALS}",
        f"search.target={target}",
        f"search.seed={seed}",
        f"search.time_budget={limit}s",
        "confirm=null",
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "mnist_sweep", *overrides, *wanted],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        epochs = 0
        for event in journal.read(folders.sweeps(Path(folder) / "experiments")[-1]):
            if isinstance(event, EpochEnded):
                epochs += 1
                if event.metrics["val_accuracy"] >= target:
                    return Reached(event.time - begun, epochs)
    return Reached(None, None)


def peer(system: str, target: float, seed: int, limit: float, overrides: Sequence[str]) -> Reached:
    """One search of a peer's.

    Args:
        system: One of `peers.SYSTEMS`.
        target: The validation accuracy.
        seed: Of the search.
        limit: Seconds.
        overrides: The space, as on this program's command line.

    Raises:
        RuntimeError: It failed.
    """
    options = [f"--target={target}", f"--seed={seed}", f"--limit={limit}"]
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.search_quality.peers", system, *options, *overrides],
        capture_output=True,
        text=True,
    )
    took = time.time() - begun
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(done.stderr)
    said = json.loads(lines[-1])
    return Reached(None, None) if said["seconds"] is None else Reached(took, said["epochs"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all searches and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=float, default=0.95, help="validation accuracy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="seconds for each search")
    parser.add_argument("overrides", nargs="*", help="changes to the space, as on this program's command line")
    options = parser.parse_intermixed_args(arguments)
    console, overrides = Console(), [*SPACE, *options.overrides]
    found: dict[str, list[Reached]] = {}
    for seed in range(1, options.seeds + 1):
        for system in (*(f"mnist_sweep: {name}" for name in OURS), *SYSTEMS):
            run, name = (ours, system.partition(": ")[2]) if system.startswith("mnist_sweep") else (peer, system)
            reached = run(name, options.target, seed, options.limit, overrides)
            found.setdefault(system, []).append(reached)
            when = "never" if reached.seconds is None else f"{reached.seconds:.1f} s, {reached.epochs} epochs"
            console.print(f"{system}, seed {seed}: {when}")
    table = Table(title=f"to a validation accuracy of {options.target}, median (quartiles)", box=box.SIMPLE)
    for heading in ("search", "seconds", "epochs"):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for system, runs in found.items():
        table.add_row(
            system, *(Spread.of([getattr(r, figure) for r in runs]).text() for figure in ("seconds", "epochs"))
        )
    console.print(table)


if __name__ == "__main__":
    main()
