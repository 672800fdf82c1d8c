"""What people read of a sweep in MLflow: the runs' names and their descriptions, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mnist_sweep.common.text import format_duration, format_value, one_line, short_names
from mnist_sweep.config.settings import Settings
from mnist_sweep.journal.events import SweepEnded, SweepStarted, WinnerTested
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Status, Trial

# MLflow cuts what is longer without a word.
_LONGEST = 8000
_LONGEST_NAME = 60
_LEADERS = 10
_SIZES = ("training_images", "validation_images", "test_images")
# Told by number, and what others are called where their own name is long.
_COUNTED = {"layers": "layer", "units": "unit", "filters": "filter"}
_SHORT = {"learning_rate": "lr", "batch_size": "batch", "batch_normalization": "batch norm", "weight_decay": "decay"}


def sweep_name(sweep: str) -> str:
    """A sweep's run's name: `quick 2026-11-23 05:32`.

    Args:
        sweep: `name/time`, or `name/time/number` for one of several.
    """
    name, _, tail = sweep.partition("/")
    date, _, more = tail.partition("/")
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-\d\d(.*)", date)
    when = f"{found[1]} {found[2]}:{found[3]}{found[4]}" if found else date
    return " ".join(filter(None, (name, when, more and f"#{more}")))


def trial_name(trial: Trial) -> str:
    """A trial's run's name, of at most 60 characters: `trial 7: 2 layers, 128 units, adam`.

    Args:
        trial: The trial; of its values those are told that there is room for.
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
    """Each hyperparameter in a word or two, what tells most first; one of each layer's is one part."""
    found: dict[str, list[Any]] = {}
    for key, value in values.items():
        stem, _, last = key.rpartition(".")
        found.setdefault(stem if last.isdigit() else key, []).append(value)
    for key in [key for key in found if key.rpartition(".")[2] == "layers"]:
        group = key.rpartition(".")[0]
        if any(f"{group}.{width}.1" in values for width in ("units", "filters")):
            # The widths of all layers tell how many there are.
            del found[key]
    parts = [_part(key, short, found[key]) for key, short in short_names(list(found)).items()]
    return [text for _, text in sorted(parts, key=lambda part: part[0]) if text]


def _part(key: str, short: str, values: list[Any]) -> tuple[int, str]:
    """How late a hyperparameter is to be told, and how."""
    *group, last = short.split(".")
    before = "".join(f"{word} " for word in group if word != "model")
    if len(set(map(str, values))) == 1 and last not in _COUNTED:
        values = values[:1]
    text = "-".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)
    if last in _COUNTED:
        return 0, f"{text} {before}{_COUNTED[last]}{'' if text == '1' else 's'}"
    if key.endswith((".name", ".activation", ".kind")):
        return 1, before + text
    word = before + _SHORT.get(last, last.replace("_", " "))
    if isinstance(values[0], bool) and len(values) == 1:
        return 3, word if values[0] else ""
    return 2 if last == "learning_rate" else 3, f"{word} {text}"


def trial_note(trial: Trial, outcome: Outcome, tested: WinnerTested | None) -> str:
    """A trial's description; empty where its numbers say everything.

    Args:
        trial: The trial.
        outcome: What came out of it.
        tested: Its model on the test images, where it is the sweep's.
    """
    told = []
    if tested is not None:
        scores = tested.error or ", ".join(f"{name} {value:.4f}" for name, value in tested.metrics.items())
        told.append(f"**The sweep's model.** On the test images: {scores}.")
    if trial.confirms is not None:
        told.append(f"Trains the setting of trial {trial.confirms} anew, on another seed.")
    if trial.parent is not None:
        told.append(f"Goes on from the weights of trial {trial.parent}, after epoch {trial.initial_epoch}.")
    if outcome.reason:
        how = "Ended" if outcome.status is Status.COMPLETED else str(outcome.status).capitalize()
        told.append(f"{how}: {outcome.reason}.")
    return "\n\n".join(told)


def opening(settings: Settings) -> str:
    """The user's own description, or what stands for it."""
    return settings.description or f"A sweep of {settings.name}."


def progress_note(settings: Settings, results: Ranking) -> str:
    """The description of a sweep that is being run.

    Args:
        settings: The sweep's.
        results: What it has found so far.
    """
    most = settings.search.max_trials
    lines = [
        opening(settings),
        f"**Running**: {_count(results)}{'' if most is None else f' of {most}'} trials have ended.",
    ]
    best = next(iter(results.ranked()), None)
    if best is not None:
        lines.append(f"Best so far: trial {best}, {settings.objective.name} {results.outcomes[best].score:.4f}.")
    return "\n\n".join(lines)


