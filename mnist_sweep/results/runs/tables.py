"""Opens the databases whose tables `sql` reads: SQLite files, and PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line
from mnist_sweep.tracking import store
from mnist_sweep.tracking.uri import sqlite_path

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

# Rows that are fetched at a time.
ROWS = 10_000
# Seconds to wait for PostgreSQL. After that, MLflow's API is asked, whose errors say what is wrong.
_CONNECT_WITHIN = 5


class UnknownSchema(Exception):  # noqa: N818 - not an error: MLflow's API reads the store
    """The database cannot be read directly, or its tables are not as expected."""


class Tables(Protocol):
    """A connection to a database, to read it. Others may write to it meanwhile.

    Attributes:
        dialect: MLflow's name for its kind of database.
        place: A column that sorts rows by when they were written.
    """

    dialect: str
    place: str

    def rows(self, query: str, values: Sequence[str | int] = ()) -> Iterator[Any]:
        """The rows that a query finds, one by one as they are needed.

        Args:
            query: A SELECT with `?` for each value.
            values: The values.
        """

    def select(self, query: Select[Any]) -> Iterator[Any]:
        """The rows that a query of SQLAlchemy finds."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Lets several queries see the same state. Used for one page at a time, as a writer may have to wait."""


class _SQLite:
    """An SQLite file, opened without SQLAlchemy, whose import takes longer than most queries."""

    dialect, place = "sqlite", "rowid"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # The same as MLflow's, for LIKE in queries.
        connection.execute("PRAGMA case_sensitive_like = true")

    def rows(self, query: str, values: Sequence[str | int] = ()) -> Iterator[Any]:
        return self._connection.execute(query, values)

    def select(self, query: Select[Any]) -> Iterator[Any]:
        import sqlalchemy
        from sqlalchemy.pool import StaticPool

        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: self._connection, poolclass=StaticPool)
        with engine.connect() as connection:
            yield from connection.execute(query)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")


class _PostgreSQL:
    """A PostgreSQL database, opened with the driver that the URI names."""

    dialect, place = "postgresql", "ctid"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, query: str, values: Sequence[str | int] = ()) -> Iterator[Any]:
        # Both drivers would fetch all rows at once.
        streamed = {"stream_results": True, "yield_per": ROWS}
        return iter(
            self._connection.exec_driver_sql(query.replace("?", "%s"), tuple(values), execution_options=streamed)
        )

    def select(self, query: Select[Any]) -> Iterator[Any]:
        return iter(self._connection.execute(query))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        # The first query begins a transaction, also one that was outside of a snapshot.
        self._connection.rollback()
        try:
            yield
        finally:
            self._connection.rollback()


def can_open(uri: str) -> bool:
    """Returns whether `opened` knows this kind of store.

    Args:
        uri: A tracking URI.
    """
    return sqlite_path(uri) is not None or uri.partition(":")[0].partition("+")[0] == "postgresql"


@contextmanager
def opened(uri: str) -> Iterator[Tables]:
    """Opens a database to read it.

    Args:
        uri: A tracking URI for which `can_open` is true.

    Raises:
        UnknownSchema: It cannot be opened or read.
        UserError: It is an SQLite store whose file is not a database.
    """
    path = sqlite_path(uri)
    with _postgresql(uri) if path is None else _sqlite(path) as tables:
        yield tables


@contextmanager
def _sqlite(path: Path) -> Iterator[Tables]:
    try:
        # Read-only: MLflow may be writing in another thread or process.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
            yield _SQLite(connection)
    except sqlite3.Error as error:
        fault = store.database_fault(path, error)
        if fault is not None:
            raise fault from None
        raise UnknownSchema(str(error)) from error


@contextmanager
def _postgresql(uri: str) -> Iterator[Tables]:
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
        limit = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_WITHIN}
        engine = sqlalchemy.create_engine(
            url, isolation_level="REPEATABLE READ", connect_args=limit, poolclass=sqlalchemy.NullPool
        )
        with engine.connect().execution_options(postgresql_readonly=True) as connection:
            yield _PostgreSQL(connection)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UnknownSchema(masked(first_line(error))) from error
