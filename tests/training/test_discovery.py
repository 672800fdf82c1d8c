"""The search spaces of keras-tuner's hypermodels are discovered in a worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import hypermodel


@pytest.fixture(scope="module")
def discovered(trainer) -> Any:
    found: dict[str, Any] = {}

    def space(name: str) -> hypermodel.Expanded:
        if name not in found:
            found[name] = trainer.discover(f"hypermodels:{name}")
        trial = {"model": {"hypermodel": f"hypermodels:{name}"}, "optimizer": {}, "training": {}}
        return hypermodel.expand(trial, found[name])

    return space


def test_a_loop_over_layers_gives_conditions(discovered) -> None:
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


def test_hyperparameters_that_do_not_change_the_weights_are_known(discovered) -> None:
    of = {
        h.name.removeprefix("model.values."): h.keeps_weights for h in discovered("build_model").space().hyperparameters
    }
    assert [name for name, keeps in of.items() if keeps] == ["activation", "dropout", "lr"]


def test_scopes_may_be_nested_and_names_may_be_anything(discovered) -> None:
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


def test_hyperparameters_of_fit_are_found(discovered) -> None:
    found = discovered("TunesFit")
    assert list(found.space().describe()) == [
        "model.values.units", "model.values.batch_size", "model.values.shuffle",
    ]  # fmt: skip
    assert found.defaults["shuffle"] is True
    assert list(discovered("CustomLoop").space().describe()) == ["model.values.batch_size"]


def test_a_hyperparameter_that_depends_on_two_others_is_found_by_chance_and_always_active(discovered) -> None:
    found = discovered("rare")
    described = found.space().describe()
    assert described["model.values.layers_1"] == "int(interval(1, 2)) if model.values.blocks in [2]"
    assert described["model.values.units_1_1"] == "int(interval(4, 8)) if model.values.layers_1 in [2]"
    assert described["model.values.rate"] == "choice(0.1, 0.2, 0.3, 0.4, 0.5)"
    assert found.trial["model"]["values"]["version"] == "choice('1,2')"


def test_configurations_that_cannot_be_built_do_not_hide_others(discovered) -> None:
    described = discovered("breaks").space().describe()
    assert described["model.values.filters_2"].endswith("if model.values.convolutions in [3, 4]")


def test_a_default_that_cannot_be_built_does_not_hide_the_space(discovered) -> None:
    described = discovered("impossible_default").space().describe()
    assert described["model.values.size"] == "choice(1, 2, 3)"
    assert set(discovered("build_model").space().describe()) < set(described)


def test_a_hypermodel_that_can_never_be_built_is_an_error(trainer) -> None:
    with pytest.raises(UserError, match=r"^model.hypermodel=hypermodels:raises: raised \(ZeroDivisionError at"):
        trainer.discover("hypermodels:raises")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "hypermodels has no nowhere; choose one of: "),
        ("nothing", "is of type NoneType; name a build_model(hp) or a keras_tuner.HyperModel"),
        ("NeedsArguments", "cannot be created without arguments ("),
        ("raises", "raised (ZeroDivisionError at hypermodels.py:"),
        ("no_model", "returned str; return a keras.Model"),
        ("not_compiled", "returned a model that is not compiled; call model.compile(…) first"),
        ("one_output", "returned a model with outputs of shape (None, 1); for 10 classes they must be (None, 10)"),
        ("no_loss", "compiles with a loss that Keras does not know (Could not interpret loss identifier"),
        ("other_images", "takes inputs of shape (32, 32, 3); the images are 28x28x1"),
    ],
)
def test_a_mistake_is_reported_before_the_sweep(built, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        built(name, {})
    assert str(error.value).startswith(f"model.hypermodel=hypermodels:{name}: {message}")


@pytest.mark.parametrize(
    ("name", "objectives", "message"),
    [
        ("other_metrics", ["val_top@3"], ""),
        ("other_metrics", ["val_top@3", "parameters", "val_loss"], ""),
        (
            "other_metrics",
            ["val_accuracy"],
            "model.hypermodel=hypermodels:other_metrics: compiles its model without ",
        ),
        ("other_metrics", ["val_top3"], "objective=val_top3: hypermodels:other_metrics does not log it; did you mean "),
        ("unrolled", ["val_accuracy"], ""),
        ("doubtful", ["val_f1"], "objective=val_f1: its metric f1 has a value for each class, which is not logged; "),
        ("unrolled", ["val_f1"], "objective=val_f1: hypermodels:unrolled does not log it; "),
        ("LogsAnother", ["my_metric"], ""),
    ],
)
def test_the_objectives_must_be_logged(built, name: str, objectives: list[str], message: str) -> None:
    model = built(name, {"units": 4})
    images, labels = np.zeros((4, 28, 28, 1), np.float32), np.arange(4)
    if not message:
        model.check_logs(objectives, *model.arrays(images, labels))
        return
    with pytest.raises(UserError) as error:
        model.check_logs(objectives, *model.arrays(images, labels))
    assert str(error.value).startswith(message)


def test_values_with_which_no_model_can_be_built_are_told(trainer) -> None:
    notes = trainer.discover("hypermodels:breaks")["notes"]
    what = "no model can be built with this value (raised (ValueError at hypermodels.py:"
    assert [note.partition(what)[0] for note in notes] == ["convolutions=4: ", "convolutions=3: "]


def test_what_is_most_likely_a_mistake_is_told(built) -> None:
    outputs, metric, pixels = built("doubtful", {"units": 4}).doubts()
    assert outputs.startswith("its outputs are not the probabilities that its loss expects (one is -")
    assert metric == "its metric f1 has a value for each class, which is not logged; give it average='macro'"
    assert pixels.startswith("its Rescaling(0.003922) layer makes the pixels")
    (twice,) = built("twice_softmax", {"units": 4}).doubts()
    assert twice == "its outputs are probabilities, but its loss has from_logits=True; remove that or the softmax"
    for right in ("other_metrics", "conditional"):
        assert list(built(right, {}).doubts()) == []


def test_a_model_that_could_not_be_loaded_again_is_refused_before_the_first_trial(trainer) -> None:
    with pytest.raises(UserError, match="hypermodels:unregistered: the saved model cannot be loaded again"):
        trainer.discover("hypermodels:unregistered")
