"""Runs a keras-tuner oracle behind the `Search` interface."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any

from mnist_sweep.search.base import Answer, Problem, Result, Search, Suggestion
from mnist_sweep.search.translation import Translation


class OracleSearch(Search):
    """One oracle behind `Search`."""

    def __init__(
        self,
        oracle: Any,
        problem: Problem,
        objectives: int = 1,
        *,
        restores_by_values: bool = False,
        failed_as_worst: bool = False,
        cut_as_stopped: bool = False,
        refused_as_worst: bool = True,
    ) -> None:
        """Takes an oracle.

        Args:
            oracle: The oracle. Nothing else may call it.
            problem: What to search. If it has `enqueued` values, the oracle needs `next_values`, as `BaseOracle` has.
            objectives: How many of the objectives to report to the oracle.
            restores_by_values: Whether the oracle's suggestions depend only on its earlier suggestions and their
                results. It is then restored by setting `next_values` instead of asking for each suggestion again.
            failed_as_worst: Whether to report a trial from which none can continue, as it has failed or diverged, as a
                completed one with the worst score.
            cut_as_stopped: Whether to report a trial that was cut as `STOPPED` rather than `COMPLETED`.
            refused_as_worst: Whether to report a refused trial as a completed one with the worst score so far. If it
                learned nothing from it, an algorithm would suggest values like these again and again.
        """
        oracle.verbose = 0
        self._oracle, self._translation = oracle, Translation(problem.space)
        self._objectives, self._enqueued = problem.objectives[:objectives], deque(problem.enqueued)
        self._restores_by_values = restores_by_values
        self._failed_as_worst, self._cut_as_stopped = failed_as_worst, cut_as_stopped
        self._refused_as_worst = refused_as_worst
        self._trials: dict[int, Any] = {}
        self._numbers: dict[str, int] = {}
        self._failed: set[str] = set()
        self._partial: set[str] = set()
        self._worst: tuple[float, ...] | None = None

    def ask(self, number: int) -> Suggestion | Answer:
        """Returns the oracle's next suggestion."""
        if self._enqueued:
            self._set_next_values(self._enqueued.popleft())
        return self._create(number)

    def _create(self, number: int) -> Suggestion | Answer:
        while True:
            # An oracle gives a tuner the same trial until that has ended, so each trial gets its own tuner id.
            with warnings.catch_warnings():
                # scikit-learn warns when the fit of a Gaussian process ends at a bound of its length scale.
                warnings.simplefilter("ignore")
                trial = self._oracle.create_trial(f"trial-{number}")
            if trial.status == "IDLE":
                return Answer.PAUSE
            if trial.status != "RUNNING":
                return Answer.FINISHED
            values = trial.hyperparameters.values
            parent = values.get("tuner/trial_id")
            if parent not in self._failed:
                break
            # A round with too few good trials promotes a failed one, which cannot be continued.
            self._end(trial, Result(None))
        self._trials[number] = trial
        self._numbers[trial.trial_id] = number
        from_scratch = parent in self._partial
        return Suggestion(
            self._translation.decode(values),
            epochs=values.get("tuner/epochs"),
            initial_epoch=0 if from_scratch else values.get("tuner/initial_epoch", 0),
            parent=None if from_scratch else self._numbers.get(parent),
        )

    def tell(self, number: int, result: Result) -> None:
        """Ends the oracle's trial."""
        trial = self._trials.pop(number)
        if not result.whole:
            self._partial.add(trial.trial_id)
        self._end(trial, result)

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Hands the oracle its former suggestion, or asks for it again."""
        if self._restores_by_values:
            self._set_next_values(suggestion.values)
        self.ask(number)

    def add(self, number: int, suggestion: Suggestion) -> None:
        """Makes the oracle suggest the values of a trial that a user has added."""
        self._set_next_values(suggestion.values)
        self._create(number)

    def _set_next_values(self, values: Mapping[str, Any]) -> None:
        self._oracle.next_values = self._translation.encode(values)

    def _end(self, trial: Any, result: Result) -> None:
        scores = result.scores
        if scores is None or (result.diverged and self._failed_as_worst):
            self._failed.add(trial.trial_id)
            if self._failed_as_worst:
                # Hyperband counts completed trials only, and would wait forever for a failed one.
                scores = tuple(-math.inf * o.sign for o in self._objectives)
            elif result.refused and self._refused_as_worst:
                scores = self._worst
        elif all(map(math.isfinite, scores)):
            self._worst = tuple(
                min(pair, key=lambda value: value * o.sign)
                for o, *pair in zip(self._objectives, self._worst or scores, scores, strict=False)
            )
        if scores is not None:
            # An oracle with one objective gets the first score only.
            metrics = {o.name: score for o, score in zip(self._objectives, scores, strict=False)}
            self._oracle.update_trial(trial.trial_id, metrics, step=result.epoch)
        cut = result.cut and self._cut_as_stopped
        trial.status = "FAILED" if scores is None else "STOPPED" if cut else "COMPLETED"
        self._oracle.end_trial(trial)
