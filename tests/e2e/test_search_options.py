"""Pruning, several objectives, executions, confirming and warm starts, from the command line to the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from programs import with_store

import mnist_sweep
from mnist_sweep.journal import files, journal
from mnist_sweep.journal.events import Confirmed, ExecutionEnded, SweepStarted, TrialEnded, TrialStarted, WinnerTested
from mnist_sweep.journal.trial import Status


@pytest.fixture(scope="module")
def confirmed(run, digits: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep as `experiment=mlp` makes it: ASHA on TPE, the best retrained; its working directory and output."""
    folder = with_store(tmp_path_factory.mktemp("confirmed"), store)
    done = run(
        folder, "search=asha", "search.max_trials=5", "training.epochs=3", "training.batch_size=16", "data=npz",
        f"data.path={digits}", "model.units=int(interval(4,130))",
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
        "limits.parameters=103000", "confirm={top: 2, seeds: 2}", "name=asked",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def events(folder: Path, name: str, kind: type) -> list:
    (path,) = folder.glob(f"experiments/{name}/*/{files.FILE}")
    return [event for event in journal.read(path.parent) if isinstance(event, kind)]


@pytest.mark.slow
def test_trial_0_is_the_default_and_trials_that_are_not_among_the_best_are_stopped(confirmed) -> None:
    folder, _ = confirmed
    ends = {e.trial: e.outcome for e in events(folder, "asked", TrialEnded)}
    refused = [n for n, outcome in ends.items() if outcome.status is Status.REFUSED]
    # The default has 128 units in two layers, and too many parameters for the limit.
    first = events(folder, "asked", TrialStarted)[0].trial
    assert (first.values["model.units"], first.values["optimizer.learning_rate"]) == (128, 0.001)
    assert refused[0] == 0
    assert "limits.parameters=103000: the model has 118282 parameters" in ends[0].reason
    cut = [n for n, outcome in ends.items() if "not among the best" in outcome.reason]
    assert cut
    # At epoch 1 each, perhaps after the next epoch, as others came later.
    assert all(ends[n].best_epoch < 3 for n in cut)
    anew = {e.trial.number for e in events(folder, "asked", TrialStarted) if e.trial.confirms is not None}
    assert len(ends) - len(refused) - len(anew) == 5


@pytest.mark.slow
def test_the_best_are_retrained_before_the_winner_is_tested(confirmed, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output = confirmed
    (told,), (tested,) = events(folder, "asked", Confirmed), events(folder, "asked", WinnerTested)
    assert sorted(len(row["scores"]) for row in told.candidates) == [2, 2]
    assert tested.trial == told.model
    mean, std = told.candidates[0]["mean"], told.candidates[0]["std"]
    assert f"Winner: trial {told.winner}, val_accuracy {mean:.4f} ± {std:.4f} on 2 new seeds" in output
    monkeypatch.chdir(folder)
    frame = mnist_sweep.load_runs("asked")
    assert sorted(frame["confirms"].dropna().unique()) == sorted(row["trial"] for row in told.candidates)
    assert frame.set_index("trial")["metrics.confirmed_val_accuracy"][told.winner] == pytest.approx(mean)


@pytest.mark.slow
def test_a_sweep_learns_from_an_earlier_one_and_takes_several_objectives_and_folds(
    confirmed, run, digits: Path
) -> None:
    folder, _ = confirmed
    done = run(
        folder, "search=tpe", "search.max_trials=2", "search.enqueue=[{model.units: 7}]", "search.warm_start=[asked]",
        "training.epochs=1", "training.batch_size=16", "data=npz", f"data.path={digits}", "validation=kfold", "folds=2",
        "model.units=int(interval(4,130))", "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))", "name=several",
        "objective=[val_accuracy max, parameters min]",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"learns   from [1-5] trials? of asked/", done.stdout)
    assert "Pareto front" in done.stdout
    (started,) = events(folder, "several", SweepStarted)
    assert {len(trial["scores"]) for trial in started.earlier} == {2}
    trials = {e.trial.number: e.trial for e in events(folder, "several", TrialStarted)}
    assert trials[0].values["model.units"] == 7
    ends = {e.trial: e.outcome for e in events(folder, "several", TrialEnded)}
    for number, outcome in ends.items():
        scores = [e.outcome.score for e in events(folder, "several", ExecutionEnded) if e.trial == number]
        assert outcome.scores == scores
        assert outcome.score == pytest.approx(sum(scores) / 2)
        assert len(trials[number].executions) == 2
    compared = run(folder, "compare", "several")
    assert "●" in compared.stdout
    assert re.search(r"trial .* parameters ", compared.stdout)
