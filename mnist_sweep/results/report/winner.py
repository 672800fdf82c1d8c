"""The winner, or the trial that was named: what it scored, and how sure it is that it is the best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_text
from mnist_sweep.common.text import format_value
from mnist_sweep.journal.leaderboard import Leaderboard, Row, score_text, verdict_on
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.report.texts import MEASURES
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.tracking.tags import TAG_ADDED_BY, TAG_CONFIRMS, TAG_REASON, TAG_STATUS, TAG_TRIAL, TAG_WINNER

if TYPE_CHECKING:
    from mlflow.entities import Run

_NAMED = "Trial"


@dataclass(frozen=True)
class Fact:
    """A fact about the sweep: its label, its text, and a note in small print."""

    label: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Winner:
    """The best trial, or the one that the report is about.

    Attributes:
        trial: Its number.
        role: What it is: `Winner`, `Best so far`, or `Trial` if the user named it.
        scores: What it scored, on which images.
        story: How it was found to be the best.
        values: Its hyperparameters that were searched.
        others: Its other settings.
        run: The MLflow run whose model is the sweep's.
        best_epoch: The epoch whose weights were kept, if it is known.
    """

    trial: int
    role: str
    scores: list[Fact]
    story: str
    values: dict[str, str]
    others: dict[str, str]
    run: ModelRun
    best_epoch: int | None

    @property
    def named(self) -> bool:
        """Whether the user named it, so that it need not be the best."""
        return self.role == _NAMED


@dataclass(frozen=True)
class Candidate:
    """A trial that was retrained: its scores by seed, their mean and standard deviation."""

    trial: int
    mean: str
    std: str
    scores: dict[str, str]


@dataclass(frozen=True)
class Retraining:
    """The retraining of the best trials on new seeds.

    Attributes:
        candidates: The trials, the best first; empty if none were retrained.
        verdict: How sure it is that the first one is the best.
    """

    candidates: Sequence[Candidate] = ()
    verdict: str = ""

    @property
    def seeds(self) -> list[str]:
        """The seeds, in the order in which they occur."""
        return list(dict.fromkeys(seed for candidate in self.candidates for seed in candidate.scores))


def retraining(found: SweepRuns, folder: Path) -> Retraining:
    """Reads what the sweep logged of its retraining.

    Args:
        found: The sweep.
        folder: The folder for the downloaded file.

    Raises:
        UserError: The file is damaged.
    """
    run = ModelRun(found.client, found.parent)
    path, what = fetched(run, "confirmed.json", folder), f"{found.sweep}: confirmed.json of its run"
    if path is None:
        return Retraining()
    try:
        content = json.loads(read_text(path, what))
        rows, text = content.get("candidates", []), partial(score_text, found.objective)
        candidates = [
            Candidate(row["trial"], text(row["mean"]), text(row["std"]), {s: text(v) for s, v in row["scores"].items()})
            for row in rows
        ]
        return Retraining(candidates, verdict_on(found.objective, rows, content.get("p_value")) if rows else "")
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError):
        raise UserError(f"{what}: is damaged") from None


def fetched(model: ModelRun, name: str, folder: Path) -> Path | None:
    """Downloads one of a run's artifacts; None if it does not have it."""
    return model.fetch(name, folder) if name in model.files() else None


