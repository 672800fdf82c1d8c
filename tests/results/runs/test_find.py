"""Loading runs from MLflow as pandas data frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.journal.events import SweepResumed, SweepStarted
from mnist_sweep.journal.journal import Journal
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.runs import api, sql
from mnist_sweep.results.runs.api import record
from mnist_sweep.results.runs.find import find_sweep, load_curves, load_runs
from mnist_sweep.results.runs.frames import curves_frame, runs_frame, searched
from mnist_sweep.tracking import store, tags

OLD, NEW, OTHER = "alpha/2025-01-01_10-00-00", "alpha/2025-01-02_10-00-00", "beta/2025-01-01_12-00-00"

# ---- finding a sweep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "beta/2025-01-01_12-00-00"),
        ("alpha", "alpha/2025-01-02_10-00-00"),
        ("beta", "beta/2025-01-01_12-00-00"),
        ("experiments/alpha", "alpha/2025-01-02_10-00-00"),
        ("alpha/2025-01-01_10-00-00", "alpha/2025-01-01_10-00-00"),
        ("alpha/2025-01-01_10-00-00/", "alpha/2025-01-01_10-00-00"),
        ("experiments/alpha/2025-01-01_10-00-00", "alpha/2025-01-01_10-00-00"),
        ("experiments/alpha/2025-01-01_10-00-00/", "alpha/2025-01-01_10-00-00"),
        ("./experiments/alpha/2025-01-01_10-00-00", "alpha/2025-01-01_10-00-00"),
        ("{project}/experiments/alpha/2025-01-01_10-00-00", "alpha/2025-01-01_10-00-00"),
    ],
)
def test_sweep_is_found_by_name_folder_or_experiment(project, given, expected):
    found = find_sweep(given and given.format(project=project))
    assert found.sweep == expected
    assert found.parent.data.tags[tags.TAG_KIND] == "sweep"
    assert found.objective.name == ("val_loss" if expected.startswith("beta") else "val_accuracy")


@pytest.mark.parametrize("folder", [".", "experiments/alpha/2025-01-01_10-00-00"])
def test_sweep_is_found_by_its_folder_from_inside_it(project, monkeypatch, folder):
    monkeypatch.chdir(project / "experiments" / "alpha")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    given = "2025-01-01_10-00-00" if folder == "." else str(project / folder)
    assert find_sweep(given).sweep == "alpha/2025-01-01_10-00-00"


def test_store_may_be_given(project, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_sweep("alpha", f"sqlite:///{project}/mlruns/mlflow.db").sweep == "alpha/2025-01-02_10-00-00"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("alhpa", "sweep alhpa: no such experiment; did you mean 'alpha'?"),
        ("Alpha/2025", "sweep Alpha/2025: no such experiment; did you mean 'alpha'?"),
        ("convolutions", "sweep convolutions: no such experiment; choose one of: alpha, beta"),
        ("alpha/2020", "sweep alpha/2020: no such sweep in sqlite:///{project}/mlruns/mlflow.db"),
        ("al pha", "sweep al pha: write NAME, NAME/TIME or the sweep's folder"),
        ("alpha' OR 1=1", "sweep alpha' OR 1=1: write NAME, NAME/TIME or the sweep's folder"),
        ("alpha/my results", "sweep alpha/my results: no such sweep in sqlite:///{project}/mlruns/mlflow.db"),
        ("alpha//x", "sweep alpha//x: write NAME, NAME/TIME or the sweep's folder"),
    ],
)
def test_unknown_sweep_is_reported_with_the_nearest_name(project, given, message):
    for ask in (find_sweep, load_runs, load_curves):
        with pytest.raises(UserError) as caught:
            ask(given)
        assert str(caught.value) == message.format(project=project)


def test_unknown_experiment_is_reported(project):
    with pytest.raises(UserError) as caught:
        load_runs(experiment="gamma")
    assert str(caught.value) == "sweep gamma: no such experiment; choose one of: alpha, beta"


def test_without_a_store_there_are_no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError) as caught:
        load_runs()
    assert str(caught.value) == (
        f"tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db: there are no runs yet; "
        "start with python -m mnist_sweep +experiment=quick"
    )


def test_store_without_sweeps_has_no_last_one(tmp_path, template):
    path = tmp_path / "mlflow.db"
    path.write_bytes(template.read_bytes())
    with pytest.raises(UserError) as caught:
        load_runs(tracking_uri=f"sqlite:///{path}")
    assert str(caught.value).endswith(": no sweep is logged there yet")


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's folder outside `experiments/`, such as one set by hydra.run.dir."""
    folder = tmp_path / "data" / "2025-01-01_10-00-00"
    folder.mkdir(parents=True)
    config = {"tracking": {"uri": f"sqlite:///{project}/mlruns/mlflow.db"}}
    with Journal(folder) as journal:
        journal.handle(SweepStarted(0.0, "alpha/2025-01-01_10-00-00", config, {}, {}, {}))
    monkeypatch.chdir(tmp_path)
    return folder


