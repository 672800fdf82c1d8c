"""Hyperparameters as the dimensions of Optuna's samplers."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.space import Hyperparameter, Space, identity


class Dimension:
    """One hyperparameter of more than one value.

    A choice is known to Optuna by the positions of its options, as those may be of any type. Numbers are put in order
    first, so that a sampler knows 64 to lie between 32 and 128.

    Attributes:
        hyperparameter: Which.
        distribution: Of its values in Optuna's terms.
        numeric: Whether its values are numbers.
    """

    def __init__(self, hyperparameter: Hyperparameter) -> None:
        """Takes the hyperparameter."""
        self.hyperparameter, domain = hyperparameter, hyperparameter.domain
        self._options: list[Any] = []
        self.distribution: BaseDistribution
        if isinstance(domain, Choice):
            self.numeric = all(isinstance(o, int | float) and not isinstance(o, bool) for o in domain.options)
            self._options = sorted(domain.options) if self.numeric else list(domain.options)
            self._positions = {identity({"": option}): i for i, option in enumerate(self._options)}
            last = len(self._options) - 1
            self.distribution = IntDistribution(0, last) if self.numeric else CategoricalDistribution(range(last + 1))
        elif domain.integer:
            self.numeric, self.distribution = True, IntDistribution(int(domain.low), int(domain.high), domain.log)
        else:
            self.numeric, self.distribution = True, FloatDistribution(domain.low, domain.high, domain.log)

    @property
    def name(self) -> str:
        """The hyperparameter's."""
        return self.hyperparameter.name

    def suggest(self, trial: Trial) -> Any:
        """Asks for a value."""
        of = self.distribution
        if isinstance(of, FloatDistribution):
            return self._value(trial.suggest_float(self.name, of.low, of.high, log=of.log))
        if isinstance(of, IntDistribution):
            return self._value(trial.suggest_int(self.name, of.low, of.high, log=of.log))
        return self._value(trial.suggest_categorical(self.name, range(len(self._options))))

    def _value(self, parameter: Any) -> Any:
        domain = self.hyperparameter.domain
        return domain.clamp(parameter) if isinstance(domain, Interval) else self._options[parameter]

    def parameter(self, value: Any) -> Any:
        """A value in Optuna's terms."""
        return self._positions[identity({"": value})] if self._options else value

    def middle(self) -> Any:
        """The parameter that stands for one that means nothing."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return 0
        assert isinstance(of, IntDistribution | FloatDistribution)
        middle = (of.low * of.high) ** 0.5 if of.log else (of.low + of.high) / 2
        return int(middle) if isinstance(of, IntDistribution) else middle


def dimensions(space: Space) -> dict[str, Dimension]:
    """The hyperparameters that have more than one value, by name."""
    return {h.name: Dimension(h) for h in space.hyperparameters if h.domain.size != 1}
