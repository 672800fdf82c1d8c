"""The columns, rows and order of `compare`'s table that the user asks for."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config.objective import Objective, direction_of
from mnist_sweep.results.leaderboard import order

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_FILTER = re.compile(r"\s*(?P<name>[^=!<>]*[^=!<>\s])\s*(?P<sign>==|!=|>=|<=|>|<|=)\s*(?P<value>\S.*?)\s*")
_TRUTH = {"true": True, "false": False}


def find_column(frame: pd.DataFrame, name: str, headings: Mapping[str, str], option: str) -> str:
    """Finds a column by its name.

    Args:
        frame: As `load_runs` gives it.
        name: The column's name, with or without its group (`params.`), or its heading in the table.
        headings: The columns by their headings in the table.
        option: The option that the user gave, for the message.

    Raises:
        UserError: The column does not exist, or several end in the name.
    """
    columns = [str(column) for column in frame.columns]
    if name in columns:
        return name
    if headings.get(name) in columns:
        return headings[name]
    ends = [column for column in columns if column.endswith(f".{name}")]
    # A hyperparameter comes before a metric with the same name.
    ends = [column for column in ends if column.startswith("params.")] or ends
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"{option}: several columns end in {name}; write {' or '.join(ends)}")
    known = {heading for heading, column in headings.items() if column in columns}
    known |= {re.sub(r"^(params|metrics)\.", "", column) for column in columns}
    raise UserError(f"{option}: there is no column {name}{did_you_mean(name, known)}")


def matching(frame: pd.DataFrame, conditions: Iterable[str], headings: Mapping[str, str]) -> pd.DataFrame:
    """Returns the rows for which all conditions hold.

    Args:
        frame: As `load_runs` gives it.
        conditions: Each is `COLUMN SIGN VALUE` with one of the signs `== != < <= > >=`: `val_accuracy > 0.97`,
            `optimizer.name == adam`, `start >= 2026-11-01`. Only `== NA` holds for a missing value.
        headings: As for `find_column`.

    Raises:
        UserError: A condition has another form, or its value does not fit the column's type.
    """
    for condition in conditions:
        parts = _FILTER.fullmatch(condition)
        if parts is None:
            raise UserError(
                f"--filter={condition}: write COLUMN SIGN VALUE with one of the signs == != < <= > >=: 'units > 64'"
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
            raise UserError(f"{option}: the column is true or false; write == true or == false")
    elif pd.api.types.is_numeric_dtype(column):
        value = _read(float, text, f"{option}: {text} is not a number")
    elif pd.api.types.is_datetime64_any_dtype(column):
        value = _read(_time, text, f"{option}: {text} is not a time such as 2026-11-01T12:00")
    else:
        if not equal:
            raise UserError(f"{option}: the column contains text; write == or !=")
        value = re.sub(r"""^(['"])(.*)\1$""", r"\2", text)
    holds: pd.Series[bool] = _COMPARISONS[sign](column, value).fillna(False).astype(bool) & column.notna()
    return holds


def _read(kind: Callable[[str], Any], text: str, message: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(message) from None


def _time(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def in_order(
    frame: pd.DataFrame, sort: str | None, objectives: Sequence[Objective], headings: Mapping[str, str]
) -> pd.DataFrame:
    """Sorts the rows. Those that lack the value come last.

    Args:
        frame: As `load_runs` gives it.
        sort: A column; metrics start with the best value, other columns with the smallest, and `-COLUMN` reverses that.
            None for the order of the leaderboard.
        objectives: The objectives of the sweeps.
        headings: As for `find_column`.

    Raises:
        UserError: The column does not exist.
    """
    if sort is None:
        return frame.iloc[order(frame, objectives)]
    column = find_column(frame, sort.removeprefix("-"), headings, f"--sort={sort}")
    ascending = (_direction(column, objectives) == "min") != sort.startswith("-")
    return frame.sort_values(column, ascending=ascending, na_position="last", kind="stable")


def _direction(column: str, objectives: Sequence[Objective]) -> str:
    """Whether the largest or the smallest values of a column come first."""
    if not column.startswith("metrics."):
        return "min"
    name = re.sub(r"^(best|confirmed|test)_", "", column.removeprefix("metrics."))
    chosen = {objective.name: objective.direction for objective in objectives}
    return chosen.get(name) or direction_of(name) or "min"
