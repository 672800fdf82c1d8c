"""Builds Keras models and optimizers from a trial's config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import first_line
from mnist_sweep.config import keras_names
from mnist_sweep.config.task import TaskConfig
from mnist_sweep.config.trial_config import CNN, MLP, CustomModel, Dense, Layers, Optimizer, TrialConfig, at_layer
from mnist_sweep.data.schema import ONLY, Schema, Target
from mnist_sweep.training import read_keys, tasks, user_code
from mnist_sweep.training.tasks import Scale

# How many words a convolution sees at once.
_WORDS = 3
# A layer that multiplies pixels by less than this makes them almost black.
_DARK = 0.05


def build(config: TrialConfig, schema: Schema, scale: Scale | None = None) -> keras.Model:
    """Builds a trial's model without compiling it.

    Args:
        config: The trial's config.
        schema: The inputs and the target of the data.
        scale: The mean and standard deviation of the targets; None if the task does not scale them.

    Returns:
        A model from inputs, such as images (N, H, W, C), float32 in 0..1, to predictions, such as probabilities
        (N, classes).

    Raises:
        UserError: The user's builder cannot be imported, fails, or returns something else.
    """
    model = config.model
    if isinstance(model, CustomModel):
        return _custom(model, config.task, schema).functional
    return connected(schema, layers(config, schema, scale))


def connected(schema: Schema, stack: Sequence[keras.layers.Layer | Shortcut]) -> keras.Model:
    """Connects the layers that `layers` has created with inputs.

    Args:
        schema: The inputs.
        stack: The layers.
    """
    if list(schema.inputs) == [ONLY]:
        return _stacked(input_shape(schema), stack)
    inputs, parts, left = dict[str, Any](), list[Any](), each(stack)
    for name, one in schema.inputs.items():
        embedded = one.kind in ("categories", "text")
        inputs[name] = values = keras.Input(one.shape, dtype="int32" if embedded else "float32", name=name)
        if embedded:
            vectors = left.pop(0)(values)
            if one.kind == "categories":
                values = keras.layers.Flatten(name=f"{name}_together")(vectors)
            elif isinstance(left[0], keras.layers.Conv1D):
                values = keras.layers.GlobalMaxPooling1D(name=f"{name}_strongest")(left.pop(0)(vectors))
            else:
                values = _mean_of_words(values, vectors, name)
        parts.append(values if len(values.shape) == 2 else keras.layers.Flatten()(values))
    values = keras.layers.Concatenate(name="joined")(parts) if len(parts) > 1 else parts[0]
    for layer in left:
        values = layer(values)
    return keras.Model(inputs, values)


def input_shape(schema: Schema) -> Any:
    """Returns the shape of the only input without the number of rows; of several, the shapes by name."""
    shapes = {name: tuple(one.shape) for name, one in schema.inputs.items()}
    return shapes.get(ONLY, shapes)


def inputs_like(model: keras.Model, make: Callable[[tuple[int, ...]], Any]) -> Any:
    """Returns inputs that a model takes, each made from its shape without the number of rows."""
    made = [make(tuple(size or 1 for size in one.shape[1:])) for one in model.inputs]
    return made[0] if len(made) == 1 else made


def _mean_of_words(words: Any, vectors: Any, name: str) -> Any:
    """Returns the mean (N, d) of the vectors (N, L, d) of words (N, L); the places after the last word are 0."""
    # Keras's mask would do it, but a functional model with one cannot be loaded from `.h5`.
    ones = keras.layers.Rescaling(1.0, dtype="float32", name=f"{name}_numbers")(words)
    ones = keras.layers.ReLU(max_value=1.0, dtype="float32", name=f"{name}_places")(ones)
    unit = keras.layers.UnitNormalization(dtype="float32", name=f"{name}_unit")(ones)
    shares = keras.layers.Multiply(dtype="float32", name=f"{name}_shares")([unit, unit])
    return keras.layers.Dot(1, name=f"{name}_mean")([vectors, shares])


@dataclass(frozen=True)
class Shortcut:
    """Layers with a shortcut around them.

    Attributes:
        around: The layers.
        projection: The layers of the shortcut; empty if the shapes are the same.
        add: Adds both.
    """

    around: Sequence[keras.layers.Layer]
    projection: Sequence[keras.layers.Layer]
    add: keras.layers.Layer


def _stacked(shape: Any, stack: Sequence[keras.layers.Layer | Shortcut]) -> keras.Model:
    if not any(isinstance(one, Shortcut) for one in stack):
        return keras.Sequential([keras.Input(shape), *stack])
    inputs = x = keras.Input(shape)
    for one in stack:
        x = (
            one.add([_through(part, x) for part in (one.around, one.projection)])
            if isinstance(one, Shortcut)
            else one(x)
        )
    return keras.Model(inputs, x)


def _through(layers: Sequence[keras.layers.Layer], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def each(stack: Sequence[keras.layers.Layer | Shortcut]) -> list[keras.layers.Layer]:
    """Returns all layers, those of shortcuts included."""
    parts = ([*one.around, *one.projection, one.add] if isinstance(one, Shortcut) else [one] for one in stack)
    return [layer for part in parts for layer in part]


def layers(config: TrialConfig, schema: Schema, scale: Scale | None) -> list[keras.layers.Layer | Shortcut]:
    """Creates the layers of a trial's model without building them, which takes a fraction of `build`'s time.

    Args:
        config: The trial's config; its model is an MLP or a CNN.
        schema: The inputs and the target of the data.
        scale: The mean and standard deviation of the targets; None if the task does not scale them.
    """
    model = config.model
    assert isinstance(model, MLP | CNN)
    first = _convolutions(model) if isinstance(model, CNN) else list(_embeddings(model, schema))
    hidden = _dense(model if isinstance(model, MLP) else model.dense)
    return [*first, _flat(model), *hidden, *tasks.head(config.task, schema.target, scale)]


def _embeddings(model: MLP, schema: Schema) -> Iterator[keras.layers.Layer]:
    """Yields the layers with weights that make vectors of categories and words."""
    for name, one in schema.inputs.items():
        if one.kind == "categories":
            assert model.categories is not None
            yield keras.layers.Embedding(one.size, model.categories.embedding, name=f"{name}_vectors")
        elif one.kind == "text":
            assert model.text is not None
            size = model.text.embedding
            yield keras.layers.Embedding(one.size, size, name=f"{name}_vectors")
            if model.text.pooling == "convolution":
                arguments = {"padding": "same", "activation": "relu", "name": f"{name}_sequences"}
                yield keras.layers.Conv1D(size, _WORDS, **arguments)


def _convolutions(model: CNN) -> list[keras.layers.Layer | Shortcut]:
    pools = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}
    kind = keras.layers.Conv2D if model.convolution == "standard" else keras.layers.SeparableConv2D
    layers: list[keras.layers.Layer | Shortcut] = []
    for i in range(model.layers):
        convolution: dict[str, Any] = {
            "filters": at_layer(model.filters, i),
            "kernel_size": at_layer(model.kernel_size, i),
            "padding": model.padding,
        }
        if model.residual and i:
            # The activation is after the sum, as in ResNet.
            activation = keras.layers.Activation(at_layer(model.activation, i))
            layers += [_shortcut(kind, convolution, model, i), activation]
        else:
            layers += _activated(kind, convolution, model, i)
        if model.pooling.kind is not None and model.pooling.follows(i, model.layers):
            layers.append(pools[model.pooling.kind](model.pooling.size))
        layers += _dropout(model, i)
    return layers


def _flat(model: MLP | CNN) -> keras.layers.Layer:
    pooling = model.pooling.over_all if isinstance(model, CNN) else None
    if pooling is None:
        return keras.layers.Flatten()
    return keras.layers.GlobalAveragePooling2D() if pooling == "average" else keras.layers.GlobalMaxPooling2D()


def _shortcut(kind: type[keras.layers.Layer], args: dict[str, Any], model: CNN, i: int) -> Shortcut:
    """Creates a convolution with a shortcut around it, and around its normalization."""
    filters, projection = args["filters"], []
    if filters != at_layer(model.filters, i - 1):
        projection.append(keras.layers.Conv2D(filters, 1, kernel_regularizer=_penalty(model, i)))
    return Shortcut(_linear(kind, args, model, i), projection, keras.layers.Add())


def _dense(stack: Dense) -> list[keras.layers.Layer]:
    layers: list[keras.layers.Layer] = []
    for i in range(stack.layers):
        layers += _activated(keras.layers.Dense, {"units": at_layer(stack.units, i)}, stack, i)
        layers += _dropout(stack, i)
    return layers


def _activated(kind: type[keras.layers.Layer], args: dict[str, Any], stack: Layers, i: int) -> list[keras.layers.Layer]:
    activation = at_layer(stack.activation, i)
    if not at_layer(stack.batch_normalization, i):
        return _linear(kind, {**args, "activation": activation}, stack, i)
    return [*_linear(kind, args, stack, i), keras.layers.Activation(activation)]


def _linear(kind: type[keras.layers.Layer], args: dict[str, Any], stack: Layers, i: int) -> list[keras.layers.Layer]:
    """Creates a layer and its normalization."""
    of = ("depthwise", "pointwise") if kind is keras.layers.SeparableConv2D else ("kernel",)
    layer = kind(**args, **{f"{weights}_regularizer": _penalty(stack, i) for weights in of})
    return [layer, keras.layers.BatchNormalization()] if at_layer(stack.batch_normalization, i) else [layer]


def _penalty(stack: Layers, i: int) -> keras.regularizers.Regularizer | None:
    l2 = at_layer(stack.l2, i)
    return keras.regularizers.L2(l2) if l2 else None


def _dropout(stack: Layers, i: int) -> list[keras.layers.Layer]:
    rate = at_layer(stack.dropout, i)
    return [keras.layers.Dropout(rate)] if rate else []


def load_builder(model: CustomModel) -> Callable[..., Any]:
    """Imports the user's function that builds a model.

    Raises:
        UserError: It cannot be imported.
    """
    setting = f"model.builder={model.builder}"
    module, _, function = model.builder.partition(":")
    loaded = user_code.load(setting, module)
    if not callable(getattr(loaded, function, None)):
        names = [name for name, value in vars(loaded).items() if callable(value) and not name.startswith("_")]
        raise UserError(f"{setting}: {module} has no function {function}{did_you_mean(function, names)}")
    found: Callable[..., Any] = getattr(loaded, function)
    try:
        inspect.signature(found).bind({}, (), 0)
    except TypeError as error:
        raise UserError(
            f"{setting}: is called with a config, the shape of an input and the number of outputs ({error}); for a "
            f"build_model(hp), write model.hypermodel={model.builder}"
        ) from None
    except ValueError:
        # A built-in function without a signature.
        pass
    return found


def doubts(model: keras.Model) -> Iterator[str]:
    """Yields what is most likely a mistake in a user's model, in lines."""
    scales = (layer.scale for layer in model._flatten_layers() if isinstance(layer, keras.layers.Rescaling))
    if (scale := next((scale for scale in scales if isinstance(scale, float) and 0 < scale < _DARK), None)) is not None:
        yield f"its Rescaling({scale:.4g}) layer makes the pixels, which are from 0 to 1, almost black; remove it"


