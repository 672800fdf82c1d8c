"""Asks the search for trials, one at a time, and reports to it how they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto

from mnist_sweep.search.base import Answer, Result, Search, Suggestion
from mnist_sweep.search.in_thread import ThreadedSearch


class SearchState(Enum):
    """The search's last answer."""

    SUGGESTED = auto()
    """It can be asked for another trial."""
    ASKED = auto()
    """Nothing yet."""
    PAUSED = auto()
    """It can be asked when another trial has ended."""
    FINISHED = auto()
    """It has nothing more to try."""


class Suggestions:
    """The questions to the search, and its answers.

    Attributes:
        state: The search's last answer.
    """

    def __init__(self, search: ThreadedSearch) -> None:
        """Takes the search."""
        self._search = search
        self.state = SearchState.SUGGESTED
        self._ended_since_ask = False
        # The trials whose end the search knows: what becomes of them when they are retried would be a second one.
        self._told: set[int] = set()
        # The trials that it does not know, as they are not in its space.
        self._unknown: set[int] = set()
        # How many answers are still to come that an earlier session has acted on.
        self._old_answers = 0

    def ask(self, number: int) -> None:
        """Asks for a trial."""
        self.state, self._ended_since_ask = SearchState.ASKED, False
        self._search.ask(number)

    def ask_again(self, number: int, answer: Suggestion | None) -> None:
        """Repeats a question of an earlier session, which was answered by a suggestion or not."""
        if answer is None:
            self.ask(number)
            self._old_answers += 1
        else:
            self._search.restore(number, answer)

    def add(self, number: int, suggestion: Suggestion) -> None:
        """Reports a trial that a user has added."""
        self._search.add(number, suggestion)

    def start_over(
        self,
        create: Callable[[], Search],
        known: Mapping[int, Suggestion],
        results: Mapping[int, Result],
        other: set[int],
    ) -> None:
        """Builds another search, and reports to it what is known.

        Args:
            create: Builds it.
            known: The trials to report to it, by number.
            results: The results of those among them that have ended, in their order.
            other: All other trials.
        """
        self._old_answers += self.state is SearchState.ASKED
        self._search.start_over(create)
        for number, suggestion in known.items():
            self._search.add(number, suggestion)
        for number, result in results.items():
            self._search.tell(number, result)
        self._told, self._unknown = set(results), other
        self.state = SearchState.SUGGESTED

    def resume(self, *, unanswered: bool) -> None:
        """Ends the repetition; `unanswered` if nothing was done yet with the answer to the last question."""
        self._old_answers -= unanswered
        self.state = SearchState.ASKED if unanswered else SearchState.SUGGESTED

    def answered(self, timeout: float) -> bool:
        """Returns whether the search has an answer that was not taken yet, after waiting up to `timeout` seconds."""
        return self.state is SearchState.ASKED and self._search.answered(timeout)

    def answer(self, *, trials_open: bool) -> tuple[int, Suggestion] | None:
        """Returns the suggestion that has come since the last call, with the number of its trial, without waiting.

        Args:
            trials_open: Whether a trial has not ended yet: a search that pauses without any would pause forever.

        Raises:
            Exception: What the search raised.
        """
        for answered in self._search.answers():
            if self._old_answers:
                self._old_answers -= 1
                continue
            self.state = SearchState.SUGGESTED
            if isinstance(answered.answer, Suggestion):
                return answered.number, answered.answer
            if answered.answer is Answer.FINISHED:
                self.state = SearchState.FINISHED
            elif not self._ended_since_ask:
                self.state = SearchState.PAUSED if trials_open else SearchState.FINISHED
        return None

    def tell(self, number: int, result: Result | None) -> None:
        """Reports to the search how a trial ended, unless the result is None or the search was told before."""
        if result is None or number in self._told:
            return
        self._told.add(number)
        if number not in self._unknown:
            self._search.tell(number, result)
        self._ended_since_ask = True
        if self.state is SearchState.PAUSED:
            self.state = SearchState.SUGGESTED
