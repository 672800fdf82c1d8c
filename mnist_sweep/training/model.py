"""Builds Keras models and optimizers from a trial's config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line
from mnist_sweep.config import keras_names
from mnist_sweep.config.task import TaskConfig
from mnist_sweep.config.trial_config import CNN, MLP, CustomModel, Dense, Layers, Optimizer, TrialConfig, at_layer
from mnist_sweep.data.schema import ONLY, Schema, Target
from mnist_sweep.training import read_keys, tasks, user_code
from mnist_sweep.training.tasks import Scale

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
        return _custom(model, config.task, schema)
    return keras.Sequential([keras.Input(input_shape(schema)), *layers(config, schema.target, scale)])


def input_shape(schema: Schema) -> Any:
    """Returns the shape of the only input without the number of rows; of several, the shapes by name."""
    shapes = {name: tuple(one.shape) for name, one in schema.inputs.items()}
    return shapes.get(ONLY, shapes)


def inputs_like(model: keras.Model, make: Callable[[tuple[int, ...]], Any]) -> Any:
    """Returns inputs that a model takes, each made from its shape without the number of rows."""
    made = [make(tuple(size or 1 for size in one.shape[1:])) for one in model.inputs]
    return made[0] if len(made) == 1 else made


def layers(config: TrialConfig, target: Target, scale: Scale | None) -> list[keras.layers.Layer]:
    """Creates the layers of a trial's model without building them, which takes a fraction of `build`'s time.

    Args:
        config: The trial's config; its model is an MLP or a CNN.
        target: What to predict.
        scale: The mean and standard deviation of the targets; None if the task does not scale them.
    """
    model = config.model
    assert isinstance(model, MLP | CNN)
    convolutions = _convolutions(model) if isinstance(model, CNN) else []
    hidden = _dense(model if isinstance(model, MLP) else model.dense)
    return [*convolutions, keras.layers.Flatten(), *hidden, *tasks.head(config.task, target, scale)]


def _convolutions(model: CNN) -> list[keras.layers.Layer]:
    pools = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}
    layers: list[keras.layers.Layer] = []
    for i in range(model.layers):
        convolution: dict[str, Any] = {
            "filters": at_layer(model.filters, i),
            "kernel_size": at_layer(model.kernel_size, i),
            "padding": model.padding,
        }
        layers += _activated(keras.layers.Conv2D, convolution, model, i)
        if model.pooling.kind is not None and model.pooling.follows(i, model.layers):
            layers.append(pools[model.pooling.kind](model.pooling.size))
        layers += _dropout(model, i)
    return layers


def _dense(stack: Dense) -> list[keras.layers.Layer]:
    layers: list[keras.layers.Layer] = []
    for i in range(stack.layers):
        layers += _activated(keras.layers.Dense, {"units": at_layer(stack.units, i)}, stack, i)
        layers += _dropout(stack, i)
    return layers


def _activated(kind: type[keras.layers.Layer], args: dict[str, Any], stack: Layers, i: int) -> list[keras.layers.Layer]:
    activation, l2 = at_layer(stack.activation, i), at_layer(stack.l2, i)
    penalty = keras.regularizers.L2(l2) if l2 else None
    if not at_layer(stack.batch_normalization, i):
        return [kind(**args, activation=activation, kernel_regularizer=penalty)]
    return [
        kind(**args, kernel_regularizer=penalty),
        keras.layers.BatchNormalization(),
        keras.layers.Activation(activation),
    ]


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
        raise UserError(f"{setting}: {module} has no function {function}")
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
    shape, size = input_shape(schema), schema.target.size
    return read_keys.unread(lambda config: builder(config, shape, size), list(map(_given, configs)))


def _given(model: CustomModel) -> dict[str, Any]:
    return model.model_dump(exclude={"builder", "hypermodel"})


def _custom(model: CustomModel, task: TaskConfig, schema: Schema) -> keras.Model:
    setting = f"model.builder={model.builder}"
    builder = load_builder(model)
    try:
        built = builder(_given(model), input_shape(schema), schema.target.size)
    except Exception as error:
        raise user_code.code_error(setting, model.builder.partition(":")[0], "raised", error) from error
    if not isinstance(built, keras.Sequential | keras.src.models.Functional):
        raise UserError(
            f"{setting}: returned {type(built).__name__}; return a Sequential or functional "
            "keras.Model (a subclassed one cannot be saved as .h5)"
        )
    expected = (None, 1 if task.kind == "binary" else schema.target.size)
    if tuple(built.output_shape) != expected:
        what = "numbers" if task.kind == "regression" else "probabilities"
        raise UserError(
            f"{setting}: returned a model with outputs of shape {built.output_shape}; they must be {what}, {expected}"
        )
    if task.kind == "classification":
        _check_probabilities(setting, built)
    return built


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
