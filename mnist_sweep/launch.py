"""Puts one sweep together from its config, runs it, and says what came out."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep import search
from mnist_sweep.config import TrialConfig, check_shape
from mnist_sweep.journal import Journal
from mnist_sweep.mlflow_store import absolute, without_password
from mnist_sweep.progress import Progress, Screen, duration, short_names, shown
from mnist_sweep.search.aside import Aside
from mnist_sweep.settings import Settings, check_settings
from mnist_sweep.space import Space
from mnist_sweep.sweep import Results, Sweep
from mnist_sweep.tables import Column, show
from mnist_sweep.tracking import Tracker
from mnist_sweep.training import data
from mnist_sweep.trial import Event, Status, SweepStarted, WinnerTested
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


def run(config: dict[str, Any], folder: Path, console: Console) -> int:
    """Runs a sweep from its config to its leaderboard.

    Args:
        config: As Hydra composed it, resolved.
        folder: The sweep's folder, which exists.
        console: Where to print.

    Returns:
        The exit code: 0; 1 where no trial has a result; 130 where the user ended it.

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
    _warn_of_fallback(console, images)
    sweep_id = _sweep_id(settings, folder)
    started = SweepStarted(time.time(), sweep_id, config, space.describe(), _about(images, dataset), versions())
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    _announce(say, sweep_id, started, [place.name for place in places])
    with Journal(folder) as journal, tempfile.TemporaryDirectory(prefix="mnist_sweep-") as arrays:
        (folder / "config.yaml").write_text(
            yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        dataset.save(Path(arrays))
        tracker = Tracker(settings, folder)
        aside = Aside(lambda: search.create(settings, space))
        workers = LocalWorkers(places, Path(arrays), folder / "workers", settings.workers.recycle_after)
        progress = Progress(settings.objective, settings.search, len(places), space.size, time.time)
        try:
            with Screen(progress, console) as screen:
                tested: list[WinnerTested] = []

                def emit(event: Event) -> None:
                    journal.append(event)
                    tracker.handle(event)
                    screen.handle(event)
                    if isinstance(event, WinnerTested):
                        tested.append(event)

                emit(started)
                sweep = Sweep(
                    space,
                    aside,
                    workers,
                    objective=settings.objective,
                    budget=settings.search,
                    retries=settings.workers.retries,
                    folder=folder,
                    emit=emit,
                    clock=time.time,
                )
                with _signals(sweep, console):
                    results = sweep.run()
        finally:
            workers.close()
            aside.close()
            _finish_tracking(tracker, console)
    _leaderboard(console, space, results)
    _warn_of_fallback(console, images)
    _next_steps(say, settings, folder, sweep_id, results, tested, tracker)
    if sweep.stopped_by_user:
        return 130
    return 0 if results.winner() is not None else 1


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


def _announce(say: _Say, sweep: str, started: SweepStarted, places: list[str]) -> None:
    about = started.data
    say(f"Sweep {sweep}")
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
    """Ctrl-C once, or SIGTERM, lets the running epochs end; Ctrl-C twice ends at once."""

    def handler(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        sweep.stop("stopped by Ctrl-C" if number == signal.SIGINT else f"stopped by {name}")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print("Stopping when the running epochs have ended; Ctrl-C again to stop at once.", style="yellow")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _finish_tracking(tracker: Tracker, console: Console) -> None:
    if tracker.behind:
        console.print("Writing the last results to MLflow …", style="dim")
    tracker.close()
    if tracker.error is not None:
        lines = str(tracker.error).strip().splitlines() or [type(tracker.error).__name__]
        console.print(
            f"MLflow could not log everything ({without_password(lines[0])}); the sweep's journal is complete.",
            style="bold red",
            markup=False,
        )


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
    tracker: Tracker,
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
        say("  on the test images: " + ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items()))
    place = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    say(f"Sweep's folder: {place}")
    if tracker.error is None:
        say(f"MLflow: {without_password(settings.tracking.uri)}, experiment {settings.name}")
    say("Next:")
    for command in (f"compare {sweep}", f"export {sweep} --to exported", "ui"):
        say(f"  python -m mnist_sweep {command}")


def discard(folder: Path) -> None:
    """Removes the folder of a sweep that never began, with the empty ones above it."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in list(folder.parents)[:2]:
        try:
            parent.rmdir()
        except OSError:
            return
