"""A tracked model to checked files, one for each format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz
from mnist_sweep.config import backend
from mnist_sweep.journal.files import SAMPLE_FILE
from mnist_sweep.results.models import run_data
from mnist_sweep.results.models.formats import Format
from mnist_sweep.results.models.model_run import ModelRun, quiet
from mnist_sweep.tracking.tags import PARENT_TAG, TAG_SLOT

if TYPE_CHECKING:
    from mnist_sweep.data.images import Array
    from mnist_sweep.training.exported import Predict

# How much more the tracked predictions may differ from those of a CPU in float32, where a GPU made them, which
# multiplies with 10 bits of precision, or a model in 16-bit numbers.
_COARSE = 1e-2
_CALIBRATION = 256
# An int8 model that loses more is broken, not small. Where that is less than an image or two: two images.
_MOST_LOST = 0.02
_MOST_IMAGES_LOST = 2


@dataclass(frozen=True)
class Checked:
    """A file that has passed.

    Attributes:
        format: Its format.
        path: Where it is; a folder for a SavedModel.
        difference: The largest difference of a probability from the tracked ones.
        tolerance: What that may be; None where accuracy is what counts.
        latency: Seconds that the prediction of one image takes, on one thread.
        accuracy: Of an int8 model: `float32`, `int8`, `loss`, and on which `images`.
    """

    format: Format
    path: Path
    difference: float
    tolerance: float | None
    latency: float
    accuracy: dict[str, Any] = field(default_factory=dict)


def convert(
    tracked: ModelRun, config: dict[str, Any], formats: Sequence[Format], source: Path, target: Path
) -> list[Checked]:
    """Writes a model in each format, loads it again with that format's runtime, and compares its predictions.

    Args:
        tracked: The model.
        config: Its run's.
        formats: Which.
        source: A folder for the run's files.
        target: A folder for what is written.

    Returns:
        What was found of each, in order.

    Raises:
        UserError: The run lacks a file, a format cannot express the model, its predictions differ, or an int8 model's
            data is gone or its accuracy is lost.
    """
    images, expected = _sample(tracked, source)
    # Before the backend is imported: a running sweep may be using the GPU, and the latency is that of one thread.
    needed = any("tensorflow" in format.packages for format in formats)
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow" if needed else backend.to_load(config))
    with quiet():
        from mnist_sweep.training import exported, fit, saved

        fit.configure(1, gpu=False)
    try:
        model = saved.of_raw_images(tracked.load(source))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{tracked.sweep}: trial {tracked.trial}'s model cannot be loaded ({_reason(error)})"
        ) from error
    # Only now, as loading data first would load Keras on a backend without tensors.
    eight_bits = _EightBits(tracked, config) if any(format.tolerance is None for format in formats) else None
    checked = []
    for format in formats:
        path = target / format.file
        quantised = eight_bits if format.tolerance is None else None
        with _told(format, "cannot be made"):
            exported.write(format.name, model, path, quantised.calibration if quantised else None)
        with _told(format, "cannot be run"):
            predict = exported.open_with_runtime(format.name, path)
            difference = float(np.abs(exported.ask(predict, images) - expected).max())
        tolerance = None if format.tolerance is None else format.tolerance + _coarse(tracked, config)
        # Not `>`, which NaN passes.
        if tolerance is not None and not difference <= tolerance:
            raise UserError(
                f"{format.file}: its predictions differ from the tracked run's by {difference:.2g}, and "
                f"{tolerance:.2g} is allowed; nothing was exported"
            )
        accuracy = quantised.judge(format, predict, lambda raw: np.asarray(model(raw))) if quantised else {}
        latency = exported.latency(predict, images[0])
        checked.append(Checked(format, path, difference, tolerance, latency, accuracy))
    return checked


def _sample(tracked: ModelRun, source: Path) -> tuple[Array, Array]:
    """The run's images, and what its model said of them."""
    what = f"{tracked.sweep}: {SAMPLE_FILE} of trial {tracked.trial}"
    arrays = read_npz(tracked.fetch(SAMPLE_FILE, source), what)
    images, predictions = arrays.get("images"), arrays.get("predictions")
    if images is None or predictions is None or images.ndim != 4 or not len(images) == len(predictions) > 0:
        raise UserError(f"{what}: does not hold images and predictions")
    return images, predictions


def _coarse(tracked: ModelRun, config: dict[str, Any]) -> float:
    on_gpu = tracked.run.data.tags.get(TAG_SLOT, "").startswith("gpu")
    return _COARSE if on_gpu or config["training"]["precision"] != "float32" else 0.0


class _EightBits:
    """What an int8 model is calibrated on, and judged by. The test images are not looked at."""

    def __init__(self, tracked: ModelRun, config: dict[str, Any]) -> None:
        from mnist_sweep.training import saved

        dataset = run_data.load(config, tracked.run.data.tags, "--format=tflite-int8")
        spread = np.linspace(0, len(dataset.x_train) - 1, min(_CALIBRATION, len(dataset.x_train))).astype(int)
        self.calibration: Array = saved.to_raw(dataset.x_train[spread])
        self._images, self._labels, kind = dataset.x_val, dataset.y_val, "validation"
        if not len(self._labels):
            self._images, self._labels, kind = dataset.x_train, dataset.y_train, "training"
        self._about = f"{len(self._labels)} {kind} images"
        parent = tracked.client.get_run(tracked.run.data.tags[PARENT_TAG])
        if kind == "validation" and parent.data.params.get("validation") == "kfold":
            self._about += ", most of which it was trained on (validation=kfold)"

    def judge(self, format: Format, predict: Predict, whole: Predict) -> dict[str, Any]:
        """What a model loses against the one that it was made from.

        Raises:
            UserError: Too much.
        """
        from mnist_sweep.training import exported

        with _told(format, "cannot be run"):
            before, after = (exported.accuracy(p, self._images, self._labels) for p in (whole, predict))
        if before - after > max(_MOST_LOST, (_MOST_IMAGES_LOST + 0.5) / len(self._labels)):
            raise UserError(
                f"{format.file}: 8 bits lose too much, accuracy {before:.4f} became {after:.4f} on "
                f"{self._about}; nothing was exported"
            )
        return {
            "float32": before,
            "int8": after,
            "loss": before - after,
            "images": self._about,
            "calibration": f"{len(self.calibration)} training images",
        }


@contextmanager
def _told(format: Format, what: str) -> Iterator[None]:
    """Keeps what the converters print from the terminal, and says in a line what they raise."""
    try:
        with quiet():
            yield
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"--format={format.name}: {format.file} {what} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What is wrong, of the pages that a converter says it in."""
    text = str(error)
    # TFLite's converter, and ONNX's runtime.
    found = re.search(r"'tf\.(\w+)' op is neither", text) or re.search(r'In Node, \("[^"]*", (\w+),', text)
    if found:
        return f"it has nothing for TensorFlow's operation {found.group(1)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
