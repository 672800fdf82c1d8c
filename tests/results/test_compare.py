"""The table of a sweep's runs, and the CSV."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from rich.console import Console

from mnist_sweep.errors import UserError
from mnist_sweep.mlflow_store import TAG_STATUS
from mnist_sweep.results import compare as module
from mnist_sweep.results.compare import compare
from mnist_sweep.results.runs import SweepRuns, find_sweep, load_runs


def table(text: str) -> list[list[str]]:
    """Headings and rows; an empty cell is left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ─")]
    return [re.split(r"\s{2,}", line) for line in lines[1:-1]]


def test_best_comes_first_and_what_has_no_score_last(project, new, tmp_path, capsys):
    compare(new, None, tmp_path / "runs.csv")
    output = capsys.readouterr().out
    headings, *rows = table(output)
    assert headings == [
        "trial",
        "batch_normalization",
        "units",
        "learning_rate",
        "momentum",
        "optimizer",
        "best_val_accuracy",
        "test_accuracy",
        "best_epoch",
        "parameters",
        "status",
        "time",
    ]
    assert rows == [
        ["1", "True", "128", "0.1", "0.5", "sgd", "0.875", "0.8125", "2", "1001", "completed", "5.0 s"],
        ["4", "True", "16", "0.1", "0", "sgd", "0.875", "1", "1004", "completed", "12 s"],
        ["0", "False", "64", "0.001", "adam", "0.75", "2", "1000", "completed", "2.5 s"],
        ["3", "False", "16", "0.01235", "adam", "0.25", "1", "1003", "stopped", "10 s"],
        ["2", "True", "256", "1", "adam", "failed", "7.5 s"],
    ]
    assert output.splitlines()[0].strip() == new
    assert output.splitlines()[-1] == f"5 runs, all columns in {tmp_path}/runs.csv"


def test_least_comes_first_where_less_is_better(project, capsys, tmp_path):
    compare(None, None, tmp_path / "runs.csv")
    headings, *rows = table(capsys.readouterr().out)
    # Only the learning rate was varied.
    assert headings == ["trial", "learning_rate", "best_val_loss", "best_epoch", "parameters", "status", "time"]
    assert [(row[0], row[2]) for row in rows] == [("1", "0.25"), ("0", "0.5"), ("2", "1")]


def test_csv_has_all_columns_in_the_order_of_the_table(project, new, tmp_path, capsys):
    compare(new, None, tmp_path / "deep" / "runs.csv")
    written = pd.read_csv(tmp_path / "deep" / "runs.csv")
    frame = load_runs(new)
    assert list(written.columns) == list(frame.columns)
    assert written["trial"].tolist() == [1, 4, 0, 3, 2]
    assert written["run_id"].tolist() == [frame["run_id"][n] for n in (1, 4, 0, 3, 2)]
    assert written["params.model.units"].tolist() == [128, 16, 64, 16, 256]
    assert written["params.optimizer.momentum"].isna().tolist() == [False, False, True, True, True]


def test_csv_goes_into_the_folder_of_the_sweep(project, old, capsys):
    compare(old, None, None)
    path = project / "experiments" / old / "runs.csv"
    try:
        assert pd.read_csv(path)["trial"].tolist() == [1, 0]
        assert capsys.readouterr().out.splitlines()[-1] == f"2 runs, all columns in experiments/{old}/runs.csv"
    finally:
        path.unlink()


def test_csv_that_cannot_be_written_is_said(project, new, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        compare(new, None, tmp_path / "file" / "runs.csv")
    assert str(caught.value) == f"--csv={tmp_path}/file/runs.csv: cannot be written (File exists)"
    with pytest.raises(UserError) as caught:
        compare(new, None, tmp_path)
    assert str(caught.value) == f"--csv={tmp_path}: cannot be written (Is a directory)"


def test_narrow_terminal_has_trial_and_score_and_says_what_is_missing(project, new, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "standard_output", lambda: Console(width=50))
    compare(new, None, tmp_path / "runs.csv")
    output = capsys.readouterr().out
    headings = table(output)[0]
    assert headings == ["trial", "best_val_accuracy", "test_accuracy"]
    assert output.splitlines()[-1] == (
        f"5 runs, all columns in {tmp_path}/runs.csv (9 more columns fit into a wider terminal)"
    )


def test_unknown_sweep_writes_nothing(project, tmp_path):
    with pytest.raises(UserError, match="did you mean 'alpha'"):
        compare("alpah", None, tmp_path / "runs.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kept", "count"), [([], 0), (["failed"], 1)])
def test_sweep_without_scores_is_shown_too(project, new, tmp_path, capsys, monkeypatch, kept, count):
    trials = [run for run in find_sweep(new).trials() if run.data.tags[TAG_STATUS] in kept]
    monkeypatch.setattr(SweepRuns, "trials", lambda _: trials)
    compare(new, None, tmp_path / "runs.csv")
    assert capsys.readouterr().out.splitlines()[-1] == f"{count} runs, all columns in {tmp_path}/runs.csv"
    assert len(pd.read_csv(tmp_path / "runs.csv")) == count
