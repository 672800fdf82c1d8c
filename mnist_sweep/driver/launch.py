"""Runs one sweep, from its config to its leaderboard."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep.common import termination
from mnist_sweep.common.clock import SteadyClock
from mnist_sweep.common.errors import MachineError, machine_fault, writing_to
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import first_line
from mnist_sweep.common.versions import versions
from mnist_sweep.data.images import Images
from mnist_sweep.driver import same_sweep, summary
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.plan import Plan, prepare, save_for_workers
from mnist_sweep.driver.progress import Progress, Screen
from mnist_sweep.driver.publish import load_plots, publish
from mnist_sweep.driver.publish import prepare as prepare_to_publish
from mnist_sweep.driver.signals import stopping_on_signals
from mnist_sweep.driver.stored_config import to_store
from mnist_sweep.journal.events import Event, SweepResumed, SweepStarted
from mnist_sweep.journal.folders import tidy
from mnist_sweep.journal.journal import Journal, read
from mnist_sweep.journal.state import SweepState
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.workers import sharing
from mnist_sweep.workers.local import LocalWorkers

__all__ = ["prepare", "run"]

INTERRUPTED = 130


def run(
    config: dict[str, Any],
    folder: Path,
    console: Console,
    *,
    resume: bool = False,
    other_versions: bool = False,
    baseline: Mapping[str, Any] | None = None,
) -> int:
    """Runs a sweep from its config to its leaderboard.

    Args:
        config: The config as Hydra composed it, resolved.
        folder: The sweep's folder, which exists.
        console: Where to print.
        resume: Whether the folder holds a sweep to continue.
        other_versions: Whether to continue it even with other versions of what trains.
        baseline: The groups model, optimizer and training without sweeps, for `search.enqueue: [default]`.

    Returns:
        The exit code: 0; 1 if no trial has a result; 130 if the user interrupted it.

    Raises:
        UserError: Something is wrong with the config, the data, or the machine.
    """
    # The workers stay until the best model is registered, as one of them packages it.
    with termination.ended_by_signals(), contextlib.ExitStack() as pool:
        plan = Plan.of(config, baseline)
        with Journal(folder, resume=resume) as journal, contextlib.ExitStack() as views:
            log_to(folder)
            # On exit only: the copy of the data that a killed driver leaves is used again when the sweep is resumed.
            views.callback(tidy, folder)
            launch = _begin(plan, folder, console, pool, resume=resume, other_versions=other_versions)
            sweep = _assemble(launch, journal, views)
            if not _run_loop(launch, sweep):
                return INTERRUPTED
        return _finish(launch, sweep)


@dataclass(frozen=True)
class _Launch:
    """A sweep that is ready to run.

    Attributes:
        plan: What it is to do.
        folder: Its folder.
        console: Where to print.
        pool: Closes the workers.
        workers: The workers, which have the data.
        images: The data.
        past: The events of earlier sessions.
        started: Its first event.
        begin: The first event of this session.
        clock: The time in seconds since 1970.
        packaging: Makes the winner an MLflow model.
        tracker: Writes the events to MLflow.
    """

    plan: Plan
    folder: Path
    console: Console
    pool: contextlib.ExitStack
    workers: LocalWorkers
    images: Images
    past: list[Event]
    started: SweepStarted
    begin: SweepStarted | SweepResumed
    clock: SteadyClock
    packaging: Packaging
    tracker: Tracker

    @property
    def say(self) -> summary.Say:
        """Prints a line."""
        return line_printer(self.console)

    @property
    def name(self) -> str:
        """The argument by which every command finds the sweep."""
        return summary.as_argument(self.started.sweep, self.folder)


def _begin(
    plan: Plan, folder: Path, console: Console, pool: contextlib.ExitStack, *, resume: bool, other_versions: bool
) -> _Launch:
    """Starts the workers, loads the data, and checks that a resumed sweep is still the same."""
    clock, say = SteadyClock(), line_printer(console)
    # Before the data, as they take seconds to start. If something is wrong below, they are closed.
    workers = plan.start_workers(folder)
    pool.callback(workers.close)
    past = list(read(folder)) if resume else []
    before = SweepState.after(past)
    if past:
        same_sweep.check_versions(before, folder, plan.backend, other_versions, say)
    images, dataset = plan.load_data()
    summary.warn_of_fallback(console, images)
    stored = to_store(plan.config, folder)
    workers.set_up(save_for_workers(dataset, folder))
    if plan.hypermodel is not None:
        say(f"Asking {plan.hypermodel} what it searches …")
        plan = plan.discovered(workers)
    if past:
        started = same_sweep.check(before, plan, images, folder)
        begin: SweepStarted | SweepResumed = SweepResumed(clock(), stored, versions())
    else:
        begin = started = plan.first_event(folder, stored, images, dataset, clock())
    summary.announce(say, started, [slot.name for slot in plan.slots])
    package = pool.enter_context(tempfile.TemporaryDirectory(prefix="mnist_sweep-", ignore_cleanup_errors=True))
    packaging = Packaging(workers, Path(package) / "package", clock)
    tracker = Tracker(plan.settings, folder, load_plots)
    return _Launch(plan, folder, console, pool, workers, images, past, started, begin, clock, packaging, tracker)


def _assemble(launch: _Launch, journal: Journal, views: contextlib.ExitStack) -> Sweep:
    """Puts the loop together with its search and its listeners, and brings all of them up to date."""
    plan, started, settings, tracker = launch.plan, launch.started, launch.plan.settings, launch.tracker
    search = ThreadedSearch(lambda: choose.create_search(settings, plan.space, started.enqueued, started.earlier))
    views.callback(search.close)
    views.callback(_close_tracker, tracker, launch.say, launch.name)
    progress = Progress(settings.objective, settings.search, len(plan.slots), plan.space.size, launch.clock)
    screen = views.enter_context(Screen(progress, launch.console))
    sweep = Sweep(
        settings,
        plan.space,
        search,
        choose.create_stopping(settings),
        launch.workers,
        folder=launch.folder,
        listeners=[journal, tracker, screen],
        clock=launch.clock,
        sharing=sharing.create(settings.workers, plan.slots, plan.most),
        packaging=launch.packaging if settings.tracking.register_winner else None,
        meanwhile=lambda: prepare_to_publish(settings, len(sweep.results.outcomes)),
    )
    for event in launch.past:
        tracker.handle(event)
        progress.handle(event)
    sweep.replay(launch.past)
    sweep.emit(launch.begin)
    return sweep


def _run_loop(launch: _Launch, sweep: Sweep) -> bool:
    """Runs the loop to its end; returns False if the user interrupted it at once."""
    folder = launch.folder
    with stopping_on_signals(sweep, launch.console):
        try:
            with writing_to(folder):
                # After the first event: a folder that has this file is that of a sweep that has started.
                text = yaml.safe_dump(launch.begin.config, sort_keys=False, allow_unicode=True)
                write_whole(folder / "config.yaml", text)
            sweep.run()
        except KeyboardInterrupt:
            _say_how_to_resume(launch)
            return False
        except MachineError as error:
            first = "free space or repair it" if folder.is_dir() else "put the folder back"
            todo = f"{first}, then: python -m mnist_sweep resume {launch.name}"
            raise MachineError(f"{error}; {todo}") from error
    return True


def _finish(launch: _Launch, sweep: Sweep) -> int:
    """Prints the leaderboard, publishes the results, and returns the exit code."""
    settings, started, results = launch.plan.settings, launch.started, sweep.results
    summary.leaderboard(launch.console, launch.plan.space, results)
    summary.warn_of_fallback(launch.console, launch.images)
    if sweep.interrupted:
        _say_how_to_resume(launch)
        return INTERRUPTED
    published = None
    if launch.tracker.error is None:
        has_winner = any(not test.error for test in sweep.state.tests)
        try:
            # Closed here, so that another signal does not end that halfway.
            with launch.pool:
                published = publish(
                    started.sweep,
                    settings,
                    launch.folder,
                    launch.say,
                    has_winner=has_winner,
                    packaged=launch.packaging.result,
                )
        except KeyboardInterrupt:
            launch.say(f"Interrupted. The sweep is complete; for the rest: python -m mnist_sweep sync {launch.name}")
            return INTERRUPTED
    reason = sweep.state.ended.reason if sweep.state.ended else ""
    tests = sweep.state.tests[-1:]
    summary.next_steps(launch.say, settings, launch.folder, started.sweep, results, tests, published, reason)
    return 0 if results.winner() is not None else 1


def _say_how_to_resume(launch: _Launch) -> None:
    launch.say(f"Interrupted. To continue: python -m mnist_sweep resume {launch.name}")


def _close_tracker(tracker: Tracker, say: Callable[[str], None], sweep: str) -> None:
    """Waits until MLflow has everything, and says what it has not."""
    if tracker.behind:
        say("Writing the last results to MLflow …")
    tracker.close()
    if tracker.error is not None:
        reason = machine_fault(tracker.error) or masked(first_line(tracker.error))
        say(f"MLflow could not be written ({reason}).")
        say(f"The journal has everything; when MLflow is back: python -m mnist_sweep sync {sweep}")
    if tracker.refusals.count:
        say(f"MLflow: {tracker.refusals}.")
