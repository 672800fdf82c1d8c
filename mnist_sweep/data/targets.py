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
# Whole numbers up to this are exact in 32 bits.
_EXACT = 2**24
# The most different whole numbers that the places of an array may have to be classes.
_MOST_CLASSES = 256


def read_outputs(
    arrays: Mapping[str, Mapping[str, Array]], where: str, wanted: TargetKind | None
) -> tuple[dict[str, Array], Target, list[str]]:
    """Tells what the targets of one or several outputs are, and brings them into their form.

    Args:
        arrays: For each output by its name, which is "" for the only one, the targets of each part by the array's name,
            those of the training part first; the parts are the same for all outputs.
        where: The start of an error's message.
        wanted: The kind that the task needs; None to tell it from the training part.

    Returns:
        The targets of each part, what they are, and notes. The targets' keys are the names of the arrays of the first
        output.

    Raises:
        UserError: They are not of the kind that is wanted, or something is wrong with them.
    """
    if list(arrays) == [""]:
        return read(arrays[""], where, wanted)
    keys = list(next(iter(arrays.values())))
    parts, columns, notes = dict[str, Target](), list[dict[str, Array]](), list[str]()
    for name, of_parts in arrays.items():
        values, parts[name], told = read(of_parts, where, None)
        notes += told
        in_order = [values[key] for key in of_parts]
        columns.append({key: one.reshape(len(one), -1) for key, one in zip(keys, in_order, strict=True)})
        for key, one in columns[-1].items():
            if len(one) != len(columns[0][key]):
                raise UserError(
                    f"{where}: {list(of_parts)[keys.index(key)]} has {counted(len(one), 'row')}, but {key} has "
                    f"{len(columns[0][key]):,}"
                )
            if float(np.abs(one).max(initial=0)) > _EXACT and one.dtype.kind in "iu":
                raise UserError(f"{where}: the targets of {name} have whole numbers above {_EXACT:,}")
    joined = {key: np.concatenate([one[key].astype(np.float32) for one in columns], axis=1) for key in keys}
    return joined, Target("several", joined[keys[0]].shape[1], parts=parts), notes


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
    if train.ndim == 0 or 0 in train.shape[1:]:
        raise UserError(f"{where}: {first} has shape {arrays[first].shape}; targets must have values for each row")
    reader = _Reader(columns, where, first, wanted)
    if train.ndim > 2:
        return reader.any_shape()
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

    def any_shape(self) -> _Read:
        """Reads an array for each row, such as a mask: the class of each place, or numbers."""
        for name, array in self._arrays.items():
            if array.dtype.kind == "U":
                raise UserError(f"{self._where}: {name} has shape {array.shape} and contains text; use numbers")
            self._check_finite(name, array)
        shape = self._train.shape[1:]
        whole = all(array.dtype.kind in "iu" or not (array % 1).any() for array in self._arrays.values())
        found = np.unique(self._train) if whole else np.zeros(0)
        if not whole or not 1 < len(found) <= _MOST_CLASSES:
            self._check_float32()
            if (self._train == self._train.flat[0]).all():
                raise UserError(f"{self._where}: {self._first} is {self._train.flat[0]:g} everywhere")
            numbers = {name: array.astype(np.float32) for name, array in self._arrays.items()}
            return numbers, Target("array", 0, shape=shape), []
        for name, array in self._arrays.items():
            unknown = np.setdiff1d(array, found)
            if len(unknown):
                raise UserError(
                    f"{self._where}: {name} has {_shown(unknown[0])}, which does not occur in {self._first}; it "
                    f"has the classes {_shown(found[0])} to {_shown(found[-1])}"
                )
        classes = {name: np.searchsorted(found, array).astype(np.uint8) for name, array in self._arrays.items()}
        in_order = found[0] == 0 and found[-1] == len(found) - 1
        names = () if in_order else tuple(_shown(value) for value in found)
        some = ", ".join(f"{value} is class {number}" for number, value in enumerate(names[:_LISTED]))
        note = f"{self._where}: the values of {self._first} are numbered in order: {some}"
        target = Target("array", len(found), names, shape)
        return classes, target, [note + (" …" if len(names) > _LISTED else "")] if names else []

    def _check_float32(self) -> None:
        for name, array in self._arrays.items():
            if len(array) and float(np.abs(array.astype(np.float64)).max()) > _BEYOND_FLOAT32:
                raise UserError(f"{self._where}: {name} has numbers that do not fit into 32 bits; scale them")

    def _numbers(self) -> _Read:
        self._check_float32()
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
