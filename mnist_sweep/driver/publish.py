"""Publishes the results of a sweep that is over: its report, and its best model in MLflow's registry."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.importing import without_collector
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, kind_and_line
from mnist_sweep.config import backend
from mnist_sweep.config.settings import Settings
from mnist_sweep.driver import packaging
from mnist_sweep.tracking.recorder import Plots

if TYPE_CHECKING:
    from mnist_sweep.results.models.registry import Registered
    from mnist_sweep.results.runs.find import SweepRuns

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_NO_REPORT = "the report could not be written"


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        report: The report's file; None if there is none.
        registered: The best model's version; None if there is none.
        link: The link to the sweep's view in MLflow's pages. For a local store it works while `ui` runs.
        troubles: What went wrong, a line each.
    """

    report: Path | None = None
    registered: Registered | None = None
    link: str | None = None
    troubles: tuple[str, ...] = ()


def load_plots() -> Plots:
    """Imports the module that draws the plots in MLflow, which takes a second."""
    from mnist_sweep.results import plots

    return plots


def prepare(settings: Settings, trials: int) -> None:
    """Imports what the end of a sweep needs, which takes a second, while the driver has nothing else to do.

    Args:
        settings: The sweep's settings.
        trials: How many trials the sweep has.
    """
    with without_collector():
        try:
            load_plots()
            if settings.tracking.report:
                from mnist_sweep.results import importance, report  # noqa: F401

                importance.load(trials)
        except Exception:
            # The error is reported when the import is needed.
            _LOG.info("a package that the end of the sweep needs cannot be imported", exc_info=True)
        # Later collections need not look through the imported modules.
        gc.freeze()


def publish(
    sweep: str,
    settings: Settings,
    folder: Path,
    say: Callable[[str], None],
    *,
    has_winner: bool,
    champion: bool | None = None,
    packaged: Callable[[], Path | None] = lambda: None,
) -> Published:
    """Writes the report, logs it to the sweep's run, and registers the best model.

    An error here does not fail the sweep, whose results are complete: it is returned as one of the `troubles`.

    Args:
        sweep: The sweep, `name/time`.
        settings: The sweep's settings.
        folder: The sweep's folder.
        say: Prints a line.
        has_winner: Whether there is a best model.
        champion: Whether that becomes the champion, as for `registry.register`.
        packaged: Returns the folder in which a worker has made an MLflow model of the best model, and may wait for it;
            None to start a worker for that.
    """
    tracking = settings.tracking
    register = registers(settings) and has_winner
    if tracking.register_winner and has_winner and not register:
        say("The best model is not registered: MLflow needs TensorFlow, which is not installed, to package it.")
    if not (tracking.report or register):
        return Published(link=_link(settings, sweep))
    from mnist_sweep.results.runs.find import find_sweep

    # Collections need not look through MLflow, which is large.
    gc.freeze()
    say("Writing the report …" if tracking.report else "Registering the best model …")
    try:
        found = find_sweep(sweep, tracking.uri)
    except Exception as error:
        return Published(troubles=(_trouble(_NO_REPORT, error),))
    troubles: list[str] = []

    def attempt(failure: str, task: Callable[[], _Result]) -> _Result | None:
        try:
            return task()
        except Exception as error:
            troubles.append(_trouble(failure, error))
            return None

    given_up, registering = threading.Event(), None
    # Registering waits for a worker that packages the model.
    with ThreadPoolExecutor(1) as thread:
        try:
            if register:
                failure = "the best model could not be registered"
                registering = thread.submit(attempt, failure, lambda: _register(found, packaged, champion, given_up))
            report = attempt(_NO_REPORT, lambda: _report(found, folder)) if tracking.report else None
            registered = registering.result() if registering else None
        finally:
            given_up.set()
    return Published(report, registered, _link(settings, sweep), tuple(troubles))


def registers(settings: Settings) -> bool:
    """Returns whether the best model is to be registered, and can be: MLflow needs TensorFlow to package it."""
    return settings.tracking.register_winner and backend.is_installed("tensorflow")


def _report(found: SweepRuns, folder: Path) -> Path:
    from mnist_sweep.results import report

    path = folder / report.FILE
    report.write(found, path)
    found.client.log_artifact(found.parent.info.run_id, str(path))
    return path


def _register(
    found: SweepRuns, packaged: Callable[[], Path | None], champion: bool | None, given_up: threading.Event
) -> Registered:
    from mnist_sweep.results.models import registry

    return registry.register(found, lambda run, to: packaged() or packaging.package(run, to, given_up), champion)


def _link(settings: Settings, sweep: str) -> str | None:
    from mnist_sweep.results.runs.find import find_sweep
    from mnist_sweep.tracking import saved_view
    from mnist_sweep.tracking.saved_view import HOST, PORT
    from mnist_sweep.tracking.uri import is_database, is_server

    uri = settings.tracking.uri
    if not (is_server(uri) or is_database(uri)):
        return None
    try:
        experiment = find_sweep(sweep, uri).found.experiment
    except Exception:
        _LOG.exception("the link to the sweep's view could not be found")
        return None
    pages = uri if is_server(uri) else f"http://{HOST}:{PORT}"
    return saved_view.link(pages, experiment, saved_view.key(sweep))


def _trouble(failure: str, error: Exception) -> str:
    """Logs an error with its traceback, and describes it in a line."""
    _LOG.error(failure, exc_info=error)
    reason = first_line(error) if isinstance(error, UserError) else kind_and_line(error)
    return f"{failure} ({masked(reason)})"
