"""Tables in training: rows are encoded by what the training rows tell, and saved models take them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from example_tables import TARGETS, load, loaded, mixed, of_sklearn
from fitting import train

from mnist_sweep.config.objective import Objective
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.trial_config import Categories, Text, TrialConfig, check_trial
from mnist_sweep.data.dataset import Dataset, LoadedData, split, with_test

_TEXT = Text(vocabulary=6, length=4, embedding=3, pooling="average")
_CATEGORIES = Categories(one_hot=5, embedding=2)


def dataset_of(data: LoadedData, validation: float = 0.25) -> Dataset:
    return split(with_test(data, 0.2), validation, seed=1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_of(loaded(mixed(), tmp_path_factory.mktemp("data"), target="bought", text=["review"]))


@pytest.fixture
def table_trial(compose_config):
    def made(path: Path, *overrides: str, task: str = "binary", target: str = "bought") -> TrialConfig:
        given = ("data=table", f"data.path={path}", f"data.target={target}", f"task={task}", "model.units=8")
        config = compose_config(*given, "training.batch_size=32", "training.epochs=3", *overrides)
        config["model"].pop("per_layer", None)
        return check_trial({group: config[group] for group in TRIAL_GROUPS})

    return made


def fitted(dataset: Dataset, training: Any = None, text: Text = _TEXT, categories: Categories = _CATEGORIES) -> Any:
    from mnist_sweep.training.encoding import Encoding

    training = np.arange(len(dataset.train)) if training is None else training
    return Encoding.fit(dataset.schema, dataset.train.inputs, training, text, categories)


def test_numbers_are_scaled_by_the_training_rows_only(rows: Dataset) -> None:
    training = np.arange(0, len(rows.train), 2)
    encoding = fitted(rows, training)
    numbers = np.array(rows.train.inputs["numbers"])
    x = encoding.encode(rows.train.inputs)["plain"][:, : numbers.shape[1]]
    expected = (numbers - np.nanmean(numbers[training], axis=0)) / np.nanstd(numbers[training], axis=0)
    assert np.allclose(x, np.nan_to_num(expected), atol=1e-4)
    # A wild value among the other rows changes nothing.
    numbers[1] = 1e9
    others = {**rows.train.inputs, "numbers": numbers}
    from mnist_sweep.training.encoding import Encoding

    again = Encoding.fit(rows.schema, others, training, _TEXT, _CATEGORIES)
    assert np.array_equal(again.mean, encoding.mean)
    assert np.array_equal(again.variance, encoding.variance)


def test_a_missing_number_is_the_mean_with_a_sign_that_it_is_missing(rows: Dataset) -> None:
    missing = np.isnan(rows.train.inputs["numbers"][:, 0])
    encoding = fitted(rows)
    x = encoding.encode(rows.train.inputs)["plain"]
    assert encoding.optional == 1
    assert (x[missing, 0] == 0).all()
    assert np.array_equal(x[:, len(encoding.mean)] == 1, missing)


def test_a_category_without_a_training_row_is_like_a_missing_one(rows: Dataset) -> None:
    city = next(column.at for column in rows.schema.columns if column.name == "city")
    codes = np.array(rows.train.inputs["categories"])
    training = np.flatnonzero(codes[:, city] != 2)
    encoded = fitted(rows, training).encode(rows.train.inputs)["plain"]
    unseen = {**rows.train.inputs, "categories": np.where(np.arange(codes.shape[1]) == city, 0, codes)}
    absent = fitted(rows, training).encode(unseen)["plain"]
    assert np.array_equal(encoded[codes[:, city] == 2], absent[codes[:, city] == 2])
    assert not np.array_equal(encoded, fitted(rows).encode(rows.train.inputs)["plain"])


def test_the_vocabulary_has_the_most_frequent_words_of_the_training_rows(tmp_path: Path) -> None:
    texts = ["c c c c", "a b", "a b a", "d d d d", "a", ""] * 5
    frame = pd.DataFrame({"t": texts, "y": np.arange(30) + 0.5})
    data = loaded(frame, tmp_path, target="y", text=["t"])
    dataset = Dataset(data.schema, data.train, data.train.take(np.arange(0)), data.train, 1)
    training = np.flatnonzero([text not in ("c c c c", "d d d d") for text in texts])
    words = ["", "[UNK]", *data.schema.inputs["text1"].vocabularies[0]]
    found = fitted(dataset, training).words["text1"]
    assert {words[i]: int(number) for i, number in enumerate(found)} == {
        "": 0,
        "[UNK]": 1,
        "a": 2,
        "b": 3,
        "c": 1,
        "d": 1,
    }
    only_one = fitted(dataset, training, Text(vocabulary=3, length=2, embedding=1, pooling="average"))
    assert sorted(only_one.words["text1"].tolist()) == [0, 1, 1, 1, 1, 2]
    assert only_one.encode(dataset.train.inputs)["text1"].shape == (30, 2)


def test_a_column_of_many_categories_is_embedded(rows: Dataset) -> None:
    few, many = fitted(rows), fitted(rows, categories=Categories(one_hot=1000, embedding=2))
    assert few.schema.inputs["embedded"].shape == (1,)
    assert "embedded" not in many.schema.inputs
    assert many.schema.inputs["plain"].shape[0] > few.schema.inputs["plain"].shape[0] + 70


@pytest.mark.parametrize("pooling", ["average", "convolution"])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_saved_model_takes_the_columns_as_they_are(
    rows: Dataset, tmp_path: Path, table_trial, pooling: str, precision: str
) -> None:
    import keras

    from mnist_sweep.training import model as models
    from mnist_sweep.training import saved

    given = (f"model.text.pooling={pooling}", "model.text.length=4", "model.text.vocabulary=6")
    config = table_trial(tmp_path / "table.csv", "data.text=[review]", "model.categories.one_hot=5", *given)
    encoding = fitted(rows, text=config.model.text, categories=config.model.categories)
    keras.config.set_dtype_policy(precision)
    try:
        model = models.build(config, encoding.schema)
        encoding.in_front_of(model).save(tmp_path / "model.h5", include_optimizer=False)
    finally:
        keras.config.set_dtype_policy("float32")
    encoded = encoding.encode(rows.test.inputs)
    expected = np.asarray(model(encoded, training=False), np.float32)
    found = saved.predict(saved.load(tmp_path / "model.h5"), rows.test.inputs)
    assert np.abs(found - expected).max() < (1e-5 if precision == "float32" else 1e-2)


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_a_model_learns_from_sklearns_tables(tmp_path: Path, table_trial, name: str) -> None:
    from mnist_sweep.training.fit import Trainer

    dataset = dataset_of(load(of_sklearn(tmp_path, name), target=TARGETS[name]))
    task = "regression" if name == "diabetes" else "classification"
    score = Objective("val_mae", "min") if name == "diabetes" else Objective("val_accuracy", "max")
    config = table_trial("t.csv", "training.epochs=25", "model.dropout=0", "optimizer.learning_rate=0.02", task=task)
    outcome, _ = train(Trainer(dataset), config, tmp_path / "trials" / "0001", objective=score)
    assert outcome.score is not None
    assert outcome.score > 0.85 if name == "wine" else outcome.score < 60
    metrics, _ = Trainer(dataset).test(tmp_path / "trials" / "0001" / "model.h5", task=config.task)
    assert metrics["test_accuracy"] > 0.85 if name == "wine" else metrics["test_mae"] < 60


def test_a_fold_of_a_table_is_the_same_whatever_was_trained_before(rows: Dataset, tmp_path: Path, table_trial) -> None:
    from mnist_sweep.training.fit import Trainer

    config = table_trial("t.csv", "data.text=[review]", "model.categories.one_hot=5", "training.epochs=2")
    trainer = Trainer(rows)
    score = Objective("val_accuracy", "max")

    def one(name: str, fold: tuple[int, int], trainer: Any) -> list[float]:
        _, reports = train(trainer, config, tmp_path / name / "0001", objective=score, fold=fold)
        return [report["val_loss"] for report in reports]

    first, second = one("a", (1, 3), trainer), one("b", (2, 3), trainer)
    assert one("c", (1, 3), trainer) == first != second
    assert one("d", (2, 3), Trainer(rows)) == second


def test_a_trial_of_a_table_that_was_interrupted_gives_the_same(rows: Dataset, tmp_path: Path, table_trial) -> None:
    from fitting import timeless

    from mnist_sweep.training.fit import Trainer

    config = table_trial("t.csv", "data.text=[review]", "model.categories.one_hot=5", "training.epochs=4")
    trainer, score = Trainer(rows), Objective("val_accuracy", "max")
    _, whole = train(trainer, config, tmp_path / "a" / "0001", objective=score)
    folder = tmp_path / "b" / "0001"
    train(trainer, config, folder, objective=score, stop=lambda epoch: "enough" if epoch == 2 else "")
    _, resumed = train(Trainer(rows), config, folder, objective=score)
    assert timeless(resumed) == timeless(whole)
