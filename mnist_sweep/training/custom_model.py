"""A keras-tuner user's own `build_model(hp)` or `HyperModel`, trained as it is: the code that runs inside a worker."""

from __future__ import annotations

import importlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner as kt
import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line
from mnist_sweep.config.hypermodel_space import key_of
from mnist_sweep.config.trial_config import HyperModelConfig
from mnist_sweep.data.images import Array
from mnist_sweep.training import model as models

# What Keras calls the share of images that are classified right, in the order in which they are looked for.
_ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy")
_ACCURACY_CLASSES = (keras.metrics.SparseCategoricalAccuracy, keras.metrics.CategoricalAccuracy)


class Given(kt.HyperParameters):  # type: ignore[misc]
    """Hyperparameters whose values are a trial's; which are active, keras-tuner decides as it is asked for them."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        """Takes the values.

        Args:
            values: By key (`hyperparameters.key_of`), those of inactive ones too.
            what: The hypermodel, for the message.
        """
        super().__init__()
        self._given, self._what = values, what

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:  # noqa: FBT
        name = hyperparameter.name
        if name not in self.values and self.is_active(hyperparameter):
            if key_of(name) in self._given:
                self.values[name] = _as(hyperparameter, self._given[key_of(name)])
            else:
                note = f"{self._what}: {name!r} was not met when the space was discovered; it takes its default"
                print(note, file=sys.stderr)
        return super()._register(hyperparameter, overwrite)


def _as(hyperparameter: Any, value: Any) -> Any:
    """A value that came through JSON, to the type that the user's function would get from keras-tuner."""
    if isinstance(hyperparameter, kt.engine.hyperparameters.Float):
        return float(value)
    options = hyperparameter.values if isinstance(hyperparameter, kt.engine.hyperparameters.Choice) else ()
    return next((option for option in options if option == value), value)


def what(name: str) -> str:
    """How messages begin."""
    return f"model.hypermodel={name}"


