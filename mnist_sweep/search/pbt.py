"""Population based training (Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846).

A population of members trains side by side, `interval` epochs at a time: a generation, which is one trial. After each,
a member among the worst goes on from the weights of one among the best, with hyperparameters moved a little.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.search_config import PBTSearch
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.journal.trial import Outcome, Trial
from mnist_sweep.search.base import Answer, Result, Search, Suggestion

_DRAWS = 100
_FACTORS = (0.8, 1.2)
# Keys, or ends of keys of a model, that change neither the weights' shapes nor the optimizer's state.
_KEYS = {"optimizer.learning_rate", "training.batch_size"}
_MODEL_FIELDS = {"dropout", "l2", "learning_rate"}
_GROUPS = ("optimizer.arguments.", "optimizer.schedule.arguments.")
# Keras keeps averages for the one only where it is not 0, and sums for the other only where it is given.
_NONE_AT_ZERO, _WITH_SUMS = "optimizer.arguments.momentum", "optimizer.arguments.gradient_accumulation_steps"


def create(space: Space, settings: Settings, enqueued: Sequence[Values]) -> Search:
    """`search=pbt`.

    Args:
        space: The search space.
        settings: The sweep's, with `search=pbt`.
        enqueued: The first members' hyperparameters; the other members' are drawn at random.

    Raises:
        UserError: Nothing in the space may change while a model trains, or more settings are given than there are
            members.
    """
    assert isinstance(settings.search, PBTSearch)
    if not perturbable(space):
        raise UserError(
            "search=pbt: nothing in the space can change while a model trains; make optimizer.learning_rate, "
            "training.batch_size, a dropout or an l2 a sweep of numbers, or take search=asha"
        )
    if len(enqueued) > settings.search.population:
        raise UserError(
            f"search.population={settings.search.population}: search.enqueue gives {len(enqueued)} settings, each of "
            "which is a member; raise the population"
        )
    return PBT(
        space,
        settings.search,
        epochs=settings.trial["training"]["epochs"],
        maximise=settings.objective.maximize,
        enqueued=enqueued,
    )


def perturbable(space: Space) -> list[str]:
    """The hyperparameters that may change from one generation to the next.

    They are the numbers that change neither the weights' shapes nor the optimizer's state: learning rate, batch size,
    dropout, l2, and the arguments of the optimizer and its schedule; of a hypermodel's, what a worker has found out.
    """
    parents = {parent for h in space.hyperparameters for parent, _ in h.conditions}
    return [
        h.name
        for h in space.hyperparameters
        if h.name not in parents
        and h.domain.size != 1
        and _numeric(h.domain)
        and (h.keeps_weights or _changes_no_shape(h.name, h.domain))
    ]


def _numeric(domain: Choice | Interval) -> bool:
    return isinstance(domain, Interval) or all(type(option) in (int, float) for option in domain.options)


def _changes_no_shape(name: str, domain: Choice | Interval) -> bool:
    if name == _NONE_AT_ZERO:
        return 0 not in domain.extremes()
    if name in _KEYS or (name.startswith(_GROUPS) and name != _WITH_SUMS):
        return True
    parts = [part for part in name.split(".") if not part.isdigit()]
    return parts[0] == "model" and parts[-1] in _MODEL_FIELDS


@dataclass(frozen=True)
class _Trained:
    """A generation of a member that has ended with a score (the larger, the better)."""

    trial: int
    values: Values
    score: float
    epoch: int


class PBT(Search):
    """Population based training, without a barrier.

    Where it is asked, it goes on with the free member that has trained least, so that fast members do not run ahead
    while slow ones wait for a slot. A member is compared with those that have ended the same generation before it, of
    which the quantile is taken as Ray Tune does: at least one, at most half. The weights that it takes are those of
    that generation too, so all members of a generation have trained the same number of epochs.

    A member whose trial failed goes on from one of the best of the last generation that any member has ended, and
    trains what it has missed; where there is none, it starts anew. What is drawn depends on the seed, the member and
    its generation alone.
    """

    def __init__(
        self, space: Space, config: PBTSearch, *, epochs: int, maximise: bool, enqueued: Sequence[Values] = ()
    ) -> None:
        """Draws the first generation.

        Args:
            space: The search space.
            config: The population and how it changes.
            epochs: How long each member trains.
            maximise: Whether more of the objective is better.
            enqueued: The first members' hyperparameters.
        """
        self._space, self._config, self._epochs = space, config, epochs
        self._sign = 1 if maximise else -1
        self._perturbable = set(perturbable(space))
        self._first = list(enqueued)
        rng, tried = self._rng("first"), {identity(values) for values in enqueued}
        while len(self._first) < config.population:
            draws = (space.sample(rng) for _ in range(_DRAWS))
            drawn = next((values for values in draws if identity(values) not in tried), None) or space.sample(rng)
            tried.add(identity(drawn))
            self._first.append(drawn)
        self._generations = math.ceil(epochs / config.interval)
        self._ended = [0] * config.population
        self._running: dict[int, tuple[int, Suggestion]] = {}
        self._trained: list[dict[int, _Trained]] = [{} for _ in range(self._generations)]

    def ask(self, number: int) -> Suggestion | Answer:
        """The next generation of the free member that has trained least."""
        busy = {member for member, _ in self._running.values()}
        unfinished = [m for m, ended in enumerate(self._ended) if ended + (m in busy) < self._generations]
        if not unfinished:
            return Answer.FINISHED
        free = [member for member in unfinished if member not in busy]
        if not free:
            return Answer.PAUSE
        member = min(free, key=lambda m: self._ended[m])
        suggestion = self._next(member, self._ended[member])
        self._running[number] = (member, suggestion)
        return suggestion

    def tell(self, number: int, result: Result) -> None:
        """Takes note of the end of a member's generation."""
        member, suggestion = self._running.pop(number)
        generation = self._ended[member]
        self._ended[member] += 1
        if result.whole and result.scores is not None and math.isfinite(result.scores[0]):
            assert suggestion.epochs is not None
            self._trained[generation][member] = _Trained(
                number, suggestion.values, result.scores[0] * self._sign, result.epoch or suggestion.epochs
            )

    def _next(self, member: int, generation: int) -> Suggestion:
        epochs = min((generation + 1) * self._config.interval, self._epochs)
        if generation == 0:
            return Suggestion(self._first[member], epochs)
        rng = self._rng(f"{member} {generation}")
        own = self._trained[generation - 1].get(member)
        source = self._source(member, generation - 1, rng)
        if source is None:
            return Suggestion(self._space.sample(rng), epochs)
        values = source.values if source is own else self._perturbed(source.values, rng)
        return Suggestion(values, epochs, initial_epoch=source.epoch, parent=source.trial)

    def _source(self, member: int, generation: int, rng: random.Random) -> _Trained | None:
        """What a member that has ended a generation goes on from; None: from nothing."""
        own = self._trained[generation].get(member)
        for trained in reversed(self._trained[: generation + 1]):
            ranked = sorted(trained.values(), key=lambda t: (-t.score, t.trial))
            part = min(math.ceil(len(ranked) * self._config.quantile), len(ranked) // 2)
            if own is not None:
                chosen = rng.choice(ranked[:part]) if own in ranked[len(ranked) - part :] else own
                return chosen if chosen.score > own.score else own
            if ranked:
                return rng.choice(ranked[: max(part, 1)])
        return None

    def _perturbed(self, values: Values, rng: random.Random) -> Values:
        """The values of a good member, moved a little; those that shapes depend on as they are."""
        changed, moving = dict(values), {}
        for hyperparameter in self._space.hyperparameters:
            name, domain = hyperparameter.name, hyperparameter.domain
            if name in values and name in self._perturbable:
                moving[name] = domain
                anew = rng.random() < self._config.resample
                changed[name] = domain.sample(rng) if anew else _moved(values[name], domain, rng)
        if moving and identity(changed) == identity(values):
            # The same values on the same weights would train the same model twice.
            name = rng.choice(list(moving))
            changed[name] = _moved(values[name], moving[name], rng)
        return changed

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self._config.seed} {what}")


