"""The details that a test writes for the report."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.reading import digest_of
from mnist_sweep.data.profile import Profile
from mnist_sweep.training import diagnostics


def test_the_most_confident_mistakes_come_first_and_are_at_most_25() -> None:
    rng = np.random.default_rng(1)
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    truth = rng.integers(0, 3, 100)
    probabilities = rng.dirichlet(np.ones(3), 100).astype(np.float32)
    found = diagnostics.mistakes(images, truth, probabilities)
    which = found["mistakes_images"].ravel()
    assert len(which) == 25
    assert (found["mistakes_true"] == truth[which]).all()
    assert (found["mistakes_predicted"] == probabilities[which].argmax(axis=1)).all()
    assert (found["mistakes_true"] != found["mistakes_predicted"]).all()
    assert (found["mistakes_probability"] == probabilities[which].max(axis=1)).all()
    assert (np.diff(found["mistakes_probability"]) <= 0).all()
    right = probabilities.argmax(axis=1) == truth
    left_out = np.setdiff1d(np.flatnonzero(~right), which)
    assert probabilities[left_out].max() <= found["mistakes_probability"][-1]
    assert len(diagnostics.mistakes(images[right], truth[right], probabilities[right])["mistakes_true"]) == 0


def test_large_images_of_mistakes_are_reduced() -> None:
    images = np.zeros((2, 300, 200, 3), dtype=np.uint8)
    images[1, :, :100] = 200
    truth, probabilities = np.array([0, 0]), np.array([[0.4, 0.6], [0.3, 0.7]])
    found = diagnostics.mistakes(images, truth, probabilities)["mistakes_images"]
    assert (found.shape, found.dtype) == ((2, 100, 66, 3), np.uint8)
    assert (found[0, 0, 0, 0], found[0, 0, -1, 0]) == (200, 0)


def test_filters_are_those_of_the_first_layer_that_sees_the_image() -> None:
    layers = keras.layers
    convolution = keras.Sequential([layers.Input((8, 6, 3)), layers.BatchNormalization(), layers.Conv2D(5, (3, 2))])
    found = diagnostics.filters(convolution, (8, 6, 3))
    assert found is not None
    assert found.shape == (5, 3, 2, 3)
    assert (found[4] == np.asarray(convolution.layers[-1].kernel)[..., 4]).all()
    dense = keras.Sequential([layers.Input((8, 6, 1)), layers.Flatten(), layers.Dense(100)])
    weights = np.ones((48, 100), np.float32) * np.arange(100)
    dense.layers[-1].set_weights([weights, np.zeros(100)])
    found = diagnostics.filters(dense, (8, 6, 1))
    assert found is not None
    assert found.shape == (64, 8, 6, 1)
    assert found[:, 0, 0, 0].tolist() == list(range(36, 100))
    nested = keras.Sequential([layers.Input((8, 6, 3)), convolution, layers.Flatten(), layers.Dense(2)])
    found = diagnostics.filters(nested, (8, 6, 3))
    assert found is not None
    assert found.shape == (5, 3, 2, 3)
    pooled = keras.Sequential([layers.Input((8, 6, 1)), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(2)])
    assert diagnostics.filters(pooled, (8, 6, 1)) is None


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    model = keras.Sequential([keras.layers.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.add(keras.layers.Softmax())
    model.save(path, include_optimizer=False)
    return path


def test_testing_writes_mistakes_filters_and_a_profile_next_to_the_model(trainer, model: Path) -> None:
    metrics, _ = trainer.test(model)
    with np.load(model.parent / "test_details.npz", allow_pickle=False) as found:
        assert found["mistakes_images"].shape == (25, 28, 28, 1)
        assert found["filters"].shape == (10, 28, 28, 1)
    assert metrics["test_accuracy"] < 0.9
    assert Profile.load(model.parent / "data_profile.npz").likeness is not None


def test_a_test_counts_even_if_its_details_fail(
    trainer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def odd(*_: object) -> None:
        raise ValueError("a layer of an odd kind")

    monkeypatch.setattr(diagnostics, "filters", odd)
    metrics, _ = trainer.test(model)
    assert 0 <= metrics["test_accuracy"] <= 1
    assert "a layer of an odd kind" in capsys.readouterr().err
    assert not (model.parent / "test_details.npz").exists()


def test_a_full_disk_is_reported_as_the_machines_fault(trainer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(diagnostics, "write_whole", full)
    with pytest.raises(MachineError) as caught:
        trainer.test(model)
    assert str(caught.value) == f"{model.parent}: cannot be written (the disk is full)"


def test_a_damaged_model_is_not_tested(trainer, model: Path) -> None:
    digest = digest_of(model)
    assert trainer.test(model, digest)[0]["test_accuracy"] < 0.9
    raw = bytearray(model.read_bytes())
    raw[len(raw) // 2] ^= 1
    model.write_bytes(raw)
    assert trainer.test(model)[0], "without a digest, the damage is not noticed"
    with pytest.raises(
        UserError, match=r"model\.h5: was changed or damaged since it was written; train its trial again"
    ):
        trainer.test(model, digest)
