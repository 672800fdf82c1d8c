"""Errors for the user, and the names they suggest."""

from __future__ import annotations

import pytest

from mnist_sweep.errors import UserError, did_you_mean


@pytest.mark.parametrize(
    ("name", "known", "suggestion"),
    [
        ("adamm", ["sgd", "adam", "nadam"], "; did you mean 'adam'?"),
        ("model.unit", ["model.layers", "model.units"], "; did you mean 'model.units'?"),
        ("adam", ["adam", "sgd"], "; did you mean 'adam'?"),
    ],
)
def test_suggests_the_nearest_known_name(name: str, known: list[str], suggestion: str) -> None:
    assert did_you_mean(name, known) == suggestion


@pytest.mark.parametrize("name", ["cosinedecay", "COSINEDECAY", "CosineDekay"])
def test_ignores_case_but_suggests_the_name_as_it_is_spelt(name: str) -> None:
    assert did_you_mean(name, ["CosineDecay", "PolynomialDecay"]) == "; did you mean 'CosineDecay'?"


def test_lists_all_names_in_order_where_none_is_near() -> None:
    assert did_you_mean("zzz", {"sgd", "adam"}) == "; known: adam, sgd"


def test_takes_any_iterable_of_names() -> None:
    assert did_you_mean("sdg", (name for name in ("adam", "sgd"))) == "; did you mean 'sgd'?"
    assert did_you_mean("sdg", {"adam": 1, "sgd": 2}) == "; did you mean 'sgd'?"


def test_a_user_error_says_what_it_was_given() -> None:
    assert str(UserError("model.units=0: must be at least 1")) == "model.units=0: must be at least 1"
