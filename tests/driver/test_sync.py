"""`sync`: which sweeps are logged, to which store, and what is printed about them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from rich.console import Console

from mnist_sweep.common.errors import UserError
from mnist_sweep.driver import launch, resume, sync
from mnist_sweep.driver.publish import Published
from mnist_sweep.journal.events import EpochEnded, Event, SweepEnded, SweepResumed, SweepStarted, TrialStarted
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status, Trial
from mnist_sweep.tracking import store
from mnist_sweep.tracking.tags import TAG_KIND, TAG_REASON, TAG_STATUS

Begin = Callable[..., Path]
DATA = {"name": "digits", "digest": "0123", "source": "here"}
FIRST, SECOND, THIRD = "x/1", "x/2", "x/3"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, created once."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    store.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture
def begin(tmp_path: Path, compose_config: Any, template: Path) -> Begin:
    """Writes the journal of a sweep with a trial of one epoch; it was killed then, unless it has an end."""
    (tmp_path / "mlruns").mkdir()
    for name in ("mlruns/mlflow.db", "other.db"):
        shutil.copy(template, tmp_path / name)

    def begun(sweep: str, *, end: Status | None = None) -> Path:
        config = compose_config(f"name={sweep.partition('/')[0]}", "tracking.report=false", "tracking.register=false")
        folder = SWEEPS / sweep
        groups = {"model": {"kind": "mlp"}, "optimizer": {}, "training": {"epochs": 3}}
        folder.mkdir(parents=True)
        with Journal(folder) as journal:
            journal.handle(SweepStarted(1.0, sweep, config, {}, DATA, {}))
            journal.handle(TrialStarted(2.0, Trial(0, {}, groups, 3), 1, "cpu0"))
            journal.handle(EpochEnded(3.0, 0, 1, 1, {"val_accuracy": 0.5, "loss": 1.0}))
            if end is not None:
                journal.handle(SweepEnded(4.0, end, "", None))
        return folder

    return begun


def runs(uri: str = "sqlite:///mlruns/mlflow.db") -> dict[str, list[Run]]:
    """The runs of each sweep, its own first."""
    client, found = store.connect(uri), dict[str, list[Run]]()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in sorted(store.search_runs(client, experiments, ""), key=lambda run: run.data.tags[TAG_KIND] != "sweep"):
        found.setdefault(run.data.tags["mnist_sweep.sweep"], []).append(run)
    return found


def synced(*sweep: str, **how: Any) -> tuple[int, str]:
    output = StringIO()
    return sync.sync(next(iter(sweep), None), Console(file=output, width=200), **how), output.getvalue()


def test_the_open_runs_of_a_killed_sweep_are_ended_with_the_reason(begin: Begin) -> None:
    begin(FIRST)
    for _ in range(2):
        code, said = synced()
        assert code == 0
        assert "experiments/x/1: 3 events are in sqlite:///mlruns/mlflow.db\n" in said
        assert "so its open runs are KILLED. To continue: python -m mnist_sweep resume x/1\n" in said
        own, trial = runs()[FIRST]
        for run in (own, trial):
            assert (run.info.status, run.info.end_time) == ("KILLED", 3000)
            assert run.data.tags[TAG_STATUS] == "stopped"
            assert run.data.tags[TAG_REASON] == "its process was killed"


def test_without_a_name_other_killed_sweeps_are_ended_too(begin: Begin) -> None:
    killed, stopped, last = begin(FIRST), begin("y/1", end=Status.STOPPED), begin(SECOND, end=Status.STOPPED)
    for sweep in (FIRST, "y/1", SECOND):
        synced(sweep)
    client = store.connect("sqlite:///mlruns/mlflow.db")
    for found in runs().values():
        client.update_run(found[0].info.run_id, status="RUNNING")
    with Journal(stopped, resume=True):
        # A process runs it.
        _, said = synced()
        assert "experiments/y/1: another process runs the sweep, and logs it\n" in said
    assert {sweep: found[0].info.status for sweep, found in runs().items()} == {
        FIRST: "KILLED",
        SECOND: "KILLED",
        "y/1": "RUNNING",
    }
    assert [line.partition(":")[0] for line in said.splitlines() if "events are in" in line] == [str(last), str(killed)]


@pytest.mark.parametrize("given", ["argument", "variable", "both"])
def test_a_store_that_is_given_now_wins_over_the_recorded_one(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    begin(FIRST, end=Status.STOPPED)
    if given != "argument":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db" if given == "variable" else "sqlite:///wrong.db")
    code, said = synced("x", tracking_uri=None if given == "variable" else "sqlite:///other.db")
    assert (code, said) == (0, "experiments/x/1: 4 events are in sqlite:///other.db\n")
    assert list(runs("sqlite:///other.db")) == [FIRST]
    assert runs() == {}


def test_all_sweeps_are_logged_after_the_store_was_deleted(begin: Begin) -> None:
    begin(FIRST)
    damaged = begin("y/1")
    (damaged / "journal.jsonl").write_text('{"event": "sweep_started"\n')
    begin(SECOND, end=Status.STOPPED)
    with Journal(begin(THIRD), resume=True):
        code, said = synced(every=True)
    assert code == 1
    assert set(runs()) == {FIRST, SECOND}
    assert "experiments/y/1/journal.jsonl: line 1 is damaged" in said
    assert "experiments/x/3: another process runs the sweep, and logs it" in said


def test_the_runs_that_retrain_its_trials_are_logged_with_a_sweep(begin: Begin) -> None:
    folder = begin(FIRST, end=Status.STOPPED)
    retrained = begin(f"{FIRST}/retrained-0", end=Status.STOPPED)
    for number, how in enumerate(({}, {"every": True})):
        uri = ("sqlite:///mlruns/mlflow.db", "sqlite:///other.db")[number]
        code, said = synced(**how, tracking_uri=uri)
        assert code == 0
        assert set(runs(uri)) == {FIRST, f"{FIRST}/retrained-0"}
        assert [line.partition(":")[0] for line in said.splitlines() if "events" in line] == [
            str(folder),
            str(retrained),
        ]
    with Journal(retrained, resume=True):
        # It logs itself.
        assert "retrained" not in synced("x")[1]


def test_what_cannot_be_brought_back_is_said(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(FIRST, end=Status.STOPPED)
    monkeypatch.setattr(sync.Recorder, "lost", [0, 2])
    assert (
        "Cannot be brought back: the model of trials 0, 2, which neither MLflow nor experiments/x/1/trials has.\n"
        in synced("x")[1]
    )


def test_what_was_restored_is_said(begin: Begin) -> None:
    begin(FIRST, end=Status.STOPPED)
    synced("x")
    client, (own, _) = store.connect("sqlite:///mlruns/mlflow.db"), runs()[FIRST]
    client.delete_run(own.info.run_id)
    assert "Brought back: 1 deleted run.\n" in synced("x")[1]
    assert len(runs()[FIRST]) == 2


def test_a_server_that_does_not_answer_may_be_elsewhere_now(begin: Begin) -> None:
    begin(FIRST)
    with pytest.raises(UserError) as caught:
        synced("x", tracking_uri="http://127.0.0.1:9")
    assert str(caught.value).startswith(
        "sync: cannot write to http://127.0.0.1:9; if the store is elsewhere now, name it with --tracking-uri or "
        "MLFLOW_TRACKING_URI ("
    )


def test_what_is_refused_is_printed(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = begin(FIRST, end=Status.STOPPED), list[Event]()
    with Journal(folder, resume=True) as journal:
        journal.handle(SweepResumed(5.0, {}))

    class Refusing:
        has_started, mended, lost = True, "", ()

        def __init__(self, *_: Any, **__: Any) -> None:
            """Takes the arguments of a recorder."""

        def handle(self, *events: Event) -> None:
            if any(isinstance(event, EpochEnded) for event in events):
                raise ValueError("it has no end")
            told.extend(events)

    monkeypatch.setattr(sync, "Recorder", Refusing)
    monkeypatch.setattr(sync, "last_config", lambda state, _: state.started.config)
    code, said = synced("x")
    assert code == 3
    # The last one ends the runs, as the resumed sweep was killed.
    assert [type(event) for event in told] == [SweepStarted, TrialStarted, SweepEnded, SweepResumed, SweepEnded]
    assert "4 events are in sqlite:///mlruns/mlflow.db" in said
    assert "1 event could not be logged completely, because MLflow rejects a part: it has no end." in said


@pytest.mark.parametrize("given", ["option", "key", "variable"])
def test_a_resumed_sweep_is_logged_to_the_store_that_is_given_now(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    begin(FIRST)
    configs: list[dict[str, Any]] = []
    monkeypatch.setattr(launch, "run", lambda config, *_, **__: configs.append(config) or 0)
    if given == "variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://new")
    key = ["tracking.uri=http://new"] if given == "key" else []
    option = "http://new" if given == "option" else None
    assert resume.resume("x", ["search.max_trials=99", *key], Console(file=StringIO()), tracking_uri=option) == 0
    assert [config["tracking"]["uri"] for config in configs] == ["http://new"]


def test_a_report_or_model_that_cannot_be_logged_ends_with_a_code_of_its_own(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(FIRST, end=Status.COMPLETED)
    assert synced("x")[0] == 0
    troubled = Published(troubles=("the best model could not be registered (403)",))
    monkeypatch.setattr(sync, "publish", lambda *_, **__: troubled)
    code, said = synced("x")
    assert code == 3
    assert "The best model could not be registered (403); everything else is complete." in said
