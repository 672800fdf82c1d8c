"""Loads a table: a column or several to predict, and columns to predict them from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import counted, one_line
from mnist_sweep.data import columns, table_files
from mnist_sweep.data.dataset import Array, LoadedData, PartName, Rows
from mnist_sweep.data.schema import Schema, Target, TargetKind

if TYPE_CHECKING:
    from pandas import DataFrame, Series

# `task=auto` takes whole numbers as classes if there are at most so many different ones.
_FEW = 20
_MOST_CLASSES = 1000
_SHOWN = 5


@dataclass(frozen=True)
class Options:
    """The group `data` of a table; `conf/data/table.yaml` describes its keys."""

    target: Sequence[str]
    features: Sequence[str] | None
    drop: Sequence[str]
    categories: Sequence[str]
    text: Sequence[str]
    text_length: int
    group: str | None
    time: str | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Returns the options in a config."""
        target = [given["target"]] if isinstance(given["target"], str) else list(given["target"])
        names = ("features", "drop", "categories", "text", "text_length", "group", "time")
        return cls(target, **{name: given[name] for name in names})


@dataclass(frozen=True)
class Frame:
    """A part of a table.

    Attributes:
        rows: Its rows, with the columns to predict.
        where: The start of an error's message.
        weights: (N,), float32, how much each row counts; None if all count alike.
    """

    rows: DataFrame
    where: str
    weights: Array | None = None


def load(path: str, options: Mapping[str, Any], wanted: TargetKind | None) -> LoadedData:
    """Loads and checks a table.

    Args:
        path: The file.
        options: The group `data`, by key.
        wanted: The kind of target that the task needs; None to tell it from the column.

    Returns:
        The data, with a test part if `data.test_path` names one.

    Raises:
        UserError: A file cannot be read, lacks a column, or has values that cannot be used.
    """
    where = f"data.path={path}"
    frame = table_files.read(path)
    notes = _without_index(frame, where)
    parts: dict[PartName, Frame] = {"train": Frame(frame, where)}
    if (test_path := options["test_path"]) is not None:
        test = Frame(table_files.read(test_path, "data.test_path"), f"data.test_path={test_path}")
        _without_index(test.rows, test.where)
        parts["test"] = test
    data = from_frames(parts, Options.of(options), wanted)
    return replace(data, name="table", source=path, notes=(*notes, *data.notes))


def from_frames(parts: Mapping[PartName, Frame], given: Options, wanted: TargetKind | None) -> LoadedData:
    """Checks a table of one part or several.

    Args:
        parts: The parts, with at least one row each; their columns have different names, which are texts.
        given: What the columns are.
        wanted: The kind of target that the task needs; None to tell it from the column.

    Returns:
        The data, without a name.

    Raises:
        UserError: A part lacks a column, or has values that cannot be used.
    """
    frame, where, weights = parts["train"].rows, parts["train"].where, parts["train"].weights
    names = _features(frame, given, where)
    if given.time is not None:
        order = columns.order_of(frame[given.time], where, "data.time")
        frame = frame.iloc[order].reset_index(drop=True)
        weights = None if weights is None else weights[order]
    found = columns.describe(frame, names, given.categories, given.text, given.text_length, where)
    _refuse_constant(found.constant, given, where)
    target, about = _target(frame, given.target, wanted, where)
    train = Rows(
        columns.encode(frame, found.columns, found.inputs, where, found.ready),
        _targets(frame, given.target, target, where),
        weights,
    )
    others = {name: _more(part, given, names, found, target, where) for name, part in parts.items() if name != "train"}
    groups = {} if given.group is None else _groups(given.group, {**parts, "train": Frame(frame, where)})
    return LoadedData(
        "",
        "",
        Schema(found.inputs, target, tuple(found.columns)),
        train,
        others.get("test"),
        others.get("val"),
        groups=groups.get("train"),
        validation_groups=groups.get("val"),
        ordered=given.time is not None,
        notes=(*found.notes, about),
    )


def _without_index(frame: DataFrame, where: str) -> list[str]:
    """Removes the first column if it is the index that pandas writes unless it is told not to."""
    first = frame.columns[0]
    if first not in ("", "Unnamed: 0", "__index_level_0__") or not np.array_equal(frame[first], np.arange(len(frame))):
        return []
    del frame[first]
    if not len(frame.columns):
        raise UserError(f"{where}: has no columns")
    return ["the first column is not used: it has no name and counts the rows"]


