"""The names of a sweep's runs in MLflow, and their descriptions in Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mnist_sweep.common.tables import Column, markdown
from mnist_sweep.common.text import counted, short_names, spaced
from mnist_sweep.config.settings import Settings
from mnist_sweep.data.schema import in_words
from mnist_sweep.journal import steering
from mnist_sweep.journal.events import Steered, SweepEnded, SweepStarted, WinnerTested
from mnist_sweep.journal.last_run import LastRun
from mnist_sweep.journal.leaderboard import Kind, leaderboard, metrics_text, verdict
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Outcome, Status, Trial

# MLflow silently cuts longer texts.
_LONGEST = 8000
_LONGEST_NAME = 60
_LEADERS = 10
_CHANGES = 10
# The columns of the leaderboard after its hyperparameters.
_RESULTS: tuple[Kind, ...] = ("score", "retrained", "time")
# Hyperparameters that are counted, and short names for others.
_COUNTED = {"layers": "layer", "units": "unit", "filters": "filter"}
_SHORT = {"learning_rate": "lr", "batch_size": "batch", "batch_normalization": "batch norm", "weight_decay": "decay"}


def sweep_name(sweep: str) -> str:
    """Returns the name of a sweep's run: `quick 2026-11-23 05:32`.

    Args:
        sweep: `name/time`, or `name/time/number` for one of several.
    """
    name, _, tail = sweep.partition("/")
    date, _, more = tail.partition("/")
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-\d\d(.*)", date)
    when = f"{found[1]} {found[2]}:{found[3]}{found[4]}" if found else date
    return " ".join(filter(None, (name, when, more and f"#{more}")))


def run_name(started: SweepStarted) -> str:
    """Returns the name of the run of a sweep, as `sweep_name`; or of one that retrains a trial."""
    if (retrains := started.retrains) is None:
        return sweep_name(started.sweep)
    return f"{sweep_name(retrains.sweep)} trial {retrains.trial} retrained"


def trial_name(trial: Trial) -> str:
    """Returns the name of a trial's run, at most 60 characters: `trial 7: 2 layers, 128 units, adam`.

    Args:
        trial: The trial. Hyperparameters that do not fit are left out.
    """
    name = f"trial {trial.number}"
    if trial.confirms is not None:
        return f"{name}: trial {trial.confirms} with seed {trial.config['training']['seed']}"
    separator = ": "
    for part in _parts(trial.values):
        if len(name) + len(separator) + len(part) <= _LONGEST_NAME:
            name, separator = f"{name}{separator}{part}", ", "
    return name


def _parts(values: Mapping[str, Any]) -> list[str]:
    """Each hyperparameter in a word or two, the most informative first; those of all layers are one part."""
    found: dict[str, list[Any]] = {}
    for key, value in values.items():
        stem, _, last = key.rpartition(".")
        found.setdefault(stem if last.isdigit() else key, []).append(value)
    for key in [key for key in found if key.rpartition(".")[2] == "layers"]:
        group = key.rpartition(".")[0]
        if any(f"{group}.{width}.1" in values for width in ("units", "filters")):
            # The number of widths is the number of layers.
            del found[key]
    parts = [_part(key, short, found[key]) for key, short in short_names(list(found)).items()]
    return [text for _, text in sorted(parts, key=lambda part: part[0]) if text]


def _part(key: str, short: str, values: list[Any]) -> tuple[int, str]:
    """A hyperparameter's place among the parts, and its text."""
    *group, last = short.split(".")
    before = "".join(f"{word} " for word in group if word != "model")
    if len(set(map(str, values))) == 1 and last not in _COUNTED:
        values = values[:1]
    text = "-".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)
    if last in _COUNTED:
        return 0, f"{text} {before}{_COUNTED[last]}{'' if text == '1' else 's'}"
    if key.endswith((".name", ".activation", ".kind")):
        return 1, before + text
    word = before + _SHORT.get(last, spaced(last))
    if isinstance(values[0], bool) and len(values) == 1:
        return 3, word if values[0] else ""
    return 2 if last == "learning_rate" else 3, f"{word} {text}"


def trial_note(trial: Trial, outcome: Outcome, tested: WinnerTested | None) -> str:
    """Returns a trial's description; empty if there is nothing to add to its metrics.

    Args:
        trial: The trial.
        outcome: Its outcome.
        tested: The result on the test images, if its model is the sweep's.
    """
    lines = []
    if tested is not None:
        scores = tested.error or metrics_text(tested.metrics)
        lines.append(f"**The sweep's model.** On the test data: {scores}.")
    if trial.confirms is not None:
        lines.append(f"Retrains trial {trial.confirms} on a new seed.")
    if trial.added_by:
        lines.append(f"Added by {trial.added_by} while the sweep ran.")
    if trial.parent is not None:
        lines.append(f"Continues from the weights of trial {trial.parent}, after epoch {trial.initial_epoch}.")
    if outcome.reason:
        ended = outcome.status in (Status.COMPLETED, Status.DIVERGED)
        how = "Ended" if ended else str(outcome.status).capitalize()
        lines.append(f"{how}: {outcome.reason}.")
    return "\n\n".join(lines)


def opening(settings: Settings, *, single: bool = False) -> str:
    """Returns the user's description, or a default one."""
    return settings.description or f"A {'single run' if single else 'sweep'} of {settings.name}."


