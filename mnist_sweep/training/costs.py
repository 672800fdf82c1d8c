"""What a model costs: the memory that its training needs, and the time that its predictions take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.utils.dtype_utils import dtype_size

from mnist_sweep.common.text import format_size
from mnist_sweep.training import backends

_WARM_UP = 3
_CALLS = 30


def why_refuse(model: keras.Model, limits: Mapping[str, int], image: Sequence[int], batch_size: int) -> str:
    """Which limit a model exceeds.

    Args:
        model: Compiled, not trained.
        limits: The most `parameters`, and the most bytes of `memory`.
        image: Height, width and channels.
        batch_size: Images in a batch.

    Returns:
        The limit and what the model would need, for the user; "" where it keeps to all of them.
    """
    parameters = model.count_params()
    if parameters > limits.get("parameters", parameters):
        return f"limits.parameters={limits['parameters']}: the model has {parameters} parameters"
    if "memory" in limits:
        needed = memory(model, image, batch_size)
        if needed > limits["memory"]:
            return (
                f"limits.memory={_amount(limits['memory'])}: a training step of the model needs about "
                f"{_amount(needed)}, for {parameters} parameters and batches of {batch_size} images"
            )
    return ""


def memory(model: keras.Model, image: Sequence[int], batch_size: int) -> int:
    """The memory of one training step, estimated.

    It is the sum of the weights, the gradients of those that are trained, the optimizer's variables, the batch (images
    in float32, labels in int64), and the outputs of all layers for one batch, which are kept for the backward pass.
    What single operations need for a moment, or keep within a layer (such as the steps of a recurrent one), is left
    out, and so is what the backend itself takes: on a CPU, where the estimates were 550 and 340 MB, the process grew by
    1.2 times as much in steps of a dense model, and by 1.8 times as much in those of a convolutional one.

    Args:
        model: Compiled; its optimizer's variables are created.
        image: Height, width and channels.
        batch_size: Images in a batch.

    Returns:
        Bytes.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.trainable_weights, *model.optimizer.variables]
    batch = math.prod(image) * _bytes("float32") + _bytes("int64")
    fixed = sum(math.prod(v.shape) * _bytes(v.dtype) for v in variables)
    return int(fixed + batch_size * (batch + _kept(model)))


def latency(model: keras.Model, image: Sequence[int]) -> float:
    """How long the prediction of one image takes.

    Args:
        model: Trained or not.
        image: Height, width and channels.

    Returns:
        Seconds: the median of some calls of the compiled model on a batch of one.
    """
    height, width, channels = image
    predict = backends.compiled(model, (height, width, channels))
    images = np.zeros((1, *image), np.float32)
    seconds = []
    for _ in range(_WARM_UP + _CALLS):
        started = time.perf_counter()
        predict(images)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UP:])


def _kept(layer: Any) -> int:
    """The bytes of a layer's outputs for one image, or of those of the layers in it, whichever are more."""
    if isinstance(layer, keras.layers.InputLayer):
        return 0
    elements = sum(math.prod(size or 1 for size in shape[1:]) for shape in _output_shapes(layer))
    inside = sum(_kept(inner) for inner in layer._flatten_layers(include_self=False, recursive=False))
    return max(elements * _bytes(layer.compute_dtype), inside)


def _output_shapes(layer: Any) -> list[Sequence[int | None]]:
    """The shapes of what a layer gives, batch included, wherever it is used."""
    shapes = [tensor.shape for node in layer._inbound_nodes for tensor in node.output_tensors]
    if not shapes and not isinstance(layer, keras.Model):
        # Inside a layer of a user's own, where Keras notes what comes in only.
        try:
            shapes = [layer.compute_output_shape(*layer._build_shapes_dict.values())]
        except Exception:
            return []
    return [shape for shape in shapes if isinstance(shape, tuple)]


def _bytes(dtype: str | None) -> int:
    return int(dtype_size(dtype or "float32")) // 8


def _amount(amount: int) -> str:
    """Formats an amount of memory as users write it in a config."""
    return format_size(amount).replace(" ", "")
