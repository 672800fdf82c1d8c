"""What a model is for, from what its run has, and what its predictions mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow.entities import Run, RunData, RunInfo, RunTag

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.schema import Column, Input, Schema, Target, described
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.models.purpose import Purpose, purpose_of


def of(kind: Any, size: int, *names: str, column: str = "") -> Purpose:
    tasks = {"classes": "classification", "labels": "multilabel", "numbers": "regression"}
    return Purpose(Schema({"x": Input("array", (4,))}, Target(kind, size, names)), tasks[kind], column)  # type: ignore[arg-type]


FLOWERS = of("classes", 3, "rose", "tulip", "lily", column="species")
ILL = of("classes", 2, "no", "yes", column="ill")
TAGS = of("labels", 3, "sun", "rain", "wind")
SIZE = of("numbers", 2, "height", "width")


@pytest.mark.parametrize(
    ("purpose", "predicted", "answer", "words"),
    [
        (FLOWERS, [0.2, 0.7, 0.1], {"class": "tulip", "digit": 1, "probability": 0.7}, "tulip"),
        (of("classes", 3), [0.2, 0.7, 0.1], {"class": "1", "digit": 1, "probability": 0.7}, "1"),
        (ILL, [0.75], {"class": "yes", "digit": 1, "probability": 0.75, "probabilities": [0.25, 0.75]}, "yes"),
        (ILL, [0.25], {"class": "no", "digit": 0, "probability": 0.75, "probabilities": [0.75, 0.25]}, "no"),
        (TAGS, [0.9, 0.1, 0.5], {"labels": ["sun", "wind"], "probabilities": [0.9, 0.1, 0.5]}, "sun, wind"),
        (TAGS, [0.1, 0.1, 0.1], {"labels": []}, "none"),
        (SIZE, [1.5, 12.25], {"values": {"height": 1.5, "width": 12.25}}, "height 1.5, width 12.25"),
        (of("numbers", 1, "price"), [12.5], {"values": {"price": 12.5}}, "12.5"),
        (of("numbers", 1), [12.5], {"values": {"value": 12.5}}, "12.5"),
        # Such as a mask for each image.
        (FLOWERS, [[0.5, 0.5], [1.0, 0.0]], {"output": [[0.5, 0.5], [1.0, 0.0]]}, "an array"),
    ],
)
def test_predictions_have_the_names_of_the_data(purpose, predicted, answer, words):
    (found,) = purpose.answers(np.array([predicted]))
    assert answer.items() <= found.items()
    assert purpose.in_words(found) == words
    assert json.dumps(found)


def test_predictions_become_columns_beside_a_table():
    columns = FLOWERS.columns(np.array([[0.2, 0.7, 0.1]]))
    assert list(columns)[:3] == ["predicted_species", "probability", "probability_rose"]
    assert columns["predicted_species"] == ["tulip"]
    assert list(ILL.columns(np.array([[0.25]]))) == ["predicted_ill", "probability"]
    assert {name: list(one) for name, one in TAGS.columns(np.array([[0.9, 0.1, 0.5]])).items()} == {
        "predicted_sun": [1], "predicted_rain": [0], "predicted_wind": [1],
        "probability_sun": [0.9], "probability_rain": [0.1], "probability_wind": [0.5],
    }  # fmt: skip
    assert list(SIZE.columns(np.array([[1.0, 2.0]]))) == ["predicted_height", "predicted_width"]
    assert list(of("numbers", 1).columns(np.array([[1.0]]))) == ["predicted"]
    assert SIZE.columns(np.zeros((1, 2, 2))) == {}


# ---- from runs --------------------------------------------------------------------------------------------------


class Files:
    """A stand-in for MLflow's client, with a run's files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking_uri = "here"

    def download_artifacts(self, run_id: str, name: str, to: str) -> str:
        if not (self.folder / name).exists():
            raise FileNotFoundError(name)
        return str(self.folder / name)


def run_with(folder: Path, tags: dict[str, Any], config: dict[str, Any] | None = None, **sample: Any) -> ModelRun:
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if sample:
        np.savez(folder / "sample_predictions.npz", **sample)
    texts = {
        f"data.{key}": json.dumps(value) if isinstance(value, list | dict) else str(value)
        for key, value in tags.items()
    } | {"mnist_sweep.sweep": "a/b", "mnist_sweep.trial": "3"}
    about = RunInfo("run3", "0", "me", "FINISHED", 0, 0, "active")
    run = Run(about, RunData([], [], [RunTag(*one) for one in texts.items()]))
    return ModelRun(Files(folder), run)  # type: ignore[arg-type]


def test_a_run_says_what_its_model_takes_and_predicts(tmp_path):
    column = Column("age", "number", "numbers", low=1.0, high=9.0)
    schema = Schema({"numbers": Input("numbers", (1,), ("age",))}, FLOWERS.target, (column,))
    config = {"task": {"kind": "classification"}, "data": {"name": "table", "target": "species"}}
    as_bytes = np.frombuffer(schema.to_json().encode(), np.uint8)
    run = run_with(tmp_path, {}, config, schema=as_bytes, x_numbers=np.ones((2, 1), np.float32))
    found = purpose_of(run, tmp_path)
    assert (found.schema, found.task, found.column, found.resize) == (schema, "classification", "species", None)
    assert found.sample["numbers"].shape == (2, 1)


def test_a_run_says_how_pictures_were_made_to_fit(tmp_path):
    tags = {"image": "8x6x3", "classes": 2, "names": ["cat", "dog"]}
    found = purpose_of(run_with(tmp_path, tags, {"data": {"name": "folder", "resize": "pad"}}), tmp_path)
    assert (found.schema.image, found.names, found.resize) == ((8, 6, 3), ["cat", "dog"], "pad")


@pytest.mark.parametrize(
    "schema",
    [
        Schema({"x": Input("image", (8, 6, 3))}, Target("classes", 2, ("cat", "dog"))),
        Schema({"left": Input("array", (4,)), "right": Input("image", (2, 2, 1))}, Target("numbers", 2)),
        Schema({"x": Input("array", (4,))}, Target("labels", 3)),
    ],
)
def test_runs_of_versions_that_did_not_write_a_schema_have_it_in_their_tags(tmp_path, schema):
    assert purpose_of(run_with(tmp_path, described(schema)), tmp_path).schema == schema


@pytest.mark.parametrize(
    "tags", [{}, {"image": "8x6"}, {"inputs": "{", "classes": "2"}, {"image": "8x6x3", "classes": "x"}]
)
def test_a_run_that_does_not_say_what_its_model_takes_is_named(tmp_path, tags):
    with pytest.raises(UserError, match="a/b: the tags of trial 3 do not say what its model takes"):
        purpose_of(run_with(tmp_path, tags), tmp_path)
