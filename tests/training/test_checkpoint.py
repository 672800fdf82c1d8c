"""Damaged checkpoints. tests/training/test_fit.py resumes from good ones."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from damage import mutations
from hypothesis import HealthCheck, given, settings

from mnist_sweep.training import checkpoint

_FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def small() -> keras.Model:
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "state.npz"
    model = small()
    progress = checkpoint.Progress(2, 1, [{"loss": 0.5, "epoch_seconds": 0.1}] * 2, {"loss": 0.5}, 1, 0.5, 1)
    checkpoint.save(path, model, progress, model.get_weights())
    return path.read_bytes()


@given(mutation=mutations())
@_FUZZ
def test_a_damaged_checkpoint_is_ignored_and_leaves_the_model_unchanged(tmp_path: Path, saved: bytes, mutation) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(mutation(saved))
    model = small()
    before = model.get_weights()
    found = checkpoint.restore(path, model)
    if found is None:
        assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    else:
        assert found[0].epoch == 2


@pytest.mark.parametrize("part", ["weight_0", "slot_1", "rate_0", "best_1", "about"])
def test_a_checkpoint_with_an_array_of_another_shape_is_ignored(tmp_path: Path, saved: bytes, part: str) -> None:
    (tmp_path / "good.npz").write_bytes(saved)
    arrays = dict(np.load(tmp_path / "good.npz"))
    assert checkpoint.restore(tmp_path / "good.npz", small()) is not None
    np.savez(tmp_path / "bad.npz", **{**arrays, part: np.zeros((5, 7), arrays[part].dtype)})
    assert checkpoint.restore(tmp_path / "bad.npz", small()) is None
