"""Exported models of tables take the columns as users have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from example_tables import loaded, mixed

from mnist_sweep.config.trial_config import Categories, Text
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.schema import Column, Input, Schema


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LoadedData:
    frame = mixed()
    frame.loc[::11, "review"] = None
    frame["seen"] += np.timedelta64(90, "m") * np.arange(len(frame))
    return loaded(frame, tmp_path_factory.mktemp("data"), target="bought", text=["review"])


@pytest.mark.parametrize(
    "format",
    [
        "keras strings",
        "keras",
        pytest.param("savedmodel strings", marks=pytest.mark.slow),
        pytest.param("tflite", marks=pytest.mark.slow),
    ],
)
def test_an_exported_model_predicts_from_columns(data: LoadedData, tmp_path: Path, format: str) -> None:
    import keras

    from mnist_sweep.training import exported, raw_columns, saved
    from mnist_sweep.training.encoding import Encoding

    text = Text(vocabulary=6, length=4, embedding=3, pooling="average")
    categories = Categories(one_hot=5, embedding=2)
    encoding = Encoding.fit(data.schema, data.train.inputs, np.arange(100), text, categories)
    inputs = {
        name: keras.Input(one.shape, dtype="float32" if name == "plain" else "int32", name=name)
        for name, one in encoding.schema.inputs.items()
    }
    parts = [keras.layers.Rescaling(0.1, dtype="float32")(one) for one in inputs.values()]
    core = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(parts)))
    model, strings = encoding.in_front_of(core), format.endswith("strings")
    expected = saved.predict(model, data.train.inputs)
    assert np.isfinite(expected).all()
    name = format.removesuffix(" strings")
    path = tmp_path / f"model.{name}"
    exported.write(name, raw_columns.of_raw_columns(model, data.schema, strings=strings), path)
    rows = raw_columns.columns_of(data.train.inputs, data.schema, strings=strings)
    found = exported.ask(exported.open_with_runtime(name, path), rows)
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    if strings:
        unseen = {**rows, "city": np.full_like(rows["city"], "Atlantis"), "review": np.full_like(rows["review"], "")}
        missing = {**rows, "city": np.full_like(rows["city"], ""), "review": np.full_like(rows["review"], "   ")}
        predict = exported.open_with_runtime(name, path)
        assert np.array_equal(exported.ask(predict, unseen), exported.ask(predict, missing))


def test_inputs_have_names_that_every_format_can_have() -> None:
    from mnist_sweep.training import raw_columns

    columns = tuple(
        Column(name, "number", "numbers", at) for at, name in enumerate(("a b", "a_b", "5 km", "größe", "°"))
    )
    schema = Schema({"numbers": Input("numbers", (5,))}, columns=columns)
    assert list(raw_columns.names(schema).values()) == ["a_b", "a_b_1", "column_5_km", "gr_e", "column_4"]


def test_the_manifest_says_what_each_column_takes(data: LoadedData) -> None:
    from mnist_sweep.training import raw_columns

    about = {one["column"]: one for one in raw_columns.describe(data.schema, strings=False)}
    assert about["city"]["values"] == ["Bern", "Oslo", "Rome", "Tunis"]
    assert about["city"]["takes"].startswith("int32, 0 if missing or unknown")
    assert about["seen"]["takes"].startswith("float32, days since 1970-01-01")
    assert sorted(about["review"]["words"]) == ["a", "bad", "broke", "good", "it", "solid", "thing"]
    assert {one["input"] for one in raw_columns.describe_inputs(data.schema)} == {"numbers", "categories", "text1"}
