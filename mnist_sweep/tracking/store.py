"""Opens the MLflow store, creates it if needed, and updates its paths in a copy of a project."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.common.errors import UnreachableError, UserError
from mnist_sweep.common.files import PARTIAL, remove, write_whole
from mnist_sweep.common.importing import without_collector
from mnist_sweep.common.ports import keep_loopback_direct
from mnist_sweep.common.secrets import masked
from mnist_sweep.tracking.faults import lasting_fault, missing
from mnist_sweep.tracking.tags import TAG_STORE
from mnist_sweep.tracking.uri import absolute, existing, file_path, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
# Seconds to wait for a store's first answer.
ANSWER_WITHIN = 9.0
# Seconds to wait for another process's lock before reading, and before writing.
_READ_TIMEOUT, _WRITE_TIMEOUT = 5.0, 30.0


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """Opens a store.

    Args:
        uri: Any MLflow tracking URI.
        create: Whether to create an SQLite store that does not exist yet.

    Returns:
        A client for it. The first call in a process takes seconds, as it imports MLflow.

    Raises:
        UserError: The store does not exist, cannot be read or written, or does not answer in time.
    """
    uri = absolute(uri) if create else existing(uri)
    path = sqlite_path(uri)
    if path is not None:
        if not path.exists():
            _create(path)
        _relocate(path)
    _import_mlflow()
    try:
        return _client(uri) if path is not None else _answering_client(uri)
    except Exception as error:
        fault = None if isinstance(error, UserError) else lasting_fault(error, uri)
        if fault is None:
            raise
        raise UserError(f"tracking.uri={masked(uri)}: {fault}") from error


def _answering_client(uri: str) -> MlflowClient:
    """Opens a store that may be on another machine, and waits for its first answer."""
    opened: list[MlflowClient | Exception] = []

    def ask() -> None:
        try:
            client = _client(uri)
            client.search_experiments(max_results=1)
            opened.append(client)
        except Exception as error:
            opened.append(error)

    # Drivers of databases may wait for ever. As a daemon, the thread does not keep the process from ending.
    thread = threading.Thread(target=ask, name="first answer", daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN)
    for found in opened:
        if isinstance(found, Exception):
            raise found
        return found
    raise UnreachableError(
        f"tracking.uri={masked(uri)}: does not answer within {ANSWER_WITHIN:.0f} s; start the server again, or name "
        "another store with --tracking-uri or MLFLOW_TRACKING_URI"
    )


def place(uri: str) -> tuple[int, int] | None:
    """Returns what tells an SQLite store's file from one that has replaced it; None if there is none."""
    path = sqlite_path(uri)
    with contextlib.suppress(OSError):
        if path is not None:
            stat = path.stat()
            return stat.st_dev, stat.st_ino
    return None


def check_database(path: Path) -> None:
    """Checks that a database can be read. MLflow itself would retry for minutes, and print each time.

    Args:
        path: The file of an SQLite store.

    Raises:
        UserError: It is damaged, or another process keeps it locked.
    """
    _read_experiments(path)


