"""The report's pictures: each with what it shows, in words."""

from __future__ import annotations

import base64
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnist_sweep.results import plots
from mnist_sweep.results.importance import importances
from mnist_sweep.results.report.content import Winner, fetched
from mnist_sweep.results.runs import SweepRuns, searched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)
# Twice a screen's pixels would be sharper, and the file twice as large.
_DPI = 130
_SCREEN = 96


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        anchor: Its name in links.
        heading: What it is about.
        text: What it shows and how to read it, for a learner.
        alt: What there is to see, for those who cannot.
        uri: It, as a data URI.
        width: In CSS pixels.
        height: In CSS pixels.
    """

    anchor: str
    heading: str
    text: str
    alt: str
    uri: str
    width: int
    height: int


def pictures(
    found: SweepRuns, frame: pd.DataFrame, curves: pd.DataFrame, winner: Winner | None, folder: Path
) -> list[Picture]:
    """Draws what there are data for.

    Args:
        found: The sweep.
        frame: Its trials, as `load_runs` gives them.
        curves: Their learning curves, as `load_curves` gives them.
        winner: The best trial.
        folder: Where to put the files that are fetched for it.
    """
    drawn = list(_of_the_search(found, frame, curves))
    return drawn if winner is None else [*drawn, *_of_the_winner(winner, folder)]


def _of_the_search(found: SweepRuns, frame: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Picture]:
    objective, score = found.objective, f"metrics.best_{found.objective.name}"
    trials = frame[frame["confirms"].isna()]
    scored = trials[trials[score].notna()] if score in trials else trials.iloc[:0]
    best = (scored[score].max() if objective.direction == "max" else scored[score].min()) if len(scored) else None
    count = f"{len(trials):,} trials" if len(trials) > 1 else "one trial"
    if len(trials) > 1 and best is not None:
        yield _picture(
            plots.optimisation_history(
                frame, objective, f"{objective.name} of each trial, in the order they were tried"
            ),
            "history",
            "How the search went",
            "Each mark is a trial, from the first to the last; the line is the best score so far. A line that rises early "
            "and then stays flat says that more trials would have found little more.",
            f"The {objective.name} of {count} in their order; the best is {best:.4f}.",
        )
    if (curves["metric"] == objective.name).any():
        yield _picture(
            plots.all_learning_curves(frame, curves, objective, f"{objective.name} after each epoch"),
            "curves",
            "Learning curves",
            "Each line is a trial while it trained: its score after every epoch, that is after every pass through the "
            "training images. A line that ends early was stopped there. Lines that still rise at their end might have "
            "gained from more epochs; lines that turn back have begun to learn the training images by heart.",
            f"The {objective.name} of {count} over their epochs.",
        )
    varied = searched(trials)
    if len(scored) > 1 and varied:
        yield from _effects(found, frame, len(varied))
    if len(found.objectives) > 1:
        yield from _pareto(found, scored)
    if trials["start"].notna().any() and trials["seconds"].notna().any() and len(frame) > 1:
        yield _picture(
            plots.slot_timeline(frame, "Which trial ran when, and where"),
            "timeline",
            "Who ran when",
            "Each row is a place where trials run, one after another: a GPU, a share of one, or some processor cores. "
            "Each bar is a trial. Gaps are time in which a place had nothing to do.",
            f"A bar for each of {len(frame):,} trainings, in a row for each place where they ran.",
        )


def _effects(found: SweepRuns, frame: pd.DataFrame, varied: int) -> Iterator[Picture]:
    objective = found.objective
    ranked = importances(frame, objective)
    if len(ranked):
        names = [str(name) for name in ranked["hyperparameter"]]
        yield _picture(
            plots.importance(ranked, f"Importance for being among the best by {objective.name}"),
            "importance",
            "Which hyperparameters matter",
            "How much each hyperparameter has to do with a trial's being among the best: how far its values there differ "
            "from its values in all trials (PED-ANOVA; the bars add up to 1). The thin lines say how sure that is: nine "
            "times out of ten, trials drawn anew from these give a value within them. A line that reaches down to nearly "
            "0 says that this sweep cannot tell.",
            "The most important first: " + ", ".join(f"{n} {v:.2f}" for n, v in _pairs(ranked)[:8]) + ".",
        )
    yield _picture(
        plots.marginal_effects(frame, objective, f"{objective.name} by each hyperparameter"),
        "effects",
        "The effect of each hyperparameter",
        "Each point is a trial: its score over the value of one hyperparameter, whatever the others were. Where the points "
        "lean, that value matters. A search tries promising values more often, so a good place has many points.",
        f"A panel for each of {varied} hyperparameters with {objective.name} over its values.",
    )
    if len(ranked) > 1:
        first, second = names[:2]
        yield _picture(
            plots.pairwise_effects(frame, objective, first, second, f"{objective.name} by {first} and {second}"),
            "pair",
            "The two most important together",
            f"The score over {first} and {second} at once. Good trials in one corner only say that the two depend on each "
            "other: neither can be chosen alone.",
            f"{objective.name} over {first} and {second}.",
        )


def _pairs(ranked: pd.DataFrame) -> list[tuple[str, float]]:
    return list(zip(ranked["hyperparameter"].astype(str), ranked["importance"].astype(float), strict=True))


def _pareto(found: SweepRuns, scored: pd.DataFrame) -> Iterator[Picture]:
    columns = [f"metrics.best_{objective.name}" for objective in found.objectives]
    if not set(columns) <= set(scored):
        return
    known = scored.dropna(subset=columns)
    points = dict(zip(known["trial"].tolist(), known[columns].to_numpy(dtype=float).tolist(), strict=True))
    if points:
        names = " and ".join(objective.name for objective in found.objectives)
        yield _picture(
            plots.pareto_front(points, found.objectives, f"{len(points)} trials of {found.sweep.partition('/')[0]}"),
            "pareto",
            "What cannot be had at once",
            f"The marked trials are the Pareto set: no other trial is better in {names} at once. Along it, one is paid for "
            "with the other, and the choice is yours.",
            f"The trials by {names}, those of the Pareto set marked.",
        )


def _of_the_winner(winner: Winner, folder: Path) -> Iterator[Picture]:
    path = fetched(winner.run, "confusion_matrix.json", folder)
    if path is not None:
        counts = next(iter(json.loads(path.read_text(encoding="utf-8")).values()))
        right, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
        yield _picture(
            plots.confusion_matrix(counts, f"{right:,} of {total:,} test images are right"),
            "confusion",
            "What the winner takes for what",
            "Each row is a true class, each column what the winner's model took it for, counted on the test images. The "
            "diagonal is right; a large number beside it is a pair that it confuses.",
            f"{right:,} of {total:,} test images lie on the diagonal.{_most_confused(counts)}",
        )
    details = _arrays(winner, folder)
    if len(details.get("mistakes_images", ())):
        images, truth = details["mistakes_images"], details["mistakes_true"]
        predicted, probability = details["mistakes_predicted"], details["mistakes_probability"]
        yield _picture(
            plots.worst_mistakes(images, truth, predicted, probability, "The surest mistakes on the test images"),
            "mistakes",
            "Its worst mistakes",
            "The test images that the model got wrong while it was surest of itself. Some are hard for people too, and a "
            "few may be labelled wrongly; the rest show what the model has not understood.",
            "; ".join(f"a {t} taken for a {p}" for t, p in zip(truth[:10], predicted[:10], strict=True)) + ".",
        )
    if len(details.get("filters", ())):
        filters = details["filters"]
        yield _picture(
            plots.first_layer_filters(filters, "The weights of the first layer"),
            "filters",
            "What its first layer looks for",
            "Each tile is a unit of the model's first layer: red parts of the image speak for it, blue ones against. Smooth "
            "strokes and edges are what it has learned; tiles that look like noise have learned little.",
            f"{len(filters)} tiles of {filters.shape[1]} × {filters.shape[2]} weights.",
        )


def _most_confused(counts: list[list[int]]) -> str:
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    if not wrong:
        return ""
    n, i, j = max(wrong)
    return f" The most frequent mistake: {i} taken for {j}, {n} times."


def _arrays(winner: Winner, folder: Path) -> dict[str, Any]:
    path = fetched(winner.run, "test_details.npz", folder)
    if path is None:
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        # The rest of the report is worth having without these.
        _LOG.warning("%s: cannot be read (%s)", path, error)
        return {}


def _picture(figure: Figure, anchor: str, heading: str, text: str, alt: str) -> Picture:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    width, height = (round(float(inches) * _SCREEN) for inches in figure.get_size_inches())
    return Picture(anchor, heading, text, alt, uri, width, height)
