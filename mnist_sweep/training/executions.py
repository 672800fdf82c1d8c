"""Training one setting several times, on other seeds or other folds, whose mean score is the trial's."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter

from mnist_sweep.common.errors import UserError, writing_to
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import read_text
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.files import EXECUTION_FILE, MODEL_FILE, SAMPLE_FILE, execution_folder
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.training.fit import Job, Report, Stop, Trainer

History = list[tuple[int, dict[str, float]]]

# Some hundred bytes an epoch.
_LARGEST_NOTE = 50_000_000
_NOTE = TypeAdapter(tuple[Outcome, History])


def train(
    trainer: Trainer,
    job: Job,
    executions: Sequence[Execution],
    known_epochs: Sequence[int],
    report: Callable[[int, int, dict[str, float]], None],
    ended: Callable[[int, Outcome], None],
    stop: Callable[[int, int], str],
) -> Outcome:
    """Trains a trial's executions, one after another.

    An execution that an interrupted attempt has finished is not trained again, and one that it has begun goes on.

    Args:
        trainer: What trains each.
        job: The trial; the seed of its config and its fold are replaced by those of each execution.
        executions: At least one.
        known_epochs: The epochs of each that an earlier attempt has reported.
        report: Called with an execution, counted from 1, its epoch and the epoch's metrics, as `Trainer.train` does.
        ended: Called with an execution and its outcome when it has reached its last epoch or its early stopping.
        stop: Asked as by `Trainer.train`, with an execution and its epoch; and with the epoch 0 after the end of an
            execution, before another is trained.

    Returns:
        The trial's outcome. Its score and its metrics are the means of those executions that have ended, its best epoch
        is that of the best one, whose model lies in `job.folder`. One that is stopped before its end does not count,
        unless it is the first.

    Raises:
        UserError: As `Trainer.train` does.
    """
    finished: list[Outcome] = []
    reason, seconds, phases = "", 0.0, Counter[str]()
    for number, execution in enumerate(executions, start=1):
        own = _own(job, number, execution, known_epochs[number - 1])
        known = _recall(own.folder)
        if known is not None:
            outcome, history = known
            seconds += outcome.seconds
            for epoch, metrics in history:
                report(number, epoch, metrics)
        else:
            reason = stop(number - 1, 0) if finished and not job.stop else ""
            if reason:
                break
            outcome, history = _train(trainer, own, partial(report, number), partial(stop, number))
            seconds += outcome.seconds
            phases.update(outcome.phases)
            if outcome.status is Status.FAILED:
                return replace(outcome, reason=f"execution {number} of {len(executions)}: {outcome.reason}")
            if outcome.status is not Status.COMPLETED:
                if not finished:
                    return outcome
                reason = outcome.reason
                break
            _note(own.folder, outcome, history)
        ended(number, outcome)
        finished.append(outcome)
    best = _best(job.objective, finished)
    _keep(job.folder, best + 1)
    if not reason:
        early = [outcome.reason for outcome in finished if outcome.reason]
        reason = f"{early[0]} ({len(early)} of {len(executions)} executions)" if early else ""
    complete = len(finished) == len(executions)
    return replace(
        _mean(finished),
        phases=dict(phases),
        status=Status.COMPLETED if complete else Status.STOPPED,
        reason=reason,
        best_epoch=finished[best].best_epoch,
        digest=finished[best].digest,
        seconds=seconds,
    )


def _own(job: Job, number: int, execution: Execution, known: int) -> Job:
    training = job.config.training.model_copy(update={"seed": execution.seed})
    fold, folds = execution.fold, execution.folds
    return replace(
        job,
        config=job.config.model_copy(update={"training": training}),
        folder=execution_folder(job.folder, number),
        parent=None if job.parent is None else execution_folder(job.parent, number),
        fold=None if fold is None or folds is None else (fold, folds),
        known=known,
    )


def _train(trainer: Trainer, job: Job, report: Report, stop: Stop) -> tuple[Outcome, History]:
    history: History = []

    def reported(epoch: int, metrics: dict[str, float]) -> None:
        history.append((epoch, metrics))
        report(epoch, metrics)

    return trainer.train(job, reported, stop), history


def _note(folder: Path, outcome: Outcome, history: History) -> None:
    """Writes down that an execution has ended, before anybody hears of it."""
    with writing_to(folder):
        write_whole(folder / EXECUTION_FILE, json.dumps({"outcome": asdict(outcome), "history": history}))


def _recall(folder: Path) -> tuple[Outcome, History] | None:
    """What `_note` wrote; None where there is nothing, or it is damaged, and the execution is to be trained again."""
    path = folder / EXECUTION_FILE
    try:
        raw = json.loads(read_text(path, str(path), _LARGEST_NOTE))
        return _NOTE.validate_python((raw["outcome"], raw["history"]))
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _best(objective: Objective, outcomes: Sequence[Outcome]) -> int:
    best = 0
    for i, outcome in enumerate(outcomes):
        if outcome.score is not None and objective.better(outcome.score, outcomes[best].score):
            best = i
    return best


def _keep(folder: Path, execution: int) -> None:
    """Makes an execution's model the trial's own."""
    source = execution_folder(folder, execution)
    if source == folder:
        return
    for name in (MODEL_FILE, SAMPLE_FILE):
        # Copied, as an interrupted trial may be put together again when it is resumed.
        with writing_to(folder):
            write_whole(folder / name, partial(shutil.copyfile, source / name))


def _mean(finished: Sequence[Outcome]) -> Outcome:
    scores = [outcome.score for outcome in finished if outcome.score is not None]
    names = [name for name in finished[0].metrics if all(name in outcome.metrics for outcome in finished)]
    return replace(
        finished[0],
        score=fmean(scores) if scores else None,
        metrics={name: fmean(outcome.metrics[name] for outcome in finished) for name in names},
        scores=scores,
    )
