"""What each event of a sweep writes to MLflow."""

from __future__ import annotations

import dataclasses
import getpass
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from stories import DATA, SPACE, START, SWEEP, VERSIONS, Logged, Story, elsewhere

from mnist_sweep.common.errors import UserError
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import (
    NO_SLOT,
    AttemptFailed,
    Confirmed,
    EpochEnded,
    ExecutionEnded,
    SettingsChanged,
    SlotClosed,
    SlotOpened,
    SweepPaused,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
    WinnerTested,
)
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Execution, Outcome, Retrains, Status, Trial
from mnist_sweep.results.runs import find_sweep, load_runs
from mnist_sweep.results.runs.source import space_of
from mnist_sweep.tracking import saved_view, store
from mnist_sweep.tracking.recorder import Recorder, hyperparameters
from mnist_sweep.tracking.tags import (
    PARENT_TAG,
    TAG_ADDED_BY,
    TAG_CONFIRMS,
    TAG_EXECUTION,
    TAG_KIND,
    TAG_NOTE,
    TAG_OBJECTIVE,
    TAG_RANK,
    TAG_REASON,
    TAG_SLOT,
    TAG_STATUS,
    TAG_STEERED,
    TAG_STOPPED_BY,
    TAG_SWEEP,
    TAG_WINNER,
)
from mnist_sweep.tracking.tracker import Tracker


def test_each_started_trial_has_a_run_nested_in_the_parent_run(logged):
    assert list(logged.trials) == [0, 1, 2, 3, 4]
    assert {run.data.tags["mlflow.parentRunId"] for run in logged.trials.values()} == {logged.parent.info.run_id}
    assert "mlflow.parentRunId" not in logged.parent.data.tags
    assert logged.parent.info.run_name == "story 2025-01-01 10:00"
    names = [run.info.run_name for run in logged.trials.values()]
    assert names == [f"trial {n}: {'16 units, sgd' if n == 1 else '64 units'}" for n in range(5)]


def test_runs_end_as_their_trials_did(logged):
    statuses = [run.info.status for run in logged.trials.values()]
    assert statuses == ["FINISHED", "FINISHED", "FAILED", "FAILED", "FINISHED"]
    assert logged.parent.info.status == "FINISHED"
    statuses = [run.data.tags[TAG_STATUS] for run in logged.trials.values()]
    assert statuses == ["completed", "stopped", "failed", "failed", "completed"]
    reasons = [run.data.tags[TAG_REASON] for run in logged.trials.values()]
    assert reasons == [
        "",
        "the time budget of 1m is used up",
        "the loss became nan in epoch 1",
        "its worker was killed by SIGSEGV",
        "",
    ]
    assert logged.parent.data.tags[TAG_STATUS] == "completed"
    assert logged.parent.data.tags[TAG_REASON] == "the time budget of 1m is used up"


def test_runs_start_and_end_at_the_times_of_their_events(logged):
    assert logged.parent.info.start_time == 1000 * (START + 1)
    assert logged.parent.info.end_time == max(run.info.end_time for run in logged.runs)
    # The second trial was asked for after seven events.
    assert logged.trials[0].info.start_time == 1000 * (START + 3)
    for run in logged.trials.values():
        assert logged.parent.info.start_time < run.info.start_time < run.info.end_time <= logged.parent.info.end_time


def test_parameters_are_those_in_use(logged):
    assert logged.trials[0].data.params == {
        "model.kind": "mlp",
        "model.layers": "1",
        "model.units": "64",
        "model.dropout": "0.25",
        "optimizer.name": "adam",
        "optimizer.learning_rate": "0.00123457",
        "training.epochs": "3",
        "training.seed": "1",
    }


def test_inactive_parameters_are_left_out_and_layers_are_numbered(logged):
    assert logged.trials[1].data.params == {
        "model.kind": "mlp",
        "model.layers": "1",
        "model.units.1": "16",
        "model.dropout": "0",
        "optimizer.name": "sgd",
        "optimizer.nesterov": "True",
        "optimizer.learning_rate": "0.1",
        "training.epochs": "3",
        "training.seed": "1",
        "training.early_stopping.min_delta": "0",
    }


def test_the_parent_run_has_the_whole_config_and_the_space(told, logged):
    params = logged.parent.data.params
    assert params["space.model.units"] == "choice(16, 64)"
    assert params["model.units"] == "choice(16,64)"
    assert params["search.max_trials"] == "20"
    shared = {key: value for key, value in told.config.items() if key not in ("tracking", "notify")}
    assert yaml.safe_load(logged.read(logged.parent, "config.yaml")) == shared
    assert yaml.safe_load(logged.read(logged.parent, "space.yaml")) == SPACE


def test_the_config_of_a_trial_is_complete(told, logged):
    config = yaml.safe_load(logged.read(logged.trials[1], "config.yaml"))
    assert config["model"]["units"] == [16]
    assert {key: config[key] for key in ("name", "seed", "objective", "data")} == {
        key: told.config[key] for key in ("name", "seed", "objective", "data")
    }


