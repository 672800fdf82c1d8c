"""A user's model with one or several outputs: which targets belong to each, and which losses and metrics fit them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config.task import Kind, Named, TaskConfig
from mnist_sweep.data.schema import ONLY, Target
from mnist_sweep.training import saved, tasks
from mnist_sweep.training.splits import Batch


@dataclass(frozen=True)
class Output:
    """One output.

    Attributes:
        target: What it predicts.
        shape: The shape of its values for one row.
        one_hot: Whether its loss takes classes as one-hot rows.
    """

    target: Target
    shape: tuple[int | None, ...]
    one_hot: bool = False

    @property
    def classes(self) -> int:
        """How many classes its last axis has a value for; 0 if it has none."""
        of_places = len(self.shape) == len(self.target.row_shape) + 1 and (self.shape[-1] or 0) > 1
        whole = self.target.kind in ("classes", "array") and self.target.size > 0
        return int(self.shape[-1] or 0) if of_places and whole else 0

    @property
    def fits(self) -> bool:
        """Whether its values are for the places of its target, so that losses of Keras's can compare them."""
        rows = self.target.row_shape
        return bool(self.classes) or self.shape in (rows, (*rows, 1)) or None in self.shape

    @property
    def task(self) -> Kind:
        """The task whose losses and metrics fit it."""
        if self.classes:
            return "classification"
        if self.target.kind in ("classes", "array") and self.target.size == 2:
            return "binary"
        return "multilabel" if self.target.kind == "labels" else "regression"

    def adapt(self, values: Any) -> Any:
        """Converts targets (N, …) to what losses and metrics expect."""
        if self.one_hot and self.classes:
            return keras.ops.one_hot(keras.ops.cast(values, "int32"), self.classes)
        if self.classes:
            return keras.ops.cast(values, "int32")
        values = keras.ops.cast(values, "float32")
        return keras.ops.expand_dims(values, -1) if len(self.shape) == len(values.shape) else values

    def weights(self, weights: Any) -> Any:
        """Converts weights of rows (N,) so that they apply to each place of a row's loss."""
        places = len(self.shape) - 1
        return keras.ops.reshape(weights, (-1, *[1] * places)) if places else weights


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model.

    Attributes:
        by_name: Each output by its name, in the order of the data; the only one is called `x`.
        structure: The names in the structure in which the model returns its outputs: a dict, a list or a single name.
    """

    by_name: Mapping[str, Output]
    structure: Any

    @classmethod
    def of(cls, setting: str, model: keras.Model, target: Target) -> Outputs:
        """Matches the outputs of a functional model with what the data have to predict.

        Args:
            setting: The config key and its value, with which messages start.
            model: The model.
            target: What to predict.

        Raises:
            UserError: They don't match.
        """
        given = model.output if saved.has_several_outputs(model) else model.outputs[0]
        parts = target.parts or {ONLY: target}
        if isinstance(given, Mapping):
            structure: Any = {name: name for name in given}
        elif isinstance(given, list | tuple):
            structure = list(model.output_names) if len(given) > 1 or target.parts else [next(iter(parts))]
        else:
            structure = next(iter(parts)) if len(parts) == 1 else ONLY
        names, tensors = keras.tree.flatten(structure), keras.tree.flatten(given)
        if len(names) != len(tensors):
            raise UserError(f"{setting}: returns nested outputs; return a dict with a tensor for each name")
        if len(names) == len(parts) == 1 and ONLY in parts:
            structure = keras.tree.pack_sequence_as(structure, [ONLY])
            if isinstance(structure, Mapping):
                # The key is the model's own.
                structure = {name: name for name in given}
                parts = dict.fromkeys(given, target)
            names = keras.tree.flatten(structure)
        if set(names) != set(parts):
            has = ", ".join(names) if len(names) > 1 else "one output"
            wants = ", ".join(f"y_train_{name}" for name in parts) if ONLY not in parts else "y_train only"
            raise UserError(
                f"{setting}: its model has {has}, but the data have {wants}; return a dict with the names of the data, "
                "or give its output layers these names"
            )
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in zip(names, tensors, strict=True)}
        found = {name: Output(part, shapes[name]) for name, part in parts.items()}
        for name, output in found.items():
            _check_shape(setting, name, output)
        return cls(found, structure)

    def adapt(self, x: Any, y: Any, *weights: Any) -> Batch:
        """Returns a batch with targets, and perhaps weights, in the structure of the outputs.

        Args:
            x: The inputs.
            y: The targets, (N, …); of several outputs, their values one after another, (N, K).
            weights: How much each row counts, (N,); nothing if all count alike.
        """
        return x, self.targets(y), *map(self._weights, weights)

    def targets(self, y: Any) -> Any:
        """Returns targets as `adapt` does."""
        values = dict(self._split(y))
        adapted = {name: output.adapt(values[name]) for name, output in self.by_name.items()}
        return keras.tree.map_structure(lambda name: adapted[name], self.structure)

    def with_one_hot(self, loss: Any) -> Outputs:
        """Returns the outputs with targets as a loss of Keras's takes them.

        Args:
            loss: What the model was compiled with: one, or a list or a dict of them.
        """
        names = list(self.by_name)
        of_each = (
            loss
            if isinstance(loss, Mapping)
            else dict(zip(keras.tree.flatten(self.structure), loss, strict=False))
            if isinstance(loss, list | tuple)
            else dict.fromkeys(names, loss)
        )
        return replace(
            self,
            by_name={name: replace(one, one_hot=_is_one_hot(of_each.get(name))) for name, one in self.by_name.items()},
        )

    def compiled_with(self, task: TaskConfig) -> dict[str, Any]:
        """Returns the loss, the metrics and the weights of the losses for `compile`.

        Raises:
            UserError: The config names an output that there is not, or a loss or metric that cannot be made.
        """
        self._check_names(task)
        losses, metrics = dict[str, Any](), dict[str, Any]()
        for name, output in self.by_name.items():
            loss = task.loss.get(name) if isinstance(task.loss, Mapping) else task.loss
            wanted = task.metrics.get(name) if isinstance(task.metrics, Mapping) else task.metrics
            if loss is None and not output.fits:
                key = "task.loss" if name == ONLY else f"task.loss.{name}"
                raise UserError(
                    f"{key}=null: no usual loss compares an output of shape {(None, *output.shape)} with targets of "
                    f"shape {(None, *output.target.row_shape)}; name one, or compile the model with your own"
                )
            if wanted is None:
                usual = "mae" if output.task == "regression" else "accuracy"
                wanted = [Named(name=usual)] if output.fits else []
            of_output = TaskConfig(kind=output.task, loss=loss, metrics=wanted, class_weight=None, standardize=False)
            target = Target("classes", output.classes) if output.classes else Target("numbers", output.shape[-1] or 1)
            losses[name] = tasks.loss(of_output, target, None)
            metrics[name] = tasks.metrics(of_output, target)
        if isinstance(self.structure, str):
            return {"loss": losses[self.structure], "metrics": metrics[self.structure]}
        in_order = keras.tree.map_structure(lambda name: metrics[name], self.structure)
        found = {"loss": keras.tree.map_structure(lambda name: losses[name], self.structure), "metrics": in_order}
        if task.loss_weights is not None:
            weights = task.loss_weights
            found["loss_weights"] = keras.tree.map_structure(lambda name: float(weights.get(name, 1)), self.structure)
        return found

    def _check_names(self, task: TaskConfig) -> None:
        for key in ("loss", "metrics", "loss_weights"):
            given = getattr(task, key)
            for name in given if isinstance(given, Mapping) else ():
                if name not in self.by_name or self.by_name.keys() == {ONLY}:
                    raise UserError(f"task.{key}.{name}: there is no such output{did_you_mean(name, self.by_name)}")

    def _split(self, y: Any) -> Iterator[tuple[str, Any]]:
        if len(self.by_name) == 1 and next(iter(self.by_name.values())).target.row_shape == tuple(y.shape[1:]):
            yield next(iter(self.by_name)), y
            return
        at = 0
        for name, output in self.by_name.items():
            width = math.prod(output.target.row_shape)
            yield name, keras.ops.reshape(y[:, at : at + width], (-1, *output.target.row_shape))
            at += width

    def _weights(self, weights: Any) -> Any:
        return keras.tree.map_structure(lambda name: self.by_name[name].weights(weights), self.structure)


def _check_shape(setting: str, name: str, output: Output) -> None:
    """Checks an output against its target, as far as that is possible without knowing the loss."""
    target, shape = output.target, output.shape
    if output.classes and target.size > output.classes and target.kind in ("classes", "array"):
        which = "" if name == ONLY else f" {name}"
        raise UserError(
            f"{setting}: its output{which} has {output.classes} values for each place, but there are {target.size} "
            "classes"
        )
    rows = target.row_shape
    # A loss of the user's own may compare numbers with anything.
    if not output.fits and target.kind not in ("numbers", "array"):
        which = "" if name == ONLY else f" {name}"
        raise UserError(
            f"{setting}: its output{which} has shape {(None, *shape)}, but its targets have {(None, *rows)} "
            f"({target.about})"
        )


def _is_one_hot(loss: Any) -> bool:
    """Returns whether one of Keras's losses takes classes as one-hot rows."""
    try:
        found = keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return False
    function = getattr(found, "fn", found)
    name = getattr(function, "__name__", type(function).__name__).lower()
    return getattr(function, "__module__", "").startswith("keras.") and name.startswith(
        ("categorical", "dice", "tversky")
    )
