"""How the rows of a data set are split, saved and told apart."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.dataset import Dataset, LoadedData, Rows, folds, split, with_test
from mnist_sweep.data.schema import ONLY, Input, Schema, Target, of_images


def numbered(*per_class: int) -> LoadedData:
    """Returns images whose first pixels contain their number, with the given number of each class."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(per_class)), per_class))
    x = np.zeros((len(labels), 2, 2, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    train, test = Rows({ONLY: x}, labels), Rows({ONLY: x[:4]}, labels[:4])
    return LoadedData("npz", "here", of_images(2, 2, 1, len(per_class)), train, test)


def numbers(x: np.ndarray) -> list[int]:
    pixels = x.astype(int)
    return (pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 1, 0]).tolist()


@pytest.mark.parametrize(
    ("per_class", "fraction", "held_out"),
    [
        ((100, 50, 10), 0.1, [10, 5, 1]),
        ((100, 50, 10), 0.25, [25, 12, 2]),
        ((100, 50, 10), 0.9, [90, 45, 9]),
        ((100, 50, 10), 0.0, [0, 0, 0]),
        # Of two images or more, at least one is held out and one is kept; a single image is kept.
        ((100, 3, 2, 1), 0.1, [10, 1, 1, 0]),
        ((100, 3, 2, 1), 0.9, [90, 2, 1, 0]),
        ((2, 2), 0.001, [1, 1]),
    ],
)
def test_split_holds_out_a_part_of_each_class(per_class, fraction, held_out):
    dataset = split(numbered(*per_class), fraction, seed=3)
    classes = len(per_class)
    assert np.bincount(dataset.validation.targets, minlength=classes).tolist() == held_out
    kept = [n - h for n, h in zip(per_class, held_out, strict=True)]
    assert np.bincount(dataset.train.targets, minlength=classes).tolist() == kept
    assert dataset.schema.target.size == classes


def test_split_uses_every_image_once_with_its_label():
    images = numbered(200, 100, 30)
    dataset = split(images, 0.2, seed=0)
    train, val = numbers(dataset.train.x), numbers(dataset.validation.x)
    assert sorted(train + val) == list(range(330))
    assert dataset.train.targets.tolist() == images.train.targets[train].tolist()
    assert dataset.validation.targets.tolist() == images.train.targets[val].tolist()


def test_split_depends_on_the_seed_alone():
    images = numbered(200, 100, 30)
    first, again, other = (numbers(split(images, 0.2, seed).validation.x) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_split_leaves_the_test_images_alone():
    images = numbered(20, 20)
    for fraction in (0.0, 0.5):
        dataset = split(images, fraction, seed=1)
        np.testing.assert_array_equal(dataset.test.x, images.test.x)
        np.testing.assert_array_equal(dataset.test.targets, images.test.targets)


def test_an_empty_validation_set_keeps_shape_and_type():
    dataset = split(numbered(20, 20), 0.0, seed=1)
    assert (dataset.validation.x.shape, dataset.validation.targets.shape) == ((0, 2, 2, 1), (0,))
    assert dataset.validation.x.dtype == dataset.train.x.dtype


def test_split_needs_a_class_with_two_images():
    with pytest.raises(UserError) as caught:
        split(numbered(1, 1, 1), 0.1, seed=1)
    assert str(caught.value) == "data here: one image per class is too few to hold out any for validation"
    assert len(split(numbered(1, 1, 1), 0.0, seed=1).train) == 3


def test_each_image_is_in_one_fold_and_classes_are_spread_evenly():
    labels = numbered(100, 50, 13, 2).train.targets
    fold = folds(labels, len(labels), 5, seed=3)
    assert sorted(np.bincount(fold)) == [0, 33, 33, 33, 33, 33]
    for label in range(4):
        counts = np.bincount(fold[labels == label], minlength=6)[1:]
        assert counts.max() - counts.min() <= 1
    assert fold.tolist() == folds(labels, len(labels), 5, seed=3).tolist()
    assert fold.tolist() != folds(labels, len(labels), 5, seed=4).tolist()


def test_more_folds_than_images_are_an_error():
    assert sorted(folds(np.array([0, 1, 1]), 3, 3, seed=1)) == [1, 2, 3]
    with pytest.raises(UserError, match="folds=4: only 3 rows to train and validate on"):
        folds(np.array([0, 1, 1]), 3, 4, seed=1)


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_dataset_survives_save_and_open(tmp_path, fraction):
    dataset = split(numbered(20, 20, 4), fraction, seed=7)
    dataset.save(tmp_path)
    opened = Dataset.open(tmp_path)
    for part in ("train", "validation", "test"):
        found, expected = getattr(opened, part), getattr(dataset, part)
        np.testing.assert_array_equal(found.x, expected.x, strict=True)
        np.testing.assert_array_equal(found.targets, expected.targets, strict=True)
    assert (opened.schema, opened.seed, opened.groups) == (dataset.schema, 7, None)


def test_opened_arrays_are_mapped_into_memory(tmp_path):
    split(numbered(20, 20), 0.25, seed=1).save(tmp_path)
    assert isinstance(Dataset.open(tmp_path).train.x, np.memmap)


# ---- rows that are not images in classes --------------------------------------------------------------------------


def table(rows: int = 20, **changes: object) -> LoadedData:
    """Returns rows of two inputs whose numbers are those of the rows, with two targets and no test part."""
    numbers = np.arange(rows, dtype=np.float32)
    schema = Schema({"a": Input("array", (1,)), "b": Input("array", (2,))}, Target("numbers", 2, ("x", "y")))
    inputs = {"a": numbers[:, None], "b": np.stack([numbers, -numbers], axis=1)}
    made = LoadedData("table", "here", schema, Rows(inputs, np.stack([numbers, numbers], axis=1), numbers), None)
    return replace(made, **changes)  # type: ignore[arg-type]


def rows_of(rows: Rows) -> list[int]:
    found = rows.inputs["a"][:, 0].astype(int)
    assert rows.weights is not None
    assert found.tolist() == rows.inputs["b"][:, 0].tolist() == rows.targets[:, 1].tolist() == rows.weights.tolist()
    return found.tolist()


def test_all_arrays_are_split_alike_into_three_parts():
    dataset = split(with_test(table(), 0.2), 0.25, seed=1)
    parts = [rows_of(part) for part in (dataset.train, dataset.validation, dataset.test)]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert sorted(itertools.chain(*parts)) == list(range(20))


def test_the_test_part_is_the_same_for_every_seed():
    first, second = (split(with_test(table(), 0.2), 0.25, seed) for seed in (1, 2))
    assert rows_of(first.test) == rows_of(second.test)
    assert rows_of(first.validation) != rows_of(second.validation)


def test_of_rows_in_order_the_latest_are_held_out():
    dataset = split(with_test(table(ordered=True), 0.2), 0.25, seed=1)
    assert rows_of(dataset.train) == list(range(12))
    assert rows_of(dataset.validation) == [12, 13, 14, 15]
    assert rows_of(dataset.test) == [16, 17, 18, 19]


def test_rows_of_a_group_are_on_the_same_side_of_every_split():
    groups = np.arange(20) // 4
    dataset = split(with_test(table(groups=groups), 0.2), 0.25, seed=1)
    parts = [{i // 4 for i in rows_of(part)} for part in (dataset.train, dataset.validation, dataset.test)]
    assert all(parts)
    assert sum(map(len, parts)) == 5
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [i // 4 for i in rows_of(dataset.train) + rows_of(dataset.validation)]
    fold = folds(None, 16, 4, seed=1, groups=dataset.groups)
    assert sorted(np.bincount(fold)) == [0, 4, 4, 4, 4]
    assert all(len(set(fold[dataset.groups == group])) == 1 for group in set(dataset.groups))
    with pytest.raises(UserError, match="folds=5: only 4 groups to train and validate on"):
        folds(None, 16, 5, seed=1, groups=dataset.groups)


def test_folds_of_numbers_differ_by_at_most_one_row():
    assert sorted(np.bincount(folds(None, 11, 3, seed=1))) == [0, 3, 4, 4]


def test_a_validation_part_of_its_own_is_used_as_it_is():
    data = with_test(table(validation=table(5).train, groups=np.arange(20) // 4), 0.2)
    dataset = split(data, 0.5, seed=1)
    assert rows_of(dataset.validation) == [0, 1, 2, 3, 4]
    assert len(dataset.train) == 16
    assert dataset.groups is not None
    assert len(dataset.groups) == 21


def test_any_data_survive_save_and_open(tmp_path):
    dataset = split(with_test(table(groups=np.arange(20) // 4), 0.2), 0.25, seed=1)
    dataset.save(tmp_path)
    opened = Dataset.open(tmp_path)
    assert opened.schema == dataset.schema
    for part in ("train", "validation", "test"):
        assert rows_of(getattr(opened, part)) == rows_of(getattr(dataset, part))
    assert opened.groups is not None
    assert dataset.groups is not None
    assert opened.groups.tolist() == dataset.groups.tolist()


def test_the_digest_changes_with_any_value_and_with_names():
    digests = {table().digest(), table(21).digest(), table(groups=np.zeros(20, np.int64)).digest()}
    digests |= {table(validation=table(3).train).digest()}
    schema = table().schema
    digests |= {table(schema=replace(schema, target=Target("numbers", 2, ("x", "z")))).digest()}
    assert len(digests) == 5
    assert table().digest() == table().digest()
