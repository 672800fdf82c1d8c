"""Tells what arrays of targets are: classes, labels or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import counted, one_line
from mnist_sweep.data.schema import Target, TargetKind

Array = NDArray[Any]
# The targets of each part by the array's name, what they are, and notes.
_Read = tuple[dict[str, Array], Target, list[str]]

# More whole numbers than this, and more than one for ten rows, are numbers to predict rather than classes.
_FEW, _ROWS_PER_CLASS = 20, 10
# Classes or values to list in a message.
_LISTED = 5
_BEYOND_FLOAT32 = float(np.finfo(np.float32).max)


def read(arrays: Mapping[str, Array], where: str, wanted: TargetKind | None) -> _Read:
    """Tells what targets are, and brings them into their form.

    Args:
        arrays: The targets of each part by the array's name, those of the training part first: (N,) or (N, K), numbers
            or texts.
        where: The start of an error's message.
        wanted: The kind that the task needs; None to tell it from the training part.

    Returns:
        The targets of each part as `Target` describes them, what they are, and notes on what was taken for what.

    Raises:
        UserError: They are not of the kind that is wanted, or something is wrong with them.
    """
    columns = {name: _without_axis(_decoded(array, f"{where}: {name}")) for name, array in arrays.items()}
    (first, train), *others = columns.items()
    for name, array in others:
        if (array.dtype.kind == "U") != (train.dtype.kind == "U"):
            what = ("names", "numbers") if train.dtype.kind == "U" else ("numbers", "names")
            raise UserError(f"{where}: {first} contains {what[0]}, but {name} contains {what[1]}")
        if array.shape[1:] != train.shape[1:]:
            raise UserError(
                f"{where}: {first} has shape {arrays[first].shape}, but {name} has shape {arrays[name].shape}; they "
                "must have the same columns"
            )
    if train.ndim > 2 or train.ndim == 0 or 0 in train.shape[1:]:
        raise UserError(f"{where}: {first} has shape {arrays[first].shape}; targets must be (N,) or (N, columns)")
    reader = _Reader(columns, where, first, wanted)
    return reader.rows() if train.ndim == 1 else reader.matrices()


def _decoded(array: Array, where: str) -> Array:
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{where} has names that are not UTF-8 text") from None
    if array.dtype.kind not in "Ubuif":
        raise UserError(f"{where} has type {array.dtype}; targets must be numbers or names")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _without_axis(array: Array) -> Array:
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


class _Reader:
    """The targets of all parts, of one shape."""

    def __init__(self, arrays: dict[str, Array], where: str, first: str, wanted: TargetKind | None) -> None:
        self._arrays, self._where, self._first, self._wanted = arrays, where, first, wanted
        self._train = arrays[first]

    def rows(self) -> _Read:
        """Reads one value for each row: classes or numbers."""
        if self._wanted == "labels":
            raise UserError(
                f"{self._where}: {self._first} has one value for each row; for task=multilabel, it must be (N, "
                "labels), 1 for each label that a row has, else 0"
            )
        if self._train.dtype.kind == "U":
            if self._wanted == "numbers":
                raise UserError(f"{self._where}: {self._first} contains names; for task=regression, it must be numbers")
            return self._classes()
        for name, array in self._arrays.items():
            self._check_finite(name, array)
        if self._wanted is None:
            is_classes, note = self._looks_like_classes()
            if not is_classes:
                values, target, notes = self._numbers()
                return values, target, [*note, *notes]
        elif self._wanted == "numbers":
            return self._numbers()
        for name, array in self._arrays.items():
            if (array != np.floor(array)).any():
                raise UserError(
                    f"{self._where}: {name} must contain whole numbers, the classes 0, 1, 2 …; for other numbers, "
                    "write task=regression"
                )
        return self._classes()

    def _looks_like_classes(self) -> tuple[bool, list[str]]:
        train = self._train
        if (train != np.floor(train)).any():
            return False, []
        found = np.unique(train)
        in_a_row = bool(found[-1] - found[0] == len(found) - 1)
        few = len(found) <= max(_FEW, len(train) // _ROWS_PER_CLASS)
        if (in_a_row and (found[0] in (0, 1) or few)) or (few and train.dtype.kind != "f"):
            return True, []
        return False, [
            f"{self._where}: {self._first} has {len(found):,} different values from {found[0]:g} to {found[-1]:g}, "
            "read as numbers to predict; if they are classes, write task=classification"
        ]

    def _classes(self) -> _Read:
        found = np.unique(self._train)
        if len(found) == 1:
            raise UserError(f"{self._where}: there is only one class; at least two are needed")
        for name, array in self._arrays.items():
            unknown = array[~np.isin(array, found)]
            if len(unknown):
                raise UserError(
                    f"{self._where}: {name} has class {_shown(unknown[0])}, which {self._first} does not have"
                )
        numbers = {name: np.searchsorted(found, array).astype(np.int64) for name, array in self._arrays.items()}
        if found.dtype.kind != "U" and found[0] == 0 and found[-1] == len(found) - 1:
            return numbers, Target("classes", len(found)), []
        names = tuple(_shown(value) for value in found)
        what = "names" if found.dtype.kind == "U" else "labels"
        some = ", ".join(f"{one_line(name, 30)} is class {number}" for number, name in enumerate(names[:_LISTED]))
        more = " …" if len(names) > _LISTED else ""
        note = f"{self._where}: the {what} in {self._first} are numbered in their order: {some}{more}"
        return numbers, Target("classes", len(found), names), [note]

    def matrices(self) -> _Read:
        """Reads several values for each row: one-hot classes, labels or numbers."""
        size = int(self._train.shape[1])
        if self._train.dtype.kind == "U":
            raise UserError(f"{self._where}: {self._first} has {size} columns of names; save one name for each row")
        for name, array in self._arrays.items():
            self._check_finite(name, array)
        binary = all(bool(((array == 0) | (array == 1)).all()) for array in self._arrays.values())
        one_hot = binary and all(bool((array.sum(axis=1) == 1).all()) for array in self._arrays.values())
        wanted = self._wanted or ("classes" if one_hot else "labels" if binary else "numbers")
        if wanted == "numbers":
            return self._numbers()
        if wanted == "labels":
            if not binary:
                raise UserError(f"{self._where}: for task=multilabel, {self._first} must contain only 0 and 1")
            labels = {name: array.astype(np.float32) for name, array in self._arrays.items()}
            told = f"{self._where}: {self._first} is read as {size} labels, any number of which a row may have"
            return labels, Target("labels", size), [] if self._wanted else [told]
        if not one_hot:
            raise UserError(
                f"{self._where}: {self._first} has {size} columns; for classes, save one number or name for each row, "
                "or one-hot rows with a single 1"
            )
        classes = {name: array.argmax(axis=1).astype(np.int64) for name, array in self._arrays.items()}
        missing = np.setdiff1d(np.arange(size), classes[self._first])
        if len(missing):
            raise UserError(
                f"{self._where}: class {int(missing[0])} of 0..{size - 1} has no rows in {self._first}; remove its "
                "column"
            )
        note = f"{self._where}: {self._first} is one-hot, read as {counted(size, 'class', 'classes')}"
        return classes, Target("classes", size), [note]

    def _numbers(self) -> _Read:
        for name, array in self._arrays.items():
            if len(array) and float(np.abs(array.astype(np.float64)).max()) > _BEYOND_FLOAT32:
                raise UserError(f"{self._where}: {name} has numbers that do not fit into 32 bits; scale them")
        numbers = {name: array.astype(np.float32) for name, array in self._arrays.items()}
        columns = numbers[self._first].reshape(len(self._train), -1)
        for column in range(columns.shape[1]):
            if len(columns) and (columns[:, column] == columns[0, column]).all():
                which = "" if self._train.ndim == 1 else f" in column {column}"
                raise UserError(f"{self._where}: {self._first} is {columns[0, column]:g} in every row{which}")
        return numbers, Target("numbers", columns.shape[1]), []

    def _check_finite(self, name: str, array: Array) -> None:
        if not np.isfinite(array).all():
            raise UserError(f"{self._where}: {name} contains NaN or infinite values; remove these rows")


def _shown(value: Any) -> str:
    """Returns a class as users write it."""
    if isinstance(value, str):
        return str(value)
    return str(int(value)) if abs(float(value)) < 1e15 else f"{value:g}"
