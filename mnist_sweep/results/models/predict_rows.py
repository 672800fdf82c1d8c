"""Predicts from the rows of tables and from arrays, and writes the predictions beside them."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import read_npz
from mnist_sweep.common.tables import Column, line_printer, show, standard_output
from mnist_sweep.common.text import counted, format_value, one_line, os_reason, printable
from mnist_sweep.data import table_files
from mnist_sweep.data.dataset import Array
from mnist_sweep.results.models import rows
from mnist_sweep.results.models.model_run import ModelRun, quiet
from mnist_sweep.results.models.purpose import Purpose

if TYPE_CHECKING:
    from pandas import DataFrame

_NPZ = ".npz"
_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".xlsx", ".xlsm", ".xls", ".ods", ".gz", ".bz2", ".xz", ".zip")
# Classes, labels or numbers in a line.
_SHOWN = 4


@dataclass(frozen=True)
class _Read:
    """The rows of a file: what a model takes, notes, and the table if it is one."""

    file: Path
    inputs: dict[str, Array]
    notes: list[str]
    frame: DataFrame | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def has_rows(file: Path) -> bool:
    """Returns whether a file is a table or has arrays, by its name, rather than a picture."""
    return file.suffix.lower() in (_NPZ, *_TABLES)


def about(model: ModelRun, purpose: Purpose) -> dict[str, Any]:
    """Returns what JSON says about the model that predicts."""
    found = {"sweep": model.sweep, "trial": model.trial, "run_id": model.run.info.run_id, "task": purpose.task}
    return found | ({} if purpose.target.kind == "numbers" else {purpose.target.kind: purpose.names})


def predict(
    files: Sequence[Path], model: ModelRun, purpose: Purpose, folder: Path, *, as_json: bool, to: Path | None
) -> int:
    """Predicts from the rows of files, and writes the predictions beside each, or prints all as JSON.

    Args:
        files: The files, as for `predict.predict`.
        model: The model.
        purpose: What it takes and predicts.
        folder: Where to put the files that are fetched.
        as_json: Whether to print the predictions instead, and to write them only if `to` names a file.
        to: Where to write them; None for `NAME_predictions` beside each file.

    Returns:
        The exit code: 0, or 2 if a file could not be read.

    Raises:
        UserError: The predictions cannot be written.
    """
    if to is not None and len(files) > 1:
        raise UserError(f"--to={to}: is for one file, not for {len(files)}")
    found, errors = list[_Read](), list[UserError]()
    for file in files:
        try:
            found.append(_read(file, purpose))
        except UserError as error:
            errors.append(error)
    predicted = _predicted(model, found, folder) if found else []
    written = dict[Path, Path]()
    if to is not None or not as_json:
        for read, values in zip(found, predicted, strict=True):
            written[read.file] = _write(read, values, purpose, to, written)
    if as_json:
        print(json.dumps({"model": about(model, purpose), "files": _as_json(found, predicted, purpose, written)}))
    elif found:
        _show(model, purpose, found, predicted, written)
    for unreadable in errors:
        print(f"mnist_sweep: {unreadable}", file=sys.stderr)
    return 2 if errors else 0


def _read(file: Path, purpose: Purpose) -> _Read:
    where, schema = printable(str(file)), purpose.schema
    if schema.columns:
        if file.suffix.lower() == _NPZ or not (has_rows(file) or not file.suffix):
            raise UserError(f"{where}: the model takes the columns of a table; give a CSV, Parquet or Excel file")
        frame = table_files.read(str(file), None)
        inputs, notes = rows.of_table(frame, schema, where)
        return _Read(file, inputs, notes, frame)
    if file.suffix.lower() != _NPZ:
        one = "pictures, or an .npz file with" if schema.image else "an .npz file with"
        names = ", ".join(
            f"{name if name == 'x' else f'x_{name}'} (N, {', '.join(map(str, given.shape))})"
            for name, given in schema.inputs.items()
        )
        raise UserError(f"{where}: the model takes arrays; give {one} {names}")
    return _Read(file, rows.of_arrays(read_npz(file, where), schema, where), [], None)


def _predicted(model: ModelRun, found: Sequence[_Read], folder: Path) -> list[Array]:
    loaded = model.load(folder)
    with quiet():
        from mnist_sweep.training import saved

        return [saved.predict(loaded, read.inputs) for read in found]


def _write(read: _Read, predicted: Array, purpose: Purpose, to: Path | None, taken: dict[Path, Path]) -> Path:
    name = read.file.name
    for suffix in (".gz", ".bz2", ".xz", ".zip"):
        name = name.removesuffix(suffix)
    stem, end = Path(name).stem, ".csv" if read.frame is not None else _NPZ
    path = to or read.file.with_name(f"{stem}_predictions{end}")
    if path in taken.values():
        path = read.file.with_name(f"{read.file.name}_predictions{end}")
    columns = purpose.columns(predicted)
    try:
        if read.frame is not None:
            table = read.frame.assign(**_beside(columns, read.frame.columns))
            write_whole(path, lambda target: table.to_csv(target, index=False), follow=to is not None)
        else:
            arrays = {name: np.asarray(values) for name, values in columns.items()}
            arrays = {"predictions": predicted, **arrays}
            write_whole(path, lambda target: _save_npz(target, arrays), follow=to is not None)
    except OSError as error:
        advice = "" if to is not None else "; name another file with --to"
        raise UserError(f"{path}: cannot be written ({os_reason(error)}){advice}") from None
    return path


def _beside(columns: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """Returns columns under names that a table does not have: `probability_2` if it has a `probability`."""
    found = dict[str, Any]()
    for name, values in columns.items():
        names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        found[next(one for one in names if one not in taken and one not in found)] = values
    return found


def _save_npz(path: Path, arrays: dict[str, Array]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **dict[str, Any](arrays))


def _as_json(
    found: Sequence[_Read], predicted: Sequence[Array], purpose: Purpose, written: dict[Path, Path]
) -> list[dict[str, Any]]:
    return [
        {
            "file": str(read.file),
            **({"written_to": str(written[read.file])} if read.file in written else {}),
            "notes": read.notes,
            "predictions": purpose.answers(values),
        }
        for read, values in zip(found, predicted, strict=True)
    ]


def _show(
    model: ModelRun, purpose: Purpose, found: Sequence[_Read], predicted: Sequence[Array], written: dict[Path, Path]
) -> None:
    console = standard_output()
    say = line_printer(console)
    columns = [
        Column("file", [printable(str(read.file)) for read in found], 4),
        Column("rows", [f"{len(read):,}" for read in found], 3),
        Column("predictions", [_in_words(purpose, values) for values in predicted], 2),
        Column("written to", [printable(str(written[read.file])) for read in found], 5),
    ]
    show(console, columns, f"Predicted by trial {model.trial} of {model.sweep}")
    for read in found:
        for note in read.notes:
            say(f"{printable(str(read.file))}: {note}")


def _in_words(purpose: Purpose, predicted: Array) -> str:
    """Returns how often each class or label was predicted, or the range of numbers."""
    columns = list(purpose.columns(predicted).values())
    if not columns:
        return " × ".join(map(str, predicted.shape))
    names = [one_line(name, 30) for name in purpose.names]
    if purpose.target.kind == "numbers":
        ends = [(format_value(float(np.min(one))), format_value(float(np.max(one)))) for one in columns]
        parts = [f"{name} {low} to {high}" for name, (low, high) in zip(names, ends, strict=True)]
    elif purpose.target.kind == "labels":
        counts = {name: int(np.sum(one)) for name, one in zip(names, columns, strict=False)}
        parts = [f"{name} {count:,}" for name, count in counts.items()]
    else:
        parts = [f"{one_line(name, 30)} {count:,}" for name, count in Counter(columns[0]).most_common()]
    left = len(parts) - _SHOWN
    return ", ".join(parts[:_SHOWN]) + (f" and {counted(left, 'other')}" if left > 0 else "")
