"""Creating the MLflow store, opening copies of it, and stores that cannot be read."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from mnist_sweep.common import ports
from mnist_sweep.common.errors import UnreachableError, UserError
from mnist_sweep.tracking import store, tags
from mnist_sweep.tracking.uri import absolute, as_kept_in, as_seen_from, file_path, sqlite_path, sqlite_uri

_CREATE = """
import sys
from mnist_sweep.tracking import store as mlflow_store
client = mlflow_store.connect(sys.argv[1], create=True)
run = client.create_run("0", run_name=sys.argv[2])
client.log_metric(run.info.run_id, "loss", 0.5)
"""


def creating(uri: str, name: str) -> subprocess.Popen[str]:
    """Starts a process that creates the store, if needed, and logs a run to it."""
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


def other_files(folder: Path, name: str) -> list[str]:
    """Returns the files in a folder other than the database and what SQLite adds while it is open."""
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


def test_a_relative_store_stays_the_same_after_a_change_of_directory(tmp_path, monkeypatch, template):
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


def test_a_new_store_is_complete_and_allows_readers(template):
    assert journal_mode(template) == "wal"
    assert other_files(template.parent, template.name) == []
    with closing(sqlite3.connect(template)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {"experiments", "runs", "metrics", "params", "tags", "alembic_version"} <= tables


def test_an_existing_store_is_kept(tmp_path, template):
    path = tmp_path / "mlflow.db"
    path.write_bytes(template.read_bytes())
    store.connect(f"sqlite:///{path}", create=True).create_experiment("mine")
    again = store.connect(f"sqlite:///{path}", create=True)
    assert again.get_experiment_by_name("mine") is not None


def test_a_missing_store_is_an_error_unless_it_may_be_created(tmp_path):
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    with pytest.raises(UserError) as caught:
        store.connect(uri)
    assert str(caught.value) == (
        f"tracking.uri={uri}: there are no runs yet; start with python -m mnist_sweep +experiment=quick"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "reason"), [("file/mlflow.db", "File exists"), ("file/a/b.db", "Not a directory")])
def test_a_store_that_cannot_be_created_is_an_error(tmp_path, place, reason):
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path}/{place}"
    with pytest.raises(UserError) as caught:
        store.connect(uri, create=True)
    assert str(caught.value) == f"tracking.uri={uri}: cannot be written ({reason})"


@pytest.mark.slow
def test_two_processes_may_create_a_store_at_the_same_time(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    processes = [creating(uri, name) for name in "ab"]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert runs(uri) == ["a", "b"]
    assert journal_mode(tmp_path / "new" / "mlflow.db") == "wal"
    assert other_files(tmp_path / "new", "mlflow.db") == []


@pytest.mark.slow
def test_a_store_can_be_created_after_its_creation_was_killed(tmp_path):
    uri, path = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlflow.db"
    process = creating(uri, "killed")
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        # As soon as the first tables exist.
        if any(part.stat().st_size > 4096 for part in tmp_path.glob("partial-*") if part.exists()):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    assert other_files(tmp_path, "mlflow.db") != []
    client = store.connect(uri, create=True)
    client.create_run("0", run_name="after")
    assert runs(uri) == ["after"]
    assert other_files(tmp_path, "mlflow.db") == []


def test_garbage_next_to_the_store_does_not_matter(tmp_path):
    for end in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"partial-mlflow.db{end}").write_bytes(b"not a database" * 1000)
    (tmp_path / ".mlflow.db.lock").write_text("stale")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store.connect(uri, create=True)
    assert runs(uri) == []
    assert other_files(tmp_path, "mlflow.db") == []


ODD = [
    "v?2",
    "my%20project",
    "it's",
    'a"b',
    "a#b",
    "a b",
    "ümlaut",
    "a;b",
    "[x]",
    "100%",
    "a:b",
    "a&b=c",
    "%41",
    "a\nb",
]


@pytest.mark.parametrize("name", ODD)
def test_a_project_may_have_any_name(tmp_path, monkeypatch, template, name):
    project, text = tmp_path / name, tmp_path / "a.txt"
    (project / "mlruns").mkdir(parents=True)
    text.write_text("hello")
    path = project / "mlruns" / "mlflow.db"
    path.write_bytes(template.read_bytes())
    monkeypatch.chdir(project)
    uri = absolute("sqlite:///mlruns/mlflow.db")
    assert sqlite_path(uri) == path
    assert absolute(uri) == uri
    assert as_kept_in(uri, project) == "sqlite:///mlruns/mlflow.db"
    assert as_seen_from("sqlite:///mlruns/mlflow.db?timeout=3", project) == f"{uri}?timeout=3"
    client = store.connect("sqlite:///mlruns/mlflow.db")
    place = (project / "mlruns" / "artifacts" / "x").as_uri()
    run = client.create_run(client.create_experiment("x", artifact_location=place)).info.run_id
    client.log_artifact(run, str(text))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert (project / "mlruns" / "artifacts" / "x" / run / "artifacts" / "a.txt").read_text() == "hello"
    assert Path(client.download_artifacts(run, "a.txt", str(tmp_path))).read_text() == "hello"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([name, "a.txt"])
    assert [found.name for found in project.iterdir()] == ["mlruns"]


def test_a_store_can_be_created_in_a_folder_with_any_name(tmp_path, monkeypatch):
    project = tmp_path / 'it\'s :x "100%41" v?2'
    project.mkdir()
    monkeypatch.chdir(project)
    store.connect("sqlite:///mlruns/mlflow.db", create=True).create_experiment("x")
    assert other_files(project / "mlruns", "mlflow.db") == []
    assert [found.name for found in tmp_path.iterdir()] == [project.name]


def test_a_folder_whose_name_is_not_utf_8_is_a_one_line_error(tmp_path):
    with pytest.raises(UserError) as caught:
        store.connect(f"sqlite:///{tmp_path}/caf\udce9/mlflow.db", create=True)
    assert "is not UTF-8, so MLflow cannot open it" in str(caught.value)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


class Project:
    """A project with a store, an experiment in it, and one on another disk."""

    def __init__(self, folder: Path, template: Path, database: str = "mlruns/mlflow.db", files: str = "mlruns/files"):
        """Logs a file to each experiment."""
        self.folder, self.database, self.files = folder, database, files
        self.path.parent.mkdir(parents=True)
        self.path.write_bytes(template.read_bytes())
        self.big = folder.parent / "big"
        self.text = folder.parent / "a.txt"
        self.text.write_text("hello")
        self.runs = [self.log(name, place) for name, place in (("x", folder / files / "x"), ("y", self.big / "y"))]

    @property
    def path(self) -> Path:
        return self.folder / self.database

    @property
    def uri(self) -> str:
        return sqlite_uri(self.path)

    def log(self, name: str, place: Path | None = None) -> str:
        client = store.connect(self.uri)
        there = client.get_experiment_by_name(name)
        if there is None:
            assert place is not None
            number = client.create_experiment(name, artifact_location=place.as_uri())
        else:
            number = there.experiment_id
        run = str(client.create_run(number).info.run_id)
        client.log_artifact(run, str(self.text))
        return run

    def copied(self, folder: Path) -> Project:
        """Returns a copy as from `cp -r`, after closing this process's connections."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        for engine in SqlAlchemyStore._engine_map.values():
            engine.dispose()
        shutil.copytree(self.folder, folder, symlinks=True, ignore=lambda *_: [folder.name])
        copy = object.__new__(Project)
        copy.__dict__.update(self.__dict__, folder=folder)
        return copy

    def locations(self) -> set[Path]:
        with closing(sqlite3.connect(self.path)) as database:
            rows = database.execute("SELECT artifact_location FROM experiments WHERE name IN ('x', 'y')").fetchall()
            rows += database.execute("SELECT artifact_uri FROM runs").fetchall()
        return {place for (uri,) in rows if (place := file_path(uri)) is not None}

    def everything(self) -> dict[str, bytes]:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return {str(path): path.read_bytes() for path in files if not path.name.endswith(("-wal", "-shm"))}

    def forget_store(self) -> None:
        """Makes the store look like those of versions that did not store its path."""
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("DELETE FROM experiment_tags WHERE key = ?", (tags.TAG_STORE,))