def _features(frame: DataFrame, given: Options, where: str) -> list[str]:
    """Returns the columns to predict from.

    Raises:
        UserError: A key names a column that does not exist, or two keys the same one.
    """
    used = {"data.target": given.target, "data.drop": given.drop, "data.categories": given.categories}
    used |= {"data.text": given.text, "data.features": given.features or ()}
    used |= {f"data.{key}": [name] for key in ("group", "time") if (name := getattr(given, key)) is not None}
    for key, names in used.items():
        columns.check_columns(names, frame.columns, f"{key}={_listed(names)}: {where.removeprefix('data.path=')}")
    for key in ("data.features", "data.drop", "data.group", "data.time"):
        if twice := [name for name in given.target if name in used.get(key, ())]:
            raise UserError(f"{key}={_listed(used[key])}: {one_line(twice[0], 50)} is data.target already")
    if twice := [name for name in given.features or () if name in given.drop]:
        raise UserError(f"data.drop={_listed(given.drop)}: {one_line(twice[0], 50)} is in data.features, too")
    if twice := [name for name in given.text if name in given.categories]:
        raise UserError(f"data.categories={_listed(given.categories)}: {one_line(twice[0], 50)} is in data.text, too")
    if given.features is not None:
        # A column of text is used even if only `data.text` names it.
        wanted = {*given.features, *given.text, *given.categories}
        return [name for name in frame.columns if name in wanted]
    unused = {*given.target, *given.drop, given.group, given.time}
    names = [name for name in frame.columns if name not in unused]
    if not names:
        raise UserError(f"{where}: has no column to predict {_listed(given.target)} from")
    return names


def _refuse_constant(constant: Collection[str], given: Options, where: str) -> None:
    """Refuses columns that the user has asked for, although nothing can be learned from them."""
    wanted = {"data.features": given.features or (), "data.categories": given.categories, "data.text": given.text}
    for key, names in wanted.items():
        if useless := [name for name in names if name in constant]:
            raise UserError(
                f"{key}={_listed(names)}: {where.removeprefix('data.path=')} has the same value in every row of column "
                f"{one_line(useless[0], 50)!r}; leave it out"
            )


# ---- targets ----------------------------------------------------------------------------------------------------


def _target(frame: DataFrame, names: Sequence[str], wanted: TargetKind | None, where: str) -> tuple[Target, str]:
    """Returns what to predict, and a note on it."""
    for name in names:
        series = frame[name]
        missing = int(series.isna().sum())
        if missing:
            raise UserError(
                f"{where}: data.target={one_line(name, 50)} has no value in {counted(missing, 'row')}; remove "
                f"{'this row' if missing == 1 else 'these rows'}"
            )
        if series.nunique() < 2:
            raise UserError(f"{where}: data.target={one_line(name, 50)} has the same value in every row")
    shown = _listed(names)
    kind = _kind(frame, names, wanted)
    if kind == "classes":
        return _classes(frame[names[0]], wanted, where)
    if kind == "labels":
        for name in names:
            if not _is_label(frame[name]):
                raise UserError(f"{where}: data.target={one_line(name, 50)} has other values than 0 and 1")
        return Target("labels", len(names), tuple(names)), f"predicts labels: {shown}; any number of them may be 1"
    for name in names:
        _as_numbers(frame[name], wanted, where)
    what = "a number" if len(names) == 1 else counted(len(names), "number")
    note = f"predicts {what}: {shown}"
    if len(names) == 1 and wanted is None and _whole(frame[names[0]]):
        note += f" ({frame[names[0]].nunique()} different ones; with task=classification, each would be a class)"
    return Target("numbers", len(names), tuple(names)), note


