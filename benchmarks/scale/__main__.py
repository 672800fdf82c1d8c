"""`python -m benchmarks.scale`: what the driver costs with many slots and many trials, and what a cluster costs.

- `driver`: sweeps of 10,000 trials of one epoch, which takes a second, on 1, 8, 64 and 512 simulated slots, without
  MLflow. The driver works as ever and takes its real time; training is made up, and the time in which nothing happens
  is skipped. Then the same sweep is resumed.
- `mlflow`: a sweep with MLflow (SQLite) on 512 such slots, without skipping; then `compare` and `report` of it.
- `search`: what a suggestion costs each algorithm after so many trials.
- `ray`: trials of two short epochs, really trained, on this machine's cores: by the local workers and by `workers=ray`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.harness import processes, show, sweeps
from benchmarks.harness.benchmark import Benchmark, Case, Figures
from benchmarks.harness.records import Store, of, ratio
from mnist_sweep.journal.events import TrialEnded, TrialStarted

_PARTS = ("driver", "mlflow", "search", "ray")
_SECONDS = 1.0
# Enough combinations for the grid, without intervals.
_GRID = (
    "model.dropout=0,0.1,0.2,0.3",
    "optimizer.learning_rate=0.1,0.01,0.001,0.0001",
    "model.units=16,32,64,128,256,512",
    "model.l2=0,0.0001,0.001",
)
# Each algorithm's most trials, as suggestions of those that learn take longer and longer, and its own overrides. An
# iteration of Hyperband has 22 trials of at most 9 epochs.
_SEARCHES = {
    "random": (10_000, ["search=random"]),
    "grid": (10_000, ["search=grid", *_GRID]),
    "asha, sampler random": (10_000, ["search=asha", "search.sampler=random"]),
    "hyperband": (10_000, ["search=hyperband", "search.iterations=500"]),
    "asha": (1000, ["search=asha"]),
    "tpe": (1000, ["search=tpe"]),
}
_EPOCHS = 2
_SHORT = (
    "data=mnist_5k",
    "model.units=16",
    "model.layers=1",
    f"training.epochs={_EPOCHS}",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "search=random",
    # It is never reached, but each epoch waits for the driver.
    "search.target=0.9999",
    "tracking.register=false",
    "tracking.report=false",
)


def _simulate(folder: Path, off: str = "mlflow,files", **given: object) -> Figures:
    """Runs a simulated sweep in a process of its own."""
    text = json.dumps({"folder": str(folder), "seconds": _SECONDS, **given})
    env = {**sweeps.environment(off), "MLFLOW_TRACKING_URI": _store(folder)}
    command = [sys.executable, "-m", "benchmarks.scale.simulate", text]
    output = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def _store(folder: Path) -> str:
    return f"sqlite:///{folder.parent / 'mlflow.db'}"


def driver(trials: int, slots: int, folder: Path) -> Figures:
    """Measures a simulated sweep without MLflow, and what resuming it takes."""
    place = _empty(folder) / "sweep"
    place.mkdir()
    first = _simulate(place, overrides=[f"search.max_trials={trials}", "training.epochs=1"], slots=slots)
    more = [f"search.max_trials={trials + 1}", "training.epochs=1"]
    again = _simulate(place, overrides=more, slots=slots, resume=True)
    kept = {name: first[name] for name in first if "behind" not in name}
    return {**kept, "s to resume": again["s to the first trial"], "resumed: peak MiB": again["peak MiB"]}


def mlflow(trials: int, slots: int, folder: Path) -> Figures:
    """Measures a simulated sweep with MLflow, and reading it back."""
    place = _empty(folder) / "experiments" / "scale" / "sweep"
    place.mkdir(parents=True)
    artifacts = f"tracking.artifacts={place.parent / 'artifacts'}"
    overrides = [f"search.max_trials={trials}", "training.epochs=1", "tracking.report=false", "name=scale", artifacts]
    figures = _simulate(place, "files", overrides=overrides, slots=slots, real=True)
    figures["store MiB"] = (place.parent / "mlflow.db").stat().st_size / 2**20
    env = {**sweeps.environment(), "MLFLOW_TRACKING_URI": _store(place)}
    for name in ("compare", "report"):
        usage = processes.run([sys.executable, "-m", "mnist_sweep", name, "scale/sweep"], folder, env, timeout=600)
        figures |= {f"{name}: s": usage.wall_seconds, f"{name}: peak MiB": usage.peak_mib}
    figures["report MiB"] = (place / "report.html").stat().st_size / 2**20
    return figures


def search(algorithm: str, trials: int, slots: int, folder: Path) -> Figures:
    """Measures a simulated sweep, whose work grows by what its algorithm needs for suggestions."""
    place = _empty(folder) / "sweep"
    place.mkdir()
    overrides = [*_SEARCHES[algorithm][1], f"search.max_trials={trials}", "training.epochs=9"]
    figures = _simulate(place, overrides=overrides, slots=slots)
    return {name: figures[name] for name in ("trials", "cores", "ms of work per trial", "events per s", "peak MiB")}


def trained(workers: str, trials: int, folder: Path) -> Figures:
    """Measures short trials that are really trained, from the start of the first to the end of the last."""
    swept = sweeps.run([*_SHORT, f"workers={workers}", f"search.max_trials={trials}"], folder, timeout=1200)
    ended = [event for event in swept.events if isinstance(event, TrialEnded)]
    begin = next(event.time for event in swept.events if isinstance(event, TrialStarted))
    return {
        "span s": ended[-1].time - begin,
        "ms to answer an epoch": 1000 * statistics.median(e.outcome.phases.get("wait", 0.0) / _EPOCHS for e in ended),
        "s to the first trial": begin - swept.begin,
        "wall_seconds": swept.usage.wall_seconds,
        "peak_mib": swept.usage.peak_mib,
    }


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in _PARTS]:
        raise ArgumentTypeError(f"{unknown[0]}: there are {', '.join(_PARTS)}")
    return [name for name in _PARTS if name in names]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _add_options(parser: ArgumentParser) -> None:
    parts = ", ".join(_PARTS)
    parser.add_argument("--parts", type=_names, default=list(_PARTS), metavar="A,B", help=f"some of {parts}")
    parser.add_argument("--slots", type=_numbers, default=[1, 8, 64, 512], metavar="N,M", help="of `driver`")
    parser.add_argument("--trials", type=int, default=10_000, help="at most, except of `ray`")
    parser.add_argument("--trained", type=int, default=120, metavar="TRIALS", help="of `ray`")
    parser.add_argument("--rounds", type=int, default=3, help="of `ray`")


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    most, many = options.trials, max(options.slots)
    made: dict[str, tuple[list[Case], int]] = {
        "driver": (
            [
                Case("driver", f"{slots:,} slots", {"trials": most}, partial(driver, most, slots))
                for slots in options.slots
            ],
            1,
        ),
        "mlflow": ([Case("mlflow", f"{many:,} slots", {"trials": most}, partial(mlflow, most, many))], 1),
        "search": (
            [
                Case("search", name, {"trials": n, "slots": many}, partial(search, name, n, many))
                for name, (trials, _) in _SEARCHES.items()
                for n in [min(trials, most)]
            ],
            1,
        ),
        "ray": (
            [
                Case("ray", workers, {"trials": options.trained}, partial(trained, workers, options.trained))
                for workers in ("local", "ray")
            ],
            options.rounds,
        ),
    }
    return [made[part] for part in options.parts]


def _show(store: Store, options: Namespace, console: Console) -> None:
    for part in _PARTS:
        if found := store.newest(part):
            names = list(next(iter(found.values()))[0].figures)
            console.print(show.grid(found, {name: show.text(of(name)) for name in names}, part, flip=True))
    found = store.newest("ray")
    for figure in ("span s", "s to the first trial"):
        if (compared := ratio(found, "ray", "local", of(figure))) is not None:
            console.print(f"{figure}, ray against local: {compared.text()}")


main = Benchmark(
    "scale",
    __doc__ or "",
    _add_options,
    _cases,
    _show,
    quick={"slots": [1, 8], "trials": 30, "trained": 2, "rounds": 1},
    told=("× the minimum", "ms of work per trial", "span s"),
).main

if __name__ == "__main__":
    main()
