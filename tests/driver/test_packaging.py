"""The winner's package, made by workers that do not make it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeClock, FakeWorkers

from mnist_sweep.common.errors import MachineError
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.workers.base import Died, MachineFailed, Message, Packaged


@pytest.mark.parametrize(
    ("said", "made"),
    [
        (Packaged("cpu0"), True),
        (Packaged("cpu0", "TensorFlow is too old"), False),
        (Died("cpu0", "was killed by SIGKILL"), False),
        (MachineFailed("cpu0", "the disk is full"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_becomes_of_the_package_it_is_waited_for(tmp_path: Path, said: Message, made: bool) -> None:
    clock = FakeClock()
    workers = FakeWorkers(1, lambda values, epoch: 0.0, clock, packaged=lambda slot: said)
    packaging = Packaging(workers, tmp_path, clock)
    packaging.begin("cpu0", tmp_path / "trial", None)
    assert packaging.result() == (tmp_path if made else None)


def test_a_pool_that_cannot_go_on_makes_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(timeout: float) -> list[Message]:
        raise MachineError("workers: cpu0.log: cannot be written (No space left on device)")

    clock = FakeClock()
    workers = FakeWorkers(1, lambda values, epoch: 0.0, clock)
    monkeypatch.setattr(workers, "poll", fails)
    packaging = Packaging(workers, tmp_path, clock)
    packaging.begin("cpu0", tmp_path / "trial", None)
    assert packaging.result() is None
