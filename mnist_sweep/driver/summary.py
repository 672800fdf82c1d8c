"""What the terminal shows when a sweep starts and when it has ended."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mnist_sweep.common import invocation
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import LONGEST_LINE, Column, show
from mnist_sweep.common.text import LONGEST_REASON, counted, flat, format_setting, one_line
from mnist_sweep.config import backend
from mnist_sweep.config.augment import used
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.space import Space
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.schema import how_to_try, in_words
from mnist_sweep.driver.publish import Published
from mnist_sweep.journal.events import SweepStarted, WinnerTested
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.last_run import LastRun
from mnist_sweep.journal.leaderboard import MARK, Kind, metrics_text, most_frequent_mistake, verdict
from mnist_sweep.journal.leaderboard import leaderboard as make_leaderboard
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import WITHOUT_RESULT, Status
from mnist_sweep.tracking.uri import is_server

_LEADERS = 10
# Keys that differ from the last run.
_MOST_CHANGES = 20
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
# Trials with a result that did not train to their end.
_ENDED_EARLY = {Status.STOPPED: "{was} stopped early", Status.DIVERGED: "diverged"}
Say = Callable[[str], None]


def warn_of_fallback(console: Console, data: LoadedData) -> None:
    """Warns if other data than the requested ones are used."""
    if data.fallback is not None:
        console.print(
            f" data={data.fallback} CANNOT BE DOWNLOADED: this sweep uses the 5,000 digits of {data.name} instead. "
            "Give data.path=FILE for the real data, or data.fallback=null to make this an error. ",
            style="bold white on red",
            soft_wrap=True,
        )


def announce(
    say: Say,
    started: SweepStarted,
    places: Sequence[str],
    notes: Sequence[str] = (),
    width: int = LONGEST_LINE,
) -> None:
    """Prints what a sweep is about to do, and on which workers.

    Args:
        say: Prints a line.
        started: The sweep's first event.
        places: The names of its slots.
        notes: What else the user may want to know about it.
        width: The most characters in a line.
    """
    about, width = started.data, min(width, LONGEST_LINE)
    if (retrains := started.retrains) is None:
        say(f"{'Sweep' if started.space else 'Run'} {started.sweep}")
    else:
        say(f"Retraining trial {retrains.trial} of {retrains.sweep}: {started.sweep}")
    say(f"  data     {about['name']}: {in_words(about)}")
    if "task" in started.config:
        say(f"  task     {started.config['task']['kind']}")
    for i, (name, domain) in enumerate(started.space.items()):
        say(f"  {'search' if i == 0 else '':9}{one_line(f'{name} = {domain}', LONGEST_LINE - 11)}")
    if retrains is not None:
        for i, (name, value) in enumerate((retrains.changed or {"nothing": ""}).items()):
            say(f"  {'' if i else 'changed':8} {one_line(name)}{f' = {one_line(value)}' if value else ''}")
    elif not started.space:
        _tell_settings(say, _used({group: started.config.get(group, {}) for group in TRIAL_GROUPS}), width)
    for note in notes:
        say(f"           {one_line(note)}")
    if started.earlier:
        sweeps = ", ".join(sorted({str(trial["sweep"]) for trial in started.earlier}))
        say(f"  learns   from {counted(len(started.earlier), 'trial')} of {one_line(sweeps, LONGEST_LINE - 35)}")
    elif asked := started.config["search"].get("warm_start"):
        say(f"  learns   nothing: no trial of {', '.join(asked)} fits this space and has all objectives")
    say(f"  backend  {backend.of(started.config)}")
    shown = ", ".join(places)
    say(f"  workers  {shown if len(shown) < LONGEST_LINE // 2 else f'{len(places)}: {places[0]} … {places[-1]}'}")


def _used(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the groups of a config without what a hypermodel replaces, and without augmentation if it is off."""
    if not used(groups["augment"]):
        groups = {**groups, "augment": {}}
    model = groups["model"]
    if model.get("hypermodel") is None:
        return groups
    own = {key: model.get(key) for key in ("hypermodel", "values")}
    return {**groups, "model": own, "optimizer": {}}


def _tell_settings(say: Say, groups: Mapping[str, Any], width: int) -> None:
    """Prints groups of the config as they are written on the command line, without the keys that are not set."""
    keys = {key: value for key, value in flat(groups).items() if value is not None and value not in ([], {})}
    # A line must not break at the blanks in a value.
    text = " ".join(f"{key}={format_setting(value)}".replace(" ", "\0") for key, value in keys.items())
    lines = textwrap.wrap(text, max(20, width - 11), break_on_hyphens=False, break_long_words=False)
    for i, line in enumerate(lines):
        say(f"  {'settings' if i == 0 else '':9}{line}".replace("\0", " "))


