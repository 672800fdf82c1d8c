"""`python -m benchmarks.load_runs`: what it costs to load many runs.

Makes an SQLite store of made-up runs in a temporary folder, and loads it with `load_runs` and `load_curves`, with the
same through MLflow's API, as from a tracking server, and with `mlflow.search_runs`. Each is measured in its own process
after opening the store: seconds, seconds of processor time, and by how much its memory grew at most. The API takes
minutes for 10,000 runs.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import show, sweeps
from benchmarks.harness.benchmark import SHARED, Benchmark, Case, Figures
from benchmarks.harness.records import Record, Store
from mnist_sweep import mlflow_store as store
from mnist_sweep.results import runs
from mnist_sweep.results.api import Client
from mnist_sweep.results.frames import curves_frame, runs_frame

SWEEP = "many/2026-01-01_00-00-00"
CURVES = ("loss", "val_loss", "val_accuracy")


def make(path: Path, runs: int, epochs: int, params: int) -> None:
    """Makes the store; writes the rows without MLflow, which would take a minute per thousand runs."""
    client = store.connect(f"sqlite:///{path}", create=True)
    experiment = client.create_experiment("many", artifact_location=str(path.parent))
    tags = {store.TAG_KIND: "sweep", store.TAG_SWEEP: SWEEP, store.TAG_OBJECTIVE: "val_accuracy max"}
    parent = client.create_run(experiment, tags=tags).info.run_id
    tags |= {store.TAG_KIND: "trial", store.PARENT_TAG: parent, store.TAG_STATUS: "completed", "data.digest": "d" * 32}
    # A sweep's runs have as many.
    tags |= {f"version.package_{number}": "1.0" for number in range(12)}
    ids = [uuid.UUID(int=random.Random(number).getrandbits(128)).hex for number in range(runs)]

    def run_rows() -> Iterator[tuple[Any, ...]]:
        for number, run in enumerate(ids):
            yield run, f"trial {number}", "FINISHED", number, number + 1000, "active", int(experiment), "", "me"

    def tag_rows() -> Iterator[tuple[str, str, str]]:
        for number, run in enumerate(ids):
            yield from ((key, value, run) for key, value in {**tags, store.TAG_TRIAL: str(number)}.items())

    def param_rows() -> Iterator[tuple[str, str, str]]:
        draws = random.Random(0)
        for run in ids:
            for number in range(params):
                value = ("adam", "sgd")[draws.randrange(2)] if number == 0 else f"{draws.random():.6g}"
                yield f"model.value_{number}", value, run

    def metric_rows() -> Iterator[tuple[Any, ...]]:
        draws = random.Random(1)
        for run in ids:
            for key in CURVES:
                for epoch in range(1, epochs + 1):
                    yield key, draws.random(), 1000 * epoch, run, epoch, False

    def last_rows() -> Iterator[tuple[Any, ...]]:
        draws = random.Random(2)
        for run in ids:
            for key in (*CURVES, "best_val_accuracy", "seconds"):
                yield key, draws.random(), 1000 * epochs, epochs, False, run

    with closing(sqlite3.connect(path)) as database, database:
        for table, columns, rows in (
            (
                "runs",
                "run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id, artifact_uri, user_id",
                run_rows(),
            ),
            ("tags", "key, value, run_uuid", tag_rows()),
            ("params", "key, value, run_uuid", param_rows()),
            ("metrics", "key, value, timestamp, run_uuid, step, is_nan", metric_rows()),
            ("latest_metrics", "key, value, timestamp, step, is_nan, run_uuid", last_rows()),
        ):
            marks = ",".join("?" * len(columns.split(",")))
            database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def _ways(uri: str) -> dict[str, Callable[[], int]]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    # MLflow's first call opens the store.
    found = runs.find_sweep(SWEEP, uri)
    api, wanted = Client(found.client), found.selection.wanted
    return {
        "load_runs": lambda: len(runs.load_runs(SWEEP, tracking_uri=uri)),
        "load_runs, API": lambda: len(runs_frame(api.records(wanted))),
        "mlflow.search_runs": lambda: len(mlflow.search_runs(experiment_names=["many"], max_results=1_000_000)),
        "load_curves": lambda: len(runs.load_curves(SWEEP, tracking_uri=uri)),
        "load_curves, API": lambda: len(curves_frame(api.points(wanted))),
    }


WAYS = ("load_runs", "load_runs, API", "mlflow.search_runs", "load_curves", "load_curves, API")


def _memory() -> float:
    """Returns the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load(name: str, uri: str) -> None:
    """Loads all runs in one way, in this process, and prints the figures as JSON."""
    way = _ways(uri)[name]
    before, start, worked = _memory(), time.perf_counter(), time.process_time()
    figures = {"rows": way(), "seconds": time.perf_counter() - start, "work_seconds": time.process_time() - worked}
    print(json.dumps({**figures, "memory_mb": _memory() - before}))


def _measure(name: str, uri: str, _: Path) -> Figures:
    code = f"from benchmarks import load_runs; load_runs.load({name!r}, {uri!r})"
    command, env = [sys.executable, "-c", code], sweeps.environment()
    output = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--params", type=int, default=12)
    parser.add_argument("--tracking-uri", help="an existing store of this benchmark")


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    uri = options.tracking_uri
    if uri is None:
        shutil.rmtree(folder / SHARED, ignore_errors=True)
        (folder / SHARED).mkdir(parents=True)
        make(folder / SHARED / "mlflow.db", options.runs, options.epochs, options.params)
        uri = f"sqlite:///{folder / SHARED}/mlflow.db"
    work = {"runs": options.runs, "epochs": options.epochs, "params": options.params, "uri": options.tracking_uri}
    return [([Case("load", name, work, partial(_measure, name, uri)) for name in WAYS], 1)]


def _show(store: Store, options: Namespace, console: Console) -> None:
    found = store.newest("load")

    def times(figure: str) -> show.Cell:
        def cell(runs: Sequence[Record]) -> str:
            base = found["load_curves" if "curves" in runs[0].variant else "load_runs"][0]
            return f"{runs[0][figure] / base[figure]:.1f}"

        return cell

    cells: dict[str, show.Cell] = {
        "rows": lambda runs: f"{runs[0]['rows']:,.0f}",
        "s": lambda runs: f"{runs[0]['seconds']:.2f}",
        "s of work": lambda runs: f"{runs[0]['work_seconds']:.2f}",
        "MB": lambda runs: f"{runs[0]['memory_mb']:.0f}",
        "× the work": times("work_seconds"),
        "× the memory": times("memory_mb"),
    }
    console.print(show.grid(found, cells))


main = Benchmark(
    "load_runs",
    __doc__ or "",
    _add_options,
    _cases,
    _show,
    quick={"runs": 200},
    told=("seconds", "work_seconds", "memory_mb"),
    resumes=False,
).main

if __name__ == "__main__":
    main()
