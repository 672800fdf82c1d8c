"""Made-up sweeps, as MLflow would return them, without a store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import FileInfo, Param, Run, RunData, RunInfo, RunTag

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.runs.find import Store, SweepRuns
from mnist_sweep.results.runs.source import Parent, space_of

START = 1_700_000_000_000
DOMAINS = {
    "model.layers": "choice(1, 2, 3)",
    "model.units": "choice(16, 64, 256)",
    "model.activation": "choice(gelu, relu, tanh)",
    "model.batch_normalization": "choice(false, true)",
    "model.dropout": "interval(0, 0.5)",
    "optimizer.name": "choice(adam, sgd)",
    "optimizer.learning_rate": "tag(log, interval(0.0001, 0.1))",
    "optimizer.momentum": "interval(0, 0.9) if optimizer.name in [sgd]",
    "training.batch_size": "int(interval(16, 512))",
    "training.l2": "tag(log, interval(1e-06, 0.01))",
}
TAGS = {
    "mnist_sweep.status": "completed",
    "mnist_sweep.reason": "",
    "data.name": "mnist_5k",
    "data.digest": "578ee6082e683c4e",
    "data.training_images": "3600",
    "data.validation_images": "400",
    "data.test_images": "1000",
    "data.image": "28x28x1",
    "data.classes": "10",
    "version.python": "3.11.7",
    "mlflow.source.git.commit": "c0ffee",
}
PARAMS = {"search.algorithm": "asha", "search.sampler": "tpe", "search.max_trials": "60", "search.time_budget": "12m"}


class Files:
    """A stand-in for MLflow's client: returns one run, and files from one folder per run."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run

    def get_run(self, run_id: str) -> Run:
        assert run_id == self.run.info.run_id
        return self.run

    def list_artifacts(self, run_id: str) -> list[FileInfo]:
        return [FileInfo(path.name, False, 0) for path in (self.folder / run_id).glob("*")]

    def download_artifacts(self, run_id: str, path: str, target: str) -> str:
        return shutil.copy(self.folder / run_id / path, target)


@dataclass(frozen=True)
class MadeUp(SweepRuns):
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    lines: pd.DataFrame = field(default_factory=pd.DataFrame)
    best: int | None = None
    best_confirms: int | None = None

    def frame(self) -> pd.DataFrame:
        return self.table

    def curves(self) -> pd.DataFrame:
        return self.lines

    def winner(self, frame: pd.DataFrame | None = None) -> Run:
        if self.best is None:
            raise UserError("no trial has a score yet")
        tags = {"mnist_sweep.trial": str(self.best), "mnist_sweep.sweep": self.sweep}
        if self.best_confirms is not None:
            tags["mnist_sweep.confirms"] = str(self.best_confirms)
        return run(f"run{self.best}", tags)


def with_winner(made: MadeUp, trial: int, confirms: int) -> MadeUp:
    """Returns the sweep with the model of a trial that retrained another one's configuration."""
    return replace(made, best=trial, best_confirms=confirms)


def run(run_id: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None) -> Run:
    running = tags.get("mnist_sweep.status") == "running"
    about = RunInfo(
        run_id, "1", "me", "RUNNING" if running else "FINISHED", START, None if running else START + 60_000, "active"
    )
    given = [Param(key, value) for key, value in (params or {}).items()]
    return Run(about, RunData([], given, [RunTag(key, value) for key, value in tags.items()]))


def sweep(
    folder: Path,
    trials: int,
    *,
    epochs: int = 3,
    objectives: str = "val_accuracy max",
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    files: Mapping[str, Any] | None = None,
    **columns: Any,
) -> MadeUp:
    """Makes up a sweep.

    Args:
        folder: The folder for the files of its runs.
        trials: The number of trials.
        epochs: The number of epochs of each trial.
        objectives: Its objectives.
        tags: Tags of its parent run, in addition to `TAGS`.
        params: Parameters of its parent run, in addition to `PARAMS`.
        files: Files of the winner's run by name: JSON, bytes or arrays.
        columns: Columns of the frame to set, with `__` for dots.
    """
    table = frame(trials, [text.split()[0] for text in objectives.split(",")])
    for name, values in columns.items():
        table[name.replace("__", ".")] = values
    first = Objective.parse(objectives.split(",")[0])
    scores = table[f"metrics.best_{first.name}"]
    best = None
    if scores.notna().any():
        place = scores.argmax() if first.direction == "max" else scores.argmin()
        best = int(table["trial"].iloc[int(place)])
    for name, content in (files or {}).items():
        target = folder / f"run{best}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            target.write_text(json.dumps(content))
        elif isinstance(content, bytes):
            target.write_bytes(content)
        else:
            np.savez(target, **content)
    space = {f"space.{name}": domain for name, domain in DOMAINS.items() if f"params.{name}" in table}
    parent = run("parent", {**TAGS, **(tags or {})}, {**PARAMS, **space, **(params or {})})
    wanted = tuple(map(Objective.parse, objectives.split(",")))
    store = Store("sqlite:///nowhere.db")
    # As if it had been opened before.
    vars(store)["client"] = Files(folder, parent)
    found = Parent(
        parent.info.run_id, parent.info.experiment_id, parent.data.tags, space_of(parent.data.params, parent.data.tags)
    )
    return MadeUp("made/2026-01-02_03-04-05", store, found, wanted, table, curves(table, first, epochs), best)


