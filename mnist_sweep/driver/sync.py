"""Adds to MLflow what is missing of a sweep's journal."""

from __future__ import annotations

from rich.console import Console

from mnist_sweep.common.errors import UserError, machine_fault
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import counted, first_line
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver import summary
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.publish import load_plots, publish
from mnist_sweep.driver.resume import last_config
from mnist_sweep.driver.stored_config import from_store
from mnist_sweep.journal import journal
from mnist_sweep.journal.folders import SWEEPS, find, is_running, sweeps, tidy
from mnist_sweep.journal.state import SweepState
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tracker import AT_ONCE, Refusals, write


def sync(sweep: str | None, console: Console) -> int:
    """Adds to MLflow what is missing of a sweep's journal.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for its last one; None for the last sweep of all.
        console: Where to print.

    Returns:
        The exit code.

    Raises:
        UserError: The sweep does not exist, a process runs it, or writing to MLflow fails.
    """
    folders = sweeps(SWEEPS)
    if sweep is None and not folders:
        raise UserError(f"sync: {SWEEPS}/ contains no sweep")
    folder = find(sweep, "sync") if sweep else folders[-1]
    if is_running(folder):
        raise UserError(f"{folder}: another process runs the sweep, and logs it")
    events = list(journal.read(folder))
    state = SweepState.after(events)
    settings = check_settings(from_store(last_config(state, folder), folder))
    recorder, refusals = Recorder(settings, folder, load_plots), Refusals()
    try:
        for start in range(0, len(events), AT_ONCE):
            write(recorder, events[start : start + AT_ONCE], refusals)
    except UserError:
        raise
    except Exception as error:
        reason = machine_fault(error) or masked(first_line(error))
        raise UserError(f"sync: cannot write to MLflow ({reason})") from error
    where = masked(settings.tracking.uri)
    say = line_printer(console)
    count = len(events) - refusals.count
    say(f"{folder}: {counted(count, 'event')} {'is' if count == 1 else 'are'} in {where}")
    if refusals.count:
        say(f"{refusals}.")
    if state.completed and state.started is not None:
        tidy(folder)
        log_to(folder)
        champion = None if state.retrains is None else state.retrains.champion
        published = publish(state.started.sweep, settings, folder, say, has_winner=state.has_model, champion=champion)
        summary.tell_published(say, published)
    return 1 if refusals.count else 0
