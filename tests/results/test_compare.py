"""The table of a sweep's runs, and the CSV."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.results import compare as module
from mnist_sweep.results.columns import find_column
from mnist_sweep.results.compare import View, _as_csv, compare
from mnist_sweep.results.runs.find import SweepRuns, find_sweep, load_runs


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Lines as long as all columns need, where there is no terminal."""
    monkeypatch.setenv("COLUMNS", "300")


def table(text: str) -> list[list[str]]:
    """Headings and rows."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ─")]
    end = next((i for i, line in enumerate(lines) if re.match(r"[\d,]+( of [\d,]+)? runs?\b", line)), -1)
    return [re.split(r"\s{2,}", line) for line in lines[1:end]]


def test_the_best_trial_is_first_and_trials_without_a_score_are_last(project, new, tmp_path, capsys):
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    output = capsys.readouterr().out
    headings, *rows = table(output)
    assert headings == [
        "trial",
        "status",
        "val_accuracy",
        "test_accuracy",
        "units",
        "batch_normalization",
        "optimizer",
        "learning_rate",
        "momentum",
        "epochs",
        "best epoch",
        "parameters",
        "time",
    ]
    assert rows == [
        ["1", "completed", "0.8750", "0.8125", "128", "True", "sgd", "0.1", "0.5", "2", "2", "1,001", "5.0 s"],
        ["4", "completed", "0.8750", "–", "16", "True", "sgd", "0.1", "0", "1", "1", "1,004", "12 s"],
        ["0", "completed", "0.7500", "–", "64", "False", "adam", "0.001", "–", "3", "2", "1,000", "2.5 s"],
        ["3", "stopped", "0.2500", "–", "16", "False", "adam", "0.01235", "–", "1", "1", "1,003", "10 s"],
        ["2", "failed", "–", "–", "256", "True", "adam", "1", "–", "–", "–", "–", "7.5 s"],
    ]
    assert output.splitlines()[0].strip() == new
    assert output.splitlines()[-1] == f"5 runs, all columns in {tmp_path}/runs.csv"


def test_the_smallest_loss_is_first(project, capsys, tmp_path):
    compare([], None, View(csv=tmp_path / "runs.csv"))
    headings, *rows = table(capsys.readouterr().out)
    # Only the learning rate was varied; what is the same in all comes last.
    assert headings == ["trial", "val_loss", "learning_rate", "epochs", "best epoch", "parameters", "time", "status"]
    assert [(row[0], row[1]) for row in rows] == [("1", "0.2500"), ("0", "0.5000"), ("2", "1.0000")]


def test_csv_has_all_columns_in_the_order_of_the_table(project, new, tmp_path, capsys):
    compare([new], None, View(csv=tmp_path / "deep" / "runs.csv"))
    written = pd.read_csv(tmp_path / "deep" / "runs.csv")
    frame = load_runs(new)
    assert list(written.columns) == list(frame.columns)
    assert written["trial"].tolist() == [1, 4, 0, 3, 2]
    assert written["run_id"].tolist() == [frame["run_id"][n] for n in (1, 4, 0, 3, 2)]
    assert written["params.model.units"].tolist() == [128, 16, 64, 16, 256]
    assert written["params.optimizer.momentum"].isna().tolist() == [False, False, True, True, True]


def test_csv_goes_into_the_folder_of_the_sweep(project, old, capsys):
    compare([old], None, View())
    path = project / "experiments" / old / "runs.csv"
    try:
        assert pd.read_csv(path)["trial"].tolist() == [1, 0]
        assert capsys.readouterr().out.splitlines()[-1] == f"2 runs, all columns in experiments/{old}/runs.csv"
    finally:
        path.unlink()


def test_an_unwritable_csv_file_is_an_error(project, new, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        compare([new], None, View(csv=tmp_path / "file" / "runs.csv"))
    assert str(caught.value) == f"--csv={tmp_path}/file/runs.csv: cannot be written (File exists)"
    with pytest.raises(UserError) as caught:
        compare([new], None, View(csv=tmp_path))
    assert str(caught.value) == f"--csv={tmp_path}: cannot be written (Is a directory)"


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (
            80,
            ["trial", "status", "val_accuracy", "units", "batch_normalization", "optimizer"],
            "Not shown in 80 columns: test_accuracy, learning_rate, momentum, epochs, best epoch, parameters, time. "
            "To see them: --columns=test_accuracy,learning_rate,momentum,epochs",
        ),
        (
            45,
            ["trial", "status", "val_accuracy", "units"],
            "Not shown in 45 columns: test_accuracy, batch_normalization, optimizer, learning_rate, momentum, "
            "epochs, best epoch, parameters, time. To see them: "
            "--columns=test_accuracy,batch_normalization,optimizer,learning_rate",
        ),
    ],
)
def test_a_narrow_terminal_shows_trial_status_and_score_and_names_what_is_missing(
    project, new, tmp_path, capsys, monkeypatch, width, shown, left_out
):
    monkeypatch.setattr(module, "standard_output", lambda: Console(width=width))
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    output = capsys.readouterr().out
    assert table(output)[0] == shown
    assert max(map(len, output.splitlines()[:-1])) <= max(width, len(output.splitlines()[-2]))
    assert output.splitlines()[-2:] == [f"5 runs, all columns in {tmp_path}/runs.csv", left_out]
    # The option can be copied.
    compare([new], None, View(columns=left_out.rpartition("=")[2].split(","), csv=tmp_path / "runs.csv"))


def test_what_is_the_same_in_all_runs_is_left_out_first_and_named_with_its_value(
    project, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "standard_output", lambda: Console(width=60))
    compare([], None, View(csv=tmp_path / "runs.csv", filters=["trial < 2"]))
    output = capsys.readouterr().out.splitlines()
    assert output[-2] == f"2 of 3 runs, all columns in {tmp_path}/runs.csv"
    assert output[-1].startswith(
        "The same in all runs: status completed, epochs 2, best epoch 2. To see them: --columns='"
    )


def test_of_the_hyperparameters_those_that_matter_least_are_left_out(project, new, capsys, tmp_path, monkeypatch):
    frame = find_sweep(new).frame()
    many = pd.concat([frame[frame["trial"] != 2]] * 5, ignore_index=True)
    order = ["optimizer.name", "model.units", "optimizer.momentum", "model.batch_normalization"]
    order.append("optimizer.learning_rate")
    found = pd.DataFrame({"hyperparameter": order})
    monkeypatch.setattr("mnist_sweep.results.importance.importances", lambda *_: found)
    monkeypatch.setattr(SweepRuns, "frame", lambda _: many)
    monkeypatch.setattr(module, "standard_output", lambda: Console(width=80))
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    assert table(capsys.readouterr().out)[0][3:] == ["units", "optimizer", "momentum"]


def test_columns_that_were_chosen_and_do_not_fit_are_named(project, new, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "standard_output", lambda: Console(width=30))
    compare([new], None, View(columns=["trial", "units", "learning_rate", "time"], csv=tmp_path / "runs.csv"))
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Not shown in 30 columns: learning_rate, time. To see them: a wider terminal, or --to=runs.txt"
    )


def test_an_unknown_sweep_writes_nothing(project, tmp_path):
    with pytest.raises(UserError, match="did you mean 'alpha'"):
        compare(["alpah"], None, View(csv=tmp_path / "runs.csv"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kept", "count", "said"), [([], 0, "0 runs"), (["failed"], 1, "1 run")])
def test_a_sweep_without_scores_is_shown(project, new, tmp_path, capsys, monkeypatch, kept, count, said):
    frame = find_sweep(new).frame()
    monkeypatch.setattr(SweepRuns, "frame", lambda _: frame[frame["status"].isin(kept)])
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    assert capsys.readouterr().out.splitlines()[-1] == f"{said}, all columns in {tmp_path}/runs.csv"
    assert len(pd.read_csv(tmp_path / "runs.csv")) == count


# ---- several sweeps ---------------------------------------------------------------------------------------------


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_sweeps_on_the_same_data_share_one_table(project, old, new, capsys):
    compare([old, new, old], None, View())
    output = capsys.readouterr().out
    headings, *rows = table(output)
    assert headings[:5] == ["sweep", "trial", "status", "val_accuracy", "test_accuracy"]
    assert [row[:2] for row in rows] == [
        [new, "1"],
        [new, "4"],
        [new, "0"],
        [old, "1"],
        [old, "0"],
        [new, "3"],
        [new, "2"],
    ]
    assert output.splitlines()[0].strip() == f"{old}, {new}"
    # Without a single folder to write into, no file is written.
    assert output.splitlines()[-1] == "7 runs"


def test_hyperparameters_in_which_single_runs_differ_are_shown(project, old, new, capsys, monkeypatch):
    frame = SweepRuns.frame

    def single(sweep: SweepRuns) -> pd.DataFrame:
        made = frame(sweep)
        made["params.training.epochs"] = pd.Series([3 if sweep.sweep == old else 5] * len(made), dtype="Int64")
        return made

    monkeypatch.setattr(SweepRuns, "frame", single)
    compare([old, new], None, View(to=None, format="markdown"))
    heading = lines(capsys)[0]
    # `epochs` is the number of epochs that were trained.
    assert heading.count("| epochs |") == 1
    assert "| training.epochs |" in heading


def test_all_sweeps_of_an_experiment(project, old, new, capsys):
    compare(["alpha"], None, View(format="csv", columns=["sweep", "trial"], sort="sweep"), every=True)
    assert lines(capsys) == ["sweep,trial", *(f"{old},{n}" for n in range(2)), *(f"{new},{n}" for n in range(5))]


def test_sweeps_on_different_data_are_not_compared_unless_asked(project, new, other, capsys):
    with pytest.raises(UserError) as caught:
        compare([new, other], None, View())
    assert str(caught.value) == (
        f"compare: {new} is on mnist_5k ({'alpha' * 4}), {other} is on mnist_5k ({'beta' * 4}): "
        "scores on different data cannot be compared; --mix-data shows them anyway"
    )
    compare([new, other], None, View(mix_data=True))
    headings, *rows = table(capsys.readouterr().out)
    assert headings[:3] == ["sweep", "data", "trial"]
    assert {(row[0], row[1]) for row in rows} == {(new, "mnist_5k alphaa"), (other, "mnist_5k betabe")}
    # A filter may leave one.
    compare([new, other], None, View(filters=[f"data.digest == {'beta' * 4}"], columns=["val_loss"], format="csv"))
    assert lines(capsys) == ["metrics.best_val_loss", "0.25", "0.5", "1.0"]


def test_a_hyperparameter_may_have_another_type_in_another_sweep(project, old, new, monkeypatch, tmp_path):
    frame = SweepRuns.frame

    def with_lists(sweep: SweepRuns) -> pd.DataFrame:
        made = frame(sweep)
        if sweep.sweep == old:
            made["params.model.units"] = pd.Series(["[8, 8]", "[16, 8]"], dtype="string")
            made["params.extra"] = pd.Series([True, pd.NA], dtype="boolean")
        return made

    monkeypatch.setattr(SweepRuns, "frame", with_lists)
    compare([new, old], None, View(to=tmp_path / "runs.parquet", sort="start"))
    written = pd.read_parquet(tmp_path / "runs.parquet")
    assert written["params.model.units"].tolist() == ["[8, 8]", "[16, 8]", "64", "128", "256", "16", "16"]
    assert written["params.extra"].tolist()[:3] == [True, pd.NA, pd.NA]
    columns = [column for column in written if column.startswith("params.")]
    assert columns == sorted(columns)


# ---- which rows and columns -------------------------------------------------------------------------------------


def test_filters_that_no_run_matches_are_named_instead_of_an_empty_table(project, new, capsys):
    compare([new], None, View(filters=["units > 1", "units > 9999"]))
    (line,) = capsys.readouterr().out.splitlines()
    assert ": none matches units > 1 and units > 9999, all columns in " in line


@pytest.mark.parametrize(
    ("filters", "trials"),
    [
        (["val_accuracy > 0.7"], [1, 4, 0]),
        (["metrics.val_accuracy < 0.7"], [0, 3]),
        (["best_val_accuracy >= .875", "units=16"], [4]),
        (["optimizer == adam", "units != 64"], [3, 2]),
        (["optimizer.name == 'sgd'"], [1, 4]),
        (["params.optimizer.name != sgd", "batch_normalization == TRUE"], [2]),
        (["momentum == NA"], [0, 3, 2]),
        (["momentum != NA", "momentum <= 0"], [4]),
        # An inactive one is neither 0.5 nor anything else.
        (["momentum != 0.5"], [4]),
        (["status = failed"], [2]),
        (["start >= 2023-11-14T22:30:07"], [1, 4, 3, 2]),
        (["time > 1000"], []),
    ],
)
def test_filters_keep_the_runs_for_which_all_conditions_hold(project, new, capsys, filters, trials):
    compare([new], None, View(filters=filters, columns=["trial"], format="csv"))
    assert lines(capsys) == ["trial", *map(str, trials)]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            {"filters": ["units 64"]},
            "--filter=units 64: write COLUMN SIGN VALUE with one of the signs == != < <= > >=: 'units > 64'",
        ),
        ({"filters": ["unit > 64"]}, "--filter=unit > 64: there is no column unit; did you mean 'units'?"),
        ({"filters": ["units > many"]}, "--filter=units > many: many is not a number"),
        (
            {"filters": ["units > "]},
            "--filter=units > : write COLUMN SIGN VALUE with one of the signs == != < <= > >=: 'units > 64'",
        ),
        ({"filters": ["optimizer > adam"]}, "--filter=optimizer > adam: the column contains text; write == or !="),
        (
            {"filters": ["batch_normalization == 1"]},
            "--filter=batch_normalization == 1: the column is true or false; write == true or == false",
        ),
        ({"filters": ["end < soon"]}, "--filter=end < soon: soon is not a time such as 2026-11-01T12:00"),
        ({"sort": "-moment"}, "--sort=-moment: there is no column moment; did you mean 'momentum'?"),
        ({"columns": ["trial", "unit"]}, "--columns=unit: there is no column unit; did you mean 'units'?"),
        ({"format": "cvs"}, "--format=cvs: no such format; did you mean 'csv'?"),
        ({"format": "parquet"}, "--format=parquet: this is a binary format; give --to FILE"),
        ({"format": "json", "importance": True}, "--importance: it works with the table only, not with --format=json"),
        (
            {"to": Path("runs.xls")},
            "--to=runs.xls: its name does not end with one of .txt .csv .json .parquet .md; give --format",
        ),
    ],
)
def test_a_wrong_option_is_an_error_that_says_what_to_do(project, new, view, message):
    with pytest.raises(UserError) as caught:
        compare([new], None, View(**view))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("sort", "trials"),
    [
        (None, [1, 4, 0, 3, 2]),
        ("val_accuracy", [1, 4, 0, 3, 2]),
        ("-val_accuracy", [3, 0, 1, 4, 2]),
        ("metrics.loss", [0, 1, 3, 4, 2]),
        ("units", [3, 4, 0, 1, 2]),
        ("-units", [2, 1, 0, 3, 4]),
        ("optimizer", [0, 2, 3, 1, 4]),
        ("time", [0, 1, 2, 3, 4]),
        ("parameters", [0, 1, 3, 4, 2]),
    ],
)
def test_sorting_starts_with_the_best_metric_or_the_smallest_other_value(project, new, capsys, sort, trials):
    compare([new], None, View(sort=sort, columns=["trial"], format="csv"))
    assert lines(capsys) == ["trial", *map(str, trials)]


def test_chosen_columns_are_shown_in_their_order(project, new, capsys, tmp_path):
    compare([new], None, View(columns=["time", "val_accuracy", "params.optimizer.name"], csv=tmp_path / "runs.csv"))
    headings, first, *_ = table(capsys.readouterr().out)
    assert headings == ["time", "val_accuracy", "optimizer"]
    assert first == ["5.0 s", "0.875", "sgd"]


# ---- formats ----------------------------------------------------------------------------------------------------


def test_csv_and_json_have_all_columns_and_nothing_else_is_printed(project, new, capsys):
    frame = load_runs(new)
    compare([new], None, View(format="csv"))
    csv = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(csv.columns) == list(frame.columns)
    assert csv["trial"].tolist() == [1, 4, 0, 3, 2]
    compare([new], None, View(format="json", filters=["units < 100"], sort="trial"))
    rows = json.loads(capsys.readouterr().out)
    assert [row["trial"] for row in rows] == [0, 3, 4]
    assert rows[0]["params.optimizer.momentum"] is None
    assert rows[0]["params.model.batch_normalization"] is False
    assert rows[0]["start"] == "2023-11-14T22:30:02.000Z"
    assert rows[1]["params.optimizer.learning_rate"] == 0.0123457


@pytest.mark.parametrize("name", ["runs.csv", "runs.json", "runs.parquet", "runs.md", "runs.txt"])
def test_the_name_of_the_file_decides_the_format(project, new, tmp_path, capsys, name):
    compare([new], None, View(to=tmp_path / name, csv=tmp_path / "all.csv" if name == "runs.txt" else None))
    assert capsys.readouterr().out == f"5 runs are in {tmp_path / name}\n"
    path = tmp_path / name
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}.get(path.suffix)
    if read is None:
        assert path.read_text(encoding="utf-8").count("sgd") == 2
    else:
        assert read(path)["trial"].tolist() == [1, 4, 0, 3, 2]


def test_parquet_keeps_types(project, new, tmp_path):
    compare([new], None, View(to=tmp_path / "runs.parquet", sort="trial"))
    frame = load_runs(new)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet").astype(frame.dtypes), frame)


def test_an_ambiguous_column_name_is_an_error(project, new):
    frame = (
        load_runs(new).rename(columns={"params.model.units": "params.head.units"}).assign(**{"params.body.units": 1})
    )
    with pytest.raises(UserError) as error:
        find_column(frame, "units", {}, "--sort=units")
    assert (
        str(error.value) == "--sort=units: several columns end in units; write params.head.units or params.body.units"
    )
    assert find_column(frame, "head.units", {}, "--sort=head.units") == "params.head.units"


def test_markdown_is_the_table(project, new, capsys):
    compare([new], None, View(format="markdown", columns=["trial", "optimizer", "reason"], filters=["units > 64"]))
    assert lines(capsys) == [
        "| trial | optimizer | reason |",
        "| --- | --- | --- |",
        "| 1 | sgd | – |",
        "| 2 | adam | the loss became nan in epoch 1 |",
    ]


def test_an_unwritable_file_is_an_error(project, new, tmp_path):
    (tmp_path / "file").touch()
    for name in ("runs.csv", "runs.parquet", "runs.md"):
        with pytest.raises(UserError) as caught:
            compare([new], None, View(to=tmp_path / "file" / name))
        assert str(caught.value) == f"--to={tmp_path}/file/{name}: cannot be written (File exists)"


# ---- more than one objective, and other kinds of search ---------------------------------------------------------


def _with(monkeypatch: pytest.MonkeyPatch, objectives: tuple[str, ...] = (), **columns: list[object]) -> None:
    frame = SweepRuns.frame

    def changed(sweep: SweepRuns) -> pd.DataFrame:
        made = frame(sweep)
        for name, values in columns.items():
            made[name.replace("__", ".")] = pd.Series(values).convert_dtypes()
        return made

    monkeypatch.setattr(SweepRuns, "frame", changed)
    if objectives:
        parsed = tuple(map(Objective.parse, objectives))
        monkeypatch.setattr(module, "find_sweep", lambda *given: replace(find_sweep(*given), objectives=parsed))


def test_the_pareto_front_is_marked_and_each_objective_has_one_column(project, new, capsys, tmp_path, monkeypatch):
    weights = [500, 1000, None, 400, 1000]
    _with(monkeypatch, ("val_accuracy max", "parameters min"), metrics__best_parameters=weights)
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    headings, *rows = table(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["1 ●", "4 ●", "0 ●", "3 ●", "2"]
    assert headings.count("parameters") == 1
    assert "best_parameters" not in headings
    assert "500" in rows[2]


def test_scores_on_new_seeds_come_first(project, new, capsys, tmp_path, monkeypatch):
    means = {"metrics__confirmed_val_accuracy": [0.8, 0.7, None, None, None]}
    _with(
        monkeypatch,
        **means,
        metrics__confirmed_val_accuracy_std=[0.01, 0.0, None, None, None],
        confirms=[None] * 4 + [0],
    )
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    output = capsys.readouterr().out
    headings, *rows = table(output)
    assert [row[0] for row in rows] == ["0", "1", "3", "2"]
    assert "0.8000 ± 0.0100" in rows[0]
    assert headings.index("on new seeds") == headings.index("val_accuracy") + 1
    assert output.splitlines()[-1].startswith("5 runs (1 that retrains others not shown), all columns in ")


def test_members_of_a_population_show_the_trial_they_continue_from(project, new, capsys, tmp_path, monkeypatch):
    _with(monkeypatch, goes_on_from=[None, 0, None, 1, None])
    compare([new], None, View(csv=tmp_path / "runs.csv"))
    headings, *rows = table(capsys.readouterr().out)
    assert rows[0][headings.index("from")] == "0"


# ---- importance -------------------------------------------------------------------------------------------------


def test_a_few_trials_have_no_importances(project, new, capsys, tmp_path):
    compare([new], None, View(csv=tmp_path / "runs.csv", importance=True))
    assert lines(capsys)[-1] == "No importances: 4 trials have a score; at least 10 are needed."


def test_importance_and_what_the_best_have_in_common(project, new, capsys, tmp_path, monkeypatch):
    frame = find_sweep(new).frame()
    many = pd.concat([frame[frame["trial"] != 2]] * 5, ignore_index=True)
    monkeypatch.setattr(SweepRuns, "frame", lambda _: many)
    compare([new], None, View(csv=tmp_path / "runs.csv", importance=True))
    output = capsys.readouterr().out
    told = output[output.index("What the best") :]
    headings, first, *rows = table(told)
    assert headings == ["hyperparameter", "importance", "90 % interval", "the best 5", "all 20", "p"]
    assert {row[0] for row in [first, *rows]} == {
        "units",
        "batch_normalization",
        "optimizer",
        "learning_rate",
        "momentum",
    }
    optimizer = next(row for row in [first, *rows] if row[0] == "optimizer")
    assert optimizer[3:5] == ["sgd ×5", "adam ×10, sgd ×10"]


# ---- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", [["--sort", "-units"], ["--sort=-units"]])
def test_command_line_takes_any_number_of_sweeps_and_all_options(project, old, new, capsys, sort):
    given = ["alpha", old, *sort, "--filter", "units > 16", "--filter", "units != 256"]
    assert COMMANDS["compare"]([*given, "--columns", "trial, units", "--format", "csv"]) == 0
    assert lines(capsys) == ["trial,params.model.units", "1,128", "0,64", "1,64", "0,32"]
    assert COMMANDS["compare"](["alpha", "--all", "--columns", "trial", "--format", "csv"]) == 0
    assert len(lines(capsys)) == 8
    with pytest.raises(UserError, match="compare: argument --sort: expected one argument"):
        COMMANDS["compare"](["--sort"])


_QUICK = """
import sys
from pathlib import Path
from mnist_sweep.results.compare import View, compare

