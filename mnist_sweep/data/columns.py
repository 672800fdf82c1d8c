"""Turns the columns of a table into the inputs of a model: numbers, codes of categories, and numbers of words."""

from __future__ import annotations

import itertools
import string
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import counted, one_line
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.schema import Column, ColumnKind, Input

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NUMBERS, CATEGORIES, TEXT = "numbers", "categories", "text"
# The numbers of words in an input of text: 0 after the last word, 1 for an unknown one, the others from here.
UNKNOWN_WORD, FIRST_WORD = 1, 2
_MOST_WORDS = 100_000
_BLOCK = 4096
# A column of more different texts than this, all different, names its rows.
_MOST_NAMES = 50
# Periods of dates, in days.
_YEAR, _WEEK, _DAY = ("year", 365.2425), ("week", 7.0), ("day", 1.0)
_NANOSECONDS = 86_400e9
_ISO = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}.*)?"
_OTHER_DATE = r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(?: .*)?"
_LOOKED_AT = 1000
# As `TextVectorization`, which knows the capital letters of English only.
_PLAIN = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.punctuation)
_SHOWN = 5


@dataclass
class Described:
    """What the columns of a table are.

    Attributes:
        columns: The columns that are used.
        inputs: The inputs that are made from them.
        notes: What the user should know about how they were read; a line each.
        constant: The columns with the same value in every row, which are not used.
        ready: What `encode` would find out once more, by column: numbers (N, k), or places of categories (N,).
    """

    columns: list[Column] = field(default_factory=list)
    inputs: dict[str, Input] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    ready: dict[str, Array] = field(default_factory=dict)


def describe(
    frame: DataFrame, names: Sequence[str], categories: Collection[str], texts: Collection[str], length: int, where: str
) -> Described:
    """Finds out what the columns of a table are.

    Args:
        frame: The rows to train and validate on.
        names: The columns to use.
        categories: Those of them that are categories although they have numbers.
        texts: Those of them that are texts, in words.
        length: How many words of a text are used, from its start.
        where: What the table is, for messages.

    Raises:
        UserError: A column has values of a kind that cannot be used, or no column has different values.
    """
    found = Described()
    constant, naming = found.constant, list[str]()
    numbers, coded = list[Column](), list[tuple[Column, tuple[str, ...]]]()
    for name in names:
        series = frame[name]
        column = _column(series, name, name in categories, name in texts, where, found.notes)
        if column.kind == "text":
            split = _split(series, length)
            words = _vocabulary(split)
            if not words or series.nunique(dropna=False) == 1:
                constant.append(name)
                continue
            column = replace(column, input=f"{TEXT}{len(found.columns) + 1}")
            found.columns.append(column)
            found.inputs[column.input] = Input("text", (int(split.lengths.max()),), (name,), (words,))
        elif column.kind == "category":
            codes, unsorted = factorized(as_text(series, name, where))
            different = tuple(sorted(unsorted))
            found.ready[name] = _places_in(unsorted, different)[codes]
            if len(different) + column.optional < 2:
                constant.append(name)
            elif len(different) > _MOST_NAMES and len(different) == len(frame):
                naming.append(name)
            else:
                coded.append((column, different))
        else:
            values = found.ready[name] = _numbers(series, column, where)
            missing = np.isnan(values[:, 0])
            if missing.all() or (not missing.any() and (values[:, 0] == values[0, 0]).all()):
                constant.append(name)
            else:
                low, high = float(np.nanmin(values[:, 0])), float(np.nanmax(values[:, 0]))
                width, optional = values.shape[1], bool(missing.any())
                numbers.append(replace(column, width=width, optional=optional, low=low, high=high))
    # Models then take the columns with missing values, and those with few categories, from one place.
    numbers.sort(key=lambda column: not column.optional)
    coded.sort(key=lambda pair: len(pair[1]))
    if numbers:
        places = [place for column in numbers for place in _places(column)]
        found.inputs[NUMBERS] = Input("numbers", (len(places),), tuple(places))
        found.columns += _in_order(numbers)
    if coded:
        columns, vocabularies = zip(*coded, strict=True)
        found.inputs[CATEGORIES] = Input(
            "categories", (len(columns),), tuple(column.name for column in columns), vocabularies
        )
        found.columns += _in_order(columns)
    if constant:
        they = "it has" if len(constant) == 1 else "they have"
        found.notes.append(f"{_named(constant)} not used, because {they} the same value in every row")
    if naming:
        found.notes.append(
            f"{_named(naming)} not used, because all values are different; to read words, set data.text={_list(naming)}"
        )
    if not found.columns:
        raise UserError(
            f"{where}: no column is left to predict from; each has the same value in every row, or only different ones"
        )
    return found


