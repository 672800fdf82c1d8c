"""Arrays of any kind from an `.npz` file: what they are read as, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.dataset import LoadedData, split
from mnist_sweep.data.schema import Input, Target, TargetKind
from mnist_sweep.data.sources import Request, load

Arrays = dict[str, Any]
ROWS = 60
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (ROWS, 6, 5), dtype=np.uint8)
CLASSES = np.arange(ROWS) % 3
VECTORS = RNG.normal(size=(ROWS, 4))


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def read(folder: Path, target: TargetKind | None = None, **arrays: Any) -> LoadedData:
    """Loads some rows: images in three classes unless others are given."""
    path = save(folder, **{"x_train": PIXELS, "y_train": CLASSES, **arrays})
    return load(Request("npz", str(path), target=target))


def refused(folder: Path, target: TargetKind | None = None, **arrays: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, target, **arrays)
    start = f"data.path={folder}/mine.npz: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(start)


# ---- parts ------------------------------------------------------------------------------------------------------


def test_without_test_images_some_of_each_class_are_held_out(tmp_path: Path) -> None:
    path = save(tmp_path, x_train=PIXELS, y_train=CLASSES)
    data = load(Request("npz", str(path), test_split=0.1))
    assert data.test is not None
    assert np.bincount(data.test.targets).tolist() == [2, 2, 2]
    assert np.bincount(data.train.targets).tolist() == [18, 18, 18]


def test_a_validation_part_of_its_own_is_used_and_told(tmp_path: Path) -> None:
    data = read(tmp_path, x_val=PIXELS[:6], y_val=CLASSES[:6])
    assert data.validation is not None
    np.testing.assert_array_equal(data.validation.x[..., 0], PIXELS[:6])
    assert data.notes[-1].endswith("validates on the 6 rows of x_val, not on data.validation_split")
    dataset = split(data, 0.5, 1)
    assert (len(dataset.train), len(dataset.validation)) == (len(data.train), 6)


def test_the_pixels_of_all_parts_are_scaled_alike(tmp_path: Path) -> None:
    message = refused(tmp_path, x_val=(PIXELS > 100).astype(np.uint8), y_val=CLASSES)
    assert message.startswith("pixels of x_val are in 0..1, but those of x_train are in 0..255")


def test_half_a_part_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, x_val=PIXELS).startswith("has no array y_val; it has x_train, y_train, x_val")
    assert refused(tmp_path, y_test=CLASSES).startswith("has no array x_test; it has x_train, y_train, y_test")


def test_weights_are_kept_for_each_part(tmp_path: Path) -> None:
    weights = np.linspace(0, 2, ROWS)
    data = read(tmp_path, x_test=PIXELS, y_test=CLASSES, w_train=weights, w_test=weights[:, None])
    assert data.test is not None
    np.testing.assert_array_equal(data.train.weights, weights.astype(np.float32), strict=True)
    np.testing.assert_array_equal(data.test.weights, weights.astype(np.float32), strict=True)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w_train": np.ones(5)}, "w_train has shape (5,); weights must be one number for each of the 60 rows"),
        ({"w_train": -np.ones(ROWS)}, "w_train must contain weights of 0 or more"),
        ({"w_train": np.full(ROWS, np.nan)}, "w_train must contain weights of 0 or more"),
        ({"w_train": np.zeros(ROWS)}, "all weights in w_train are 0"),
        ({"w_train": np.array(["a"] * ROWS)}, "w_train has type <U1; weights must be numbers"),
        ({"w_test": np.ones(5)}, "has w_test, but no y_test"),
    ],
)
def test_faulty_weights_are_refused(tmp_path: Path, arrays: Arrays, message: str) -> None:
    assert refused(tmp_path, **arrays).startswith(message)


def test_several_inputs_have_names(tmp_path: Path) -> None:
    path = save(tmp_path, x_train_image=PIXELS, x_train_table=VECTORS, y_train=CLASSES)
    data = load(Request("npz", str(path)))
    assert data.schema.inputs == {"image": Input("image", (6, 5, 1)), "table": Input("array", (4,))}
    assert data.train.inputs["table"].dtype == np.float32
    assert data.test is not None
    assert len(data.test.inputs["image"]) == len(data.test.inputs["table"]) == 12


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train_table": VECTORS}, "has both x_train and x_train_table; give each of several inputs a name"),
        ({"x_test_table": VECTORS, "y_test": CLASSES}, "has no array x_train_table; it has"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(tmp_path: Path, arrays: Arrays, message: str) -> None:
    assert refused(tmp_path, **arrays).startswith(message)


# ---- inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (3, 2, 2, 2)])
def test_rows_that_cannot_be_images_are_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rows = RNG.normal(size=(ROWS, *shape)) * 1000
    data = read(tmp_path, x_train=rows, x_test=rows, y_test=CLASSES)
    assert data.schema.inputs == {"x": Input("array", shape or (1,))}
    np.testing.assert_array_equal(data.train.x, rows.reshape(ROWS, *(shape or (1,))).astype(np.float32), strict=True)
    assert data.notes == ()


def test_16_bit_images_are_scaled_and_told(tmp_path: Path) -> None:
    wide = PIXELS.astype(np.uint16) * 257
    data = read(tmp_path, x_train=wide, x_test=wide, y_test=CLASSES)
    assert data.schema.image == (6, 5, 1)
    np.testing.assert_allclose(data.train.x[..., 0], PIXELS / 255, rtol=1e-6)
    (note,) = data.notes
    assert note.endswith("x_train ranges from 0 to 65535 and has 16 bits; it is scaled from 0..65535 to 0..1")


def test_standardised_images_are_used_as_they_are_and_told(tmp_path: Path) -> None:
    first = RNG.normal(size=(ROWS, 3, 8, 8)).astype(np.float32)
    data = read(tmp_path, x_train=first, x_test=first, y_test=CLASSES)
    np.testing.assert_array_equal(data.train.x, np.moveaxis(first, 1, 3), strict=True)
    assert data.schema.inputs == {"x": Input("array", (8, 8, 3))}
    assert data.schema.image is None
    assert data.schema.grid == (8, 8, 3)
    assert "so it is read as numbers, not as pixels, and used as it is" in data.notes[0]
    assert "with the channels first" in data.notes[1]


def test_whole_numbers_outside_of_0_to_255_are_refused_with_what_to_pass(tmp_path: Path) -> None:
    message = refused(tmp_path, x_train=PIXELS.astype(np.int32) - 128)
    assert message.startswith("x_train ranges from -128 to 127; pixels must be in 0..1 or 0..255, or of type uint16")
    assert message.endswith("save all parts as float32: x_train.astype('float32')")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_numbers_that_cannot_be_trained_on_are_refused(tmp_path: Path, wrong: float) -> None:
    rows = VECTORS.copy()
    rows[3, 1] = wrong
    assert refused(tmp_path, x_train=rows).startswith("x_train contains NaN or infinite values, or numbers that do not")


# ---- targets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        (np.array(["cat", "dog", "bird"])[CLASSES], ("bird", "cat", "dog"), "bird is class 0, cat is class 1"),
        (np.array([b"\xc3\xa9", b"b", b"c"])[CLASSES], ("b", "c", "é"), "b is class 0, c is class 1, é is class 2"),
        (CLASSES + 1, ("1", "2", "3"), "the labels in y_train are numbered in their order: 1 is class 0"),
        (CLASSES[:, None] + 1.0, ("1", "2", "3"), "1 is class 0, 2 is class 1, 3 is class 2"),
        (np.array([-1, 7, 10**12])[CLASSES], ("-1", "7", "1000000000000"), "-1 is class 0, 7 is class 1"),
    ],
)
def test_labels_are_numbered_and_keep_their_names(tmp_path: Path, labels: Any, names: Any, told: str) -> None:
    data = read(tmp_path, y_train=labels, x_test=PIXELS, y_test=labels)
    assert data.schema.target == Target("classes", 3, names)
    flat = labels.reshape(-1)
    found = [data.schema.target.name(int(number)) for number in data.train.targets]
    assert found == [
        one.decode() if isinstance(one, bytes) else one if isinstance(one, str) else str(int(one)) for one in flat
    ]
    assert told in data.notes[0]


@pytest.mark.parametrize("labels", [CLASSES, CLASSES.astype(np.float32), CLASSES == 1])
def test_labels_from_0_have_no_names(tmp_path: Path, labels: Any) -> None:
    data = read(tmp_path, y_train=labels)
    assert data.schema.target == Target("classes", int(labels.max()) + 1)
    assert data.train.targets.dtype == np.int64
    assert data.notes == ()


def test_one_hot_labels_are_classes(tmp_path: Path) -> None:
    data = read(tmp_path, y_train=np.eye(3)[CLASSES], x_test=PIXELS, y_test=np.eye(3)[CLASSES])
    assert data.schema.target == Target("classes", 3)
    np.testing.assert_array_equal(data.train.targets, CLASSES)
    assert data.notes[0].endswith("y_train is one-hot, read as 3 classes")


def test_matrices_of_0_and_1_are_labels(tmp_path: Path) -> None:
    labels = RNG.integers(0, 2, (ROWS, 4))
    data = read(tmp_path, y_train=labels, x_test=PIXELS, y_test=labels)
    assert data.schema.target == Target("labels", 4)
    np.testing.assert_array_equal(data.train.targets, labels.astype(np.float32), strict=True)
    assert data.notes[0].endswith("y_train is read as 4 labels, any number of which a row may have")
    # The task decides what one-hot rows are.
    assert read(tmp_path, "labels", y_train=np.eye(3)[CLASSES]).schema.target.kind == "labels"
    assert read(tmp_path, "numbers", y_train=labels).schema.target == Target("numbers", 4)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_other_numbers_are_numbers_to_predict(tmp_path: Path, shape: tuple[int, ...]) -> None:
    numbers = RNG.normal(size=(ROWS, *shape))
    data = read(tmp_path, y_train=numbers, x_test=PIXELS, y_test=numbers)
    assert data.schema.target == Target("numbers", 3 if shape == (3,) else 1)
    expected = numbers.astype(np.float32)
    np.testing.assert_array_equal(data.train.targets, expected[:, 0] if shape == (1,) else expected, strict=True)


def test_many_whole_numbers_are_numbers_unless_the_task_needs_classes(tmp_path: Path) -> None:
    prices = np.arange(ROWS) // 2 * 10
    data = read(tmp_path, y_train=prices)
    assert data.schema.target == Target("numbers", 1)
    assert "has 30 different values from 0 to 290, read as numbers to predict; if they are" in data.notes[0]
    assert read(tmp_path, "classes", y_train=prices).schema.target.size == 30
    assert read(tmp_path, "numbers").schema.target == Target("numbers", 1)


@pytest.mark.parametrize(
    ("labels", "target", "message"),
    [
        (CLASSES, "labels", "y_train has one value for each row; for task=multilabel, it must be (N, labels)"),
        (CLASSES + 0.5, "classes", "y_train must contain whole numbers, the classes 0, 1, 2 …; for other numbers"),
        (VECTORS, "classes", "y_train has 4 columns; for classes, save one number or name for each row"),
        (VECTORS, "labels", "for task=multilabel, y_train must contain only 0 and 1"),
        (np.array(["a", "b"])[CLASSES % 2], "numbers", "y_train contains names; for task=regression, it must be"),
        (np.array([["a", "b"]] * ROWS), None, "y_train has 2 columns of names; save one name for each row"),
        (np.eye(4)[CLASSES], None, "class 3 of 0..3 has no rows in y_train; remove its column"),
        (np.ones(ROWS), None, "there is only one class; at least two are needed"),
        (np.full(ROWS, 1.5), None, "y_train is 1.5 in every row"),
        (np.full((ROWS, 2), [1.5, 2]), None, "y_train is 1.5 in every row in column 0"),
        (CLASSES * 1e300 + 0.5, "numbers", "y_train has numbers that do not fit into 32 bits; scale them"),
        (np.zeros((ROWS, 2, 2)), None, "y_train is 0 everywhere"),
        (np.full((ROWS, 2, 2), np.nan), None, "y_train contains NaN or infinite values"),
        (np.full((ROWS, 2, 2), "a"), None, "y_train has shape (60, 2, 2) and contains text; use numbers"),
        (CLASSES + 1j, None, "y_train has type complex128; targets must be numbers or names"),
        (np.array([b"\xff", b"a"])[CLASSES % 2], None, "y_train has names that are not UTF-8 text"),
    ],
)
def test_faulty_targets_are_refused(tmp_path: Path, labels: Any, target: TargetKind | None, message: str) -> None:
    assert refused(tmp_path, target, y_train=labels).startswith(message)


def test_targets_of_any_shape_are_the_class_of_each_place_or_numbers(tmp_path: Path) -> None:
    masks = (PIXELS > 100).astype(np.uint8) * 255
    data = read(tmp_path, y_train=masks)
    assert data.schema.target == Target("array", 2, ("0", "255"), (6, 5))
    assert np.unique(data.train.targets).tolist() == [0, 1]
    assert "the values of y_train are numbered in order: 0 is class 0, 255 is class 1" in data.notes[0]
    assert read(tmp_path, y_train=masks[..., np.newaxis] // 255).schema.target == Target("array", 2, (), (6, 5, 1))
    assert read(tmp_path, y_train=PIXELS / 300).schema.target == Target("array", 0, (), (6, 5))
    test = {"x_test": PIXELS, "y_test": np.full(PIXELS.shape, 7)}
    assert refused(tmp_path, y_train=masks // 255, **test).startswith("y_test has 7, which does not occur in y_train")


def test_targets_of_several_outputs_are_kept_in_one_array(tmp_path: Path) -> None:
    given = {"y_train_mask": PIXELS > 100, "y_train_kind": CLASSES, "y_train_size": VECTORS[:, 0]}
    data = load(Request("npz", str(save(tmp_path, x_train=PIXELS, **given)), test_split=0.1))
    parts = data.schema.target.parts
    assert parts == {"mask": Target("array", 2, (), (6, 5)), "kind": Target("classes", 3), "size": Target("numbers", 1)}
    assert data.train.targets.shape == (len(data.train), 6 * 5 + 2)
    assert data.schema.target.about == "mask (an array of 6x5, 2 classes), kind (3 classes), size (1 target)"
    assert type(data.schema).from_json(data.schema.to_json()) == data.schema


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"y_train": CLASSES, "y_train_b": CLASSES},
            "has both y_train and y_train_b; give each of several outputs a name",
        ),
        ({"y_train_a": CLASSES, "y_train_b": CLASSES[:-1]}, "y_train_b has 59 rows, but y_train_a has 60"),
        ({"y_train_a": CLASSES, "y_train_b": np.ones(ROWS)}, "there is only one class"),
        (
            {"y_train_a": CLASSES, "y_train_b": CLASSES, "x_test": PIXELS, "y_test_a": CLASSES},
            "has no array y_test_b; it has x_train, y_train_a, y_train_b, x_test, y_test_a",
        ),
    ],
)
def test_faulty_targets_of_several_outputs_are_refused(tmp_path: Path, arrays: Arrays, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(Request("npz", str(save(tmp_path, x_train=PIXELS, **arrays))))
    assert message in str(caught.value)


def test_a_class_that_only_the_test_has_is_refused(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "bird"])
    arrays = {"y_train": names[CLASSES % 2], "x_test": PIXELS, "y_test": names[CLASSES]}
    assert refused(tmp_path, **arrays) == "y_test has class bird, which y_train does not have"
