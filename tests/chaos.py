"""Disturbs sweeps by killing their processes and in other ways, and compares them with undisturbed ones.

`make chaos` runs it at full length, `tests/e2e/test_chaos.py` runs a short version. It compares the trials and their
values, all metrics of all epochs except their duration, the winner, and the runs and metrics in MLflow. No process and
no temporary file may stay behind.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from cluster import Cluster, Machine, Program, events, missing, until
from programs import with_store

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.space import identity
from mnist_sweep.driver.steering import Answer, Steering
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    SweepContinued,
    SweepEnded,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.files import FILE, SOCKET
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Status
from mnist_sweep.tracking import store as mlflow_store
from mnist_sweep.tracking.tags import TAG_EXECUTION, TAG_STEERED, TAG_TRIAL
from mnist_sweep.tracking.uri import sqlite_path

# If suggestions depend on the order in which trials end, a single slot keeps that order the same.
ALGORITHMS = {
    "random": ("search.max_trials=6", "workers.count=2"),
    "grid": (
        "model.units=choice(4,8,16)",
        "model.dropout=choice(0.0,0.2)",
        "optimizer.learning_rate=0.01",
        "workers.count=2",
    ),
    "bayesian": ("search.max_trials=6", "search.num_initial_points=3", "workers.count=1"),
    "hyperband": ("training.epochs=3", "workers.count=1"),
    # The shipped default: trials are cut, suggestions learn from them, and the best are retrained at the end.
    "asha": ("search.max_trials=8", "training.epochs=9", "confirm={top: 2, seeds: 2}", "workers.count=1"),
    "pbt": ("model.units=16", "search.population=4", "search.interval=1", "workers.count=1"),
    "executions": (
        "search=grid",
        "model.units=choice(8,32)",
        "model.dropout=0.1",
        "optimizer.learning_rate=0.01",
        "validation=kfold",
        "folds=3",
        "workers.count=2",
    ),
    # Whose trials have the same metrics whatever their number is.
    "steered": (
        "search=grid",
        "model.units=choice(4,8,16)",
        "model.dropout=choice(0.0,0.2)",
        "optimizer.learning_rate=0.01",
        "training.epochs=30",
        "workers.count=2",
    ),
    # On a cluster, long enough for a node to be lost and another one to join.
    "cluster": ("search=random", "search.max_trials=8", "training.epochs=300", "workers.count=2"),
    "short": ("search=random", "search.max_trials=4", "training.epochs=40", "workers.count=2"),
    # A user-defined model whose code harms its process, as in `_POISONS`.
    "custom": ("search=random", "search.max_trials=6", "workers.count=2", "model.builder=custom:build"),
}
SPACE = (
    "model.units=int(interval(4,64))",
    "model.dropout=interval(0,0.5)",
    "optimizer.learning_rate=tag(log,interval(1e-3,1e-1))",
    "training.epochs=4",
    "training.batch_size=16",
    # Made from MLflow after the last event, so a kill cannot lose it.
    "tracking.report=false",
    "tracking.register=false",
)


# Harm that user code can do to its process. It ends in ways that may pass, so that the trial is retried. Other trials
# must not be affected.
_POISONS = {
    "break numpy": "import numpy; numpy.asarray = None; raise MemoryError",
    "break random": "import random; random.seed = lambda *_: None",
    "leave a child": "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)",
    "write into every socket": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, bytes(range(256)) * 9)\n    except OSError: pass"
    ),
    "raise five megabytes": "raise ConnectionError('\\udce9\\x1b[2J' * 1_000_000)",
    "exit": "import os; os._exit(3)",
    "close its output": "import os; os.close(1); os.close(2); raise MemoryError",
}
_BUILDER = """
import os
from pathlib import Path

import keras


def build(config, shape, classes):
    poison = Path("poison.py")
    try:
        poison.rename(taken := Path(f"poisoned-{os.getpid()}.py"))
    except OSError:
        taken = None
    if taken is not None:
        exec(taken.read_text())
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(config["units"], activation="relu"),
            layers.Dropout(config["dropout"]),
            layers.Dense(classes, activation="softmax"),
        ]
    )
"""
# A `sitecustomize`, which Python runs first: changes the clock of the driver and its workers.
_CLOCK = """
import time

