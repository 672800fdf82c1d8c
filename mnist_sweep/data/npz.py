"""Reads a user's arrays from an `.npz` file (`data=npz`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import Header
from mnist_sweep.common.text import counted
from mnist_sweep.data import images, targets
from mnist_sweep.data.dataset import LoadedData, PartName, Rows, array_name
from mnist_sweep.data.schema import ONLY, Input, InputKind, Schema, TargetKind

Array = NDArray[Any]
Arrays = dict[str, Array]
# `x_train`, `x_train_NAME`, `y_train`, `y_train_NAME`, `w_train`; and the same for the other parts.
_NAME = re.compile(r"(?:([xy])_(train|val|test)(?:_(\w+))?|(w)_(train|val|test))")
_PARTS: tuple[PartName, ...] = ("train", "val", "test")
_WHITE_8, _WHITE_16 = 255, 65535


def load(given: str, wanted: TargetKind | None) -> LoadedData:
    """Loads and checks the arrays of an `.npz` file, or the images of four IDX files.

    The arrays are `x_train` and `y_train`; optionally `x_test` and `y_test`, `x_val` and `y_val`, and the rows' weights
    `w_train`, `w_val` and `w_test`. Several inputs are `x_train_NAME`, and so on. Which rows are images, and which
    targets are classes, is told from shapes and values.

    Args:
        given: The file, or the folder of the IDX files.
        wanted: The kind of target that the task needs; None to tell it from the data.

    Raises:
        UserError: It cannot be read, or something is wrong with the arrays.
    """
    try:
        path = images.find(given)
        where, about = f"data.path={path}", f"data.path={given}"
        if path.is_dir():
            return checked(given, about, images.idx_folder(path), wanted, [])
        arrays, notes = _read(path, where)
        return checked(given, about, arrays, wanted, notes)
    except MemoryError:
        raise UserError("data=npz: needs more memory than this machine has") from None


def _read(path: Path, where: str) -> tuple[Arrays, list[str]]:
    with images.open_npz(path, where) as archive:
        known, notes = known_names(archive.names, where)
        # The headers are checked before gigabytes are read.
        _check_headers(where, {name: archive.header(name) for name in known})
        return archive.read(known, images.COPIES), notes


_CALLED = (
    "x_train, y_train, x_val, y_val, x_test, y_test, w_train, w_val, w_test, or x_train_NAME for several inputs and "
    "y_train_NAME for several outputs"
)


def _check_names(known: Sequence[str], names: Sequence[str], where: str) -> None:
    """Checks that no part lacks an array.

    Args:
        known: The names that mean something.
        names: All names, for messages.
        where: The start of an error's message.
    """
    inputs, outputs = _inputs(known), _outputs(known)
    for part in _PARTS:
        used = part == "train" or any(_part(name) == part for name in known if not name.startswith("w_"))
        missing = [
            name
            for name in (
                *(array_name(part, one) for one in inputs or [ONLY]),
                *(target_name(part, one) for one in outputs or [""]),
            )
            if name not in known
        ]
        if used and missing:
            found = images.listed(list(names)) or "none"
            raise UserError(f"{where}: has no array {missing[0]}; it has {found}")
    if ONLY in inputs and len(inputs) > 1:
        other = next(name for name in inputs if name != ONLY)
        raise UserError(
            f"{where}: has both x_train and x_train_{other}; give each of several inputs a name: x_train_image"
        )
    if "" in outputs and len(outputs) > 1:
        other = next(name for name in outputs if name)
        raise UserError(
            f"{where}: has both y_train and y_train_{other}; give each of several outputs a name: y_train_mask"
        )


def known_names(names: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """Returns the names of arrays that mean something, and a note on those that do not.

    Raises:
        UserError: A part lacks an array.
    """
    known = [name for name in names if _NAME.fullmatch(name)]
    _check_names(known, names, where)
    others = [name for name in names if name not in known]
    note = f"{where}: not used: {images.listed(others)}; arrays are called {_CALLED}"
    return known, [note] if others else []


def _inputs(names: Sequence[str]) -> list[str]:
    """Returns the names of the inputs in any part, in the order of the arrays; the only one is `x`."""
    found = [match[3] or ONLY for name in names if (match := _NAME.fullmatch(name)) and match[1] == "x"]
    return list(dict.fromkeys(found))


def _outputs(names: Iterable[str]) -> list[str]:
    """Returns the names of the outputs in any part, in the order of the arrays; the only one is ""."""
    found = [match[3] or "" for name in names if (match := _NAME.fullmatch(name)) and match[1] == "y"]
    return list(dict.fromkeys(found))


def target_name(part: str, output: str) -> str:
    """Returns the name of a part's array of targets: `y_train`, or `y_train_NAME` for one of several outputs."""
    return f"y_{part}_{output}" if output else f"y_{part}"


