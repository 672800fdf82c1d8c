"""What a user's function may return, and what is said of anything else."""

from __future__ import annotations

from typing import Any

import loaders
import numpy as np
import pandas as pd
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import shipped
from mnist_sweep.data import npz, returned
from mnist_sweep.data.dataset import LoadedData

WHERE = "data.loader=mine:load"
X, Y = loaders.rows()
FRAME = pd.DataFrame({"size": np.arange(60.0), "colour": ["red", "blue", "green"] * 20})
PRICE = pd.Series(np.linspace(0, 9, 60) ** 2, name="price")


def loaded(value: Any, wanted: Any = None, **options: Any) -> LoadedData:
    return returned.load(value, WHERE, {**shipped.values("data/loader"), **options}, wanted)


def sizes(data: LoadedData) -> list[int | None]:
    return [None if rows is None else len(rows) for rows in (data.train, data.validation, data.test)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((X, Y), [300, None, None]),
        ([X.tolist(), Y.tolist()], [300, None, None]),
        (((X[:200], Y[:200]), (X[200:], Y[200:])), [200, None, 100]),
        (loaders.arrays(), [200, 50, 50]),
        ({"train": (X[:200], Y[:200]), "validation": (X[200:], Y[200:])}, [200, 100, None]),
        ({"x_train": X[:200], "y_train": Y[:200], "x_test": X[200:], "y_test": Y[200:]}, [200, None, 100]),
        ({"data": X, "target": Y}, [300, None, None]),
    ],
)
def test_arrays_may_come_in_parts_by_their_order_or_by_name(value: Any, expected: list[int | None]) -> None:
    data = loaded(value)
    assert sizes(data) == expected
    assert data.schema.image == (6, 6, 1)
    assert data.schema.target.size == 3


def test_arrays_are_those_of_an_npz_to_the_last_bit(tmp_path) -> None:
    names = {"x_train": X[:200], "y_train": Y[:200], "x_test": X[200:], "y_test": Y[200:]}
    np.savez(tmp_path / "mine.npz", **names)
    from_file = npz.load(str(tmp_path / "mine.npz"), None)
    assert loaded(names).digest() == loaded(((X[:200], Y[:200]), (X[200:], Y[200:]))).digest() == from_file.digest()


def test_several_inputs_and_weights_are_read() -> None:
    data = loaded(({"image": X, "table": X[:, 0].astype(float)}, Y, np.arange(300)))
    assert {name: one.kind for name, one in data.schema.inputs.items()} == {"image": "image", "table": "array"}
    assert data.train.weights is not None
    assert data.train.weights[7] == 7


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (FRAME.assign(price=PRICE), {"target": "price"}),
        ((FRAME, PRICE), {}),
        ((FRAME, PRICE.to_frame()), {}),
        ((FRAME, PRICE.to_numpy(), np.ones(60)), {}),
        ({"data": FRAME, "target": PRICE}, {}),
    ],
)
def test_a_frame_is_a_table(value: Any, options: dict[str, Any]) -> None:
    data = loaded(value, **options)
    assert [column.name for column in data.schema.columns] == ["size", "colour"]
    assert data.schema.target.kind == "numbers"
    assert np.allclose(data.train.targets, PRICE)


def test_parts_of_a_table_share_its_columns_and_the_index_does_not_matter() -> None:
    whole = FRAME.assign(price=PRICE)
    parts = {"train": whole[:40], "validation": whole[40:50], "test": whole[50:]}
    data = loaded(parts, target="price")
    assert sizes(data) == [40, 10, 10]
    with pytest.raises(UserError, match="its test part: has no column 'colour'"):
        loaded({**parts, "test": parts["test"].drop(columns="colour")}, target="price")


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (None, {}, "returned None; end it with return"),
        (7, {}, "returned an int; return arrays, pandas frames, a tf.data.Dataset"),
        ((one for one in "ab"), {}, "returned a generator; return arrays"),
        ((X, Y, X, Y), {}, "returned a tuple of 4; return arrays"),
        ({"train": X}, {}, "returned an ndarray as its training part; return (x, y)"),
        ({"train": (X, Y), "tests": (X, Y)}, {}, "a dict with the key tests; its keys are train, validation, test"),
        ({"x_train": X}, {}, "has no array y_train; it has x_train"),
        ((X, Y[:7]), {}, "x_train has 300 images, but y_train has 7 labels"),
        (([[1, 2], [3]], [0, 1]), {}, "x_train cannot be converted to an array"),
        (([{1}, {2}, {3}, {4}], [0, 1, 0, 1]), {}, "x_train is a list of 4 of Python objects"),
        ((X, Y), {"target": "price"}, "data.target=price: names a column, but data.loader=mine:load returned arrays"),
        ((X, Y), {"classes": 3}, "data.classes=3: is not used; data.loader=mine:load returned arrays"),
        (FRAME, {}, "data.target=null: data.loader=mine:load returned a pandas frame; name the column to predict"),
        (
            (FRAME, PRICE),
            {"target": "price"},
            "data.target=price: data.loader=mine:load returned the targets separately",
        ),
        ((FRAME, PRICE[:9]), {}, "has 60 rows, but 9 targets"),
        ((FRAME, PRICE, np.ones(9)), {}, "weights must be one number for each of the 60 rows"),
        ((FRAME.iloc[:0], PRICE[:0]), {}, "has no rows"),
    ],
)
def test_anything_else_is_a_line_that_names_it(value: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        loaded(value, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
