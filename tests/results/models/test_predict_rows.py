"""Predictions from tables and arrays, with functions as models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common.errors import UserError
from mnist_sweep.data.schema import Column, Input, Schema, Target
from mnist_sweep.results.models import predict, predict_rows
from mnist_sweep.results.models.purpose import Purpose

COLUMNS = (Column("width", "number", "numbers"), Column("colour", "category", "categories"))
INPUTS = {"numbers": Input("numbers", (1,)), "categories": Input("categories", (1,), (), (("blue", "red"),))}
FLOWERS = Purpose(Schema(INPUTS, Target("classes", 2, ("rose", "tulip")), COLUMNS), "binary", "species")
ARRAYS = Purpose(Schema({"x": Input("array", (4,))}, Target("numbers", 2, ("height", "depth"))), "regression")
TABLE = "name,width,colour,species\na,0.25,red,rose\nb,1.0,green,tulip\nc,,blue,rose\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The model of a sweep: the probability of a tulip is the width, and numbers are sums."""
    monkeypatch.chdir(tmp_path)
    run = SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    made = SimpleNamespace(sweep="flowers/now", trial=3, run=run, purpose=FLOWERS)

    def predicted(_: Any, found: Any, folder: Path) -> list[np.ndarray]:
        inputs = [read.inputs for read in found]
        return [
            np.nan_to_num(one["numbers"]) if "numbers" in one else np.stack([one["x"].sum(axis=1)] * 2, axis=1)
            for one in inputs
        ]

    monkeypatch.setattr(predict, "find_trial", lambda *_: made)
    monkeypatch.setattr(predict, "purpose_of", lambda *_: made.purpose)
    monkeypatch.setattr(predict_rows, "_predicted", predicted)
    Path("mine.csv").write_text(TABLE)
    np.savez("rows.npz", x=np.ones((3, 4)))
    return made


def run_predict(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return (COMMANDS["predict"](list(arguments)), *capsys.readouterr())


def test_the_predictions_of_a_table_are_written_beside_it_with_all_its_columns(model, capsys):
    code, printed, errors = run_predict(capsys, "mine.csv")
    assert (code, errors) == (0, "")
    written = pd.read_csv("mine_predictions.csv")
    assert list(written) == ["name", "width", "colour", "species", "predicted_species", "probability"]
    assert list(written["predicted_species"]) == ["rose", "tulip", "rose"]
    assert list(written["probability"]) == [0.75, 1.0, 1.0]
    (row,) = [line.split() for line in printed.splitlines() if "predictions.csv" in line]
    assert row == ["mine.csv", "3", "rose", "2,", "tulip", "1", "mine_predictions.csv"]
    assert "mine.csv: colour: 'green' (1 row) did not occur in training; read as missing" in printed


def test_predictions_replace_no_column_of_the_table(model, capsys):
    Path("mine.csv").write_text("width,colour,probability\n0.25,red,7\n")
    assert run_predict(capsys, "mine.csv")[0] == 0
    written = pd.read_csv("mine_predictions.csv")
    assert (written["probability"][0], written["probability_2"][0]) == (7, 0.75)


def test_the_predictions_of_arrays_are_arrays(model, capsys):
    model.purpose = ARRAYS
    code, printed, _ = run_predict(capsys, "flowers", "3", "rows.npz")
    assert code == 0
    with np.load("rows_predictions.npz") as written:
        assert written["predictions"].shape == (3, 2)
        assert list(written["predicted_height"]) == [4.0, 4.0, 4.0]
    assert "height 4 to 4, depth 4 to 4" in printed


def test_json_prints_every_prediction_and_writes_none_unless_a_file_is_named(model, capsys):
    code, printed, _ = run_predict(capsys, "mine.csv", "--format", "json")
    answer = json.loads(printed)
    assert code == 0
    assert answer["model"] == {
        "sweep": "flowers/now", "trial": 3, "run_id": "abc", "task": "binary", "classes": ["rose", "tulip"],
    }  # fmt: skip
    (file,) = answer["files"]
    assert [one["class"] for one in file["predictions"]] == ["rose", "tulip", "rose"]
    assert len(file["notes"]) == 1
    assert sorted(path.name for path in Path().iterdir()) == ["mine.csv", "rows.npz"]
    run_predict(capsys, "mine.csv", "--format", "json", "--to", "out.csv")
    assert len(pd.read_csv("out.csv")) == 3


def test_a_parquet_and_a_csv_file_of_one_name_have_predictions_of_their_own(model, capsys):
    pd.read_csv("mine.csv").to_parquet("mine.parquet")
    assert run_predict(capsys, "mine.csv", "mine.parquet")[0] == 0
    names = {"mine_predictions.csv", "mine.parquet_predictions.csv"}
    assert names <= {path.name for path in Path().iterdir()}


def test_a_file_that_does_not_fit_is_named_and_the_others_are_used(model, capsys):
    Path("other.csv").write_text("width,color\n1,red\n")
    code, printed, errors = run_predict(capsys, "gone.csv", "other.csv", "rows.npz", "mine.csv")
    assert code == 2
    assert errors.splitlines() == [
        "mnist_sweep: gone.csv: no such file",
        "mnist_sweep: other.csv: has no column 'colour'; did you mean 'color'?",
        "mnist_sweep: rows.npz: the model takes the columns of a table; give a CSV, Parquet or Excel file",
    ]
    assert "mine_predictions.csv" in printed


@pytest.mark.parametrize(
    ("purpose", "given", "message"),
    [
        (FLOWERS, ["mine.csv", "mine.csv", "--to", "out.csv"], "--to=out.csv: is for one file, not for 2"),
        (
            FLOWERS,
            ["mine.csv", "--to", "no/out.csv"],
            "no/out.csv: cannot be written (cannot save file into",
        ),
        (FLOWERS, ["mine.csv", "--save-input", "seen"], "--save-input=seen: is for pictures"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, capsys, purpose, given, message):
    model.purpose = purpose
    with pytest.raises(UserError) as error:
        run_predict(capsys, *given)
    assert message.lower() in str(error.value).lower()


def test_a_table_for_a_model_of_arrays_is_told_what_to_give(model, capsys):
    model.purpose = ARRAYS
    assert run_predict(capsys, "mine.csv")[2] == (
        "mnist_sweep: mine.csv: the model takes arrays; give an .npz file with x (N, 4)\n"
    )
