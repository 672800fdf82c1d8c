"""What differs between a single run and the last one before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import Event, SweepStarted, TrialEnded, TrialStarted
from mnist_sweep.journal.files import FILE
from mnist_sweep.journal.journal import Journal, read
from mnist_sweep.journal.last_run import Change, LastRun, last_run
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Outcome, Status, Trial

OBJECTIVES = (Objective("val_accuracy", "max"),)


@pytest.fixture(autouse=True)
def in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    name: str,
    start: float,
    score: float | None,
    *,
    space: dict[str, str] | None = None,
    digest: str = "aaaa",
    keras: str = "3",
    seed: int = 1,
    parameters: int = 100,
    **model: Any,
) -> Path:
    """Writes the journal of a run that has ended, and returns its folder."""
    folder = Path("experiments") / name
    folder.mkdir(parents=True)
    groups = {"model": {"units": 64, "dropout": None, **model}, "training": {"seed": seed, "epochs": 3}}
    config = {"name": "mlp", "seed": seed, "data": {"name": "npz"}, "workers": {"count": start}, **groups}
    outcome = Outcome(
        Status.FAILED if score is None else Status.COMPLETED,
        "" if score else "why",
        score,
        2,
        {} if score is None else {"val_accuracy": score, "val_loss": 1 - score, "loss": 0.1},
        parameters=parameters,
        seconds=start,
    )
    events: list[Event] = [
        SweepStarted(start, name, config, space or {}, {"digest": digest}, {"keras": keras}),
        TrialStarted(start, Trial(0, {}, groups, 3), 1, "cpu0"),
        TrialEnded(start, 0, outcome),
    ]
    with Journal(folder) as journal:
        for event in events:
            journal.handle(event)
    return folder


def found(folder: Path) -> LastRun | None:
    return last_run(folder, SweepState.after(read(folder), OBJECTIVES), OBJECTIVES)


def test_the_last_single_run_with_a_result_is_compared() -> None:
    run("mlp/1", 10.0, 0.5, units=16)
    run("mlp/2", 20.0, 0.91, activation="relu")
    # These are not: a sweep, a run without a result, one of another name, one with a damaged journal, and a later one.
    run("mlp/3", 30.0, 0.7, space={"model.units": "choice(1, 2)"})
    run("mlp/4", 40.0, None)
    run("cnn/5", 50.0, 0.8)
    damaged = run("mlp/6", 60.0, 0.8)
    (damaged / FILE).write_text("nonsense\n")
    run("mlp/9", 90.0, 0.8)
    assert found(run("mlp/7", 70.0, 0.93, activation="tanh", bias=True)) == LastRun(
        "mlp/2",
        [Change("model.activation", "relu", "tanh"), Change("model.bias", "null", "true")],
        [
            Change("val_accuracy", "0.9100", "0.9300"),
            Change("val_loss", "0.0900", "0.0700"),
            Change("time", "20 s", "1 min 10 s"),
        ],
        other_data=False,
    )


def test_other_images_versions_seeds_and_sizes_are_named() -> None:
    run("mlp/1", 10.0, 0.5)
    last = found(run("mlp/2", 20.0, 0.5, digest="bbbb", keras="4", seed=2, parameters=2000))
    assert last is not None
    assert last.other_data
    assert last.settings == [Change("seed", "1", "2"), Change("images", "aaaa", "bbbb"), Change("keras", "3", "4")]
    assert Change("parameters", "100", "2,000") in last.results


def test_the_runs_of_a_multirun_are_compared_with_each_other() -> None:
    run("mlp/now/0", 10.0, 0.5, units=16)
    last = found(run("mlp/now/1", 20.0, 0.5, units=32))
    assert last is not None
    assert last.run == "mlp/now/0"
    assert last.settings == [Change("model.units", "16", "32")]


def test_the_first_run_a_sweep_and_a_run_without_a_result_are_compared_with_nothing() -> None:
    assert found(run("mlp/1", 10.0, 0.5)) is None
    assert found(run("mlp/2", 20.0, 0.5, space={"model.units": "choice(1, 2)"})) is None
    assert found(run("mlp/3", 30.0, None)) is None
