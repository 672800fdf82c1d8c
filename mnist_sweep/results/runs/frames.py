"""Turns the runs of trials into pandas data frames, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist_sweep.config.objective import METRICS
from mnist_sweep.results.runs.source import TAGS, Points, Record, arrays
from mnist_sweep.tracking.names import SYSTEM, TAG_METRIC, TAG_PARAM, originals

# The columns that every data frame of runs has, with their types.
_COLUMNS: dict[str, str] = {
    "sweep": "string",
    "trial": "Int64",
    "confirms": "Int64",
    "goes_on_from": "Int64",
    "status": "string",
    "reason": "string",
    "start": "datetime64[ms]",
    "end": "datetime64[ms]",
    "seconds": "Float64",
    "epochs": "Int64",
    "slot": "string",
    "run_id": "string",
    "data.name": "string",
    "data.digest": "string",
}
_WHOLE = ("metrics.best_epoch", "metrics.parameters")


def runs_frame(pages: Iterable[Sequence[Record]]) -> pd.DataFrame:
    """Makes the data frame that `load_runs` describes.

    Args:
        pages: The runs, in any order. Only one page at a time is kept in memory.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    count, texts = 0, dict[str, str]()
    for page in pages:
        for record in page:
            for name, value in _row(record).items():
                column = columns.setdefault(name, [])
                column += [None] * (count - len(column))
                # Most texts occur many times, so only one copy of each is kept.
                column.append(texts.setdefault(value, value) if isinstance(value, str) else value)
            count += 1
    others = sorted(set(columns) - set(_COLUMNS), key=lambda name: (name.startswith("metrics."), name))
    made = {}
    for name in [*_COLUMNS, *others]:
        column = columns.pop(name)
        column += [None] * (count - len(column))
        made[name] = _typed(name, column)
    frame = pd.DataFrame(made)
    return frame.sort_values(["sweep", "trial", "run_id"], ignore_index=True)


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {column: record.tags.get(tag) or None for column, tag in TAGS.items()}
    for column in ("trial", "confirms", "goes_on_from"):
        if row[column] is not None:
            # A text like `3` or `trial 3`.
            row[column] = int(row[column].rpartition(" ")[2])
    metrics = originals(record.metrics, record.tags, TAG_METRIC)
    row |= {"run_id": record.run_id, "start": record.start, "end": record.end, "epochs": record.epochs}
    row |= {"status": row["status"] or "running", "seconds": metrics.pop("seconds", None)}
    row |= {f"params.{key}": value for key, value in originals(record.params, record.tags, TAG_PARAM).items()}
    return row | {f"metrics.{key}": value for key, value in metrics.items() if not key.startswith(SYSTEM)}


def _typed(name: str, values: list[Any]) -> pd.Series[Any]:
    kind = _COLUMNS.get(name)
    if name.startswith("params."):
        return _parameter(pd.Series(values, dtype="object"))
    if kind is not None and kind.startswith("datetime"):
        return pd.Series(np.array(values, dtype=kind)).dt.tz_localize("UTC")
    # A model's own metric may have the same name.
    whole = name in _WHOLE and all(value is None or float(value).is_integer() for value in values)
    as_type: Any = kind or ("Int64" if whole else "Float64")
    return pd.Series(values, dtype="object").astype(as_type)


def _parameter(column: pd.Series[Any]) -> pd.Series[Any]:
    """Gives a hyperparameter's column the type that all of its values have."""
    different = pd.Series(column.dropna().unique(), dtype="object")
    if different.isin(["True", "False"]).all():
        return column.map({"True": True, "False": False}).astype("boolean")
    numbers = pd.to_numeric(different, errors="coerce")
    if numbers.isna().any():
        return column.astype("string")
    whole = different.str.fullmatch(r"[+-]?\d+").all()
    return column.map(dict(zip(different, numbers, strict=True))).astype("Int64" if whole else "Float64")


def curves_frame(pages: Iterable[Points]) -> pd.DataFrame:
    """Makes the data frame that `load_curves` describes.

    Args:
        pages: The points. Each page has other trials, in any order.
    """
    trials: list[tuple[str, int]] = []
    parts = [arrays((), (), (), ())]
    known = {name: number for number, name in enumerate(METRICS)}
    for page in pages:
        metrics = np.array([known.setdefault(name, len(known)) for name in page.metrics], np.int32)
        parts.append((page.trial + len(trials), metrics[page.metric], page.epoch, page.value))
        trials += page.trials
    trial, metric, epoch, value = (np.concatenate(part) for part in zip(*parts, strict=True))
    parts.clear()
    place = np.empty(len(trials), np.int32)
    place[sorted(range(len(trials)), key=trials.__getitem__)] = np.arange(len(trials))
    # A stable sort: of several points for one epoch, the last stays the last.
    order = np.lexsort((epoch, metric, place[trial]))
    trial, metric, epoch, value = trial[order], metric[order], epoch[order], value[order]
    last = np.ones(len(trial), dtype=bool)
    last[:-1] = (np.diff(trial) != 0) | (np.diff(metric) != 0) | (np.diff(epoch) != 0)
    trial, metric, epoch, value = trial[last], metric[last], epoch[last], value[last]
    sweeps = {sweep: code for code, sweep in enumerate(sorted({sweep for sweep, _ in trials}))}
    sweep_of = np.array([sweeps[sweep] for sweep, _ in trials], dtype=np.int32)
    numbers = np.array([number for _, number in trials], dtype=np.int32)
    return pd.DataFrame(
        {
            "sweep": _categories(sweep_of[trial], list(sweeps)),
            "trial": numbers[trial],
            "epoch": epoch,
            "metric": _categories(metric, list(known)),
            "value": value,
        }
    )


def _categories(codes: NDArray[np.signedinteger[Any]], names: Sequence[str]) -> pd.Categorical[Any]:
    """A categorical column, with the names that occur as its categories."""
    found: pd.Categorical[Any] = pd.Categorical.from_codes(codes, pd.Index(list(names)))
    return found.remove_unused_categories()


def searched(frame: pd.DataFrame) -> list[str]:
    """The names of the searched hyperparameters in which the trials differ.

    Args:
        frame: As `load_runs` returns it. For one sweep, `attrs["space"]` names the searched hyperparameters; without
            it, all parameters count as searched.
    """
    known = [column.removeprefix("params.") for column in frame.columns if column.startswith("params.")]
    names = frame.attrs.get("space") or known
    return [name for name in names if name in known and frame[f"params.{name}"].nunique(dropna=False) > 1]
