"""An epoch as one compiled program on JAX: batches are drawn inside it, so that Python is not asked between them.

What happens to a batch is Keras's own `train_step(state, data)` and `test_step`, so that losses, metrics, regularizers
and whatever a user's model does are Keras's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import keras
import numpy as np

from mnist_sweep.training.backends import chunks
from mnist_sweep.training.backends.jax import Number
from mnist_sweep.training.feed import Feed, batch

Adapt = Callable[[Any, Any], tuple[Any, Any]]
# The values of a model's variables, a list for each kind of them.
State = tuple[list[Any], ...]


class Program:
    """Trains and validates a model on whole epochs.

    The compiled functions take the order of the images and their range as arguments: another seed, fold or learning
    rate needs no new compilation. Another size of batches does, and so does the last batch where it has fewer images.
    """

    def __init__(self, model: keras.Model, feed: Feed, adapt: Adapt | None = None) -> None:
        """Begins with nothing compiled.

        Args:
            model: Compiled in Keras's sense, its optimizer's variables created.
            feed: The images. Those that are trained on may be others with each call, if they are from the same `Feeds`.
            adapt: Makes of images and labels what the model takes.
        """
        self._model, self._adapt = model, adapt
        # Creates the variables of the metrics.
        model._symbolic_build(data_batch=(*self._adapted(feed.images, feed.labels, np.zeros(1, np.int32)), None))
        weights = [model.trainable_variables, model.non_trainable_variables]
        self._variables = {
            "train": [*weights, model.optimizer.variables, model.metrics_variables],
            "test": [*weights, model.metrics_variables],
        }
        self._steps = {"train": model.train_step, "test": model.test_step}
        self._numbers: list[Number] = [n for layer in model._flatten_layers() for n in getattr(layer, "numbers", ())]
        self._compiled: dict[tuple[str, int], Callable[..., Any]] = {}
        self._looped = not model.run_eagerly

    def prepare(self, feed: Feed, batch_size: int, validation_batch_size: int) -> None:
        """Compiles what an epoch needs, unless that is done; its first call is then as fast as the others.

        Args:
            feed: Which images to train and to validate on.
            batch_size: Images in a batch of the training.
            validation_batch_size: The same of the validation.
        """
        training, validation = len(feed.training), len(feed.validation)
        sizes = (("train", training, batch_size), ("test", validation, _even(validation, validation_batch_size)))
        for which, images, size in sizes:
            if images >= size:
                self._function(which, feed, size)
            if images % size:
                self._function(which, feed, images % size, rare=images > size)

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
        order = _padded(feed, feed.order(seed, epoch))
        self._model.reset_metrics()
        call = partial(self._call, "train", feed, order, len(feed.training), batch_size)
        return chunks.run(chunks.count(len(feed.training), batch_size), most, call, seen)

    def validate(self, feed: Feed, batch_size: int) -> dict[str, float]:
        """Validates the model.

        Args:
            feed: Which images to validate on.
            batch_size: Images in a batch at most.

        Returns:
            Keras's metrics, their names beginning with `val_`; empty where there are no images.
        """
        images = len(feed.validation)
        if not images:
            return {}
        self._model.reset_metrics()
        batch_size = _even(images, batch_size)
        order = _padded(feed, feed.validation)
        logs = self._call("test", feed, order, images, batch_size, 0, chunks.count(images, batch_size))
        return {f"val_{name}": value for name, value in logs.items()}

    def _call(
        self,
        which: str,
        feed: Feed,
        order: Any,  # noqa: ANN401
        images: int,
        size: int,
        begin: int,
        end: int,
    ) -> dict[str, float]:
        """Goes through some batches, of which the last may be a smaller one."""
        state = tuple([v.value for v in kind] for kind in self._variables[which])
        numbers = [number.read() for number in self._numbers]
        full, logs = min(end, images // size), {}
        for each, at, count in ((size, begin * size, full - begin), (images % size, full * size, end - full)):
            if count > 0:
                run = self._function(which, feed, each, rare=each < size < images)
                calls = [(at, count)] if self._looped else [(at + i * each, 1) for i in range(count)]
                for place in calls:
                    logs, state = run(state, numbers, feed.images, feed.labels, order, *np.array(place, np.int32))
        for kind, values in zip(self._variables[which], state, strict=True):
            for variable, value in zip(kind, values, strict=True):
                variable.assign(value)
        # JAX sorts names; Keras begins with the loss.
        return {name: float(logs[name]) for name in sorted(logs, key=lambda name: name != "loss")}

    def _function(self, which: str, feed: Feed, size: int, *, rare: bool = False) -> Callable[..., Any]:
        """The compiled function for batches of a size; what is called once in an epoch only, is compiled in a hurry."""
        if (which, size) not in self._compiled:
            run: Callable[..., Any] = partial(self._run, which, size)
            if not self._model.run_eagerly:
                state = tuple([v.value for v in kind] for kind in self._variables[which])
                numbers = [number.read() for number in self._numbers]
                arguments = (
                    state,
                    numbers,
                    feed.images,
                    feed.labels,
                    _padded(feed, feed.training),
                    *np.zeros(2, np.int32),
                )
                lowered = jax.jit(run, donate_argnums=0).lower(*arguments)
                if self._looped and jax.default_backend() == "cpu" and "stablehlo.convolution" in lowered.as_text():
                    # In a loop, XLA makes them 25 times slower on CPU.
                    self._looped = False
                    lowered = jax.jit(partial(run), donate_argnums=0).lower(*arguments)
                hurry = rare and jax.default_backend() == "cpu"
                run = lowered.compile({"xla_backend_optimization_level": "0"} if hurry else None)
            self._compiled[which, size] = run
        return self._compiled[which, size]

    def _run(
        self,
        which: str,
        size: int,
        state: State,
        numbers: Sequence[Any],
        images: Any,  # noqa: ANN401 - arrays, or what stands for them while this is compiled
        labels: Any,  # noqa: ANN401
        order: Any,  # noqa: ANN401
        at: Any,  # noqa: ANN401
        count: Any,  # noqa: ANN401
    ) -> tuple[dict[str, Any], State]:
        """Goes through `count` batches of `size` images, from `order[at]` on; where there is no loop, through one."""
        step = self._steps[which]

        def one(i: Any, state: State) -> tuple[dict[str, Any], State]:  # noqa: ANN401
            chosen = jax.lax.dynamic_slice(order, (at + i * size,), (size,))
            logs, state = step(state, self._adapted(images, labels, chosen))
            return _scalars(logs), state

        with self._given(numbers):
            noted: dict[str, Any] = {}
            if self._looped:
                if _is_own(step):
                    noted = _zeros(jax.eval_shape(one, 0, state)[0])

                def body(i: Any, carry: tuple[dict[str, Any], State]) -> tuple[dict[str, Any], State]:  # noqa: ANN401
                    logs, state = one(i, carry[1])
                    return {name: logs[name] for name in noted}, state

                noted, state = jax.lax.fori_loop(0, count, body, (noted, state))
            else:
                logs, state = one(0, state)
                noted = logs if _is_own(step) else {}
            with keras.StatelessScope(list(zip(self._model.metrics_variables, state[-1], strict=True))):
                return {**_scalars(self._model.get_metrics_result()), **noted}, state

    def _adapted(self, images: Any, labels: Any, chosen: Any) -> tuple[Any, Any]:  # noqa: ANN401
        drawn = batch(images, labels, chosen)
        return self._adapt(*drawn) if self._adapt else drawn

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


def _padded(feed: Feed, order: Any) -> Any:  # noqa: ANN401
    """Indices as an array of one length, whatever is held out, so that one compiled function serves all folds."""
    padded = np.zeros(len(feed.images), np.int32)
    padded[: len(order)] = order
    return padded


def _even(images: int, most: int) -> int:
    """The size of batches that leaves no smaller one over, which would be compiled apart; `most` where none is near."""
    return next((size for size in range(min(most, images), most // 2, -1) if images % size == 0), most)


def _is_own(step: Any) -> bool:  # noqa: ANN401 - a bound method
    """Whether a step is a user's own, whose logs need not be the model's metrics."""
    return not step.__func__.__module__.startswith("keras.")


def _scalars(logs: Any) -> dict[str, Any]:  # noqa: ANN401
    """A user's metrics may be vectors, of which no curve can be drawn."""
    return {name: value for name, value in logs.items() if np.ndim(value) == 0}


def _zeros(shapes: Any) -> Any:  # noqa: ANN401
    return jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), shapes)
