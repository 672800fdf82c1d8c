"""Trains a trial once more in real workers, on all training images, after its sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

import mnist_sweep
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.folders import sweeps
from mnist_sweep.results.models.doubts import profile_of
from mnist_sweep.results.models.model_run import find_trial


def test_a_trial_is_retrained_as_a_run_of_its_own_that_is_not_taken_for_a_sweep(
    swept, run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, _ = swept
    (sweep,) = folder.glob("experiments/four/*")
    name, runs = (
        f"four/{sweep.name}",
        mnist_sweep.load_runs("four", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db"),
    )
    done = run(folder, "retrain", "four", "2", "training.epochs=3", "data.validation_split=0", published=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert f"Retraining trial 2 of {name}: {name}/retrained-2" in lines
    assert "  changed  training.epochs = 3 (was 2)" in lines
    assert "           objective = loss min (was val_accuracy max)" in lines
    assert "  not tested on the test data, which the sweep's winner has used; retrain --test tests it" in lines
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    # Every command takes it by its name; it is neither the last sweep nor among the sweep's trials.
    assert mnist_sweep.find_sweep("four").sweep == name
    assert mnist_sweep.load_runs(experiment="four")["run_id"].tolist() == runs["run_id"].tolist()
    assert sweeps(Path("experiments/four")) == [Path("experiments/four") / sweep.name]
    found = find_trial(f"{name}/retrained-2")
    assert found.fetch_model(tmp_path).stat().st_size > 0
    tags, trial = found.run.data.tags, runs.set_index("trial").loc[2]
    assert (tags["mnist_sweep.retrains"], tags["mnist_sweep.retrains_trial"]) == (name, "2")
    assert tags["mnist_sweep.retrains_run"] == trial["run_id"]
    assert tags["data.validation_images"] == "0"
    assert "val_accuracy" not in found.run.data.metrics
    assert "test_accuracy" not in found.run.data.metrics
    # What was searched is as it was.
    assert found.run.data.params["model.units"] == str(trial["params.model.units"])
    first = next(iter(journal.read(sweep / "retrained-2")))
    assert isinstance(first, SweepStarted)
    assert first.retrains is not None
    assert (first.retrains.sweep, first.retrains.trial) == (name, 2)

    # What the training images look like is known from the sweep's winner, though this model was not tested.
    profile = profile_of(found, tmp_path)
    assert profile is not None
    assert profile.likeness is not None
