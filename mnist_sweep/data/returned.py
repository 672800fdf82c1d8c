"""Tells what a user's function has returned: arrays, pandas frames, or a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import counted, first_line, one_line
from mnist_sweep.data import npz, stream, table
from mnist_sweep.data.dataset import LoadedData, PartName, array_name
from mnist_sweep.data.schema import ONLY, TargetKind
from mnist_sweep.data.stream import Source

Array = NDArray[Any]

_NAMES: dict[str, PartName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "test": "test",
}
_PAIR, _WITH_WEIGHTS = 2, 3
_ARRAYS = "arrays, pandas frames, " + stream.CALLED
_SHOWN = 5


def streams(value: Any, where: str) -> dict[PartName, Source] | None:
    """Returns the parts of a stream; None if the function has returned something else.

    Args:
        value: What the function has returned: `(train, validation)`, `(train, validation, test)`, or a dict of these.
        where: The start of an error's message.

    Raises:
        UserError: There is no part to train on, or none to validate on.
    """
    if stream.kind_of(value) is not None:
        raise UserError(f"{where} returned a stream without a validation part; return (train, validation)")
    given = _parts(value, ("train", "val", "test"), where)
    if given is None or not any(stream.kind_of(one) is not None for one in given.values()):
        return None
    for part, one in given.items():
        if stream.kind_of(one) is None:
            raise UserError(
                f"{where} returned {_a(one)} as its {_SPELT[part]} part; return {stream.CALLED} for all parts"
            )
    for part in ("train", "val"):
        if part not in given:
            raise UserError(f"{where} returned a stream without a {_SPELT[part]} part; return (train, validation)")
    return {part: Source(one, f"{where}: its {_SPELT[part]} part") for part, one in given.items()}


def load(value: Any, where: str, options: Mapping[str, Any], wanted: TargetKind | None) -> LoadedData:
    """Checks arrays or frames that a function has returned.

    Args:
        value: What it has returned.
        where: The start of an error's message.
        options: The group `data`, by key.
        wanted: The kind of target that the task needs; None to tell it from the data.

    Returns:
        The data, without a name.

    Raises:
        UserError: It is something else, or something is wrong with it.
    """
    if value is None:
        raise UserError(f"{where} returned None; end it with return, and {_ARRAYS}")
    for key in ("steps_per_epoch", "classes"):
        if options[key] is not None:
            raise UserError(f"data.{key}={options[key]}: is not used; {where} returned arrays or frames, not a stream")
    if isinstance(value, Mapping) and any(str(name).startswith(("x_train", "y_train")) for name in value):
        names, notes = npz.known_names(list(map(str, value)), where)
        arrays = {name: _array(value[name], name, where) for name in names}
        return _of_arrays(arrays, notes, where, options, wanted)
    parts = _parts(value, ("train", "test"), where)
    if parts is None or "train" not in parts:
        raise UserError(
            f"{where} returned {_a(value)}; return {_ARRAYS}, as (x, y), (train, test), (train, validation, test), or "
            "a dict of them"
        )
    if any(map(_is_frame, (one[0] if isinstance(one, tuple | list) else one for one in parts.values()))):
        return _of_frames(parts, where, options, wanted)
    arrays = {}
    for part, one in parts.items():
        if not isinstance(one, tuple | list) or len(one) not in (_PAIR, _WITH_WEIGHTS):
            raise UserError(f"{where} returned {_a(one)} as its {_SPELT[part]} part; return (x, y) or (x, y, weights)")
        x, y, *weights = one
        for name, values in x.items() if isinstance(x, Mapping) else ((ONLY, x),):
            key = array_name(part, str(name))
            arrays[key] = _array(values, key, where)
        arrays[f"y_{part}"] = _array(y, f"y_{part}", where)
        if weights and weights[0] is not None:
            arrays[f"w_{part}"] = _array(weights[0], f"w_{part}", where)
    names, notes = npz.known_names(list(arrays), where)
    return _of_arrays({name: arrays[name] for name in names}, notes, where, options, wanted)


_SPELT = {"train": "training", "val": "validation", "test": "test"}


def _parts(value: Any, of_pair: Sequence[PartName], where: str) -> dict[PartName, Any] | None:
    """Returns the parts by name; None if it is something else.

    Args:
        value: What the function has returned.
        of_pair: What two or three parts in a row are; of arrays, two are those to train and to test on, as Keras's data
            sets are, and three have those to validate on between them.
        where: The start of an error's message.
    """
    if _is_frame(value):
        return {"train": value}
    if isinstance(value, Mapping):
        if {"data", "target"} <= value.keys():
            # What scikit-learn's data sets are without `return_X_y`.
            return {"train": (value["data"], value["target"])}
        named = {part: one for name, one in value.items() if (part := _NAMES.get(str(name).lower())) is not None}
        if named and len(named) < len(value):
            other = next(str(name) for name in value if str(name).lower() not in _NAMES)
            raise UserError(f"{where} returned a dict with the key {one_line(other, 50)}; its keys are {_KEYS}")
        return named or None
    if not isinstance(value, tuple | list) or not 1 < len(value) <= _WITH_WEIGHTS:
        return None
    if all(map(_is_part, value)) or all(_is_frame(one) or stream.kind_of(one) is not None for one in value):
        names: Sequence[PartName] = of_pair if len(value) == _PAIR else ("train", "val", "test")
        # A frame with the columns to predict from, and one with those to predict.
        pair = len(value) == _PAIR and all(map(_is_frame, value)) and not set(value[0].columns) & set(value[1].columns)
        return {"train": value} if pair else dict(zip(names, value, strict=False))
    if any(stream.kind_of(one) is not None for one in value):
        return dict(zip(("train", "val", "test"), value, strict=False))
    return {"train": value}


def _is_part(value: Any) -> bool:
    """Returns whether a value is inputs, targets and perhaps weights, not rows of numbers."""
    is_tuple = isinstance(value, tuple | list) and len(value) in (_PAIR, _WITH_WEIGHTS)
    return is_tuple and all(hasattr(one, "__len__") for one in value if one is not None)


_KEYS = "train, validation, test, or x_train, y_train, x_val, y_val, x_test, y_test, w_train, w_val and w_test"


# ---- arrays -------------------------------------------------------------------------------------------------------


def _of_arrays(
    arrays: dict[str, Array], notes: list[str], where: str, options: Mapping[str, Any], wanted: TargetKind | None
) -> LoadedData:
    for key in ("target", "features", "drop", "categories", "text", "group", "time"):
        if options.get(key):
            raise UserError(
                f"data.{key}={options[key]}: names a column, but {where} returned arrays, not a pandas frame"
            )
    return replace(npz.checked("", where, arrays, wanted, notes), name="", source="")


def _array(value: Any, name: str, where: str) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise UserError(f"{where}: {name} cannot be converted to an array ({first_line(error)})") from error
    if array.dtype.kind == "O":
        texts = np.array([str(one) for one in array.flat]).reshape(array.shape)
        if name.startswith("y_") and all(isinstance(one, str) for one in array.flat):
            return texts
        raise UserError(
            f"{where}: {name} is {_a(value)} of Python objects; return numbers of one type, with the same shape in "
            "each row"
        )
    return np.array(array, dtype=array.dtype.newbyteorder("="), copy=None)


# ---- frames -------------------------------------------------------------------------------------------------------


def _of_frames(
    parts: Mapping[PartName, Any], where: str, options: Mapping[str, Any], wanted: TargetKind | None
) -> LoadedData:
    frames, targets = dict[PartName, table.Frame](), list[str]()
    for part, one in parts.items():
        rows, y, weights = (*one, None, None)[:3] if isinstance(one, tuple | list) else (one, None, None)
        about = f"{where}: its {_SPELT[part]} part" if len(parts) > 1 else where
        if not _is_frame(rows):
            raise UserError(f"{about} is {_a(rows)}; return a pandas frame, as for the other parts")
        frame, targets = _with_targets(rows, y, about, targets)
        if not len(frame):
            raise UserError(f"{about} has no rows")
        frames[part] = table.Frame(frame, about, _weights(weights, len(frame), about))
    given = options["target"]
    if targets and given:
        raise UserError(f"data.target={given}: {where} returned the targets separately; remove this key")
    if not targets and not given:
        names = one_line(", ".join(frames["train"].rows.columns[:_SHOWN]), 200)
        raise UserError(
            f"data.target=null: {where} returned a pandas frame; name the column to predict (it has {names} …)"
        )
    return table.from_frames(frames, table.Options.of({**options, "target": targets or given}), wanted)


def _with_targets(rows: Any, y: Any, about: str, names: list[str]) -> tuple[Any, list[str]]:
    """Returns a frame with the columns to predict, and their names; `names` are those of the first part."""
    import pandas as pd

    frame = rows.reset_index(drop=True)
    frame.columns = [str(name) for name in frame.columns]
    twice = [name for name in frame.columns if list(frame.columns).count(name) > 1]
    if twice:
        raise UserError(f"{about} has two columns called {one_line(twice[0], 50)}")
    if y is None:
        return frame, []
    if len(y) != len(frame):
        raise UserError(f"{about} has {counted(len(frame), 'row')}, but {counted(len(y), 'target')}")
    if isinstance(y, pd.DataFrame):
        targets = y.reset_index(drop=True)
        targets.columns = [str(name) for name in targets.columns]
    else:
        values = np.asarray(y)
        columns = values[:, np.newaxis] if values.ndim == 1 else values
        single = "target" if getattr(y, "name", None) is None else str(y.name)
        called = [single] if columns.shape[1] == 1 else [f"{single}_{i}" for i in range(columns.shape[1])]
        targets = pd.DataFrame({name: columns[:, i] for i, name in enumerate(called)})
    if names:
        targets.columns = names
    if both := [name for name in targets.columns if name in frame.columns]:
        raise UserError(f"{about} has a column {one_line(both[0], 50)!r} in both its columns and its targets")
    return pd.concat([frame, targets], axis=1), list(targets.columns)


def _weights(weights: Any, rows: int, about: str) -> Array | None:
    if weights is None:
        return None
    found = _array(weights, "weights", about).reshape(-1)
    if len(found) != rows or found.dtype.kind not in "buif":
        raise UserError(f"{about}: weights must be one number for each of the {rows:,} rows")
    numbers = found.astype(np.float32)
    if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.any():
        raise UserError(f"{about}: weights must be numbers of 0 or more, not all of them 0")
    return numbers


def _is_frame(value: Any) -> bool:
    """Returns whether a value is a pandas frame, without an import of pandas."""
    return any(kind.__name__ == "DataFrame" and kind.__module__.startswith("pandas") for kind in type(value).__mro__)


def _a(value: Any) -> str:
    """Describes a value by its type: `a tuple of 4`."""
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0].lower() in "aeiou" or name == "ndarray" else "a"
    return f"{article} {name} of {len(value)}" if isinstance(value, tuple | list) else f"{article} {name}"
