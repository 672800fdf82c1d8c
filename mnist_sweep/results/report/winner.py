"""What won: the best trial, how sure that is, and what it scored on new seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_text
from mnist_sweep.common.text import format_value
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.report.leaderboard import amount
from mnist_sweep.results.report.texts import MEASURES
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.tracking.tags import TAG_CONFIRMS, TAG_TRIAL, TAG_WINNER


@dataclass(frozen=True)
class Fact:
    """One thing to know of a sweep: what it is, and what it is called in full."""

    label: str
    text: str
    note: str = ""
    code: bool = False


@dataclass(frozen=True)
class Winner:
    """The best trial.

    Attributes:
        trial: Its number.
        tested: Whether it is that of the whole sweep, and not the best so far.
        scores: What it scored, on which images.
        story: How it was found to be the best.
        values: Its hyperparameters: those that were searched.
        others: The rest of its parameters.
        run: The MLflow run whose model is the sweep's.
    """

    trial: int
    tested: bool
    scores: list[Fact]
    story: str
    values: dict[str, str]
    others: dict[str, str]
    run: ModelRun


@dataclass(frozen=True)
class Candidate:
    """A trial whose setting was trained anew: its score by seed, their mean and standard deviation."""

    trial: int
    mean: str
    std: str
    scores: dict[str, str] = field(default_factory=dict)


def confirmed(found: SweepRuns, folder: Path) -> dict[str, Any]:
    """What training the best anew has shown, as `Confirmed` has it; empty where that was not done.

    Args:
        found: The sweep.
        folder: Where to put the file that is fetched for it.

    Raises:
        UserError: The file is damaged.
    """
    run = ModelRun(found.client, found.parent)
    path, what = fetched(run, "confirmed.json", folder), f"{found.sweep}: confirmed.json of its own run"
    if path is None:
        return {}
    try:
        told: dict[str, Any] = dict(json.loads(read_text(path, what)))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{what}: is damaged") from None
    return told


def _shown(scores: dict[str, float]) -> dict[str, str]:
    return {seed: f"{score:.4f}" for seed, score in scores.items()}


def fetched(model: ModelRun, name: str, folder: Path) -> Path | None:
    """One of a run's artifacts; None where it has none of that name."""
    listed = {artifact.path for artifact in model.client.list_artifacts(model.run.info.run_id)}
    return model.fetch(name, folder) if name in listed else None


def candidates(about: dict[str, Any]) -> list[Candidate]:
    """The trials that were trained anew, the best first.

    Args:
        about: As `confirmed` gives it.
    """
    return [
        Candidate(row["trial"], f"{row['mean']:.4f}", f"{row['std']:.4f}", _shown(row["scores"]))
        for row in about.get("candidates", ())
    ]


def winner(found: SweepRuns, frame: pd.DataFrame, about: dict[str, Any]) -> Winner | None:
    """The best trial; None where none has a score.

    Args:
        found: The sweep.
        frame: Its trials, as `load_runs` gives them.
        about: As `confirmed` gives it.
    """
    try:
        run = found.winner()
    except UserError:
        return None
    number = int(run.data.tags.get(TAG_CONFIRMS, run.data.tags[TAG_TRIAL]))
    row = frame[frame["trial"] == number].iloc[0]
    searched = found.domains
    values = {name: format_value(row[f"params.{name}"]) for name in searched if _has(row, f"params.{name}")}
    others = {
        key.removeprefix("params."): format_value(row[key])
        for key in row.index
        if key.startswith("params.") and key.removeprefix("params.") not in searched and _has(row, key)
    }
    tested = TAG_WINNER in found.parent.data.tags
    story = _story(found, frame, about, number, tested)
    scores = _winning_scores(found, row)
    return Winner(number, tested, scores, story, values, others, ModelRun(found.client, run))


def _has(row: pd.Series[Any], key: str) -> bool:
    return key in row.index and not pd.isna(row[key])


def _winning_scores(found: SweepRuns, row: pd.Series[Any]) -> list[Fact]:
    first, *others = found.objectives
    best, anew = f"metrics.best_{first.name}", f"metrics.confirmed_{first.name}"
    images = "validation images" if first.name.startswith("val_") else ""
    facts = []
    if _has(row, best):
        spread = f" ± {row[f'{best}_std']:.4f}" if _has(row, f"{best}_std") else ""
        note = "what it was chosen by; the best of many is always a little lucky"
        facts.append(Fact(first.name, f"{row[best]:.4f}{spread}", f"{images}: {note}" if images else note))
    if _has(row, anew):
        spread = f" ± {row[f'{anew}_std']:.4f}" if _has(row, f"{anew}_std") else ""
        facts.append(
            Fact("on new seeds", f"{row[anew]:.4f}{spread}", "its setting trained anew: mean ± standard deviation")
        )
    for objective in others:
        if _has(row, f"metrics.best_{objective.name}"):
            text = amount(float(row[f"metrics.best_{objective.name}"]))
            facts.append(Fact(objective.name, text, MEASURES.get(objective.name, "")))
    if _has(row, "metrics.test_accuracy"):
        note = "test images, which only the winner has seen: what to expect of new digits like these"
        facts.append(Fact("test_accuracy", f"{row['metrics.test_accuracy']:.4f}", note))
    return facts


def _story(found: SweepRuns, frame: pd.DataFrame, about: dict[str, Any], number: int, tested: bool) -> str:
    name = found.objective.name
    rows = about.get("candidates", [])
    if not rows or rows[0]["trial"] != number:
        text = f"It has the best {name}{' of all trials' if tested else ' so far'}." if len(frame) > 1 else ""
        if len(found.objectives) > 1:
            text += " What is best in the other objectives stands in the Pareto set, marked ● in the leaderboard."
        return text.strip()
    first = rows[0]
    text = f"The best settings were trained anew on new seeds, and trial {number} has the best mean"
    if len(rows) > 1:
        second = rows[1]
        text += f", {abs(first['mean'] - second['mean']):.4f} before trial {second['trial']}"
    p_value = about.get("p_value")
    if p_value is not None:
        verdict = "that may well be chance" if p_value >= 0.05 else "that is hardly chance"
        text += f". A paired t-test gives p = {p_value:.2g}: {verdict}"
    return f"{text}."
