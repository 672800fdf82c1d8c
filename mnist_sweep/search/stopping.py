"""Rules that stop a trial before its last epoch, because its scores so far are hopeless.

Both rules keep scores so that larger is better, in one sorted list for each epoch at which they compare trials. So a
call takes microseconds, whatever the number of trials.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod

from mnist_sweep.common.text import counted
from mnist_sweep.config.objective import Objective


class Stopping(ABC):
    """Decides after each epoch of each trial whether to stop the trial.

    The sweep's loop calls it while the trial's worker waits, so it must answer at once. With the same calls in the same
    order it gives the same answers.
    """

    @abstractmethod
    def report(self, number: int, epoch: int, score: float) -> str:
        """Reports an epoch of a trial, and decides.

        Args:
            number: The trial.
            epoch: Counted from 1; each epoch of a trial is reported once, in order.
            score: The value of the objective.

        Returns:
            The reason to stop the trial; "" to let it continue.
        """


class ASHA(Stopping):
    """Asynchronous successive halving, its stopping variant (Li et al., 2020, https://arxiv.org/abs/1810.05934).

    The rungs are the epochs `min_epochs * factor**k` before the last one. A trial continues at a rung if its best score
    so far is among the best 1/factor (rounded up) of the best scores with which trials have reached this rung.

    The first `factor - 1` trials at a rung have too few others to be compared with. Those that continue are compared
    again after each further epoch, with their score at that rung, until `factor` trials have reached it. So a trial is
    not trained to its end only because it came first. (Optuna and Ray compare once.)
    """

    def __init__(self, objective: Objective, epochs: int, factor: int, min_epochs: int) -> None:
        """Sets the rungs.

        Args:
            objective: What to optimize.
            epochs: The last epoch of a trial, which is not a rung.
            factor: 2 or more.
            min_epochs: The first rung.
        """
        self._sign = objective.sign
        self._factor = factor
        self._rungs: dict[int, list[float]] = {}
        rung = min_epochs
        while rung < epochs:
            self._rungs[rung] = []
            rung *= factor
        self._best: dict[int, float] = {}
        self._unsettled: dict[int, dict[int, float]] = {}

    def report(self, number: int, epoch: int, score: float) -> str:
        """Compares a trial with others at a rung, and after it until enough trials have reached that rung."""
        best = self._best[number] = max(self._best.get(number, -math.inf), _finite(score * self._sign))
        at = self._unsettled.setdefault(number, {})
        if epoch in self._rungs:
            bisect.insort(self._rungs[epoch], best)
            at[epoch] = best
        for rung, then in list(at.items()):
            scores = self._rungs[rung]
            better = len(scores) - bisect.bisect_right(scores, then)
            if better >= math.ceil(len(scores) / self._factor) or then == -math.inf < scores[-1]:
                # A trial that was among the best at a rung may no longer be when others have reached it, too.
                since = "" if rung == epoch else f", which {len(scores)} trials have reached by now"
                return f"not among the best {_part(self._factor)} at epoch {rung}{since}"
            if len(scores) >= self._factor:
                del at[rung]
        return ""


class Median(Stopping):
    """The median stopping rule (Golovin et al., 2017, Google Vizier, https://doi.org/10.1145/3097983.3098043).

    A trial is stopped if its best score so far is worse than the median of the other trials' mean scores up to the same
    epoch. Trials that were stopped or failed before that epoch do not count.
    """

    def __init__(self, objective: Objective, epochs: int, min_trials: int, min_epochs: int) -> None:
        """Sets when trials can be stopped.

        Args:
            objective: What to optimize.
            epochs: The last epoch of a trial, at which none is stopped.
            min_trials: How many other trials must have reached an epoch before one is stopped there.
            min_epochs: The first epoch at which a trial can be stopped.
        """
        self._sign = objective.sign
        self._epochs, self._min_trials, self._min_epochs = epochs, min_trials, min_epochs
        self._best: dict[int, float] = {}
        self._sums: dict[int, tuple[float, int]] = {}
        self._means: dict[int, list[float]] = {}

    def report(self, number: int, epoch: int, score: float) -> str:
        """Compares a trial with those that have reached the epoch already."""
        value = _finite(score * self._sign)
        best = self._best[number] = max(self._best.get(number, -math.inf), value)
        total, count = self._sums.get(number, (0.0, 0))
        if value > -math.inf:
            total, count = self._sums[number] = total + value, count + 1
        means = self._means.setdefault(epoch, [])
        enough = len(means) >= self._min_trials and self._min_epochs <= epoch < self._epochs
        worse = enough and (best < _median(means) or best == -math.inf < means[-1])
        bisect.insort(means, total / count if count else -math.inf)
        return f"worse than the median of {counted(len(means) - 1, 'trial')} at epoch {epoch}" if worse else ""


def _finite(score: float) -> float:
    """Returns a score that can be sorted: NaN and infinite ones count as the worst."""
    return score if math.isfinite(score) else -math.inf


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _part(factor: int) -> str:
    return {2: "half", 3: "third", 4: "quarter"}.get(factor, f"1/{factor}")
