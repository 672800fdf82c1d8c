"""Where the MLflow store is, and how it comes into being."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from mnist_sweep import mlflow_store as store
from mnist_sweep.errors import UserError

_CREATE = """
import sys
from mnist_sweep import mlflow_store
client = mlflow_store.connect(sys.argv[1], create=True)
run = client.create_run("0", run_name=sys.argv[2])
client.log_metric(run.info.run_id, "loss", 0.5)
"""


def creating(uri: str, name: str) -> subprocess.Popen[str]:
    """A process that creates the store, if need be, and logs a run to it."""
    return subprocess.Popen(
        [sys.executable, "-c", _CREATE, uri, name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def runs(uri: str) -> list[str]:
    return sorted(run.info.run_name for run in store.connect(uri).search_runs(["0"]))


def journal_mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("PRAGMA journal_mode").fetchone()[0])


def left_behind(folder: Path, name: str) -> list[str]:
    """What lies in a folder besides the database and what SQLite keeps beside it while it is open."""
    own = {name, f"{name}-wal", f"{name}-shm", f".{name}.lock"}
    return sorted(path.name for path in folder.iterdir() if path.name not in own)


def test_a_store_that_was_moved_with_its_files_finds_them(tmp_path: Path) -> None:
    old, new, text = tmp_path / "old place" / "mlruns", tmp_path / "new" / "mlruns", tmp_path / "a.txt"
    text.touch()
    client = store.connect(f"sqlite:///{old}/mlflow.db", create=True)
    experiment = client.create_experiment("x", artifact_location=(old / "artifacts" / "x").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(text))
    elsewhere = client.create_experiment("y", artifact_location=(tmp_path / "other" / "y").as_uri())
    new.parent.mkdir()
    old.rename(new)
    client = store.connect(f"sqlite:///{new}/mlflow.db")
    assert client.get_experiment(experiment).artifact_location == (new / "artifacts" / "x").as_uri()
    assert client.get_experiment(elsewhere).artifact_location == (tmp_path / "other" / "y").as_uri()
    assert [found.path for found in client.list_artifacts(run)] == ["a.txt"]
    assert not old.exists()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    store.connect(f"sqlite:///{path}", create=True)
    return path


# ---- where ------------------------------------------------------------------------------------------------------


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
    assert store.absolute(uri) == expected.format(cwd=tmp_path, home="/home/ann")
    assert store.absolute(store.absolute(uri)) == store.absolute(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://box/mlflow", "tracking.uri=ftp://box/mlflow: MLflow has no such kind of store"),
        ("sqllite:///x.db", "tracking.uri=sqllite:///x.db: MLflow has no such kind of store"),
        ("mlruns/mlflow.db", "tracking.uri=mlruns/mlflow.db: MLflow has no such kind of store"),
        ("", "tracking.uri=: MLflow has no such kind of store"),
        ("htttp://ann:secret@box", "tracking.uri=htttp://***@box: MLflow has no such kind of store"),
    ],
)
def test_unknown_kind_of_store_is_refused(uri, message):
    for ask in (store.absolute, store.connect):
        with pytest.raises(UserError) as caught:
            ask(uri)
        assert str(caught.value) == f"{message}; write sqlite:///PATH or http://HOST:PORT"


def test_file_store_is_refused_as_mlflow_refuses_it():
    with pytest.raises(UserError) as caught:
        store.absolute("file:///tmp/mlruns")
    assert str(caught.value) == (
        "tracking.uri=file:///tmp/mlruns: MLflow no longer writes file stores; take sqlite:///PATH"
    )


@pytest.mark.parametrize("uri", ["sqlite:mlflow.db", "sqlite://mlflow.db"])
def test_sqlite_uri_with_too_few_slashes_is_refused(uri):
    with pytest.raises(UserError) as caught:
        store.absolute(uri)
    assert str(caught.value) == f"tracking.uri={uri}: write sqlite:///PATH, with three slashes"


@pytest.mark.parametrize(
    ("uri", "path"),
    [("sqlite:///a/b.db", "{cwd}/a/b.db"), ("sqlite:////a/b.db", "/a/b.db"), ("http://box", None), ("sqlite:x", None)],
)
def test_sqlite_path_is_absolute(tmp_path, monkeypatch, uri, path):
    monkeypatch.chdir(tmp_path)
    assert store.sqlite_path(uri) == (None if path is None else Path(path.format(cwd=tmp_path)))


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
def test_password_is_never_shown(uri):
    shown = store.without_password(uri)
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
def test_uri_without_a_password_is_shown_as_it_is(uri):
    assert store.without_password(uri) == uri


@pytest.mark.parametrize("uri", ["http://ann:SECRET@box:5000", "postgresql://box/mlflow?user=ann&password=SECRET"])
def test_hidden_password_comes_back_from_the_environment(monkeypatch, uri):
    hidden = store.without_password(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store.with_password(hidden) == uri
    for other in ("", "http://ann:SECRET@elsewhere:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        with pytest.raises(UserError) as caught:
            store.with_password(hidden)
        assert str(caught.value) == (
            f"tracking.uri={hidden}: its password is not kept; give the whole URI in MLFLOW_TRACKING_URI"
        )


def test_uri_that_hides_nothing_is_not_looked_up(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:SECRET@box:5000")
    assert store.with_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


# ---- coming into being ------------------------------------------------------------------------------------------


def test_relative_store_stays_the_same_after_a_change_of_directory(tmp_path, monkeypatch, template):
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "mlruns").mkdir(parents=True)
    (home / "mlruns" / "mlflow.db").write_bytes(template.read_bytes())
    other.mkdir()
    monkeypatch.chdir(home)
    client = store.connect("sqlite:///mlruns/mlflow.db")
    monkeypatch.chdir(other)
    client.create_experiment("there")
    monkeypatch.chdir(home)
    assert store.connect("sqlite:///mlruns/mlflow.db").get_experiment_by_name("there") is not None
    assert list(other.iterdir()) == []


def test_created_store_is_whole_and_lets_readers_in(template):
    assert journal_mode(template) == "wal"
    assert left_behind(template.parent, template.name) == []
    with closing(sqlite3.connect(template)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {"experiments", "runs", "metrics", "params", "tags", "alembic_version"} <= tables


def test_store_that_is_there_is_left_as_it_is(tmp_path, template):
    path = tmp_path / "mlflow.db"
    path.write_bytes(template.read_bytes())
    store.connect(f"sqlite:///{path}", create=True).create_experiment("mine")
    again = store.connect(f"sqlite:///{path}", create=True)
    assert again.get_experiment_by_name("mine") is not None


def test_missing_store_is_an_error_for_who_only_reads(tmp_path):
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    with pytest.raises(UserError) as caught:
        store.connect(uri)
    assert str(caught.value) == (
        f"tracking.uri={uri}: there are no runs yet; start with python -m mnist_sweep +experiment=quick"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "reason"), [("file/mlflow.db", "File exists"), ("file/a/b.db", "Not a directory")])
def test_store_that_cannot_be_created_is_said(tmp_path, place, reason):
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path}/{place}"
    with pytest.raises(UserError) as caught:
        store.connect(uri, create=True)
    assert str(caught.value) == f"tracking.uri={uri}: cannot be written ({reason})"


def test_options_of_an_sqlite_uri_are_no_part_of_the_file_name(tmp_path):
    assert store.sqlite_path(f"sqlite:///{tmp_path}/mlflow.db?timeout=30") == tmp_path / "mlflow.db"


def test_two_processes_may_create_a_store_at_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    processes = [creating(uri, name) for name in "ab"]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert runs(uri) == ["a", "b"]
    assert journal_mode(tmp_path / "new" / "mlflow.db") == "wal"
    assert left_behind(tmp_path / "new", "mlflow.db") == []


def test_store_can_be_created_after_a_creation_was_killed(tmp_path):
    uri, path = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlflow.db"
    process = creating(uri, "killed")
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        # As soon as the first tables are there.
        if any(part.stat().st_size > 4096 for part in tmp_path.glob("partial-*") if part.exists()):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    assert left_behind(tmp_path, "mlflow.db") != []
    client = store.connect(uri, create=True)
    client.create_run("0", run_name="after")
    assert runs(uri) == ["after"]
    assert left_behind(tmp_path, "mlflow.db") == []


def test_garbage_beside_the_store_does_not_matter(tmp_path):
    for end in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"partial-mlflow.db{end}").write_bytes(b"not a database" * 1000)
    (tmp_path / ".mlflow.db.lock").write_text("stale")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store.connect(uri, create=True)
    assert runs(uri) == []
    assert left_behind(tmp_path, "mlflow.db") == []
