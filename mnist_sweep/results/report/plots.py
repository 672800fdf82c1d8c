"""The report's plots, each with a text that explains it."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz, read_text
from mnist_sweep.journal.files import DETAILS_FILE
from mnist_sweep.results import plots
from mnist_sweep.results.importance import importances
from mnist_sweep.results.leaderboard import of_search
from mnist_sweep.results.report.texts import TEXTS
from mnist_sweep.results.report.winner import Winner, fetched
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.results.runs.frames import searched

_LOG = logging.getLogger(__name__)
# Dots per inch of the file, and CSS pixels per inch on the page. A higher resolution makes the file larger.
_DPI, _SCREEN = 140, 108
# CSS pixels that a plot may be wide.
_WIDEST = 900


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        anchor: Its name in links.
        heading: Its heading.
        text: What it shows and how to read it.
        alt: What it shows, for people who cannot see it.
        uri: The image as a data URI.
        width: Its width in CSS pixels.
        height: Its height in CSS pixels.
    """

    anchor: str
    heading: str
    text: str
    alt: str
    uri: str
    width: int
    height: int


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
        drawn = [*_own_curves(winner, folder), *drawn]
    return drawn if winner is None else [*drawn, *_of_the_winner(winner, folder)]


def _of_the_search(found: SweepRuns, frame: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Plot]:
    objective, score = found.objective, f"metrics.best_{found.objective.name}"
    trials = of_search(frame)
    scored = trials[trials[score].notna()] if score in trials else trials.iloc[:0]
    count = f"{len(trials):,} trials" if len(trials) > 1 else "one trial"
    if len(trials) > 1 and len(scored):
        best = objective.best(scored[score])
        figure = plots.optimisation_history(frame, objective, f"{objective.name} of each trial")
        yield _plot(
            "history", figure, f"The {objective.name} of {count} in the order of their numbers; the best is {best:.4f}."
        )
    if (curves["metric"] == objective.name).any():
        figure = plots.all_learning_curves(frame, curves, objective, f"{objective.name} after each epoch")
        yield _plot("curves", figure, f"The {objective.name} of {count} over their epochs.")
    varied = searched(trials)
    if len(scored) > 1 and varied:
        yield from _effects(found, frame, len(varied))
    if len(found.objectives) > 1:
        yield from _pareto(found, scored)
    if len(frame) > 1 and trials["seconds"].notna().any():
        figure = plots.slot_timeline(frame, "Which trial ran when and where")
        yield _plot("timeline", figure, f"A bar for each of {len(frame):,} trainings, a row for each slot.")


def _effects(found: SweepRuns, frame: pd.DataFrame, varied: int) -> Iterator[Plot]:
    objective = found.objective
    ranked = importances(frame, objective)
    names = [str(name) for name in ranked["hyperparameter"]]
    if names:
        shares = [f"{n} {v:.2f}" for n, v in zip(names, ranked["importance"].tolist(), strict=True)]
        figure = plots.importance(ranked, f"Importance of the hyperparameters for {objective.name}")
        yield _plot("importance", figure, f"The most important first: {', '.join(shares[:8])}.")
    figure = plots.marginal_effects(frame, objective, f"{objective.name} by each hyperparameter")
    alt = f"A panel for each of {varied} hyperparameter{'s' if varied > 1 else ''}: {objective.name} over its values."
    yield _plot("effects", figure, alt)
    if len(names) > 1:
        pair = " and ".join(names[:2])
        figure = plots.pairwise_effects(frame, objective, names[0], names[1], f"{objective.name} by {pair}")
        yield _plot("pair", figure, f"{objective.name} over {pair}.", pair=pair)


def _pareto(found: SweepRuns, scored: pd.DataFrame) -> Iterator[Plot]:
    columns = [f"metrics.best_{objective.name}" for objective in found.objectives]
    if not set(columns) <= set(scored):
        return
    known = scored.dropna(subset=columns)
    points = dict(zip(known["trial"].tolist(), known[columns].to_numpy(dtype=float).tolist(), strict=True))
    if points:
        names = " and ".join(objective.name for objective in found.objectives)
        figure = plots.pareto_front(points, found.objectives, f"{len(points):,} trials by {names}")
        yield _plot("pareto", figure, f"The trials by {names}, with the Pareto front marked.", objectives=names)


def _counts(path: Path) -> list[list[int]] | None:
    """A logged confusion matrix, a row per true class; None if the file is damaged."""
    try:
        counts = json.loads(read_text(path, str(path)))["rows are true classes"]
        fits = all(len(row) == len(counts) and all(type(count) is int for count in row) for row in counts)
        return counts if counts and fits else None
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _own_curves(trial: Winner, folder: Path) -> Iterator[Plot]:
    path = fetched(trial.run, "learning_curves.png", folder)
    if path is not None:
        # Drawn when the trial ended, and trusted as little as any file of the store.
        with Image.open(path, formats=["PNG"]) as image:
            width, height = image.size
        scale = min(1.0, _WIDEST / width)
        alt = f"The loss and the accuracy of trial {trial.trial} after each epoch."
        heading, text = TEXTS["own_curves"]
        uri = _data_uri(path.read_bytes())
        yield Plot("own_curves", heading, text, alt, uri, round(width * scale), round(height * scale))


def _of_the_winner(winner: Winner, folder: Path) -> Iterator[Plot]:
    path = fetched(winner.run, "confusion_matrix.json", folder)
    counts = None if path is None else _counts(path)
    if counts is not None:
        right, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
        summary = f"{right:,} of {total:,} test images are classified correctly"
        yield _plot("confusion", plots.confusion_matrix(counts, summary), f"{summary}.{_most_confused(counts)}")
    details = _arrays(winner, folder)
    if len(details.get("mistakes_images", ())):
        images, truth, wrong, sure = (details[f"mistakes_{n}"] for n in ("images", "true", "predicted", "probability"))
        figure = plots.worst_mistakes(images, truth, wrong, sure, "The most confident mistakes on the test images")
        first = zip(truth[:10], wrong[:10], strict=True)
        yield _plot("mistakes", figure, "; ".join(f"a {a} predicted as {b}" for a, b in first) + ".")
    if len(details.get("filters", ())):
        filters = details["filters"]
        figure = plots.first_layer_filters(filters, "The weights of the first layer")
        yield _plot("filters", figure, f"{len(filters)} tiles of {filters.shape[1]} × {filters.shape[2]} weights.")


def _most_confused(counts: list[list[int]]) -> str:
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    if not wrong:
        return ""
    n, i, j = max(wrong)
    return f" The most frequent mistake: {i} predicted as {j}, {n:,} time{'' if n == 1 else 's'}."


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


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _plot(anchor: str, figure: Figure, alt: str, **names: str) -> Plot:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    uri = _data_uri(content.getvalue())
    width, height = (round(float(inches) * _SCREEN) for inches in figure.get_size_inches())
    heading, text = TEXTS[anchor]
    return Plot(anchor, heading, text.format(**names), alt, uri, width, height)
