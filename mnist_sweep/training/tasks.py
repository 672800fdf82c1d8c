"""What differs between tasks: a model's last layers, the loss, the metrics, and what its predictions mean."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import first_line
from mnist_sweep.config.keras_names import LOSSES, METRICS, plain
from mnist_sweep.config.task import Named, TaskConfig
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.schema import Target
from mnist_sweep.training import user_code

_ACCURACY = ("accuracy", "acc")
Scale = tuple[Array, Array]


def scales(task: TaskConfig) -> bool:
    """Returns whether a task scales its targets."""
    return task.kind == "regression" and task.standardize


def head(task: TaskConfig, target: Target, scale: Scale | None) -> list[keras.layers.Layer]:
    """Creates the last layers of a model, always in float32: a softmax in half precision underflows.

    Args:
        task: The task.
        target: What to predict.
        scale: The mean and standard deviation (K,) of the targets; None to predict them directly.
    """
    if task.kind == "regression":
        units = [keras.layers.Dense(target.size, dtype="float32")]
        if scale is None:
            return units
        mean, deviation = (values.tolist() for values in scale)
        return [*units, keras.layers.Rescaling(deviation, mean, dtype="float32", name="units")]
    if task.kind == "binary":
        return [keras.layers.Dense(1, activation="sigmoid", dtype="float32")]
    activation = "sigmoid" if task.kind == "multilabel" else "softmax"
    return [keras.layers.Dense(target.size, activation=activation, dtype="float32")]


def loss(task: TaskConfig, target: Target, scale: Scale | None) -> Any:
    """Creates the loss that a model is compiled with.

    Args:
        task: The task.
        target: What the model predicts.
        scale: The mean and standard deviation of the targets, by the latter of which errors are divided; None not to.

    Raises:
        UserError: Keras has no such loss, or rejects its arguments; or the user's cannot be imported.
    """
    if task.loss is None and task.kind != "regression":
        return task.defaults.loss
    named = task.loss or Named(name="mse")
    assert isinstance(named, Named)
    made = _made(named, "task.loss", keras.losses, keras.losses.Loss)
    if not isinstance(made, keras.losses.Loss):
        made = _FunctionLoss(made)
    if task.kind == "classification" and _wants_one_hot(named):
        return _OneHotLoss(made, target.size)
    return made if scale is None else _ScaledLoss(made, scale[1])


def mixed(targets: Any, weights: Any, shares: Any) -> Any:
    """Returns the targets of rows that were mixed with the row before each, the first with the last.

    Args:
        targets: (N,) or (N, K).
        weights: How much each row counts, (N,); None if all count alike.
        shares: How much of each row is its own, (N,), in 0..1.

    Returns:
        (N, 2 K + 2), float32: its own targets, those of the other row, and the weights of both, for models that are
        compiled with `of_mixed`.
    """
    ops = keras.ops
    columns = ops.cast(targets if len(targets.shape) == 2 else ops.expand_dims(targets, 1), "float32")
    counts = ops.ones_like(shares) if weights is None else ops.cast(weights, "float32")
    both = [shares * counts, (1.0 - shares) * ops.roll(counts, 1, axis=0)]
    return ops.concatenate([columns, ops.roll(columns, 1, axis=0), ops.stack(both, axis=1)], axis=1)


def of_mixed(task: TaskConfig, target: Target, loss: Any, metrics: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Returns a loss and metrics that also take the targets of `mixed`.

    The loss is the mean of the losses of both rows' targets. The metrics compare with the target that counts more.

    Args:
        task: The task.
        target: What the model predicts.
        loss: From `loss`.
        metrics: From `metrics`.
    """
    columns = None if task.kind == "classification" else 1 if task.kind == "binary" else target.size
    inner = keras.losses.get(loss) if isinstance(loss, str) else loss
    inner = inner if isinstance(inner, keras.losses.Loss) else _FunctionLoss(inner)
    return _MixedLoss(inner, columns), [_MixedMetric(one, columns) for one in _instances(metrics, task, target)]


def metrics(task: TaskConfig, target: Target) -> list[Any]:
    """Creates the metrics that a model is compiled with, besides its loss.

    Args:
        task: The task.
        target: What the model predicts.

    Raises:
        UserError: Keras has no such metric, or rejects its arguments; or the user's cannot be imported.
    """
    if task.metrics is None and task.kind == "classification":
        return list(task.defaults.metrics or ())
    named = [Named(name=name) for name in task.defaults.metrics or ()] if task.metrics is None else task.metrics
    assert isinstance(named, list)
    return [_metric(one, task, target) for one in named]


