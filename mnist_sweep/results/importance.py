"""Which hyperparameters matter: importance, what the best have in common, and the effect of each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnist_sweep.errors import UserError, did_you_mean
from mnist_sweep.results.runs import searched
from mnist_sweep.settings import Objective

if TYPE_CHECKING:
    import optuna

TOP = 0.1
_FEWEST = 10
_FEWEST_TOP = 5
_RESAMPLES = 60
# 5 % of the resamples lie below an interval, 5 % above it.
_INTERVAL = (0.05, 0.95)
# Numbers of which there are no more than this are taken as the choices of a list.
_CHOICES = 10


def importances(
    frame: pd.DataFrame, objective: Objective, hyperparameters: Sequence[str] | None = None
) -> pd.DataFrame:
    """How much each hyperparameter has to do with a trial's being among the best.

    PED-ANOVA (Watanabe et al., IJCAI 2023, https://arxiv.org/abs/2304.10255; for conditional hyperparameters
    https://arxiv.org/abs/2601.20800), as Optuna has it: how far the distribution of a hyperparameter among the best
    10 %, but at least 5 trials, differs from its distribution among all. Not fANOVA, because that explains every score,
    and the score of a trial that was stopped early is not what it would have reached: on recorded curves, stopping as
    `asha` does moved fANOVA's shares four times as far as drawing 100 of 432 trials did, and PED-ANOVA's no further,
    since a trial that was stopped early would seldom have been among the best. So all trials with a score count here,
    stopped ones too; those that failed or were refused, and those that train others' settings anew, do not.

    Args:
        frame: As `load_runs` gives it, of runs on the same data.
        objective: What is good.
        hyperparameters: Without `params.`; None for all in which the trials differ.

    Returns:
        A row per hyperparameter, the most important first: `hyperparameter`, `importance` (they add up to 1), and `low`
        and `high`, within which 90 % of the importances lie when the trials are drawn anew with replacement 60 times
        (percentile bootstrap): what may change with other trials of the same search. An interval that reaches down to
        nearly 0 says that nothing is known. With fewer than 10 trials that have a score, or fewer than two
        hyperparameters, there is no row, and `attrs["why"]` says why.

    Raises:
        UserError: The runs are on different data, or there is no such hyperparameter.
    """
    scored, names = _scored(frame, objective), _names(frame, hyperparameters)
    why = too_few(scored, names)
    if why:
        empty = pd.DataFrame({"hyperparameter": pd.Series(dtype="string")})
        empty[["importance", "low", "high"]] = pd.DataFrame(dtype="float64", columns=["importance", "low", "high"])
        empty.attrs["why"] = why
        return empty
    sign = 1 if objective.direction == "max" else -1
    trials = _trials(scored, names, sign * scored[_score(objective)])
    point = _ped_anova(trials, names)
    draws = np.random.default_rng(0)
    drawn = [
        _ped_anova([trials[i] for i in draws.integers(len(trials), size=len(trials))], names) for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, _INTERVAL, axis=0)
    found = pd.DataFrame({"hyperparameter": names, "importance": point, "low": low, "high": high})
    found["hyperparameter"] = found["hyperparameter"].astype("string")
    return found.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def too_few(scored: pd.DataFrame, names: Sequence[str]) -> str:
    """Why there are no importances; an empty text where there are."""
    if len(scored) < _FEWEST:
        return f"{len(scored)} trials have a score, and fewer than {_FEWEST} tell nothing"
    if len(names) < 2:
        return f"the trials differ in {names[0] if names else 'no hyperparameter'} only"
    return ""


def _score(objective: Objective) -> str:
    return f"metrics.best_{objective.name}"


def _scored(frame: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """The search's own trials that have a score."""
    if frame["data.digest"].nunique() > 1:
        raise UserError("importances: the runs are on different data, and their scores cannot be compared")
    column = _score(objective)
    if column not in frame:
        return frame.iloc[:0]
    return frame[frame["confirms"].isna() & frame[column].notna()]


def _names(frame: pd.DataFrame, wanted: Sequence[str] | None) -> list[str]:
    varied = [column.removeprefix("params.") for column in searched(frame[frame["confirms"].isna()])]
    if wanted is None:
        return varied
    known = [column.removeprefix("params.") for column in frame.columns if column.startswith("params.")]
    for name in wanted:
        if name not in known:
            raise UserError(f"{name}: there is no such hyperparameter{did_you_mean(name, known)}")
    return [name for name in wanted if name in varied]


def _is_numeric(values: pd.Series[Any]) -> bool:
    """Whether a hyperparameter's values are many numbers, rather than a few choices."""
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return numbers and values.nunique() > _CHOICES


def _trials(scored: pd.DataFrame, names: Sequence[str], goodness: pd.Series[Any]) -> list[optuna.trial.FrozenTrial]:
    """The rows as Optuna's trials; numbers as their ranks, so that no one need know on which scale they were drawn."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial

    columns: dict[str, list[Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name in names:
        values = scored[f"params.{name}"]
        if _is_numeric(values):
            values = values.rank(pct=True)
            distributions[name] = FloatDistribution(0, 1)
        else:
            distributions[name] = CategoricalDistribution(sorted(values.dropna().unique().tolist()))
        columns[name] = values.tolist()
    trials = []
    for i, value in enumerate(goodness.tolist()):
        active = [name for name in names if columns[name][i] is not pd.NA]
        params = {name: columns[name][i] for name in active}
        trials.append(
            create_trial(value=value, params=params, distributions={name: distributions[name] for name in active})
        )
    return trials


def _ped_anova(trials: Sequence[optuna.trial.FrozenTrial], names: Sequence[str]) -> list[float]:
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    share = max(TOP, min(0.5, _FEWEST_TOP / len(trials)))
    present = [name for name in names if any(name in trial.params for trial in trials)]
    with warnings.catch_warnings():
        # That a hyperparameter is active in one trial only.
        warnings.simplefilter("ignore")
        found = get_param_importances(
            _study(trials),
            evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
            params=present,
        )
    return [float(found.get(name, 0.0)) for name in names]


def _study(trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    """A study of these trials, some of which may be there several times; adding them to one takes ten times as long."""
    import optuna

    copies = [
        optuna.trial.FrozenTrial(
            number=number,
            state=trial.state,
            value=trial.value,
            datetime_start=None,
            datetime_complete=None,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=number,
        )
        for number, trial in enumerate(trials)
    ]

    class Given(optuna.Study):
        directions = [optuna.study.StudyDirection.MAXIMIZE]  # noqa: RUF012

        def __init__(self) -> None:
            """Has no storage."""

        def get_trials(self, deepcopy: bool = True, states: object = None) -> list[optuna.trial.FrozenTrial]:
            return copies

    return Given()
