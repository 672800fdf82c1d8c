"""Puts one sweep together from its config, runs it, and says what came out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep import search
from mnist_sweep.config import TrialConfig, check_shape
from mnist_sweep.errors import UserError
from mnist_sweep.files import write_whole
from mnist_sweep.journal import LOCK, Journal, read
from mnist_sweep.mlflow_store import absolute, without_password
from mnist_sweep.progress import Progress, Screen, duration, short_names, shown
from mnist_sweep.search.aside import Aside
from mnist_sweep.settings import Settings, check_settings
from mnist_sweep.space import Space
from mnist_sweep.sweep import Results, Sweep
from mnist_sweep.tables import Column, show
from mnist_sweep.tracking import Tracker
from mnist_sweep.training import data
from mnist_sweep.trial import Event, Status, SweepResumed, SweepStarted, WinnerTested
from mnist_sweep.workers.devices import slots
from mnist_sweep.workers.local import LocalWorkers

_PACKAGES = ("mnist_sweep", "tensorflow", "keras", "keras-tuner", "mlflow", "hydra-core", "numpy")
_LEADERS = 10
_Say = Callable[[str], None]


def prepare(config: dict[str, Any]) -> tuple[Settings, Space, list[TrialConfig]]:
    """Checks a config as far as that goes without the data.

    Args:
        config: As Hydra composed it, resolved.

    Returns:
        The settings, the space, and the trial configs at the space's corners.

    Raises:
        UserError: Something is wrong with the config.
    """
    settings = check_settings(config)
    space = Space(settings.trial)
    corners = list(space.check())
    search.check(settings, space)
    absolute(settings.tracking.uri)
    return settings, space, corners


def run(config: dict[str, Any], folder: Path, console: Console, *, resume: bool = False) -> int:
    """Runs a sweep from its config to its leaderboard.

    Args:
        config: As Hydra composed it, resolved.
        folder: The sweep's folder, which exists.
        console: Where to print.
        resume: Whether the folder holds a sweep to go on with.

    Returns:
        The exit code: 0; 1 where no trial has a result; 130 where the user interrupted it.

    Raises:
        UserError: Something is wrong with the config, the data, or the machine.
    """
    settings, space, corners = prepare(config)
    limits = [n for n in (settings.search.max_trials, space.size) if n is not None]
    places = slots(settings.workers, min(limits, default=None))
    images = data.load(settings.data.name, settings.data.path, settings.data.fallback)
    for corner in corners:
        check_shape(corner, images.shape)
    dataset = data.split(images, settings.data.validation_split, settings.seed)
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    _warn_of_fallback(console, images)
    with Journal(folder, resume=resume) as journal, contextlib.ExitStack() as cleanup:
        past = list(read(folder)) if resume else []
        public = _without_secrets(config)
        if past:
            started = first_event(past, folder)
            _same_data(images, started, folder)
            begin: Event = SweepResumed(time.time(), public)
        else:
            about = _about(images, dataset)
            sweep_id = _sweep_id(settings, folder)
            begin = started = SweepStarted(time.time(), sweep_id, public, space.describe(), about, versions())
        _announce(say, started, [place.name for place in places])
        write_whole(folder / "config.yaml", yaml.safe_dump(public, sort_keys=False, allow_unicode=True))
        # In the sweep's folder, so that a killed driver leaves nothing that its resumption does not use again.
        arrays = folder / "arrays"
        arrays.mkdir(exist_ok=True)
        cleanup.callback(shutil.rmtree, arrays, ignore_errors=True)
        try:
            dataset.save(arrays)
        except OSError as error:
            raise UserError(f"{arrays}: cannot be written ({error.strerror or error})") from error
        aside = Aside(lambda: search.create(settings, space))
        cleanup.callback(aside.close)
        workers = LocalWorkers(places, arrays, folder / "workers", settings.workers.recycle_after)
        cleanup.callback(workers.close)
        tracker = Tracker(settings, folder)
        cleanup.callback(_finish_tracking, tracker, say, started.sweep)
        screen = cleanup.enter_context(
            Screen(Progress(settings.objective, settings.search, len(places), space.size, time.time), console)
        )
        tested: list[WinnerTested] = []

        def emit(event: Event) -> None:
            journal.append(event)
            tracker.handle(event)
            screen.handle(event)
            if isinstance(event, WinnerTested):
                tested.append(event)

        sweep = Sweep(settings, space, aside, workers, folder=folder, emit=emit, clock=time.time)
        for event in past:
            tracker.handle(event)
            screen.progress.handle(event)
        sweep.replay(past)
        emit(begin)
        with _signals(sweep, console):
            results = sweep.run()
    _leaderboard(console, space, results)
    _warn_of_fallback(console, images)
    if sweep.interrupted:
        say(f"Interrupted. To go on: python -m mnist_sweep resume {started.sweep}")
        return 130
    _next_steps(say, settings, folder, started.sweep, results, tested, logged=tracker.error is None)
    return 0 if results.winner() is not None else 1


def first_event(events: Sequence[Event], folder: Path) -> SweepStarted:
    """The start of a sweep, whose first event it must be.

    Raises:
        UserError: It is not.
    """
    if not events or not isinstance(events[0], SweepStarted):
        raise UserError(f"{folder}: its journal does not begin with the sweep's start; there is nothing to go on with")
    return events[0]


def _same_data(images: data.Images, started: SweepStarted, folder: Path) -> None:
    if images.digest() != started.data["digest"]:
        raise UserError(
            f"{folder}: began on {started.data['name']} ({started.data['digest']}), but data={images.name} now is "
            f"another ({images.digest()}); a sweep's trials are compared on the same data"
        )


def _without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    tracking = {**config["tracking"], "uri": without_password(config["tracking"]["uri"])}
    return {key: value for key, value in config.items() if key != "resume"} | {"tracking": tracking}


def versions() -> dict[str, str]:
    """The versions of Python and the packages that a result depends on, and the git commit where there is one."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # A source tree that is not installed.
            continue
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return found


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


