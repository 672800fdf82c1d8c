"""Runs a search beside the loop, so that a slow suggestion never holds up a report."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

from mnist_sweep.search.base import Answer, Result, Search, Suggestion


@dataclass(frozen=True)
class Answered:
    """The answer to `ask`."""

    number: int
    answer: Suggestion | Answer


class ThreadedSearch:
    """Passes calls on to a search in their order, and hands its answers out when they are there."""

    def __init__(self, create: Callable[[], Search], executor: Executor | None = None) -> None:
        """Starts building the search.

        Args:
            create: Builds it. Called in the search's own thread, as imports may take seconds.
            executor: Runs the calls one after another; a thread of its own by default.
        """
        self._executor = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
        self._search = self._executor.submit(create)
        self._waiting: list[Future[Answered | None]] = []

    def ask(self, number: int) -> None:
        """Asks for a trial; `Answered` comes later."""
        self._call(lambda: Answered(number, self._search.result().ask(number)))

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Passes an answer on that was given before an interruption."""
        self._call(lambda: self._search.result().restore(number, suggestion))

    def tell(self, number: int, result: Result) -> None:
        """Passes a trial's end on."""
        self._call(lambda: self._search.result().tell(number, result))

    def answers(self) -> list[Answered]:
        """What has come since the last call, in order, without waiting.

        Raises:
            Exception: What the search raised.
        """
        ready = []
        while self._waiting and self._waiting[0].done():
            ready.append(self._waiting.pop(0).result())
        return [answer for answer in ready if answer is not None]

    def close(self) -> None:
        """Drops what is still waiting."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _call(self, call: Callable[[], Answered | None]) -> None:
        self._waiting.append(self._executor.submit(call))
