"""Saved models: loading, asking, converting."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import h5py
import keras
import numpy as np

from mnist_sweep.common import reading
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line
from mnist_sweep.data.images import Array, to_float
from mnist_sweep.training import backends

_BATCH = 1024


def load(path: Path) -> keras.Model:
    """Loads a `.h5` or `.keras` file, not compiled; code inside it is refused (Keras's safe mode).

    Libraries that parse such files can crash on damaged ones. So what was written with a digest is to be compared with
    that first (`reading.check_digest`).

    Raises:
        UserError: It is not a file, not a model, damaged, has code in it, or takes more memory than there is.
    """
    with reading.open_file(path, str(path)) as file:
        try:
            needed = _declared(file)
        except Exception as error:
            raise _unloadable(path, error) from error
    reading.check_fits(needed, str(path))
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise _unloadable(path, error) from error


def _unloadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be loaded as a model ({first_line(error, 300)})")


def _declared(file: BufferedReader) -> int:
    """The bytes that a file's weights take, which a small file can declare without having them."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    sizes = []
    with h5py.File(file, "r") as content:
        content.visititems(lambda _, one: sizes.append(one.nbytes) if isinstance(one, h5py.Dataset) else None)
    return sum(sizes)


def predict(model: keras.Model, images: Array) -> Array:
    """A model's probabilities.

    Args:
        model: From images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).
        images: (N, H, W, C), uint8 in 0..255 or float32 in 0..1.

    Returns:
        (N, classes), float32.
    """
    parts = [
        np.asarray(model(to_float(images[start : start + _BATCH]), training=False))
        for start in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts).astype(np.float32)


def quick(model: keras.Model, shape: tuple[int, int, int]) -> Callable[[Array], Array]:
    """Makes a model quick to ask for one image at a time.

    Args:
        model: From images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).
        shape: Height, width and channels of its images.

    Returns:
        From an image of that shape to its probabilities (classes,).
    """
    compiled = backends.compiled(model, shape)
    return lambda image: np.asarray(compiled(image[np.newaxis]), np.float32)[0]


def of_raw_images(model: keras.Model) -> keras.Model:
    """The same model from images as a file or a camera has them.

    Args:
        model: From images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).

    Returns:
        A model from images (N, H, W, C), float32 in 0..255, to the same probabilities.
    """
    images = keras.Input(model.input_shape[1:], dtype="float32", name="images")
    # In float32 whatever the model computes in: bfloat16 cannot tell 254 from 255.
    scaled = keras.layers.Rescaling(1 / 255, dtype="float32", name="scaling")(images)
    return keras.Model(images, model(scaled))


def to_raw(images: Array) -> Array:
    """Images as the models of `of_raw_images` take them: float32 in 0..255.

    Args:
        images: uint8 in 0..255 or float32 in 0..1.
    """
    return images.astype(np.float32) * np.float32(1 if images.dtype == np.uint8 else 255)


def in_float32(model: keras.Model) -> keras.Model:
    """The same model computing in float32 throughout, as runtimes on other devices do; itself where it does already."""
    config = model.to_json()
    plain = re.sub(r'"mixed_b?float16"', '"float32"', config)
    if plain == config:
        return model
    copy = keras.models.model_from_json(plain)
    copy.set_weights(model.get_weights())
    return copy
