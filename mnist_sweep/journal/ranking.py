"""The trials of a sweep and their outcomes: which one is the best, and which ones are hopeless."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import Confirmed
from mnist_sweep.journal.trial import Outcome, Status, Trial

# How many standard errors below the best a first execution is hopeless, and how many trials it takes to know the error.
_HOPELESS = 3.0
_TRIALS_WITH_SPREAD = 3
_Key = TypeVar("_Key", bound=Hashable)


@dataclass
class Ranking:
    """The trials of a sweep so far, and what came out of them.

    Attributes:
        objectives: The sweep's objectives.
        trials: Every trial that has started, by number.
        outcomes: The outcome of every trial that has ended, by number; `end` and `reopen` change it.
        confirmed: The result of retraining the best trials on new seeds; None before that.
    """

    objectives: tuple[Objective, ...]
    trials: dict[int, Trial] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    confirmed: Confirmed | None = None
    # The best trial by one objective, and whether it must be looked for among all.
    _best: int | None = field(default=None, init=False, repr=False, compare=False)
    _lost: bool = field(default=False, init=False, repr=False, compare=False)

    def end(self, number: int, outcome: Outcome) -> None:
        """Takes the outcome of a trial that has started."""
        self.outcomes[number] = outcome
        if not self._lost:
            self._compare(number)

    def reopen(self, number: int) -> None:
        """Forgets the outcome of a trial, which is trained again."""
        del self.outcomes[number]
        self._lost = self._lost or number == self._best

    def _compare(self, number: int) -> None:
        """Replaces the best trial if this one is better, or as good and earlier."""
        score, best = self.outcomes[number].score, self._best
        if len(self.objectives) != 1 or score is None or self.trials[number].confirms is not None:
            return
        if best is not None:
            sign, highest = self.objectives[0].sign, self.outcomes[best].score
            assert highest is not None
            if (-sign * score, number) >= (-sign * highest, best):
                return
        self._best = number

    def scores(self, number: int) -> tuple[float, ...] | None:
        """Returns a trial's value for each objective; None if one is missing."""
        return scores_of(self.outcomes[number], self.objectives)

    def ranked(self) -> list[int]:
        """Returns the search's trials that have a score, the best first; ties are in the order of their numbers.

        With several objectives, the trials on the Pareto front come first, and the first objective orders the rest.
        """
        scored = self._scored()
        return best_first(scored, self.objectives, marked(scored, self.objectives))

    def pareto(self) -> list[int]:
        """Returns the trials on the Pareto front, the best in the first objective first."""
        front = set(pareto(self._scored(), self.objectives))
        return [number for number in self.ranked() if number in front]

    def winner(self) -> int | None:
        """Returns the best trial: by scores on new seeds if the best were retrained, else by the search's scores."""
        if self.confirmed is not None:
            return self.confirmed.winner
        if len(self.objectives) > 1:
            return next(iter(self.ranked()), None)
        if self._lost:
            self._best, self._lost = None, False
            for number in self.outcomes:
                self._compare(number)
        return self._best

    def model(self) -> int | None:
        """Returns the trial whose model is the sweep's: the winner, or the best of the trials that retrained it."""
        return self.winner() if self.confirmed is None else self.confirmed.model

    def in_a_row(self, status: Status) -> dict[int, Outcome]:
        """Returns the latest outcomes up to the first with another status, by trial, in the order in which they came.

        Args:
            status: Failed or refused. A refused trial between two failed ones does not interrupt them.
        """
        row: dict[int, Outcome] = {}
        for number, outcome in reversed(self.outcomes.items()):
            if outcome.status is status:
                row[number] = outcome
            elif outcome.status is not Status.REFUSED:
                break
        return dict(reversed(row.items()))

    def hopeless(self, first: float) -> bool:
        """Returns whether a trial's first execution is so bad that the others cannot make it the best.

        That is a score more than three standard errors below the best mean. The error of one execution is pooled over
        the trials so far (Snedecor and Cochran, Statistical Methods, 8th ed., 6.3).

        Args:
            first: The score of the first execution.
        """
        spreads = [o.scores for o in self.outcomes.values() if len(o.scores) > 1]
        means = [o.score for o in self.outcomes.values() if o.score is not None and len(o.scores) > 1]
        if len(spreads) < _TRIALS_WITH_SPREAD:
            return False
        freedom = sum(len(scores) - 1 for scores in spreads)
        error = math.sqrt(sum(statistics.variance(scores) * (len(scores) - 1) for scores in spreads) / freedom)
        sign = self.objectives[0].sign
        best = max(sign * mean for mean in means)
        margin = _HOPELESS * error * math.sqrt(1 + 1 / max(len(scores) for scores in spreads))
        return best - sign * first > margin

    def confirmations(self, number: int) -> dict[int, int]:
        """Returns the trials that retrain a trial, by their seed."""
        return {t.config["training"]["seed"]: n for n, t in self.trials.items() if t.confirms == number}

    def _scored(self) -> dict[int, tuple[float, ...]]:
        found = {n: self.scores(n) for n in sorted(self.outcomes) if self.trials[n].confirms is None}
        return {n: scores for n, scores in found.items() if scores is not None}


