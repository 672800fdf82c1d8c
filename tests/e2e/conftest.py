"""The command line as a user has it: real processes, real MLflow, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_sweep import mlflow_store

ROOT = Path(__file__).parent.parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


# What a sweep does at its end takes seconds, and is not what most of these tests are about.
UNPUBLISHED = ("tracking.report=false", "tracking.register=false")


def command(*arguments: str, published: bool = False) -> list[str]:
    is_sweep = not arguments or "=" in arguments[0] or arguments[0] == "-m"
    more = UNPUBLISHED if is_sweep and not published and "--cfg" not in arguments else ()
    return [sys.executable, "-m", "mnist_sweep", *arguments, *more]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "HYDRA", "KERAS", "CUDA"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, which takes seconds to create; sweeps that are not about that begin with a copy."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow_store.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture
def work(tmp_path: Path, store: Path) -> Path:
    """A folder to work in, with an empty store."""
    return with_store(tmp_path, store)


def with_store(folder: Path, store: Path) -> Path:
    (folder / "mlruns").mkdir()
    shutil.copy(store, folder / "mlruns")
    return folder


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
