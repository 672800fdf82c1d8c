"""Asks the search for trials, one at a time, and tells it how they end."""

from __future__ import annotations

from enum import Enum, auto

from mnist_sweep.search.base import Answer, Result, Suggestion
from mnist_sweep.search.in_thread import ThreadedSearch


class _Turn(Enum):
    MAY_ASK = auto()
    ASKED = auto()
    PAUSED = auto()
    FINISHED = auto()


class Suggestions:
    """What the search was asked, and what it said last."""

    def __init__(self, search: ThreadedSearch) -> None:
        """Takes the search."""
        self._search = search
        self._turn = _Turn.MAY_ASK
        self._ended_since_ask = False
        # Answers that a session before this one has acted on.
        self._old_answers = 0

    @property
    def may_ask(self) -> bool:
        """Whether the search can be asked for another trial now."""
        return self._turn is _Turn.MAY_ASK

    @property
    def asked(self) -> bool:
        """Whether an answer is still to come."""
        return self._turn is _Turn.ASKED

    @property
    def finished(self) -> bool:
        """Whether the search has nothing more to try."""
        return self._turn is _Turn.FINISHED

    def ask(self, number: int) -> None:
        """Asks for a trial."""
        self._turn, self._ended_since_ask = _Turn.ASKED, False
        self._search.ask(number)

    def ask_again(self, number: int, answer: Suggestion | None) -> None:
        """Repeats a question of an earlier session.

        Args:
            number: The number of the trial that was asked for.
            answer: The suggestion that answered it, if one did.
        """
        if answer is None:
            self.ask(number)
            self._old_answers += 1
        else:
            self._ended_since_ask = False
            self._search.restore(number, answer)

    def resume(self, *, unanswered: bool) -> None:
        """Ends the repetition of earlier sessions.

        Args:
            unanswered: Whether nothing was done with the answer to the last question.
        """
        self._old_answers -= unanswered
        self._turn = _Turn.ASKED if unanswered else _Turn.MAY_ASK

    def answer(self, *, trials_open: bool) -> tuple[int, Suggestion] | None:
        """Returns the suggestion that has come since the last call, with the number of its trial; does not wait.

        Args:
            trials_open: Whether there are trials that have not ended.

        Raises:
            Exception: What the search raised.
        """
        for answered in self._search.answers():
            if self._old_answers:
                self._old_answers -= 1
                continue
            self._turn = _Turn.MAY_ASK
            if isinstance(answered.answer, Suggestion):
                return answered.number, answered.answer
            if answered.answer is Answer.FINISHED:
                self._turn = _Turn.FINISHED
            elif not self._ended_since_ask:
                # If no trial is open whose end it could wait for, it would pause forever.
                self._turn = _Turn.PAUSED if trials_open else _Turn.FINISHED
        return None

    def tell(self, number: int, result: Result) -> None:
        """Tells the search how a trial ended; a search that paused can be asked again."""
        self._search.tell(number, result)
        self._ended_since_ask = True
        if self._turn is _Turn.PAUSED:
            self._turn = _Turn.MAY_ASK
