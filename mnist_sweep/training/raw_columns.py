"""Lets an exported model take the columns of a table as its users have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mnist_sweep.data import columns as tables
from mnist_sweep.data.columns import FIRST_WORD, NUMBERS
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.schema import Column, Schema

# Stands for a word that a schema does not have.
_UNKNOWN = "unknownword"


def names(schema: Schema) -> dict[str, str]:
    """Returns the name of each column's input: its own, with _ for what names of inputs cannot have."""
    found: dict[str, str] = {}
    for number, column in enumerate(schema.columns):
        name = re.sub(r"\W+", "_", column.name, flags=re.ASCII).strip("_") or f"column_{number}"
        name = name if name[0].isalpha() else f"column_{name}"
        found[column.name] = f"{name}_{number}" if name.lower() in map(str.lower, found.values()) else name
    return found


def describe(schema: Schema, *, strings: bool) -> list[dict[str, Any]]:
    """Returns what the inputs of an exported model are, for its manifest.

    Args:
        schema: The data's schema.
        strings: Whether the model takes categories and texts as strings.
    """
    found = []
    of_columns = names(schema)
    for column in schema.columns:
        one: dict[str, Any] = {"column": column.name, "input": of_columns[column.name], "kind": column.kind}
        given, vocabularies = schema.inputs[column.input], schema.inputs[column.input].vocabularies
        if column.kind == "date":
            one["takes"] = "float32, days since 1970-01-01, NaN if missing, shape (N, 1)"
        elif column.kind == "number":
            one["takes"] = "float32, NaN if missing, shape (N, 1)"
        elif column.kind == "category":
            one["takes"] = (
                "string, empty if missing, shape (N, 1)"
                if strings
                else "int32, 0 if missing or unknown, else the place in values, counted from 1, shape (N, 1)"
            )
            one["values"] = list(vocabularies[column.at])
        elif strings:
            one["takes"] = "string, shape (N, 1)"
        else:
            one["takes"] = (
                f"int32, shape (N, {given.shape[0]}): words in lower case without punctuation, by their place in "
                "words, counted from 2; 1 if unknown, 0 after the last one; 1 for a text without words"
            )
            one["words"] = list(vocabularies[0])
        found.append(one)
    return found


def describe_inputs(schema: Schema) -> list[dict[str, Any]]:
    """Returns what the inputs of a saved model are, which takes the rows of a table as numbers."""
    found = []
    takes = {
        "numbers": "float32, NaN if missing; of a date, days since 1970-01-01",
        "categories": "int32, 0 if missing or unknown, else the place in values, counted from 1",
        "text": "int32, words by their place in words, counted from 2; 1 if unknown, 0 after the last one",
    }
    for name, one in schema.inputs.items():
        about: dict[str, Any] = {"input": name, "columns": list(one.columns)}
        about["takes"] = f"{takes[one.kind]}, shape (N, {one.shape[0]})"
        if one.vocabularies:
            about["words" if one.kind == "text" else "values"] = [list(words) for words in one.vocabularies]
        found.append(about)
    return found


def columns_of(inputs: Mapping[str, Array], schema: Schema, *, strings: bool) -> dict[str, Array]:
    """Returns the columns from which rows were made, as `of_raw_columns` takes them.

    Args:
        inputs: The rows, as the schema says.
        schema: The data's schema.
        strings: Whether categories and texts are wanted as strings.
    """
    found: dict[str, Array] = {}
    for column in schema.columns:
        values, vocabularies = np.asarray(inputs[column.input]), schema.inputs[column.input].vocabularies
        if column.kind == "text":
            found[column.name] = _texts(values, vocabularies[0]) if strings else values
            continue
        one = values[:, column.at : column.at + 1]
        if column.kind == "category" and strings:
            one = np.array(["", *vocabularies[column.at]], dtype=object)[one]
        found[column.name] = one
    of_columns = names(schema)
    return {of_columns[name]: values for name, values in found.items()}


def of_raw_columns(model: keras.Model, schema: Schema, *, strings: bool) -> keras.Model:
    """Puts layers in front of a saved model that make its inputs from columns.

    Args:
        model: A model of the inputs that the schema says.
        schema: The data's schema.
        strings: Whether to take categories and texts as strings, which needs TensorFlow; otherwise as their numbers.

    Returns:
        A model of a dict of columns, as `describe` describes them.
    """
    of_columns = names(schema)
    given: dict[str, Any] = {}
    made: dict[str, list[Any]] = {name: [] for name in schema.inputs}
    for column in schema.columns:
        name = of_columns[column.name]
        values, part = _column(name, column, schema, strings=strings)
        given[name] = values
        made[column.input].append(part)
    joined = {
        name: keras.ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0] for name, parts in made.items()
    }
    return keras.Model(given, model(joined), name="columns")


def _column(name: str, column: Column, schema: Schema, *, strings: bool) -> tuple[Any, Any]:
    """Returns a column's input, and its part of the data's input."""
    vocabularies, length = schema.inputs[column.input].vocabularies, schema.inputs[column.input].shape[0]
    if column.input == NUMBERS:
        values = keras.Input((1,), dtype="float32", name=name)
        if column.kind == "number":
            return values, values
        parts = [values]
        for _, period in tables.periods(column.width):
            # In float32, the sine of large numbers is wrong.
            turn = keras.ops.mod(values, period) * (2 * np.pi / period)
            parts += [keras.ops.sin(turn), keras.ops.cos(turn)]
        return values, keras.ops.concatenate(parts, axis=1)
    if not strings:
        values = keras.Input((length if column.kind == "text" else 1,), dtype="int32", name=name)
        return values, values
    values = keras.Input((1,), dtype="string", name=name)
    if column.kind == "category":
        lookup = keras.layers.StringLookup(vocabulary=list(vocabularies[column.at]), name=f"{name}_numbers")
        return values, keras.ops.cast(lookup(values), "int32")
    words = keras.layers.TextVectorization(
        vocabulary=list(vocabularies[0]), output_sequence_length=length, name=f"{name}_words"
    )
    numbers = keras.ops.cast(words(values), "int32")
    # A text without words has one that is unknown.
    first = keras.ops.maximum(numbers[:, :1], 1)
    return values, keras.ops.concatenate([first, numbers[:, 1:]], axis=1) if length > 1 else first


def _texts(numbers: Array, words: tuple[str, ...]) -> Array:
    """Returns texts of the given words, (N, 1)."""
    known = ["", _UNKNOWN, *words]
    assert len(known) == len(words) + FIRST_WORD
    texts = [" ".join(known[number] for number in row if number) for row in numbers]
    return np.array(["" if text == _UNKNOWN else text for text in texts], dtype=object)[:, None]
