"""Models of keras-tuner's hypermodels are built and trained as their users compiled them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import timeless, train

from mnist_sweep.common.errors import UserError
from mnist_sweep.journal.trial import Status

DENSE = {"num_layers": 2, "units_0": 16, "units_1": 8, "activation": "tanh", "dropout": True, "lr": 0.003}


CONDITIONAL = {"model_type": "mlp", "units": 16, "act": "relu", "optimizer": "adam"}


def test_a_hypermodel_is_trained_as_its_user_compiled_it(trained, trial_of) -> None:
    outcome, reports, _ = trained(trial_of("build_model", DENSE))
    assert outcome.status is Status.COMPLETED
    assert outcome.parameters == 784 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10
    assert set(reports[0]) == {
        "epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "epoch_seconds",
    }  # fmt: skip
    assert reports[0]["learning_rate"] == pytest.approx(0.003)
    assert reports[-1]["accuracy"] > reports[0]["accuracy"]


def test_resuming_gives_the_same_as_an_uninterrupted_trial(trainer, trained, trial_of, tmp_path: Path) -> None:
    config = trial_of("build_model", DENSE)
    train(trainer, config, tmp_path, epochs=2)
    _, again = train(trainer, config, tmp_path)
    assert timeless(again) == timeless(trained(config)[1])


@pytest.mark.parametrize(("name", "values"), [("build_model", DENSE), ("conditional", CONDITIONAL)])
def test_the_saved_model_takes_images_and_gives_probabilities(
    trainer, trained, trial_of, dataset, name: str, values: dict[str, Any]
) -> None:
    from mnist_sweep.training import saved

    outcome, reports, folder = trained(trial_of(name, values))
    predictions = saved.predict(saved.load(folder / "model.h5"), np.asarray(dataset.validation.x))
    assert predictions.min() >= 0
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)
    assert (predictions.argmax(axis=1) == dataset.validation.targets).mean() == pytest.approx(outcome.score)
    assert outcome.score == max(r["val_accuracy"] for r in reports)
    metrics, _ = trainer.test(folder / "model.h5")
    assert 0.1 < metrics["test_accuracy"] < 1


@pytest.mark.parametrize("kind", ["guide", "one batch", "put in place"])
def test_a_custom_training_step_is_logged_and_saved_as_in_keras(trained, trial_of, dataset, kind: str) -> None:
    from mnist_sweep.training import saved

    (_, expected, _), (outcome, reports, folder) = (
        trained(trial_of("custom_step", {"kind": which}, "training.epochs=2")) for which in ("keras", kind)
    )
    assert outcome.status is Status.COMPLETED
    for report, other in zip(timeless(reports), timeless(expected), strict=True):
        assert report == pytest.approx(other, rel=1e-5)
    predictions = saved.predict(saved.load(folder / "model.h5"), np.asarray(dataset.validation.x))
    assert (predictions.argmax(axis=1) == dataset.validation.targets).mean() == pytest.approx(outcome.score)


def test_a_training_step_without_a_loss_is_a_user_error(
    trainer, trial_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hypermodels

    monkeypatch.setattr(hypermodels.OneBatchStep, "train_step", lambda self, data: {"accuracy": 0.5})
    with pytest.raises(UserError, match="the model's fit does not log loss"):
        train(trainer, trial_of("custom_step", {"kind": "one batch"}), tmp_path)


def test_changes_of_keras_by_the_imported_module_are_undone(
    trainer, trial_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    loud = "import keras\nfrom hypermodels import build_model\nkeras.config.set_dtype_policy('mixed_float16')\n"
    (tmp_path / "loud.py").write_text(loud)
    monkeypatch.syspath_prepend(tmp_path)
    config = trial_of("build_model", DENSE)
    config = config.model_copy(update={"model": config.model.model_copy(update={"hypermodel": "loud:build_model"})})
    outcome, _ = train(trainer, config, tmp_path, limits={"parameters": 1})
    assert outcome.status is Status.REFUSED
    assert keras.config.dtype_policy().name == "float32"


def test_only_active_branches_are_built(built) -> None:
    values = {**CONDITIONAL, "pooling": "max", "pool.size": 4, "conv.filters": 2}
    assert built("conditional", values).model.count_params() == 784 * 16 + 16 + 16 * 10 + 10
    assert built("conditional", {**values, "model_type": "cnn"}).model.count_params() == 20 + 72 * 10 + 10


def test_an_instance_of_a_hypermodel_is_used_unchanged(built) -> None:
    assert built("instance", {**DENSE, "num_layers": 1}).model.count_params() == 784 * 16 + 16 + 16 * 10 + 10


@pytest.mark.parametrize(
    ("name", "image", "shape"),
    [
        ("build_model", (9, 12, 3), (9, 12, 3)),
        ("unrolled", (9, 12, 3), (324,)),
        ("rows", (9, 12, 1), (9, 12)),
        ("conditional", (28, 28, 1), (28, 28)),
        ("conditional", (14, 56, 1), (28, 28)),
        ("breaks", (28, 28, 1), (28, 28, 1)),
    ],
)
def test_images_are_reshaped_to_the_models_input_shape(
    built, tmp_path: Path, name: str, image: Any, shape: Any
) -> None:
    from mnist_sweep.training import saved

    found = built(name, {}, image)
    assert found.input_shape == shape
    images, labels = np.zeros((2, *image), np.float32), np.array([1, 2])
    adapted = found.adapt(images, labels)
    for tensor, array in zip(adapted, found.arrays(images, labels), strict=True):
        np.testing.assert_array_equal(tensor, array)
    assert adapted[1].shape == ((2, 10) if name == "build_model" else (2,))
    found.whole().save(tmp_path / "model.h5", include_optimizer=False)
    predictions = saved.predict(saved.load(tmp_path / "model.h5"), images)
    np.testing.assert_allclose(predictions, found.whole()(images), atol=1e-6)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "metrics", "one_hot", "accuracy"),
    [
        ("sparse_categorical_crossentropy", ["mae", "acc"], False, "acc"),
        ("categorical_crossentropy", ["accuracy"], True, "accuracy"),
        ("CategoricalFocalCrossentropy", ["categorical_accuracy"], True, "categorical_accuracy"),
        ("SparseCategoricalCrossentropy", ["accuracy"], False, "accuracy"),
        ("own", ["sparse_categorical_accuracy"], False, "sparse_categorical_accuracy"),
        ("own", ["categorical_accuracy"], True, "categorical_accuracy"),
        (["mse"], [["accuracy"]], True, "accuracy"),
    ],
)
def test_the_loss_and_the_metrics_decide_about_labels_and_accuracy(
    built, monkeypatch: pytest.MonkeyPatch, loss: Any, metrics: list[Any], one_hot: bool, accuracy: str
) -> None:
    import hypermodels

    def build(hp):
        model = hypermodels.not_compiled(hp)
        model.compile("sgd", hypermodels.custom_loss if loss == "own" else loss, metrics=metrics)
        return model

    monkeypatch.setattr(hypermodels, "made", build, raising=False)
    found = built("made", {})
    assert (found.one_hot is not None, found.accuracy) == (one_hot, accuracy)
    logs = {"loss": 2.0, accuracy: 0.5, f"val_{accuracy}": 0.25, "f1": np.zeros(10)}
    assert found.metrics(logs) == {"loss": 2.0, "accuracy": 0.5, "val_accuracy": 0.25}
