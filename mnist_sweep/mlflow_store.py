"""The MLflow store: where it is, and how it comes into being."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mnist_sweep.errors import UserError
from mnist_sweep.importing import without_collector

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_SQLITE = "sqlite:///"
_SCHEMES = {"sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "file"}

TAG_SWEEP = "mnist_sweep.sweep"
TAG_KIND = "mnist_sweep.kind"
TAG_TRIAL = "mnist_sweep.trial"
TAG_EXECUTION = "mnist_sweep.execution"
TAG_CONFIRMS = "mnist_sweep.confirms"
TAG_STATUS = "mnist_sweep.status"
TAG_REASON = "mnist_sweep.reason"
TAG_WINNER = "mnist_sweep.winner"
TAG_OBJECTIVE = "mnist_sweep.objective"
TAG_BEGUN = "mnist_sweep.begun"
TAG_DONE = "mnist_sweep.logged"
TAG_SLOT = "mnist_sweep.slot"
TAG_BACKEND = "mnist_sweep.backend"
TAG_GOES_ON_FROM = "mnist_sweep.goes_on_from"
TAG_NOTE = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"


def absolute(uri: str) -> str:
    """A tracking URI that means the same from any working directory.

    Args:
        uri: Any MLflow tracking URI; a relative SQLite path is taken from the working directory.

    Raises:
        UserError: MLflow knows no such scheme, or refuses it.
    """
    scheme, colon, _ = uri.partition(":")
    if not colon or scheme.partition("+")[0] not in _SCHEMES:
        raise UserError(
            f"tracking.uri={without_password(uri)}: MLflow has no such kind of store; "
            "write sqlite:///PATH or http://HOST:PORT"
        )
    if scheme == "sqlite" and not uri.startswith(_SQLITE):
        raise UserError(f"tracking.uri={uri}: write sqlite:///PATH, with three slashes")
    if scheme == "file":
        raise UserError(f"tracking.uri={uri}: MLflow no longer writes file stores; take sqlite:///PATH")
    path = sqlite_path(uri)
    options = "?" + uri.partition("?")[2] if "?" in uri else ""
    return uri if path is None else f"{_SQLITE}{path}{options}"


def as_seen_from(uri: str, folder: Path | None) -> str:
    """A tracking URI as another working directory means it.

    Args:
        uri: Any MLflow tracking URI.
        folder: From which a relative SQLite path counts; None for this working directory.
    """
    relative = uri.removeprefix(_SQLITE)
    if folder is None or relative == uri or relative.startswith("/"):
        return uri
    return f"{_SQLITE}{folder / relative}"


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store, absolute; None for other stores."""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path).expanduser().absolute() if uri.startswith(_SQLITE) else None


def existing(uri: str) -> str:
    """As `absolute`, for a store to read.

    Raises:
        UserError: MLflow knows no such scheme, or refuses it; or a local store is not there.
    """
    uri = absolute(uri)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(
            f"tracking.uri={uri}: there are no runs yet; start with python -m mnist_sweep +experiment=quick"
        )
    return uri


def without_password(uri: str) -> str:
    """A URI that may be printed."""
    text = re.sub(r"://(?!/)[^\s'\"]*@", "://***@", uri)
    return re.sub(r"(password|passwd|token|secret)=[^&\s]+", r"\1=***", text, flags=re.IGNORECASE)


def with_password(uri: str) -> str:
    """The URI whose password `without_password` hid, from the environment.

    Args:
        uri: What a sweep's journal holds.

    Raises:
        UserError: MLFLOW_TRACKING_URI does not hold it.
    """
    if "***" not in uri:
        return uri
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if without_password(given) != uri:
        raise UserError(f"tracking.uri={uri}: its password is not kept; give the whole URI in MLFLOW_TRACKING_URI")
    return given


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
    if path is not None and not path.exists():
        _create(path)
    elif path is not None:
        _follow(path)
    return _client(uri)


def file_path(place: str) -> Path | None:
    """The folder that a `file:` URI names; None for other URIs."""
    return Path(url2pathname(urlsplit(place).path)) if place.startswith("file:") else None


# Where MLflow writes down, absolute, in which folder files lie.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def _follow(path: Path) -> None:
    """Lets a database that was moved together with its files find them again.

    What lies in FOLDER/NAME beside the database now, and is not where the database says, was moved with it.
    """
    with contextlib.closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.Error), database:
        for (location,) in database.execute("SELECT artifact_location FROM experiments").fetchall():
            before = file_path(str(location))
            if before is None:
                continue
            tail = Path(*before.parts[-2:])
            if before.exists() or not (path.parent / tail).is_dir():
                continue
            old, new = (f"{folder.as_uri()}/" for folder in (before.parents[1], path.parent))
            for table, column in _PLACES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old), old),
                )
            _LOG.info("%s and its files were moved from %s", path, before.parents[1])


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
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default MLflow asks a server that is gone for four minutes. It repeats what creates a run, too, and then there
    # are two where the first answer was lost: repeating is for those who can look first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # A line for each downloaded file, where tqdm is there.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Else each run that ends is asked for, to print where it can be seen.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with without_collector():
        from mlflow import MlflowClient
        from sqlalchemy import event
        from sqlalchemy.engine import Engine
    if not event.contains(Engine, "connect", _wait_less):
        event.listen(Engine, "connect", _wait_less)
    # Importing MLflow sets its loggers up, to tell of every table that it creates.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


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
        lock = open(path.with_name(f".{path.name}.lock"), "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"tracking.uri={_SQLITE}{path}: cannot be written ({error.strerror})") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        partial = path.with_name(f"partial-{path.name}")
        for leftover in path.parent.glob(f"{partial.name}*"):
            leftover.unlink()
        _client(f"{_SQLITE}{partial}").search_experiments()
        with sqlite3.connect(partial) as database:
            # So that the UI may read while a sweep writes; stays on once set.
            database.execute("PRAGMA journal_mode=WAL")
        database.close()
        partial.replace(path)
