"""Loads what was logged of a trial, to train it again and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.journal import files, journal
from mnist_sweep.journal.events import Event, SweepStarted, TrialStarted
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.trial import WITHOUT_RESULT, Execution, Trial
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.runs.find import find_sweep
from mnist_sweep.tracking import store
from mnist_sweep.tracking import tags as keys
from mnist_sweep.tracking.names import SYSTEM, TAG_METRIC, originals, tagged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Metrics by name, for each epoch.
Curve = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Logged:
    """A trial as it was logged.

    Attributes:
        trial: The trial.
        curves: The learning curve of each execution that has one, by its number from 1.
        slot: Where it was trained; "" if unknown.
        config: The run's config: the trial's groups, and the sweep's `name`, `seed`, `objective` and `data`.
        sweep_config: The sweep's config, with what it searches and without `tracking`.
        tags: The run's tags.
        failed: Why the trial has no result; None if it has one.
    """

    trial: Trial
    curves: dict[int, Curve]
    slot: str
    config: dict[str, Any]
    sweep_config: dict[str, Any]
    tags: Mapping[str, str]
    failed: str | None = None

    @property
    def sweep(self) -> str:
        """The sweep, `name/time`."""
        return self.tags[keys.TAG_SWEEP]

    @property
    def last(self) -> int:
        """The last execution that was trained."""
        return max(self.curves)


def lineage(found: ModelRun) -> list[Logged]:
    """A trial, after the trials whose weights it continues from: each continues from the one before it.

    Args:
        found: The trial.

    Raises:
        UserError: One of the trials has no run, or logged no epoch although it has not failed.
    """
    client, run = found.client, found.run
    sweep = find_sweep(found.sweep, client.tracking_uri)
    events = _journal(sweep.sweep)
    with tempfile.TemporaryDirectory() as folder:
        sweep_config = ModelRun(client, sweep.parent).config(Path(folder))
    chain = [_logged(client, run, events, sweep_config)]
    while (parent := chain[0].trial.parent) is not None:
        chain.insert(0, _logged(client, sweep.run_of(parent), events, sweep_config))
    return chain


def _journal(sweep: str) -> list[Event]:
    """The events in a sweep's journal, which has more details than MLflow; empty if its folder is not here."""
    folder = SWEEPS / sweep
    if not (folder / files.FILE).is_file():
        return []
    events = list(journal.read(folder))
    return events if events and isinstance(events[0], SweepStarted) and events[0].sweep == sweep else []


def _logged(client: MlflowClient, run: Run, events: list[Event], sweep_config: dict[str, Any]) -> Logged:
    tags = run.data.tags
    number = int(tags[keys.TAG_TRIAL])
    with tempfile.TemporaryDirectory() as folder:
        config = ModelRun(client, run).config(Path(folder))
    inside = f"{tagged(keys.PARENT_TAG, run.info.run_id)} and {tagged(keys.TAG_KIND, keys.EXECUTION)}"
    nested = {
        int(found.data.tags[keys.TAG_EXECUTION]): found
        for found in store.search_runs(client, [run.info.experiment_id], inside)
    }
    # The run of a trial with several executions only has their mean curve.
    curves = {execution: _curve(client, found) for execution, found in sorted((nested or {1: run}).items())}
    curves = {execution: curve for execution, curve in curves.items() if curve}
    no_result = tags.get(keys.TAG_STATUS) in WITHOUT_RESULT
    failed = tags.get(keys.TAG_REASON, "") if no_result else None
    if not curves and failed is None:
        raise UserError(f"rerun: trial {number} of {tags[keys.TAG_SWEEP]} has logged no epoch to compare with")
    starts = [event for event in events if isinstance(event, TrialStarted) and event.trial.number == number]
    if starts:
        trial, slot = starts[-1].trial, starts[-1].slot
    else:
        trial, slot = (
            _from_mlflow(number, run, nested, config, min(curves.get(1, {1: {}}))),
            tags.get(keys.TAG_SLOT, ""),
        )
    return Logged(trial, curves, slot, config, sweep_config, tags, failed)


def _from_mlflow(number: int, run: Run, nested: Mapping[int, Run], config: dict[str, Any], first: int) -> Trial:
    executions = [_execution(nested[i].data.params) for i in sorted(nested)]
    groups = {group: config[group] for group in TRIAL_GROUPS if group in config}
    parent = run.data.tags.get(keys.TAG_GOES_ON_FROM)
    return Trial(
        number,
        {},
        groups,
        int(config["training"]["epochs"]),
        initial_epoch=first - 1,
        parent=None if parent is None else int(parent.removeprefix("trial ")),
        executions=executions,
    )


def _execution(params: Mapping[str, str]) -> Execution:
    fold, folds = (int(params[key]) if key in params else None for key in ("fold", "folds"))
    return Execution(int(params["seed"]), fold, folds)


def _curve(client: MlflowClient, run: Run) -> Curve:
    """A run's metrics by epoch. Metrics that were logged once, for the best epoch, are in that epoch."""
    curve: Curve = {}
    logged = {key: key for key in run.data.metrics if not key.startswith(SYSTEM)}
    for name, key in originals(logged, run.data.tags, TAG_METRIC).items():
        for point in client.get_metric_history(run.info.run_id, key):
            curve.setdefault(point.step, {})[name] = point.value
    return {epoch: metrics for epoch, metrics in sorted(curve.items()) if "loss" in metrics}
