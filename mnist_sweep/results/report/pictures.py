"""The report's pictures: each with what it shows, in words."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mnist_sweep.results import importance, plots
from mnist_sweep.results.models import TrackedModel
from mnist_sweep.results.report.content import Winner, fetched
from mnist_sweep.results.runs import SweepRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 130
# matplotlib's pictures have few colours; a palette makes them a third as large.
_COLOURS = 256


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        anchor: Its name in links.
        heading: What it is about.
        text: What it shows and how to read it, for a learner.
        alt: What there is to see, for those who cannot.
        uri: It, as a data URI.
        width: Its width in CSS pixels.
    """

    anchor: str
    heading: str
    text: str
    alt: str
    uri: str
    width: int


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
    return [*_of_the_search(found, frame, curves), *(_of_the_winner(winner, folder) if winner else ())]
