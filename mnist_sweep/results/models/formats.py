"""The formats that a model can be exported to: their files, the packages they need, and their tolerances."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError, did_you_mean

_SCALING = "the arithmetic is the same; only the scaling of the inputs may round differently"
_KERNELS = "another runtime adds the same numbers in another order"
_TENSORFLOW = ("tensorflow",)


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: Its name on the command line.
        file: Its file in the folder of an export; a folder for a SavedModel.
        tolerance: How much a probability may differ from the logged one; None if the accuracy is checked instead.
        why: Why it may differ.
        use: Python code that turns `images`, float32 (N, height, width, channels) in 0..255, into `probabilities`.
        packages: The packages that writing and running it needs, besides Keras.
    """

    name: str
    file: str
    tolerance: float | None
    why: str
    use: tuple[str, ...]
    packages: tuple[str, ...] = ()


def _keras(file: str) -> tuple[str, ...]:
    return (
        "import keras",
        f"model = keras.models.load_model({file!r}, compile=False)",
        "probabilities = model(images, training=False)",
    )


def _tflite(file: str) -> tuple[str, ...]:
    return (
        "import tensorflow as tf  # or: from ai_edge_litert.interpreter import Interpreter",
        f"model = tf.lite.Interpreter({file!r})",
        "(to,), (out,) = model.get_input_details(), model.get_output_details()",
        "model.resize_tensor_input(to['index'], images.shape)",
        "model.allocate_tensors()",
        "model.set_tensor(to['index'], images)",
        "model.invoke()",
        "probabilities = model.get_tensor(out['index'])",
    )


FORMATS = {
    format.name: format
    for format in (
        Format("h5", "model.h5", 1e-5, _SCALING, _keras("model.h5")),
        Format("keras", "model.keras", 1e-5, _SCALING, _keras("model.keras")),
        Format(
            "savedmodel",
            "savedmodel",
            1e-5,
            _SCALING,
            (
                "import tensorflow as tf",
                "model = tf.saved_model.load('savedmodel')",
                "(probabilities,) = model.signatures['serving_default'](tf.constant(images)).values()",
            ),
            packages=_TENSORFLOW,
        ),
        Format("tflite", "model.tflite", 1e-4, _KERNELS, _tflite("model.tflite"), _TENSORFLOW),
        Format(
            "tflite-int8",
            "model_int8.tflite",
            None,
            "weights and activations are rounded to 8 bits",
            _tflite("model_int8.tflite"),
            _TENSORFLOW,
        ),
        Format(
            "onnx",
            "model.onnx",
            1e-4,
            _KERNELS,
            (
                "import onnxruntime",
                "model = onnxruntime.InferenceSession('model.onnx')",
                "(probabilities,) = model.run(None, {model.get_inputs()[0].name: images})",
            ),
            packages=(*_TENSORFLOW, "onnx", "onnxruntime", "tf2onnx"),
        ),
    )
}
# The same for models of tables, which turns `rows`, arrays by the names of the inputs, into `predictions`.
OF_TABLES: dict[str, tuple[str, ...]] = {
    "h5": (*_keras("model.h5")[:2], "predictions = model(rows, training=False)"),
    "keras": (*_keras("model.keras")[:2], "predictions = model(rows, training=False)"),
    "savedmodel": (
        "import tensorflow as tf",
        "model = tf.saved_model.load('savedmodel')",
        "given = {name: tf.constant(values) for name, values in rows.items()}",
        "(predictions,) = model.signatures['serving_default'](**given).values()",
    ),
    "tflite": (
        "import tensorflow as tf  # or: from ai_edge_litert.interpreter import Interpreter",
        "model = tf.lite.Interpreter('model.tflite')",
        "inputs, (out,) = model.get_input_details(), model.get_output_details()",
        "named = {one['name'].split('_default_')[1].split(':')[0]: one['index'] for one in inputs}",
        "for name, values in rows.items(): model.resize_tensor_input(named[name], values.shape)",
        "model.allocate_tensors()",
        "for name, values in rows.items(): model.set_tensor(named[name], values)",
        "model.invoke()",
        "predictions = model.get_tensor(out['index'])",
    ),
    "onnx": (
        "import onnxruntime",
        "model = onnxruntime.InferenceSession('model.onnx')",
        "(predictions,) = model.run(None, rows)",
    ),
}
DEFAULT = "h5,keras"


def chosen(text: str) -> list[Format]:
    """Parses the option `--format`.

    Args:
        text: The formats' names, separated by commas.

    Returns:
        The formats, in the order of `FORMATS`.

    Raises:
        UserError: The format does not exist, or a package that it needs is not installed.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--format={text}: name at least one of {', '.join(FORMATS)}")
    for name in names:
        if name not in FORMATS:
            raise UserError(f"--format={name}: no such format{did_you_mean(name, FORMATS)}")
    formats = [format for format in FORMATS.values() if format.name in names]
    for format in formats:
        missing = [package for package in format.packages if find_spec(package) is None]
        if missing:
            packages = missing if missing == ["tensorflow"] else [p for p in format.packages if p != "tensorflow"]
            raise UserError(f"--format={format.name}: needs {', '.join(missing)}; {invocation.pip_install(*packages)}")
    return formats
