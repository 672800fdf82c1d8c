"""Reads runs from the tables of a database, which takes a tenth of the time of MLflow's API."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
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
from mnist_sweep.results.runs.tables import ROWS, Tables, UnknownSchema, opened
from mnist_sweep.tracking.names import TAG_METRIC, TAG_PARAM
from mnist_sweep.tracking.tags import TAG_SWEEP, TAG_TRIAL

PAGE = 500
_WORKSPACE = "default"


class Database:
    """Reads a database's tables: a `Source`. Others may write to it meanwhile.

    Every method raises UnknownSchema if the database cannot be read directly, or the tables are not as expected, and
    UserError if an SQLite store's file is not a database. MLflow is imported only for a query.
    """

    def __init__(self, uri: str) -> None:
        """Takes a tracking URI for which `tables.can_open` is true."""
        self._uri = uri

    def experiments(self) -> dict[str, str]:
        """As for `Source`."""
        with opened(self._uri) as tables:
            rows = list(tables.rows("SELECT name, experiment_id, workspace, lifecycle_stage FROM experiments"))
        if any(workspace != _WORKSPACE for _, _, workspace, _ in rows):
            # Experiments' names are unique within a workspace only. MLflow decides which workspace is used.
            raise UnknownSchema("it has workspaces")
        return {name: str(number) for name, number, _, stage in rows if stage == "active"}

    def parents(self, wanted: RunFilter, most: int | None = None) -> list[Parent]:
        """As for `Source`."""
        with opened(self._uri) as tables:
            # The same order as MLflow's.
            found = _matching(tables, wanted, "start_time IS NULL, start_time DESC, run_uuid")[:most]
            return [parent for page in _pages(found) for parent in _parents(tables, page)]

    def records(self, wanted: RunFilter) -> Iterator[list[Record]]:
        """As for `Source`."""
        with opened(self._uri) as tables:
            for page in _pages(_matching(tables, wanted, "run_uuid")):
                with tables.snapshot():
                    found = _records(tables, page)
                yield found

    def points(self, wanted: RunFilter) -> Iterator[Points]:
        """As for `Source`."""
        with opened(self._uri) as tables:
            for page in _pages(_matching(tables, wanted, "run_uuid")):
                with tables.snapshot():
                    found = _points(tables, page)
                yield found


def _pages(found: Sequence[str]) -> Iterator[Sequence[str]]:
    return (found[start : start + PAGE] for start in range(0, len(found), PAGE))


def _matching(tables: Tables, wanted: RunFilter, order: str) -> list[str]:
    """The ids of the wanted runs."""
    conditions = [f"experiment_id IN ({_marks(wanted.experiments)})", "lifecycle_stage = 'active'"]
    values: list[str | int] = [int(number) for number in wanted.experiments]
    for key, value in wanted.tags.items():
        conditions.append("EXISTS (SELECT 1 FROM tags WHERE run_uuid = runs.run_uuid AND key = ? AND value = ?)")
        values += [key, printable(value)]
    rows = tables.rows(f"SELECT run_uuid FROM runs WHERE {' AND '.join(conditions)} ORDER BY {order}", values)
    found = [run for (run,) in rows]
    if not wanted.query:
        return found
    matching = _matching_query(tables, wanted.experiments, wanted.query)
    return [run for run in found if run in matching]


def _matching_query(tables: Tables, experiments: Sequence[str], query: str) -> set[str]:
    """The ids of the runs that match a query, which MLflow's own code translates to SQL."""
    try:
        import sqlalchemy
        from mlflow.store.tracking import sqlalchemy_store
        from mlflow.store.tracking.dbmodels.models import SqlRun
        from mlflow.utils.search_utils import SearchUtils
        from sqlalchemy.orm import Session

        search: Any = SearchUtils
        clauses_of: Any = sqlalchemy_store._get_sqlalchemy_filter_clauses
        parsed = search.parse_search_filter(query)
        attributes, others, datasets = clauses_of(parsed, Session(), tables.dialect)
        statement: Any = sqlalchemy.select(SqlRun.run_uuid)
        for clause in others:
            statement = statement.join(clause)
        for clause in datasets:
            statement = statement.join(clause, SqlRun.run_uuid == clause.c.destination_id)
        statement = statement.where(SqlRun.experiment_id.in_([int(number) for number in experiments]), *attributes)
        return {run for (run,) in tables.select(statement)}
    except (ImportError, AttributeError, TypeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UnknownSchema(str(error)) from error


def _select(tables: Tables, columns: str, table: str, page: Sequence[str], rest: str = "") -> Iterator[Any]:
    """Rows of the runs of a page; `rest` is the end of the query."""
    return tables.rows(f"SELECT {columns} FROM {table} WHERE run_uuid IN ({_marks(page)}) {rest}", page)


def _marks(values: Collection[str]) -> str:
    return ",".join("?" * len(values))


def _tags(tables: Tables, page: Sequence[str], keys: Collection[str]) -> dict[str, dict[str, str]]:
    """The tags with these keys, and those that hold the original names of metrics and parameters, by run."""
    prefixes = "".join(f" OR substr(key, 1, {len(prefix)}) = '{prefix}'" for prefix in (TAG_METRIC, TAG_PARAM))
    query = f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN ({_marks(page)}) "
    return _by_run(tables.rows(f"{query} AND (key IN ({_marks(keys)}){prefixes})", (*page, *keys)))


def _params(tables: Tables, page: Sequence[str], order: str = "") -> dict[str, dict[str, str]]:
    return _by_run(_select(tables, "run_uuid, key, value", "params", page, order))


def _by_run(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for run, key, value in rows:
        found[run][key] = value
    return found


def _parents(tables: Tables, page: Sequence[str]) -> list[Parent]:
    with tables.snapshot():
        tags = _tags(tables, page, PARENT_TAGS)
        # In the order in which they were logged, which is that of the search space.
        params = _params(tables, page, f"ORDER BY {tables.place}")
        experiments = dict(map(tuple, _select(tables, "run_uuid, experiment_id", "runs", page)))
    return [Parent(run, str(experiments[run]), tags[run], space_of(params[run], tags[run])) for run in page]


def _records(tables: Tables, page: Sequence[str]) -> list[Record]:
    tags, params = _tags(tables, page, TAGS.values()), _params(tables, page)
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    epochs: dict[str, int] = {}
    for run, key, value, is_nan, step in _select(tables, "run_uuid, key, value, is_nan, step", "latest_metrics", page):
        metrics[run][key] = math.nan if is_nan else value
        if key in METRICS:
            epochs[run] = max(step, epochs.get(run, 0))
    return [
        Record(run, start, end, tags[run], params[run], metrics[run], epochs.get(run))
        for run, start, end in _select(tables, "run_uuid, start_time, end_time", "runs", page)
    ]


def _points(tables: Tables, page: Sequence[str]) -> Points:
    tags = _tags(tables, page, (TAG_SWEEP, TAG_TRIAL))
    trials = [(tags[run][TAG_SWEEP], int(tags[run][TAG_TRIAL])) for run in page]
    place = {run: number for number, run in enumerate(page)}
    rows = _select(
        tables,
        "run_uuid, key, step, is_nan, value",
        "metrics",
        page,
        "AND step > 0 ORDER BY run_uuid, key, step, timestamp, is_nan, value",
    )
    parts = [arrays((), (), (), ())]
    numbers = dict[str, int]()
    while some := list(islice(rows, ROWS)):
        some = [row for row in some if of_epochs(row[1], row[2])]
        run, key, step, is_nan, value = zip(*some, strict=True) if some else ((), (), (), (), ())
        # The same key may stand for another name in another run.
        names = [tags[r].get(f"{TAG_METRIC}{k}", k) for r, k in zip(run, key, strict=True)]
        metric = [numbers.setdefault(name, len(numbers)) for name in names]
        parts.append(arrays([place[r] for r in run], metric, step, np.where(is_nan, np.nan, value)))
    return Points(trials, list(numbers), *(np.concatenate(part) for part in zip(*parts, strict=True)))
