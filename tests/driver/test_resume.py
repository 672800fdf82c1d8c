"""Which sweep is continued, and what may have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.driver import resume, summary
from mnist_sweep.driver.stored_config import from_store, to_store
from mnist_sweep.journal.events import SweepEnded, SweepStarted
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status

Begin = Callable[..., Path]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Writes the journal of a sweep, interrupted or not."""
    monkeypatch.chdir(tmp_path)

    def begun(folder: Path, config: dict[str, Any], *, ended: bool = False) -> Path:
        folder.mkdir(parents=True)
        with Journal(folder) as journal:
            journal.handle(SweepStarted(1.0, "a/b", config, {}, {}, {}))
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


class TestAuto:
    def test_continues_the_last_sweep_of_the_name_with_the_same_config(self, compose_config, begin: Begin) -> None:
        config, other = compose_config("name=x"), compose_config("name=x", "seed=2")
        begin(SWEEPS / "x" / "1", config)
        last = begin(SWEEPS / "x" / "2", config)
        begin(SWEEPS / "x" / "3", other)
        begin(SWEEPS / "x" / "4", config, ended=True)
        begin(SWEEPS / "y" / "5", config)
        said: list[str] = []
        assert resume.to_continue(config, Path("nowhere"), said.append) == last
        assert len(said) == 1
        assert said[0].startswith(
            "experiments/x/3 is not continued: the config has changed: search.seed (2 → 1), seed (2 → 1)"
        )

    def test_searches_the_folder_that_hydra_was_given(self, compose_config, begin: Begin) -> None:
        config = compose_config("name=x")
        wished = begin(Path("out") / "auto", config)
        assert resume.to_continue(config, wished, print) == wished
        assert resume.to_continue(config, Path("out") / "other", print) is None


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
    inside = {"uri": "sqlite:///x.db", "artifacts": "files"}
    assert to_store({"tracking": typed}, folder)["tracking"] == inside
    monkeypatch.chdir(project)
    assert to_store({"tracking": typed}, Path("experiments/cnn/1"))["tracking"] == inside
    elsewhere = {"uri": "postgresql://ann:HUSH@box/x", "artifacts": "/big/disk"}
    hidden = {**elsewhere, "uri": "postgresql://***@box/x"}
    assert to_store({"tracking": elsewhere}, Path("experiments/cnn/1"))["tracking"] == hidden
