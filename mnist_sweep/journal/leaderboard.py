"""A sweep's trials as one ranked table. The terminal, MLflow, `compare` and the HTML report all lay out this table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mnist_sweep.common.text import counted, format_duration, format_value, one_line, short_names
from mnist_sweep.config.objective import SUMMARIES, Objective
from mnist_sweep.journal.ranking import Ranking, best_first, marked, others_of
from mnist_sweep.journal.trial import Outcome

# The most characters of a class's name in a line.
_LONGEST_NAME = 40
NOTHING = "–"
MARK = "●"
Kind = Literal[
    "rank", "trial", "parent", "hyperparameter", "score", "retrained", "best epoch", "parameters", "status", "time"
]


@dataclass(frozen=True)
class Row:
    """A trial of the search.

    Attributes:
        trial: Its number.
        rank: Its place from 1; None if it lacks an objective.
        on_front: Whether it is on the Pareto front; always False if there is only one objective.
        values: Its active hyperparameters.
        scores: A value for each objective; None where it is missing.
        spread: The standard deviation of its executions; None if there is only one.
        retrained: The mean of its scores on new seeds; None if it was not retrained.
        retrained_spread: Their standard deviation.
        parent: The trial from whose weights it continues.
        best_epoch: The epoch whose weights are kept.
        parameters: The number of the model's weights.
        seconds: From its start to its end; None while it runs.
        status: Its status.
        reason: Why it ended; empty if it trained to its last epoch.
    """

    trial: int
    rank: int | None
    on_front: bool
    values: Mapping[str, Any]
    scores: Sequence[float | None]
    spread: float | None = None
    retrained: float | None = None
    retrained_spread: float | None = None
    parent: int | None = None
    best_epoch: int | None = None
    parameters: int | None = None
    seconds: float | None = None
    status: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        kind: What it shows.
        heading: Its heading.
        values: A value for each row; None where it is missing.
        cells: The values as text.
        name: The full name of a hyperparameter or objective.
    """

    kind: Kind
    heading: str
    values: list[Any]
    cells: list[str] = field(default_factory=list)
    name: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """The trials of the search, usually the best first.

    Attributes:
        objectives: The sweep's objectives.
        hyperparameters: The full names of the hyperparameters to show.
        rows: The trials.
        title: `Leaderboard`, and how many of the trials it shows if not all.
    """

    objectives: Sequence[Objective]
    hyperparameters: Sequence[str]
    rows: Sequence[Row]
    title: str = "Leaderboard"

    def best(self, count: int) -> Leaderboard:
        """Returns the leaderboard of the best `count` trials. Trials without a rank are left out."""
        ranked = [row for row in self.rows if row.rank is not None]
        title = f"Leaderboard: the best {count} of {len(ranked)}" if len(ranked) > count else "Leaderboard"
        return replace(self, rows=ranked[:count], title=title)

    def columns(self) -> list[Column]:
        """Returns the columns that have a value; the trial's number is always one of them."""
        first, *others = self.objectives
        rows, short = self.rows, short_names(list(self.hyperparameters))
        columns = [
            _column("rank", "rank", [row.rank for row in rows]),
            Column("trial", "trial", [r.trial for r in rows], [f"{r.trial}{f' {MARK}' * r.on_front}" for r in rows]),
            _column("parent", "from", [row.parent for row in rows]),
            *(
                _column("hyperparameter", short[name], [row.values.get(name) for row in rows], format_value, name)
                for name in self.hyperparameters
            ),
            _scores("score", first.name, first, [(row.scores[0], row.spread) for row in rows]),
            _scores("retrained", "on new seeds", first, [(row.retrained, row.retrained_spread) for row in rows]),
            *(
                _scores("score", objective.name, objective, [(row.scores[place], None) for row in rows])
                for place, objective in enumerate(others, start=1)
            ),
            _column("best epoch", "best epoch", [row.best_epoch for row in rows]),
            _column("parameters", "parameters", [row.parameters for row in rows], _amount),
            _column("status", "status", [row.status for row in rows]),
            _column("time", "time", [row.seconds for row in rows], format_duration),
        ]
        if any(objective.name == "parameters" for objective in others):
            columns = [column for column in columns if column.kind != "parameters"]
        return [column for column in columns if column.kind == "trial" or any(v is not None for v in column.values)]


def _column(kind: Kind, heading: str, values: list[Any], text: Callable[[Any], str] = str, name: str = "") -> Column:
    return Column(kind, heading, values, [NOTHING if value is None else text(value) for value in values], name)


def _scores(
    kind: Kind, heading: str, objective: Objective, scores: Sequence[tuple[float | None, float | None]]
) -> Column:
    cells = [NOTHING if value is None else score_text(objective, value, spread) for value, spread in scores]
    return Column(kind, heading, [value for value, _ in scores], cells, objective.name)


