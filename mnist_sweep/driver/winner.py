"""The winner: which trials are retrained to confirm it, and how its model is tested."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mnist_sweep.common.errors import MachineError
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import identity
from mnist_sweep.config.task import kind_of
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.driver.attempts import Attempts
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.trials import SEED, retrained
from mnist_sweep.journal.events import WinnerTested
from mnist_sweep.journal.files import MODEL_FILE, trial_folder
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Trial
from mnist_sweep.workers.base import Died, Evaluate, Evaluated, MachineFailed, Message

# Between the seed of the best trial and the first of those on which the best trials are retrained.
_NEW_SEEDS = 1000


def candidates(settings: Settings, results: Ranking) -> list[int]:
    """Returns the trials to retrain on new seeds, the best first; none if the config does not ask for it.

    Trials that differ only in their seed, or in how long Hyperband trained them, count as one.
    """
    if settings.confirm is None:
        return []
    found: dict[str, int] = {}
    for number in results.ranked():
        values = results.trials[number].values
        found.setdefault(identity({key: value for key, value in values.items() if key != SEED}), number)
    return list(found.values())[: settings.confirm.top]


def retrainings(settings: Settings, results: Ranking, chosen: Sequence[int], number: int) -> Iterator[Trial]:
    """Yields the trials that retrain the best ones, leaving out those that an earlier session has started.

    Args:
        settings: The config of the sweep.
        results: What it has found.
        chosen: The trials to retrain, the best first.
        number: The number of the first new trial.
    """
    assert settings.confirm is not None
    numbers = itertools.count(number)
    # The same seeds for all of them, even if the seed is searched.
    first = results.trials[chosen[0]].config["training"]["seed"] + _NEW_SEEDS
    for i, trial in itertools.product(range(settings.confirm.seeds), chosen):
        seed = (first + i) % 2**31
        if seed not in results.confirmations(trial):
            yield retrained(settings, results.trials[trial], next(numbers), seed)


class WinnerTest:
    """Tests the winner's model on the test images, and has it packaged on another slot or afterwards."""

    def __init__(
        self,
        folder: Path,
        attempts: Attempts,
        packaging: Packaging | None,
        meanwhile: Callable[[], None],
        receive: Callable[[Callable[[], object]], None],
    ) -> None:
        """Takes the parts of the sweep's loop, and what handles messages until a condition holds."""
        self._folder, self._attempts = folder, attempts
        self._packaging, self._meanwhile, self._receive = packaging, meanwhile, receive
        self._slot = ""
        self._tested: Evaluated | None = None

    def run(self, results: Ranking, tries: int, clock: Callable[[], float]) -> WinnerTested | None:
        """Returns the result of the test, after some tries if it fails; None if there is no winner.

        Raises:
            MachineError: The machine is at fault.
        """
        model = results.model()
        if model is None:
            return None
        for _ in range(tries):
            tested = self._try(results, model)
            if not tested.error:
                break
        return WinnerTested(clock(), model, tested.metrics, tested.confusion, tested.error)

    def _try(self, results: Ranking, model: int) -> Evaluated:
        self._receive(lambda: self._attempts.idle)
        self._slot, self._tested = self._attempts.idle.pop(0), None
        file = str(trial_folder(self._folder, model) / MODEL_FILE)
        task = results.trials[model].config.get("task", {})
        own = kind_of(task) == "custom"
        config = results.trials[model].config if own else {}
        evaluate = Evaluate(file, _made_by(results, model), results.outcomes[model].digest, task, config)
        self._attempts.submit(self._slot, evaluate)
        # During the test, if another slot is idle.
        self.package(results)
        self._meanwhile()
        # What was done meanwhile is not the worker's silence.
        self._attempts.heard(self._slot)
        self._receive(lambda: self._tested)
        assert self._tested is not None
        return self._tested

    def handle(self, message: Message) -> None:
        """Takes a message that comes during the test.

        Raises:
            MachineError: The machine failed.
        """
        match message:
            case Evaluated():
                self._attempts.end(message.slot)
                self._tested = message
            case Died() if message.slot == self._slot:
                self._tested = Evaluated(message.slot, error=f"its worker {message.reason}")
            case MachineFailed():
                raise MachineError(message.reason)

    def package(self, results: Ranking) -> None:
        """Gives the winner's model to an idle slot to package, if there is one, and none was given it before."""
        model = results.model()
        if model is not None and self._packaging is not None and self._attempts.idle and not self._packaging.begun:
            trial, slot = trial_folder(self._folder, model), self._attempts.idle.pop(0)
            self._packaging.begin(slot, trial, _made_by(results, model), results.outcomes[model].digest)


def _made_by(results: Ranking, number: int) -> str | None:
    """Returns the user's `package.module:name` that built a trial's model."""
    return made_by(results.trials[number].config["model"])
