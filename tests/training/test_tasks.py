"""Training for every task: what is predicted, logged, saved and tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import train
from sklearn import datasets

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.task import TASKS, Kind
from mnist_sweep.data.dataset import Dataset, LoadedData, Rows, split, with_test
from mnist_sweep.data.schema import ONLY, Input, Schema, Target

_SMALL = ("model.units=16", "model.layers=1", "model.dropout=0", "training.batch_size=16", "training.epochs=6")


def rows_of(x: Any, targets: Any, target: Target, **inputs: Any) -> Dataset:
    """Returns arrays as a data set, with parts for validation and testing."""
    named = {ONLY: x} if not inputs else {"first": x, **inputs}
    schema = Schema({name: Input("array", array.shape[1:]) for name, array in named.items()}, target)
    return split(with_test(LoadedData("made", "here", schema, Rows(named, targets), None), 0.2), 0.2, seed=1)


def scaled(x: Any) -> Any:
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)


def data_for(kind: Kind) -> Dataset:
    """Returns real data for a task: iris, breast cancer, diabetes, and digits with several labels."""
    if kind == "classification":
        x, y = datasets.load_iris(return_X_y=True)
        return rows_of(scaled(x), y.astype(np.int64), Target("classes", 3))
    if kind == "binary":
        x, y = datasets.load_breast_cancer(return_X_y=True)
        return rows_of(scaled(x), y.astype(np.int64), Target("classes", 2, ("malignant", "benign")))
    if kind == "regression":
        x, y = datasets.load_diabetes(return_X_y=True)
        return rows_of(x.astype(np.float32) * 20, y.astype(np.float32), Target("numbers", 1))
    x, y = datasets.load_digits(return_X_y=True)
    labels = np.stack([y % 2 == 0, y > 4, y == 0], axis=1).astype(np.float32)
    return rows_of((x / 16).astype(np.float32), labels, Target("labels", 3, ("even", "large", "zero")))


def objective_of(kind: Kind) -> Objective:
    return Objective.parse(TASKS[kind].objective)


@pytest.mark.parametrize("kind", [kind for kind in TASKS if kind != "custom"])
def test_each_task_learns_and_logs_what_fits_it(trial_config, tmp_path: Path, kind: Kind) -> None:
    from mnist_sweep.training import saved
    from mnist_sweep.training.fit import Trainer

    dataset = data_for(kind)
    config = trial_config(*_SMALL, f"task={kind}", "optimizer.learning_rate=0.01")
    trainer = Trainer(dataset)
    outcome, reports = train(trainer, config, tmp_path, objective=objective_of(kind))
    usual = {"loss", "val_loss", "learning_rate", "epoch_seconds"}
    of_task = {f"{part}{name}" for name in TASKS[kind].metrics for part in ("", "val_")}
    assert set(reports[0]) == {"epoch", *usual, *of_task}
    metrics, confusion = trainer.test(tmp_path / "model.h5", outcome.digest, config.task)
    assert set(metrics) == {"test_loss", *(f"test_{name}" for name in TASKS[kind].metrics)}
    good = {"classification": ("test_accuracy", 0.7), "binary": ("test_auc", 0.95), "multilabel": ("test_auc", 0.9)}
    name, least = good.get(kind, ("test_r2", 0.25))
    assert metrics[name] > least
    assert np.sum(confusion) == (len(dataset.test) if kind in ("classification", "binary") else 0)
    with np.load(tmp_path / "sample_predictions.npz") as sample:
        predicted = saved.predict(saved.load(tmp_path / "model.h5"), sample[ONLY])
        np.testing.assert_allclose(predicted, sample["predictions"], rtol=1e-5)
    with np.load(tmp_path / "test_details.npz") as details:
        assert len(details["true"]) == len(details["predicted"]) == len(dataset.test)


def test_the_loss_of_a_regression_does_not_depend_on_the_targets_unit(trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training.fit import Trainer

    x, y = datasets.load_diabetes(return_X_y=True)
    config = trial_config(*_SMALL, "task=regression", "optimizer=sgd", "training.epochs=2")
    found = []
    for factor in (1, 1000):
        dataset = rows_of(x.astype(np.float32) * 20, (y * factor).astype(np.float32), Target("numbers", 1))
        folder = tmp_path / str(factor)
        _, reports = train(Trainer(dataset), config, folder, objective=objective_of("regression"))
        found.append(reports[-1])
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-3)
    assert found[1]["val_mae"] == pytest.approx(1000 * found[0]["val_mae"], rel=1e-3)
    assert found[1]["val_r2"] == pytest.approx(found[0]["val_r2"], rel=1e-2)


@pytest.mark.parametrize(
    ("kind", "changes", "logged"),
    [
        ("classification", ("task.metrics=[f1_score,auc,{name: top_k_categorical_accuracy, k: 2}]",), "f1_score"),
        ("classification", ("+task.loss.name=categorical_focal_crossentropy", "+task.loss.gamma=3.0"), "accuracy"),
        ("binary", ("task.metrics=[{name: f_beta_score, beta: 2.0},precision]",), "f_beta_score"),
        ("multilabel", ("task.metrics=[f1_score]", "task.loss=binary_focal_crossentropy"), "f1_score"),
        ("regression", ("task.loss=huber", "task.metrics=[rmse]"), "rmse"),
        ("regression", ("task.loss=own_losses:absolute", "task.metrics=[own_losses:absolute]"), "absolute"),
    ],
)
def test_any_loss_and_metric_of_keras_or_the_user_can_be_used(
    trial_config, tmp_path: Path, monkeypatch, kind: Kind, changes: tuple[str, ...], logged: str
) -> None:
    from mnist_sweep.training.fit import Trainer

    (tmp_path / "own_losses.py").write_text(
        "import keras\n\ndef absolute(y_true, y_pred):\n    return keras.ops.mean(abs(y_true - y_pred), axis=-1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = trial_config(*_SMALL, f"task={kind}", *changes, "training.epochs=1")
    trainer = Trainer(data_for(kind))
    name = f"val_{logged}"
    _, reports = train(trainer, config, tmp_path / "trial", objective=Objective(name, "max"))
    assert name in reports[0]
    assert f"test_{logged}" in trainer.test(tmp_path / "trial" / "model.h5", "", config.task)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("task.loss={name: huber, detla: 1.0}", "task.loss=huber: rejects its arguments"),
        ("task.loss=json:nothing", "task.loss=json:nothing: json has no nothing"),
    ],
)
def test_a_loss_or_metric_that_cannot_be_made_is_a_one_line_error(
    trial_config, tmp_path: Path, changes: str, message: str
) -> None:
    from mnist_sweep.training.fit import Trainer

    with pytest.raises(UserError) as raised:
        train(Trainer(data_for("regression")), trial_config(*_SMALL, "task=regression", changes), tmp_path)
    assert str(raised.value).startswith(message)


def test_balanced_classes_count_alike_in_training_only(trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training.splits import Splits

    rng = np.random.default_rng(0)
    dataset = rows_of(
        rng.random((100, 2), np.float32), (np.arange(100) % 10 == 0).astype(np.int64), Target("classes", 2)
    )
    plain = Splits(dataset).holdout()
    balanced = plain.for_task(trial_config("task=binary", "task.class_weight=balanced").task)
    _, targets, weights = balanced.tensors(train=True)
    labels = np.asarray(targets)[balanced.training, 0]
    sums = [np.asarray(weights)[balanced.training][labels == label].sum() for label in (0, 1)]
    assert sums[0] == pytest.approx(sums[1])
    assert balanced.tensors(train=False)[2] is None


def test_a_model_of_several_inputs_is_trained_saved_and_tested(trial_config, tmp_path: Path, monkeypatch) -> None:
    from mnist_sweep.training.fit import Trainer

    (tmp_path / "own_models.py").write_text(
        "import keras\n\n"
        "def build(config, shape, outputs):\n"
        "    inputs = {name: keras.Input(one, name=name) for name, one in shape.items()}\n"
        "    flat = keras.layers.Concatenate()([keras.layers.Flatten()(one) for one in inputs.values()])\n"
        "    return keras.Model(inputs, keras.layers.Dense(outputs, activation='softmax')(flat))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    x, y = datasets.load_iris(return_X_y=True)
    x = scaled(x)
    dataset = rows_of(x[:, :1], y.astype(np.int64), Target("classes", 3), second=x[:, 1:].reshape(-1, 3, 1))
    config = trial_config(
        "model.builder=own_models:build", "training.batch_size=8", "training.epochs=3", "optimizer.learning_rate=0.05"
    )
    trainer = Trainer(dataset)
    outcome, _ = train(trainer, config, tmp_path / "trial")
    metrics, _ = trainer.test(tmp_path / "trial" / "model.h5", outcome.digest)
    assert metrics["test_accuracy"] > 0.5
