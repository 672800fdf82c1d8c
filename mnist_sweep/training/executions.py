"""Trains one configuration several times, on other seeds or folds. The mean score is the trial's score."""

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

from mnist_sweep.common.errors import ImpossibleError, UserError, writing_to
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import read_text
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.files import EXECUTION_FILE, MODEL_FILE, SAMPLE_FILE, execution_folder
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.training.fit import Job, Report, Stop, Trainer

History = list[tuple[int, dict[str, float]]]

# The file has a few hundred bytes per epoch.
_LARGEST_FILE = 50_000_000
_RESULT = TypeAdapter(tuple[Outcome, History])


def train(
    trainer: Trainer,
    job: Job,
    executions: Sequence[Execution],
    known_epochs: Sequence[int],
    report: Callable[[int, int, dict[str, float]], None],
    ended: Callable[[int, Outcome], None],
    stop: Callable[[int, int], str],
) -> Outcome:
    """Trains a trial's executions one after another.

    An execution that an interrupted attempt finished is not trained again; one that it started is continued.

    Args:
        trainer: Trains each execution.
        job: The trial; each execution replaces its seed and fold.
        executions: At least one.
        known_epochs: How many epochs of each execution an earlier attempt has reported.
        report: Called with an execution, counted from 1, its epoch and the epoch's metrics, as in `Trainer.train`.
        ended: Called with an execution and its outcome when it has reached its last epoch or its early stopping, or has
            diverged.
        stop: Called as in `Trainer.train`, with an execution and its epoch; also with epoch 0 after an execution has
            ended, before the next one starts.

    Returns:
        The trial's outcome. Its score and metrics are the means of the executions that have ended. Its best epoch is
        that of the best execution, whose model is copied to `job.folder`. A stopped execution counts only if it is the
        first.

    Raises:
        UserError: See `Trainer.train`.
    """
    finished: list[Outcome] = []
    reason, seconds, phases = "", 0.0, Counter[str]()
    for number, execution in enumerate(executions, start=1):
        own_job = _own_job(job, number, execution, known_epochs[number - 1])
        known = _read_result(own_job.folder)
        if known is not None:
            outcome, history = known
            seconds += outcome.seconds
            for epoch, metrics in history:
                report(number, epoch, metrics)
        else:
            reason = stop(number - 1, 0) if finished and not job.stop else ""
            if reason:
                break
            try:
                outcome, history = _train(trainer, own_job, partial(report, number), partial(stop, number))
            except ImpossibleError as error:
                if not finished:
                    raise
                # With these values, a model was built and trained before.
                raise UserError(f"execution {number} of {len(executions)}: {error}") from error
            seconds += outcome.seconds
            phases.update(outcome.phases)
            if outcome.status is Status.FAILED:
                return replace(outcome, reason=f"execution {number} of {len(executions)}: {outcome.reason}")
            if outcome.status not in (Status.COMPLETED, Status.DIVERGED):
                if not finished:
                    return outcome
                reason = outcome.reason
                break
            _write_result(own_job.folder, outcome, history)
        ended(number, outcome)
        finished.append(outcome)
    best = _best(job.objective, finished)
    _copy_model(job.folder, best + 1)
    status = Status.COMPLETED
    if len(finished) < len(executions):
        status = Status.STOPPED
    elif any(outcome.status is Status.DIVERGED for outcome in finished):
        status = Status.DIVERGED
    if not reason:
        same = [outcome.reason for outcome in finished if outcome.reason and outcome.status is status]
        reason = f"{same[0]} ({len(same)} of {len(executions)} executions)" if same else ""
    return replace(
        _mean(finished),
        phases=dict(phases),
        status=status,
        reason=reason,
        best_epoch=finished[best].best_epoch,
        digest=finished[best].digest,
        seconds=seconds,
    )


def _own_job(job: Job, number: int, execution: Execution, known: int) -> Job:
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


def _write_result(folder: Path, outcome: Outcome, history: History) -> None:
    """Records that an execution has ended, before it is reported."""
    with writing_to(folder):
        write_whole(folder / EXECUTION_FILE, json.dumps({"outcome": asdict(outcome), "history": history}))


def _read_result(folder: Path) -> tuple[Outcome, History] | None:
    """Returns what `_write_result` wrote; None if it is missing or damaged, so that the execution is trained again."""
    path = folder / EXECUTION_FILE
    try:
        raw = json.loads(read_text(path, str(path), _LARGEST_FILE))
        return _RESULT.validate_python((raw["outcome"], raw["history"]))
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _best(objective: Objective, outcomes: Sequence[Outcome]) -> int:
    best = 0
    for i, outcome in enumerate(outcomes):
        if outcome.score is not None and objective.better(outcome.score, outcomes[best].score):
            best = i
    return best


def _copy_model(folder: Path, execution: int) -> None:
    """Copies an execution's model to the trial's folder."""
    source = execution_folder(folder, execution)
    if source == folder:
        return
    for name in (MODEL_FILE, SAMPLE_FILE):
        # Not moved: a trial that is interrupted now does this again when it is resumed.
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
