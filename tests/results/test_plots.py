"""Pictures: what they show, and that they can be drawn."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from mnist_sweep.results.plots import confusion_matrix, learning_curves


def epochs(count: int, validation: bool = True, first: int = 1) -> dict[int, dict[str, float]]:
    found = {}
    for epoch in range(first, first + count):
        metrics = {"loss": 1 / epoch, "accuracy": 1 - 0.5 / epoch, "learning_rate": 0.001, "epoch_seconds": 2.0}
        if validation:
            metrics |= {"val_loss": 1.25 / epoch, "val_accuracy": 0.9 - 0.5 / epoch}
        found[epoch] = metrics
    return found


def drawn(figure: Figure) -> np.ndarray:
    file = BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    picture = imread(file)
    # Something other than one colour.
    assert picture[..., :3].std() > 0.01
    return picture


def series(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
        for line in axes.get_lines()
    }


# ---- learning curves --------------------------------------------------------------------------------------------


def test_learning_curves_are_of_loss_and_accuracy():
    figure = learning_curves(epochs(3), 2, "Trial 7")
    assert isinstance(figure, Figure)
    loss, accuracy = figure.axes
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [
        ("Epoch", "Loss"),
        ("Epoch", "Accuracy"),
    ]
    assert series(loss)["training"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert series(loss)["validation"] == [(1, 1.25), (2, 0.625), (3, pytest.approx(1.25 / 3))]
    assert series(accuracy)["training"][0] == (1, 0.5)
    assert series(accuracy)["validation"][0] == (1, pytest.approx(0.4))
    assert figure.get_suptitle() == "Trial 7"
    drawn(figure)


def test_best_epoch_is_marked_in_both():
    for axes in learning_curves(epochs(3), 2, "").axes:
        assert {x for x, _ in series(axes)["best epoch (2)"]} == {2}
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "training",
            "validation",
            "best epoch (2)",
        ]


def test_trial_without_a_best_epoch_has_no_mark():
    for axes in learning_curves(epochs(3), None, "").axes:
        assert list(series(axes)) == ["training", "validation"]


def test_without_validation_there_is_one_curve():
    figure = learning_curves(epochs(3, validation=False), 3, "")
    for axes in figure.axes:
        assert list(series(axes)) == ["training", "best epoch (3)"]
    drawn(figure)


def test_epochs_are_in_order_though_they_were_not_told_so():
    shuffled = dict(sorted(epochs(4).items(), reverse=True))
    assert [x for x, _ in series(learning_curves(shuffled, None, "").axes[0])["training"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 300])
def test_any_number_of_epochs_can_be_drawn_with_whole_numbers_on_the_axis(count):
    figure = learning_curves(epochs(count), 1, "")
    drawn(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


def test_single_epoch_can_be_seen():
    line = learning_curves(epochs(1), None, "").axes[0].get_lines()[0]
    assert line.get_marker() not in (None, "", "None")


def test_trial_that_goes_on_begins_at_its_own_epoch():
    assert series(learning_curves(epochs(2, first=4), 5, "").axes[0])["training"][0][0] == 4


@pytest.mark.parametrize("told", [{}, {1: {"learning_rate": 0.001}}])
@pytest.mark.filterwarnings("error")
def test_nothing_to_draw_is_an_empty_picture(told):
    figure = learning_curves(told, None, "Trial 0")
    assert len(figure.axes) == 2
    figure.savefig(BytesIO(), format="png")


@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_are_gaps():
    told = epochs(4)
    told[2]["loss"], told[3]["val_loss"] = float("nan"), float("inf")
    drawn(learning_curves(told, 1, ""))


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
    # True classes downwards, predicted ones to the right; nothing where there is nothing.
    expected = {(j, i): str(n) for i, row in enumerate(counts) for j, n in enumerate(row) if n}
    assert written == expected
    drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(n) for n in range(classes)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(n) for n in range(classes)]


@pytest.mark.filterwarnings("error")
def test_many_classes_are_shown_by_colour_alone():
    figure = confusion_matrix(matrix(30), "A title")
    axes, _ = figure.axes
    assert list(axes.texts) == []
    picture = drawn(figure)
    assert max(picture.shape) < 3000


def test_picture_of_very_many_classes_is_no_larger_than_a_screen():
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


@pytest.mark.parametrize("classes", [2, 10])
def test_title_is_no_wider_than_the_picture(classes):
    figure = confusion_matrix(matrix(classes), "Trial 1234 on the test images: accuracy 0.9876")
    drawn(figure)
    box = figure.axes[0].title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