def test_store_is_the_one_that_the_given_folder_names(elsewhere):
    assert find_sweep(str(elsewhere)).sweep == "alpha/2025-01-01_10-00-00"
    assert find_sweep(str(elsewhere.parent)).sweep == "alpha/2025-01-01_10-00-00"


def test_store_is_the_one_that_the_last_local_sweep_was_logged_to(project, tmp_path, monkeypatch):
    folder = tmp_path / "experiments" / "alpha" / "2025-01-01_10-00-00" / "0"
    folder.mkdir(parents=True)
    config = {"tracking": {"uri": f"sqlite:///{project}/mlruns/mlflow.db"}}
    with Journal(folder) as journal:
        journal.handle(SweepStarted(0.0, "alpha/2025-01-01_10-00-00/0", config, {}, {}, {}))
    monkeypatch.chdir(tmp_path)
    assert find_sweep().sweep == "beta/2025-01-01_12-00-00"
    assert find_sweep("alpha").sweep == "alpha/2025-01-02_10-00-00"


def test_store_is_opened_with_the_password_that_the_journal_hides(project, tmp_path, monkeypatch):
    folder = tmp_path / "experiments" / "alpha" / "2025-01-01_10-00-00"
    folder.mkdir(parents=True)
    with Journal(folder) as journal:
        config = {"tracking": {"uri": "http://***@box:5000"}}
        journal.handle(SweepStarted(0.0, "alpha/2025-01-01_10-00-00", config, {}, {}, {}))
    client, asked = store.connect(f"sqlite:///{project}/mlruns/mlflow.db"), []
    monkeypatch.setattr(store, "connect", lambda uri, **_: asked.append(uri) or client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:SECRET@box:5000")
    monkeypatch.chdir(tmp_path)
    assert find_sweep("alpha/2025-01-01_10-00-00").sweep == "alpha/2025-01-01_10-00-00"
    assert asked == ["http://ann:SECRET@box:5000"]


# ---- what the store lacks ----------------------------------------------------------------------------------------


@pytest.fixture
def mine(_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in whose store a test may delete."""
    for name in ("experiments", "mlruns"):
        shutil.copytree(_project / name, tmp_path / "mine" / name)
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "mine"


def refused(given: str | None, uri: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_sweep(given, uri)
    return str(caught.value)


def test_a_sweep_is_found_in_a_renamed_experiment(mine):
    client = find_sweep().client
    client.rename_experiment(find_sweep("alpha").found.experiment, "keep")
    for given, expected in (("alpha", NEW), (OLD, OLD), (f"experiments/{OLD}", OLD), ("keep", NEW), (None, OTHER)):
        assert find_sweep(given).sweep == expected
    assert load_runs("alpha")["trial"].tolist() == [0, 1, 2, 3, 4]
    # Its own name belongs to another one now.
    client.create_experiment("alpha")
    assert [find_sweep(given).sweep for given in ("alpha", OLD)] == [NEW, OLD]


def test_a_deleted_sweep_is_named_with_the_command_that_restores_it(mine):
    where, found = f"sqlite:///{mine}/mlruns/mlflow.db", find_sweep(OTHER)
    found.client.delete_run(found.found.run_id)
    message = f"{OTHER}: its run is deleted in {where}; to restore it: python -m mnist_sweep sync {OTHER}"
    assert [refused(given) for given in (OTHER, "beta", f"experiments/{OTHER}")] == [message] * 3
    assert refused("beta", where) == message
    found.client.delete_experiment(found.found.experiment)
    assert refused("beta") == message.replace("run is", "experiment is")
    shutil.rmtree(mine / "experiments")
    message = f"sweep beta: its experiment is deleted in {where}; to restore it: MLFLOW_TRACKING_URI="
    assert refused("beta").startswith(message)


def test_a_sweep_that_is_not_logged_is_named_with_the_command_that_logs_it(mine, template):
    shutil.copy(template, "empty.db")
    where = f"sqlite:///{mine}/empty.db"
    for given, sweep in (("beta", OTHER), (OLD, OLD)):
        assert refused(given, "sqlite:///empty.db") == (
            f"{sweep}: is not in {where}, but its journal has everything; to log it there: "
            f"python -m mnist_sweep sync {sweep} --tracking-uri sqlite:///empty.db"
        )
    with Journal(mine / "experiments" / OTHER, resume=True):
        assert refused("beta", "sqlite:///empty.db").startswith(f"{OTHER}: has just started")


def test_a_damaged_journal_beside_is_skipped(mine, caplog):
    folder = mine / "experiments" / "beta" / "damaged"
    folder.mkdir()
    (folder / "journal.jsonl").write_text("{\n")
    assert find_sweep().sweep == OTHER
    (line,) = caplog.messages
    assert line.startswith("experiments/beta/damaged is skipped: experiments/beta/damaged/journal.jsonl: line 1")
    shutil.rmtree(mine / "experiments" / OTHER)
    assert find_sweep("beta", "sqlite:///mlruns/mlflow.db").sweep == OTHER


def test_a_deleted_store_is_named_with_the_command_that_brings_it_back(mine):
    shutil.rmtree("mlruns")
    for given, sweep in (("beta", OTHER), (OLD, OLD)):
        assert refused(given) == (
            f"tracking.uri=sqlite:///{mine}/mlruns/mlflow.db: does not exist, but the journal of {sweep} has "
            f"everything; to bring it back: python -m mnist_sweep sync {sweep} (--all: all sweeps)"
        )


def test_an_earlier_sweep_is_not_taken_for_the_last_one_without_a_word(mine, caplog):
    found = find_sweep(NEW)
    found.client.delete_run(found.found.run_id)
    assert find_sweep("alpha").sweep == OLD
    # Before, it may say that the project was copied.
    assert caplog.messages[-1:] == [
        f"{NEW} is not in sqlite:///{mine}/mlruns/mlflow.db: this is {OLD}. To log it there: "
        f"python -m mnist_sweep sync {NEW}"
    ]


def test_a_deleted_trial_is_named_with_the_command_that_restores_it(mine):
    found = find_sweep(NEW)
    found.client.delete_run(found.run_of(1).info.run_id)
    with pytest.raises(UserError) as caught:
        found.run_of(1)
    restore = f"deleted in MLflow; to bring it back: python -m mnist_sweep sync {NEW}"
    assert str(caught.value) == f"{NEW}: the run of trial 1 is {restore}"
    # It was the winner: no other trial takes its place.
    with pytest.raises(UserError) as caught:
        found.winner()
    assert str(caught.value) == f"{NEW}: the run of its best trial, 1, is {restore}"


def test_a_lost_file_is_named_with_the_command_that_brings_it_back_if_there_is_one(mine, tmp_path):
    found = find_sweep(NEW)
    model, config = ModelRun(found.client, found.winner()), "config.yaml"
    shutil.rmtree(mine / "mlruns" / "artifacts")
    for name, is_there in (("model.h5", True), (config, True), ("other.png", False)):
        with pytest.raises(UserError) as caught:
            model.fetch(name, tmp_path)
        message = f"{NEW}: trial 1 ({model.run.info.run_id}) has no artifact {name} in MLflow"
        again = f"; to bring it back: python -m mnist_sweep sync {NEW}"
        assert str(caught.value) == message + (again if is_there else "")
    shutil.rmtree(mine / "experiments" / NEW / "trials")
    with pytest.raises(UserError, match=r"no artifact model\.h5 in MLflow$"):
        model.fetch("model.h5", tmp_path)


def test_a_store_in_the_variable_wins_over_the_recorded_one(mine, monkeypatch, template):
    shutil.copy(template, "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert refused("beta").startswith(f"{OTHER}: is not in sqlite:///{mine}/other.db")
    assert find_sweep("beta", "sqlite:///mlruns/mlflow.db").sweep == OTHER


def test_the_recorded_store_is_that_of_the_last_session(mine):
    shutil.move("mlruns", "moved")
    with Journal(mine / "experiments" / OTHER, resume=True) as journal:
        journal.handle(SweepResumed(1e10, {"tracking": {"uri": "sqlite:///moved/mlflow.db"}}))
    assert find_sweep("beta").sweep == OTHER


def test_folder_whose_journal_does_not_begin_with_a_start_is_refused(tmp_path):
    (tmp_path / "journal.jsonl").write_text('{"event": "trial_asked", "time": 1, "trial": 0}\n')
    with pytest.raises(UserError) as caught:
        find_sweep(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}/journal.jsonl: lacks the start of the sweep"


# ---- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def frame(project, new) -> pd.DataFrame:
    return load_runs(new)


def test_there_is_a_row_for_each_trial_sorted_by_number(frame, new):
    assert frame["trial"].tolist() == [0, 1, 2, 3, 4]
    assert frame["sweep"].unique().tolist() == [new]
    assert frame["status"].tolist() == ["completed", "completed", "failed", "stopped", "completed"]
    assert frame["data.name"].unique().tolist() == ["mnist_5k"]
    assert frame["data.digest"].unique().tolist() == ["alpha" * 4]
    assert frame["seconds"].tolist() == [2.5, 5.0, 7.5, 10.0, 12.5]
    # The trained epochs, not the planned ones.
    assert frame["epochs"].tolist() == [3, 2, pd.NA, 1, 1]
    assert frame["params.training.epochs"].tolist() == [3] * 5
    assert frame["run_id"].is_unique


def test_columns_are_in_order(frame):
    columns = list(frame.columns)
    assert columns[:14] == [
        "sweep",
        "trial",
        "confirms",
        "goes_on_from",
        "status",
        "reason",
        "start",
        "end",
        "seconds",
        "epochs",
        "slot",
        "run_id",
        "data.name",
        "data.digest",
    ]
    kinds = [column.partition(".")[0] for column in columns[14:]]
    assert kinds == sorted(kinds, key=["params", "metrics"].index)
    assert columns[14:] == sorted(c for c in columns if c.startswith("params.")) + sorted(
        c for c in columns if c.startswith("metrics.")
    )


@pytest.mark.parametrize(
    ("column", "dtype", "values"),
    [
        ("trial", "Int64", [0, 1, 2, 3, 4]),
        ("confirms", "Int64", [pd.NA] * 5),
        ("epochs", "Int64", [3, 2, pd.NA, 1, 1]),
        ("seconds", "Float64", [2.5, 5.0, 7.5, 10.0, 12.5]),
        ("status", "string", None),
        ("reason", "string", [pd.NA, pd.NA, "the loss became nan in epoch 1", "stopped", pd.NA]),
        ("run_id", "string", None),
        ("data.digest", "string", None),
        ("params.model.units", "Int64", [64, 128, 256, 16, 16]),
        ("params.model.batch_normalization", "boolean", [False, True, True, False, True]),
        ("params.model.kind", "string", ["mlp"] * 5),
        ("params.optimizer.name", "string", ["adam", "sgd", "adam", "adam", "sgd"]),
        # MLflow keeps six digits.
        ("params.optimizer.learning_rate", "Float64", [0.001, 0.1, 1.0, 0.0123457, 0.1]),
        # Active only with sgd.
        ("params.optimizer.momentum", "Float64", [pd.NA, 0.5, pd.NA, pd.NA, 0.0]),
        ("metrics.best_val_accuracy", "Float64", [0.75, 0.875, pd.NA, 0.25, 0.875]),
        ("metrics.best_epoch", "Int64", [2, 2, pd.NA, 1, 1]),
        ("metrics.parameters", "Int64", [1000, 1001, pd.NA, 1003, 1004]),
        ("metrics.val_accuracy", "Float64", [0.625, 0.875, pd.NA, 0.25, 0.875]),
        ("metrics.test_accuracy", "Float64", [pd.NA, 0.8125, pd.NA, pd.NA, pd.NA]),
    ],
)
def test_columns_are_typed(frame, column, dtype, values):
    assert frame[column].dtype == dtype
    if values is not None:
        pd.testing.assert_series_equal(frame[column], pd.Series(values, dtype=dtype, name=column))


def test_start_and_end_are_times_in_utc(frame):
    assert str(frame["start"].dtype) == str(frame["end"].dtype) == "datetime64[ms, UTC]"
    assert (frame["end"] - frame["start"]).dt.total_seconds().tolist() == [4, 3, 1, 2, 2]
    assert frame["start"].is_monotonic_increasing
    assert frame["start"].iloc[0] == pd.Timestamp(1_700_001_002, unit="s", tz="UTC")


def test_last_sweep_of_all_and_of_an_experiment(project, old, new, other):
    assert load_runs()["sweep"].unique().tolist() == [other]
    assert load_runs("alpha")["sweep"].unique().tolist() == [new]
    assert load_runs(old)["trial"].tolist() == [0, 1]


def test_folder_gives_the_same_as_the_name(project, new):
    pd.testing.assert_frame_equal(load_runs(str(project / "experiments" / new)), load_runs(new))


def test_all_sweeps_of_an_experiment_in_one_frame(project, old, new):
    frame = load_runs(experiment="alpha")
    assert list(zip(frame["sweep"], frame["trial"], strict=True)) == [
        *((old, n) for n in range(2)),
        *((new, n) for n in range(5)),
    ]
    # The older sweep did not search it.
    assert frame["params.optimizer.momentum"].isna().tolist() == [True, True, True, False, True, True, False]


def test_runs_on_several_pages_are_all_loaded(project, new, monkeypatch):
    whole, experiment, curves = load_runs(new), load_runs(experiment="alpha"), load_curves(new)
    for page in (1, 2, 5):
        monkeypatch.setattr(api, "PAGE", page)
        monkeypatch.setattr(sql, "PAGE", page)
        pd.testing.assert_frame_equal(load_runs(new), whole)
        pd.testing.assert_frame_equal(load_runs(experiment="alpha"), experiment)
        pd.testing.assert_frame_equal(load_curves(new), curves)
        found = find_sweep(new)
        through_api, wanted = api.Client(found.client), found.selection.wanted
        pd.testing.assert_frame_equal(runs_frame(through_api.records(wanted)), whole)
        pd.testing.assert_frame_equal(curves_frame(through_api.points(wanted)), curves)


def test_without_runs_the_frame_is_empty_and_has_its_columns():
    frame = runs_frame([[record(run) for run in []]])
    assert len(frame) == 0
    assert {"sweep", "trial", "status", "seconds", "run_id"} <= set(frame.columns)
    assert (frame["trial"].dtype, frame["seconds"].dtype) == ("Int64", "Float64")


def test_searched_columns_are_the_hyperparameters_in_which_trials_differ(frame):
    assert searched(frame) == [
        "model.units",
        "model.batch_normalization",
        "optimizer.name",
        "optimizer.learning_rate",
        "optimizer.momentum",
    ]
    assert searched(frame[frame["trial"] == 1]) == []
    # The search space of several sweeps is not known.
    assert searched(load_runs(experiment="alpha")) == sorted(searched(frame))


@pytest.mark.parametrize(
    ("params", "dtype", "values"),
    [
        (["1", "2"], "Int64", [1, 2]),
        (["-1", None], "Int64", [-1, pd.NA]),
        (["0.5", "1"], "Float64", [0.5, 1.0]),
        (["1e-05", "0.1"], "Float64", [1e-5, 0.1]),
        (["True", "False", None], "boolean", [True, False, pd.NA]),
        (["True", "auto"], "string", ["True", "auto"]),
        (["64", "[64, 32]"], "string", ["64", "[64, 32]"]),
        (["relu", None], "string", ["relu", pd.NA]),
        (["auto", "8"], "string", ["auto", "8"]),
        (["True", "1"], "string", ["True", "1"]),
        (["nan", "1"], "string", ["nan", "1"]),
        (["007", "8"], "Int64", [7, 8]),
    ],
)
def test_a_parameter_gets_the_type_that_all_of_its_values_have(tmp_path, template, params, dtype, values):
    path = tmp_path / "mlflow.db"
    path.write_bytes(template.read_bytes())
    client = store.connect(f"sqlite:///{path}")
    made = []
    for number, value in enumerate(params):
        run = client.create_run("0", tags={tags.TAG_SWEEP: "a/b", tags.TAG_TRIAL: str(number)})
        if value is not None:
            client.log_param(run.info.run_id, "x", value)
        made.append(client.get_run(run.info.run_id))
    frame = runs_frame([[record(run) for run in made]])
    pd.testing.assert_series_equal(frame["params.x"], pd.Series(values, dtype=dtype, name="params.x"))


def test_a_running_trial_is_in_the_frame(tmp_path, template):
    path = tmp_path / "mlflow.db"
    path.write_bytes(template.read_bytes())
    client = store.connect(f"sqlite:///{path}")
    run = client.create_run("0", tags={tags.TAG_SWEEP: "a/b", tags.TAG_TRIAL: "0"})
    frame = runs_frame([[record(run) for run in [client.get_run(run.info.run_id)]]])
    assert frame["status"].tolist() == ["running"]
    assert frame["seconds"].isna().all()
    assert frame["end"].isna().all()


# ---- the winner -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweep", "winner"), [("alpha/2025-01-02_10-00-00", 1), ("beta", 1), ("alpha/2025-01-01_10-00-00", 1)]
)
def test_winner_is_the_best_trial_and_the_first_of_equal_ones(project, sweep, winner):
    assert find_sweep(sweep).winner().data.tags[tags.TAG_TRIAL] == str(winner)


def test_sweep_without_a_score_has_no_winner(project, new, monkeypatch):
    found = find_sweep(new)
    failed = found.frame().query("status == 'failed'")
    monkeypatch.setattr(type(found), "frame", lambda _: failed)
    with pytest.raises(UserError) as caught:
        found.winner()
    assert str(caught.value) == f"{new}: no trial has a score yet"


# ---- curves -----------------------------------------------------------------------------------------------------


def test_curves_have_a_row_for_each_trial_metric_and_epoch(project, new):
    curves = load_curves(new)
    assert list(curves.columns) == ["sweep", "trial", "epoch", "metric", "value"]
    assert curves.dtypes.astype(str).tolist() == ["category", "int32", "int32", "category", "float64"]
    assert curves["sweep"].unique().tolist() == [new]
    assert not curves.duplicated(["trial", "metric", "epoch"]).any()
    assert len(curves) == 4 * (3 + 2 + 1 + 1)
    assert set(curves["metric"]) == {"loss", "val_accuracy", "learning_rate", "epoch_seconds"}
    first = curves[(curves["trial"] == 0) & (curves["metric"] == "val_accuracy")]
    assert list(zip(first["epoch"], first["value"], strict=True)) == [(1, 0.5), (2, 0.75), (3, 0.625)]
    # The trial that failed at once has no curve.
    assert curves["trial"].unique().tolist() == [0, 1, 3, 4]


def test_curves_can_be_pivoted(project, other):
    curves = load_curves()
    assert curves["sweep"].unique().tolist() == [other]
    wide = curves[curves["metric"] == "val_loss"].pivot_table(index="epoch", columns="trial", values="value")
    assert wide.loc[2, 1] == 0.25
    assert pd.isna(wide.loc[2, 2])


def test_curves_can_be_merged_with_runs(project):
    curves, frame = load_curves(experiment="alpha"), load_runs(experiment="alpha")
    both = curves.merge(frame, on=["sweep", "trial"])
    assert len(both) == len(curves) == 4 * (2 + 3 + 2 + 1 + 1)
    assert both.groupby("params.optimizer.name")["value"].size().to_dict() == {"adam": 24, "sgd": 12}


# ---- queries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "query", "expected"),
    [
        ({}, "metrics.best_val_accuracy >= 0.75", [(NEW, 0), (NEW, 1), (NEW, 4)]),
        ({}, "metrics.best_val_loss < 0.4", [(OTHER, 1)]),
        ({}, "params.`optimizer.name` = 'sgd' and params.`model.units` = '16'", [(NEW, 4)]),
        ({}, "params.`optimizer.name` LIKE 'SG%'", []),
        ({}, "params.`optimizer.name` ILIKE 'SG%'", [(NEW, 1), (NEW, 4)]),
        ({}, "attributes.run_name LIKE 'trial 3%' and tags.`mnist_sweep.status` != 'completed'", [(NEW, 3)]),
        ({"what": "alpha"}, "metrics.loss <= 1", [(NEW, 0), (NEW, 1), (NEW, 3), (NEW, 4)]),
        ({"what": OLD}, "metrics.best_val_accuracy > 0.6", [(OLD, 1)]),
        ({"experiment": "alpha"}, "params.`model.units` = '64'", [(OLD, 1), (NEW, 0)]),
        ({"experiment": "beta"}, "metrics.best_val_accuracy > 0", []),
    ],
)
def test_query_finds_trials_of_one_or_all_experiments(project, given, query, expected):
    frame, curves = load_runs(**given, query=query), load_curves(**given, query=query)
    assert list(zip(frame["sweep"], frame["trial"], strict=True)) == expected
    assert list(curves.groupby(["sweep", "trial"], observed=True).groups) == expected


@pytest.mark.parametrize("query", ["metrics.loss ~ 1", "accuracy", "metrics.loss = 'x' or metrics.loss > 0"])
def test_invalid_query_is_reported(project, query):
    for ask in (load_runs, load_curves):
        with pytest.raises(UserError) as caught:
            ask(query=query)
        assert str(caught.value).startswith(f"query={query}: ")
        assert "\n" not in str(caught.value)


def test_sweep_and_experiment_together_are_refused(project):
    with pytest.raises(UserError) as caught:
        load_runs("alpha", experiment="beta")
    assert str(caught.value) == "alpha and experiment=beta: give only one of them"
