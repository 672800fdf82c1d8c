"""An epoch as one compiled program: batches are drawn inside it, so that Python is not asked between them.

Keras's `fit` hands each batch, or some of them, from a data pipeline to its compiled step; that costs a small dense
model several times, and a large one twice, what its arithmetic does. Here the loop over the batches is part of the
TensorFlow graph. What happens to a batch is Keras's own `train_step` and `test_step`, so that losses, metrics,
regularizers and whatever a user's model does are Keras's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mnist_sweep.training.backends import chunks
from mnist_sweep.training.feed import Feed

Adapt = Callable[[Any, Any], tuple[Any, Any]]


class Program:
    """Trains and validates a model on whole epochs.

    The compiled functions take the order of the images, the size of the batches and their range as arguments: another
    batch size, seed, fold or learning rate needs no new compilation.
    """

    def __init__(self, model: keras.Model, feed: Feed, adapt: Adapt | None = None) -> None:
        """Begins with nothing compiled.

        Args:
            model: Compiled in Keras's sense, its optimizer's variables created.
            feed: The images. Those that are trained on may be others with each call, if they are from the same `Feeds`.
            adapt: Makes of images and labels what the model takes.
        """
        self._model, self._feed, self._adapt = model, feed, adapt
        self._ready = False
        # Not compiled as a user wished, to look inside.
        made = self._loop if model.run_eagerly else self._compiled
        self._train, self._test = made(model.train_step), made(model.test_step)

    def prepare(self, feed: Feed, batch_size: int, validation_batch_size: int) -> None:
        """Compiles, unless that is done; the model's first call is then as fast as the others.

        Args:
            feed: Which images to train and to validate on.
            batch_size: Images in a batch of the training.
            validation_batch_size: The same of the validation.
        """
        if not self._ready and not self._model.run_eagerly:
            # It creates the variables of losses and metrics: a function that creates any is traced twice.
            self._model.test_step(self._batch(tf.zeros(1, tf.int32), 0, 1))
            for function in (self._train, self._test):
                # No batch at all: TensorFlow traces the function, optimizes its graph and makes it ready to run.
                function(tf.zeros(0, tf.int32), tf.constant(1), tf.constant(0), tf.constant(0))
        self._ready = True

    def train(
        self,
        feed: Feed,
        seed: int,
        epoch: int,
        batch_size: int,
        most: int | None,
        seen: Callable[[float], bool],
    ) -> dict[str, float]:
        """Trains one epoch.

        Args:
            feed: Which images to train on.
            seed: The trial's, which tells the order of the images.
            epoch: Counted from 0; so does this.
            batch_size: Images in a batch; the last may have fewer.
            most: Batches in one call of the compiled function; None for as many as take some seconds.
            seen: Called with the mean loss so far after each call; whether training goes on.

        Returns:
            Keras's training metrics of the epoch, as far as it came.
        """
        order, size = feed.order(seed, epoch), tf.constant(batch_size)
        self._model.reset_metrics()

        def call(begin: int, end: int) -> dict[str, float]:
            return _plain(self._train(order, size, tf.constant(begin), tf.constant(end)))

        return chunks.run(chunks.count(len(feed.training), batch_size), most, call, seen)

    def validate(self, feed: Feed, batch_size: int) -> dict[str, float]:
        """Validates the model.

        Args:
            feed: Which images to validate on.
            batch_size: Images in a batch; the last may have fewer.

        Returns:
            Keras's metrics, their names beginning with `val_`; empty where there are no images.
        """
        if not len(feed.validation):
            return {}
        self._model.reset_metrics()
        batches = chunks.count(len(feed.validation), batch_size)
        with tf.device("CPU:0"):
            order = tf.constant(feed.validation, tf.int32)
        logs = self._test(order, tf.constant(batch_size), tf.constant(0), tf.constant(batches))
        return {f"val_{name}": value for name, value in _plain(logs).items()}

    def _batch(self, order: Any, i: Any, size: Any) -> tuple[Any, Any]:  # noqa: ANN401
        images, labels = self._feed.drawn(order, i, size)
        return self._adapt(images, labels) if self._adapt else (images, labels)

    def _compiled(self, step: Callable[..., Any]) -> Callable[..., Any]:
        jit = bool(self._model.jit_compile)
        # Not the whole loop: XLA takes minutes to compile it.
        one = tf.function(step, jit_compile=True, autograph=False) if jit else step
        logged: dict[str, tf.Variable] = {}

        def body(i: Any, order: Any, size: Any, end: Any) -> tuple[Any, ...]:  # noqa: ANN401
            logs = one(self._batch(order, i, size))
            if _is_own(step):
                for name, value in _scalars(logs).items():
                    if name not in logged:
                        with tf.init_scope():
                            logged[name] = tf.Variable(tf.zeros((), tf.float32))
                    logged[name].assign(tf.cast(value, tf.float32))
            return i + 1, order, size, end

        def run(order: Any, size: Any, begin: Any, end: Any) -> dict[str, Any]:  # noqa: ANN401
            arguments = (begin, order, size, end)
            tf.while_loop(lambda i, *_: i < end, body, arguments, parallel_iterations=1)
            noted = {name: variable.read_value() for name, variable in logged.items()}
            return {**_scalars(self._model.get_metrics_result()), **noted}

        number = tf.TensorSpec((), tf.int32)
        compiled: Callable[..., Any] = tf.function(
            run, input_signature=[tf.TensorSpec([None], tf.int32), number, number, number], autograph=False
        )
        return compiled

    def _loop(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(order: Any, size: Any, begin: Any, end: Any) -> Any:  # noqa: ANN401
            logs = {}
            for i in range(int(begin), int(end)):
                logs = step(self._batch(order, i, int(size)))
            return logs

        return run


def _is_own(step: Any) -> bool:  # noqa: ANN401 - a bound method
    """Whether a step is a user's own, whose logs need not be the model's metrics."""
    return not step.__func__.__module__.startswith("keras.")


def _scalars(logs: Any) -> dict[str, Any]:  # noqa: ANN401
    """A user's metrics may be vectors, of which no curve can be drawn."""
    return {name: value for name, value in logs.items() if len(getattr(value, "shape", ())) == 0}


def _plain(logs: Any) -> dict[str, float]:  # noqa: ANN401
    return {name: float(value) for name, value in _scalars(logs).items()}
