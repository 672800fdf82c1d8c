"""The report of a sweep; tests/e2e/test_report_page.py tests its page in a browser."""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pandas as pd
import pytest

from mnist_sweep.cli import commands
from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.trial import Status
from mnist_sweep.results import report
from mnist_sweep.results.plots.common import LOOKS
from mnist_sweep.results.report import content, plots, texts
from mnist_sweep.results.report.leaderboard import Page, PageColumn, leaderboard
from mnist_sweep.results.runs.find import find_sweep

ACCURACY = [Objective("val_accuracy", "max")]
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the plots, which take seconds."""
    monkeypatch.setattr(report, "draw", lambda *_: [])


def page(made: made_up.MadeUp, folder: Path) -> str:
    report.write(made, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(text: str) -> str:
    """The text of a page."""
    plain = re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(plain).split())


def data_of(text: str) -> Any:
    """The data of the page's script."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def column(board: Page, heading: str) -> PageColumn:
    (found,) = [one for one in board.columns if one.heading == heading]
    return found


def trials_of(board: Page) -> list[int]:
    return [row.trial for row in board.rows]


def scores(*values: float | None) -> pd.arrays.FloatingArray:
    return pd.array([pd.NA if value is None else value for value in values], dtype="Float64")


# ---- from a store -----------------------------------------------------------------------------------------------


