"""Population based training (Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846).

A population of members trains in parallel, `interval` epochs at a time. One such step of a member, a generation, is one
trial. After it, a member among the worst continues from the weights of one among the best (exploit), with slightly
changed hyperparameters (explore).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.search_config import PBTSearch
from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.journal.trial import Outcome, Trial
from mnist_sweep.search.base import Answer, Problem, Result, Search, Suggestion

_DRAWS = 100
_FACTORS = (0.8, 1.2)
# Keys, or ends of a model's keys, that change neither the shapes of weights nor the optimizer's state.
_KEYS = {"optimizer.learning_rate", "training.batch_size"}
_MODEL_FIELDS = {"dropout", "l2", "learning_rate"}
_GROUPS = ("optimizer.arguments.", "optimizer.schedule.arguments.", "augment.")
# Keras keeps averages for momentum only if it is not 0, and sums for gradient accumulation only if it is set.
_MOMENTUM, _ACCUMULATION = "optimizer.arguments.momentum", "optimizer.arguments.gradient_accumulation_steps"


def perturbable(space: Space) -> list[str]:
    """Returns the hyperparameters that can change from one generation to the next.

    They are the numbers that change neither the shapes of weights nor the optimizer's state: learning rate, batch size,
    dropout, l2, the strengths of augmentation, and the arguments of the optimizer and its schedule; for a hypermodel,
    those that a worker has found.
    """
    parents = {parent for h in space.hyperparameters for parent, _ in h.conditions}
    return [
        h.name
        for h in space.hyperparameters
        if h.name not in parents
        and h.domain.size != 1
        and h.domain.numeric
        and (h.keeps_weights or _keeps_shapes(h.name, h.domain))
    ]


def _keeps_shapes(name: str, domain: Choice | Interval) -> bool:
    if name == _MOMENTUM:
        return 0 not in domain.extremes()
    if name in _KEYS or (name.startswith(_GROUPS) and name != _ACCUMULATION):
        return True
    parts = [part for part in name.split(".") if not part.isdigit()]
    return parts[0] == "model" and parts[-1] in _MODEL_FIELDS


@dataclass(frozen=True)
class _Checkpoint:
    """A generation of a member that has ended with a score (larger is better)."""

    trial: int
    values: Values
    score: float
    epoch: int


class PBT(Search):
    """`search=pbt`: population based training, without a barrier between generations.

    `ask` continues the free member that has trained least, so that fast members do not run ahead while slow ones wait
    for a slot. A member is compared with those that have ended the same generation before it. As in Ray Tune, the
    quantile of these has at least one member and at most half of them. It also takes its weights from that generation,
    so all members of a generation have trained the same number of epochs.

    A member whose trial failed continues from one of the best of the last generation that any member has ended, and
    trains the epochs that it missed; if there is none, it starts from scratch. Random draws depend only on the seed,
    the member and its generation.
    """

    def __init__(self, config: PBTSearch, problem: Problem) -> None:
        """Draws the first generation.

        Args:
            config: The population and how it changes.
            problem: What to search. Its `enqueued` values are the first members'; those of the others are drawn at
                random.

        Raises:
            UserError: More values are enqueued than there are members.
        """
        if len(problem.enqueued) > config.population:
            raise UserError(
                f"search.population={config.population}: search.enqueue has {len(problem.enqueued)} entries, and each "
                "is a member of the population; use a larger one"
            )
        space = problem.space
        self._space, self._config, self._epochs = space, config, problem.epochs
        self._sign = problem.objectives[0].sign
        self._perturbable = set(perturbable(space))
        self._first: list[Values] = list(map(dict, problem.enqueued))
        rng, tried = self._rng("first"), set(map(identity, self._first))
        while len(self._first) < config.population:
            draws = (space.sample(rng) for _ in range(_DRAWS))
            drawn = next((values for values in draws if identity(values) not in tried), None) or space.sample(rng)
            tried.add(identity(drawn))
            self._first.append(drawn)
        self._generations = math.ceil(problem.epochs / config.interval)
        self._ended = [0] * config.population
        self._running: dict[int, tuple[int, Suggestion]] = {}
        self._checkpoints: list[dict[int, _Checkpoint]] = [{} for _ in range(self._generations)]

    def ask(self, number: int) -> Suggestion | Answer:
        """Returns the next generation of the free member that has trained least."""
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
        """Records the end of a member's generation; a trial that a user has added belongs to no member."""
        if number not in self._running:
            return
        member, suggestion = self._running.pop(number)
        generation = self._ended[member]
        self._ended[member] += 1
        if result.whole and result.scores is not None and math.isfinite(result.scores[0]):
            assert suggestion.epochs is not None
            self._checkpoints[generation][member] = _Checkpoint(
                number, suggestion.values, result.scores[0] * self._sign, result.epoch or suggestion.epochs
            )

    def _next(self, member: int, generation: int) -> Suggestion:
        epochs = min((generation + 1) * self._config.interval, self._epochs)
        if generation == 0:
            return Suggestion(self._first[member], epochs)
        rng = self._rng(f"{member} {generation}")
        source = self._exploit(member, generation - 1, rng)
        if source is None:
            return Suggestion(self._space.sample(rng), epochs)
        unchanged = source is self._checkpoints[generation - 1].get(member)
        values = source.values if unchanged else self._explore(source.values, rng)
        return Suggestion(values, epochs, initial_epoch=source.epoch, parent=source.trial)

    def _exploit(self, member: int, generation: int, rng: random.Random) -> _Checkpoint | None:
        """Chooses what a member continues from that has ended a generation; None to start from scratch."""
        current = self._checkpoints[generation].get(member)
        for checkpoints in reversed(self._checkpoints[: generation + 1]):
            ranked = sorted(checkpoints.values(), key=lambda c: (-c.score, c.trial))
            count = min(math.ceil(len(ranked) * self._config.quantile), len(ranked) // 2)
            if current is not None:
                chosen = rng.choice(ranked[:count]) if current in ranked[len(ranked) - count :] else current
                return chosen if chosen.score > current.score else current
            if ranked:
                return rng.choice(ranked[: max(count, 1)])
        return None

    def _explore(self, values: Values, rng: random.Random) -> Values:
        """Returns a good member's values with those that can change perturbed or resampled."""
        changed, domains = dict(values), {}
        for hyperparameter in self._space.hyperparameters:
            name, domain = hyperparameter.name, hyperparameter.domain
            if name in values and name in self._perturbable:
                domains[name] = domain
                resample = rng.random() < self._config.resample
                changed[name] = domain.sample(rng) if resample else _perturb(values[name], domain, rng)
        if domains and identity(changed) == identity(values):
            # The same values on the same weights would train the same model twice.
            name = rng.choice(list(domains))
            changed[name] = _perturb(values[name], domains[name], rng)
        return changed

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self._config.seed} {purpose}")


