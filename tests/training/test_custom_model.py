"""Hypermodels of keras-tuner's users in a worker: their spaces are found, and they train as they were compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fitting import timeless, train

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import hypermodel
from mnist_sweep.config.trial_config import HyperModelConfig, TrialConfig, check_trial
from mnist_sweep.journal.trial import Status


@pytest.fixture(scope="module")
def discovered(trainer) -> Any:
    found: dict[str, Any] = {}

    def space(name: str) -> hypermodel.Expanded:
        if name not in found:
            found[name] = trainer.discover(f"hypermodels:{name}")
        trial = {"model": {"hypermodel": f"hypermodels:{name}"}, "optimizer": {}, "training": {}}
        return hypermodel.expand(trial, found[name])

    return space


@pytest.fixture
def trial_of(trial_config):
    def made(name: str, values: dict[str, Any], *overrides: str) -> TrialConfig:
        training = trial_config("training.batch_size=32", "training.epochs=3", *overrides).training.model_dump()
        model = {"hypermodel": f"hypermodels:{name}", "values": values}
        return check_trial({"model": model, "optimizer": None, "training": training})

    return made


@pytest.fixture
def built():
    def made(name: str, values: dict[str, Any], image: tuple[int, int, int] = (28, 28, 1)) -> Any:
        from mnist_sweep.training import custom_model

        return custom_model.build(HyperModelConfig(hypermodel=f"hypermodels:{name}", values=values), image, 10)

    return made


DENSE = {"num_layers": 2, "units_0": 16, "units_1": 8, "activation": "tanh", "dropout": True, "lr": 0.003}


class TestDiscovery:
    def test_a_loop_over_layers_gives_conditions(self, discovered) -> None:
        found = discovered("build_model")
        assert found.space().describe() == {
            "model.values.num_layers": "int(interval(1, 3))",
            "model.values.units_0": "choice(8, 16, 24, 32)",
            "model.values.activation": "choice(relu, tanh)",
            "model.values.dropout": "choice(true, false)",
            "model.values.lr": "tag(log, interval(0.0001, 0.01))",
            "model.values.units_1": "choice(8, 16, 24, 32) if model.values.num_layers in [2, 3]",
            "model.values.units_2": "choice(8, 16, 24, 32) if model.values.num_layers in [3]",
        }
        assert found.defaults == {
            "num_layers": 1, "units_0": 8, "activation": "relu", "dropout": False, "lr": 0.0001,
            "units_1": 8, "units_2": 8,
        }  # fmt: skip

    def test_what_changes_no_weights_is_known(self, discovered) -> None:
        of = {
            h.name.removeprefix("model.values."): h.keeps_weights
            for h in discovered("build_model").space().hyperparameters
        }
        assert [name for name, keeps in of.items() if keeps] == ["activation", "dropout", "lr"]

    def test_scopes_may_be_nested_and_names_may_be_anything(self, discovered) -> None:
        space = discovered("conditional").space()
        assert space.describe() == {
            "model.values.model_type": "choice(mlp, cnn)",
            "model.values.units": "tag(log, int(interval(8, 32))) if model.values.model_type in ['mlp']",
            "model.values.act": "choice(relu, tanh)",
            "model.values.optimizer": "choice(adam, sgd)",
            "model.values.conv.filters": "int(interval(2, 8)) if model.values.model_type in ['cnn']",
            "model.values.pooling": "choice(max, none) if model.values.model_type in ['cnn']",
            "model.values.pool.size": "choice(2, 4) if model.values.model_type in ['cnn'] "
            "and model.values.pooling in ['max']",
        }
        assert space.size == 2 * 2 * (25 + 7 * (2 + 1))

    def test_what_is_tuned_in_fit_is_found(self, discovered) -> None:
        found = discovered("TunesFit")
        assert list(found.space().describe()) == [
            "model.values.units", "model.values.batch_size", "model.values.shuffle",
        ]  # fmt: skip
        assert found.defaults["shuffle"] is True
        assert list(discovered("CustomLoop").space().describe()) == ["model.values.batch_size"]

    def test_what_two_others_decide_is_met_by_chance_and_always_active(self, discovered) -> None:
        found = discovered("rare")
        described = found.space().describe()
        assert described["model.values.layers_1"] == "int(interval(1, 2)) if model.values.blocks in [2]"
        assert described["model.values.units_1_1"] == "int(interval(4, 8)) if model.values.layers_1 in [2]"
        assert described["model.values.rate"] == "choice(0.1, 0.2, 0.3, 0.4, 0.5)"
        assert found.trial["model"]["values"]["version"] == "choice('1,2')"

    def test_settings_that_cannot_be_built_do_not_hide_others(self, discovered) -> None:
        described = discovered("breaks").space().describe()
        assert described["model.values.filters_2"].endswith("if model.values.convolutions in [3, 4]")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nowhere", "cannot be imported (AttributeError: module 'hypermodels' has no attribute 'nowhere')"),
            ("nothing", "is of type NoneType; name a build_model(hp) or a keras_tuner.HyperModel"),
            ("NeedsArguments", "cannot be made without arguments ("),
            ("raises", "raised (ZeroDivisionError at hypermodels.py:"),
            ("no_model", "returned str; return a Sequential or functional keras.Model"),
            ("not_compiled", "returned a model that is not compiled; call model.compile(…) before"),
            ("no_accuracy", "compiles its model without accuracy; write metrics=['accuracy']"),
            ("one_output", "gives outputs of shape (None, 1); for 10 classes they must be (None, 10)"),
            ("no_loss", "is compiled with a loss that Keras does not know (Could not interpret loss identifier"),
            ("other_images", "takes inputs of shape (32, 32, 3); images of 28x28x1 are none"),
        ],
    )
    def test_a_mistake_is_told_before_the_sweep(self, built, name: str, message: str) -> None:
        with pytest.raises(UserError) as error:
            built(name, {})
        assert str(error.value).startswith(f"model.hypermodel=hypermodels:{name}: {message}")


@pytest.fixture(scope="module")
def trained(trainer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Undisturbed runs of three epochs, each trained once: the outcome, the reports and the folder."""
    runs: dict[str, Any] = {}

    def run(config: TrialConfig) -> Any:
        text = config.model_dump_json()
        if text not in runs:
            folder = tmp_path_factory.mktemp("trained")
            runs[text] = (*train(trainer, config, folder), folder)
        return runs[text]

    return run


