"""What models of tables and arrays are asked: the rows in a request, and the fields of the page's form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pydantic_core import from_json

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line, one_line
from mnist_sweep.data.columns import FIRST_WORD
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.schema import ONLY, Column, Schema
from mnist_sweep.results.models import rows
from mnist_sweep.results.models.image_decoder import DecodingError
from mnist_sweep.results.models.purpose import Purpose
from mnist_sweep.results.models.rows import Inputs

_MOST_ROWS = 1000
# Categories that a form lists, rows that it can be filled in with, and numbers of an example.
_MOST_VALUES, _EXAMPLES, _MOST_NUMBERS = 1000, 5, 2000
_FIRST_DAY = datetime(1970, 1, 1, tzinfo=UTC)


def read_rows(body: bytes, schema: Schema) -> tuple[Inputs, list[str]]:
    """Reads the rows in a request.

    Args:
        body: JSON. For a table `{"rows": [{"COLUMN": value, …}, …]}`, where null means missing; for arrays
            `{"x": [row, …]}`, or of several inputs `{"x_NAME": [row, …], …}`. At most 1,000 rows.
        schema: What the model takes.

    Returns:
        The inputs by name, and notes on the rows.

    Raises:
        DecodingError: It is something else.
    """
    try:
        # Python's own parser accepts NaN and Infinity, and raises RecursionError on deep nesting.
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise DecodingError(400, f"the body is not JSON: {first_line(error, 200)}") from None
    if not isinstance(content, dict):
        raise DecodingError(422, f"the body must be {_form_of(schema)}")
    try:
        return _table(content, schema) if schema.columns else (_arrays(content, schema), [])
    except (UserError, ValueError, TypeError, OverflowError) as error:
        raise DecodingError(422, first_line(error, 300)) from None


def _form_of(schema: Schema) -> str:
    if schema.columns:
        return '{"rows": [{"COLUMN": value, …}, …]}'
    return "{" + ", ".join(f'"{array_of(name)}": [row, …]' for name in schema.inputs) + "}"


def array_of(name: str) -> str:
    """Returns the name of an input in requests and `.npz` files: `x`, or `x_NAME` of several."""
    return ONLY if name == ONLY else f"x_{name}"


def _table(content: Mapping[str, Any], schema: Schema) -> tuple[Inputs, list[str]]:
    import pandas as pd

    given = content.get("rows")
    if set(content) != {"rows"} or not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        raise UserError(f"the body must be {_form_of(schema)}")
    _check_count(len(given), "rows")
    names = [column.name for column in schema.columns]
    for number, row in enumerate(given, start=1):
        for name in names:
            if name not in row:
                raise UserError(f"row {number} lacks {one_line(name, 50)!r}; write null if it is missing")
            if isinstance(row[name], list | dict):
                raise UserError(f"row {number}: {one_line(name, 50)!r} must be one value")
    # As objects, so that a column of numbers with a null keeps its whole numbers.
    frame = pd.DataFrame({name: pd.Series([row[name] for row in given], dtype=object) for name in names})
    return rows.of_table(frame, schema, "rows")


def _arrays(content: Mapping[str, Any], schema: Schema) -> Inputs:
    wanted = [array_of(name) for name in schema.inputs]
    if set(content) != set(wanted):
        raise UserError(f"the body must be {_form_of(schema)}")
    found = {}
    for name in wanted:
        values = content[name]
        if not isinstance(values, list) or not _are_numbers(values):
            raise UserError(f"{name} must be a list of rows of numbers")
        _check_count(len(values), name)
        try:
            found[name] = np.array(values, dtype=np.float64)
        except (ValueError, OverflowError):
            raise UserError(f"{name}: all rows must have the same shape, and numbers must fit into 64 bits") from None
    return rows.of_arrays(found, schema, "the body")


def _check_count(count: int, name: str) -> None:
    if not 1 <= count <= _MOST_ROWS:
        raise UserError(f"{name} has {count:,} rows; send 1 to {_MOST_ROWS:,} at once")


def _are_numbers(value: object) -> bool:
    return all(map(_are_numbers, value)) if isinstance(value, list) else type(value) in (int, float)


# ---- what the page needs ----------------------------------------------------------------------------------------


def inputs(purpose: Purpose) -> dict[str, Any]:
    """Returns what models take, for the page and for programs.

    Args:
        purpose: What they take.

    Returns:
        For a table, its `fields` (name, kind, the range of numbers and dates in training, the values of categories,
        whether it may be missing) and `examples`, rows of the training data. For arrays, the `inputs` with their
        shapes, and an `example` of a request unless it is long. For images, their `shape`.
    """
    schema, sample = purpose.schema, purpose.sample
    if schema.image is not None:
        return {"shape": schema.image}
    if schema.columns:
        count = min(_EXAMPLES, *(len(array) for array in sample.values())) if sample else 0
        examples = [
            {column.name: _value(column, schema, sample[column.input][i]) for column in schema.columns}
            for i in range(count)
        ]
        return {"fields": [_field(column, schema) for column in schema.columns], "examples": examples}
    shapes = [
        {"name": array_of(name), "shape": one.shape, "takes": "pixels" if one.kind == "image" else "numbers"}
        for name, one in schema.inputs.items()
    ]
    numbers = sum(int(np.prod(one.shape)) for one in schema.inputs.values())
    example = None
    if sample and numbers <= _MOST_NUMBERS:
        example = {array_of(name): [_plain(sample[name][0])] for name in schema.inputs}
    return {"inputs": shapes, "example": example}


def _field(column: Column, schema: Schema) -> dict[str, Any]:
    found: dict[str, Any] = {"name": column.name, "kind": column.kind, "optional": column.optional}
    if column.kind == "category":
        values = schema.inputs[column.input].vocabularies[column.at]
        if not column.optional and {value.lower() for value in values} == {"false", "true"}:
            # Its two values, which may be written differently.
            return {**found, "kind": "boolean", "values": sorted(values, key=str.lower)}
        return {**found, "values": values[:_MOST_VALUES], "more": max(len(values) - _MOST_VALUES, 0)}
    if column.kind == "number":
        return {**found, "low": _number(column.low), "high": _number(column.high)}
    if column.kind == "date":
        timed = column.width > 5
        ends = {"low": _date(column.low, timed=timed), "high": _date(column.high, timed=timed)}
        return {**found, "kind": "datetime" if timed else "date", **ends}
    return found


def _value(column: Column, schema: Schema, row: Array) -> Any:
    """Returns a value of a column, as JSON has it, from a row of its input."""
    vocabularies = schema.inputs[column.input].vocabularies
    if column.kind == "text":
        words = vocabularies[0]
        return " ".join(words[number - FIRST_WORD] for number in row if number >= FIRST_WORD)
    value = row[column.at]
    if column.kind == "category":
        return vocabularies[column.at][int(value) - 1] if value else None
    number = None if np.isnan(value) else float(value)
    return _date(number, timed=column.width > 5) if column.kind == "date" else _number(number)


def _number(value: float | None) -> float | int | None:
    """Returns a number in the fewest digits that identify it in 32 bits."""
    if value is None:
        return None
    short = float(str(np.float32(value)))
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _date(days: float | None, *, timed: bool) -> str | None:
    if days is None:
        return None
    try:
        date = _FIRST_DAY + timedelta(minutes=round(days * 24 * 60))
    except OverflowError:
        return None
    return date.strftime("%Y-%m-%dT%H:%M" if timed else "%Y-%m-%d")


def _plain(array: Array) -> Any:
    """Returns an array as nested lists, of numbers in the fewest digits that identify them."""
    if array.ndim == 0:
        return _number(float(array))
    return [_plain(part) for part in array]
