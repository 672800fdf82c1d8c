"""Runs a search in its own thread, so that a slow suggestion does not block the loop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from mnist_sweep.search.base import Answer, Result, Search, Suggestion


@dataclass(frozen=True)
class Answered:
    """The answer to `ask`."""

    number: int
    answer: Suggestion | Answer


class ThreadedSearch:
    """Passes calls on to a search in order, and returns its answers when they have arrived."""

    def __init__(self, create: Callable[[], Search], executor: Executor | None = None) -> None:
        """Starts building the search.

        Args:
            create: Builds it. Called in the search's thread, as imports can take seconds.
            executor: Runs the calls one after another; by default in a new thread.
        """
        self._executor = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
        self._search = self._executor.submit(create)
        self._waiting: list[Future[Answered | None]] = []

    def ask(self, number: int) -> None:
        """Asks for a suggestion; `answers` returns it later."""
        self._call(lambda search: Answered(number, search.ask(number)))

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Reports a suggestion that was made before an interruption."""
        self._call(lambda search: search.restore(number, suggestion))

    def add(self, number: int, suggestion: Suggestion) -> None:
        """Reports a trial that a user has added."""
        self._call(lambda search: search.add(number, suggestion))

    def tell(self, number: int, result: Result) -> None:
        """Reports the end of a trial."""
        self._call(lambda search: search.tell(number, result))

    def start_over(self, create: Callable[[], Search]) -> None:
        """Builds another search, which gets all later calls.

        Args:
            create: As for the constructor.
        """
        self._search = self._executor.submit(create)

    def answered(self, timeout: float) -> bool:
        """Returns whether the last call is answered, after waiting up to `timeout` seconds for that."""
        return bool(self._waiting) and bool(wait(self._waiting[-1:], timeout).done)

    def answers(self) -> list[Answered]:
        """Returns the answers since the last call, in order, without waiting.

        Raises:
            Exception: If the search raised it.
        """
        ready = []
        while self._waiting and self._waiting[0].done():
            ready.append(self._waiting.pop(0).result())
        return [answer for answer in ready if answer is not None]

    def close(self) -> None:
        """Drops the calls that are still waiting."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _call(self, call: Callable[[Search], Answered | None]) -> None:
        search = self._search
        self._waiting.append(self._executor.submit(lambda: call(search.result())))
