"""The axis of a hyperparameter in a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator

from mnist_sweep.common.text import format_value
from mnist_sweep.results.plots.common import Floats


@dataclass(frozen=True)
class Scale:
    """The axis of a hyperparameter.

    Attributes:
        places: A place for each trial (N,): the value of a number, or the index of a category; NaN if the
            hyperparameter is inactive.
        labels: The categories, in order; None for a number.
        log: Whether the axis is logarithmic.
    """

    places: Floats
    labels: list[str] | None
    log: bool

    @property
    def inactive(self) -> int:
        """The number of trials in which the hyperparameter is inactive."""
        return int(np.isnan(self.places).sum())

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Returns about `most` places to label, and their labels."""
        if self.labels is not None:
            step = max(-(-len(self.labels) // (2 * most)), 1)
            return [(float(i), label) for i, label in enumerate(self.labels)][::step]
        if np.isnan(self.places).all():
            return []
        low, high = self._ends()
        if not self.log:
            found = MaxNLocator(most, steps=(1, 2, 2.5, 5, 10)).tick_values(low, high)
        else:
            # A few decades need more labels than the powers of ten.
            wide = np.log10(high / low) > 2
            found = LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=most).tick_values(low, high)
        inside = [float(value) for value in found if low <= value <= high]
        return [(value, f"{value:g}") for value in inside]

    def share(self, places: Floats) -> Floats:
        """Returns where places (M,) are on the axis, from 0 (smallest) to 1 (largest); 0.5 if it has only one place."""
        low, high = self._ends()
        if low == high:
            return np.where(np.isnan(places), np.nan, 0.5)
        if self.log:
            return np.asarray(np.log(places / low) / np.log(high / low))
        return np.asarray((places - low) / (high - low))

    def _ends(self) -> tuple[float, float]:
        if self.labels is not None:
            return 0.0, float(len(self.labels) - 1)
        return (0.0, 0.0) if np.isnan(self.places).all() else (np.nanmin(self.places), np.nanmax(self.places))


# A number with at most so many values is drawn as categories.
_CATEGORIES = 8


def scales_of(frame: pd.DataFrame, names: Sequence[str]) -> list[Scale]:
    """Chooses the axes of hyperparameters.

    Args:
        frame: As `load_runs` gives it.
        names: The hyperparameters, such as `model.units`.
    """
    space = frame.attrs.get("space")
    domains = space if isinstance(space, Mapping) else {}
    return [scale_of(frame[f"params.{name}"], domains.get(name, "")) for name in names]


def spacing(domain: str) -> Literal["log", "linear", ""]:
    """Returns how the search space draws a number: evenly on which axis; "" if it does not say.

    Args:
        domain: The domain of a hyperparameter, as `Space.describe` gives it.
    """
    return "log" if domain.startswith("tag(log") else "linear" if "interval(" in domain else ""


def scale_of(column: pd.Series[Any], domain: str = "") -> Scale:
    """Chooses the axis of a hyperparameter.

    Args:
        column: Its values (N,), with the type that `load_runs` gives them.
        domain: Its domain, as text, if it is known.

    Returns:
        A logarithmic axis if the space says `log`, evenly spaced categories for texts, booleans and numbers with few
        values. Otherwise a numeric axis: linear for an interval, and if the space says nothing, logarithmic if all
        values are positive and most span a decade and a half, or a decade if they are skewed.
    """
    known = column.dropna()
    distinct = known.nunique()
    whole = pd.api.types.is_integer_dtype(column)
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    said = spacing(domain)
    few = distinct <= _CATEGORIES and distinct <= max(3 if whole else 1, len(known) // 2)
    if not numeric or (few and said != "log"):
        values = sorted(known.unique().tolist())
        index = {value: float(i) for i, value in enumerate(values)}
        places = np.array([np.nan if pd.isna(value) else index[value] for value in column], dtype=np.float64)
        return Scale(places, [_short(format_value(value)) for value in values], log=False)
    places = column.to_numpy(dtype=np.float64, na_value=np.nan)
    values_known = places[np.isfinite(places)]
    places = np.where(np.isfinite(places), places, np.nan)
    positive = bool(len(values_known)) and bool(values_known.min() > 0)
    return Scale(places, None, positive and (said == "log" or (not said and _logarithmic(values_known))))


def _logarithmic(values: Floats) -> bool:
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    # Values drawn uniformly from 0 on span many decades, but few values are in the lower ones.
    wide = np.percentile(values, 95) >= 30 * np.percentile(values, 10)
    skewed = abs(np.log(median / np.sqrt(low * high))) < abs(np.log(median / ((low + high) / 2)))
    return bool(wide or (high >= 10 * low and skewed))


def _short(text: str, most: int = 14) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
