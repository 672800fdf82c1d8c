"""Which sweep is continued, and what may have changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import sources
from mnist_sweep.driver import resume, summary
from mnist_sweep.driver.stored_config import from_store, to_store
from mnist_sweep.journal.events import SweepEnded, SweepResumed, SweepStarted, TrialEnded, TrialStarted
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Outcome, Status, Trial

Begin = Callable[..., Path]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Writes the journal of a sweep, interrupted or not."""
    monkeypatch.chdir(tmp_path)

    def begun(folder: Path, config: dict[str, Any], *, ended: bool = False, data: dict[str, Any] | None = None) -> Path:
        folder.mkdir(parents=True)
        with Journal(folder) as journal:
            journal.handle(SweepStarted(1.0, "a/b", config, {}, data or {}, {}))
            if ended:
                journal.handle(SweepEnded(2.0, Status.COMPLETED, "", 0))
        return folder

    return begun


def test_the_budget_of_a_sweep_of_several_objectives_may_be_longer(compose_config) -> None:
    objective = "objective=[val_accuracy max, parameters min]"
    old, new = (compose_config(objective, f"search.max_trials={n}", "search.target=0.9") for n in (8, 9))
    resume.check_unchanged(old, new)
    with pytest.raises(UserError, match=r"search.max_trials \(9 → 8\)"):
        resume.check_unchanged(new, old)


def test_a_sweep_may_continue_on_a_cluster_and_back_on_this_machine(compose_config) -> None:
    old = compose_config("workers.count=2")
    # As in a sweep of an earlier version.
    del old["workers"]["engine"]
    new = resume._overridden(old, ["workers=ray", "workers.address=10.0.0.1:6390", "workers.wait=10m"])
    expected = {"engine": "ray", "count": 2, "address": "10.0.0.1:6390", "wait": "10m", "max_slots": None}
    assert {key: new["workers"][key] for key in expected} == expected
    resume.check_unchanged(old, new)
    assert resume._overridden(new, ["workers=local"])["workers"] == {**old["workers"], "engine": "local"}


