"""The MLflow store: where it is, how it comes into being, and how it finds its files in a copy of a project."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import PARTIAL, remove, write_whole
from mnist_sweep.common.importing import without_collector
from mnist_sweep.common.secrets import masked
from mnist_sweep.tracking.tags import TAG_STORE
from mnist_sweep.tracking.uri import absolute, existing, file_path, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
# Seconds to wait for another process that writes, before a database that is only read is called locked.
_LOCKED = 5.0
# The same for a database that is to be written, whose other writers may take their time.
_PATIENCE = 30.0


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """Opens a store.

    Args:
        uri: Any MLflow tracking URI.
        create: Whether to create an SQLite store that is not there yet.

    Returns:
        A client for it. The first call in a process takes seconds, as it imports MLflow.

    Raises:
        UserError: The store is not there, or cannot be written.
    """
    uri = absolute(uri) if create else existing(uri)
    path = sqlite_path(uri)
    if path is not None:
        if path.exists():
            check_database(path)
        else:
            _create(path)
        _follow(path)
    return _client(uri)


def check_database(path: Path) -> None:
    """Refuses a database that cannot be read: MLflow itself would try for minutes, and print each time.

    Args:
        path: The file of an SQLite store.

    Raises:
        UserError: It is damaged, or another process keeps it locked.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_LOCKED)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                quoted = str(table).replace('"', '""')
                database.execute(f'SELECT * FROM "{quoted}" LIMIT 1').fetchone()
    except sqlite3.Error as error:
        fault = database_fault(path, error)
        if fault is not None:
            raise fault from None


def database_fault(path: Path, error: sqlite3.Error) -> UserError | None:
    """What is wrong with a database as a whole; None where an error is about something else.

    Args:
        path: The file of an SQLite store.
        error: What reading it has raised.
    """
    other = "name another with --tracking-uri or MLFLOW_TRACKING_URI"
    told = {
        sqlite3.SQLITE_NOTADB: f"is not an SQLite database; {other}",
        sqlite3.SQLITE_CORRUPT: f"is damaged ({error}); restore it, or {other}, and sync writes the sweeps into that",
        sqlite3.SQLITE_IOERR: f"cannot be read ({error})",
        sqlite3.SQLITE_BUSY: "is locked by another process; try again when that has ended",
        sqlite3.SQLITE_LOCKED: "is locked by another process; try again when that has ended",
    }
    what = told.get(_primary_code(error))
    return None if what is None else UserError(f"tracking.uri={sqlite_uri(path)}: {what}")


def _primary_code(error: sqlite3.Error) -> int:
    # The lowest byte is the kind of error, the rest tells more of it: https://sqlite.org/rescode.html
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


