"""The plot of a trial's learning curves."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mnist_sweep.tracking.curves_plot import learning_curves, limits, panels, ticks

BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def epochs(count: int, validation: bool = True, first: int = 1) -> dict[int, dict[str, float]]:
    found = {}
    for epoch in range(first, first + count):
        metrics = {"loss": 1 / epoch, "accuracy": 1 - 0.5 / epoch, "learning_rate": 0.001, "epoch_seconds": 2.0}
        if validation:
            metrics |= {"val_loss": 1.25 / epoch, "val_accuracy": 0.9 - 0.5 / epoch}
        found[epoch] = metrics
    return found


def drawn(metrics: dict[int, dict[str, float]], best_epoch: int | None = 1, title: str = "Trial 7") -> np.ndarray:
    with Image.open(BytesIO(learning_curves(metrics, best_epoch, title))) as plot:
        assert plot.format == "PNG"
        return np.asarray(plot.convert("RGB"))


def inside(plot: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """How many pixels have a colour, in the left and in the right panel, below the legend."""
    found = np.all(plot[64:310] == colour, axis=-1)
    return [int(found[:, 80:436].sum()), int(found[:, 530:886].sum())]


def test_the_panels_show_loss_and_accuracy():
    loss, accuracy = panels(epochs(3), 2)
    assert (loss.label, accuracy.label, loss.best_epoch) == ("Loss", "Accuracy", 2)
    assert loss.series == {
        "training": [(1, 1.0), (2, 0.5), (3, 1 / 3)],
        "validation": [(1, 1.25), (2, 0.625), (3, 1.25 / 3)],
    }
    assert accuracy.series["training"][0] == (1, 0.5)
    assert accuracy.series["validation"][0] == (1, 0.9 - 0.5)


def test_the_second_panel_shows_the_objective():
    with_own = {n: {**metrics, "val_top@3": n / 3} for n, metrics in epochs(3).items()}
    assert [panel.label for panel in panels(with_own, 2, "val_top@3")] == ["Loss", "top@3"]
    assert panels(with_own, 2, "val_top@3")[1].series == {"validation": [(1, 1 / 3), (2, 2 / 3), (3, 1.0)]}
    assert [panel.label for panel in panels(with_own, 2, "val_loss")] == ["Loss", "Accuracy"]


def test_the_plot_has_both_curves_in_both_panels():
    plot = drawn(epochs(5))
    assert plot.shape == (360, 900, 3)
    assert tuple(plot[0, 0]) == (255, 255, 255)
    assert min(*inside(plot, BLUE), *inside(plot, VERMILION)) > 200


def test_without_validation_there_is_one_curve():
    plot = drawn(epochs(5, validation=False))
    assert min(inside(plot, BLUE)) > 200
    assert inside(plot, VERMILION) == [0, 0]


def test_the_best_epoch_is_marked_in_both_panels():
    changed = np.any(drawn(epochs(5), None)[64:310] != drawn(epochs(5), 2)[64:310], axis=-1)
    columns = np.nonzero(changed.any(axis=0))[0]
    # From epoch 0.8 to 5.2 there are 366 pixels.
    assert {round(column - 74 - 366 * 1.2 / 4.4) for column in columns if column < 450} <= {-1, 0, 1}
    assert {round(column - 524 - 366 * 1.2 / 4.4) for column in columns if column > 450} <= {-1, 0, 1}
    assert changed[:, columns[0]].sum() > 60


def test_a_curve_falls_as_its_values_do():
    plot = drawn({epoch: {"loss": 1.0 / epoch} for epoch in range(1, 6)}, None)
    rows, columns = np.nonzero(np.all(plot[64:310, 80:436] == BLUE, axis=-1))
    assert rows[columns < 60].mean() < 60 < 180 < rows[columns > 300].mean()


def test_epochs_are_sorted():
    shuffled = dict(sorted(epochs(4).items(), reverse=True))
    assert [epoch for epoch, _ in panels(shuffled, None)[0].series["training"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(("count", "first"), [(1, 1), (2, 4), (300, 1)])
def test_any_number_of_epochs_can_be_seen(count, first):
    assert min(inside(drawn(epochs(count, first=first), None), BLUE)) > 15


@pytest.mark.parametrize("metrics", [{}, {1: {"learning_rate": 0.001}}, {1: {"loss": math.nan, "accuracy": math.inf}}])
def test_a_plot_without_values_is_empty(metrics):
    assert inside(drawn(metrics, None), BLUE) == [0, 0]


def test_values_that_are_not_finite_are_gaps():
    metrics = epochs(5, validation=False)
    whole = inside(drawn(metrics), BLUE)
    metrics[3]["loss"], metrics[3]["accuracy"] = math.nan, -math.inf
    assert all(0 < less < more for less, more in zip(inside(drawn(metrics), BLUE), whole, strict=True))


@pytest.mark.parametrize("loss", [0.0, 0.5, 1e-300, 1e15, 1e300, -1e300])
def test_any_value_can_be_drawn(loss):
    assert inside(drawn({1: {"loss": loss}, 2: {"loss": loss}}), BLUE)[0] > 15


def test_values_as_far_apart_as_floats_can_be_are_drawn():
    assert inside(drawn({1: {"loss": -1e300}, 2: {"loss": 1e300}, 3: {"loss": 1e308}}), BLUE)[0] > 15


@pytest.mark.parametrize(
    ("low", "high", "whole", "texts"),
    [
        (0.0, 1.0, False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.91, 0.968, False, ["0.91", "0.92", "0.93", "0.94", "0.95", "0.96"]),
        (0.5, 1.5, True, ["1"]),
        (0.9, 15.7, True, ["5", "10", "15"]),
        (0.0, 3e8, False, ["0", "5e+07", "1e+08", "1.5e+08", "2e+08", "2.5e+08", "3e+08"]),
    ],
)
def test_ticks_are_round_numbers(low, high, whole, texts):
    found = ticks(low, high, whole=whole)
    assert [text for _, text in found] == texts
    assert [float(text) for _, text in found] == pytest.approx([value for value, _ in found])


def test_limits_leave_a_margin():
    assert limits([1.0, 3.0, math.nan], 1.0) == (0.9, 3.1)
    assert limits([2.0], 1.0) == (1.5, 2.5)
    assert limits([], 1.0) == (-0.05, 1.05)
