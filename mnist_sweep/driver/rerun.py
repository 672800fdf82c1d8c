"""`python -m mnist_sweep rerun`: trains a trial again from what was logged, and compares the metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.invocation import command
from mnist_sweep.common.tables import Column, line_printer, show
from mnist_sweep.common.text import counted
from mnist_sweep.common.versions import versions
from mnist_sweep.config import backend, hypermodel
from mnist_sweep.config.objective import METRICS, Objective
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.driver.receive import receive
from mnist_sweep.journal.files import ARRAYS, WORKERS, trial_folder
from mnist_sweep.journal.trial import WITHOUT_RESULT, Outcome
from mnist_sweep.results.models.model_run import find_trial
from mnist_sweep.results.models.training_data import load_training_data
from mnist_sweep.results.runs.logged import Curve, Logged, lineage
from mnist_sweep.tracking.tags import TAG_ADDED_BY, TAG_STOPPED_BY
from mnist_sweep.workers.base import Died, Done, Executed, MachineFailed, Message, Ready, Reported, Train, Workers
from mnist_sweep.workers.devices import Slot, slots, visible_gpus
from mnist_sweep.workers.local import LocalWorkers

# Times differ from run to run.
_NOT_COMPARED = {"epoch_seconds"}
_SHOWN = 10
_ENOUGH = "as many epochs as were logged"


@dataclass(frozen=True)
class Difference:
    """A value that is not the same as before.

    Attributes:
        where: The epoch, and the trial and the execution if there are several.
        metric: The name of the metric.
        logged: The value that was logged; None if there was none.
        now: The value now; None if there is none.
    """

    where: str
    metric: str
    logged: float | None
    now: float | None

    def __str__(self) -> str:
        return f"{self.metric} {_shown(self.now)}, was {_shown(self.logged)}"


@dataclass
class Comparison:
    """The result of the comparison so far.

    Attributes:
        epochs: How many epochs were compared.
        metrics: The names of the metrics that were compared.
        differences: The differences, in the order in which they were found.
        notes: What else is different, in lines for the user.
        outcome: What became of a trial that failed before.
    """

    epochs: int = 0
    metrics: set[str] = field(default_factory=set)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def identical(self) -> bool:
        """Whether everything is as it was logged."""
        return self.epochs > 0 and not self.differences and not self.notes

    def compare(self, where: str, logged: dict[str, float], now: dict[str, float]) -> list[Difference]:
        """Compares an epoch.

        Args:
            where: The epoch, for the user.
            logged: Everything that was logged at this epoch.
            now: The metrics now.

        Returns:
            The differences.
        """
        names = (set(now) | (set(METRICS) & set(logged))) - _NOT_COMPARED
        found = [
            Difference(where, name, logged.get(name), now.get(name))
            for name in sorted(names)
            if logged.get(name) != now.get(name)
        ]
        self.epochs += 1
        self.metrics |= names
        self.differences += found
        return found


def rerun(what: str | None, trial: int | None, tracking_uri: str | None, console: Console) -> int:
    """Trains a trial again for as many epochs as before, and compares every metric of every epoch.

    A trial that failed is trained to its end. Trials from whose weights it continued are trained before it. Nothing is
    written to the sweep or to MLflow.

    Args:
        what: As for `find_trial`.
        trial: As for `find_trial`.
        tracking_uri: The store, as for `load_runs`.
        console: Where to print.

    Returns:
        The exit code: 0 if everything is identical, or a trial that failed does not fail now; else 1.

    Raises:
        UserError: The run does not exist, its data is gone or different, or its model cannot be trained here.
    """
    found = find_trial(what, trial, tracking_uri)
    chain = lineage(found)
    name = backend.of(chain[-1].config)
    backend.check_installed(name)
    slot = _slot(chain[-1])
    say = line_printer(console)
    with tempfile.TemporaryDirectory(prefix="mnist_sweep-rerun-") as temporary:
        folder = Path(temporary)
        code = found.fetch_code(chain[-1].config, folder)
        dataset = load_training_data(chain[-1].config, chain[-1].tags, "rerun", code)
        number, sweep = chain[-1].trial.number, chain[-1].sweep
        place = f"{slot.name} with {counted(slot.threads, 'thread')}"
        say(f"Trial {number} of {sweep} again ({found.run.info.run_id}), on {place}")
        tell_who_steered(say, chain[-1])
        (folder / ARRAYS).mkdir()
        dataset.save(folder / ARRAYS)
        custom = made_by(chain[-1].config["model"]) is not None or dataset.stream is not None
        workers = LocalWorkers(
            [slot],
            folder / ARRAYS,
            folder / WORKERS,
            len(chain) + 1,
            custom_code=custom,
            backend=name,
            code=code,
        )
        try:
            compared = train_again(workers, slot.name, chain, folder, say)
        finally:
            workers.close()
    if compared.outcome is not None:
        return tell_of_failed(say, chain[-1], compared.outcome)
    if compared.identical:
        epochs = "the epoch" if compared.epochs == 1 else f"all {compared.epochs} epochs"
        say(f"identical: all {len(compared.metrics)} metrics of {epochs}")
        return 0
    _explain(console, say, compared, chain[-1], slot)
    return 1


def train_again(
    workers: Workers, slot: str, chain: Sequence[Logged], folder: Path, say: Callable[[str], object]
) -> Comparison:
    """Trains trials, each from the one before it, and compares them with what was logged.

    Args:
        workers: The pool.
        slot: The slot to train on.
        chain: The trials, as `lineage` returns them.
        folder: Where their files go.
        say: Prints a line for each epoch.

    Raises:
        UserError: A trial cannot be trained at all.
        MachineError: The machine is at fault.
    """
    again = _Again(workers, slot, chain, folder, say)
    receive(workers, again.handle, lambda: not again.chain)
    return again.compared


class _Again:
    """Trains a chain of trials; `chain` holds those that are left."""

    def __init__(
        self, workers: Workers, slot: str, chain: Sequence[Logged], folder: Path, say: Callable[[str], object]
    ) -> None:
        self._workers, self._slot, self._folder, self._say = workers, slot, folder, say
        self.chain, self._several = list(chain), len(chain) > 1
        self.compared, self._epochs_before = Comparison(), 0

    def handle(self, message: Message) -> None:
        if isinstance(message, Died):
            raise UserError(f"rerun: the worker {message.reason}")
        if isinstance(message, MachineFailed):
            raise MachineError(f"rerun: {message.reason}")
        if not self.chain:
            return
        match message:
            case Ready():
                self._workers.submit(self._slot, self._task(self.chain[0]))
            case Reported():
                self._compare(message)
                self._continue(message, message.epoch)
            case Executed():
                self._continue(message, 0)
            case Done():
                self._end(message.outcome)

    def _task(self, logged: Logged) -> Train:
        trial = logged.trial
        return Train(
            trial,
            _objective(logged),
            str(trial_folder(self._folder, trial.number)),
            parent=None if trial.parent is None else str(trial_folder(self._folder, trial.parent)),
            waits=True,
        )

    @property
    def _prefix(self) -> str:
        return f"trial {self.chain[0].trial.number}, " if self._several else ""

    def _compare(self, message: Reported) -> None:
        logged = self.chain[0]
        execution = f"execution {message.execution}, " if logged.trial.executions else ""
        where = f"{self._prefix}{execution}epoch {message.epoch}"
        curve: Curve = logged.curves.get(message.execution, {})
        if message.epoch in curve:
            found = self.compared.compare(where, curve[message.epoch], message.metrics)
            self._say(f"  {where}  {'; '.join(map(str, found)) if found else 'identical'}")
        elif logged.failed is not None:
            name = _objective(logged)[0]
            self._say(f"  {where}  {name} {_shown(message.metrics.get(name))}")
        else:
            self.compared.notes.append(f"{where} was not trained in the logged run")

    def _continue(self, message: Reported | Executed, epoch: int) -> None:
        logged = self.chain[0]
        if logged.failed is not None:
            # It is not known how far it would have come.
            self._workers.go_on(self._slot, logged.trial.number, message.execution, epoch)
            return
        enough = isinstance(message, Executed) or epoch >= max(logged.curves[logged.last])
        if message.execution == logged.last and enough:
            # A trial that was stopped early had the learning rate schedule of all its epochs, so it is stopped again.
            self._workers.stop(self._slot, logged.trial.number, _ENOUGH)
        else:
            self._workers.go_on(self._slot, logged.trial.number, message.execution, epoch)

    def _end(self, outcome: Outcome) -> None:
        logged, epochs = self.chain[0], self.compared.epochs - self._epochs_before
        if logged.failed is not None:
            self.compared.outcome = outcome
            del self.chain[0]
            return
        expected = sum(len(curve) for curve in logged.curves.values())
        if epochs == 0 and outcome.status in WITHOUT_RESULT:
            raise UserError(f"rerun: trial {logged.trial.number} cannot be trained: {outcome.reason}")
        if epochs < expected:
            epochs_trained = f"{epochs} of {counted(expected, 'epoch')} trained"
            self.compared.notes.append(f"{self._prefix}{epochs_trained}: {outcome.reason}")
        self._epochs_before = self.compared.epochs
        del self.chain[0]


def _objective(logged: Logged) -> tuple[str, str]:
    objective = Objective.parse_all(logged.config["objective"])[0]
    return objective.name, objective.direction


def _slot(logged: Logged) -> Slot:
    """Returns a slot like that of the sweep: on a GPU if it had one and one is visible, else with as many threads."""
    settings = check_settings({**logged.sweep_config, "tracking": {"uri": "", "artifacts": "", "keep_models": "all"}})
    most = settings.search.max_trials
    if hypermodel.named(settings.trial) is None:
        most = min(
            (n for n in (most, Space(settings.trial, written=settings.conditions).size) if n is not None), default=None
        )
    on_gpu = logged.slot.startswith("gpu") and visible_gpus()
    places = slots(settings.workers.model_copy(update={"devices": "gpu" if on_gpu else "cpu"}), most)
    return next((place for place in places if place.name == logged.slot.partition("@")[0]), places[0])


def tell_who_steered(say: Callable[[str], object], logged: Logged) -> None:
    """Prints who added a trial to the running sweep, and who stopped it."""
    for tag, done in ((TAG_ADDED_BY, "added it to"), (TAG_STOPPED_BY, "stopped it in")):
        if by := logged.tags.get(tag):
            say(f"{by} {done} the running sweep.")


def tell_of_failed(say: Callable[[str], object], logged: Logged, outcome: Outcome) -> int:
    """Prints what became of a trial that failed before, and returns the exit code: 0 if it has a result now, else 1."""
    number, then = logged.trial.number, f" ({logged.failed})" if logged.failed else ""
    if outcome.score is None:
        same = "for the same reason" if outcome.reason == logged.failed else f"now because: {outcome.reason}"
        say(f"Trial {number} failed{then}, and fails again, {same}")
        return 1
    say(f"Trial {number} failed{then}, and trains now: {_objective(logged)[0]} {outcome.score:.4f}")
    say(f"To train it in its sweep, too: {command(f'resume --retry-failed {logged.sweep}')}")
    return 0


def _explain(console: Console, say: Callable[[str], object], compared: Comparison, logged: Logged, slot: Slot) -> None:
    differences = compared.differences
    if differences:
        first = differences[:_SHOWN]
        columns = [
            Column("where", [d.where for d in first], 3),
            Column("metric", [d.metric for d in first], 3),
            Column("logged", [_shown(d.logged) for d in first], 2),
            Column("now", [_shown(d.now) for d in first], 2),
            Column("difference", [_by(d) for d in first], 1),
        ]
        of = f", the first {len(first)} of {len(differences)}" if len(first) < len(differences) else ""
        show(console, columns, f"Differences{of}")
    for note in compared.notes:
        say(note)
    values = f"{counted(len(differences), 'value')} of {counted(compared.epochs, 'epoch')}"
    say(f"not identical: {values}" + (f", the first in {differences[0].where}" if differences else ""))
    if logged.slot and logged.slot.startswith("gpu") != slot.name.startswith("gpu"):
        say(f"It was trained on {logged.slot}, and now on {slot.name}, so the last digits differ.")
    changed = _changed_versions(logged)
    for name, (then, now) in changed.items():
        say(f"  {name} was {then}, now {now}")
    if not changed:
        say(
            "The versions are the same. The difference may come from another processor or number of threads "
            f"({slot.threads} here), from changed model code, or from a changed value in MLflow."
        )


def _changed_versions(logged: Logged) -> dict[str, tuple[str, str]]:
    then = {key.removeprefix("version."): value for key, value in logged.tags.items() if key.startswith("version.")}
    if "mlflow.source.git.commit" in logged.tags:
        then["commit"] = logged.tags["mlflow.source.git.commit"]
    now = versions()
    return {name: (then[name], now[name]) for name in then if name in now and then[name] != now[name]}


def _by(difference: Difference) -> str:
    if difference.logged is None or difference.now is None:
        return ""
    return f"{difference.now - difference.logged:+.2g}"


def _shown(value: float | None) -> str:
    return "nothing" if value is None else repr(value)
