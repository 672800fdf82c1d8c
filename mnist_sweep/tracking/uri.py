"""MLflow tracking URIs: checks and converts them."""

from __future__ import annotations

import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import STORE_VARIABLE, masked, reveal
from mnist_sweep.common.text import printable

_SQLITE = "sqlite:///"
# SQLAlchemy decodes the path after either prefix. But after the first, MLflow creates the folder without decoding its
# name: `v%3F2` next to `v?2`.
_ENCODED = "sqlite+pysqlite:///"
# Characters that end a URI's path, or that SQLAlchemy decodes.
_SPECIAL = re.compile(r"[%?#\x00-\x1f]")
_DATABASES = {"sqlite", "postgresql", "mysql", "mssql"}
# The stores that MLflow brings. These three are also URIs by themselves.
_NAMES = {"databricks", "databricks-uc", "uc"}
_SCHEMES = {*_DATABASES, *_NAMES, "http", "https", "file"}
# How packages announce further stores: https://mlflow.org/docs/latest/ml/plugins/
_PLUGINS = "mlflow.tracking_store"


def given_now(uri: str | None = None) -> str | None:
    """Returns the tracking URI that the user gives now, which wins over the one that a sweep was logged to.

    Args:
        uri: What an option or an argument gives.

    Returns:
        That, or else the variable MLFLOW_TRACKING_URI; None if neither is given.
    """
    return uri or os.environ.get(STORE_VARIABLE) or None


def absolute(uri: str) -> str:
    """Returns a tracking URI that means the same in any working directory.

    Args:
        uri: Any MLflow tracking URI. A relative SQLite path is relative to the working directory.

    Raises:
        UserError: MLflow does not support the URI.
    """
    scheme, colon, _ = uri.partition(":")
    if not (uri in _NAMES or (colon and (scheme.partition("+")[0] in _SCHEMES or _is_plugin(scheme)))):
        raise UserError(f"tracking.uri={masked(uri)}: MLflow has no such kind of store; write {_meant(uri)}")
    path = sqlite_path(uri)
    if scheme in ("sqlite", "sqlite+pysqlite") and path is None:
        raise UserError(f"tracking.uri={uri}: write sqlite:///PATH, with three slashes")
    if scheme == "file":
        raise UserError(f"tracking.uri={uri}: MLflow no longer writes file stores; use sqlite:///PATH")
    if path is None:
        return uri
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"tracking.uri={printable(uri)}: the name of the folder {printable(str(path.parent))} is not UTF-8, "
            "so MLflow cannot open it; rename it"
        ) from None
    return sqlite_uri(path) + _options(uri)


def _meant(uri: str) -> str:
    """Returns the URI that was most likely meant, without its password, or the forms that there are."""
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"http://{uri}"
    if uri.startswith("postgres://"):
        return masked(uri.replace("postgres", "postgresql", 1))
    if re.fullmatch(r"[\w./~-]*\w/?", uri):
        return f"sqlite:///{uri}" if uri.endswith((".db", ".sqlite")) else f"sqlite:///{uri.rstrip('/')}/mlflow.db"
    return "sqlite:///PATH or http://HOST:PORT"


def _is_plugin(scheme: str) -> bool:
    """Returns whether an installed package brings a store of that kind."""
    return any(found.name == scheme for found in entry_points(group=_PLUGINS))


def is_database(uri: str) -> bool:
    """Returns whether a store is a database that MLflow opens itself, without a server."""
    return uri.partition(":")[0].partition("+")[0] in _DATABASES


def is_server(uri: str) -> bool:
    """Returns whether a store is a tracking server."""
    return uri.startswith(("http:", "https:"))


def sqlite_uri(path: Path) -> str:
    """Returns the tracking URI of an SQLite file; `sqlite_path` converts it back.

    Args:
        path: The file, as an absolute or relative path.
    """
    encoded = _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", str(path))
    return f"{_SQLITE if encoded == str(path) else _ENCODED}{encoded}"


def as_seen_from(uri: str, folder: Path | None) -> str:
    """Returns a tracking URI whose relative SQLite path is resolved against a folder.

    Args:
        uri: Any MLflow tracking URI.
        folder: The folder; None for the working directory.
    """
    written = _written_path(uri)
    if folder is None or written is None or written.startswith(("/", "~")):
        return uri
    return sqlite_uri(folder / written) + _options(uri)


def as_kept_in(uri: str, project: Path) -> str:
    """Returns a tracking URI for a sweep's saved config, so that a copy of the project uses the copy's own store.

    Args:
        uri: Any MLflow tracking URI.
        project: The project's folder.

    Returns:
        The URI, made relative if it is an SQLite file in the project.
    """
    path, written = sqlite_path(uri), _written_path(uri) or ""
    inside = None if path is None or not written.startswith(("/", "~")) else below(path, project)
    return uri if inside is None else sqlite_uri(inside) + _options(uri)


def below(path: Path, folder: Path) -> Path | None:
    """Returns a path relative to a folder, whatever links lead to them; None if it is not in the folder."""
    for one, other in ((path, folder), (path.resolve(), folder.resolve())):
        if one.is_relative_to(other):
            return one.relative_to(other)
    return None


def sqlite_path(uri: str) -> Path | None:
    """Returns the absolute path of an SQLite store; None for other stores."""
    written = _written_path(uri)
    return None if written is None else Path(written).expanduser().absolute()


def _written_path(uri: str) -> str | None:
    """Returns an SQLite store's path as written in its URI, decoded; None for other stores."""
    scheme = next((scheme for scheme in (_SQLITE, _ENCODED) if uri.startswith(scheme)), None)
    return None if scheme is None else unquote(uri.removeprefix(scheme).partition("?")[0])


def _options(uri: str) -> str:
    return "?" + uri.partition("?")[2] if "?" in uri else ""


def existing(uri: str) -> str:
    """Does the same as `absolute` for a store that must exist.

    Raises:
        UserError: MLflow does not support the URI, or a local store does not exist.
    """
    uri = absolute(uri)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(
            f"tracking.uri={uri}: there are no runs yet; start with {invocation.command('+experiment=quick')}"
        )
    return uri


def with_password(uri: str) -> str:
    """Returns a URI with the password that `masked` has hidden.

    Args:
        uri: The URI in a sweep's journal.

    Raises:
        UserError: Neither this process nor MLFLOW_TRACKING_URI contains it.
    """
    revealed = reveal(uri)
    if revealed is None:
        raise UserError(f"tracking.uri={uri}: its password is not stored; set {STORE_VARIABLE} to the full URI")
    return revealed


def file_path(uri: str) -> Path | None:
    """Returns the path of a `file:` URI; None for other URIs."""
    return Path(url2pathname(urlsplit(uri).path)) if uri.startswith("file:") else None
