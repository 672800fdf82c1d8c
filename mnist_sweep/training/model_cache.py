"""Compiled models that later trials reuse.

Tracing takes 0.5 to 1.5 s, more than all epochs of a small model. Trials with the same architecture and optimizer
differ only in numbers. So these numbers are variables here: weights, learning rate, dropout rates, L2 penalties, batch
size and seed.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mnist_sweep.config.trial_config import CNN, MLP, TrialConfig
from mnist_sweep.training import backends
from mnist_sweep.training import model as models
from mnist_sweep.training.augment import Augmentation, shape_of
from mnist_sweep.training.backends.epochs import Adapt
from mnist_sweep.training.splits import Split
from mnist_sweep.training.tasks import Scale

if TYPE_CHECKING or keras.backend.backend() != "jax":
    from mnist_sweep.training.backends.tensorflow_program import Program
else:
    from mnist_sweep.training.backends.jax_program import Program

# How many models are kept, and how many bytes their weights and optimizer variables may take together.
_MOST = 16
_MOST_BYTES = 2**28
# The attributes in which layers may differ between trials that share a model.
_PENALTIES = ("kernel_regularizer", "depthwise_regularizer", "pointwise_regularizer")
_NUMBERS = ("rate", *_PENALTIES)
# Layers that train faster than Keras's.
_OURS = {keras.layers.Conv2D: backends.Conv2D, keras.layers.MaxPooling2D: backends.MaxPooling2D}


@dataclass
class CompiledModel:
    """A compiled model with what is needed to train it.

    Attributes:
        model: Compiled in Keras's sense, with its optimizer's variables created.
        split: Rows from the `Splits` that it is trained on.
        adapt: Converts batches to what the model expects.
        standard: The same model of Keras's own layers, to be saved; None if `model` itself can be saved.
        layers: The layers of `standard`, in the order of `model.each`.
        augmentation: Changes the batches to train on.
        functional: A model of the same weights that can be saved; None if that is `standard` or `model`.
    """

    model: keras.Model
    split: Split
    adapt: Adapt | None = None
    standard: keras.Model | None = None
    layers: Sequence[keras.layers.Layer] = ()
    augmentation: Augmentation | None = None
    functional: keras.Model | None = None
    _initial: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._initial = [self._initial_value(np.asarray(v)) for v in self.model.optimizer.variables]

    @cached_property
    def program(self) -> Program:
        """The compiled epochs."""
        return Program(self.model, self.split, self.adapt, self.augmentation)

    @cached_property
    def bytes(self) -> int:
        """The memory that the variables take."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        variables += [] if self.standard is None else self.standard.variables
        return sum(int(np.prod(v.shape)) * 4 for v in variables)

    def reset(self, layers: Sequence[keras.layers.Layer], learning_rate: float | None) -> None:
        """Prepares the model for a trial: sets weights, rates and penalties to those of a newly built model.

        Args:
            layers: The trial's layers, from `model.each`.
            learning_rate: The trial's learning rate; None if a schedule determines it.
        """
        for standard, new in zip(self.layers, layers, strict=True):
            layer = self.model.get_layer(standard.name)
            for name in _NUMBERS:
                if hasattr(new, name):
                    setattr(standard, name, getattr(new, name))
            if isinstance(layer, _Dropout):
                layer.numbers[0].assign(new.rate)
            for name in _PENALTIES:
                penalty: Any = getattr(layer, name, None)
                if isinstance(penalty, _L2):
                    penalty.number.assign(getattr(new, name).l2)
            for weight in layer.weights:
                weight.assign(_initializer(new, weight.name)(weight.shape, dtype=weight.dtype))
        for variable, value in zip(self.model.optimizer.variables, self._initial, strict=True):
            variable.assign(np.broadcast_to(np.asarray(value), variable.shape))
        if learning_rate is not None:
            self.model.optimizer.learning_rate = learning_rate

    def _initial_value(self, value: Any) -> Any:
        """Returns an optimizer variable's initial value, as one number if possible, or the weight that it copies."""
        # ScheduleFreeAdamW copies weights: in the next trial it must copy that trial's initial weights.
        if value.any():
            for weight in self.model.trainable_variables:
                if tuple(weight.shape) == value.shape and np.array_equal(np.asarray(weight), value):
                    return weight
        return value.flat[0] if value.size and (value == value.flat[0]).all() else value


