"""Tells the faults of a store that last until somebody mends them from outages, which pass by themselves."""

from __future__ import annotations

import re
from pathlib import Path

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UnreachableError, UserError, machine_fault, with_causes
from mnist_sweep.common.secrets import STORE_VARIABLE, masked
from mnist_sweep.common.text import first_line, os_reason
from mnist_sweep.tracking.uri import is_database

_LONGEST = 20_000
_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what the server accepts"
)
# MLflow's error codes for HTTP's 401, 403 and 404; a gateway in front of the server may send other texts with them.
_CODES = {
    "UNAUTHENTICATED": f"the server rejects the login (401); {_LOGIN}",
    "CUSTOMER_UNAUTHORIZED": f"the server rejects the login (401); {_LOGIN}",
    "PERMISSION_DENIED": "the server does not allow it (403); ask its owner to, or log in as another user",
    "ENDPOINT_NOT_FOUND": "the address is not that of an MLflow tracking server (404); check tracking.uri",
}
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
# What libraries of object storage say, and MLflow where it has its own words for it.
_FILE_TEXTS = (
    (
        re.compile(r"NoSuchBucket|bucket does not exist|InvalidBucketName|Invalid bucket name"),
        "the bucket does not exist; create it",
    ),
    (
        re.compile(r"Unable to locate credentials|Partial credentials|config profile \(.*\) could not be found"),
        f"there are no credentials for it; set {_KEYS}",
    ),
    (
        re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|InvalidClientTokenId"),
        f"it rejects the credentials; check {_KEYS}",
    ),
    (
        re.compile(r"AccessDenied|AllAccessDisabled|error code 403\b|\(403\)|\bForbidden\b"),
        "it does not allow it (403); ask its owner for the right to write there",
    ),
)
_UNREACHABLE = re.compile(r"Max retries exceeded|Could not connect|[Tt]imed out|Connection (refused|reset|aborted)")
_SERVER_FAILS = re.compile(r"too many 500 error responses|error code 500\b|500 Server Error")
# The extra of this package that has what a store needs, by the module that is missing.
_EXTRAS = {"psycopg": "postgres", "psycopg2": "postgres", "boto3": "s3", "botocore": "s3"}
_SCHEMA = re.compile(
    r"out-of-date database schema(?: \(found version (\w+))?|Can't locate revision identified by '(\w+)"
)
# What drivers of databases, and gateways that know nothing of MLflow's error codes, say.
_TEXTS = (
    (re.compile(r"error code 401\b|Unauthori[sz]ed\b"), _CODES["UNAUTHENTICATED"]),
    (re.compile(r"error code 403\b|\bForbidden\b"), _CODES["PERMISSION_DENIED"]),
    (
        re.compile(
            r"password authentication failed|no password supplied|Access denied for user|no pg_hba\.conf entry"
            r"|Login failed for user"
        ),
        f"the database rejects the login; check the user and password in {STORE_VARIABLE}",
    ),
    (
        re.compile(r"(?:role|database) \"[^\"]*\" does not exist|Unknown database"),
        "the database or its user does not exist; create it, or check tracking.uri",
    ),
    (
        re.compile(r"permission denied for|command denied to user|permission was denied on the object"),
        "the database's user may not write; grant the permission, or use another user",
    ),
    (
        re.compile(r"readonly database|read-only transaction|unable to open database file"),
        "the database cannot be written; give this user the right to write to the file and its folder",
    ),
    (
        re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"),
        "the server's certificate is not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH to its authority's file",
    ),
)


