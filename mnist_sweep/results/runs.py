"""MLflow → pandas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mnist_sweep import journal, mlflow_store
from mnist_sweep.errors import UserError, did_you_mean
from mnist_sweep.journal import SWEEPS
from mnist_sweep.mlflow_store import (
    PARENT_TAG,
    TAG_CONFIRMS,
    TAG_KIND,
    TAG_OBJECTIVE,
    TAG_REASON,
    TAG_STATUS,
    TAG_SWEEP,
    TAG_TRIAL,
    TAG_WINNER,
)
from mnist_sweep.settings import METRICS, Objective
from mnist_sweep.trial import SweepStarted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000


@dataclass(frozen=True)
class SweepRuns:
    """A sweep as MLflow has it.

    Attributes:
        sweep: `name/time`.
        client: The store it is in.
        parent: Its parent run.
        objectives: What it optimised, the first one first.
    """

    sweep: str
    client: MlflowClient
    parent: Run
    objectives: tuple[Objective, ...]

    @property
    def objective(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    def trials(self) -> list[Run]:
        """The runs of its trials, those that confirm others among them, by number."""
        found = _search(
            self.client,
            [self.parent.info.experiment_id],
            f"tags.`{PARENT_TAG}` = '{self.parent.info.run_id}'",
        )
        return sorted(found, key=lambda run: int(run.data.tags.get(TAG_TRIAL, 0)))

    def frame(self) -> pd.DataFrame:
        """Its trials, as `load_runs` describes them."""
        return frame_of(self.trials())

    def curves(self) -> pd.DataFrame:
        """Its trials' learning curves, as `load_curves` describes them."""
        return _curves(self)

    def winner(self) -> Run:
        """The run whose model is the sweep's: the one that was tested, or the best so far.

        Raises:
            UserError: No trial has a score.
        """
        name = f"best_{self.objective.name}"
        trials = self.trials()
        tested = [run for run in trials if run.data.tags[TAG_TRIAL] == self.parent.data.tags.get(TAG_WINNER)]
        if tested:
            return tested[0]
        scored = [run for run in trials if name in run.data.metrics and TAG_CONFIRMS not in run.data.tags]
        if not scored:
            raise UserError(f"{self.sweep}: no trial has a score yet")
        sign = 1 if self.objective.direction == "max" else -1
        return max(scored, key=lambda run: sign * run.data.metrics[name])


def find_sweep(sweep: str | None = None, tracking_uri: str | None = None) -> SweepRuns:
    """Finds a sweep.

    Args:
        sweep: `name/time`, its folder, or an experiment's name for its last sweep; None for the last sweep of all.
        tracking_uri: The store; None for the one that the sweep's folder names, else the configured one.

    Raises:
        UserError: There is no such sweep.
    """
    wanted = _as_name(sweep) if sweep else None
    client = mlflow_store.connect(tracking_uri or _uri_of(sweep))
    experiments = {e.name: e.experiment_id for e in client.search_experiments()}
    name = wanted.partition("/")[0] if wanted else None
    if name is not None and name not in experiments:
        raise UserError(
            f"sweep {sweep}: there is no such experiment{did_you_mean(name, set(experiments) - {'Default'})}"
        )
    ids = list(experiments.values()) if name is None else [experiments[name]]
    query = f"tags.`{TAG_KIND}` = 'sweep'"
    if wanted and "/" in wanted:
        query += f" and tags.`{TAG_SWEEP}` = '{wanted}'"
    found = client.search_runs(ids, query, max_results=1, order_by=["attributes.start_time DESC"])
    if not found:
        raise UserError(
            f"sweep {sweep or ''}: there is no such sweep in {mlflow_store.without_password(client.tracking_uri)}"
        )
    tags = found[0].data.tags
    objectives = tuple(map(Objective.parse, tags[TAG_OBJECTIVE].split(",")))
    return SweepRuns(tags[TAG_SWEEP], client, found[0], objectives)


