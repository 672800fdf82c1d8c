"""Tracking URIs: what they name, and how they are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import STORE_VARIABLE, masked, reveal
from mnist_sweep.common.text import printable

if TYPE_CHECKING:
    pass

_SQLITE = "sqlite:///"

# SQLAlchemy decodes both. Of the first MLflow creates the folder as it is written, `v%3F2` beside `v?2`.
_ENCODED = "sqlite+pysqlite:///"

# What ends a URI's path, or is not read as it is written.
_NOT_IN_URIS = re.compile(r"[%?#\x00-\x1f]")

_SCHEMES = {"sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "file"}


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
            f"tracking.uri={masked(uri)}: MLflow has no such kind of store; write sqlite:///PATH or http://HOST:PORT"
        )
    path = sqlite_path(uri)
    if scheme in ("sqlite", "sqlite+pysqlite") and _written_path(uri) is None:
        raise UserError(f"tracking.uri={uri}: write sqlite:///PATH, with three slashes")
    if scheme == "file":
        raise UserError(f"tracking.uri={uri}: MLflow no longer writes file stores; take sqlite:///PATH")
    if path is None:
        return uri
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"tracking.uri={printable(uri)}: the folder {printable(str(path.parent))} has a name that is not UTF-8, "
            "which MLflow cannot open; rename it"
        ) from None
    return sqlite_uri(path) + _options(uri)


def sqlite_uri(path: Path) -> str:
    """The tracking URI of an SQLite file, which `sqlite_path` reads back.

    Args:
        path: The file, absolute, or relative to whatever the URI is to be relative to.
    """
    encoded = _NOT_IN_URIS.sub(lambda found: f"%{ord(found[0]):02X}", str(path))
    return f"{_SQLITE if encoded == str(path) else _ENCODED}{encoded}"


def as_seen_from(uri: str, folder: Path | None) -> str:
    """A tracking URI as another working directory means it.

    Args:
        uri: Any MLflow tracking URI.
        folder: From which a relative SQLite path counts; None for this working directory.
    """
    written = _written_path(uri)
    if folder is None or written is None or written.startswith(("/", "~")):
        return uri
    return sqlite_uri(folder / written) + _options(uri)


def as_kept_in(uri: str, project: Path) -> str:
    """A tracking URI as a sweep's config keeps it, so that it names the copy's own store in a copy of the project.

    Args:
        uri: Any MLflow tracking URI.
        project: The project's folder.

    Returns:
        The URI, relative where it is an SQLite file in the project.
    """
    path, written = sqlite_path(uri), _written_path(uri) or ""
    inside = None if path is None or not written.startswith(("/", "~")) else below(path, project)
    return uri if inside is None else sqlite_uri(inside) + _options(uri)


def below(path: Path, folder: Path) -> Path | None:
    """A path as seen from a folder, whatever links lead to them; None where it does not lie in it."""
    for one, other in ((path, folder), (path.resolve(), folder.resolve())):
        if one.is_relative_to(other):
            return one.relative_to(other)
    return None


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store, absolute; None for other stores."""
    written = _written_path(uri)
    return None if written is None else Path(written).expanduser().absolute()


def _written_path(uri: str) -> str | None:
    """An SQLite store's path as its URI has it, decoded; None for other stores."""
    scheme = next((scheme for scheme in (_SQLITE, _ENCODED) if uri.startswith(scheme)), None)
    return None if scheme is None else unquote(uri.removeprefix(scheme).partition("?")[0])


def _options(uri: str) -> str:
    return "?" + uri.partition("?")[2] if "?" in uri else ""


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


def with_password(uri: str) -> str:
    """The URI whose password `masked` hid.

    Args:
        uri: What a sweep's journal holds.

    Raises:
        UserError: Neither this process nor MLFLOW_TRACKING_URI was given it.
    """
    whole = reveal(uri)
    if whole is None:
        raise UserError(f"tracking.uri={uri}: its password is not stored; set {STORE_VARIABLE} to the whole URI")
    return whole


def file_path(place: str) -> Path | None:
    """The folder that a `file:` URI names; None for other URIs."""
    return Path(url2pathname(urlsplit(place).path)) if place.startswith("file:") else None
