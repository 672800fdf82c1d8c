"""Text from outside."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep.common.text import alike, first_line, kind_and_line, most_common, one_line, printable


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
