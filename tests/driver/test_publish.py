"""Publishing a sweep: its report and its registered model."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.driver import publish
from mnist_sweep.results import importance
from mnist_sweep.results.runs import find


@pytest.fixture
def settings(compose_config):
    def made(*overrides: str) -> Settings:
        return check_settings(compose_config(*overrides))

    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that are printed. Finding the sweep, its report and its registration are faked."""
    monkeypatch.setattr(find, "find_sweep", lambda sweep, uri: f"{sweep} in {uri}")
    monkeypatch.setattr(publish, "_report", lambda found, folder: folder / found.partition(" ")[0])
    monkeypatch.setattr(publish, "_register", lambda found, packaged, *_: f"{packaged() or 'model'} of {found}")
    monkeypatch.setattr(publish, "_link", lambda settings, sweep: f"{settings.tracking.uri}/{sweep}")
    return []


def failing(error: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_the_report_is_written_and_the_model_registered(settings, said: list[str]) -> None:
    done = publish.publish("a/b", settings("tracking.uri=sqlite:///x.db"), Path("f"), said.append, has_winner=True)
    assert done.report == Path("f/a/b")
    assert done.registered == "model of a/b in sqlite:///x.db"
    assert done.link == "sqlite:///x.db/a/b"
    assert done.troubles == ()
    assert said == ["Writing the report …"]


def test_a_model_that_a_worker_has_packaged_is_registered(settings, said: list[str]) -> None:
    given = {"has_winner": True, "packaged": lambda: Path("here")}
    done = publish.publish("a/b", settings("tracking.uri=sqlite:///x.db"), Path("f"), said.append, **given)
    assert done.registered == "here of a/b in sqlite:///x.db"


def test_the_reports_modules_are_imported_beforehand_and_a_failed_import_is_ignored(settings, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(importance, "load", asked.append)
    publish.prepare(settings("tracking.report=false"), 100)
    assert asked == []
    publish.prepare(settings(), 9)
    assert asked == [9]
    monkeypatch.setattr(importance, "load", failing(ImportError("no optuna")))
    publish.prepare(settings(), 9)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("overrides", "has_winner", "report", "registered"),
    [
        (["tracking.report=false"], True, False, True),
        (["tracking.register=false"], True, True, False),
        ([], False, True, False),
        (["tracking.report=false"], False, False, False),
        (["tracking.report=false", "tracking.register=false"], True, False, False),
    ],
)
def test_report_and_registration_can_be_switched_off_and_registration_needs_a_winner(
    settings, said: list[str], overrides: list[str], has_winner: bool, report: bool, registered: bool
) -> None:
    done = publish.publish("a/b", settings(*overrides), Path("f"), said.append, has_winner=has_winner)
    assert (done.report is not None, done.registered is not None) == (report, registered)
    assert bool(said) == (report or registered)


def test_an_error_in_one_is_reported_and_does_not_affect_the_other(settings, said, monkeypatch) -> None:
    monkeypatch.setattr(publish, "_report", failing(ValueError("no such font\nlong story")))
    done = publish.publish("a/b", settings(), Path("f"), said.append, has_winner=True)
    assert done.report is None
    assert done.registered is not None
    assert done.troubles == ("the report could not be written (ValueError: no such font)",)
    monkeypatch.setattr(publish, "_register", failing(UserError("own.py: cannot be imported")))
    done = publish.publish("a/b", settings(), Path("f"), said.append, has_winner=True)
    assert "the best model could not be registered (own.py: cannot be imported)" in done.troubles


def test_an_unreachable_store_is_reported_without_its_password(settings, said, monkeypatch) -> None:
    monkeypatch.setattr(find, "find_sweep", failing(OSError("http://me:secret@there refused")))
    done = publish.publish("a/b", settings(), Path("f"), said.append, has_winner=True)
    assert done == publish.Published(troubles=("the report could not be written (OSError: http://***@there refused)",))
