"""Optuna's samplers (https://optuna.org) as keras-tuner oracles.

An oracle asks an Optuna study in memory for suggestions, and reports to it how trials ended. Each suggestion is drawn
with its own seed, so it depends only on the sweep's seed, the trial's number and the results so far, also after the
sweep was interrupted and resumed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.search_config import ModelSearch, NSGA2Search
from mnist_sweep.config.space import Hyperparameter, Space, Values, identity
from mnist_sweep.search.base import Problem, Search
from mnist_sweep.search.oracle_search import OracleSearch
from mnist_sweep.search.oracles import BaseOracle, derive_seed, oracle_arguments

# The sweep has its own log and screen.
optuna.logging.set_verbosity(optuna.logging.ERROR)

# How often to ask a sampler again that suggests what was tried.
_ATTEMPTS = 5
# CMA-ES fits its first distribution to the best tenth of earlier trials: of fewer, that is none.
_FEWEST_TO_START_CMAES_FROM = 10

Distributions = dict[str, BaseDistribution]
# Called with `seed=…`.
_MakeSampler = Callable[..., BaseSampler]


def tpe(config: ModelSearch, problem: Problem) -> Search:
    """`search=tpe`: the tree-structured Parzen estimator (Bergstra et al., 2011; https://arxiv.org/abs/2304.11127).

    Hyperparameters that are active under the same condition are drawn together (Falkner et al., 2018,
    https://arxiv.org/abs/1807.01774). Running trials count as bad ones, so that parallel trials do not try the same
    values; trials that were cut count as worse than all that were not.

    Args:
        config: Its `startup_trials` are random; fewer if there are trials of earlier sweeps.
        problem: What to search.
    """
    # Hyperparameters that are active under the same conditions; those that always are come first.
    groups: dict[str, Distributions] = {repr(()): {}}
    for dimension in dimensions(problem.space).values():
        groups.setdefault(repr(dimension.hyperparameter.conditions), {})[dimension.name] = dimension.distribution

    make_sampler = partial(_GroupedTPE, groups=list(groups.values()), startup_trials=config.startup_trials)
    one_objective = len(problem.objectives) == 1
    return _search(OptunaOracle(problem, make_sampler), problem, restores_by_values=True, cut_as_stopped=one_objective)


def gp(config: ModelSearch, problem: Problem) -> Search:
    """`search=gp`: a Gaussian process; suggests the point with the largest expected improvement. Needs PyTorch.

    In place of an inactive hyperparameter, the process gets the middle of its domain, or the first of its options.

    Args:
        config: Its `startup_trials` are random; fewer if there are trials of earlier sweeps.
        problem: What to search, with one objective.
    """
    every = {d.name: d.distribution for d in dimensions(problem.space).values()}
    make_sampler = partial(_with_fixed_space(GPSampler, every), n_startup_trials=config.startup_trials)
    return _search(OptunaOracle(problem, make_sampler, include_inactive=True), problem, restores_by_values=True)


def cmaes(config: ModelSearch, problem: Problem) -> Search:
    """`search=cmaes`: an evolution strategy on the numbers (Hansen, 2016, https://arxiv.org/abs/1604.00772).

    The other hyperparameters are drawn at random. With 10 or more trials of earlier sweeps, it starts from the best
    tenth of them (Nomura et al., 2021, https://arxiv.org/abs/2012.06932).

    Args:
        config: Its `startup_trials` are random; fewer if there are trials of earlier sweeps.
        problem: What to search, with one objective and at least one numeric hyperparameter.
    """
    numbers = {d.name: d.distribution for d in dimensions(problem.space).values() if d.numeric}
    make_sampler = partial(
        _with_fixed_space(CmaEsSampler, numbers),
        n_startup_trials=config.startup_trials,
        source_trials=_source_trials(problem, numbers) or None,
    )
    return _search(PopulationOracle(problem, make_sampler, include_inactive=True), problem)


def nsga2(config: NSGA2Search, problem: Problem) -> Search:
    """`search=nsga2`: a genetic algorithm for several objectives (Deb et al., 2002, https://doi.org/10.1109/4235.996017).

    Args:
        config: Its `population` is the number of trials in a generation.
        problem: What to search. Its `enqueued` values are members of the first generation.
    """
    every = {d.name: d.distribution for d in dimensions(problem.space).values()}
    make_sampler = partial(_with_fixed_space(NSGAIISampler, every), population_size=config.population)
    return _search(PopulationOracle(problem, make_sampler, include_inactive=True), problem)


def _search(oracle: BaseOracle, problem: Problem, **options: bool) -> Search:
    return OracleSearch(oracle, problem, len(problem.objectives), **options)


class _GroupedTPE(TPESampler):
    """Draws each group of hyperparameters together.

    Optuna's own `group=True` searches all past trials for the groups at each suggestion, and also draws inactive
    hyperparameters.
    """

    def __init__(self, seed: int, groups: Sequence[Distributions], startup_trials: int) -> None:
        """Takes the groups, the first of which is always active. Makes one suggestion only."""
        super().__init__(seed=seed, n_startup_trials=startup_trials, multivariate=True, constant_liar=True)
        self._groups, self._drawn = groups, Values()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        return self._groups[0]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name not in self._drawn:
            group = next(group for group in self._groups if param_name in group)
            # Draws nothing while there are too few trials.
            self._drawn |= self.sample_relative(study, trial, group)
        if param_name in self._drawn:
            return self._drawn[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def _with_fixed_space(sampler: type[BaseSampler], distributions: Distributions) -> Callable[..., BaseSampler]:
    """Returns a sampler that knows what to draw together, and need not infer it from all past trials."""

    class Sampler(sampler):  # type: ignore[valid-type, misc]
        def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
            return distributions

    return Sampler


def _source_trials(problem: Problem, numbers: Distributions) -> list[FrozenTrial]:
    """Returns the trials of earlier sweeps, reduced to what CMA-ES varies; none if there are too few."""
    if len(problem.earlier) < _FEWEST_TO_START_CMAES_FROM:
        return []
    known = dimensions(problem.space)
    return [
        create_trial(
            params={
                name: known[name].parameter(trial["values"][name]) if name in trial["values"] else known[name].middle()
                for name in numbers
            },
            distributions=numbers,
            value=trial["scores"][0],
        )
        for trial in problem.earlier
    ]


class OptunaOracle(BaseOracle):
    """Asks a sampler for values, then adds them to the study as if the user had enqueued them.

    So the study is the same when a search is restored from its former suggestions.
    """

    def __init__(self, problem: Problem, make_sampler: _MakeSampler, *, include_inactive: bool = False) -> None:
        """Creates a study.

        Args:
            problem: What to search. Its `earlier` trials become finished ones of the study.
            make_sampler: Makes the sampler that draws with a seed.
            include_inactive: Whether the sampler gets inactive hyperparameters, too.
        """
        super().__init__(problem, **oracle_arguments(problem, len(problem.objectives)))
        self._objectives, self._make_sampler = problem.objectives, make_sampler
        self._include_inactive = include_inactive
        self._dimensions = dimensions(problem.space)
        directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        self._study = optuna.create_study(directions=[directions[o.direction] for o in problem.objectives])
        self._asked: dict[str, Trial] = {}
        for number, earlier in enumerate(problem.earlier):
            trial = self._add_running(earlier["values"], derive_seed(self.seed, number))
            self._study.tell(trial, list(earlier["scores"]))

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Suggests values that were not tried."""
        number = int(trial_id)
        encoded = self.pop_next_values()
        if encoded is None:
            for attempt in range(_ATTEMPTS):
                trial, values = self._draw(derive_seed(self.seed, number, attempt))
                encoded = self.translation.encode(values)
                if not self.tried(encoded):
                    self._asked[trial_id] = self._keep(trial, values)
                    return {"status": "RUNNING", "values": encoded}
                self._study.tell(trial, state=TrialState.FAIL)
            encoded = self.untried(derive_seed(self.seed, number, _ATTEMPTS))
        if encoded is None:
            return {"status": "STOPPED"}
        self._asked[trial_id] = self._add_running(self.translation.decode(encoded), derive_seed(self.seed, number))
        return {"status": "RUNNING", "values": encoded}

    def end_trial(self, trial: Any) -> None:
        """Reports to the study how a trial ended; the status of a trial that was cut is `STOPPED`."""
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
        """Scores a trial by the first objective; keras-tuner would add them all up."""
        trial.score = self._scores(trial)[0]

    def _scores(self, trial: Any) -> list[float]:
        return [float(trial.metrics.get_last_value(o.name)) for o in self._objectives]

    def _sampler(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            # Starting CMA-ES from other trials is experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self._make_sampler(seed=seed)

    def _draw(self, seed: int) -> tuple[Trial, Values]:
        """Asks the sampler for values."""
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
            elif self._include_inactive:
                dimension.suggest(trial)
        return trial, values

    def _keep(self, trial: Trial, values: Values) -> Trial:
        """Turns a trial that was drawn into the running one with its values."""
        self._study.tell(trial, state=TrialState.FAIL)
        return self._add_running(values, 0)

    def _add_running(self, values: Mapping[str, Any], seed: int) -> Trial:
        """Adds a running trial with given values to the study."""
        return self._add_with(RandomSampler(seed=seed), values)

    def _add_with(self, sampler: BaseSampler, values: Mapping[str, Any]) -> Trial:
        parameters = {
            name: dimension.parameter(values[name]) if name in values else dimension.middle()
            for name, dimension in self._dimensions.items()
            if name in values or self._include_inactive
        }
        self._study.sampler = sampler
        self._study.enqueue_trial(parameters)
        trial = self._study.ask()
        for name in parameters:
            self._dimensions[name].suggest(trial)
        return trial


class PopulationOracle(OptunaOracle):
    """For samplers that note each trial's generation in the trial; it is restored by asking again."""

    def _keep(self, trial: Trial, values: Values) -> Trial:
        return trial

    def _add_running(self, values: Mapping[str, Any], seed: int) -> Trial:
        trial = self._add_with(self._sampler(seed), values)
        # Reading it draws values, which are not used, and sets the trial's generation.
        _ = trial.relative_params
        return trial


# ---- hyperparameters as the dimensions of Optuna's samplers ---------------------------------------------------------


class Dimension:
    """One hyperparameter with more than one value.

    Optuna gets the positions of a choice's options, as the options can be of any type. Numbers are sorted first, so
    that a sampler knows that 64 is between 32 and 128.

    Attributes:
        hyperparameter: The hyperparameter.
        name: Its name.
        distribution: The distribution of its values in Optuna's terms.
        numeric: Whether its values are numbers.
    """

    def __init__(self, hyperparameter: Hyperparameter) -> None:
        """Takes the hyperparameter."""
        self.hyperparameter, domain = hyperparameter, hyperparameter.domain
        self.name, self.numeric = hyperparameter.name, domain.numeric
        self._options: list[Any] = []
        self.distribution: BaseDistribution
        if isinstance(domain, Choice):
            self._options = sorted(domain.options) if self.numeric else list(domain.options)
            self._positions = {identity({"": option}): i for i, option in enumerate(self._options)}
            last = len(self._options) - 1
            self.distribution = IntDistribution(0, last) if self.numeric else CategoricalDistribution(range(last + 1))
        elif domain.integer:
            self.distribution = IntDistribution(int(domain.low), int(domain.high), domain.log)
        else:
            self.distribution = FloatDistribution(domain.low, domain.high, domain.log)

    def suggest(self, trial: Trial) -> Any:
        """Asks a trial for a value."""
        d = self.distribution
        if isinstance(d, FloatDistribution):
            return self._value(trial.suggest_float(self.name, d.low, d.high, log=d.log))
        if isinstance(d, IntDistribution):
            return self._value(trial.suggest_int(self.name, d.low, d.high, log=d.log))
        return self._value(trial.suggest_categorical(self.name, range(len(self._options))))

    def _value(self, parameter: Any) -> Any:
        domain = self.hyperparameter.domain
        return domain.clamp(parameter) if isinstance(domain, Interval) else self._options[parameter]

    def parameter(self, value: Any) -> Any:
        """Returns a value in Optuna's terms."""
        return self._positions[identity({"": value})] if self._options else value

    def middle(self) -> Any:
        """Returns what Optuna gets in place of an inactive hyperparameter."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return 0
        assert isinstance(d, IntDistribution | FloatDistribution)
        middle = (d.low * d.high) ** 0.5 if d.log else (d.low + d.high) / 2
        return int(middle) if isinstance(d, IntDistribution) else middle


def dimensions(space: Space) -> dict[str, Dimension]:
    """Returns the hyperparameters that have more than one value, by name."""
    return {h.name: Dimension(h) for h in space.hyperparameters if h.domain.size != 1}