def leaderboard(console: Console, space: Space, results: Ranking) -> None:
    """Prints the best trials, including the full Pareto front if there are several objectives; nothing for one run."""
    if not space.hyperparameters:
        return
    board = make_leaderboard(results, [hyperparameter.name for hyperparameter in space.hyperparameters])
    front = sum(row.on_front for row in board.rows)
    board = board.best(max(_LEADERS, front))
    if not board.rows:
        return
    found = [column for column in board.columns() if column.kind in _WEIGHTS]
    # The hyperparameters in which the trials do not differ are left out first.
    same = [c.kind == "hyperparameter" and len(c.values) > 1 and len(set(c.cells)) == 1 for c in found]
    columns = [
        Column(c.heading, c.cells, -1 if alike else _WEIGHTS[c.kind]) for c, alike in zip(found, same, strict=True)
    ]
    left_out = show(console, columns, board.title)
    if front:
        names = " and ".join(objective.name for objective in results.objectives)
        note = f"{MARK} on the Pareto front: no other trial is at least as good in {names} and better in one"
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    if left_out:
        note = f"Not shown in {console.width} columns: {', '.join(left_out)}. `compare --columns` shows any column."
        console.print(note, style="dim", highlight=False, markup=False)


def next_steps(
    say: Say,
    settings: Settings,
    folder: Path,
    sweep: str,
    results: Ranking,
    tested: Sequence[WinnerTested],
    published: Published | None,
    reason: str,
    *,
    single: bool = False,
    last: LastRun | None = None,
    retrains: str = "",
    data: Mapping[str, Any] | None = None,
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
        single: Whether nothing was searched, so that there is one trial, apart from those that retrain it.
        last: How a single run differs from the last one; None if there is nothing to compare it with.
        retrains: The sweep whose trial a single run retrains; "" if it retrains none.
        data: What the journal says about the data; None if that is unknown.
    """
    data = data or {}
    ended = [outcome.status for outcome in results.outcomes.values()]
    for status in _ENDED_EARLY:
        if (count := ended.count(status)) and not (single and len(ended) == 1):
            say(f"{counted(count, 'trial')} {_ENDED_EARLY[status].format(was='was' if count == 1 else 'were')}.")
    winner, failures = results.winner(), _failures(results)
    if winner is None and len(results.outcomes) == 1:
        (only,) = results.outcomes.values()
        reason, failures = only.reason or reason, []
    for line in failures:
        say(line)
    if " in a row " in reason:
        # What comes after it was said above.
        say(f"The search has ended early: {reason.partition(': ')[0]}.")
    elif reason and winner is not None:
        say(f"The {'run' if single else 'search'} has ended: {one_line(reason, LONGEST_REASON)}.")
    if winner is None:
        # The reason of a sweep whose trials have all failed is theirs.
        why = "" if failures else f": {one_line(reason, LONGEST_REASON)}"
        say(f"{'The run has no result' if single else 'No trial has a result'}{why}.")
        say(f"The workers' output is in {folder / 'workers'}.")
        if any(outcome.failed for outcome in results.outcomes.values()):
            which = "it" if single else "the trials"
            again = invocation.command(f"resume --retry-failed {as_argument(sweep, folder)}")
            say(f"To train {which} again with the same values, after correcting the cause: {again}")
        if published is not None:
            tell_published(say, published)
        return
    at = "" if results.confirmed else f" at epoch {results.outcomes[winner].best_epoch}"
    say(f"Result: {verdict(results)}{at}" if single else f"Winner: trial {winner}, {verdict(results)}")
    for event in tested:
        scores = metrics_text(event.metrics)
        say(f"  on the test data: {scores}" if scores else f"  its model cannot be tested: {event.error}")
        if mistake := most_frequent_mistake(event.confusion, data.get("names", ())):
            say(f"  most frequent mistake: {mistake}")
    if not tested and not retrains:
        say("  not tested, as the data have no test part")
    elif not tested:
        say("  not tested on the test data, which the sweep's winner has used; retrain --test tests it")
    if last is not None:
        _tell_last_run(say, last)
    say(f"{'Folder' if single else 'Sweep folder'}: {_shown_path(folder)}")
    has_link = published is not None and published.link is not None
    needs_ui = has_link and not is_server(settings.tracking.uri)
    shown = f", shown while {invocation.command('ui')} runs" if needs_ui else ""
    say(f"MLflow: {masked(settings.tracking.uri)}, experiment {settings.name}{shown}")
    if published is not None:
        if published.link is not None:
            say(f"  {published.link}")
        tell_published(say, published)
    say("Next:")
    named = as_argument(sweep, folder)
    commands = (
        {f"sync {named}": "write it to MLflow"}
        if published is None
        else _next_commands(named, sweep.partition("/")[0] if single else None, retrains, how_to_try(data))
    )
    if any(outcome.failed for outcome in results.outcomes.values()):
        commands[f"resume --retry-failed {named}"] = "train the failed trials again with the same values"
    lines = {invocation.command(command): purpose for command, purpose in commands.items()}
    width = max(map(len, lines))
    for line, purpose in lines.items():
        say(f"  {line:{width}}  # {purpose}")


def _failures(results: Ranking) -> list[str]:
    """Returns a line for each group of trials that failed, or were refused, alike; the largest first."""
    groups: dict[tuple[Status, str], list[str]] = {}
    for outcome in results.outcomes.values():
        if outcome.status in WITHOUT_RESULT:
            groups.setdefault(outcome.cause, []).append(outcome.reason)
    lines = []
    for (status, _), reasons in sorted(groups.items(), key=lambda group: -len(group[1])):
        count = f"{counted(len(reasons), 'trial')} {status}{' alike' if len(reasons) > 1 else ''}"
        reason = one_line(reasons[0], LONGEST_REASON)
        lines.append(f"{count}: {reason}{'' if reason.endswith(('.', '?', '!', '…')) else '.'}")
    more = counted(len(lines) - _MOST_FAILURES, "more reason")
    more += " for which trials failed are in the report and in MLflow."
    return lines if len(lines) <= _MOST_FAILURES + 1 else [*lines[:_MOST_FAILURES], more]


def tell_published(say: Say, published: Published) -> None:
    """Prints where the report and the registered model are, and what went wrong with them."""
    if published.report is not None:
        say(f"Report: {_shown_path(published.report)}")
    if published.registered is not None:
        say(f"Model: {published.registered.line}")
    for trouble in published.troubles:
        say(f"{trouble[0].upper()}{trouble[1:]}; everything else is complete.")


def _tell_last_run(say: Say, last: LastRun) -> None:
    """Prints what differs from the last run, and what that did."""
    data = ", on other data, so that the results cannot be compared" if last.other_data else ""
    say(f"{'Compared with' if last.settings else 'Nothing was changed since'} the last run, {last.run}{data}:")
    shown, more = last.settings[:_MOST_CHANGES], last.settings[_MOST_CHANGES:]
    changes = [*shown, *last.results]
    width = max(len(change.name) for change in changes)
    for change in shown:
        say(f"  {one_line(change.name):{width}}  {change.before} → {change.now}")
    if more:
        say(f"  and {counted(len(more), 'other key')} of the config")
    for change in last.results:
        say(f"  {one_line(change.name):{width}}  {change.before} → {change.now}")


def _next_commands(sweep: str, single_of: str | None, retrains: str, attempt: str | None) -> dict[str, str]:
    """The commands on a sweep, or on a single run of an experiment, with what they do."""
    compare = {f"compare {sweep}": "its trials as a table, CSV …"}
    if retrains:
        compare = {f"compare {shlex.quote(retrains)} {sweep}": "the trials of its sweep and this one as a table, CSV …"}
    elif single_of is not None:
        compare = {f"compare {single_of} --all": f"all runs of {single_of} as a table, CSV …"}
    model = "best model" if single_of is None else "model"
    return {
        f"ui {sweep}": f"its {'runs, charts and models' if single_of is None else 'charts and model'} in MLflow",
        **compare,
        **({f"serve {sweep}": f"{attempt} and see what the {model} predicts"} if attempt else {}),
        f"export {sweep} --to exported": f"the {model} as files",
    }


def as_argument(sweep: str, folder: Path) -> str:
    """Returns how to write a sweep in a command: its name, or its folder if that is outside `experiments/`."""
    return shlex.quote(sweep if folder.absolute() == (SWEEPS / sweep).absolute() else str(_shown_path(folder)))


def _shown_path(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
