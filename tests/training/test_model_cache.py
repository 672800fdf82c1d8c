"""Trials that reuse a compiled model give the same results as on a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fitting import timeless, train

SMALL = ("model.units=16", "model.dropout=0.3", "training.batch_size=32", "training.epochs=3")


RESIDUAL = ("model=cnn", "model.filters=[4,6]", "model.convolution=separable", "model.residual=true")


@pytest.mark.parametrize(
    "model",
    [
        SMALL,
        ("model=cnn", "model.layers=1", "model.filters=4", "model.batch_normalization=true"),
        (*RESIDUAL, "model.padding=same", "model.pooling.global=average"),
    ],
)
def test_a_trial_is_the_same_whatever_the_model_trained_before(
    trainer, dataset, trial_config, tmp_path: Path, model: tuple[str, ...]
) -> None:
    """A model compiled for other numbers is reused, and they do not affect this trial."""
    import keras

    from mnist_sweep.training import saved
    from mnist_sweep.training.fit import Trainer

    numbers = ("model.dropout=0.3", "model.l2=0.001", "optimizer.learning_rate=0.003", "training.batch_size=32")
    others = ("model.dropout=0.7", "model.l2=0.1", "optimizer.learning_rate=0.1", "training.batch_size=21")
    config = trial_config(*model, *numbers, "training.epochs=2")
    first, alone = train(Trainer(dataset), config, tmp_path / "alone")
    before, _ = train(
        trainer, trial_config(*model, *others, "training.seed=9", "training.epochs=2"), tmp_path / "before"
    )
    after, again = train(trainer, config, tmp_path / "after")
    assert timeless(alone) == timeless(again)
    if keras.backend.backend() == "tensorflow":
        # JAX compiles for each batch size, and the trial before had another.
        assert (first.phases["trace"] + before.phases["trace"]) / 2 > 10 * after.phases["trace"]
    one, other = (saved.load(tmp_path / folder / "model.h5") for folder in ("alone", "after"))
    assert one.to_json() == other.to_json()
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_last_batch_as_large_as_another_trials_batches_does_not_affect_the_trial(
    dataset, trial_config, tmp_path: Path
) -> None:
    """With 320 images. What runs once per epoch may be compiled differently, with different rounding."""
    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(dataset)
    config, other = (trial_config(*SMALL, "training.epochs=1", f"training.batch_size={n}") for n in (20, 100))
    _, alone = train(Trainer(dataset), config, tmp_path / "alone")
    train(trainer, other, tmp_path / "before")
    _, after = train(trainer, config, tmp_path / "after")
    assert timeless(after) == timeless(alone)


def test_only_the_latest_batch_sizes_stay_compiled(
    dataset, trial_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep over all batch sizes would fill the memory, 8 MB with each."""
    import keras

    from mnist_sweep.training.fit import Trainer

    if keras.backend.backend() != "jax":
        pytest.skip("TensorFlow compiles one program for all batch sizes")
    from mnist_sweep.training.backends import jax_program

    monkeypatch.setattr(jax_program, "_MOST", 2)
    trainer = Trainer(dataset)
    for size in (32, 40, 48):
        train(trainer, trial_config(*SMALL, "training.epochs=1", f"training.batch_size={size}"), tmp_path / str(size))
    (compiled,) = trainer._models._kept.values()
    assert len(compiled.program._compiled) == 2
