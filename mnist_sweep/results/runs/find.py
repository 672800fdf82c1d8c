"""Finds sweeps in MLflow, and loads their trials and learning curves as pandas data frames."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal import journal
from mnist_sweep.journal.folders import SWEEPS, sweeps
from mnist_sweep.results.runs import local
from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.frames import curves_frame, runs_frame
from mnist_sweep.results.runs.source import Parent, RunFilter, Source
from mnist_sweep.results.runs.sql import Database, UnknownSchema
from mnist_sweep.tracking import identity
from mnist_sweep.tracking import store as mlflow_store
from mnist_sweep.tracking.tags import (
    PARENT_TAG,
    RETRAINING,
    SWEEP,
    TAG_ID,
    TAG_KIND,
    TAG_OBJECTIVE,
    TAG_SWEEP,
    TAG_TRIAL,
    TAG_WINNER,
    TRIAL,
)
from mnist_sweep.tracking.uri import absolute, existing, sqlite_path

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Store:
    """An existing store. An SQLite file is read directly if its tables are known; any other through MLflow's API.

    Attributes:
        uri: Its tracking URI, as `tracking.uri.existing` returns it.
    """

    uri: str

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client for it. The first one in a process takes seconds, because it imports MLflow."""
        return mlflow_store.connect(self.uri)

    def read(self, ask: Callable[[Source], _Result]) -> _Result:
        """Reads from it.

        Args:
            ask: Reads everything it needs from a source. It may be called again with another source.

        Raises:
            UserError: It is an SQLite store whose file is not a database.
            MlflowException: The store cannot be read, or a query is invalid.
        """
        path = sqlite_path(self.uri)
        if path is not None:
            try:
                return ask(Database(path))
            except UnknownSchema as error:
                _LOG.info("%s is read through MLflow's API: %s", path, error)
        return ask(Client(self.client))


@dataclass(frozen=True)
class SweepRuns:
    """A sweep in MLflow.

    Attributes:
        sweep: The sweep, `name/time`.
        store: The store that it is in.
        found: Its own run, as it was found.
        objectives: Its objectives, in order.
    """

    sweep: str
    store: Store
    found: Parent
    objectives: tuple[Objective, ...]

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for the store, which takes seconds if MLflow is not imported yet."""
        return self.store.client

    @cached_property
    def parent(self) -> Run:
        """Its own run with all its data, which takes as long."""
        return self.client.get_run(self.found.run_id)

    @property
    def objective(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    @property
    def selection(self) -> Selection:
        """Its trials, including those that retrained others on new seeds."""
        of_this = {PARENT_TAG: self.found.run_id}
        wanted = RunFilter((self.found.experiment,), of_this)
        return Selection(self.store, wanted, self.space, [(o.name, o.direction) for o in self.objectives])

    @property
    def space(self) -> dict[str, str]:
        """The domain of each searched hyperparameter, as text, in the order of the search space."""
        return dict(self.found.space)

    def frame(self) -> pd.DataFrame:
        """Its trials, as `load_runs` describes them."""
        return self.selection.frame()

    def curves(self) -> pd.DataFrame:
        """Its trials' learning curves, as `load_curves` describes them."""
        return self.selection.curves()

    def run_of(self, trial: int) -> Run:
        """The run of a trial.

        Raises:
            UserError: The trial does not exist.
        """
        found = self._logged(trial)
        if found is not None and identity.is_deleted(found.info):
            raise self._without(f"the run of trial {trial} is deleted in MLflow")
        if found is None:
            frame = self.frame()
            known = f"its trials are 0 to {frame['trial'].max()}" if len(frame) else "it has no trials yet"
            raise UserError(f"{self.sweep}: has no trial {trial}; {known}")
        return found

    def _logged(self, trial: int) -> Run | None:
        """The run of a trial, even if it is deleted."""
        wanted = self.selection.wanted
        of_it = replace(wanted, tags={**wanted.tags, TAG_TRIAL: str(trial)}).whole_query
        found = list(mlflow_store.search_runs(self.client, [self.found.experiment], of_it, 2, deleted=True))
        return min(found, key=lambda run: identity.is_deleted(run.info), default=None)

    def _without(self, what: str) -> UserError:
        """The error that something of the sweep is missing in MLflow."""
        here = _here(self.sweep)
        how = "restore it in MLflow" if here is None else f"to bring it back: {here.sync(self.store.uri)}"
        return UserError(f"{self.sweep}: {what}; {how}")

    def winner(self, frame: pd.DataFrame | None = None) -> Run:
        """The run with the best model: that of the leaderboard's first trial, or the best of those that retrained it.

        Args:
            frame: Its trials. While it runs, this says which of them are known; None to load them.

        Raises:
            UserError: No trial has a score, or the run of the best one is deleted.
        """
        from mnist_sweep.results.leaderboard import best_model

        frame = self.frame() if frame is None else frame
        number = self.parent.data.tags.get(TAG_WINNER, "")
        if number.isdigit() and frame[frame["trial"].astype("string") == number].empty:
            run = self._logged(int(number))
            if run is None or identity.is_deleted(run.info):
                raise self._without(f"the run of its best trial, {number}, is deleted in MLflow")
        # After more trials, the one that was tested may no longer be the best.
        run_id = best_model(frame, self.objective, number or None)
        if run_id is None:
            raise UserError(f"{self.sweep}: no trial has a score yet")
        return self.client.get_run(run_id)


