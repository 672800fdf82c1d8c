"""The algorithms to compare, each as the pool meets it: ours, stock keras-tuner's, and Optuna's."""

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
from benchmarks.search_quality.peers import PRUNERS
from benchmarks.search_quality.pool import Job, Player
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import Settings, check_settings
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
        create: Builds it, from the curves, a seed from 1 on, and the number of workers.
        repeats: How many times as many seeds it gets as are asked for: random draws spread wide, and cost nothing.
        trainer: Of `curves.TRAINERS`, whose seconds its trials take.
    """

    name: str
    family: str
    create: Callable[[Curves, int, int], Player]
    repeats: float = 1.0
    trainer: str = OURS


# ---- ours -------------------------------------------------------------------------------------------------------


@functools.lru_cache
def _settings(overrides: tuple[str, ...]) -> Settings:
    return check_settings(compose.defaults(quote_sweeps(overrides)))


class Ours(Player):
    """A search of this program, with the rule that stops its trials, as a sweep's loop meets them."""

    def __init__(self, curves: Curves, seed: int, overrides: Sequence[str]) -> None:
        """Builds it from a config.

        Args:
            curves: What there is to replay.
            seed: Of the search.
            overrides: As on the command line: `search=asha`, `search.factor=3`.
        """
        kind = "cnn" if any("filters" in sweep for sweep in curves.space) else "mlp"
        settings = _settings(
            (f"model={kind}", *curves.space, f"training.epochs={curves.epochs}", *overrides, f"search.seed={seed}")
        )
        space = Space(settings.trial)
        compatibility.check(settings, space)
        self._curves, self._search = curves, choose.create_search(settings, space)
        self._stopping = choose.create_stopping(settings)

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """The next job; a trial that goes on from a parent is replayed from the parent's last epoch."""
        answer = self._search.ask(number)
        if isinstance(answer, Answer):
            return pool.Answer.PAUSE if answer is Answer.PAUSE else pool.Answer.FINISHED
        return Job(self._curves.row(answer.values), answer.epochs or self._curves.epochs, answer.initial_epoch)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """What the rule says."""
        return self._stopping is not None and bool(self._stopping.report(number, epoch, accuracy))

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Tells the search."""
        self._search.tell(number, Result(None if accuracy is None else (accuracy,), epoch, cut))


# ---- keras-tuner ------------------------------------------------------------------------------------------------


class KerasTuner(Player):
    """A stock oracle of keras-tuner's, driven as its own Tuner drives it, with a tuner id for each worker."""

    def __init__(self, curves: Curves, seed: int, oracle: str, **arguments: Any) -> None:
        """Builds the oracle.

        Args:
            curves: What there is to replay.
            seed: From 1 on: keras-tuner takes 0 for none.
            oracle: The class in `keras_tuner.oracles`.
            arguments: Its own arguments.
        """
        from mnist_sweep.common.light_keras import load

        kt = load("keras_tuner")
        space = kt.HyperParameters()
        for name, options in curves.options().items():
            space.Choice(name, options)
        # Its random numbers come from seed, seed + 1 and so on: neighbouring seeds would draw the same settings.
        self._oracle = getattr(kt.oracles, oracle)(
            objective=kt.Objective(_OBJECTIVE, "max"), hyperparameters=space, seed=seed * 100_003, **arguments
        )
        self._oracle.verbose = 0
        # It writes files at every call, whose time is not counted; where there is a disk in memory, they go there.
        self._folder = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
        self._oracle._set_project_dir(self._folder.name, "oracle")
        self._curves = curves
        self._trials: dict[int, Any] = {}

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """The next job; Hyperband's later rounds load the weights of the round before."""
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
        """Tells the oracle the best epoch, as the Tuner does when a trial has ended."""
        trial = self._trials[number]
        if accuracy is not None:
            self._oracle.update_trial(trial.trial_id, {_OBJECTIVE: accuracy}, step=epoch)
        trial.status = "FAILED" if accuracy is None else "COMPLETED"
        self._oracle.end_trial(trial)


# ---- Optuna -----------------------------------------------------------------------------------------------------