def frame(trials: int, objectives: list[str]) -> pd.DataFrame:
    """Returns trials like `load_runs`. More units and a learning rate near 0.003 are better."""
    random = np.random.default_rng(0)
    number = np.arange(trials)
    rate = 10 ** random.uniform(-4, -1, trials)
    units = random.choice([16, 64, 256], trials)
    sgd = random.random(trials) < 0.4
    accuracy = 0.97 - 0.08 * np.abs(np.log10(rate / 0.003)) - 0.04 * (units == 16) - random.exponential(0.01, trials)
    accuracy = np.where(random.random(trials) < 0.03, 0.11, accuracy)
    scores = {
        "val_accuracy": accuracy,
        "val_loss": 3.5 * (1 - accuracy),
        "parameters": 800.0 * units + 10,
        "latency": units / 1e5 + 1e-4,
    }
    start = pd.to_datetime(START + 2000 * number, unit="ms", utc=True)
    seconds = random.uniform(1, 9, trials)
    table = {
        "sweep": "made/2026-01-02_03-04-05",
        "trial": pd.array(number, dtype="Int64"),
        "confirms": pd.array([pd.NA] * trials, dtype="Int64"),
        "status": np.where(random.random(trials) < 0.5, "stopped", "completed"),
        "reason": "",
        "slot": np.where(number % 2, "cpu1", "cpu0"),
        "start": start,
        "end": start + pd.to_timedelta(seconds, unit="s"),
        "seconds": seconds,
        "run_id": [f"run{n}" for n in number],
        "data.digest": "578ee6082e683c4e",
        "params.model.layers": pd.array(random.integers(1, 4, trials), dtype="Int64"),
        "params.model.units": pd.array(units, dtype="Int64"),
        "params.model.activation": random.choice(["gelu", "relu", "tanh"], trials),
        "params.model.batch_normalization": pd.array(random.random(trials) < 0.5, dtype="boolean"),
        "params.model.dropout": random.uniform(0, 0.5, trials),
        "params.optimizer.name": np.where(sgd, "sgd", "adam"),
        "params.optimizer.learning_rate": rate,
        "params.optimizer.momentum": np.where(sgd, random.uniform(0, 0.9, trials), np.nan),
        "params.training.batch_size": pd.array(random.integers(16, 512, trials), dtype="Int64"),
        "params.training.l2": 10 ** random.uniform(-6, -2, trials),
        **{f"metrics.best_{name}": scores[name] for name in objectives},
        "metrics.best_epoch": pd.array(random.integers(1, 4, trials), dtype="Int64"),
        "metrics.parameters": pd.array(800 * units + 10, dtype="Int64"),
    }
    made = pd.DataFrame(table)
    floats = made.select_dtypes("float").columns
    texts = [c for c in made.select_dtypes(["object", "str"]).columns if c not in ("start", "end")]
    return made.astype({**dict.fromkeys(floats, "Float64"), **dict.fromkeys(texts, "string")})


def curves(table: pd.DataFrame, objective: Objective, epochs: int) -> pd.DataFrame:
    """Returns learning curves like `load_curves`, which end at each trial's score."""
    rows = [
        (sweep, trial, epoch, objective.name, score * (0.8 + 0.2 * epoch / epochs))
        for sweep, trial, score in zip(
            table["sweep"], table["trial"], table[f"metrics.best_{objective.name}"], strict=True
        )
        if not pd.isna(score)
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows, columns=["sweep", "trial", "epoch", "metric", "value"])
