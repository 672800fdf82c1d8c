"""A data set's rows in memory, split into those to train on and those to validate on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from mnist_sweep.config.task import TaskConfig
from mnist_sweep.data import dataset as data
from mnist_sweep.data.dataset import Array, Dataset
from mnist_sweep.data.schema import ONLY, Schema
from mnist_sweep.training import backends, encoding, tasks
from mnist_sweep.training.encoding import Encoding

# Tensors of the backend: the inputs by name, the targets, and the weights of the rows or None.
Tensors = tuple[Mapping[str, Any], Any, Any]
# What Keras's `fit` gets for each batch: the inputs (a tensor if there is only one), the targets and, if rows count
# differently, their weights.
Batch = tuple[Any, ...]
# How many encoded copies of a table are kept: the folds of a cross-validation, and other sizes of vocabularies.
_MOST_ENCODED = 10


@dataclass(frozen=True)
class Split:
    """Which rows to train on and which to validate on.

    Attributes:
        schema: The inputs and the target.
        inputs: The inputs by name, each (N, …); tensors of the backend.
        targets: (N,) or (N, K); a tensor.
        weights: (N,), float32; None if all rows count alike.
        training: The indices of the rows to train on.
        validation: The indices of the rows to validate on; may be empty.
        name: Tells the splits of a data set apart.
        class_weights: (N,), float32, the weights in training; None for `weights`.
        encoding: How the inputs were made from those of a table; None for other data.
        given: The inputs of a table before they were encoded.
    """

    schema: Schema
    inputs: Mapping[str, Any]
    targets: Any
    weights: Any
    training: Array
    validation: Array
    name: str = ""
    class_weights: Any = None
    encoding: Encoding | None = None
    given: Mapping[str, Array] = field(default_factory=dict)

    def for_task(self, task: TaskConfig) -> Split:
        """Returns the split with targets as the task's loss expects them, and with its weights of classes."""
        split = replace(self, targets=tasks.as_column(task, self.targets))
        if task.class_weight is None:
            return split
        assert self.schema.target.kind == "classes"
        labels = np.asarray(self.targets).reshape(-1).astype(np.int64)
        counts = np.bincount(labels[self.training], minlength=self.schema.target.size)
        of_class = class_weights(task, self.schema, counts)
        weights = of_class[labels] * (1 if self.weights is None else np.asarray(self.weights))
        name = f"{self.name} {of_class.tolist()}"
        return replace(split, class_weights=backends.to_device([weights.astype(np.float32)]), name=name)

    def tensors(self, *, train: bool) -> Tensors:
        """Returns the tensors from which batches are made, for training or for validation."""
        weighted = train and self.class_weights is not None
        return self.inputs, self.targets, self.class_weights if weighted else self.weights

    @property
    def example(self) -> Any:
        """The inputs of one row, as models get them: (1, …), float32; by name if there are several."""
        inputs = select(self.tensors(train=False), np.zeros(1, np.int32))[0]
        return keras.tree.map_structure(np.asarray, inputs)

    @property
    def given_example(self) -> Any:
        """The inputs of one row, as saved models get them; those of a table are not encoded."""
        return self.example if self.encoding is None else {name: array[:1] for name, array in self.given.items()}

    @property
    def target_scale(self) -> tuple[Array, Array]:
        """The mean and the standard deviation of the training rows' targets, each (K,), float32."""
        targets = np.asarray(backends.gather(self.targets, self.training), np.float64).reshape(len(self.training), -1)
        deviation = targets.std(axis=0)
        return targets.mean(axis=0).astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)

    def shuffled(self, seed: int, epoch: int) -> Any:
        """Returns the indices of the training rows in an epoch's order, int32.

        Args:
            seed: The trial's seed.
            epoch: The epoch, counted from 0.
        """
        return backends.shuffle(self.training, seed, epoch)

    def batch(self, order: Any, i: Any, batch_size: Any, *, train: bool) -> Batch:
        """Returns one batch.

        Args:
            order: Indices of rows.
            i: The number of the batch, counted from 0.
            batch_size: Rows per batch; the last batch may have fewer.
            train: Whether it is for training.
        """
        return select(self.tensors(train=train), order[i * batch_size : (i + 1) * batch_size])

    def arrays(self, indices: Array, *, train: bool) -> Batch:
        """Returns some rows as arrays, for a `fit` that draws its own batches."""
        batch: Batch = keras.tree.map_structure(np.asarray, select(self.tensors(train=train), indices))
        return batch

    def sample(self, count: int) -> Mapping[str, Array]:
        """Returns the inputs of the first validation rows, or training rows if there are none, not encoded."""
        indices = (self.validation if len(self.validation) else self.training)[:count]
        if self.encoding is not None:
            return {name: array[indices] for name, array in self.given.items()}
        return {name: np.asarray(backends.gather(tensor, indices)) for name, tensor in self.inputs.items()}


