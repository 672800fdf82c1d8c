"""The algorithms to compare, as players of the pool: this program's, the stock ones of keras-tuner, and Optuna's."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.search_quality import pool
from benchmarks.search_quality.curves import KERAS, OURS, Curves
from benchmarks.search_quality.keras_fit import composed
from benchmarks.search_quality.peers import PRUNERS
from benchmarks.search_quality.pool import Job, Player
from mnist_sweep.common.light_keras import load
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.search import Answer, Result, choose, compatibility

_OBJECTIVE = "val_accuracy"
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Entry:
    """An algorithm in the comparison.

    Attributes:
        name: As the tables show it.
        family: `mnist_sweep`, `keras-tuner`, `Optuna` or `bound`; `at_our_speed` of one of the others.
        create: Builds it from the curves and a seed, from 1.
        repeats: Multiplies the number of seeds: random draws spread widely and cost nothing.
        trainer: Whose seconds its trials take (`curves.TRAINERS`).
    """

    name: str
    family: str
    create: Callable[[Curves, int], Player]
    repeats: float = 1.0
    trainer: str = OURS


# ---- ours -------------------------------------------------------------------------------------------------------


@functools.lru_cache
def _composed(overrides: tuple[str, ...]) -> tuple[Settings, Space]:
    return composed(list(overrides))


class Ours(Player):
    """A search of this program and its stopping rule, as in a sweep's loop."""

    def __init__(self, curves: Curves, seed: int, overrides: Sequence[str]) -> None:
        """Builds it from overrides of the config, such as `search=asha` and `search.factor=3`."""
        kind = "cnn" if any("filters" in sweep for sweep in curves.space) else "mlp"
        settings, space = _composed(
            (f"model={kind}", *curves.space, f"training.epochs={curves.epochs}", *overrides, f"search.seed={seed}")
        )
        compatibility.check(settings, space)
        self._curves, self._search = curves, choose.create_search(settings, space)
        self._stopping = choose.create_stopping(settings)

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """Returns the next job; a trial that continues a parent starts after the parent's last epoch."""
        answer = self._search.ask(number)
        if isinstance(answer, Answer):
            return pool.Answer.PAUSE if answer is Answer.PAUSE else pool.Answer.FINISHED
        return Job(self._curves.row(answer.values), answer.epochs or self._curves.epochs, answer.initial_epoch)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Asks the stopping rule."""
        return self._stopping is not None and bool(self._stopping.report(number, epoch, accuracy))

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Tells the search."""
        self._search.tell(number, Result(None if accuracy is None else (accuracy,), epoch, cut))


# ---- keras-tuner ------------------------------------------------------------------------------------------------


class KerasTuner(Player):
    """A stock oracle of keras-tuner, used as its own Tuner does, with a tuner id for each worker."""

    def __init__(self, curves: Curves, seed: int, oracle: str, **arguments: Any) -> None:
        """Builds an oracle of `keras_tuner.oracles` with its own arguments; the seed is not 0, which means none."""
        kt = load("keras_tuner")
        space = kt.HyperParameters()
        for name, options in curves.options().items():
            space.Choice(name, options)
        # Its random numbers come from seed, seed + 1 and so on: neighboring seeds would draw the same values.
        self._oracle = getattr(kt.oracles, oracle)(
            objective=kt.Objective(_OBJECTIVE, "max"), hyperparameters=space, seed=seed * 100_003, **arguments
        )
        self._oracle.verbose = 0
        # It writes files in every call, whose time does not count; they go to a disk in memory if there is one.
        self._folder = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
        self._oracle._set_project_dir(self._folder.name, "oracle")
        self._curves = curves
        self._trials: dict[int, Any] = {}

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """Returns the next job; in Hyperband's later rounds, it continues the trial of the round before."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._oracle.create_trial(f"tuner{slot}")
        if trial.status == "IDLE":
            return pool.Answer.PAUSE
        if trial.status != "RUNNING":
            return pool.Answer.FINISHED
        self._trials[number] = trial
        values = trial.hyperparameters.values
        row = self._curves.row({name: values[name] for name in self._curves.options()})
        return Job(row, values.get("tuner/epochs", self._curves.epochs), values.get("tuner/initial_epoch", 0))

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Tells the oracle the best epoch, as the Tuner does at the end of a trial."""
        trial = self._trials[number]
        if accuracy is not None:
            self._oracle.update_trial(trial.trial_id, {_OBJECTIVE: accuracy}, step=epoch)
        trial.status = "FAILED" if accuracy is None else "COMPLETED"
        self._oracle.end_trial(trial)


# ---- Optuna -----------------------------------------------------------------------------------------------------


