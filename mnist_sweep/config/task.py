"""What a model is trained for: its task, with the loss, the metrics and the objective that fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config import keras_names
from mnist_sweep.config.checks import Strict
from mnist_sweep.config.objective import AUTO, direction_of

Kind = Literal["classification", "binary", "multilabel", "regression", "custom"]


@dataclass(frozen=True)
class Defaults:
    """What fits a task.

    Attributes:
        loss: Keras's loss.
        metrics: The metrics that are logged, by Keras's names.
        objective: What a sweep optimizes.
        target: The kind of target that it needs, as in `schema.Target`; None if any will do.
        about: What its models predict, for messages.
    """

    loss: str | None
    metrics: tuple[str, ...] | None
    objective: str
    target: Literal["classes", "labels", "numbers"] | None
    about: str


TASKS: dict[Kind, Defaults] = {
    "classification": Defaults(
        "sparse_categorical_crossentropy", ("accuracy",), "val_accuracy max", "classes", "one of several classes"
    ),
    "binary": Defaults("binary_crossentropy", ("accuracy", "auc"), "val_accuracy max", "classes", "one of two classes"),
    "multilabel": Defaults("binary_crossentropy", ("accuracy", "auc"), "val_auc max", "labels", "any number of labels"),
    "regression": Defaults("mse", ("mae", "r2"), "val_mae min", "numbers", "numbers"),
    # The loss and the metrics that the user's model was compiled with, or those that fit each of its outputs.
    "custom": Defaults(None, None, "val_loss min", None, "anything"),
}

# Keras's losses and metrics of probabilities, without underscores, by how their names begin.
_OF_PROBABILITIES = (
    *(
        "accuracy",
        "acc",
        "binary",
        "categorical",
        "sparse",
        "topk",
        "auc",
        "precision",
        "recall",
        "f1",
        "fbeta",
        "true",
    ),
    *("false", "sensitivity", "specificity", "iou", "meaniou", "onehot", "kldivergence", "dice", "tversky"),
)
# Those of numbers whose ratio or variance matters.
_OF_NUMBERS = ("r2score", "meanabsolutepercentageerror", "meansquaredlogarithmicerror")
# Those of one probability for each class, and of one probability alone.
_OF_CLASSES, _OF_ONE = ("categorical", "sparse", "topk", "onehotmeaniou", "onehotiou"), "binary"


def misfit(name: str, kind: Kind) -> str:
    """Returns why one of Keras's losses or metrics does not fit a task; "" if it does, or is the user's own.

    Args:
        name: As the config has it.
        kind: The task.
    """
    known = keras_names.plain(name)
    if ":" in name or kind == "custom":
        return ""
    if kind == "regression":
        of = "compares classes, but task=regression predicts numbers" if known.startswith(_OF_PROBABILITIES) else ""
        return of and f"{of}; write {_USUAL[kind]}"
    if known in _OF_NUMBERS:
        return f"compares numbers, but task={kind} predicts {TASKS[kind].about}; write {_USUAL[kind]}"
    if kind == "classification" and known.startswith(_OF_ONE):
        return f"is for one probability, but task={kind} has one for each class; write {_USUAL[kind]}"
    if kind != "classification" and known.startswith(_OF_CLASSES):
        return f"is for a probability of each class, but task={kind} predicts {TASKS[kind].about}; write {_USUAL[kind]}"
    return ""


# What to write instead.
_USUAL: dict[Kind, str] = {
    "classification": "accuracy, auc, f1_score or sparse_categorical_crossentropy",
    "binary": "accuracy, auc, f1_score or binary_crossentropy",
    "multilabel": "accuracy, auc, f1_score or binary_crossentropy",
    "regression": "mae, rmse, r2, mse or huber",
}


def named(value: Any) -> Any:
    """Returns a name without arguments as a config of its kind."""
    return {"name": value} if isinstance(value, str) else value


class Named(BaseModel):
    """A loss or a metric: Keras's name or the user's `package.module:name`, with arguments next to it.

    `huber`, or `{name: huber, delta: 2.0}`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def logged(self) -> str:
        """The name under which a metric is logged."""
        return _logged(self.name)


_Named = Annotated[Named, BeforeValidator(named)]


def _is_one(value: Any) -> bool:
    """Returns whether a loss is written for the only output, not for each output by name."""
    return value is None or isinstance(value, str | Named) or (isinstance(value, Mapping) and "name" in value)


def _loss_tag(value: Any) -> str:
    return "one" if _is_one(value) else "each"


def _metrics_tag(value: Any) -> str:
    return "each" if isinstance(value, Mapping) else "one"


def _flat(value: Any) -> list[Named]:
    """Returns all losses or metrics of a config's value: one, a list, or those of each output by name."""
    if isinstance(value, Mapping):
        return [one for inner in value.values() for one in _flat(inner)]
    return value if isinstance(value, list) else [] if value is None else [value]


_Loss = Annotated[
    Annotated[_Named | None, Tag("one")] | Annotated[dict[str, _Named], Tag("each")], Discriminator(_loss_tag)
]
_Metrics = Annotated[
    Annotated[list[_Named] | None, Tag("one")] | Annotated[dict[str, list[_Named]], Tag("each")],
    Discriminator(_metrics_tag),
]


