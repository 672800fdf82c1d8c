"""Exported models in their formats' runtimes, and how `results.models.converting` checks them.

Both are tested here, as converting needs TensorFlow.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.results.models import conversion
from mnist_sweep.results.models.formats import FORMATS
from mnist_sweep.tracking.tags import PARENT_TAG

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None, reason="needs the extra onnx: pip install onnx onnxruntime tf2onnx"
)
FLOAT = [pytest.param(name, marks=needs_onnx) if name == "onnx" else name for name in FORMATS if name != "tflite-int8"]


def small(activation: str = "relu", dtype: str | None = None) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(3, 3, activation=activation, dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(4, "softmax", dtype=dtype),
        ]
    )


@pytest.mark.parametrize("name", FLOAT)
def test_an_exported_model_and_the_manifests_code_give_the_same_probabilities(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_sweep.training import exported, saved

    # Keras's gelu uses operations that ONNX lacks.
    model, format = small("gelu"), FORMATS[name]
    expected = saved.predict(model, IMAGES)
    exported.write(name, saved.of_raw_images(model), tmp_path / format.file)
    predict = exported.open_with_runtime(name, tmp_path / format.file)
    assert format.tolerance is not None
    for images in (IMAGES, saved.to_raw(IMAGES)):
        np.testing.assert_allclose(exported.ask(predict, images), expected, rtol=0, atol=format.tolerance)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"images": IMAGES.astype(np.float32)}
    exec("\n".join(format.use), scope)
    np.testing.assert_allclose(np.asarray(scope["probabilities"]), expected, rtol=0, atol=format.tolerance)
    assert 0 < exported.latency(predict, IMAGES) < 1


@needs_onnx
def test_celu_can_be_exported_to_onnx(tmp_path: Path) -> None:
    from mnist_sweep.training import exported, saved

    model = small("celu")
    exported.write("onnx", saved.of_raw_images(model), tmp_path / "model.onnx")
    predict = exported.open_with_runtime("onnx", tmp_path / "model.onnx")
    np.testing.assert_allclose(exported.ask(predict, IMAGES), saved.predict(model, IMAGES), rtol=0, atol=1e-5)


class Tracked:
    """A tracked model without MLflow."""

    sweep, trial = "made/up", 3

    def __init__(self, model: Any, predictions: Any, data: Path, digest: str) -> None:
        self._model, self._predictions = model, predictions
        self.config = {
            "data": {"name": "npz", "path": str(data), "fallback": None, "validation_split": 0.2},
            "seed": 1,
            "training": {"precision": "float32"},
        }
        tags = {"data.digest": digest, "data.name": "npz", PARENT_TAG: "parent"}
        self.run = SimpleNamespace(data=SimpleNamespace(tags=tags))
        parent = SimpleNamespace(data=SimpleNamespace(params={"validation": "kfold"}))
        self.client = SimpleNamespace(get_run=lambda _: parent)

    def fetch(self, name: str, folder: Path) -> Path:
        np.savez(folder / name, images=IMAGES, predictions=self._predictions)
        return folder / name

    def fetch_code(self, config: Any, folder: Path) -> Path:
        return folder

    def load(self, _: Path) -> Any:
        return self._model


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a tracked model trained on random images."""
    from mnist_sweep.data import sources
    from mnist_sweep.training import saved

    for variable in ("CUDA_VISIBLE_DEVICES", "KERAS_BACKEND"):
        # Restores whatever the test sets.
        monkeypatch.setenv(variable, "")
    rng = np.random.default_rng(1)
    arrays = {"x_train": rng.integers(0, 256, (80, 8, 8, 1), np.uint8), "y_train": np.arange(80) % 4}
    path = tmp_path / "data.npz"
    np.savez(path, **arrays, x_test=arrays["x_train"][:4], y_test=arrays["y_train"][:4])
    digest = sources.load(sources.Request("npz", str(path))).digest()

    def made(model: Any, predictions: Any = None) -> Tracked:
        return Tracked(model, saved.predict(model, IMAGES) if predictions is None else predictions, path, digest)

    return made