@pytest.mark.parametrize(
    ("database", "files"), [("mlruns/mlflow.db", "mlruns/files"), ("store/x.db", "mlruns/files"), ("x.db", "files")]
)
@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_copy_never_writes_into_the_original(tmp_path, template, database, files, older, gone):
    first = Project(tmp_path / "first", template, database, files)
    if older:
        first.forget_store()
    second = first.copied(tmp_path / "it's second")
    if gone:
        first.folder.rename(tmp_path / "gone")
    before = {} if gone else first.everything()
    second.log("x")
    client = store.connect(second.uri)
    assert Path(client.download_artifacts(second.runs[0], "a.txt", str(tmp_path))).read_text() == "hello"
    inside = {place for place in second.locations() if not place.is_relative_to(second.big)}
    assert all(place.is_relative_to(second.folder / files / "x") for place in inside)
    # The experiment, the copied run and the new run.
    assert len(inside) == 3
    assert len(second.locations()) == 5
    assert not first.folder.exists() if gone else first.everything() == before


def test_a_copy_inside_the_original_is_a_separate_project(tmp_path, template):
    first = Project(tmp_path / "first", template)
    second = first.copied(first.folder / "backup").copied(first.folder / "backup" / "again")
    second.log("x")
    assert all(p.is_relative_to(second.folder) or p.is_relative_to(second.big) for p in second.locations())
    assert len(list((second.folder / second.files).rglob("a.txt"))) == 2
    assert len(list((first.folder / first.files).rglob("a.txt"))) == 1


