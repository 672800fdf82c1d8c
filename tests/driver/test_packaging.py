"""Packaging the best model, by workers that make nothing and by one that does."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from fakes import FakeClock, FakeWorkers

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.driver import packaging
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.workers.base import Died, MachineFailed, Message, Package, Packaged

RESULTS = [
    (Packaged("cpu0"), ""),
    (Packaged("cpu0", "TensorFlow is too old"), "TensorFlow is too old"),
    (Died("cpu0", "was killed by SIGKILL"), "was killed by SIGKILL"),
    (MachineFailed("cpu0", "the disk is full"), "the disk is full"),
]


def pool(clock: FakeClock, **more: Any) -> FakeWorkers:
    return FakeWorkers(1, lambda values, epoch: 0.0, clock, **more)


@pytest.mark.parametrize(("message", "error"), RESULTS, ids=lambda value: type(value).__name__)
def test_the_driver_waits_for_the_workers_answer_whether_or_not_it_is_a_package(
    tmp_path: Path, message: Message, error: str
) -> None:
    clock = FakeClock()
    begun = Packaging(pool(clock, packaged=lambda slot: message), tmp_path, clock)
    begun.begin("cpu0", tmp_path / "trial", None)
    assert begun.result() == (None if error else tmp_path)


def test_a_pool_that_fails_makes_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(timeout: float) -> list[Message]:
        raise MachineError("workers: cpu0.log: cannot be written (No space left on device)")

    clock = FakeClock()
    workers = pool(clock)
    monkeypatch.setattr(workers, "poll", fails)
    begun = Packaging(workers, tmp_path, clock)
    begun.begin("cpu0", tmp_path / "trial", None)
    assert begun.result() is None


@pytest.mark.parametrize(("message", "error"), RESULTS, ids=lambda value: type(value).__name__)
def test_a_new_worker_gets_the_task_when_it_is_ready_and_its_answer_is_returned(message: Message, error: str) -> None:
    clock, task = FakeClock(), Package("trial", "to")
    workers = pool(clock, packaged=lambda slot: message)
    assert packaging.run_task(workers, task, clock, threading.Event()) == error
    assert workers.tasks == [("cpu0", task)]


def test_a_worker_that_takes_too_long_or_is_no_longer_needed_is_abandoned() -> None:
    clock, given_up = FakeClock(), threading.Event()
    hangs = pool(clock, package_seconds=1e6)
    assert packaging.run_task(hangs, Package("trial", "to"), clock, given_up) == "it takes more than 300 s"
    given_up.set()
    assert packaging.run_task(hangs, Package("trial", "to"), clock, given_up) == "interrupted"


class LoggedRun(SimpleNamespace):
    """A run whose files are in a folder already."""

    sweep, trial = "a/b", 3

    def fetch_model(self, folder: Path) -> Path:
        return folder / "model.h5"

    def fetch(self, name: str, folder: Path) -> Path:
        return folder / name

    def config(self, folder: Path, groups: tuple[str, ...]) -> dict[str, Any]:
        return {group: {} for group in groups}

    def fetch_code(self, config: dict[str, Any], folder: Path) -> None:
        return None


def test_a_model_in_mlflow_is_packaged_in_a_temporary_worker(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.save(tmp_path / "model.h5", include_optimizer=False)
    np.savez(tmp_path / "sample_predictions.npz", images=np.zeros((3, 4, 4, 1), np.uint8))
    run: Any = LoggedRun()
    made = packaging.package(run, tmp_path, threading.Event())
    assert "tensorflow" in (made / "MLmodel").read_text()

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.h5").write_bytes(b"no model")
    message = r"^a/b: the model of trial 3 cannot be packaged \(.*model\.h5: cannot be loaded as a model"
    with pytest.raises(UserError, match=message):
        packaging.package(run, damaged, threading.Event())
