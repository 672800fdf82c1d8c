"""What a sweep leaves behind when it is over: its report, and its best model in MLflow's registry."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.importing import without_collector
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, kind_and_line
from mnist_sweep.config.settings import Settings
from mnist_sweep.tracking.recorder import Plots

if TYPE_CHECKING:
    from mnist_sweep.results.models.registry import Registered
    from mnist_sweep.results.runs.find import SweepRuns

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Published:
    """What was left.

    Attributes:
        report: The report's file; None where there is none.
        registered: The best model's version; None where there is none.
        link: Of the sweep's view in MLflow's pages; those of a local store are there while `ui` runs.
        troubles: Why not, a line each.
    """

    report: Path | None = None
    registered: Registered | None = None
    link: str | None = None
    troubles: tuple[str, ...] = ()


def load_plots() -> Plots:
    """Gives what draws the plots in MLflow; it takes a second to import."""
    from mnist_sweep.results import plots

    return plots


def prepare(settings: Settings, trials: int) -> None:
    """Imports what the end of a sweep needs, which takes a second, while the driver has nothing else to do.

    Args:
        settings: The sweep's.
        trials: How many it has.
    """
    with without_collector():
        try:
            load_plots()

            if settings.tracking.report:
                from mnist_sweep.results import importance, report  # noqa: F401

                importance.load(trials)
        except Exception:
            # Told when it is needed.
            _LOG.info("what the end of the sweep needs cannot be imported: %s", traceback.format_exc())
        # What is imported need not be looked through for garbage later, either.
        gc.freeze()


def publish(
    sweep: str,
    settings: Settings,
    folder: Path,
    say: Callable[[str], None],
    *,
    has_winner: bool,
    packaged: Callable[[], Path | None] = lambda: None,
) -> Published:
    """Writes the report, logs it to the sweep's run, and registers the best model.

    Whatever goes wrong here is told, and is no failure of the sweep, which is whole without it.

    Args:
        sweep: `name/time`, which MLflow has.
        settings: The sweep's.
        folder: The sweep's folder.
        say: Prints a line.
        has_winner: Whether there is a best model.
        packaged: As for `registry.register`.
    """
    tracking = settings.tracking
    register = tracking.register_winner and has_winner
    if not (tracking.report or register):
        return Published(link=_link(settings, sweep))
    from mnist_sweep.results.runs.find import find_sweep

    # MLflow, which is large, is not to be looked through for garbage meanwhile.
    gc.freeze()
    say("Writing the report …" if tracking.report else "Registering the best model …")
    try:
        found = find_sweep(sweep, tracking.uri)
    except Exception as error:
        return Published(troubles=(_told("the report could not be written", error),))
    troubles: list[str] = []

    def tried(what: str, task: Callable[[], _Result]) -> _Result | None:
        try:
            return task()
        except Exception as error:
            troubles.append(_told(what, error))
            return None

    # Registering waits for another process, which makes an MLflow model of it.
    with ThreadPoolExecutor(1) as aside:
        registering = None
        if register:
            what = "the best model could not be registered"
            registering = aside.submit(tried, what, lambda: _register(found, packaged))
        report = tried("the report could not be written", lambda: _report(found, folder)) if tracking.report else None
        registered = registering.result() if registering else None
    return Published(report, registered, _link(settings, sweep), tuple(troubles))


def _report(found: SweepRuns, folder: Path) -> Path:
    from mnist_sweep.results import report

    path = folder / report.FILE
    report.write(found, path)
    found.client.log_artifact(found.parent.info.run_id, str(path))
    return path


def _register(found: SweepRuns, packaged: Callable[[], Path | None]) -> Registered:
    from mnist_sweep.results.models import registry

    return registry.register(found, packaged)


def _link(settings: Settings, sweep: str) -> str | None:
    from mnist_sweep.tracking import saved_view, store
    from mnist_sweep.tracking.saved_view import HOST, PORT

    uri = settings.tracking.uri
    try:
        experiment = store.connect(uri).get_experiment_by_name(settings.name)
    except Exception as error:
        _told("the link of its view is not known", error)
        return None
    pages = uri if uri.startswith(("http:", "https:")) else f"http://{HOST}:{PORT}"
    return saved_view.link(pages, experiment.experiment_id, saved_view.key(sweep)) if experiment else None


def _told(what: str, error: Exception) -> str:
    _LOG.error("%s: %s", what, masked(traceback.format_exc()))
    why = first_line(error) if isinstance(error, UserError) else kind_and_line(error)
    return f"{what} ({masked(why)})"