def test_mlflows_default_locations_are_updated_too(tmp_path, template):
    first = Project(tmp_path / "first", template)
    with closing(sqlite3.connect(first.path)) as database, database:
        place = str(first.path.parent / "0")
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (place,))
    second = first.copied(tmp_path / "second")
    assert store.connect(second.uri).get_experiment("0").artifact_location == str(second.path.parent / "0")


def test_a_store_that_has_not_moved_is_not_changed(tmp_path, template):
    project, link = Project(tmp_path / "first", template), tmp_path / "link"
    store.connect(project.uri)
    link.symlink_to(project.folder)
    before, locations = project.path.stat().st_mtime_ns, project.locations()
    for folder in (link, project.folder):
        store._relocate(folder / project.database)
    assert (project.path.stat().st_mtime_ns, project.locations()) == (before, locations)


def test_a_hard_link_to_the_originals_store_is_refused_while_that_exists(tmp_path, template):
    first = Project(tmp_path / "first", template)
    second = first.copied(tmp_path / "second")
    second.path.unlink()
    second.path.hardlink_to(first.path)
    with pytest.raises(UserError, match=f"is a hard link to {first.path}.*cp mlflow.db new && mv new mlflow.db"):
        store.connect(second.uri)
    first.path.unlink()
    second.log("x")
    assert len(list((second.folder / second.files).rglob("a.txt"))) == 2


