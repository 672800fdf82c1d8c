"""Reading runs from the tables of SQLite and PostgreSQL, through MLflow's API and from a server gives the same."""

from __future__ import annotations

import logging
import math
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import stack
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from tracking_server import serving

from mnist_sweep.common.errors import UserError
from mnist_sweep.results.runs import api, find, tables
from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.find import Selection, Store, all_sweeps, find_sweep, load_curves, load_runs
from mnist_sweep.results.runs.frames import curves_frame, runs_frame
from mnist_sweep.results.runs.source import RunFilter
from mnist_sweep.results.runs.sql import Database
from mnist_sweep.tracking import store
from mnist_sweep.tracking.names import TAG_METRIC
from mnist_sweep.tracking.tags import TAG_KIND, TAG_OBJECTIVE, TAG_SWEEP, TAG_TRIAL

TRIALS = {TAG_KIND: "trial"}


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URI of an empty database, with a password that has special characters."""
    if (reason := stack.missing()) is not None:
        pytest.skip(reason)
    # Not pytest's, which the user who runs PostgreSQL may not enter.
    with tempfile.TemporaryDirectory() as folder:
        database = stack.Postgres(Path(folder))
        try:
            database.start()
            database.create("awkward")
            yield database.uri("awkward")
        finally:
            database.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def awkward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, template: Path) -> Selection:
    """The trials of a store with many unusual runs."""
    if request.param == "postgresql":
        return _with_unusual_runs(request.getfixturevalue("postgresql"))
    path = tmp_path_factory.mktemp("awkward") / "ml flow#1.db"
    path.write_bytes(template.read_bytes())
    return _with_unusual_runs(f"sqlite:///{path}")


def _with_unusual_runs(uri: str) -> Selection:
    from mlflow.entities import Metric, Param

    client = store.connect(uri, create=True)
    first, second, gone = (client.create_experiment(name) for name in ("first", "second", "gone"))

    def run(
        experiment: str,
        number: int,
        params: dict[str, str],
        points: list[tuple[str, float, int, int]],
        end: bool = True,
        **tags: str,
    ) -> str:
        """A trial's run; each point has a name, value, time and step."""
        about = {
            TAG_KIND: "trial",
            TAG_SWEEP: f"{experiment}/x",
            TAG_TRIAL: str(number),
        }
        about |= {key.replace("__", "."): value for key, value in tags.items()}
        made = client.create_run(experiment, start_time=1000 * number, tags=about).info.run_id
        client.log_batch(made, [Metric(*point) for point in points], [Param(*param) for param in params.items()])
        if end:
            client.set_terminated(made, "FINISHED", 1000 * number + 500)
        return str(made)

    whole = [("loss", 1 / n, n, n) for n in range(1, 4)]
    run(first, 10, {"a": "1", "b": "True"}, [*whole, ("val_loss", 0.25, 1, 1), ("seconds", 2.5, 9, 0)])
    run(
        first,
        2,
        {"a": "2"},
        [("loss", math.nan, 1, 1), ("val_loss", math.inf, 1, 1), ("top_3", 1.0, 1, 7), ("system/cpu", 1.0, 1, 7)],
        **{f"{TAG_METRIC.replace('.', '__')}top_3": "top@3"},
    )
    # A trial whose first attempt was lost, so that its epochs were trained again.
    twice = [("loss", 3.0, 1, 1), ("loss", 2.0, 2, 2), ("loss", 4.0, 11, 1), ("loss", math.nan, 12, 2)]
    run(first, 3, {"a": "0.5", "c": "ünïcode"}, twice, mnist_sweep__confirms="2", mnist_sweep__reason="")
    run(first, 4, {}, [], end=False, mnist_sweep__slot="gpu0", mnist_sweep__goes_on_from="trial 3")
    run(second, 1, {"a": "x"}, [("best_epoch", 3, 1, 3), ("loss", -1.0, 1, 1)], data__name="mnist")
    # Runs that are not read.
    client.delete_run(run(first, 5, {"a": "deleted"}, whole))
    run(first, 6, {"d": "1"}, whole, mnist_sweep__kind="execution")
    run(gone, 1, {"a": "deleted"}, whole)
    client.delete_experiment(gone)
    return Selection(Store(uri), RunFilter((first, second), TRIALS))