def _warn_of_fallback(console: Console, images: data.Images) -> None:
    if images.fallback is not None:
        console.print(
            f" data={images.fallback} CANNOT BE DOWNLOADED: this sweep uses the 5,000 digits of {images.name} instead. "
            "Give data.path=FILE for the real data, or data.fallback=null to make this an error. ",
            style="bold white on red",
            soft_wrap=True,
        )


def _announce(say: _Say, started: SweepStarted, places: list[str]) -> None:
    about = started.data
    say(f"Sweep {started.sweep}")
    say(
        f"  data     {about['name']}: {about['training_images']:,} training, {about['validation_images']:,} validation "
        f"and {about['test_images']:,} test images of {about['image']}, {about['classes']} classes"
    )
    for i, (name, domain) in enumerate(started.space.items()):
        say(f"  {'search' if i == 0 else '':8} {name} = {domain}")
    if not started.space:
        say("  search   nothing: one run")
    say(f"  workers  {', '.join(places)}")


@contextmanager
def _signals(sweep: Sweep, console: Console) -> Iterator[None]:
    """Ctrl-C once, or SIGTERM, lets the running epochs end; Ctrl-C twice ends at once. Both can be resumed."""
    # A terminal that is closed sends SIGHUP, a cluster's pre-emption SIGTERM.
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handler(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        sweep.stop("stopped by Ctrl-C" if number == signal.SIGINT else f"stopped by {name}")
        for kind in kinds:
            signal.signal(kind, signal.default_int_handler)
        console.print("Stopping when the running epochs have ended; Ctrl-C again to stop at once.", style="yellow")

    before = {number: signal.signal(number, handler) for number in kinds}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _finish_tracking(tracker: Tracker, say: _Say, sweep: str) -> None:
    if tracker.behind:
        say("Writing the last results to MLflow …")
    tracker.close()
    if tracker.error is not None:
        lines = str(tracker.error).strip().splitlines() or [type(tracker.error).__name__]
        say(f"MLflow could not be written ({without_password(lines[0])}).")
        say(f"The journal has everything; when MLflow is back: python -m mnist_sweep sync {sweep}")


def _leaderboard(console: Console, space: Space, results: Results) -> None:
    ranking = results.ranking()
    if not ranking:
        return
    leaders = [(n, results.trials[n], results.outcomes[n]) for n in ranking[:_LEADERS]]
    short = short_names([h.name for h in space.hyperparameters])
    columns = [
        Column("", [str(rank) for rank in range(1, len(leaders) + 1)], weight=1),
        Column("trial", [str(number) for number, _, _ in leaders], weight=3),
        *(Column(end, [shown(t.values.get(name, "–")) for _, t, _ in leaders]) for name, end in short.items()),
        Column(results.objective.name, [f"{o.score:.4f}" for _, _, o in leaders], weight=3),
        Column("best epoch", [str(o.best_epoch) for _, _, o in leaders], weight=1),
        Column("time", [duration(o.seconds) for _, _, o in leaders], weight=1),
    ]
    left_out = show(console, columns, "Leaderboard")
    if left_out:
        console.print(f"{left_out} more columns fit into a wider terminal.", style="dim")


def _next_steps(
    say: _Say,
    settings: Settings,
    folder: Path,
    sweep: str,
    results: Results,
    tested: list[WinnerTested],
    *,
    logged: bool,
) -> None:
    ended = [outcome.status for outcome in results.outcomes.values()]
    others = {status: ended.count(status) for status in (Status.STOPPED, Status.FAILED) if status in ended}
    for status, count in others.items():
        say(f"{count} trial{'s' if count > 1 else ''} {status}.")
    winner = results.winner()
    if winner is None:
        reasons = {outcome.reason for outcome in results.outcomes.values() if outcome.reason}
        say(f"No trial has a result{': ' + min(reasons) if reasons else ''}.")
        say(f"The workers' output is in {folder / 'workers'}.")
        return
    score = results.outcomes[winner].score
    say(f"Winner: trial {winner}, {settings.objective.name} {score:.4f}")
    for event in tested:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
        say(f"  on the test images: {scores}" if scores else f"  its model cannot be tested: {event.error}")
    place = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    say(f"Sweep's folder: {place}")
    say(f"MLflow: {without_password(settings.tracking.uri)}, experiment {settings.name}")
    say("Next:")
    commands = (f"compare {sweep}", f"export {sweep} --to exported", "ui") if logged else (f"sync {sweep}",)
    for command in commands:
        say(f"  python -m mnist_sweep {command}")


def claim(folder: Path) -> Path:
    """Makes a folder this process's own.

    Args:
        folder: The one that is wished for; another sweep that began in the same second may have it.

    Returns:
        That folder, or the first of `folder-2`, `folder-3` … that nobody has.

    Raises:
        UserError: It cannot be written.
    """
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir(parents=True, exist_ok=True)
            (candidate / LOCK).touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{candidate}: cannot be written ({error.strerror})") from None
        return candidate
    raise AssertionError


def discard(folder: Path) -> None:
    """Removes the folder of a sweep that never began, with the empty ones above it."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in list(folder.parents)[:2]:
        try:
            parent.rmdir()
        except OSError:
            return
