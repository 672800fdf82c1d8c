"""MLflow → pandas."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mnist_sweep import journal, mlflow_store
from mnist_sweep.errors import UserError, did_you_mean
from mnist_sweep.journal import SWEEPS
from mnist_sweep.mlflow_store import (
    PARENT_TAG,
    TAG_KIND,
    TAG_OBJECTIVE,
    TAG_SWEEP,
    TAG_TRIAL,
    TAG_WINNER,
)
from mnist_sweep.results.api import Client
from mnist_sweep.results.frames import Source, curves_frame, runs_frame
from mnist_sweep.results.sql import Database, UnknownTables
from mnist_sweep.settings import Objective
from mnist_sweep.trial import SweepStarted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PARENTS = 100
_LOG = logging.getLogger(__name__)


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

    @property
    def selection(self) -> Selection:
        """Its trials, those that confirm others among them."""
        of_this = f"tags.`{TAG_KIND}` = 'trial' and tags.`{PARENT_TAG}` = '{self.parent.info.run_id}'"
        return Selection(self.client, (self.parent.info.experiment_id,), of_this, space=self.space)

    @property
    def space(self) -> tuple[str, ...]:
        """The names of the hyperparameters that it searched, in the order of its space."""
        return tuple(self.domains)

    @property
    def domains(self) -> dict[str, str]:
        """The domain of each hyperparameter that it searched, as text, in the order of its space."""
        params = self.parent.data.params
        return {key.removeprefix("space."): value for key, value in params.items() if key.startswith("space.")}

    def frame(self) -> pd.DataFrame:
        """Its trials, as `load_runs` describes them."""
        return self.selection.frame()

    def curves(self) -> pd.DataFrame:
        """Its trials' learning curves, as `load_curves` describes them."""
        return self.selection.curves()

    def run_of(self, trial: int) -> Run:
        """The run of a trial.

        Raises:
            UserError: There is no such trial.
        """
        of_it = f"{self.selection.query} and tags.`{TAG_TRIAL}` = '{trial}'"
        found = next(mlflow_store.search_runs(self.client, [self.parent.info.experiment_id], of_it, 1), None)
        if found is None:
            frame = self.frame()
            there = f"there are 0 to {frame['trial'].max()}" if len(frame) else "there is none yet"
            raise UserError(f"{self.sweep}: there is no trial {trial}; {there}")
        return found

    def winner(self) -> Run:
        """The run whose model is the sweep's: the one that was tested, or the best so far.

        Raises:
            UserError: No trial has a score.
        """
        frame, score = self.frame(), f"metrics.best_{self.objective.name}"
        tested = frame[frame["trial"].astype("string") == self.parent.data.tags.get(TAG_WINNER, "")]
        if tested.empty:
            if score not in frame or frame[score].isna().all():
                raise UserError(f"{self.sweep}: no trial has a score yet")
            scored = frame[frame[score].notna() & frame["confirms"].isna()]
            best = scored[score].max() if self.objective.direction == "max" else scored[score].min()
            tested = scored[scored[score] == best]
        return self.client.get_run(tested["run_id"].iloc[0])


@dataclass(frozen=True)
class Selection:
    """Some of a store's trials.

    Attributes:
        client: The store.
        experiments: The ids of the experiments to look in.
        query: Which runs are meant, in MLflow's search language.
        more: What the user wants of them, in the same language.
        space: The names of the hyperparameters that were searched, where they are known.
    """

    client: MlflowClient
    experiments: tuple[str, ...]
    query: str
    more: str | None = None
    space: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """The trials, as `load_runs` describes them."""
        frame = self._read(lambda source: runs_frame(source.records()))
        if self.space:
            frame.attrs["space"] = list(self.space)
        return frame

    def curves(self) -> pd.DataFrame:
        """Their learning curves, as `load_curves` describes them."""
        return self._read(lambda source: curves_frame(source.points()))

    def through_api(self) -> Client:
        """The same through MLflow's API."""
        return Client(self.client, self.experiments, self._whole_query())

    def _whole_query(self) -> str:
        return f"{self.query} and {self.more}" if self.more else self.query

    def _read(self, made_of: Callable[[Source], pd.DataFrame]) -> pd.DataFrame:
        from mlflow.exceptions import MlflowException

        path = mlflow_store.sqlite_path(self.client.tracking_uri)
        try:
            if path is not None:
                try:
                    return made_of(Database(path, self.experiments, self._whole_query()))
                except UnknownTables as error:
                    _LOG.info("%s is read through MLflow's API: %s", path, error)
            return made_of(self.through_api())
        except MlflowException as error:
            if not self.more or error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise UserError(f"query={self.more}: {str(error).splitlines()[0]}") from None


def find_sweep(sweep: str | None = None, tracking_uri: str | None = None) -> SweepRuns:
    """Finds a sweep.

    Args:
        sweep: `name/time`, its folder, or an experiment's name for its last sweep; None for the last sweep of all.
        tracking_uri: The store; None for the one that the sweep's folder names, else the configured one.

    Raises:
        UserError: There is no such sweep.
    """
    wanted = _as_name(sweep) if sweep else None
    client = mlflow_store.connect(tracking_uri or uri_of(sweep))
    experiments = _experiments(client)
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
        where = mlflow_store.without_password(client.tracking_uri)
        if sweep is None:
            raise UserError(f"tracking.uri={where}: there is no sweep yet")
        raise UserError(f"sweep {sweep}: there is no such sweep in {where}")
    return _sweep(client, found[0])


