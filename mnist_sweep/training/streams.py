"""Trains and validates on a stream (`data=loader`), through Keras's own `fit` and `evaluate`."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError, machine_fault
from mnist_sweep.config.task import TaskConfig
from mnist_sweep.data import loader_function, returned
from mnist_sweep.data import stream as streams
from mnist_sweep.data.dataset import Array, PartName
from mnist_sweep.data.schema import ONLY, Schema
from mnist_sweep.data.stream import Source, Stream
from mnist_sweep.training import diagnostics, saved, tasks, user_code
from mnist_sweep.training.backends.epochs import scalars
from mnist_sweep.training.splits import Batch, class_weights, inputs_as_given

# Converts a batch to what a user's own model expects; the first one takes tensors, the second one arrays.
Adapts = tuple[Callable[..., Batch], Callable[..., Batch]]


class StreamEpochs:
    """The epochs of one trial on a stream; the counterpart of a compiled `Epochs`."""

    def __init__(
        self,
        model: keras.Model,
        stream: Stream,
        schema: Schema,
        task: TaskConfig,
        seed: int,
        batch_size: int,
        adapts: Adapts | None = None,
    ) -> None:
        """Calls the user's function.

        Args:
            model: The compiled model.
            stream: What is known about the stream.
            schema: Its inputs and its target.
            task: What the model is trained for.
            seed: The trial's seed.
            batch_size: Rows per batch, if the stream does not decide that.
            adapts: Convert batches to what the model expects.

        Raises:
            UserError: The function fails, or returns something other than before the sweep.
        """
        self._model, self._stream, self._seed = model, stream, seed
        self._batch_size = batch_size
        loader_function.seed(seed)
        self._parts = made(stream, batch_size)
        self._adapter = _Adapter(stream, schema, task, adapts)
        # Classes have weights in training only.
        self._plain = _Adapter(stream, schema, task.model_copy(update={"class_weight": None}), adapts)
        # For epochs that do not end with the stream.
        self._repeated = self._repeats()
        self._tensors, self._validation = (self._dataset(part) for part in ("train", "val"))

    def skip(self, epochs: int) -> None:
        """Brings the stream to where it is after some epochs, as far as that needs no reading."""
        train = self._parts["train"]
        for epoch in range(epochs if self._stream.steps_per_epoch is None else 0):
            if train.kind == "tf.data":
                # Draws how it is shuffled.
                iter(train.given if self._tensors is None else self._tensors)
            elif train.kind == "PyDataset":
                with self._user_epoch(epoch):
                    pass

    def train(self, epoch: int, on_loss: Callable[[float], bool]) -> dict[str, float]:
        """Trains one epoch.

        Args:
            epoch: The epoch, counted from 0.
            on_loss: Called with the mean loss so far; returns whether to continue.

        Returns:
            Keras's training metrics of the epoch, or of the part of it that was trained.

        Raises:
            UserError: The stream fails, or is empty.
        """
        ahead = _Ahead()
        watch = _Watch(on_loss, ahead)
        with self._adapter.blamed(), _quiet(), self._user_epoch(epoch):
            given, steps = self._epoch(epoch, ahead)
            shuffle = isinstance(given, _Adapted)
            self._model.fit(given, epochs=1, steps_per_epoch=steps, shuffle=shuffle, verbose=0, callbacks=[watch])
        if not watch.logs:
            raise UserError(f"{self._parts['train'].where} is empty in epoch {epoch + 1}")
        return watch.logs

    def validated(self) -> dict[str, float]:
        """Validates the model; returns Keras's metrics with names that start with `val_`.

        Raises:
            UserError: The stream fails.
        """
        return {f"val_{name}": value for name, value in self.validate("val").items()}

    def validate(self, part: PartName) -> dict[str, float]:
        """Returns Keras's metrics on a part, without weights of classes.

        Raises:
            UserError: The stream fails.
        """
        source = self._parts[part]
        with self._plain.blamed(), _quiet():
            tensors = self._validation if part == "val" else self._dataset(part)
            given: Any = _Adapted(source, self._plain) if _has_workers(source) else tensors
            given = self._plain.batches(source, self._batch_size) if given is None else given
            logs = self._model.evaluate(given, verbose=0, return_dict=True)
        return {name: float(value) for name, value in scalars(logs).items()}

    def _epoch(self, epoch: int, ahead: _Ahead) -> tuple[Any, int | None]:
        """Returns what Keras's `fit` takes for an epoch, and the number of its batches if Keras must be told.

        Where it does not know the number, Keras tries to train a batch more, which counts as one for the optimizer.
        """
        source, steps = self._parts["train"], self._stream.steps_per_epoch
        if steps is not None:
            # Keras takes a generator, but no other iterator.
            return (batch for batch in itertools.islice(self._repeated, steps)), steps
        if self._tensors is not None and (count := self._count()) is not None:
            return self._tensors, count
        if _has_workers(source):
            return _Adapted(source, self._adapter), None
        order = None
        if source.kind == "PyDataset" and source.given.num_batches is not None:
            # As Keras's `fit` does.
            drawn = np.random.SeedSequence([self._seed, epoch], spawn_key=(3,))
            order = np.random.default_rng(drawn).permutation(source.given.num_batches)
        return ahead.through(self._adapter.batches(source, self._batch_size, order)), None

    def _count(self) -> int | None:
        """Returns the number of batches of a `tf.data.Dataset`; None if it is not known."""
        given: Any = self._parts["train"].given
        found = int((given if self._stream.batched else given.batch(self._batch_size)).cardinality())
        return found if found >= 0 else self._stream.steps if self._stream.chooses_batches else None

    def _repeats(self) -> Iterator[Batch]:
        """Yields the batches of the training part again and again, as far as it ends at all."""
        found = True
        while found:
            found = False
            for batch in self._adapter.batches(self._parts["train"], self._batch_size):
                found = True
                yield batch

    def _dataset(self, part: PartName) -> Any:
        """Returns a `tf.data.Dataset` of converted batches; None if the part is of another kind."""
        source, adapter = self._parts[part], self._adapter if part == "train" else self._plain
        if source.kind != "tf.data" or keras.backend.backend() != "tensorflow" or not _has_ranks(source.given):
            return None
        import tensorflow as tf

        plain: Any = tf.autograph.experimental.do_not_convert
        dataset: Any = source.given if self._stream.batched else source.given.batch(self._batch_size)
        # Of unknown length: of others, Keras's `fit` begins a further epoch, whose order of the rows nothing uses.
        return dataset.map(plain(adapter.tensors)).filter(plain(lambda *_: True))

    @contextlib.contextmanager
    def _user_epoch(self, epoch: int) -> Iterator[None]:
        """Seeds what the user's code may draw in an epoch, and tells a PyDataset that it begins and ends.

        Keras's `fit` would do the latter more often than once for each epoch.
        """
        drawn = np.random.SeedSequence([self._seed, epoch], spawn_key=(2,)).generate_state(1)[0]
        loader_function.seed(int(drawn) % 2**31)
        train = self._parts["train"]
        told: Any = train.given if train.kind == "PyDataset" and self._stream.steps_per_epoch is None else None
        if told is not None:
            told.on_epoch_begin()
        yield
        if told is not None:
            told.on_epoch_end()


def made(stream: Stream, batch_size: int) -> dict[PartName, Source]:
    """Calls a user's function, and returns the parts of its stream.

    Args:
        stream: What is known about it.
        batch_size: What the function gets for `batch_size`, if it takes that.

    Raises:
        UserError: It fails, or returns something other than before the sweep.
    """
    where = loader_function.setting(stream.loader)
    function = loader_function.find(stream.loader, user_code.load)
    value = loader_function.call(function, stream.loader, stream.arguments, batch_size)
    parts = returned.streams(value, where)
    if parts is None or not set(stream.parts) <= parts.keys():
        raise UserError(f"{where}: returns other parts than before the sweep ({', '.join(stream.parts)})")
    return parts


@dataclass(frozen=True)
class Tested:
    """A model's predictions for the test part of a stream.

    Attributes:
        truth: The targets.
        predicted: What the model has predicted.
        wrong: Its most confident mistakes, from `diagnostics.mistakes`, if the data are images in classes.
    """

    truth: Array
    predicted: Array
    wrong: dict[str, Array] | None


def test(model: keras.Model, stream: Stream, schema: Schema, task: TaskConfig) -> Tested:
    """Reads the test part of a stream once, and predicts each row.

    Args:
        model: The model, as it is saved.
        stream: What is known about the stream.
        schema: Its inputs and its target.
        task: What the model was trained for.

    Raises:
        UserError: The stream fails.
    """
    loader_function.seed(0)
    source = made(stream, stream.batch_size)["test"]
    adapter = _Adapter(stream, schema, task.model_copy(update={"class_weight": None}), None)
    truth, predicted, wrong = list[Array](), list[Array](), list[dict[str, Array]]()
    images = schema.image is not None and schema.target.kind == "classes"
    with adapter.blamed():
        for inputs, targets in adapter.rows(source, stream.batch_size):
            truth.append(targets)
            predicted.append(saved.predict(model, inputs))
            if images:
                wrong.append(diagnostics.mistakes(inputs[ONLY], targets, predicted[-1]))
    if not truth:
        raise UserError(f"{source.where} is empty")
    return Tested(np.concatenate(truth), np.concatenate(predicted), diagnostics.worst(wrong) if images else None)


class _Adapter:
    """Converts batches to what a model expects."""

    def __init__(self, stream: Stream, schema: Schema, task: TaskConfig, adapts: Adapts | None) -> None:
        self._stream, self._task, self._kind = stream, task, schema.target.kind
        self._labels = np.array(stream.labels, np.float32) if stream.labels else None
        self._weights = None
        if task.class_weight is not None:
            self._weights = class_weights(task, schema, np.array(stream.counts, np.int64))
        self._own = adapts
        # What the user's stream has raised.
        self.error: Exception | None = None

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Raises a `UserError` if the user's stream fails. Keras and TensorFlow would hide what it has raised."""
        try:
            yield
        except Exception as error:
            found = self.error
            if found is None or isinstance(found, MemoryError) or machine_fault(found) is not None:
                raise
            if isinstance(found, UserError):
                raise found from None
            raise loader_function.failed(self._stream.loader, "its stream raised", found) from error

    def tensors(self, inputs: Any, targets: Any, weights: Any = None) -> Batch:
        """Converts a batch of TensorFlow's tensors."""
        x, y, counts = self._converted(keras.ops, keras.ops.cast, inputs, targets, weights)
        return self._as_given(x, y, counts, None if self._own is None else self._own[0])

    def arrays(self, inputs: Any, targets: Any, weights: Any = None) -> Batch:
        """Converts a batch of arrays."""
        x, y, counts = self._converted(np, _cast, inputs, targets, weights)
        return self._as_given(x, y, counts, None if self._own is None else self._own[1])

    def batches(self, source: Source, batch_size: int, order: Array | None = None) -> Iterator[Batch]:
        """Yields the batches of a part, as arrays; those of a PyDataset in an order, if it is given."""
        return (self.arrays(*batch) for batch in self._read(source, batch_size, order))

    def rows(self, source: Source, batch_size: int) -> Iterator[tuple[dict[str, Array], Array]]:
        """Yields inputs by name and targets, both as the schema describes them."""
        for inputs, targets, _ in self._read(source, batch_size):
            x, y, _ = self._converted(np, _cast, inputs, targets, None)
            yield x, y

    def element(self, source: Source, index: int) -> Batch:
        """Returns a batch of a user's PyDataset, as arrays."""
        try:
            given: Any = source.given
            return self.arrays(*streams.unpacked(given[index], source.where))
        except Exception as error:
            self.error = error
            raise

    def _read(self, source: Source, batch_size: int, order: Array | None = None) -> Iterator[streams.Batch]:
        try:
            elements = source.elements(order)
            yield from elements if self._stream.batched else streams.stacked(elements, batch_size)
        except Exception as error:
            self.error = error
            raise

    def _converted(
        self, ops: Any, cast: Callable[[Any, str], Any], inputs: Any, targets: Any, weights: Any
    ) -> tuple[dict[str, Any], Any, Any]:
        """Returns inputs by name, targets as `Target` describes them, and weights or None."""
        named = inputs if isinstance(inputs, dict) else {ONLY: inputs}
        x = {}
        for name, form in self._stream.inputs.items():
            values = cast(named[name], "float32")
            values = values if form.white == 1 else values / np.float32(form.white)
            x[name] = ops.expand_dims(values, -1) if form.axis else values
        single = len(targets.shape) == 2 and targets.shape[1] == 1
        y = ops.reshape(targets, (-1,)) if single else targets
        counts = None if weights is None else cast(ops.reshape(weights, (-1,)), "float32")
        if self._kind != "classes":
            return x, cast(y, "float32"), counts
        if self._stream.one_hot:
            y = ops.argmax(y, axis=-1)
        elif self._labels is not None:
            y = ops.searchsorted(self._labels, cast(y, "float32"))
        y = cast(y, "int64")
        if self._weights is not None:
            of_class = ops.take(self._weights, y)
            counts = of_class if counts is None else of_class * counts
        return x, y, counts

    def _as_given(self, x: dict[str, Any], y: Any, counts: Any, own: Callable[..., Batch] | None) -> Batch:
        y = tasks.as_column(self._task, y)
        y = np.asarray(y) if isinstance(next(iter(x.values())), np.ndarray) else y
        batch = (inputs_as_given(x), y) if counts is None else (inputs_as_given(x), y, counts)
        return batch if own is None else own(*batch)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # What Keras says of every epoch of a stream of unknown length.
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def _cast(values: Any, kind: str) -> Array:
    array: Array = np.asarray(values).astype(kind, copy=False)
    return array


