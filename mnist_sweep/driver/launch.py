"""Runs one sweep, from its config to its leaderboard."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep.common import termination
from mnist_sweep.common.clock import SteadyClock
from mnist_sweep.common.errors import MachineError, UserError, machine_fault, writing_to
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.invocation import command
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import first_line
from mnist_sweep.common.versions import versions
from mnist_sweep.config.space import identity
from mnist_sweep.data import images as data
from mnist_sweep.driver import same_sweep, summary
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.plan import Plan, save_for_workers
from mnist_sweep.driver.progress import Progress, Screen
from mnist_sweep.driver.publish import load_plots, publish
from mnist_sweep.driver.publish import prepare as prepare_to_publish
from mnist_sweep.driver.signals import stopping_on_signals
from mnist_sweep.driver.stored_config import to_store
from mnist_sweep.journal.events import SweepResumed, SweepStarted
from mnist_sweep.journal.folders import tidy
from mnist_sweep.journal.journal import Journal, read
from mnist_sweep.journal.state import SweepState
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.workers import sharing

INTERRUPTED = 130


def run(
    config: dict[str, Any],
    folder: Path,
    console: Console,
    *,
    resume: bool = False,
    other_versions: bool = False,
    retry_failed: bool = False,
    baseline: Mapping[str, Any] | None = None,
) -> int:
    """Runs a sweep from its config to its leaderboard.

    Args:
        config: The config as Hydra composed it, resolved.
        folder: The sweep's folder, which exists.
        console: Where to print.
        resume: Whether the folder holds a sweep to continue.
        other_versions: Whether to continue it even with other versions of what trains.
        retry_failed: Whether to train its failed trials again.
        baseline: The groups model, optimizer and training without sweeps, for `search.enqueue: [default]`.

    Returns:
        The exit code: 0; 1 if no trial has a result; 130 if the user interrupted it.

    Raises:
        UserError: Something is wrong with the config, the data, or the machine.
    """
    # The workers stay until the best model is registered, as one of them packages it.
    with termination.ended_by_signals(), contextlib.ExitStack() as pool:
        launch = _Launch(Plan.of(config, baseline), folder, console, pool)
        with Journal(folder, resume=resume) as journal, contextlib.ExitStack() as views:
            log_to(folder)
            # Not if the driver is killed: the resumed sweep uses the copy of the data again.
            views.callback(tidy, folder)
            launch.prepare(resume=resume, other_versions=other_versions)
            launch.assemble(journal, views, retry_failed=retry_failed)
            if not launch.run_loop():
                return INTERRUPTED
        return launch.finish()


class _Launch:
    """The steps from a sweep's plan to its results, in the order in which they are called."""

    def __init__(self, plan: Plan, folder: Path, console: Console, pool: contextlib.ExitStack) -> None:
        self._plan, self._folder, self._console, self._pool = plan, folder, console, pool
        self._say, self._clock = line_printer(console), SteadyClock()

    def prepare(self, *, resume: bool, other_versions: bool) -> None:
        """Starts the workers, loads the data, and checks that a resumed sweep is still the same."""
        folder, say = self._folder, self._say
        # Before the data, as they take seconds to start. If something is wrong below, they are closed.
        self._workers = self._plan.start_workers(folder)
        self._pool.callback(self._workers.close)
        self._past = list(read(folder)) if resume else []
        before = SweepState.after(self._past)
        same_sweep.check_versions(before, folder, self._plan.backend, other_versions, say)
        self._images, dataset = self._load_data(before)
        summary.warn_of_fallback(self._console, self._images)
        for note in self._images.notes:
            say(note)
        config = to_store(self._plan.config, folder)
        self._workers.set_up(save_for_workers(dataset, folder))
        if self._plan.hypermodel is not None:
            say(f"Discovering the search space of {self._plan.hypermodel} …")
            self._plan = self._plan.discovered(self._workers)
        self._first: SweepStarted | SweepResumed
        if self._past:
            self._started = same_sweep.check(before, self._plan, self._images, folder, say)
            self._first = SweepResumed(self._clock(), config, versions())
        else:
            self._first = self._started = self._plan.first_event(folder, config, self._images, dataset, self._clock())
        # The argument by which every command finds the sweep.
        self._name = summary.as_argument(self._started.sweep, folder)
        summary.announce(say, self._started, [slot.name for slot in self._plan.slots])

    def _load_data(self, before: SweepState) -> tuple[data.Images, data.Dataset]:
        path = self._plan.settings.data.path
        try:
            return self._plan.load_data()
        except UserError as error:
            if before.started is None or path is None or Path(path).expanduser().exists():
                raise
            again = command(f"resume {summary.as_argument(before.started.sweep, self._folder)} data.path=FILE")
            raise UserError(f"{error}; if it was moved: {again}") from error

    def assemble(self, journal: Journal, views: contextlib.ExitStack, *, retry_failed: bool) -> None:
        """Puts the loop together with its search and its listeners, and brings all of them up to date."""
        plan, settings, clock, started = self._plan, self._plan.settings, self._clock, self._started
        search = ThreadedSearch(lambda: choose.create_search(settings, plan.space, started.enqueued, started.earlier))
        views.callback(search.close)
        self._tracker = Tracker(settings, self._folder, load_plots)
        views.callback(_close, self._tracker, self._say, self._name)
        size = plan.space.size
        if size is not None and settings.search.algorithm == "grid":
            size -= len({identity(trial["values"]) for trial in started.earlier})
        progress = Progress(settings.objective, settings.search, len(plan.slots), size, clock)
        screen = views.enter_context(Screen(progress, self._console))
        package = tempfile.TemporaryDirectory(prefix="mnist_sweep-", ignore_cleanup_errors=True)
        self._packaging = Packaging(self._workers, Path(self._pool.enter_context(package)) / "package", clock)
        self._sweep = Sweep(
            settings,
            plan.space,
            search,
            choose.create_stopping(settings),
            self._workers,
            folder=self._folder,
            listeners=[journal, self._tracker, screen],
            clock=clock,
            sharing=sharing.create(settings.workers, plan.slots, plan.most),
            packaging=self._packaging if settings.tracking.register_winner else None,
            meanwhile=lambda: prepare_to_publish(settings, len(self._sweep.results.outcomes)),
        )
        for event in self._past:
            self._tracker.handle(event)
            progress.handle(event)
        self._sweep.replay(self._past)
        again = self._sweep.to_retry(self._say) if retry_failed else []
        self._sweep.emit(self._first)
        if again:
            self._sweep.retry(again)

    def run_loop(self) -> bool:
        """Runs the loop to its end; returns False if the user interrupted it at once."""
        with stopping_on_signals(self._sweep, self._console):
            try:
                with writing_to(self._folder):
                    # After the first event: a folder that has this file is that of a sweep that has started.
                    config = yaml.safe_dump(self._first.config, sort_keys=False, allow_unicode=True)
                    write_whole(self._folder / "config.yaml", config)
                self._sweep.run()
            except KeyboardInterrupt:
                self._say(f"Interrupted. To continue: python -m mnist_sweep resume {self._name}")
                return False
            except MachineError as error:
                first = "free space or repair it" if self._folder.is_dir() else "put the folder back"
                todo = f"{first}, then: python -m mnist_sweep resume {self._name}"
                raise MachineError(f"{error}; {todo}") from error
        return True

    def finish(self) -> int:
        """Prints the leaderboard, publishes the results, and returns the exit code."""
        sweep, settings, name = self._sweep, self._plan.settings, self._started.sweep
        summary.leaderboard(self._console, self._plan.space, sweep.results)
        summary.warn_of_fallback(self._console, self._images)
        if sweep.interrupted:
            self._say(f"Interrupted. To continue: python -m mnist_sweep resume {self._name}")
            return INTERRUPTED
        published = None
        if self._tracker.error is None:
            has_winner, package = any(not test.error for test in sweep.state.tests), self._packaging.result
            try:
                # The pool is closed here, so another signal cannot interrupt that halfway.
                with self._pool:
                    published = publish(
                        name, settings, self._folder, self._say, has_winner=has_winner, packaged=package
                    )
            except KeyboardInterrupt:
                self._say(f"Interrupted; the sweep is complete. To log it: python -m mnist_sweep sync {self._name}")
                return INTERRUPTED
        reason, tests = sweep.state.ended.reason if sweep.state.ended else "", sweep.state.tests[-1:]
        summary.next_steps(self._say, settings, self._folder, name, sweep.results, tests, published, reason)
        return 0 if sweep.results.winner() is not None else 1


def _close(tracker: Tracker, say: summary.Say, sweep: str) -> None:
    """Waits until MLflow has everything, and reports what it lacks."""
    if tracker.behind:
        say("Writing the last results to MLflow …")
    tracker.close()
    if tracker.error is not None:
        reason = machine_fault(tracker.error) or masked(first_line(tracker.error))
        say(f"The last results could not be written to MLflow ({reason}).")
        say(f"The journal has them; when MLflow is available again: python -m mnist_sweep sync {sweep}")
    if tracker.refusals.count:
        say(f"MLflow: {tracker.refusals}.")
