"""Runs read from the tables of an SQLite store, which takes a tenth of the time that MLflow's API takes."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep import mlflow_store as store
from mnist_sweep.results.frames import TAGS, Points, Record, arrays
from mnist_sweep.settings import METRICS

PAGE = 500
_ROWS = 10_000
_NUMBER = {name: number for number, name in enumerate(METRICS)}


class UnknownTables(Exception):  # noqa: N818 - nothing is wrong: MLflow's API reads them
    """The tables are not those that this module knows."""


class Database:
    """Those of a store's runs that match a query. It is only read, and may be written to meanwhile."""

    def __init__(self, path: Path, experiments: Sequence[str], query: str) -> None:
        """Takes what to read.

        Args:
            path: The database.
            experiments: The ids of the experiments to look in.
            query: In MLflow's search language.
        """
        self._path, self._experiments, self._query = path, experiments, query

    def records(self) -> Iterator[list[Record]]:
        """The runs, some at a time.

        Raises:
            UnknownTables: They cannot be read here.
            MlflowException: The query cannot be understood.
        """
        with self._opened() as database:
            for page in self._pages(database):
                with _snapshot(database):
                    found = _records(database, page)
                yield found

    def points(self) -> Iterator[Points]:
        """The points of their learning curves, some at a time, by trial.

        Raises:
            UnknownTables: They cannot be read here.
            MlflowException: The query cannot be understood.
        """
        with self._opened() as database:
            for page in self._pages(database):
                yield _points(database, page)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            # MLflow's own engine may be at work in another thread of this process, and in other processes.
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as database:
                # As MLflow has it, for LIKE in queries.
                database.execute("PRAGMA case_sensitive_like = true")
                yield database
        except sqlite3.Error as error:
            raise UnknownTables(str(error)) from error

    def _pages(self, database: sqlite3.Connection) -> Iterator[list[str]]:
        """The ids of the runs."""
        found = _matching(database, self._experiments, self._query)
        for start in range(0, len(found), PAGE):
            yield found[start : start + PAGE]


def _matching(database: sqlite3.Connection, experiments: Sequence[str], query: str) -> list[str]:
    """The ids of the runs that match, as MLflow itself understands the query."""
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
            statement = statement.where(
                SqlRun.experiment_id.in_([int(number) for number in experiments]),
                SqlRun.lifecycle_stage == "active",
                *attributes,
            )
            return list(session.execute(statement.distinct().order_by(SqlRun.run_uuid)).scalars())
    except (ImportError, AttributeError, TypeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UnknownTables(str(error)) from error


@contextmanager
def _snapshot(database: sqlite3.Connection) -> Iterator[None]:
    """Lets several selects see the same state, that of the first; a page at a time, for a writer may have to wait."""
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
    keys: Sequence[str] = (),
    order: str = "",
) -> sqlite3.Cursor:
    """Rows of the runs of a page, those with one of the keys where there are any."""
    query = f"SELECT {columns} FROM {table} WHERE run_uuid IN ({_marks(page)})"
    if keys:
        query += f" AND key IN ({_marks(keys)})"
    return database.execute(f"{query} {order}", (*page, *keys))


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _tags(database: sqlite3.Connection, page: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
    tags: dict[str, dict[str, str]] = defaultdict(dict)
    for run, key, value in _select(database, "run_uuid, key, value", "tags", page, keys):
        tags[run][key] = value
    return tags


def _records(database: sqlite3.Connection, page: Sequence[str]) -> list[Record]:
    tags = _tags(database, page, TAGS)
    params: dict[str, dict[str, str]] = defaultdict(dict)
    for run, key, value in _select(database, "run_uuid, key, value", "params", page):
        params[run][key] = value
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
    tags = _tags(database, page, (store.TAG_SWEEP, store.TAG_TRIAL))
    trials = [(tags[run][store.TAG_SWEEP], int(tags[run][store.TAG_TRIAL])) for run in page]
    place = {run: number for number, run in enumerate(page)}
    rows = _select(
        database,
        "run_uuid, key, step, is_nan, value",
        "metrics",
        page,
        list(METRICS),
        "ORDER BY run_uuid, key, step, timestamp, is_nan, value",
    )
    parts = [arrays((), (), (), ())]
    while some := rows.fetchmany(_ROWS):
        run, key, step, is_nan, value = zip(*some, strict=True)
        numbers = (place[name] for name in run), (_NUMBER[name] for name in key), step
        parts.append(arrays(*numbers, np.where(is_nan, np.nan, value)))
    return Points(trials, *(np.concatenate(part) for part in zip(*parts, strict=True)))