def test_a_sweep_in_mlflow_becomes_a_page_without_tensorflow(project, new, monkeypatch, tmp_path, capsys):
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, None)
    assert commands.COMMANDS["report"]([new, "--to", str(tmp_path / "deep" / "r.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/deep/r.html\n"
    text = (tmp_path / "deep" / "r.html").read_text(encoding="utf-8")
    shown = text_of(text)
    assert "Winner: trial 1" in shown
    assert "test_accuracy 0.8125" in shown
    assert "5 trials 3 completed, 1 stopped, 1 failed" in shown
    assert 'title="the loss became nan in epoch 1"' in text
    assert f"python -m mnist_sweep export {new} --to exported" in shown
    assert (
        'aria-label="7 of 8 test images are classified correctly. The most frequent mistake: 0 predicted as 1, 1 time."'
        in text
    )
    for anchor in ("history", "curves", "effects", "timeline", "confusion"):
        assert f'<section id="{anchor}"' in text
    for heading in ("Parallel coordinates", "Leaderboard", "Learning curves", "Timeline", "Confusion matrix"):
        assert f"<h2>{heading}</h2>" in text
    for anchor in ("importance", "pareto", "mistakes", "filters"):
        assert f'id="{anchor}"' not in text
    names = re.findall(r' id="([^"]*)"', text)
    assert len(set(names)) == len(names)


def test_the_report_is_written_to_the_sweep_folder(project, old, undrawn):
    path = report.report(old, None, None, None)
    try:
        assert path == Path("experiments", old, "report.html")
        assert "trial 1" in text_of(path.read_text(encoding="utf-8"))
    finally:
        path.unlink()


def test_a_trial_that_is_named_takes_the_place_of_the_winner(project, new, capsys):
    path = Path("experiments", new, "report-trial-0.html")
    try:
        assert commands.COMMANDS["report"]([new, "0"]) == 0
        assert capsys.readouterr().out == f"{path}\n"
        text = path.read_text(encoding="utf-8")
    finally:
        path.unlink()
    shown = text_of(text)
    assert " Trial 0 It completed. The sweep's best model is that of trial 1; only that one was tested." in shown
    assert "Winner" not in shown
    assert "the score that selected it" not in shown
    assert f"python -m mnist_sweep export {new} 0 --to exported" in shown
    assert '<section id="own_curves"' in text
    assert "<img" not in text
    # Only the winner has seen the test images.
    assert 'id="confusion"' not in text
    assert 'title="the trial of this report"' in text


def test_a_failed_trial_has_a_report_too(project, new, undrawn, tmp_path):
    shown = text_of(report.report(new, 2, None, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Trial 2 It failed: the loss became nan in epoch 1." in shown


def test_in_another_working_directory_it_is_written_to_the_given_folder_or_needs_a_file(
    project, old, undrawn, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = project / "experiments" / old
    assert report.report(str(folder), None, None, None) == folder / "report.html"
    (folder / "report.html").unlink()
    with pytest.raises(
        UserError, match=f"{old}: its folder is not in experiments/ here; give the file to write with --to=FILE"
    ):
        report.report(old, None, f"sqlite:///{project}/mlruns/mlflow.db", None)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_file_is_an_error_that_names_it(project, old, undrawn, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        report.report(old, None, None, tmp_path / "file" / "report.html")
    assert str(caught.value).startswith(f"--to={tmp_path}/file/report.html: cannot be written (")


def test_a_damaged_file_leaves_out_only_its_own_plots(project, new, monkeypatch, tmp_path):
    made = made_up.sweep(tmp_path, 3, epochs=1, files={"test_details.npz": b"not an archive"})
    text = page(made, tmp_path)
    assert 'id="mistakes"' not in text
    assert '<section id="history"' in text


# ---- what it says -----------------------------------------------------------------------------------------------


def test_the_budget_is_that_of_the_last_session(undrawn, tmp_path):
    made = made_up.sweep(tmp_path, 7)
    (tmp_path / "parent").mkdir(exist_ok=True)
    (tmp_path / "parent" / "config.yaml").write_text("search: {max_trials: 90, time_budget: null}")
    shown = text_of(page(made, tmp_path))
    assert "90 trials" in shown
    assert "12 min" not in shown


def test_trials_that_are_equally_good_are_counted(undrawn, tmp_path):
    made = made_up.sweep(tmp_path, 4, metrics__best_val_accuracy=[0.5, 0.75, 0.75, 0.25])
    assert "It is the first of 2 trials with the best val_accuracy" in text_of(page(made, tmp_path))


def test_the_sweep_is_described(undrawn, tmp_path):
    made = made_up.sweep(
        tmp_path,
        7,
        tags={"data.fallback_for": "mnist", "mnist_sweep.reason": "search.time_budget=12m is used up"},
        params={"description": "Are two layers enough?", "seed": "3", "validation": "kfold", "folds": "5"},
        metrics__best_val_accuracy_std=0.0125,
    )
    shown = text_of(page(made, tmp_path))
    for text in (
        "Are two layers enough?",
        "ended: search.time_budget=12m is used up",
        "data=mnist could not be downloaded: this sweep used the digits of mnist_5k instead.",
        "3,600 training, 400 validation and 1,000 test images of 28×28×1, 10 classes; digest 578ee6082e683c4e",
        "asha on tpe",
        "60 trials or 12 min",
        "mean of 5 folds",
        "model.units choice(16, 64, 256)",
        "commit c0ffee",
        "seed 3",
        "python 3.11.7",
        " ± 0.0125",
    ):
        assert text in shown, text


def test_a_winner_by_new_seeds_has_a_verdict(undrawn, tmp_path):
    candidates = [
        {"trial": 2, "scores": {"1001": 0.95, "1002": 0.93}, "mean": 0.94, "std": 0.01414},
        {"trial": 0, "scores": {"1001": 0.92}, "mean": 0.92, "std": 0.0},
    ]
    (tmp_path / "parent").mkdir()
    about = {"candidates": candidates, "winner": 2, "p_value": 0.2}
    (tmp_path / "parent" / "confirmed.json").write_text(json.dumps(about))
    made = made_up.sweep(
        tmp_path,
        4,
        tags={"mnist_sweep.winner": "3"},
        confirms=pd.array([pd.NA, pd.NA, pd.NA, 2], dtype="Int64"),
        metrics__best_val_accuracy=scores(0.93, 0.9, 0.96, 0.95),
        metrics__confirmed_val_accuracy=scores(0.92, None, 0.94, None),
        metrics__confirmed_val_accuracy_std=scores(0.0, None, 0.0141, None),
        metrics__test_accuracy=scores(None, None, 0.91, 0.91),
    )
    text = page(made_up.with_winner(made, 3, confirms=2), tmp_path)
    shown = text_of(text)
    assert "Winner: trial 2" in shown
    assert "val_accuracy 0.9600" in shown
    assert "on new seeds 0.9400 ± 0.0141" in shown
    assert "test_accuracy 0.9100" in shown
    assert (
        "0.9400 ± 0.0141 on 2 new seeds; 0.0200 better than trial 0 (paired t-test, p = 0.2, not significant)." in shown
    )
    assert "seed 1001 seed 1002 2 0.9400 0.0141 0.9500 0.9300 0 0.9200 0.0000 0.9200 –" in shown
    # The trial that retrains it is not on the leaderboard.
    assert data_of(text)["trials"] == [2, 0, 1]
    assert "3 trials 3 completed; 1 more to retrain the best" in re.sub(
        r"\d completed, \d stopped", "3 completed", shown
    )


@pytest.mark.parametrize("content", ["[", "[]", '{"candidates": [1]}', '{"candidates": [{"trial": 1}]}'])
def test_a_damaged_file_of_the_retraining_is_an_error(undrawn, tmp_path, content):
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "confirmed.json").write_text(content)
    with pytest.raises(UserError, match=r"confirmed.json of its run: is damaged"):
        page(made_up.sweep(tmp_path, 3), tmp_path)


def test_every_status_has_words_and_a_look():
    assert set(texts.STATUSES) == set(Status) == set(LOOKS)


def test_a_sweep_whose_trials_all_failed_says_why(undrawn, tmp_path):
    reasons = ["the loss became nan in epoch 1", "its worker was killed by SIGKILL", "the loss became nan in epoch 2"]
    made = made_up.sweep(
        tmp_path, 3, status="failed", reason=reasons, metrics__best_val_accuracy=scores(None, None, None)
    )
    shown = text_of(page(made, tmp_path))
    assert "No trial has a score 2 trials: the loss became nan in epoch 1 1 trial: its worker was killed" in shown
    assert "mnist_sweep export" not in shown


def test_a_running_sweep_shows_its_status(undrawn, tmp_path):
    made = made_up.sweep(
        tmp_path,
        3,
        tags={"mnist_sweep.status": "running"},
        status=["completed", "completed", "running"],
        metrics__best_val_accuracy=scores(0.5, 0.75, None),
        seconds=scores(1.0, 2.0, None),
    )
    text = page(made, tmp_path)
    shown = text_of(text)
    assert "Best so far: trial 1" in shown
    assert "2 completed, 1 running" in shown
    assert "still running" in shown
    assert "python -m mnist_sweep report made/2026-01-02_03-04-05" in shown
    assert data_of(text)["trials"] == [1, 0, 2]
    assert data_of(text)["colour"] == [1.0, 0.0, None]


def test_the_winner_of_an_earlier_session_is_not_the_winner_of_a_sweep_that_runs_again(undrawn, tmp_path):
    tags = {"mnist_sweep.status": "running", "mnist_sweep.winner": "1"}
    made = made_up.sweep(tmp_path, 3, tags=tags, metrics__best_val_accuracy=scores(0.5, 0.75, 0.5))
    assert "Best so far: trial 1" in text_of(page(made, tmp_path))


def test_a_regression_has_its_predictions_with_their_units(tmp_path, monkeypatch):
    kept = {key: value for key, value in made_up.TAGS.items() if key not in ("data.classes", "data.image")}
    tags = {key.replace("_images", "_rows"): value for key, value in kept.items()}
    monkeypatch.setattr(made_up, "TAGS", tags | {"data.targets": "1", "data.columns": "4"})
    true = np.arange(20, dtype=np.float32)
    details = {"true": true, "predicted": true[:, None] + 1, "names": np.array(["price in €"])}
    text = page(made_up.sweep(tmp_path, 2, files={"test_details.npz": details}), tmp_path)
    assert 'aria-label="Numbers of 20 test rows, with a mean error of ±1."' in text
    for heading in ("Predicted and true values", "Residuals"):
        assert f"<h2>{heading}</h2>" in text
    assert "price in €: mean error ±1" in text
    assert "fill in a form and see what it predicts" in text


@pytest.mark.slow
def test_the_report_of_a_thousand_trials_stays_small(tmp_path):
    """Their marks share what is equal, and many curves become a picture."""
    made = made_up.sweep(tmp_path, 1000, epochs=10)
    assert len(page(made, tmp_path)) < 3_000_000


def test_a_sweep_whose_process_was_killed_is_not_shown_as_running(undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "local_folder", lambda given, sweep: tmp_path)
    made = made_up.sweep(tmp_path, 1, tags={"mnist_sweep.status": "running"}, status="running")
    shown = text_of(page(made, tmp_path))
    assert "the process that ran it is gone" in shown
    assert f"python -m mnist_sweep resume {made.sweep}" in shown


@pytest.mark.parametrize("trials", [0, 1])
def test_empty_sections_are_left_out(trials, tmp_path):
    made = made_up.sweep(tmp_path, trials, epochs=1)
    text = page(made, tmp_path)
    assert "<h2>Parallel coordinates" not in text
    assert ("Leaderboard" in text) == (trials == 1)
    assert (
        re.findall(r'<section id="(next|leaderboard|curves)"', text)
        == ["next", "leaderboard", "curves"][: 1 + 2 * trials]
    )


def test_a_single_run_is_shown_as_one(undrawn, tmp_path):
    made = made_up.sweep(tmp_path, 1, metrics__test_accuracy=[0.9])
    shown = text_of(page(replace(made, found=replace(made.found, space={})), tmp_path))
    assert " Ran a single run " in shown
    assert " Result " in shown
    for word in ("Winner", "winner", "Budget", "Leaderboard", "Search ", "selected", "luck", "trial"):
        assert word not in shown.partition("What to do next")[0], word


def test_the_pareto_front_is_marked(undrawn, tmp_path):
    made = made_up.sweep(
        tmp_path,
        3,
        objectives="val_accuracy max, parameters min",
        metrics__best_val_accuracy=scores(0.5, 0.75, 0.625),
        metrics__best_parameters=scores(1000, 3000, 4000),
    )
    text = page(made, tmp_path)
    assert len(re.findall(r'<span title="on the Pareto front', text)) == 2
    assert data_of(text)["trials"] == [1, 0, 2]
    assert data_of(text)["objectives"] == 2
    assert "parameters 3,000" in text_of(text)


def test_values_of_users_are_escaped(undrawn, tmp_path):
    made = made_up.sweep(
        tmp_path,
        3,
        tags={"version." + HOSTILE: HOSTILE, "mnist_sweep.reason": HOSTILE},
        params={"description": HOSTILE, "space." + HOSTILE: HOSTILE},
        params__model__activation=HOSTILE,
        reason=HOSTILE,
        **{"params." + HOSTILE: ["a", HOSTILE, "b"]},
    )
    text = page(made, tmp_path)
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert text.count(html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) > 5
    (axis,) = [one for one in data_of(text)["columns"] if one["heading"].endswith(HOSTILE)]
    assert sorted(axis["options"]) == sorted(["a", HOSTILE, "b"])


def test_only_the_scripts_of_the_page_run_and_nothing_is_downloaded(undrawn, tmp_path):
    import base64
    import hashlib

    text = page(made_up.sweep(tmp_path, 3), tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)


# ---- the leaderboard --------------------------------------------------------------------------------------------


def test_the_leaderboard_is_ordered_by_new_scores_then_by_scores():
    table = made_up.frame(5, ["val_accuracy"])
    table["metrics.best_val_accuracy"] = scores(0.9, None, 0.95, 0.97, 0.9)
    table["metrics.confirmed_val_accuracy"] = scores(0.91, None, 0.9, None, None)
    board = leaderboard(table, ACCURACY, {})
    assert trials_of(board) == [0, 2, 3, 4, 1]
    assert column(board, "rank").cells == ["1", "2", "3", "4", "–"]
    assert column(board, "on new seeds").values == [0.91, 0.9, None, None, None]


def test_the_smallest_loss_is_the_best():
    table = made_up.frame(3, ["val_loss"])
    table["metrics.best_val_loss"] = scores(0.5, 0.25, 1.0)
    board = leaderboard(table, [Objective("val_loss", "min")], {})
    assert trials_of(board) == [1, 0, 2]
    assert board.colours == [1.0, 0.5, 0.0]
    (score,) = [one for one in board.columns if one.kind == "score"]
    assert score.for_script()["turned"]


@pytest.mark.parametrize(
    ("values", "domain", "axis", "options"),
    [
        ([0.1, 0.2, 0.3], "interval(0, 0.5)", "linear", []),
        ([0.1, 0.2, 0.3], "tag(log, interval(0.01, 1))", "log", []),
        ([16, 256, 64], "choice(16, 64, 256)", "choice", ["16", "64", "256"]),
        ([True, False, True], "choice(true, false)", "choice", ["False", "True"]),
        (["relu", "gelu", "relu"], "choice(relu, gelu)", "choice", ["gelu", "relu"]),
        ([3, 4, 5], "int(interval(1, 9))", "linear", []),
        ([0.001, 0.5, 1.0], "", "choice", ["0.001", "0.5", "1"]),
        ([0.2, 0.2, 0.2], "interval(0, 0.5)", "", []),
    ],
)
def test_a_hyperparameter_gets_the_axis_that_suits_its_domain(values, domain, axis, options):
    table = made_up.frame(3, ["val_accuracy"])
    table["metrics.best_val_accuracy"] = scores(0.9, 0.8, 0.7)
    table["params.model.x"] = pd.array(values)
    board = leaderboard(table, ACCURACY, {"model.x": domain} if domain else {})
    found = [one for one in board.columns if one.heading == "x"]
    if not axis and not domain:
        assert found == []
    else:
        assert found[0].axis == axis
        if axis == "choice":
            assert found[0].options == options
            assert [found[0].options[int(place)] for place in found[0].values] == found[0].cells


def test_inactive_values_are_dashes_without_a_value():
    table = made_up.frame(3, ["val_accuracy"])
    table["metrics.best_val_accuracy"] = scores(0.9, 0.8, 0.7)
    table["params.optimizer.momentum"] = scores(None, 0.5, 0.25)
    table["params.model.name"] = pd.array(["–", None, "x"], dtype="string")
    board = leaderboard(table, ACCURACY, {"optimizer.momentum": "interval(0, 0.9)", "model.name": "choice(–, x)"})
    assert column(board, "momentum").cells == ["–", "0.5", "0.25"]
    assert column(board, "momentum").values == [None, 0.5, 0.25]
    # A dash may be the value of a hyperparameter.
    model = board.columns[[one.heading for one in board.columns].index("model")]
    assert model.values[1] is None
    assert model.values[0] is not None


def test_infinite_scores_are_none():
    table = made_up.frame(3, ["val_loss"])
    table["metrics.best_val_loss"] = scores(0.5, np.inf, 1.7976931348623157e308)
    board = leaderboard(table, [Objective("val_loss", "min")], {})
    assert [one.values for one in board.columns if one.kind == "score"] == [[0.5, None, None]]


def test_wide_scores_get_a_logarithmic_axis():
    table = made_up.frame(3, ["val_loss"])
    for values, axis in ((scores(0.01, 0.1, 1.0), "log"), (scores(0.5, 0.6, 1.0), "linear")):
        table["metrics.best_val_loss"] = values
        board = leaderboard(table, [Objective("val_loss", "min")], {})
        assert [one.axis for one in board.columns if one.kind == "score"] == [axis]


def test_an_existing_file_is_replaced(project, other, undrawn, tmp_path):
    (tmp_path / "report.html").write_text("an older one")
    report.write(find_sweep(other), tmp_path / "report.html")
    assert "0.2500" in text_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_invisible_characters_are_written_as_escapes(undrawn, tmp_path):
    hostile = "a\x1b[31m\u202eb</script>"
    made = made_up.sweep(
        tmp_path,
        3,
        tags={"mnist_sweep.reason": hostile},
        params={"description": hostile, "space." + hostile: hostile},
        reason=hostile,
        **{"params." + hostile: ["a", hostile, "b"]},
    )
    text = page(made, tmp_path)
    assert not set("\x1b\u202e") & set(text)
    assert text.count("a\\x1b[31m\\u202eb&lt;/script&gt;") > 3
    (axis,) = [one for one in data_of(text)["columns"] if one["heading"].endswith("</script>")]
    assert "a\\x1b[31m\\u202eb</script>" in axis["options"]


@pytest.mark.parametrize(
    "content",
    ["", "{}", "null", "[]", '{"rows are true classes": [[1, 2], [3]]}', '{"rows are true classes": "x"}', "["],
)
def test_a_damaged_confusion_matrix_leaves_out_only_its_plot(tmp_path: Path, content: str) -> None:
    (tmp_path / "confusion_matrix.json").write_text(content)
    assert plots._counts(tmp_path / "confusion_matrix.json") is None
    (tmp_path / "confusion_matrix.json").write_text('{"rows are true classes": [[1, 2], [3, 4]]}')
    assert plots._counts(tmp_path / "confusion_matrix.json") == [[1, 2], [3, 4]]


def test_a_page_shows_the_best_thousand_of_more_trials(tmp_path):
    made = made_up.sweep(tmp_path, 1200)
    board = leaderboard(made.frame(), made.objectives, made.space)
    assert board.count == "the best 1,000 of 1,200 trials"
    assert len(board.rows) == len(board.for_script()["trials"]) == 1000
    assert board.rows[0].rank == 1
    assert len(board.board.rows) == 1200


def test_what_users_changed_while_the_sweep_ran_is_listed(undrawn: None, tmp_path: Path) -> None:
    changes = [{"time": "2026-11-28 14:30:03", "by": "ada@box", "what": f"added trial 3: {HOSTILE}"}]
    made = made_up.sweep(tmp_path, 3, tags={"mnist_sweep.steered": json.dumps(changes)})
    text = page(made, tmp_path)
    assert "Changed while it ran: 1 change" in text
    assert f"2026-11-28 14:30:03 ada@box added trial 3: {HOSTILE}" in text_of(text)
    assert HOSTILE not in text
    for damaged in ("", "[1]", "{", '[{"time": 1}]'):
        text = page(made_up.sweep(tmp_path, 3, tags={"mnist_sweep.steered": damaged}), tmp_path)
        assert "Changed while it ran" not in text
