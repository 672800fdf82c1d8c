"""Optuna's samplers (https://optuna.org) as keras-tuner oracles.

An oracle asks a study in memory what to suggest, and tells it how the trial ended. Each suggestion is drawn with a seed
of its own, so it depends on the sweep's seed, the trial's number and what was told before, not on how the process came
to know that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mnist_sweep.config.objective import Objective
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search.base import Search
from mnist_sweep.search.dimensions import dimensions
from mnist_sweep.search.oracle_search import OracleSearch
from mnist_sweep.search.oracles import Earlier, SettingsOracle, common, seeded

# The sweep has its own log and screen.
optuna.logging.set_verbosity(optuna.logging.ERROR)

# How often a sampler that suggests what was tried is asked again.
_ATTEMPTS = 5
# Of fewer trials, the best tenth, to which CMA-ES fits its first distribution, is none.
_FEWEST_TO_START_CMAES_FROM = 10

Objectives = Sequence[Objective]
Distributions = dict[str, BaseDistribution]
_Make = Callable[[int], BaseSampler]


def tpe(
    space: Space,
    objectives: Objectives,
    seed: int,
    enqueued: Sequence[Values] = (),
    earlier: Earlier = (),
    *,
    startup_trials: int,
) -> Search:
    """`search=tpe`: the tree-structured Parzen estimator (Bergstra et al., 2011; https://arxiv.org/abs/2304.11127).

    Hyperparameters that are active under the same condition are drawn together (Falkner et al., 2018,
    https://arxiv.org/abs/1807.01774). Running trials count as bad ones, so that trials side by side do not try the
    same; trials that were cut count as worse than all that were not.

    Args:
        space: The search space.
        objectives: What is optimised, one or several.
        seed: Any number from 0 on.
        enqueued: Settings to suggest first.
        earlier: Trials of earlier sweeps, which count as finished ones; their settings are not tried again as long as
            there are others.
        startup_trials: Random trials before the estimator is used, less those of earlier sweeps.
    """
    # Those that are active under the same conditions, the ones that always are first.
    groups: dict[str, Distributions] = {repr(()): {}}
    for dimension in dimensions(space).values():
        groups.setdefault(repr(dimension.hyperparameter.conditions), {})[dimension.name] = dimension.distribution

    def make(seed: int) -> BaseSampler:
        return _GroupedTPE(seed, list(groups.values()), startup_trials)

    oracle = OptunaOracle(space, objectives, seed, make, earlier)
    return OracleSearch(oracle, space, objectives, enqueued=enqueued, restores=True, knows_cut=len(objectives) == 1)


def gp(
    space: Space,
    objectives: Objectives,
    seed: int,
    enqueued: Sequence[Values] = (),
    earlier: Earlier = (),
    *,
    startup_trials: int,
) -> Search:
    """`search=gp`: a Gaussian process, asked for the point of the largest expected improvement; needs PyTorch.

    Where a hyperparameter is inactive, the process is told the middle of its domain, or the first of its options.

    Args:
        space: The search space.
        objectives: What is optimised: one.
        seed: Any number from 0 on.
        enqueued: Settings to suggest first.
        earlier: As for `tpe`.
        startup_trials: Random trials before the process is fitted, less those of earlier sweeps.
    """
    every = {d.name: d.distribution for d in dimensions(space).values()}

    def make(seed: int) -> BaseSampler:
        return _over(GPSampler, every)(seed=seed, n_startup_trials=startup_trials)

    oracle = OptunaOracle(space, objectives, seed, make, earlier, whole=True)
    return OracleSearch(oracle, space, objectives, enqueued=enqueued, restores=True)


def cmaes(
    space: Space,
    objectives: Objectives,
    seed: int,
    enqueued: Sequence[Values] = (),
    earlier: Earlier = (),
    *,
    startup_trials: int,
) -> Search:
    """`search=cmaes`: an evolution strategy on the numbers (Hansen, 2016, https://arxiv.org/abs/1604.00772).

    The other hyperparameters are drawn at random.

    Args:
        space: The search space, with at least one hyperparameter of numbers.
        objectives: What is optimised: one.
        seed: Any number from 0 on.
        enqueued: Settings to suggest first.
        earlier: Trials of earlier sweeps, from whose best tenth it starts (Nomura et al., 2021,
            https://arxiv.org/abs/2012.06932) where there are 10 or more; their settings are not tried again as long as
            there are others.
        startup_trials: Random trials before that, less those of earlier sweeps.
    """
    numbers = {d.name: d.distribution for d in dimensions(space).values() if d.numeric}
    past = _source_trials(space, objectives[0], earlier, numbers)

    def make(seed: int) -> BaseSampler:
        return _over(CmaEsSampler, numbers)(seed=seed, n_startup_trials=startup_trials, source_trials=past or None)

    oracle = PopulationOracle(space, objectives, seed, make, earlier, whole=True)
    return OracleSearch(oracle, space, objectives, enqueued=enqueued)


def nsga2(
    space: Space,
    objectives: Objectives,
    seed: int,
    enqueued: Sequence[Values] = (),
    earlier: Earlier = (),
    *,
    population: int,
) -> Search:
    """`search=nsga2`: a genetic algorithm for several objectives (Deb et al., 2002, https://doi.org/10.1109/4235.996017).

    Args:
        space: The search space.
        objectives: What is optimised, one or several.
        seed: Any number from 0 on.
        enqueued: Settings to suggest first, as members of the first generation.
        earlier: Trials of earlier sweeps, which count as finished ones; their settings are not tried again as long as
            there are others.
        population: Trials in a generation.
    """
    every = {d.name: d.distribution for d in dimensions(space).values()}

    def make(seed: int) -> BaseSampler:
        return _over(NSGAIISampler, every)(seed=seed, population_size=population)

    oracle = PopulationOracle(space, objectives, seed, make, earlier, whole=True)
    return OracleSearch(oracle, space, objectives, enqueued=enqueued)


class _GroupedTPE(TPESampler):
    """Draws each group of hyperparameters together.

    Optuna's own `group=True` looks for the groups in all past trials at each suggestion, and draws those that are not
    active, too.
    """

    def __init__(self, seed: int, groups: Sequence[Distributions], startup_trials: int) -> None:
        """Takes the groups, the first of which is always active; makes one suggestion."""
        super().__init__(seed=seed, n_startup_trials=startup_trials, multivariate=True, constant_liar=True)
        self._groups, self._drawn = groups, Values()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        return self._groups[0]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name not in self._drawn:
            group = next(group for group in self._groups if param_name in group)
            # Nothing before there are enough trials.
            self._drawn |= self.sample_relative(study, trial, group)
        if param_name in self._drawn:
            return self._drawn[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def _over(sampler: type[BaseSampler], together: Distributions) -> Callable[..., BaseSampler]:
    """A sampler that knows what to draw together, rather than to look for it in all past trials at each suggestion."""

    class Sampler(sampler):  # type: ignore[valid-type, misc]
        def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
            return together

    return Sampler


def _source_trials(space: Space, objective: Objective, earlier: Earlier, numbers: Distributions) -> list[FrozenTrial]:
    """Trials of earlier sweeps, reduced to what CMA-ES varies; none where there are too few."""
    if len(earlier) < _FEWEST_TO_START_CMAES_FROM:
        return []
    known = dimensions(space)
    return [
        create_trial(
            params={
                name: known[name].parameter(trial["values"][name]) if name in trial["values"] else known[name].middle()
                for name in numbers
            },
            distributions=numbers,
            value=trial["scores"][0],
        )
        for trial in earlier
    ]


class OptunaOracle(SettingsOracle):
    """Asks a sampler, then records the setting in the study as if it had been given.

    So the study is the same when a search is restored, which is given its former suggestions.
    """

    def __init__(
        self,
        space: Space,
        objectives: Objectives,
        seed: int,
        make: _Make,
        earlier: Earlier = (),
        *,
        whole: bool = False,
    ) -> None:
        """Begins a study.

        Args:
            space: The search space.
            objectives: What is optimised.
            seed: Any number from 0 on.
            make: Makes the sampler that draws with a seed.
            earlier: Trials of earlier sweeps, to begin with.
            whole: Whether the sampler is told of inactive hyperparameters, too.
        """
        super().__init__(space, earlier, **common(space, objectives, seed))
        self._objectives, self._make, self._whole = objectives, make, whole
        self._dimensions = dimensions(space)
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        self._study = optuna.create_study(directions=[ways[o.direction] for o in objectives])
        self._asked: dict[str, Trial] = {}
        for number, trial in enumerate(earlier):
            self._study.tell(self._record(trial["values"], seeded(self.seed, number)), list(trial["scores"]))

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Suggests a setting that was not tried."""
        number = int(trial_id)
        given = self.take_given()
        if given is None:
            for attempt in range(_ATTEMPTS):
                trial, values = self._draw(seeded(self.seed, number, attempt))
                encoded = self.translation.encode(values)
                if not self.known(encoded):
                    self._asked[trial_id] = self._kept(trial, values)
                    return {"status": "RUNNING", "values": encoded}
                self._study.tell(trial, state=TrialState.FAIL)
            given = self.untried(seeded(self.seed, number, _ATTEMPTS))
        if given is None:
            return {"status": "STOPPED"}
        self._asked[trial_id] = self._record(self.translation.decode(given), seeded(self.seed, number))
        return {"status": "RUNNING", "values": given}

    def end_trial(self, trial: Any) -> None:
        """Tells the study how a trial ended: `STOPPED` is one that was cut."""
        super().end_trial(trial)
        asked, ended = self._asked.pop(trial.trial_id), self.trials[trial.trial_id]
        if ended.status == "COMPLETED":
            self._study.tell(asked, self._scores(ended))
        elif ended.status == "STOPPED":
            name = self._objectives[0].name
            asked.report(ended.metrics.get_last_value(name), ended.metrics.get_history(name)[-1].step)
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def score_trial(self, trial: Any) -> None:
        """The score is the first objective; keras-tuner would add them all up."""
        trial.score = self._scores(trial)[0]

    def _scores(self, trial: Any) -> list[float]:
        return [float(trial.metrics.get_last_value(o.name)) for o in self._objectives]

    def _sampler(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            # Starting CMA-ES from other trials is experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self._make(seed)

    def _draw(self, seed: int) -> tuple[Trial, Values]:
        """Asks the sampler for a setting."""
        self._study.sampler = self._sampler(seed)
        trial = self._study.ask()
        values: Values = {}
        for hyperparameter in self.space.hyperparameters:
            name, dimension = hyperparameter.name, self._dimensions.get(hyperparameter.name)
            active = hyperparameter.active(values)
            if dimension is None:
                if active:
                    values[name] = next(hyperparameter.domain.all())
            elif active:
                values[name] = dimension.suggest(trial)
            elif self._whole:
                dimension.suggest(trial)
        return trial, values

    def _kept(self, trial: Trial, values: Values) -> Trial:
        self._study.tell(trial, state=TrialState.FAIL)
        return self._record(values, 0)

    def _record(self, values: Values, seed: int) -> Trial:
        """A running trial of a given setting."""
        return self._record_with(RandomSampler(seed=seed), values)

    def _record_with(self, sampler: BaseSampler, values: Values) -> Trial:
        parameters = {
            name: dimension.parameter(values[name]) if name in values else dimension.middle()
            for name, dimension in self._dimensions.items()
            if name in values or self._whole
        }
        self._study.sampler = sampler
        self._study.enqueue_trial(parameters)
        trial = self._study.ask()
        for name in parameters:
            self._dimensions[name].suggest(trial)
        return trial


class PopulationOracle(OptunaOracle):
    """Asks a sampler that notes in each trial to which generation it belongs; it is restored by asking again."""

    def _kept(self, trial: Trial, values: Values) -> Trial:
        return trial

    def _record(self, values: Values, seed: int) -> Trial:
        trial = self._record_with(self._sampler(seed), values)
        # Not used, but drawing it is what gives the trial its generation.
        _ = trial.relative_params
        return trial
