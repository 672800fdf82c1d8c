"""Where the values of a hyperparameter lie on an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator

from mnist_sweep.common.text import format_value
from mnist_sweep.results.plots.common import Floats


@dataclass(frozen=True)
class Scale:
    """Where a hyperparameter's values lie on an axis.

    Attributes:
        places: A place for each trial (N,), NaN where the hyperparameter is inactive: the value itself, or the number
            of its category from 0.
        labels: The categories, in order; None for a number.
        log: Whether the axis is logarithmic.
    """

    places: Floats
    labels: list[str] | None
    log: bool

    @property
    def inactive(self) -> int:
        """In how many trials the hyperparameter is not active."""
        return int(np.isnan(self.places).sum())

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Places to label and their labels; about `most` of them."""
        if self.labels is not None:
            step = max(-(-len(self.labels) // (2 * most)), 1)
            return [(float(i), label) for i, label in enumerate(self.labels)][::step]
        known = self.places[~np.isnan(self.places)]
        if not len(known):
            return []
        low, high = float(known.min()), float(known.max())
        if not self.log:
            found = MaxNLocator(most, steps=(1, 2, 2.5, 5, 10)).tick_values(low, high)
        else:
            # Within few decades the powers of ten alone are too few.
            wide = np.log10(high / low) > 2
            found = LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=most).tick_values(low, high)
        inside = [float(value) for value in found if low <= value <= high]
        return [(value, f"{value:g}") for value in inside]

    def shares(self) -> Floats:
        """The places as shares (N,) of the axis, the least value at 0 and the greatest at 1."""
        return self.share(self.places)

    def share(self, places: Floats) -> Floats:
        """Where on the axis places (M,) lie, from 0 to 1; 0.5 where there is only one."""
        known = self.places[~np.isnan(self.places)]
        if self.labels is not None:
            low, high = 0.0, float(len(self.labels) - 1)
        else:
            low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
        if low == high:
            return np.where(np.isnan(places), np.nan, 0.5)
        if self.log:
            return np.asarray(np.log(places / low) / np.log(high / low))
        return np.asarray((places - low) / (high - low))


# So many values of a number are told apart one by one.
_CATEGORIES = 8


def scale_of(column: pd.Series[Any]) -> Scale:
    """Chooses an axis for a hyperparameter.

    Args:
        column: Its values (N,), typed as `load_runs` does.

    Returns:
        Categories for texts, truth values and numbers of which there are few, evenly spaced; else a number, logarithmic
        where all are positive and most lie over a decade and a half, or over one as if drawn from such a scale.
    """
    known = column.dropna()
    distinct = known.nunique()
    whole = pd.api.types.is_integer_dtype(column)
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not numeric or (distinct <= _CATEGORIES and distinct <= max(3 if whole else 1, len(known) // 2)):
        values = sorted(known.unique().tolist())
        index = {value: float(i) for i, value in enumerate(values)}
        places = np.array([np.nan if pd.isna(value) else index[value] for value in column], dtype=np.float64)
        return Scale(places, [_short(format_value(value)) for value in values], log=False)
    places = column.to_numpy(dtype=np.float64, na_value=np.nan)
    values_known = places[np.isfinite(places)]
    places = np.where(np.isfinite(places), places, np.nan)
    return Scale(places, None, bool(len(values_known)) and _logarithmic(values_known))


def _logarithmic(values: Floats) -> bool:
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    if low <= 0:
        return False
    # Values drawn evenly from 0 on span any number of decades, but few of them lie in the lower ones.
    wide = np.percentile(values, 95) >= 30 * np.percentile(values, 10)
    skewed = abs(np.log(median / np.sqrt(low * high))) < abs(np.log(median / ((low + high) / 2)))
    return bool(wide or (high >= 10 * low and skewed))


def _short(text: str, most: int = 14) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
