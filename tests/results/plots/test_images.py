"""Plots of images: mistakes, filters and data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mnist_sweep.results.plots import digits_and_classes, first_layer_filters, worst_mistakes

# Not what other tests have left.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

DIGITS = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), dtype=np.uint8)


def written(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_mistakes_show_the_true_and_the_predicted_class():
    figure = worst_mistakes(DIGITS[:2], np.array([4, 3]), np.array([9, 5]), np.array([0.9996, 0.98]), "A")
    (axes,) = figure.axes
    assert written(axes) == ["true 4\npredicted 9 (99.9 %)", "true 3\npredicted 5 (98 %)"]
    first, second = axes.get_images()
    np.testing.assert_allclose(np.asarray(first.get_array()), DIGITS[0, :, :, 0] / 255)
    # Next to each other, from the left.
    assert first.get_extent()[1] < second.get_extent()[0]
    assert figure.get_suptitle() == "A"
    figure.draw_without_rendering()


@pytest.mark.parametrize(("count", "drawn"), [(0, 0), (1, 1), (20, 20), (30, 20)])
def test_at_most_20_mistakes_are_drawn(count, drawn):
    labels = np.zeros(count, dtype=int)
    figure = worst_mistakes(DIGITS[:count], labels, labels + 1, np.full(count, 0.9), "")
    (axes,) = figure.axes
    assert len(axes.get_images()) == drawn
    assert len(written(axes)) == max(drawn, 1)
    assert (written(axes) == ["There are no mistakes."]) is (count == 0)
    figure.draw_without_rendering()


def test_mistakes_in_colour_and_as_floats_keep_their_values():
    images = np.random.default_rng(0).random((1, 8, 8, 3), dtype=np.float32)
    (axes,) = worst_mistakes(images, np.array([1]), np.array([2]), np.array([0.5]), "").axes
    np.testing.assert_allclose(np.asarray(axes.get_images()[0].get_array()), images[0])


def test_mistakes_have_the_names_of_their_classes_in_lines_that_do_not_overlap():
    images = np.full((12, 40, 90, 3), 200, dtype=np.uint8)
    labels, names = np.arange(12) % 2, ["a golden retriever", "a cat"]
    figure = worst_mistakes(images, labels, 1 - labels, np.full(12, 0.5), "", names)
    (axes,) = figure.axes
    assert written(axes)[0] == "true a golden re…\npredicted a cat\n(50 %)"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts[:10]]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


def test_grey_photographs_are_not_inverted():
    labels, sure = np.array([1]), np.array([0.9])
    for background, colours in ((0, "gray_r"), (128, "gray")):
        image = np.full((1, 8, 8, 1), background, dtype=np.uint8)
        (drawn,) = worst_mistakes(image, labels, labels, sure, "").axes[0].get_images()
        assert drawn.get_cmap().name == colours


def test_filters_of_one_channel_are_coloured_around_zero_on_one_scale():
    filters = np.random.default_rng(0).normal(0.2, 1, (9, 3, 3, 1)).astype(np.float32)
    figure = first_layer_filters(filters, "A")
    images = figure.axes[0].get_images()
    end = np.abs(filters).max()
    assert len(images) == 9
    assert all(image.get_clim() == pytest.approx((-end, end)) for image in images)
    np.testing.assert_allclose(np.asarray(images[8].get_array()), filters[8, :, :, 0])
    figure.draw_without_rendering()


def test_filters_of_three_channels_are_colours_with_grey_as_zero():
    filters = np.random.default_rng(0).normal(0, 5, (4, 3, 3, 3)).astype(np.float32)
    filters[1], filters[2, 0, 0] = 0, 0
    (axes,) = first_layer_filters(filters, "").axes
    arrays = [np.asarray(image.get_array()) for image in axes.get_images()]
    assert all(array.min() >= 0 and array.max() <= 1 for array in arrays)
    assert (arrays[1] == 0.5).all()
    assert (arrays[2][0, 0] == 0.5).all()
    assert max(np.abs(arrays[0] - 0.5).ravel()) == pytest.approx(0.5)


@pytest.mark.parametrize(("count", "drawn"), [(0, 0), (1, 1), (100, 64)])
def test_at_most_64_filters_are_drawn(count, drawn):
    figure = first_layer_filters(np.zeros((count, 5, 5, 1), dtype=np.float32), "")
    assert len(figure.axes[0].get_images()) == drawn
    assert (written(figure.axes[0]) == ["There are no filters."]) is (count == 0)
    figure.draw_without_rendering()


def test_first_images_and_the_classes_of_both_parts():
    labels = np.array([0] * 15 + [1] * 10 + [3] * 5)
    figure = digits_and_classes(DIGITS, labels, test_labels=np.array([1, 1, 2]))
    left, right = figure.axes
    assert len(left.get_images()) == 25
    assert written(left) == ["0"] * 15 + ["1"] * 10
    training, test = right.containers
    assert [bar.get_width() for bar in training] == [15, 10, 0, 5]
    assert [bar.get_width() for bar in test] == [0, 2, 1, 0]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["training, 30 images", "test, 3 images"]
    figure.draw_without_rendering()


def test_classes_have_their_names_and_images_need_no_channel():
    names = ["shirt", "coat", "bag"]
    left, right = digits_and_classes(DIGITS[:4, :, :, 0], np.array([2, 0, 0, 1]), names, "A").axes
    assert written(left) == ["bag", "shirt", "shirt", "coat"]
    assert [text.get_text() for text in right.get_yticklabels()] == names
    assert len(right.containers) == 1


@pytest.mark.parametrize("classes", [1, 30, 100])
def test_any_number_of_classes_can_be_drawn(classes):
    labels = np.arange(classes)
    figure = digits_and_classes(np.zeros((classes, 4, 4, 3), dtype=np.uint8), labels, test_labels=labels)
    figure.draw_without_rendering()
    assert max(figure.get_size_inches()) <= 10
    assert len(figure.axes[1].patches) == 2 * classes
