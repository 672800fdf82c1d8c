"""keras-tuner's oracles, without the faults that a user would meet.

What keras-tuner 1.4.8 does and this mends: seed 0 means a random seed; neighbouring seeds share draws; a small space
ends before it is used up; a logarithmic Int may exceed its bound by one; the Gaussian process proposes settings that
were tried; a trial that is tried again keeps its old metrics (here an oracle is told the final score only); a failed
trial starves Hyperband's bracket; state files are written in place at every step.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mnist_sweep.common.light_keras import load as load_keras
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import HyperbandSearch
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search.base import Search
from mnist_sweep.search.oracle_search import OracleSearch
from mnist_sweep.search.translation import Translation, from_keras_tuner, to_keras_tuner

__all__ = [
    "SettingsOracle",
    "bayesian",
    "common",
    "from_keras_tuner",
    "hyperband",
    "random_search",
    "seeded",
    "to_keras_tuner",
]

kt = load_keras("keras_tuner")
_Oracle: Any = kt.Oracle

Earlier = Sequence[Mapping[str, Any]]

_DRAWS = 1000
_MOST_TO_ENUMERATE = 1_000_000


def random_search(
    space: Space, objective: Objective, seed: int, enqueued: Sequence[Values] = (), earlier: Earlier = ()
) -> Search:
    """`search=random`: independent draws, none twice.

    Args:
        space: The search space.
        objective: What is optimised.
        seed: Any number from 0 on.
        enqueued: Settings to suggest first.
        earlier: Trials of earlier sweeps, whose settings are not tried again as long as there are others.
    """
    oracle = _mended(kt.oracles.RandomSearchOracle)(space, earlier, **common(space, [objective], seed))
    return OracleSearch(oracle, space, [objective], enqueued=enqueued, restores=True)


def bayesian(
    space: Space,
    objective: Objective,
    seed: int,
    enqueued: Sequence[Values] = (),
    earlier: Earlier = (),
    *,
    num_initial_points: int | None,
    alpha: float,
    beta: float,
) -> Search:
    """`search=bayesian`: a Gaussian process, asked for the point of the best upper confidence bound.

    Args:
        space: The search space.
        objective: What is optimised.
        seed: Any number from 0 on.
        enqueued: Settings to suggest first.
        earlier: Trials of earlier sweeps, to which the process is fitted, too; their settings are not tried again as
            long as there are others.
        num_initial_points: Random trials before the process is fitted; None for three for each hyperparameter.
        alpha: The noise that the process expects in the objective.
        beta: How much it explores.
    """
    oracle = _mended(kt.oracles.BayesianOptimizationOracle)(
        space,
        earlier,
        num_initial_points=num_initial_points,
        alpha=alpha,
        beta=beta,
        **common(space, [objective], seed),
    )
    for number, trial in enumerate(earlier):
        hyperparameters = oracle.get_space()
        hyperparameters.values = oracle.translation.encode(trial["values"])
        past = kt.engine.trial.Trial(hyperparameters, f"earlier-{number}", "COMPLETED")
        past.score = trial["scores"][0]
        oracle.trials[past.trial_id] = past
    return OracleSearch(oracle, space, [objective], enqueued=enqueued)


def hyperband(
    space: Space, objective: Objective, config: HyperbandSearch, epochs: int, enqueued: Sequence[Values] = ()
) -> Search:
    """`search=hyperband` (Li et al., 2018, https://jmlr.org/papers/v18/16-558.html).

    Args:
        space: The search space.
        objective: What is optimised.
        config: The factor, the number of iterations and the seed.
        epochs: How long the trials of a last round train.
        enqueued: Settings that take the place of the first new ones.
    """
    arguments = common(space, [objective], config.seed)
    del arguments["max_trials"]
    oracle = _mended(kt.oracles.HyperbandOracle)(
        space, max_epochs=epochs, factor=config.factor, hyperband_iterations=config.iterations, **arguments
    )
    oracle.first.extend(map(oracle.translation.encode, enqueued))
    return OracleSearch(oracle, space, [objective], goes_on_after_failure=True)


def seeded(seed: int, *path: int) -> int:
    """A seed derived from another; neighbouring ones have nothing in common.

    Args:
        seed: Any number from 0 on.
        path: What it is for, such as a trial's number.
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0]) | 1


