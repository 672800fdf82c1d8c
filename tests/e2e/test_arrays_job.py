"""A whole sweep on arrays that are not images, with every command that takes its models."""

from __future__ import annotations

import json
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
    assert "serve diabetes" not in done.stdout
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
    manifest = json.loads((work / "out" / "manifest.json").read_text())
    assert manifest["input"] == "float32, as in the data, shape (N, …)"
    assert manifest["output"] == "float32, the predicted numbers, shape (N, numbers)"
    refused = run(work, "serve", "diabetes")
    assert refused.returncode == 2
    assert "its models take no images" in refused.stderr
