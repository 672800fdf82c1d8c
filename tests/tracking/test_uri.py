"""Tracking URIs, and the passwords in them (`common.secrets`)."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.tracking import store
from mnist_sweep.tracking.uri import absolute, as_kept_in, existing, is_database, sqlite_path, with_password


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlruns/mlflow.db", "sqlite:///{cwd}/mlruns/mlflow.db"),
        ("sqlite:///./mlflow.db", "sqlite:///{cwd}/mlflow.db"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
        ("sqlite:///mlflow.db?timeout=30", "sqlite:///{cwd}/mlflow.db?timeout=30"),
        ("sqlite:///~/mlflow.db", "sqlite:///{home}/mlflow.db"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://ann:secret@box:8443/mlflow", "https://ann:secret@box:8443/mlflow"),
        ("postgresql://ann:secret@box/mlflow", "postgresql://ann:secret@box/mlflow"),
        ("postgresql+psycopg2://box/mlflow", "postgresql+psycopg2://box/mlflow"),
        ("mysql+pymysql://box/mlflow", "mysql+pymysql://box/mlflow"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_only_relative_sqlite_paths_are_changed(tmp_path, monkeypatch, uri, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    assert absolute(uri) == expected.format(cwd=tmp_path, home="/home/ann")
    assert absolute(absolute(uri)) == absolute(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://box/mlflow", "tracking.uri=ftp://box/mlflow: MLflow has no such kind of store"),
        ("sqllite:///x.db", "tracking.uri=sqllite:///x.db: MLflow has no such kind of store"),
        ("", "tracking.uri=: MLflow has no such kind of store"),
        ("htttp://ann:secret@box", "tracking.uri=htttp://***@box: MLflow has no such kind of store"),
    ],
)
def test_an_unknown_kind_of_store_is_refused(uri, message):
    for function in (absolute, store.connect):
        with pytest.raises(UserError) as caught:
            function(uri)
        assert str(caught.value) == f"{message}; write sqlite:///PATH or http://HOST:PORT"


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("mlruns/mlflow.db", "sqlite:///mlruns/mlflow.db"),
        ("./mlruns/", "sqlite:///./mlruns/mlflow.db"),
        ("localhost:5000", "http://localhost:5000"),
        ("postgres://ann:secret@box/db", "postgresql://***@box/db"),
    ],
)
def test_the_address_that_was_meant_is_suggested(uri, meant):
    with pytest.raises(UserError, match=f"; write {re.escape(meant)}$"):
        absolute(uri)


def test_a_file_store_is_refused_as_by_mlflow():
    with pytest.raises(UserError) as caught:
        absolute("file:///tmp/mlruns")
    assert str(caught.value) == (
        "tracking.uri=file:///tmp/mlruns: MLflow no longer writes file stores; use sqlite:///PATH"
    )


@pytest.mark.parametrize("uri", ["sqlite:mlflow.db", "sqlite://mlflow.db"])
def test_an_sqlite_uri_with_too_few_slashes_is_refused(uri):
    with pytest.raises(UserError) as caught:
        absolute(uri)
    assert str(caught.value) == f"tracking.uri={uri}: write sqlite:///PATH, with three slashes"


@pytest.mark.parametrize(
    ("uri", "path"),
    [("sqlite:///a/b.db", "{cwd}/a/b.db"), ("sqlite:////a/b.db", "/a/b.db"), ("http://box", None), ("sqlite:x", None)],
)
def test_an_sqlite_path_is_absolute(tmp_path, monkeypatch, uri, path):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path(uri) == (None if path is None else Path(path.format(cwd=tmp_path)))


@pytest.mark.parametrize(
    "uri",
    [
        "http://ann:SECRET@box:5000/path",
        "postgresql://ann:SECRET@box/mlflow",
        "postgresql://:SECRET@box/mlflow",
        "https://SECRET@box",
        "postgresql://ann:SECRET%40SECRET@box/mlflow",
        "(psycopg.OperationalError) at postgresql://ann:SECRET@box/mlflow: refused; http://bob:SECRET@box",
        "postgresql://ann:SECRET/SECRET@box/mlflow",
        "http://ann:first@SECRET@box",
        "postgresql://box/mlflow?user=ann&password=SECRET",
    ],
)
def test_passwords_are_masked(uri):
    shown = masked(uri)
    assert "SECRET" not in shown
    assert "box" in shown


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////a/b.db",
        "sqlite:///mlruns/mlflow.db?timeout=30",
        "http://box:5000/mlflow",
        pytest.param("sqlite:////home/ann@corp/mlflow.db"),
        "",
    ],
)
def test_a_uri_without_a_password_is_unchanged(uri):
    assert masked(uri) == uri


@pytest.mark.parametrize("uri", ["http://ann:SECRET@box:5000", "postgresql://box/mlflow?user=ann&password=SECRET"])
def test_a_masked_password_is_restored_from_the_environment(monkeypatch, uri):
    hidden = masked(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert with_password(hidden) == uri
    for other in ("", "http://ann:SECRET@elsewhere:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        with pytest.raises(UserError) as caught:
            with_password(hidden)
        assert str(caught.value) == (
            f"tracking.uri={hidden}: its password is not stored; set MLFLOW_TRACKING_URI to the full URI"
        )


def test_a_uri_without_a_masked_password_is_not_looked_up(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:SECRET@box:5000")
    assert with_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_options_of_an_sqlite_uri_are_not_part_of_the_file_name(tmp_path):
    assert sqlite_path(f"sqlite:///{tmp_path}/mlflow.db?timeout=30") == tmp_path / "mlflow.db"


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("sqlite:///mlruns/mlflow.db", "sqlite:///mlruns/mlflow.db"),
        ("sqlite:///{project}/a b/x.db?timeout=3", "sqlite:///a b/x.db?timeout=3"),
        ("sqlite:///{project}/a%3Fb/x.db", "sqlite+pysqlite:///a%3Fb/x.db"),
        ("sqlite:///{link}/x.db", "sqlite:///x.db"),
        ("sqlite:////big/disk/x.db", "sqlite:////big/disk/x.db"),
        ("sqlite:///{project}-2/x.db", "sqlite:///{project}-2/x.db"),
        ("http://box:5000", "http://box:5000"),
    ],
)
def test_a_saved_config_contains_no_absolute_path_into_its_project(tmp_path, uri, kept):
    project, link = tmp_path / "project", tmp_path / "link"
    project.mkdir()
    link.symlink_to(project)
    names = {"project": project, "link": link}
    assert as_kept_in(uri.format(**names), project) == kept.format(**names)


@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "databricks-uc", "uc:http://box", "mine://x/y"])
def test_stores_of_mlflow_and_its_plugins_are_passed_on(monkeypatch, uri):
    plugin = EntryPoint("mine", "mine:Store", "mlflow.tracking_store")
    monkeypatch.setattr(
        "mnist_sweep.tracking.uri.entry_points", lambda *, group: [plugin] if plugin.group == group else []
    )
    assert absolute(uri) == uri
    assert existing(uri) == uri
    assert as_kept_in(uri, Path("/p")) == uri
    assert not is_database(uri)
    with pytest.raises(UserError, match="MLflow has no such kind of store"):
        absolute("yours://x")
