"""Puts one sweep together from its config, runs it, and says what came out."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep.common import termination
from mnist_sweep.common.clock import SteadyClock
from mnist_sweep.common.errors import MachineError, UserError, machine_fault, writing_to
from mnist_sweep.common.files import make_folder, write_whole
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import first_line, os_reason
from mnist_sweep.common.versions import versions
from mnist_sweep.config import backend, hypermodel
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import TrialConfig, check_shape
from mnist_sweep.data import images as data
from mnist_sweep.driver import discovery, enqueue, summary, warm_start
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.progress import Progress, Screen
from mnist_sweep.driver.publish import load_plots, publish
from mnist_sweep.driver.publish import prepare as prepare_to_publish
from mnist_sweep.driver.same_sweep import check_data, check_devices, check_space, check_versions, first_event
from mnist_sweep.driver.signals import stopping_on_signals
from mnist_sweep.journal.events import Event, SweepEnded, SweepResumed, SweepStarted, WinnerTested
from mnist_sweep.journal.files import ARRAYS, WORKERS
from mnist_sweep.journal.folders import elsewhere, find, tidy
from mnist_sweep.journal.journal import Journal, read
from mnist_sweep.search import choose, compatibility
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.tracking.uri import absolute, as_kept_in, below
from mnist_sweep.workers import sharing
from mnist_sweep.workers.devices import slots
from mnist_sweep.workers.local import LocalWorkers

# For as many builds of a user's hypermodel as it takes to know its space.
_DISCOVERY_SECONDS = 1800


def prepare(
    config: dict[str, Any], own: hypermodel.Expanded | None = None
) -> tuple[Settings, Space, list[TrialConfig]]:
    """Checks a config as far as that goes without the data.

    Args:
        config: As Hydra composed it, resolved.
        own: What the config's hypermodel searches, where it names one.

    Returns:
        The settings, the space, and the trial configs at the space's corners.

    Raises:
        UserError: Something is wrong with the config.
    """
    settings = check_settings(config)
    if own is not None:
        settings = replace(settings, trial=own.trial)
    space = Space(settings.trial) if own is None else own.space()
    corners = list(space.check())
    compatibility.check(settings, space)
    absolute(settings.tracking.uri)
    return settings, space, corners


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
        config: As Hydra composed it, resolved.
        folder: The sweep's folder, which exists.
        console: Where to print.
        resume: Whether the folder holds a sweep to continue.
        other_versions: Whether that may be with other versions of what trains than it had so far.
        baseline: The groups model, optimizer and training as they are without sweeps, for `search.enqueue: [default]`.

    Returns:
        The exit code: 0; 1 where no trial has a result; 130 where the user interrupted it.

    Raises:
        UserError: Something is wrong with the config, the data, or the machine.
    """
    with termination.ended_by_signals(), contextlib.ExitStack() as pool:
        return _run(config, folder, console, pool, resume, other_versions, baseline)