def unread(configs: Sequence[CustomModel], schema: Schema) -> list[str]:
    """Returns the keys of `model` that a user's builder reads with none of several configs."""
    builder = load_builder(configs[0])
    shape, size = input_shape(schema), output_size(schema.target)
    return read_keys.unread(lambda config: builder(config, shape, size), list(map(_given, configs)))


def _given(model: CustomModel) -> dict[str, Any]:
    return model.model_dump(exclude={"builder", "hypermodel"})


def output_size(target: Target) -> Any:
    """Returns how many values a model has for each place of its output; of several outputs, by name."""
    if target.parts:
        return {name: output_size(part) for name, part in target.parts.items()}
    return target.size or 1


@dataclass(frozen=True)
class UserModel:
    """A user's model.

    Attributes:
        trained: What is trained.
        functional: What is saved: a functional model of the same layers; the same one, unless that has its own `call`.
    """

    trained: keras.Model
    functional: keras.Model


def users_own(config: TrialConfig, schema: Schema) -> UserModel:
    """Builds a trial's model with the user's function, for `task=custom`.

    Raises:
        UserError: It cannot be imported, fails, or returns something that cannot be trained.
    """
    assert isinstance(config.model, CustomModel)
    return _custom(config.model, config.task, schema)


def _custom(model: CustomModel, task: TaskConfig, schema: Schema) -> UserModel:
    setting = f"model.builder={model.builder}"
    builder = load_builder(model)
    given = _given(model)
    try:
        built = builder(given, input_shape(schema), output_size(schema.target))
    except Exception as error:
        raised = user_code.code_error(setting, model.builder.partition(":")[0], "raised", error)
        missing = error.args[0] if isinstance(error, KeyError) and error.args else None
        if isinstance(missing, str) and missing.isidentifier() and missing not in given:
            raise UserError(f"{raised}; if it reads that from its config, write +model.{missing}=…") from error
        raise raised from error
    if not isinstance(built, keras.Model):
        raise UserError(f"{setting}: returned {type(built).__name__}; return a keras.Model")
    subclassed = not isinstance(built, keras.Sequential | keras.src.models.Functional)
    if task.kind == "custom":
        refuse_optimizers(setting, built)
        functional = as_layer(setting, built, input_shape(schema)) if subclassed else without_subclass(built)
        # A model without steps of its own is trained as it is saved.
        own = bool(overridden(built)) or built.compiled
        return UserModel(built if own else functional, functional)
    if subclassed:
        if lost := overridden(built):
            raise UserError(
                f"{setting}: {type(built).__name__} overrides both call and {lost[0]}; write task=custom, which "
                "trains it with its own loss"
            )
        built = as_layer(setting, built, input_shape(schema))
    expected = (None, 1 if task.kind == "binary" else schema.target.size)
    if tuple(built.output_shape) != expected:
        what = "numbers" if task.kind == "regression" else "probabilities"
        raise UserError(
            f"{setting}: returned a model with outputs of shape {built.output_shape}; they must be {what}, {expected}"
        )
    if task.kind == "classification":
        _check_probabilities(setting, built)
    return UserModel(built, built)