def through_api(selection: Selection) -> tuple[pd.DataFrame, pd.DataFrame]:
    source, wanted = Client(selection.store.client), selection.wanted
    return runs_frame(source.records(wanted)), curves_frame(source.points(wanted))


@pytest.fixture
def without_api(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any) -> None:
        raise AssertionError("MLflow's API was asked")

    monkeypatch.setattr(Client, "__init__", called)


@pytest.mark.parametrize(
    ("more", "trials"),
    [
        (None, [2, 3, 4, 10, 1]),
        ("metrics.loss > 0", [10]),
        ("metrics.loss != 1", [2, 3, 10, 1]),
        ("params.a != 'x'", [2, 3, 10]),
        ("attributes.start_time >= 3000 and attributes.status = 'FINISHED'", [3, 10]),
        ("params.c = 'ünïcode'", [3]),
        ("tags.`data.name` IS NULL", [2, 3, 4, 10]),
        ("params.a = 'nowhere'", []),
    ],
)
def test_frames_are_the_same_through_tables_and_api(awkward, monkeypatch, more, trials):
    selection = replace(awkward, wanted=replace(awkward.wanted, query=more))
    frame, curves = through_api(selection)
    assert frame["trial"].tolist() == trials
    monkeypatch.setattr(Client, "__init__", None)
    pd.testing.assert_frame_equal(selection.frame(), frame, check_exact=True)
    pd.testing.assert_frame_equal(selection.curves(), curves, check_exact=True)


def _each(points: int) -> dict[str, int]:
    return {"_AT_ONCE": 2, "_MOST_POINTS": points, "_EXPECTED_POINTS": 100}


@pytest.mark.parametrize(
    ("missing", "limits", "asked"),
    [
        # Five trials on three pages; curves of `loss`, `val_loss` and `top_3`.
        (set(), {}, {"get-history-bulk"}),
        # Answers that may be incomplete are asked for again in halves.
        (set(), _each(3), {"get-history-bulk", "get-history"}),
        ({"get-history-bulk"}, {}, {"get-history-bulk", "get-history"}),
    ],
    ids=["in bulk", "few points at a time", "one by one"],
)
@pytest.mark.parametrize("awkward", ["sqlite"], indirect=True)
def test_server_returns_the_same_frames(awkward, tmp_path, monkeypatch, missing, limits, asked):
    frame, curves = awkward.frame(), awkward.curves()
    for name, value in {"PAGE": 2, **limits}.items():
        monkeypatch.setattr(api, name, value)
    with serving(awkward.store.uri, tmp_path) as server:
        server.missing = missing
        there = replace(awkward, store=Store(server.uri))
        pd.testing.assert_frame_equal(there.frame(), frame, check_exact=True)
        assert server.asked.count("search") == 4
        pd.testing.assert_frame_equal(there.curves(), curves, check_exact=True)
        assert {part for part in server.asked if part.startswith("get-history")} == asked


@pytest.mark.parametrize("awkward", ["sqlite"], indirect=True)
def test_invalid_query_is_reported_by_a_server(awkward, tmp_path):
    with serving(awkward.store.uri, tmp_path) as server, pytest.raises(UserError, match=r"^query=metrics\.: "):
        replace(awkward, store=Store(server.uri), wanted=replace(awkward.wanted, query="metrics.")).frame()


def test_metrics_of_a_store_without_a_way_to_read_many_runs_are_read_one_by_one(awkward, monkeypatch):
    curves = awkward.curves()
    monkeypatch.setattr(SqlAlchemyStore, "get_metric_history_bulk", None)
    pd.testing.assert_frame_equal(through_api(awkward)[1], curves, check_exact=True)


