"""Adds to MLflow what is missing of a sweep, restores what was deleted, and ends the runs of killed sweeps."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import NOT_LOGGED, UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import counted, first_line, numbered
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver import summary
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.publish import load_plots, publish
from mnist_sweep.driver.resume import last_config
from mnist_sweep.driver.stored_config import from_store
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import SweepEnded
from mnist_sweep.journal.folders import SWEEPS, find, is_running, retrainings, sweeps, tidy
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Status
from mnist_sweep.tracking import identity, store
from mnist_sweep.tracking.faults import lasting_fault
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tracker import AT_ONCE, Refusals, write

_RUNNING = "{}: another process runs the sweep, and logs it"
_KILLED = "its process was killed"


def sync(sweep: str | None, console: Console, *, tracking_uri: str | None = None, every: bool = False) -> int:
    """Adds to MLflow what is missing of sweeps' journals.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for its last one, with the runs that retrain its trials; None for the
            last sweep of all that no process runs, and for those that MLflow shows as running although they were
            killed.
        console: Where to print.
        tracking_uri: The store to log to; None for MLFLOW_TRACKING_URI, or else the one that the sweep used.
        every: Whether to log all sweeps that no process runs.

    Returns:
        The exit code: 0; 3 if a part of a sweep could not be logged, or 1 if nothing of one of several sweeps could be.

    Raises:
        UserError: The sweep does not exist, a process runs it, or writing to MLflow fails.
    """
    say, folders = line_printer(console), sweeps(SWEEPS)
    if not folders and (sweep is None or every):
        raise UserError(f"sync: {SWEEPS}/ contains no sweep")
    if every:
        return max([_sync_or_explain(folder, say, tracking_uri) for folder in _with_retrainings(folders)])
    if sweep is not None:
        first, others = find(sweep, "sync"), list[Path]()
    else:
        idle = [folder for folder in folders if not is_running(folder)]
        if idle and idle[-1] != folders[-1]:
            say(_RUNNING.format(folders[-1]))
        first = (idle or folders)[-1]
        others = [folder for folder in folders if folder != first]
    code, uri = _sync(first, say, tracking_uri)
    rest = [folder for folder in retrainings(first) if not is_running(folder)]
    rest += _killed(_with_retrainings(others), uri)
    return max([code, *(_sync_or_explain(folder, say, tracking_uri) for folder in rest)])


def _with_retrainings(folders: Sequence[Path]) -> list[Path]:
    return [each for folder in folders for each in (folder, *retrainings(folder))]


def _killed(folders: Sequence[Path], uri: str) -> list[Path]:
    """Returns the sweeps that MLflow shows as running although no process runs them."""
    still_open = identity.open_sweeps(store.connect(uri)) if folders else set()
    return [folder for folder in folders if still_open and not is_running(folder) and _name(folder) in still_open]


def _name(folder: Path) -> str:
    with contextlib.suppress(UserError):
        return journal.started(folder).sweep
    return ""


def _sync_or_explain(folder: Path, say: summary.Say, tracking_uri: str | None) -> int:
    try:
        return _sync(folder, say, tracking_uri)[0]
    except UserError as error:
        text = str(error)
        say(text if text.startswith(str(folder)) else f"{folder}: {text}")
        return 1


def _sync(folder: Path, say: summary.Say, tracking_uri: str | None) -> tuple[int, str]:
    """Logs one sweep; returns the exit code and the store."""
    if is_running(folder):
        raise UserError(_RUNNING.format(folder))
    events = list(journal.read(folder))
    state = SweepState.after(events)
    settings = check_settings(from_store(last_config(state, folder), folder, tracking_uri))
    recorder, refusals = Recorder(settings, folder, load_plots, repair=True), Refusals()
    assert state.started is not None
    assert state.last is not None
    killed = state.ended is None
    # The journal of a killed sweep lacks its end, without which its runs would be open for ever.
    end = [SweepEnded(state.last.time, Status.STOPPED, _KILLED, None)] if killed else []
    try:
        for start in range(0, len(events), AT_ONCE):
            write(recorder, events[start : start + AT_ONCE], refusals)
        write(recorder, end, refusals)
    except UserError:
        raise
    except Exception as error:
        reason = lasting_fault(error, settings.tracking.uri) or masked(first_line(error))
        raise UserError(
            f"sync: cannot write to {masked(settings.tracking.uri)}; if the store is elsewhere now, name it with "
            f"--tracking-uri or MLFLOW_TRACKING_URI ({reason})"
        ) from error
    count = len(events) - refusals.count
    say(f"{folder}: {counted(count, 'event')} {'is' if count == 1 else 'are'} in {masked(settings.tracking.uri)}")
    if mended := str(recorder.mended):
        say(f"Brought back: {mended}.")
    if recorder.lost:
        trials = numbered("trial", recorder.lost)
        say(f"Cannot be brought back: the model of {trials}, which neither MLflow nor {folder}/trials has.")
    named = summary.as_argument(state.started.sweep, folder)
    if killed:
        again = invocation.command(f"resume {named}")
        say(f"Its process was killed, so its open runs are KILLED. To continue: {again}")
    if refusals.count:
        say(f"{refusals}.")
    troubles: tuple[str, ...] = ()
    if state.completed:
        tidy(folder)
        log_to(folder)
        champion = None if state.retrains is None else state.retrains.champion
        published = publish(state.started.sweep, settings, folder, say, has_winner=state.has_model, champion=champion)
        summary.tell_published(say, published)
        troubles = published.troubles
    return NOT_LOGGED if refusals.count or troubles else 0, settings.tracking.uri