def all_sweeps(sweep: SweepRuns) -> list[SweepRuns]:
    """All sweeps of a sweep's experiment, the first one first."""
    found = mlflow_store.search_runs(
        sweep.client, [sweep.parent.info.experiment_id], f"tags.`{TAG_KIND}` = 'sweep'", _PARENTS
    )
    return [_sweep(sweep.client, run) for run in sorted(found, key=lambda run: int(run.info.start_time))]


def _sweep(client: MlflowClient, parent: Run) -> SweepRuns:
    tags = parent.data.tags
    objectives = tuple(map(Objective.parse, tags[TAG_OBJECTIVE].split(",")))
    return SweepRuns(tags[TAG_SWEEP], client, parent, objectives)


def load_runs(
    what: str | None = None,
    *,
    experiment: str | None = None,
    query: str | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Loads trials from MLflow.

    Args:
        what: A sweep: `name/time`, its folder, or an experiment's name for its last sweep. None for the last sweep of
            all, if nothing else is said.
        experiment: All sweeps of this experiment instead.
        query: Only the trials that match, in MLflow's search language, such as
            ``"metrics.best_val_accuracy > 0.97 and params.`optimizer.name` = 'adam'"``; of all experiments where
            neither a sweep nor an experiment is given.
        tracking_uri: The store; by default the one that the sweep was logged to.

    Returns:
        A row per trial, by sweep and number; deleted runs are left out. Columns: `sweep`, `trial`, `confirms` (the
        trial whose setting this one trained anew, else `<NA>`), `goes_on_from` (the trial whose weights it began with),
        `status`, `reason`, `start` and `end` (UTC, to the millisecond), `seconds`, `epochs` (the last one that it
        logged, not `params.training.epochs`, to which it was to train), `slot`, `run_id`, `data.name`, `data.digest`,
        then `params.…` and `metrics.…`. Whole numbers are `Int64`, numbers `Float64`, truth values `boolean`, the rest
        `string`; an inactive hyperparameter is `<NA>`. Of one sweep, `attrs["space"]` names what was searched.

    Raises:
        UserError: There is no such sweep or experiment, or the query cannot be understood.
    """
    return _select(what, experiment, query, tracking_uri).frame()


def load_curves(
    what: str | None = None,
    *,
    experiment: str | None = None,
    query: str | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Loads the learning curves of trials from MLflow.

    Args:
        what: As for `load_runs`.
        experiment: As for `load_runs`.
        query: As for `load_runs`.
        tracking_uri: As for `load_runs`.

    Returns:
        A long frame, by sweep, trial, metric and epoch: `sweep` (categorical), `trial`, `epoch` (from 1; `int32` both),
        `metric` (Keras's name; categorical) and `value` (`float64`). A trial's executions are told by their mean.

    Raises:
        UserError: As for `load_runs`.
    """
    return _select(what, experiment, query, tracking_uri).curves()


def _select(what: str | None, experiment: str | None, query: str | None, tracking_uri: str | None) -> Selection:
    if what is not None and experiment is not None:
        raise UserError(f"{what} and experiment={experiment}: give one of them")
    if experiment is None and (what is not None or not query):
        return replace(find_sweep(what, tracking_uri).selection, more=query)
    if experiment is None:
        client = mlflow_store.connect(tracking_uri or uri_of(None))
        experiments = tuple(_experiments(client).values())
    else:
        last = find_sweep(experiment, tracking_uri)
        client, experiments = last.client, (last.parent.info.experiment_id,)
    return Selection(client, experiments, f"tags.`{TAG_KIND}` = 'trial'", query)


def _experiments(client: MlflowClient) -> dict[str, str]:
    """From each experiment's name to its id."""
    found, token = dict[str, str](), None
    while True:
        page = client.search_experiments(page_token=token)
        found |= {experiment.name: experiment.experiment_id for experiment in page}
        token = page.token
        if not token:
            return found


def sweep_folder(sweep: str) -> Path:
    """The folder of a sweep under the working directory, whether or not it is there."""
    return SWEEPS / sweep


def local_folder(given: str | None, sweep: str) -> Path | None:
    """The folder of a sweep; None where it is not here.

    Args:
        given: What the user called it, which may be its folder, or that of its experiment, anywhere.
        sweep: `name/time`.
    """
    for below in (*([] if given is None else [Path(given)]), sweep_folder(sweep)):
        for folder in reversed(journal.sweeps(below)):
            if _started(folder).sweep == sweep:
                return folder
    return None


def searched(frame: pd.DataFrame) -> list[str]:
    """The columns of the hyperparameters that were searched, and in which a frame's trials differ.

    Args:
        frame: As `load_runs` gives it. Of one sweep, `attrs["space"]` names what was searched, in the order of its
            space; where that is missing, all parameters may have been.
    """
    space = [f"params.{name}" for name in frame.attrs.get("space", ())]
    columns = space or [column for column in frame.columns if column.startswith("params.")]
    return [column for column in columns if column in frame and frame[column].nunique(dropna=False) > 1]


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


def uri_of(sweep: str | None) -> str:
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