def _perturb(value: Any, domain: Choice | Interval, rng: random.Random) -> Any:
    """Returns a number near another one, but never the same."""
    if isinstance(domain, Choice):
        options = sorted(domain.options)
        at = options.index(value)
        return rng.choice([options[i] for i in (at - 1, at + 1) if 0 <= i < len(options)])
    steps = [round(value * f) if domain.integer else value * f for f in _FACTORS]
    if domain.integer:
        steps = [min(steps[0], value - 1), max(steps[1], value + 1)]
    near = [clamped for clamped in map(domain.clamp, steps) if clamped != value]
    # 0 times any factor is 0.
    return rng.choice(near) if near else domain.sample(rng)


def spent(config: PBTSearch, trials: Mapping[int, Trial], outcomes: Mapping[int, Outcome]) -> set[int]:
    """Returns the trials that no other will continue from, so that their state need not be kept.

    Args:
        config: The population and its interval.
        trials: The sweep's trials, by number.
        outcomes: The outcomes of those that have ended.

    Returns:
        The ended trials of all generations before the last one that the whole population has ended, without those that
        a running trial continues from; and those that users have added, which belong to no generation.
    """
    ended: dict[int, list[int]] = {}
    added = {number for number in outcomes if trials[number].added_by}
    for number in outcomes.keys() - added:
        ended.setdefault(math.ceil(trials[number].epochs / config.interval), []).append(number)
    complete = [
        generation
        for generation, numbers in ended.items()
        if len(numbers) == config.population and any(outcomes[n].can_be_continued(trials[n]) for n in numbers)
    ]
    last = max(complete, default=0)
    needed = {trial.parent for number, trial in trials.items() if number not in outcomes}
    old = {number for generation, numbers in ended.items() if generation < last for number in numbers}
    return (old | added) - needed