@pytest.mark.parametrize(
    ("trial", "metric", "points"),
    [
        (0, "val_accuracy", [(1, 0.5), (2, 0.625), (3, 0.75)]),
        (0, "loss", [(1, 1.0), (2, 0.5), (3, 0.25)]),
        (0, "best_val_accuracy", [(0, 0.75)]),
        (0, "best_epoch", [(0, 3.0)]),
        (0, "parameters", [(0, 1234.0)]),
        (0, "seconds", [(0, 2.5)]),
        (1, "val_accuracy", [(1, 0.25)]),
        (2, "seconds", [(0, 0.5)]),
        (2, "val_accuracy", []),
        (2, "best_val_accuracy", []),
        (3, "val_accuracy", [(1, 0.875)]),
        (3, "best_val_accuracy", []),
        (4, "val_accuracy", [(4, 0.5)]),
    ],
)
def test_metrics_of_trials(logged, trial, metric, points):
    assert logged.history(logged.trials[trial], metric) == points


def test_the_parent_run_has_the_best_score_so_far_after_each_trial(logged):
    assert logged.history(logged.parent, "best_val_accuracy") == [(n, 0.75) for n in (1, 2, 3, 4, 5)]


def test_a_failed_attempt_is_logged_as_a_tag_and_its_output_as_a_file(logged):
    assert logged.trials[0].data.tags["mnist_sweep.attempt_1"] == "its worker was killed by SIGKILL"
    assert logged.read(logged.trials[0], "attempt_1.log") == b"Killed\n"


def test_the_workers_output_is_logged_if_a_trial_fails(logged):
    assert logged.read(logged.trials[3], "worker.log") == b"Segmentation fault\n"


def test_a_trial_that_continues_from_another_names_it(logged):
    assert logged.trials[4].data.tags["mnist_sweep.goes_on_from"] == "trial 0"
    assert "mnist_sweep.goes_on_from" not in logged.trials[0].data.tags


