"""An epoch as one compiled JAX program: it draws its batches itself, without Python in between.

Each batch goes through Keras's own `train_step(state, data)` or `test_step`, so losses, metrics, regularizers and
whatever a user's model overrides work as in Keras.
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

from mnist_sweep.training.backends.epochs import Adapt, Epochs, Part, is_overridden, merge_logs, scalars
from mnist_sweep.training.backends.jax import Number
from mnist_sweep.training.splits import Split, Tensors, select

# How many compiled functions of 2 MB or more a program keeps. A trial has four, or six if folds differ by an image.
_MOST = 16
# The values of a model's variables, one list per kind.
State = tuple[list[Any], ...]


class Program(Epochs):
    """Trains and validates a model epoch by epoch.

    The compiled functions take the order of the rows and their range as arguments. So another seed, fold or learning
    rate needs no recompilation. Another batch size does, and so does a last batch with fewer rows.
    """

    def __init__(self, model: keras.Model, split: Split, adapt: Adapt | None = None) -> None:
        super().__init__(model, split, adapt)
        # Creates the variables of the metrics.
        first = self._adapted(select(split.tensors(train=True), np.zeros(1, np.int32)))
        model._symbolic_build(data_batch=(*first, None) if len(first) == 2 else first)
        weights = [model.trainable_variables, model.non_trainable_variables]
        self._variables = {
            "train": [*weights, model.optimizer.variables, model.metrics_variables],
            "test": [*weights, model.metrics_variables],
        }
        self._steps = {"train": model.train_step, "test": model.test_step}
        self._numbers: list[Number] = [n for layer in model._flatten_layers() for n in getattr(layer, "numbers", ())]
        self._compiled: OrderedDict[tuple[str, int, bool], Callable[..., Any]] = OrderedDict()
        self._looped = not model.run_eagerly

    def prepare(self, split: Split, batch_size: int, validation_batch_size: int) -> None:  # noqa: D102
        training, validation = len(split.training), len(split.validation)
        sizes: list[tuple[Part, int, int]] = [
            ("train", training, batch_size),
            ("test", validation, self._validation_size(validation, validation_batch_size)),
        ]
        for part, rows, size in sizes:
            if rows >= size:
                self._function(part, split, size)
            if rows % size:
                self._function(part, split, rows % size, rare=rows > size)

    def _order(self, split: Split, indices: Any) -> Any:
        """Pads the indices to the number of rows, so that one compiled function serves all folds."""
        padded = np.zeros(len(split.targets), np.int32)
        padded[: len(indices)] = indices
        return padded

    def _call(
        self, part: Part, split: Split, order: Any, rows: int, batch_size: int, begin: int, end: int
    ) -> dict[str, float]:
        # The last batch may be smaller and then needs another compiled function.
        state = tuple([v.value for v in kind] for kind in self._variables[part])
        numbers, tensors = [number.read() for number in self._numbers], split.tensors(train=part == "train")
        full, logs = min(end, rows // batch_size), {}
        for each, at, count in (
            (batch_size, begin * batch_size, full - begin),
            (rows % batch_size, full * batch_size, end - full),
        ):
            if count > 0:
                run = self._function(part, split, each, rare=each < batch_size < rows)
                calls = [(at, count)] if self._looped else [(at + i * each, 1) for i in range(count)]
                for place in calls:
                    logs, state = run(state, numbers, tensors, order, *np.array(place, np.int32))
        for kind, values in zip(self._variables[part], state, strict=True):
            for variable, value in zip(kind, values, strict=True):
                variable.assign(value)
        # JAX sorts the names; Keras starts with the loss.
        return {name: float(logs[name]) for name in sorted(logs, key=lambda name: name != "loss")}

    def _validation_size(self, rows: int, most: int) -> int:
        """Returns a batch size near `most` that leaves no smaller last batch, which would need its own compilation."""
        return next((size for size in range(min(most, rows), most // 2, -1) if rows % size == 0), most)

    def _function(self, part: Part, split: Split, size: int, *, rare: bool = False) -> Callable[..., Any]:
        """Returns the compiled function for a batch size. A `rare` one, used once per epoch, is compiled in a hurry."""
        # `rare` is part of the key, as a hurried program rounds differently: a trial must not depend on earlier ones.
        key = (part, size, rare)
        if key in self._compiled:
            self._compiled.move_to_end(key)
        else:
            run: Callable[..., Any] = partial(self._run, part, size)
            if not self._model.run_eagerly:
                state = tuple([v.value for v in kind] for kind in self._variables[part])
                numbers = [number.read() for number in self._numbers]
                order = self._order(split, split.training)
                tensors = split.tensors(train=part == "train")
                arguments = (state, numbers, tensors, order, *np.zeros(2, np.int32))
                lowered = jax.jit(run, donate_argnums=0).lower(*arguments)
                if self._looped and jax.default_backend() == "cpu" and "stablehlo.convolution" in lowered.as_text():
                    # Inside a loop, XLA makes convolutions 25 times slower on CPU.
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
        tensors: Tensors,
        order: Any,
        at: Any,
        count: Any,
    ) -> tuple[dict[str, Any], State]:
        """Runs `count` batches of `size` rows, starting at `order[at]`; without a loop, only one batch."""
        step = self._steps[part]

        def one(i: Any, state: State) -> tuple[dict[str, Any], State]:
            chosen = jax.lax.dynamic_slice(order, (at + i * size,), (size,))
            logs, state = step(state, self._adapted(select(tensors, chosen)))
            return scalars(logs), state

        with self._given(numbers):
            last: dict[str, Any] = {}
            if self._looped:
                if is_overridden(step):
                    last = _zeros(jax.eval_shape(one, 0, state)[0])

                def body(i: Any, carry: tuple[dict[str, Any], State]) -> tuple[dict[str, Any], State]:
                    logs, state = one(i, carry[1])
                    return {name: logs[name] for name in last}, state

                last, state = jax.lax.fori_loop(0, count, body, (last, state))
            else:
                logs, state = one(0, state)
                last = logs if is_overridden(step) else {}
            with keras.StatelessScope(list(zip(self._model.metrics_variables, state[-1], strict=True))):
                return merge_logs(scalars(self._model.get_metrics_result()), last), state

    @contextmanager
    def _given(self, values: Sequence[Any]) -> Iterator[None]:
        """Lets the model's layers read their numbers from the compiled function's arguments."""
        before = [number.given for number in self._numbers]
        for number, value in zip(self._numbers, values, strict=True):
            number.given = value
        try:
            yield
        finally:
            for number, value in zip(self._numbers, before, strict=True):
                number.given = value


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), shapes)