def _has_workers(source: Source) -> bool:
    """Returns whether other threads or processes read a PyDataset."""
    given: Any = source.given
    return source.kind == "PyDataset" and (given.workers > 1 or given.use_multiprocessing)


def _has_ranks(dataset: Any) -> bool:
    """Returns whether TensorFlow knows how many axes the arrays of a dataset have."""
    return all(
        getattr(one, "shape", None) is not None and one.shape.rank is not None
        for one in keras.tree.flatten(dataset.element_spec)
    )


class _Adapted(keras.utils.PyDataset):  # type: ignore[misc]
    """A user's PyDataset with converted batches, read by as many threads or processes."""

    def __init__(self, source: Source, adapter: _Adapter) -> None:
        given: Any = source.given
        super().__init__(given.workers, given.use_multiprocessing, given.max_queue_size)
        self._source, self._given, self._adapter = source, given, adapter

    @property
    def num_batches(self) -> Any:
        return self._given.num_batches

    def __getitem__(self, index: int) -> Batch:
        return self._adapter.element(self._source, index)


class _Ahead:
    """Finds out which batch of an epoch is the last one.

    Attributes:
        last: Its number, counted from 0; None until it is known.
    """

    def __init__(self) -> None:
        self.last: int | None = None

    def through(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields batches, each after the next one was read."""
        before: Batch | None = None
        for number, batch in enumerate(batches):
            if before is not None:
                yield before
            before, last = batch, number
        if before is not None:
            self.last = last
            yield before


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends an epoch after its last batch, or if its loss is not finite, and keeps its logs."""

    def __init__(self, on_loss: Callable[[float], bool], ahead: _Ahead) -> None:
        super().__init__()
        self._on_loss, self._ahead = on_loss, ahead
        self.logs: dict[str, float] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.logs = {name: float(value) for name, value in scalars(logs or {}).items()}
        if not self._on_loss(self.logs.get("loss", 0.0)) or batch == self._ahead.last:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.logs = {name: float(value) for name, value in scalars(logs or {}).items()}
