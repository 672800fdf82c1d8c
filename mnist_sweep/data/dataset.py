"""A data set in memory: its rows, and how they are split for training, validation and testing."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.text import counted
from mnist_sweep.data.schema import ONLY, Schema
from mnist_sweep.data.stream import Stream

Array = NDArray[Any]
PartName = Literal["train", "val", "test"]
_PARTS: tuple[PartName, ...] = ("train", "val", "test")
_SCHEMA, _SEED, _GROUPS, _STREAM = "schema.json", "seed.npy", "groups.npy", "stream.json"
# The test rows are the same in all sweeps on the same data, whatever their seed.
_TEST_SEED = 0


@dataclass(frozen=True)
class Rows:
    """Rows of a data set.

    Attributes:
        inputs: The inputs by name, each (N, …), as the schema says.
        targets: (N,) or (N, K), as the schema says.
        weights: (N,), float32, how much each row counts; None if all count alike.
    """

    inputs: Mapping[str, Array]
    targets: Array
    weights: Array | None = None

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.targets)

    def take(self, indices: Array) -> Rows:
        """Returns some of the rows."""
        weights = None if self.weights is None else self.weights[indices]
        return Rows({name: array[indices] for name, array in self.inputs.items()}, self.targets[indices], weights)

    @property
    def x(self) -> Array:
        """The only input."""
        (array,) = self.inputs.values()
        return array

    def arrays(self, part: PartName) -> Iterator[tuple[str, Array]]:
        """Yields the arrays with their names: `x_train`, or `x_train_NAME` for one of several inputs, and `y_train`."""
        for name, array in self.inputs.items():
            yield array_name(part, name), array
        yield f"y_{part}", self.targets
        if self.weights is not None:
            yield f"w_{part}", self.weights


@dataclass(frozen=True)
class LoadedData:
    """A data set, checked but not split.

    Attributes:
        name: Its name.
        source: Where it was read from.
        schema: Its inputs and its target.
        train: The rows to train and validate on.
        test: The rows to test the winner on; None if they are to be held out of `train`.
        validation: The rows to validate on; None if they are to be held out of `train`.
        groups: (N of `train`,), int64: rows of the same group are never on both sides of a split; None if it does not
            matter.
        ordered: Whether `train` is sorted by time, so that the latest rows are held out.
        fallback: The name of the requested data set, if this one replaces it.
        notes: What the user should know about how the data were read; a line each.
        stream: Where the rows come from if they do not fit into memory; `train`, `validation` and `test` are then some
            of the first ones. None if they are all.
        validation_groups: (N of `validation`,), int64, the same as `groups` for those rows; None if each is a group by
            itself.
    """

    name: str
    source: str
    schema: Schema
    train: Rows
    test: Rows | None
    validation: Rows | None = None
    groups: Array | None = None
    ordered: bool = False
    fallback: str | None = None
    notes: tuple[str, ...] = ()
    stream: Stream | None = None
    validation_groups: Array | None = None

    def digest(self) -> str:
        """Returns 32 hexadecimal digits that change with any value of any row; of a stream, with what is known."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        if self.stream is not None:
            # Its rows may come in another order each time.
            digest.update(f"{self.schema.to_json()} {self.stream.identity()}".encode())
            return digest.hexdigest()
        parts: tuple[tuple[PartName, Rows | None], ...] = (
            ("train", self.train),
            ("test", self.test),
            ("val", self.validation),
        )
        named = [(name, array) for part, rows in parts if rows is not None for name, array in rows.arrays(part)]
        of_rows = (("groups", self.groups), ("validation_groups", self.validation_groups))
        named += [(name, array) for name, array in of_rows if array is not None]
        for name, array in named:
            digest.update(f"{name} {array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).data)
        vocabularies = (one for given in self.schema.inputs.values() for one in given.vocabularies)
        names = [*self.schema.target.names, *itertools.chain.from_iterable(vocabularies)]
        if names:
            digest.update("\0".join(names).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A data set split into rows for training, for validation (may be empty) and for testing.

    Attributes:
        schema: Its inputs and its target.
        train: To train on.
        validation: To validate on; may be empty.
        test: To test the winner on.
        seed: Decided the split.
        groups: (N of `train` and `validation` together,), int64, as in `LoadedData`.
        stream: As in `LoadedData`.
    """

    schema: Schema
    train: Rows
    validation: Rows
    test: Rows
    seed: int
    groups: Array | None = None
    stream: Stream | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows of each part, `train`, `val` and `test`; without those that are not known."""
        if self.stream is not None:
            return {part: self.stream.rows[part] for part in _PARTS if part in self.stream.rows}
        return {"train": len(self.train), "val": len(self.validation), "test": len(self.test)}

    @property
    def has_test(self) -> bool:
        """Whether there are rows to test the winner on."""
        return len(self.test) > 0

    def save(self, folder: Path) -> None:
        """Saves the arrays as `.npy` files, which worker processes map into memory."""
        for part, rows in zip(_PARTS, (self.train, self.validation, self.test), strict=True):
            write_rows(folder, part, rows)
        _write(folder / _SEED, np.asarray(self.seed))
        if self.groups is not None:
            _write(folder / _GROUPS, self.groups)
        write_whole(folder / _SCHEMA, self.schema.to_json(), flush=False)
        if self.stream is not None:
            write_whole(folder / _STREAM, self.stream.to_json(), flush=False)

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Maps the arrays that `save` wrote into memory; each is read when it is used."""
        schema = Schema.from_json((folder / _SCHEMA).read_text())
        train, validation, test = (open_rows(folder, schema, part) for part in _PARTS)
        groups = _map(folder / _GROUPS) if (folder / _GROUPS).exists() else None
        stream = Stream.from_json((folder / _STREAM).read_text()) if (folder / _STREAM).exists() else None
        return cls(schema, train, validation, test, int(np.load(folder / _SEED, allow_pickle=False)), groups, stream)


def write_rows(folder: Path, part: PartName, rows: Rows) -> None:
    """Saves the arrays of a part as `.npy` files.

    Raises:
        OSError: They cannot be written.
    """
    for name, value in rows.arrays(part):
        _write(folder / f"{name}.npy", value)


def open_rows(folder: Path, schema: Schema, part: PartName) -> Rows:
    """Maps the arrays of a part into memory."""
    inputs = {name: _map(folder / f"{array_name(part, name)}.npy") for name in schema.inputs}
    weights = folder / f"w_{part}.npy"
    return Rows(inputs, _map(folder / f"y_{part}.npy"), _map(weights) if weights.exists() else None)


def array_name(part: PartName, name: str) -> str:
    """Returns the name of a part's array of an input: `x_train`, or `x_train_NAME` for one of several inputs."""
    return f"x_{part}" if name == ONLY else f"x_{part}_{name}"


def _map(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _write(path: Path, array: Array) -> None:
    write_whole(path, functools.partial(np.save, arr=array, allow_pickle=False), flush=False)


# ---- splitting --------------------------------------------------------------------------------------------------


def with_test(data: LoadedData, fraction: float) -> LoadedData:
    """Holds a part of the rows out for testing, if the data have no test part of their own.

    Args:
        data: The data.
        fraction: The fraction to hold out, above 0. Which rows they are depends on the data only.

    Raises:
        UserError: There are too few rows.
    """
    if data.test is not None or data.stream is not None:
        return data
    held_out = _held_out(data, fraction, _TEST_SEED)
    if not held_out.any():
        raise UserError(f"data {data.source}: too few rows to hold out any for testing; pass more, or a test part")
    groups = None if data.groups is None else data.groups[~held_out]
    return replace(data, train=data.train.take(~held_out), test=data.train.take(held_out), groups=groups)


def split(data: LoadedData, fraction: float, seed: int) -> Dataset:
    """Holds a part of the training rows out for validation; the test rows are not looked at.

    Args:
        data: The data, with a test part.
        fraction: The fraction to hold out, in 0..0.9; of each class, if there are classes: of two rows or more, at
            least one is held out and at least one is kept. Not used if the data have a validation part of their own.
        seed: The only thing that decides which rows are held out.

    Raises:
        UserError: There are too few rows.
    """
    if data.stream is not None:
        assert data.validation is not None
        test = data.train.take(np.arange(0)) if data.test is None else data.test
        return Dataset(data.schema, data.train, data.validation, test, seed, stream=data.stream)
    assert data.test is not None
    if data.validation is not None:
        groups = None if data.groups is None else np.concatenate([data.groups, _validation_groups(data)])
        return Dataset(data.schema, data.train, data.validation, data.test, seed, groups)
    held_out = _held_out(data, fraction, seed)
    if fraction > 0 and not held_out.any():
        what = "one image per class is" if data.schema.image else "these rows are"
        raise UserError(f"data {data.source}: {what} too few to hold out any for validation")
    groups = None if data.groups is None else np.concatenate([data.groups[~held_out], data.groups[held_out]])
    return Dataset(data.schema, data.train.take(~held_out), data.train.take(held_out), data.test, seed, groups)


def _validation_groups(data: LoadedData) -> Array:
    """Returns the groups of the rows of a validation part."""
    if data.validation_groups is not None:
        return data.validation_groups
    assert data.groups is not None
    assert data.validation is not None
    return int(data.groups.max(initial=-1)) + 1 + np.arange(len(data.validation))


def _held_out(data: LoadedData, fraction: float, seed: int) -> Array:
    """Returns which of the training rows to hold out, (N,), bool."""
    count = len(data.train)
    held_out = np.zeros(count, dtype=bool)
    if fraction <= 0:
        return held_out
    if data.ordered:
        # At least one row on either side.
        held_out[count - min(max(round(fraction * count), 1), count - 1) :] = True
        return held_out
    rng = np.random.default_rng(seed)
    if data.groups is not None:
        groups = rng.permutation(np.unique(data.groups))
        if data.validation_groups is not None:
            # Those that are also among the rows to validate on last, as they would be on both sides.
            groups = groups[np.argsort(np.isin(groups, data.validation_groups), kind="stable")]
        sizes = np.cumsum([np.count_nonzero(data.groups == group) for group in groups])
        chosen = int(np.searchsorted(sizes, fraction * count)) + 1
        held_out[np.isin(data.groups, groups[: min(chosen, len(groups) - 1)])] = True
        return held_out
    if data.schema.target.kind == "classes":
        strata = [np.flatnonzero(data.train.targets == label) for label in range(data.schema.target.size)]
    else:
        strata = [np.arange(count)]
    for members in strata:
        number = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out[rng.permutation(members)[: max(number, 0)]] = True
    return held_out


def folds(labels: Array | None, rows: int, count: int, seed: int, groups: Array | None = None) -> Array:
    """Assigns rows to folds for cross-validation; the folds differ by at most one row per class.

    This is what scikit-learn's `StratifiedKFold`, `KFold` and `GroupKFold(shuffle=True)` do, which take a second and
    150 MB to import in each worker.

    Args:
        labels: (N,), the class of each row; None if there are no classes.
        rows: N.
        count: The number of folds.
        seed: The only thing that decides which row is in which fold.
        groups: (N,), rows of the same group are in the same fold; None if it does not matter.

    Returns:
        (N,), the fold of each row, counted from 1.

    Raises:
        UserError: There are fewer rows, or groups, than folds.
    """
    kinds = rows if groups is None else len(np.unique(groups))
    if kinds < count:
        what = counted(rows, "row") if groups is None else counted(kinds, "group")
        raise UserError(f"folds={count}: only {what} to train and validate on")
    rng = np.random.default_rng(seed)
    fold = np.empty(rows, dtype=np.int64)
    if groups is not None:
        names, sizes = np.unique(groups, return_counts=True)
        filled = np.zeros(count, dtype=np.int64)
        order = rng.permutation(len(names))
        # The largest groups first, each into the fold with the fewest rows; groups of a size in random order.
        for i in order[np.argsort(-sizes[order], kind="stable")]:
            smallest = int(np.argmin(filled))
            filled[smallest] += sizes[i]
            fold[groups == names[i]] = smallest + 1
        return fold
    if labels is None:
        ordered = rng.permutation(rows)
    else:
        ordered = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    # Counting continues from class to class, to make the folds equally large.
    fold[ordered] = np.arange(rows) % count + 1
    return fold
