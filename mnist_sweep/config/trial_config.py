"""The typed config of one trial, with checks that name the key and the value.

A trial's config is what training needs and nothing else: the model, the optimizer and the training options, without
sweeps (`space.py` has the search space).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from mnist_sweep.common.errors import ImpossibleError, UserError, did_you_mean
from mnist_sweep.common.text import counted
from mnist_sweep.config import keras_names
from mnist_sweep.config.augment import NONE as NO_AUGMENTATION
from mnist_sweep.config.augment import AugmentConfig
from mnist_sweep.config.backend import DEFAULT as DEFAULT_BACKEND
from mnist_sweep.config.checks import Strict, as_written, check
from mnist_sweep.config.task import CLASSIFICATION, Named, TaskConfig, named

T = TypeVar("T")

# TensorFlow's limit for sizes.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# Fields that are one value for all layers or a list with one per layer; `layers` next to them is the number of layers.
LAYERED = ("units", "filters", "kernel_size", "activation", "dropout", "batch_normalization", "l2")


def at_layer(value: T | list[T], layer: int) -> T:
    """Returns the value of a field for one layer.

    Args:
        value: One value for all layers, or a list with one per layer.
        layer: The layer, counted from 0.
    """
    return value[layer] if isinstance(value, list) else value


class Layers(Strict):
    """The fields of both convolution and dense layers; each is one value, or a list with one per layer."""

    activation: str | list[str]
    dropout: Rate | list[Rate]
    batch_normalization: bool | list[bool]
    l2: NonNegative | list[NonNegative]

    @field_validator("activation")
    @classmethod
    def _known_activation(cls, value: str | list[str]) -> str | list[str]:
        for layer, name in enumerate([value] if isinstance(value, str) else value, start=1):
            if name not in keras_names.ACTIVATIONS:
                message = f"Keras has no activation {name!r}{did_you_mean(name, keras_names.ACTIVATIONS)}"
                raise ValueError(message if isinstance(value, str) else f".{layer}={name}: {message}")
        return value

    @model_validator(mode="after")
    def _a_value_for_every_layer(self) -> Layers:
        layers: int = getattr(self, "layers")  # noqa: B009 - declared by the subclasses, with their own bounds
        for name in LAYERED:
            value = getattr(self, name, None)
            if isinstance(value, list) and len(value) < layers:
                raise ValueError(f".{name}={value}: has {len(value)} of {layers} values; give one for each layer")
        return self


class Dense(Layers):
    """A stack of dense layers."""

    layers: Annotated[int, Field(ge=0, le=100)]
    units: Count | list[Count]


class Text(Strict):
    """How the words of a table's texts become numbers."""

    vocabulary: Annotated[int, Field(ge=3, le=2**31 - 1)]
    length: Count
    embedding: Count
    pooling: Literal["average", "convolution"]


class Categories(Strict):
    """How the categories of a table become numbers."""

    one_hot: Annotated[int, Field(ge=0, le=2**31 - 1)]
    embedding: Count


class MLP(Dense):
    """`model=mlp`: dense layers on the flattened image, or on the columns of a table."""

    kind: Literal["mlp"]
    builder: None
    # A default for old sweeps, which lack this key; the same below.
    hypermodel: None = None
    # Only `data=table` brings them.
    text: Text | None = None
    categories: Categories | None = None


class Pooling(Strict):
    """Pooling after convolution layers."""

    kind: Literal["max", "average"] | None
    size: Count
    after: Literal["all", "last"] | list[Count]
    over_all: Annotated[Literal["max", "average"] | None, Field(alias="global")] = None

    def follows(self, layer: int, layers: int) -> bool:
        """Returns whether a convolution layer is followed by a pooling layer.

        Args:
            layer: The convolution layer, counted from 0.
            layers: The number of convolution layers.
        """
        if self.kind is None:
            return False
        if isinstance(self.after, list):
            return layer + 1 in self.after
        return self.after == "all" or layer + 1 == layers


class CNN(Layers):
    """`model=cnn`: convolution layers, then a dense head."""

    kind: Literal["cnn"]
    builder: None
    hypermodel: None = None
    # Not used: `data=table` brings them, whose rows are not images.
    text: Text | None = None
    categories: Categories | None = None
    # Defaults for old sweeps, which lack these keys; the same in `Pooling`.
    convolution: Literal["standard", "separable"] = "standard"
    residual: bool = False
    layers: Annotated[int, Field(ge=1, le=100)]
    filters: Count | list[Count]
    kernel_size: Count | list[Count]
    padding: Literal["valid", "same"]
    pooling: Pooling
    dense: Dense

    @model_validator(mode="after")
    def _shortcuts_fit(self) -> CNN:
        if self.residual and self.padding == "valid":
            raise ValueError(".residual=true: adds images of one size; set model.padding=same")
        return self