def test_a_trial_names_the_slot_of_its_last_attempt(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.tell(AttemptFailed, 0, 1, "its worker was killed by SIGKILL")
    story.tell(TrialStarted, story.events[-2].trial, 2, "gpu1")
    story.tell(SlotOpened, "gpu1.1", "gpu1 has trained one trial at a time so far")
    story.tell(SlotClosed, "gpu1.1", "gpu1 trains 0.99 times as much")
    story.ends(0, 0.5)
    story.tracker.close()
    for logged in (Logged(story.uri), story.replay()):
        assert logged.trials[0].data.tags[TAG_SLOT] == "gpu1"
        tags = logged.parent.data.tags
        assert tags["mnist_sweep.opened_gpu1.1"] == "gpu1 has trained one trial at a time so far"
        assert tags["mnist_sweep.closed_gpu1.1"] == "gpu1 trains 0.99 times as much"


def test_every_run_is_tagged_with_objective_data_and_versions(logged):
    for run in logged.runs:
        tags = run.data.tags
        assert tags[TAG_SWEEP] == SWEEP
        assert tags[TAG_OBJECTIVE] == "val_accuracy max"
        assert tags["data.name"] == "mnist_5k"
        assert tags["data.digest"] == DATA["digest"]
        assert tags["data.fallback_for"] == "mnist"
        assert tags["data.training_images"] == "3600"
        assert tags["version.keras"] == "3.15.0"
        assert tags["mlflow.source.git.commit"] == "c0ffee"
        assert "version.commit" not in tags


def test_every_run_has_the_data_as_its_input(logged):
    for run in logged.runs:
        (given,) = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("mnist_5k", DATA["digest"])
        assert json.loads(given.dataset.profile)["test_images"] == 1000
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_files_of_each_run(logged):
    assert {number: logged.artifacts(run) for number, run in logged.trials.items()} == {
        0: [
            "attempt_1.log",
            "config.yaml",
            "confusion_matrix.json",
            "confusion_matrix.png",
            "learning_curves.png",
            "model.h5",
            "sample_predictions.npz",
        ],
        # One epoch makes no curve.
        1: ["config.yaml", "model.h5", "sample_predictions.npz"],
        2: ["config.yaml"],
        3: ["config.yaml", "worker.log"],
        4: ["config.yaml", "model.h5", "sample_predictions.npz"],
    }
    assert logged.artifacts(logged.parent) == [
        "config.yaml",
        "confusion_matrix.json",
        "confusion_matrix.png",
        "space.yaml",
    ]
    assert logged.read(logged.trials[4], "model.h5") == b"model 4"
    assert logged.read(logged.trials[0], "learning_curves.png").startswith(b"\x89PNG")


def test_the_winner_is_marked_and_its_test_is_on_both_runs(logged):
    winner, others = logged.trials[0], [logged.trials[n] for n in (1, 2, 3, 4)]
    for run in (winner, logged.parent):
        assert run.data.metrics["test_accuracy"] == 0.6875
        assert run.data.metrics["test_loss"] == 0.5
        matrix = json.loads(logged.read(run, "confusion_matrix.json"))
        assert list(matrix.values()) == [[[5, 1], [0, 4]]]
    assert winner.data.tags[TAG_WINNER] == "true"
    assert logged.parent.data.tags[TAG_WINNER] == "0"
    for run in others:
        assert TAG_WINNER not in run.data.tags
        assert "test_accuracy" not in run.data.metrics


def models(story: Story, logged: Logged) -> tuple[list[int], list[int]]:
    """Returns the trials whose models are in MLflow, and those whose models are in the sweep folder."""
    in_mlflow = [number for number, run in logged.trials.items() if "model.h5" in logged.artifacts(run)]
    return in_mlflow, [n for n in logged.trials if (trial_folder(story.folder, n) / "model.h5").exists()]


@pytest.mark.parametrize(
    ("keep", "objective", "kept"),
    [
        ("all", "val_accuracy max", [0, 1, 2, 3]),
        ("best", "val_accuracy max", [2]),
        (1, "val_accuracy max", [2]),
        (2, "val_accuracy max", [0, 2]),
        (9, "val_accuracy max", [0, 1, 2, 3]),
        ("best", "val_loss min", [3]),
        (2, "val_loss min", [1, 3]),
    ],
)
def test_models_that_are_not_kept_are_deleted_immediately(make_story, keep, objective, kept):
    story = make_story({"objective": objective}, keep_models=keep)
    story.starts()
    for number, score in enumerate((0.75, 0.5, 0.875, 0.25)):
        story.trial(number)
        story.ends(number, score)
    logged = story.logged()
    assert story.tracker.error is None
    assert models(story, logged) == (kept, kept)
    assert all("sample_predictions.npz" in logged.artifacts(run) for run in logged.trials.values())


@pytest.mark.parametrize("keep", ["best", 1])
def test_of_several_objectives_every_member_of_the_pareto_front_keeps_its_model(make_story, keep):
    story = make_story({"objective": ["val_accuracy max", "parameters min"]}, keep_models=keep)
    story.starts()
    # Trial 1 was on the front until trial 3 ended, and trial 4 never was.
    for number, (score, size) in enumerate([(0.5, 10.0), (0.75, 30.0), (0.875, 40.0), (0.75, 20.0), (0.75, 50.0)]):
        story.trial(number)
        story.ends(number, score, metrics={"parameters": size})
    assert models(story, story.logged()) == ([0, 2, 3], [0, 2, 3])


def test_only_the_kept_models_stay_in_the_sweep_folder(make_story):
    story = make_story(keep_models=2)
    story.starts()
    for number in range(6):
        story.trial(number)
        story.ends(number, 0.5 + number / 10)
    assert models(story, story.logged()) == ([4, 5], [4, 5])


def test_of_trials_with_equal_scores_the_winners_model_is_kept(make_story):
    story = make_story(keep_models="best")
    story.starts()
    for number in (0, 1):
        story.trial(number)
    results = Ranking(story.settings.objectives)
    for number in (1, 0):
        story.ends(number, 0.75)
        results.trials[number] = Trial(number, {}, {}, 3)
        results.end(number, Outcome(Status.COMPLETED, score=0.75))
    # The sweep tests the model in its folder next.
    winner = results.winner()
    assert models(story, story.logged()) == ([winner], [winner])


def test_the_same_models_are_kept_in_another_store(make_story, tmp_path, template):
    shutil.copy(template, tmp_path / "other.db")
    story = make_story(keep_models="best")
    story.starts()
    for number, score in enumerate((0.5, 0.75, 0.25)):
        story.trial(number)
        story.ends(number, score)
    assert models(story, story.logged()) == ([1], [1])
    assert models(story, story.replay(f"sqlite:///{tmp_path}/other.db")) == ([1], [1])


def test_a_trial_without_a_score_has_no_model_and_displaces_none(make_story):
    story = make_story(keep_models=1)
    story.starts()
    for number, score in enumerate((0.75, None)):
        story.trial(number)
        story.ends(number, score, status=Status.COMPLETED if score else Status.FAILED)
    logged = story.logged()
    assert models(story, logged) == ([0], [0])
    assert logged.artifacts(logged.trials[1]) == ["config.yaml"]


def test_smaller_scores_may_be_better(make_story):
    story = make_story({"objective": "val_loss min"})
    story.starts()
    for number, score in enumerate((0.5, 0.75, 0.25)):
        story.trial(number)
        story.ends(number, score)
    logged = story.logged()
    assert logged.history(logged.parent, "best_val_loss") == [(1, 0.5), (2, 0.5), (3, 0.25)]
    assert logged.parent.data.tags[TAG_OBJECTIVE] == "val_loss min"


def test_a_trial_that_was_refused_has_no_slot_and_one_that_diverged_has_a_result(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    reason = "diverged after epoch 1: the loss became nan in epoch 2; best epoch 1 kept"
    story.ends(0, 0.5, status=Status.DIVERGED, reason=reason)
    story.tell(TrialStarted, Trial(1, {}, {}, 3), 1, NO_SLOT)
    story.ends(1, status=Status.REFUSED, reason="too small")
    story.ended()
    diverged, refused = story.logged().trials.values()
    assert (diverged.info.status, diverged.data.tags[TAG_STATUS]) == ("FINISHED", "diverged")
    assert diverged.data.tags[TAG_NOTE] == f"Ended: {reason}."
    assert diverged.data.metrics["best_val_accuracy"] == 0.5
    assert (refused.info.status, refused.data.tags[TAG_STATUS]) == ("KILLED", "refused")
    assert TAG_SLOT not in refused.data.tags


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (Status.COMPLETED, "", "FINISHED"),
        (Status.STOPPED, "stopped by Ctrl-C", "KILLED"),
        (Status.FAILED, "no trial has a result", "FAILED"),
    ],
)
def test_the_parent_run_ends_as_the_sweep_did(make_story, status, reason, expected):
    story = make_story()
    story.starts()
    story.ended(status, reason, None)
    logged = story.logged()
    assert logged.parent.info.status == expected
    assert logged.parent.data.tags[TAG_STATUS] == str(status)
    assert logged.parent.data.tags[TAG_REASON] == reason
    assert logged.trials == {}