def overridden(built: keras.Model) -> list[str]:
    """Returns the steps of training that a user's class of models has of its own."""
    steps = ("train_step", "test_step", "compute_loss", "compute_metrics")
    return [step for step in steps if getattr(type(built), step) is not getattr(keras.Model, step)]


def refuse_optimizers(setting: str, built: keras.Model) -> None:
    """Refuses a model that trains with several optimizers, of which checkpoints would keep only one."""
    kind = keras.optimizers.Optimizer
    others = [name for name, value in vars(built).items() if isinstance(value, kind) and name != "optimizer"]
    if others:
        raise UserError(
            f"{setting}: {type(built).__name__} has its own optimizer, {others[0]}; a trial trains with one "
            "optimizer, which the config names"
        )


def as_layer(setting: str, built: keras.Model, shape: Any) -> keras.Model:
    """Returns a functional model of which a subclassed one is the only layer: such a model can be saved as `.h5`.

    Args:
        setting: The config key and its value, with which messages start.
        built: The model.
        shape: The shape of its input; of several inputs, their shapes by name.

    Raises:
        UserError: It cannot be called.
    """
    kind = type(built)
    inputs = {name: keras.Input(one) for name, one in shape.items()} if isinstance(shape, dict) else keras.Input(shape)
    try:
        outputs = built(inputs)
    except Exception as error:
        raise user_code.code_error(setting, kind.__module__, f"{kind.__name__} cannot be called", error) from error
    return keras.Model(inputs, outputs)