def common(space: Space, objectives: Sequence[Objective], seed: int) -> dict[str, Any]:
    """The arguments that keras-tuner's oracles have in common.

    Args:
        space: The search space.
        objectives: What is optimised.
        seed: Any number from 0 on.
    """
    wanted = [kt.Objective(o.name, o.direction) for o in objectives]
    return {
        "objective": wanted if len(wanted) > 1 else wanted[0],
        "max_trials": None,  # the loop counts
        "hyperparameters": to_keras_tuner(space),
        "allow_new_entries": False,
        "seed": seeded(seed),
        "max_retries_per_trial": 0,  # the loop retries
        "max_consecutive_failed_trials": None,
    }


class SettingsOracle(_Oracle):  # type: ignore[misc]
    """An oracle that can be given a setting to suggest, suggests none twice, and writes no files.

    Attributes:
        given: What to suggest next, as keras-tuner takes it; None to decide itself.
        translation: Of the space.
    """

    def __init__(self, space: Space, earlier: Earlier = (), **arguments: Any) -> None:
        """Takes the space.

        Args:
            space: The search space.
            earlier: Trials of earlier sweeps, whose settings are not tried again as long as there are others.
            arguments: Of the keras-tuner oracle that comes next in the order of inheritance.
        """
        super().__init__(**arguments)
        self.space, self.translation = space, Translation(space)
        self.given: dict[str, Any] | None = None
        self._earlier = {self._compute_values_hash(self.translation.encode(trial["values"])) for trial in earlier}

    def save(self, *_: Any) -> None:
        """The journal is the record."""

    def _save_trial(self, trial: Any) -> None:
        """The journal is the record."""

    def take_given(self) -> dict[str, Any] | None:
        """What was given, once."""
        given, self.given = self.given, None
        return given

    def untried(self, seed: int) -> dict[str, Any] | None:
        """A setting that was not tried: of those that no earlier sweep tried, if there are any.

        Args:
            seed: Of the choice.

        Returns:
            The setting; None where all were tried.
        """
        rng = random.Random(seed)
        for taken in (self.known, self._duplicate):
            draws = (self.space.sample(rng) for _ in range(_DRAWS))
            found = next((e for e in map(self.translation.encode, draws) if not taken(e)), None)
            if found is None and self.space.size is not None:
                settings = itertools.islice(self.space.grid(), _MOST_TO_ENUMERATE)
                rest = [encoded for encoded in map(self.translation.encode, settings) if not taken(encoded)]
                found = rng.choice(rest) if rest else None
            if found is not None:
                return found
        return None

    def known(self, values: Mapping[str, Any]) -> bool:
        """Whether this sweep or an earlier one tried a setting."""
        return self._duplicate(values) or self._compute_values_hash(values) in self._earlier


def _mended(oracle: type) -> Any:
    class Mended(SettingsOracle, oracle):  # type: ignore[misc]
        first: deque[dict[str, Any]]

        def __init__(self, space: Space, earlier: Earlier = (), **arguments: Any) -> None:
            super().__init__(space, earlier, **arguments)
            self.first = deque()

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            given = self.take_given()
            if given is not None:
                return {"status": "RUNNING", "values": given}
            # Each trial draws by its own number, however many draws those before it took.
            self._seed_state = seeded(self.seed, int(trial_id))
            response: dict[str, Any] = super().populate_space(trial_id)
            if not response.get("values") or "tuner/epochs" in response["values"]:
                return response
            inside = self._inside(response["values"])
            values = self._random_values() if self.known(inside) else inside
            return {**response, "values": values} if values else {"status": "STOPPED"}

        def _random_values(self) -> dict[str, Any] | None:
            if self.first:
                return self.first.popleft()
            drawn = super()._random_values()
            if drawn is not None and not self.known(self._inside(drawn)):
                return self._inside(drawn)
            return self.untried(self._seed_state)

        def _inside(self, values: Mapping[str, Any]) -> dict[str, Any]:
            return self.translation.encode(self.translation.decode(values))

    return Mended
