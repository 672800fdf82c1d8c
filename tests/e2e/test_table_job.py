"""Whole sweeps on tables: cross-validated, killed and resumed, exported, and asked about rows as they are in a file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from example_tables import TARGETS, mixed, of_sklearn
from programs import command, environment

from mnist_sweep.common.reading import read_npz
from mnist_sweep.data import columns, table_files
from mnist_sweep.data.schema import schema_in
from mnist_sweep.journal import files


@pytest.mark.slow
def test_a_cross_validated_sweep_on_a_table_is_killed_resumed_and_exported(run, work: Path) -> None:
    mixed(300).to_csv(work / "shop.csv", index=False)
    given = [
        "+experiment=table", "data.path=shop.csv", "data.target=bought", "data.text=[review]", "data.group=household",
        "validation=kfold", "folds=3", "model.text.embedding=4,8", "model.categories.one_hot=10", "training.epochs=4",
        "search.max_trials=4", "workers.count=2", "name=shop", "resume=auto",
    ]  # fmt: skip
    started = subprocess.Popen(command(*given), cwd=work, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(path.read_text().count('"kind": "trial_ended"') for path in work.glob("experiments/shop/*/journal*")):
        assert started.poll() is None
        if time.monotonic() > deadline or list(work.glob(f"experiments/shop/*/trials/*/{files.MODEL_FILE}")):
            break
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    done = run(work, *given, published=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "val_accuracy" in done.stdout
    formats = "h5,keras,savedmodel,tflite,onnx"
    exported = run(work, "export", "shop", "--to", "out", "--format", formats)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    manifest = json.loads((work / "out" / "manifest.json").read_text())
    assert manifest["output"] == "float32, the probability of the second class, yes, shape (N, 1)"
    assert manifest["target"] == {"task": "binary", "classes": ["no", "yes"], "column": "bought"}
    assert "city" in {one["column"] for one in manifest["files"]["model.keras"]["columns"]}

    import keras

    frame = table_files.read(str(work / "shop.csv"))
    samples = list(work.glob("experiments/shop/*/trials/*/sample_predictions.npz"))
    schema = schema_in(read_npz(samples[0], "sample"))
    assert schema is not None
    inputs = columns.encode(frame, schema.columns, schema.inputs, "shop.csv")
    rows = {
        name: frame[[name]].fillna("").to_numpy(object) if frame[name].dtype != float else frame[[name]].to_numpy()
        for name in ("age", "income", "city", "shop", "review")
    }
    rows |= {"member": frame[["member"]].astype(str).to_numpy(object)}
    days = schema.inputs["numbers"].columns.index("seen")
    rows |= {"seen": inputs["numbers"][:, days : days + 1]}
    of_blocks = keras.models.load_model(work / "out" / "model.h5", compile=False)
    of_columns = keras.models.load_model(work / "out" / "model.keras", compile=False)
    expected = np.asarray(of_blocks(inputs))
    assert np.allclose(np.asarray(of_columns(rows)), expected, atol=1e-4)
    assert expected.min() < 0.4 < 0.6 < expected.max()
    predicted = run(work, "predict", "shop", "shop.csv")
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    written = table_files.read(str(work / "shop_predictions.csv"))
    assert list(written["predicted_bought"]) == ["yes" if p >= 0.5 else "no" for p in expected[:, 0]]
    assert np.allclose(written["probability"], np.maximum(expected, 1 - expected)[:, 0], atol=1e-5)


@pytest.mark.slow
def test_a_regression_on_sklearns_diabetes_ends_with_its_error_on_the_test_rows(run, work: Path) -> None:
    of_sklearn(work, "diabetes")
    done = run(
        work, "+experiment=regression", "data.path=diabetes.csv", f"data.target={TARGETS['diabetes']}",
        "search.max_trials=2", "training.epochs=20", "workers.count=1", published=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predicts a number: progression" in done.stdout
    assert re.search(r"on the test \w+: test_loss \S+, test_mae \S+, test_r2", done.stdout)
    assert "Model: regression-table version 1" in done.stdout
    (report,) = work.glob("experiments/regression/*/report.html")
    text = report.read_text()
    for words in ("Predicted and true values", "Residuals", "progression: mean error ±"):
        assert words in text
    logged = {path.name for path in work.glob("mlruns/**/*.png")}
    assert {"predicted_and_true.png", "residuals.png"} <= logged


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.target=taste"], "data.target=taste: wine.csv: has no column 'taste'"),
        (["data.target=class", "model=cnn"], "model.kind=cnn: needs images; use model=mlp for these data"),
        (
            ["data.target=class", "task=regression"],
            "'class_0' in row 1 is not a finite number; write task=classification",
        ),
        (
            ["data.target=class", "data.time=ash", "validation=kfold"],
            "validation=kfold: would train on rows that are later",
        ),
        (
            ["data.target=class", "model.text.length=5,7"],
            "model.text.length=5,7: is not used; no column is read word by",
        ),
        (["data.target=class", "data.time=ash", "data.group=hue"], "data.time=ash: rows cannot be split both by time"),
    ],
)
@pytest.mark.slow
def test_what_does_not_fit_a_table_is_a_one_line_error(run, work: Path, given: list[str], message: str) -> None:
    of_sklearn(work, "wine")
    done = run(work, "data=table", "data.path=wine.csv", *given)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr
    assert message in done.stderr