def _check_probabilities(setting: str, built: keras.Model) -> None:
    zeros = inputs_like(built, lambda shape: np.zeros((1, *shape), np.float32))
    probabilities = np.asarray(built(zeros, training=False), dtype=np.float64)
    if not np.isclose(probabilities.sum(), 1, atol=1e-2) or probabilities.min() < 0:
        raise UserError(
            f"{setting}: its outputs are not probabilities (they add up to "
            f"{probabilities.sum():.3g}); end with a softmax"
        )


def optimizer(config: Optimizer, steps: int) -> keras.optimizers.Optimizer:
    """Creates a trial's optimizer.

    Args:
        config: The trial's optimizer config.
        steps: Batches of the entire trial, the default of a schedule's `decay_steps`.

    Raises:
        UserError: Keras rejects the arguments.
    """
    # keras.optimizers.get does not know all of them.
    classes = {name.lower(): value for name, value in vars(keras.optimizers).items() if isinstance(value, type)}
    try:
        return classes[config.name](**config.arguments, learning_rate=_learning_rate(config, steps))
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer={config.name}: Keras rejects it ({first_line(error)})") from error


def _learning_rate(config: Optimizer, steps: int) -> Any:
    schedule = config.schedule
    if schedule.name is None:
        return config.learning_rate
    arguments = dict(schedule.arguments)
    required, _ = keras_names.SCHEDULES[schedule.name]
    for key in required & keras_names.SCHEDULE_STEPS:
        arguments.setdefault(key, max(steps, 1))
    if schedule.name != "PiecewiseConstantDecay":
        arguments["initial_learning_rate"] = config.learning_rate
    return getattr(keras.optimizers.schedules, schedule.name)(**arguments)


def without_subclass(model: keras.Model) -> keras.Model:
    """Converts a subclass of a Keras model to Keras's own class, as `.h5` files cannot restore a user's class.

    Args:
        model: A Sequential or functional model, for instance of a subclass that overrides `train_step`.

    Returns:
        A model of the same layers and weights; `model` itself if it is of Keras's own class or overrides `call`.
    """
    kinds = (keras.Sequential, keras.src.models.Functional)
    if type(model) in kinds or all(type(model).call is not kind.call for kind in kinds):
        return model
    return keras.Model(model.input, model.output, name=model.name)


def steps_per_execution(config: TrialConfig, model: keras.Model, steps: int) -> int:
    """Returns how many batches one call of the compiled step trains.

    More batches save the cost of calls: about half of a small dense model's epoch on CPU, and next to nothing for a
    convolutional model. With fewer batches, a trial can stop sooner.

    Args:
        config: The trial's config.
        model: Its model.
        steps: Batches per epoch.
    """
    chosen = config.training.steps_per_execution
    if chosen == "auto":
        chosen = 8 if has_convolution(model) else 64
    return min(chosen, max(steps, 1))


def has_convolution(model: keras.Model) -> bool:
    """Returns whether a model has a convolution layer, nested models included."""
    return any("Conv" in type(layer).__name__ for layer in model._flatten_layers())


def batches(rows: int, batch_size: int) -> int:
    """Returns the number of batches per epoch; the last one may be smaller."""
    return math.ceil(rows / batch_size)
