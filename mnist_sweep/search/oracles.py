"""keras-tuner's oracles, with the faults fixed that a user would notice.

The faults of keras-tuner 1.4.8: seed 0 means a random seed; neighboring seeds share draws; a small space ends before
it is exhausted; a logarithmic Int can exceed its bound by one; the Gaussian process repeats values; a retried trial
keeps its old metrics (here an oracle gets the final score only); a failed trial starves Hyperband's bracket; state
files are rewritten in place at every step; a trial's end looks at all trials that have ended.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mnist_sweep.common.light_keras import load as load_keras
from mnist_sweep.config.search_config import BayesianSearch, HyperbandSearch, SearchConfig
from mnist_sweep.search.base import Problem, Search
from mnist_sweep.search.oracle_search import OracleSearch
from mnist_sweep.search.translation import Translation, to_keras_tuner

kt = load_keras("keras_tuner")
_Oracle: Any = kt.Oracle

_DRAWS = 1000
_MOST_TO_ENUMERATE = 1_000_000


def random_search(_: SearchConfig, problem: Problem) -> Search:
    """`search=random`: independent draws without repetition."""
    oracle = _patched(kt.oracles.RandomSearchOracle)(problem, **oracle_arguments(problem))
    return OracleSearch(oracle, problem, restores_by_values=True)


def bayesian(config: BayesianSearch, problem: Problem) -> Search:
    """`search=bayesian`: a Gaussian process; suggests the point with the best upper confidence bound.

    Args:
        config: Its `num_initial_points` are random trials before the process is fitted, None for three per
            hyperparameter; `alpha` is the noise that the process expects in the objective, `beta` how much it explores.
        problem: What to search.
    """
    own = config.model_dump(include={"num_initial_points", "alpha", "beta"})
    oracle = _patched(kt.oracles.BayesianOptimizationOracle)(problem, **own, **oracle_arguments(problem))
    add_earlier_trials(oracle, problem)
    return OracleSearch(oracle, problem)


def hyperband(config: HyperbandSearch, problem: Problem) -> Search:
    """`search=hyperband` (Li et al., 2018, https://jmlr.org/papers/v18/16-558.html).

    Args:
        config: A round promotes the best 1/`factor` of its trials; `iterations` is how often to run all brackets.
        problem: What to search. Its `enqueued` values replace the first new ones; `earlier` trials are not used.
    """
    arguments = oracle_arguments(problem)
    del arguments["max_trials"]
    oracle = _patched(kt.oracles.HyperbandOracle)(
        problem, max_epochs=problem.epochs, factor=config.factor, hyperband_iterations=config.iterations, **arguments
    )
    oracle.first_values.extend(map(oracle.translation.encode, problem.enqueued))
    return OracleSearch(oracle, replace(problem, enqueued=()), failed_as_worst=True)


def derive_seed(seed: int, *path: int) -> int:
    """Returns a seed derived from another one; neighboring seeds give unrelated ones.

    Args:
        seed: Any number from 0.
        path: What the seed is for, such as a trial's number.
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0]) | 1


def oracle_arguments(problem: Problem, objectives: int = 1) -> dict[str, Any]:
    """Returns the arguments that all of keras-tuner's oracles take.

    Args:
        problem: What to search.
        objectives: How many of the objectives the oracle optimizes.
    """
    optimized = [kt.Objective(o.name, o.direction) for o in problem.objectives[:objectives]]
    return {
        "objective": optimized if len(optimized) > 1 else optimized[0],
        "max_trials": None,  # the loop counts
        "hyperparameters": to_keras_tuner(problem.space),
        "allow_new_entries": False,
        "seed": derive_seed(problem.seed),
        "max_retries_per_trial": 0,  # the loop retries
        "max_consecutive_failed_trials": None,
    }


def add_earlier_trials(oracle: Any, problem: Problem) -> None:
    """Adds the trials of earlier sweeps to an oracle's own, as completed ones."""
    translation = Translation(problem.space)
    for number, earlier in enumerate(problem.earlier):
        hyperparameters = oracle.get_space()
        hyperparameters.values = translation.encode(earlier["values"])
        trial = kt.engine.trial.Trial(hyperparameters, f"earlier-{number}", "COMPLETED")
        trial.score = earlier["scores"][0]
        oracle.trials[trial.trial_id] = trial