def _part(name: str) -> str:
    return name.split("_")[1]


def _check_headers(where: str, arrays: Mapping[str, Array | Header]) -> None:
    """Checks shapes and types, without any values."""
    output = (_outputs(arrays) or [""])[0]
    for name, array in arrays.items():
        labels = target_name(_part(name), output)
        if name.startswith("x_"):
            if len(array.shape) == 0 or 0 in array.shape:
                raise UserError(
                    f"{where}: {name} has shape {array.shape}; images must be (N, height, width) or "
                    "(N, height, width, channels), and other rows (N, numbers)"
                )
            if array.dtype.kind not in "buif":
                raise UserError(
                    f"{where}: {name} has type {array.dtype}; images must be numbers, and so must other rows"
                )
            if len(arrays[labels].shape) and array.shape[0] != arrays[labels].shape[0]:
                rows, what = ("image", "label") if len(array.shape) in (3, 4) else ("row", "target")
                raise UserError(
                    f"{where}: {name} has {counted(array.shape[0], rows)}, but {labels} has "
                    f"{counted(arrays[labels].shape[0], what)}"
                )
        elif name.startswith("y_") and len(array.shape) == 0:
            raise UserError(f"{where}: {name} has shape (); labels must be one number for each image")
        elif name.startswith("w_"):
            if labels not in arrays:
                raise UserError(f"{where}: has {name}, but no {labels}")
            if array.shape not in (arrays[labels].shape[:1], (*arrays[labels].shape[:1], 1)):
                raise UserError(
                    f"{where}: {name} has shape {array.shape}; weights must be one number for each of the "
                    f"{arrays[labels].shape[0]:,} rows"
                )
            if array.dtype.kind not in "buif":
                raise UserError(f"{where}: {name} has type {array.dtype}; weights must be numbers")


def checked(given: str, where: str, arrays: Arrays, wanted: TargetKind | None, notes: list[str]) -> LoadedData:
    """Tells what arrays are, and brings them into their form.

    Args:
        given: Where they are from.
        where: The start of an error's message.
        arrays: The arrays by their names; those of each part that there is are complete.
        wanted: The kind of target that the task needs; None to tell it from the data.
        notes: What the user should know, in lines.

    Raises:
        UserError: Something is wrong with them.
    """
    _check_headers(where, arrays)
    outputs = _outputs(arrays)
    parts = [part for part in _PARTS if target_name(part, outputs[0]) in arrays]
    inputs: dict[str, Input] = {}
    for name in _inputs(list(arrays)):
        of_parts = {array_name(part, name): arrays.pop(array_name(part, name)) for part in parts}
        read, kind, told = read_input(of_parts, where)
        arrays |= read
        notes += told
        inputs[name] = Input(kind, read[array_name("train", name)].shape[1:])
    of_outputs = {one: {name: arrays[name] for part in parts if (name := target_name(part, one))} for one in outputs}
    y, target, told = targets.read_outputs(of_outputs, where, wanted)
    notes += told
    weights = {part: _weights(arrays, part, where) for part in parts}
    rows = {
        part: Rows(
            {name: arrays[array_name(part, name)] for name in inputs}, y[target_name(part, outputs[0])], weights[part]
        )
        for part in parts
    }
    if "val" in rows:
        notes.append(f"{where}: validates on the {len(rows['val']):,} rows of x_val, not on data.validation_split")
    return LoadedData(
        "npz", given, Schema(inputs, target), rows["train"], rows.get("test"), rows.get("val"), notes=tuple(notes)
    )


def _weights(arrays: Arrays, part: str, where: str) -> Array | None:
    name = f"w_{part}"
    if name not in arrays:
        return None
    weights = arrays[name].reshape(-1).astype(np.float32)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise UserError(f"{where}: {name} must contain weights of 0 or more, without NaN or infinite values")
    if not weights.any():
        raise UserError(f"{where}: all weights in {name} are 0")
    return weights


