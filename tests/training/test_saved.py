"""Saved models: damaged files, and the conversion to float32."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.training import saved


def small() -> keras.Model:
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def _without_config(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]


def _without_weights(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["model_weights"]


def _terabytes(path: Path) -> None:
    """Declares a large data set that takes no space in the file."""
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/more", shape=(10**12,), dtype="f4", chunks=(1000,), compression="gzip")


def _with_code(path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "cannot be loaded as a model ("),
        (lambda path: path.write_bytes(b"no model"), "cannot be loaded as a model ("),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cannot be loaded as a model ("),
        (lambda path: path.write_bytes(path.read_bytes()[512:]), "cannot be loaded as a model ("),
        (_without_config, "cannot be loaded as a model (No model config found"),
        (_without_weights, "cannot be loaded as a model ("),
        (_terabytes, "needs 4 TB of memory, but this machine has "),
        (_with_code, "cannot be loaded as a model ("),
        (Path.unlink, "no such file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is a pipe, not a file"),
    ],
    ids=["empty", "text", "cut off", "no beginning", "no config", "no weights", "terabytes", "code", "missing", "pipe"],
)
def test_a_damaged_h5_file_is_a_one_line_error(tmp_path: Path, damage, reason: str) -> None:
    path = tmp_path / "model.h5"
    small().save(path, include_optimizer=False)
    damage(path)
    with pytest.raises(UserError) as caught:
        saved.load(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def _keras_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/big", b"")
    raw = path.read_bytes()
    at = raw.rindex(b"PK\x01\x02")
    # The size in the archive's own directory.
    path.write_bytes(raw[: at + 24] + b"\xf0\xff\xff\xff" + raw[at + 28 :])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"Sequential", b"Sequentiel")),
        _with_code,
    ],
    ids=["cut off", "another class", "code"],
)
def test_a_damaged_keras_file_is_a_one_line_error(tmp_path: Path, damage) -> None:
    path = tmp_path / "model.keras"
    small().save(path)
    damage(path)
    with pytest.raises(UserError) as caught:
        saved.load(path)
    assert str(caught.value).startswith(f"{path}: cannot be loaded as a model (")


def test_a_keras_file_that_decompresses_to_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.keras"
    small().save(path)
    _keras_bomb(path)
    monkeypatch.setattr("mnist_sweep.common.reading._free_memory", lambda: 2_000_000_000)
    with pytest.raises(UserError, match=r"needs 4\.295 GB of memory, but this machine has 2 GB free"):
        saved.load(path)


def test_a_half_precision_model_is_converted_to_float32() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax", dtype="mixed_bfloat16")]
    model = keras.Sequential(layers)
    copy = saved.in_float32(model)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    np.testing.assert_allclose(saved.predict(copy, images), saved.predict(model, images), rtol=0, atol=0.02)
    assert saved.in_float32(copy) is copy