def without_suffix(name: str) -> str:
    """Returns how to write the name of something in a file, such as `folder/own.py:build`; "" if it is not a file."""
    found = re.fullmatch(r"(?:\./)?([\w/]+)\.py:(\w+)", name)
    return f"; write {found[1].replace('/', '.')}:{found[2]}" if found else ""


def in_module(what: str) -> AfterValidator:
    """Returns the check of a text that must be `package.module:name`."""

    def check(value: str) -> str:
        module, colon, name = value.partition(":")
        if module.endswith(".py") or not (
            colon and name.isidentifier() and all(p.isidentifier() for p in module.split("."))
        ):
            raise ValueError(f"must be package.module:{what}{without_suffix(value)}")
        return value

    return AfterValidator(check)


class CustomModel(BaseModel):
    """`model.builder=package.module:function`: the function gets all other keys, which are not checked."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    builder: Annotated[str, in_module("function")]
    hypermodel: None = None


class HyperModelConfig(Strict):
    """`model.hypermodel=package.module:name`: a user's `build_model(hp)` or `HyperModel` of keras-tuner.

    It compiles its own optimizer, so the trial's optimizer is None.
    """

    hypermodel: Annotated[str, in_module("name of a build_model(hp) or a keras_tuner.HyperModel")]
    values: dict[str, Any]


def made_by(model: Mapping[str, Any]) -> str | None:
    """Returns the user's `package.module:name` that builds a model; None for a model of this package.

    Args:
        model: The group `model` of a checked config.
    """
    name: str | None = model.get("builder") or model.get("hypermodel")
    return name


def _model_tag(raw: Any) -> str:
    fields = raw if isinstance(raw, Mapping) else getattr(raw, "__dict__", {})
    if fields.get("hypermodel") is not None:
        return "hypermodel"
    return "custom" if fields.get("builder") is not None else str(fields.get("kind"))


Model = Annotated[
    Annotated[MLP, Tag("mlp")]
    | Annotated[CNN, Tag("cnn")]
    | Annotated[CustomModel, Tag("custom")]
    | Annotated[HyperModelConfig, Tag("hypermodel")],
    Discriminator(_model_tag),
]


class Schedule(Strict):
    """A Keras learning-rate schedule, which starts from the optimizer's learning rate."""

    name: str | None
    arguments: dict[str, Any]

    @field_validator("name")
    @classmethod
    def _known_schedule(cls, value: str | None) -> str | None:
        if value is not None and value not in keras_names.SCHEDULES:
            known = did_you_mean(value, keras_names.SCHEDULES)
            raise ValueError(f"Keras has no learning-rate schedule {value!r}{known}")
        return value

    @model_validator(mode="after")
    def _known_arguments(self) -> Schedule:
        if self.name is None:
            if self.arguments:
                raise ValueError(f".arguments.{min(self.arguments)}: needs a schedule; set optimizer.schedule.name")
            return self
        required, optional = keras_names.SCHEDULES[self.name]
        for key in self.arguments:
            if key not in required | optional:
                raise ValueError(
                    f".arguments.{key}: {self.name} has no such argument{did_you_mean(key, required | optional)}"
                )
        missing = required - keras_names.SCHEDULE_STEPS - set(self.arguments)
        if missing:
            raise ValueError(f".arguments.{min(missing)}: {self.name} requires this argument")
        return self