class Optuna(Player):
    """An Optuna study: its TPE sampler with its defaults, and a pruner."""

    side_by_side: ClassVar[bool] = True

    def __init__(self, curves: Curves, seed: int, pruner: Callable[[Any, int], Any]) -> None:
        """Creates the study; `pruner` builds the pruner from Optuna's `pruners` and the number of epochs."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            pruner=pruner(optuna.pruners, curves.epochs),
        )
        self._curves = curves
        self._trials: dict[int, Any] = {}

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """Returns the next job: integers from a range, everything else from a list, as Optuna's users write them."""
        trial = self._trials[number] = self._study.ask()
        values = {}
        for name, options in self._curves.options().items():
            if all(isinstance(o, int) for o in options) and options == list(range(options[0], options[-1] + 1)):
                values[name] = trial.suggest_int(name, options[0], options[-1])
            else:
                values[name] = trial.suggest_categorical(name, options)
        return Job(self._curves.row(values), self._curves.epochs)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Asks the pruner."""
        self._trials[number].report(accuracy, epoch)
        return bool(self._trials[number].should_prune())

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Tells the study."""
        if accuracy is None or cut:
            self._study.tell(self._trials[number], state=self._states.FAIL if accuracy is None else self._states.PRUNED)
        else:
            self._study.tell(self._trials[number], accuracy)


# ---- the bound ------------------------------------------------------------------------------------


class PerfectStopping(Player):
    """Random draws without repetition; every trial that will not reach the target stops after its first epoch.

    It looks into the future. No algorithm that draws at random and stops trials can be faster.
    """

    def __init__(self, curves: Curves, seed: int, percentile: float) -> None:
        """Shuffles the configurations, and looks up the target."""
        self._curves, self._target = curves, curves.target(percentile)
        self._order = np.random.default_rng(seed).permutation(len(curves.values)).tolist()

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """Returns the next of the shuffled configurations."""
        if number >= len(self._order):
            return pool.Answer.FINISHED
        return Job(self._order[number], self._curves.epochs)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Whether it will never reach the target."""
        return bool(self._curves.best[self._order[number]] < self._target)

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Does nothing."""


# ---- all of them --------------------------------------------------------------------------------------------------

_FAST, _MEDIUM, _SLOW = 4.0, 1.0, 0.25


def _ours(name: str, *overrides: str, repeats: float = _MEDIUM) -> Entry:
    return Entry(name, "mnist_sweep", lambda curves, seed: Ours(curves, seed, overrides), repeats)


def _keras_tuner(name: str, oracle: str, repeats: float, **arguments: object) -> Entry:
    def create(curves: Curves, seed: int) -> Player:
        epochs = {"max_epochs": curves.epochs} if oracle == "HyperbandOracle" else {"max_trials": len(curves.values)}
        return KerasTuner(curves, seed, oracle, **arguments, **epochs)

    return Entry(name, "keras-tuner", create, repeats)


def _optuna(name: str, pruner: Callable[[Any, int], Any]) -> Entry:
    return Entry(name, "Optuna", lambda curves, seed: Optuna(curves, seed, pruner))


_ASHA, _RANDOM, _TPE = "search=asha", "search.sampler=random", "search.sampler=tpe"
BOUND = "bound"
# The default of `experiment=cnn` and `mlp`.
DEFAULT = "asha + tpe"
_OURS: tuple[Entry, ...] = (
    _ours("random", "search=random", repeats=_FAST),
    _ours("hyperband", "search=hyperband", repeats=_FAST),
    _ours("median + random", "search=median", _RANDOM, repeats=_FAST),
    _ours("asha + random", _ASHA, _RANDOM, repeats=_FAST),
    _ours("bayesian", "search=bayesian", repeats=_SLOW),
    _ours("cmaes", "search=cmaes"),
    _ours("tpe", "search=tpe"),
    _ours("median + tpe", "search=median", _TPE),
    # As many seeds as random draws get, as everything is compared with it.
    _ours(DEFAULT, _ASHA, _TPE, repeats=_FAST),
)
_PEERS: tuple[Entry, ...] = (
    _keras_tuner("RandomSearch", "RandomSearchOracle", _FAST),
    _keras_tuner("Hyperband", "HyperbandOracle", _FAST, hyperband_iterations=100),
    _keras_tuner("BayesianOptimization", "BayesianOptimizationOracle", _SLOW),
    _optuna("TPE", lambda pruners, epochs: pruners.NopPruner()),
    _optuna("TPE + ASHA", PRUNERS["ASHA"]),
    _optuna("TPE + ASHA (its defaults)", lambda pruners, epochs: pruners.SuccessiveHalvingPruner()),
    _optuna("TPE + Hyperband", PRUNERS["Hyperband"]),
    _optuna("TPE + median", lambda pruners, epochs: pruners.MedianPruner()),
)


def at_our_speed(family: str) -> str:
    """Returns the family of another system's algorithms with this program's training."""
    return f"{family} at our speed"


FIELD: tuple[Entry, ...] = (
    *_OURS,
    *(replace(peer, trainer=KERAS) for peer in _PEERS),
    *(replace(peer, family=at_our_speed(peer.family)) for peer in _PEERS),
    Entry("random draws, perfect stopping", BOUND, lambda curves, seed: PerfectStopping(curves, seed, 95), _FAST),
)
# This program's ASHA with other settings and samplers.
VARIANTS: tuple[Entry, ...] = tuple(
    _ours(
        f"asha {factor}/{first} + {sampler}",
        _ASHA,
        f"search.sampler={sampler}",
        f"search.factor={factor}",
        f"search.min_epochs={first}",
        repeats=_FAST if sampler == "random" else _MEDIUM,
    )
    for factor in (2, 3, 4)
    for first in (1, 2)
    for sampler in ("random", "tpe")
)
