"""Training on streams: the same result after an interruption, and what each kind of stream needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import loaders
import numpy as np
import pytest
from fitting import timeless, train

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.data import loader_function, returned, stream_scan
from mnist_sweep.data.dataset import Dataset, split
from mnist_sweep.journal.trial import Status

SMALL = ("model.units=8", "model.layers=1", "training.epochs=4", "optimizer.learning_rate=0.01")
_ALL = {"classes": None, "count": True, "steps_per_epoch": None}


def scanned(name: str, wanted: Any = None, arguments: Any = None, **options: Any) -> Any:
    function = getattr(loaders, name)
    arguments = arguments or {}
    loader_function.seed(0)
    parts = returned.streams(loader_function.call(function, f"loaders:{name}", arguments, 32), "data.loader")
    assert parts is not None
    return stream_scan.scan(
        parts,
        f"loaders:{name}",
        arguments,
        stream_scan.Options.of({**_ALL, **options}),
        wanted,
        takes_batch_size=loader_function.takes_batch_size(function, arguments),
        tell=lambda _: None,
    )


def trainer(name: str, **options: Any) -> Any:
    """Returns a trainer; the tests of the same stream share one, and so the model that it has compiled."""
    from mnist_sweep.training.fit import Trainer

    key = json.dumps([name, options])
    if key not in _TRAINERS:
        _TRAINERS[key] = Trainer(dataset(name, **options))
    return _TRAINERS[key]


_TRAINERS: dict[str, Any] = {}


def dataset(name: str, **options: Any) -> Dataset:
    return split(scanned(name, **options), 0.1, seed=1)


@pytest.mark.parametrize("name", ["tensors", pytest.param("batches", marks=pytest.mark.slow)])
def test_a_trial_that_is_interrupted_continues_to_the_last_bit(name: str, trial_config, tmp_path: Path) -> None:
    config = trial_config(*SMALL)
    _, whole = train(trainer(name), config, tmp_path / "whole")
    _, first = train(trainer(name), config, tmp_path / "two", stop=lambda epoch: "killed" if epoch == 2 else "")
    _, resumed = train(trainer(name), config, tmp_path / "two")
    assert [one["epoch"] for one in first] == [1, 2]
    assert timeless(resumed) == timeless(whole)
    assert whole[-1]["val_accuracy"] > 0.8


@pytest.mark.slow
def test_epochs_differ_and_seeds_differ(trial_config, tmp_path: Path) -> None:
    _, one = train(trainer("tensors"), trial_config(*SMALL), tmp_path / "1")
    _, other = train(trainer("tensors"), trial_config(*SMALL, "training.seed=2"), tmp_path / "2")
    assert timeless(one) != timeless(other)


def test_the_best_trial_is_tested_on_the_test_part(trial_config, tmp_path: Path) -> None:
    found = trainer("tensors")
    outcome, _ = train(found, trial_config(*SMALL), tmp_path)
    metrics, confusion = found.test(tmp_path / "model.h5", outcome.digest, trial_config(*SMALL).task)
    _, _, (_, y) = loaders.arrays()
    assert np.array(confusion).sum(axis=1).tolist() == np.bincount(y, minlength=3).tolist()
    assert metrics["test_accuracy"] == pytest.approx(np.trace(confusion) / len(y))
    with np.load(tmp_path / "test_details.npz") as details:
        assert len(details["true"]) == len(y)
        assert len(details["mistakes_true"]) == len(y) - np.trace(confusion)
    assert (tmp_path / "data_profile.npz").exists()


@pytest.mark.slow
def test_single_rows_become_batches_of_the_batch_size(trial_config, tmp_path: Path) -> None:
    size = "training.batch_size=64"
    _, rows = train(
        trainer("tensors", arguments={"batch": 0, "shuffle": False}), trial_config(*SMALL, size), tmp_path / "1"
    )
    _, whole = train(
        trainer("tensors", arguments={"batch": 64, "shuffle": False}), trial_config(*SMALL), tmp_path / "2"
    )
    assert timeless(rows) == timeless(whole)
    _, grain = train(trainer("like_grain"), trial_config(*SMALL, size), tmp_path / "3")
    assert [one["val_accuracy"] for one in grain] == [one["val_accuracy"] for one in whole]
    _, sized = train(trainer("sized"), trial_config(*SMALL, size), tmp_path / "4")
    assert len(sized) == 4


@pytest.mark.slow
def test_weights_numbers_and_several_inputs_train(trial_config, tmp_path: Path) -> None:
    task = ("task=regression", "model.units=8", "model.dropout=0", "training.epochs=8", "optimizer.learning_rate=0.02")
    objective = Objective("val_mae", "min")
    found = trainer("regression", wanted="numbers")
    _, reports = train(found, trial_config(*task), tmp_path / "numbers", objective=objective)
    # Only if the scale of the targets is known.
    assert reports[-1]["val_r2"] > 0.5
    _, two = train(trainer("two_inputs"), trial_config(*SMALL, "training.epochs=2"), tmp_path / "two")
    assert len(two) == 2


@pytest.mark.slow
def test_labels_that_do_not_start_at_0_and_one_hot_rows_are_classes(trial_config, tmp_path: Path) -> None:
    plain, from_1, one_hot = (
        train(trainer("batches", arguments=given), trial_config(*SMALL), tmp_path / str(i))[1]
        for i, given in enumerate(({}, {"labels_from": 1}, {"one_hot": True}))
    )
    assert timeless(from_1) == timeless(plain) == timeless(one_hot)


def test_rare_classes_can_count_as_much_as_frequent_ones(trial_config, tmp_path: Path) -> None:
    _, plain = train(trainer("tensors"), trial_config(*SMALL), tmp_path / "1")
    _, balanced = train(trainer("tensors"), trial_config(*SMALL, "task.class_weight=balanced"), tmp_path / "2")
    assert timeless(plain) != timeless(balanced)
    config = trial_config(*SMALL, "training.epochs=1")
    task = config.task.model_copy(update={"class_weight": dict.fromkeys("012", 100.0)})
    weighted = config.model_copy(update={"task": task})
    (heavy,) = train(trainer("tensors"), weighted, tmp_path / "3")[1]
    # In training only.
    assert heavy["loss"] > 50 > heavy["val_loss"]


@pytest.mark.slow
def test_an_endless_stream_goes_on_from_epoch_to_epoch(trial_config, tmp_path: Path) -> None:
    found = trainer("tensors", arguments={"endless": True, "shuffle": False, "batch": 50}, steps_per_epoch=2)
    assert found._stream.steps == 2
    # Two epochs of two batches are one of the four batches that it repeats.
    plain = (*SMALL, "model.dropout=0")
    _, halves = train(found, trial_config(*plain, "training.epochs=2"), tmp_path / "1")
    whole = trainer("tensors", arguments={"shuffle": False, "batch": 50})
    _, once = train(whole, trial_config(*plain, "training.epochs=1"), tmp_path / "2")
    assert halves[1]["val_loss"] == once[0]["val_loss"]


def test_what_a_stream_raises_is_told_with_its_place(trial_config, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"its stream raised \(ValueError at loaders.py:\d+: the server of the pictures"
    ):
        train(trainer("fails_later"), trial_config(*SMALL, "training.epochs=5"), tmp_path)


@pytest.mark.slow
def test_a_diverging_trial_ends_within_its_epoch(trial_config, tmp_path: Path) -> None:
    config = trial_config(*SMALL, "optimizer=sgd", "optimizer.learning_rate=1e30")
    outcome, _ = train(trainer("tensors"), config, tmp_path)
    assert outcome.status is Status.FAILED
    assert "the loss became" in outcome.reason
