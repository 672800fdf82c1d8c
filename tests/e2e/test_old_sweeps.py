"""Sweeps of version 0.1: whatever has changed since, they are read, resumed, logged and used.

`tests/fixtures/sweeps_0_1.tar.xz` is a project made by commit 9942b9e: a finished sweep of four trials, one that was
interrupted in its second trial of 300 epochs, their MLflow store without its plots, and their data. The store still
names the folder that it was made in, which is gone.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from mnist_sweep import load_curves, load_runs
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded, SweepResumed, TrialEnded

FIXTURE = Path(__file__).parent.parent / "fixtures" / "sweeps_0_1.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_finished_old_sweep_is_compared_and_loaded(old: Path, run_here, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_here(old, "compare", "finished", "--columns", "trial,units,val_accuracy", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert [line.count(",") for line in done.stdout.splitlines()] == [2] * 5
    monkeypatch.chdir(old)
    runs = load_runs("finished")
    assert runs["status"].tolist() == ["completed"] * 4
    assert load_curves("finished").groupby("trial")["epoch"].max().tolist() == [2] * 4


def test_a_finished_old_sweep_is_reported_exported_and_used_for_predictions(old: Path, run_here) -> None:
    done = run_here(old, "report", "finished", "--to", "report.html")
    assert done.returncode == 0, done.stderr
    assert "finished" in (old / "report.html").read_text(encoding="utf-8")
    done = run_here(old, "export", "finished", "--to", "exported", "--format", "h5,keras")
    assert done.returncode == 0, done.stderr
    assert set(json.loads((old / "exported" / "manifest.json").read_text())["files"]) == {"model.h5", "model.keras"}


def test_a_finished_old_sweep_is_synced_without_duplicates(
    old: Path, run_here, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_here(old, "sync", "finished")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(old)
    assert len(load_runs("finished")) == 4


@pytest.mark.slow
def test_an_interrupted_old_sweep_is_resumed_where_it_stopped(old: Path, run) -> None:
    # Its versions are those that it was made with, and are no longer these one day.
    done = run(old, "resume", "interrupted", "--other-versions")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (old / "experiments" / "interrupted").iterdir()
    events = list(journal.read(folder))
    assert any(isinstance(event, SweepResumed) and "tensorflow" in event.versions for event in events)
    assert sorted(event.trial for event in events if isinstance(event, TrialEnded)) == [0, 1, 2, 3]
    epochs = [(event.trial, event.epoch) for event in events if isinstance(event, EpochEnded)]
    assert sorted(epochs) == [(trial, epoch) for trial in range(4) for epoch in range(1, 301)]
    done = run(old, "compare", "interrupted")
    assert done.returncode == 0, done.stderr
