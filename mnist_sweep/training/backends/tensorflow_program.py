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

from mnist_sweep.training.backends.epochs import Adapt, Epochs, Part, is_overridden, logged, scalars
from mnist_sweep.training.feed import Feed


class Program(Epochs):
    """Trains and validates a model on whole epochs.

    The compiled functions take the order of the images, the size of the batches and their range as arguments: another
    batch size, seed, fold or learning rate needs no new compilation.
    """

    def __init__(self, model: keras.Model, feed: Feed, adapt: Adapt | None = None) -> None:
        super().__init__(model, feed, adapt)
        self._ready = False
        # Not compiled as a user wished, to look inside.
        made = self._loop if model.run_eagerly else self._compiled
        self._functions = {"train": made(model.train_step), "test": made(model.test_step)}

    def prepare(self, feed: Feed, batch_size: int, validation_batch_size: int) -> None:  # noqa: D102
        if not self._ready and not self._model.run_eagerly:
            # It creates the variables of losses and metrics: a function that creates any is traced twice.
            self._model.test_step(self._batch(tf.zeros(1, tf.int32), 0, 1))
            for function in self._functions.values():
                # No batch at all: TensorFlow traces the function, optimizes its graph and makes it ready to run.
                function(tf.zeros(0, tf.int32), tf.constant(1), tf.constant(0), tf.constant(0))
        self._ready = True

    def _order(self, feed: Feed, indices: Any) -> Any:
        with tf.device("CPU:0"):
            return tf.convert_to_tensor(indices, tf.int32)

    def _call(
        self,
        part: Part,
        feed: Feed,
        order: Any,
        images: int,
        batch_size: int,
        begin: int,
        end: int,
    ) -> dict[str, float]:
        logs = self._functions[part](order, tf.constant(batch_size), tf.constant(begin), tf.constant(end))
        return {name: float(value) for name, value in logs.items()}

    def _batch(self, order: Any, i: Any, size: Any) -> tuple[Any, Any]:
        return self._adapted(self._feed.drawn(order, i, size))

    def _compiled(self, step: Callable[..., Any]) -> Callable[..., Any]:
        jit = bool(self._model.jit_compile)
        # Not the whole loop: XLA takes minutes to compile it.
        one = tf.function(step, jit_compile=True, autograph=False) if jit else step
        own: dict[str, tf.Variable] = {}

        def body(i: Any, order: Any, size: Any, end: Any) -> tuple[Any, ...]:
            logs = one(self._batch(order, i, size))
            if is_overridden(step):
                for name, value in scalars(logs).items():
                    if name not in own:
                        with tf.init_scope():
                            own[name] = tf.Variable(tf.zeros((), tf.float32))
                    own[name].assign(tf.cast(value, tf.float32))
            return i + 1, order, size, end

        def run(order: Any, size: Any, begin: Any, end: Any) -> dict[str, Any]:
            arguments = (begin, order, size, end)
            tf.while_loop(lambda i, *_: i < end, body, arguments, parallel_iterations=1)
            noted = {name: variable.read_value() for name, variable in own.items()}
            return logged(scalars(self._model.get_metrics_result()), noted)

        number = tf.TensorSpec((), tf.int32)
        compiled: Callable[..., Any] = tf.function(
            run, input_signature=[tf.TensorSpec([None], tf.int32), number, number, number], autograph=False
        )
        return compiled

    def _loop(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(order: Any, size: Any, begin: Any, end: Any) -> Any:
            logs = {}
            for i in range(int(begin), int(end)):
                logs = step(self._batch(order, i, int(size)))
            return logged(scalars(self._model.get_metrics_result()), scalars(logs) if is_overridden(step) else {})

        return run
