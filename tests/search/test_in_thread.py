"""A slow search does not block the loop."""

from __future__ import annotations

import threading
import time

import pytest

from mnist_sweep.search.base import Result, Search, Suggestion
from mnist_sweep.search.in_thread import Answered, ThreadedSearch


class Slow(Search):
    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls: list[tuple] = []

    def ask(self, number: int) -> Suggestion:
        self.calls.append(("ask", number, threading.current_thread().name))
        assert self.released.wait(10)
        return Suggestion({"model.units": number})

    def restore(self, number: int, suggestion: Suggestion) -> None:
        self.calls.append(("restore", number, suggestion))

    def tell(self, number: int, result: Result) -> None:
        self.calls.append(("tell", number, result))


def answers(search_thread: ThreadedSearch, count: int) -> list[Answered]:
    found: list[Answered] = []
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        found += search_thread.answers()
        time.sleep(0.005)
    return found


def test_a_slow_suggestion_does_not_block_the_loop_and_calls_keep_their_order() -> None:
    search = Slow()
    search_thread = ThreadedSearch(lambda: search)
    search_thread.restore(1, Suggestion({"model.units": 1}))
    search_thread.ask(3)
    search_thread.tell(1, Result((0.9,), 4))
    assert search_thread.answers() == []
    search.released.set()
    assert answers(search_thread, 1) == [Answered(3, Suggestion({"model.units": 3}))]
    search_thread.close()
    assert [call[:2] for call in search.calls[:3]] == [("restore", 1), ("ask", 3), ("tell", 1)]
    assert search.calls[1][2] != threading.current_thread().name


def test_exceptions_of_a_search_reach_the_loop() -> None:
    def create() -> Search:
        raise ValueError("no such thing")

    search_thread = ThreadedSearch(create)
    search_thread.ask(0)
    with pytest.raises(ValueError, match="no such thing"):
        answers(search_thread, 1)