def winner(
    found: SweepRuns, frame: pd.DataFrame, board: Leaderboard, again: Retraining, named: Run | None = None
) -> Winner | None:
    """Describes the best trial, or the one that the user named; None if no trial has a score.

    Args:
        found: The sweep.
        frame: Its trials, as `load_runs` gives them.
        board: Its leaderboard.
        again: Its retraining.
        named: The run of the trial that the user named.
    """
    try:
        best = found.winner(frame)
    except UserError:
        if named is None:
            return None
        best = None
    run = named or best
    assert run is not None
    number = int(run.data.tags[TAG_TRIAL] if named else run.data.tags.get(TAG_CONFIRMS, run.data.tags[TAG_TRIAL]))
    row = frame[frame["trial"] == number].iloc[0]
    params = [str(column) for column in row.index if str(column).startswith("params.") and not pd.isna(row[column])]
    texts = {column.removeprefix("params."): format_value(row[column]) for column in params}
    searched = found.space
    # A resumed sweep runs again, and has the mark of its last session's winner.
    tested = (
        found.parent.data.tags.get(TAG_WINNER) == run.data.tags[TAG_TRIAL] and found.parent.info.status != "RUNNING"
    )
    row_of_board = next((r for r in board.rows if r.trial == number), None)
    if named is None:
        role = "Result" if not searched else "Winner" if tested else "Best so far"
        equal = sum(row_of_board is not None and row.scores[0] == row_of_board.scores[0] for row in board.rows)
        story = _story(found, len(frame), again, number, tested, equal)
    else:
        role, story = _NAMED, _fate(named, best)
    return Winner(
        number,
        role,
        [] if row_of_board is None else _scores(found, row_of_board, _tested(found, row), selected=named is None),
        story,
        {name: texts[name] for name in searched if name in texts},
        {name: text for name, text in texts.items() if name not in searched},
        ModelRun(found.client, run),
        None if row_of_board is None else row_of_board.best_epoch,
    )


def _scores(found: SweepRuns, row: Row, tested: Mapping[str, float], *, selected: bool) -> list[Fact]:
    first, *others = found.objectives
    images = ["validation data"] if first.name.startswith("val_") else []
    chosen = selected and bool(found.space)
    note = ": ".join([*images, *(["the score that selected it, so a little optimistic"] if chosen else [])])
    scores = [
        (first, first.name, row.scores[0], row.spread, note),
        (first, "on new seeds", row.retrained, row.retrained_spread, "retrained: mean ± standard deviation"),
        *(
            (objective, objective.name, value, None, MEASURES.get(objective.name, ""))
            for objective, value in zip(others, row.scores[1:], strict=True)
        ),
    ]
    facts = [
        Fact(label, score_text(objective, value, spread), note)
        for objective, label, value, spread, note in scores
        if value is not None
    ]
    only = ", used only for the winner" if found.space else ""
    for name, value in tested.items():
        what = "accuracy" if name == "test_accuracy" else "score"
        note = f"test data{only}: expect this {what} on similar new data"
        facts.append(Fact(name, f"{value:.4f}", note))
    return facts


def _tested(found: SweepRuns, row: Any) -> dict[str, float]:
    """Returns the scores on the test data that tell most: the one that was optimized, and the accuracy."""
    wanted = (f"test_{found.objective.name.removeprefix('val_')}", "test_accuracy")
    scores = {name: row.get(f"metrics.{name}") for name in wanted}
    return {name: float(value) for name, value in scores.items() if value is not None and not pd.isna(value)}


def _fate(run: Run, best: Run | None) -> str:
    """Says how the trial that the user named ended, and which one is the best."""
    tags, parts = run.data.tags, []
    if TAG_STATUS in tags:
        parts.append(f"It {'was ' if tags[TAG_STATUS] in ('stopped', 'refused') else ''}{tags[TAG_STATUS]}")
        parts[-1] += f": {tags[TAG_REASON]}." if tags.get(TAG_REASON) else "."
    if added := tags.get(TAG_ADDED_BY):
        parts.append(f"{added} added it while the sweep ran.")
    if confirms := tags.get(TAG_CONFIRMS):
        parts.append(f"It retrains trial {confirms} on a new seed.")
    if best is not None and best.info.run_id != run.info.run_id:
        parts.append(f"The sweep's best model is that of trial {best.data.tags[TAG_TRIAL]}; only that one was tested.")
    return " ".join(parts)


def _story(found: SweepRuns, trials: int, again: Retraining, number: int, tested: bool, equal: int) -> str:
    if again.candidates and again.candidates[0].trial == number:
        return f"The best trials were retrained, and this one has the best mean: {again.verdict}."
    text = f"It has the best {found.objective.name}{' of all trials' if tested else ' so far'}." if trials > 1 else ""
    if equal > 1 and not again.candidates:
        text = f"It is the first of {equal} trials with the best {found.objective.name}{'' if tested else ' so far'}."
    if len(found.objectives) > 1:
        text += " The leaderboard marks the Pareto front with ●: the best trials if other objectives count more."
    return text.strip()