def found(config: dict[str, Any], wished: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    continued = resume.to_continue(config, wished, say)
    for line in continued.said if continued is not None else ():
        say(line)
    return None if continued is None else (continued.folder, continued.config)


class TestAuto:
    def test_continues_the_last_sweep_of_the_name_with_the_same_config(self, compose_config, begin: Begin) -> None:
        config, other = compose_config("name=x"), compose_config("name=x", "seed=2")
        begin(SWEEPS / "x" / "1", config)
        last = begin(SWEEPS / "x" / "2", config)
        begin(SWEEPS / "x" / "3", other)
        begin(SWEEPS / "x" / "4", config, ended=True)
        begin(SWEEPS / "y" / "5", config)
        said: list[str] = []
        assert found(config, Path("nowhere"), said.append) == (last, config)
        assert len(said) == 1
        assert said[0].startswith(
            "experiments/x/3 is not continued: the config has changed: search.seed (2 → 1), seed (2 → 1)"
        )

    def test_names_the_command_that_trains_the_values_that_are_new(self, compose_config, begin: Begin) -> None:
        few, more, other = (
            compose_config("name=x", "search=random", "model.units='4,8'"),
            compose_config("name=x", "search=random", "model.units='4,8,16'"),
            compose_config("name=x", "search=random", "model.units='4,8,16'", "seed=2"),
        )
        begin(SWEEPS / "x/1", few)
        for config, named in ((more, True), (other, False)):
            said: list[str] = []
            assert found(config, Path("x"), said.append) is None
            assert ("; to train only the values that are new: " in said[0]) is named
            assert said[0].endswith(" -m mnist_sweep resume experiments/x/1 model.units=4,8,16") is named

    def test_searches_the_folder_that_hydra_was_given(self, compose_config, begin: Begin) -> None:
        config = compose_config("name=x")
        wished = begin(Path("out") / "auto", config)
        assert found(config, wished, print) == (wished, config)
        assert resume.to_continue(config, Path("out") / "other", print) is None

    def test_takes_over_what_does_not_change_the_results_and_says_so(self, compose_config, begin: Begin) -> None:
        old = compose_config("name=x", "model.units=16,64", "objective=val_accuracy max")
        folder = begin(SWEEPS / "x" / "1", old)
        free = ("workers.count=1", "workers.timeout=2h", "tracking.uri=http://ann:HUSH@box:1", "tracking.keep_models=3")
        new = compose_config("name=x", "model.units='choice(16,64)'", "objective=val_accuracy", *free)
        said: list[str] = []
        assert found(new, Path("nowhere"), said.append) == (folder, {**new, "model": old["model"]})
        assert said == [
            "experiments/x/1 is continued, now with tracking.keep_models (all → 3), tracking.uri "
            "(sqlite:///mlruns/mlflow.db → http://***@box:1), workers.count (null → 1), workers.timeout (1h → 2h); its "
            "trials, search space and seeds stay"
        ]

    def test_compares_the_data_by_their_digest_and_not_by_their_path(
        self, compose_config, begin: Begin, digits: Path, tmp_path: Path
    ) -> None:
        shutil.copy(digits, tmp_path / "same.npz")
        with np.load(digits) as arrays:
            np.savez(tmp_path / "other.npz", **{**arrays, "y_test": arrays["y_test"][::-1]})
        data = {"name": "npz", "digest": sources.load(sources.Request("npz", str(digits))).digest()}
        folder = begin(SWEEPS / "x" / "1", compose_config("name=x", "data=npz", f"data.path={digits}"), data=data)
        said: list[str] = []
        same = compose_config("name=x", "data=npz", "data.path=same.npz")
        assert found(same, Path("nowhere"), said.append) == (folder, same)
        assert f"now with data.path ({digits} → same.npz)" in said[0]
        other = compose_config("name=x", "data=npz", "data.path=other.npz")
        assert resume.to_continue(other, Path("nowhere"), said.append) is None
        assert said[1].startswith(f"experiments/x/1 is not continued: its data is different now ({data['digest']} → ")

    def test_keeps_a_budget_that_was_made_longer_since(self, compose_config, begin: Begin) -> None:
        config, longer = compose_config("name=x"), compose_config("name=x", "search.max_trials=50")
        folder = begin(SWEEPS / "x" / "1", config)
        with Journal(folder, resume=True) as journal:
            journal.handle(SweepResumed(3.0, longer))
        said: list[str] = []
        assert found(config, Path("nowhere"), said.append) == (folder, longer)
        assert said == ["experiments/x/1 keeps search.max_trials=50"]
        assert resume.to_continue(compose_config("name=x", "search.max_trials=10"), Path("nowhere"), print) is None

    def test_keeps_the_name_of_a_sweep_whose_folder_was_renamed(self, compose_config, begin: Begin) -> None:
        old = compose_config("name=x")
        folder = begin(SWEEPS / "y" / "1", old)
        said: list[str] = []
        assert found(compose_config("name=y"), Path("nowhere"), said.append) == (folder, old)
        assert said == ["experiments/y/1 keeps name=x"]

    @pytest.mark.parametrize(("status", "again"), [(Status.STOPPED, False), (Status.FAILED, True)])
    def test_trains_failed_trials_again_if_the_whole_sweep_has_failed(
        self, compose_config, begin: Begin, status: Status, again: bool
    ) -> None:
        config = compose_config("name=x")
        with Journal(begin(SWEEPS / "x" / "1", config), resume=True) as journal:
            journal.handle(TrialStarted(2.0, Trial(0, {}, {}, 1), 1, "cpu0"))
            journal.handle(TrialEnded(3.0, 0, Outcome(Status.FAILED, "a bug")))
            journal.handle(SweepEnded(4.0, status, "", None))
        continued = resume.to_continue(config, Path("nowhere"), print)
        assert continued is not None
        assert (continued.retry_failed, continued.complete) == (again, False)


class TestOverrides:
    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        monkeypatch.setattr(resume.launch, "run", lambda config, *_, **__: found.append(config) or 0)
        return found

    def test_may_name_whatever_does_not_change_the_results(
        self, compose_config, begin: Begin, ran: list[dict[str, Any]]
    ) -> None:
        begin(SWEEPS / "x" / "1", compose_config("name=x", "data=npz", "data.path=a.npz"))
        given = ["data.path=b (1).npz", "workers.count=1", "workers.timeout=null", "tracking.report=false"]
        resume.resume("x", [*given, "tracking.uri=sqlite:///x.db", "search.max_failures=null"], Console())
        (config,) = ran
        assert config["data"]["path"] == "b (1).npz"
        assert (config["workers"]["count"], config["workers"]["timeout"]) == (1, None)
        assert (config["tracking"]["report"], config["tracking"]["uri"]) == (False, "sqlite:///x.db")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("model.units=32", r"the config has changed: model.units \(128 → 32\); what determines the results must"),
            ("model.units=16,32", r"the config has changed: model.units \(128 → 16,32\)"),
            ("seed=7", r"the config has changed: seed \(1 → 7\)"),
            ("search.max_trials=3", r"search.max_trials \(20 → 3\)"),
            ("workers.cuont=1", "workers.cuont: unknown key; did you mean 'workers.count'"),
            ("workers.count=no", "workers.count=no: "),
            ("data=npz", "data=npz: a group cannot be changed; start a new sweep, or change single values"),
            ("name=y", "name=y: a sweep keeps its name"),
        ],
    )
    def test_name_what_would_change_the_results(
        self, compose_config, begin: Begin, ran: list[dict[str, Any]], override: str, message: str
    ) -> None:
        begin(SWEEPS / "x" / "1", compose_config("name=x"))
        with pytest.raises(UserError, match=message):
            resume.resume("x", [override], Console())
        assert not ran

    def test_may_name_a_hyperparameter_with_dots_in_its_name(self, compose_config, begin: Begin) -> None:
        config = compose_config("name=x", "model.hypermodel=own:build", "+model.values={conv.units:8}")
        begin(SWEEPS / "x" / "1", config)
        with pytest.raises(UserError, match=r"the config has changed: model\.values\.conv\.units \(8 → 9\)"):
            resume.resume("x", ["model.values.conv.units=9"], Console())


