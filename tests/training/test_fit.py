"""Training on real digits: determinism, checkpoints, early ends."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from fitting import ACCURACY, timeless, train

from mnist_sweep.common.errors import ImpossibleError, UserError, may_pass
from mnist_sweep.common.reading import digest_of
from mnist_sweep.config.objective import Objective
from mnist_sweep.data.dataset import split
from mnist_sweep.data.sources import Request, load
from mnist_sweep.journal.trial import Status

SMALL = ("model.units=16", "model.dropout=0.3", "training.batch_size=32", "training.epochs=3")


def test_each_epoch_reports_all_metrics(trainer, trial_config, tmp_path: Path) -> None:
    asked: list[int] = []
    outcome, reports = train(
        trainer, trial_config(*SMALL), tmp_path, stop=lambda epoch: asked.append(epoch) or "", latency=True
    )
    assert [r["epoch"] for r in reports] == [1, 2, 3]
    assert asked == [1, 2]
    assert set(reports[0]) == {
        "epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "epoch_seconds",
    }  # fmt: skip
    assert outcome.status is Status.COMPLETED
    assert outcome.parameters == 784 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    best = reports[outcome.best_epoch - 1]
    assert outcome.metrics == {
        **{name: best[name] for name in ("accuracy", "loss", "val_accuracy", "val_loss", "learning_rate")},
        "parameters": outcome.parameters,
        "epoch_seconds": pytest.approx(sum(r["epoch_seconds"] for r in reports) / 3),
        "latency": outcome.metrics["latency"],
    }
    # Much less than an epoch of 13 batches: the compiled model was called, and was warm.
    assert 0 < outcome.metrics["latency"] < min(r["epoch_seconds"] for r in reports)
    assert reports[-1]["accuracy"] > reports[0]["accuracy"]


@pytest.mark.parametrize("model", [SMALL, ("model=cnn", "model.layers=1", "model.filters=4", "training.epochs=2")])
def test_the_same_config_and_seed_give_the_same_metrics_to_the_last_bit(
    trainer, trial_config, tmp_path: Path, model
) -> None:
    config, other = trial_config(*model), trial_config(*model, "training.seed=2")
    first, second, third = (
        timeless(train(trainer, c, tmp_path / str(i))[1]) for i, c in enumerate((config, other, config))
    )
    assert first == third
    assert first != second


def test_steps_per_execution_changes_only_the_speed(trainer, trial_config, tmp_path: Path) -> None:
    one, many = (
        timeless(train(trainer, trial_config(*SMALL, f"training.steps_per_execution={n}"), tmp_path / str(n))[1])
        for n in (1, 7)
    )
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_resuming_gives_the_same_as_an_uninterrupted_trial(
    trainer, trial_config, tmp_path: Path, optimizer: str
) -> None:
    config = trial_config(*SMALL, f"optimizer={optimizer}", "training.epochs=4", "model.batch_normalization=true")
    _, whole = train(trainer, config, tmp_path / "whole")
    train(trainer, config, tmp_path / "first", epochs=2)
    _, rest = train(trainer, config, tmp_path / "rest", parent=tmp_path / "first")
    assert timeless(rest) == timeless(whole)[2:]
    _, again = train(trainer, config, tmp_path / "first")
    assert timeless(again) == timeless(whole)


def test_ending_an_interrupted_trial_trains_nothing_and_keeps_its_results(
    trainer, trial_config, tmp_path: Path
) -> None:
    config = trial_config(*SMALL, "training.epochs=9")
    first, reports = train(trainer, config, tmp_path, stop=lambda epoch: "enough" if epoch == 2 else "")
    model, sample = (tmp_path / name for name in ("model.h5", "sample_predictions.npz"))
    before = sample.read_bytes()
    model.unlink()
    sample.unlink()
    # It was killed before it could end: it is told to end again, and does not ask.
    second, again = train(trainer, config, tmp_path, ending="enough", stop=None)
    assert timeless(again) == timeless(reports)
    assert (second.status, second.reason, second.score) == (Status.STOPPED, "enough", first.score)
    assert sample.read_bytes() == before
    assert model.exists()
    # An interrupted trial that waited for a decision asks again about its last trained epoch.
    asked: list[int] = []
    third, _ = train(trainer, config, tmp_path, stop=lambda epoch: asked.append(epoch) or "no more")
    assert (asked, third.reason) == ([2], "no more")
    # It had reached its last epoch.
    assert train(trainer, config, tmp_path, epochs=2, ending="enough")[0].status is Status.COMPLETED
    nothing, none = train(trainer, config, tmp_path / "empty", ending="enough")
    assert (nothing.status, nothing.score, none) == (Status.STOPPED, None, [])
    assert not list((tmp_path / "empty").iterdir())


class TestContinuingFromAnotherTrial:
    """The parent has trained one epoch of 10 steps with adam and a learning rate of 0.01."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("parent")

    @pytest.fixture
    def parent(self, trainer, trial_config, folder: Path) -> Path:
        if not (folder / "state.npz").exists():
            train(trainer, trial_config(*SMALL, "optimizer.learning_rate=0.01"), folder, epochs=1)
        return folder

    def test_it_keeps_its_own_learning_rate(self, trainer, trial_config, parent: Path, tmp_path: Path) -> None:
        config = trial_config(*SMALL, "optimizer.learning_rate=1e-9", "model.dropout=0", "training.batch_size=64")
        _, (report,) = train(trainer, config, tmp_path, epochs=2, parent=parent)
        assert (report["epoch"], report["learning_rate"]) == (2, pytest.approx(1e-9))
        with np.load(parent / "state.npz") as before, np.load(tmp_path / "state.npz") as after:
            weights = [name for name in before.files if name.startswith("weight_")]
            assert len(weights) == 6
            for name in weights:
                # With the parent's learning rate, each step would change them by about 0.01.
                np.testing.assert_allclose(after[name], before[name], atol=1e-6)
                assert np.isfinite(after[name]).all()

    def test_its_own_schedule_continues_from_the_parents_step(
        self, trainer, trial_config, parent: Path, tmp_path: Path
    ) -> None:
        config = trial_config(*SMALL, "optimizer.learning_rate=0.01", "optimizer.schedule.name=CosineDecay")
        _, (report,) = train(trainer, config, tmp_path, epochs=2, parent=parent)
        assert report["learning_rate"] == pytest.approx(0.01 * (1 + math.cos(math.pi * 20 / 30)) / 2)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                ("optimizer=sgd",),
                "optimizer=sgd: cannot continue from .*state.npz, which belongs to adam; do not search",
            ),
            (
                ("optimizer=rmsprop", "+optimizer.arguments.momentum=0.5"),
                "optimizer=rmsprop: .* which belongs to adam;",
            ),
            (
                ("+optimizer.arguments.amsgrad=true",),
                "optimizer=adam: .* which belongs to adam with different arguments;",
            ),
            (
                ("model.units=17",),
                "model: cannot continue from .*state.npz, which belongs to a model with different layers",
            ),
        ],
    )
    def test_a_checkpoint_of_another_model_is_an_error(
        self, trainer, trial_config, parent: Path, tmp_path: Path, changes, message
    ) -> None:
        with pytest.raises(UserError, match=message):
            train(trainer, trial_config(*SMALL, *changes), tmp_path, parent=parent)

    def test_a_missing_checkpoint_is_an_error(self, trainer, trial_config, parent: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="state.npz: the parent trial's state cannot be read"):
            train(trainer, trial_config(*SMALL), tmp_path, parent=tmp_path / "nowhere")


