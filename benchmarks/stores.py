"""`python -m benchmarks.stores`: what SQLite, PostgreSQL and a tracking server cost, side by side.

Starts PostgreSQL and `mlflow server` on it with MLflow's defaults, fills an SQLite file and the database with the same
made-up runs, and measures in turns: `load_runs` and `load_curves` after opening the store, and the commands `compare`
and `sync`, each in a process of its own. The ratios are to the SQLite file of the same round. It needs PostgreSQL's
programs and `psycopg`.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import load_runs
from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import SHARED, Benchmark, Case, Figures
from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded, Event, SweepEnded, SweepStarted, TrialAsked, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Outcome, Status, Trial

_SIZES = {"training_images": 3600, "validation_images": 400, "test_images": 1000, "image": "28x28x1", "classes": 10}
_DATA = {"name": "mnist_5k", "digest": "0" * 32, "source": "made up", **_SIZES}
_SPACE = {"model.units": "choice(16, 64)", "model.dropout": "interval(0, 0.5)"}
_READY_WITHIN = 120
_Uris = dict[str, str]


def write_journal(folder: Path, sweep: str, trials: int, epochs: int) -> None:
    """Writes the journal of a made-up sweep.

    Args:
        folder: The working directory of the commands that use it.
        sweep: Its name, `name/time`.
        trials: The number of trials.
        epochs: The epochs of each, with six metrics.
    """
    draws, now = random.Random(0), 1_700_000_000.0
    config = compose.defaults(quote_sweeps([f"name={sweep.partition('/')[0]}", "model.units=choice(16,64)"]))
    where = folder / "experiments" / sweep
    where.mkdir(parents=True)
    with journal.Journal(where) as written:

        def tell(kind: type[Event], *fields: Any) -> None:
            nonlocal now
            now += 1
            written.handle(kind(now, *fields))

        tell(SweepStarted, sweep, config, _SPACE, _DATA, {f"package_{number}": "1.0" for number in range(6)})
        for number in range(trials):
            values = {"model.units": draws.choice((16, 64)), "model.dropout": draws.random() / 2}
            groups = {group: dict(config[group]) for group in ("model", "optimizer", "training")}
            groups["model"] |= {"units": values["model.units"], "dropout": values["model.dropout"]}
            tell(TrialAsked, number)
            tell(TrialStarted, Trial(number, values, groups, epochs), 1, "cpu0")
            for epoch in range(1, epochs + 1):
                metrics = {name: draws.random() for name in load_runs.CURVES}
                tell(EpochEnded, number, 1, epoch, metrics)
            score = draws.random()
            tell(TrialEnded, number, Outcome(Status.COMPLETED, "", score, epochs, {"val_accuracy": score}, 1000, 5.0))
        tell(SweepEnded, Status.STOPPED, "made up", None)


def _start(running: ExitStack, folder: Path) -> _Uris:
    """Starts PostgreSQL and a server on it; returns the URI of each kind of store."""
    sys.path.insert(0, str(sweeps.ROOT / "tests"))
    import stack

    from mnist_sweep.common import ports

    if (reason := stack.missing()) is not None:
        raise UserError(f"stores: {reason}")
    # Not in the results, which the user who runs PostgreSQL may not enter.
    home = running.enter_context(tempfile.TemporaryDirectory())
    database = stack.Postgres(Path(home), fsync=True)
    running.callback(database.stop)
    database.start()
    database.create("runs")
    with ports.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    uris = {
        "SQLite": f"sqlite:///{folder}/mlflow.db",
        "PostgreSQL": database.uri("runs"),
        "server": f"http://127.0.0.1:{port}",
    }
    env = sweeps.environment() | {
        "MLFLOW_BACKEND_STORE_URI": uris["PostgreSQL"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--artifacts-destination", str(folder)]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    running.callback(server.wait)
    running.callback(os.killpg, server.pid, signal.SIGKILL)
    until = time.monotonic() + _READY_WITHIN
    while True:
        try:
            urllib.request.urlopen(f"{uris['server']}/health", timeout=5).close()
        except OSError:
            if time.monotonic() > until:
                raise UserError(f"stores: mlflow server does not start; see {folder}/server.log") from None
            time.sleep(0.2)
        else:
            return uris


def _command(arguments: Sequence[str], folder: Path) -> Figures:
    start = time.perf_counter()
    command, env = [sys.executable, "-m", "mnist_sweep", *arguments], sweeps.environment()
    subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
    return {"s": time.perf_counter() - start}


def _compare(uri: str, folder: Path) -> Figures:
    folder.mkdir(parents=True, exist_ok=True)
    return _command(["compare", load_runs.SWEEP, f"--tracking-uri={uri}"], folder)


def _sync(options: Namespace, kind: str, uri: str, folder: Path) -> Figures:
    shutil.rmtree(folder, ignore_errors=True)
    # Each in an experiment of its own, as a server keeps files elsewhere than a database.
    sweep = f"{kind.lower()}/{time.time():.0f}"
    write_journal(folder, sweep, options.synced, options.epochs)
    return _command(["sync", sweep, f"--tracking-uri={uri}"], folder)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1000, help="trials to read")
    parser.add_argument("--synced", type=int, default=200, help="trials to sync; 0: none")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)


def _cases(running: ExitStack, options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    shared = folder / SHARED
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    uris = _start(running, shared)
    for kind in ("SQLite", "PostgreSQL"):
        load_runs.make(uris[kind], options.runs, options.epochs, 12)
    parts: dict[str, Callable[[str, str, Path], Figures]] = {
        "load_runs": lambda kind, uri, _: load_runs.measure("load_runs", uri),
        "load_curves": lambda kind, uri, _: load_runs.measure("load_curves", uri),
        "compare": lambda kind, uri, folder: _compare(uri, folder),
    }
    if options.synced:
        parts["sync"] = lambda kind, uri, folder: _sync(options, kind, uri, folder)
    bases: dict[str, float] = {}

    def measure(part: str, kind: str, folder: Path) -> Figures:
        figures = parts[part](kind, uris[kind], folder)
        if kind == "SQLite":
            bases[part] = figures["s"]
        return {**figures, "× SQLite": figures["s"] / bases[part]}

    work = {"runs": options.runs, "epochs": options.epochs}
    cases = {
        part: [
            Case(part, kind, {**work, **({"synced": options.synced} if part == "sync" else {})}, run)
            for kind in uris
            if (run := partial(measure, part, kind))
        ]
        for part in parts
    }
    return [([case for part in cases.values() for case in part], options.rounds)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and ends the servers."""
    with ExitStack() as running:
        Benchmark(
            "stores",
            __doc__ or "",
            _add_options,
            functools.partial(_cases, running),
            quick={"runs": 20, "synced": 5, "rounds": 1},
            # SQLite first, to which the others are compared.
            order=lambda cases, number: cases,
            told=("s", "× SQLite"),
            resumes=False,
        ).main(arguments)


if __name__ == "__main__":
    main()