def converted(tracked: Tracked, name: str, folder: Path) -> conversion.Checked:
    source, target = folder / "source", folder / "target"
    source.mkdir()
    target.mkdir()
    (checked,) = conversion.convert(tracked, tracked.config, [FORMATS[name]], source, target)  # type: ignore[arg-type]
    assert checked.path.exists()
    return checked


def test_an_int8_model_is_checked_by_its_accuracy_on_validation_images(tracked, tmp_path: Path) -> None:
    checked = converted(tracked(small()), "tflite-int8", tmp_path)
    assert checked.tolerance is None
    assert 0 < checked.difference < 0.2
    assert checked.accuracy["images"] == "16 validation images, most of which it was trained on (validation=kfold)"
    assert checked.accuracy["calibration"] == "64 training images"
    assert checked.accuracy["loss"] == checked.accuracy["float32"] - checked.accuracy["int8"]


def test_an_int8_model_that_loses_too_much_accuracy_is_refused(tracked, tmp_path: Path, monkeypatch) -> None:
    from mnist_sweep.training import exported

    answers = iter([0.9, 0.7])
    monkeypatch.setattr(exported, "accuracy", lambda *_: next(answers))
    with pytest.raises(UserError, match=r"8 bits lose too much, accuracy 0.9000 became 0.7000 on 16 validation"):
        converted(tracked(small()), "tflite-int8", tmp_path)


def test_an_int8_model_needs_the_runs_data(tracked, tmp_path: Path) -> None:
    model = tracked(small())
    model.run.data.tags["data.digest"] = "another"
    with pytest.raises(UserError, match=r"tflite-int8: the run was trained on npz \(another\), but data=npz"):
        converted(model, "tflite-int8", tmp_path)


@pytest.mark.parametrize(("name", "changed"), [("keras", 0.001), ("keras", np.nan)])
def test_a_file_whose_predictions_differ_is_refused(tracked, name: str, changed: float, tmp_path: Path) -> None:
    from mnist_sweep.training import saved

    model = small()
    predictions = saved.predict(model, IMAGES)
    predictions[2, 1] += changed
    with pytest.raises(UserError, match=r"its predictions differ from the logged ones by (0.001|nan)"):
        converted(tracked(model, predictions), name, tmp_path)


def test_predictions_of_a_gpu_or_half_precision_may_differ_by_more(tracked, tmp_path: Path) -> None:
    from mnist_sweep.training import saved

    model = small()
    run = tracked(model, saved.predict(model, IMAGES) + np.float32(0.001))
    run.run.data.tags["mnist_sweep.slot"] = "gpu0"
    assert converted(run, "keras", tmp_path).tolerance == pytest.approx(0.01001)


@pytest.mark.parametrize(
    ("name", "what", "operation"),
    [("tflite", "made", "MatrixDeterminant"), pytest.param("onnx", "run", "Lgamma", marks=needs_onnx)],
)
def test_a_model_that_a_format_cannot_express_is_a_one_line_error(
    tracked, name: str, what: str, operation: str, tmp_path: Path
) -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    class Custom(layers.Layer):
        def call(self, images: Any) -> Any:
            if operation == "Lgamma":
                return tf.math.lgamma(1 + images)[:, 0, :4, 0]
            return tf.linalg.det(images[..., 0])[:, None] + tf.zeros((1, 4))

        def compute_output_shape(self, shape: Any) -> Any:
            return shape[0], 4

    model = keras.Sequential([keras.Input((8, 8, 1)), Custom(), layers.Softmax()])
    with pytest.raises(UserError) as error:
        converted(tracked(model), name, tmp_path)
    reason = f"it does not support TensorFlow's operation {operation}"
    assert str(error.value) == f"--format={name}: model.{name} cannot be {what} ({reason})"
