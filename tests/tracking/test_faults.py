"""Which faults of a store last, and what is said about them."""

from __future__ import annotations

import errno

import pytest
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    ENDPOINT_NOT_FOUND,
    PERMISSION_DENIED,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)

from mnist_sweep.common.errors import UnreachableError, UserError
from mnist_sweep.common.secrets import hide, hide_login, masked
from mnist_sweep.tracking.faults import fault_of_files, is_missing, lasting_fault

URI = "postgresql://ann:secret12@box/mlflow"
SCHEMA = "Detected out-of-date database schema (found version {}, but expected ffffffffffff). Take a backup"


def caused_by(cause: Exception, code: int = TEMPORARILY_UNAVAILABLE) -> MlflowException:
    error = MlflowException(str(cause), code)
    error.__cause__ = cause
    return error


def database_error(text: str) -> MlflowException:
    return caused_by(sqlalchemy.exc.OperationalError("INSERT …", {"text": "Forbidden"}, Exception(text)))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MlflowException("who are you?", UNAUTHENTICATED), "the server rejects the login (401); set MLFLOW_TRACKING_"),
        (MlflowException("no", PERMISSION_DENIED), "the server does not allow it (403); ask its owner"),
        (MlflowException("no", ENDPOINT_NOT_FOUND), "the address is not that of an MLflow tracking server (404)"),
        (RestException({"message": "Unauthorized"}), "the server rejects the login (401)"),
        (RestException({"message": "Forbidden"}), "the server does not allow it (403)"),
        (database_error('FATAL:  password authentication failed for user "ann"'), "the database rejects the login"),
        (database_error('FATAL:  database "mlflow" does not exist'), "the database or its user does not exist"),
        (database_error("permission denied for table runs"), "the database's user may not write"),
        (database_error("attempt to write a readonly database"), "the database cannot be written; give this user"),
        (MlflowException("attempt to write a readonly database"), "the database cannot be written; give this user"),
        (database_error("database or disk is full"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a.h5"), "the disk quota is used up (a.h5)"),
        (PermissionError(errno.EACCES, "Permission denied", "a.h5"), "[Errno 13] Permission denied: 'a.h5'; give this"),
        (MlflowException("(Caused by SSLError(…[SSL: CERTIFICATE_VERIFY_FAILED] …"), "the server's certificate is not"),
        (
            ModuleNotFoundError("No module named 'boto3'", name="boto3"),
            "needs the Python package boto3, which is not ins",
        ),
        (UserError("name=a: this experiment is deleted"), "name=a: this experiment is deleted"),
        (MlflowException(SCHEMA.format("181f10493468")), "its tables are those of an older MLflow (this is "),
        (MlflowException(SCHEMA.format("eeeeeeeeeeee")), "its tables are those of another MLflow (this is "),
    ],
)
def test_a_fault_that_lasts_says_what_to_do(error: Exception, message: str) -> None:
    fault = lasting_fault(error, URI)
    assert fault is not None
    assert fault.startswith(message)
    assert "\n" not in fault
    assert "secret12" not in fault


def test_a_database_of_an_older_mlflow_is_upgraded_by_a_command_and_a_newer_one_is_not() -> None:
    older, newer = (lasting_fault(MlflowException(SCHEMA.format(n)), URI) for n in ("181f10493468", "eeeeeeeeeeee"))
    assert older is not None
    assert older.endswith("-m mlflow db upgrade postgresql://***@box/mlflow")
    assert newer is not None
    assert newer.endswith("; install the MLflow that last wrote to it, or name another store")
    server = lasting_fault(MlflowException(SCHEMA.format("181f10493468")), "http://box")
    assert server is not None
    assert server.endswith("; its owner must upgrade the server's database")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        TimeoutError("timed out"),
        requests.exceptions.ConnectionError("Failed to resolve 'box'"),
        MlflowException("API request failed with 503"),
        MlflowException("the name Forbidden_1 is taken", BAD_REQUEST),
        database_error("database is locked"),
        UnreachableError("tracking.uri=http://box: does not answer within 9 s"),
    ],
)
def test_an_outage_may_pass(error: Exception) -> None:
    assert lasting_fault(error, URI) is None


@pytest.mark.parametrize(
    ("error", "message", "lasts"),
    [
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "needs the Python package boto3", True),
        (Exception("An error occurred (NoSuchBucket) when calling"), "the bucket does not exist; create it", True),
        (Exception("Unable to locate credentials"), "there are no credentials for it; set AWS_ACCESS_KEY_ID and", True),
        (Exception("An error occurred (InvalidAccessKeyId)"), "it rejects the credentials; check AWS_ACCESS_KEY", True),
        (Exception("An error occurred (AccessDenied)"), "it does not allow it (403); ask its owner for the", True),
        (MlflowException("no", PERMISSION_DENIED), "the server does not allow it (403); ask its owner", True),
        (OSError(errno.ENOSPC, "No space left on device", "a.h5"), "the disk is full (a.h5)", True),
        (PermissionError(errno.EACCES, "Permission denied", "a.h5"), "Permission denied (a.h5)", True),
        (MlflowException("too many 500 error responses"), "the server cannot write them (500); its log says", False),
        (ConnectionError("refused by http://ann:secret12@box"), "refused by http://***@box", False),
    ],
)
def test_a_fault_of_the_place_of_files_says_what_to_do(error: Exception, message: str, lasts: bool) -> None:
    text, found = fault_of_files(error)
    assert text.startswith(message)
    assert found is lasts


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (FileNotFoundError(2, "No such file", "model.h5"), True),
        (MlflowException("An error occurred (404) when calling the HeadObject operation: Not Found"), True),
        (MlflowException("Failed to list artifacts: The specified bucket does not exist"), False),
        (MlflowException("Max retries exceeded with url"), False),
        (PermissionError(13, "Permission denied", "model.h5"), False),
        (RuntimeError("Could not connect to the endpoint URL"), False),
    ],
)
def test_a_file_that_does_not_exist_is_told_from_a_store_that_is_out_of_reach(error: Exception, missing: bool) -> None:
    assert is_missing(error) is missing


def test_the_login_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass-of-ann")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-ann")
    hide_login()
    hide("http://ann:uri-of-ann@box")
    assert masked("pass-of-ann token-of-ann uri-of-ann") == "*** *** ***"
