"""Optuna's samplers in a `keras_tuner.Tuner`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras_tuner as kt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mnist_sweep.common.errors import UserError
from mnist_sweep.search.oracles import derive_seed

# How often to ask a sampler again that suggests what was tried.
_ATTEMPTS = 10
_Parameters = kt.engine.hyperparameters
# keras-tuner's status of a trial → Optuna's. A trial that is retried runs.
_STATES = {"COMPLETED": TrialState.COMPLETE, "FAILED": TrialState.FAIL, "INVALID": TrialState.FAIL}


class OptunaOracle(kt.Oracle):  # type: ignore[misc]
    """Lets one of Optuna's samplers choose the hyperparameters of a `keras_tuner.Tuner`.

    keras-tuner's own Bayesian optimization takes seconds for a suggestion after a hundred trials; the default sampler
    here, TPE, takes milliseconds. Hyperparameters that depend on others are drawn only where they are active, and those
    that a later model adds are searched from then on.

    Args:
        objective: What to optimize, as for keras-tuner's oracles: `"val_accuracy"`, or a `keras_tuner.Objective`.
        max_trials: How many trials to run.
        sampler: Makes the sampler from a seed: `optuna.samplers.GPSampler`, or a function of `seed`. The default is
            TPE, which draws hyperparameters together and keeps parallel trials apart.
        seed: A seed; None for a random one.
        arguments: The other arguments of keras-tuner's oracles, such as `hyperparameters` and `max_retries_per_trial`.

    Example:
        >>> import keras_tuner as kt  # doctest: +SKIP
        >>> import mnist_sweep  # doctest: +SKIP
        >>> oracle = mnist_sweep.OptunaOracle("val_accuracy", max_trials=50, seed=1)  # doctest: +SKIP
        >>> tuner = kt.Tuner(oracle, build_model, directory="tuned")  # doctest: +SKIP
        >>> tuner.search(x_train, y_train, validation_split=0.1, epochs=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = 10,
        sampler: Callable[..., BaseSampler] | None = None,
        seed: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(objective=objective, max_trials=max_trials, seed=seed, **arguments)
        if hasattr(self.objective, "objectives"):
            raise UserError("OptunaOracle: takes one objective, not a list; mnist_sweep's search=nsga2 takes several")
        self._make_sampler = sampler or _tpe
        # Without an objective, a Tuner's `run_trial` returns what to minimize.
        highest = self.objective is not None and self.objective.direction == "max"
        self._direction = StudyDirection.MAXIMIZE if highest else StudyDirection.MINIMIZE
        self._study: optuna.Study | None = None
        self._running: dict[str, Trial] = {}

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Suggests values that were not tried; keras-tuner calls this for each trial."""
        study = self._opened()
        for attempt in range(_ATTEMPTS):
            # Another seed for each, however many trials the study was restored with.
            study.sampler = self._make_sampler(seed=derive_seed(self.seed, len(study.trials), attempt))
            trial = study.ask()
            values = self._drawn(trial)
            if not self._duplicate(values):
                self._running[trial_id] = trial
                return {"status": "RUNNING", "values": values}
            study.tell(trial, state=TrialState.FAIL)
        # keras-tuner's own draws end too early where almost all values were tried.
        for _ in range(_ATTEMPTS):
            if (values := self._random_values()) is not None:
                return {"status": "RUNNING", "values": values}
        return {"status": "STOPPED"}

    def end_trial(self, trial: Any) -> None:
        """Reports to the sampler how a trial ended."""
        super().end_trial(trial)
        ended, study = self.trials[trial.trial_id], self._opened()
        state = _STATES.get(ended.status)
        if state is None:
            return
        asked = self._running.pop(trial.trial_id, None)
        score = ended.score if state is TrialState.COMPLETE else None
        if asked is not None:
            study.tell(asked, score, state=state)
        elif trial.trial_id not in study.user_attrs.get("known", ()):
            # Not drawn by the sampler: it learns from it all the same.
            study.add_trial(self._frozen(ended))

    def reload(self) -> None:
        """Restores the state that a Tuner has written; the study follows from its trials."""
        super().reload()
        self._study, self._running = None, {}

    def _opened(self) -> optuna.Study:
        if self._study is None:
            verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            try:
                self._study = optuna.create_study(direction=self._direction)
            finally:
                optuna.logging.set_verbosity(verbosity)
            done = [trial for trial in self.trials.values() if trial.status == "COMPLETED" and trial.score is not None]
            for trial in done:
                self._study.add_trial(self._frozen(trial))
            self._study.set_user_attr("known", [trial.trial_id for trial in done])
        return self._study

    def _drawn(self, trial: Trial) -> dict[str, Any]:
        """Asks for a value of each active hyperparameter, parents before what depends on them."""
        drawn = kt.HyperParameters()
        for hyperparameter in self.hyperparameters.space:
            drawn.merge([hyperparameter])
            if not drawn.is_active(hyperparameter):
                drawn.values.pop(hyperparameter.name, None)
                continue
            distribution = _distribution(hyperparameter)
            parameter = trial._suggest(_key(hyperparameter), distribution) if distribution is not None else 0
            drawn.values[hyperparameter.name] = _value(hyperparameter, parameter)
        return dict(drawn.values)

    def _frozen(self, trial: Any) -> FrozenTrial:
        """Returns a trial that has ended as Optuna has it."""
        parameters, distributions = dict[str, Any](), dict[str, BaseDistribution]()
        for hyperparameter in trial.hyperparameters.space:
            distribution = _distribution(hyperparameter)
            if distribution is None or not trial.hyperparameters.is_active(hyperparameter):
                continue
            key = _key(hyperparameter)
            parameters[key] = _parameter(hyperparameter, trial.hyperparameters.values[hyperparameter.name])
            distributions[key] = distribution
        complete = trial.status == "COMPLETED"
        return create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            params=parameters,
            distributions=distributions,
            value=trial.score if complete else None,
        )


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # Drawing together what is active together is experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _key(hyperparameter: Any) -> str:
    """keras-tuner has one hyperparameter for each name *and* set of conditions; Optuna needs a name for each."""
    conditions = [f"{condition.name}={condition.values}" for condition in hyperparameter.conditions]
    return " ".join([hyperparameter.name, *conditions])


def _options(hyperparameter: Any) -> list[Any] | None:
    """The values of a hyperparameter that are counted, numbers sorted; None for an interval."""
    if isinstance(hyperparameter, _Parameters.Choice):
        values = list(hyperparameter.values)
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return sorted(values) if numeric else values
    if isinstance(hyperparameter, _Parameters.Boolean):
        return [False, True]
    if isinstance(hyperparameter, _Parameters.Int) or hyperparameter.step is not None:
        stepped = hyperparameter.step is not None and not (
            isinstance(hyperparameter, _Parameters.Int) and hyperparameter.step == 1
        )
        return sorted(hyperparameter.values) if stepped else None
    return None


def _distribution(hyperparameter: Any) -> BaseDistribution | None:
    """Returns where Optuna draws a hyperparameter from; None if it has one value only."""
    if isinstance(hyperparameter, _Parameters.Fixed):
        return None
    options = _options(hyperparameter)
    if options is not None:
        if len(options) == 1:
            return None
        if isinstance(options[0], int | float) and not isinstance(options[0], bool):
            return IntDistribution(0, len(options) - 1)
        return CategoricalDistribution(range(len(options)))
    low, high = hyperparameter.min_value, hyperparameter.max_value
    if low == high:
        return None
    log = hyperparameter.sampling in ("log", "reverse_log")
    if isinstance(hyperparameter, _Parameters.Int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _value(hyperparameter: Any, parameter: Any) -> Any:
    if isinstance(hyperparameter, _Parameters.Fixed):
        return hyperparameter.value
    options = _options(hyperparameter)
    if options is not None:
        return options[parameter]
    if hyperparameter.min_value == hyperparameter.max_value:
        return hyperparameter.min_value
    if hyperparameter.sampling == "reverse_log":
        return hyperparameter.max_value + hyperparameter.min_value - parameter
    return parameter


def _parameter(hyperparameter: Any, value: Any) -> Any:
    options = _options(hyperparameter)
    if options is not None:
        return min(range(len(options)), key=lambda i: (options[i] != value, _distance(options[i], value)))
    if hyperparameter.sampling == "reverse_log":
        return hyperparameter.max_value + hyperparameter.min_value - value
    return value


def _distance(one: Any, other: Any) -> float:
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) if numbers else 0.0