# Where MLflow writes down, absolute, in which folder files lie.
_PLACES = (
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


def _follow(path: Path) -> None:
    """Lets a database that was moved or copied together with its files find them again, and write beside itself.

    Raises:
        UserError: Another process writes for long, or the database is a hard link to the original's.
    """
    here = path.resolve()
    with contextlib.suppress(sqlite3.Error):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            if all(_is_here(store, here) for *_, store in database.execute(_EXPERIMENTS)):
                return
        # Not where the tables are not MLflow's: it says itself what it makes of them.
        _rewrite_places(path, here)


def _is_here(store: str | None, here: Path) -> bool:
    """Whether a database is the one that its experiment names, whatever path leads to it."""
    if store is None or Path(store) == here:
        return store is not None
    if not _same(Path(store), here):
        return False
    if here.stat().st_nlink > 1:
        raise UserError(
            f"tracking.uri={sqlite_uri(here)}: is a hard link to {store}, so that whatever is written to one is in "
            f"both; make it a file of its own: cp {here.name} new && mv new {here.name}"
        )
    # A folder that is mounted at two places.
    return True


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def _rewrite_places(path: Path, here: Path) -> None:
    try:
        with _locked(path), contextlib.closing(sqlite3.connect(path, _PATIENCE, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            experiments = database.execute(_EXPERIMENTS).fetchall()
            moves = _moves(experiments, here)
            database.create_function("moved", 1, lambda place: _moved(place, moves), deterministic=True)
            for table, column in _PLACES:
                database.execute(f"UPDATE {table} SET {column} = moved({column}) WHERE {column} <> moved({column})")
            database.executemany(
                "INSERT OR REPLACE INTO experiment_tags (experiment_id, key, value) VALUES (?, ?, ?)",
                [(number, TAG_STORE, str(here)) for number, _, store in experiments if not _is_here(store, here)],
            )
            database.execute("COMMIT")
    except OSError as error:
        _LOG.info("%s may not be written (%s): its files are looked for where they were", path, error.strerror)
    except sqlite3.OperationalError as error:
        if _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UserError(f"tracking.uri={sqlite_uri(path)}: another process writes to it; try again") from None
        _LOG.info("%s may not be written (%s): its files are looked for where they were", path, error)
    else:
        for old, new in moves.items():
            _LOG.info("%s and its files were in %s, and now are in %s", path, old, new)


def _moves(experiments: Iterable[tuple[int, str | None, str | None]], here: Path) -> dict[Path, Path]:
    """From the folders that were copied with a database to those in which they are now."""
    moves: dict[Path, Path] = {}
    for _, location, store in experiments:
        place = file_path(location or "") or Path(location or "")
        if store is None:
            moves |= _guessed(place, here)
        elif not _is_here(store, here):
            old = Path(store)
            if old.parent != here.parent:
                moves[old.parent] = here.parent
            root, now = _without_common_end(old, here)
            # Of what does not lie beside the database, only what was copied with it.
            if root != now and place.is_relative_to(root) and not place.is_relative_to(old.parent):
                new = now / place.relative_to(root)
                moves |= {place: new} if new.is_dir() else {}
    return moves


def _guessed(place: Path, here: Path) -> dict[Path, Path]:
    """What was copied with a database that does not say where it lay, as those of earlier versions do not.

    What lies in FOLDER/NAME beside the database, and is not where the database says, was copied with it; so was what
    lies in PARENT/FOLDER/NAME beside the database's folder.
    """
    for count, root in ((2, here.parent), (3, here.parent.parent)):
        now = root.joinpath(*place.parts[-count:])
        if len(place.parts) > count and now != place and now.is_dir() and not _same(place, now):
            return {place.parents[count - 1]: root}
    return {}


def _without_common_end(one: Path, other: Path) -> tuple[Path, Path]:
    """The folders above two paths from which on they are the same: the project's, for its store in two copies."""
    while one.name == other.name != "":
        one, other = one.parent, other.parent
    return one, other


def _moved(place: str | None, moves: dict[Path, Path]) -> str | None:
    # The innermost folder first. MLflow's own default places are paths and no URIs.
    for old in sorted(moves, key=lambda old: -len(old.parts)):
        for before, now in ((old.as_uri(), moves[old].as_uri()), (str(old), str(moves[old]))):
            if place is not None and (place == before or place.startswith(f"{before}/")):
                return now + place[len(before) :]
    return place


def search_runs(client: MlflowClient, experiments: list[str], query: str, page: int = 1000) -> Iterator[Run]:
    """All runs that match, however many pages they fill.

    Args:
        client: The store.
        experiments: The ids of the experiments to look in.
        query: In MLflow's search language.
        page: Runs asked for at a time.
    """
    token = None
    while True:
        found = client.search_runs(experiments, query, max_results=page, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def _client(uri: str) -> MlflowClient:
    _import_mlflow()
    from mlflow import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri)
    except ModuleNotFoundError as error:
        # MLflow leaves the drivers of databases to whoever uses one.
        raise UserError(
            f"tracking.uri={masked(uri)}: needs the Python package {error.name}, which is not installed; "
            f"pip install {error.name}"
        ) from None


def _import_mlflow() -> None:
    """Imports MLflow, quiet and patient as this program needs it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default MLflow asks a server that is gone for four minutes. It repeats what creates a run, too, and then there
    # are two where the first answer was lost: repeating is for those who can look first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # A line for each downloaded file, where tqdm is there.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Else each run that ends is asked for, to print where it can be seen.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with without_collector():
        import mlflow  # noqa: F401 - takes seconds
        from sqlalchemy import event
        from sqlalchemy.engine import Engine
    if not event.contains(Engine, "connect", _wait_less):
        event.listen(Engine, "connect", _wait_less)
    # Importing MLflow sets its loggers up to print tracebacks, and every table that it creates: into the log with it,
    # where there is one.
    for name in ("alembic", "mlflow"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = True


def _wait_less(connection: object, _: object) -> None:
    """Lets an SQLite store with a write-ahead log wait for the disk now and then, and not with each of MLflow's writes.

    Killing a process loses nothing then. A power failure may lose the last writes, never the database: the journal has
    them, for `sync`. See https://sqlite.org/pragma.html#pragma_synchronous
    """
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")


def _create(path: Path) -> None:
    """Lets a complete database appear at once.

    MLflow creates its tables one by one without a lock: two processes at a time, or a kill in between, leave a
    database that cannot be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if path.exists():
                return
            # What a kill has left, of this version and of earlier ones.
            for name in (f"{PARTIAL}{path.name}", f"partial-{path.name}"):
                for end in ("", "-wal", "-shm", "-journal"):
                    remove(path.with_name(f"{name}{end}"))
            write_whole(path, _write_tables)
    except OSError as error:
        raise UserError(f"tracking.uri={sqlite_uri(path)}: cannot be written ({error.strerror})") from None


def _write_tables(path: Path) -> None:
    _import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Without a place, that of MLflow's default experiment would be put into SQL as the working directory is called,
    # whatever is in that name.
    make: Any = SqlAlchemyStore
    make(sqlite_uri(path), path.parent.resolve().as_uri())._dispose_engine()
    with contextlib.closing(sqlite3.connect(path)) as database:
        # So that the UI may read while a sweep writes; stays on once set.
        database.execute("PRAGMA journal_mode=WAL")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from creating a database, or changing its places, meanwhile."""
    with open(path.with_name(f".{path.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
