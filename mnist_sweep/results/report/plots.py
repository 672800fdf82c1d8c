"""The report's plots, each with a text that explains it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz, read_text
from mnist_sweep.common.text import counted
from mnist_sweep.config.objective import Objective
from mnist_sweep.data.schema import kind_of_target
from mnist_sweep.journal.files import DETAILS_FILE
from mnist_sweep.journal.leaderboard import most_frequent_mistake
from mnist_sweep.results import plots
from mnist_sweep.results.importance import importances
from mnist_sweep.results.leaderboard import of_search, ranked
from mnist_sweep.results.plots.common import HALF
from mnist_sweep.results.plots.svg import as_svg
from mnist_sweep.results.report.texts import TEXTS
from mnist_sweep.results.report.winner import Winner, fetched
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.results.runs.frames import searched

_LOG = logging.getLogger(__name__)
# CSS pixels per inch on the page.
_SCREEN = 86


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        anchor: Its name in links.
        heading: Its heading.
        text: What it shows and how to read it.
        svg: The image.
        width: Its width in CSS pixels.
        wide: Whether it needs the width of the page, rather than half of it.
    """

    anchor: str
    heading: str
    text: str
    svg: Markup
    width: int
    wide: bool


def draw(
    found: SweepRuns, frame: pd.DataFrame, curves: pd.DataFrame, winner: Winner | None, folder: Path
) -> list[Plot]:
    """Draws the plots for which there are data.

    Args:
        found: The sweep.
        frame: Its trials, as `load_runs` gives them.
        curves: Their learning curves, as `load_curves` gives them.
        winner: The best trial.
        folder: The folder for downloaded files.
    """
    drawn = list(_of_the_search(found, frame, curves))
    if winner is not None and winner.named:
        drawn = [*_own_curves(winner, curves), *drawn]
    return drawn if winner is None else [*drawn, *_of_the_winner(winner, found.parent.data.tags, folder)]


def _of_the_search(found: SweepRuns, frame: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Plot]:
    objective, score = found.objective, f"metrics.best_{found.objective.name}"
    trials = of_search(frame)
    scored = trials[trials[score].notna()] if score in trials else trials.iloc[:0]
    count = f"{len(trials):,} trials" if len(trials) > 1 else "one trial"
    if len(trials) > 1 and len(scored):
        best = ranked(frame, objective)[score].iloc[0]
        alt = f"The {objective.name} of {count} in the order of their numbers; the best trial has {best:.4f}."
        yield _plot("history", plots.optimisation_history(frame, objective, ""), alt)
    varied = searched(trials)
    told = importances(frame, objective) if len(scored) > 1 and varied else None
    if told is not None and len(told):
        shares = [f"{n} {v:.2f}" for n, v in zip(told["hyperparameter"], told["importance"].tolist(), strict=True)]
        yield _plot("importance", plots.importance(told, ""), f"The most important first: {', '.join(shares[:8])}.")
    if (curves["metric"] == objective.name).any():
        figure = plots.all_learning_curves(frame, curves, objective, "")
        yield _plot("curves", figure, f"The {objective.name} of {count} over their epochs.")
    if told is not None:
        yield from _effects(objective, frame, len(varied), [str(name) for name in told["hyperparameter"][:2]])
    if len(found.objectives) > 1:
        yield from _pareto(found, scored)
    if len(frame) > 1 and trials["seconds"].notna().any():
        figure = plots.slot_timeline(frame, "")
        yield _plot("timeline", figure, f"A bar for each of {len(frame):,} trainings, a row for each slot.")


def _effects(objective: Objective, frame: pd.DataFrame, varied: int, most: list[str]) -> Iterator[Plot]:
    figure = plots.marginal_effects(frame, objective, "")
    alt = f"A panel for each of {counted(varied, 'hyperparameter')}: {objective.name} over its values."
    yield _plot("effects", figure, alt)
    if len(most) > 1:
        pair = " and ".join(most)
        figure = plots.pairwise_effects(frame, objective, most[0], most[1], "")
        yield _plot("pair", figure, f"{objective.name} over {pair}.", pair=pair)


def _pareto(found: SweepRuns, scored: pd.DataFrame) -> Iterator[Plot]:
    columns = [f"metrics.best_{objective.name}" for objective in found.objectives]
    if not set(columns) <= set(scored):
        return
    known = scored.dropna(subset=columns)
    points = dict(zip(known["trial"].tolist(), known[columns].to_numpy(dtype=float).tolist(), strict=True))
    if points:
        names = " and ".join(objective.name for objective in found.objectives)
        figure = plots.pareto_front(points, found.objectives, "")
        yield _plot("pareto", figure, f"The trials by {names}, with the Pareto front marked.", objectives=names)


def _counts(path: Path) -> list[list[int]] | None:
    """A logged confusion matrix, a row per true class; None if the file is damaged."""
    try:
        counts = json.loads(read_text(path, str(path)))["rows are true classes"]
        fits = all(len(row) == len(counts) and all(type(count) is int for count in row) for row in counts)
        return counts if counts and fits else None
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _own_curves(trial: Winner, curves: pd.DataFrame) -> Iterator[Plot]:
    own = curves[curves["trial"] == trial.trial]
    if not own.empty:
        alt = f"The metrics of trial {trial.trial} after each epoch."
        yield _plot("own_curves", plots.trial_learning_curves(own, trial.best_epoch, ""), alt)


def _of_the_winner(winner: Winner, tags: Mapping[str, str], folder: Path) -> Iterator[Plot]:
    details = _arrays(winner, folder)
    names, rows = [str(name) for name in details.get("names", ())], "image" if "data.image" in tags else "row"
    path = fetched(winner.run, "confusion_matrix.json", folder)
    counts = None if path is None else _counts(path)
    if counts is not None:
        right, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
        summary = f"{right:,} of {counted(total, f'test {rows}')} {'is' if total == 1 else 'are'} classified correctly"
        alt = f"{summary}.{_most_confused(counts, names)}"
        yield _plot("confusion", plots.confusion_matrix(counts, summary, names), alt)
    kind = kind_of_target({key.removeprefix("data."): value for key, value in tags.items()})
    if kind is not None:
        for one in plots.of_test(details, kind):
            yield _plot(one.name, one.figure, one.alt)
    if len(details.get("filters", ())):
        filters = details["filters"]
        figure = plots.first_layer_filters(filters, "")
        yield _plot("filters", figure, f"{len(filters)} tiles of {filters.shape[1]} × {filters.shape[2]} weights.")


def _most_confused(counts: list[list[int]], names: Sequence[str]) -> str:
    mistake = most_frequent_mistake(counts, names)
    return f" The most frequent mistake: {mistake}." if mistake else ""


def _arrays(winner: Winner, folder: Path) -> dict[str, Any]:
    path = fetched(winner.run, DETAILS_FILE, folder)
    if path is None:
        return {}
    try:
        return dict(read_npz(path, winner.run.what(DETAILS_FILE)))
    except UserError as error:
        # The report is useful without these plots.
        _LOG.warning("%s", error)
        return {}


def _plot(anchor: str, figure: Figure, alt: str, **names: str) -> Plot:
    heading, text = TEXTS[anchor]
    width = float(figure.get_figwidth())
    # Every text in it is escaped.
    svg = Markup(as_svg(figure, anchor, alt))
    return Plot(anchor, heading, text.format(**names), svg, round(width * _SCREEN), width > HALF)
