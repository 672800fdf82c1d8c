"""Reads runs from the tables of an SQLite store, which takes a tenth of the time of MLflow's API."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep.common.text import printable
from mnist_sweep.config.objective import METRICS
from mnist_sweep.results.runs.source import (
    PARENT_TAGS,
    TAGS,
    Parent,
    Points,
    Record,
    RunFilter,
    arrays,
    of_epochs,
    space_of,
)
from mnist_sweep.tracking import store
from mnist_sweep.tracking.names import TAG_METRIC, TAG_PARAM
from mnist_sweep.tracking.tags import TAG_SWEEP, TAG_TRIAL

PAGE = 500
_ROWS = 10_000
_WORKSPACE = "default"


class UnknownSchema(Exception):  # noqa: N818 - not an error: MLflow's API reads the store
    """The database's tables are not as this module expects them."""


class Database:
    """Reads an SQLite store's tables: a `Source`. Others may write to the store meanwhile.

    Every method raises UnknownSchema if the tables are not as expected, and UserError if the file is not a database.
    MLflow is imported only for a query.
    """

    def __init__(self, path: Path) -> None:
        """Takes the database's file."""
        self._path = path

    def experiments(self) -> dict[str, str]:
        """As for `Source`."""
        with self._opened() as database:
            found = database.execute("SELECT name, experiment_id, workspace, lifecycle_stage FROM experiments")
            rows = found.fetchall()
        if any(workspace != _WORKSPACE for _, _, workspace, _ in rows):
            # Experiments' names are unique within a workspace only. MLflow decides which workspace is used.
            raise UnknownSchema("it has workspaces")
        return {name: str(number) for name, number, _, stage in rows if stage == "active"}

    def parents(self, wanted: RunFilter, most: int | None = None) -> list[Parent]:
        """As for `Source`."""
        with self._opened() as database:
            # The same order as MLflow's.
            found = _matching(database, wanted, "start_time IS NULL, start_time DESC, run_uuid")[:most]
            return [parent for page in _pages(found) for parent in _parents(database, page)]

    def records(self, wanted: RunFilter) -> Iterator[list[Record]]:
        """As for `Source`."""
        with self._opened() as database:
            for page in _pages(_matching(database, wanted, "run_uuid")):
                with _snapshot(database):
                    found = _records(database, page)
                yield found

    def points(self, wanted: RunFilter) -> Iterator[Points]:
        """As for `Source`; sorted by trial."""
        with self._opened() as database:
            for page in _pages(_matching(database, wanted, "run_uuid")):
                yield _points(database, page)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            # Read-only: MLflow may be writing in another thread or process.
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as database:
                # The same as MLflow's, for LIKE in queries.
                database.execute("PRAGMA case_sensitive_like = true")
                yield database
        except sqlite3.Error as error:
            fault = store.database_fault(self._path, error)
            if fault is not None:
                raise fault from None
            raise UnknownSchema(str(error)) from error


def _pages(found: Sequence[str]) -> Iterator[Sequence[str]]:
    return (found[start : start + PAGE] for start in range(0, len(found), PAGE))


def _matching(database: sqlite3.Connection, wanted: RunFilter, order: str) -> list[str]:
    """The ids of the wanted runs."""
    conditions = [f"experiment_id IN ({_marks(wanted.experiments)})", "lifecycle_stage = 'active'"]
    values: list[str | int] = [int(number) for number in wanted.experiments]
    for key, value in wanted.tags.items():
        conditions.append("EXISTS (SELECT 1 FROM tags WHERE run_uuid = runs.run_uuid AND key = ? AND value = ?)")
        values += [key, printable(value)]
    rows = database.execute(f"SELECT run_uuid FROM runs WHERE {' AND '.join(conditions)} ORDER BY {order}", values)
    found = [run for (run,) in rows]
    if not wanted.query:
        return found
    matching = _matching_query(database, wanted.experiments, wanted.query)
    return [run for run in found if run in matching]


