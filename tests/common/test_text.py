"""Text from outside."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep.common.text import (
    alike,
    counted,
    first_line,
    format_duration,
    format_value,
    kind_and_line,
    most_common,
    numbered,
    one_line,
    printable,
    short_names,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("größe 日本語 👩\u200d👧", "größe 日本語 👩\u200d👧"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("caf\udce9.png", "caf\\udce9.png"),
        ("a\x00b\r", "a\\x00b\\x0d"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("\U000e0041", "\\U000e0041"),
        ("\u2028", "\\u2028"),
    ],
)
def test_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=300), st.integers(1, 50))
def test_any_text_becomes_printable_storable_and_short(text: str, most: int) -> None:
    shown = printable(text, most)
    assert len(shown) <= most
    shown.encode()
    assert all(c in "\n\t\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Cn") for c in shown)
    assert "\n" not in one_line(text, most)


def test_megabytes_of_text_are_cut() -> None:
    assert printable("x" * 5_000_000, 10) == "xxxxxxxxx…"
    assert len(one_line("x y " * 5_000_000)) == 2000


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n first \x1b[2J\nsecond"), "first \\x1b[2J"),
        (ValueError(), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        (BrokenError(), "BrokenError"),
    ],
)
def test_an_exceptions_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_reasons_that_differ_in_numbers_only_are_alike() -> None:
    reasons = ["(None, 1, 4) in max_pooling2d_3", "it is full", "(None, 12, 4) in max_pooling2d_11"]
    assert [alike(reason) == alike(reasons[0]) for reason in reasons] == [True, False, True]
    assert most_common(reasons) == reasons[0]
    assert most_common(["first", "second"]) == "second"
    assert alike("took 0.5 s, then 1e-07") == alike("took 12 s, then 2.5e+3")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("\n first\nsecond"), "ValueError: first"),
        (ValueError(" \n "), "ValueError"),
        (BrokenError(), "BrokenError"),
    ],
)
def test_an_exceptions_kind_and_first_line(error: Exception, text: str) -> None:
    assert kind_and_line(error) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.5, "0.5 s"),
        (2.44, "2.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (45.4, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_duration_is_written_in_readable_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123456, "0.001235"),
        (1e-7, "1e-07"),
        (64, "64"),
        (123456, "123456"),
        (True, "True"),
        ("relu", "relu"),
        ([512, 256], "[512, 256]"),
        (1.0, "1"),
    ],
)
def test_value_is_shown_with_few_digits(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["model.units"], ["units"]),
        (["optimizer.name"], ["optimizer"]),
        (["optimizer.name", "optimizer.learning_rate"], ["optimizer", "learning_rate"]),
        (["model.units", "model.dense.units"], ["model.units", "dense.units"]),
        (["model.units", "training.seed"], ["units", "seed"]),
        (["model.layers", "model.dense.layers", "model.units"], ["model.layers", "dense.layers", "units"]),
        # A layer's number alone says nothing.
        (["model.units.1", "model.units.2"], ["units.1", "units.2"]),
        (["model.units.1", "model.dense.units.1"], ["model.units.1", "dense.units.1"]),
        (["model.subunits", "model.units"], ["subunits", "units"]),
    ],
)
def test_names_are_as_short_as_they_can_be_without_ambiguity(names, expected):
    assert short_names(names) == dict(zip(names, expected, strict=True))
    assert len(set(short_names(names).values())) == len(names)


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, ("trial",), "0 trials"),
        (1, ("trial",), "1 trial"),
        (2, ("trial",), "2 trials"),
        (1200, ("trial",), "1,200 trials"),
        (1, ("class", "classes"), "1 class"),
        (3, ("class", "classes"), "3 classes"),
    ],
)
def test_what_is_counted_is_in_the_singular_or_the_plural(number, noun, text):
    assert counted(number, *noun) == text


def test_things_are_named_by_their_numbers() -> None:
    assert (numbered("trial", [3]), numbered("trial", [3, 7])) == ("trial 3", "trials 3, 7")
