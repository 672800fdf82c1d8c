"""What a model is for: what it takes, and what its predictions mean."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz
from mnist_sweep.common.text import format_value
from mnist_sweep.config.task import Kind, kind_of
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.pictures import Resize
from mnist_sweep.data.schema import ONLY, Input, Schema, Target, kind_of_target, schema_in
from mnist_sweep.journal.files import SAMPLE_FILE
from mnist_sweep.results.models.model_run import ModelRun

# A label is predicted from this probability on.
_THRESHOLD = 0.5
# Classes with a column of their own.
_MOST_COLUMNS = 50
_TASKS: dict[str, Kind] = {"classes": "classification", "labels": "multilabel", "numbers": "regression"}


@dataclass(frozen=True)
class Purpose:
    """What a model takes and predicts.

    Attributes:
        schema: Its inputs and its target.
        task: What it was trained for.
        column: The column of a table that has the classes; "" if there is none.
        resize: How pictures of another shape were made to fit; None if they were not.
        sample: Inputs (N, …) by name of some training or validation rows; empty if there are none.
    """

    schema: Schema
    task: Kind
    column: str = ""
    resize: Resize | None = None
    sample: Mapping[str, Array] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """What it predicts."""
        return self.schema.target

    @property
    def names(self) -> list[str]:
        """The names of its classes, labels or numbers; without names, `0`, `1` … and for a single number `value`."""
        if self.target.names:
            return list(self.target.names)
        if self.target.kind == "numbers":
            return ["value"] if self.target.size == 1 else [f"value {i}" for i in range(self.target.size)]
        return [str(i) for i in range(self.target.size)]

    def check_shown(self, sweep: str) -> None:
        """Checks that `answers` can say what the model of a sweep predicts.

        Raises:
            UserError: It has several outputs.
        """
        if self.target.kind == "several":
            raise UserError(
                f"{sweep}: its models predict {self.target.about}, which predict and serve cannot show; export writes "
                "them as files"
            )

    def probabilities(self, predicted: Array) -> Array:
        """Returns the probability of each class, (N, classes), of predictions that may have only the second one's."""
        if self.target.kind == "classes" and predicted.shape[1] == 1:
            return np.concatenate([1 - predicted, predicted], axis=1)
        return predicted

    def answers(self, predicted: Array) -> list[dict[str, Any]]:
        """Says what predictions mean, as JSON has it.

        Args:
            predicted: (N, …), what the model returns.

        Returns:
            A dict for each row. For classes: the name of the most probable `class`, its number as `digit`, its
            `probability`, and all `probabilities`. For labels: the names of the probable `labels`, and all
            `probabilities`. For numbers: the `values` by name. For anything else: the `output` as it is.
        """
        if not self._fits(predicted):
            return [{"output": row.tolist()} for row in predicted]
        rows = self.probabilities(predicted)
        return [self._answer(row) for row in rows]

    def _fits(self, predicted: Array) -> bool:
        alone = predicted.shape[1:] == (1,) and self.target.kind == "classes" and self.target.size == 2
        return alone or predicted.shape[1:] == (self.target.size,)

    def _answer(self, row: Array) -> dict[str, Any]:
        values, names = [float(value) for value in row], self.names
        if self.target.kind == "classes":
            best = int(np.argmax(row))
            return {"class": names[best], "digit": best, "probability": values[best], "probabilities": values}
        if self.target.kind == "labels":
            chosen = [name for name, value in zip(names, values, strict=True) if value >= _THRESHOLD]
            return {"labels": chosen, "probabilities": values}
        return {"values": dict(zip(names, values, strict=True))}

    def in_words(self, answer: Mapping[str, Any]) -> str:
        """Returns one of `answers` in a line, such as `setosa`, `red, round` or `152.3`."""
        if "class" in answer:
            return str(answer["class"])
        if "labels" in answer:
            return ", ".join(answer["labels"]) or "none"
        if "values" not in answer:
            return "an array"
        values = {name: format_value(value) for name, value in answer["values"].items()}
        return next(iter(values.values())) if len(values) == 1 else ", ".join(f"{n} {v}" for n, v in values.items())

    def columns(self, predicted: Array) -> dict[str, Any]:
        """Returns columns with what predictions mean, for a table.

        Args:
            predicted: (N, …), what the model returns.

        Returns:
            For classes `predicted_COLUMN`, or `predicted`, and `probability`. For each label, the prediction, 0 or 1,
            and its probability. For each number, `predicted_NAME`. For anything else, no columns.
        """
        if not self._fits(predicted):
            return {}
        rows, names = self.probabilities(predicted), self.names
        if self.target.kind == "classes":
            best = rows.argmax(axis=1)
            name = f"predicted_{self.column}" if self.column else "predicted"
            found: dict[str, Any] = {name: [names[i] for i in best], "probability": rows.max(axis=1)}
            if len(names) > 2:
                found |= {f"probability_{name}": rows[:, i] for i, name in enumerate(names[:_MOST_COLUMNS])}
            return found
        if self.target.kind == "labels":
            of_each = ((f"predicted_{name}", (rows[:, i] >= _THRESHOLD).astype(int)) for i, name in enumerate(names))
            return {**dict(of_each), **{f"probability_{name}": rows[:, i] for i, name in enumerate(names)}}
        if not self.target.names and len(names) == 1:
            return {"predicted": rows[:, 0]}
        return {f"predicted_{name}": rows[:, i] for i, name in enumerate(names)}