def _kind(frame: DataFrame, names: Sequence[str], wanted: TargetKind | None) -> TargetKind:
    if wanted == "classes" and len(names) > 1:
        raise UserError(
            f"data.target={_listed(names)}: one column has the classes; name one, or write task=multilabel for "
            "columns of 0 and 1"
        )
    if wanted is not None:
        return wanted
    if len(names) > 1:
        return "labels" if all(_is_label(frame[name]) for name in names) else "numbers"
    series = frame[names[0]]
    if not _is_number(series) or (_whole(series) and series.nunique() <= min(_FEW, len(series) // 2)):
        return "classes"
    return "numbers"


def _classes(series: Series[Any], wanted: TargetKind | None, where: str) -> tuple[Target, str]:
    given = f"{where}: data.target={one_line(str(series.name), 50)}"
    names = _class_names(series)
    most = min(_MOST_CLASSES, len(series) // 2)
    if len(names) > max(most, 2):
        hint = "; to predict numbers, write task=regression" if _is_number(series) else ""
        raise UserError(f"{given} has {len(names):,} different values in {len(series):,} rows, too many classes{hint}")
    note = f"predicts one of {counted(len(names), 'class', 'classes')}: {_listed(names)}"
    if wanted is None and _is_number(series) and not _is_bool(series):
        note += " (to predict a number, write task=regression)"
    return Target("classes", len(names), tuple(names)), note


def _targets(frame: DataFrame, names: Sequence[str], target: Target, where: str) -> Array:
    """Returns the targets of rows, as `schema.Target` says."""
    if target.kind == "classes":
        texts = _class_texts(frame[names[0]])
        codes = columns.codes_of(texts, target.names)
        if (codes < 0).any():
            row = int((codes < 0).argmax())
            raise UserError(
                f"{where}: {one_line(texts.iloc[row], 50)!r} in column {one_line(names[0], 50)!r}, row {row + 1}, is a "
                "class that the rows to train on do not have"
            )
        return codes
    values = [_as_numbers(frame[name], target.kind, where) for name in names]
    if target.kind == "numbers" and len(values) == 1:
        return values[0]
    return np.ascontiguousarray(np.stack(values, axis=1))


def _as_numbers(series: Series[Any], wanted: TargetKind | None, where: str) -> Array:
    import pandas as pd

    given = f"{where}: data.target={one_line(str(series.name), 50)}"
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~(np.abs(numbers) <= np.finfo(np.float32).max)
    if wrong.any():
        row = int(wrong.argmax())
        hint = "" if wanted is None else f"; write task={'regression' if wanted == 'labels' else 'classification'}"
        raise UserError(
            f"{given}: {one_line(str(series.iloc[row]), 50)!r} in row {row + 1} is not a finite number{hint}"
        )
    return numbers.astype(np.float32)


def _is_bool(series: Series[Any]) -> bool:
    from pandas.api import types

    return types.is_bool_dtype(series.dtype)


def _is_number(series: Series[Any]) -> bool:
    from pandas.api import types

    return types.is_numeric_dtype(series.dtype) and not _is_bool(series)


def _whole(series: Series[Any]) -> bool:
    values = series.to_numpy(np.float64)
    return bool((values == np.rint(values)).all())


def _is_label(series: Series[Any]) -> bool:
    return _is_bool(series) or (_is_number(series) and bool(series.isin((0, 1)).all()))


def _class_names(series: Series[Any]) -> list[str]:
    """Returns the names of the classes: numbers in their order, texts in that of the alphabet."""
    different = series.drop_duplicates()
    if _is_number(series) or _is_bool(series):
        return list(_class_texts(different.sort_values()))
    return sorted(_class_texts(different))


def _class_texts(series: Series[Any]) -> Series[Any]:
    return columns.as_text(series, str(series.name), "data.target")


# ---- rows -------------------------------------------------------------------------------------------------------


def _more(
    part: Frame, given: Options, names: Sequence[str], found: columns.Described, target: Target, of_training: str
) -> Rows:
    """Reads the rows of a part to validate or to test on."""
    frame, where = part.rows, part.where
    columns.check_columns([*names, *given.target], frame.columns, where)
    if given.features is None:
        known = {*names, *given.target, *given.drop, given.group, given.time}
        if others := [name for name in frame.columns if name not in known]:
            raise UserError(
                f"{where}: has a column {one_line(others[0], 50)!r}, which {of_training} lacks; add it to "
                "data.drop, or name the columns to use in data.features"
            )
    missing = frame[list(given.target)].isna().any(axis=1).to_numpy()
    if missing.any():
        rows = counted(int(missing.sum()), "row")
        raise UserError(f"{where}: data.target={_listed(given.target)} has no value in {rows}")
    encoded = columns.encode(frame, found.columns, found.inputs, where)
    return Rows(encoded, _targets(frame, given.target, target, where), part.weights)


def _groups(name: str, parts: Mapping[PartName, Frame]) -> dict[PartName, Array]:
    """Returns the group of each row to train or validate on; a row without one is a group by itself."""
    import pandas as pd

    given = {part: one for part, one in parts.items() if part != "test"}
    for one in given.values():
        columns.check_columns([name], one.rows.columns, one.where)
    codes = pd.concat([one.rows[name] for one in given.values()]).factorize()[0].astype(np.int64)
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    ends = np.cumsum([len(one.rows) for one in given.values()])
    return dict(zip(given, np.split(codes, ends[:-1]), strict=True))


def _listed(names: Sequence[str]) -> str:
    return one_line(", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else ""), 200)