def _moved(value: Any, domain: Choice | Interval, rng: random.Random) -> Any:
    """A number near another one, and never the same."""
    if isinstance(domain, Choice):
        options = sorted(domain.options)
        at = options.index(value)
        return rng.choice([options[i] for i in (at - 1, at + 1) if 0 <= i < len(options)])
    steps = [round(value * f) if domain.integer else value * f for f in _FACTORS]
    if domain.integer:
        steps = [min(steps[0], value - 1), max(steps[1], value + 1)]
    near = [inside for inside in map(domain.clamp, steps) if inside != value]
    # 0 times whatever is 0.
    return rng.choice(near) if near else domain.sample(rng)


def _may_go_on(trial: Trial, outcome: Outcome) -> bool:
    return outcome.score is not None and outcome.whole(trial)


def spent(config: PBTSearch, trials: Mapping[int, Trial], outcomes: Mapping[int, Outcome]) -> set[int]:
    """The trials from whose state none will go on any more, so that it need not be kept.

    Args:
        config: The population and its interval.
        trials: The sweep's trials, by number.
        outcomes: Of those that have ended.

    Returns:
        Of the generations before the last one that the whole population has ended, all that have ended and from which
        no running trial goes on.
    """
    ended: dict[int, list[int]] = {}
    for number in outcomes:
        ended.setdefault(math.ceil(trials[number].epochs / config.interval), []).append(number)
    whole = [
        generation
        for generation, numbers in ended.items()
        if len(numbers) == config.population and any(_may_go_on(trials[n], outcomes[n]) for n in numbers)
    ]
    needed = {trial.parent for number, trial in trials.items() if number not in outcomes}
    return {n for generation, numbers in ended.items() if generation < max(whole, default=0) for n in numbers} - needed
