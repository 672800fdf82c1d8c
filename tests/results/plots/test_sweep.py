"""The plots of a sweep: what they show, and that each of them can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure

from mnist_sweep.config.objective import Objective
from mnist_sweep.results.plots import (
    all_learning_curves,
    importance,
    marginal_effects,
    optimisation_history,
    pairwise_effects,
    parallel_coordinates,
    pareto_front,
    slot_timeline,
    trial_learning_curves,
)
from mnist_sweep.results.plots.scales import scale_of

# Not what other tests have left.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

ACCURACY, LOSS = Objective("val_accuracy", "max"), Objective("val_loss", "min")
START = pd.Timestamp("2026-11-23T06:00:00Z")


def typed(values: Sequence[Any]) -> pd.api.extensions.ExtensionArray:
    """Values with the type that `load_runs` gives them."""
    present = [value for value in values if value is not None]
    for kind, dtype in ((bool, "boolean"), (int, "Int64"), (float, "Float64")):
        if present and all(type(value) is kind for value in present):
            return pd.array(list(values), dtype=dtype)
    return pd.array(list(values), dtype="string")


def frame_of(scores: Sequence[float | None], objective: Objective = ACCURACY, **columns: Sequence[Any]) -> pd.DataFrame:
    """A trial for each score. Columns with `__` in their names, which stands for a dot, are hyperparameters."""
    count = len(scores)
    frame = pd.DataFrame(
        {
            "trial": pd.array(range(count), dtype="Int64"),
            "confirms": pd.array([None] * count, dtype="Int64"),
            "status": typed(["completed"] * count),
            "start": pd.Series([START + pd.Timedelta(10 * i, "s") for i in range(count)], dtype="datetime64[us, UTC]"),
            "end": pd.array([pd.NaT] * count, dtype="datetime64[us, UTC]"),
            "seconds": pd.array([8.0] * count, dtype="Float64"),
            "slot": pd.array([None] * count, dtype="string"),
            f"metrics.best_{objective.name}": pd.array(list(scores), dtype="Float64"),
        }
    )
    for name, values in columns.items():
        frame[f"params.{name.replace('__', '.')}" if "__" in name else name] = typed(values)
    return frame


def curves_of(curves: dict[int, Sequence[float]], metric: str = "val_accuracy") -> pd.DataFrame:
    rows = [("s", n, epoch, metric, value) for n, values in curves.items() for epoch, value in enumerate(values, 1)]
    rows += [("s", n, 1, "learning_rate", 0.5) for n in curves]
    return pd.DataFrame(rows, columns=["sweep", "trial", "epoch", "metric", "value"])


def line(axes: Axes, label: str) -> list[tuple[float, float]]:
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return [(float(x), float(y)) for x, y in zip(*found.get_data(), strict=True)]


def points(axes: Axes, label: str) -> list[tuple[float, float]]:
    found = [c for c in axes.collections if isinstance(c, PathCollection) and c.get_label() == label]
    return [(float(x), float(y)) for c in found for x, y in np.asarray(c.get_offsets())]


def legend_of(figure: Figure) -> tuple[str, list[str]]:
    (legend,) = figure.legends
    return legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# ---- the learning curves of all trials ------------------------------------------------------------------------------


def test_a_stopped_trial_ends_at_its_last_epoch_with_its_own_mark():
    frame = frame_of([0.9, 0.6, 0.8], status=["completed", "stopped", "completed"])
    curves = curves_of({0: [0.5, 0.7, 0.9], 1: [0.4, 0.6], 2: [0.5, 0.8, 0.7]})
    figure = all_learning_curves(frame, curves, ACCURACY, "A")
    (axes,) = figure.axes
    assert line(axes, "trial 1")[-1] == (2, 0.6)
    assert points(axes, "stopped") == [(2, 0.6)]
    assert points(axes, "completed") == [(3, 0.9), (3, 0.7)]
    marks = {c.get_label(): c.get_paths()[0].vertices.tolist() for c in axes.collections if c.get_label() != "rest"}
    assert marks["stopped"] != marks["completed"]
    assert figure.get_suptitle() == "A"
    assert axes.get_ylabel() == "val_accuracy, larger is better"


@pytest.mark.parametrize(("objective", "best"), [(ACCURACY, 1), (Objective("val_accuracy", "min"), 2)])
def test_the_best_trial_is_highlighted(objective, best):
    curves = {0: [0.5, 0.7], 1: [0.5, 0.9], 2: [0.5, 0.6]}
    figure = all_learning_curves(frame_of([0.7, 0.9, 0.6]), curves_of(curves), objective, "")
    assert line(figure.axes[0], "best") == list(enumerate(curves[best], 1))
    assert f"best: trial {best} ({curves[best][1]})" in legend_of(figure)[1]


def test_the_best_score_on_new_seeds_decides_the_best_trial():
    frame = frame_of([0.7, 0.9, 0.8])
    frame["metrics.confirmed_val_accuracy"] = pd.array([None, 0.75, 0.78], dtype="Float64")
    figure = all_learning_curves(frame, curves_of({n: [0.5, s] for n, s in enumerate([0.7, 0.9, 0.8])}), ACCURACY, "")
    assert line(figure.axes[0], "best")[-1] == (2, 0.8)
    assert "best: trial 2 (0.8, on new seeds 0.78)" in legend_of(figure)[1]


def test_failed_trials_and_those_that_retrain_others_have_no_curve():
    frame = frame_of([0.9, None, 0.8, 0.95], status=["completed", "failed", "completed", "completed"])
    frame.loc[3, "confirms"] = 0
    curves = curves_of({0: [0.5, 0.9], 1: [0.3, float("nan")], 2: [0.5, 0.8], 3: [0.5, 0.95]})
    figure = all_learning_curves(frame, curves, ACCURACY, "")
    (axes,) = figure.axes
    assert line(axes, "best")[-1] == (2, 0.9)
    assert points(axes, "completed") == [(2, 0.9), (2, 0.8)]
    assert points(axes, "failed") == []
    assert legend_of(figure)[0] == "1 failed trial left out."


def test_among_many_curves_the_five_best_have_their_own_styles():
    scores = [0.5 + 0.0004 * n for n in range(1000)]
    figure = all_learning_curves(frame_of(scores), curves_of({n: [0.4, s] for n, s in enumerate(scores)}), ACCURACY, "")
    (axes,) = figure.axes
    rest = next(c for c in axes.collections if isinstance(c, LineCollection))
    assert len(rest.get_segments()) == 995
    assert rest.get_alpha() < 0.3
    assert [label.split(" (")[0] for label in legend_of(figure)[1]] == [
        "best: trial 999",
        *(f"trial {n}" for n in (998, 997, 996, 995)),
        "completed, its last epoch",
    ]
    told_apart = [line for line in axes.get_lines() if str(line.get_label()).startswith("trial")]
    assert len({str(line._unscaled_dash_pattern) for line in told_apart}) == 4
    assert len({line.get_color() for line in told_apart}) == 4


def test_training_is_drawn_beside_validation_on_the_same_scale():
    frame = frame_of([0.7, 0.9], model__units=[16, 64], model__layers=[2, 2])
    curves = pd.concat(
        [curves_of({0: [0.5, 0.7], 1: [0.6, 0.9]}), curves_of({0: [0.6, 0.8], 1: [0.7, 1.0]}, "accuracy")]
    )
    figure = all_learning_curves(frame, curves, ACCURACY, "")
    training, validation = figure.axes
    assert training.get_title() == "accuracy on the training data"
    assert validation.get_title() == "val_accuracy on the validation data"
    assert (line(training, "best"), line(validation, "best")) == ([(1, 0.7), (2, 1.0)], [(1, 0.6), (2, 0.9)])
    assert training.get_ylim() == validation.get_ylim()
    # The best trials are told apart by what differs.
    assert legend_of(figure)[1][:2] == ["best: trial 1 (0.9): units 64", "trial 0 (0.7): units 16"]


def test_a_trials_own_curves_have_a_panel_for_each_metric_with_training_and_validation():
    parts = [curves_of({3: values}, name) for name, values in (("f1", [0.1, 0.2]), ("val_f1", [0.1, 0.3]))]
    figure = trial_learning_curves(pd.concat([*parts, curves_of({3: [2.0, 1.0]}, "loss")]), 2, "")
    loss, f1 = figure.axes
    assert (loss.get_ylabel(), f1.get_ylabel()) == ("loss", "f1")
    assert line(loss, "loss") == [(1, 2.0), (2, 1.0)]
    assert (line(f1, "f1"), line(f1, "val_f1")) == ([(1, 0.1), (2, 0.2)], [(1, 0.1), (2, 0.3)])
    assert legend_of(figure)[1] == ["training data", "validation data", "the epoch that was kept"]


def test_values_that_are_not_finite_are_gaps_in_a_curve():
    figure = all_learning_curves(
        frame_of([0.9, 0.8]), curves_of({0: [0.5, float("inf"), 0.9], 1: [0.1, 0.8]}), ACCURACY, ""
    )
    figure.draw_without_rendering()
    assert np.isnan(line(figure.axes[0], "best")[1][1])


def test_a_curve_far_below_the_others_is_marked_at_the_edge():
    curves = {n: [0.9, 0.901 + n / 1000] for n in range(20)} | {20: [0.1]}
    frame = frame_of([values[-1] for values in curves.values()])
    figure = all_learning_curves(frame, curves_of(curves), ACCURACY, "")
    (axes,) = figure.axes
    low, _ = axes.get_ylim()
    assert low > 0.8
    assert points(axes, "completed")[-1] == (1, pytest.approx(low))
    assert legend_of(figure)[0] == "1 curve ending outside the plot, marked at its edge."


def test_an_objective_that_is_not_logged_each_epoch_has_no_curves():
    figure = all_learning_curves(frame_of([5.0]), curves_of({0: [0.5]}), Objective("parameters", "min"), "")
    assert texts_of(figure) == ["No trial has a curve of parameters."]


# ---- the history ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "expected"), [(ACCURACY, [0.5, 0.7, 0.7, 0.7, 0.9, 0.9]), (LOSS, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5])]
)
def test_the_best_so_far_skips_trials_without_a_score(objective, expected):
    frame = frame_of([0.5, 0.7, None, 0.6, 0.9], objective)
    figure = optimisation_history(frame, objective, "")
    x, y = zip(*line(figure.axes[0], "best so far"), strict=True)
    assert list(y) == expected
    assert list(x) == [0, 1, 2, 3, 4, 4.5]


def test_the_history_shows_statuses_and_separates_trials_without_a_score():
    frame = frame_of([0.5, 0.7, None, 0.6], status=["completed", "stopped", "failed", "completed"])
    figure = optimisation_history(frame, ACCURACY, "")
    (axes,) = figure.axes
    assert points(axes, "completed") == [(0, 0.5), (3, 0.6)]
    assert points(axes, "stopped") == [(1, 0.7)]
    ((x, y),) = points(axes, "failed, no score")
    assert x == 2
    assert y < 0.49
    assert legend_of(figure)[1] == ["best: trial 1 (0.7)", "completed", "failed, no score", "stopped", "best so far"]


def test_scores_on_new_seeds_have_error_bars():
    frame = frame_of([0.9, 0.8, 0.85])
    frame["metrics.confirmed_val_accuracy"] = pd.array([0.82, None, 0.84], dtype="Float64")
    frame["metrics.confirmed_val_accuracy_std"] = pd.array([0.02, None, 0.01], dtype="Float64")
    (axes,) = optimisation_history(frame, ACCURACY, "").axes
    (bars,) = axes.containers
    mean, _, (spread,) = bars.lines
    assert mean.get_ydata().tolist() == [0.82, 0.84]
    np.testing.assert_allclose([s[:, 1] for s in spread.get_segments()], [[0.80, 0.84], [0.83, 0.85]])
    assert line(axes, "best") == [(2, 0.85)]


def test_outliers_are_drawn_at_the_edge_with_a_note():
    scores = [0.3 + n / 100 for n in range(20)] + [1e6]
    figure = optimisation_history(frame_of(scores, LOSS), LOSS, "")
    (axes,) = figure.axes
    assert axes.get_ylim()[1] < 2
    assert points(axes, "completed")[-1] == (20, axes.get_ylim()[1])
    assert legend_of(figure)[0] == "1 score above the plot, drawn at its edge."


# ---- parallel coordinates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "order"), [(ACCURACY, [2, 0, 1]), (LOSS, [1, 0, 2])])
def test_a_line_of_parallel_coordinates_goes_through_the_values_to_the_rank(objective, order):
    frame = frame_of([0.6, 0.5, 0.9], objective, model__kind=["b", "a", "b"], model__size=[1.5, 2.5, 3.5])
    (axes,) = parallel_coordinates(frame, objective, "").axes
    (trials,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    lines = trials.get_segments()
    # The best is drawn last, on top of the others.
    assert [round(line[2][1], 3) for line in lines] == [0, 0.5, 1]
    sizes = {0: 0.0, 1: 0.5, 2: 1.0}
    assert [line[1][1] for line in lines] == [sizes[n] for n in reversed(order)]
    kinds = [line[0][1] for line in lines]
    assert kinds == pytest.approx([{0: 1, 1: 0, 2: 1}[n] for n in reversed(order)], abs=0.06)
    assert [x for x, _ in line(axes, "best")] == [0, 1, 2]
    assert line(axes, "best") == [tuple(point) for point in lines[-1].tolist()]


def test_inactive_hyperparameters_are_below_the_axis():
    frame = frame_of([0.6, 0.5, 0.9], model__layers=[1, 2, 1], model__units__2=[None, 32.5, None])
    figure = parallel_coordinates(frame, ACCURACY, "")
    (axes,) = figure.axes
    assert all(height < -0.1 for x, height in line(axes, "best") if x == 1)
    (dash,) = [text for text in axes.texts if text.get_text() == "–"]
    assert dash.get_position()[1] < -0.1
    assert {"layers", "units.2", "val_accuracy", "1", "2", "32.5", "0.9", "0.5"} <= set(texts_of(figure))


def test_among_many_trials_the_good_lines_stand_out():
    frame = frame_of([n / 1000 for n in range(1000)], model__size=[float(n) for n in range(1000)])
    (axes,) = parallel_coordinates(frame, ACCURACY, "").axes
    (trials,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    alpha = trials.get_colors()[:, 3]
    assert len(alpha) == 1000
    assert alpha[0] < 0.15
    assert alpha[-1] == pytest.approx(0.9)


def test_trials_that_retrain_others_add_no_axis():
    frame = frame_of([0.6, 0.5, 0.9], model__size=[1, 2, 1], training__seed=[1, 1, 7])
    frame.loc[2, "confirms"] = 0
    assert "seed" not in texts_of(parallel_coordinates(frame, ACCURACY, ""))


# ---- importance and effects -----------------------------------------------------------------------------------------


def test_most_important_hyperparameter_is_on_top():
    told = pd.DataFrame(
        {
            "hyperparameter": ["model.units", "optimizer.name", "params.training.batch_size"],
            "importance": [0.2, 0.7, 0.1],
            "low": [0.1, 0.6, None],
            "high": [0.25, 0.9, None],
        }
    )
    figure = importance(told, "A")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["optimizer", "units", "batch_size"]
    assert [patch.get_width() for patch in axes.patches] == [0.7, 0.2, 0.1]
    assert axes.yaxis_inverted()
    spread = next(c for c in axes.collections if isinstance(c, LineCollection)).get_segments()
    np.testing.assert_allclose([s[:, 0] for s in spread], [[0.6, 0.9], [0.1, 0.25], [0.1, 0.1]])


def test_only_the_most_important_of_very_many_are_drawn():
    told = pd.DataFrame({"hyperparameter": [f"model.a{n}" for n in range(40)], "importance": np.arange(40) / 780})
    figure = importance(told.assign(low=np.nan, high=np.nan), "")
    assert len(figure.axes[0].patches) == 30
    assert legend_of(figure)[0] == "10 less important hyperparameters left out."


def test_a_plot_without_importances_says_so():
    empty = pd.DataFrame({"hyperparameter": ["model.units"], "importance": [float("nan")], "low": [0.0], "high": [0.0]})
    assert texts_of(importance(empty, "")) == ["There are no importances."]


def test_marginal_effects_have_a_panel_for_each_searched_hyperparameter():
    rates = [10.0 ** (-n / 4) for n in range(16)]
    frame = frame_of(
        [0.5 + n / 100 for n in range(16)],
        optimizer__learning_rate=rates,
        model__kind=["mlp", "cnn"] * 8,
        model__units=[8] * 16,
        model__l2=[None, 0.5, 0.25, 0.75] * 4,
    )
    figure = marginal_effects(frame, ACCURACY, "")
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["learning_rate", "kind", "l2"]
    assert [axes.get_xscale() for axes in panels.values()] == ["log", "linear", "linear"]
    found = dict(points(panels["learning_rate"], "completed"))
    assert found == {rate: 0.5 + n / 100 for n, rate in enumerate(rates)}
    ticks = [[text.get_text() for text in axes.get_xticklabels()] for axes in panels.values()]
    assert ticks[1:] == [["cnn", "mlp"], ["0.25", "0.5", "0.75", "–"]]
    assert [round(x) for x, _ in points(panels["kind"], "completed")] == [1, 0] * 8
    assert line(panels["learning_rate"], "median")
    # Each panel marks the best.
    assert [axes.get_lines()[0].get_ydata()[0] for axes in panels.values()] == [0.65] * 3


def test_pairs_of_categories_are_cells_of_medians_with_counts():
    frame = frame_of(
        [0.5, 0.6, 0.62, 0.9, 0.1],
        model__kind=["mlp", "mlp", "mlp", "cnn", "cnn"],
        model__layers=[1, 1, 1, 2, None],
    )
    axes, _ = pairwise_effects(frame, ACCURACY, "model.kind", "params.model.layers", "").axes
    (image,) = axes.get_images()
    cells = np.ma.filled(np.ma.masked_invalid(image.get_array()), -1)
    np.testing.assert_allclose(cells, [[-1, 0.6], [0.9, -1], [0.1, -1]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (1, 0): "0.6\n3 trials",
        (0, 1): "0.9\n1 trial",
        (0, 2): "0.1\n1 trial",
    }
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2", "–"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("kind", "layers")


def test_a_cell_far_below_the_others_has_the_colour_of_the_end_of_the_scale():
    scores = [0.9, 0.91, 0.92, 0.93, 0.94, 0.1]
    frame = frame_of(scores, model__kind=list("abcabc"), model__layers=[1, 1, 1, 2, 2, 2])
    figure = pairwise_effects(frame, ACCURACY, "model.kind", "model.layers", "")
    assert figure.axes[0].get_images()[0].norm.vmin > 0.5
    assert legend_of(figure)[0] == "1 median below the scale, in the colour of its end."


@pytest.mark.parametrize("objective", [ACCURACY, LOSS])
def test_pairs_of_numbers_are_points_and_the_best_is_the_darkest(objective):
    frame = frame_of(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        objective,
        model__a=[1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
        model__b=[9.5, 8.5, 7.5, 6.5, 5.5, None],
    )
    figure = pairwise_effects(frame, objective, "model.a", "model.b", "")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (drawn,) = [c for c in axes.collections if isinstance(c, PathCollection)]
    # The best is drawn last. The trial in which b is inactive is left out.
    assert sorted(map(tuple, np.asarray(drawn.get_offsets()).tolist())) == [
        (1.5, 9.5),
        (2.5, 8.5),
        (3.5, 7.5),
        (4.5, 6.5),
        (5.5, 5.5),
    ]
    brightness = drawn.get_facecolors()[:, :3].sum(axis=1)
    assert brightness[-1] == brightness.min()
    assert legend_of(figure)[0] == "1 trial left out because one of the two is not active."


def test_a_number_and_a_category_are_points_next_to_the_category():
    frame = frame_of([0.1, 0.2, 0.3, 0.4], model__a=[1.5, 2.5, 3.5, 4.5], model__kind=["x", "y", "x", "y"])
    axes = pairwise_effects(frame, ACCURACY, "model.a", "model.kind", "").axes[0]
    (drawn,) = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert {(x, round(y)) for x, y in np.asarray(drawn.get_offsets()).tolist()} == {
        (1.5, 0),
        (2.5, 1),
        (3.5, 0),
        (4.5, 1),
    }
    assert line(axes, "best")[0][0] == 4.5


@pytest.mark.parametrize(
    ("values", "labels", "log"),
    [
        ([32, 64, 32, 64, 32, 64], ["32", "64"], False),
        ([True, False, None, True], ["False", "True"], False),
        ([19, 27, 37, 51, 76, 245, 253, 334], None, True),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.003], None, False),
        (np.random.default_rng(0).uniform(0, 0.6, 1000).tolist(), None, False),
        ((10 ** np.random.default_rng(0).uniform(-4, -1, 100)).tolist(), None, True),
        ([-1.5, 2.5, 300.5, 4000.5], None, False),
        ([0.0, 1.5, 300.5, 4000.5], None, False),
        ([None, None], [], False),
    ],
)
def test_the_values_decide_the_scale(values, labels, log):
    scale = scale_of(pd.Series(typed(values)))
    assert (scale.labels, scale.log) == (labels, log)
    assert all(np.isnan(place) for place, value in zip(scale.places, values, strict=True) if value is None)
    assert all(0 <= share <= 1 for share in scale.share(scale.places) if not np.isnan(share))


# ---- which trial ran when -------------------------------------------------------------------------------------------


def bars(axes: Axes) -> list[tuple[float, float, float]]:
    """From, to and row of every bar."""
    found = [path.vertices for c in axes.collections if isinstance(c, PolyCollection) for path in c.get_paths()]
    return sorted((corners[:, 0].min(), corners[:, 0].max(), round(corners[:, 1].mean())) for corners in found)


def rows(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def test_slots_are_rows_in_the_order_of_their_numbers():
    frame = frame_of([0.1] * 4, slot=["gpu10", "gpu2", "gpu10", "cpu0"])
    frame["end"] = frame["start"] + pd.to_timedelta([5, 6, 7, None], unit="s")
    (axes,) = slot_timeline(frame, "A").axes
    assert rows(axes) == ["cpu0", "gpu2", "gpu10"]
    # Without an end, the seconds count.
    assert bars(axes) == [(0, 5, 2), (10, 16, 1), (20, 27, 2), (30, 38, 0)]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "Time since the start in seconds"
    assert texts_of(axes.figure) == ["0", "1", "2", "3"]


def test_trials_with_unknown_slots_have_as_many_rows_as_ran_at_the_same_time():
    frame = frame_of([0.1] * 4)
    frame["seconds"] = pd.array([15.0, 15.0, 4.0, 4.0], dtype="Float64")
    (axes,) = slot_timeline(frame, "").axes
    assert rows(axes) == ["unknown slot 1", "unknown slot 2"]
    assert bars(axes) == [(0, 15, 0), (10, 25, 1), (20, 24, 0), (30, 34, 0)]
    frame["slot"] = pd.array([None, "tpu0", None, "tpu0"], dtype="string")
    (axes,) = slot_timeline(frame, "").axes
    assert rows(axes) == ["tpu0", "unknown slot 1"]


def test_a_running_trial_ends_at_the_latest_time_and_a_refused_one_has_no_bar():
    frame = frame_of([0.1, None, None], status=["completed", "running", "refused"], slot=["a", "b", None])
    frame["seconds"] = pd.array([100.0, None, None], dtype="Float64")
    figure = slot_timeline(frame, "")
    assert bars(figure.axes[0]) == [(0, 100, 0), (10, 100, 1)]
    title, labels = legend_of(figure)
    assert title == "1 trial that never ran left out."
    assert labels == ["completed", "running"]
    hatches = {c.get_label(): c.get_hatch() for c in figure.axes[0].collections}
    assert hatches["completed"] != hatches["running"]


def test_a_trial_that_retrains_another_has_a_frame():
    frame = frame_of([0.1, 0.1], slot=["a", "a"])
    frame.loc[1, "confirms"] = 0
    figure = slot_timeline(frame, "")
    edges = [tuple(c.get_edgecolor()[0][:3]) for c in figure.axes[0].collections]
    assert len(set(edges)) == 2
    assert (0, 0, 0) in edges
    assert legend_of(figure)[1] == ["completed", "retrains another trial"]


@pytest.mark.parametrize(("slots", "numbered"), [(64, True), (1, False)])
def test_the_timeline_of_a_thousand_trials_fits_on_a_page_and_has_numbers_where_there_is_room(slots, numbered):
    frame = frame_of([0.1] * 1000, slot=[f"gpu{n % slots}" for n in range(1000)])
    frame["seconds"] = pd.array([10.0 * slots - 1] * 1000, dtype="Float64")
    figure = slot_timeline(frame, "")
    assert figure.get_figheight() <= 16
    assert len(bars(figure.axes[0])) == 1000
    assert bool(figure.axes[0].texts) is numbered


def test_the_timeline_of_a_long_sweep_is_in_hours():
    frame = frame_of([0.1], slot=["a"])
    frame["seconds"] = pd.array([36000.0], dtype="Float64")
    (axes,) = slot_timeline(frame, "").axes
    assert axes.get_xlabel() == "Time since the start in hours"
    assert bars(axes) == [(0, 10, 0)]


# ---- the Pareto front -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [100, 500])
def test_numbers_on_the_pareto_front_do_not_overlap(least):
    # On a logarithmic axis, and on a linear one.
    objectives = [ACCURACY, Objective("parameters", "min")]
    scores = {n: (0.9 + n / 1e5, 1000 + n) for n in range(40)} | {40: (0.1, least), 41: (0.95, 5000), 42: (0.05, 4000)}
    figure = pareto_front(scores, objectives, "")
    assert texts_of(figure) == ["40", "0", "41"]
    assert len(line(figure.axes[0], "Pareto front")) == 42


# ---- extreme cases --------------------------------------------------------------------------------------------------

PLAIN = {"model__size": [1.5, 2.5, 3.5, 4.5], "model__kind": ["a", "b", "a", "b"]}
NOTHING = pd.array([None] * 4, dtype="Float64")
NAN, INFINITE = float("nan"), float("inf")
EDGES = {
    "no trials": frame_of([]),
    "one trial": frame_of([0.5], model__size=[1.5]),
    "two trials": frame_of([0.5, 0.6], model__size=[1.5, 1e9]),
    "all failed": frame_of([None] * 4, status=["failed"] * 4, **PLAIN),
    "no column of scores": frame_of([None] * 4, **PLAIN).drop(columns="metrics.best_val_accuracy"),
    "all running": frame_of([None] * 4, status=["running"] * 4, **PLAIN).assign(
        seconds=pd.array([None] * 4, "Float64")
    ),
    "inactive": frame_of(
        [0.5, 0.6, 0.7, None], model__size=[None, None, None, 2.5], model__kind=[None, "a", None, "b"]
    ),
    "one hyperparameter": frame_of([0.5, 0.6, 0.7, 0.8], model__size=[1.5, 2.5, 3.5, 4.5]),
    "constant": frame_of([0.5] * 4, **PLAIN),
    "zero": frame_of([0.0] * 4, **PLAIN),
    "not finite": frame_of([INFINITE, NAN, -INFINITE, 0.5], **PLAIN),
    "nothing finite": frame_of([INFINITE, NAN, -INFINITE, NAN], **PLAIN),
    "nothing searched": frame_of([0.5, 0.6], model__size=[1.5, 1.5]),
}
# Laying out the others too would take seconds.
DRAWN = {"no trials", "one trial", "inactive", "constant", "not finite"}


@pytest.mark.parametrize("edge", EDGES)
def test_every_plot_can_be_drawn(edge):
    frame = EDGES[edge]
    figures = [
        all_learning_curves(frame, curves_of({int(n): [0.5] for n in frame["trial"]}), ACCURACY, "A"),
        optimisation_history(frame, ACCURACY, "A"),
        parallel_coordinates(frame, ACCURACY, "A"),
        marginal_effects(frame, ACCURACY, "A"),
        slot_timeline(frame, "A"),
    ]
    names = [column for column in ("params.model.size", "params.model.kind") if column in frame]
    figures += [pairwise_effects(frame, ACCURACY, names[0], names[-1], "A")] if names else []
    for figure in figures:
        if edge in DRAWN:
            figure.draw_without_rendering()
        assert figure.get_suptitle() == "A"
        assert figure.get_figwidth() <= 10


def test_an_empty_plot_says_why_it_is_empty():
    empty = EDGES["no trials"]
    assert texts_of(optimisation_history(empty, ACCURACY, "")) == ["There are no trials."]
    assert texts_of(slot_timeline(empty, "")) == ["No trial has run."]
    failed = EDGES["all failed"]
    for figure in (
        parallel_coordinates(failed, ACCURACY, ""),
        marginal_effects(failed, ACCURACY, ""),
        pairwise_effects(failed, ACCURACY, "model.size", "model.kind", ""),
    ):
        assert set(texts_of(figure)) == {"No trial has a score."}
    assert texts_of(marginal_effects(EDGES["nothing searched"], ACCURACY, "")) == ["No hyperparameter was searched."]


# ---- axes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "domain", "log"),
    [
        ([0.02, 0.03, 0.04, 0.05], "tag(log, interval(0.01, 0.1))", True),
        ([1, 2, 2, 2], "tag(log, int(interval(1, 1024)))", True),
        ([0.0001, 0.001, 0.01, 0.1], "interval(0, 0.5)", False),
        ([0.0001, 0.001, 0.01, 0.1], "interval(0, 0.5) if optimizer.name in ['sgd']", False),
        ([0.0001, 0.001, 0.01, 0.1], "", True),
        ([0.02, 0.03, 0.04, 0.05], "", False),
        (["a", "b", "a", "b"], "choice(a, b)", False),
    ],
)
def test_an_axis_is_logarithmic_where_the_space_says_log(values, domain, log):
    frame = frame_of([0.5, 0.6, 0.7, 0.8], model__x=values)
    frame.attrs["space"] = {"model.x": domain} if domain else {}
    assert scale_of(frame["params.model.x"], domain).log is log
    (axes,) = marginal_effects(frame, ACCURACY, "").axes
    assert axes.get_xscale() == ("log" if log else "linear")


def test_all_objectives_decide_the_best_trial_of_every_plot():
    frame = frame_of([0.9, 0.9, 0.95], metrics_x=[1.0, 1.0, 1.0])
    frame["metrics.best_parameters"] = pd.array([200.0, 100.0, None], dtype="Float64")
    frame.attrs["objectives"] = [["val_accuracy", "max"], ["parameters", "min"]]
    # The second has fewer parameters, and the third lacks an objective.
    assert "best: trial 1 (0.9)" in legend_of(optimisation_history(frame, ACCURACY, ""))[1]
