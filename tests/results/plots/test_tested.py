"""Plots of tested models, whose figures scikit-learn computes too."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from mnist_sweep.results import plots
from mnist_sweep.results.plots import svg
from mnist_sweep.results.plots.tested import ranked

# Not what other tests have left.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

RNG = np.random.default_rng(0)
TRUE = RNG.integers(0, 2, 200)
# With ties.
SCORE = np.clip((0.3 * TRUE + RNG.random(200)).round(2) / 1.3, 0, 1)


def legend_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_precision_recall_and_areas_are_those_of_scikit_learn():
    found = ranked(TRUE, SCORE)
    assert found is not None
    precision, recall, thresholds = metrics.precision_recall_curve(TRUE, SCORE)
    np.testing.assert_allclose(found.precision[::-1], precision[:-1])
    np.testing.assert_allclose(found.recall[::-1], recall[:-1])
    np.testing.assert_allclose(found.thresholds[::-1], thresholds)
    assert found.average_precision == pytest.approx(metrics.average_precision_score(TRUE, SCORE))
    assert found.auc == pytest.approx(metrics.roc_auc_score(TRUE, SCORE))
    false, true, _ = metrics.roc_curve(TRUE, SCORE, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positives, false[1:])
    np.testing.assert_allclose(found.recall, true[1:])


@pytest.mark.parametrize("true", [np.zeros(5), np.ones(5), np.zeros(0)])
def test_rows_that_are_all_alike_have_no_curves(true):
    assert ranked(true, np.linspace(0, 1, len(true))) is None
    if len(true):
        figure = plots.precision_recall(true, np.linspace(0, 1, len(true)), "")
        assert figure.axes[0].texts[0].get_text() == "All test rows are of one class."


def test_curves_of_two_classes_name_the_second_one_and_mark_the_usual_threshold():
    for figure in (plots.precision_recall(TRUE, SCORE, "A", ["ill"]), plots.roc(TRUE, SCORE, "A", ["ill"])):
        (first, second) = legend_of(figure)
        assert first.startswith("ill (")
        assert second.startswith("guessing (")
        dot = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
        assert metrics.recall_score(TRUE, SCORE >= 0.5) in (*dot.get_xdata(), *dot.get_ydata())


def test_a_plot_has_a_curve_for_each_label_and_says_how_many_it_leaves_out():
    true = RNG.integers(0, 2, (50, 12))
    score = RNG.random((50, 12))
    figure = plots.precision_recall(true, score, "", [f"tag {i}" for i in range(12)])
    assert len(legend_of(figure)) == 8
    assert "4 more labels left out" in figure.legends[0].get_title().get_text()


def test_labels_have_their_precision_recall_and_f1_with_the_worst_first():
    true = RNG.integers(0, 2, (80, 3)).astype(np.float32)
    score = np.clip(true * [[0.9, 0.2, 0.6]] + 0.3 * RNG.random((80, 3)), 0, 1)
    figure = plots.label_scores(true, score, "", ["sun", "rain", "wind"])
    f1 = metrics.f1_score(true, score >= 0.5, average=None, zero_division=0)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [name.split()[0] for name in names] == [["sun", "rain", "wind"][i] for i in np.argsort(f1, kind="stable")]
    bars = figure.axes[0].containers[2]
    np.testing.assert_allclose([bar.get_width() for bar in bars], np.sort(f1))
    assert names[0].endswith(f"({int(true[:, 1].sum())})")
    figure.draw_without_rendering()


@pytest.mark.parametrize("columns", [None, 8])
def test_numbers_are_in_their_units_with_a_panel_for_each_target(columns):
    true = 100 * RNG.random((40, columns or 1))
    predicted = true + RNG.normal(0, 10, true.shape)
    given = true[:, 0] if columns is None else true
    names = [f"price {i}" for i in range(columns or 1)]
    figure = plots.predicted_and_true(given, predicted, "A", names)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == min(columns or 1, 6)
    error = metrics.mean_absolute_error(true[:, 0], predicted[:, 0])
    r2 = metrics.r2_score(true[:, 0], predicted[:, 0])
    assert panels[0].get_title() == f"price 0: mean error ±{error:.4g}, R² {r2:.3f}"
    assert (len(figure.legends) == 1) is (columns == 8)
    rest = plots.residuals(given, predicted, "A", names)
    points = rest.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, np.stack([predicted[:, 0], (true - predicted)[:, 0]], axis=1))
    if columns is None:
        figure.draw_without_rendering()


def test_points_tell_their_true_and_predicted_value():
    figure = plots.residuals(np.array([1.0, 2.0]), np.array([[1.5], [1.5]]), "")
    assert "<title>true 2, predicted 1.5</title>" in svg.as_svg(figure, "a", "")


MISTAKES = {
    "mistakes_images": np.zeros((1, 9, 16, 3), np.uint8),
    "mistakes_true": np.array([0]),
    "mistakes_predicted": np.array([1]),
    "mistakes_probability": np.array([0.9]),
}
NUMBERS = RNG.random((20, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "details", "names"),
    [
        ("numbers", {"true": NUMBERS, "predicted": NUMBERS}, ["predicted_and_true", "residuals"]),
        ("numbers", {"true": NUMBERS[:, 0], "predicted": NUMBERS[:, :1]}, ["predicted_and_true", "residuals"]),
        ("labels", {"true": NUMBERS.round(), "predicted": NUMBERS}, ["label_scores", "precision_recall"]),
        ("classes", {"true": TRUE, "predicted": SCORE[:, None]}, ["precision_recall", "roc"]),
        ("classes", {"true": TRUE, "predicted": np.stack([1 - SCORE, SCORE], 1)}, ["precision_recall", "roc"]),
        ("classes", {"true": TRUE, "predicted": RNG.random((200, 3))}, []),
        ("classes", {"true": TRUE, "predicted": RNG.random((200, 3)), **MISTAKES}, ["mistakes"]),
        # An array for each row, such as a mask; a file that was cut off; and one of an early version.
        ("classes", {"true": TRUE, "predicted": RNG.random((200, 3, 3))}, []),
        ("numbers", {"true": NUMBERS[:5], "predicted": NUMBERS}, []),
        ("classes", {}, []),
        ("classes", MISTAKES, ["mistakes"]),
    ],
)
def test_a_test_has_the_plots_that_fit_what_was_predicted(kind, details, names):
    found = list(plots.of_test({**details, "names": np.array(["cat", "dog"])}, kind, "A"))
    assert [one.name for one in found] == names
    assert all(one.alt.endswith(".") and one.figure.get_suptitle() == "A" for one in found)
    if names == ["mistakes"]:
        assert found[0].alt == "a cat predicted as dog."
