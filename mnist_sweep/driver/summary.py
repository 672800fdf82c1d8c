"""What the terminal shows when a sweep starts and when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import Column, show
from mnist_sweep.common.text import LONGEST_REASON, alike, one_line
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
# Different reasons for which trials failed.
_MOST_FAILURES = 5
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


def announce(say: Say, started: SweepStarted, places: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Prints what a sweep is about to do, on which workers, and what the user may want to know about it."""
    about = started.data
    if (retrains := started.retrains) is None:
        say(f"Sweep {started.sweep}")
    else:
        say(f"Retraining trial {retrains.trial} of {retrains.sweep}: {started.sweep}")
    say(
        f"  data     {about['name']}: {about['training_images']:,} training, {about['validation_images']:,} validation "
        f"and {about['test_images']:,} test images of {about['image']}, {about['classes']} classes"
    )
    for i, (name, domain) in enumerate(started.space.items()):
        say(f"  {'search' if i == 0 else '':8} {one_line(name)} = {one_line(domain)}")
    if retrains is not None:
        for i, (name, value) in enumerate((retrains.changed or {"nothing": ""}).items()):
            say(f"  {'' if i else 'changed':8} {one_line(name)}{f' = {one_line(value)}' if value else ''}")
    elif not started.space:
        say("  search   nothing: one run")
    for note in notes:
        say(f"           {one_line(note)}")
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
    for status in (Status.STOPPED, Status.DIVERGED):
        if count := ended.count(status):
            say(f"{count} trial{'s' if count > 1 else ''} {status}.")
    winner, failures = results.winner(), _failures(results)
    if winner is None and len(results.outcomes) == 1:
        (only,) = results.outcomes.values()
        reason, failures = only.reason or reason, []
    for line in failures:
        say(line)
    if " in a row " in reason:
        # What comes after it was said above.
        say(f"The search has ended early: {reason.partition(': ')[0]}.")
    if winner is None:
        # The reason of a sweep whose trials have all failed is theirs.
        why = "" if failures else f": {one_line(reason, LONGEST_REASON)}"
        say(f"No trial has a result{why}.")
        say(f"The workers' output is in {folder / 'workers'}.")
        if published is not None:
            tell_published(say, published)
        return
    say(f"Winner: trial {winner}, {verdict(results)}")
    for event in tested:
        scores = metrics_text(event.metrics)
        say(f"  on the test images: {scores}" if scores else f"  its model cannot be tested: {event.error}")
    if not tested:
        say("  not tested on the test images, which the sweep's winner has used; retrain --test tests it")
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
    width = max(map(len, commands))
    for command, purpose in commands.items():
        say(f"  python -m mnist_sweep {command:{width}}  # {purpose}")


def _failures(results: Ranking) -> list[str]:
    """Returns a line for each group of trials that failed, or were refused, alike; the largest first."""
    groups: dict[tuple[Status, str], list[str]] = {}
    for outcome in results.outcomes.values():
        if outcome.status in (Status.FAILED, Status.REFUSED):
            groups.setdefault((outcome.status, alike(outcome.reason)), []).append(outcome.reason)
    lines = []
    for (status, _), reasons in sorted(groups.items(), key=lambda group: -len(group[1])):
        count = f"{len(reasons)} trials {status} alike" if len(reasons) > 1 else f"1 trial {status}"
        reason = one_line(reasons[0], LONGEST_REASON)
        lines.append(f"{count}: {reason}{'' if reason.endswith(('.', '?', '!', '…')) else '.'}")
    more = f"{len(lines) - _MOST_FAILURES} more reasons for which trials failed are in the report and in MLflow."
    return lines if len(lines) <= _MOST_FAILURES + 1 else [*lines[:_MOST_FAILURES], more]


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
