"""Which of a frame's columns and rows the user means."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config.objective import METRICS, SUMMARIES, Objective

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_FILTER = re.compile(r"\s*(?P<name>[^=!<>]*[^=!<>\s])\s*(?P<sign>==|!=|>=|<=|>|<|=)\s*(?P<value>.*?)\s*")
_TRUTH = {"true": True, "false": False}


def find_column(frame: pd.DataFrame, name: str, headings: Mapping[str, str], option: str) -> str:
    """The column that a name means.

    Args:
        frame: As `load_runs` gives it.
        name: A column's; a heading; or either without its group, where no other ends so.
        headings: From the headings of a table to their columns.
        option: What the user wrote it in, for the message.

    Raises:
        UserError: There is none.
    """
    columns = [str(column) for column in frame.columns]
    if name in columns:
        return name
    if headings.get(name) in columns:
        return headings[name]
    ends = [column for column in columns if column.endswith(f".{name}")]
    # Of a hyperparameter and a metric with the same name, the hyperparameter.
    ends = [column for column in ends if column.startswith("params.")] or ends
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"{option}: several columns end in {name}; write {' or '.join(ends)}")
    known = {heading for heading, column in headings.items() if column in columns}
    known |= {re.sub(r"^(params|metrics)\.", "", column) for column in columns}
    raise UserError(f"{option}: there is no column {name}{did_you_mean(name, known)}")


def matching(frame: pd.DataFrame, conditions: Iterable[str], headings: Mapping[str, str]) -> pd.DataFrame:
    """The rows for which all conditions hold.

    Args:
        frame: As `load_runs` gives it.
        conditions: Each `COLUMN SIGN VALUE`, the sign one of `== != < <= > >=`: `val_accuracy > 0.97`,
            `optimizer.name == adam`, `start >= 2026-11-01`. A missing value is none of these; `== NA` and `!= NA` ask
            for it.
        headings: As for `find_column`.

    Raises:
        UserError: A condition is not of that form, or its value is not of the column's kind.
    """
    for condition in conditions:
        parts = _FILTER.fullmatch(condition)
        if parts is None:
            raise UserError(
                f"--filter={condition}: write COLUMN SIGN VALUE, the sign one of == != < <= > >=: 'units > 64'"
            )
        option = f"--filter={condition}"
        column = frame[find_column(frame, parts["name"], headings, option)]
        frame = frame[_holds(column, parts["sign"], parts["value"], option)]
    return frame


def _holds(column: pd.Series[Any], sign: str, text: str, option: str) -> pd.Series[bool]:
    equal = sign in ("==", "=", "!=")
    if text in ("NA", "<NA>") and equal:
        return column.notna() if sign == "!=" else column.isna()
    value: Any = text
    if pd.api.types.is_bool_dtype(column):
        value = _TRUTH.get(text.lower())
        if value is None or not equal:
            raise UserError(f"{option}: it is true or false; write == true or == false")
    elif pd.api.types.is_numeric_dtype(column):
        value = _read(float, text, f"{option}: {text or 'nothing'} is no number")
    elif pd.api.types.is_datetime64_any_dtype(column):
        value = _read(_time, text, f"{option}: {text or 'nothing'} is no time such as 2026-11-01T12:00")
    else:
        if not equal:
            raise UserError(f"{option}: its values are no numbers; write == or !=")
        value = re.sub(r"""^(['"])(.*)\1$""", r"\2", text)
    holds: pd.Series[bool] = _COMPARISONS[sign](column, value).fillna(False).astype(bool) & column.notna()
    return holds


def _read(kind: Callable[[str], Any], text: str, message: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(message) from None


def _time(text: str) -> pd.Timestamp:
    if not text:
        raise ValueError
    return pd.Timestamp(text, tz="UTC")


def in_order(
    frame: pd.DataFrame, sort: str | None, objectives: Sequence[Objective], headings: Mapping[str, str]
) -> pd.DataFrame:
    """The rows in order, those that lack the value last.

    Args:
        frame: As `load_runs` gives it.
        sort: A column; metrics begin with the best, all else with the least, and `-COLUMN` turns that round. None for
            the scores: those on new seeds, which say more than those that a trial was chosen by, then its own in each
            objective.
        objectives: What was optimised, the first one first.
        headings: As for `find_column`.

    Raises:
        UserError: There is no such column.
    """
    if sort is None:
        order = {f"metrics.confirmed_{objectives[0].name}": not objectives[0].maximize}
        order |= {f"metrics.best_{objective.name}": not objective.maximize for objective in objectives}
        order = {column: ascending for column, ascending in order.items() if column in frame}
    else:
        column = find_column(frame, sort.removeprefix("-"), headings, f"--sort={sort}")
        order = {column: (_direction(column, objectives) == "min") != sort.startswith("-")}
    # Stable, and by one after the other, the last one first: of equal rows the earlier trial stays first.
    for column, ascending in reversed(order.items()):
        frame = frame.sort_values(column, ascending=ascending, na_position="last", kind="stable")
    return frame


def _direction(column: str, objectives: Sequence[Objective]) -> str:
    """Which of a column's values come first."""
    if not column.startswith("metrics."):
        return "min"
    name = re.sub(r"^(best|confirmed|test)_", "", column.removeprefix("metrics."))
    known = {**METRICS, **SUMMARIES, **{objective.name: objective.direction for objective in objectives}}
    return known.get(name) or "min"