class ModelCache:
    """Keeps the most recently used models."""

    def __init__(self) -> None:
        """Creates an empty cache."""
        self._kept: OrderedDict[str, CompiledModel] = OrderedDict()

    def get(
        self,
        config: TrialConfig,
        steps: int,
        split: Split,
        scale: Scale | None,
        compile_: Callable[[keras.Model], None],
    ) -> CompiledModel:
        """Returns a model for a trial; builds one if there is none of its architecture and optimizer.

        Args:
            config: The trial's config; its model is an MLP or a CNN.
            steps: Batches of the entire trial, which a learning rate schedule may depend on.
            split: The rows.
            scale: The mean and standard deviation of the targets; None if the task does not scale them.
            compile_: Compiles a model according to the config.
        """
        # What depends on the training rows is part of the model or of its program.
        depends = scale is not None or split.class_weights is not None or split.encoding is not None
        key = f"{_key(config, steps)}{split.name if depends else ''}"
        stack = models.layers(config, split.schema, scale)
        layers = models.each(stack)
        compiled = self._kept.pop(key, None)
        if compiled is None:
            standard = models.connected(split.schema, stack)
            model = keras.models.clone_model(standard, clone_function=_with_variables)
            compile_(model)
            augmentation = Augmentation.of(config.augment)
            compiled = CompiledModel(model, split, standard=standard, layers=layers, augmentation=augmentation)
        self._kept[key] = compiled
        while len(self._kept) > 1 and (
            len(self._kept) > _MOST or sum(kept.bytes for kept in self._kept.values()) > _MOST_BYTES
        ):
            self._kept.popitem(last=False)
        if compiled.augmentation is not None:
            compiled.augmentation.set(config.augment)
        scheduled = config.optimizer is None or config.optimizer.schedule.name is not None
        compiled.reset(layers, None if scheduled else config.optimizer.learning_rate)  # type: ignore[union-attr]
        return compiled


class _Dropout(keras.layers.Dropout):  # type: ignore[misc]
    """Dropout whose rate can change without recompiling. It is never saved."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)
        self.numbers = (backends.Number(rate),)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return backends.dropout(inputs, self.numbers[0], self.seed_generator) if training else inputs


class _L2(keras.regularizers.L2):  # type: ignore[misc]
    """An L2 penalty whose factor can change without recompiling. It is never saved."""

    def __init__(self, l2: float) -> None:
        super().__init__(l2)
        self.number = backends.Number(l2)

    def __call__(self, x: Any) -> Any:
        return self.number.read() * keras.ops.sum(keras.ops.square(x))


def _with_variables(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = layer.get_config()
    if type(layer) is keras.layers.Dropout:
        return _Dropout(config["rate"], name=config["name"], dtype=config["dtype"])
    copy = _OURS.get(type(layer), type(layer)).from_config(config)
    numbers = []
    for name in _PENALTIES:
        penalty: Any = getattr(layer, name, None)
        if type(penalty) is keras.regularizers.L2:
            changeable = _L2(float(penalty.l2))
            setattr(copy, name, changeable)
            numbers.append(changeable.number)
    if numbers:
        # The JAX program looks for a model's numbers here.
        copy.numbers = tuple(numbers)
    return copy


def _initializer(layer: keras.layers.Layer, weight: str) -> Callable[..., Any]:
    """Returns what initializes a weight of a layer, such as `kernel` or `depthwise_kernel`."""
    names = (f"{weight}_initializer", f"{weight.removesuffix('_kernel')}_initializer")
    found: Callable[..., Any] = next(getattr(layer, name) for name in names if hasattr(layer, name))
    return found


def _key(config: TrialConfig, steps: int) -> str:
    """Returns a key that trials share if they can share a model."""
    assert isinstance(config.model, MLP | CNN)
    assert config.optimizer is not None
    optimizer = config.optimizer.model_dump(mode="json")
    if config.optimizer.schedule.name is None:
        del optimizer["learning_rate"], optimizer["schedule"]
    else:
        optimizer["steps"] = steps
    training = config.training
    model = _without_numbers(config.model.model_dump(mode="json"))
    task = config.task.model_dump(mode="json")
    parts = [model, optimizer, task, shape_of(config.augment), training.precision, training.jit_compile]
    return json.dumps(parts, sort_keys=True)


def _without_numbers(model: dict[str, Any]) -> dict[str, Any]:
    """Returns a model's config in which dropout rates and penalties are only true or false."""

    def present(value: Any) -> Any:
        return [bool(v) for v in value] if isinstance(value, list) else bool(value)

    return {
        key: present(value)
        if key in ("dropout", "l2")
        else _without_numbers(value)
        if isinstance(value, dict)
        else value
        for key, value in model.items()
    }
