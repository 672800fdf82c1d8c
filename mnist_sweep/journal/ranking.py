"""What a sweep has found so far: its trials' outcomes, their order, and who wins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import Confirmed
from mnist_sweep.journal.trial import Outcome, Status, Trial

# How many standard errors below the best a first execution has to be, and how many trials must tell that error.
_HOPELESS = 3.0
_TRIALS_WITH_SPREAD = 3


@dataclass
class Ranking:
    """What a sweep has found so far.

    Attributes:
        objectives: What is optimised.
        trials: Every trial that was started, by number.
        outcomes: The outcome of every trial that has ended.
        confirmed: What training the best anew has shown; None before that.
    """

    objectives: tuple[Objective, ...]
    trials: dict[int, Trial] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    confirmed: Confirmed | None = None

    def scores(self, number: int) -> tuple[float, ...] | None:
        """A trial's value for each objective; None where it lacks any."""
        return scores_of(self.outcomes[number], self.objectives)

    def ranked(self) -> list[int]:
        """The search's trials that have a score, the best first; of equal ones, the earlier first.

        With several objectives those of the Pareto set come first; within it and behind it the first objective tells.
        """
        scored = self._scored()
        sign = -self.objectives[0].sign
        front = set(pareto(scored, self.objectives)) if len(self.objectives) > 1 else set(scored)
        return sorted(scored, key=lambda n: (n not in front, sign * scored[n][0]))

    def pareto(self) -> list[int]:
        """The search's trials that no other is better than in every objective, by the first objective."""
        front = set(pareto(self._scored(), self.objectives))
        return [number for number in self.ranked() if number in front]

    def winner(self) -> int | None:
        """The best trial: by its new scores where the best were trained anew, else by its own."""
        if self.confirmed is not None:
            return self.confirmed.winner
        return next(iter(self.ranked()), None)

    def model(self) -> int | None:
        """The trial whose model is the sweep's: the winner, or the best of those that trained its setting anew."""
        return self.winner() if self.confirmed is None else self.confirmed.model

    def in_a_row(self, status: Status) -> list[Outcome]:
        """The last outcomes, in the order in which they came, that are all of this status.

        Args:
            status: Failed, which a refused trial between two failures does not change, or refused.
        """
        row: list[Outcome] = []
        for outcome in reversed(self.outcomes.values()):
            if outcome.status is status:
                row.append(outcome)
            elif outcome.status is not Status.REFUSED:
                break
        return row[::-1]

    def hopeless(self, first: float) -> bool:
        """Whether a trial's first execution is so bad that the others cannot make it the best.

        It is where the score lies more than three standard errors below the best mean. The error of one execution is
        that of the trials so far, pooled (Snedecor and Cochran, Statistical Methods, 8th ed., 6.3).

        Args:
            first: The first execution's score.
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
        """From each seed on which a trial's setting was trained anew to the trial that did it."""
        return {t.config["training"]["seed"]: n for n, t in self.trials.items() if t.confirms == number}

    def _scored(self) -> dict[int, tuple[float, ...]]:
        found = {n: self.scores(n) for n in sorted(self.outcomes) if self.trials[n].confirms is None}
        return {n: scores for n, scores in found.items() if scores is not None}


def scores_of(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """A trial's value for each objective, at its best epoch; None where it lacks any.

    Args:
        outcome: The trial's.
        objectives: What is optimised, that which tells the best epoch first.
    """
    if outcome.score is None:
        return None
    others = [outcome.metrics.get(objective.name) for objective in objectives[1:]]
    known = [value for value in others if value is not None]
    return (outcome.score, *known) if len(known) == len(others) else None


def pareto(scores: dict[int, tuple[float, ...]], objectives: Sequence[Objective]) -> list[int]:
    """The points that no other is at least as good as in every objective, and better in one.

    Args:
        scores: A value for each objective, by trial.
        objectives: Which way each is better.

    Returns:
        The trials, in the order of `scores`; of equal points all.
    """
    signs = [objective.sign for objective in objectives]
    points = {n: tuple(s * v for s, v in zip(signs, values, strict=True)) for n, values in scores.items()}
    front: list[tuple[float, ...]] = []
    for point in sorted(set(points.values()), reverse=True):
        # Sorted, only a point before another can be better than it, and only those on the front need be asked.
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) for other in front):
            front.append(point)
    on_front = set(front)
    return [n for n, point in points.items() if point in on_front]


def confirm(results: Ranking, candidates: Sequence[int], time: float) -> Confirmed | None:
    """Says which of the trials that were trained anew is the best.

    Args:
        results: With the outcomes of the new trainings.
        candidates: The trials that were trained anew, the best of the search first.
        time: Of the event, in seconds since 1970.

    Returns:
        Means and standard deviations over the seeds, the winner by its mean, and the p-value of a paired t-test between
        the first two over the seeds that both have; None where no new training has a score.
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
    anew = [n for n in results.confirmations(winner).values() if results.outcomes[n].score is not None]
    model = min(anew, key=lambda n: (sign * (results.outcomes[n].score or 0.0), n))
    return Confirmed(time, rows, winner, model, _p_value(rows))


def _p_value(rows: Sequence[dict[str, Any]]) -> float | None:
    if len(rows) < 2:
        return None
    first, second = rows[0]["scores"], rows[1]["scores"]
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    if len(pairs) < 2 or len({a - b for a, b in pairs}) == 1:
        # Without any spread of the differences the test says nothing.
        return None
    from scipy import stats

    return float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