def leaderboard(results: Ranking, hyperparameters: Sequence[str] = ()) -> Leaderboard:
    """Makes the leaderboard of a sweep.

    Args:
        results: The sweep's trials and their outcomes. Trials that retrain others are left out.
        hyperparameters: The full names of the hyperparameters to show.
    """
    objectives = results.objectives
    ended = {n: outcome for n, outcome in sorted(results.outcomes.items()) if results.trials[n].confirms is None}
    scores = {n: (outcome.score, *others_of(outcome, objectives)) for n, outcome in ended.items()}
    retrained = {row["trial"]: row for row in results.confirmed.candidates} if results.confirmed else {}
    front = marked(scores, objectives)
    order = best_first(scores, objectives, front, {n: row["mean"] for n, row in retrained.items()})
    rows = []
    for rank, number in enumerate(order, start=1):
        trial, outcome, again = results.trials[number], ended[number], retrained.get(number, {})
        rows.append(
            Row(
                trial=number,
                rank=None if None in scores[number] else rank,
                on_front=number in front,
                # None may be the value of an active hyperparameter.
                values={name: "None" if value is None else value for name, value in trial.values.items()},
                scores=scores[number],
                spread=_spread(outcome),
                retrained=again.get("mean"),
                retrained_spread=again.get("std"),
                parent=trial.parent,
                best_epoch=outcome.best_epoch,
                parameters=outcome.parameters,
                seconds=outcome.seconds,
                status=str(outcome.status),
                reason=outcome.reason,
            )
        )
    return Leaderboard(objectives, hyperparameters, rows)


def _spread(outcome: Outcome) -> float | None:
    return statistics.stdev(outcome.scores) if len(outcome.scores) > 1 else None


def score_text(objective: Objective, value: float, spread: float | None = None) -> str:
    """Formats a score for people.

    Args:
        objective: The objective.
        value: The score.
        spread: Its standard deviation, if it is a mean.

    Returns:
        `0.9512` or `0.9512 ± 0.0012`; for a number of parameters `31,702`.
    """
    text = _formatter(objective, value)
    return text(value) if spread is None else f"{text(value)} ± {text(spread)}"


def _formatter(objective: Objective, score: float) -> Callable[[float], str]:
    """How to format a score, and what is compared with it: four decimals if that suits its size."""
    fixed = objective.name not in SUMMARIES and (score == 0 or 1e-3 <= abs(score) < 1e5)
    return "{:.4f}".format if fixed else _amount


def _amount(value: float) -> str:
    """A value with commas if it is a whole number from a thousand on."""
    return f"{int(value):,}" if 1000 <= abs(value) < 1e15 and float(value).is_integer() else format_value(float(value))


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Formats metrics for people: `test_loss 0.1234, test_accuracy 0.9512`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def most_frequent_mistake(counts: Sequence[Sequence[int]], names: Sequence[str] = ()) -> str:
    """Returns which class was most often taken for which other one; empty if none was.

    Args:
        counts: The confusion matrix, a row for each true class, a column for each predicted class.
        names: The names of the classes; empty for their numbers.

    Example:
        `cat predicted as dog, 7 times`
    """
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    if not wrong:
        return ""
    n, *pair = max(wrong)
    true, predicted = (one_line(names[i], _LONGEST_NAME) if i < len(names) else str(i) for i in pair)
    return f"{true} predicted as {predicted}, {counted(n, 'time')}"


def verdict(results: Ranking) -> str:
    """Returns the winner's score, and how sure it is that it is the best; empty if no trial has a score."""
    winner, confirmed, objective = results.winner(), results.confirmed, results.objectives[0]
    if winner is None:
        return ""
    if confirmed is not None:
        return verdict_on(objective, confirmed.candidates, confirmed.p_value)
    outcome = results.outcomes[winner]
    score = NOTHING if outcome.score is None else score_text(objective, outcome.score, _spread(outcome))
    return f"{objective.name} {score}"


def verdict_on(objective: Objective, candidates: Sequence[Mapping[str, Any]], p_value: float | None) -> str:
    """Compares the best of the retrained trials with the second best.

    Args:
        objective: The sweep's first objective.
        candidates: The retrained trials, the best first, as in `Confirmed`.
        p_value: The p-value of the paired t-test between the first two, if there is one.

    Returns:
        For example `val_accuracy 0.9512 ± 0.0012 on 5 new seeds; 0.0021 better than trial 7 (paired t-test, p = 0.03)`.
    """
    best, *others = candidates
    seeds = len(best["scores"])
    mean = score_text(objective, best["mean"], best["std"])
    text = f"{objective.name} {mean} on {counted(seeds, 'new seed')}"
    if others:
        difference = _formatter(objective, best["mean"])(abs(best["mean"] - others[0]["mean"]))
        text += f"; {difference} better than trial {others[0]['trial']}"
        if p_value is not None:
            doubt = "" if p_value < 0.05 else ", not significant"
            text += f" (paired t-test, p = {p_value:.2g}{doubt})"
    return text
