"""A slow search must not hold up the loop."""

from __future__ import annotations

import threading
import time

import pytest

from mnist_sweep.search.aside import Answered, Aside, Stop
from mnist_sweep.search.base import Search, Suggestion


class Slow(Search):
    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.calls: list[tuple] = []

    def ask(self, number: int) -> Suggestion:
        self.calls.append(("ask", number, threading.current_thread().name))
        assert self.go_on.wait(10)
        return Suggestion({"model.units": number})

    def report(self, number: int, epoch: int, score: float) -> str:
        self.calls.append(("report", number, epoch, score))
        return "hopeless" if score < 0.5 else ""

    def tell(self, number: int, score: float | None) -> None:
        self.calls.append(("tell", number, score))


def answers(aside: Aside, count: int) -> list[Answered | Stop]:
    found: list[Answered | Stop] = []
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        found += aside.answers()
        time.sleep(0.005)
    return found


def test_nothing_waits_for_a_slow_suggestion_and_calls_keep_their_order() -> None:
    search = Slow()
    aside = Aside(lambda: search)
    aside.ask(3)
    aside.report(1, 2, 0.9)
    aside.report(2, 1, 0.1)
    aside.tell(1, 0.9)
    assert aside.answers() == []
    search.go_on.set()
    assert answers(aside, 2) == [Answered(3, Suggestion({"model.units": 3})), Stop(2, "hopeless")]
    aside.close()
    assert [call[0] for call in search.calls] == ["ask", "report", "report", "tell"]
    assert search.calls[0][2] != threading.current_thread().name


def test_what_a_search_raises_reaches_the_loop() -> None:
    def create() -> Search:
        raise ValueError("no such thing")

    aside = Aside(create)
    aside.ask(0)
    with pytest.raises(ValueError, match="no such thing"):
        answers(aside, 1)
