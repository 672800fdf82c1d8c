"""Puts one sweep together from its config, runs it, and says what came out."""

from __future__ import annotations

import contextlib
import functools
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from mnist_sweep import search
from mnist_sweep.common import termination
from mnist_sweep.common.clock import SteadyClock
from mnist_sweep.common.errors import MachineError, UserError, machine_fault, writing_to
from mnist_sweep.common.files import make_folder, write_whole
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line
from mnist_sweep.common.versions import versions
from mnist_sweep.config import backend, hypermodel
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import TrialConfig, check_shape
from mnist_sweep.data import images as data
from mnist_sweep.driver import summary, warm_start
from mnist_sweep.driver.logs import log_to
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.driver.progress import Progress, Screen
from mnist_sweep.driver.publish import prepare as prepare_to_publish
from mnist_sweep.driver.publish import publish
from mnist_sweep.journal.folders import ARRAYS, WORKERS, tidy
from mnist_sweep.journal.journal import Journal, elsewhere, find, read
from mnist_sweep.journal.trial import Event, SweepEnded, SweepResumed, SweepStarted, TrialStarted, WinnerTested
from mnist_sweep.search import stopping
from mnist_sweep.search.in_thread import Aside
from mnist_sweep.tracking.store import absolute, as_kept_in, below
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.workers import sharing
from mnist_sweep.workers.devices import Slot, slots
from mnist_sweep.workers.local import LocalWorkers

# For as many builds of a user's hypermodel as it takes to know its space.
_DISCOVERY_SECONDS = 1800
# Of these the figures of a trial depend, to the last digit.
_SAME_VERSIONS = ("tensorflow", "keras", "numpy", "jax")


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
    search.check(settings, space)
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
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with Journal(folder, resume=resume) as journal, contextlib.ExitStack() as cleanup:
        log_to(folder)
        # In the sweep's folder, so that a killed driver leaves nothing that its resumption does not use again.
        arrays = folder / ARRAYS
        cleanup.callback(tidy, folder)
        clock = SteadyClock()
        # Before the data, as they take seconds to start; what is found wrong below ends them.
        own_code = own is not None or settings.trial["model"].get("builder") is not None
        workers = LocalWorkers(
            places,
            None,
            folder / WORKERS,
            settings.workers.recycle_after,
            own_code=own_code,
            backend=backend.of(settings.trial),
        )
        pool.callback(workers.close)
        past = list(read(folder)) if resume else []
        if past:
            _same_versions(past, folder, backend.of(settings.trial), other_versions, say)
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
            raise UserError(f"{arrays}: cannot be written ({error.strerror or error})") from error
        workers.set_up(arrays)
        if own is not None:
            say(f"Asking {own} what it searches …")
            found = hypermodel.expand(settings.trial, hypermodel.discover(workers, own, _DISCOVERY_SECONDS))
            settings, space, corners = prepare(config, found)
            baseline = found.baseline(baseline)
        if past:
            started = first_event(past, folder)
            _same_data(images, started, folder)
            _same_devices(places, past, folder)
            _same_space(space, started, folder)
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
                enqueued=warm_start.enqueued(settings, space, baseline),
                earlier=warm_start.earlier(
                    settings, space, images.digest(), functools.partial(find, wanted_by="search.warm_start")
                ),
            )
        summary.announce(say, started, [place.name for place in places])
        aside = Aside(lambda: search.create(settings, space, started.enqueued, started.earlier))
        cleanup.callback(aside.close)
        tracker = Tracker(settings, folder)
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

        rule = stopping.create(settings)
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
        with _signals(sweep, console):
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


def first_event(events: Sequence[Event], folder: Path) -> SweepStarted:
    """The start of a sweep, whose first event it must be.

    Raises:
        UserError: It is not.
    """
    if not events or not isinstance(events[0], SweepStarted):
        raise UserError(f"{folder}: its journal does not begin with the sweep's start; there is nothing to continue")
    return events[0]


def _same_data(images: data.Images, started: SweepStarted, folder: Path) -> None:
    if images.digest() != started.data["digest"]:
        raise UserError(
            f"{folder}: began on {started.data['name']} ({started.data['digest']}), but data={images.name} now is "
            f"another ({images.digest()}); a sweep's trials are compared on the same data"
        )


def _same_devices(places: Sequence[Slot], past: Sequence[Event], folder: Path) -> None:
    on_gpu = any(isinstance(event, TrialStarted) and event.slot.startswith("gpu") for event in past)
    if on_gpu and all(place.gpu is None for place in places):
        raise UserError(
            f"{folder}: ran on a GPU, and none is visible now (nvidia-smi, CUDA_VISIBLE_DEVICES); on the CPU its "
            "metrics would be others"
        )


def _same_versions(past: Sequence[Event], folder: Path, backend: str, allowed: bool, say: summary.Say) -> None:
    """Says, and unless it is allowed refuses, that what trains is not what trained the trials so far."""
    then = [e.versions for e in past if isinstance(e, SweepStarted | SweepResumed) and e.versions][-1:]
    now = versions()
    names = [name for name in _SAME_VERSIONS if name != "jax" or backend == "jax"]
    changed = [(n, then[0][n], now.get(n, "none")) for n in names if then and n in then[0] and then[0][n] != now.get(n)]
    if not changed:
        return
    told = ", ".join(f"{name} {before} (now {after})" for name, before, after in changed)
    if not allowed:
        raise UserError(
            f"{folder}: its trials were trained with {told}, which may give other figures; install those versions, or "
            f"add --other-versions: python -m mnist_sweep resume {folder} --other-versions"
        )
    say(f"Other versions than before, which may give other figures: {told}.")


def _same_space(space: Space, started: SweepStarted, folder: Path) -> None:
    now = space.describe()
    changed = [name for name in {**started.space, **now} if started.space.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise UserError(
            f"{folder}: began with {name} = {started.space.get(name)}, which now is {now.get(name)}; "
            "undo the change of the model's code, or begin a new sweep"
        )


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


@contextmanager
def _signals(sweep: Sweep, console: Console) -> Iterator[None]:
    """Ctrl-C once, or SIGTERM, lets the running epochs end; Ctrl-C twice ends at once. Both can be resumed."""
    # A terminal that is closed sends SIGHUP, a cluster's pre-emption SIGTERM.
    kinds = (signal.SIGINT, *termination.ends())

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
