"""Data that do not fit into memory: a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a loader of Grain or PyTorch.

None of these libraries is imported here: a user's function has imported the one that it uses.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.schema import ONLY

Array = NDArray[Any]
Kind = Literal["tf.data", "PyDataset", "Grain", "PyTorch"]
# The inputs by name, the targets, and the weights of the rows or None.
Batch = tuple[dict[str, Any], Any, Any]
CALLED = "a tf.data.Dataset, a keras.utils.PyDataset or a Grain loader"
ENDLESS = -1


@dataclass(frozen=True)
class Form:
    """How the values of an input become what a model takes.

    Attributes:
        white: The number by which they are divided: that of a white pixel; 1 for other data.
        axis: Whether an axis of one channel is added to images (N, height, width).
    """

    white: float = 1.0
    axis: bool = False


@dataclass(frozen=True)
class Stream:
    """A stream of batches, and what was learned by reading it before the sweep.

    Attributes:
        loader: The user's function that makes it, `package.module:function`.
        arguments: Its keyword arguments.
        parts: The parts that it has, of `train`, `val` and `test`.
        takes_batch_size: Whether the function takes `batch_size`.
        batched: Whether the stream yields batches, not single rows.
        batch_size: How many rows its first batch has.
        steps_per_epoch: The number of batches that the user calls an epoch; None if an epoch ends with the stream.
        steps: Batches in an epoch; None if they were not counted.
        rows: The rows of each part; those of the training part in an epoch. Without parts that were not counted.
        inputs: How the inputs by name become what a model takes.
        one_hot: Whether the classes are one-hot rows.
        labels: The labels of the classes, in their order; empty if they are 0, 1, 2 …
        counts: The training rows of each class; empty if there are none, or they were not counted.
        mean: The mean of the training rows' targets if they are numbers.
        deviation: Their standard deviation.
    """

    loader: str
    arguments: Mapping[str, Any]
    parts: tuple[str, ...]
    takes_batch_size: bool
    batched: bool
    batch_size: int
    steps_per_epoch: int | None
    steps: int | None
    rows: Mapping[str, int]
    inputs: Mapping[str, Form]
    one_hot: bool = False
    labels: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def chooses_batches(self) -> bool:
        """Whether `training.batch_size` is of no use, as the stream decides how large its batches are."""
        return self.batched and not self.takes_batch_size

    def steps_with(self, batch_size: int) -> int | None:
        """Returns the number of batches in an epoch; None if it is not known."""
        if self.steps_per_epoch is not None or self.chooses_batches:
            return self.steps
        return -(-self.rows["train"] // batch_size) if "train" in self.rows else None

    def identity(self) -> str:
        """Returns a text that tells streams apart: the function, its arguments, and how many rows it has yielded."""
        about = asdict(self)
        # These depend on the order of the rows.
        del about["mean"], about["deviation"]
        return json.dumps(about, sort_keys=True)

    def to_json(self) -> str:
        """Returns the stream as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Stream:
        """Returns the stream that `to_json` wrote."""
        return _ADAPTER.validate_json(text)


_ADAPTER = TypeAdapter(Stream)


@dataclass(frozen=True)
class Source:
    """One part of a stream, as the user's function has returned it.

    Attributes:
        given: What was returned.
        where: The start of an error's message, which names the part.
        kind: What it is.
    """

    given: Any
    where: str
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        kind = kind_of(self.given)
        assert kind is not None
        object.__setattr__(self, "kind", kind)

    def length(self) -> int | None:
        """Returns how many elements it has; `ENDLESS` if it never ends, None if that is not known."""
        given: Any = self.given
        if self.kind == "tf.data":
            found = int(given.cardinality())
            return {-1: ENDLESS, -2: None}.get(found, found)
        if self.kind == "PyDataset":
            count = given.num_batches
            return ENDLESS if count is None else int(count)
        try:
            count = len(given)
        except TypeError:
            return None
        # What Grain calls endless.
        return ENDLESS if count >= sys.maxsize else count

    def elements(self, order: Array | None = None) -> Iterator[Batch]:
        """Yields its elements as arrays: batches, or single rows.

        Args:
            order: Which elements of a PyDataset, in which order; None for all in their own order.

        Raises:
            UserError: One is not a tuple of inputs and targets.
        """
        for element in self._raw(order):
            yield unpacked(element, self.where)

    def _raw(self, order: Array | None) -> Iterator[Any]:
        given: Any = self.given
        if self.kind == "tf.data":
            return iter(given.as_numpy_iterator())
        if self.kind == "PyDataset":
            count = given.num_batches
            own: Iterable[int] = itertools.count() if count is None else range(count)
            return (given[int(i)] for i in (own if order is None else order))
        return iter(given)


def kind_of(value: Any) -> Kind | None:
    """Returns which kind of stream a value is; None if it is none."""
    for kind in type(value).__mro__:
        package = kind.__module__
        if package.startswith("tensorflow.python.data") and kind.__name__ in ("DatasetV2", "DatasetV1"):
            return "tf.data"
        if package.startswith("keras.") and kind.__name__ == "PyDataset":
            return "PyDataset"
        if package.partition(".")[0] == "grain" and hasattr(value, "__iter__"):
            return "Grain"
        if package.startswith("torch.utils.data") and kind.__name__ == "DataLoader":
            return "PyTorch"
    return None


def unpacked(element: Any, where: str) -> Batch:
    """Returns the inputs by name, the targets and the weights of an element, as arrays.

    Raises:
        UserError: It is something other than a tuple of inputs and targets.
    """
    if not isinstance(element, tuple | list) or len(element) not in (2, 3):
        of = f" of {len(element)}" if isinstance(element, tuple | list) else ""
        raise UserError(
            f"{where} yields a {type(element).__name__}{of}; it must yield (inputs, targets) or (inputs, targets, "
            "weights)"
        )
    inputs, targets, *weights = element
    if isinstance(inputs, tuple | list):
        raise UserError(f"{where} yields {len(inputs)} inputs without names; yield a dict of them by name")
    if isinstance(targets, Mapping | tuple | list):
        raise UserError(f"{where} yields several targets; yield one, of shape (N,) or (N, columns)")
    named = inputs if isinstance(inputs, Mapping) else {ONLY: inputs}
    arrays = {str(name): np.asarray(values) for name, values in named.items()}
    return arrays, np.asarray(targets), np.asarray(weights[0]) if weights and weights[0] is not None else None


def is_batch(batch: Batch) -> bool:
    """Returns whether an element is a batch of rows, as all of its arrays have the same first axis."""
    inputs, targets, weights = batch
    arrays = [*inputs.values(), targets, *([] if weights is None else [weights])]
    return all(array.ndim > 0 for array in arrays) and len({array.shape[0] for array in arrays}) == 1


def stacked(rows: Iterator[Batch], size: int) -> Iterator[Batch]:
    """Yields batches of single rows; the last one may be smaller."""
    while some := list(itertools.islice(rows, size)):
        yield together(some, np.stack)


def together(batches: Sequence[Batch], join: Any = np.concatenate) -> Batch:
    """Returns batches as one."""
    inputs = {name: join([batch[0][name] for batch in batches]) for name in batches[0][0]}
    weights = None if batches[0][2] is None else join([batch[2] for batch in batches])
    return inputs, join([batch[1] for batch in batches]), weights