def test_a_locked_copy_is_not_mistaken_for_the_original(tmp_path, template, monkeypatch):
    first = Project(tmp_path / "first", template)
    second = first.copied(tmp_path / "second")
    monkeypatch.setattr(store, "_WRITE_TIMEOUT", 0.1)
    with closing(sqlite3.connect(second.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="another process writes to it; try again"):
            store.connect(second.uri)
    second.log("x")
    assert len(list((second.folder / second.files).rglob("a.txt"))) == 2


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), None])
def test_a_read_only_copy_can_be_read(tmp_path, template, monkeypatch, error):
    first = Project(tmp_path / "first", template)
    second = first.copied(tmp_path / "second")

    def read_only(path: Path) -> Any:
        if error is not None:
            raise error
        refused = sqlite3.OperationalError("attempt to write a readonly database")
        refused.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise refused

    monkeypatch.setattr(store, "_locked", read_only)
    assert store.connect(second.uri).get_run(second.runs[0]).info.run_id == second.runs[0]
    assert second.locations() == first.locations()


def test_a_database_that_is_not_mlflows_is_not_changed(tmp_path):
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mine (a)")
    before = path.read_bytes()
    store._relocate(path)
    assert path.read_bytes() == before


class TestUnreadableStores:
    @pytest.fixture
    def damaged(self, tmp_path: Path) -> Path:
        path = tmp_path / "mlflow.db"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE runs (run_uuid TEXT)")
            database.executemany("INSERT INTO runs VALUES (?)", [("x" * 500,)] * 100)
        database.close()
        return path

    def test_another_kind_of_file_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_bytes(b"\x00garbage" * 1000)
        with pytest.raises(UserError, match="is not an SQLite database"):
            store.connect(f"sqlite:///{tmp_path}/mlflow.db")

    def test_a_damaged_database_is_an_error(self, damaged: Path) -> None:
        content = damaged.read_bytes()
        damaged.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        with pytest.raises(UserError, match="mlflow.db: is damaged"):
            store.connect(f"sqlite:///{damaged}")

    def test_a_locked_database_is_an_error_soon(self, damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "_READ_TIMEOUT", 0.1)
        other = sqlite3.connect(damaged, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="is locked by another process; try again"):
            store.connect(f"sqlite:///{damaged}")
        other.close()


@pytest.mark.parametrize("create", [True, False])
def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch, create: bool) -> None:
    monkeypatch.setattr(store, "ANSWER_WITHIN", 0.1)
    with ports.listen("127.0.0.1", 0) as silent:
        uri = f"http://ann:secret12@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError) as caught:
            store.connect(uri, create=create)
    assert str(caught.value).startswith(f"tracking.uri={uri.replace('ann:secret12', '***')}: does not answer within ")


def test_a_database_that_is_down_is_named_and_may_answer_later() -> None:
    pytest.importorskip("psycopg")
    with ports.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnreachableError) as caught:
        store.connect(f"postgresql://ann:secret12@127.0.0.1:{port}/runs")
    text = str(caught.value)
    assert text.startswith(f"tracking.uri=postgresql://***@127.0.0.1:{port}/runs: does not answer (")
    assert "Connection refused" in text
    assert "\n" not in text


def test_a_store_of_another_mlflow_is_an_error_with_the_command_that_upgrades_it(tmp_path, template) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(template, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = '4465047574b1'")
        database.commit()
    with pytest.raises(UserError) as caught:
        store.connect(f"sqlite:///{path}", create=True)
    assert str(caught.value).startswith(f"tracking.uri=sqlite:///{path}: its tables are those of an older MLflow")
    assert str(caught.value).endswith(f" -m mlflow db upgrade sqlite:///{path}")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, "You are not authenticated.", "the server rejects the login (401)"),
        (401, '{"message": "Unauthorized"}', "the server rejects the login (401)"),
        (403, "Permission denied", "the server does not allow it (403)"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "the server does not allow it (403)"),
        (404, "<html>no such page</html>", "the address is not that of an MLflow tracking server (404)"),
        (503, "try later", None),
    ],
)
def test_what_a_server_refuses_for_good_is_an_error_that_says_what_to_do(status, body, message) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Refuses every request."""
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(UserError if message else MlflowException) as caught:
            store.connect(uri)
        server.shutdown()
    if message:
        assert str(caught.value).startswith(f"tracking.uri={uri}: {message}")
