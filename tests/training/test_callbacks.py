"""Callbacks of `training.callbacks`: what they get, what they may change, and that a resumed trial continues them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fitting import timeless, train

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.trial_config import Callback
from mnist_sweep.journal.trial import Status

SMALL = ("model.layers=0", "training.batch_size=64", "training.epochs=4", "optimizer.learning_rate=0.01")
PLATEAU = "{name: ReduceLROnPlateau, monitor: loss, min_delta: 10.0, factor: 0.5, patience: 2}"


def using(*callbacks: str) -> str:
    return f"training.callbacks=[{','.join(callbacks)}]"


def rates(reports) -> list[float]:
    return [report["learning_rate"] for report in reports]


def test_a_callback_of_kerass_own_changes_the_learning_rate(trainer, trial_config, tmp_path: Path) -> None:
    """No epoch is better by 10 than the first one, so each second one halves the rate."""
    _, reports = train(trainer, trial_config(*SMALL, using(PLATEAU)), tmp_path)
    assert rates(reports) == pytest.approx([0.01, 0.01, 0.01, 0.005])


@pytest.mark.parametrize("callbacks", [(PLATEAU,), ("callbacks:Halving", "{name: callbacks:StopsAfter, epochs: 3}")])
def test_a_callback_continues_where_its_trial_was_interrupted(trainer, trial_config, tmp_path: Path, callbacks) -> None:
    config = trial_config(*SMALL, using(*callbacks))
    _, whole = train(trainer, config, tmp_path / "whole")
    train(trainer, config, tmp_path / "cut", stop=lambda epoch: "stop" if epoch == 2 else "")
    outcome, resumed = train(trainer, config, tmp_path / "cut")
    assert timeless(resumed) == timeless(whole)
    assert outcome.status is Status.COMPLETED


def test_a_callback_sees_each_epoch_with_its_metrics(trainer, trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training import checkpoint

    _, reports = train(trainer, trial_config(*SMALL, using("{name: callbacks:Halving, least: 0.004}")), tmp_path)
    assert rates(reports) == pytest.approx([0.01, 0.005, 0.004, 0.004])
    found = checkpoint._read(tmp_path / "state.npz")
    assert found is not None
    (state,) = found.progress.callbacks
    names = ["accuracy", "epoch_seconds", "learning_rate", "loss", "val_accuracy", "val_loss"]
    assert state["seen"] == [[epoch, report["loss"], names] for epoch, report in enumerate(reports)]
    assert "object" not in state


def test_a_trial_that_a_callback_ends_is_complete_and_stays_so(trainer, trial_config, tmp_path: Path) -> None:
    config = trial_config(*SMALL, using("{name: callbacks:StopsAfter, epochs: 2}"))
    for _ in range(2):
        outcome, reports = train(trainer, config, tmp_path)
        assert (len(reports), outcome.status, outcome.reason) == (
            2, Status.COMPLETED, "stopped by callbacks:StopsAfter",
        )  # fmt: skip
    _, after = train(trainer, trial_config(*SMALL), tmp_path / "after")
    assert len(after) == 4


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            "callbacks:Batches",
            "training.callbacks=callbacks:Batches: overrides on_train_batch_end, which is never called: an epoch is "
            "one compiled program; use on_epoch_begin or on_epoch_end, or a hypermodel with a fit of its own",
        ),
        (
            "callbacks:Broken",
            "training.callbacks=callbacks:Broken: its on_epoch_end raised (KeyError at callbacks.py:46: 'nothing')",
        ),
        ("callbacks:not_one", "training.callbacks=callbacks:not_one: is int; it must be a keras.callbacks.Callback"),
        ("callbacks:absent", "training.callbacks=callbacks:absent: callbacks has no class absent"),
        (
            "{name: ReduceLROnPlateau, monitor: val_los}",
            "training.callbacks=ReduceLROnPlateau: monitors val_los, which is not logged; did you mean 'val_loss'?",
        ),
        (
            "{name: ReduceLROnPlateau, factor: 2.0}",
            "training.callbacks=ReduceLROnPlateau: ReduceLROnPlateau does not support a factor >= 1.0. "
            "Received factor=2.0",
        ),
    ],
)
def test_a_callback_that_cannot_work_is_refused(
    trainer, trial_config, tmp_path: Path, callback: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        train(trainer, trial_config(*SMALL, using(callback)), tmp_path)
    assert str(error.value) == message


def test_only_plain_values_are_kept_of_a_callback() -> None:
    import keras

    from mnist_sweep.training.callbacks import Callbacks

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    callbacks = Callbacks([Callback(name="callbacks:Halving")])
    callbacks.begin(model, 3, [])
    ((_, callback),) = callbacks._all
    callback.numbers = {"a": [np.float32(0.5), None, True]}
    callback.array = np.zeros(3)
    (state,) = callbacks.states()
    assert state == {"least": 0.0, "seen": [], "numbers": {"a": [0.5, None, True]}}
    assert type(state["numbers"]["a"][0]) is float