old, new, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
compare([new], None, View(csv=folder / "all.csv"))
compare([old, new], None, View(filters=["units > 1"], sort="-seconds"))
compare([], None, View(to=folder / "last.csv"))
compare(["alpha"], None, View(format="csv"), every=True)
print([name for name in ("tensorflow", "mlflow", "sqlalchemy", "hydra", "matplotlib") if name in sys.modules])
"""


def test_a_local_store_imports_nothing_slow(project, old, new, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _QUICK, old, new, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


HOSTILE = {
    "=1+1": "'=1+1",
    "@SUM(A1)": "'@SUM(A1)",
    "+cmd|' /C calc'!A0": "'+cmd|' /C calc'!A0",
    "-2+3": "'-2+3",
    "\t=1": "'\t=1",
    "＝1": "'＝1",
    "\r=1": "\\x0d=1",
    "a\x1b[31m": "a\\x1b[31m",
    "-0.5": "-0.5",
    "+1e3": "+1e3",
    "-inf": "-inf",
    "plain": "plain",
    "a=b": "a=b",
}


def test_csv_has_no_formulas():
    frame = pd.DataFrame(
        {
            "params.x": pd.Series([*HOSTILE, None], dtype="string"),
            "metrics.loss": pd.Series([-0.5] * (len(HOSTILE) + 1), dtype="Float64"),
            "=HYPERLINK(1)": pd.Series([True] * (len(HOSTILE) + 1), dtype="boolean"),
        }
    )
    written = pd.read_csv(io.StringIO(_as_csv(frame)), dtype="string")
    assert written["params.x"].tolist()[:-1] == list(HOSTILE.values())
    assert written["params.x"].isna().sum() == 1
    assert set(written["metrics.loss"]) == {"-0.5"}
    assert list(written.columns)[2] == "'=HYPERLINK(1)"
