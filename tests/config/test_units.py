"""Parsing durations and amounts of memory."""

from __future__ import annotations

import pytest

from mnist_sweep.config.units import seconds, size


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        ("0.5s", 0.5),
        ("1d2h3m4s", 93784),
        ("0h1s", 1),
    ],
)
def test_a_duration_is_read(duration: str, expected: float) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize("duration", ["", "10", "m", "m10", "1h30", "-5m", "1w", "1H", "1h,30m", "soon", "1e3s", ".5h"])
def test_text_that_is_not_a_duration_is_refused(duration: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration such as 90s, 15m, 2h or 1h30m$"):
        seconds(duration)


@pytest.mark.parametrize("duration", ["0s", "0h0m", "0.0d"])
def test_a_duration_of_zero_is_refused(duration: str) -> None:
    with pytest.raises(ValueError, match=r"^must be longer than zero$"):
        seconds(duration)


@pytest.mark.parametrize(("text", "expected"), [("512MB", 512_000_000), ("1.5 GB", 1_500_000_000), ("7B", 7)])
def test_an_amount_of_memory_is_read(text: str, expected: int) -> None:
    assert size(text) == expected
