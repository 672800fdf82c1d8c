"""Finds a sweep in a store by the tags that it wrote, whatever the sweep's experiment is called now."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import STORE_VARIABLE, masked
from mnist_sweep.journal.folders import SWEEPS, sweeps
from mnist_sweep.tracking.names import tagged
from mnist_sweep.tracking.store import search_runs
from mnist_sweep.tracking.tags import NESTED, TAG_KIND, TAG_SWEEP
from mnist_sweep.tracking.uri import absolute, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run, RunInfo

# MLflow's name of what can be restored.
_DELETED = "deleted"
# How many experiments to search at a time; some servers allow no more.
_AT_A_TIME = 100


def find_runs(client: MlflowClient, sweep: str, likely: str | None = None) -> list[Run]:
    """Finds a sweep's runs, including deleted ones.

    Args:
        client: The store.
        sweep: The sweep, `name/time`.
        likely: The id of the experiment that has the sweep's name, which is searched first.

    Returns:
        The runs, all in one experiment, which may be deleted or have another name.
    """
    query = tagged(TAG_SWEEP, sweep)
    if likely is not None and (found := list(search_runs(client, [likely], query, deleted=True))):
        return found
    others = (number for number in _experiments(client) if number != likely)
    while some := list(islice(others, _AT_A_TIME)):
        if found := list(search_runs(client, some, query, deleted=True)):
            home = (own_run(found) or found[0]).info.experiment_id
            return [run for run in found if run.info.experiment_id == home]
    return []


def own_run(runs: Iterable[Run]) -> Run | None:
    """Returns the run of a sweep itself among those of its trials; None if it is lost."""
    return next((run for run in runs if run.data.tags[TAG_KIND] in NESTED), None)


def is_deleted(found: RunInfo | Experiment) -> bool:
    """Returns whether a run or an experiment is deleted, and can be restored."""
    return bool(found.lifecycle_stage == _DELETED)


def open_sweeps(client: MlflowClient) -> set[str]:
    """Returns the sweeps whose own run is still open in a store: they run, or were killed."""
    experiments, found = _experiments(client), set[str]()
    while some := list(islice(experiments, _AT_A_TIME)):
        for kind in NESTED:
            query = f"attributes.status = 'RUNNING' and {tagged(TAG_KIND, kind)}"
            found |= {run.data.tags[TAG_SWEEP] for run in search_runs(client, some, query)}
    return found


def check_experiment(uri: str, name: str) -> None:
    """Refuses to start a sweep whose experiment is deleted, as nothing can be logged to it.

    Only an SQLite store is checked, which takes no time. The recorder finds out about others.

    Args:
        uri: The store, which need not exist.
        name: The experiment's name.

    Raises:
        UserError: The experiment is deleted.
    """
    path = sqlite_path(absolute(uri))
    if path is None or not path.exists():
        return
    query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = ?"
    # Whatever else is wrong with the database is found when it is opened.
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database,
    ):
        for (number,) in database.execute(query, (name, _DELETED)).fetchall():
            raise experiment_deleted(uri, name, number)


def experiment_deleted(uri: str, name: str, number: object) -> UserError:
    """Returns the error that a new sweep cannot be logged to a deleted experiment."""
    here = sweeps(SWEEPS / name)
    restore = invocation.command(f"sync {name}") if here else restore_command(uri, "experiment", number)
    return UserError(
        f"name={name}: this experiment is deleted in {masked(uri)}; choose another name, or restore it with its runs: "
        f"{restore}"
    )


def restore_command(uri: str, what: str, number: object) -> str:
    """Returns MLflow's command that restores what was deleted.

    Args:
        uri: The store.
        what: `experiment` or `run`.
        number: Its id.
    """
    program = f"{STORE_VARIABLE}={masked(uri)} {invocation.interpreter()} -m mlflow"
    return f"{program} {what}s restore --{what}-id {number}"


def _experiments(client: MlflowClient) -> Iterator[str]:
    """Yields the ids of all experiments, including deleted ones."""
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_experiments(ViewType.ALL, page_token=token)
        yield from (experiment.experiment_id for experiment in page)
        token = page.token
        if not token:
            return