class RestorableOracle(_Oracle):  # type: ignore[misc]
    """An oracle whose next suggestion can be set, and which writes no files: the journal is the record.

    Attributes:
        next_values: What to suggest next, encoded for keras-tuner; None to let the oracle decide.
    """

    next_values: dict[str, Any] | None = None

    def save(self, *_: Any) -> None:
        """Does nothing."""

    def _save_trial(self, trial: Any) -> None:
        """Does nothing."""

    def _check_consecutive_failures(self) -> None:
        """Does nothing: the loop counts failures."""

    def pop_next_values(self) -> dict[str, Any] | None:
        """Returns `next_values` and resets it."""
        values, self.next_values = self.next_values, None
        return values


class BaseOracle(RestorableOracle):
    """An oracle whose next suggestion can be set, and which does not repeat hyperparameter values.

    Attributes:
        translation: Between the space's values and keras-tuner's.
    """

    def __init__(self, problem: Problem, **arguments: Any) -> None:
        """Takes the problem.

        Args:
            problem: What to search.
            arguments: For the keras-tuner oracle that comes next in the order of inheritance.
        """
        super().__init__(**arguments)
        self.space, self.translation = problem.space, Translation(problem.space)
        encoded = (self.translation.encode(trial["values"]) for trial in problem.earlier)
        self._earlier = set(map(self._compute_values_hash, encoded))

    def _random_values(self) -> dict[str, Any] | None:
        """Draws as keras-tuner does, but without a copy of every hyperparameter for each draw."""
        for _ in range(self._max_collisions + 1):
            drawn = self.hyperparameters.copy()
            drawn.values = {}
            for hyperparameter in drawn.space:
                if drawn.is_active(hyperparameter):
                    drawn.values[hyperparameter.name] = hyperparameter.random_sample(self._seed_state)
                    self._seed_state += 1
            if not self._duplicate(drawn.values):
                values: dict[str, Any] = drawn.values
                return values
        return None

    def untried(self, seed: int) -> dict[str, Any] | None:
        """Draws values that were not tried, preferably in no earlier sweep either.

        Args:
            seed: The seed of the draw.

        Returns:
            The values, encoded; None if all were tried in this sweep.
        """
        rng = random.Random(seed)
        for tried in (self.tried, self._duplicate):
            draws = (self.space.sample(rng) for _ in range(_DRAWS))
            found = next((e for e in map(self.translation.encode, draws) if not tried(e)), None)
            if found is None and self.space.size is not None:
                grid = itertools.islice(self.space.grid(), _MOST_TO_ENUMERATE)
                rest = [encoded for encoded in map(self.translation.encode, grid) if not tried(encoded)]
                found = rng.choice(rest) if rest else None
            if found is not None:
                return found
        return None

    def tried(self, values: Mapping[str, Any]) -> bool:
        """Returns whether this sweep or an earlier one tried some values."""
        return self._duplicate(values) or self._compute_values_hash(values) in self._earlier


def _patched(oracle: type) -> Any:
    """Returns a subclass of a keras-tuner oracle without the faults named above."""

    class Patched(BaseOracle, oracle):  # type: ignore[misc]
        def __init__(self, problem: Problem, **arguments: Any) -> None:
            super().__init__(problem, **arguments)
            self.first_values: deque[dict[str, Any]] = deque()

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            if (values := self.pop_next_values()) is not None:
                return {"status": "RUNNING", "values": values}
            # Each trial draws with a seed of its own, however many draws the trials before it took.
            self._seed_state = derive_seed(self.seed, int(trial_id))
            response: dict[str, Any] = super().populate_space(trial_id)
            if not response.get("values") or "tuner/epochs" in response["values"]:
                return response
            clamped = self._clamp(response["values"])
            values = self._random_values() if self.tried(clamped) else clamped
            return {**response, "values": values} if values else {"status": "STOPPED"}

        def _random_values(self) -> dict[str, Any] | None:
            if self.first_values:
                return self.first_values.popleft()
            drawn = super()._random_values()
            if drawn is not None and not self.tried(self._clamp(drawn)):
                return self._clamp(drawn)
            return self.untried(self._seed_state)

        def _clamp(self, values: Mapping[str, Any]) -> dict[str, Any]:
            return self.translation.encode(self.translation.decode(values))

    return Patched
