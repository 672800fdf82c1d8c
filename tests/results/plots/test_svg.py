"""Plots as SVG for the report's page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import made_up
import numpy as np
import pytest
from matplotlib.figure import Figure

from mnist_sweep.config.objective import Objective
from mnist_sweep.results.plots import confusion_matrix, marginal_effects, optimisation_history, pairwise_effects
from mnist_sweep.results.plots.common import canvas, tell
from mnist_sweep.results.plots.svg import as_svg

ACCURACY = Objective("val_accuracy", "max")


def titles(svg: str) -> list[str]:
    return [title.text or "" for title in ET.fromstring(svg).iter("title")]


def dots(count: int, text: str = "trial 0") -> Figure:
    figure, axes = canvas("", 2.0)
    tell(axes.scatter(np.arange(count), np.arange(count), clip_on=False), [text] * count)
    return figure


def test_text_axes_and_marks_take_the_colours_of_the_page() -> None:
    svg = as_svg(optimisation_history(made_up.frame(9, ["val_accuracy"]), ACCURACY, ""), "history", "nine trials")
    for variable in ("currentColor", "var(--grid)", "var(--blue)", "var(--orange)", "var(--vermilion)"):
        assert variable in svg
    assert not re.findall(r"(?:fill|stroke): ?#\w+", svg)
    assert "<style" not in svg
    assert 'aria-label="nine trials"' in svg


def test_each_mark_tells_its_trial_and_values() -> None:
    frame = made_up.frame(9, ["val_accuracy"])
    told = titles(as_svg(optimisation_history(frame, ACCURACY, ""), "history", ""))
    assert sorted(text.split(":")[0] for text in told) == [f"trial {n}" for n in range(9)]
    score, units = frame["metrics.best_val_accuracy"][3], frame["params.model.units"][3]
    (third,) = [text for text in told if text.startswith("trial 3:")]
    assert third.startswith(f"trial 3: val_accuracy {score:.4g}, ")
    assert f"units {units}" in third


def test_every_panel_tells_its_own_hyperparameter() -> None:
    frame = made_up.frame(9, ["val_accuracy"])
    told = titles(as_svg(marginal_effects(frame, ACCURACY, ""), "effects", ""))
    active = int(frame["params.optimizer.momentum"].notna().sum())
    assert sum(text.startswith("trial 3: units ") for text in told) == 1
    # A numeric axis has no place for a trial without a value.
    assert sum(": momentum " in text for text in told) == active


def test_the_cells_of_a_confusion_matrix_tell_their_share() -> None:
    told = titles(as_svg(confusion_matrix([[9, 1], [0, 10]], ""), "confusion", ""))
    assert told == ["0 predicted as 0: 9 (90.0 %)", "0 predicted as 1: 1 (10.0 %)", "1 predicted as 1: 10 (100.0 %)"]


def test_colours_of_a_colour_map_are_inverted_on_a_dark_page() -> None:
    frame = made_up.frame(9, ["val_accuracy"])
    rate, size = "optimizer.learning_rate", "training.batch_size"
    svg = as_svg(pairwise_effects(frame, ACCURACY, rate, size, ""), "pair", "")
    classes = [group.get("class") for group in ET.fromstring(svg).iter() if group.get("class")]
    assert "told map" in classes


def test_texts_of_users_are_escaped_and_invisible_characters_are_shown() -> None:
    hostile = "</svg><script>alert(1)</script>\u202e"
    svg = as_svg(dots(2, hostile), "x", hostile)
    assert "<script" not in svg
    assert "\u202e" not in "".join(titles(svg))


@pytest.mark.parametrize(("count", "drawn"), [(2000, True), (2001, False)])
def test_very_many_marks_become_a_picture(count: int, drawn: bool) -> None:
    svg = as_svg(dots(count), "many", "")
    assert len(titles(svg)) == (count if drawn else 0)
    assert ("data:image/png" in svg) is not drawn
    assert len(svg) < 250_000


def test_two_plots_on_a_page_have_different_ids() -> None:
    frame = made_up.frame(5, ["val_accuracy"])
    both = [as_svg(optimisation_history(frame, ACCURACY, ""), name, "") for name in ("one", "two")]
    first, second = (set(re.findall(r' id="([^"]*)"', svg)) for svg in both)
    assert first
    assert second
    assert not first & second
    for svg in both:
        assert set(re.findall(r'href="#([^"]*)"', svg)) <= first | second
