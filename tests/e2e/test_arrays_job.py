"""A whole sweep on arrays that are not images, with every command that takes its models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets


@pytest.mark.slow
def test_a_regression_on_arrays_is_registered_exported_and_trained_again(run, work: Path) -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    np.savez(work / "diabetes.npz", x_train=x.astype(np.float32), y_train=y)
    done = run(
        work, "data=npz", "data.path=diabetes.npz", "name=diabetes", "task.loss=mse,huber", "search=grid",
        "training.epochs=3", "workers.count=2", published=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "task     regression" in done.stdout
    assert "on the test data: test_loss" in done.stdout
    assert "version 1, the champion" in done.stdout
    assert re.search(r"serve diabetes\S* +# send it rows and see", done.stdout)
    for arguments, said in (
        (("rerun", "diabetes", "1"), "identical: all 7 metrics of all 3 epochs"),
        (("compare", "diabetes"), "val_mae"),
        (("retrain", "diabetes", "1", "training.epochs=4"), "Result: val_mae"),
        (
            ("export", "diabetes", "--to", "out", "--format=h5,keras,savedmodel,tflite,onnx"),
            "Each takes arrays as in the data",
        ),
    ):
        done = run(work, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
    import keras

    manifest = json.loads((work / "out" / "manifest.json").read_text())
    assert manifest["input"] == "float32, as in the data, shape (N, …)"
    assert manifest["output"] == "float32, value, in the units of the training data, shape (N, 1)"
    predicted = run(work, "predict", "diabetes", "diabetes.npz")
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    model = keras.models.load_model(work / "out" / "model.keras", compile=False)
    with np.load(work / "diabetes_predictions.npz") as written:
        np.testing.assert_allclose(written["predictions"], np.asarray(model(x.astype(np.float32))), rtol=1e-4)
