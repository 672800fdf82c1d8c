"""Conditions as text: what can be written, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.condition_text import read_conditions


def read(text: Any) -> list[tuple[str, str, tuple[Any, ...]]]:
    (condition,) = read_conditions({"model.l2": text}).values()
    return [(comparison.key, comparison.operator, comparison.values) for comparison in condition.comparisons]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.name in [sgd, rmsprop]", ("optimizer.name", "in", ("sgd", "rmsprop"))),
        ("optimizer.name in [sgd,rmsprop]", ("optimizer.name", "in", ("sgd", "rmsprop"))),
        ("optimizer.name not in (adam)", ("optimizer.name", "not in", ("adam",))),
        ("model.layers == 2", ("model.layers", "in", (2,))),
        ("model.layers!=2", ("model.layers", "not in", (2,))),
        ("model.dropout<=.5", ("model.dropout", "<=", (0.5,))),
        ("optimizer.learning_rate > 1e-3", ("optimizer.learning_rate", ">", (0.001,))),
        ("model.filters == [16, 32]", ("model.filters", "in", ([16, 32],))),
        ("model.pooling.kind != null", ("model.pooling.kind", "not in", (None,))),
        ("model.batch_normalization == true", ("model.batch_normalization", "in", (True,))),
        ("model.values.kind == 'a, b'", ("model.values.kind", "in", ("a, b",))),
        ("model.values.my-kind == nan", ("model.values.my-kind", "in", ("nan",))),
    ],
)
def test_a_comparison_is_read(text: str, expected: tuple[str, str, tuple[Any, ...]]) -> None:
    assert read(text) == [expected]


def test_several_comparisons_are_joined_by_and() -> None:
    assert read("model.layers > 1 and model.layers < 4 and optimizer.name == sgd") == [
        ("model.layers", ">", (1,)),
        ("model.layers", "<", (4,)),
        ("optimizer.name", "in", ("sgd",)),
    ]


def test_a_value_for_the_other_trials_follows_else() -> None:
    assert read_conditions({"model.l2": "model.units > 64 else 0"})["model.l2"].otherwise == (0,)


def test_groups_and_dotted_keys_are_the_same_and_null_is_no_condition() -> None:
    dotted = read_conditions({"model.dense.l2": "model.layers > 1", "model.l2": None, "model.units": " null "})
    assert dotted == read_conditions({"model": {"dense": {"l2": "model.layers > 1"}, "l2": None}, "training": {}})
    assert list(dotted) == ["model.dense.l2"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty; write KEY in [a, b], KEY == value, "),
        (5, "must be text; write KEY in [a, b]"),
        (["a == 1"], "must be text; write KEY in [a, b]"),
        ("model.layers", "ends before one of in, not in, ==, "),
        ("model.layers ==", "ends before a value"),
        ("model.layers = 2", "write == to compare"),
        ("model.layers is 2", "'is' is not expected there; write KEY"),
        ("model.layers > two", "> needs a number after it"),
        ("model.layers == 2 2", "'2' is not expected there; write KEY"),
        ("model.layers == and model.units == 2", "a value is missing before 'and'"),
        ("model.layers and model.units == 2", "model.layers is compared with nothing; write model.layers == true, "),
        (
            "model.layers == 2 or model.layers == 3",
            "'or' is not supported; for several values of one key, write KEY in",
        ),
        ("not model.layers == 2", "'not' goes after the key; write KEY not in [a, b] or KEY != value"),
        ("2 == model.layers", "'2' is not a key; the key comes first"),
        ("1 < model.layers < 3", "'1' is not a key; the key comes first"),
        ("model.layers > 1 < 3", "compare one pair at a time, as in model.dropout > 0.1 and "),
        ("optimizer.name in sgd", "in needs a list after it"),
        ("optimizer.name in []", "the list is empty"),
        ("optimizer.name in [sgd", "] is missing"),
        ("optimizer.name == 'sgd", "a quotation mark is missing"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(text: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value).startswith(f"conditions.model.l2={text}: {problem}")
    assert "\n" not in str(caught.value)
