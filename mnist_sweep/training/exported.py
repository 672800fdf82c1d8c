"""Writes models in other programs' formats, and predicts with each in its own runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.files import write_whole
from mnist_sweep.data.dataset import Array
from mnist_sweep.training import costs, saved

# Predicts from images (N, H, W, C), float32 in 0..255, probabilities (N, classes), float32.
Predict = Callable[[Array], Array]

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
        plain(np.zeros((1, *plain.input_shape[1:]), np.float32))
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
        return lambda images: np.asarray(model(images, training=False), np.float32)
    if name == "savedmodel":
        return _open_savedmodel(path)
    return _open_onnx(path) if name == "onnx" else _open_tflite(path)


def ask(predict: Predict, images: Array) -> Array:
    """Returns a model's probabilities for any number of images, batch by batch.

    Args:
        predict: The model.
        images: (N, H, W, C), uint8 in 0..255 or float32 in 0..1.
    """
    parts = [predict(saved.to_raw(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def accuracy(predict: Predict, images: Array, labels: Array) -> float:
    """Returns the share of images that a model classifies correctly.

    Args:
        predict: The model.
        images: As for `ask`.
        labels: (N,).
    """
    return float((ask(predict, images).argmax(axis=1) == labels).mean())


def latency(predict: Predict, image: Array) -> float:
    """Measures how long the prediction of one image takes.

    Args:
        predict: The model.
        image: (H, W, C), as for `ask`.

    Returns:
        Seconds: the median of 200 calls, or of as many as take 2 seconds, after 10 warm-up calls.
    """
    one = saved.to_raw(image[np.newaxis])
    return costs.median_seconds(lambda: predict(one), _WARM_UP, _CALLS, _LONGEST)


def _open_savedmodel(path: Path) -> Predict:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def predict(images: Array) -> Array:
        # Through `loaded`, which keeps the weights alive; the signature does not.
        (probabilities,) = loaded.signatures["serving_default"](tf.constant(images)).values()
        return np.asarray(probabilities, np.float32)

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
    (to,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape: tuple[int, ...] = ()

    def predict(images: Array) -> Array:
        nonlocal shape
        if images.shape != shape:
            shape = images.shape
            interpreter.resize_tensor_input(to["index"], shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(to["index"], images)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(out["index"]))

    return predict


def _open_onnx(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(images: Array) -> Array:
        (probabilities,) = session.run(None, {name: images})
        return np.asarray(probabilities)

    return predict


def _register_missing_onnx() -> None:
    """Teaches tf2onnx two TensorFlow operations that Keras's gelu and celu use.

    ONNX has neither of them: erfc(x) = 1 - erf(x), and expm1(x) = exp(x) - 1.
    """
    import tf2onnx
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

    tf_op(["Erfc", "Expm1"])(Difference)