def _read_experiments(path: Path) -> list[tuple[int, str | None, str | None]]:
    """Returns the id, the artifact location and the database of each experiment; none if the tables are not MLflow's.

    Raises:
        UserError: As for `check_database`: every table is read.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", _READ_TIMEOUT, uri=True)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                quoted = str(table).replace('"', '""')
                database.execute(f'SELECT * FROM "{quoted}" LIMIT 1').fetchone()
            return database.execute(_EXPERIMENTS).fetchall()
    except sqlite3.Error as error:
        fault = database_fault(path, error)
        if fault is not None:
            raise fault from None
    return []


def database_fault(path: Path, error: sqlite3.Error) -> UserError | None:
    """Returns what is wrong with a database as a whole; None if an error has another cause.

    Args:
        path: The file of an SQLite store.
        error: The error that reading it has raised.
    """
    other = "name another one with --tracking-uri or MLFLOW_TRACKING_URI"
    locked = "is locked by another process; try again when that has ended"
    reasons = {
        sqlite3.SQLITE_NOTADB: f"is not an SQLite database; {other}",
        sqlite3.SQLITE_CORRUPT: f"is damaged ({error}); restore it, or {other} and run sync to log the sweeps again",
        sqlite3.SQLITE_IOERR: f"cannot be read ({error})",
        sqlite3.SQLITE_BUSY: locked,
        sqlite3.SQLITE_LOCKED: locked,
    }
    reason = reasons.get(_primary_code(error))
    kind = UnreachableError if reason == locked else UserError
    return None if reason is None else kind(f"tracking.uri={sqlite_uri(path)}: {reason}")


def _primary_code(error: sqlite3.Error) -> int:
    # The lowest byte is the kind of error, the rest are details: https://sqlite.org/rescode.html
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


# The columns in which MLflow stores absolute paths of files.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_EXPERIMENTS = (
    "SELECT experiments.experiment_id, artifact_location, value FROM experiments LEFT JOIN experiment_tags "
    f"ON experiment_tags.experiment_id = experiments.experiment_id AND key = '{TAG_STORE}'"
)


def _relocate(path: Path) -> None:
    """Updates the paths in a database that was moved or copied together with its files.

    Raises:
        UserError: The database cannot be read, another process keeps it locked, or it is a hard link to the original.
    """
    here = path.resolve()
    if not all(_is_here(store, here) for *_, store in _read_experiments(path)):
        _rewrite_locations(path, here)


def _is_here(store: str | None, here: Path) -> bool:
    """Returns whether a database is the one that its experiment names, whatever links lead to it."""
    if store is None or Path(store) == here:
        return store is not None
    if not _same(Path(store), here):
        return False
    if here.stat().st_nlink > 1:
        raise UserError(
            f"tracking.uri={sqlite_uri(here)}: is a hard link to {store}, so runs logged to one would be in both; "
            f"make it a separate file: cp {here.name} new && mv new {here.name}"
        )
    # The same folder, mounted twice.
    return True


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def _rewrite_locations(path: Path, here: Path) -> None:
    try:
        with _locked(path), contextlib.closing(sqlite3.connect(path, _WRITE_TIMEOUT, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            experiments = database.execute(_EXPERIMENTS).fetchall()
            moves = _moves(experiments, here)
            database.create_function("moved", 1, lambda location: _new_location(location, moves), deterministic=True)
            for table, column in _LOCATIONS:
                database.execute(f"UPDATE {table} SET {column} = moved({column}) WHERE {column} <> moved({column})")
            database.executemany(
                "INSERT OR REPLACE INTO experiment_tags (experiment_id, key, value) VALUES (?, ?, ?)",
                [(number, TAG_STORE, str(here)) for number, _, store in experiments if not _is_here(store, here)],
            )
            database.execute("COMMIT")
    except OSError as error:
        _LOG.info("%s is read-only (%s): its artifacts are looked up in their old folder", path, error.strerror)
    except sqlite3.Error as error:
        if _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UnreachableError(
                f"tracking.uri={sqlite_uri(path)}: another process writes to it; try again"
            ) from None
        _LOG.info("%s cannot be changed (%s): its artifacts are looked up in their old folder", path, error)
    else:
        for old, new in moves.items():
            _LOG.info("%s and its files have moved from %s to %s", path, old, new)


def _moves(experiments: Iterable[tuple[int, str | None, str | None]], here: Path) -> dict[Path, Path]:
    """Returns the new location of each folder that was moved or copied with a database."""
    moves: dict[Path, Path] = {}
    for _, location, store in experiments:
        folder = file_path(location or "") or Path(location or "")
        if store is None:
            moves |= _guess_move(folder, here)
        elif not _is_here(store, here):
            old = Path(store)
            if old.parent != here.parent:
                moves[old.parent] = here.parent
            old_root, new_root = _without_common_suffix(old, here)
            # A folder outside the database's folder has moved only if it exists at the new location.
            if old_root != new_root and folder.is_relative_to(old_root) and not folder.is_relative_to(old.parent):
                new = new_root / folder.relative_to(old_root)
                moves |= {folder: new} if new.is_dir() else {}
    return moves


def _guess_move(folder: Path, here: Path) -> dict[Path, Path]:
    """Guesses what has moved with a database of an earlier version, which does not store its own path.

    A folder has moved if its last two names exist next to the database, or its last three next to that one's folder.
    """
    for count, root in ((2, here.parent), (3, here.parent.parent)):
        new = root.joinpath(*folder.parts[-count:])
        if len(folder.parts) > count and new != folder and new.is_dir() and not _same(folder, new):
            return {folder.parents[count - 1]: root}
    return {}


def _without_common_suffix(one: Path, other: Path) -> tuple[Path, Path]:
    """Strips the names that two paths end with, which leaves the projects of a store in two copies of a project."""
    while one.name == other.name != "":
        one, other = one.parent, other.parent
    return one, other


def _new_location(location: str | None, moves: dict[Path, Path]) -> str | None:
    # The innermost folder first. MLflow's default locations are paths, not URIs.
    for old in sorted(moves, key=lambda old: -len(old.parts)):
        for before, after in ((old.as_uri(), moves[old].as_uri()), (str(old), str(moves[old]))):
            if location is not None and (location == before or location.startswith(f"{before}/")):
                return after + location[len(before) :]
    return location


def search_runs(
    client: MlflowClient, experiments: list[str], query: str, page: int = 1000, *, deleted: bool = False
) -> Iterator[Run]:
    """Yields all runs that match a query, page by page.

    Args:
        client: The store.
        experiments: The ids of the experiments to search.
        query: A query in MLflow's search language.
        page: How many runs to request at a time.
        deleted: Whether to include deleted runs.
    """
    from mlflow.entities import ViewType

    view, token = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None
    while True:
        found = client.search_runs(experiments, query, view, max_results=page, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri)
    except ModuleNotFoundError as error:
        # MLflow does not install the drivers of databases.
        raise UserError(f"tracking.uri={masked(uri)}: {missing(error)}") from None


def _import_mlflow() -> None:
    """Imports MLflow, with less output and without its retries."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default, MLflow retries for four minutes. It also repeats the creation of a run, which creates two runs if only
    # the first response was lost. The recorder retries by itself, and looks for the run first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # Else the library of S3 retries for longer than a user waits. Files are tried again by themselves.
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "3")
    # Else MLflow prints a line per downloaded file if tqdm is installed.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Else MLflow requests each run that ends, to print its URL.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    keep_loopback_direct()
    with without_collector():
        import mlflow  # noqa: F401 - takes seconds
        import mlflow.store.db.utils as databases
        from sqlalchemy import event
        from sqlalchemy.engine import Engine
    # How long PostgreSQL's driver waits for a server that accepts and never answers.
    os.environ.setdefault("PGCONNECT_TIMEOUT", "30")
    # Otherwise MLflow retries to open a database for minutes, and the cause is told only then.
    databases.MAX_RETRY_COUNT = 1
    if not event.contains(Engine, "connect", _set_synchronous):
        event.listen(Engine, "connect", _set_synchronous)
    # MLflow's loggers print tracebacks and every table that it creates. Send only warnings, and to our log.
    for name in ("alembic", "mlflow"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = True


def _set_synchronous(connection: object, _: object) -> None:
    """Makes an SQLite store with a write-ahead log flush to disk now and then instead of after each write.

    A killed process loses nothing. A power failure may lose the last writes, but does not damage the database.
    `sync` restores them from the journal. See https://sqlite.org/pragma.html#pragma_synchronous
    """
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")


def _create(path: Path) -> None:
    """Creates a database that appears only once it is complete.

    MLflow creates its tables one by one without a lock. Two processes at a time, or a kill in between, would leave an
    unusable database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if path.exists():
                return
            # Left by a killed process of this or an earlier version.
            for name in (f"{PARTIAL}{path.name}", f"partial-{path.name}"):
                for end in ("", "-wal", "-shm", "-journal"):
                    remove(path.with_name(f"{name}{end}"))
            write_whole(path, _write_tables)
    except OSError as error:
        raise UserError(f"tracking.uri={sqlite_uri(path)}: cannot be written ({error.strerror})") from None


def _write_tables(path: Path) -> None:
    _import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Without an artifact URI, MLflow would put the unescaped name of the working directory into an SQL statement.
    store: Any = SqlAlchemyStore
    store(sqlite_uri(path), path.parent.resolve().as_uri())._dispose_engine()
    with contextlib.closing(sqlite3.connect(path)) as database:
        # Lets the UI read while a sweep writes; the setting is stored in the file.
        database.execute("PRAGMA journal_mode=WAL")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from creating a database or changing its locations."""
    with open(path.with_name(f".{path.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
