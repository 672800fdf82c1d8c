"""What loading many runs costs: `python benchmarks/load_runs.py`.

Makes an SQLite store of made-up runs in a temporary folder, and loads it with `load_runs` and `load_curves`, with the
same through MLflow's API, as from a tracking server, and with `mlflow.search_runs`. Each is measured in a process of
its own that has opened the store before: seconds, seconds of processor time, and by how much its memory rose at most.
The API takes minutes for 10,000 runs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

SWEEP = "many/2026-01-01_00-00-00"
CURVES = ("loss", "val_loss", "val_accuracy")


def make(path: Path, runs: int, epochs: int, params: int) -> None:
    """Makes the store; the rows are written past MLflow, which would take a minute per thousand runs."""
    from mnist_sweep.tracking import store
    from mnist_sweep.tracking.tags import PARENT_TAG, TAG_KIND, TAG_OBJECTIVE, TAG_STATUS, TAG_SWEEP, TAG_TRIAL

    client = store.connect(f"sqlite:///{path}", create=True)
    experiment = client.create_experiment("many", artifact_location=str(path.parent))
    tags = {TAG_KIND: "sweep", TAG_SWEEP: SWEEP, TAG_OBJECTIVE: "val_accuracy max"}
    parent = client.create_run(experiment, tags=tags).info.run_id
    tags |= {
        TAG_KIND: "trial",
        PARENT_TAG: parent,
        TAG_STATUS: "completed",
        "data.digest": "d" * 32,
    }
    # A sweep's runs have as many.
    tags |= {f"version.package_{number}": "1.0" for number in range(12)}
    ids = [uuid.UUID(int=random.Random(number).getrandbits(128)).hex for number in range(runs)]

    def run_rows() -> Iterator[tuple[Any, ...]]:
        for number, run in enumerate(ids):
            yield run, f"trial {number}", "FINISHED", number, number + 1000, "active", int(experiment), "", "me"

    def tag_rows() -> Iterator[tuple[str, str, str]]:
        for number, run in enumerate(ids):
            yield from ((key, value, run) for key, value in {**tags, TAG_TRIAL: str(number)}.items())

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


def ways(uri: str) -> dict[str, Callable[[], int]]:
    """What is compared: by name, what loads all runs and gives the number of rows."""
    import mlflow

    from mnist_sweep.results.runs import find
    from mnist_sweep.results.runs.api import Client
    from mnist_sweep.results.runs.frames import curves_frame, runs_frame

    mlflow.set_tracking_uri(uri)
    # MLflow's first call opens the store.
    found = find.find_sweep(SWEEP, uri)
    api, wanted = Client(found.client), found.selection.wanted
    return {
        "load_runs": lambda: len(find.load_runs(SWEEP, tracking_uri=uri)),
        "load_runs, API": lambda: len(runs_frame(api.records(wanted))),
        "mlflow.search_runs": lambda: len(mlflow.search_runs(experiment_names=["many"], max_results=1_000_000)),
        "load_curves": lambda: len(find.load_curves(SWEEP, tracking_uri=uri)),
        "load_curves, API": lambda: len(curves_frame(api.points(wanted))),
    }


def _memory() -> float:
    """The most that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, uri: str) -> None:
    """Prints the rows, seconds, seconds of processor time and MB of one way as JSON."""
    load = ways(uri)[name]
    before, start, worked = _memory(), time.perf_counter(), time.process_time()
    rows = load()
    print(json.dumps([rows, time.perf_counter() - start, time.process_time() - worked, _memory() - before]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--params", type=int, default=12)
    parser.add_argument("--tracking-uri", help="a store that is there already, of this program's making")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.tracking_uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        uri = options.tracking_uri
        if uri is None:
            make(Path(folder) / "mlflow.db", options.runs, options.epochs, options.params)
            uri = f"sqlite:///{folder}/mlflow.db"
        found = {}
        for name in ways(uri):
            command = [sys.executable, __file__, "--one", name, "--tracking-uri", uri]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[name] = json.loads(output.splitlines()[-1])
            rows, seconds, worked, memory = found[name]
            base = found["load_curves" if "curves" in name else "load_runs"]
            print(
                f"{name:20} {rows:8,} rows {seconds:7.2f} s {worked:7.2f} s of work {memory:6.0f} MB   "
                f"{worked / base[2]:5.1f} × the work, {memory / base[3]:4.1f} × the memory",
                flush=True,
            )


if __name__ == "__main__":
    main()