@dataclass(frozen=True)
class Selection:
    """Some of a store's trials.

    Attributes:
        store: The store.
        wanted: Which trials. Its query is the user's.
        space: The domain of each searched hyperparameter, as text, if they are all of one sweep.
        objectives: The name and the direction of each objective of that sweep.
    """

    store: Store
    wanted: RunFilter
    space: Mapping[str, str] = field(default_factory=dict)
    objectives: Sequence[tuple[str, str]] = ()

    def frame(self) -> pd.DataFrame:
        """The trials, as `load_runs` describes them."""
        frame = self._read(lambda source: runs_frame(source.records(self.wanted)))
        if self.space:
            frame.attrs["space"] = dict(self.space)
        if self.objectives:
            frame.attrs["objectives"] = list(map(list, self.objectives))
        return frame

    def curves(self) -> pd.DataFrame:
        """Their learning curves, as `load_curves` describes them."""
        return self._read(lambda source: curves_frame(source.points(self.wanted)))

    def _read(self, made_of: Callable[[Source], pd.DataFrame]) -> pd.DataFrame:
        query = self.wanted.query
        if not query:
            return self.store.read(made_of)
        from mlflow.exceptions import MlflowException

        try:
            return self.store.read(made_of)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise UserError(f"query={query}: {first_line(error)}") from None


def find_sweep(sweep: str | None = None, tracking_uri: str | None = None) -> SweepRuns:
    """Finds a sweep by the tags of its runs, whatever its experiment is called now.

    Args:
        sweep: `name/time`, its folder, or an experiment's name for its last sweep; None for the last sweep of all.
        tracking_uri: The store; None for MLFLOW_TRACKING_URI, or else the one that the sweep was logged to, or the
            configured one.

    Raises:
        UserError: The sweep does not exist. If its folder is here, it names the command that brings it back.
    """
    wanted = _as_name(sweep) if sweep else None
    store, here = store_of(tracking_uri, sweep), _here(sweep)
    experiments = store.read(lambda source: source.experiments())
    found = _parent(store, experiments, wanted, here)
    if here is not None and (found is None or found.tags[TAG_SWEEP] != here.name):
        mine = _parent(store, experiments, here.name, here)
        if found is None:
            found = mine
        elif mine is None:
            here.warn_if_passed_over(store.uri, found.tags[TAG_SWEEP], tracking_uri)
    if found is None:
        raise _not_found(sweep, wanted, store, experiments, here, tracking_uri)
    return _sweep(store, found)


def _here(sweep: str | None) -> local.LocalSweep | None:
    """The last local sweep that an argument stands for, if its journal can be read."""
    with contextlib.suppress(UserError):
        return local.last(sweep)
    return None


def _parent(
    store: Store, experiments: Mapping[str, str], wanted: str | None, here: local.LocalSweep | None
) -> Parent | None:
    """The own run of a sweep, or of the last one of an experiment, or of all."""
    name, _, time = (wanted or "").partition("/")
    everywhere, tags, kinds = tuple(experiments.values()), dict[str, str](), [SWEEP]
    places = [everywhere] if wanted is None else [(experiments[name],)] if name in experiments else []
    if time:
        # The experiment may have another name now. A run that retrains a trial is found by its own name only.
        tags, places, kinds = {TAG_SWEEP: str(wanted)}, [*places, everywhere], [SWEEP, RETRAINING]
    for ids, kind in itertools.product(places, kinds):
        found = store.read(partial(_parents, RunFilter(ids, {TAG_KIND: kind, **tags}), None if time else 1))
        if found:
            # A sweep of another machine may have the same name.
            mine = here.started.id if here is not None and here.name == wanted else ""
            return next((parent for parent in found if parent.tags.get(TAG_ID) == mine), found[0])
    return None


def _parents(wanted: RunFilter, most: int | None, source: Source) -> list[Parent]:
    return source.parents(wanted, most)


def _not_found(
    sweep: str | None,
    wanted: str | None,
    store: Store,
    experiments: Mapping[str, str],
    here: local.LocalSweep | None,
    tracking_uri: str | None,
) -> UserError:
    """The error that a store has no such sweep, or no more."""
    where, name = masked(store.uri), (wanted or "").partition("/")[0]
    what, restore = _deleted(store, wanted if here is None else here.name)
    if here is not None:
        return here.missing(store.uri, what, tracking_uri)
    if sweep is None:
        return UserError(f"tracking.uri={where}: no sweep is logged there yet")
    if what:
        return UserError(f"sweep {sweep}: its {what} is deleted in {where}; to restore it: {restore}")
    if name not in experiments:
        return UserError(f"sweep {sweep}: no such experiment{did_you_mean(name, set(experiments) - {'Default'})}")
    return UserError(f"sweep {sweep}: no such sweep in {where}")