def purpose_of(run: ModelRun, folder: Path) -> Purpose:
    """Finds out what a model is for, from its run.

    Args:
        run: The model's run.
        folder: Where to put the files that are fetched.

    Raises:
        UserError: The run does not say it.
    """
    config, sample = dict[str, Any](), dict[str, Array]()
    # Without these files, the run's tags say enough of most models.
    with contextlib.suppress(UserError):
        config = run.config(folder, ())
    with contextlib.suppress(UserError):
        sample = read_npz(run.fetch(SAMPLE_FILE, folder), run.what(SAMPLE_FILE))
    schema = schema_in(sample) or _from_tags(run, sample)
    task = kind_of(config.get("task", {"kind": "auto"}))
    given = config.get("data")
    data: Mapping[str, Any] = given if isinstance(given, dict) else {}
    column, resize = data.get("target"), data.get("resize") if data.get("name") == "folder" else None
    return Purpose(
        schema,
        _TASKS.get(schema.target.kind, "custom") if task == "auto" else task,
        str(column) if isinstance(column, str) and schema.target.kind == "classes" else "",
        resize if resize in ("crop", "pad", "stretch") else None,
        _inputs(sample, schema),
    )


def _inputs(sample: Mapping[str, Array], schema: Schema) -> dict[str, Array]:
    found = {name: sample.get(ONLY if name == ONLY else f"x_{name}") for name in schema.inputs}
    if ONLY in found and found[ONLY] is None:
        found[ONLY] = sample.get("images")
    known = {name: array for name, array in found.items() if array is not None and len(array)}
    return known if len(known) == len(schema.inputs) else {}


def _from_tags(run: ModelRun, sample: Mapping[str, Array]) -> Schema:
    """Returns what a sweep that did not write it with its models has in the tags of its runs."""
    about = {key.removeprefix("data."): value for key, value in run.run.data.tags.items() if key.startswith("data.")}
    try:
        kind = kind_of_target(about)
        names = tuple(map(str, json.loads(about.get("names", "[]"))))
        size = next(int(about[key]) for key in ("classes", "labels", "targets") if key in about)
        target = Target(kind or "classes", size, names if len(names) == size else ())
        if "image" in about:
            height, width, channels = map(int, about["image"].split("x"))
            return Schema({ONLY: Input("image", (height, width, channels))}, target)
        if "columns" in about:
            raise UserError(f"{run.what(SAMPLE_FILE)}: does not say which columns the model takes")
        return Schema({name: Input(k, tuple(s)) for name, (k, *s) in json.loads(about["inputs"]).items()}, target)
    except (ValueError, KeyError, TypeError, StopIteration):
        raise UserError(f"{run.sweep}: the tags of trial {run.trial} do not say what its model takes") from None