def load(name: str) -> Any:
    """Imports a hypermodel.

    Args:
        name: `package.module:name`; a function of `hp`, a subclass of `keras_tuner.HyperModel`, or an instance of one.

    Raises:
        UserError: It cannot be imported, or is none of these.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise failed(name, "cannot be imported", error) from error
    if isinstance(found, type) and issubclass(found, kt.HyperModel):
        try:
            found = found()
        except TypeError as error:
            raise UserError(
                f"{what(name)}: cannot be made without arguments ({error}); name an instance of it instead"
            ) from error
    if isinstance(found, kt.HyperModel):
        return found
    if not callable(found):
        kind = type(found).__name__
        raise UserError(f"{what(name)}: is of type {kind}; name a build_model(hp) or a keras_tuner.HyperModel")

    class Function(kt.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> Any:
            return found(hp)

    return Function()


def failed(name: str, doing: str, error: BaseException) -> UserError:
    """What a user's code raised, in a line that says where; the whole traceback goes to the worker's log."""
    traceback.print_exception(error)
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" at {Path(str(file)).name}:{lines[-1]}" if lines else ""
    kind, line = type(error).__name__, first_line(error)
    return UserError(f"{what(name)}: {doing} ({kind}{place}{'' if line == kind else f': {line}'})")


def has_custom_fit(hypermodel: Any) -> bool:
    """Whether a hypermodel trains its models itself."""
    return type(hypermodel).fit is not kt.HyperModel.fit


def call(name: str, hypermodel: Any, hp: Any) -> keras.Model:
    """Builds a model as keras-tuner does.

    Raises:
        UserError: The user's code fails, or returns something else.
    """
    try:
        hypermodel.declare_hyperparameters(hp)
        model = hypermodel.build(hp)
    except Exception as error:
        raise failed(name, "raised", error) from error
    if not isinstance(model, keras.Sequential | keras.src.models.Functional):
        raise UserError(
            f"{what(name)}: returned {type(model).__name__}; return a Sequential or functional keras.Model "
            "(a subclassed one cannot be saved as .h5)"
        )
    return model


@dataclass(frozen=True)
class Built:
    """A model of the user's, and what it takes to train it.

    Attributes:
        name: `package.module:name`.
        hypermodel: What built it.
        hp: With which values.
        model: As the user compiled it.
        image: Height, width and channels of the images.
        shape: Of one of its inputs, to which an image is reshaped.
        one_hot: The number of classes where it wants its labels so, else None.
        accuracy: Keras's name for its accuracy; None where only its own fit knows.
        probabilities: Whether its outputs are; else they are logits, or scores.
    """

    name: str
    hypermodel: Any
    hp: Any
    model: keras.Model
    image: tuple[int, int, int]
    shape: tuple[int, ...]
    one_hot: int | None
    accuracy: str | None
    probabilities: bool

    @property
    def own_fit(self) -> bool:
        """Whether the user's own fit trains it. That goes on from no saved state of its own."""
        return has_custom_fit(self.hypermodel)

    def adapt(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """Images (N, H, W, C) and labels (N,) as the model wants them."""
        labels = labels if self.one_hot is None else keras.ops.one_hot(labels, self.one_hot)
        return keras.ops.reshape(images, (-1, *self.shape)), labels

    def arrays(self, images: Array, labels: Array) -> tuple[Array, Array]:
        """The same as arrays."""
        labels = labels if self.one_hot is None else np.eye(self.one_hot, dtype=np.float32)[labels]
        return images.reshape(-1, *self.shape), labels

    def metrics(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Keras's logs of an epoch under this project's names; what is no number is left out."""
        accuracy = self.accuracy or next((name for name in _ACCURACIES if name in logs), None)
        named: dict[str, float] = {}
        for name, value in logs.items():
            if np.ndim(value) == 0:
                prefix = "val_" if name.startswith("val_") else ""
                rest = name.removeprefix("val_")
                named[prefix + ("accuracy" if rest == accuracy else rest)] = float(value)
        return named

    def whole(self) -> keras.Model:
        """The model from images (N, H, W, C) to probabilities (N, classes), to be saved: it shares the weights.

        What are no probabilities gets a softmax behind it, which leaves their order, and so the accuracy, as it is.
        """
        model = models.plain(self.model)
        if self.shape == self.image and self.probabilities:
            return model
        before = keras.layers.Reshape(self.shape, name="images", dtype="float32")
        behind = keras.layers.Softmax(name="probabilities", dtype="float32")
        layers = model.layers if isinstance(model, keras.Sequential) else [model]
        return keras.Sequential(
            [keras.Input(self.image), before, *layers, *([] if self.probabilities else [behind])], name="whole"
        )

    def execute(self, steps: int, jit_compile: Any) -> None:
        """Sets how Keras runs the training step, where the user's compile leaves that open."""
        chosen = self.model._compile_config.config if self.model._compile_config else {}
        if chosen.get("steps_per_execution") == 1 and not self.model.run_eagerly:
            self.model.steps_per_execution = steps
        if chosen.get("jit_compile") == "auto" and jit_compile != "auto":
            self.model.jit_compile = jit_compile


def build(config: HyperModelConfig, image: tuple[int, int, int], classes: int) -> Built:
    """Builds a trial's model.

    Args:
        config: The hypermodel, and its values by key.
        image: Height, width and channels of the images.
        classes: How many there are.

    Raises:
        UserError: The user's code is at fault, or its model does not fit the images.
    """
    return assemble(config.hypermodel, lambda: Given(config.values, what(config.hypermodel)), image, classes)


def assemble(name: str, values: Callable[[], Any], image: tuple[int, int, int], classes: int) -> Built:
    """Builds a model, and checks that it can be trained on these images.

    Args:
        name: `package.module:name`.
        values: Makes the `keras_tuner.HyperParameters` to build it with.
        image: Height, width and channels of the images.
        classes: How many there are.

    Raises:
        UserError: The user's code is at fault, or its model does not fit the images.
    """
    hypermodel, hp = load(name), values()
    model = call(name, hypermodel, hp)
    if not model.built:
        model, hp = _shaped(name, hypermodel, values, image, classes)
    shape = _input_shape(name, model, image)
    if model.output_shape != (None, classes):
        raise UserError(
            f"{what(name)}: gives outputs of shape {model.output_shape}; for {classes} classes they must be "
            f"(None, {classes})"
        )
    if not model.compiled:
        raise UserError(f"{what(name)}: returned a model that is not compiled; call model.compile(…) before")
    accuracy = _accuracy(model)
    if accuracy is None and not has_custom_fit(hypermodel):
        raise UserError(f"{what(name)}: compiles its model without accuracy; write metrics=['accuracy']")
    try:
        one_hot = classes if _wants_one_hot(model, accuracy) else None
    except ValueError as error:
        raise UserError(f"{what(name)}: is compiled with a loss that Keras does not know ({error})") from error
    images = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
    outputs = np.asarray(model(images, training=False), dtype=np.float64)
    probabilities = bool(np.allclose(outputs.sum(axis=1), 1, atol=1e-2) and outputs.min() >= 0)
    return Built(name, hypermodel, hp, model, image, shape, one_hot, accuracy, probabilities)


def _shaped(
    name: str,
    hypermodel: Any,
    values: Callable[[], Any],
    image: tuple[int, int, int],
    classes: int,
) -> tuple[keras.Model, Any]:
    """Builds a model that leaves its input open, for images in the first shape that gives a score for each class."""
    wrong: tuple[keras.Model, Any] | None = None
    for shape in _shapes(image):
        hp = values()
        model = call(name, hypermodel, hp)
        try:
            model.build((None, *shape))
        except Exception:
            # Layers say in many ways that images of this shape are not theirs.
            continue
        if model.output_shape == (None, classes):
            return model, hp
        wrong = wrong or (model, hp)
    if wrong is None:
        shapes = " nor ".join(map(str, _shapes(image)))
        raise UserError(f"{what(name)}: takes images neither as {shapes}; begin with keras.Input({image})")
    return wrong


def _shapes(image: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The shapes in which people feed an image, the most usual first."""
    height, width, channels = image
    return [image, *([(height, width)] if channels == 1 else []), (height * width * channels,)]


def _input_shape(name: str, model: keras.Model, image: tuple[int, int, int]) -> tuple[int, ...]:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"{what(name)}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; both must be 1"
        )
    wanted = tuple(model.input_shape[1:])
    for shape in _shapes(image):
        if len(shape) == len(wanted) and all(w in (None, s) for w, s in zip(wanted, shape, strict=True)):
            return shape
    height, width, channels = image
    # Of a colour image, channels that come first are another order, not another shape.
    if None in wanted or math.prod(wanted) != math.prod(image) or wanted == (channels, height, width) != image:
        raise UserError(f"{what(name)}: takes inputs of shape {wanted}; images of {height}x{width}x{channels} are none")
    return wanted


def _accuracy(model: keras.Model) -> str | None:
    """The name under which Keras logs a model's accuracy."""
    written = model._compile_metrics._user_metrics if model._compile_metrics else None
    metrics = {_name(metric): metric for metric in keras.tree.flatten(written or [])}
    usual = next((name for name in _ACCURACIES if name in metrics), None)
    return usual or next((name for name, m in metrics.items() if isinstance(m, _ACCURACY_CLASSES)), None)


def _name(metric: Any) -> str:
    return str(metric if isinstance(metric, str) else getattr(metric, "name", None) or getattr(metric, "__name__", ""))


def _wants_one_hot(model: keras.Model, accuracy: str | None) -> bool:
    """Whether a model's loss compares with one-hot labels. A loss that is the user's own gets what the data has."""
    written = next(iter(keras.tree.flatten(model.loss)), None)
    loss = keras.losses.get(written) if isinstance(written, str) else written
    function = getattr(loss, "fn", loss)
    if not getattr(function, "__module__", "").startswith("keras."):
        return accuracy == "categorical_accuracy"
    return "sparse" not in getattr(function, "__name__", type(function).__name__).lower()
