"""Drives a keras-tuner oracle by its own ask and tell."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from mnist_sweep.config.objective import Objective
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search.base import Answer, Result, Search, Suggestion
from mnist_sweep.search.translation import Translation


class OracleSearch(Search):
    """One oracle behind `Search`."""

    def __init__(
        self,
        oracle: Any,
        space: Space,
        objectives: Sequence[Objective],
        *,
        enqueued: Sequence[Values] = (),
        restores: bool = False,
        goes_on_after_failure: bool = False,
        knows_cut: bool = False,
    ) -> None:
        """Takes an oracle.

        Args:
            oracle: Which nobody else asks.
            space: The search space.
            objectives: What the oracle is told of.
            enqueued: Settings to suggest first. Needs a `SettingsOracle`.
            restores: Whether the oracle suggests by what it was told alone, however that came about: it can then be
                given its former suggestions instead of being asked for them again. Needs a `SettingsOracle`.
            goes_on_after_failure: Whether a failed trial is told as the worst of all.
            knows_cut: Whether a trial that was cut is told as `STOPPED` rather than `COMPLETED`.
        """
        oracle.verbose = 0
        self._oracle, self._translation, self._objectives = oracle, Translation(space), objectives
        self._enqueued, self._restores = enqueued, restores
        self._goes_on_after_failure, self._knows_cut = goes_on_after_failure, knows_cut
        self._trials: dict[int, Any] = {}
        self._numbers: dict[str, int] = {}
        self._failed: set[str] = set()
        self._partial: set[str] = set()

    def ask(self, number: int) -> Suggestion | Answer:
        """The next setting."""
        if number < len(self._enqueued):
            self._give(self._enqueued[number])
        while True:
            # The same tuner id is handed the same trial until that has ended, so each trial gets its own.
            with warnings.catch_warnings():
                # scikit-learn tells of each fit of the Gaussian process that ends at a bound of its length scale.
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
            # A round that has too few good trials promotes a failed one; there is nothing to go on from.
            self._end(trial, Result(None))
        self._trials[number] = trial
        self._numbers[trial.trial_id] = number
        anew = parent in self._partial
        return Suggestion(
            self._translation.decode(values),
            epochs=values.get("tuner/epochs"),
            initial_epoch=0 if anew else values.get("tuner/initial_epoch", 0),
            parent=None if anew else self._numbers.get(parent),
        )

    def tell(self, number: int, result: Result) -> None:
        """Ends the oracle's trial."""
        trial = self._trials.pop(number)
        if not result.whole:
            self._partial.add(trial.trial_id)
        self._end(trial, result)

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Gives the oracle its former suggestion, or asks for it again."""
        if self._restores:
            self._give(suggestion.values)
        self.ask(number)

    def _give(self, values: Values) -> None:
        self._oracle.given = self._translation.encode(values)

    def _end(self, trial: Any, result: Result) -> None:
        scores = result.scores
        if scores is None:
            self._failed.add(trial.trial_id)
            if self._goes_on_after_failure:
                # Hyperband counts completed trials only, and would wait for ever for one that failed.
                scores = tuple(-math.inf if o.maximize else math.inf for o in self._objectives)
        if scores is not None:
            # An oracle of one objective is told the first only.
            metrics = {o.name: score for o, score in zip(self._objectives, scores, strict=False)}
            self._oracle.update_trial(trial.trial_id, metrics, step=result.epoch)
        cut = result.cut and self._knows_cut
        trial.status = "FAILED" if scores is None else "STOPPED" if cut else "COMPLETED"
        self._oracle.end_trial(trial)