def _deleted(store: Store, wanted: str | None) -> tuple[str, str]:
    """What is deleted of a sweep or an experiment, `experiment` or `run`, and MLflow's command that restores it."""
    if wanted is None:
        return "", ""
    name, _, time = wanted.partition("/")
    experiment = store.client.get_experiment_by_name(name)
    if time:
        runs = identity.find_runs(store.client, wanted, experiment.experiment_id if experiment else None)
        own = identity.own_run(runs)
        experiment = store.client.get_experiment(own.info.experiment_id) if own else experiment
        if own is not None and experiment is not None and not identity.is_deleted(experiment):
            return "run", identity.restore_command(store.uri, "run", own.info.run_id)
    if experiment is None or not identity.is_deleted(experiment):
        return "", ""
    return "experiment", identity.restore_command(store.uri, "experiment", experiment.experiment_id)


def all_sweeps(sweep: SweepRuns) -> list[SweepRuns]:
    """All sweeps of a sweep's experiment, the oldest first."""
    wanted = RunFilter((sweep.found.experiment,), {TAG_KIND: SWEEP})
    found = sweep.store.read(lambda source: source.parents(wanted))
    return [_sweep(sweep.store, parent) for parent in reversed(found)]


def _sweep(store: Store, parent: Parent) -> SweepRuns:
    objectives = tuple(map(Objective.parse, parent.tags[TAG_OBJECTIVE].split(",")))
    return SweepRuns(parent.tags[TAG_SWEEP], store, parent, objectives)


def store_of(tracking_uri: str | None, sweep: str | None) -> Store:
    """The store of a sweep.

    Args:
        tracking_uri: As for `find_sweep`.
        sweep: As for `find_sweep`.

    Raises:
        UserError: It does not exist.
    """
    uri = absolute(tracking_uri or local.uri_of(sweep))
    path = sqlite_path(uri)
    if path is not None and not path.exists() and (here := _here(sweep) or _here(None)):
        raise UserError(
            f"tracking.uri={uri}: does not exist, but the journal of {here.name} has everything; to bring it "
            f"back: {here.sync(tracking_uri)} (--all: all sweeps)"
        )
    return Store(existing(uri))


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
            all, unless an experiment or a query is given.
        experiment: The name of an experiment, for all of its sweeps.
        query: Only the trials that match, in MLflow's search language, such as
            ``"metrics.best_val_accuracy > 0.97 and params.`optimizer.name` = 'adam'"``. Without a sweep or an
            experiment, all experiments are searched.
        tracking_uri: The store; by default MLFLOW_TRACKING_URI, or else the one that the sweep was logged to.

    Returns:
        A row per trial, sorted by sweep and number. Deleted runs are left out. Columns: `sweep`, `trial`, `confirms`
        (the trial that this one retrained on a new seed, or `<NA>`), `goes_on_from` (the trial whose weights it
        continued from), `status`, `reason`, `start` and `end` (UTC, to the millisecond), `seconds`, `epochs` (the last
        epoch that it logged, not `params.training.epochs`, the planned number), `slot`, `run_id`, `data.name`,
        `data.digest`, then `params.…` and `metrics.…`. Whole numbers are `Int64`, other numbers `Float64`, truth values
        `boolean`, and the rest `string`. An inactive hyperparameter is `<NA>`. For a single sweep, `attrs["space"]` has
        the domain of each searched hyperparameter, and `attrs["objectives"]` the objectives, `[name, direction]`.

    Raises:
        UserError: The sweep or experiment does not exist, or the query is invalid.
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
        A long data frame, sorted by sweep, trial, metric and epoch: `sweep` (categorical), `trial` and `epoch` (from 1;
        both `int32`), `metric` (Keras's name; categorical) and `value` (`float64`). A trial with several executions has
        their mean.

    Raises:
        UserError: As for `load_runs`.
    """
    return _select(what, experiment, query, tracking_uri).curves()


def _select(what: str | None, experiment: str | None, query: str | None, tracking_uri: str | None) -> Selection:
    if what is not None and experiment is not None:
        raise UserError(f"{what} and experiment={experiment}: give only one of them")
    if experiment is None and (what is not None or not query):
        selection = find_sweep(what, tracking_uri).selection
        return replace(selection, wanted=replace(selection.wanted, query=query))
    if experiment is None:
        store = store_of(tracking_uri, None)
        experiments = tuple(store.read(lambda source: source.experiments()).values())
    else:
        last = find_sweep(experiment, tracking_uri)
        store, experiments = last.store, (last.found.experiment,)
    return Selection(store, RunFilter(experiments, {TAG_KIND: TRIAL}, query))


def _as_name(sweep: str) -> str:
    folders = sweeps(Path(sweep))
    if folders:
        return journal.started(folders[-1]).sweep
    name = sweep.removeprefix(f"{SWEEPS}/").strip("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name):
        raise UserError(f"sweep {sweep}: write NAME, NAME/TIME or the sweep's folder")
    return name
