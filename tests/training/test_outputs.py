"""Models of the user's own with several outputs, other shapes and losses of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import timeless, train
from sklearn.datasets import load_digits

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.trial_config import check_trial
from mnist_sweep.data.dataset import Dataset, split
from mnist_sweep.data.sources import Request, load

LOSS = Objective("val_loss", "min")
_SHORT = ("task=custom", "training.epochs=3", "training.batch_size=32", "optimizer.learning_rate=0.01")


def digits(folder: Path, **targets: Any) -> Dataset:
    """Returns 200 of scikit-learn's digits with targets made from them."""
    found = load_digits()
    images = (found.images[:200] / 16).astype(np.float32)
    made = {"large": (found.target[:200] > 5).astype(np.uint8)}
    made |= {"label": found.target[:200], "mask": (images > 0.5).astype(np.uint8), "image": images[..., None]}
    named = {f"y_train{'' if key == 'y' else f'_{key}'}": made[value] for key, value in targets.items()}
    np.savez(folder / "digits.npz", x_train=images[..., None], **named)
    return split(load(Request("npz", str(folder / "digits.npz"))), 0.2, seed=1)


@pytest.fixture
def both(tmp_path: Path) -> Dataset:
    return digits(tmp_path, mask="mask", label="label")


def trained(trainer: Any, config: Any, folder: Path, *, epochs: int | None = None, objective: Objective = LOSS) -> Any:
    """Trains a trial twice, the second time killed after an epoch and resumed; returns its outcome and reports."""
    outcome, reports = train(trainer, config, folder / "whole", objective=objective, epochs=epochs)
    train(trainer, config, folder / "resumed", objective=objective, epochs=1)
    again, resumed = train(trainer, config, folder / "resumed", objective=objective, epochs=epochs)
    assert timeless(reports) == timeless(resumed)
    assert outcome.score == again.score
    return outcome, reports


@pytest.mark.parametrize("builder", ["compiled", pytest.param("both", marks=pytest.mark.slow)])
def test_a_model_of_several_outputs_is_trained_resumed_saved_and_tested(
    both: Dataset, trial_config, tmp_path: Path, builder: str
) -> None:
    from mnist_sweep.training import saved
    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(both)
    given = () if builder == "compiled" else ("task.metrics={mask: [binary_io_u]}", "task.loss_weights={mask: 2.0}")
    config = trial_config(*_SHORT, f"model.builder=own_outputs:{builder}", *given)
    outcome, reports = trained(trainer, config, tmp_path)
    metric = "mask_io_u" if builder == "compiled" else "mask_binary_io_u"
    named = {"loss", "mask_loss", "label_loss", metric, "label_accuracy"}
    usual = {"epoch", "learning_rate", "epoch_seconds"}
    assert set(reports[0]) == usual | named | {f"val_{name}" for name in named}
    last = reports[-1]
    assert last["val_loss"] == pytest.approx(2 * last["val_mask_loss"] + last["val_label_loss"], rel=1e-4)
    metrics, confusion = trainer.test(tmp_path / "whole" / "model.h5", outcome.digest, config.task, config)
    assert set(metrics) == {f"test_{name}" for name in named}
    assert confusion == []
    with np.load(tmp_path / "whole" / "sample_predictions.npz") as sample:
        again = saved.predict_each(saved.load(tmp_path / "whole" / "model.h5"), {"x": sample["images"]})
        assert {name: array.shape[1:] for name, array in again.items()} == {
            "predictions_mask": (8, 8, 1), "predictions_label": (10,),
        }  # fmt: skip
        for name, array in again.items():
            np.testing.assert_allclose(array, sample[name], atol=1e-6)


@pytest.mark.slow
def test_a_test_gives_what_validation_gives_on_the_same_rows(both: Dataset, trial_config, tmp_path: Path) -> None:
    from dataclasses import replace

    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(replace(both, test=both.validation))
    config = trial_config(*_SHORT, "model.builder=own_outputs:compiled", "training.epochs=1")
    outcome, reports = train(trainer, config, tmp_path / "trial", objective=LOSS)
    metrics, _ = trainer.test(tmp_path / "trial" / "model.h5", outcome.digest, config.task, config)
    for name, value in metrics.items():
        assert value == pytest.approx(reports[0][name.replace("test_", "val_")], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "target", "logged"),
    [
        ("segments", "mask", {"accuracy"}),
        ("autoencoder", "image", {"kl_loss"}),
        ("adds_a_loss", "label", {"accuracy"}),
    ],
)
def test_a_model_of_any_shape_and_loss_is_trained_and_tested(
    trial_config, tmp_path: Path, builder: str, target: str, logged: set[str]
) -> None:
    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(digits(tmp_path, y=target))
    config = trial_config(*_SHORT, f"model.builder=own_outputs:{builder}")
    outcome, reports = trained(trainer, config, tmp_path)
    assert reports[-1]["loss"] < reports[0]["loss"]
    metrics, confusion = trainer.test(tmp_path / "whole" / "model.h5", outcome.digest, config.task, config)
    assert set(metrics) == {"test_loss", *(f"test_{name}" for name in logged)}
    assert bool(confusion) == (target == "label")