_true = time.time


def _changed():
    try:
        with open("clock.txt") as file:
            return _true() + float(file.read() or 0)
    except (OSError, ValueError):
        return _true()


time.time = _changed
"""
# The size of a disk that is filled: enough for a sweep's models and its MLflow store.
_DISK = "48m"


@dataclass
class Tally:
    """The faults that were injected, and what was wrong afterwards."""

    faults: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        checks = (
            *("trials lost", "trials repeated", "metrics that differ", "other winners"),
            *("MLflow runs missing", "MLflow runs doubled", "processes left", "files left", "trials blamed"),
            *("changes lost", "changes repeated"),
        )
        lines = [f"{count:6}  {name}" for name, count in self.faults.items()]
        return "\n".join(["faults injected", *lines, "found", *(f"{self.wrong[name]:6}  {name}" for name in checks)])


class Chaos:
    """Runs sweeps in a folder and disturbs them.

    Args:
        folder: The folder to work in.
        seed: The seed for the times of the faults and for their victims.
    """

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.folder, self.rng, self.tally = folder, random.Random(seed), Tally()
        self.data = folder / "digits.npz"
        _save_digits(self.data)
        # An empty store takes seconds to create, so each sweep starts with a copy.
        self._store = folder / "mlflow.db"
        mlflow_store.connect(f"sqlite:///{self._store}", create=True)
        self._expected: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)

    def kill_drivers(self, algorithm: str, kills: int) -> None:
        """Kills drivers at random times, and resumes their sweeps."""
        done = 0
        while done < kills:
            folder = self.fresh(algorithm)
            driver = self._start(folder, algorithm)
            while done < kills:
                try:
                    driver.wait(timeout=self.rng.uniform(0.3, 9))
                    break
                except subprocess.TimeoutExpired:
                    driver.kill()
                    driver.wait()
                    done += 1
                    self.tally.faults[f"drivers killed ({algorithm})"] += 1
                driver = self._popen(folder, "sync") if self._ended(folder) else self._start(folder, algorithm)
            self._finish(folder, driver, algorithm)

    def kill_workers(self, algorithm: str, kills: int) -> None:
        """Kills workers that are training."""
        done = 0
        while done < kills:
            folder = self.fresh(algorithm)
            driver = self._start(folder, algorithm)
            while driver.poll() is None and done < kills:
                time.sleep(self.rng.uniform(0.2, 2.5))
                # Only those that train: if each were killed while it starts, none would ever train.
                starts = self._last_starts(folder)
                workers = [worker for worker in _workers(driver) if _started(worker) < starts.get(_slot(worker), 0.0)]
                if workers:
                    self.rng.choice(workers).kill()
                    done += 1
                    self.tally.faults[f"workers killed ({algorithm})"] += 1
            self._finish(folder, driver, algorithm)

    def disturb(self, algorithm: str, times: int) -> None:
        """Disturbs running sweeps with each kind of fault in turn: signals, kills of several processes, pauses."""
        kinds, done = itertools.cycle(_FAULTS.items()), 0
        while done < times:
            folder = self.fresh(algorithm)
            driver = self._start(folder, algorithm)
            while done < times:
                try:
                    driver.wait(timeout=self.rng.uniform(1.5, 9))
                    break
                except subprocess.TimeoutExpired:
                    name, fault = next(kinds)
                    fault(self.rng, psutil.Process(driver.pid))
                    done += 1
                    self.tally.faults[f"{name} ({algorithm})"] += 1
                try:
                    # A driver that is told to stop ends after a while, a killed one at once; otherwise it continues.
                    driver.wait(timeout=60 if name.startswith("drivers told") else 0.5)
                except subprocess.TimeoutExpired:
                    continue
                # Before a driver has read its config, a signal kills it like any process.
                if driver.returncode not in (0, 3, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP):
                    raise RuntimeError(f"{folder}: {driver.returncode} after {name}")
                if not self._ended(folder):
                    driver = self._start(folder, algorithm)
            if self._ended(folder):
                driver.wait(timeout=100)
                driver = self._popen(folder, "sync")
            self._finish(folder, driver, algorithm)

    def stop_server(self, algorithm: str, times: int) -> None:
        """Stops and restarts the tracking server while sweeps run."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for _ in range(times):
            folder = self.fresh(f"{algorithm}-http")
            server = self._serve(folder, port)
            driver = self._start(folder, algorithm, f"tracking.uri=http://127.0.0.1:{port}")
            time.sleep(self.rng.uniform(2, 9))
            _end_group(server)
            self.tally.faults["tracking servers stopped"] += 1
            time.sleep(self.rng.uniform(1, 6))
            server = self._serve(folder, port)
            driver.wait(timeout=200)
            subprocess.run(self._command("sync"), cwd=folder, capture_output=True, timeout=100, check=False)
            self.compare(folder, algorithm, f"http://127.0.0.1:{port}")
            _end_group(server)

    def fill_disks(self, algorithm: str, times: int) -> None:
        """Fills the disk of a sweep and its MLflow store for some seconds."""
        done = 0
        while done < times:
            folder = self.fresh(f"{algorithm}-disk")
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder], check=False)
            if mounted.returncode != 0:
                print("no disk was filled: this needs the permission to mount one", flush=True)
                return
            driver = self._start(folder, algorithm)
            while done < times:
                try:
                    driver.wait(timeout=self.rng.uniform(2, 9))
                    break
                except subprocess.TimeoutExpired:
                    _fill(folder / "filler")
                    done += 1
                    self.tally.faults[f"disks filled ({algorithm})"] += 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(timeout=self.rng.uniform(1, 20))
                (folder / "filler").unlink()
                if driver.poll() not in (None, 0, 2, 3):
                    raise RuntimeError(f"{folder}: {driver.returncode} after its disk was filled")
                if driver.poll() is not None and not self._ended(folder):
                    driver = self._start(folder, algorithm)
            driver.wait(timeout=300)
            driver = self._popen(folder, "sync")
            self._finish(folder, driver, algorithm)
            self.tally.wrong["trials blamed"] += self._results(folder)["attempts"]
            # Lazily, as MLflow keeps a connection to the store.
            subprocess.run(["umount", "-l", folder], check=True)

    def change_clocks(self, algorithm: str, times: int) -> None:
        """Sets the clock of sweeps with a time budget and a timeout back and forward."""
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_CLOCK)
        done = 0
        while done < times:
            folder = self.fresh(f"{algorithm}-clock")
            limits = ("search.time_budget=10m", "workers.timeout=5m")
            driver = self._start(folder, algorithm, *limits, PYTHONPATH=str(site))
            while driver.poll() is None and done < times:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(timeout=self.rng.uniform(0.5, 4))
                    break
                (folder / "clock.txt").write_text(str(self.rng.choice((-86400, -1000, 1000, 86400))))
                done += 1
                self.tally.faults[f"clocks changed ({algorithm})"] += 1
            self._finish(folder, driver, algorithm)
            self.tally.wrong["trials blamed"] += self._results(folder)["attempts"]

    def poison(self, times: int) -> None:
        """Lets user code harm its process, in each way in turn."""
        kinds, done, name = itertools.cycle(_POISONS.items()), 0, ""
        while done < times:
            folder = self.fresh("custom")
            poison = folder / "poison.py"
            driver = self._start(folder, "custom")
            while driver.poll() is None and done < times:
                if name and not poison.exists():
                    # A trial has run it.
                    self.tally.faults[f"workers poisoned to {name}"] += 1
                    done, name = done + 1, ""
                if not name:
                    name, code = next(kinds)
                    (folder / "partial.py").write_text(code)
                    (folder / "partial.py").rename(poison)
                time.sleep(self.rng.uniform(0.1, 1))
            name = ""
            self._finish(folder, driver, "custom")

    def steer(self, times: int) -> None:
        """Steers sweeps in each way in turn, and kills their drivers meanwhile: before or after the event."""
        kinds = itertools.cycle(_WISHES.items())
        for name, wish in itertools.islice(kinds, times):
            folder = self.fresh("steered")
            driver = self._start(folder, "steered")
            until(partial(_trained, folder), 300)
            (sweep,) = folders.sweeps(folder / folders.SWEEPS)
            answered: list[str] = []

            def ask(at: Path = sweep, do: _Wish = wish, said: list[str] = answered) -> None:
                with contextlib.suppress(UserError):
                    said.append(do(Steering(at)).text)

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(self.rng.choice((0.0, 0.1, 0.3, 1.0)) * self.rng.random())
            driver.kill()
            driver.wait()
            asking.join()
            self.tally.faults[f"drivers killed at: {name}"] += 1
            driver = self._start(folder, "steered")
            if SweepState.after(journal.read(sweep)).paused:
                until(partial(folders.is_running, sweep), 300)
                Steering(sweep).unpause()
            if (code := driver.wait(timeout=300)) != 0:
                raise RuntimeError(f"{folder}: ended with {code}\n{self._output(folder).read_text()[-3000:]}")
            self._compare_steered(folder, sweep, name, answered=bool(answered))

    def _compare_steered(self, folder: Path, sweep: Path, name: str, *, answered: bool) -> None:
        """Counts what is wrong in a sweep that was steered once: its trials, their metrics, and the change itself."""
        expected, found, wrong = self.expected("steered"), self._results(folder), self.tally.wrong
        state = SweepState.after(journal.read(sweep))
        changes = [event for event in state.steered if not isinstance(event, SweepContinued)]
        wrong["changes lost"] += answered and not changes
        wrong["changes repeated"] += max(0, len(changes) - 1)
        tried = Counter(identity(values) for values in found["values"].values())
        known = {identity(values): number for number, values in expected["values"].items()}
        most = state.config["search"]["max_trials"]
        narrow = ("model.units" in state.narrowed, '"model.units": 16')
        needed = {text for text in known if not (narrow[0] and narrow[1] in text)}
        wrong["trials lost"] += len(found["values"].keys() - found["scores"].keys())
        wrong["trials lost"] += len(needed - tried.keys()) if most is None else len(tried) != most
        wrong["trials repeated"] += found["repeated"] + sum(count - 1 for count in tried.values())
        same = {number: known[identity(values)] for number, values in found["values"].items()}
        for (number, execution, epoch), metrics in found["metrics"].items():
            wrong["metrics that differ"] += expected["metrics"].get((same[number], execution, epoch)) != metrics
        epochs = Counter(number for number, _, _ in found["metrics"])
        complete = (epochs[n] == 30 for n in found["values"] if n not in state.stopped_by)
        wrong["metrics that differ"] += sum(not whole for whole in complete)
        client = mlflow_store.connect(f"sqlite:///{folder}/mlruns/mlflow.db")
        (experiment,) = [e for e in client.search_experiments() if e.name == "chaos"]
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        logged = Counter(run.data.tags.get(TAG_TRIAL) for run in runs)
        wrong["MLflow runs missing"] += len({None, *map(str, found["values"])} - logged.keys())
        wrong["MLflow runs missing"] += sum(run.info.status != "FINISHED" for run in runs)
        wrong["MLflow runs doubled"] += sum(count - 1 for count in logged.values())
        told = [run for run in runs if TAG_STEERED in run.data.tags]
        wrong["changes lost"] += bool(changes) and len(told) != 1
        self._look_for_leftovers(folder)

    def disturb_cluster(self, times: int, kinds: Iterable[str] = ()) -> None:
        """Disturbs sweeps on a Ray cluster of separate machines with each kind of fault in turn."""
        if reason := missing():
            print(f"no cluster was disturbed: {reason}", flush=True)
            return
        names, done = itertools.cycle(kinds or CLUSTER_FAULTS), 0
        cluster = Cluster(self.folder / f"cluster-{next(self._numbers)}")
        try:
            while done < times:
                folder = self.fresh("sweep", cluster.driver_folder)
                driver = self.start_on(cluster, folder)
                while done < times and (slot := self.trains(folder, driver)):
                    name = next(names)
                    cluster = CLUSTER_FAULTS[name](cluster, cluster.machine_of(slot), driver) or cluster
                    done += 1
                    self.tally.faults[f"{name} (cluster)"] += 1
                    if driver.poll() not in (None, 0):
                        driver = self.start_on(cluster, folder)
                if (code := driver.wait(300)) != 0:
                    raise RuntimeError(f"{folder}: ended with {code}\n{cluster.output[-3000:]}")
                self.compare(folder, "cluster")
                for machine in cluster.nodes:
                    self.tally.wrong["processes left"] += len(machine.processes("mnist_sweep"))
                    self.tally.wrong["files left"] += len(machine.temporary())
        finally:
            cluster.close()

    # ---- running ------------------------------------------------------------------------------------------------

    def fresh(self, name: str, inside: Path | None = None) -> Path:
        """Returns a folder for a sweep, with an empty store."""
        # A new folder each time: MLflow keeps connections to a deleted store with the same name.
        folder = (inside or self.folder) / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        with_store(folder, self._store)
        if name.startswith("custom"):
            (folder / "custom.py").write_text(_BUILDER)
        return folder

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mnist_sweep", *arguments]

    def _start(self, folder: Path, algorithm: str, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a sweep, or resumes the one in the folder."""
        data = ("data=npz", f"data.path={self.data}")
        return self._popen(folder, *self._arguments(algorithm), *data, *more, **environment)

    def start_on(self, cluster: Cluster, folder: Path, algorithm: str = "cluster") -> Program:
        """Starts a sweep on a cluster, or resumes the one in the folder. Only the head sees its data."""
        shutil.copy(self.data, folder)
        joins = ("workers=ray", f"workers.address={cluster.address}", "workers.wait=2m")
        shared = [argument for argument in self._arguments(algorithm) if not argument.startswith("workers.count=")]
        return cluster.sweep(*shared, "data=npz", f"data.path={self.data.name}", *joins, cwd=folder)

    def _arguments(self, algorithm: str) -> list[str]:
        chosen = [] if any(each.startswith("search=") for each in ALGORITHMS[algorithm]) else [f"search={algorithm}"]
        return [*SPACE, *chosen, *ALGORITHMS[algorithm], "name=chaos", "workers.retries=1000", "resume=auto"]

    def trains(self, folder: Path, driver: Program) -> str:
        """Waits for the next report of an epoch that is not its trial's first.

        Args:
            folder: The driver's folder.
            driver: The driver.

        Returns:
            The slot of the trial; "" if the driver has ended.
        """
        known, slots = len(events(folder)), list[str]()

        def found() -> bool:
            started = {e.trial.number: e.slot for e in events(folder) if isinstance(e, TrialStarted)}
            reported = [e for e in events(folder)[known:] if isinstance(e, EpochEnded) and e.epoch >= 2]
            slots.extend(started[e.trial] for e in reported)
            return bool(slots) or driver.poll() is not None

        until(found, 300)
        return "" if driver.poll() is not None else self.rng.choice(slots)

    def _popen(self, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        # Next to the folder, which may be a full disk.
        with open(self._output(folder), "ab") as output:
            return subprocess.Popen(
                self._command(*arguments),
                cwd=folder,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _output(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.txt")

    def _finish(self, folder: Path, driver: subprocess.Popen[bytes], algorithm: str) -> None:
        code = driver.wait(timeout=300)
        if code != 0:
            raise RuntimeError(f"{folder}: ended with {code}\n{self._output(folder).read_text()[-3000:]}")
        self.compare(folder, algorithm)

    def _ended(self, folder: Path) -> bool:
        """Returns whether a sweep is finished; if killed after its last event, only MLflow can lack something."""
        events = [e for path in folder.glob(f"experiments/*/*/{FILE}") for e in journal.read(path.parent)]
        return bool(events) and isinstance(events[-1], SweepEnded) and events[-1].status is Status.COMPLETED

    def _last_starts(self, folder: Path) -> dict[str, float]:
        """Returns when each slot was last given a trial."""
        sweeps = [path.parent for path in folder.glob(f"experiments/*/*/{FILE}")]
        return {e.slot: e.time for sweep in sweeps for e in journal.read(sweep) if isinstance(e, TrialStarted)}

    def _serve(self, folder: Path, port: int) -> subprocess.Popen[bytes]:
        store = sqlite_path(f"sqlite:///{folder}/server.db")
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}", "--workers", "1",
             "--artifacts-destination", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + 240
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return server
            time.sleep(0.1)
        raise RuntimeError("the tracking server did not start")

    # ---- comparing ----------------------------------------------------------------------------------------------

    def expected(self, algorithm: str) -> dict[str, Any]:
        """Returns the results of an undisturbed sweep."""
        if algorithm not in self._expected:
            folder = self.fresh(f"{algorithm}-undisturbed")
            driver = self._start(folder, algorithm)
            if driver.wait(timeout=300) != 0:
                raise RuntimeError(self._output(folder).read_text()[-3000:])
            self._expected[algorithm] = self._results(folder)
        return self._expected[algorithm]

    def _results(self, folder: Path) -> dict[str, Any]:
        (sweep,) = folders.sweeps(folder / folders.SWEEPS)
        events = list(journal.read(sweep))
        ends = Counter(event.trial for event in events if isinstance(event, TrialEnded))
        epochs = Counter((e.trial, e.execution, e.epoch) for e in events if isinstance(e, EpochEnded))
        return {
            "values": {e.trial.number: e.trial.values for e in events if isinstance(e, TrialStarted)},
            "scores": {e.trial: e.outcome.score for e in events if isinstance(e, TrialEnded)},
            "metrics": {
                (e.trial, e.execution, e.epoch): _without_duration(e.metrics)
                for e in events
                if isinstance(e, EpochEnded)
            },
            "winner": [e.winner for e in events if isinstance(e, SweepEnded)][-1:],
            "several": {e.trial.number for e in events if isinstance(e, TrialStarted) and e.trial.executions},
            "repeated": sum(n - 1 for n in (ends + epochs).values()),
            "attempts": sum(isinstance(e, AttemptFailed) for e in events),
        }

    def compare(self, folder: Path, algorithm: str, uri: str = "") -> None:
        """Counts what a sweep, and MLflow, has otherwise than an undisturbed one."""
        expected, found, wrong = self.expected(algorithm), self._results(folder), self.tally.wrong
        wrong["trials lost"] += sum(found["values"].get(n) != values for n, values in expected["values"].items())
        wrong["trials repeated"] += found["repeated"] + len(found["values"].keys() - expected["values"].keys())
        keys = expected["metrics"].keys() | found["metrics"].keys()
        wrong["metrics that differ"] += sum(expected["metrics"].get(k) != found["metrics"].get(k) for k in keys)
        wrong["metrics that differ"] += sum(
            found["scores"].get(number) != score for number, score in expected["scores"].items()
        )
        wrong["other winners"] += found["winner"] != expected["winner"]
        self._compare_mlflow(expected, uri or f"sqlite:///{folder}/mlruns/mlflow.db")
        self._look_for_leftovers(folder)

    def _look_for_leftovers(self, folder: Path) -> None:
        until = time.monotonic() + 10
        while (processes := _working_in(folder)) and time.monotonic() < until:
            time.sleep(0.1)
        names = ("arrays", "package", "partial-*", SOCKET)
        files = [path for name in names for path in folder.glob(f"experiments/*/*/**/{name}")]
        for what, left in (("processes left", processes), ("files left", files)):
            self.tally.wrong[what] += len(left)
            if left:
                print(f"{what}: {', '.join(map(str, left))}", flush=True)

    def _compare_mlflow(self, expected: dict[str, Any], uri: str) -> None:
        client, wrong = mlflow_store.connect(uri), self.tally.wrong
        (experiment,) = [e for e in client.search_experiments() if e.name == "chaos"]
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        trials = Counter(map(_trial_and_execution, runs))
        executions = {(str(t), str(e)) for t, e, _ in expected["metrics"] if t in expected["several"]}
        # The parent run has no trial number, and a trial's run has no execution number.
        expected_runs = {(None, None), *executions, *((str(number), None) for number in expected["values"])}
        wrong["MLflow runs missing"] += len(expected_runs - trials.keys())
        wrong["MLflow runs doubled"] += sum(n - 1 for n in trials.values()) + len(trials.keys() - expected_runs)
        for run in runs:
            number, execution = _trial_and_execution(run)
            if number is None:
                continue
            several = int(number) in expected["several"]
            logged = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "val_accuracy")]
            metrics = sorted(expected["metrics"].items())
            curve = [
                (e, m["val_accuracy"]) for (t, x, e), m in metrics if (str(t), str(x)) == (number, execution or "1")
            ]
            if not several or execution is not None:
                wrong["metrics that differ"] += sorted(logged) != curve
            if execution is not None:
                continue
            wrong["MLflow runs missing"] += run.info.status != "FINISHED"
            artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
            if "model.h5" not in artifacts:
                wrong["MLflow runs missing"] += 1
                print(f"{uri}: trial {number} has no model.h5, only {sorted(artifacts)}", flush=True)


def _trial_and_execution(run: Any) -> tuple[str | None, str | None]:
    tags = run.data.tags
    return tags.get(TAG_TRIAL), tags.get(TAG_EXECUTION)


def _working_in(folder: Path) -> list[psutil.Process]:
    """Returns the processes with a folder as their working directory, without zombies."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _without_duration(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "epoch_seconds"}


def _workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return [child for child in psutil.Process(driver.pid).children() if _slot(child)]
    except psutil.Error:
        return []


def _started(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return float("inf")


def _slot(process: psutil.Process) -> str:
    """Returns a worker's slot, from the name of its log file; "" for another process."""
    try:
        output = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
    except OSError:
        return ""
    return output.stem if output.suffix == ".log" and output.stem != "server" else ""


def _children(driver: psutil.Process) -> list[psutil.Process]:
    try:
        return driver.children()
    except psutil.Error:
        return []


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _kill_fork_server(_: random.Random, driver: psutil.Process) -> None:
    _signal([child for child in _children(driver) if not _slot(child)], signal.SIGKILL)


def _kill_all_children(_: random.Random, driver: psutil.Process) -> None:
    _signal(_children(driver), signal.SIGKILL)


def _kill_everything(_: random.Random, driver: psutil.Process) -> None:
    _signal([*_children(driver), driver], signal.SIGKILL)


def _pause_some(rng: random.Random, driver: psutil.Process) -> None:
    children = _children(driver)
    some = rng.sample(children, rng.randint(0, len(children)))
    _signal(some, signal.SIGSTOP)
    time.sleep(rng.uniform(0.2, 2))
    _signal(some, signal.SIGCONT)


def _send_signals(*numbers: int) -> Callable[[random.Random, psutil.Process], None]:
    def fault(rng: random.Random, driver: psutil.Process) -> None:
        for number in numbers:
            _signal([driver], number)
            time.sleep(rng.uniform(0, 0.5))

    return fault


_FAULTS: dict[str, Callable[[random.Random, psutil.Process], None]] = {
    "fork servers killed": _kill_fork_server,
    "drivers told to stop by SIGTERM": _send_signals(signal.SIGTERM),
    "servers killed with all workers": _kill_all_children,
    "drivers killed with all of theirs": _kill_everything,
    "processes paused": _pause_some,
    "drivers told to stop by SIGHUP": _send_signals(signal.SIGHUP),
    "drivers told to stop at once by Ctrl-C": _send_signals(signal.SIGINT, signal.SIGINT),
}


def _kill_worker_of(cluster: Cluster, machine: Machine, _: Program) -> None:
    _signal([process for process in machine.processes() if _slot(process)][:1], signal.SIGKILL)


def _kill_node(cluster: Cluster, machine: Machine, _: Program) -> None:
    machine.kill()
    cluster.nodes.remove(machine)
    cluster.nodes.append(cluster.add())


def _freeze_node(cluster: Cluster, machine: Machine, _: Program) -> None:
    machine.freeze()
    # Until it is given up.
    time.sleep(15)
    machine.thaw()
    _rejoin(machine)


def _cut_off_for_a_moment(cluster: Cluster, machine: Machine, _: Program) -> None:
    with machine.cut():
        time.sleep(4)


def _cut_off(cluster: Cluster, machine: Machine, _: Program) -> None:
    with machine.cut():
        time.sleep(20)
    _rejoin(machine)


def _replace_node(cluster: Cluster, machine: Machine, _: Program) -> None:
    cluster.nodes.append(cluster.add())
    machine.stop_ray()
    machine.kill()
    cluster.nodes.remove(machine)


def _kill_driver(_: Cluster, __: Machine, driver: Program) -> None:
    driver.send(signal.SIGKILL)
    driver.wait(20)


def _kill_all(cluster: Cluster, _: Machine, driver: Program) -> Cluster:
    cluster.close()
    driver.wait(20)
    return Cluster(cluster.folder)


def _rejoin(machine: Machine) -> None:
    """Starts Ray on a machine again that was given up: its Ray ends itself when it hears of that."""
    until(lambda: not machine.processes("raylet/raylet"))
    machine.start_ray()


_Wish = Callable[[Steering], Answer]
_WISHES: dict[str, _Wish] = {
    "stop": lambda steering: steering.stop(1),
    # The last combination of the grid.
    "add": lambda steering: steering.add("model.units=16", "model.dropout=0.2"),
    "pause": lambda steering: steering.pause(),
    "set (budget)": lambda steering: steering.set("search.max_trials=4"),
    "set (narrower)": lambda steering: steering.set("model.units=4,8"),
    "slots": lambda steering: steering.slots(1),
}


def _trained(folder: Path) -> bool:
    """Whether the second trial of a sweep has ended an epoch."""
    return any(isinstance(event, EpochEnded) and event.trial == 1 for event in events(folder))


_ClusterFault = Callable[[Cluster, Machine, Program], Cluster | None]
CLUSTER_FAULTS: dict[str, _ClusterFault] = {
    "workers killed": _kill_worker_of,
    "nodes killed": _kill_node,
    "nodes frozen for 15 s": _freeze_node,
    "nodes cut off for 4 s": _cut_off_for_a_moment,
    "nodes cut off for 20 s": _cut_off,
    "nodes added, and others removed": _replace_node,
    "drivers killed": _kill_driver,
    "clusters killed with the driver": _kill_all,
}


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def _end_group(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _save_digits(path: Path) -> None:
    from mnist_sweep.data import images as data

    images = data.load("mnist_5k")
    train = np.concatenate([np.flatnonzero(images.y_train == c)[:60] for c in range(10)])
    test = np.concatenate([np.flatnonzero(images.y_test == c)[:10] for c in range(10)])
    arrays = {"x_train": images.x_train[train], "y_train": images.y_train[train]}
    np.savez(path, **arrays, x_test=images.x_test[test], y_test=images.y_test[test])


def main() -> None:
    """Runs everything and prints the tally; the exit code is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drivers", type=int, default=50, help="drivers to kill for each algorithm (default: 50)")
    parser.add_argument(
        "--workers", type=int, default=50, help="workers to kill, and faults of other kinds (default: 50)"
    )
    parser.add_argument("--servers", type=int, default=5, help="times to take a tracking server down (default: 5)")
    parser.add_argument("--nodes", type=int, default=16, help="faults on a Ray cluster of two nodes (default: 16)")
    parser.add_argument("--seed", type=int, default=1)
    others = ("cluster", "short", "custom", "steered")
    parser.add_argument(
        "--algorithms", nargs="*", default=[a for a in ALGORITHMS if a not in others], choices=list(ALGORITHMS)
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mnist_sweep-chaos-"))
    chaos = Chaos(folder, options.seed)
    started = time.monotonic()
    for algorithm in options.algorithms:
        chaos.kill_drivers(algorithm, options.drivers)
        print(f"{time.monotonic() - started:6.0f} s  {algorithm}: {dict(chaos.tally.wrong)}", flush=True)
    chaos.kill_workers("random", options.workers)
    print(f"{time.monotonic() - started:6.0f} s  workers: {dict(chaos.tally.wrong)}", flush=True)
    chaos.disturb("random", options.workers)
    print(f"{time.monotonic() - started:6.0f} s  disturbed: {dict(chaos.tally.wrong)}", flush=True)
    chaos.fill_disks("random", options.workers)
    chaos.change_clocks("random", options.workers)
    print(f"{time.monotonic() - started:6.0f} s  disks and clocks: {dict(chaos.tally.wrong)}", flush=True)
    chaos.poison(options.workers)
    print(f"{time.monotonic() - started:6.0f} s  poisoned: {dict(chaos.tally.wrong)}", flush=True)
    chaos.steer(options.workers)
    print(f"{time.monotonic() - started:6.0f} s  steered: {dict(chaos.tally.wrong)}", flush=True)
    chaos.disturb_cluster(options.nodes)
    print(f"{time.monotonic() - started:6.0f} s  cluster: {dict(chaos.tally.wrong)}", flush=True)
    chaos.stop_server("random", options.servers)
    print(chaos.tally)
    print(f"in {time.monotonic() - started:.0f} s, seed {options.seed}")
    if any(chaos.tally.wrong.values()):
        print(f"the sweeps are in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
