"""What workers read that a disk may have damaged, and what they write to one that is full or gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from damage import mutations
from hypothesis import HealthCheck, given, settings

from mnist_sweep.common.errors import MachineError, UserError, machine_fault
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import digest_of
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.training import executions, saved, state

_FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def small() -> keras.Model:
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


# ---- models -----------------------------------------------------------------------------------------------------


def _without_config(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]


def _without_weights(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["model_weights"]


def _terabytes(path: Path) -> None:
    """A data set that the file declares, and that takes no place in it."""
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/more", shape=(10**12,), dtype="f4", chunks=(1000,), compression="gzip")


def _with_code(path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "cannot be loaded as a model ("),
        (lambda path: path.write_bytes(b"no model"), "cannot be loaded as a model ("),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cannot be loaded as a model ("),
        (lambda path: path.write_bytes(path.read_bytes()[512:]), "cannot be loaded as a model ("),
        (_without_config, "cannot be loaded as a model (No model config found"),
        (_without_weights, "cannot be loaded as a model ("),
        (_terabytes, "needs 4 TB of memory, but this machine has "),
        (_with_code, "cannot be loaded as a model ("),
        (Path.unlink, "there is no such file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is a pipe, not a file"),
    ],
    ids=["empty", "text", "cut off", "no beginning", "no config", "no weights", "terabytes", "code", "gone", "pipe"],
)
def test_a_damaged_h5_file_is_told_in_a_line(tmp_path: Path, spoil, reason: str) -> None:
    path = tmp_path / "model.h5"
    small().save(path, include_optimizer=False)
    spoil(path)
    with pytest.raises(UserError) as caught:
        saved.load(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def _keras_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/big", b"")
    raw = path.read_bytes()
    at = raw.rindex(b"PK\x01\x02")
    # The size that the archive's own table tells.
    path.write_bytes(raw[: at + 24] + b"\xf0\xff\xff\xff" + raw[at + 28 :])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"Sequential", b"Sequentiel")),
        _with_code,
    ],
    ids=["cut off", "another class", "code"],
)
def test_a_damaged_keras_file_is_told_in_a_line(tmp_path: Path, spoil) -> None:
    path = tmp_path / "model.keras"
    small().save(path)
    spoil(path)
    with pytest.raises(UserError) as caught:
        saved.load(path)
    assert str(caught.value).startswith(f"{path}: cannot be loaded as a model (")


def test_a_keras_file_that_inflates_to_more_than_memory_holds_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.keras"
    small().save(path)
    _keras_bomb(path)
    monkeypatch.setattr("mnist_sweep.common.reading._free_memory", lambda: 2_000_000_000)
    with pytest.raises(UserError, match=r"needs 4\.295 GB of memory, but this machine has 2 GB free"):
        saved.load(path)


# ---- states -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state.npz"
    model = small()
    progress = state.Progress(2, 1, [{"loss": 0.5, "epoch_seconds": 0.1}] * 2, {"loss": 0.5}, 1, 0.5, 1)
    state.save(path, model, progress, model.get_weights())
    return path.read_bytes()


@given(mutation=mutations())
@_FUZZ
def test_a_damaged_state_is_no_state_and_leaves_the_model_as_it_was(tmp_path: Path, left: bytes, mutation) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(mutation(left))
    model = small()
    before = model.get_weights()
    found = state.restore(path, model)
    if found is None:
        assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    else:
        assert found[0].epoch == 2


@pytest.mark.parametrize("part", ["weight_0", "slot_1", "rate_0", "best_1", "about"])
def test_a_state_with_a_part_of_another_shape_is_no_state(tmp_path: Path, left: bytes, part: str) -> None:
    (tmp_path / "good.npz").write_bytes(left)
    arrays = dict(np.load(tmp_path / "good.npz"))
    assert state.restore(tmp_path / "good.npz", small()) is not None
    np.savez(tmp_path / "bad.npz", **{**arrays, part: np.zeros((5, 7), arrays[part].dtype)})
    assert state.restore(tmp_path / "bad.npz", small()) is None


@given(mutation=mutations())
@_FUZZ
def test_a_damaged_note_of_an_execution_is_no_note(tmp_path: Path, mutation) -> None:
    outcome = Outcome(Status.COMPLETED, "", 0.5, 1, {"loss": 0.5}, 10, 1.5, digest="0" * 64)
    executions._note(tmp_path, outcome, [(1, {"loss": 0.5})])
    path = tmp_path / "execution.json"
    assert executions._recall(tmp_path) == (outcome, [(1, {"loss": 0.5})])
    path.write_bytes(mutation(path.read_bytes()))
    found = executions._recall(tmp_path)
    if found is not None:
        assert isinstance(found[0].seconds, float)
        assert all(isinstance(epoch, int) for epoch, _ in found[1])


def test_a_note_of_an_earlier_version_has_no_digest(tmp_path: Path) -> None:
    outcome = asdict(Outcome(Status.COMPLETED, "", 0.5, 1, {"loss": 0.5}))
    del outcome["digest"]
    (tmp_path / "execution.json").write_text(json.dumps({"outcome": outcome, "history": []}))
    found = executions._recall(tmp_path)
    assert found is not None
    assert found[0].digest == ""


# ---- disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB with some bytes to spare."""
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


def test_a_full_disk_is_recognised_whatever_library_writes(full: Path) -> None:
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


def test_a_trial_on_a_full_disk_is_the_machines_fault(trainer, trial_config, full: Path) -> None:
    from mnist_sweep.training.fit import Job

    config = trial_config("model.units=64", "training.batch_size=64", "training.epochs=1")
    job = Job(config, Objective("val_accuracy", "max"), 1, full / "trials" / "0001")
    with pytest.raises(MachineError, match=r"/full/trials/0001: cannot be written \(the disk is full"):
        trainer.train(job, lambda epoch, metrics: None, lambda epoch: "")


@pytest.mark.parametrize("when", ["between epochs", "at the end"])
def test_a_folder_that_is_gone_is_the_machines_fault(trainer, trial_config, tmp_path: Path, when: str) -> None:
    from mnist_sweep.training.fit import Job

    folder = tmp_path / "trials" / "0001"
    config = trial_config("model.units=16", "training.batch_size=64", "training.epochs=2")
    every = 0.0 if when == "between epochs" else 1e9
    job = Job(config, Objective("val_accuracy", "max"), 2, folder, checkpoint_every=every, keep=False)
    with pytest.raises(MachineError) as caught:
        trainer.train(job, lambda epoch, metrics: shutil.rmtree(folder, ignore_errors=True), lambda epoch: "")
    assert str(caught.value) == f"{folder}: cannot be written (the folder is gone)"


def test_a_trials_outcome_tells_the_digest_of_its_model(trainer, trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training.fit import Job

    config = trial_config("model.units=16", "training.batch_size=64", "training.epochs=1")
    job = Job(config, Objective("val_accuracy", "max"), 1, tmp_path)
    outcome = trainer.train(job, lambda epoch, metrics: None, lambda epoch: "")
    assert outcome.digest == digest_of(tmp_path / "model.h5")
    assert len(outcome.digest) == 64