def progress_note(settings: Settings, state: SweepState) -> str:
    """Returns the description of a running sweep.

    Args:
        settings: The sweep's settings.
        state: Its state.
    """
    results = state.results
    if state.single:
        return f"{opening(settings, single=True)}\n\n**Running**."
    most, count = state.config.get("search", {}).get("max_trials", settings.search.max_trials), _count(results)
    ended = counted(count, "trial") if most is None else f"{count:,} of {counted(most, 'trial')}"
    lines = [opening(settings), f"**Running**: {ended} {'has' if (most or count) == 1 else 'have'} ended."]
    if state.paused:
        lines.append("**Paused**: no trial starts until the sweep is continued.")
    if text := verdict(results):
        lines.append(f"Best so far: trial {results.winner()}, {text}.")
    return "\n\n".join([*lines, *_steered(state.steered)])


def sweep_note(
    settings: Settings,
    started: SweepStarted,
    results: Ranking,
    tested: WinnerTested | None,
    ended: SweepEnded,
    last: LastRun | None = None,
    steered: Sequence[Steered] = (),
) -> str:
    """Returns the description of a sweep that has ended, at most 8,000 characters.

    Args:
        settings: The sweep's settings.
        started: Its first event.
        results: Its trials and outcomes.
        tested: The winner's result on the test images; None if there is none.
        ended: Its last event.
        last: How a single run differs from the last one; None if there is nothing to compare it with.
        steered: What users changed while it ran.
    """
    sweep, data, single = started.sweep, _data(started.data), not started.space
    named = shlex.quote(sweep)
    commands = [f"resume {named}"]
    if ended.status is not Status.STOPPED:
        commands = [f"compare {named}", f"export {named} --to exported", f"ui {named}"]
    next_steps = "\n".join(
        ["### Next", "", "```", *(f"python -m mnist_sweep {command}" for command in commands), "```"]
    )
    result = _result(results, tested, ended, single=single)
    first = opening(settings, single=single)
    for leaders in range(_LEADERS, -1, -1):
        found = _last_run(last) if single else f"{_leaderboard(results, leaders)}\n\n{_searched(started.space)}".strip()
        parts = [first, result, found, *_steered(steered), data, next_steps]
        note = "\n\n".join(filter(None, parts))
        if len(note) <= _LONGEST:
            return note
    return "\n\n".join([result, data, next_steps])[:_LONGEST]


def _result(results: Ranking, tested: WinnerTested | None, ended: SweepEnded, *, single: bool) -> str:
    winner, confirmed, count = results.winner(), results.confirmed, _count(results)
    if ended.status is Status.STOPPED:
        trials = "" if single else f" {counted(count, 'trial')} {'has' if count == 1 else 'have'} ended."
        return f"**Interrupted**: {ended.reason}.{trials}"
    if winner is None:
        reasons = sorted({outcome.reason for outcome in results.outcomes.values() if outcome.reason})
        what = "The run has no result" if single else "No trial has a result"
        return f"**{what}**{': ' + reasons[0] if reasons else ''}."
    text = f"**Result**: {verdict(results)}" if single else f"**Winner: trial {winner}**, {verdict(results)}"
    if single and confirmed is None:
        text += f" at epoch {results.outcomes[winner].best_epoch}"
    if tested is not None and tested.metrics:
        text += f"; on the test data: {metrics_text(tested.metrics)}"
    model = "" if confirmed is None else f" Its model is that of trial {confirmed.model}."
    what = "run" if single else "sweep"
    return f"{text}.{model}" + (f" The {what} ended because {ended.reason}." if ended.reason else "")


def _count(results: Ranking) -> int:
    return sum(results.trials[n].confirms is None for n in results.outcomes)


def _data(about: Mapping[str, Any]) -> str:
    words = in_words(about) if any(key.startswith("training_") for key in about) else ""
    text = "### Data\n\n" + ": ".join(filter(None, [str(about["name"]), words])) + "."
    if about.get("fallback_for"):
        text += f" They replace {about['fallback_for']}, which could not be downloaded."
    return text


def _last_run(last: LastRun | None) -> str:
    """What differs from the last run, and what that did."""
    if last is None:
        return ""
    data = " It used other images, so the results cannot be compared." if last.other_data else ""
    what = "" if last.settings else " Nothing was changed."
    changes = [*last.settings, *last.results]
    columns = [
        Column("", [f"`{change.name}`" for change in changes]),
        Column("last run", [change.before for change in changes]),
        Column("this run", [change.now for change in changes]),
    ]
    return f"### Compared with the last run\n\nThe last run is {last.run}.{data}{what}\n\n{markdown(columns)}".rstrip()


def _steered(steered: Sequence[Steered]) -> list[str]:
    """What users have changed last while the sweep ran."""
    if not steered:
        return []
    changes = steering.story(steered[-_CHANGES:])
    more = f" (the last {len(changes)} changes of {len(steered)})" if len(steered) > len(changes) else ""
    columns = [
        Column("time (UTC)", [change["time"] for change in changes]),
        Column("who", [change["by"] for change in changes]),
        Column("what", [change["what"] for change in changes]),
    ]
    return [f"### Changed while it ran{more}\n\n{markdown(columns)}".rstrip()]


def _searched(space: Mapping[str, str]) -> str:
    columns = [
        Column("hyperparameter", [f"`{name}`" for name in space]),
        Column("values", [f"`{domain}`" for domain in space.values()]),
    ]
    return f"### Searched\n\n{markdown(columns)}".rstrip()


def _leaderboard(results: Ranking, most: int) -> str:
    board = leaderboard(results).best(most)
    if not board.rows:
        return ""
    columns = board.columns()
    shown = [Column(column.heading, column.cells) for column in columns if column.kind in ("rank", "trial")]
    shown.append(Column("hyperparameters", [", ".join(_parts(row.values)) for row in board.rows]))
    shown += [Column(column.heading, column.cells) for column in columns if column.kind in _RESULTS]
    return f"### {board.title}\n\n{markdown(shown)}".rstrip()
