"""Makes the inputs of a model from rows of a table, or from a user's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import counted, one_line
from mnist_sweep.data import columns, npz
from mnist_sweep.data.columns import CATEGORIES
from mnist_sweep.data.dataset import Array, PartName, array_name
from mnist_sweep.data.schema import ONLY, Schema

if TYPE_CHECKING:
    from pandas import DataFrame

# Names in a message.
_SHOWN = 5
# In which order they are looked for.
_PARTS: tuple[PartName, ...] = ("test", "val", "train")
Inputs = dict[str, Array]


def of_table(frame: DataFrame, schema: Schema, where: str) -> tuple[Inputs, list[str]]:
    """Turns rows of a table into what a model takes.

    Args:
        frame: The rows. Values may be missing; other columns than the model's are not looked at.
        schema: The model's, of a table.
        where: What the rows are, for messages.

    Returns:
        The inputs by name, and notes on what the model cannot know: categories that no row had in training.

    Raises:
        UserError: A column is missing, or a value is of the wrong kind.
    """
    names = [column.name for column in schema.columns]
    missing = [one_line(name, 50) for name in names if name not in frame.columns]
    if len(missing) > 1:
        shown = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        raise UserError(f"{where}: lacks {counted(len(missing), 'column')} that the model needs: {shown}")
    found = columns.encode(frame, schema.columns, schema.inputs, where)
    return found, [note for column in schema.columns if (note := _unseen(frame, column.name, schema, found))]


def _unseen(frame: DataFrame, name: str, schema: Schema, found: Mapping[str, Array]) -> str:
    """Returns a note on the categories of a column that are not among those of the training rows."""
    column = next(one for one in schema.columns if one.name == name)
    if column.input != CATEGORIES:
        return ""
    texts = columns.as_text(frame[name], name, "")
    new = (found[CATEGORIES][:, column.at] == 0) & texts.notna().to_numpy()
    if not new.any():
        return ""
    different = [repr(one_line(str(value), 30)) for value in texts[new].unique()]
    shown = ", ".join(different[:_SHOWN]) + (" …" if len(different) > _SHOWN else "")
    rows = counted(int(new.sum()), "row")
    return f"{one_line(name, 50)}: {shown} ({rows}) did not occur in training; read as missing"


def of_arrays(arrays: Mapping[str, Array], schema: Schema, where: str) -> Inputs:
    """Turns a user's arrays into what a model takes.

    Args:
        arrays: `x`, or `x_NAME` for one of several inputs; or as in the training data, `x_test` or `x_test_NAME`, and
            without those of the other parts. The only array may have any name.
        schema: The model's.
        where: What the arrays are, for messages.

    Returns:
        The inputs by name.

    Raises:
        UserError: An array is missing, or does not fit.
    """
    found: Inputs = {}
    for name, one in schema.inputs.items():
        names = [name, f"x_{name}", *(array_name(part, name) for part in _PARTS)]
        there = next((given for given in names if given in arrays), None)
        if there is None and name == ONLY and len(arrays) == 1:
            there = next(iter(arrays))
        if there is None:
            wanted = ONLY if name == ONLY else f"x_{name}"
            has = ", ".join(one_line(given, 50) for given in list(arrays)[:_SHOWN]) or "none"
            raise UserError(f"{where}: has no array {wanted}; it has {has}")
        found[name] = npz.read_like(arrays[there], there, one, where)
    counts = {len(array) for array in found.values()}
    if len(counts) > 1:
        rows = ", ".join(f"{name} {len(array):,}" for name, array in found.items())
        raise UserError(f"{where}: the inputs must have the same number of rows, but they have {rows}")
    return found
