"""Trains a trial again in a real worker, from what MLflow and the journal contain."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from rich.console import Console

import mnist_sweep
from mnist_sweep.driver import rerun


def test_a_trial_trained_again_gives_the_same_metrics_and_changes_nothing(swept, run) -> None:
    folder, _ = swept
    (sweep,) = folder.glob("experiments/four/*")
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    done = run(folder, "rerun", f"four/{sweep.name}", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Trial 2 of four/{sweep.name} again (")
    assert done.stdout.endswith(
        "  epoch 1  identical\n  epoch 2  identical\nidentical: all 5 metrics of all 2 epochs\n"
    )
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before


def test_a_logged_metric_that_was_changed_is_found(
    swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder, _ = swept
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_id = mnist_sweep.load_runs("four").set_index("trial")["run_id"][1]
    with sqlite3.connect(folder / "mlruns" / "mlflow.db") as store, sqlite3.connect(tmp_path / "mlflow.db") as database:
        # Through SQLite, as the latest pages may still be in a second file.
        store.backup(database)
        changed = database.execute(
            "UPDATE metrics SET value = value + 1e-9 WHERE run_uuid = ? AND key = 'val_loss' AND step = 2", [run_id]
        )
        assert changed.rowcount == 1
    store.close()
    database.close()
    # MLflow looks for files next to the store.
    shutil.copytree(folder / "mlruns" / "artifacts", tmp_path / "artifacts")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert rerun.rerun(run_id[:12], None, uri, Console(width=200)) == 1
    output = capsys.readouterr().out
    assert "  epoch 1  identical\n  epoch 2  val_loss " in output
    assert "\nDifferences\n" in output
    assert "not identical: 1 value of 2 epochs, the first in epoch 2" in output
    assert "The versions are the same." in output
