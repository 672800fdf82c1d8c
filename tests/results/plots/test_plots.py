"""The confusion matrix."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from mnist_sweep.results.plots import confusion_matrix


def drawn(figure: Figure) -> np.ndarray:
    file = BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    image = imread(file)
    # It has more than one colour.
    assert image[..., :3].std() > 0.01
    return image


# ---- the confusion matrix ---------------------------------------------------------------------------------------


def matrix(classes: int) -> list[list[int]]:
    counts = np.random.default_rng(0).integers(0, 6, (classes, classes)) + 90 * np.eye(classes, dtype=int)
    return counts.tolist()


@pytest.mark.parametrize("classes", [2, 3, 10, 20])
@pytest.mark.filterwarnings("error")
def test_confusion_matrix_has_counts_and_classes(classes):
    counts = matrix(classes)
    figure = confusion_matrix(counts, "A title")
    (axes,) = figure.axes
    assert isinstance(figure, Figure)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("Predicted class", "True class", "A title")
    written = {text.get_position(): text.get_text() for text in axes.texts}
    # Rows are true classes, columns predicted ones; empty cells have no number.
    expected = {(j, i): str(n) for i, row in enumerate(counts) for j, n in enumerate(row) if n}
    assert written == expected
    drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(n) for n in range(classes)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(n) for n in range(classes)]


@pytest.mark.filterwarnings("error")
def test_with_many_classes_only_errors_have_colours_and_the_most_frequent_are_named():
    counts = 98 * np.eye(30, dtype=int)
    counts[4, 9], counts[0, 7] = 2, 25
    figure = confusion_matrix(counts.tolist(), "A title")
    axes, _ = figure.axes
    assert list(axes.texts) == []
    _, errors = axes.get_images()
    assert np.isnan(np.ma.filled(errors.get_array(), np.nan)[range(30), range(30)]).all()
    assert errors.norm.vmax == pytest.approx(25 / 123)
    # Even a share as small as this is visible.
    assert sum(errors.to_rgba(0.02)[:3]) < 2.6
    assert figure.legends[0].get_title().get_text() == "Most frequent mistakes: 0 as 7 (20 %), 4 as 9 (2 %)."
    assert max(drawn(figure).shape) < 3000


def test_the_plot_of_many_classes_fits_on_a_screen():
    figure = confusion_matrix(np.eye(200, dtype=int).tolist(), "A title")
    assert max(figure.get_size_inches() * figure.dpi) <= 3000


def test_colours_are_shares_of_the_true_class():
    (axes,) = confusion_matrix([[9, 1], [500, 500]], "").axes
    np.testing.assert_allclose(np.asarray(axes.get_images()[0].get_array()), [[0.9, 0.1], [0.5, 0.5]])


@pytest.mark.filterwarnings("error")
def test_class_without_test_images_is_an_empty_row():
    figure = confusion_matrix([[3, 0], [0, 0]], "")
    np.testing.assert_allclose(np.asarray(figure.axes[0].get_images()[0].get_array()), [[1, 0], [0, 0]])
    drawn(figure)


def test_numbers_stand_out_from_their_background():
    (axes,) = confusion_matrix([[99, 1], [1, 99]], "").axes
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours == {"99": "white", "1": "black"}


def test_classes_have_their_names():
    (axes,) = confusion_matrix([[5, 1], [0, 4]], "", ["a very long-haired cat", "dog"]).axes
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["a very long-haire…", "dog"]
    many = confusion_matrix(matrix(30), "", [f"kind {i}" for i in range(30)])
    assert "Most frequent mistakes: kind " in many.legends[0].get_title().get_text()


@pytest.mark.parametrize("classes", [2, 10])
def test_the_title_fits_into_the_plot(classes):
    figure = confusion_matrix(matrix(classes), "Trial 1234 on the test data: accuracy 0.9876")
    drawn(figure)
    box = figure.axes[0].title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