class Optimizer(Strict):
    """A Keras optimizer."""

    name: str
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    schedule: Schedule
    arguments: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _keras_default_learning_rate(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and isinstance(raw.get("name"), str):
            name = raw["name"].lower()
            rate = raw.get("learning_rate")
            rate = keras_names.default_learning_rate(name) if rate is None else rate
            return {**raw, "name": name, "learning_rate": rate}
        return raw

    @field_validator("name")
    @classmethod
    def _known_optimizer(cls, value: str) -> str:
        if value not in keras_names.OPTIMIZERS:
            raise ValueError(f"Keras has no such optimizer{did_you_mean(value, keras_names.OPTIMIZERS)}")
        return value

    @model_validator(mode="after")
    def _known_arguments(self) -> Optimizer:
        known = keras_names.OPTIMIZERS[self.name]
        for key in self.arguments:
            if key not in known:
                raise ValueError(f".arguments.{key}: {self.name} has no such argument{did_you_mean(key, known)}")
        if self.arguments.get("use_ema") and not self.arguments.get("ema_overwrite_frequency"):
            # Keras copies them to the model after the last epoch, when the weights of the best one are already saved.
            raise ValueError(
                ".arguments.use_ema=true: the averaged weights would never be used; set ema_overwrite_frequency, the "
                "number of batches after which they replace the model's weights, such as 100"
            )
        return self


class EarlyStopping(Strict):
    """Stops a trial whose objective no longer improves."""

    patience: Count | None
    min_delta: NonNegative


class Callback(Named):
    """A callback: Keras's name or the user's `package.module:name`, with arguments next to it."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        why = keras_names.OTHER_CALLBACKS.get(value)
        if why is not None:
            raise ValueError(f"is of no use here: {why}")
        if ":" not in value and value not in keras_names.CALLBACKS:
            known = [*keras_names.CALLBACKS, *keras_names.OTHER_CALLBACKS]
            raise ValueError(
                f"Keras has no such callback{did_you_mean(value, known)}; write your own as package.module:name"
            )
        return value

    @model_validator(mode="after")
    def _known_arguments(self) -> Callback:
        known = keras_names.CALLBACKS.get(self.name, set(self.arguments))
        for key in self.arguments:
            if key not in known:
                raise ValueError(f".{key}: {self.name} has no such argument{did_you_mean(key, known)}")
        return self


class Training(Strict):
    """How one model is trained."""

    # A default for old sweeps, which lack this key. `auto` until a sweep starts.
    backend: Literal["auto", "tensorflow", "jax"] = DEFAULT_BACKEND
    batch_size: Count
    epochs: Count
    early_stopping: EarlyStopping
    # A default for old sweeps, which lack this key.
    callbacks: Annotated[list[Annotated[Callback, BeforeValidator(named)]], Field(default_factory=list)]
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    steps_per_execution: Count | Literal["auto"]
    validation_batch_size: Count
    jit_compile: bool | Literal["auto"]
    seed: Annotated[int, Field(ge=0, lt=2**31)]


class TrialConfig(Strict):
    """Everything that training one model needs besides the data.

    Attributes:
        model: The model to train.
        optimizer: Its optimizer; None if a hypermodel has its own.
        training: How to train it.
        task: What to train it for.
        augment: How to change the training images.
    """

    model: Model
    optimizer: Optimizer | None
    training: Training
    # Defaults for old sweeps, which lack these keys.
    task: TaskConfig = CLASSIFICATION
    augment: AugmentConfig = NO_AUGMENTATION


def check_trial(raw: Mapping[str, Any]) -> TrialConfig:
    """Checks one trial's config.

    Args:
        raw: The groups of `TRIAL_GROUPS`, without sweeps.

    Returns:
        The typed config; `optimizer.learning_rate: null` is replaced by Keras's default.

    Raises:
        UserError: A key is unknown or missing, or a value has the wrong type or is out of range.
        ImpossibleError: Each value is allowed, but not together with another one.
    """
    model = raw.get("model", {})
    if not isinstance(model, Mapping):
        raise UserError(f"model={as_written(model)}: must be a group of keys")
    custom = model.get("builder") is not None or model.get("hypermodel") is not None
    if "model" in raw and not custom and model.get("kind") not in ("mlp", "cnn"):
        raise UserError(f"model.kind={as_written(model.get('kind'))}: must be mlp or cnn; use model=mlp or model=cnn")
    if "optimizer" in raw and raw["optimizer"] is None and model.get("hypermodel") is None:
        raise UserError("optimizer=null: must be a group of keys")
    return check(TrialConfig, raw)


def check_shape(config: TrialConfig, image: Sequence[int] | None) -> None:
    """Checks that a trial can use its images, which stay at least as large as the window of each layer.

    Args:
        config: One trial's config.
        image: Height, width and channels of the images; None if the data are not images.

    Raises:
        ImpossibleError: A layer would get an image smaller than its window, or no image; or there is no image to
            change.
    """
    model, steps = config.model, config.augment.steps
    if image is None and steps:
        name, value = next(iter(steps.items()))
        raise ImpossibleError(
            f"augment.{name}={as_written(value)}: changes images only; use augment=none for these data"
        )
    if image is not None and "rand_augment" in steps and image[2] not in (1, 3):
        raise ImpossibleError(
            f"augment.rand_augment={config.augment.rand_augment}: changes grey and colour images only; these have "
            f"{image[2]} channels"
        )
    if not isinstance(model, CNN):
        return
    if image is None:
        raise ImpossibleError("model.kind=cnn: needs images; use model=mlp for these data")
    size = min(image[0], image[1])
    for layer in range(model.layers):
        kernel = at_layer(model.kernel_size, layer)
        if model.padding == "valid":
            if kernel > size:
                raise ImpossibleError(
                    f"model.kernel_size={kernel}: convolution layer {layer + 1} gets images of only "
                    f"{counted(size, 'pixel')}; use fewer model.layers, less model.pooling or model.padding=same"
                )
            size = size - kernel + 1
        if model.pooling.follows(layer, model.layers):
            if model.pooling.size > size:
                raise ImpossibleError(
                    f"model.pooling.size={model.pooling.size}: the pooling after convolution layer {layer + 1} gets "
                    f"images of only {counted(size, 'pixel')}; use fewer model.layers or model.pooling.after=last"
                )
            size //= model.pooling.size
