"""How experiments, values, names and files are written to MLflow."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import requests
import sqlalchemy
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INTERNAL_ERROR,
    REQUEST_LIMIT_EXCEEDED,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)
from stories import DATA, SPACE, START, SWEEP, VERSIONS, Logged, whole_story

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import printable
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import AttemptFailed, SlotOpened, SweepStarted
from mnist_sweep.journal.trial import Status
from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.frames import runs_frame
from mnist_sweep.results.runs.source import RunFilter
from mnist_sweep.results.runs.sql import Database
from mnist_sweep.tracking import store
from mnist_sweep.tracking.names import TAG_METRIC, originals
from mnist_sweep.tracking.tags import TAG_KIND, TAG_REASON, TAG_STORE, TAG_SWEEP
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.tracking.uri import file_path
from mnist_sweep.tracking.writer import Writer, is_refusal


def test_files_are_in_the_configured_folder(told, logged):
    for run in logged.runs:
        folder = told.artifacts / "story" / run.info.run_id / "artifacts"
        assert sorted(path.name for path in folder.iterdir()) == logged.artifacts(run)


def test_a_second_sweep_of_a_name_joins_the_experiment(make_story):
    story = make_story()
    story.starts()
    story.ended(winner=None)
    story.tracker.close()
    second = Tracker(story.settings, story.folder, load_plots)
    second.handle(SweepStarted(START, "story/later", story.config, SPACE, DATA, VERSIONS))
    second.close()
    assert second.error is None
    runs = Logged(story.uri).runs
    assert len({run.info.experiment_id for run in runs}) == 1
    assert sorted(run.data.tags[TAG_SWEEP] for run in runs) == [SWEEP, "story/later"]


def test_sweeps_of_one_name_may_start_at_the_same_time(make_story, monkeypatch):
    story = make_story()
    real = MlflowClient.create_experiment

    def too_late(self: MlflowClient, *args: Any, **kwargs: Any) -> str:
        real(self, *args, **kwargs)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_experiment", too_late)
    logged = whole_story(story, 1)
    assert story.tracker.error is None
    assert logged.parent.info.status == "FINISHED"


def test_a_new_experiment_is_tagged_with_its_store(make_story):
    story = make_story()
    whole_story(story, 1)
    (found,) = [e for e in store.connect(story.uri).search_experiments() if e.name == "story"]
    assert found.tags[TAG_STORE] == str(story.folder.parents[2] / "mlflow.db")


def test_a_store_that_refuses_the_view_gets_everything_else(make_story, monkeypatch):
    def refuse(*args: Any) -> None:
        raise MlflowException("not here")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    story = make_story()
    story.starts()
    assert len(story.logged().runs) == 1
    assert story.tracker.error is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.9325000047683716, "0.9325"), (0.1 + 0.2, "0.3"), (12_345_678.0, "12345678.0"), (1e-9 / 3, "3.333333e-10")],
)
def test_scores_are_logged_with_the_fewest_digits_that_identify_them(make_story, value, shown):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=value)
    story.ends(0, value)
    logged = story.logged()
    assert str(logged.trials[0].data.metrics["best_val_accuracy"]) == shown
    assert logged.trials[0].data.metrics["val_accuracy"] == value


def test_long_values_and_many_of_them_are_logged(make_story):
    story = make_story()
    more = {"model": {**story.config["model"], "note": "x" * 20_000, **{f"field_{i}": i for i in range(250)}}}
    story.starts({**story.config, **more})
    params = story.logged().parent.data.params
    assert story.tracker.error is None
    assert params["model.field_249"] == "249"
    # MLflow would cut it silently.
    assert params["model.note"].endswith("x…")
    assert len(params["model.note"]) == 6000


def test_a_metric_whose_name_mlflow_refuses_is_logged_under_another_name(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, **{"val_accuracy": 0.5, "loss": 1.0, "top@3": 0.75, "top_3": 0.25})
    story.epoch(0, 2, **{"val_accuracy": 0.5, "loss": 1.0, "top@3": 0.875, "top_3": 0.25, "": 0.5})
    story.ends(0, 0.5)
    story.ended()
    logged = story.logged()
    assert (story.tracker.error, story.tracker.refusals.count) == (None, 0)
    (run,) = logged.trials.values()
    own = originals({key: key for key in run.data.metrics}, run.data.tags, TAG_METRIC)
    assert logged.history(run, own["top@3"]) == [(1, 0.75), (2, 0.875)]
    assert logged.history(run, own["top_3"]) == [(1, 0.25), (2, 0.25)]
    assert own["top_3"] == "top_3"
    assert "" in own
    assert story.replay().everything() == logged.everything()
    for source in (Client(store.connect(story.uri)), Database(story.folder.parents[2] / "mlflow.db")):
        frame = runs_frame(source.records(RunFilter(["1"], {TAG_KIND: "trial"})))
        assert frame["metrics.top@3"].tolist() == [0.875]
        assert {f"metrics.{name}" for name in own} - {"metrics.seconds"} <= set(frame.columns)


_HOSTILE = "caf\udce9 \x1b[31mred\x00 \u202etxt" + "x" * 9000


def test_hostile_texts_are_made_printable(make_story, plain_config):
    story = make_story(config={**plain_config, "description": _HOSTILE})
    story.starts(sweep='story/it\'s "so" \x1b', source=_HOSTILE)
    values = {"model.units": _HOSTILE, "model.\x1b" + "n" * 300: 1}
    story.trial(0, values=values)
    story.tell(AttemptFailed, 0, 1, _HOSTILE, _HOSTILE)
    story.trial(0, values=values)
    story.ends(0, reason=_HOSTILE, status=Status.FAILED, log=_HOSTILE)
    story.tell(SlotOpened, "cpu1", _HOSTILE)
    story.ended(reason=_HOSTILE)
    logged = story.logged()
    assert (story.tracker.error, story.tracker.refusals.count) == (None, 0)
    assert len(story.replay().runs) == len(logged.runs) == 2
    (run,) = logged.trials.values()
    for found in (run, logged.parent):
        for text in [*found.data.tags.values(), *found.data.params.values(), found.info.run_name]:
            assert printable(text, 10_000) == text
            assert len(text) <= 8000
    assert run.data.tags[TAG_REASON].startswith("caf\\udce9 \\x1b[31mred\\x00 \\u202etxt")
    assert run.data.tags[TAG_REASON].endswith("x…")
    assert run.data.params["model.units"].endswith("…")
    assert run.info.status == "FAILED"
    log = logged.read(run, "worker.log").decode()
    assert log.startswith("caf\\udce9")
    assert len(log) > 9000
    assert yaml.safe_load(logged.read(logged.parent, "config.yaml"))["description"].startswith("caf")


def test_a_file_that_is_hard_linked_elsewhere_is_not_overwritten(make_story, tmp_path):
    story = make_story()
    logged = whole_story(story, 1)
    (run,) = logged.trials.values()
    files = file_path(run.info.artifact_uri)
    assert files is not None
    shared = {path: tmp_path / path.name for path in files.iterdir()}
    for path, link in shared.items():
        link.hardlink_to(path)
    before = {link: link.read_bytes() for link in shared.values()}
    writer = Writer(story.settings.tracking, "story")
    writer.open(SWEEP, {}, DATA)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.h5").write_bytes(b"another")
    writer.file(run.info.run_id, tmp_path / "new" / "model.h5")
    for path in shared:
        if path.name != "model.h5":
            writer.bytes(run.info.run_id, b"another", path.name)
    assert all(path.read_bytes() == b"another" for path in shared)
    assert {link: link.read_bytes() for link in shared.values()} == before


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        TimeoutError("timed out"),
        OSError(28, "No space left on device"),
        requests.exceptions.InvalidJSONError("a ValueError, too"),
        MlflowException("API request failed with 503"),
        MlflowException("database is locked", TEMPORARILY_UNAVAILABLE),
        MlflowException("too many requests", REQUEST_LIMIT_EXCEEDED),
        MlflowException("who are you?", UNAUTHENTICATED),
        UserError("the store cannot be written"),
    ],
)
def test_an_outage_is_not_a_refusal(error):
    assert not is_refusal(error)


def test_a_database_error_is_a_refusal_or_an_outage_by_its_type():
    for cause, refused in (
        (sqlalchemy.exc.DataError("", {}, Exception("NUL")), True),
        (sqlalchemy.exc.IntegrityError("", {}, Exception("twice")), True),
        (sqlalchemy.exc.OperationalError("", {}, Exception("gone")), False),
        (sqlalchemy.exc.TimeoutError("no connection is free"), False),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), True),
    ):
        for code in (BAD_REQUEST, INTERNAL_ERROR):
            error = MlflowException("wrapped", code)
            error.__cause__ = cause
            assert is_refusal(error) is refused


def test_an_experiment_that_keeps_its_files_elsewhere_is_told(make_story, monkeypatch, tmp_path):
    story = make_story()
    story.starts()
    story.ended(winner=None)
    story.tracker.close()
    assert story.said == []
    tracking = story.settings.tracking.model_copy(update={"artifacts": "s3://bucket/files"})
    writer = Writer(tracking, "story")
    writer.open(SWEEP, {}, DATA)
    assert writer.notes == [
        "tracking.artifacts=s3://bucket/files: the experiment story exists, and keeps its files in "
        f"file://{story.artifacts}/story; to keep them elsewhere, choose another name"
    ]


def test_a_shared_database_with_files_on_one_machine_is_told(make_story):
    tracking = make_story().settings.tracking.model_copy(update={"uri": "postgresql://box/runs"})
    (note,) = Writer(tracking, "story")._about_files("file:///home/ann/mlruns/artifacts/story", new=True)
    assert note.startswith(
        "MLflow's files are in /home/ann/mlruns/artifacts/story: other machines that use the database"
    )
    assert Writer(tracking, "story")._about_files("s3://bucket/story", new=True) == []


def test_a_place_whose_uris_are_too_long_for_the_database_is_refused(make_story):
    made = make_story().settings.tracking
    for uri, place, fits in (
        ("postgresql://box/runs", "s3://bucket/" + 139 * "x", True),
        ("postgresql://box/runs", "s3://bucket/" + 140 * "x", False),
        ("http://box", "s3://bucket/" + 300 * "x", True),
        ("sqlite:///x.db", "/home/" + 300 * "x", True),
    ):
        writer = Writer(made.model_copy(update={"uri": uri, "artifacts": place}), "story")
        with (
            nullcontext()
            if fits
            else pytest.raises(UserError, match="has 158 characters, and the database has room for")
        ):
            writer._check_length(writer._location)
