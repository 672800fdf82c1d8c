"""Loading what was logged of a trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import EpochEnded, Event, SweepStarted, TrialStarted
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Execution, Trial
from mnist_sweep.results.models.model_run import find_trial
from mnist_sweep.results.runs import logged
from mnist_sweep.results.runs.logged import lineage
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tags import TAG_REASON


def test_only_a_trial_that_failed_may_have_no_epoch(project, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (failed,) = lineage(find_trial(new, 2))
    assert (failed.curves, failed.failed) == ({}, find_trial(new, 2).run.data.tags[TAG_REASON])
    monkeypatch.setattr(logged, "_curve", lambda *_: {})
    with pytest.raises(UserError, match=r"trial 1 of alpha/2025-01-02_10-00-00 has logged no epoch"):
        lineage(find_trial(new, 1))


def test_curves_are_exact_and_begin_with_the_trials_first_epoch(project, new: str) -> None:
    (found,) = lineage(find_trial(new, 0))
    assert [metrics["val_accuracy"] for metrics in found.curves[1].values()] == [0.5, 0.75, 0.625]
    assert found.curves[1][3]["loss"] == 1 / 3
    assert found.trial.config["optimizer"]["learning_rate"] == 0.001
    assert found.sweep_config["search"]["max_trials"] == 20


def test_without_the_journal_executions_and_parents_are_read_from_mlflow(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(template.read_bytes())
    folder = tmp_path / "experiments" / "pop" / "1"
    folder.mkdir(parents=True)
    config = compose.defaults(("name=pop", "tracking.uri=sqlite:///mlruns/mlflow.db"))
    groups = {group: config[group] for group in ("model", "optimizer", "training")}
    executions = [Execution(5, 1, 2), Execution(5, 2, 2)]
    first = Trial(0, {}, groups, config["training"]["epochs"], executions=executions)
    second = replace(first, number=1, initial_epoch=2, parent=0)
    events: list[Event] = [SweepStarted(1.0, "pop/1", config, {}, {"name": "d", "digest": "d", "source": "s"}, {})]
    for trial in (first, second):
        events.append(TrialStarted(2.0, trial, 1, f"cpu{trial.number}"))
        for execution in (1, 2):
            for epoch in range(trial.initial_epoch + 1, trial.initial_epoch + 3):
                events.append(EpochEnded(3.0, trial.number, 1, epoch, {"loss": execution / epoch}, execution))
    view = Recorder(check_settings(config), folder, load_plots)
    with Journal(folder) as journal:
        for event in events:
            journal.handle(event)
            view.handle(event)
    found = find_trial("pop/1", 1)
    by_journal = lineage(found)
    assert [one.trial for one in by_journal] == [first, second]
    assert [one.slot for one in by_journal] == ["cpu0", "cpu1"]
    assert by_journal[1].curves == {
        1: {3: {"loss": 1 / 3}, 4: {"loss": 0.25}},
        2: {3: {"loss": 2 / 3}, 4: {"loss": 0.5}},
    }
    (folder / "journal.jsonl").unlink()
    by_mlflow = lineage(found)
    assert [one.trial for one in by_mlflow] == [first, second]
    assert [one.curves for one in by_mlflow] == [one.curves for one in by_journal]
    # An execution's run stands for its trial.
    info = found.run.info
    nested = found.client.search_runs([info.experiment_id], f"tags.`mlflow.parentRunId` = '{info.run_id}'")[0]
    assert find_trial(nested.info.run_id).run.info.run_id == info.run_id
