"""The command line as a user has it: real processes, real MLflow, in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Run, command, environment, with_store
from stack import Stack, missing

from mnist_sweep.cli.main import main
from mnist_sweep.tracking import store as mlflow_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, which takes seconds to create; most tests start with a copy of it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow_store.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture
def work(tmp_path: Path, store: Path) -> Path:
    """A folder to work in, with an empty store."""
    return with_store(tmp_path, store)


@pytest.fixture(scope="session")
def run() -> Run:
    def ran(folder: Path, *arguments: str, published: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, published=published),
            cwd=folder,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=250,
        )

    return ran


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, as most of the time of a process of its own is that of its imports."""

    def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["mnist_sweep"])
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            main(arguments)
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), *capsys.readouterr())

    return ran


@pytest.fixture(scope="session")
def swept(run: Run, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished sweep of four small models: its working directory, and what it printed."""
    folder = tmp_path_factory.mktemp("swept")
    done = run(
        folder, "+experiment=quick", "data=npz", f"data.path={digits}", "search.max_trials=4", "training.epochs=2",
        "optimizer.name=adam", "model.dropout=0.0", "name=four", published=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, S3 and MLflow's server with passwords."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(lacking)
    with Stack() as started:
        yield started
