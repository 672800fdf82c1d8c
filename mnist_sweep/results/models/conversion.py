"""Converts a logged model to files in other formats, and checks each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz
from mnist_sweep.common.text import counted
from mnist_sweep.config import backend
from mnist_sweep.data.schema import ONLY, Schema, schema_in
from mnist_sweep.journal.files import SAMPLE_FILE
from mnist_sweep.results.models.formats import Format
from mnist_sweep.results.models.model_run import ModelRun, quiet
from mnist_sweep.results.models.training_data import load_training_data
from mnist_sweep.tracking.tags import PARENT_TAG, TAG_SLOT

if TYPE_CHECKING:
    from mnist_sweep.data.images import Array
    from mnist_sweep.training.exported import Predict

# How much more the logged predictions may differ from a CPU's in float32 if a GPU made them, which multiplies with 10
# bits of precision, or a model in 16-bit numbers.
_COARSE = 1e-2
_CALIBRATION = 256
# An int8 model that loses more accuracy is broken, not small. If this is less than two images: two images.
_MOST_LOST = 0.02
_MOST_IMAGES_LOST = 2


@dataclass(frozen=True)
class Checked:
    """A file that has passed the check.

    Attributes:
        format: Its format.
        path: The file; a folder for a SavedModel.
        difference: The largest difference of a prediction from the logged one.
        tolerance: The largest difference allowed; None if the accuracy is checked instead.
        latency: Seconds to predict one image or row on one thread.
        accuracy: For an int8 model: `float32`, `int8`, `loss`, the `images` and the `calibration`.
        columns: For a model of a table: what its inputs are.
    """

    format: Format
    path: Path
    difference: float
    tolerance: float | None
    latency: float
    accuracy: dict[str, Any] = field(default_factory=dict)
    columns: list[dict[str, Any]] = field(default_factory=list)


def convert(
    run: ModelRun, config: dict[str, Any], formats: Sequence[Format], source: Path, target: Path
) -> list[Checked]:
    """Writes a model in each format, loads it again with that format's runtime, and compares its predictions.

    Args:
        run: The model's run.
        config: The run's config.
        formats: The formats.
        source: A folder for the run's files.
        target: A folder for the converted files.

    Returns:
        The checked files, in the order of the formats.

    Raises:
        UserError: The run lacks a file, a format cannot express the model, its predictions differ, the data to
            calibrate an int8 model are gone, or it loses too much accuracy.
    """
    sample = _sample(run, source)
    if not sample.images and any(format.tolerance is None for format in formats):
        raise UserError("--format=tflite-int8: is for models of images; write --format=tflite for others")
    # Set before the backend is imported: a running sweep may be using the GPU, and latency is measured on one thread.
    needed = any("tensorflow" in format.packages for format in formats)
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow" if needed else backend.to_load(config))
    with quiet():
        from mnist_sweep.training import exported, fit, saved

        fit.configure(1, gpu=False)
    try:
        loaded = run.load(source)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{run.sweep}: trial {run.trial}'s model cannot be loaded ({_reason(error)})") from error
    loaded = saved.with_named_outputs(loaded)
    model = saved.of_raw_images(loaded) if sample.images else saved.functional(loaded)
    if sample.images:
        sample = replace(sample, given=saved.to_raw(sample.given))
    largest = max(1.0, *(float(np.abs(one).max()) for one in sample.expected.values()))
    # Only now, as loading data first would load Keras without a real backend.
    int8_check = _Int8Check(run, config, source) if any(format.tolerance is None for format in formats) else None
    on_gpu = run.run.data.tags.get(TAG_SLOT, "").startswith("gpu")
    coarse = _COARSE if on_gpu or config["training"]["precision"] != "float32" else 0.0
    checked = []
    for format in formats:
        path = target / format.file
        quantised = int8_check if format.tolerance is None else None
        with _reporting(format, "cannot be made"):
            to_write, given = sample.raw(format.name, model)
            exported.write(format.name, to_write, path, quantised.calibration if quantised else None)
        with _reporting(format, "cannot be run"):
            predict = exported.open_with_runtime(format.name, path)
            difference = sample.difference(exported.ask(predict, given))
        # Numbers may be larger than probabilities.
        tolerance = None if format.tolerance is None else (format.tolerance + coarse) * largest
        # Not `>`, which is false for NaN.
        if tolerance is not None and not difference <= tolerance:
            raise UserError(
                f"{format.file}: its predictions differ from the logged ones by {difference:.2g}, but at "
                f"most {tolerance:.2g} is allowed; nothing was exported"
            )
        accuracy = quantised.judge(format, predict, lambda raw: np.asarray(model(raw))) if quantised else {}
        latency = exported.latency(predict, given)
        checked.append(Checked(format, path, difference, tolerance, latency, accuracy, sample.columns(format.name)))
    return checked


@dataclass(frozen=True)
class _Sample:
    """Some of the run's images or rows, and its model's predictions of them.

    Attributes:
        given: Images (N, H, W, C) or other arrays (N, …), or several inputs by name.
        expected: The predictions of each output by its name, (N, …); of the only one, "".
        schema: Says how to make inputs from the columns of a table; None for images and other arrays.
        images: Whether `given` are images.
    """

    given: Any
    expected: Mapping[str, Array]
    schema: Schema | None
    images: bool = False

    def difference(self, predicted: Any) -> float:
        """Returns the largest difference from predictions (N, …), or from those of several outputs by name."""
        found = predicted if isinstance(predicted, Mapping) else {"": predicted}
        return max(float(np.abs(found[name] - expected).max()) for name, expected in self.expected.items())

    def raw(self, format: str, model: Any) -> tuple[Any, Any]:
        """Returns the model that a format has, and the images or rows as it takes them."""
        if self.schema is None or format == "h5":
            # Older HDF5 files have no room for vocabularies, so the model of a table takes its rows as numbers.
            return model, self.given
        from mnist_sweep.training import raw_columns

        strings = takes_strings(format)
        found = raw_columns.of_raw_columns(model, self.schema, strings=strings)
        return found, raw_columns.columns_of(self.given, self.schema, strings=strings)

    def columns(self, format: str) -> list[dict[str, Any]]:
        """Returns what the inputs of a format's model are, for a table."""
        if self.schema is None:
            return []
        from mnist_sweep.training import raw_columns

        if format == "h5":
            return raw_columns.describe_inputs(self.schema)
        return raw_columns.describe(self.schema, strings=takes_strings(format))


