"""What is printed when a sweep begins and when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import Column, show
from mnist_sweep.common.text import LONGEST_REASON, format_duration, format_value, one_line, short_names
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.data.images import Images
from mnist_sweep.driver.publish import Published
from mnist_sweep.journal.events import SweepStarted, WinnerTested
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Status

_LEADERS = 10
Say = Callable[[str], None]


def warn_of_fallback(console: Console, images: Images) -> None:
    """Says, if it is so, that the data are not those that were asked for."""
    if images.fallback is not None:
        console.print(
            f" data={images.fallback} CANNOT BE DOWNLOADED: this sweep uses the 5,000 digits of {images.name} instead. "
            "Give data.path=FILE for the real data, or data.fallback=null to make this an error. ",
            style="bold white on red",
            soft_wrap=True,
        )


def announce(say: Say, started: SweepStarted, places: Sequence[str]) -> None:
    """Says what a sweep is about to do, and where."""
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
        say(f"  knows    nothing: no trial of {', '.join(asked)} has a setting of this space, and all objectives")
    say(f"  workers  {', '.join(places)}")


def leaderboard(console: Console, space: Space, results: Ranking) -> None:
    """Prints the best trials."""
    ranking = results.ranked()
    if not ranking:
        return
    several = results.objectives[1:]
    front = set(results.pareto()) if several else set()
    confirmed = {row["trial"]: row for row in results.confirmed.candidates} if results.confirmed else {}
    total = len(ranking)
    # By their new scores where they have some, which may put another first.
    ranking = [*confirmed, *(n for n in ranking if n not in confirmed)][: max(_LEADERS, len(front))]
    leaders = [(n, results.trials[n], results.outcomes[n]) for n in ranking]
    short = short_names([h.name for h in space.hyperparameters])
    spread = any(len(o.scores) > 1 for _, _, o in leaders)
    columns = [
        Column("", [str(rank) for rank in range(1, len(leaders) + 1)], weight=0),
        Column("trial", [f"{n}{' ●' if n in front else ''}" for n, _, _ in leaders], weight=3),
        *(
            Column(end, [format_value(t.values.get(name, "–")) for _, t, _ in leaders], weight=2)
            for name, end in short.items()
        ),
        Column(
            results.objectives[0].name,
            [f"{o.score:.4f}{_plus_minus(o.scores) if spread else ''}" for _, _, o in leaders],
            weight=3,
        ),
        *(
            Column(objective.name, [format_value(o.metrics.get(objective.name, "")) for _, _, o in leaders], weight=3)
            for objective in several
        ),
    ]
    if confirmed:
        cells = [f"{confirmed[n]['mean']:.4f} ± {confirmed[n]['std']:.4f}" if n in confirmed else "" for n in ranking]
        columns.append(Column("on new seeds", cells, weight=3))
    columns += [
        Column("best epoch", [str(o.best_epoch) for _, _, o in leaders], weight=1),
        Column("time", [format_duration(o.seconds) for _, _, o in leaders], weight=1),
    ]
    best = f": the best {len(ranking)} of {total}" if total > len(ranking) else ""
    left_out = show(console, columns, f"Leaderboard{best}")
    if front:
        names = " and ".join(objective.name for objective in results.objectives)
        console.print(f"● no other trial is better in {names} at once (Pareto set)", style="dim", highlight=False)
    if left_out:
        console.print(f"{left_out} more columns fit into a wider terminal.", style="dim")


def _plus_minus(scores: Sequence[float]) -> str:
    import statistics

    return f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""


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
    """Says who won, where everything is, and what to do with it.

    Args:
        say: Prints a line.
        settings: The sweep's.
        folder: Its folder.
        sweep: `name/time`.
        results: What it found.
        tested: The tests of its winners, the last one last.
        published: What it left behind; None where MLflow could not be written.
        reason: Why it ended; "" where the search was at its end.
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
        if published is not None:
            tell_published(say, published)
        return
    say(_winner_line(settings, results, winner))
    for event in tested:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
        say(f"  on the test images: {scores}" if scores else f"  its model cannot be tested: {event.error}")
    say(f"Sweep's folder: {_shown_path(folder)}")
    say(f"MLflow: {masked(settings.tracking.uri)}, experiment {settings.name}")
    if published is not None:
        if published.link is not None:
            local = not settings.tracking.uri.startswith(("http:", "https:"))
            say(f"  {published.link}{' (while python -m mnist_sweep ui runs)' if local else ''}")
        tell_published(say, published)
    say("Next:")
    named = as_argument(sweep, folder)
    commands = {f"sync {named}": "write it into MLflow"} if published is None else _next_commands(named)
    width = max(map(len, commands))
    for command, purpose in commands.items():
        say(f"  python -m mnist_sweep {command:{width}}  # {purpose}")


def tell_published(say: Say, published: Published) -> None:
    """Says what a sweep left behind."""
    if published.report is not None:
        say(f"Report: {_shown_path(published.report)}")
    if published.registered is not None:
        say(f"Model: {published.registered.line}")
    for trouble in published.troubles:
        say(f"{trouble[0].upper()}{trouble[1:]}; everything else is whole.")


def _next_commands(sweep: str) -> dict[str, str]:
    return {
        f"ui {sweep}": "its runs, charts and models in MLflow",
        f"compare {sweep}": "its trials as a table, CSV …",
        f"serve {sweep}": "draw a digit and see what the best model reads",
        f"export {sweep} --to exported": "the best model as files",
    }


def as_argument(sweep: str, folder: Path) -> str:
    """What every command finds a sweep by: its name, or its folder where that is another than `experiments/` has."""
    return sweep if folder.absolute() == (SWEEPS / sweep).absolute() else str(_shown_path(folder))


def _shown_path(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _winner_line(settings: Settings, results: Ranking, winner: int) -> str:
    name, confirmed = settings.objective.name, results.confirmed
    if confirmed is None:
        return f"Winner: trial {winner}, {name} {results.outcomes[winner].score:.4f}"
    first = confirmed.candidates[0]
    count = len(first["scores"])
    line = f"Winner: trial {winner}, {name} {first['mean']:.4f} ± {first['std']:.4f} on {count} new seeds"
    if len(confirmed.candidates) > 1:
        second = confirmed.candidates[1]
        line += f"; {abs(first['mean'] - second['mean']):.4f} better than trial {second['trial']}"
        if confirmed.p_value is not None:
            verdict = "" if confirmed.p_value < 0.05 else ": these seeds do not tell them apart"
            line += f" (paired t-test, p = {confirmed.p_value:.2g}{verdict})"
    return line
