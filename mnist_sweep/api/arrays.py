"""Arrays that are passed from Python, as the data set of a sweep."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.text import counted

# A part of a data set: inputs and targets, with a row for each example.
Part: TypeAlias = tuple[Any, Any]
# (x_train, y_train); ((x_train, y_train), (x_test, y_test)), as `keras.datasets.….load_data()` returns it; or a dict.
Data: TypeAlias = "Part | tuple[Part, Part] | Mapping[str, Any]"

_PARTS = ("train", "val", "test")
_NAMES = tuple(f"{kind}_{part}" for part in _PARTS for kind in "xy")
# The share of the rows that is held out if there is no test part.
_HELD_OUT = 0.2
_PAIR = 2


def as_arrays(
    data: Data | None, train: Part | None, test: Part | None, validation: Part | None = None
) -> dict[str, NDArray[Any]]:
    """Returns the arrays that a caller has passed, by their names in an `.npz`.

    Args:
        data: Both parts, or the training part alone.
        train: The training part, in place of `data`.
        test: The test part, in place of the one in `data`.
        validation: The part to validate on, in place of the one in `data`.

    Raises:
        UserError: They are something else, or are given twice.
    """
    if data is not None and train is not None:
        raise UserError("train: data is given too; pass only one of them")
    given = {} if data is None else _named(data)
    for which, part, passed in (("train", "train", train), ("validation", "val", validation), ("test", "test", test)):
        if passed is not None:
            inputs, targets = _pair(passed, which, f"(x_{part}, y_{part})")
            given |= {f"x_{part}": inputs, f"y_{part}": targets}
    for name in ("x_train", "y_train"):
        if name not in given:
            raise UserError(f"data: {name} is missing; pass data=(x_train, y_train)")
    arrays = {name: _array(name, value) for name, value in given.items()}
    for part in _PARTS:
        x, y = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
        if (x is None) != (y is None):
            missing = "x" if x is None else "y"
            raise UserError(f"data: {missing}_{part} is missing")
        if x is not None and y is not None and len(x) != len(y):
            raise UserError(f"data: x_{part} has {counted(len(x), 'row')}, but y_{part} has {len(y):,}")
    return arrays


def with_test_part(arrays: dict[str, NDArray[Any]], seed: int) -> tuple[dict[str, NDArray[Any]], str]:
    """Holds out a random part of the rows for the test of the winner, if the arrays have none.

    Args:
        arrays: As `as_arrays` returns them.
        seed: The seed of the choice.

    Returns:
        The arrays, and a line for the user; "" if nothing was held out.
    """
    if "x_test" in arrays:
        return arrays, ""
    x, y = arrays["x_train"], arrays["y_train"]
    order = np.random.default_rng(seed).permutation(len(x))
    count = max(1, int(len(x) * _HELD_OUT))
    # In their own order, so that a seed of the sweep shuffles them as it would without this.
    held_out, rest = np.sort(order[:count]), np.sort(order[count:])
    parts = {"x_train": x[rest], "y_train": y[rest], "x_test": x[held_out], "y_test": y[held_out]}
    line = (
        f"data: has no test part; {count:,} of the {counted(len(x), 'row')} are held out to test the best model. "
        "To pass one: test=(x_test, y_test)"
    )
    return {**arrays, **parts}, line


def save(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Writes arrays into an `.npz`, which `data=npz` reads.

    Raises:
        UserError: It cannot be written.
    """
    try:
        write_whole(path, functools.partial(np.savez, **arrays), flush=False)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _named(data: Data) -> dict[str, Any]:
    if isinstance(data, Mapping):
        unknown = [str(name) for name in data if name not in _NAMES]
        if unknown:
            raise UserError(f"data: has the key {unknown[0]}; the keys are {', '.join(_NAMES)}")
        return dict(data)
    first, second = _pair(data, "data", "(x_train, y_train) or ((x_train, y_train), (x_test, y_test))")
    if isinstance(first, tuple) and len(first) == _PAIR:
        x_test, y_test = _pair(second, "data", "((x_train, y_train), (x_test, y_test))")
        return {"x_train": first[0], "y_train": first[1], "x_test": x_test, "y_test": y_test}
    return {"x_train": first, "y_train": second}


def _pair(value: Any, name: str, wanted: str) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != _PAIR:
        raise UserError(f"{name}: is of type {type(value).__name__}; pass {wanted}")
    return value[0], value[1]


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise UserError(f"data: {name} cannot be converted to a NumPy array ({error})") from error
    if array.dtype == object or not array.ndim:
        raise UserError(
            f"data: {name} is of type {type(value).__name__}; pass a NumPy array with a row for each example"
        )
    # Labels of shape (N, 1), as `keras.datasets.cifar10` has them.
    return array[:, 0] if name.startswith("y_") and array.ndim == _PAIR and array.shape[1] == 1 else array
