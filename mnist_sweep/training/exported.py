"""Writes models in other programs' formats, and predicts with each in its own runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.files import write_whole
from mnist_sweep.data.dataset import Array
from mnist_sweep.training import costs, saved

# What an exported model takes: images (N, H, W, C), float32 in 0..255, or the columns of a table by name.
Raw = Array | Mapping[str, Array]
# Predicts probabilities (N, classes), float32, or numbers.
Predict = Callable[[Any], Array]

_BATCH = 256
_WARM_UP = 10
_CALLS = 200
_LONGEST = 2.0


def write(name: str, model: keras.Model, path: Path, calibration: Array | None = None) -> None:
    """Writes a model.

    Args:
        name: The format, one of `results.models.formats.FORMATS`.
        model: A model from images (N, H, W, C), float32 in 0..255, to probabilities.
        path: The file, or the folder of a SavedModel.
        calibration: For `tflite-int8`: images as the model takes them, to measure the range of every activation.

    Raises:
        Exception: Whatever the format's converter raises if it cannot express the model.
    """
    if name == "keras":
        model.save(path)
    elif name == "h5":
        model.save(path, include_optimizer=False)
    elif name == "savedmodel":
        model.export(path, format="tf_saved_model", verbose=False)
    elif name == "onnx":
        _register_missing_onnx()
        plain = saved.in_float32(model)
        # Keras does not export a model to ONNX before its first call.
        plain(keras.tree.map_structure(lambda one: np.zeros((1, *one.shape[1:]), one.dtype), plain.input))
        plain.export(path, format="onnx", verbose=False)
    else:
        write_whole(path, _tflite(saved.in_float32(model), calibration if name == "tflite-int8" else None), flush=False)


def open_with_runtime(name: str, path: Path) -> Predict:
    """Loads an exported model with its format's runtime, on one thread.

    Args:
        name: The format.
        path: What `write` wrote.

    Raises:
        Exception: Whatever the runtime raises if it cannot run the model.
    """
    if name in ("h5", "keras"):
        model = saved.load(path)
        return lambda given: _plain(model(given, training=False))
    if name == "savedmodel":
        return _open_savedmodel(path)
    return _open_onnx(path) if name == "onnx" else _open_tflite(path)


def ask(predict: Predict, given: Raw) -> Any:
    """Returns a model's predictions for any number of rows, batch by batch; those of several outputs by name.

    Args:
        predict: The model.
        given: Images (N, H, W, C), from 0 to 255, or other arrays (N, …); or several inputs by name.
    """
    rows = len(next(iter(given.values()))) if isinstance(given, Mapping) else len(given)
    parts = [predict(_raw(given, i, i + _BATCH)) for i in range(0, rows, _BATCH)]
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def _plain(predictions: Any) -> Any:
    """Returns predictions as arrays, float32; those of several outputs by name."""
    found = keras.tree.map_structure(lambda one: np.asarray(one, np.float32), predictions)
    return next(iter(found.values())) if isinstance(found, Mapping) and len(found) == 1 else found


def _raw(given: Raw, begin: int, end: int) -> Raw:
    if isinstance(given, Mapping):
        return {name: values[begin:end] for name, values in given.items()}
    return given[begin:end].astype(np.float32)


def accuracy(predict: Predict, images: Array, labels: Array) -> float:
    """Returns the share of images that a model classifies correctly.

    Args:
        predict: The model.
        images: As for `ask`.
        labels: (N,).
    """
    return float((ask(predict, images).argmax(axis=1) == labels).mean())


def latency(predict: Predict, given: Raw) -> float:
    """Measures how long the prediction of one image or row takes.

    Args:
        predict: The model.
        given: Some of them, as for `ask`, of which the first one is taken.

    Returns:
        Seconds: the median of 200 calls, or of as many as take 2 seconds, after 10 warm-up calls.
    """
    one = _raw(given, 0, 1)
    return costs.median_seconds(lambda: predict(one), _WARM_UP, _CALLS, _LONGEST)


def _open_savedmodel(path: Path) -> Predict:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def predict(given: Raw) -> Any:
        # Through `loaded`, which keeps the weights alive; the signature does not.
        signature = loaded.signatures["serving_default"]
        if isinstance(given, Mapping):
            return _plain(dict(signature(**{name: tf.constant(values) for name, values in given.items()})))
        return _plain(dict(signature(tf.constant(given))))

    return predict


def _tflite(model: keras.Model, calibration: Array | None) -> bytes:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
            # Some activations have no 8-bit kernel; only these stay in float32.
            kernels = tf.lite.OpsSet
            converter.target_spec.supported_ops = [kernels.TFLITE_BUILTINS_INT8, kernels.TFLITE_BUILTINS]
        return bytes(converter.convert())


def _open_tflite(path: Path) -> Predict:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    inputs, (out, *others) = interpreter.get_input_details(), interpreter.get_output_details()
    # Only a signature has the names of several outputs.
    runner = interpreter.get_signature_runner() if others else None
    rows = -1

    def predict(given: Raw) -> Any:
        nonlocal rows
        # The names of a table's columns: `serving_default_age:0`.
        named = {one["name"].removeprefix("serving_default_").partition(":")[0]: one["index"] for one in inputs}
        arrays = given if isinstance(given, Mapping) else dict.fromkeys(named, given)
        if runner is not None:
            return _plain(runner(**arrays))
        count = len(next(iter(arrays.values())))
        if count != rows:
            rows = count
            for name, index in named.items():
                interpreter.resize_tensor_input(index, arrays[name].shape)
            interpreter.allocate_tensors()
        for name, index in named.items():
            interpreter.set_tensor(index, arrays[name])
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(out["index"]))

    return predict


def _open_onnx(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [one.name for one in session.get_outputs()]

    def predict(given: Raw) -> Any:
        found = session.run(outputs, dict(given) if isinstance(given, Mapping) else {name: given})
        return _plain(dict(zip(outputs, found, strict=True)))

    return predict


def _register_missing_onnx() -> None:
    """Teaches tf2onnx two TensorFlow operations that Keras's gelu and celu use, and corrects a third one.

    ONNX has neither of the two: erfc(x) = 1 - erf(x), and expm1(x) = exp(x) - 1. A choice between two numbers is, for
    tf2onnx, a sum of products with 0 and 1, which is NaN if either of them is.
    """
    import tf2onnx

    # Its own operations, which would replace these if they were registered later.
    import tf2onnx.onnx_opset
    from tf2onnx.handler import tf_op

    class Difference:
        @classmethod
        def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
            erfc = node.type == "Erfc"
            inner = graph.make_node("Erf" if erfc else "Exp", node.input[:1]).output[0]
            one = graph.make_const(tf2onnx.utils.make_name("one"), np.ones((), np.float32)).output[0]
            outputs, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
            graph.remove_node(node.name)
            terms = [one, inner] if erfc else [inner, one]
            graph.make_node("Sub", terms, name=node.name, outputs=outputs, shapes=shapes, dtypes=dtypes)

    class Choice:
        @classmethod
        def version_9(cls, _graph: Any, node: Any, **_: Any) -> None:
            node.type = "Where"

    tf_op(["Erfc", "Expm1"])(Difference)
    tf_op("SelectV2")(Choice)
