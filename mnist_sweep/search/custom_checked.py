"""Checks what a user's algorithm answers, so that a mistake in it becomes one line that names the mistake."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import kind_and_line
from mnist_sweep.config.grammar import Choice
from mnist_sweep.config.space import Hyperparameter, Space, Values
from mnist_sweep.search.base import Answer, Problem, Result, Search, Suggestion
from mnist_sweep.search.stopping import Stopping

# How far floating-point arithmetic may exceed a bound, relative to it.
_ROUNDING = 1e-9
_STATUSES = ("RUNNING", "IDLE", "STOPPED")


def user_code_error(target: str, what: str, error: BaseException) -> UserError:
    """Returns the error that reports an exception in a user's class.

    Args:
        target: `search._target_`.
        what: What failed: `cannot be built`.
        error: The exception.
    """
    return UserError(f"search._target_={target}: {what} ({kind_and_line(error)})")


def call(target: str, what: str, code: Callable[..., Any], /, *arguments: Any, **keys: Any) -> Any:
    """Calls a user's code.

    Args:
        target: `search._target_`.
        what: What an exception means: `cannot be built`.
        code: The function, method or class to call.
        *arguments: Its arguments.
        **keys: Its keyword arguments.

    Raises:
        UserError: The code raised something.
    """
    try:
        return code(*arguments, **keys)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise user_code_error(target, what, error) from error


class CheckedSearch(Search):
    """Passes calls on to a user's search, and checks its answers."""

    def __init__(self, search: Search, target: str, problem: Problem) -> None:
        """Takes the search, and passes it the earlier trials.

        Args:
            search: The user's search.
            target: `search._target_`.
            problem: What to search. Its `enqueued` values are suggested before the search is asked.

        Raises:
            UserError: The search cannot learn from earlier trials.
        """
        self._search, self._target = search, target
        self._space, self._enqueued = problem.space, deque(problem.enqueued)
        # The values of trials that it did not suggest itself.
        self._given: dict[int, Values] = {}
        self._scored: set[int] = set()
        self._partial: set[int] = set()
        self._learns = getattr(search, "learn", None) is not None
        if problem.earlier and not self._learns:
            raise self._error("cannot learn from search.warm_start; give it a method learn(values, scores)")
        for trial in problem.earlier:
            self._call("learn", dict(trial["values"]), tuple(trial["scores"]))

    def ask(self, number: int) -> Suggestion | Answer:
        """Returns the search's next answer, with its values checked."""
        if self._enqueued:
            self._given[number] = dict(self._enqueued.popleft())
            return Suggestion(self._given[number])
        answer = self._call("ask", number)
        if isinstance(answer, Answer):
            return answer
        if not isinstance(answer, Suggestion):
            raise self._error(f"ask returned {type(answer).__name__}; return a Suggestion or an Answer")
        self._check_epochs(answer)
        values = self._checked_values(answer.values)
        if answer.parent in self._partial:
            return Suggestion(values, answer.epochs)
        return Suggestion(values, answer.epochs, answer.initial_epoch, answer.parent)

    def tell(self, number: int, result: Result) -> None:
        """Reports the end of the search's own trials, and lets it learn from the others."""
        if result.scores is not None:
            self._scored.add(number)
            if not result.whole:
                # It has left no state, so a trial that is to continue from it starts from new weights.
                self._partial.add(number)
        if number not in self._given:
            self._call("tell", number, result)
        elif self._learns:
            self._call("learn", dict(self._given[number]), result.scores)

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Reports a suggestion of the search that was made before an interruption."""
        if self._enqueued:
            self._given[number] = dict(self._enqueued.popleft())
        else:
            self._call("restore", number, suggestion)

    def add(self, number: int, suggestion: Suggestion) -> None:
        """Reports a trial that a user has added: it learns from the result, unless it takes such trials itself."""
        if type(self._search).add is not Search.add:
            self._call("add", number, suggestion)
        else:
            self._given[number] = dict(suggestion.values)

    def _call(self, name: str, *arguments: Any) -> Any:
        return call(self._target, f"its {name} failed", getattr(self._search, name), *arguments)

    def _error(self, message: str) -> UserError:
        return UserError(f"search._target_={self._target}: {message}")

    def _check_epochs(self, answer: Suggestion) -> None:
        epochs, first, parent = answer.epochs, answer.initial_epoch, answer.parent
        if type(first) is not int or first < 0 or (epochs is not None and (type(epochs) is not int or epochs <= first)):
            raise self._error(
                f"suggested epochs={epochs} from initial_epoch={first}; both must be whole numbers, epochs the larger"
            )
        if (parent is None) != (first == 0):
            raise self._error(f"suggested initial_epoch={first} with parent={parent}; set both or neither")
        if parent is not None and parent not in self._scored:
            raise self._error(f"suggested to continue from trial {parent}, which has not ended with a score")

    def _checked_values(self, values: Any) -> Values:
        """Returns a value of the space for every active hyperparameter, and drops the inactive ones."""
        if not isinstance(values, Mapping):
            raise self._error(f"suggested values of type {type(values).__name__}; they must be a dict")
        names = [h.name for h in self._space.hyperparameters]
        for name in values:
            if name not in names:
                raise self._error(f"suggested {name}, which is not searched{did_you_mean(str(name), names)}")
        return self._space.choose(lambda hyperparameter: self._checked_value(hyperparameter, values))

    def _checked_value(self, hyperparameter: Hyperparameter, values: Mapping[str, Any]) -> Any:
        name, domain = hyperparameter.name, hyperparameter.domain
        if name not in values:
            raise self._error(f"suggested no value for {name}")
        value = values[name].item() if hasattr(values[name], "item") else values[name]
        if isinstance(domain, Choice):
            for option in domain.options:
                if option == value and isinstance(option, bool) == isinstance(value, bool):
                    return option
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            clamped = domain.clamp(value)
            if abs(clamped - value) <= _ROUNDING * abs(clamped):
                return clamped
        raise self._error(f"suggested {name}={value!r}, which is not in {domain}")


class CheckedStopping(Stopping):
    """Passes reports on to a user's stopping rule, and checks its answers."""

    def __init__(self, rule: Stopping, target: str) -> None:
        """Takes the rule of the class that `search._target_` names."""
        self._rule, self._target = rule, target

    def report(self, number: int, epoch: int, score: float) -> str:
        """Returns the rule's answer."""
        try:
            reason = self._rule.report(number, epoch, score)
        except (Exception, SystemExit) as error:
            raise user_code_error(self._target, "its stopping failed", error) from error
        if not isinstance(reason, str):
            raise UserError(f"search._target_={self._target}: its stopping returned {reason!r}; return a reason, or ''")
        return reason