def test_database_that_cannot_be_opened_directly_is_read_through_the_api(postgresql, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tables, "_CONNECT_WITHIN", "no number")
    assert find.Store(postgresql).read(lambda source: source.experiments())
    (said,) = [record.message for record in caplog.records if "MLflow's API" in record.message]
    assert said.startswith("postgresql://***@127.0.0.1:")


def test_unusual_runs_are_read_correctly(awkward):
    frame = awkward.frame().set_index("trial")
    assert frame["epochs"].tolist() == [1, 2, pd.NA, 3, 1]
    curves = awkward.curves().set_index("metric")
    assert curves.loc["top@3", ["trial", "epoch", "value"]].tolist() == [2, 7, 1.0]
    assert set(curves.index) == {"loss", "val_loss", "top@3"}
    assert frame["metrics.loss"].tolist() == [pd.NA, pd.NA, pd.NA, 1 / 3, -1.0]
    assert frame["seconds"].tolist() == [pd.NA, pd.NA, pd.NA, 2.5, pd.NA]
    assert frame["confirms"].tolist() == [pd.NA, 2, pd.NA, pd.NA, pd.NA]
    assert frame["reason"].isna().all()
    assert frame.loc[4, ["status", "slot", "goes_on_from"]].tolist() == ["running", "gpu0", 3]
    assert frame["end"].isna().tolist() == [False, False, True, False, False]
    assert frame["start"].dt.second.tolist() == [2, 3, 4, 10, 1]
    assert "params.d" not in frame


def test_the_last_value_of_an_epoch_that_was_trained_twice_counts(awkward):
    curves = awkward.curves()
    again = curves[curves["trial"] == 3]
    assert again["epoch"].tolist() == [1, 2]
    assert again["value"].iloc[0] == 4.0
    assert math.isnan(again["value"].iloc[1])


def test_a_sweep_can_be_read_while_it_is_written(project, new, without_api):
    whole = load_runs(new)
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM params")
        pd.testing.assert_frame_equal(load_runs(new), whole)
        writer.execute("ROLLBACK")


def test_store_with_options_in_its_uri(project, new, without_api):
    uri = f"sqlite:///{project}/mlruns/mlflow.db"
    pd.testing.assert_frame_equal(load_runs(new, tracking_uri=f"{uri}?timeout=30"), load_runs(new))


def _without_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ALTER TABLE latest_metrics RENAME TO last_metrics")
        database.execute("DROP TABLE metrics")