def _matching_query(database: sqlite3.Connection, experiments: Sequence[str], query: str) -> set[str]:
    """The ids of the runs that match a query, which MLflow's own code translates to SQL."""
    try:
        import sqlalchemy
        from mlflow.store.tracking import sqlalchemy_store
        from mlflow.store.tracking.dbmodels.models import SqlRun
        from mlflow.utils.search_utils import SearchUtils
        from sqlalchemy.orm import Session
        from sqlalchemy.pool import StaticPool

        search: Any = SearchUtils
        clauses_of: Any = sqlalchemy_store._get_sqlalchemy_filter_clauses
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: database, poolclass=StaticPool)
        with Session(engine) as session:
            parsed = search.parse_search_filter(query)
            attributes, others, datasets = clauses_of(parsed, session, "sqlite")
            statement: Any = sqlalchemy.select(SqlRun.run_uuid)
            for clause in others:
                statement = statement.join(clause)
            for clause in datasets:
                statement = statement.join(clause, SqlRun.run_uuid == clause.c.destination_id)
            statement = statement.where(SqlRun.experiment_id.in_([int(number) for number in experiments]), *attributes)
            return set(session.execute(statement).scalars())
    except (ImportError, AttributeError, TypeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UnknownSchema(str(error)) from error


@contextmanager
def _snapshot(database: sqlite3.Connection) -> Iterator[None]:
    """Lets several selects see the same state. Used for one page at a time, as a writer may have to wait."""
    database.execute("BEGIN")
    try:
        yield
    finally:
        database.execute("ROLLBACK")


def _select(
    database: sqlite3.Connection,
    columns: str,
    table: str,
    page: Sequence[str],
    rest: str = "",
) -> sqlite3.Cursor:
    """Rows of the runs of a page; `rest` is the end of the query."""
    return database.execute(f"SELECT {columns} FROM {table} WHERE run_uuid IN ({_marks(page)}) {rest}", page)


def _marks(values: Collection[str]) -> str:
    return ",".join("?" * len(values))


def _tags(database: sqlite3.Connection, page: Sequence[str], keys: Collection[str]) -> dict[str, dict[str, str]]:
    """The tags with these keys, and those that hold the original names of metrics and parameters, by run."""
    wanted = f"+key IN ({_marks(keys)}) OR +key GLOB '{TAG_METRIC}*' OR +key GLOB '{TAG_PARAM}*'"
    query = f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN ({_marks(page)}) AND ({wanted})"
    return _by_run(database.execute(query, (*page, *keys)))


def _params(database: sqlite3.Connection, page: Sequence[str], order: str = "") -> dict[str, dict[str, str]]:
    return _by_run(_select(database, "run_uuid, key, value", "params", page, order))


def _by_run(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for run, key, value in rows:
        found[run][key] = value
    return found


def _parents(database: sqlite3.Connection, page: Sequence[str]) -> list[Parent]:
    with _snapshot(database):
        tags = _tags(database, page, PARENT_TAGS)
        # In the order in which they were logged, which is that of the search space.
        params = _params(database, page, "ORDER BY rowid")
        experiments = dict(_select(database, "run_uuid, experiment_id", "runs", page))
    return [Parent(run, str(experiments[run]), tags[run], space_of(params[run], tags[run])) for run in page]


def _records(database: sqlite3.Connection, page: Sequence[str]) -> list[Record]:
    tags, params = _tags(database, page, TAGS.values()), _params(database, page)
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    epochs: dict[str, int] = {}
    for run, key, value, is_nan, step in _select(
        database, "run_uuid, key, value, is_nan, step", "latest_metrics", page
    ):
        metrics[run][key] = math.nan if is_nan else value
        if key in METRICS:
            epochs[run] = max(step, epochs.get(run, 0))
    return [
        Record(run, start, end, tags[run], params[run], metrics[run], epochs.get(run))
        for run, start, end in _select(database, "run_uuid, start_time, end_time", "runs", page)
    ]


def _points(database: sqlite3.Connection, page: Sequence[str]) -> Points:
    tags = _tags(database, page, (TAG_SWEEP, TAG_TRIAL))
    trials = [(tags[run][TAG_SWEEP], int(tags[run][TAG_TRIAL])) for run in page]
    place = {run: number for number, run in enumerate(page)}
    rows = _select(
        database,
        "run_uuid, key, step, is_nan, value",
        "metrics",
        page,
        "AND step > 0 ORDER BY run_uuid, key, step, timestamp, is_nan, value",
    )
    parts = [arrays((), (), (), ())]
    numbers = dict[str, int]()
    while some := rows.fetchmany(_ROWS):
        some = [row for row in some if of_epochs(row[1], row[2])]
        run, key, step, is_nan, value = zip(*some, strict=True) if some else ((), (), (), (), ())
        # The same key may stand for another name in another run.
        names = [tags[r].get(f"{TAG_METRIC}{k}", k) for r, k in zip(run, key, strict=True)]
        metric = [numbers.setdefault(name, len(numbers)) for name in names]
        parts.append(arrays([place[r] for r in run], metric, step, np.where(is_nan, np.nan, value)))
    return Points(trials, list(numbers), *(np.concatenate(part) for part in zip(*parts, strict=True)))