def checked_oracle(kind: type, target: str, space: Space) -> Any:
    """Returns a subclass of a user's oracle that checks its suggestions and writes no files.

    Args:
        kind: The user's class.
        target: `search._target_`.
        space: The search space.
    """
    from mnist_sweep.search.oracles import RestorableOracle
    from mnist_sweep.search.translation import Translation

    translation = Translation(space)
    domains = {h.name: h.domain for h in space.hyperparameters}

    def check_response(response: Any) -> None:
        def error(message: str) -> UserError:
            return UserError(f"search._target_={target}: its populate_space {message}")

        if not isinstance(response, Mapping) or response.get("status") not in _STATUSES:
            raise error(f"returned {response!r}; return a dict with the status RUNNING, IDLE or STOPPED, and values")
        for name, value in (response.get("values") or {}).items():
            if name.startswith("tuner/"):
                continue
            if name not in domains:
                raise error(f"suggested {name}, which is not searched{did_you_mean(name, domains)}")
            domain = domains[name]
            try:
                decoded = translation.decode({name: value})[name]
            except (LookupError, StopIteration, TypeError, ValueError):
                raise error(f"suggested {name}={value!r}, which is not in {domain}") from None
            # A logarithmic Int of keras-tuner can exceed its bound by one.
            slack = 1 if type(decoded) is int else _ROUNDING * abs(decoded) if type(decoded) is float else 0
            if not isinstance(domain, Choice) and not abs(decoded - value) <= slack:
                raise error(f"suggested {name}={value!r}, which is not in {domain}")

    class CheckedOracle(RestorableOracle, kind):  # type: ignore[misc]
        def populate_space(self, trial_id: str) -> Any:
            if (values := self.pop_next_values()) is not None:
                return {"status": "RUNNING", "values": values}
            response = super().populate_space(trial_id)
            check_response(response)
            return response

    return CheckedOracle