def _instances(metrics: Sequence[Any], task: TaskConfig, target: Target) -> list[keras.metrics.Metric]:
    """Returns metrics, of which some may be names, as objects."""
    return [_metric(Named(name=one), task, target) if isinstance(one, str) else one for one in metrics]


def _metric(named: Named, task: TaskConfig, target: Target) -> keras.metrics.Metric:
    if named.name in _ACCURACY:
        kind = (
            keras.metrics.SparseCategoricalAccuracy if task.kind == "classification" else keras.metrics.BinaryAccuracy
        )
        return kind(name=named.logged, **named.arguments)
    extra: dict[str, Any] = {"name": named.logged}
    if plain(named.name) == "auc" and task.kind == "multilabel":
        extra["multi_label"] = True
    if plain(named.name) in ("f1score", "fbetascore"):
        # One value for all classes, which has a curve; of a single column, Keras would take the largest of one value.
        extra |= {"average": "macro"} | ({} if task.kind == "classification" else {"threshold": 0.5})
    made = _made(named, "task.metrics", keras.metrics, keras.metrics.Metric, extra)
    if not isinstance(made, keras.metrics.Metric):
        made = keras.metrics.MeanMetricWrapper(made, name=named.logged)
    made.name = named.logged
    return _OneHotMetric(made, target.size) if task.kind == "classification" and _wants_one_hot(named) else made


def metrics_of(task: TaskConfig, target: Target, truth: Array, predicted: Array) -> dict[str, float]:
    """Returns the loss and the metrics of a model's predictions, as `test_…`.

    Args:
        task: The task.
        target: What the model predicts.
        truth: (N,) or (N, K), the targets.
        predicted: (N, K), float32.
    """
    if task.kind == "classification" and task.loss is None and task.metrics is None:
        losses = keras.losses.sparse_categorical_crossentropy(truth, predicted)
        return {
            "test_loss": float(np.mean(losses)),
            "test_accuracy": float((predicted.argmax(axis=1) == truth).mean()),
        }
    scale = None
    if scales(task):
        columns = truth.reshape(len(truth), -1)
        scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-12)
    compute = loss(task, target, scale)
    compute = keras.losses.get(compute) if isinstance(compute, str) else compute
    given = as_column(task, truth)
    found = {"test_loss": float(np.mean(np.asarray(compute(given, predicted))))}
    for metric in _instances(metrics(task, target), task, target):
        metric.update_state(given, predicted)
        value = np.asarray(metric.result())
        if value.ndim == 0:
            found[f"test_{metric.name}"] = float(value)
    return found


def as_column(task: TaskConfig, targets: Any) -> Any:
    """Returns targets as losses and metrics expect them: one column (N, 1), float32, if there is only one number."""
    if task.kind in ("binary", "regression") and len(targets.shape) == 1:
        return keras.ops.reshape(keras.ops.cast(targets, "float32"), (-1, 1))
    return targets


def classes_of(predicted: Array) -> Array:
    """Returns the predicted class of each row: (N,), int64.

    Args:
        predicted: (N, classes) probabilities, or (N, 1) that of the second class.
    """
    if predicted.shape[1] == 1:
        return (predicted[:, 0] >= 0.5).astype(np.int64)
    classes: Array = predicted.argmax(axis=1)
    return classes


def _wants_one_hot(named: Named) -> bool:
    """Returns whether one of Keras's losses or metrics takes classes as one-hot rows instead of numbers."""
    return ":" not in named.name and not plain(named.name).startswith("sparse")


def _made(named: Named, key: str, module: Any, base: type, extra: Mapping[str, Any] | None = None) -> Any:
    """Creates a loss or a metric by its name: an instance, or a function of true and predicted values."""
    given = f"{key}={named.name}"
    if ":" in named.name:
        path, _, attribute = named.name.partition(":")
        found = getattr(user_code.load(given, path), attribute, None)
        if found is None:
            raise UserError(f"{given}: {path} has no {attribute}")
    else:
        wanted = plain(named.name)
        known = {plain(name): value for name, value in vars(module).items() if _is_kind(value, base)}
        found = known.get(wanted)
        if found is None:
            what, names = ("metric", METRICS) if module is keras.metrics else ("loss", LOSSES)
            raise UserError(f"{given}: Keras has no such {what}{did_you_mean(named.name, names)}")
    try:
        if isinstance(found, type):
            parameters = inspect.signature(found).parameters
            usual = {name: value for name, value in (extra or {}).items() if name in parameters}
            return found(**{**usual, **named.arguments})
        return functools.partial(found, **named.arguments) if named.arguments and callable(found) else found
    except (TypeError, ValueError) as error:
        raise UserError(f"{given}: rejects its arguments ({first_line(error)})") from error


