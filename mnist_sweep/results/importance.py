"""Which hyperparameters matter: their importance, what the best trials have in common, and their effects."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import counted, format_value
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import of_search
from mnist_sweep.results.runs.frames import searched

if TYPE_CHECKING:
    import optuna

TOP = 0.1
_FEWEST = 10
_FEWEST_TOP = 5
_RESAMPLES = 60
# 5 % of the resamples are below the interval, 5 % above it.
_INTERVAL = (0.05, 0.95)
# A number with at most so many values counts as a choice.
_CHOICES = 10
_GROUPS = 8
_TOLD = 3


def load(trials: int) -> None:
    """Imports what `importances` needs for this number of trials, which takes half a second."""
    if trials >= _FEWEST:
        importlib.import_module("optuna.importance")


def importances(
    frame: pd.DataFrame, objective: Objective | str, hyperparameters: Sequence[str] | None = None
) -> pd.DataFrame:
    """Returns how much each hyperparameter decides whether a trial is among the best.

    The method is PED-ANOVA in Optuna (Watanabe et al., IJCAI 2023, https://arxiv.org/abs/2304.10255; for conditional
    hyperparameters https://arxiv.org/abs/2601.20800): how far the distribution of a hyperparameter among the best 10 %,
    at least 5 trials, differs from its distribution among all trials. Numbers count by their ranks. fANOVA is not used
    because it explains every score, and the score of a trial that was stopped early is not the one it would have
    reached. On the curves of `benchmarks/search_quality`, 100 random trials missed the importances over all trials by
    0.02 to 0.03 with fANOVA and by 0.04 to 0.07 with PED-ANOVA; stopped by `asha`, by 0.09 to 0.11 and by 0.06 to 0.08.
    So all trials with a score count, including stopped ones. Failed and refused trials, and those that retrain others,
    do not count.

    Args:
        frame: As `load_runs` gives it, of runs on the same data.
        objective: What to optimize, or its name: `val_accuracy`, or with a direction `accuracy max`.
        hyperparameters: Their names without `params.`; None for those that were searched.

    Returns:
        A row per hyperparameter, the most important first: `hyperparameter`, `importance` (they add up to 1), and `low`
        and `high`, the 90 % interval of 60 resamples with replacement (percentile bootstrap): how far other trials of
        the same search might move it. If intervals overlap, the order is uncertain. With fewer than 10 trials with a
        score, or fewer than two hyperparameters, there are no rows, and `attrs["why"]` says why.

    Raises:
        UserError: The runs are on different data, or the hyperparameter does not exist.
    """
    objective, scored, names = _read(frame, objective, hyperparameters)
    why = _too_few(scored, names, fewest_names=2)
    if why:
        return _nothing(["hyperparameter", "importance", "low", "high"], why)
    sign = objective.sign
    trials = _trials(scored, names, sign * scored[_score(objective)])
    point = _ped_anova(trials, names)
    draws = np.random.default_rng(0)
    drawn = [
        _ped_anova([trials[i] for i in draws.integers(len(trials), size=len(trials))], names) for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile([*drawn, point], _INTERVAL, axis=0)
    # With few trials, all resamples may be on one side.
    low, high = np.minimum(low, point), np.maximum(high, point)
    found = pd.DataFrame({"hyperparameter": names, "importance": point, "low": low, "high": high})
    found["hyperparameter"] = found["hyperparameter"].astype("string")
    return found.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def top_share(
    frame: pd.DataFrame,
    objective: Objective | str,
    share: float = TOP,
    hyperparameters: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Returns what the best trials have in common.

    Args:
        frame: As for `importances`.
        objective: As for `importances`.
        share: The share of the trials with a score that counts as the best, at least 5 trials.
        hyperparameters: As for `importances`.

    Returns:
        A row per hyperparameter, the most surprising first: `hyperparameter`; `top` and `all`, its values among the
        best and among all, as text: the range of many numbers, `0.002 … 0.01`, or the counts of a few values, `adam ×9,
        sgd ×1`; and `p`, how likely that is for random trials. For many numbers, `p` is from a two-sample
        Kolmogorov-Smirnov test; otherwise it is the hypergeometric probability of the most surprising value's count or
        more, times the number of values. It is not corrected for the number of hyperparameters. Trials in which a
        hyperparameter is inactive do not count for it. `attrs["top"]` and `attrs["all"]` are the numbers of trials.
        Without rows, `attrs["why"]` says why, as for `importances`.

    Raises:
        UserError: As for `importances`.
    """
    objective, scored, names = _read(frame, objective, hyperparameters)
    count = max(math.ceil(share * len(scored)), _FEWEST_TOP)
    why = _too_few(scored, names, fewest_names=1)
    if why:
        return _nothing(["hyperparameter", "top", "all", "p"], why)
    order = scored[_score(objective)].sort_values(ascending=not objective.maximize, kind="stable").index
    best, rest = order[:count], order[count:]
    rows = [(name, *_in_common(scored[f"params.{name}"], best, rest)) for name in names]
    found = pd.DataFrame(rows, columns=["hyperparameter", "top", "all", "p"])
    found = found.sort_values("p", kind="stable", ignore_index=True, na_position="last")
    found.attrs |= {"top": len(best), "all": len(scored)}
    return found


def _in_common(values: pd.Series[Any], best: pd.Index[Any], rest: pd.Index[Any]) -> tuple[str, str, float]:
    from scipy import stats

    values = values.dropna()
    top, others = values[values.index.isin(best)], values[values.index.isin(rest)]
    if top.empty:
        return "inactive", "inactive" if values.empty else _told(values, values), math.nan
    if _is_scale(values):
        p = stats.ks_2samp(top.astype(float), others.astype(float)).pvalue if len(others) else math.nan
    else:
        have, all_have = top.value_counts(), values.value_counts()
        chances = stats.hypergeom.sf(have - 1, len(values), all_have.reindex(have.index), len(top))
        p = min(1.0, float(chances.min()) * len(all_have))
    return _told(top, values), _told(values, values), float(p)


def _told(some: pd.Series[Any], values: pd.Series[Any]) -> str:
    """Some of a hyperparameter's values as text."""
    if _is_scale(values):
        low, high = some.min(), some.max()
        return format_value(low) if low == high else f"{format_value(low)} … {format_value(high)}"
    counts = some.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    words = [f"{format_value(value)} ×{count}" for value, count in counts.head(_TOLD).items()]
    return ", ".join(words) + (" …" if len(counts) > _TOLD else "")


def marginal(frame: pd.DataFrame, objective: Objective | str, hyperparameter: str) -> pd.DataFrame:
    """Returns the mean score of the trials by one hyperparameter.

    The means are over the trials of the sweep, without a model. So they also contain the effects of other
    hyperparameters, and of a search that tries more trials in good regions. Trials that were stopped early count with
    their last score.

    Args:
        frame: As for `importances`.
        objective: As for `importances`.
        hyperparameter: Without `params.`.

    Returns:
        A row per value, sorted by value. With more than 10 different numbers, a row for each of up to 8 groups of
        neighbours of about the same size, at least 5. The columns are `value` (a group's median), `mean`, `low` and
        `high`, the 90 % confidence interval of the mean (Student's t; NaN for a single trial), and `count`. Trials in
        which the hyperparameter is inactive are left out.

    Raises:
        UserError: As for `importances`.
    """
    from scipy import stats

    objective, scored, _ = _read(frame, objective, [hyperparameter])
    column = f"params.{hyperparameter}"
    scored = scored[scored[column].notna()]
    values, scores = scored[column], scored[_score(objective)].astype(float)
    groups: Any = values
    if _is_scale(values):
        groups = pd.qcut(values.astype(float), max(1, min(_GROUPS, len(values) // 5)), duplicates="drop", labels=False)
        values = values.astype(float).groupby(groups).transform("median")
    by_value = scores.groupby(values)
    found = by_value.agg(["mean", "sem", "count"]).rename_axis("value").reset_index()
    half = found["sem"] * stats.t.ppf(_INTERVAL[1], found["count"].clip(lower=2) - 1)
    found["low"], found["high"] = found["mean"] - half, found["mean"] + half
    return found[["value", "mean", "low", "high", "count"]]


def _too_few(scored: pd.DataFrame, names: Sequence[str], fewest_names: int) -> str:
    """Why there are too few trials or hyperparameters; empty if there are enough."""
    if len(scored) < _FEWEST:
        trials = f"{counted(len(scored), 'trial')} {'has' if len(scored) == 1 else 'have'} a score"
        return f"{trials}; at least {_FEWEST} are needed"
    if len(names) < fewest_names:
        return f"the trials differ in {'only one hyperparameter' if names else 'no hyperparameter'}"
    return ""


def _nothing(columns: Sequence[str], why: str) -> pd.DataFrame:
    texts = ("hyperparameter", "top", "all")
    empty = pd.DataFrame({name: pd.Series(dtype="string" if name in texts else "float64") for name in columns})
    empty.attrs["why"] = why
    return empty


def _score(objective: Objective) -> str:
    return f"metrics.best_{objective.name}"


def _read(
    frame: pd.DataFrame, objective: Objective | str, hyperparameters: Sequence[str] | None
) -> tuple[Objective, pd.DataFrame, list[str]]:
    """The objective, the trials of the search that have a score, and the hyperparameters in which the trials differ."""
    if isinstance(objective, str):
        objective = Objective.parse(objective)
    if frame["data.digest"].nunique() > 1:
        raise UserError("importances: the runs are on different data, so their scores cannot be compared")
    search, column = of_search(frame), _score(objective)
    scored = search[search[column].notna()] if column in search else search.iloc[:0]
    names = searched(search) if hyperparameters is None else _chosen(search, hyperparameters)
    # The resamples are the same however the user has sorted the trials.
    return objective, scored.sort_values(["sweep", "trial"], kind="stable"), names


def _chosen(search: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    known = [column.removeprefix("params.") for column in search.columns if column.startswith("params.")]
    for name in wanted:
        if name not in known:
            raise UserError(f"{name}: no such hyperparameter{did_you_mean(name, known)}")
    return [name for name in wanted if search[f"params.{name}"].nunique(dropna=False) > 1]


def _is_scale(values: pd.Series[Any]) -> bool:
    """Whether a hyperparameter is a number with many values."""
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return numbers and values.nunique() > _CHOICES


def _trials(scored: pd.DataFrame, names: Sequence[str], goodness: pd.Series[Any]) -> list[optuna.trial.FrozenTrial]:
    """The rows as Optuna's trials. Numbers become ranks, so their scale does not matter."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.trial import FrozenTrial, TrialState

    columns: dict[str, list[Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name in names:
        values = scored[f"params.{name}"]
        if _is_scale(values):
            values = values.rank(pct=True)
            distributions[name] = FloatDistribution(0, 1)
        else:
            distributions[name] = CategoricalDistribution(sorted(values.dropna().unique().tolist()))
        columns[name] = values.tolist()
    trials = []
    for number, value in enumerate(goodness.tolist()):
        active = [name for name in names if not pd.isna(columns[name][number])]
        trials.append(
            FrozenTrial(
                number,
                TrialState.COMPLETE,
                value,
                datetime_start=None,
                datetime_complete=None,
                params={name: columns[name][number] for name in active},
                distributions={name: distributions[name] for name in active},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=number,
            )
        )
    return trials


def _ped_anova(trials: Sequence[optuna.trial.FrozenTrial], names: Sequence[str]) -> list[float]:
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    share = max(TOP, min(0.5, _FEWEST_TOP / len(trials)))
    present = [name for name in names if any(name in trial.params for trial in trials)]
    with warnings.catch_warnings():
        # Optuna warns if a hyperparameter is active in only one trial.
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
        found = get_param_importances(_study(trials), evaluator=evaluator, params=present)
    return [float(found.get(name, 0.0)) for name in names]


def _study(trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    """A study of these trials, possibly with repetitions. Adding them to a stored study takes ten times as long."""
    import optuna

    class Given(optuna.Study):
        directions = [optuna.study.StudyDirection.MAXIMIZE]  # noqa: RUF012

        def __init__(self) -> None:
            """Skips the storage."""

        def get_trials(self, deepcopy: bool = True, states: object = None) -> list[optuna.trial.FrozenTrial]:
            return list(trials)

    return Given()
