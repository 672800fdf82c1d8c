"""Full disks and missing folders: what a trial reports, and every library that writes files for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from fitting import ACCURACY, train

from mnist_sweep.common.errors import MachineError, machine_fault
from mnist_sweep.common.files import write_whole


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB that is nearly full."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        (folder / "ballast").write_bytes(bytes(50_000))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_recognized_whichever_library_writes(full: Path) -> None:
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(100)])
    array = np.random.default_rng(1).random(10_000)
    writers = {
        "model.h5": lambda path: model.save(path, include_optimizer=False),
        "model.keras": lambda path: model.save(path),
        "a.npz": lambda path: np.savez(path, array),
        "b.npz": lambda path: np.savez_compressed(path, array),
        "a.npy": lambda path: np.save(path, array),
        "a.raw": lambda path: array.tofile(path),
        "a.json": json.dumps(array.tolist()),
    }
    for name, write in writers.items():
        try:
            write_whole(full / name, write)
        except Exception as error:
            fault = machine_fault(error)
            assert fault is not None, (name, error)
        else:
            pytest.fail(f"{name} was written")
        assert fault.startswith("the disk is full"), (name, fault)
        assert [path.name for path in full.iterdir()] == ["ballast"], name


def test_a_full_disk_is_reported_as_the_machines_fault(trainer, trial_config, full: Path) -> None:
    config = trial_config("model.units=64", "training.batch_size=64", "training.epochs=1")
    with pytest.raises(MachineError, match=r"/full/trials/0001: cannot be written \(the disk is full"):
        train(trainer, config, full / "trials" / "0001")


@pytest.mark.parametrize("when", ["between epochs", "at the end"])
def test_a_missing_folder_is_reported_as_the_machines_fault(trainer, trial_config, tmp_path: Path, when: str) -> None:
    from mnist_sweep.training.fit import Job

    folder = tmp_path / "trials" / "0001"
    config = trial_config("model.units=16", "training.batch_size=64", "training.epochs=2")
    every = 0.0 if when == "between epochs" else 1e9
    job = Job(config, ACCURACY, 2, folder, checkpoint_every=every, keep=False)
    with pytest.raises(MachineError) as caught:
        trainer.train(job, lambda epoch, metrics: shutil.rmtree(folder, ignore_errors=True), lambda epoch: "")
    assert str(caught.value) == f"{folder}: cannot be written (the folder is gone)"