class TestRetryFailed:
    @pytest.fixture
    def failed(self, compose_config, begin: Begin) -> Path:
        folder = begin(SWEEPS / "x" / "1", compose_config("name=x"))
        with Journal(folder, resume=True) as journal:
            journal.handle(TrialStarted(2.0, Trial(0, {}, {}, 1), 1, "cpu0"))
            journal.handle(TrialEnded(3.0, 0, Outcome(Status.FAILED, "a bug")))
            journal.handle(SweepEnded(4.0, Status.COMPLETED, "", 0))
        return folder

    def test_finds_the_last_sweep_with_failed_trials(
        self, failed: Path, begin: Begin, compose_config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin(SWEEPS / "x" / "2", compose_config("name=x"), ended=True)
        asked: list[tuple[Path, bool]] = []
        monkeypatch.setattr(
            resume.launch, "run", lambda _, folder, *__, retry_failed, **___: asked.append((folder, retry_failed)) or 0
        )
        assert resume.resume(None, [], Console(), retry_failed=True) == 0
        assert asked == [(failed, True)]

    def test_is_named_if_a_finished_sweep_has_failed_trials(self, failed: Path) -> None:
        output = StringIO()
        assert resume.resume("x", [], Console(file=output, width=200)) == 0
        assert output.getvalue().splitlines() == [
            "experiments/x/1 is finished; there is nothing to continue.",
            "To train its failed trials again: python -m mnist_sweep resume --retry-failed experiments/x/1",
        ]

    def test_has_nothing_to_do_without_a_failed_trial(self, compose_config, begin: Begin) -> None:
        begin(SWEEPS / "x" / "1", compose_config("name=x"), ended=True)
        output = StringIO()
        assert resume.resume("x", [], Console(file=output, width=200), retry_failed=True) == 0
        assert "experiments/x/1: no trial has failed." in output.getvalue()


def test_a_sweep_is_named_by_an_argument_that_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert summary.as_argument("x/1", tmp_path / "experiments" / "x" / "1") == "x/1"
    assert summary.as_argument("x/auto", tmp_path / "out" / "auto") == "out/auto"
    assert summary.as_argument("x/auto", Path("/out/auto")) == "/out/auto"


def test_a_sweep_of_another_project_is_logged_to_the_store_of_that_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("project", "other"):
        (tmp_path / name).mkdir()
    config = {"tracking": {"uri": "sqlite:///mlruns/mlflow.db", "artifacts": "mlruns/artifacts"}, "seed": 1}
    monkeypatch.chdir(tmp_path / "other")
    there = from_store(config, Path("../project/experiments/cnn/1"))
    mlruns = tmp_path / "project" / "mlruns"
    assert there == {
        "tracking": {"uri": f"sqlite:///{mlruns}/mlflow.db", "artifacts": str(mlruns / "artifacts")},
        "seed": 1,
    }
    monkeypatch.chdir(tmp_path / "project")
    assert from_store(config, Path("experiments/cnn/1")) == config


def test_a_stored_config_has_no_absolute_paths_into_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, folder = tmp_path / "v?2", Path("../v?2/experiments/cnn/1")
    kept = {"uri": "sqlite:///mlruns/mlflow.db?timeout=3", "artifacts": "mlruns/artifacts"}
    for name in (project, tmp_path / "other"):
        name.mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert to_store(from_store({"tracking": kept}, folder), folder)["tracking"] == kept
    typed = {"uri": f"sqlite:///{tmp_path}/v%3F2/x.db", "artifacts": str(project / "files")}
    stored = {"uri": "sqlite:///mlruns/mlflow.db", "artifacts": "s3://bucket/files"}
    assert from_store({"tracking": stored}, folder)["tracking"]["artifacts"] == "s3://bucket/files"
    assert to_store({"tracking": stored}, folder)["tracking"] == stored
    inside = {"uri": "sqlite:///x.db", "artifacts": "files"}
    assert to_store({"tracking": typed}, folder)["tracking"] == inside
    monkeypatch.chdir(project)
    assert to_store({"tracking": typed}, Path("experiments/cnn/1"))["tracking"] == inside
    elsewhere = {"uri": "postgresql://ann:HUSH@box/x", "artifacts": "/big/disk"}
    hidden = {**elsewhere, "uri": "postgresql://***@box/x"}
    assert to_store({"tracking": elsewhere}, Path("experiments/cnn/1"))["tracking"] == hidden