def test_real_data_are_not_tagged_as_a_fallback(make_story):
    story = make_story()
    story.starts(fallback_for=None)
    assert "data.fallback_for" not in story.logged().parent.data.tags


@pytest.mark.parametrize("description", [None, "Wide against deep."])
def test_the_parents_note_starts_with_the_description(make_story, description):
    story = make_story({"description": description})
    story.starts()
    assert story.logged().parent.data.tags[TAG_NOTE] == (description or "A sweep of story.")


def test_the_parents_note_shows_progress_and_then_the_result(make_story, told, logged):
    story = make_story()
    story.starts()
    story.trial(0)
    story.ends(0, 0.75)
    running = story.logged().parent.data.tags[TAG_NOTE]
    assert "1 of 20 trials have ended." in running
    assert "Best so far: trial 0, val_accuracy 0.7500." in running
    note = logged.parent.data.tags[TAG_NOTE]
    assert "**Winner: trial 0**, val_accuracy 0.7500; on the test data: test_loss 0.5000" in note
    assert "| 1 | 0 | 64 units | 0.7500 | 2.5 s |" in note
    assert "| `model.units` | `choice(16, 64)` |" in note
    assert f"python -m mnist_sweep export {SWEEP} --to exported" in note
    assert "Running" not in note


def test_notes_of_trials_say_what_their_numbers_do_not(logged):
    notes = {number: run.data.tags.get(TAG_NOTE) for number, run in logged.trials.items()}
    assert notes == {
        0: "**The sweep's model.** On the test data: test_loss 0.5000, test_accuracy 0.6875.",
        1: "Stopped: the time budget of 1m is used up.",
        2: "Failed: the loss became nan in epoch 1.",
        3: "Failed: its worker was killed by SIGSEGV.",
        4: "Continues from the weights of trial 0, after epoch 3.",
    }


def test_the_experiment_has_the_sweeps_view(told, logged):
    experiment = logged.client.get_experiment(logged.parent.info.experiment_id)
    (view,) = [key for key in experiment.tags if key.startswith(saved_view.TAG)]
    assert view == saved_view.TAG + saved_view.key(SWEEP)
    assert experiment.tags[view] == saved_view.tags_of_run(logged.parent)[view]


def test_the_trials_of_a_sweep_that_has_ended_have_their_rank(logged):
    ranks = [run.data.tags.get(TAG_RANK) for run in logged.trials.values()]
    assert ranks == ["0001 (winner)", "0003", None, None, "0002"]


def test_the_experiment_keeps_the_latest_sweeps_views_and_those_of_users(make_story):
    story = make_story()
    story.starts()
    story.tracker.close()
    client = store.connect(story.uri)
    experiment = client.get_experiment_by_name("story").experiment_id
    for n in range(saved_view.MOST):
        client.set_experiment_tag(experiment, f"{saved_view.TAG}sweep-2025-02-{n:02}", "{}")
    client.set_experiment_tag(experiment, f"{saved_view.TAG}0123abcd", "{}")
    again = Recorder(story.settings, story.folder, load_plots)
    again.handle(dataclasses.replace(story.events[0], sweep="story/2025-03-01"))
    tags = client.get_experiment(experiment).tags
    views = sorted(tag.removeprefix(saved_view.TAG) for tag in tags if tag.startswith(saved_view.TAG))
    assert views[0] == "0123abcd"
    assert len(views) == saved_view.MOST + 1
    assert views[-1] == "sweep-2025-03-01"
    assert "sweep-2025-01-01_10-00-00" not in views


