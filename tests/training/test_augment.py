"""Training images are changed at random, in the same way whenever an epoch is trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import timeless, train

from mnist_sweep.common.errors import ImpossibleError
from mnist_sweep.config.augment import NONE

SMALL = ("model.layers=0", "training.batch_size=64", "training.epochs=3")
CNN = ("model=cnn", "model.layers=1", "model.filters=4", "model.dense.layers=0", "training.epochs=2")
ALL = {"shift": 0.1, "rotation": 0.1, "zoom": 0.2, "flip": "both", "brightness": 0.2, "contrast": 0.3}


def changed(images: Any, *, seed: int = 1, epoch: int = 0, at: int = 0, weights: Any = None, **steps: Any) -> list[Any]:
    from mnist_sweep.training.augment import Augmentation

    augmentation = Augmentation(NONE.model_copy(update=steps))
    augmentation.begin(seed, epoch)
    batch = (images, np.arange(len(images))) if weights is None else (images, np.arange(len(images)), weights)
    return [np.asarray(part) for part in augmentation(batch, at)]


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).random((16, 12, 10, 3), np.float32)


def test_what_happens_to_a_batch_depends_on_the_seed_the_epoch_and_its_place(images: Any) -> None:
    first, again, *others = (
        changed(images, **ALL, mixup=0.2, cutmix=1.0, **place)[0]
        for place in ({}, {}, {"seed": 2}, {"epoch": 1}, {"at": 16})
    )
    np.testing.assert_array_equal(first, again)
    assert all((first != other).any() for other in others)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1


@pytest.mark.parametrize("step", [*ALL, "rand_augment"])
def test_each_step_changes_images_and_keeps_targets(images: Any, step: str) -> None:
    after, targets = changed(images, **{step: ALL.get(step, 0.5)})
    assert (after != images).any()
    np.testing.assert_array_equal(targets, np.arange(16))


def test_shifts_and_turns_are_the_ones_that_keras_makes() -> None:
    """Turned around its middle, a cross stays a cross; shifted, it leaves nothing but its edge behind."""
    cross = np.zeros((64, 21, 21, 1), np.float32)
    cross[:, 10, :] = cross[:, :, 10] = 1
    turned, _ = changed(cross, rotation=1.0, fill="constant")
    np.testing.assert_allclose(turned[:, 10, 10], 1, atol=1e-5)
    assert (turned.sum(axis=(1, 2, 3)) > 30).all()
    shifted, _ = changed(cross, shift=0.5, fill="constant")
    middles = shifted.sum(axis=2)[:, :, 0].argmax(axis=1)
    assert middles.min() < 3
    assert middles.max() > 17
    grown, _ = changed(cross[:, 5:-5, 5:-5], zoom=0.5, fill="nearest")
    np.testing.assert_allclose(grown[:, 5, 5], 1, atol=1e-5)


def test_a_small_alpha_mixes_hardly_anything(images: Any) -> None:
    """Its shares are 0 or 1; a share of nan would end the training."""
    after, targets = changed(np.tile(images, (20, 1, 1, 1)), mixup=0.001)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(targets[:, 2:].max(axis=1), 1, atol=0.1)


def test_flips_mirror_half_of_the_images(images: Any) -> None:
    after, _ = changed(images, flip="horizontal")
    same = (after == images).all(axis=(1, 2, 3))
    mirrored = (after == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 2 < mirrored.sum() < 14


def test_a_mixed_image_has_the_targets_of_both_in_the_shares_of_its_pixels() -> None:
    """Each image shows its own number, so that its pixels say what it consists of."""
    numbers = np.tile(np.arange(16, dtype=np.float32).reshape(-1, 1, 1, 1) / 16, (1, 8, 8, 1))
    for steps in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}):
        after, targets = changed(numbers, **steps)
        own, other, *shares = targets.T
        np.testing.assert_array_equal(own, np.arange(16))
        np.testing.assert_array_equal(other, np.roll(np.arange(16), 1))
        np.testing.assert_allclose(shares[0] + shares[1], 1, atol=1e-6)
        np.testing.assert_allclose(after.mean(axis=(1, 2, 3)) * 16, own * shares[0] + other * shares[1], atol=1e-4)
        assert shares[0].std() > 0.05
    weights = np.linspace(0, 2, 16, dtype=np.float32)
    _, weighted = changed(numbers, mixup=1.0, weights=weights)
    _, plain = changed(numbers, mixup=1.0)
    np.testing.assert_allclose(weighted[:, 2], plain[:, 2] * weights, atol=1e-6)
    np.testing.assert_allclose(weighted[:, 3], plain[:, 3] * np.roll(weights, 1), atol=1e-6)


def test_the_loss_of_a_mixed_image_is_that_of_both_its_targets(trial_config) -> None:
    import keras

    from mnist_sweep.data.schema import Target
    from mnist_sweep.training import tasks

    config, target = trial_config().task.model_copy(update={"kind": "classification"}), Target("classes", 3)
    loss, (accuracy,) = tasks.of_mixed(config, target, tasks.loss(config, target, None), tasks.metrics(config, target))
    labels, shares = np.array([0, 1, 2, 2]), np.array([1.0, 0.75, 0.25, 0.0], np.float32)
    predicted = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], np.float32)
    each = -np.log(predicted[np.arange(4), labels]) * shares
    each -= np.log(predicted[np.arange(4), np.roll(labels, 1)]) * (1 - shares)
    encoded = tasks.mixed(keras.ops.convert_to_tensor(labels), None, keras.ops.convert_to_tensor(shares))
    assert float(loss(encoded, predicted)) == pytest.approx(each.mean(), rel=1e-5)
    accuracy.update_state(encoded, predicted)
    assert float(accuracy.result()) == 1.0
    plain = -np.log(predicted[np.arange(4), labels]).mean()
    assert float(loss(labels, predicted)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "steps", [("augment=light",), ("augment.mixup=0.4", "augment.cutmix=1.0", "task.class_weight=balanced")]
)
def test_an_interrupted_trial_sees_the_same_images_again(trainer, trial_config, tmp_path: Path, steps) -> None:
    config = trial_config(*SMALL, *steps)
    _, whole = train(trainer, config, tmp_path / "whole")
    train(trainer, config, tmp_path / "cut", stop=lambda epoch: "stop" if epoch == 1 else "")
    _, resumed = train(trainer, config, tmp_path / "cut")
    assert timeless(resumed) == timeless(whole)


def test_other_strengths_reuse_the_compiled_model_and_do_not_affect_a_trial(
    trainer, dataset, trial_config, tmp_path: Path
) -> None:
    from mnist_sweep.training.fit import Trainer

    config = trial_config(*CNN, "augment.rotation=0.05", "augment.mixup=0.2")
    other = trial_config(*CNN, "augment.rotation=0.2", "augment.mixup=0.4", "training.seed=5")
    one = Trainer(dataset)
    _, alone = train(one, config, tmp_path / "alone")
    train(one, other, tmp_path / "other")
    _, again = train(one, config, tmp_path / "again")
    assert len(one._models._kept) == 1
    assert timeless(again) == timeless(alone)
    _, without = train(trainer, trial_config(*CNN), tmp_path / "without")
    assert [epoch["loss"] for epoch in without] != [epoch["loss"] for epoch in alone]


def test_only_training_images_change(trainer, trial_config, tmp_path: Path) -> None:
    """With a learning rate of almost 0, two trials have the same weights, and so the same validation."""
    still = (*SMALL, "training.epochs=1", "optimizer.name=sgd", "optimizer.learning_rate=1e-30")
    plain, augmented = (
        train(trainer, trial_config(*still, *steps), tmp_path / str(len(steps)))[1][0]
        for steps in ((), ("augment=strong", "augment.mixup=0.2"))
    )
    assert augmented["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-6)
    assert augmented["val_accuracy"] == plain["val_accuracy"]
    assert augmented["loss"] != pytest.approx(plain["loss"], rel=1e-3)


def test_a_hypermodels_images_are_changed_but_not_mixed(trainer, trial_of, tmp_path: Path) -> None:
    """A hypermodel compiles its own loss, which takes one target for each image."""
    values = {"model_type": "mlp", "units": 16, "act": "relu", "optimizer": "adam"}
    config = trial_of("conditional", values)
    light = config.model_copy(update={"augment": NONE.model_copy(update={"shift": 0.2})})
    (_, plain), (_, shifted) = (train(trainer, c, tmp_path / str(i)) for i, c in enumerate((config, light)))
    assert [epoch["loss"] for epoch in plain] != [epoch["loss"] for epoch in shifted]
    mixing = config.model_copy(update={"augment": NONE.model_copy(update={"cutmix": 1.0})})
    with pytest.raises(ImpossibleError, match=r"augment.cutmix=1.0: .* compiles its own loss"):
        train(trainer, mixing, tmp_path / "mixing")