def scores_of(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """Returns a trial's value for each objective at its best epoch; None if one is missing.

    Args:
        outcome: The trial's outcome.
        objectives: The sweep's objectives; the first one decides which epoch is the best.
    """
    if outcome.score is None:
        return None
    others = others_of(outcome, objectives)
    known = [value for value in others if value is not None]
    return (outcome.score, *known) if len(known) == len(others) else None


def others_of(outcome: Outcome, objectives: Sequence[Objective]) -> list[float | None]:
    """Returns a trial's values of the objectives after the first; None for one that is missing, NaN or infinite."""
    values = [outcome.metrics.get(objective.name) for objective in objectives[1:]]
    return [value if value is not None and math.isfinite(value) else None for value in values]


def best_first(
    scores: Mapping[_Key, Sequence[float | None]],
    objectives: Sequence[Objective],
    front: Collection[_Key] = (),
    retrained: Mapping[_Key, float] | None = None,
) -> list[_Key]:
    """Sorts trials from the best to the worst. Every table and plot of trials is in this order.

    Args:
        scores: A value for each objective, by trial; None where it is missing.
        objectives: The sweep's objectives.
        front: The trials on the Pareto front, if there are several objectives.
        retrained: The mean score on new seeds of the trials that were retrained.

    Returns:
        First the retrained trials by their new mean, then the Pareto front, then the other trials, both by the first
        objective. Trials that lack an objective come last, by those that they have. Ties keep the order of `scores`.
    """
    new = retrained or {}

    def key(trial: _Key) -> tuple[Any, ...]:
        values = scores[trial]
        whole = None not in values
        own = [_key(*pair) for pair in zip(objectives, values[:1] if whole else values, strict=False)]
        return (_key(objectives[0], new.get(trial)), trial not in front, not whole, *own)

    return sorted(scores, key=key)


def _key(objective: Objective, value: float | None) -> tuple[bool, float]:
    return (True, 0.0) if value is None else (False, -objective.sign * value)


def marked(scores: Mapping[_Key, Sequence[float | None]], objectives: Sequence[Objective]) -> set[_Key]:
    """Returns the trials to mark as being on the Pareto front; none if there is only one objective.

    Args:
        scores: A value for each objective, by trial. Trials that lack one are never on the front.
        objectives: The sweep's objectives.
    """
    if len(objectives) < 2:
        return set()
    whole = {n: tuple(v for v in values if v is not None) for n, values in scores.items() if None not in values}
    return set(pareto(whole, objectives))


def pareto(scores: Mapping[_Key, tuple[float, ...]], objectives: Sequence[Objective]) -> list[_Key]:
    """Returns the Pareto front: the trials that no other trial beats.

    A trial beats another one if it is at least as good in every objective and better in one.

    Args:
        scores: A value for each objective, by trial.
        objectives: Which way each objective is better.

    Returns:
        The trials, in the order of `scores`; all of those that are equal.
    """
    signs = [objective.sign for objective in objectives]
    points = {n: tuple(s * v for s, v in zip(signs, values, strict=True)) for n, values in scores.items()}
    front: list[tuple[float, ...]] = []
    for point in sorted(set(points.values()), reverse=True):
        # In this order, only an earlier point can beat a later one, and only those on the front need checking.
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) for other in front):
            front.append(point)
    on_front = set(front)
    return [n for n, point in points.items() if point in on_front]


def confirm(results: Ranking, candidates: Sequence[int], time: float) -> Confirmed | None:
    """Decides which of the retrained trials is the best.

    Args:
        results: The sweep's trials, including those that retrain others.
        candidates: The trials that were retrained, the best of the search first.
        time: The time of the event, in seconds since 1970.

    Returns:
        Means and standard deviations over the seeds, the winner by its mean, and the p-value of a paired t-test between
        the first two over the seeds that both have; None if no retraining has a score.
    """
    objective = results.objectives[0]
    sign = -objective.sign
    rows: list[dict[str, Any]] = []
    for number in candidates:
        scores = {
            seed: results.outcomes[n].score
            for seed, n in sorted(results.confirmations(number).items())
            if n in results.outcomes and results.outcomes[n].score is not None
        }
        if scores:
            values = [score for score in scores.values() if score is not None]
            std = statistics.stdev(values) if len(values) > 1 else 0.0
            row = {"trial": number, "scores": {str(s): v for s, v in scores.items()}}
            rows.append({**row, "mean": statistics.fmean(values), "std": std})
    if not rows:
        return None
    rows.sort(key=lambda row: sign * row["mean"])
    winner = rows[0]["trial"]
    retrained = [n for n in results.confirmations(winner).values() if results.outcomes[n].score is not None]
    model = min(retrained, key=lambda n: (sign * (results.outcomes[n].score or 0.0), n))
    return Confirmed(time, rows, winner, model, _p_value(rows))


def _p_value(rows: Sequence[dict[str, Any]]) -> float | None:
    if len(rows) < 2:
        return None
    first, second = rows[0]["scores"], rows[1]["scores"]
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    if len(pairs) < 2 or len({a - b for a, b in pairs}) == 1:
        # The test needs differences that vary.
        return None
    from scipy import stats

    return float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
