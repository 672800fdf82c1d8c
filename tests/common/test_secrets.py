"""Passwords and tokens: what is hidden, what is not, and what is restored."""

from __future__ import annotations

import os
import time

import pytest

from mnist_sweep.common import secrets
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import TOKEN_VARIABLE, access_token


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_hidden_uris", {})
    monkeypatch.setattr(secrets, "_passwords", set())
    monkeypatch.delenv(secrets.STORE_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:HUSH@box/runs", "postgresql://***@box/runs"),
        ("mysql+pymysql://ann:HU/SH@box", "mysql+pymysql://***@box"),
        ("https://HUSH@box and http://bob:HUSH@box", "https://***@box and http://***@box"),
        ("postgresql://box/runs?user=ann&password=HUSH&x=1", "postgresql://box/runs?user=ann&password=***&x=1"),
        ("postgresql://box/runs?sslpassword=HUSH", "postgresql://box/runs?sslpassword=***"),
        ("mssql://?odbc_connect=UID%3Dann%3BPWD%3DHUSH%3BX", "mssql://?odbc_connect=UID%3Dann%3BPWD%3D***%3BX"),
        ("UID=ann;PWD=HUSH;X=1", "UID=ann;PWD=***;X=1"),
        ("PWD={HU;SH};X", "PWD=***;X"),
        ("https://box/?sig=HUSH&se=1", "https://box/?sig=***&se=1"),
        ("https://s3/x?X-Amz-Signature=HUSH", "https://s3/x?X-Amz-Signature=***"),
        ("api_key=HUSH", "api_key=***"),
        ("search.api_key=HUSH model.units=8", "search.api_key=*** model.units=8"),
        ("api-key: HUSH", "api-key: ***"),
        ('{"password": "HUSH HUSH", "x": 1}', '{"password": "***", "x": 1}'),
        ("{'token': 'HU\"SH', 'x': 1}", "{'token': '***', 'x': 1}"),
        ('password="HUSH', 'password="***'),
        ("MLFLOW_TRACKING_PASSWORD=HUSH", "MLFLOW_TRACKING_PASSWORD=***"),
        ("aws_secret_access_key = HUSH", "aws_secret_access_key = ***"),
        ("ms ui --token HUSH --port 1", "ms ui --token *** --port 1"),
        ("ms ui --auth-token HUSH", "ms ui --auth-token ***"),
        ("Authorization: Bearer HUSHHUSH", "Authorization: Bearer ***"),
        ("Authorization: Basic SFVTSEhVU0g=", "Authorization: Basic ***"),
        ("ghp_HUSHHUSHHUSHHUSHHUSH", "***"),
        ("hf_HUSHHUSHHUSHHUSHHUSHHUSHHUSHHUSH", "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.HUSH", "***"),
    ],
)
def test_only_secrets_are_hidden(text, shown):
    assert secrets.masked(text) == shown
    assert secrets.masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sqlite:////home/ann@corp/mlflow.db",
        "sqlite:///mlruns/mlflow.db?timeout=30",
        "http://box:5000/mlflow",
        "tokenizer=bert max_tokens: 5 design=1 token_count=5",
        "keys/token: No such file or directory",
        "ms ui --token-file x",
    ],
)
def test_text_without_secrets_is_unchanged(text):
    assert secrets.masked(text) == text


@pytest.mark.parametrize("piece", ["a", "://", "://a", "token", "token=", "=", "--token ", "eyJ", "a.", "'", "{"])
def test_masking_megabytes_takes_linear_time(piece):
    start = time.monotonic()
    secrets.masked(piece * (1_000_000 // len(piece)))
    # A quadratic pattern takes hours.
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("uri", ["http://ann:HUSH@box:5000", "postgresql://box/mlflow?user=ann&password=HUSH"])
def test_a_uri_hidden_in_this_process_is_restored(uri):
    shown = secrets.hide(uri)
    assert "HUSH" not in shown
    assert secrets.reveal(shown) == uri
    assert secrets.reveal("http://***@elsewhere:5000") is None


def test_a_uri_hidden_in_another_process_is_restored_from_the_environment(monkeypatch):
    uri = "http://ann:HUSH@box:5000"
    assert secrets.reveal(secrets.masked(uri)) is None
    monkeypatch.setenv(secrets.STORE_VARIABLE, uri)
    assert secrets.reveal(secrets.masked(uri)) == uri


def test_a_uri_without_secrets_is_unchanged(monkeypatch):
    monkeypatch.setenv(secrets.STORE_VARIABLE, "http://ann:HUSH@box:5000")
    assert secrets.reveal("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert secrets.hide("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize("password", ["hunter'2x", 'hun"ter2', "hun ter2", "a/b@c:d", "hunter,2"])
def test_a_known_uri_is_hidden_with_any_password(password: str) -> None:
    uri = f"http://alice:{password}@box:5000"
    assert secrets.hide(uri) == "http://***@box:5000"
    text = f"cannot connect to {uri}; password {password!s} is wrong"
    assert secrets.masked(text) == "cannot connect to http://***@box:5000; password *** is wrong"
    assert secrets.reveal("http://***@box:5000") == uri


def test_uris_that_differ_only_in_their_passwords_are_distinguished() -> None:
    first, second = (secrets.hide(f"http://{user}@box") for user in ("alice:one111", "bob:two222"))
    assert (first, second) == ("http://***@box", "http://***2@box")
    assert secrets.hide("http://alice:one111@box") == first
    assert (secrets.reveal(first), secrets.reveal(second)) == ("http://alice:one111@box", "http://bob:two222@box")


def test_a_numbered_uri_is_restored_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secrets.STORE_VARIABLE, "http://bob:two222@box")
    assert secrets.reveal("http://***2@box") == "http://bob:two222@box"


def test_a_password_in_an_option_is_hidden_wherever_an_error_shows_it() -> None:
    secrets.hide("postgresql://box/runs?user=ann&password=HUSH%20HUSH")
    assert secrets.masked("tried 'HUSH HUSH' and HUSH%20HUSH") == "tried '***' and ***"


def test_the_keys_of_object_storage_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3tkey/of+ann")
    monkeypatch.setenv("PGPASSWORD", "word-of-ann")
    secrets.hide_login()
    assert secrets.masked("signed with s3cr3tkey/of+ann for word-of-ann") == "signed with *** for ***"


def test_a_token_comes_from_the_variable_which_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-for-the-tests")
    assert access_token(None) == ("a-token-for-the-tests", False)
    assert access_token(None) == ("", False)
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-for-the-tests")
    assert access_token("another-token-for-them") == ("another-token-for-them", False)
    assert TOKEN_VARIABLE not in os.environ


def test_a_new_token_is_another_one_each_time() -> None:
    (first, new), (second, _) = access_token("auto"), access_token("auto")
    assert new
    assert first != second
    assert len(first) == 32


@pytest.mark.parametrize("token", ["short", "with spaces, which a header ends", "ünïcödé-ünïcödé-ünïcödé"])
def test_a_token_that_can_be_guessed_or_not_sent_is_refused_and_not_printed(token: str) -> None:
    with pytest.raises(UserError, match="a token must have at least 16 characters") as error:
        access_token(token)
    assert token not in str(error.value)