def _in_order(columns: Sequence[Column]) -> list[Column]:
    """Returns columns that follow each other in an input, with their places in it."""
    starts = itertools.accumulate((column.width for column in columns), initial=0)
    return [replace(column, at=at) for column, at in zip(columns, starts, strict=False)]


def _places(column: Column) -> list[str]:
    """Returns the names of the numbers that are made from a column."""
    turns = [f"{column.name} ({name}, {part})" for name, _ in periods(column.width) for part in ("sin", "cos")]
    return [column.name, *turns]


def encode(
    frame: DataFrame,
    columns: Sequence[Column],
    inputs: Mapping[str, Input],
    where: str,
    ready: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Turns rows of a table into inputs.

    Args:
        frame: The rows, with at least the given columns; values may be missing, and texts may stand for numbers.
        columns: The columns, from a schema.
        inputs: The inputs, from a schema.
        where: What the rows are, for messages.
        ready: What `describe` has found out about these rows.

    Returns:
        The inputs by name, each (N, …), as the schema says. A category that the schema does not have is 0.

    Raises:
        UserError: A column is missing, or a value is of the wrong kind.
    """
    check_columns([column.name for column in columns], frame.columns, where)
    found: dict[str, Array] = {}
    for name, one in inputs.items():
        dtype = np.float32 if one.kind == "numbers" else np.int32
        found[name] = np.zeros((len(frame), *one.shape), dtype)
    parts: dict[str, list[tuple[Column, Array]]] = {name: [] for name in inputs}
    for column in columns:
        series, to, one = frame[column.name], found[column.input], inputs[column.input]
        known = None if ready is None else ready.get(column.name)
        if column.kind == "text":
            _place(_split(series, one.shape[0]), one.vocabularies[0], to)
        elif column.kind == "category":
            vocabulary = one.vocabularies[column.at]
            codes = codes_of(as_text(series, column.name, where), vocabulary) if known is None else known
            parts[column.input].append((column, codes[:, None] + 1))
        else:
            numbers = _numbers(series, column, where) if known is None else known
            parts[column.input].append((column, numbers))
    for name, some in parts.items():
        # In blocks that the processor's cache holds: a column at a time takes four times as long.
        for start in range(0, len(frame), _BLOCK):
            for column, values in some:
                block = values[start : start + _BLOCK]
                found[name][start : start + _BLOCK, column.at : column.at + column.width] = block
    return found


def codes_of(values: Series[Any], vocabulary: Sequence[str]) -> Array:
    """Returns the place of each value in a vocabulary, (N,), int64; -1 if it is missing or not there."""
    # The few different values are looked up, and not each row's.
    codes, different = factorized(values)
    return _places_in(different, vocabulary)[codes]


def factorized(values: Series[Any]) -> tuple[Array, list[str]]:
    """Returns the number of each row's value, (N,), -1 if it is missing, and the different values in this order."""
    import pandas as pd

    codes, different = pd.factorize(values)
    return codes, list(map(str, different))


def _places_in(values: Sequence[str], vocabulary: Sequence[str]) -> Array:
    """Returns the place of each value in a vocabulary, -1 if it is not there; and -1 after the last one."""
    places = {value: place for place, value in enumerate(vocabulary)}
    return np.array([*(places.get(value, -1) for value in values), -1], np.int64)


def check_columns(wanted: Sequence[str], there: Collection[str], where: str) -> None:
    """Checks that a table has columns.

    Raises:
        UserError: It lacks one.
    """
    for name in wanted:
        if name not in there:
            raise UserError(f"{where}: has no column {one_line(name, 50)!r}{did_you_mean(name, list(there))}")


def _column(series: Series[Any], name: str, is_category: bool, is_text: bool, where: str, notes: list[str]) -> Column:
    """Returns what a column is, without its place."""
    from pandas.api import types

    dtype, optional = series.dtype, bool(series.isna().any())
    kind: ColumnKind = "category"
    if is_text:
        return Column(name, "text", TEXT)
    if is_category or types.is_bool_dtype(dtype) or isinstance(dtype, types.CategoricalDtype):
        return Column(name, "category", CATEGORIES, optional=optional)
    if types.is_datetime64_any_dtype(dtype):
        kind = "date"
    elif types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        kind = "number"
    elif types.is_string_dtype(dtype) or types.is_object_dtype(dtype):
        texts = as_text(series, name, where).dropna()
        sample = texts.iloc[:_LOOKED_AT]
        if len(sample) and sample.str.fullmatch(_ISO).all() and _dates(texts).notna().all():
            kind = "date"
        elif (missing := _placeholder(texts)) is not None:
            if missing:
                rows = counted(int((texts == missing).sum()), "row")
                notes.append(
                    f"{one_line(name, 50)!r} is a column of numbers, whose {missing!r} in {rows} means missing"
                )
            return Column(name, "number", NUMBERS, optional=optional or bool(missing), missing=missing)
        elif len(sample) and sample.str.fullmatch(_OTHER_DATE).all():
            notes.append(
                f"{one_line(name, 50)!r} is read as categories; if its values are dates, write them as 2024-12-31"
            )
    else:
        raise UserError(
            f"{where}: column {one_line(name, 50)!r} has values of type {dtype}, which cannot be used; "
            f"add it to data.drop"
        )
    return Column(name, kind, CATEGORIES if kind == "category" else NUMBERS, optional=optional)


def _placeholder(texts: Series[Any]) -> str | None:
    """Returns the one text among numbers that stands for a missing one, or ""; None if texts are not numbers."""
    import pandas as pd

    if not len(texts) or pd.to_numeric(texts.iloc[:_LOOKED_AT], errors="coerce").isna().mean() > 0.5:
        return None
    others = texts[pd.to_numeric(texts, errors="coerce").isna()].unique()
    return None if len(others) > 1 else "".join(map(str, others))


def as_text(series: Series[Any], name: str, where: str) -> Series[Any]:
    """Returns the values of categories as texts, and None or NaN where they are missing."""
    import pandas as pd
    from pandas.api import types

    dtype = series.dtype
    if isinstance(dtype, types.CategoricalDtype):
        return series.astype(dtype.categories.dtype).pipe(as_text, name, where)
    if types.is_float_dtype(dtype):
        values = series.to_numpy(np.float64, na_value=np.nan)
        present = values[np.isfinite(values)]
        if np.array_equal(present, np.rint(present)):
            series = series.where(np.isfinite(values)).astype("Int64")
        return series.astype("string").astype(object)
    if isinstance(dtype, pd.StringDtype):
        return series
    if types.is_object_dtype(dtype):
        kinds = set(map(type, series))
        if kinds & {list, dict, tuple, set, np.ndarray, bytes}:
            raise UserError(
                f"{where}: column {one_line(name, 50)!r} has lists or other values that are not one number, date or "
                "text; add it to data.drop"
            )
        return series.map(_value_text, na_action="ignore").astype(object)
    return series.astype("string").astype(object)


def _value_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _numbers(series: Series[Any], column: Column, where: str) -> Array:
    """Returns the numbers of a column, (N, k), float32; NaN where they are missing or infinite."""
    import pandas as pd
    from pandas.api import types

    if column.kind == "date":
        return _of_dates(series, column, where)
    if not types.is_numeric_dtype(series.dtype):
        values = pd.to_numeric(series, errors="coerce")
        wrong = values.isna() & series.notna()
        if column.missing:
            wrong &= series != column.missing
        _refuse(series, wrong, column.name, "is not a number", where)
        series = values
    with np.errstate(over="ignore"):
        # Whole numbers and floats without a mask of missing ones are not copied on the way.
        plain = isinstance(series.dtype, np.dtype)
        given = series.to_numpy() if plain else series.to_numpy(np.float64, na_value=np.nan)
        numbers: Array = given.astype(np.float32)
    infinite = ~np.isfinite(numbers)
    if infinite.any():
        numbers[infinite] = np.nan
    return numbers[:, None]


def _of_dates(series: Series[Any], column: Column, where: str) -> Array:
    """Returns days since 1970, and their places in a year, a week and, if there are times, a day."""
    dates = _dates(series)
    _refuse(series, dates.isna() & series.notna(), column.name, "is not a date such as 2024-12-31", where)
    days: Array = dates.to_numpy("datetime64[ns]").astype(np.int64) / _NANOSECONDS
    days[dates.isna().to_numpy()] = np.nan
    # To 3 minutes, as models get float32.
    days = days.astype(np.float32).astype(np.float64)
    width = column.width
    if width == 1:
        # When columns are described.
        width = 7 if (np.nan_to_num(days) % 1 != 0).any() else 5
    turns = [2 * np.pi * days / period for _, period in periods(width)]
    parts = [days, *itertools.chain.from_iterable((np.sin(turn), np.cos(turn)) for turn in turns)]
    return np.stack(parts, axis=1, dtype=np.float32, casting="same_kind")


def periods(width: int) -> list[tuple[str, float]]:
    """Returns the periods, in days and with their names, whose sine and cosine a date of so many numbers has."""
    return [_YEAR, _WEEK, _DAY][: width // 2]


def _dates(series: Series[Any]) -> Series[Any]:
    """Returns dates without a time zone; NaT where there are none."""
    import pandas as pd
    from pandas.api import types

    if not types.is_datetime64_any_dtype(series.dtype):
        series = pd.to_datetime(series, format="ISO8601", errors="coerce", utc=True)
    return series.dt.tz_convert(None) if getattr(series.dt, "tz", None) is not None else series


def order_of(series: Series[Any], where: str, key: str) -> Array:
    """Returns the order of the rows by a column of dates or numbers: indices, (N,), int64.

    Raises:
        UserError: A row has no value, or the values are neither dates nor numbers.
    """
    import pandas as pd
    from pandas.api import types

    _refuse_missing(series, where, key)
    if not types.is_numeric_dtype(series.dtype) and not types.is_datetime64_any_dtype(series.dtype):
        values = pd.to_numeric(series, errors="coerce")
        if values.isna().any():
            values = _dates(series)
            _refuse(series, values.isna(), str(series.name), "is neither a number nor a date such as 2024-12-31", where)
        series = values
    order: Array = np.argsort(series.to_numpy(), kind="stable")
    return order


def _refuse_missing(series: Series[Any], where: str, key: str) -> None:
    missing = series.isna().to_numpy()
    if missing.any():
        rows = counted(int(missing.sum()), "row")
        raise UserError(
            f"{where}: {key}={series.name} has no value in {rows}, first in row {1 + int(missing.argmax())}"
        )


def _refuse(series: Series[Any], wrong: Series[Any], name: str, problem: str, where: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        value = one_line(str(series.iloc[row]), 50)
        raise UserError(f"{where}: {value!r} in column {one_line(name, 50)!r}, row {row + 1}, {problem}")


# ---- texts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Texts:
    """Texts in words: `words[i]` is the word that has number i in `flat`, which has the texts one after another."""

    flat: Array
    lengths: Array
    words: list[str]


def _split(series: Series[Any], length: int) -> _Texts:
    """Splits texts into words as Keras's `TextVectorization` does: in lower case, without punctuation."""
    index: defaultdict[str, int] = defaultdict()
    index.default_factory = index.__len__
    number: Callable[[str], int] = index.__getitem__
    flat, lengths = array("i"), array("i")
    for text in series.where(series.notna(), "").astype(str).tolist():
        words = text.translate(_PLAIN).split()[:length]
        lengths.append(len(words))
        flat.extend(map(number, words))
    return _Texts(np.frombuffer(flat, np.int32), np.frombuffer(lengths, np.int32), list(index))


def _vocabulary(texts: _Texts) -> tuple[str, ...]:
    """Returns the words of texts, the most frequent first."""
    counts = np.bincount(texts.flat, minlength=len(texts.words))
    order = sorted(range(len(texts.words)), key=lambda i: (-counts[i], texts.words[i]))
    return tuple(texts.words[i] for i in order[:_MOST_WORDS])


def _place(texts: _Texts, vocabulary: Sequence[str], to: Array) -> None:
    """Writes the numbers of words to (N, length), which is zero. A text without words gets one that is unknown."""
    known = {word: number for number, word in enumerate(vocabulary, start=FIRST_WORD)}
    numbers = np.array([known.get(word, UNKNOWN_WORD) for word in texts.words], np.int32)
    rows = np.repeat(np.arange(len(texts.lengths)), texts.lengths)
    starts = np.cumsum(texts.lengths) - texts.lengths
    places = np.arange(len(texts.flat)) - np.repeat(starts, texts.lengths)
    if len(numbers):
        to[rows, places] = numbers[texts.flat]
    to[texts.lengths == 0, 0] = UNKNOWN_WORD


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 50) for name in names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
    return f"column {shown}:" if len(names) == 1 else f"columns {shown}:"


def _list(names: Sequence[str]) -> str:
    return f"[{','.join(one_line(name, 50) for name in names[:_SHOWN])}]"