class Splits:
    """Holds a data set's training and validation rows together, so that any part of them can be held out."""

    def __init__(self, dataset: Dataset) -> None:
        """Reads the training and validation rows into memory, but not the test rows."""
        self._schema, self._seed, self._groups = dataset.schema, dataset.seed, dataset.groups
        self._training, both = len(dataset.train), (dataset.train, dataset.validation)
        self._is_table = bool(dataset.schema.columns)
        # A table is encoded when the model is known.
        joined = np.concatenate if self._is_table else backends.to_device
        self._inputs = {name: joined([rows.inputs[name] for rows in both]) for name in dataset.schema.inputs}
        self._encoded: OrderedDict[str, tuple[Encoding, Mapping[str, Any]]] = OrderedDict()
        self._targets = backends.to_device([rows.targets for rows in both])
        self._weights = None
        if any(rows.weights is not None for rows in both):
            self._weights = backends.to_device([_weights(rows) for rows in both])

    def holdout(self) -> Split:
        """Returns the split with the data set's own validation rows."""
        indices = np.arange(len(self._targets))
        return self._split(indices[: self._training], indices[self._training :], "")

    def fold(self, fold: int, folds: int) -> Split:
        """Returns a split of cross-validation: one fold of all rows is held out.

        Args:
            fold: The fold to validate on, counted from 1.
            folds: How many folds there are. They are the same for all trials of a sweep.

        Raises:
            UserError: There are more folds than rows.
        """
        classes = np.asarray(self._targets) if self._schema.target.kind == "classes" else None
        of = data.folds(classes, len(self._targets), folds, self._seed, self._groups)
        return self._split(np.flatnonzero(of != fold), np.flatnonzero(of == fold), f"{fold}/{folds}")

    def for_model(self, split: Split, model: Any) -> Split:
        """Returns a split whose rows are encoded for a model, if they are those of a table.

        Args:
            split: One of these splits.
            model: The trial's model, whose groups `text` and `categories` say how.
        """
        if not self._is_table:
            return split
        options = encoding.options(model)
        key = f"{split.name} {options}"
        kept = self._encoded.pop(key, None)
        if kept is None:
            found = Encoding.fit(self._schema, self._inputs, split.training, *options)
            kept = found, {name: backends.to_device([x]) for name, x in found.encode(self._inputs).items()}
        # Programs keep the rows that they were compiled with, so one that is compiled later must get the same.
        self._encoded[key] = kept
        if len(self._encoded) > _MOST_ENCODED:
            self._encoded.popitem(last=False)
        found, inputs = kept
        return replace(split, schema=found.schema, inputs=inputs, encoding=found, given=self._inputs)

    def _split(self, training: Array, validation: Array, name: str) -> Split:
        return Split(self._schema, self._inputs, self._targets, self._weights, training, validation, name)


def select(tensors: Tensors, indices: Any) -> Batch:
    """Returns some rows as a batch: pixels as float32 in 0..1, and the rest as it is."""
    inputs, targets, weights = tensors
    x = inputs_as_given({name: as_float(backends.gather(tensor, indices)) for name, tensor in inputs.items()})
    y = backends.gather(targets, indices)
    return (x, y) if weights is None else (x, y, backends.gather(weights, indices))


def as_float(tensor: Any) -> Any:
    """Returns pixels as float32 in 0..1; anything else unchanged."""
    # Pixels stay bytes until a batch needs them: a quarter of the memory to read.
    return keras.ops.cast(tensor, "float32") / 255.0 if tensor.dtype == "uint8" else tensor


def inputs_as_given(inputs: Mapping[str, Any]) -> Any:
    """Returns inputs as models get them: the only one itself, or several by name."""
    return inputs[ONLY] if ONLY in inputs else dict(inputs)


def _weights(rows: data.Rows) -> Array:
    return np.ones(len(rows), np.float32) if rows.weights is None else rows.weights


def class_weights(task: TaskConfig, schema: Schema, counts: Array) -> Array:
    """Returns the weight of each class: (classes,), float32.

    `balanced` is scikit-learn's: N / (classes × rows of the class).

    Args:
        task: The task, which has `class_weight`.
        schema: The classes.
        counts: (classes,), the training rows of each class; not used if the weights are given.
    """
    size = schema.target.size
    if task.class_weight == "balanced":
        balanced: Array = (counts.sum() / (size * np.maximum(counts, 1))).astype(np.float32)
        return balanced
    assert task.class_weight is not None
    return np.array([task.class_weight.get(schema.target.name(i), 1.0) for i in range(size)], np.float32)
