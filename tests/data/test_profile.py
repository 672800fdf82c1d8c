"""Measuring training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnist_sweep.data import images as data
from mnist_sweep.data.profile import Profile, measure


@pytest.fixture(scope="module")
def images(digits: Path) -> data.Images:
    return data.load("mnist", str(digits))


def test_the_frame_of_mnists_digits_is_found(images) -> None:
    drawing = measure(images.x_train).drawing
    assert drawing is not None
    assert (drawing.background, drawing.size) == (0, 20)
    assert drawing.centre == pytest.approx((14, 14), abs=0.1)


@pytest.mark.parametrize("kind", ["colour", "textured", "to_the_edge", "not_centred"])
def test_other_images_are_not_mistaken_for_drawings(images, kind) -> None:
    rng = np.random.default_rng(1)
    x = images.x_train[:100]
    changed = {
        "colour": np.repeat(x, 3, axis=3),
        "textured": np.maximum(x, rng.integers(0, 120, x.shape, dtype=np.uint8)),
        "to_the_edge": x[:, 4:24, 4:24],
        "not_centred": np.stack([np.roll(image, rng.integers(-4, 5), axis=1) for image in x]),
    }[kind]
    assert measure(changed).drawing is None


def test_a_profile_survives_save_and_load_without_python_objects(images, tmp_path: Path) -> None:
    path = tmp_path / "data_profile.npz"
    written = measure(images.x_train, images.y_train)
    written.save(path)
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    read = Profile.load(path)
    assert read.drawing == written.drawing
    image = data.to_float(images.x_test[0])
    assert read.likeness is not None
    assert written.likeness is not None
    assert read.likeness.rarity(image, 0) == pytest.approx(written.likeness.rarity(image, 0), abs=0.01)
    measure(images.x_train).save(path)
    assert Profile.load(path).likeness is None
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not a profile of images"):
        Profile.load(path)


def test_rarity_is_the_fraction_of_training_images_that_are_as_unusual(images) -> None:
    # Shuffled, because other people wrote the test digits.
    order = np.random.default_rng(1).permutation(600)
    x = np.concatenate([images.x_train, images.x_test])[order]
    y = np.concatenate([images.y_train, images.y_test])[order]
    likeness = measure(x[200:], y[200:]).likeness
    assert likeness is not None
    test = data.to_float(x[:200])
    of_own = np.array([likeness.rarity(image, label) for image, label in zip(test, y, strict=False)])
    assert abs(np.mean(of_own < 0.5) - 0.5) < 0.15
    assert np.mean(of_own < 0.01) < 0.05
    of_next = np.array([likeness.rarity(image, (label + 1) % 10) for image, label in zip(test, y, strict=False)])
    assert np.mean(of_next < 0.05) > 0.8


def test_likeness_is_measured_for_images_of_any_size_if_there_are_enough() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 3
    x = rng.random((60, 70, 45, 3)).astype(np.float32)
    likeness = measure(x, labels).likeness
    assert likeness is not None
    assert 0 <= likeness.rarity(x[0], 0) <= 1
    assert measure(x[:50], labels[:50]).likeness is None