# ---- inputs -----------------------------------------------------------------------------------------------------


def read_input(arrays: Arrays, where: str) -> tuple[Arrays, InputKind, list[str]]:
    """Tells what the rows of an input are.

    Args:
        arrays: The input's arrays of all parts by name: `x_train`.
        where: The start of an error's message.

    Returns:
        The arrays in their form, `image` or `array`, and notes.

    Raises:
        UserError: They cannot be used, or differ in shape or scale.
    """
    if any(array.ndim not in (3, 4) for array in arrays.values()):
        return _as_numbers(arrays, where), "array", []
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{where}: {name} contains NaN or infinite values")
    ranges = {name: (array.min(), array.max()) for name, array in arrays.items()}
    outside = [
        name
        for name, (least, most) in ranges.items()
        if arrays[name].dtype.kind != "b" and not 0 <= least <= most <= 255
    ]
    if not outside:
        pixels, notes = images.to_pixels(arrays, where)
        return pixels, "image", notes
    least, most = ranges[outside[0]]
    range_of = f"{outside[0]} ranges from {least} to {most}"
    if all(array.dtype == np.uint16 for array in arrays.values()):
        scaled = {name: array.astype(np.float32) / np.float32(_WHITE_16) for name, array in arrays.items()}
        pixels, notes = images.to_pixels(scaled, where)
        told = f"{where}: {range_of} and has 16 bits; it is scaled from 0..{_WHITE_16} to 0..1"
        return pixels, "image", [told, *notes]
    if any(array.dtype.kind != "f" for array in arrays.values()):
        raise UserError(
            f"{where}: {range_of}; pixels must be in 0..1 or 0..255, or of type uint16 in all parts; to train on these "
            f"numbers as they are, save all parts as float32: {outside[0]}.astype('float32')"
        )
    moved, notes = images.with_channels_last(arrays, where)
    numbers = _as_numbers(moved, where)
    advice = "" if numbers[outside[0]].ndim == 4 else f"; for model=cnn, save {outside[0]}[..., np.newaxis]"
    told = (
        f"{where}: {outside[0]} ranges from {least:.4g} to {most:.4g}, so it is read as numbers, not as pixels, and "
        f"used as it is{advice}"
    )
    return numbers, "array", [told, *notes]


def white_of(arrays: Sequence[Array]) -> float:
    """Returns the number that a white pixel has in images that `read_input` takes as such."""
    brightest = max(float(array.max()) for array in arrays)
    return 1.0 if brightest <= 1 else float(_WHITE_16) if brightest > _WHITE_8 else float(_WHITE_8)


def read_like(array: Array, name: str, given: Input, where: str) -> Array:
    """Reads an input as the same input of the data that a model was trained on.

    Args:
        array: (N, …).
        name: Its name, for messages.
        given: What it is.
        where: The start of an error's message.

    Returns:
        (N, …), as `given` says.

    Raises:
        UserError: It has another shape, or other values.
    """
    if array.dtype.kind not in "buif" or 0 in array.shape:
        what = f"has type {array.dtype}" if 0 not in array.shape else "is empty"
        raise UserError(f"{where}: {name} {what}; it must contain numbers")
    if given.kind == "image":
        read, kind, _ = read_input({name: array}, where)
        if kind != "image":
            raise UserError(f"{where}: {name} has values outside of 0..1 and 0..255; the model takes pixels")
    elif array.ndim == 4 and array.shape[1:] != given.shape:
        read = _as_numbers(images.with_channels_last({name: array}, where)[0], where)
    else:
        read = _as_numbers({name: array}, where)
    found = read[name]
    if found.shape[1:] != given.shape:
        wanted = ", ".join(map(str, given.shape))
        raise UserError(f"{where}: {name} has shape {array.shape}; the model takes (N, {wanted})")
    return found


def _as_numbers(arrays: Arrays, where: str) -> Arrays:
    found: Arrays = {}
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise UserError(f"{where}: {name} contains NaN or infinite values, or numbers that do not fit into 32 bits")
        found[name] = numbers[:, np.newaxis] if numbers.ndim == 1 else numbers
    images.check_one_shape(found, where)
    return found