def takes_strings(format: str) -> bool:
    """Returns whether exported models of tables take categories and texts as strings, which only TensorFlow can."""
    import keras

    return format in ("keras", "savedmodel") and keras.backend.backend() == "tensorflow"


def _sample(run: ModelRun, source: Path) -> _Sample:
    """The run's sample of images or rows."""
    what = f"{run.sweep}: {SAMPLE_FILE} of trial {run.trial}"
    arrays = read_npz(run.fetch(SAMPLE_FILE, source), what)
    images = arrays.get("images")
    predictions = {
        name.removeprefix("predictions").removeprefix("_"): one
        for name, one in arrays.items()
        if name.startswith("predictions")
    }
    if (schema := schema_in(arrays)) is not None and schema.columns and predictions:
        return _Sample({name: arrays[f"x_{name}"] for name in schema.inputs}, predictions, schema)
    others = {name.removeprefix("x_"): x for name, x in arrays.items() if name.startswith("x")}
    if images is None and others and predictions:
        return _Sample(others.get(ONLY, others), predictions, None)
    counts = {len(one) for one in predictions.values()}
    if images is None or images.ndim != 4 or counts != {len(images)} or not len(images):
        raise UserError(f"{what}: does not contain images and predictions")
    return _Sample(images, predictions, None, images=True)


class _Int8Check:
    """The images to calibrate an int8 model on, and those to check its accuracy on. The test images are not used."""

    def __init__(self, run: ModelRun, config: dict[str, Any], source: Path) -> None:
        from mnist_sweep.training import saved

        code = run.fetch_code(config, source)
        dataset = load_training_data(config, run.run.data.tags, "--format=tflite-int8", code)
        spread = np.linspace(0, len(dataset.train) - 1, min(_CALIBRATION, len(dataset.train))).astype(int)
        self.calibration: Array = saved.to_raw(dataset.train.x[spread])
        rows, kind = (dataset.validation, "validation") if len(dataset.validation) else (dataset.train, "training")
        self._images, self._labels = saved.to_raw(rows.x), rows.targets
        self._about = counted(len(self._labels), f"{kind} image")
        parent = run.client.get_run(run.run.data.tags[PARENT_TAG])
        if kind == "validation" and parent.data.params.get("validation") == "kfold":
            self._about += ", most of which it was trained on (validation=kfold)"

    def judge(self, format: Format, predict: Predict, original: Predict) -> dict[str, Any]:
        """Measures how much accuracy an int8 model loses.

        Raises:
            UserError: It loses too much.
        """
        from mnist_sweep.training import exported

        with _reporting(format, "cannot be run"):
            before, after = (exported.accuracy(p, self._images, self._labels) for p in (original, predict))
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
            "calibration": counted(len(self.calibration), "training image"),
        }


@contextmanager
def _reporting(format: Format, what: str) -> Iterator[None]:
    """Hides what converters print, and turns what they raise into a message of one line."""
    try:
        with quiet():
            yield
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"--format={format.name}: {format.file} {what} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The reason in a converter's error, whose message can have pages."""
    text = str(error)
    # The messages of TFLite's converter and of ONNX's runtime.
    found = re.search(r"'tf\.(\w+)' op is neither", text) or re.search(r'In Node, \("[^"]*", (\w+),', text)
    if found:
        return f"it does not support TensorFlow's operation {found.group(1)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
