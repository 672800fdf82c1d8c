"""Tables: what their columns are, what is predicted, which rows are held out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from example_tables import TARGETS, load, loaded, mixed, of_sklearn

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import columns, table_files
from mnist_sweep.data.dataset import Dataset, folds, split, with_test
from mnist_sweep.data.schema import Schema, Target, TargetKind


@pytest.mark.parametrize(
    ("name", "target", "rows", "numbers"),
    [
        ("iris", Target("classes", 3, ("setosa", "versicolor", "virginica")), 150, 4),
        ("wine", Target("classes", 3, ("class_0", "class_1", "class_2")), 178, 13),
        ("breast_cancer", Target("classes", 2, ("benign", "malignant")), 569, 30),
        ("diabetes", Target("numbers", 1, ("progression",)), 442, 10),
    ],
)
def test_sklearns_tables_load_as_what_they_are(
    tmp_path: Path, name: str, target: Target, rows: int, numbers: int
) -> None:
    data = load(of_sklearn(tmp_path, name), target=TARGETS[name])
    assert (data.schema.target.kind, data.schema.target.size) == (target.kind, target.size)
    assert data.schema.target.names == target.names or name == "diabetes"
    assert data.train.inputs["numbers"].shape == (rows, numbers)
    assert data.train.targets.shape == (rows,)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".xlsx"])
def test_a_table_is_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    frame, path = mixed(), tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False)
    assert load(path, target="bought").digest() == loaded(frame, tmp_path, target="bought").digest()


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_of_a_csv_file_is_recognized(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "table.csv"
    mixed().to_csv(path, index=False, sep=separator)
    assert load(path, target="bought").digest() == loaded(mixed(), tmp_path, target="bought").digest()


# With the larger number, the last comma is the last byte of the first MiB, and the space is in the second.
@pytest.mark.parametrize("rows", [2, (2**20 - 8) // 4])
def test_a_space_after_a_separator_is_not_part_of_a_value(tmp_path: Path, rows: int) -> None:
    (tmp_path / "table.csv").write_text("a,bcd\n" + "1,x\n" * rows + "1, x\n")
    assert set(table_files.read(str(tmp_path / "table.csv"))["bcd"]) == {"x"}


@pytest.mark.parametrize("text", [" a,b\nx,1\ny,2\n", "a,b\n x,1\nx,2\ny,3\n", "a,b\r\nx,\t1\r\ny,2\r\n"])
def test_a_space_before_a_value_is_not_part_of_it_at_the_start_of_a_line_either(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text, newline="")
    frame = table_files.read(str(tmp_path / "table.csv"))
    assert list(frame.columns) == ["a", "b"]
    assert set(frame["a"]) == {"x", "y"}
    assert frame["b"].dtype == np.int64


def test_a_separator_at_the_end_of_each_line_does_not_shift_the_columns(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2,\n3,4,\n")
    with pytest.raises(UserError, match="its lines have one value more than there are names of columns"):
        table_files.read(str(tmp_path / "table.csv"))
    (tmp_path / "table.csv").write_text(f"a,b\n1,{'x' * 200_000}\n2,y\n")
    assert len(table_files.read(str(tmp_path / "table.csv"))) == 2
    # As R writes a table with names of its rows.
    (tmp_path / "table.csv").write_text("a,b\nx,1,2\ny,3,4\n")
    assert table_files.read(str(tmp_path / "table.csv")).to_dict("list") == {"a": [1, 3], "b": [2, 4]}


def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("größe,b\n1,x\n2,y\n", encoding="utf-8-sig")
    assert list(table_files.read(str(tmp_path / "table.csv")).columns) == ["größe", "b"]


def test_a_column_whose_kind_only_its_end_shows_is_read_as_a_whole(tmp_path: Path) -> None:
    count = 100_000
    values = [*map(str, range(count)), "unknown"]
    (tmp_path / "table.csv").write_text("a,b\n" + "".join(f"{value},{value}\n" for value in values))
    assert table_files.read(str(tmp_path / "table.csv"))["a"].tolist() == values


def test_every_kind_of_column_becomes_an_input(tmp_path: Path) -> None:
    data = loaded(mixed(), tmp_path, target="bought", text=["review"])
    kinds = {column.name: column.kind for column in data.schema.columns}
    assert kinds == {
        **dict.fromkeys(("age", "income", "household"), "number"),
        **dict.fromkeys(("city", "shop", "member"), "category"),
        "seen": "date",
        "review": "text",
    }
    assert {column.name for column in data.schema.columns if column.optional} == {"age", "city"}
    numbers, codes = data.train.inputs["numbers"], data.train.inputs["categories"]
    assert np.isnan(numbers[::9, 0]).all()
    assert not np.isnan(np.delete(numbers[:, 0], np.s_[::9])).any()
    city = next(column for column in data.schema.columns if column.name == "city")
    vocabulary = data.schema.inputs["categories"].vocabularies[city.at]
    assert [["", *vocabulary][code] for code in codes[:, city.at]] == mixed()["city"].fillna("").tolist()


def test_the_schema_survives_being_stored(tmp_path: Path) -> None:
    schema = loaded(mixed(), tmp_path, target="bought", text=["review"]).schema
    assert Schema.from_json(schema.to_json()) == schema


def test_a_date_becomes_days_and_its_place_in_the_year_and_the_week(tmp_path: Path) -> None:
    frame = pd.DataFrame({"when": ["1970-01-01", "1970-01-08", "2024-02-29", None], "y": [1.5, 2.5, 3.5, 4.5]})
    data = loaded(frame, tmp_path, target="y")
    names, numbers = data.schema.inputs["numbers"].columns, data.train.inputs["numbers"]
    assert names == ("when", "when (year, sin)", "when (year, cos)", "when (week, sin)", "when (week, cos)")
    assert numbers[:3, 0].tolist() == [0, 7, 19782]
    assert np.allclose(numbers[0, 3:], numbers[1, 3:], atol=1e-6)
    assert np.isnan(numbers[3]).all()


def test_a_date_with_times_also_becomes_its_place_in_the_day(tmp_path: Path) -> None:
    frame = pd.DataFrame({"when": ["2024-01-01T06:00", "2024-01-02T12:00:30+02:00"], "y": [1.5, 2.5]})
    data = loaded(frame, tmp_path, target="y")
    assert data.schema.inputs["numbers"].columns[-2:] == ("when (day, sin)", "when (day, cos)")
    assert data.train.inputs["numbers"][0, -2:] == pytest.approx([1, 0], abs=1e-5)


def test_dates_in_another_order_are_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"when": ["31.12.2024", "1.2.2024"] * 2, "y": [1.5, 2.5, 3.5, 4.5]})
    assert "write them as 2024-12-31" in loaded(frame, tmp_path, target="y").notes[0]


def test_one_text_among_numbers_means_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": ["1", "?", "3", "5"], "y": [1.5, 2.5, 3.5, 4.5]})
    data = loaded(frame, tmp_path, target="y")
    assert "'?' in 1 row means missing" in data.notes[0]
    assert np.isnan(data.train.inputs["numbers"]).ravel().tolist() == [False, True, False, False]


def test_numbers_that_are_too_large_or_infinite_are_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, np.inf, 1e300, 2.0], "y": [1.5, 2.5, 3.5, 4.5]})
    frame.to_parquet(tmp_path / "table.parquet")
    data = load(tmp_path / "table.parquet", target="y")
    assert np.isnan(data.train.inputs["numbers"]).ravel().tolist() == [False, True, True, False]


def test_columns_of_one_value_or_of_names_only_are_not_used(tmp_path: Path) -> None:
    frame = mixed().assign(same=7, empty=None, name=[f"row {i}" for i in range(200)])
    data = loaded(frame, tmp_path, target="bought")
    assert not {"same", "empty", "name"} & {column.name for column in data.schema.columns}
    notes = "\n".join(data.notes)
    assert "columns same, empty: not used, because they have the same value" in notes
    assert "column name: not used, because all values are different; to read words, set data.text=[name]" in notes


@pytest.mark.parametrize("key", ["features", "categories", "text"])
def test_a_column_with_one_value_is_refused_if_the_user_asks_for_it(tmp_path: Path, key: str) -> None:
    frame = mixed().assign(same="x")
    with pytest.raises(UserError, match=rf"^data.{key}=.* has the same value in every row of column 'same'; leave"):
        loaded(frame, tmp_path, target="bought", **{key: ["age", "same"] if key == "features" else ["same"]})


def test_the_index_that_pandas_writes_is_not_used(tmp_path: Path) -> None:
    mixed().to_csv(tmp_path / "indexed.csv")
    data = load(tmp_path / "indexed.csv", target="bought")
    assert data.digest() == loaded(mixed(), tmp_path, target="bought").digest()


def test_numbers_can_be_categories(tmp_path: Path) -> None:
    frame = pd.DataFrame({"postcode": [3000, 8000, None, 3000], "y": [1.5, 2.5, 3.5, 4.5]})
    data = loaded(frame, tmp_path, target="y", categories=["postcode"])
    assert data.schema.inputs["categories"].vocabularies == (("3000", "8000"),)
    assert data.train.inputs["categories"].ravel().tolist() == [1, 2, 0, 1]


def test_features_and_drop_choose_the_columns(tmp_path: Path) -> None:
    def names(**given: Any) -> set[str]:
        return {column.name for column in loaded(mixed(), tmp_path, target="bought", **given).schema.columns}

    assert names(features=["age", "city"]) == {"age", "city"}
    assert names(features=["age"], text=["review"]) == {"age", "review"}
    assert names() - names(drop=["shop", "seen"]) == {"shop", "seen"}


def test_words_are_split_and_numbered_as_keras_does(tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": ["The cat!", "the Dog, the cat", "", None], "y": [1.5, 2.5, 3.5, 4.5]})
    data = loaded(frame, tmp_path, target="y", text=["t"])
    assert data.schema.inputs["text1"].vocabularies == (("the", "cat", "dog"),)
    # A text without words gets an unknown one.
    assert data.train.inputs["text1"].tolist() == [[2, 3, 0, 0], [2, 4, 2, 3], [1, 0, 0, 0], [1, 0, 0, 0]]
    shorter = loaded(frame, tmp_path, target="y", text=["t"], text_length=2)
    assert shorter.train.inputs["text1"].shape == (4, 2)


@pytest.mark.parametrize(
    ("values", "wanted", "kind"),
    [
        (["a", "b", "a", "b"], None, "classes"),
        ([True, False, True, False], None, "classes"),
        ([5, 7, 5, 7], None, "classes"),
        ([5, 7, 5, 7], "numbers", "numbers"),
        ([5.0, 7.5, 5.0, 7.5], None, "numbers"),
        ([5.0, 7.5, 5.0, 7.5], "classes", "classes"),
        ([0, 1, 1, 0], "labels", "labels"),
        (list(range(100)), None, "numbers"),
    ],
)
def test_the_target_tells_the_task_unless_the_task_is_given(
    tmp_path: Path, values: list[Any], wanted: TargetKind | None, kind: str
) -> None:
    frame = pd.DataFrame({"x": range(len(values)), "y": values})
    data = loaded(frame, tmp_path, wanted, target="y")
    assert data.schema.target.kind == kind
    assert data.notes[-1].startswith("predicts ")


def test_several_columns_are_labels_or_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(4), "a": [0, 1, 1, 0], "b": [True, False, True, False], "c": [1.5, 2, 3, 4]})
    labels = loaded(frame, tmp_path, target=["a", "b"], drop=["c"])
    assert (labels.schema.target, labels.train.targets.tolist()) == (
        Target("labels", 2, ("a", "b")),
        [[0, 1], [1, 0], [1, 1], [0, 0]],
    )
    assert loaded(frame, tmp_path, target=["a", "c"]).schema.target == Target("numbers", 2, ("a", "c"))


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(6), "y": [10, 9, 10, 2, 9, 2]})
    data = loaded(frame, tmp_path, target="y")
    assert data.schema.target.names == ("2", "9", "10")
    assert data.train.targets.tolist() == [2, 1, 2, 0, 1, 0]


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    data = loaded(mixed(400), tmp_path, target="bought", group="household")
    assert "household" not in {column.name for column in data.schema.columns}
    household = mixed(400)["household"].to_numpy()
    dataset = split(with_test(data, 0.2), 0.2, seed=3)
    income = mixed(400)["income"].to_numpy(np.float32)
    place = next(column.at for column in data.schema.columns if column.name == "income")
    sides = [
        set(household[np.isin(income, rows.inputs["numbers"][:, place])])
        for rows in (dataset.train, dataset.validation, dataset.test)
    ]
    assert all(sides)
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    of = folds(None, len(data.train), 4, 1, data.groups)
    assert all(len(set(of[household == one])) == 1 for one in set(household))


def test_the_latest_rows_are_held_out(tmp_path: Path) -> None:
    data = loaded(mixed(), tmp_path, target="bought", time="seen")
    assert "seen" not in {column.name for column in data.schema.columns}
    dataset: Dataset = split(with_test(data, 0.2), 0.25, seed=3)
    place = next(column.at for column in data.schema.columns if column.name == "income")
    frame = mixed().assign(income=mixed()["income"].astype(np.float32)).set_index("income")
    times = [frame.loc[rows.inputs["numbers"][:, place], "seen"] for rows in (dataset.train, dataset.validation)]
    assert times[0].max() <= times[1].min()
    assert times[1].max() <= frame.loc[dataset.test.inputs["numbers"][:, place], "seen"].min()


def test_a_test_table_is_encoded_like_the_other(tmp_path: Path) -> None:
    test = mixed(40, seed=1).assign(city="Atlantis", review="new words only")
    test.to_csv(tmp_path / "test.csv", index=False)
    path = str(tmp_path / "test.csv")
    data = loaded(mixed(), tmp_path, target="bought", text=["review"], test_path=path)
    assert data.test is not None
    city = next(column.at for column in data.schema.columns if column.name == "city")
    assert (data.test.inputs["categories"][:, city] == 0).all()
    assert (data.test.inputs["text1"][:, :3] == 1).all()


def test_rows_from_anywhere_can_be_encoded(tmp_path: Path) -> None:
    schema = loaded(mixed(), tmp_path, target="bought", text=["review"]).schema
    row = {"age": "41", "income": None, "city": "Rome", "shop": "shop 3", "member": "True", "seen": "2024-05-01"}
    frame = pd.DataFrame([{**row, "review": "solid", "household": 3}])
    found = columns.encode(frame, schema.columns, schema.inputs, "the form")
    assert found["numbers"][0, 0] == 41
    with pytest.raises(UserError, match="the form: has no column 'city'; did you mean 'citi'"):
        columns.encode(frame.rename(columns={"city": "citi"}), schema.columns, schema.inputs, "the form")
    with pytest.raises(UserError, match="'old' in column 'age', row 1, is not a number"):
        columns.encode(frame.assign(age="old"), schema.columns, schema.inputs, "the form")


_GOOD = "x,y,z\n1,a,5\n2,b,6\n3,a,7\n4,b,8\n"


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (_GOOD, {"target": "v"}, "data.target=v: .*: has no column 'v'; choose one of: x, y, z"),
        (_GOOD, {"target": "y", "drop": ["zz"]}, "data.drop=zz: .*: has no column 'zz'; did you mean 'z'?"),
        (_GOOD, {"target": "y", "features": ["y"]}, "data.features=y: y is data.target already"),
        (_GOOD, {"target": "y", "drop": ["x", "z"]}, "has no column to predict y from"),
        (_GOOD, {"target": "y", "time": "y"}, "data.time=y: y is data.target already"),
        ("x,y\n1,a\n2,\n", {"target": "y"}, "data.target=y has no value in 1 row; remove this row"),
        ("x,y\n1,a\n2,a\n", {"target": "y"}, "data.target=y has the same value in every row"),
        ("x,y\n1,a\n1,b\n", {"target": "y"}, "no column is left to predict from"),
        ("x,y\n", {"target": "y"}, "has no rows"),
        ("", {"target": "y"}, "is empty"),
        ("x,x,y\n1,2,a\n", {"target": "y"}, "has two columns named x; rename one of them"),
        ('x,y\n1,"a\n2,b\n', {"target": "y"}, "pandas cannot read it"),
        ("x,y\n1,a\n2,b\n3,c\n4,d\n", {"target": "y"}, "has 4 different values in 4 rows, too many classes"),
        (
            "x,t,y\n1,2024-01-01,1.5\n2,soon,2.5\n",
            {"target": "y", "time": "t"},
            "'soon' in column 't', row 2, is neith",
        ),
        ("x,t,y\n1,1,1.5\n2,,2.5\n", {"target": "y", "time": "t"}, "data.time=t has no value in 1 row, first in row 2"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, given: dict[str, Any], message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(path, **given)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("numbers", "'a' in row 1 is not a finite number; write task=classification"), ("labels", "other values than 0")],
)
def test_a_target_that_does_not_fit_the_task_is_refused(tmp_path: Path, wanted: TargetKind, message: str) -> None:
    (tmp_path / "table.csv").write_text(_GOOD)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "table.csv", wanted, target="y")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (mixed(20).drop(columns="city"), "data.test_path=.*: has no column 'city'"),
        (mixed(20).assign(more=1), "has a column 'more', which data.path=.* lacks; add it to data.drop"),
        (mixed(20).assign(bought="perhaps"), "'perhaps' in column 'bought', row 1, is a class that"),
        (mixed(20).assign(age="old"), "'old' in column 'age', row 1, is not a number"),
    ],
)
def test_a_test_table_with_other_columns_is_refused(tmp_path: Path, test: pd.DataFrame, message: str) -> None:
    test.to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UserError, match=message):
        loaded(mixed(), tmp_path, target="bought", test_path=str(tmp_path / "test.csv"))


def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    for name, content in (("a.csv", b"\x89PNG\r\n\x1a\n\xff\xfe\0\0"), ("b.parquet", b"nothing"), ("c.xlsx", b"PK")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="pandas cannot read it|is not a table"):
            table_files.read(str(tmp_path / name))
    with pytest.raises(UserError, match=r"data.path=.*: is a folder"):
        table_files.read(str(tmp_path))
    with pytest.raises(UserError, match=r"data.path=.*nowhere.csv: no such file"):
        table_files.read(str(tmp_path / "nowhere.csv"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    monkeypatch.setattr(table_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pandas needs openpyxl to read it; .* -m pip install openpyxl"):
        table_files.read(str(tmp_path / "table.xlsx"))


def test_the_ranges_of_numbers_and_dates_are_kept_for_forms(tmp_path):
    frame = pd.DataFrame(
        {"x": [0.5, None, 2.0, 1.0], "day": ["2024-01-01", "2024-01-03", "2024-01-02", None], "y": [1.5, 2.5, 3.5, 4.0]}
    )
    schema = loaded(frame, tmp_path, target="y").schema
    assert {column.name: (column.low, column.high) for column in schema.columns} == {
        "x": (0.5, 2.0),
        "day": (19723.0, 19725.0),
    }
    # Of a version that did not keep them.
    old = json.loads(schema.to_json())
    for column in old["columns"]:
        del column["low"], column["high"]
    assert Schema.from_json(json.dumps(old)).columns[0].low is None