def test_a_winner_that_could_not_be_tested_is_still_the_winner(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.ends(0, 0.5)
    story.tell(WinnerTested, 0, {}, [], "OSError: model.h5 is gone")
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    assert logged.parent.data.tags[TAG_WINNER] == "0"
    assert "test_accuracy" not in logged.parent.data.metrics
    assert "confusion_matrix.png" not in logged.artifacts(logged.parent)


def test_the_tests_files_are_logged_with_the_winner_while_they_exist(make_story, template, tmp_path):
    story = make_story()
    story.starts()
    for number, more in ((0, {}), (1, {"confirms": 0})):
        story.trial(number, **more)
        story.ends(number, 0.5)
    folder = trial_folder(story.folder, 1)
    names = {"test_details.npz", "data_profile.npz"}
    for name in names:
        (folder / name).write_bytes(name.encode())
    story.tell(WinnerTested, 1, {"test_loss": 0.5, "test_accuracy": 0.5}, [[1, 0], [0, 1]])
    logged = story.logged()
    assert story.tracker.error is None
    for run in (logged.parent, *logged.trials.values()):
        assert names <= set(logged.artifacts(run))
        assert logged.read(run, "data_profile.npz") == b"data_profile.npz"
    for name in names:
        (folder / name).unlink()
    shutil.copy(template, tmp_path / "mlflow.db")
    again = story.replay(f"sqlite:///{tmp_path}/mlflow.db")
    assert not names & set(again.artifacts(again.trials[1]))
    assert "confusion_matrix.png" in again.artifacts(again.trials[1])


@pytest.mark.parametrize(
    ("target", "arrays", "plots"),
    [
        ({"targets": 1}, {"true": np.arange(4.0), "predicted": np.ones((4, 1))}, {"predicted_and_true", "residuals"}),
        ({"classes": 2}, {"true": np.arange(4) % 2, "predicted": np.ones((4, 1))}, {"precision_recall", "roc"}),
    ],
)
def test_the_plots_of_the_test_fit_the_task(make_story, target, arrays, plots):
    story = make_story()
    data = {key: value for key, value in DATA.items() if key != "classes"} | target
    story.tell(SweepStarted, SWEEP, story.config, SPACE, data, VERSIONS)
    story.trial(0)
    story.ends(0, 0.5)
    np.savez(trial_folder(story.folder, 0) / "test_details.npz", **arrays)
    story.tell(WinnerTested, 0, {"test_loss": 0.5}, [])
    logged = story.logged()
    assert story.tracker.error is None
    for run in (logged.parent, logged.trials[0]):
        assert {f"{name}.png" for name in plots} <= set(logged.artifacts(run))
        assert "confusion_matrix.png" not in logged.artifacts(run)


def test_metrics_that_are_not_finite_do_not_matter(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=float("nan"), val_loss=float("inf"))
    story.ends(0, 0.5)
    assert story.logged().history(story.logged().trials[0], "val_accuracy") == [(1, 0.5)]
    assert story.tracker.error is None


def test_the_stores_password_is_not_logged(make_story):
    story = make_story()
    uri = "postgresql://ann:SECRET@box/mlflow"
    story.starts({**story.config, "tracking": {**story.config["tracking"], "uri": uri}})
    logged = story.logged()
    assert "SECRET" not in str(logged.parent.data.params)
    assert b"SECRET" not in logged.read(logged.parent, "config.yaml")


def test_an_interrupted_trial_is_stopped_and_continues_in_its_own_run(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ended(Status.STOPPED, "stopped by Ctrl-C", None)
    resting = story.logged()
    assert resting.parent.info.status == resting.trials[0].info.status == "KILLED"
    assert resting.trials[0].data.tags[TAG_REASON] == "stopped by Ctrl-C"
    # The next process replays the old events, then sends new ones.
    story.tracker = Tracker(story.settings, story.folder, load_plots)
    for event in story.events:
        story.tracker.handle(event)
    story.tell(SweepResumed, story.config)
    story.trial(0)
    story.epoch(0, 2, val_accuracy=0.75, loss=0.5)
    story.ends(0, 0.75, best_epoch=2)
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    assert [run.info.run_id for run in logged.trials.values()] == [resting.trials[0].info.run_id]
    assert logged.parent.info.status == logged.trials[0].info.status == "FINISHED"
    assert logged.trials[0].data.tags[TAG_STATUS] == "completed"
    assert logged.trials[0].data.tags[TAG_REASON] == ""
    assert logged.history(logged.trials[0], "val_accuracy") == [(1, 0.5), (2, 0.75)]
    # As `sync` and later resumptions do: the trial was interrupted once, but has ended since.
    Recorder(story.settings, story.folder, load_plots).handle(*story.events)
    again = story.logged()
    assert again.trials[0].info.status == "FINISHED"
    assert again.trials[0].data.tags[TAG_STATUS] == "completed"


def test_a_trial_that_is_retried_by_wish_has_a_new_run_and_keeps_the_failed_one_out_of_sight(
    make_story, tmp_path, template
):
    story = make_story()
    story.starts()
    for number in (0, 1):
        story.trial(number, executions=[Execution(1), Execution(2)] if number else [])
        story.epoch(number, 1, val_accuracy=0.5, loss=1.0)
    story.epoch(1, 2, val_accuracy=0.75, loss=1.0)
    story.ends(0, 0.5)
    story.ends(1, status=Status.FAILED, reason="a bug", log="Traceback")
    story.ended()
    before = story.logged().trials[1].info.run_id
    story.tracker = Tracker(story.settings, story.folder, load_plots)
    for event in story.events:
        story.tracker.handle(event)
    story.tell(SweepResumed, story.config)
    story.tell(TrialsRetried, [1])
    story.trial(1, executions=[Execution(1), Execution(2)])
    for execution in (1, 2):
        story.tell(EpochEnded, 1, 2, 1, {"val_accuracy": 0.25, "loss": 2.0}, execution)
        story.tell(ExecutionEnded, 1, execution, Outcome(Status.COMPLETED, score=0.25, best_epoch=1))
    story.ends(1, 0.25, scores=[0.25, 0.25])
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    run = logged.trials[1]
    assert run.info.run_id != before
    assert (run.info.status, run.data.tags[TAG_STATUS]) == ("FINISHED", "completed")
    assert logged.history(run, "val_accuracy") == [(1, 0.25)]
    failed = logged.client.get_run(before)
    assert (failed.data.tags[TAG_KIND], failed.data.tags[TAG_REASON]) == ("attempt", "a bug")
    assert failed.data.tags[PARENT_TAG] == run.info.run_id
    kinds = Counter(run.data.tags[TAG_KIND] for run in logged.runs)
    assert kinds == {"sweep": 1, "trial": 2, "execution": 2, "attempt": 2}
    # Also in another store, handled once or twice, one by one or together.
    everything = logged.everything()
    recorder, uri = elsewhere(story, tmp_path, template)
    recorder.handle(*story.events)
    assert Logged(uri).everything() == everything
    for event in story.events:
        recorder.handle(event)
    other = Logged(uri)
    assert other.everything() == everything
    nested = {run.data.tags[PARENT_TAG] for run in other.runs if run.data.tags[TAG_KIND] == "attempt"}
    assert other.trials[1].info.run_id in nested
    assert other.parent.info.run_id not in nested
    for count in range(len(story.events) - 6, len(story.events), 2):
        story.replay(count=count)
        assert story.replay().everything() == everything


def test_a_better_winner_of_a_resumed_sweep_takes_over_the_mark(make_story):
    story = make_story()
    story.starts()
    for number, score in ((0, 0.5), (1, 0.75)):
        story.trial(number)
        story.ends(number, score)
        story.tell(WinnerTested, number, {"test_loss": 0.5, "test_accuracy": score}, [[1, 0], [0, 1]])
        story.ended(winner=number)
        story.tell(SweepResumed, story.config, {}, {"model.units": "choice(16, 32, 64)"} if number else {})
    logged = story.logged()
    assert space_of(logged.parent.data.params, logged.parent.data.tags)["model.units"] == "choice(16, 32, 64)"
    assert logged.parent.data.tags[TAG_WINNER] == "1"
    assert logged.parent.data.metrics["test_accuracy"] == 0.75
    marks = [run.data.tags[TAG_WINNER] for run in logged.trials.values()]
    assert marks == ["false", "true"]


def test_the_config_of_a_resumed_sweep_has_its_larger_budget(make_story):
    story = make_story()
    story.starts()
    larger = {**story.config, "search": {**story.config["search"], "max_trials": 77}}
    story.tell(SweepResumed, larger)
    logged = story.logged()
    assert yaml.safe_load(logged.read(logged.parent, "config.yaml"))["search"]["max_trials"] == 77
    assert yaml.safe_load(logged.read(logged.parent, "space.yaml")) == SPACE


def test_a_user_may_have_no_name(make_story, monkeypatch):
    def nobody() -> str:
        # As Python 3.11 and 3.12 do in a container with a user id without a name; later versions raise an OSError.
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    story = make_story()
    story.starts()
    assert len(story.logged().runs) == 1


@pytest.mark.parametrize(
    ("config", "values", "inactive", "expected"),
    [
        ({"model": {"units": 64}}, {}, [], {"model.units": 64}),
        ({"model": {"dense": {"units": 64}}}, {}, [], {"model.dense.units": 64}),
        ({"model": {"units": [64, 32]}}, {}, [], {"model.units": [64, 32]}),
        ({"model": {"units": 64}}, {"model.units": 64}, [], {"model.units": 64}),
        # Missing values are left out; false and zero are values.
        ({"model": {"builder": None, "per_layer": [], "more": {}}}, {}, [], {}),
        (
            {"model": {"l2": 0.0, "batch_normalization": False}},
            {},
            [],
            {"model.l2": 0.0, "model.batch_normalization": False},
        ),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, {}, ["optimizer.momentum"], {"optimizer.name": "adam"}),
        (
            {"model": {"units": [16, 32]}},
            {"model.units.1": 16, "model.units.2": 32},
            [],
            {"model.units.1": 16, "model.units.2": 32},
        ),
        ({"model": {"units": [16]}}, {"model.units.1": 16}, ["model.units.2"], {"model.units.1": 16}),
        # Unless nothing augments images.
        ({"augment": {"shift": 0.0, "fill": "wrap", "flip": None}}, {}, [], {}),
        (
            {"augment": {"shift": 0.0, "zoom": 0.1, "flip": None}},
            {},
            [],
            {"augment.shift": 0.0, "augment.zoom": 0.1},
        ),
    ],
)
def test_hyperparameters_have_flat_names(config, values, inactive, expected):
    found = hyperparameters(Trial(0, values, config, 1, inactive=inactive))
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {k: type(v) for k, v in expected.items()}


def test_per_layer_values_are_left_out_if_there_is_no_layer():
    inactive = ["model.units.1", "model.units.2"]
    found = hyperparameters(Trial(0, {"model.layers": 0}, {"model": {"layers": 0, "units": []}}, 1, inactive=inactive))
    assert found == {"model.layers": 0}


def test_a_trial_stopped_in_its_first_execution_has_that_ones_curve(make_story):
    story = make_story()
    story.starts()
    story.trial(0, executions=[Execution(1, 1, 2), Execution(1, 2, 2)])
    for epoch, score in ((1, 0.5), (2, 0.7)):
        story.tell(EpochEnded, 0, 1, epoch, {"val_accuracy": score}, 1)
    story.ends(0, 0.7, status=Status.STOPPED, reason="hopeless")
    story.ended()
    story.tracker.close()
    logged = Logged(story.uri)
    assert logged.history(logged.trials[0], "val_accuracy") == [(1, 0.5), (2, 0.7)]
    assert "learning_curves.png" in logged.artifacts(logged.trials[0])


def test_executions_are_runs_nested_in_their_trial(make_story, tmp_path, template):
    story = make_story()
    story.starts()
    story.trial(0, executions=[Execution(1, 1, 2), Execution(1, 2, 2)])
    for execution, scores in ((1, (0.5, 0.7)), (2, (0.6, 0.9))):
        for epoch, score in enumerate(scores, start=1):
            story.tell(EpochEnded, 0, 1, epoch, {"val_accuracy": score}, execution)
        story.tell(ExecutionEnded, 0, execution, Outcome(Status.COMPLETED, score=scores[1], best_epoch=2, seconds=3.0))
    story.ends(0, 0.8, scores=[0.7, 0.9])
    story.ended()
    story.tracker.close()
    for logged in (Logged(story.uri), story.replay()):
        trial = logged.trials[0]
        runs = {r.data.tags[TAG_EXECUTION]: r for r in logged.runs if TAG_EXECUTION in r.data.tags}
        assert sorted(runs) == ["1", "2"]
        assert all(run.data.tags[PARENT_TAG] == trial.info.run_id for run in runs.values())
        assert all(run.info.status == "FINISHED" and run.inputs.dataset_inputs for run in runs.values())
        assert runs["2"].data.params == {"seed": "1", "fold": "2", "folds": "2"}
        assert runs["2"].data.metrics["best_val_accuracy"] == 0.9
        assert logged.history(runs["1"], "val_accuracy") == [(1, 0.5), (2, 0.7)]
        assert logged.history(trial, "val_accuracy") == [(1, pytest.approx(0.55)), (2, pytest.approx(0.8))]
        assert trial.info.run_name == "trial 0: 64 units"
        assert trial.data.metrics["best_val_accuracy_std"] == pytest.approx(0.1414, abs=1e-4)
        assert "learning_curves.png" in logged.artifacts(trial)


@pytest.mark.parametrize(("keep", "models"), [("all", [0, 1, 2, 3]), ("best", [1, 3])])
def test_retrained_trials_name_the_trial_they_confirm_and_one_of_them_is_the_model(make_story, keep, models):
    story = make_story(keep_models=keep)
    story.starts()
    for number, score in ((0, 0.8), (1, 0.9)):
        story.trial(number)
        story.ends(number, score)
    for number, score in ((2, 0.95), (3, 0.97)):
        story.trial(number, confirms=1)
        story.ends(number, score)
    candidate = {"trial": 1, "scores": {"1001": 0.95, "1002": 0.97}, "mean": 0.96, "std": 0.014}
    story.tell(Confirmed, [candidate], 1, 3, None)
    story.tell(WinnerTested, 3, {"test_accuracy": 0.94, "test_loss": 0.2}, [[1, 0], [0, 1]])
    story.ended(winner=1)
    logged = story.logged()
    assert logged.parent.data.metrics["best_val_accuracy"] == 0.9
    assert logged.trials[3].data.tags[TAG_CONFIRMS] == "1"
    assert logged.trials[3].data.tags[TAG_WINNER] == "true"
    assert logged.trials[1].data.metrics["confirmed_val_accuracy"] == 0.96
    assert [n for n, run in logged.trials.items() if "test_accuracy" in run.data.metrics] == [1, 3]
    assert json.loads(logged.read(logged.parent, "confirmed.json"))["candidates"] == [candidate]
    assert [n for n, run in logged.trials.items() if "model.h5" in logged.artifacts(run)] == models
    assert [n for n in logged.trials if (trial_folder(story.folder, n) / "model.h5").exists()] == models


def test_several_objectives_are_plotted_and_each_has_its_score(make_story, plain_config):
    story = make_story({**plain_config, "objective": ["val_accuracy max", "parameters min"]})
    story.starts()
    for number, (score, size) in enumerate([(0.8, 100.0), (0.9, 300.0), (0.7, 200.0)]):
        story.trial(number)
        story.ends(number, score, metrics={"parameters": size})
    story.ended()
    logged = story.logged()
    assert "pareto_front.png" in logged.artifacts(logged.parent)
    assert [run.data.metrics["best_parameters"] for run in logged.trials.values()] == [100.0, 300.0, 200.0]
    assert logged.parent.data.tags[TAG_OBJECTIVE] == "val_accuracy max, parameters min"


def test_a_retrained_trial_is_no_trial_of_a_sweep_and_its_run_names_the_one_that_it_retrains(make_story):
    story = make_story({"description": "Retrains trial 7."})
    retrains = Retrains("story/2025-01-01_10-00-00", 7, "run7")
    name = "story/2025-01-01_10-00-00/retrained-7"
    story.tell(SweepStarted, name, story.config, {}, DATA, VERSIONS, [], [], retrains)
    story.trial(0)
    story.epoch(0, 1, loss=0.5, val_accuracy=0.75)
    story.ends(0, 0.75)
    story.ended()
    for logged in (story.logged(), story.replay()):
        runs = {run.data.tags[TAG_KIND]: run for run in logged.runs}
        assert len(logged.runs) == 2
        assert runs["retraining"].info.run_name == "story 2025-01-01 10:00 trial 7 retrained"
        assert runs["retrained"].data.tags[PARENT_TAG] == runs["retraining"].info.run_id
        for run in runs.values():
            tags = run.data.tags
            assert [tags[f"mnist_sweep.retrains{of}"] for of in ("", "_trial", "_run")] == [retrains.sweep, "7", "run7"]
        assert "model.h5" in logged.artifacts(runs["retrained"])
    # It is found by its own name only.
    assert find_sweep(name, story.uri).winner().info.run_id == runs["retrained"].info.run_id
    with pytest.raises(UserError, match="no such sweep"):
        find_sweep(retrains.sweep, story.uri)
    assert load_runs(query="metrics.best_val_accuracy > 0", tracking_uri=story.uri).empty
    # Its view in MLflow shows it, however the view is saved.
    saved = logged.client.get_experiment_by_name("story").tags
    (view,) = [tag for tag in saved if tag.startswith(saved_view.TAG)]
    assert saved_view.tags_of_run(runs["retraining"]) == {view: saved[view]}


def test_what_users_changed_is_in_the_tags_and_the_description(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.tell(TrialStopped, "ada@box", 7, 0)
    story.tell(TrialAdded, "bob@box", 8, 1, {"model.units": 64})
    story.ends(0, 0.5, status=Status.STOPPED, reason="stopped by ada@box")
    story.trial(1, added_by="bob@box")
    story.tell(SweepPaused, "ada@box", 7)
    story.tell(SettingsChanged, "ada@box", 7, {"search.max_trials": 9, "model.units": "choice(64)"})
    story.tracker.close()
    running = Logged(story.uri).parent.data.tags
    assert "of 9 trials" in running[TAG_NOTE]
    assert "**Paused**" in running[TAG_NOTE]
    assert "| ada@box | stopped trial 0 |" in running[TAG_NOTE]
    assert [(change["by"], change["what"]) for change in json.loads(running[TAG_STEERED])] == [
        ("ada@box", "stopped trial 0"),
        ("bob@box", "added trial 1: units=64"),
        ("ada@box", "paused the sweep"),
        ("ada@box", "set search.max_trials=9, narrowed model.units=choice(64)"),
    ]
    logged = Logged(story.uri)
    assert yaml.safe_load(logged.read(logged.parent, "config.yaml"))["search"]["max_trials"] == 9
    trials = logged.trials
    assert trials[0].data.tags[TAG_STOPPED_BY] == "ada@box"
    assert trials[1].data.tags[TAG_ADDED_BY] == "bob@box"
    assert TAG_ADDED_BY not in trials[0].data.tags
    before = Logged(story.uri).everything()
    assert story.replay().everything() == before


def test_what_a_slot_uses_is_among_the_system_metrics_of_its_trial_and_in_no_table(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.tracker.measured(0, {"cpu_utilization_percentage": 75.0, "gpu_0_power_usage_watts": 300.5}, story.now + 5)
    story.ends(0, 0.5)
    # Of a trial that MLflow does not know.
    story.tracker.measured(9, {"cpu_utilization_percentage": 1.0}, story.now)
    story.ended()
    logged = story.logged()
    found = logged.trials[0].data.metrics
    assert {name: value for name, value in found.items() if name.startswith("system/")} == {
        "system/cpu_utilization_percentage": 75.0,
        "system/gpu_0_power_usage_watts": 300.5,
    }
    frame = load_runs(SWEEP, tracking_uri=story.uri)
    assert not [column for column in frame.columns if "system" in column]
    assert frame["epochs"].tolist() == [1]
    assert str(story.tracker.refusals) == ""