def load_runs(
    sweep: str | None = None, *, experiment: str | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """Loads trials from MLflow.

    Args:
        sweep: `name/time`, its folder, or an experiment's name for its last sweep; None for the last sweep of all.
        experiment: All sweeps of this experiment instead.
        tracking_uri: The store; by default the one that the sweep was logged to.

    Returns:
        A row per trial, by sweep and number. Columns: `sweep`, `trial`, `confirms` (the trial whose setting this one
        trained anew, else `<NA>`), `status`, `reason`, `start`, `seconds`, `epochs`, `run_id`, `data.name`,
        `data.digest`, then `params.…` and `metrics.…`. Whole numbers are `Int64`, numbers `Float64`, truth values
        `boolean`, the rest `string`; an inactive hyperparameter is `<NA>`.

    Raises:
        UserError: There is no such sweep or experiment.
    """
    if experiment is None:
        return frame_of(find_sweep(sweep, tracking_uri).trials())
    last = find_sweep(experiment, tracking_uri)
    return frame_of(list(_search(last.client, [last.parent.info.experiment_id], f"tags.`{TAG_KIND}` = 'trial'")))


def load_curves(sweep: str | None = None, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """Loads the learning curves of a sweep's trials.

    Args:
        sweep: As for `load_runs`.
        tracking_uri: As for `load_runs`.

    Returns:
        A long frame: `sweep`, `trial`, `epoch` (from 1), `metric` (Keras's name) and `value`.

    Raises:
        UserError: There is no such sweep.
    """
    return find_sweep(sweep, tracking_uri).curves()


def _curves(found: SweepRuns) -> pd.DataFrame:
    rows = [
        (found.sweep, int(run.data.tags[TAG_TRIAL]), point.step, name, point.value)
        for run in found.trials()
        for name in METRICS
        if name in run.data.metrics
        for point in found.client.get_metric_history(run.info.run_id, name)
    ]
    return pd.DataFrame(rows, columns=["sweep", "trial", "epoch", "metric", "value"])


def sweep_folder(sweep: str) -> Path:
    """The folder of a sweep under the working directory, whether or not it is there."""
    return SWEEPS / sweep


def searched(frame: pd.DataFrame) -> list[str]:
    """The columns of hyperparameters in which a frame's trials differ."""
    return [c for c in frame.columns if c.startswith("params.") and frame[c].nunique(dropna=False) > 1]


def _as_name(sweep: str) -> str:
    path = Path(sweep)
    if (path / journal.FILE).is_file():
        return _started(path).sweep
    name = sweep.removeprefix(f"{SWEEPS}/").strip("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name):
        raise UserError(f"sweep {sweep}: write NAME, NAME/TIME or the sweep's folder")
    return name


def _started(folder: Path) -> SweepStarted:
    first = next(iter(journal.read(folder)), None)
    if not isinstance(first, SweepStarted):
        raise UserError(f"{folder / journal.FILE}: does not begin with the sweep's start")
    return first


def _uri_of(sweep: str | None) -> str:
    """The tracking URI that a local sweep was logged to; the configured one where there is no such folder."""
    given = Path(sweep) if sweep and (Path(sweep) / journal.FILE).is_file() else SWEEPS / (sweep or "")
    folders = journal.sweeps(given)
    if folders:
        last = folders[-1]
        return _from_project(mlflow_store.with_password(str(_started(last).config["tracking"]["uri"])), last)
    from mnist_sweep.compose import defaults

    return str(defaults()["tracking"]["uri"])


def _from_project(uri: str, folder: Path) -> str:
    """A relative store's URI as it was meant where the sweep was run: in the folder that holds `experiments/`."""
    parents = [parent for parent in folder.absolute().resolve().parents if parent.name == str(SWEEPS)]
    relative = uri.removeprefix("sqlite:///")
    if relative == uri or relative.startswith("/") or not parents:
        return uri
    return f"sqlite:///{parents[0].parent / relative}"


def _search(client: MlflowClient, experiments: list[str], query: str) -> Iterator[Run]:
    return mlflow_store.search_runs(client, experiments, query, _PAGE)


def frame_of(runs: list[Run]) -> pd.DataFrame:
    """The runs of trials as the frame that `load_runs` describes."""
    rows = sorted((_row(run) for run in runs), key=lambda row: (row["sweep"], row["trial"]))
    first = [
        "sweep",
        "trial",
        "confirms",
        "status",
        "reason",
        "start",
        "seconds",
        "epochs",
        "run_id",
        "data.name",
        "data.digest",
    ]
    others = {key for row in rows for key in row} - set(first)
    frame = pd.DataFrame(rows, columns=[*first, *sorted(others, key=lambda c: (c.startswith("metrics."), c))])
    for column in frame.columns:
        if column.startswith("params."):
            frame[column] = _typed(frame[column])
        elif column.startswith("metrics.") or column == "seconds":
            frame[column] = frame[column].astype("Float64")
        elif column in ("trial", "confirms", "epochs"):
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
        elif column != "start":
            frame[column] = frame[column].astype("string")
    for column in ("metrics.best_epoch", "metrics.parameters"):
        if column in frame:
            frame[column] = frame[column].astype("Int64")
    return frame


def _row(run: Run) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    measured: Mapping[str, float] = {key: value for key, value in metrics.items() if key != "seconds"}
    return {
        "sweep": tags[TAG_SWEEP],
        "trial": int(tags[TAG_TRIAL]),
        "confirms": tags.get(TAG_CONFIRMS),
        "status": tags.get(TAG_STATUS, "running"),
        "reason": tags.get(TAG_REASON) or None,
        "start": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
        "seconds": metrics.get("seconds"),
        "epochs": run.data.params.get("training.epochs"),
        "run_id": run.info.run_id,
        "data.name": tags.get("data.name"),
        "data.digest": tags.get("data.digest"),
        **{f"params.{key}": value for key, value in run.data.params.items()},
        **{f"metrics.{key}": value for key, value in measured.items()},
    }


def _typed(column: pd.Series[Any]) -> pd.Series[Any]:
    present = column.dropna()
    if present.isin(["True", "False"]).all():
        return column.map({"True": True, "False": False}).astype("boolean")
    numbers = pd.to_numeric(present, errors="coerce")
    if numbers.isna().any():
        return column.astype("string")
    whole = present.str.fullmatch(r"[+-]?\d+").all()
    return pd.to_numeric(column).astype("Int64" if whole else "Float64")
