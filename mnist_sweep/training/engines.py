"""Models that are trained again and again: what was traced and compiled for one trial serves the next.

Tracing takes 0.5 to 1.5 s, which is more than all epochs of a small model. Trials of the same architecture and
optimizer differ in numbers only, so those numbers are variables here: weights, learning rate, dropout rates, L2
penalties, batch size, seed.
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
from mnist_sweep.training.backends.epochs import Adapt
from mnist_sweep.training.feed import Feed

if TYPE_CHECKING or keras.backend.backend() != "jax":
    from mnist_sweep.training.backends.tensorflow_program import Program
else:
    from mnist_sweep.training.backends.jax_program import Program

# Engines that are kept, and the bytes of weights and optimizer variables that they may hold together.
_MOST = 16
_MOST_BYTES = 2**28
# What may differ between the layers of models that share an engine.
_NUMBERS = ("rate", "kernel_regularizer")


@dataclass
class Engine:
    """A compiled model with what is needed to train it.

    Attributes:
        model: Compiled in Keras's sense, its optimizer's variables created.
        feed: Images of the `Feeds` that it is trained on.
        adapt: Makes of images and labels what the model takes.
        plain: The model to save, of Keras's own layers, if `model` has others.
    """

    model: keras.Model
    feed: Feed
    adapt: Adapt | None = None
    plain: keras.Model | None = None
    _initial: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._initial = [self._beginning(np.asarray(v)) for v in self.model.optimizer.variables]

    @cached_property
    def program(self) -> Program:
        """Its compiled epoch."""
        return Program(self.model, self.feed, self.adapt)

    @cached_property
    def bytes(self) -> int:
        """What its variables take."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        variables += [] if self.plain is None else self.plain.variables
        return sum(int(np.prod(v.shape)) * 4 for v in variables)

    def begin(self, layers: Sequence[keras.layers.Layer], learning_rate: float | None) -> None:
        """Makes it a trial's own: its weights, rates and penalties become those of a model newly built.

        Args:
            layers: The trial's, from `model.layers`.
            learning_rate: The trial's; None where a schedule tells it.
        """
        assert self.plain is not None
        for own, plain, given in zip(self.model.layers, self.plain.layers, layers, strict=True):
            for name in _NUMBERS:
                if hasattr(given, name):
                    setattr(plain, name, getattr(given, name))
            if isinstance(own, _Dropout):
                own.numbers[0].assign(given.rate)
            penalty: Any = getattr(own, "kernel_regularizer", None)
            if isinstance(penalty, _L2):
                penalty.number.assign(given.kernel_regularizer.l2)
            for weight in own.weights:
                initializer = getattr(given, f"{weight.name}_initializer")
                weight.assign(initializer(weight.shape, dtype=weight.dtype))
        for variable, value in zip(self.model.optimizer.variables, self._initial, strict=True):
            variable.assign(np.broadcast_to(np.asarray(value), variable.shape))
        if learning_rate is not None:
            self.model.optimizer.learning_rate = learning_rate

    def _beginning(self, value: Any) -> Any:
        """An optimizer variable's first value, as one number if it can be; or the weight that it is a copy of."""
        # Those of ScheduleFreeAdamW are: the next trial's begin as that one's weights.
        if value.any():
            for weight in self.model.trainable_variables:
                if tuple(weight.shape) == value.shape and np.array_equal(np.asarray(weight), value):
                    return weight
        return value.flat[0] if value.size and (value == value.flat[0]).all() else value


class Engines:
    """Keeps the engines that were used last."""

    def __init__(self) -> None:
        """Begins with none."""
        self._kept: OrderedDict[str, Engine] = OrderedDict()

    def find(
        self, config: TrialConfig, steps: int, feed: Feed, classes: int, compile_: Callable[[keras.Model], None]
    ) -> Engine:
        """An engine for a trial, made if there is none for its architecture and optimizer.

        Args:
            config: The trial's config; its model is an MLP or a CNN.
            steps: Batches of the whole trial, on which a schedule may depend.
            feed: The images.
            classes: How many classes there are.
            compile_: Compiles a model as the config says.
        """
        key = _key(config, steps)
        layers = models.layers(config, classes)
        engine = self._kept.pop(key, None)
        if engine is None:
            plain = keras.Sequential([keras.Input(feed.image), *layers])
            model = keras.models.clone_model(plain, clone_function=_with_variables)
            compile_(model)
            engine = Engine(model, feed, plain=plain)
        self._kept[key] = engine
        while len(self._kept) > 1 and (
            len(self._kept) > _MOST or sum(kept.bytes for kept in self._kept.values()) > _MOST_BYTES
        ):
            self._kept.popitem(last=False)
        scheduled = config.optimizer is None or config.optimizer.schedule.name is not None
        engine.begin(layers, None if scheduled else config.optimizer.learning_rate)  # type: ignore[union-attr]
        return engine


class _Dropout(keras.layers.Dropout):  # type: ignore[misc]
    """Dropout whose rate may change without compiling anew. It is never saved."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)
        self.numbers = (backends.Number(rate),)

    def call(self, inputs: Any, training: bool = False) -> Any:  # noqa: FBT
        return backends.dropout(inputs, self.numbers[0], self.seed_generator) if training else inputs


class _L2(keras.regularizers.L2):  # type: ignore[misc]
    """An L2 penalty whose factor may change without compiling anew. It is never saved."""

    def __init__(self, l2: float) -> None:
        super().__init__(l2)
        self.number = backends.Number(l2)

    def __call__(self, x: Any) -> Any:
        return self.number.read() * keras.ops.sum(keras.ops.square(x))


def _with_variables(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = layer.get_config()
    if type(layer) is keras.layers.Dropout:
        return _Dropout(config["rate"], name=config["name"], dtype=config["dtype"])
    kind = backends.Conv2D if type(layer) is keras.layers.Conv2D else type(layer)
    copy = kind.from_config(config)
    penalty: Any = getattr(layer, "kernel_regularizer", None)
    if type(penalty) is keras.regularizers.L2:
        copy.kernel_regularizer = _L2(float(penalty.l2))
        # Where a program finds what it has to be given.
        copy.numbers = (copy.kernel_regularizer.number,)
    return copy


def _key(config: TrialConfig, steps: int) -> str:
    """What tells apart trials that cannot share an engine."""
    assert isinstance(config.model, MLP | CNN)
    assert config.optimizer is not None
    optimizer = config.optimizer.model_dump(mode="json")
    if config.optimizer.schedule.name is None:
        del optimizer["learning_rate"], optimizer["schedule"]
    else:
        optimizer["steps"] = steps
    training = config.training
    model = _without_numbers(config.model.model_dump(mode="json"))
    return json.dumps([model, optimizer, training.precision, training.jit_compile], sort_keys=True)


def _without_numbers(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config that tells of dropout rates and penalties only whether they are there."""

    def there(value: Any) -> Any:
        return [bool(v) for v in value] if isinstance(value, list) else bool(value)

    return {
        key: there(value) if key in ("dropout", "l2") else _without_numbers(value) if isinstance(value, dict) else value
        for key, value in model.items()
    }