def _is_kind(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base


class _FunctionLoss(keras.losses.Loss):  # type: ignore[misc]
    """A user's function of true and predicted values."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(y_true, y_pred)


class _ScaledLoss(keras.losses.Loss):  # type: ignore[misc]
    """A loss of values that are divided by their standard deviation, so that it does not depend on their unit."""

    def __init__(self, inner: keras.losses.Loss, deviation: Array) -> None:
        super().__init__(name=inner.name, reduction=inner.reduction)
        self._inner, self._deviation = inner, np.asarray(deviation, np.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._inner.call(keras.ops.cast(y_true, "float32") / self._deviation, y_pred / self._deviation)


class _OneHotLoss(keras.losses.Loss):  # type: ignore[misc]
    """A loss of one-hot rows, for classes that are numbers."""

    def __init__(self, inner: keras.losses.Loss, classes: int) -> None:
        super().__init__(name=inner.name, reduction=inner.reduction)
        self._inner, self._classes = inner, classes

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._inner.call(keras.ops.one_hot(_classes(y_true, y_pred), self._classes), y_pred)


class _MixedLoss(keras.losses.Loss):  # type: ignore[misc]
    """A loss of the targets of `mixed`, and of others. `columns` is None for classes, which are numbers (N,)."""

    def __init__(self, inner: keras.losses.Loss, columns: int | None) -> None:
        super().__init__(name=inner.name, reduction=inner.reduction)
        self._inner, self._columns = inner, columns

    def call(self, y_true: Any, y_pred: Any) -> Any:
        parts = _parts(y_true, self._columns)
        if parts is None:
            return self._inner.call(y_true, y_pred)
        own, other, counts = parts
        return counts[:, 0] * self._inner.call(own, y_pred) + counts[:, 1] * self._inner.call(other, y_pred)


class _AdaptedMetric(keras.metrics.Metric):  # type: ignore[misc]
    """Another metric, of targets that `update_state` of a subclass converts."""

    def __init__(self, inner: keras.metrics.Metric) -> None:
        super().__init__(name=inner.name)
        self.inner = inner

    def result(self) -> Any:
        return self.inner.result()

    def reset_state(self) -> None:
        self.inner.reset_state()


class _MixedMetric(_AdaptedMetric):
    """A metric of the targets of `mixed`, and of others."""

    def __init__(self, inner: keras.metrics.Metric, columns: int | None) -> None:
        super().__init__(inner)
        self._columns = columns

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        parts = _parts(y_true, self._columns)
        if parts is not None:
            own, other, counts = parts
            first = counts[:, 0] >= counts[:, 1]
            y_true = keras.ops.where(first if self._columns is None else first[:, None], own, other)
        self.inner.update_state(y_true, y_pred, sample_weight)


def _parts(targets: Any, columns: int | None) -> tuple[Any, Any, Any] | None:
    """Returns the own and the other targets of mixed rows, and the weights of both (N, 2); None if none are mixed."""
    width = columns or 1
    if len(targets.shape) != 2 or targets.shape[1] != 2 * width + 2:
        return None
    own, other, counts = targets[:, :width], targets[:, width : 2 * width], targets[:, 2 * width :]
    return (own, other, counts) if columns else (own[:, 0], other[:, 0], counts)


class _OneHotMetric(_AdaptedMetric):
    """A metric of one-hot rows, for classes that are numbers."""

    def __init__(self, inner: keras.metrics.Metric, classes: int) -> None:
        super().__init__(inner)
        self._classes = classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.inner.update_state(keras.ops.one_hot(_classes(y_true, y_pred), self._classes), y_pred, sample_weight)


def _classes(targets: Any, predicted: Any) -> Any:
    """Returns classes without an axis of one value, (N, …), as there are predictions (N, …, classes)."""
    return keras.ops.reshape(keras.ops.cast(targets, "int32"), keras.ops.shape(predicted)[:-1])
