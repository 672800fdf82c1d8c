"""Packaging a trial's model as an MLflow model."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import digest_of
from mnist_sweep.training import packaged


def test_a_damaged_model_is_not_packaged(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.save(tmp_path / "model.h5", include_optimizer=False)
    np.savez(tmp_path / "sample_predictions.npz", images=np.zeros((3, 4, 4, 1)))
    digest = digest_of(tmp_path / "model.h5")
    raw = bytearray((tmp_path / "model.h5").read_bytes())
    raw[-100] ^= 4
    (tmp_path / "model.h5").write_bytes(raw)
    with pytest.raises(UserError, match=r"model\.h5: was changed or damaged since it was written"):
        packaged.package(tmp_path, tmp_path / "package", None, digest)
    assert not (tmp_path / "package").exists()


def test_the_packaged_model_takes_raw_images_and_has_an_input_example(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.save(tmp_path / "model.h5", include_optimizer=False)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "sample_predictions.npz", images=images)
    made = tmp_path / "package"
    packaged.package(tmp_path, made, None)
    about = yaml.safe_load((made / "MLmodel").read_text())
    assert '"shape": [-1, 4, 4, 1]' in about["signature"]["inputs"]
    example = np.asarray(yaml.safe_load((made / "input_example.json").read_text()))
    np.testing.assert_array_equal(example, images[:2])
    raw = keras.models.load_model(made / "data" / "model.keras", compile=False)
    expected = model(images.astype(np.float32) / 255)
    np.testing.assert_allclose(raw(images.astype(np.float32)), expected, atol=1e-6)
