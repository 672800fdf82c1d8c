"""Inputs of models from tables and arrays, as the models were trained on them."""

from __future__ import annotations

import numpy as np
import pytest
from example_tables import loaded, mixed

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.schema import Input, Schema
from mnist_sweep.results.models import rows


@pytest.fixture
def data(tmp_path):
    return loaded(mixed(40), tmp_path, target="bought", text=["review"], drop=["household"], test_split=0)


def test_rows_become_what_the_model_was_trained_on(data):
    frame = mixed(40)
    inputs, notes = rows.of_table(frame[frame.columns[::-1]], data.schema, "shop.csv")
    assert notes == []
    for name, array in data.train.inputs.items():
        np.testing.assert_array_equal(inputs[name], array)


def test_values_may_be_missing_and_columns_of_no_use_are_not_looked_at(data):
    frame = mixed(5).assign(age=None, city=None, shop=None, seen=None, review=None, extra="x")
    inputs, notes = rows.of_table(frame, data.schema, "shop.csv")
    assert np.isnan(inputs["numbers"][:, data.schema.inputs["numbers"].columns.index("age")]).all()
    assert notes == []


def test_a_category_that_training_lacks_counts_as_missing_and_is_named(data):
    frame = mixed(5)
    frame["city"] = ["Oslo", "Paris", "Paris", None, "Lima"]
    inputs, notes = rows.of_table(frame, data.schema, "shop.csv")
    city = next(column for column in data.schema.columns if column.name == "city")
    assert (inputs["categories"][:, city.at] > 0).tolist() == [True, False, False, False, False]
    assert notes[0] == "city: 'Paris', 'Lima' (3 rows) did not occur in training; read as missing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns=["age"]), "shop.csv: has no column 'age'"),
        (lambda frame: frame.rename(columns={"income": "incom"}), "has no column 'income'; did you mean 'incom'?"),
        (lambda frame: frame[["age"]], "shop.csv: lacks 6 columns that the model needs: review, income, seen,"),
        (lambda frame: frame.assign(income="much"), "shop.csv: 'much' in column 'income', row 1, is not a number"),
        (lambda frame: frame.assign(seen="soon"), "'soon' in column 'seen', row 1, is not a date such as 2024-12-31"),
    ],
)
def test_a_table_that_does_not_fit_is_a_one_line_error(data, change, message):
    with pytest.raises(UserError) as error:
        rows.of_table(change(mixed(5)), data.schema, "shop.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---- arrays -----------------------------------------------------------------------------------------------------

ROWS = Schema({"x": Input("array", (4,))})
TWO = Schema({"left": Input("image", (2, 2, 1)), "right": Input("array", (3,))})
PIXELS = np.array([[[[0], [255]], [[9], [9]]]], np.uint8)


@pytest.mark.parametrize(
    "given",
    [{"x": np.ones((2, 4))}, {"x_test": np.ones((2, 4)), "x_train": np.zeros((9, 4))}, {"mine": np.ones((2, 4), int)}],
)
def test_an_array_may_be_called_as_in_the_training_data_or_be_the_only_one(given):
    found = rows.of_arrays(given, ROWS, "a.npz")
    assert (found["x"] == np.ones((2, 4))).all()
    assert found["x"].dtype == np.float32


def test_each_of_several_inputs_is_read_as_in_training():
    found = rows.of_arrays({"x_left": PIXELS / 255, "x_right": np.ones((1, 3))}, TWO, "a.npz")
    np.testing.assert_allclose(found["left"], PIXELS / np.float32(255))
    assert (rows.of_arrays({"left": PIXELS[..., 0], "right": np.ones((1, 3))}, TWO, "a")["left"] == PIXELS).all()
    moved = rows.of_arrays({"x": np.arange(-6.0, 6).reshape(1, 2, 2, 3)}, Schema({"x": Input("array", (2, 2, 3))}), "a")
    assert moved["x"].shape == (1, 2, 2, 3)


@pytest.mark.parametrize(
    ("given", "schema", "message"),
    [
        ({"a": PIXELS, "b": PIXELS}, ROWS, "a.npz: has no array x; it has a, b"),
        ({"x_left": PIXELS}, TWO, "a.npz: has no array x_right; it has x_left"),
        ({"x": np.ones((2, 5))}, ROWS, "a.npz: x has shape (2, 5); the model takes (N, 4)"),
        ({"x": np.ones((2, 4)) * np.nan}, ROWS, "a.npz: x contains NaN or infinite values"),
        ({"x": np.array([["a"]])}, ROWS, "a.npz: x has type <U1; it must contain numbers"),
        ({"x": np.ones((0, 4))}, ROWS, "a.npz: x is empty; it must contain numbers"),
        ({"x_left": PIXELS * -1.0, "x_right": np.ones((1, 3))}, TWO, "x_left has values outside of 0..1 and 0..255"),
        ({"x_left": PIXELS, "x_right": np.ones((2, 3))}, TWO, "the inputs must have the same number of rows"),
    ],
)
def test_arrays_that_do_not_fit_are_a_one_line_error(given, schema, message):
    with pytest.raises(UserError) as error:
        rows.of_arrays(given, schema, "a.npz")
    assert message in str(error.value)
