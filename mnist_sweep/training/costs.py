"""What a model costs: the memory that training needs, and the time that a prediction takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras.src.utils.dtype_utils import dtype_size

from mnist_sweep.common.text import format_size
from mnist_sweep.training import backends

_WARM_UP = 3
_CALLS = 30


def exceeded_limit(model: keras.Model, limits: Mapping[str, int], batch_size: int, rows: str) -> str:
    """Checks a model against the limits.

    Args:
        model: Compiled, not trained.
        limits: The most `parameters`, and the most bytes of `memory`.
        batch_size: Rows per batch.
        rows: What the rows are called: `images` or `rows`.

    Returns:
        A message with the exceeded limit and what the model needs; "" if it exceeds none.
    """
    parameters = model.count_params()
    if parameters > limits.get("parameters", parameters):
        return f"limits.parameters={limits['parameters']}: the model has {parameters} parameters"
    if "memory" in limits:
        needed = memory(model, batch_size)
        if needed > limits["memory"]:
            return (
                f"limits.memory={_in_config(limits['memory'])}: a training step of the model needs about "
                f"{_in_config(needed)}, for {parameters} parameters and batches of {batch_size} {rows}"
            )
    return ""


def memory(model: keras.Model, batch_size: int) -> int:
    """Estimates the memory of one training step.

    The estimate adds up the weights, the gradients of trainable weights, the optimizer's variables, the batch (float32
    inputs, int64 labels), and the outputs of all layers for one batch, which the backward pass needs. It leaves out
    temporary memory of single operations or within a layer (such as the steps of a recurrent one), and the backend's
    overhead. On a CPU, with estimates of 550 and 340 MB, the process grew by 1.2 times the estimate for a dense model
    and by 1.8 times for a convolutional one.

    Args:
        model: Compiled; its optimizer's variables are created if needed.
        batch_size: Rows per batch.

    Returns:
        Bytes.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.trainable_weights, *model.optimizer.variables]
    batch = sum(math.prod(one.shape[1:]) for one in model.inputs) * _bytes("float32") + _bytes("int64")
    fixed = sum(math.prod(v.shape) * _bytes(v.dtype) for v in variables)
    return int(fixed + batch_size * (batch + _output_bytes(model)))


def latency(model: keras.Model, example: Any) -> float:
    """Measures how long the prediction of one row takes.

    Args:
        model: A model, trained or not.
        example: The inputs of one row, (1, …); by name if there are several.

    Returns:
        Seconds: the median of 30 calls of the compiled model on one row.
    """
    predict = backends.compile_predict(model, example)
    return median_seconds(lambda: predict(example), _WARM_UP, _CALLS)


def median_seconds(call: Callable[[], object], warm_up: int, calls: int, longest: float = math.inf) -> float:
    """Measures how long a call takes.

    Args:
        call: What to measure.
        warm_up: Calls before the first one that counts.
        calls: The most calls that count.
        longest: The seconds after which no further call is made.

    Returns:
        The median time of the calls that count.
    """
    seconds: list[float] = []
    first = time.perf_counter()
    for number in range(warm_up + calls):
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        if number >= warm_up:
            seconds.append(ended - started)
            if ended - first > longest:
                break
    return statistics.median(seconds)


def _output_bytes(layer: Any) -> int:
    """Returns the bytes of a layer's outputs for one image, or of the outputs of the layers in it if these are more."""
    if isinstance(layer, keras.layers.InputLayer):
        return 0
    elements = sum(math.prod(size or 1 for size in shape[1:]) for shape in _output_shapes(layer))
    inside = sum(_output_bytes(inner) for inner in layer._flatten_layers(include_self=False, recursive=False))
    return max(elements * _bytes(layer.compute_dtype), inside)


def _output_shapes(layer: Any) -> list[Sequence[int | None]]:
    """Returns the shapes of a layer's outputs, batch dimension included, wherever the layer is used."""
    shapes = [tensor.shape for node in layer._inbound_nodes for tensor in node.output_tensors]
    if not shapes and not isinstance(layer, keras.Model):
        # Inside a user's own layer, Keras records only the inputs.
        try:
            shapes = [layer.compute_output_shape(*layer._build_shapes_dict.values())]
        except Exception:
            return []
    return [shape for shape in shapes if isinstance(shape, tuple)]


def _bytes(dtype: str | None) -> int:
    return int(dtype_size(dtype or "float32")) // 8


def _in_config(amount: int) -> str:
    """Formats an amount of memory as users write it in a config."""
    return format_size(amount).replace(" ", "")
