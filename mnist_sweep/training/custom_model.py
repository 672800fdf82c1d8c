"""Builds the model of a user's `build_model(hp)` or `HyperModel`, written for keras-tuner, inside a worker."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import keras_tuner as kt
import numpy as np

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config.hypermodel_space import key_of
from mnist_sweep.config.objective import METRICS, SUMMARIES, TRIAL_METRICS, TRIAL_PREFIXES
from mnist_sweep.config.trial_config import HyperModelConfig
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.schema import Schema, Target
from mnist_sweep.training import model as models
from mnist_sweep.training import saved, user_code
from mnist_sweep.training.outputs import Outputs
from mnist_sweep.training.splits import Batch

# Keras's names for accuracy, in the order in which they are looked up.
_ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy")
_ACCURACY_CLASSES = (keras.metrics.SparseCategoricalAccuracy, keras.metrics.CategoricalAccuracy)
# Losses that expect probabilities, unless they are told otherwise.
_OF_PROBABILITIES = ("sparse_categorical_crossentropy", "categorical_crossentropy")
_OF_PROBABILITIES_CLASSES = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)


class ChosenHyperParameters(kt.HyperParameters):  # type: ignore[misc]
    """Hyperparameters with chosen values. keras-tuner decides which of them are active when they are requested.

    `choose` returns the value of a hyperparameter of keras-tuner's.
    """

    def __init__(self, choose: Callable[[Any], Any]) -> None:
        super().__init__()
        self._choose = choose

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:
        if hyperparameter.name not in self.values and self.is_active(hyperparameter):
            self.values[hyperparameter.name] = self._choose(hyperparameter)
        return super()._register(hyperparameter, overwrite)


def _value(config: HyperModelConfig, hyperparameter: Any) -> Any:
    """Returns a hyperparameter's value in a trial, of the type that keras-tuner would pass to the user's function."""
    name = hyperparameter.name
    if key_of(name) not in config.values:
        missing = f"{name!r} was not found when the space was discovered; its default is used"
        print(f"{setting(config.hypermodel)}: {missing}", file=sys.stderr)
        return hyperparameter.default
    value = config.values[key_of(name)]
    if isinstance(hyperparameter, kt.engine.hyperparameters.Float):
        return float(value)
    options = hyperparameter.values if isinstance(hyperparameter, kt.engine.hyperparameters.Choice) else ()
    return next((option for option in options if option == value), value)


def setting(name: str) -> str:
    """Returns the config key and its value, with which messages start."""
    return f"model.hypermodel={name}"


def load(name: str) -> Any:
    """Imports a hypermodel.

    Args:
        name: `package.module:name` of a function of `hp`, a `keras_tuner.HyperModel` subclass, or an instance of one.

    Raises:
        UserError: It cannot be imported, or is something else.
    """
    module, _, attribute = name.partition(":")
    loaded = user_code.load(setting(name), module)
    try:
        found = getattr(loaded, attribute)
    except AttributeError:
        names = [known for known, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
        hint = did_you_mean(attribute, names) if names else ""
        raise UserError(f"{setting(name)}: {module} has no {attribute}{hint}") from None
    if isinstance(found, type) and issubclass(found, kt.HyperModel):
        try:
            found = found()
        except TypeError as error:
            raise UserError(
                f"{setting(name)}: cannot be created without arguments ({error}); name an instance instead"
            ) from error
    if isinstance(found, kt.HyperModel):
        return found
    if not callable(found):
        kind = type(found).__name__
        raise UserError(f"{setting(name)}: is of type {kind}; name a build_model(hp) or a keras_tuner.HyperModel")

    class Function(kt.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> Any:
            return found(hp)

    return Function()


def code_error(name: str, problem: str, error: BaseException) -> UserError:
    """Describes an exception in a user's code in one line with its place; prints the traceback to the worker's log."""
    return user_code.code_error(setting(name), name.partition(":")[0], problem, error)


def has_custom_fit(hypermodel: Any) -> bool:
    """Returns whether a hypermodel overrides `fit`."""
    return type(hypermodel).fit is not kt.HyperModel.fit


def call_build(name: str, hypermodel: Any, hp: Any) -> keras.Model:
    """Calls a user's build function as keras-tuner does.

    Raises:
        UserError: The user's code fails, or returns something else.
    """
    try:
        hypermodel.declare_hyperparameters(hp)
        model = hypermodel.build(hp)
    except Exception as error:
        raise code_error(name, "raised", error) from error
    if not isinstance(model, keras.Model):
        raise UserError(f"{setting(name)}: returned {type(model).__name__}; return a keras.Model")
    return model


@dataclass(frozen=True)
class BuiltModel:
    """A user's model, and what is needed to train it.

    Attributes:
        name: `package.module:name`.
        hypermodel: The hypermodel that built it.
        hp: The hyperparameters that it was built with.
        model: The model as the user compiled it.
        given_shape: The shape of a row's input; of several inputs, their shapes by name.
        input_shape: The shape that a row's input is reshaped to.
        one_hot: The number of classes if the model expects one-hot labels, else None.
        accuracy: Keras's name for its accuracy; None if it has none, or only its custom fit knows.
        probabilities: Whether its outputs are what is predicted; otherwise they are logits or scores of classes.
        least_output: The least of its outputs for a few random rows.
        functional: What is saved: the model itself, or a functional one of a subclass that has its own `call`.
        outputs: Its outputs, if there are several or their targets have other shapes; else None.
    """

    name: str
    hypermodel: Any
    hp: Any
    model: keras.Model
    given_shape: Any
    input_shape: Any
    one_hot: int | None
    accuracy: str | None
    probabilities: bool
    least_output: float
    functional: keras.Model
    outputs: Outputs | None = None

    @property
    def has_custom_fit(self) -> bool:
        """Whether the user's own fit trains it. Such a fit cannot resume from its checkpoint."""
        return has_custom_fit(self.hypermodel)

    def adapt(self, x: Any, y: Any, *weights: Any) -> Batch:
        """Converts a batch of inputs (N, …), targets and perhaps weights to what the model expects."""
        if self.outputs is not None:
            return self.outputs.adapt(self._inputs(x), y, *weights)
        y = y if self.one_hot is None else keras.ops.one_hot(y, self.one_hot)
        return self._inputs(x), y, *weights

    def _inputs(self, x: Any) -> Any:
        return x if isinstance(x, Mapping) else keras.ops.reshape(x, (-1, *self.input_shape))

    def arrays(self, x: Any, y: Array, *weights: Array) -> Batch:
        """Does the same as `adapt` for arrays."""
        if self.outputs is not None:
            arrays: Batch = keras.tree.map_structure(np.asarray, self.adapt(x, y, *weights))
            return arrays
        y = y if self.one_hot is None else np.eye(self.one_hot, dtype=np.float32)[y]
        return x if isinstance(x, Mapping) else x.reshape(-1, *self.input_shape), y, *weights

    def check_logs(self, wanted: Sequence[str], x: Any, y: Array, *weights: Array) -> None:
        """Checks that Keras's fit will log the objectives.

        Args:
            wanted: The objectives' names.
            x: The inputs of a few rows, as arrays that `arrays` returned.
            y: Their targets.
            weights: Their weights, if rows count differently.

        Raises:
            UserError: It will not.
        """
        fixed = {*METRICS, *SUMMARIES} - {"accuracy", "val_accuracy"}
        if self.has_custom_fit or not set(wanted) - fixed - ({"accuracy", "val_accuracy"} if self.accuracy else set()):
            return
        weighted = weights[0] if weights else None
        logged = self.metrics(self.model.evaluate(x, y, sample_weight=weighted, verbose=0, return_dict=True))
        known = {*fixed, *(f"{prefix}{name}" for name in logged for prefix in ("", "val_"))}
        for name in wanted:
            if name not in known and name.endswith("accuracy") and self.accuracy is None:
                raise UserError(
                    f"{setting(self.name)}: compiles its model without accuracy; pass metrics=['accuracy'], or set "
                    "objective to a metric that it has"
                )
            if (vector := name.removeprefix("val_")) in _vectors(self.model):
                raise UserError(f"objective={name}: {_each_class(vector)}")
            if name not in known:
                raise UserError(f"objective={name}: {self.name} does not log it{did_you_mean(name, known)}")

    def doubts(self) -> Iterator[str]:
        """Yields what is most likely not as the user wants it, in lines."""
        loss = _loss(self.model)
        # A string stands for the default.
        logits = getattr(loss, "from_logits", False)
        if getattr(loss, "__name__", "") in _OF_PROBABILITIES or isinstance(loss, _OF_PROBABILITIES_CLASSES):
            if self.least_output < 0 and not logits:
                yield (
                    f"its outputs are not the probabilities that its loss expects (one is {self.least_output:.2g}); "
                    "end with a softmax, or compile the loss with from_logits=True"
                )
            elif self.probabilities and logits:
                yield "its outputs are probabilities, but its loss has from_logits=True; remove that or the softmax"
        yield from map(_each_class, _vectors(self.model))
        yield from models.doubts(self.model)

    def metrics(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Returns the scalars of Keras's logs under this project's names."""
        accuracy = self.accuracy or next((name for name in _ACCURACIES if name in logs), None)
        named: dict[str, float] = {}
        for name, value in logs.items():
            if np.ndim(value) == 0:
                prefix = "val_" if name.startswith("val_") else ""
                rest = name.removeprefix("val_")
                if _is_ours(name):
                    raise UserError(f"{setting(self.name)}: {_taken(name)}")
                named[prefix + ("accuracy" if rest == accuracy else rest)] = float(value)
        return named

    def whole(self) -> keras.Model:
        """Returns a model from the data's inputs to predictions, to be saved. It shares the weights.

        Logits or scores get a softmax, which keeps their order and so the accuracy.
        """
        model = models.without_subclass(self.functional)
        if self.input_shape == self.given_shape and self.probabilities:
            return model
        if self.outputs is not None:
            inputs = keras.Input(self.given_shape)
            return keras.Model(inputs, model(keras.layers.Reshape(self.input_shape, name="images")(inputs)))
        before = keras.layers.Reshape(self.input_shape, name="images", dtype="float32")
        softmax = [] if self.probabilities else [keras.layers.Softmax(name="probabilities", dtype="float32")]
        layers = model.layers if isinstance(model, keras.Sequential) else [model]
        return keras.Sequential([keras.Input(self.given_shape), before, *layers, *softmax], name="whole")

    def set_execution(self, steps: int, jit_compile: Any) -> None:
        """Sets how Keras runs the training step, unless the user's `compile` did."""
        chosen = self.model._compile_config.config if self.model._compile_config else {}
        if chosen.get("steps_per_execution") == 1 and not self.model.run_eagerly:
            self.model.steps_per_execution = steps
        if chosen.get("jit_compile") == "auto" and jit_compile != "auto":
            self.model.jit_compile = jit_compile


def build(config: HyperModelConfig, schema: Schema) -> BuiltModel:
    """Builds a trial's model.

    Args:
        config: The hypermodel and its values by key, inactive ones included.
        schema: The inputs and the target of the data.

    Raises:
        UserError: The user's code is at fault, or its model does not fit the data.
    """
    return build_and_check(config.hypermodel, lambda: ChosenHyperParameters(partial(_value, config)), schema)


def build_and_check(name: str, hyperparameters: Callable[[], Any], schema: Schema) -> BuiltModel:
    """Builds a model and checks that it can be trained on the data.

    Args:
        name: `package.module:name`.
        hyperparameters: Creates the `keras_tuner.HyperParameters` to build it with.
        schema: The inputs and the target of the data.

    Raises:
        UserError: The user's code is at fault, or its model does not fit the data.
    """
    given = models.input_shape(schema)
    hypermodel, hp = load(name), hyperparameters()
    model = call_build(name, hypermodel, hp)
    subclassed = not isinstance(model, keras.Sequential | keras.src.models.Functional)
    if subclassed:
        models.refuse_optimizers(setting(name), model)
    elif not model.built:
        if isinstance(given, Mapping):
            raise UserError(
                f"{setting(name)}: returned a model without inputs; start with a keras.Input for each of "
                f"{', '.join(given)}"
            )
        model, hp = _with_input_shape(name, hypermodel, hyperparameters, given, schema.target)
    functional = _as_layer(name, model, given) if subclassed else model
    shape = given if isinstance(given, Mapping) else _input_shape(name, functional, given)
    own_shapes = schema.target.kind in ("array", "several") or saved.has_several_outputs(functional)
    found = Outputs.of(setting(name), functional, schema.target) if own_shapes else None
    if found is None and functional.output_shape not in _output_shapes(schema.target):
        size, kind = schema.target.size, schema.target.kind
        raise UserError(
            f"{setting(name)}: returned a model with outputs of shape {functional.output_shape}; for {size} {kind} "
            f"they must be (None, {size})"
        )
    if not model.compiled:
        raise UserError(f"{setting(name)}: returned a model that is not compiled; call model.compile(…) first")
    if taken := next((metric for metric in _compiled_metrics(model) if _is_ours(metric)), None):
        raise UserError(f"{setting(name)}: {_taken(taken)}")
    if found is not None:
        found = found.with_one_hot(model.loss)
        return BuiltModel(
            name, hypermodel, hp, model, given, shape, None, _accuracy(model), True, 0.0, functional, found
        )
    accuracy = _accuracy(model)
    classes = schema.target.size if schema.target.kind == "classes" and functional.output_shape != (None, 1) else None
    try:
        one_hot = classes if _expects_one_hot(model, accuracy) else None
    except ValueError as error:
        raise UserError(f"{setting(name)}: compiles with a loss that Keras does not know ({error})") from error
    rng = np.random.default_rng(0)
    rows = models.inputs_like(functional, lambda shape: rng.random((4, *shape), dtype=np.float32))
    outputs = np.asarray(functional(rows, training=False), dtype=np.float64)
    probabilities = classes is None or bool(np.allclose(outputs.sum(axis=1), 1, atol=1e-2) and outputs.min() >= 0)
    least = float(outputs.min())
    if classes is None:
        functional = saved.of_probabilities(functional, model.loss, schema.target)
    return BuiltModel(name, hypermodel, hp, model, given, shape, one_hot, accuracy, probabilities, least, functional)


def _as_layer(name: str, model: keras.Model, given: Any) -> keras.Model:
    """Returns a functional model that calls a subclassed one, with inputs of the first shape that it takes."""
    first: UserError | None = None
    for shape in [given] if isinstance(given, Mapping) else _shapes(given):
        try:
            return models.as_layer(setting(name), model, shape)
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


def _output_shapes(target: Target) -> list[tuple[int | None, ...]]:
    """Returns the shapes of outputs that can predict a target; two classes can also be one probability."""
    one = [(None, 1)] if target.kind == "classes" and target.size == 2 else []
    return [(None, target.size), *one]


def _with_input_shape(
    name: str, hypermodel: Any, hyperparameters: Callable[[], Any], given: tuple[int, ...], target: Target
) -> tuple[keras.Model, Any]:
    """Builds a model without a defined input for the first shape of inputs that gives outputs for the target."""
    wrong: tuple[keras.Model, Any] | None = None
    for shape in _shapes(given):
        hp = hyperparameters()
        model = call_build(name, hypermodel, hp)
        try:
            model.build((None, *shape))
        except Exception:
            # Layers raise many kinds of errors for a shape that they cannot take.
            continue
        if target.kind in ("array", "several") or model.output_shape in _output_shapes(target):
            return model, hp
        wrong = wrong or (model, hp)
    if wrong is None:
        shapes, what = " nor ".join(map(str, _shapes(given))), "images" if len(given) == 3 else "inputs"
        raise UserError(f"{setting(name)}: takes {what} neither as {shapes}; start with keras.Input({given})")
    return wrong


def _shapes(given: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the shapes in which people pass an input, such as an image, to a model, the most common first."""
    grey = [given[:2]] if len(given) == 3 and given[2] == 1 else []
    return list(dict.fromkeys([given, *grey, (math.prod(given),)]))


def _input_shape(name: str, model: keras.Model, given: tuple[int, ...]) -> tuple[int, ...]:
    if len(model.inputs) != 1:
        raise UserError(f"{setting(name)}: has {len(model.inputs)} inputs, but the data have one, x_train")
    expected = tuple(model.input_shape[1:])
    for shape in _shapes(given):
        if len(shape) == len(expected) and all(e in (None, s) for e, s in zip(expected, shape, strict=True)):
            return shape
    # A colour image with channels first cannot be reshaped: its pixels have another order.
    first = len(given) == 3 and expected == (given[2], *given[:2]) != given
    if None in expected or math.prod(expected) != math.prod(given) or first:
        what = f"images are {'x'.join(map(str, given))}" if len(given) == 3 else f"data have the shape {given}"
        raise UserError(f"{setting(name)}: takes inputs of shape {expected}; the {what}")
    return expected


def _accuracy(model: keras.Model) -> str | None:
    """Returns the name under which Keras logs a model's accuracy."""
    metrics = _compiled_metrics(model)
    standard = next((name for name in _ACCURACIES if name in metrics), None)
    return standard or next((name for name, m in metrics.items() if isinstance(m, _ACCURACY_CLASSES)), None)


def _compiled_metrics(model: keras.Model) -> dict[str, Any]:
    """Returns the metrics that a model was compiled with, by name."""
    compiled = model._compile_metrics._user_metrics if model._compile_metrics else None
    return {_name(metric): metric for metric in keras.tree.flatten(compiled or [])}


def _is_ours(metric: str) -> bool:
    return metric in {*TRIAL_METRICS, "epoch_seconds"} or metric.startswith(TRIAL_PREFIXES)


def _taken(metric: str) -> str:
    return f"has a metric {metric!r}, a name that mnist_sweep uses itself; give it another name"


def _name(metric: Any) -> str:
    return str(metric if isinstance(metric, str) else getattr(metric, "name", None) or getattr(metric, "__name__", ""))


def _loss(model: keras.Model) -> Any:
    compiled = next(iter(keras.tree.flatten(model.loss)), None)
    return keras.losses.get(compiled) if isinstance(compiled, str) else compiled


def _vectors(model: keras.Model) -> list[str]:
    """Returns the metrics that have a value for each class, of which there is no curve."""
    metrics = _compiled_metrics(model).items()
    return [name for name, metric in metrics if isinstance(metric, keras.metrics.FBetaScore) and metric.average is None]


def _each_class(metric: str) -> str:
    return f"its metric {metric} has a value for each class, which is not logged; give it average='macro'"


def _expects_one_hot(model: keras.Model, accuracy: str | None) -> bool:
    """Returns whether a model's loss expects one-hot labels. For a custom loss, its accuracy metric decides."""
    loss = _loss(model)
    function = getattr(loss, "fn", loss)
    if not getattr(function, "__module__", "").startswith("keras."):
        return accuracy == "categorical_accuracy"
    return "sparse" not in getattr(function, "__name__", type(function).__name__).lower()
