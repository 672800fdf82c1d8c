"""A slow search must not hold up the loop."""

from __future__ import annotations

import threading
import time

import pytest

from mnist_sweep.search.base import Result, Search, Suggestion
from mnist_sweep.search.in_thread import Answered, ThreadedSearch


class Slow(Search):
    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.calls: list[tuple] = []

    def ask(self, number: int) -> Suggestion:
        self.calls.append(("ask", number, threading.current_thread().name))
        assert self.go_on.wait(10)
        return Suggestion({"model.units": number})

    def restore(self, number: int, suggestion: Suggestion) -> None:
        self.calls.append(("restore", number, suggestion))

    def tell(self, number: int, result: Result) -> None:
        self.calls.append(("tell", number, result))


def answers(aside: ThreadedSearch, count: int) -> list[Answered]:
    found: list[Answered] = []
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        found += aside.answers()
        time.sleep(0.005)
    return found


def test_nothing_waits_for_a_slow_suggestion_and_calls_keep_their_order() -> None:
    search = Slow()
    aside = ThreadedSearch(lambda: search)
    aside.restore(1, Suggestion({"model.units": 1}))
    aside.ask(3)
    aside.tell(1, Result((0.9,), 4))
    assert aside.answers() == []
    search.go_on.set()
    assert answers(aside, 1) == [Answered(3, Suggestion({"model.units": 3}))]
    aside.close()
    assert [call[:2] for call in search.calls[:3]] == [("restore", 1), ("ask", 3), ("tell", 1)]
    assert search.calls[1][2] != threading.current_thread().name


def test_what_a_search_raises_reaches_the_loop() -> None:
    def create() -> Search:
        raise ValueError("no such thing")

    aside = ThreadedSearch(create)
    aside.ask(0)
    with pytest.raises(ValueError, match="no such thing"):
        answers(aside, 1)