def _run(
    config: dict[str, Any],
    folder: Path,
    console: Console,
    pool: contextlib.ExitStack,
    resume: bool,
    other_versions: bool,
    baseline: Mapping[str, Any] | None,
) -> int:
    """As `run`; what is to close after the best model is registered, which the workers help with, goes to `pool`."""
    settings = check_settings(config)
    most, own = settings.search.max_trials, hypermodel.named(settings.trial)
    if own is None:
        settings, space, corners = prepare(config)
        most = min((n for n in (most, space.size) if n is not None), default=None)
    backend.check_installed(backend.of(settings.trial))
    places = slots(settings.workers, most)
    say = line_printer(console)
    with Journal(folder, resume=resume) as journal, contextlib.ExitStack() as cleanup:
        log_to(folder)
        # In the sweep's folder, so that a killed driver leaves nothing that its resumption does not use again.
        arrays = folder / ARRAYS
        cleanup.callback(tidy, folder)
        clock = SteadyClock()
        # Before the data, as they take seconds to start; what is found wrong below ends them.
        custom_code = own is not None or settings.trial["model"].get("builder") is not None
        workers = LocalWorkers(
            places,
            None,
            folder / WORKERS,
            settings.workers.recycle_after,
            custom_code=custom_code,
            backend=backend.of(settings.trial),
        )
        pool.callback(workers.close)
        past = list(read(folder)) if resume else []
        if past:
            check_versions(past, folder, backend.of(settings.trial), other_versions, say)
        images = data.load(settings.data.name, settings.data.path, settings.data.fallback)
        if own is None:
            for corner in corners:
                check_shape(corner, images.shape)
        dataset = data.split(images, settings.data.validation_split, settings.seed)
        summary.warn_of_fallback(console, images)
        public = _without_secrets(config, folder)
        try:
            make_folder(arrays)
            dataset.save(arrays)
        except OSError as error:
            raise UserError(f"{arrays}: cannot be written ({os_reason(error)})") from error
        workers.set_up(arrays)
        if own is not None:
            say(f"Asking {own} what it searches …")
            found = hypermodel.expand(settings.trial, discovery.discover(workers, own, _DISCOVERY_SECONDS))
            settings, space, corners = prepare(config, found)
            baseline = found.baseline(baseline)
        if past:
            started = first_event(past, folder)
            check_data(images, started, folder)
            check_devices(places, past, folder)
            check_space(space, started, folder)
            begin: Event = SweepResumed(clock(), public, versions())
        else:
            about = _about(images, dataset)
            begin = started = SweepStarted(
                clock(),
                _sweep_id(settings, folder),
                public,
                space.describe(),
                about,
                versions(),
                enqueued=enqueue.enqueued(settings, space, baseline),
                earlier=warm_start.earlier(
                    settings, space, images.digest(), functools.partial(find, wanted_by="search.warm_start")
                ),
            )
        summary.announce(say, started, [place.name for place in places])
        aside = ThreadedSearch(lambda: choose.create_search(settings, space, started.enqueued, started.earlier))
        cleanup.callback(aside.close)
        tracker = Tracker(settings, folder, load_plots)
        named = summary.as_argument(started.sweep, folder)
        cleanup.callback(_finish_tracking, tracker, say, named)
        screen = cleanup.enter_context(
            Screen(Progress(settings.objective, settings.search, len(places), space.size, clock), console)
        )
        tested: list[WinnerTested] = []
        ended: list[SweepEnded] = []

        def emit(event: Event) -> None:
            journal.append(event)
            tracker.handle(event)
            screen.handle(event)
            if isinstance(event, WinnerTested):
                tested.append(event)
            elif isinstance(event, SweepEnded):
                ended.append(event)

        rule = choose.create_stopping(settings)
        shares = sharing.create(settings.workers, places, most)
        package = pool.enter_context(tempfile.TemporaryDirectory(prefix="mnist_sweep-", ignore_cleanup_errors=True))
        packaging = Packaging(workers, Path(package) / "package", clock)
        sweep = Sweep(
            settings, space, aside, rule, workers, folder=folder, emit=emit, clock=clock, sharing=shares,
            packaging=packaging if settings.tracking.register_winner else None,
            meanwhile=lambda: prepare_to_publish(settings, len(sweep.results.outcomes)),
        )  # fmt: skip
        for event in past:
            tracker.handle(event)
            screen.progress.handle(event)
        sweep.replay(past)
        emit(begin)
        to_go_on = f"Interrupted. To go on: python -m mnist_sweep resume {named}"
        with stopping_on_signals(sweep, console):
            try:
                with writing_to(folder):
                    # Behind the event: a folder that has this file is one of a sweep that has begun.
                    write_whole(folder / "config.yaml", yaml.safe_dump(public, sort_keys=False, allow_unicode=True))
                results = sweep.run()
            except KeyboardInterrupt:
                say(to_go_on)
                return 130
            except MachineError as error:
                first = "free space or mend it" if folder.is_dir() else "put the folder back"
                mend = f"{first}, then: python -m mnist_sweep resume {named}"
                raise MachineError(f"{error}; {mend}") from error
    summary.leaderboard(console, space, results)
    summary.warn_of_fallback(console, images)
    if sweep.interrupted:
        say(to_go_on)
        return 130
    published = None
    if tracker.error is None:
        has_winner = any(isinstance(event, WinnerTested) and not event.error for event in [*past, *tested])
        try:
            # Closed here, so that another signal does not end that halfway.
            with pool:
                published = publish(
                    started.sweep, settings, folder, say, has_winner=has_winner, packaged=packaging.result
                )
        except KeyboardInterrupt:
            say(f"Interrupted. The sweep is whole; for the rest: python -m mnist_sweep sync {named}")
            return 130
    summary.next_steps(say, settings, folder, started.sweep, results, tested, published, ended[-1].reason)
    return 0 if results.winner() is not None else 1


def _without_secrets(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A config as it is kept: without passwords, and without paths into its project, which may be copied or moved."""
    tracking, project = dict(config["tracking"]), elsewhere(folder) or Path.cwd()
    tracking["uri"] = masked(as_kept_in(tracking["uri"], project))
    artifacts = Path(tracking["artifacts"])
    inside = below(artifacts, project) if artifacts.is_absolute() else None
    tracking["artifacts"] = tracking["artifacts"] if inside is None else str(inside)
    return {key: value for key, value in config.items() if key != "resume"} | {"tracking": tracking}


def _about(images: data.Images, dataset: data.Dataset) -> dict[str, Any]:
    height, width, channels = images.shape
    return {
        "name": images.name,
        "digest": images.digest(),
        "source": images.source,
        "fallback_for": images.fallback,
        "training_images": len(dataset.x_train),
        "validation_images": len(dataset.x_val),
        "test_images": len(dataset.x_test),
        "image": f"{height}x{width}x{channels}",
        "classes": images.classes,
    }


def _sweep_id(settings: Settings, folder: Path) -> str:
    # Under `-m` the folder is experiments/NAME/TIME/NUMBER.
    tail = folder.parts[-2:] if folder.name.isdigit() else folder.parts[-1:]
    return "/".join([settings.name, *tail])


def _finish_tracking(tracker: Tracker, say: summary.Say, sweep: str) -> None:
    if tracker.behind:
        say("Writing the last results to MLflow …")
    tracker.close()
    if tracker.error is not None:
        reason = machine_fault(tracker.error) or masked(first_line(tracker.error))
        say(f"MLflow could not be written ({reason}).")
        say(f"The journal has everything; when MLflow is back: python -m mnist_sweep sync {sweep}")
    if tracker.refusals.count:
        say(f"MLflow: {tracker.refusals}.")
