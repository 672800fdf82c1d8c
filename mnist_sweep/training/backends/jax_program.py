"""An epoch as one compiled program on JAX: batches are drawn inside it, so that Python is not asked between them.

What happens to a batch is Keras's own `train_step(state, data)` and `test_step`, so that losses, metrics, regularizers
and whatever a user's model does are Keras's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import keras
import numpy as np

from mnist_sweep.training.backends.epochs import Adapt, Epochs, Part, is_overridden, logged, scalars
from mnist_sweep.training.backends.jax import Number
from mnist_sweep.training.feed import Feed, batch

# Compiled functions that a program keeps, of 2 MB or more: a trial has four, or six where folds differ by an image.
_MOST = 16
# The values of a model's variables, a list for each kind of them.
State = tuple[list[Any], ...]


class Program(Epochs):
    """Trains and validates a model on whole epochs.

    The compiled functions take the order of the images and their range as arguments: another seed, fold or learning
    rate needs no new compilation. Another size of batches does, and so does the last batch where it has fewer images.
    """

    def __init__(self, model: keras.Model, feed: Feed, adapt: Adapt | None = None) -> None:
        super().__init__(model, feed, adapt)
        # Creates the variables of the metrics.
        model._symbolic_build(data_batch=(*self._adapted(batch(feed.images, feed.labels, np.zeros(1, np.int32))), None))
        weights = [model.trainable_variables, model.non_trainable_variables]
        self._variables = {
            "train": [*weights, model.optimizer.variables, model.metrics_variables],
            "test": [*weights, model.metrics_variables],
        }
        self._steps = {"train": model.train_step, "test": model.test_step}
        self._numbers: list[Number] = [n for layer in model._flatten_layers() for n in getattr(layer, "numbers", ())]
        self._compiled: OrderedDict[tuple[str, int, bool], Callable[..., Any]] = OrderedDict()
        self._looped = not model.run_eagerly

    def prepare(self, feed: Feed, batch_size: int, validation_batch_size: int) -> None:  # noqa: D102
        training, validation = len(feed.training), len(feed.validation)
        sizes: list[tuple[Part, int, int]] = [
            ("train", training, batch_size),
            ("test", validation, self._validation_size(validation, validation_batch_size)),
        ]
        for part, images, size in sizes:
            if images >= size:
                self._function(part, feed, size)
            if images % size:
                self._function(part, feed, images % size, rare=images > size)

    def _order(self, feed: Feed, indices: Any) -> Any:
        """As an array of one length, whatever is held out, so that one compiled function serves all folds."""
        padded = np.zeros(len(feed.images), np.int32)
        padded[: len(indices)] = indices
        return padded

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
        # The last batch may be a smaller one, for which another function is compiled.
        state = tuple([v.value for v in kind] for kind in self._variables[part])
        numbers = [number.read() for number in self._numbers]
        full, logs = min(end, images // batch_size), {}
        for each, at, count in (
            (batch_size, begin * batch_size, full - begin),
            (images % batch_size, full * batch_size, end - full),
        ):
            if count > 0:
                run = self._function(part, feed, each, rare=each < batch_size < images)
                calls = [(at, count)] if self._looped else [(at + i * each, 1) for i in range(count)]
                for place in calls:
                    logs, state = run(state, numbers, feed.images, feed.labels, order, *np.array(place, np.int32))
        for kind, values in zip(self._variables[part], state, strict=True):
            for variable, value in zip(kind, values, strict=True):
                variable.assign(value)
        # JAX sorts names; Keras begins with the loss.
        return {name: float(logs[name]) for name in sorted(logs, key=lambda name: name != "loss")}

    def _validation_size(self, images: int, most: int) -> int:
        """The size of batches that leaves no smaller one over, which would be compiled apart, if any is near."""
        return next((size for size in range(min(most, images), most // 2, -1) if images % size == 0), most)

    def _function(self, part: Part, feed: Feed, size: int, *, rare: bool = False) -> Callable[..., Any]:
        """The compiled function for batches of a size; what is called once in an epoch only, is compiled in a hurry."""
        # Apart, as a program compiled in a hurry rounds otherwise: a trial must not tell what was compiled for another.
        key = (part, size, rare)
        if key in self._compiled:
            self._compiled.move_to_end(key)
        else:
            run: Callable[..., Any] = partial(self._run, part, size)
            if not self._model.run_eagerly:
                state = tuple([v.value for v in kind] for kind in self._variables[part])
                numbers = [number.read() for number in self._numbers]
                arguments = (
                    state,
                    numbers,
                    feed.images,
                    feed.labels,
                    self._order(feed, feed.training),
                    *np.zeros(2, np.int32),
                )
                lowered = jax.jit(run, donate_argnums=0).lower(*arguments)
                if self._looped and jax.default_backend() == "cpu" and "stablehlo.convolution" in lowered.as_text():
                    # In a loop, XLA makes them 25 times slower on CPU.
                    self._looped = False
                    lowered = jax.jit(partial(run), donate_argnums=0).lower(*arguments)
                hurry = rare and jax.default_backend() == "cpu"
                run = lowered.compile({"xla_backend_optimization_level": "0"} if hurry else None)
            self._compiled[key] = run
            if len(self._compiled) > _MOST:
                self._compiled.popitem(last=False)
        return self._compiled[key]

    def _run(
        self,
        part: Part,
        size: int,
        state: State,
        numbers: Sequence[Any],
        images: Any,
        labels: Any,
        order: Any,
        at: Any,
        count: Any,
    ) -> tuple[dict[str, Any], State]:
        """Goes through `count` batches of `size` images, from `order[at]` on; where there is no loop, through one."""
        step = self._steps[part]

        def one(i: Any, state: State) -> tuple[dict[str, Any], State]:
            chosen = jax.lax.dynamic_slice(order, (at + i * size,), (size,))
            logs, state = step(state, self._adapted(batch(images, labels, chosen)))
            return scalars(logs), state

        with self._given(numbers):
            noted: dict[str, Any] = {}
            if self._looped:
                if is_overridden(step):
                    noted = _zeros(jax.eval_shape(one, 0, state)[0])

                def body(i: Any, carry: tuple[dict[str, Any], State]) -> tuple[dict[str, Any], State]:
                    logs, state = one(i, carry[1])
                    return {name: logs[name] for name in noted}, state

                noted, state = jax.lax.fori_loop(0, count, body, (noted, state))
            else:
                logs, state = one(0, state)
                noted = logs if is_overridden(step) else {}
            with keras.StatelessScope(list(zip(self._model.metrics_variables, state[-1], strict=True))):
                return logged(scalars(self._model.get_metrics_result()), noted), state

    @contextmanager
    def _given(self, values: Sequence[Any]) -> Iterator[None]:
        """Lets the model's layers read their numbers from what the compiled function gets."""
        own = [number.given for number in self._numbers]
        for number, value in zip(self._numbers, values, strict=True):
            number.given = value
        try:
            yield
        finally:
            for number, value in zip(self._numbers, own, strict=True):
                number.given = value


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), shapes)
