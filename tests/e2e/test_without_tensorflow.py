"""A sweep on JAX from start to end, in an environment without TensorFlow: `make test-jax`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
from programs import Run, command, environment
from tasks import small
from waiting import wait_for

import mnist_sweep
from mnist_sweep.data.dataset import split
from mnist_sweep.data.sources import Request, load
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded, TrialEnded
from mnist_sweep.journal.files import COMPILED
from mnist_sweep.journal.trial import Status
from mnist_sweep.workers.base import Done, Ready
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.local import LocalWorkers

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the extra jax"),
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"),
]


def test_a_new_process_finds_what_another_has_compiled(compose_config, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    split(load(Request("npz", str(digits))), 0.2, seed=1).save(tmp_path / "arrays")
    compiled: list[set[str]] = []
    for number in range(2):
        workers = LocalWorkers([Slot("cpu0", 1)], tmp_path / "arrays", tmp_path / "logs", backend="jax")
        try:
            wait_for(workers, Ready, 120)
            workers.submit("cpu0", small(compose_config, number, tmp_path / "trial", epochs=1))
            messages = wait_for(workers, Done, 120)
        finally:
            workers.close()
        assert [m.outcome.status for m in messages if isinstance(m, Done)] == [Status.COMPLETED]
        compiled.append({path.name for path in (tmp_path / COMPILED).glob("*-cache")})
    assert compiled[0]
    assert compiled[1] == compiled[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jax")


@pytest.fixture(scope="module")
def sweep(folder: Path, digits: Path) -> Path:
    """A sweep whose driver was killed in its second trial, and which was then resumed to its end."""
    arguments = command(
        "data=npz", f"data.path={digits}", "search.max_trials=3", "training.epochs=3", "model.units=8,16,32",
        "name=jax", "workers.count=1", "seed=3", published=True,
    )  # fmt: skip
    killed = subprocess.Popen(
        arguments, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert killed.stdout is not None
    ended = False
    while not ended and killed.poll() is None:
        found = [path.parent for path in folder.glob("experiments/jax/*/journal.jsonl")]
        events = list(journal.read(found[0])) if found else []
        ended = any(isinstance(event, EpochEnded) and event.trial == 1 for event in events)
    killed.kill()
    output = killed.communicate()[0]
    assert "  backend  jax" in output
    return found[0]


def test_a_killed_sweep_is_resumed_and_the_compiled_programs_are_removed_in_the_end(
    sweep: Path, folder: Path, run: Run
) -> None:
    assert any((sweep / COMPILED).iterdir())
    done = run(folder, "resume", str(sweep))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The best model is not registered: MLflow needs TensorFlow, which is not installed" in done.stdout
    events = list(journal.read(sweep))
    assert sorted(e.trial for e in events if isinstance(e, TrialEnded)) == [0, 1, 2]
    epochs = [(e.trial, e.epoch) for e in events if isinstance(e, EpochEnded)]
    assert len(set(epochs)) == len(epochs) == 9
    assert not (sweep / COMPILED).exists()


def test_what_needs_tensorflow_says_so(sweep: Path, folder: Path, run: Run) -> None:
    synced = run(folder, "sync", "jax")
    assert synced.returncode == 0
    refused = run(folder, "export", "jax", "--to", "other", "--format", "savedmodel")
    assert refused.returncode == 2
    assert "--format=savedmodel: needs tensorflow" in refused.stderr


def test_results_are_compared_reported_and_exported(sweep: Path, folder: Path, run: Run) -> None:
    for arguments in (("compare", "jax"), ("report", "jax"), ("export", "jax", "--to", "out"), ("rerun", "jax", "0")):
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert {Path(name).suffix for name in map(str, folder.glob("out/model.*"))} == {".h5", ".keras"}, manifest
    frame = mnist_sweep.load_runs(experiment="jax", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    assert frame["status"].tolist() == ["completed"] * 3
