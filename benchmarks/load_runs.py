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

from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import SHARED, Benchmark, Case, Figures
from mnist_sweep.results.runs import find
from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.frames import curves_frame, runs_frame
from mnist_sweep.tracking import store
from mnist_sweep.tracking import tags as run_tags
from mnist_sweep.tracking.uri import sqlite_path

SWEEP = "many/2026-01-01_00-00-00"
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds")
# Metrics with one value.
SINGLE = ("best_val_accuracy", "seconds")


def make(uri: str, runs: int, epochs: int, params: int) -> None:
    """Makes a store; writes the rows without MLflow, which would take a minute per thousand runs.

    Args:
        uri: An SQLite file, or an empty database of PostgreSQL.
        runs: The number of trials.
        epochs: The epochs of each.
        params: The parameters of each.
    """
    client = store.connect(uri, create=True)
    experiment = client.create_experiment("many", artifact_location="file:///nowhere")
    tags = {run_tags.TAG_KIND: "sweep", run_tags.TAG_SWEEP: SWEEP, run_tags.TAG_OBJECTIVE: "val_accuracy max"}
    parent = client.create_run(experiment, tags=tags).info.run_id
    rows = _rows(int(experiment), parent, runs, epochs, params)
    path = sqlite_path(uri)
    if path is None:
        import psycopg

        with psycopg.connect(uri) as connection, connection.cursor() as cursor:
            for table, values in rows.items():
                with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                    for row in values:
                        copy.write_row(row)
        return
    with closing(sqlite3.connect(path)) as database, database:
        for table, values in rows.items():
            marks = ",".join("?" * (table.count(",") + 1))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", values)


def _rows(experiment: int, parent: str, runs: int, epochs: int, params: int) -> dict[str, Iterator[tuple[Any, ...]]]:
    """The rows of each table."""
    tags = {
        run_tags.TAG_KIND: "trial",
        run_tags.TAG_SWEEP: SWEEP,
        run_tags.TAG_OBJECTIVE: "val_accuracy max",
        run_tags.PARENT_TAG: parent,
        run_tags.TAG_STATUS: "completed",
        "data.digest": "d" * 32,
    }
    # A sweep's runs have as many.
    tags |= {f"version.package_{number}": "1.0" for number in range(12)}
    ids = [uuid.UUID(int=random.Random(number).getrandbits(128)).hex for number in range(runs)]
    draws = random.Random(0)

    def param(number: int) -> str:
        return draws.choice(("adam", "sgd")) if number == 0 else f"{draws.random():.6g}"

    return {
        "runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id, artifact_uri, user_id)": (
            (run, f"trial {number}", "FINISHED", number, number + 1000, "active", experiment, "", "me")
            for number, run in enumerate(ids)
        ),
        "tags (key, value, run_uuid)": (
            (key, value, run)
            for number, run in enumerate(ids)
            for key, value in {**tags, run_tags.TAG_TRIAL: str(number)}.items()
        ),
        "params (key, value, run_uuid)": (
            (f"model.value_{number}", param(number), run) for run in ids for number in range(params)
        ),
        "metrics (key, value, timestamp, run_uuid, step, is_nan)": (
            (key, draws.random(), 1000 * epoch, run, epoch, False)
            for run in ids
            for key in CURVES
            for epoch in range(1, epochs + 1)
        ),
        "latest_metrics (key, value, timestamp, step, is_nan, run_uuid)": (
            (key, draws.random(), 1000 * epochs, 0 if key in SINGLE else epochs, False, run)
            for run in ids
            for key in (*CURVES, *SINGLE)
        ),
    }


def load(name: str, uri: str) -> None:
    """Loads all runs in one of `WAYS`, in this process, and prints the figures as JSON."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    # MLflow's first call opens the store.
    found = find.find_sweep(SWEEP, uri)
    client = Client(found.client)
    before, start, worked = _memory(), time.perf_counter(), time.process_time()
    figures: Figures = {"rows": WAYS[name](uri, client, found.selection.wanted)}
    figures |= {"s": time.perf_counter() - start, "s of work": time.process_time() - worked}
    print(json.dumps({**figures, "MB": _memory() - before}))


def _memory() -> float:
    """Returns the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _search_runs(uri: str, api: Client, wanted: Any) -> int:
    import mlflow

    return len(mlflow.search_runs(experiment_names=["many"], max_results=1_000_000))


WAYS: dict[str, Callable[[str, Client, Any], int]] = {
    "load_runs": lambda uri, api, wanted: len(find.load_runs(SWEEP, tracking_uri=uri)),
    "load_runs, API": lambda uri, api, wanted: len(runs_frame(api.records(wanted))),
    "mlflow.search_runs": _search_runs,
    "load_curves": lambda uri, api, wanted: len(find.load_curves(SWEEP, tracking_uri=uri)),
    "load_curves, API": lambda uri, api, wanted: len(curves_frame(api.points(wanted))),
}
"""What is compared; the first of each kind is the base of the ratios."""


def measure(name: str, uri: str) -> Figures:
    """Does the same in a process of its own, and returns the figures."""
    code = f"from benchmarks import load_runs; load_runs.load({name!r}, {uri!r})"
    command, env = [sys.executable, "-c", code], sweeps.environment()
    output = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def _measure(base: Figures, name: str, uri: str, _: Path) -> Figures:
    figures = measure(name, uri)
    if not base:
        base.update(figures)
    # Few runs may need no more memory.
    ratios = {what: figures[what] / max(base[what], 0.01) for what in ("s of work", "MB")}
    return {**figures, "× the work": ratios["s of work"], "× the memory": ratios["MB"]}


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
        uri = f"sqlite:///{folder / SHARED}/mlflow.db"
        make(uri, options.runs, options.epochs, options.params)
    work = {"runs": options.runs, "epochs": options.epochs, "params": options.params, "uri": options.tracking_uri}
    bases: dict[bool, Figures] = {True: {}, False: {}}
    return [([Case("load", way, work, partial(_measure, bases["curves" in way], way, uri)) for way in WAYS], 1)]


main = Benchmark(
    "load_runs",
    __doc__ or "",
    _add_options,
    _cases,
    quick={"runs": 200},
    told=("s", "s of work", "MB"),
    resumes=False,
).main

if __name__ == "__main__":
    main()
