"""keras-tuner's oracles behind `Search`, without the faults that a user would meet.

What keras-tuner 1.4.8 does and this mends: seed 0 means a random seed; neighbouring seeds share draws; a small space
ends before it is used up; a logarithmic Int may exceed its bound by one; the Gaussian process proposes settings that
were tried; a trial that is tried again keeps its old metrics (here an oracle is told the final score only); a failed
trial starves Hyperband's bracket; state files are written in place at every step.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from mnist_sweep.grammar import Choice
from mnist_sweep.light_keras import load as load_keras
from mnist_sweep.search.base import Answer, Search, Suggestion
from mnist_sweep.settings import BayesianSearch, HyperbandSearch, Objective
from mnist_sweep.space import Space, Values

kt = load_keras("keras_tuner")

_MOST_TO_ENUMERATE = 1_000_000


def random_search(space: Space, objective: Objective, seed: int) -> Search:
    """`search=random`: independent draws, none twice.

    Args:
        space: The search space.
        objective: What is optimised.
        seed: Any number from 0 on.
    """
    return _OracleSearch(
        _mended(kt.oracles.RandomSearchOracle, space)(**_common(space, objective, seed)), space, objective
    )


def bayesian(space: Space, objective: Objective, config: BayesianSearch) -> Search:
    """`search=bayesian`: a Gaussian process, asked for the point of the best upper confidence bound."""
    oracle = _mended(kt.oracles.BayesianOptimizationOracle, space)(
        num_initial_points=config.num_initial_points,
        alpha=config.alpha,
        beta=config.beta,
        **_common(space, objective, config.seed),
    )
    return _OracleSearch(oracle, space, objective)


def hyperband(space: Space, objective: Objective, config: HyperbandSearch, epochs: int) -> Search:
    """`search=hyperband` (Li et al., 2018, https://jmlr.org/papers/v18/16-558.html).

    Args:
        space: The search space.
        objective: What is optimised.
        config: The factor and the number of iterations.
        epochs: How long the trials of a last round train.
    """
    common = _common(space, objective, config.seed)
    del common["max_trials"]
    oracle = _mended(kt.oracles.HyperbandOracle, space)(
        max_epochs=epochs, factor=config.factor, hyperband_iterations=config.iterations, **common
    )
    return _OracleSearch(oracle, space, objective, goes_on_after_failure=True)


def _common(space: Space, objective: Objective, seed: int) -> dict[str, Any]:
    return {
        "objective": kt.Objective(objective.name, objective.direction),
        "max_trials": None,  # the loop counts
        "hyperparameters": to_keras_tuner(space),
        "allow_new_entries": False,
        "seed": int(np.random.SeedSequence(seed).generate_state(1)[0]) | 1,
        "max_retries_per_trial": 0,  # the loop retries
        "max_consecutive_failed_trials": None,
    }


def to_keras_tuner(space: Space) -> Any:  # noqa: ANN401 - keras_tuner.HyperParameters
    """The space as `keras_tuner.HyperParameters`, conditions included."""
    result = kt.HyperParameters()
    for hyperparameter in space.hyperparameters:
        name, domain = hyperparameter.name, hyperparameter.domain
        scope = (
            nullcontext()
            if hyperparameter.parent is None
            else result.conditional_scope(
                hyperparameter.parent,
                [_encode(v, _domain(space, hyperparameter.parent)) for v in hyperparameter.parent_values],
            )
        )
        with scope:
            if isinstance(domain, Choice):
                result.Choice(name, [_encode(option, domain) for option in domain.options])
            else:
                kind = result.Int if domain.integer else result.Float
                kind(name, domain.low, domain.high, sampling="log" if domain.log else "linear")
    return result


def from_keras_tuner(values: Mapping[str, Any], space: Space) -> Values:
    """Plain values inside the space's bounds, without keras-tuner's own entries."""
    plain: Values = {}
    for hyperparameter in space.hyperparameters:
        if hyperparameter.name in values:
            value, domain = values[hyperparameter.name], hyperparameter.domain
            if isinstance(domain, Choice):
                plain[hyperparameter.name] = next(o for o in domain.options if _encode(o, domain) == value)
            else:
                plain[hyperparameter.name] = domain.clamp(value)
    return plain


def _domain(space: Space, name: str) -> Any:  # noqa: ANN401
    return next(h.domain for h in space.hyperparameters if h.name == name)


def _encode(value: Any, domain: Any) -> Any:  # noqa: ANN401
    """A value as keras-tuner's Choice takes it, which refuses lists, null and mixed types."""
    if not isinstance(domain, Choice):
        return value
    kinds = {type(option) for option in domain.options}
    return value if kinds in ({str}, {int}, {float}) else json.dumps(value)


def _mended(oracle: type, space: Space) -> Any:  # noqa: ANN401 - a subclass of an untyped class
    class Mended(oracle):  # type: ignore[misc]
        def save(self, *_: Any) -> None:  # noqa: ANN401
            """The journal is the record."""

        def _save_trial(self, trial: Any) -> None:  # noqa: ANN401
            """The journal is the record."""

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            response: dict[str, Any] = super().populate_space(trial_id)
            if not response.get("values") or "tuner/epochs" in response["values"]:
                return response
            values: dict[str, Any] | None = self._inside(response["values"])
            if self._duplicate(values):
                values = self._random_values()
            return {**response, "values": values} if values else {"status": "STOPPED"}

        def _random_values(self) -> dict[str, Any] | None:
            drawn = super()._random_values()
            if drawn is not None and not self._duplicate(self._inside(drawn)):
                return self._inside(drawn)
            return self._untried()

        def _untried(self) -> dict[str, Any] | None:
            """One of the settings not tried yet, when draws hit only those that were."""
            rng = random.Random(self._seed_state)
            self._seed_state += 1
            if space.size is None:
                draws = (space.sample(rng) for _ in range(1000))
                return next((e for e in map(self._encoded, draws) if not self._duplicate(e)), None)
            settings = map(self._encoded, itertools.islice(space.grid(), _MOST_TO_ENUMERATE))
            untried = [values for values in settings if not self._duplicate(values)]
            return rng.choice(untried) if untried else None

        def _inside(self, values: Mapping[str, Any]) -> dict[str, Any]:
            return self._encoded(from_keras_tuner(values, space))

        def _encoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: _encode(value, _domain(space, name)) for name, value in values.items()}

    return Mended


