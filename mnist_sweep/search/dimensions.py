"""Hyperparameters as the dimensions of Optuna's samplers."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.space import Hyperparameter, Space, identity


class Dimension:
    """One hyperparameter with more than one value.

    Optuna gets the positions of a choice's options, as the options can be of any type. Numbers are sorted first, so
    that a sampler knows that 64 is between 32 and 128.

    Attributes:
        hyperparameter: The hyperparameter.
        distribution: The distribution of its values in Optuna's terms.
        numeric: Whether its values are numbers.
    """

    def __init__(self, hyperparameter: Hyperparameter) -> None:
        """Takes the hyperparameter."""
        self.hyperparameter, domain = hyperparameter, hyperparameter.domain
        self.numeric = domain.numeric
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

    @property
    def name(self) -> str:
        """The hyperparameter's name."""
        return self.hyperparameter.name

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