CONDITIONAL = {"model_type": "mlp", "units": 16, "act": "relu", "optimizer": "adam"}


class TestTraining:
    def test_it_trains_as_its_user_compiled_it(self, trained, trial_of) -> None:
        outcome, reports, _ = trained(trial_of("build_model", DENSE))
        assert outcome.status is Status.COMPLETED
        assert outcome.parameters == 784 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10
        assert set(reports[0]) == {
            "epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "epoch_seconds",
        }  # fmt: skip
        assert reports[0]["learning_rate"] == pytest.approx(0.003)
        assert reports[-1]["accuracy"] > reports[0]["accuracy"]

    def test_going_on_after_an_interruption_equals_never_having_stopped(
        self, trainer, trained, trial_of, tmp_path: Path
    ) -> None:
        config = trial_of("build_model", DENSE)
        train(trainer, config, tmp_path, epochs=2)
        _, again = train(trainer, config, tmp_path)
        assert timeless(again) == timeless(trained(config)[1])

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("build_model", DENSE),
            ("conditional", CONDITIONAL),
        ],
    )
    def test_the_saved_model_takes_images_and_gives_probabilities(
        self, trainer, trained, trial_of, dataset, name: str, values: dict[str, Any]
    ) -> None:
        from mnist_sweep.training import saved

        outcome, reports, folder = trained(trial_of(name, values))
        predictions = saved.predict(saved.load(folder / "model.h5"), np.asarray(dataset.x_val))
        assert predictions.min() >= 0
        np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)
        assert (predictions.argmax(axis=1) == dataset.y_val).mean() == pytest.approx(outcome.score)
        assert outcome.score == max(r["val_accuracy"] for r in reports)
        metrics, _ = trainer.test(folder / "model.h5")
        assert 0.1 < metrics["test_accuracy"] < 1

    @pytest.mark.parametrize("kind", ["guide", "one batch", "put in place"])
    def test_a_training_step_of_its_own_is_logged_and_saved_as_keras_does(
        self, trained, trial_of, dataset, kind: str
    ) -> None:
        from mnist_sweep.training import saved

        (_, expected, _), (outcome, reports, folder) = (
            trained(trial_of("custom_step", {"kind": which}, "training.epochs=2")) for which in ("keras", kind)
        )
        assert outcome.status is Status.COMPLETED
        for report, other in zip(timeless(reports), timeless(expected), strict=True):
            assert report == pytest.approx(other, rel=1e-5)
        predictions = saved.predict(saved.load(folder / "model.h5"), np.asarray(dataset.x_val))
        assert (predictions.argmax(axis=1) == dataset.y_val).mean() == pytest.approx(outcome.score)

    def test_a_training_step_without_a_loss_is_the_users_fault(
        self, trainer, trial_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import hypermodels

        monkeypatch.setattr(hypermodels.OneBatchStep, "train_step", lambda self, data: {"accuracy": 0.5})
        with pytest.raises(UserError, match="the model's fit logs no loss"):
            train(trainer, trial_of("custom_step", {"kind": "one batch"}), tmp_path)

    def test_what_its_module_does_to_keras_when_it_is_imported_is_undone(
        self, trainer, trial_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    def test_only_active_branches_are_built(self, built) -> None:
        values = {**CONDITIONAL, "pooling": "max", "pool.size": 4, "conv.filters": 2}
        assert built("conditional", values).model.count_params() == 784 * 16 + 16 + 16 * 10 + 10
        assert built("conditional", {**values, "model_type": "cnn"}).model.count_params() == 20 + 72 * 10 + 10

    def test_an_instance_is_used_as_it_is(self, built) -> None:
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
    def test_images_get_the_shape_that_it_takes(self, built, tmp_path: Path, name: str, image: Any, shape: Any) -> None:
        from mnist_sweep.training import saved

        found = built(name, {}, image)
        assert found.shape == shape
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
    def test_labels_and_accuracy_are_those_of_the_loss_and_the_metrics(
        self, built, monkeypatch: pytest.MonkeyPatch, loss: Any, metrics: list[Any], one_hot: bool, accuracy: str
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


class TestOwnFit:
    VALUES: ClassVar = {"units": 16, "batch_size": 64, "shuffle": True}

    def test_its_hyperparameters_count(self, trained, trial_of) -> None:
        few, many = (trained(trial_of("TunesFit", {**self.VALUES, "batch_size": size}))[1] for size in (64, 32))
        assert [r["epoch"] for r in few] == [r["epoch"] for r in many] == [1, 2, 3]
        assert many[-1]["loss"] < few[-1]["loss"]

    def test_after_an_interruption_it_starts_anew_and_gives_the_same(
        self, trainer, trained, trial_of, tmp_path: Path
    ) -> None:
        config = trial_of("TunesFit", self.VALUES)
        train(trainer, config, tmp_path / "cut", epochs=2)
        outcome, rest = train(trainer, config, tmp_path / "rest", epochs=3, parent=tmp_path / "cut")
        assert [r["epoch"] for r in rest] == [3], "another trial goes on from it"
        assert outcome.status is Status.COMPLETED
        ended, _ = train(trainer, config, tmp_path / "cut", ending="too slow")
        assert (ended.status, ended.best_epoch) == (Status.STOPPED, 2)
        _, again = train(trainer, config, tmp_path / "cut")
        assert timeless(again) == timeless(trained(config)[1])

    @pytest.mark.parametrize("name", ["CustomLoop", "TwoStages"])
    def test_a_wish_to_stop_ends_it(self, trainer, trial_of, tmp_path: Path, name: str) -> None:
        outcome, reports = train(
            trainer, trial_of(name, {}), tmp_path, epochs=9, stop=lambda epoch: "enough" if epoch == 2 else ""
        )
        assert len(reports) == 2
        assert (outcome.status, outcome.reason) == (Status.STOPPED, "enough")

    def test_its_epochs_count_on_and_never_exceed_the_budget(self, trainer, trial_of, tmp_path: Path) -> None:
        _, few = train(trainer, trial_of("TwoStages", {"more": 3}), tmp_path / "few", epochs=9)
        assert [r["epoch"] for r in few] == [1, 2, 3, 4, 5]
        _, many = train(trainer, trial_of("TwoStages", {"more": 9}), tmp_path / "many", epochs=4)
        assert [r["epoch"] for r in many] == [1, 2, 3, 4]
        assert timeless(many) == timeless(few)[:4]

    def test_a_loop_of_its_own_is_told_by_the_callbacks(self, trainer, trial_of, tmp_path: Path) -> None:
        outcome, reports = train(trainer, trial_of("CustomLoop", {"batch_size": 32}), tmp_path, epochs=2)
        assert [r["epoch"] for r in reports] == [1, 2]
        assert outcome.score == max(r["val_accuracy"] for r in reports)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("LogsAnother", "objective=val_accuracy: the model's fit logs no val_accuracy"),
            ("Silent", "model.hypermodel=hypermodels:Silent: its fit tells the callbacks of no epoch"),
            ("Broken", "model.hypermodel=hypermodels:Broken: its fit raised (KeyError at hypermodels.py:"),
        ],
    )
    def test_a_mistake_in_it_is_told(self, trainer, trial_of, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(UserError) as error:
            train(trainer, trial_of(name, {}), tmp_path)
        assert str(error.value).startswith(message)