def sweep_note(
    settings: Settings, started: SweepStarted, results: Ranking, tested: WinnerTested | None, ended: SweepEnded
) -> str:
    """The description of a sweep that has ended, of at most 8,000 characters.

    Args:
        settings: The sweep's.
        started: Its first event.
        results: What it has found.
        tested: Its winner on the test images; None where there is none.
        ended: Its last event.
    """
    sweep, data = started.sweep, _data(started.data)
    commands = [f"resume {sweep}"]
    if ended.status is not Status.STOPPED:
        commands = [f"compare {sweep}", f"export {sweep} --to exported", f"ui {sweep}"]
    going_on = "\n".join(["### Next", "", "```", *(f"python -m mnist_sweep {command}" for command in commands), "```"])
    verdict = _verdict(settings, results, tested, ended)
    for leaders in range(_LEADERS, -1, -1):
        parts = [opening(settings), verdict, _leaderboard(results, leaders), _searched(started.space), data, going_on]
        note = "\n\n".join(filter(None, parts))
        if len(note) <= _LONGEST:
            return note
    return "\n\n".join([verdict, data, going_on])[:_LONGEST]


def _verdict(settings: Settings, results: Ranking, tested: WinnerTested | None, ended: SweepEnded) -> str:
    name, winner, confirmed = settings.objective.name, results.winner(), results.confirmed
    if ended.status is Status.STOPPED:
        return f"**Interrupted**: {ended.reason}. {_count(results)} trials have ended."
    if winner is None:
        reasons = sorted({outcome.reason for outcome in results.outcomes.values() if outcome.reason})
        return f"**No trial has a result**{': ' + reasons[0] if reasons else ''}."
    if confirmed is None:
        text = f"**Winner: trial {winner}**, {name} {results.outcomes[winner].score:.4f}"
    else:
        first = confirmed.candidates[0]
        text = (
            f"**Winner: trial {winner}**, {name} {first['mean']:.4f} ± {first['std']:.4f} on "
            f"{len(first['scores'])} new seeds (its model is that of trial {confirmed.model})"
        )
    if tested is not None and tested.metrics:
        text += "; on the test images: " + ", ".join(f"{k} {v:.4f}" for k, v in tested.metrics.items())
    return f"{text}." + (f" The sweep ended as {ended.reason}." if ended.reason else "")


def _count(results: Ranking) -> int:
    return sum(results.trials[n].confirms is None for n in results.outcomes)


def _data(about: Mapping[str, Any]) -> str:
    told = [f"{about[key]:,} {key.replace('_', ' ')}" for key in _SIZES if key in about]
    told += [f"{about['image']}, {about['classes']} classes"] if "image" in about else []
    text = "### Data\n\n" + ": ".join(filter(None, [str(about["name"]), ", ".join(told)])) + "."
    if about.get("fallback_for"):
        text += f" They stand in for {about['fallback_for']}, which could not be downloaded."
    return text


def _searched(space: Mapping[str, str]) -> str:
    if not space:
        return "Nothing was searched: one run."
    lines = [f"| `{name}` | {_cell(f'`{domain}`')} |" for name, domain in space.items()]
    return "\n".join(["### Searched", "", "| hyperparameter | values |", "|---|---|", *lines])


def _leaderboard(results: Ranking, most: int) -> str:
    ranking = results.ranked()
    confirmed = {row["trial"]: row for row in results.confirmed.candidates} if results.confirmed else {}
    leaders = [*confirmed, *(n for n in ranking if n not in confirmed)][:most]
    if not leaders:
        return ""
    objectives = [objective.name for objective in results.objectives]
    header = ["", "trial", "hyperparameters", *objectives, *(["on new seeds"] if confirmed else []), "time"]
    rows = [header, ["---"] * len(header)]
    for rank, number in enumerate(leaders, start=1):
        outcome, row = results.outcomes[number], confirmed.get(number)
        scores = [f"{outcome.score:.4f}", *(format_value(outcome.metrics.get(name, "")) for name in objectives[1:])]
        if confirmed:
            scores.append(f"{row['mean']:.4f} ± {row['std']:.4f}" if row else "")
        said = ", ".join(_parts(results.trials[number].values))
        rows.append([str(rank), str(number), said, *scores, format_duration(outcome.seconds)])
    title = "### Leaderboard" + (f": the best {len(leaders)} of {len(ranking)}" if len(ranking) > len(leaders) else "")
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([title, "", *lines])


def _cell(text: str) -> str:
    return one_line(text, _LONGEST).replace("|", "\\|")