def test_the_saved_model_has_the_weights_of_the_best_epoch(trainer, trial_config, dataset, tmp_path: Path) -> None:
    from mnist_sweep.training import saved

    # With this learning rate, the accuracy soon drops again.
    config = trial_config(*SMALL, "optimizer.learning_rate=0.05", "training.epochs=8")
    outcome, reports = train(trainer, config, tmp_path)
    best = max(reports, key=lambda r: (r["val_accuracy"], -r["epoch"]))
    assert outcome.best_epoch == best["epoch"]
    assert outcome.score == best["val_accuracy"]
    predictions = saved.predict(saved.load(tmp_path / "model.h5"), np.asarray(dataset.validation.x))
    assert (predictions.argmax(axis=1) == dataset.validation.targets).mean() == pytest.approx(best["val_accuracy"])


def test_a_sample_of_predictions_is_saved_next_to_the_model(trainer, trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training import saved

    train(trainer, trial_config(*SMALL, "training.epochs=1"), tmp_path)
    with np.load(tmp_path / "sample_predictions.npz", allow_pickle=False) as sample:
        predictions = saved.predict(saved.load(tmp_path / "model.h5"), sample["images"])
        np.testing.assert_allclose(predictions, sample["predictions"], atol=1e-6)
    assert not list(tmp_path.glob("partial-*"))


def test_early_stopping_waits_for_its_patience(trainer, trial_config, tmp_path: Path) -> None:
    config = trial_config(
        *SMALL, "training.early_stopping.patience=2", "training.epochs=50", "optimizer.learning_rate=0.02"
    )
    outcome, reports = train(trainer, config, tmp_path)
    assert len(reports) < 50
    assert len(reports) - outcome.best_epoch == 2
    assert (outcome.status, outcome.reason) == (Status.COMPLETED, "no better val_accuracy for 2 epochs")


def test_a_loss_that_is_not_finite_fails_the_trial(trainer, trial_config, tmp_path: Path) -> None:
    outcome, reports = train(
        trainer,
        trial_config(*SMALL, "optimizer=sgd", "optimizer.learning_rate=1e38", "model.activation=linear"),
        tmp_path,
    )
    assert outcome.status is Status.FAILED
    assert outcome.reason.startswith(("the loss became nan in epoch 1;", "the loss became inf in epoch 1;"))
    assert outcome.score is None
    assert reports == []


def test_a_model_that_cannot_be_made_is_impossible(trainer, trial_config, trial_of, tmp_path: Path) -> None:
    small = trial_config("model=cnn", "model.layers=4", "model.filters=4", "model.pooling.after=all")
    with pytest.raises(ImpossibleError, match="ValueError: .*negative"):
        train(trainer, small, tmp_path)
    with pytest.raises(ImpossibleError, match=r"^optimizer=sgd: Keras rejects it"):
        train(trainer, trial_config(*SMALL, "optimizer=sgd", "+optimizer.arguments.momentum=7"), tmp_path)
    with pytest.raises(
        ImpossibleError, match=r"raised \(FailedTrialError at hypermodels.py:.*: too small\)$"
    ) as caught:
        train(trainer, trial_of("impossible_default", {"size": 1}), tmp_path)
    assert not may_pass(caught.value, gpu=True)
    assert list(tmp_path.iterdir()) == []


def diverging(trial_config, at: int, *overrides: str):
    """A trial of five epochs whose learning rate becomes huge after so many batches."""
    small = ("optimizer=sgd", "model.activation=linear", "training.epochs=5", *overrides)
    schedule = ("optimizer.schedule.name=PiecewiseConstantDecay", f"+optimizer.schedule.arguments.boundaries=[{at}]")
    return trial_config(*SMALL, *small, *schedule, "+optimizer.schedule.arguments.values=[0.05,1e38]")


class TestATrialThatDivergesLate:
    def test_has_the_result_of_the_best_epoch_before(self, trainer, trial_config, dataset, tmp_path: Path) -> None:
        from mnist_sweep.training import saved

        batches = -(-len(dataset.train.x) // trial_config(*SMALL).training.batch_size)
        outcome, reports = train(trainer, diverging(trial_config, 3 * batches), tmp_path)
        assert len(reports) == 3
        best = max(reports, key=lambda r: (r["val_accuracy"], -r["epoch"]))
        assert (outcome.status, outcome.score, outcome.best_epoch) == (
            Status.DIVERGED,
            best["val_accuracy"],
            best["epoch"],
        )
        expected = rf"diverged after epoch 3: the loss became (nan|inf) in epoch 4; best epoch {best['epoch']} kept"
        assert re.fullmatch(expected, outcome.reason)
        assert outcome.metrics["val_loss"] == best["val_loss"]
        predictions = saved.predict(saved.load(tmp_path / "model.h5"), np.asarray(dataset.validation.x))
        assert (predictions.argmax(axis=1) == dataset.validation.targets).mean() == pytest.approx(best["val_accuracy"])

    def test_leaves_no_state_of_the_epoch_in_which_it_diverged(self, trainer, trial_config, dataset, tmp_path) -> None:
        batches = -(-len(dataset.train.x) // trial_config(*SMALL).training.batch_size)
        config = diverging(trial_config, batches)
        outcome, reports = train(trainer, config, tmp_path, checkpoint_every=0.0)
        # An attempt that was interrupted after the checkpoint comes to the same end.
        again, _ = train(trainer, config, tmp_path)
        assert (again.status, again.reason, again.score) == (outcome.status, outcome.reason, outcome.score)
        assert len(reports) == 1

    def test_is_noticed_if_only_the_last_batch_has_broken_the_weights(
        self, trainer, trial_config, dataset, tmp_path: Path
    ) -> None:
        batches = -(-len(dataset.train.x) // trial_config(*SMALL).training.batch_size)
        # The learning rate of the last batch of the second epoch, whose loss is computed before its step.
        outcome, reports = train(trainer, diverging(trial_config, 2 * batches - 2), tmp_path)
        assert (outcome.status, outcome.best_epoch, len(reports)) == (Status.DIVERGED, 1, 1)
        assert outcome.reason.startswith("diverged after epoch 1: the ")


def test_a_stopped_trial_ends_after_its_epoch(trainer, trial_config, tmp_path: Path) -> None:
    config = trial_config(*SMALL, "training.epochs=9")
    outcome, reports = train(trainer, config, tmp_path, stop=lambda epoch: "enough" if epoch == 2 else "")
    assert len(reports) == 2
    assert (outcome.status, outcome.reason) == (Status.STOPPED, "enough")
    assert (tmp_path / "model.h5").exists()


def test_a_loss_may_be_the_objective(trainer, trial_config, tmp_path: Path) -> None:
    outcome, reports = train(trainer, trial_config(*SMALL), tmp_path, objective=Objective("val_loss", "min"))
    assert outcome.score == min(r["val_loss"] for r in reports)


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(
    trainer, trial_config, tmp_path: Path
) -> None:
    from mnist_sweep.training import saved

    outcome, _ = train(trainer, trial_config(*SMALL, "training.precision=mixed_bfloat16"), tmp_path)
    assert outcome.status is Status.COMPLETED
    hidden, last = [layer for layer in saved.load(tmp_path / "model.h5").layers if "dense" in layer.name][::2]
    assert (hidden.compute_dtype, hidden.variable_dtype) == ("bfloat16", "float32")
    assert last.compute_dtype == "float32"


def test_a_schedule_lowers_the_learning_rate_over_the_whole_trial(trainer, trial_config, tmp_path: Path) -> None:
    _, reports = train(trainer, trial_config(*SMALL, "optimizer.schedule.name=CosineDecay"), tmp_path)
    rates = [r["learning_rate"] for r in reports]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_the_confusion_matrix_counts_every_test_image_once(trainer, trial_config, dataset, tmp_path: Path) -> None:
    train(trainer, trial_config(*SMALL), tmp_path)
    metrics, confusion = trainer.test(tmp_path / "model.h5")
    counts = np.array(confusion)
    assert counts.sum(axis=1).tolist() == [20] * 10
    assert metrics["test_accuracy"] == pytest.approx(np.trace(counts) / 200)
    assert math.isfinite(metrics["test_loss"])


def test_without_validation_images_the_objective_is_a_training_metric(
    digits: Path, trial_config, tmp_path: Path
) -> None:
    from mnist_sweep.training.fit import Trainer

    trainer = Trainer(split(load(Request("npz", str(digits))), 0.0, seed=1))
    outcome, reports = train(trainer, trial_config(*SMALL), tmp_path, objective=Objective("accuracy", "max"))
    assert "val_loss" not in reports[0]
    assert outcome.score == max(r["accuracy"] for r in reports)


def test_colour_images_of_any_size_and_float_pixels_train(trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training.fit import Trainer

    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    images = rng.random((60, 9, 12, 3)).astype(np.float32) * 0.2 + labels[:, None, None, None] * 0.3
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    trainer = Trainer(split(load(Request("npz", str(tmp_path / "own.npz"))), 0.2, seed=1))
    config = trial_config(
        "model=cnn", "model.layers=1", "model.filters=4", "training.epochs=30", "training.batch_size=8"
    )
    outcome, _ = train(trainer, config, tmp_path)
    assert outcome.score is not None
    assert outcome.score > 0.6
    assert np.array(trainer.test(tmp_path / "model.h5")[1]).shape == (3, 3)


def test_a_damaged_checkpoint_costs_only_time(trainer, trial_config, tmp_path: Path) -> None:
    config = trial_config(*SMALL)
    _, whole = train(trainer, config, tmp_path)
    state = tmp_path / "state.npz"
    state.write_bytes(state.read_bytes()[:-1000])
    _, again = train(trainer, config, tmp_path)
    assert timeless(again) == timeless(whole)


def test_a_checkpoint_remembers_early_stopping(trainer, trial_config, tmp_path: Path) -> None:
    config = trial_config(
        *SMALL, "training.early_stopping.patience=1", "training.epochs=50", "optimizer.learning_rate=0.1"
    )
    first, reports = train(trainer, config, tmp_path)
    second, again = train(trainer, config, tmp_path)
    assert timeless(again) == timeless(reports)
    assert (second.score, second.best_epoch, second.reason) == (first.score, first.best_epoch, first.reason)


CONVOLUTIONS = ("model=cnn", "model.filters=[4,8]", "model.dense.units=16", "model.dense.dropout=0")


@pytest.mark.parametrize(
    ("optimizer", "model"),
    [
        ("adam", SMALL),
        ("rmsprop", SMALL),
        ("sgd", SMALL),
        ("nadam", SMALL),
        ("schedulefreeadamw", SMALL),
        ("adam", CONVOLUTIONS),
    ],
)
def test_an_epoch_gives_the_same_as_keras_fit(trainer, dataset, trial_config, tmp_path: Path, optimizer, model) -> None:
    """With the same batches in the same order, and the same initial weights."""
    import keras

    from mnist_sweep.training import model as models
    from mnist_sweep.training.splits import Splits

    config = trial_config(
        *model, f"optimizer.name={optimizer}", "model.dropout=0", "model.l2=0.001", "training.batch_size=48"
    )
    _, reports = train(trainer, config, tmp_path, epochs=2)
    keras.utils.set_random_seed(config.training.seed)
    model = models.build(config, dataset.schema)
    model.compile(models.optimizer(config.optimizer, 1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    # Not in fit, where Keras 3.15 drops ScheduleFreeAdamW's initial copies of the weights.
    model.optimizer.build(model.trainable_variables)
    split = Splits(dataset).holdout()
    for epoch, report in enumerate(reports):
        images, labels = split.arrays(np.asarray(split.shuffled(config.training.seed, epoch)), train=True)
        fit = model.fit(
            images, labels, 48, shuffle=False, verbose=0, validation_data=split.arrays(split.validation, train=False)
        ).history
        for name, values in fit.items():
            assert report[name] == pytest.approx(values[0], rel=1e-4), name


def test_a_model_that_cannot_be_loaded_again_is_not_trained(
    trainer, trial_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unloadable.py").write_text(
        "import keras\n"
        "def build(config, shape, classes):\n"
        "    halved = keras.layers.Lambda(lambda x: x / 2)\n"
        "    last = keras.layers.Dense(classes, activation='softmax')\n"
        "    return keras.Sequential([keras.Input(shape), halved, keras.layers.Flatten(), last])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from mnist_sweep.training.fit import Job

    job = Job(trial_config("model.builder=unloadable:build"), ACCURACY, 1, tmp_path / "trial")
    reports: list[int] = []
    with pytest.raises(UserError, match=r"^model.builder=unloadable:build: the saved model cannot be loaded again \("):
        trainer.train(job, lambda epoch, metrics: reports.append(epoch), lambda epoch: "")
    assert reports == []


def test_what_is_most_likely_a_mistake_in_a_users_function_is_found_before_the_first_trial(
    trainer, trial_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doubtful.py").write_text(
        "from keras import Input, Sequential, layers\n"
        "def build(config, shape, classes):\n"
        "    hidden = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(config['width'])]\n"
        "    model = Sequential([Input(shape), *hidden, layers.Dense(classes, activation='softmax')])\n"
        "    model.compile('sgd', 'mse')\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    configs = [trial_config("model.builder=doubtful:build", f"+model.width={width}") for width in (4, 8)]
    found = trainer.check([config.model_dump(mode="json") for config in configs])
    assert found["notes"] == [
        "its Rescaling(0.003922) layer makes the pixels, which are from 0 to 1, almost black; remove it",
        "compiles its model, but task=classification uses a loss and metrics of its own; to use those that the model "
        "is compiled with, write task=custom",
    ]
    assert "units" in found["unread"]
    assert "width" not in found["unread"]


def test_a_stopped_trial_retrains_reported_epochs_that_its_checkpoint_lacks(
    trainer, trial_config, tmp_path: Path
) -> None:
    config = trial_config(*SMALL, "training.epochs=4")
    whole, reports = train(trainer, config, tmp_path / "whole", epochs=3)
    # Killed when epochs were reported, but not in a checkpoint yet.
    outcome, again = train(
        trainer, config, tmp_path / "again", ending="cut", known=3, checkpoint_every=100, keep=False, stop=None
    )
    assert timeless(again) == timeless(reports)
    assert (outcome.status, outcome.reason, outcome.score) == (Status.STOPPED, "cut", whole.score)
    assert not (tmp_path / "again" / "state.npz").exists()


def test_the_outcome_contains_the_digest_of_the_model(trainer, trial_config, tmp_path: Path) -> None:
    outcome, _ = train(trainer, trial_config(*SMALL, "training.epochs=1"), tmp_path)
    assert outcome.digest == digest_of(tmp_path / "model.h5")
    assert len(outcome.digest) == 64
