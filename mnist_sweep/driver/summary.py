"""What the terminal shows when a sweep starts and when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from mnist_sweep.common.invocation import command
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import Column, show
from mnist_sweep.common.text import LONGEST_REASON, one_line
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.data.images import Images
from mnist_sweep.driver.publish import Published
from mnist_sweep.journal.events import SweepStarted, WinnerTested
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.leaderboard import MARK, Kind, metrics_text, verdict
from mnist_sweep.journal.leaderboard import leaderboard as make_leaderboard
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Status

_LEADERS = 10
# The columns of the leaderboard; in a narrow terminal, those with the lowest weight are left out first.
_WEIGHTS: dict[Kind, int] = {
    "rank": 0,
    "trial": 3,
    "hyperparameter": 2,
    "score": 3,
    "retrained": 3,
    "best epoch": 1,
    "time": 1,
}
Say = Callable[[str], None]


def warn_of_fallback(console: Console, images: Images) -> None:
    """Warns if other data than the requested ones are used."""
    if images.fallback is not None:
        console.print(
            f" data={images.fallback} CANNOT BE DOWNLOADED: this sweep uses the 5,000 digits of {images.name} instead. "
            "Give data.path=FILE for the real data, or data.fallback=null to make this an error. ",
            style="bold white on red",
            soft_wrap=True,
        )


def announce(say: Say, started: SweepStarted, places: Sequence[str]) -> None:
    """Prints what a sweep is about to do, and on which workers."""
    about = started.data
    say(f"Sweep {started.sweep}")
    say(
        f"  data     {about['name']}: {about['training_images']:,} training, {about['validation_images']:,} validation "
        f"and {about['test_images']:,} test images of {about['image']}, {about['classes']} classes"
    )
    for i, (name, domain) in enumerate(started.space.items()):
        say(f"  {'search' if i == 0 else '':8} {one_line(name)} = {one_line(domain)}")
    if not started.space:
        say("  search   nothing: one run")
    if started.earlier:
        sweeps = ", ".join(sorted({str(trial["sweep"]) for trial in started.earlier}))
        say(f"  knows    {len(started.earlier)} trials of {sweeps}")
    elif asked := started.config["search"].get("warm_start"):
        say(f"  knows    nothing: no trial of {', '.join(asked)} fits this space and has all objectives")
    say(f"  workers  {', '.join(places)}")


def leaderboard(console: Console, space: Space, results: Ranking) -> None:
    """Prints the best trials, including the full Pareto front if there are several objectives."""
    board = make_leaderboard(results, [hyperparameter.name for hyperparameter in space.hyperparameters])
    front = sum(row.on_front for row in board.rows)
    board = board.best(max(_LEADERS, front))
    if not board.rows:
        return
    columns = [Column(c.heading, c.cells, _WEIGHTS[c.kind]) for c in board.columns() if c.kind in _WEIGHTS]
    left_out = show(console, columns, board.title)
    if front:
        names = " and ".join(objective.name for objective in results.objectives)
        note = f"{MARK} on the Pareto front: no other trial is at least as good in {names} and better in one"
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    if left_out:
        console.print(f"{left_out} more columns fit into a wider terminal.", style="dim")


def next_steps(
    say: Say,
    settings: Settings,
    folder: Path,
    sweep: str,
    results: Ranking,
    tested: Sequence[WinnerTested],
    published: Published | None,
    reason: str,
) -> None:
    """Prints which trial won, where the results are, and what to do next.

    Args:
        say: Prints a line.
        settings: The sweep's settings.
        folder: The sweep's folder.
        sweep: `name/time`.
        results: The sweep's trials and their outcomes.
        tested: The tests of the winner, the latest one last.
        published: The report and the registered model; None if writing to MLflow failed.
        reason: Why the sweep ended; "" if the search was complete.
    """
    ended = [outcome.status for outcome in results.outcomes.values()]
    for status in (Status.STOPPED, Status.FAILED, Status.REFUSED):
        if count := ended.count(status):
            say(f"{count} trial{'s' if count > 1 else ''} {status}.")
    winner = results.winner()
    if winner is None:
        reasons = {outcome.reason for outcome in results.outcomes.values() if outcome.reason}
        say(f"No trial has a result: {one_line(min(reasons, default=reason), LONGEST_REASON)}.")
        say(f"The workers' output is in {folder / 'workers'}.")
        if ended:
            again = command(f"resume --retry-failed {as_argument(sweep, folder)}")
            say(f"To train the trials again, after mending the cause: {again}")
        if published is not None:
            tell_published(say, published)
        return
    say(f"Winner: trial {winner}, {verdict(results)}")
    for event in tested:
        scores = metrics_text(event.metrics)
        say(f"  on the test images: {scores}" if scores else f"  its model cannot be tested: {event.error}")
    say(f"Sweep folder: {_shown_path(folder)}")
    say(f"MLflow: {masked(settings.tracking.uri)}, experiment {settings.name}")
    if published is not None:
        if published.link is not None:
            local = not settings.tracking.uri.startswith(("http:", "https:"))
            say(f"  {published.link}{' (while python -m mnist_sweep ui runs)' if local else ''}")
        tell_published(say, published)
    say("Next:")
    named = as_argument(sweep, folder)
    commands = {f"sync {named}": "write it to MLflow"} if published is None else _next_commands(named)
    if Status.FAILED in ended:
        commands[f"resume --retry-failed {named}"] = "train the failed trials again, after mending what failed"
    width = max(map(len, commands))
    for arguments, purpose in commands.items():
        say(f"  python -m mnist_sweep {arguments:{width}}  # {purpose}")


def tell_published(say: Say, published: Published) -> None:
    """Prints where the report and the registered model are, and what went wrong with them."""
    if published.report is not None:
        say(f"Report: {_shown_path(published.report)}")
    if published.registered is not None:
        say(f"Model: {published.registered.line}")
    for trouble in published.troubles:
        say(f"{trouble[0].upper()}{trouble[1:]}; everything else is complete.")


def _next_commands(sweep: str) -> dict[str, str]:
    return {
        f"ui {sweep}": "its runs, charts and models in MLflow",
        f"compare {sweep}": "its trials as a table, CSV …",
        f"serve {sweep}": "draw a digit and see what the best model predicts",
        f"export {sweep} --to exported": "the best model as files",
    }


def as_argument(sweep: str, folder: Path) -> str:
    """Returns what commands find a sweep by: its name, or its folder if that is outside `experiments/`."""
    return sweep if folder.absolute() == (SWEEPS / sweep).absolute() else str(_shown_path(folder))


def _shown_path(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
