"""Everything that a sweep can do, for every task: the cells of the table in docs/tasks.md (tests/task_table.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import task_table
from programs import ROOT, command, environment, with_store
from sklearn import datasets

pytestmark = pytest.mark.slow

OWN_SEARCH = """
import random
from mnist_sweep.search import Search, Suggestion

class Own(Search):
    def __init__(self, space, objectives, seed):
        self.space, self.random = space, random.Random(seed)

    def ask(self, number):
        return Suggestion(self.space.sample(self.random))

    def tell(self, number, result):
        pass
"""
PYTHON = """
import json, sys
from mnist_sweep import sweep

if __name__ == "__main__":
    s = sweep(None, *sys.argv[1:], data="./data.npz", max_trials=1, name="python")
    print(json.dumps({"trials": len(s.runs), "layers": len(s.best_model().layers)}))
"""
# What is searched: what every algorithm and every model can.
SPACE = ("optimizer.learning_rate=tag(log,interval(1e-3,1e-1))", "training.batch_size=32,64")
SEARCH = {
    "grid": ("search=grid", "optimizer.learning_rate=0.01"),
    "none": ("search=none", "optimizer.learning_rate=0.01", "training.batch_size=32"),
    "tpe": ("search=tpe", "search.max_trials=3", "search.startup_trials=1"),
    "cmaes": ("search=cmaes", "search.max_trials=3", "search.startup_trials=1"),
    "bayesian": ("search=bayesian", "search.max_trials=3", "search.num_initial_points=2"),
    "nsga2": ("search=nsga2", "search.max_trials=3", "search.population=2"),
    "pbt": ("search=pbt", "search.population=2", "search.interval=1"),
    "hyperband": ("search=hyperband", "search.factor=2"),
    "asha": ("search=asha", "search.max_trials=3", "search.factor=2"),
    "own": ("search=own",),
}
EPOCHS = 2


def data(folder: Path, task: str) -> None:
    """Writes scikit-learn's data for a task: digits, breast cancer, diabetes."""
    digits = datasets.load_digits()
    images = (digits.images[:400] / 16).astype(np.float32)
    if task == "classification":
        arrays = {"x_train": images, "y_train": digits.target[:400]}
    elif task == "multilabel":
        y = digits.target[:400]
        arrays = {"x_train": images, "y_train": np.stack([y % 2 == 0, y > 4, y == 0], axis=1).astype(np.uint8)}
    elif task == "custom":
        arrays = {
            "x_train": images,
            "y_train_mask": (images > 0.5).astype(np.uint8),
            "y_train_label": digits.target[:400],
        }
    else:
        x, y = (datasets.load_breast_cancer if task == "binary" else datasets.load_diabetes)(return_X_y=True)
        arrays = {"x_train": ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), "y_train": y}
    np.savez(folder / "data.npz", **arrays)


def given(task: str) -> list[str]:
    model = ["model.builder=own_outputs:both"] if task == "custom" else ["model.units=8", "model.layers=1"]
    return ["data=npz", "data.path=data.npz", *model, f"training.epochs={EPOCHS}", "workers.count=2"]


@pytest.fixture(scope="module", params=list(task_table.TASKS))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def place(task: str, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_store(tmp_path_factory.mktemp(task), store)
    data(folder, task)
    shutil.copy(ROOT / "tests" / "own_outputs.py", folder)
    (folder / "own_search.py").write_text(OWN_SEARCH)
    (folder / "python_sweep.py").write_text(PYTHON)
    (folder / "conf" / "search").mkdir(parents=True)
    (folder / "conf" / "search" / "own.yaml").write_text("_target_: own_search.Own\nmax_trials: 2\n")
    return folder


@pytest.fixture(scope="module")
def swept(task: str, place: Path, run) -> str:
    """A sweep with everything that is published, whose models the commands take."""
    done = run(place, *given(task), *SPACE, "search.max_trials=2", "name=whole", published=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@contextmanager
def cell(row: str, task: str) -> Iterator[None]:
    """Records whether what is in it works."""
    works = False
    try:
        yield
        works = True
    finally:
        task_table.record(row, task, works=works)


def check(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    for text in said:
        assert text in done.stdout, done.stdout


@pytest.mark.parametrize("name", task_table.ALGORITHMS)
def test_every_algorithm_searches_every_task(run, place: Path, task: str, name: str) -> None:
    if name == "gp" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    search = SEARCH.get(name, (f"search={name}", "search.max_trials=3"))
    fixed = {one.partition("=")[0] for one in search}
    space = [one for one in SPACE if one.partition("=")[0] not in fixed]
    with cell(f"search={name}", task):
        done = run(place, *given(task), *space, *search, f"name={name}")
        check(done, "Result" if name == "none" else "Winner", "on the test data: test_loss")


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        ("kfold", ("validation=kfold", "folds=2", "search.max_trials=1"), "Winner"),
        ("repeats", ("repeats=2", "search.max_trials=1"), "Winner"),
        ("confirm", ("confirm={top: 1, seeds: 2}", "search.max_trials=2"), "on 2 new seeds"),
    ],
)
def test_every_way_to_score_works_for_every_task(
    run, place: Path, task: str, row: str, changes: tuple[str, ...], said: str
) -> None:
    with cell(row, task):
        check(run(place, *given(task), *SPACE, *changes, f"name={row}"), said, "on the test data: test_loss")


def test_a_killed_sweep_of_every_task_is_resumed(run, place: Path, task: str) -> None:
    arguments = [*given(task), *SPACE, "search.max_trials=4", "training.epochs=3", "name=killed"]
    with cell("resume", task):
        started = subprocess.Popen(
            command(*arguments), cwd=place, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not any("epoch_ended" in path.read_text() for path in place.glob("experiments/killed/*/journal*")):
            assert started.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        check(run(place, "resume", "killed"), "Winner", "on the test data: test_loss")


def test_every_task_has_a_report_and_a_registered_model(place: Path, task: str, swept: str, run) -> None:
    with cell("registry", task):
        assert "version 1, the champion" in swept
    with cell("report", task):
        check(run(place, "report", "whole", "--to", "report.html"))
        assert (place / "report.html").stat().st_size > 10_000


def test_trials_of_every_task_are_compared_and_trained_again(place: Path, task: str, swept: str, run) -> None:
    with cell("compare", task):
        check(run(place, "compare", "whole"), "val_")
    with cell("rerun", task):
        check(run(place, "rerun", "whole", "1"), "identical: all ")


@pytest.mark.parametrize("name", task_table.FORMATS)
def test_models_of_every_task_are_exported(place: Path, task: str, swept: str, run, name: str) -> None:
    with cell(f"export={name}", task):
        check(run(place, "export", "whole", "--to", f"out_{name}", f"--format={name}"))
        (about,) = json.loads((place / f"out_{name}" / "manifest.json").read_text())["files"].values()
        assert about["largest_difference"] <= about["allowed_difference"]


def test_every_task_is_swept_from_python(place: Path, task: str) -> None:
    with cell("python", task):
        arguments = [*given(task)[2:], *SPACE, "tracking.report=false", "tracking.register=false"]
        done = subprocess.run(
            [sys.executable, "python_sweep.py", *arguments],
            cwd=place, env=environment(), capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        check(done, '"trials": 1')