@pytest.mark.parametrize("target", ["large", pytest.param("label", marks=pytest.mark.slow)])
def test_a_model_that_is_trained_on_logits_is_saved_with_probabilities(
    trial_config, tmp_path: Path, target: str
) -> None:
    from mnist_sweep.training import saved
    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(dataset := digits(tmp_path, y=target))
    config = trial_config(*_SHORT, "model.builder=own_outputs:logits", "training.epochs=1")
    outcome, reports = train(trainer, config, tmp_path / "trial", objective=LOSS)
    predicted = saved.predict(saved.load(tmp_path / "trial" / "model.h5"), dataset.validation.inputs)
    assert predicted.min() >= 0
    assert predicted.max() <= 1
    classes = predicted[:, 0] >= 0.5 if target == "large" else predicted.argmax(axis=1)
    assert reports[-1]["val_accuracy"] == pytest.approx((classes == dataset.validation.targets).mean())
    metrics, confusion = trainer.test(tmp_path / "trial" / "model.h5", outcome.digest, config.task, config)
    assert metrics["test_accuracy"] == pytest.approx(np.trace(confusion) / np.sum(confusion))


@pytest.mark.slow
def test_a_model_with_its_own_loss_is_tested_on_a_table_as_its_fold_encodes_it(trial_config, tmp_path: Path) -> None:
    from example_tables import loaded, mixed

    from mnist_sweep.data.dataset import with_test
    from mnist_sweep.training import saved
    from mnist_sweep.training.fit import Trainer

    frame = mixed(200)[["age", "income", "member", "bought"]]
    trainer = Trainer(dataset := split(with_test(loaded(frame, tmp_path, target="bought"), 0.2), 0.2, seed=1))
    config = trial_config(*_SHORT, "model.builder=own_outputs:of_table")
    outcome, _ = train(trainer, config, tmp_path / "trial", objective=LOSS, fold=(1, 2))
    metrics, confusion = trainer.test(tmp_path / "trial" / "model.h5", outcome.digest, config.task, config)
    predicted = saved.predict(saved.load(tmp_path / "trial" / "model.h5"), dataset.test.inputs).argmax(axis=1)
    assert metrics["test_accuracy"] == pytest.approx((predicted == dataset.test.targets).mean())
    assert np.trace(confusion) == (predicted == dataset.test.targets).sum()


@pytest.mark.slow
def test_rows_count_as_much_as_their_weights_at_every_pixel(trial_config, tmp_path: Path) -> None:
    from dataclasses import replace

    from mnist_sweep.training.fit import Trainer

    dataset = digits(tmp_path, y="mask")
    twos = replace(dataset.train, weights=np.full(len(dataset.train), 2, np.float32))
    config = trial_config(*_SHORT, "model.builder=own_outputs:segments", "training.epochs=1", "optimizer=sgd")
    found = []
    for rows in (dataset.train, twos):
        part = replace(dataset, train=rows)
        config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 1e-9})})
        found.append(train(Trainer(part), config, tmp_path / str(len(found)), objective=LOSS)[1][0]["loss"])
    assert found[1] == pytest.approx(2 * found[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["subclassed", "TwoHeadsFit"])
def test_a_subclassed_hypermodel_of_several_outputs_is_discovered_and_trained(
    both: Dataset, trial_config, tmp_path: Path, name: str
) -> None:
    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(both)
    found = trainer.discover(f"own_outputs:{name}", ["val_mask_io_u"])
    assert {"units", "lr"} <= set(found["values"])
    raw = trial_config(*_SHORT, "training.epochs=2").model_dump()
    model = {"hypermodel": f"own_outputs:{name}", "values": found["values"]}
    config = check_trial({**{group: raw[group] for group in TRIAL_GROUPS}, "model": model, "optimizer": None})
    outcome, reports = train(trainer, config, tmp_path / "trial", objective=Objective("val_mask_io_u", "max"))
    assert len(reports) == 2
    metrics, _ = trainer.test(tmp_path / "trial" / "model.h5", outcome.digest, config.task, config)
    assert {"test_mask_io_u", "test_label_accuracy"} <= set(metrics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("model.builder=own_outputs:narrow",),
            "its model has one output, but the data have y_train_mask, y_train_label",
        ),
        (("task.loss={masc: mse}",), "task.loss.masc: there is no such output; did you mean 'mask'?"),
    ],
)
def test_what_does_not_fit_the_outputs_is_a_one_line_error(
    both: Dataset, trial_config, changes: tuple[str, ...], message: str
) -> None:
    from mnist_sweep.training.fit import Trainer

    config = trial_config(*_SHORT, "model.builder=own_outputs:both", *changes)
    with pytest.raises(UserError) as error:
        Trainer(both).check([config.model_dump(mode="json")], ["val_loss"])
    assert message in str(error.value)


def test_an_objective_that_the_model_does_not_log_is_refused_with_the_nearest_name(both: Dataset, trial_config) -> None:
    from mnist_sweep.training.fit import Trainer

    config = trial_config(*_SHORT, "model.builder=own_outputs:compiled")
    with pytest.raises(UserError) as error:
        Trainer(both).check([config.model_dump(mode="json")], ["val_mask_iou"])
    assert str(error.value) == "objective=val_mask_iou: the model does not log it; did you mean 'val_mask_io_u'?"