class TaskConfig(Strict):
    """What a trial's model is trained for.

    Attributes:
        kind: The task; `auto` until the data are known.
        loss: None for the task's own; with several outputs, that of each by name.
        metrics: None for the task's own; with several outputs, those of each by name.
        loss_weights: How much each output's loss counts, by name, if there are several; None if all count alike.
        class_weight: How much each class counts in training: `balanced`, so that all classes count alike, or a number
            for each class by its name or number. None: all rows count alike.
        standardize: Whether the loss of a regression is computed on targets that are scaled to a mean of 0 and a
            standard deviation of 1. Predictions and other metrics are in the targets' own units.
    """

    kind: Literal["auto"] | Kind
    loss: _Loss
    metrics: _Metrics
    # A default for old sweeps, which lack this key.
    loss_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None
    standardize: bool

    @property
    def defaults(self) -> Defaults:
        """What fits the task; for `auto`, what fits classification."""
        return TASKS["classification" if self.kind == "auto" else self.kind]

    @model_validator(mode="after")
    def _fits(self) -> TaskConfig:
        for key, what, value, known in (
            ("loss", "loss", self.loss, keras_names.LOSSES),
            ("metrics", "metric", self.metrics, keras_names.METRICS),
        ):
            for one in _flat(value):
                if ":" not in one.name and keras_names.plain(one.name) not in map(keras_names.plain, known):
                    like = did_you_mean(one.name, [*known, *keras_names.SHORT])
                    raise ValueError(f".{key}={one.name}: Keras has no such {what}{like}")
                if self.kind != "auto" and (why := misfit(one.name, self.kind)):
                    raise ValueError(f".{key}={one.name}: {why}")
        return self

    @model_validator(mode="after")
    def _one_output(self) -> TaskConfig:
        of_each = {"loss": self.loss, "metrics": self.metrics, "loss_weights": self.loss_weights}
        for key, value in of_each.items():
            if isinstance(value, Mapping) and self.kind not in ("auto", "custom"):
                raise ValueError(
                    f".{key}.{next(iter(value), '')}: names an output of your own model; write task=custom"
                )
        return self


def check_target(task: TaskConfig, kind: str, size: int) -> None:
    """Checks that a task fits what the data have to predict.

    Args:
        task: The task.
        kind: The kind of target: `classes`, `labels` or `numbers`.
        size: The number of classes, labels or numbers.

    Raises:
        UserError: It does not.
    """
    if task.kind == AUTO:
        return
    if task.defaults.target is None:
        return
    if task.defaults.target != kind:
        fitting = [name for name, defaults in TASKS.items() if defaults.target == kind] or ["custom"]
        raise UserError(
            f"task={task.kind}: predicts {task.defaults.about}, but the targets are {_TARGETS[kind]}; "
            f"write task={' or task='.join(fitting)}"
        )
    if task.kind == "binary" and size != 2:
        raise UserError(f"task=binary: there are {size} classes, not two; write task=classification")


_TARGETS = {
    "classes": "classes",
    "labels": "several labels",
    "numbers": "numbers",
    "array": "arrays",
    "several": "those of several outputs",
}

# Sweeps of versions without tasks.
CLASSIFICATION = TaskConfig(kind="classification", loss=None, metrics=None, class_weight=None, standardize=True)


def kind_of(task: Any) -> Literal["auto"] | Kind:
    """Returns the kind of task that a config names; that of old sweeps, which have none, is classification."""
    kind = task.get("kind", "classification") if isinstance(task, Mapping) else "classification"
    return next((known for known in TASKS if known == kind), "auto")


def target_of(task: Any) -> Literal["classes", "labels", "numbers"] | None:
    """Returns the kind of target that a config's task needs; None for `auto`, as the data tell it."""
    kind = kind_of(task)
    return None if kind == "auto" else TASKS[kind].target


def objective_of(written: str | list[str], task: Any) -> str | list[str]:
    """Returns a config's objective.

    For `auto`, it is the usual one of its task, or of classification if that is unknown. If that is not logged, it is
    the first of `task.metrics` whose better direction is known, or the loss.
    """
    if written != AUTO:
        return written
    kind, metrics = kind_of(task), logged_metrics(task)
    usual = TASKS["classification" if kind == "auto" else kind].objective
    if metrics is None or usual.split()[0].removeprefix("val_") in [*metrics, "loss"]:
        return usual
    known = ((name, direction_of(name)) for name in metrics)
    return next((f"val_{name} {direction}" for name, direction in known if direction), "val_loss min")


def logged_metrics(task: Any) -> Sequence[str] | None:
    """Returns the metrics that a config's models log, without the loss; None if they are not known yet.

    Args:
        task: The group `task` of a config, which may contain sweeps.
    """
    kind = kind_of(task)
    metrics = task.get("metrics") if isinstance(task, Mapping) else None
    if kind == "custom":
        # What the user's model logs is known when it is built.
        return None
    if metrics is None:
        # As long as the task is not known, those of all tasks.
        of_all = [name for defaults in TASKS.values() for name in defaults.metrics or ()]
        return list(dict.fromkeys(of_all)) if kind == "auto" else TASKS[kind].metrics
    if not isinstance(metrics, list):
        return None
    names = [str(one.get("name", "")) if isinstance(one, Mapping) else str(one) for one in metrics]
    return [_logged(name) for name in names]


def _logged(name: str) -> str:
    return re.sub(r"\W", "_", name.rpartition(":")[2])