class _OracleSearch(Search):
    """Drives one oracle by its own ask and tell."""

    def __init__(
        self,
        oracle: Any,  # noqa: ANN401
        space: Space,
        objective: Objective,
        *,
        goes_on_after_failure: bool = False,
    ) -> None:
        oracle.verbose = 0
        self._oracle, self._space, self._objective = oracle, space, objective
        self._goes_on_after_failure = goes_on_after_failure
        self._trials: dict[int, Any] = {}
        self._failed: set[str] = set()

    def ask(self, number: int) -> Suggestion | Answer:
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
            self._end(trial, None)
        self._trials[number] = trial
        return Suggestion(
            from_keras_tuner(values, self._space),
            epochs=values.get("tuner/epochs"),
            initial_epoch=values.get("tuner/initial_epoch", 0),
            parent=next((n for n, t in self._trials.items() if t.trial_id == parent), None),
        )

    def tell(self, number: int, score: float | None) -> None:
        self._end(self._trials[number], score)

    def _end(self, trial: Any, score: float | None) -> None:  # noqa: ANN401
        if score is None:
            self._failed.add(trial.trial_id)
            if self._goes_on_after_failure:
                # Hyperband counts completed trials only, and would wait for ever for one that failed.
                score = -math.inf if self._objective.direction == "max" else math.inf
        if score is not None:
            self._oracle.update_trial(trial.trial_id, {self._objective.name: score})
        trial.status = "FAILED" if score is None else "COMPLETED"
        self._oracle.end_trial(trial)