class Optuna(Player):
    """An Optuna study: its TPE sampler as it comes, and a pruner."""

    side_by_side: ClassVar[bool] = True

    def __init__(self, curves: Curves, seed: int, pruner: Callable[[Any, int], Any]) -> None:
        """Creates the study.

        Args:
            curves: What there is to replay.
            seed: Of the sampler.
            pruner: Builds the pruner from Optuna's `pruners` and the number of epochs.
        """
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
        """The next job: a whole number from a range, anything else from a list, as Optuna's users write them."""
        trial = self._trials[number] = self._study.ask()
        values = {}
        for name, options in self._curves.options().items():
            if all(isinstance(o, int) for o in options) and options == list(range(options[0], options[-1] + 1)):
                values[name] = trial.suggest_int(name, options[0], options[-1])
            else:
                values[name] = trial.suggest_categorical(name, options)
        return Job(self._curves.row(values), self._curves.epochs)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """What the pruner says."""
        self._trials[number].report(accuracy, epoch)
        return bool(self._trials[number].should_prune())

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Tells the study."""
        if accuracy is None or cut:
            self._study.tell(self._trials[number], state=self._states.FAIL if accuracy is None else self._states.PRUNED)
        else:
            self._study.tell(self._trials[number], accuracy)


# ---- what nobody can do better ------------------------------------------------------------------------------------


class PerfectStopping(Player):
    """Random draws, none twice, of which every setting below the target is stopped after its first epoch.

    It looks the target up. No algorithm that draws at random and stops trials can be faster.
    """

    def __init__(self, curves: Curves, seed: int, percentile: float) -> None:
        """Shuffles the settings.

        Args:
            curves: What there is to replay.
            seed: Of the order.
            percentile: The target.
        """
        self._curves, self._target = curves, curves.target(percentile)
        self._order = np.random.default_rng(seed).permutation(len(curves.values)).tolist()

    def ask(self, number: int, slot: int) -> Job | pool.Answer:
        """The next of the shuffled settings."""
        if number >= len(self._order):
            return pool.Answer.FINISHED
        return Job(self._order[number], self._curves.epochs)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Whether it will never reach the target."""
        return bool(self._curves.best[self._order[number]] < self._target)

    def end(self, number: int, accuracy: float | None, epoch: int, *, cut: bool) -> None:
        """Nothing depends on it."""


# ---- the field --------------------------------------------------------------------------------------------------

_FAST, _MEDIUM, _SLOW = 4.0, 1.0, 0.25


def _ours(name: str, *overrides: str, repeats: float = _MEDIUM) -> Entry:
    def create(curves: Curves, seed: int, workers: int) -> Player:
        return Ours(curves, seed, overrides)

    return Entry(name, "mnist_sweep", create, repeats)


def _keras_tuner(name: str, oracle: str, repeats: float, **arguments: object) -> Entry:
    def create(curves: Curves, seed: int, workers: int) -> Player:
        epochs = {"max_epochs": curves.epochs} if oracle == "HyperbandOracle" else {"max_trials": len(curves.values)}
        return KerasTuner(curves, seed, oracle, **arguments, **epochs)

    return Entry(name, "keras-tuner", create, repeats)


def _optuna(name: str, pruner: Callable[[Any, int], Any]) -> Entry:
    def create(curves: Curves, seed: int, workers: int) -> Player:
        return Optuna(curves, seed, pruner)

    return Entry(name, "Optuna", create)


_ASHA, _RANDOM, _TPE = "search=asha", "search.sampler=random", "search.sampler=tpe"
BOUND = "bound"
# What `experiment=cnn` and `mlp` are set to.
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
    # What the others are compared with, so that its medians are as certain as those of random draws.
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
    """The family of a peer's algorithms with this program's training under them."""
    return f"{family} at our speed"


FIELD: tuple[Entry, ...] = (
    *_OURS,
    *(replace(peer, trainer=KERAS) for peer in _PEERS),
    *(replace(peer, family=at_our_speed(peer.family)) for peer in _PEERS),
    Entry("random draws, perfect stopping", BOUND, lambda curves, seed, _: PerfectStopping(curves, seed, 95), _FAST),
)
# Ours with other settings, and other samplers.
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
