"""An epoch as one compiled TensorFlow program: it draws its batches itself, without Python in between.

Keras's `fit` passes each batch, or a few of them, from a data pipeline to its compiled step. This costs several times a
small dense model's arithmetic, and twice a large one's. Here the loop over the batches is part of the TensorFlow graph.
Each batch goes through Keras's own `train_step` or `test_step`, so losses, metrics, regularizers and whatever a user's
model overrides work as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mnist_sweep.training.backends.epochs import Adapt, Epochs, Part, is_overridden, merge_logs, scalars
from mnist_sweep.training.splits import Batch, Split


class Program(Epochs):
    """Trains and validates a model epoch by epoch.

    The compiled functions take the order of the rows, the batch size and the range of batches as arguments, so
    another batch size, seed, fold or learning rate needs no recompilation.
    """

    def __init__(self, model: keras.Model, split: Split, adapt: Adapt | None = None) -> None:
        super().__init__(model, split, adapt)
        self._ready = False
        make = self._eager if model.run_eagerly else self._compiled
        self._functions = {"train": make("train", model.train_step), "test": make("test", model.test_step)}

    def prepare(self, split: Split, batch_size: int, validation_batch_size: int) -> None:  # noqa: D102
        if not self._ready and not self._model.run_eagerly:
            # Creates the variables of losses and metrics first: a function that creates variables is traced twice.
            self._model.test_step(self._batch("test", tf.zeros(1, tf.int32), 0, 1))
            for function in self._functions.values():
                # A call without batches traces the function, optimizes its graph and makes it ready to run.
                function(tf.zeros(0, tf.int32), tf.constant(1), tf.constant(0), tf.constant(0))
        self._ready = True

    def _order(self, split: Split, indices: Any) -> Any:
        with tf.device("CPU:0"):
            return tf.convert_to_tensor(indices, tf.int32)

    def _call(
        self, part: Part, split: Split, order: Any, rows: int, batch_size: int, begin: int, end: int
    ) -> dict[str, float]:
        logs = self._functions[part](order, tf.constant(batch_size), tf.constant(begin), tf.constant(end))
        return {name: float(value) for name, value in logs.items()}

    def _batch(self, part: Part, order: Any, i: Any, size: Any) -> Batch:
        return self._adapted(self._split.batch(order, i, size, train=part == "train"))

    def _compiled(self, part: Part, step: Callable[..., Any]) -> Callable[..., Any]:
        jit = bool(self._model.jit_compile)
        # Only the step: XLA takes minutes to compile the whole loop.
        one = tf.function(step, jit_compile=True, autograph=False) if jit else step
        custom: dict[str, tf.Variable] = {}

        def body(i: Any, order: Any, size: Any, end: Any) -> tuple[Any, ...]:
            logs = one(self._batch(part, order, i, size))
            if is_overridden(step):
                for name, value in scalars(logs).items():
                    if name not in custom:
                        with tf.init_scope():
                            custom[name] = tf.Variable(tf.zeros((), tf.float32))
                    custom[name].assign(tf.cast(value, tf.float32))
            return i + 1, order, size, end

        def run(order: Any, size: Any, begin: Any, end: Any) -> dict[str, Any]:
            arguments = (begin, order, size, end)
            tf.while_loop(lambda i, *_: i < end, body, arguments, parallel_iterations=1)
            last = {name: variable.read_value() for name, variable in custom.items()}
            return merge_logs(scalars(self._model.get_metrics_result()), last)

        number = tf.TensorSpec((), tf.int32)
        compiled: Callable[..., Any] = tf.function(
            run, input_signature=[tf.TensorSpec([None], tf.int32), number, number, number], autograph=False
        )
        return compiled

    def _eager(self, part: Part, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(order: Any, size: Any, begin: Any, end: Any) -> Any:
            logs = {}
            for i in range(int(begin), int(end)):
                logs = step(self._batch(part, order, i, int(size)))
            return merge_logs(scalars(self._model.get_metrics_result()), scalars(logs) if is_overridden(step) else {})

        return run