def _without_column(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for table in ("latest_metrics", "metrics"):
            database.execute(f"ALTER TABLE {table} RENAME COLUMN step TO at")


def _read_a_copy(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """Makes the module read the tables of a changed copy of the store, while MLflow uses the store itself."""
    other = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as database:
        database.execute("VACUUM INTO ?", (str(other),))
    change(other)
    monkeypatch.setattr(find, "Database", lambda _: Database(f"sqlite:///{other}"))


@pytest.mark.parametrize("change", [_without_table, _without_column, Path.unlink])
def test_unknown_tables_are_read_through_the_api(
    project, new, tmp_path, monkeypatch, caplog, change: Callable[[Path], None]
):
    whole, curves, found = load_runs(new), load_curves(new), find_sweep(new)
    _read_a_copy(project, tmp_path, monkeypatch, change)
    caplog.set_level(logging.INFO)
    pd.testing.assert_frame_equal(found.frame(), whole)
    pd.testing.assert_frame_equal(found.curves(), curves)
    assert [record.levelname for record in caplog.records if "MLflow's API" in record.message] == ["INFO", "INFO"]


# ---- sweeps -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Store:
    """A store with sweeps in two experiments, three of which started at once, and runs that are not read."""
    path = tmp_path_factory.mktemp("sweeps") / "mlflow.db"
    path.write_bytes(template.read_bytes())
    made = Store(f"sqlite:///{path}")
    first, second, gone = (made.client.create_experiment(name) for name in ("first", "second", "gone"))

    def run(experiment: str, start: int, kind: str = "sweep", **tags: str) -> str:
        tags = {
            TAG_KIND: kind,
            TAG_SWEEP: f"{experiment}/{start}",
            TAG_OBJECTIVE: "loss min",
            **tags,
        }
        run = made.client.create_run(experiment, start_time=start, tags=tags).info.run_id
        # Neither in the order of the alphabet nor in that of logging.
        for key, value in (("space.b", "choice(1, 2)"), ("seed", "3"), ("space.a", "x if b in [1]"), ("space.c", "")):
            made.client.log_param(run, key, value)
        return str(run)

    for start in (3, 1, 2, 2, 2):
        run(first, start)
    run(second, 4)
    made.client.delete_run(run(first, 9))
    run(first, 8, kind="trial")
    run(gone, 7)
    made.client.delete_experiment(gone)
    return made


@pytest.mark.parametrize("most", [None, 1, 3])
def test_sweeps_are_the_same_through_tables_and_api(sweeps, most):
    tables, api = Database(sweeps.uri), Client(sweeps.client)
    assert tables.experiments() == api.experiments()
    ids = [tables.experiments()[name] for name in ("first", "second")]
    for tags in (
        {TAG_KIND: "sweep"},
        {TAG_KIND: "sweep", TAG_SWEEP: f"{ids[0]}/2"},
    ):
        wanted = RunFilter(ids, tags)
        found, same = tables.parents(wanted, most), api.parents(wanted, most)
        assert [(one.run_id, one.experiment) for one in found] == [(one.run_id, one.experiment) for one in same]
        assert [list(one.space.items()) for one in found] == [list(one.space.items()) for one in same]
        for one, other in zip(found, same, strict=True):
            assert one.tags.items() <= other.tags.items()
    assert [one.tags[TAG_SWEEP] for one in found] == [f"{ids[0]}/2"] * (most or 3)
    assert list(found[0].space) == ["b", "a", "c"]


@pytest.mark.parametrize("given", [None, "alpha", "alpha/2025-01-01_10-00-00"])
def test_sweeps_found_through_tables_and_api_are_the_same(project, monkeypatch, given):
    found, every = find_sweep(given), all_sweeps(find_sweep(given))
    frames = [one.frame() for one in every]
    monkeypatch.setattr(find, "can_open", lambda _: False)
    monkeypatch.setattr(find, "Database", None)
    same, others = find_sweep(given), all_sweeps(find_sweep(given))
    assert (found.sweep, found.objectives, found.space) == (same.sweep, same.objectives, same.space)
    assert list(found.space) == list(same.space)
    assert [one.sweep for one in every] == [one.sweep for one in others]
    for frame, one in zip(frames, others, strict=True):
        pd.testing.assert_frame_equal(frame, one.frame(), check_exact=True)
        assert frame.attrs == one.frame().attrs
    assert found.parent.to_dictionary() == same.parent.to_dictionary()


def _without_experiments(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ALTER TABLE experiments RENAME TO experiences")


def _with_workspaces(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE experiments SET workspace = 'mine', name = name || '2' WHERE name = 'alpha'")


@pytest.mark.parametrize("change", [_without_experiments, _with_workspaces])
def test_sweep_is_found_through_the_api_if_the_tables_are_unknown(project, old, tmp_path, monkeypatch, change):
    _read_a_copy(project, tmp_path, monkeypatch, change)
    assert find_sweep(old).sweep == old


def test_file_that_is_not_a_database_is_reported(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("no database" * 100)
    with pytest.raises(UserError) as caught:
        find_sweep(tracking_uri=f"sqlite:///{path}")
    assert str(caught.value).startswith(f"tracking.uri=sqlite:///{path}: is not an SQLite database; name another")
