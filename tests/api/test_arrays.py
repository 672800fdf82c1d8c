"""Arrays that are passed from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnist_sweep.api import arrays
from mnist_sweep.common.errors import UserError

X, Y = np.zeros((10, 4, 4), np.uint8), np.arange(10) % 2


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"data": (X, Y)}, {"x_train", "y_train"}),
        ({"train": (X, Y)}, {"x_train", "y_train"}),
        ({"data": ((X, Y), (X, Y))}, {"x_train", "y_train", "x_test", "y_test"}),
        ({"data": (X, Y), "test": (X, Y)}, {"x_train", "y_train", "x_test", "y_test"}),
        ({"data": {"x_train": X, "y_train": Y}}, {"x_train", "y_train"}),
        ({"train": (X, Y), "validation": (X, Y)}, {"x_train", "y_train", "x_val", "y_val"}),
        ({"data": (X.tolist(), Y.tolist())}, {"x_train", "y_train"}),
    ],
)
def test_parts_may_be_passed_as_keras_returns_them(given, names):
    found = arrays.as_arrays(**{"data": None, "train": None, "test": None, **given})
    assert set(found) == names
    assert all(len(array) == 10 for array in found.values())


def test_labels_in_a_column_are_labels():
    found = arrays.as_arrays((X, Y[:, None]), None, None)
    assert found["y_train"].shape == (10,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": (X, Y), "train": (X, Y)}, "train: data is given too; pass only one of them"),
        ({"test": (X, Y)}, "data: x_train is missing; pass data=(x_train, y_train)"),
        ({"data": X}, "data: is of type ndarray; pass (x_train, y_train) or ((x_train, y_train), (x_test, y_test))"),
        ({"train": (X,)}, "train: is of type tuple; pass (x_train, y_train)"),
        ({"data": {"x": X}}, "data: has the key x; the keys are x_train, y_train, x_val, y_val, x_test, y_test"),
        ({"train": (X, Y), "validation": X}, "validation: is of type ndarray; pass (x_val, y_val)"),
        ({"train": (X, Y), "validation": (X[:3], Y)}, "data: x_val has 3 rows, but y_val has 10"),
        ({"data": {"x_train": X, "y_train": Y, "x_test": X}}, "data: y_test is missing"),
        ({"data": (X, Y[:4])}, "data: x_train has 10 rows, but y_train has 4"),
        ({"data": (object(), Y)}, "data: x_train is of type object; pass a NumPy array with a row for each example"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(UserError) as raised:
        arrays.as_arrays(**{"data": None, "train": None, "test": None, **given})
    assert str(raised.value) == message


def test_a_fifth_is_held_out_if_there_is_no_test_part_and_is_in_no_other_part(tmp_path: Path):
    x = np.arange(10)
    held, note = arrays.with_test_part({"x_train": x, "y_train": Y}, seed=1)
    assert note.startswith("data: has no test part; 2 of the 10 rows are held out to test the best model.")
    assert len(held["x_test"]) == 2
    assert sorted([*held["x_train"], *held["x_test"]]) == list(x)
    again, _ = arrays.with_test_part({"x_train": x, "y_train": Y}, seed=1)
    assert (again["x_test"] == held["x_test"]).all()
    assert arrays.with_test_part(held, seed=1) == (held, "")
    arrays.save(held, tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as saved:
        assert set(saved) == {"x_train", "y_train", "x_test", "y_test"}
