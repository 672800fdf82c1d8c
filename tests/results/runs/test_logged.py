"""Finding a trial's run, and loading what was logged of it."""

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
from mnist_sweep.results.runs.find import find_sweep
from mnist_sweep.results.runs.logged import find_run, lineage
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.store import connect
from mnist_sweep.tracking.tags import TAG_TRIAL


def number(run) -> int:
    return int(run.data.tags[TAG_TRIAL])


def test_a_trial_is_found_by_its_runs_id_or_by_its_sweep(project, new: str, other: str) -> None:
    _, run = find_run(new, 3, None)
    assert number(run) == 3
    assert find_run(run.info.run_id, None, None)[1].info.run_id == run.info.run_id
    assert find_run(run.info.run_id[:12], None, None)[1].info.run_id == run.info.run_id
    # The best trial of a sweep, given by its name or its run's id, and of the last sweep.
    assert number(find_run("alpha", None, None)[1]) == 1
    assert number(find_run(find_sweep(new).parent.info.run_id, None, None)[1]) == 1
    assert find_run(None, None, None)[1].data.tags["mnist_sweep.sweep"] == other


@pytest.mark.parametrize(
    ("run", "trial", "complaint"),
    [
        ("alpha", 9, "alpha/2025-01-02_10-00-00: has no trial 9; its trials are 0 to 4"),
        ("0123456789abcdef", None, "rerun 0123456789abcdef: no run ID in sqlite:"),
        ("alfa", None, "no such experiment; did you mean 'alpha'?"),
    ],
)
def test_an_unknown_run_or_trial_is_refused(project, run: str, trial: int | None, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        find_run(run, trial, None)
    assert complaint in str(error.value)


def test_a_trial_without_an_epoch_cannot_be_compared(project, new: str) -> None:
    with pytest.raises(UserError, match=r"trial 2 of alpha/2025-01-02_10-00-00 has logged no epoch"):
        lineage(*find_run(new, 2, None))


def test_curves_are_exact_and_begin_with_the_trials_first_epoch(project, new: str) -> None:
    (found,) = lineage(*find_run(new, 0, None))
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
    client = connect("sqlite:///mlruns/mlflow.db")
    run = find_run("pop/1", 1, None)[1]
    by_journal = lineage(client, run)
    assert [found.trial for found in by_journal] == [first, second]
    assert [found.slot for found in by_journal] == ["cpu0", "cpu1"]
    assert by_journal[1].curves == {
        1: {3: {"loss": 1 / 3}, 4: {"loss": 0.25}},
        2: {3: {"loss": 2 / 3}, 4: {"loss": 0.5}},
    }
    (folder / "journal.jsonl").unlink()
    by_mlflow = lineage(client, run)
    assert [found.trial for found in by_mlflow] == [first, second]
    assert [found.curves for found in by_mlflow] == [found.curves for found in by_journal]
    # An execution's run stands for its trial.
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")[0]
    assert find_run(nested.info.run_id, None, None)[1].info.run_id == run.info.run_id