def lasting_fault(error: BaseException, uri: str) -> str | None:
    """Returns what is wrong with a store and what to do, if that does not pass by itself.

    Args:
        error: What a call of MLflow's client, or `store.connect`, has raised.
        uri: The store.

    Returns:
        One line without passwords; None for an outage, such as a server that is down, and for input that the store
        rejects.
    """
    if isinstance(error, UnreachableError):
        return None
    if isinstance(error, UserError):
        return masked(first_line(error))
    if isinstance(error, ImportError):
        return missing(error)
    if isinstance(error, TypeError) and is_database(uri) and "bytes-like object" in str(error):
        return "the database's encoding is SQL_ASCII, which MLflow cannot read; create it with ENCODING 'UTF8'"
    causes = list(with_causes(error))
    # Without the SQL statement, which contains the values.
    text = "\n".join(str(cause)[:_LONGEST].partition("\n[SQL")[0] for cause in causes)
    schema = _SCHEMA.search(text)
    if schema is not None:
        return _other_schema(schema[1] or schema[2] or "", uri)
    for cause in causes:
        if (reason := fault_of_code(cause)) is not None:
            return f"{reason} ({masked(first_line(cause))})"
    if any(_is_from_a_store(cause) for cause in causes):
        reason = next((what for pattern, what in _TEXTS if pattern.search(text)), None)
        if reason is not None:
            return f"{reason} ({masked(first_line(error))})"
    if any(isinstance(cause, PermissionError) for cause in causes):
        return f"{masked(first_line(error))}; give this user the right to write there"
    return machine_fault(error)


def missing(error: ImportError) -> str:
    """Returns which package a store needs, and how to install it."""
    name = str(error.name).partition(".")[0]
    wanted = f"mnist_sweep[{_EXTRAS[name]}]" if name in _EXTRAS else name
    return f"needs the Python package {name}, which is not installed; {invocation.pip_install(wanted)}"


def fault_of_files(error: BaseException) -> tuple[str, bool]:
    """Returns what is wrong with the place of a store's files, and whether that lasts until somebody mends it.

    Args:
        error: What writing or reading a file has raised.

    Returns:
        One line without passwords, which says what to do if that is known.
    """
    if isinstance(error, ImportError):
        return missing(error), True
    causes = list(with_causes(error))
    text = "\n".join(str(cause)[:_LONGEST] for cause in causes)
    for cause in causes:
        if (reason := fault_of_code(cause)) is not None:
            return f"{reason} ({masked(first_line(cause))})", True
    reason = next((what for pattern, what in _FILE_TEXTS if pattern.search(text)), None)
    if reason is not None:
        return f"{reason} ({masked(first_line(error))})", True
    if fault := machine_fault(error):
        return masked(fault), True
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return f"{masked(os_reason(error))}{f' ({error.filename})' if error.filename else ''}", True
    if _SERVER_FAILS.search(text):
        return (
            "the server cannot write them (500); its log says why, such as a bucket or credentials that it lacks",
            False,
        )
    return masked(first_line(error)), False


def is_missing(error: Exception) -> bool:
    """Returns whether a file could not be read because it does not exist, and not because its store is out of reach."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
    return isinstance(error, MlflowException) and not (fault_of_files(error)[1] or _UNREACHABLE.search(str(error)))


def fault_of_code(error: BaseException) -> str | None:
    """Returns what an error code of MLflow says about the login or the address; None for other errors."""
    from mlflow.exceptions import MlflowException

    return _CODES.get(error.error_code) if isinstance(error, MlflowException) else None


def _is_from_a_store(error: BaseException) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError)


def _other_schema(found: str, uri: str) -> str:
    """Describes a database whose tables another version of MLflow has created."""
    import mlflow
    import mlflow.store.db_migrations

    (folder,) = mlflow.store.db_migrations.__path__
    known = any(path.name.startswith(f"{found}_") for path in Path(folder, "versions").glob("*.py"))
    what = f"its tables are those of {'an older' if known else 'another'} MLflow (this is {mlflow.__version__})"
    if not is_database(uri):
        return f"{what}; its owner must upgrade the server's database"
    if not known:
        return f"{what}; install the MLflow that last wrote to it, or name another store"
    command = f"{invocation.interpreter()} -m mlflow db upgrade {masked(uri)}"
    return f"{what}; back it up, then: {command}"
