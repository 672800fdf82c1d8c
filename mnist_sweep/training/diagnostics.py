"""Details of a tested model for the report: its most confident mistakes, its first filters, a profile of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.files import write_whole
from mnist_sweep.data import profile
from mnist_sweep.data.dataset import Array, Dataset
from mnist_sweep.journal.files import DETAILS_FILE, PROFILE_FILE

_MISTAKES = 25
_FILTERS = 64
# The longer side of the images of mistakes.
_LARGEST = 128
# Layers that scale each pixel or channel by itself, so the next layer still sees the image.
_IN_PLACE = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.Normalization)


def write(
    folder: Path,
    model: keras.Model,
    dataset: Dataset,
    truth: Array,
    predicted: Array,
    wrong: Mapping[str, Array] | None = None,
) -> None:
    """Writes two files about a tested model.

    `test_details.npz` contains the `true` targets of the test rows and what the model has `predicted`, and the `names`
    of the classes, labels or numbers, if they have any. For images in classes, it also has the model's most confident
    mistakes, the most confident first: `mistakes_images` (M, h, w, C), as in the data set, but reduced if they are
    large, and `mistakes_true`, `mistakes_predicted` and `mistakes_probability` (M,), the probability of the predicted
    class. If the model's first layer with weights sees the image, its `filters` (F, h, w, c) are there, too.

    `data_profile.npz` is a `profile.Profile` of the training images.

    Args:
        folder: An existing folder.
        model: The model.
        dataset: Its data.
        truth: The targets of the test rows.
        predicted: Its predictions for the test rows: (N, classes) probabilities, or numbers.
        wrong: What `mistakes` returns; None to look for them in the data's test rows.

    Raises:
        OSError: The files cannot be written.
    """
    schema = dataset.schema
    # Everything that plots of other tasks need.
    details: dict[str, Any] = {"true": truth, "predicted": predicted}
    if schema.target.names:
        details["names"] = np.array(schema.target.names, dtype=np.str_)
    if schema.image is not None and schema.target.kind == "classes":
        details |= mistakes(dataset.test.x, truth, predicted) if wrong is None else wrong
    if schema.image is not None and (found := filters(model, schema.image)) is not None:
        details["filters"] = found
    write_whole(folder / DETAILS_FILE, lambda path: np.savez_compressed(path, **details))
    if schema.image is not None and schema.target.kind == "classes":
        profile.measure(dataset.train.x, np.asarray(dataset.train.targets)).save(folder / PROFILE_FILE)


def _of_each_class(probabilities: Array) -> Array:
    """Returns the probabilities of both classes where a model has only that of the second one."""
    return np.concatenate([1 - probabilities, probabilities], axis=1) if probabilities.shape[1] == 1 else probabilities


def mistakes(images: Array, truth: Array, probabilities: Array) -> dict[str, Array]:
    """Returns the most confident mistakes, at most 25.

    Args:
        images: (N, H, W, C). Those that are returned are reduced to at most 128 pixels a side.
        truth: (N,), the true classes.
        probabilities: (N, classes), or (N, 1) that of the second class.
    """
    probabilities = _of_each_class(probabilities)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    return {
        "mistakes_images": _reduced(np.asarray(images[worst])),
        "mistakes_true": truth[worst],
        "mistakes_predicted": predicted[worst],
        "mistakes_probability": confidence[worst],
    }


def worst(found: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Returns the most confident ones of what `mistakes` has found in several parts of the rows."""
    together = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    order = np.argsort(-together["mistakes_probability"], kind="stable")[:_MISTAKES]
    return {name: array[order] for name, array in together.items()}


def _reduced(images: Array) -> Array:
    """Averages squares of pixels of images that are larger than needed for a plot."""
    step = -(-max(images.shape[1:3]) // _LARGEST)
    if step == 1:
        return images
    height, width = (side // step for side in images.shape[1:3])
    cut = images[:, : height * step, : width * step].reshape(len(images), height, step, width, step, images.shape[3])
    means = cut.mean(axis=(2, 4), dtype=np.float32)
    reduced: Array = (np.rint(means) if images.dtype == np.uint8 else means).astype(images.dtype)
    return reduced


def filters(model: keras.Model, image: tuple[int, int, int]) -> Array | None:
    """Returns the filters of a model's first layer with weights.

    Args:
        model: The model.
        image: Height, width and channels of its images.

    Returns:
        (F, h, w, channels), float32: convolution kernels, or a dense layer's weights as images; at most 64, those with
        the largest weights. None if the layer is of another kind, or does not see the image itself.
    """
    layers: Any = model._flatten_layers(include_self=False, recursive=True)
    # A nested model is listed before its layers.
    leaves = (layer for layer in layers if not isinstance(layer, keras.Model))
    first = next((layer for layer in leaves if layer.weights and not isinstance(layer, _IN_PLACE)), None)
    if isinstance(first, keras.layers.Conv2D) and first.kernel.shape[2] == image[2]:
        weights = np.moveaxis(np.asarray(first.kernel, dtype=np.float32), 3, 0)
    elif isinstance(first, keras.layers.Dense) and first.kernel.shape[0] == np.prod(image):
        weights = np.asarray(first.kernel, dtype=np.float32).T.reshape(-1, *image)
    else:
        return None
    strength = np.square(weights).sum(axis=(1, 2, 3))
    return weights[np.sort(np.argsort(-strength, kind="stable")[:_FILTERS])]
