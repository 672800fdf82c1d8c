"""Runs one sweep, from its config to its leaderboard."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep.common import termination
from mnist_sweep.common.clock import SteadyClock
from mnist_sweep.common.errors import NOT_LOGGED, MachineError, UserError, writing_to
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.invocation import command
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import ProgressPrinter, line_printer, progress_printer
from mnist_sweep.common.text import counted, first_line, os_reason
from mnist_sweep.common.versions import versions
from mnist_sweep.config import augment
from mnist_sweep.config.units import seconds
from mnist_sweep.data.dataset import Dataset, LoadedData
from mnist_sweep.driver import larger_space, notify, same_sweep, summary
from mnist_sweep.driver.figures import SlotFigures
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.notify import Notifier
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.plan import Plan, save_for_workers
from mnist_sweep.driver.progress import Progress
from mnist_sweep.driver.publish import load_plots, publish, registers
from mnist_sweep.driver.publish import prepare as prepare_to_publish
from mnist_sweep.driver.screen import Screen
from mnist_sweep.driver.signals import stopping_on_signals
from mnist_sweep.driver.steering_socket import Request, SteeringSocket
from mnist_sweep.driver.stored_config import to_store
from mnist_sweep.journal.events import SweepResumed, SweepStarted
from mnist_sweep.journal.files import code_folder
from mnist_sweep.journal.folders import tidy
from mnist_sweep.journal.journal import Journal, read
from mnist_sweep.journal.last_run import last_run
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Retrains
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.tracking import identity, opening
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.tracking.uri import is_local
from mnist_sweep.workers import neighbours, sharing
from mnist_sweep.workers.devices import node_of

INTERRUPTED = 130
# Seconds that the first trial waits for the answer of a store on another machine.
_ANSWER_WITHIN = 5.0
# Seconds after which the thread that writes to MLflow lets the loop continue: with Python's 0.005, each suggestion of
# the search would take milliseconds longer.
_TURN = 0.0005


def run(
    config: dict[str, Any],
    folder: Path,
    console: Console,
    *,
    resume: bool = False,
    other_versions: bool = False,
    retry_failed: bool = False,
    baseline: Mapping[str, Any] | None = None,
    retrains: Retrains | None = None,
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
        retrains: The trial that this run retrains, for its first event; None for a sweep.

    Returns:
        The exit code: 0; 1 if no trial has a result; 3 if MLflow lacks a part of the results, the report or the model;
        130 if the user interrupted it.

    Raises:
        UserError: Something is wrong with the config, the data, or the machine.
    """
    # The workers stay until the best model is registered, as one of them packages it.
    with termination.ended_by_signals(), contextlib.ExitStack() as last, contextlib.ExitStack() as pool:
        pool.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_TURN)
        plan = Plan.of(config, baseline, code_folder(folder))
        notifier = notify.create(plan.settings, progress_printer(console))
        if notifier is not None:
            last.callback(notifier.close)
        launch = _Launch(plan, folder, console, pool, retrains, notifier)
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

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        console: Console,
        pool: contextlib.ExitStack,
        retrains: Retrains | None,
        notifier: Notifier | None,
    ) -> None:
        self._plan, self._folder, self._console, self._pool = plan, folder, console, pool
        self._retrains, self._notifiers = retrains, [] if notifier is None else [notifier]
        self._say, self._tell, self._clock = line_printer(console), progress_printer(console), SteadyClock()

    def prepare(self, *, resume: bool, other_versions: bool) -> None:
        """Starts the workers, loads the data, and checks that a resumed sweep is still the same."""
        folder, say, settings = self._folder, self._say, self._plan.settings
        if not resume:
            identity.check_experiment(settings.tracking.uri, settings.name)
        self._faults = opening.open_early(settings.tracking.uri, self._tell)
        # Before the data, as they take seconds to start. If something is wrong below, they are closed.
        self._workers = self._plan.start_workers(folder, say)
        self._pool.callback(self._workers.close)
        self._past = list(read(folder)) if resume else []
        before = SweepState.after(self._past)
        same_sweep.check_versions(before, folder, self._plan.backend, other_versions, say)
        self._data, dataset = self._load_data(before)
        self._has_test = dataset.has_test
        if self._retrains is not None and self._retrains.test and not self._has_test:
            raise UserError(f"retrain --test: data={self._data.name} from {self._data.source} has no test part")
        summary.warn_of_fallback(self._console, self._data)
        for note in self._data.notes:
            say(note)
        config = to_store(self._plan.config, folder)
        self._workers.set_up(save_for_workers(dataset, folder))
        self._plan = replace(self._plan, slots=self._workers.places())
        if self._plan.hypermodel is not None:
            self._tell(f"Discovering the search space of {self._plan.hypermodel} …")
            self._plan = self._plan.discovered(self._workers, say)
        elif not self._past:
            self._plan.check_builder(self._workers, say)
        self._first: SweepStarted | SweepResumed
        self._grown: dict[str, str] = {}
        if self._past:
            self._started = same_sweep.check(before, self._plan, self._data, folder, say)
            if larger_space.changed(before.config, self._plan.config):
                self._grown = self._plan.space.describe()
            self._first = SweepResumed(self._clock(), config, versions(), self._grown, self._workers.nodes())
        else:
            self._first = self._started = self._plan.first_event(
                folder, config, self._data, dataset, self._clock(), self._retrains
            )
            self._first = self._started = replace(self._started, nodes=self._workers.nodes())
        self._retrains = self._started.retrains
        # The argument by which every command finds the sweep.
        self._name = summary.as_argument(self._started.sweep, folder)
        grown = [key for key, domain in before.space.items() if self._grown.get(key, domain) != domain]
        doubts = augment.doubts(self._plan.config.get("augment", {}), self._plan.config["data"]["name"])
        notes = [*doubts, *self._plan.space.notes, *(f"{key} was {before.space[key]} before" for key in grown)]
        about = replace(self._started, space=self._plan.space.describe())
        summary.announce(say, about, [slot.name for slot in self._plan.slots], notes, self._console.width)
        if about.space:
            say(f"  page     {command(f'watch {self._name}')}")
        here = [slot for slot in self._plan.slots if not node_of(slot.name)]
        others = self._pool.enter_context(neighbours.registered(self._started.sweep, folder, here))
        for line in neighbours.warnings(here, others):
            say(line)

    def _load_data(self, before: SweepState) -> tuple[LoadedData, Dataset]:
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
        self._tracker = Tracker(settings, self._folder, load_plots, self._tell, self._faults)
        views.callback(_close, self._tracker, self._tell, self._say, self._name)
        progress = Progress(
            settings.objective,
            settings.search,
            len(plan.slots),
            partial(plan.count_trials, earlier=started.earlier),
            clock,
            confirm=settings.confirm,
            single=not plan.space.hyperparameters,
        )
        progress.store = self._tracker.status
        screen = views.enter_context(Screen(progress, self._console))

        figures = self._slot_figures(views)

        def tick() -> None:
            screen.tick()
            self._tracker.tick()
            for one in figures:
                one.take(self._workers.measured())

        package = tempfile.TemporaryDirectory(prefix="mnist_sweep-", ignore_cleanup_errors=True)
        self._packaging = Packaging(self._workers, Path(self._pool.enter_context(package)) / "package", clock)
        self._sweep = Sweep(
            settings,
            plan.space,
            search,
            choose.create_stopping(settings),
            self._workers,
            folder=self._folder,
            listeners=[journal, self._tracker, screen, *figures, *self._notifiers],
            clock=clock,
            image=self._data.schema.grid,
            sharing=sharing.create(settings.workers, plan.slots, plan.most),
            packaging=self._packaging if registers(settings) else None,
            tests=self._has_test and (self._retrains is None or self._retrains.test),
            meanwhile=lambda: prepare_to_publish(settings, len(self._sweep.results.outcomes)),
            tick=tick,
            requests=self._listen(views),
        )
        for event in self._past:
            self._tracker.handle(event)
            progress.handle(event)
        for notifier in self._notifiers:
            notifier.known(self._past)
        self._sweep.replay(self._past, grown=bool(self._grown))
        again = self._sweep.to_retry(self._say) if retry_failed else []
        self._sweep.emit(self._first)
        for line in self._still_steered():
            self._say(line)
        if not is_local(settings.tracking.uri, settings.tracking.artifacts):
            # The workers are still starting.
            self._tracker.opened(_ANSWER_WITHIN)
        if again:
            self._sweep.retry(again)

    def _slot_figures(self, views: contextlib.ExitStack) -> list[SlotFigures]:
        """Returns what takes the slots' figures; nothing if they are not measured."""
        every, clock = self._plan.settings.tracking.system_metrics, self._clock
        if every is None:
            return []

        def log(trial: int, metrics: Mapping[str, float]) -> None:
            self._tracker.measured(trial, metrics, clock())

        found = SlotFigures(self._folder, seconds(every), log, clock)
        views.callback(found.close)
        return [found]

    def _still_steered(self) -> Iterator[str]:
        """Yields what users changed while an earlier session ran, as far as it still holds."""
        state, slots = self._sweep.state, len(self._plan.slots)
        for name, part in state.narrowed.items():
            yield f"{name} is narrowed to {part}, as was set while the sweep ran"
        if state.most_slots is not None and state.most_slots < slots:
            again = command(f"steer {self._name} slots {slots}")
            yield f"The sweep uses {counted(state.most_slots, 'slot')} of {slots}; to use all of them: {again}"
        if state.paused:
            yield f"The sweep is paused; to start trials again: {command(f'steer {self._name} continue')}"

    def _listen(self, views: contextlib.ExitStack) -> Callable[[], Sequence[Request]]:
        """Lets the user steer the sweep, and returns what gives the requests."""
        try:
            return views.enter_context(SteeringSocket(self._folder)).requests
        except OSError as error:
            self._say(f"This sweep cannot be steered while it runs: there can be no socket here ({os_reason(error)}).")
            return list

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
                self._say(f"Interrupted. To continue: {command(f'resume {self._name}')}")
                return False
            except MachineError as error:
                first = error.todo or "free space or repair it" if self._folder.is_dir() else "put the folder back"
                todo = f"{first}, then: {command(f'resume {self._name}')}"
                raise MachineError(f"{error}; {todo}") from error
        return True

    def finish(self) -> int:
        """Prints the leaderboard, publishes the results, and returns the exit code."""
        sweep, settings, name = self._sweep, self._plan.settings, self._started.sweep
        summary.leaderboard(self._console, self._plan.space, sweep.results)
        summary.warn_of_fallback(self._console, self._data)
        if sweep.interrupted:
            self._say(f"Interrupted. To continue: {command(f'resume {self._name}')}")
            return INTERRUPTED
        published = None
        if self._tracker.error is None and not self._tracker.without_files:
            champion = None if self._retrains is None else self._retrains.champion
            try:
                # The pool is closed here, so another signal cannot interrupt that halfway.
                with self._pool:
                    published = publish(
                        name,
                        settings,
                        self._folder,
                        self._tell,
                        has_winner=sweep.state.has_model,
                        champion=champion,
                        packaged=self._packaging.result,
                    )
            except KeyboardInterrupt:
                self._say(f"Interrupted; the sweep is complete. To log it: {command(f'sync {self._name}')}")
                return INTERRUPTED
        reason, tests = sweep.state.ended.reason if sweep.state.ended else "", sweep.state.tests[-1:]
        summary.next_steps(
            self._say,
            settings,
            self._folder,
            name,
            sweep.results,
            tests,
            published,
            reason,
            single=sweep.state.single,
            last=last_run(self._folder, sweep.state, settings.objectives),
            retrains="" if self._retrains is None else self._retrains.sweep,
            data=sweep.state.started.data if sweep.state.started else None,
        )
        if sweep.results.winner() is None:
            return 1
        published_all = published is not None and not published.troubles
        return 0 if self._tracker.complete and published_all else NOT_LOGGED


def _close(tracker: Tracker, tell: ProgressPrinter, say: summary.Say, sweep: str) -> None:
    """Waits until MLflow has everything, and reports what it lacks."""
    if tracker.behind:
        tell("Writing the last results to MLflow …")
    tracker.close()
    if tracker.error is not None:
        reason = tracker.fault or masked(first_line(tracker.error))
        say(f"The last results could not be written to MLflow ({reason}).")
        say(f"The journal has them; when MLflow is available again: {command(f'sync {sweep}')}")
    elif tracker.without_files:
        say(f"MLflow: {tracker.without_files}.")
        say(f"The sweep's folder has what they are made of; when they can be written: {command(f'sync {sweep}')}")
    if tracker.mended:
        say(f"MLflow: restored {tracker.mended}.")
    if tracker.refusals.count:
        say(f"MLflow: {tracker.refusals}.")
