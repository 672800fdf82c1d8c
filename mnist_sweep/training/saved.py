"""Loads saved models, predicts with them and converts them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from mnist_sweep.common import reading
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.images import to_float
from mnist_sweep.data.schema import ONLY, Schema, Target
from mnist_sweep.training import backends

_BATCH = 1024


def load(path: Path) -> keras.Model:
    """Loads a `.h5` or `.keras` file without compiling the model. Code in it is refused (Keras's safe mode).

    Libraries that parse such files can crash on damaged ones. So if the file's digest is known, check it first
    (`reading.check_digest`).

    Raises:
        UserError: It is not a file, not a model, damaged, contains code, or needs more memory than is available.
    """
    with reading.open_file(path, str(path)) as file:
        try:
            needed = _weights_size(file)
        except Exception as error:
            raise _load_error(path, error) from error
    reading.check_fits(needed, str(path))
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise _load_error(path, error) from error


def _load_error(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be loaded as a model ({first_line(error, 300)})")


def _weights_size(file: BufferedReader) -> int:
    """Returns the bytes that a file declares for its weights. A small file can declare terabytes."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    sizes = []
    with h5py.File(file, "r") as content:
        content.visititems(lambda _, one: sizes.append(one.nbytes) if isinstance(one, h5py.Dataset) else None)
    return sum(sizes)


def predict(model: keras.Model, inputs: Array | Mapping[str, Array]) -> Array:
    """Returns a model's predictions.

    Args:
        model: A model.
        inputs: Its inputs, by name if there are several: images (N, H, W, C) as uint8 in 0..255 or float32 in 0..1, or
            what else the model takes.

    Returns:
        Probabilities (N, classes) or whatever the model predicts, float32.
    """
    (predicted,) = _outputs(model, inputs)
    return predicted


def predict_each(model: keras.Model, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
    """Returns the predictions of each output by its name; those of a single output are called `predictions`.

    Args:
        model: A model.
        inputs: As for `predict`.
    """
    if not has_several_outputs(model):
        return {"predictions": predict(model, inputs)}
    return {f"predictions_{name}": one for name, one in zip(names_of(model), _outputs(model, inputs), strict=True)}


def _outputs(model: keras.Model, inputs: Array | Mapping[str, Array]) -> list[Array]:
    """Returns the predictions of each output, in the order of `keras.tree.flatten`, computed in batches."""
    named = dict(inputs) if isinstance(inputs, Mapping) else {ONLY: inputs}
    parts: list[list[Array]] = []
    for start in range(0, len(next(iter(named.values()))), _BATCH):
        batch = {name: _given(array[start : start + _BATCH]) for name, array in named.items()}
        parts.append([np.asarray(one) for one in keras.tree.flatten(model(batch.get(ONLY, batch), training=False))])
    return [np.concatenate(output).astype(np.float32) for output in zip(*parts, strict=True)]


def has_several_outputs(model: keras.Model) -> bool:
    """Returns whether a functional or Sequential model returns a dict or a list, not one tensor."""
    return not isinstance(model, keras.Sequential) and isinstance(model.output, Mapping | list | tuple)


def with_named_outputs(model: keras.Model) -> keras.Model:
    """Returns a model that returns a dict of its outputs by name if there are several; else the model itself."""
    if not has_several_outputs(model):
        return model
    return keras.Model(model.input, dict(zip(names_of(model), keras.tree.flatten(model.output), strict=True)))


def names_of(model: keras.Model) -> list[str]:
    """Returns the names of a model's outputs, in the order of `keras.tree.flatten`."""
    return sorted(model.output) if isinstance(model.output, Mapping) else list(model.output_names)


def of_probabilities(model: keras.Model, loss: Any, target: Target) -> keras.Model:
    """Adds a layer that turns logits into probabilities, if a model's loss takes logits; it shares the weights.

    Args:
        model: A functional or Sequential model.
        loss: What it was compiled with.
        target: What it predicts.
    """
    losses = keras.tree.flatten(loss)
    if has_several_outputs(model) or len(losses) != 1 or not _takes_logits(losses[0]):
        return model
    if target.kind == "labels" or (target.kind == "classes" and model.output_shape == (None, 1)):
        activation = "sigmoid"
    elif target.kind == "classes" and model.output_shape == (None, target.size):
        activation = "softmax"
    else:
        return model
    # In half precision, probabilities underflow.
    last = keras.layers.Activation(activation, dtype="float32", name="probabilities")
    given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.Model(given, last(model.outputs[0]))


def _takes_logits(loss: Any) -> bool:
    inner = getattr(loss, "_inner", None)
    return bool(getattr(loss, "from_logits", False)) if inner is None else _takes_logits(inner)


def _given(array: Array) -> Array:
    return to_float(array) if array.dtype.kind in "uf" else array


def quick(model: keras.Model, schema: Schema) -> Callable[[Mapping[str, Array]], Array]:
    """Compiles a model to predict one row at a time quickly.

    Args:
        model: A model.
        schema: What it takes.

    Returns:
        A function like `predict`, from inputs by name.
    """
    example = {
        name: np.zeros((1, *one.shape), np.int32 if one.kind in ("categories", "text") else np.float32)
        for name, one in schema.inputs.items()
    }
    of_one = backends.compile_predict(model, example.get(ONLY, example))

    def predict_quickly(inputs: Mapping[str, Array]) -> Array:
        if len(next(iter(inputs.values()))) != 1:
            return predict(model, inputs)
        given = {name: _given(array) for name, array in inputs.items()}
        return np.asarray(of_one(given.get(ONLY, given)), np.float32)

    return predict_quickly


def of_raw_images(model: keras.Model) -> keras.Model:
    """Adds a layer that scales pixels, so that the model takes images as files and cameras provide them.

    Args:
        model: A model from images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).

    Returns:
        A model from images (N, H, W, C), float32 in 0..255, to the same probabilities.
    """
    images = keras.Input(model.input_shape[1:], dtype="float32", name="images")
    # Always in float32: bfloat16 cannot tell 254 from 255.
    scaled = keras.layers.Rescaling(1 / 255, dtype="float32", name="scaling")(images)
    return keras.Model(images, model(scaled))


def functional(model: keras.Model) -> keras.Model:
    """Returns a Sequential model as a functional one of the same layers, as ONNX needs it; others unchanged."""
    return keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) else model


def to_raw(images: Array) -> Array:
    """Converts images to what models of `of_raw_images` expect: float32 in 0..255.

    Args:
        images: uint8 in 0..255 or float32 in 0..1.
    """
    return images.astype(np.float32) * np.float32(1 if images.dtype == np.uint8 else 255)


def in_float32(model: keras.Model) -> keras.Model:
    """Converts a model to float32 throughout, as other runtimes need it; returns the same model if it is already."""
    config = model.to_json()
    plain = re.sub(r'"mixed_b?float16"', '"float32"', config)
    if plain == config:
        return model
    copy = keras.models.model_from_json(plain)
    copy.set_weights(model.get_weights())
    return copy
