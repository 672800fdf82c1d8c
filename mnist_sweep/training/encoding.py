"""Encodes the rows of a table for a model, by what the training rows tell, and puts the same in front of saved models.

Numbers are scaled to a mean of 0 and a standard deviation of 1; a missing one becomes 0, with an input more that says
so. Categories become one input each, or an embedding's number if there are many. So do words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from pydantic import BaseModel

from mnist_sweep.config import shipped
from mnist_sweep.config.checks import check
from mnist_sweep.config.trial_config import Categories, Text
from mnist_sweep.data.columns import CATEGORIES, FIRST_WORD, NUMBERS, UNKNOWN_WORD
from mnist_sweep.data.dataset import Array
from mnist_sweep.data.schema import ONLY, Input, Schema

# The inputs of a model, if there are several: all that needs no embedding, and the numbers of embedded categories.
PLAIN, EMBEDDED = "plain", "embedded"
# The most numbers that rows may take: 1 GB.
_MOST_NUMBERS = 2**28
# A smaller variance is one of rounding errors.
_SMALLEST = 1e-14
# Rows that fit into the processor's cache.
_BLOCK = 4096


@dataclass(frozen=True)
class Encoding:
    """How rows are encoded.

    Attributes:
        given: The inputs and the target of the data set.
        schema: What a model gets: `plain`, (F,), float32, everything that needs no embedding, called `x` if there is
            nothing else; `embedded`, (E,), the numbers of categories; and texts under their names, (L,), the numbers of
            words, 0 after the last one.
        mean: (n,), float32, of each column of numbers.
        variance: (n,), float32.
        optional: How many columns of numbers, the first ones, have an input that says whether a value is missing.
        one_hot: How many columns of categories, the first ones, have an input for each category.
        known: For each category, column after column, with 0 first: where its input is among those of all categories,
            or for embedded columns its number. Categories that no training row has are like those that are missing.
        words: For each text, the new number of each word of its vocabulary, those for none and for an unknown one
            included.
    """

    given: Schema
    schema: Schema
    mean: Array
    variance: Array
    optional: int
    one_hot: int
    known: Array
    words: Mapping[str, Array]

    @classmethod
    def fit(
        cls, given: Schema, inputs: Mapping[str, Array], training: Array, text: Text, categories: Categories
    ) -> Encoding:
        """Finds out how to encode rows, from those to train on.

        Args:
            given: The inputs and the target of the data set.
            inputs: All rows, to train and to validate on, as `given` says.
            training: The indices of the rows to train on.
            text: How words become numbers.
            categories: How categories do.
        """
        mean, variance = _moments(inputs[NUMBERS], training) if NUMBERS in inputs else (np.zeros(0), np.zeros(0))
        optional = sum(column.width for column in given.columns if column.input == NUMBERS and column.optional)
        sizes = _sizes(given)
        rows = sum(len(one) for one in list(inputs.values())[:1])
        one_hot = _one_hot(sizes, categories.one_hot, _MOST_NUMBERS // max(rows, 1) - len(mean) - optional)
        places, embedded = sum(sizes[:one_hot]), sum(sizes[one_hot:])
        known = np.zeros(0, np.int32)
        if CATEGORIES in inputs:
            known = _known(inputs[CATEGORIES][training], sizes, one_hot)
        found: dict[str, Input] = {}
        if len(mean) + places:
            found[PLAIN] = Input("array", (len(mean) + optional + places,))
        if embedded:
            found[EMBEDDED] = Input("categories", (len(sizes) - one_hot,), size=embedded)
        words: dict[str, Array] = {}
        for name, one in given.inputs.items():
            if one.kind == "text":
                length = min(text.length, one.shape[0])
                words[name] = _ranks(inputs[name][training, :length], len(one.vocabularies[0]), text.vocabulary)
                found[name] = Input("text", (length,), size=int(words[name].max()) + 1)
        if list(found) == [PLAIN]:
            found = {ONLY: found[PLAIN]}
        schema = Schema(found, given.target)
        return cls(given, schema, mean, variance, optional, one_hot, known, words)

    def encode(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Encodes rows.

        Args:
            inputs: The rows, as `given` says.

        Returns:
            The inputs by name, as `schema` says.
        """
        found, plain = dict[str, Array](), self._plain
        codes = self._flat(inputs[CATEGORIES]) if CATEGORIES in inputs else None
        if plain in self.schema.inputs:
            rows = len(next(iter(inputs.values())))
            x = found[plain] = np.zeros((rows, *self.schema.inputs[plain].shape), np.float32)
            numbers = len(self.mean)
            if numbers:
                deviation = np.sqrt(self.variance)
                for start in range(0, rows, _BLOCK):
                    block, to = inputs[NUMBERS][start : start + _BLOCK], x[start : start + _BLOCK]
                    missing = np.isnan(block)
                    to[:, :numbers] = np.where(missing, 0, (block - self.mean) / deviation)
                    to[:, numbers : numbers + self.optional] = missing[:, : self.optional]
            if codes is not None:
                start = numbers + self.optional
                for column in range(self.one_hot):
                    x[np.arange(rows), start + self.known[codes[:, column]]] = 1
        if EMBEDDED in self.schema.inputs:
            assert codes is not None
            found[EMBEDDED] = self.known[codes[:, self.one_hot :]]
        for name, numbers_of in self.words.items():
            found[name] = numbers_of[inputs[name][:, : self.schema.inputs[name].shape[0]]]
        return found

    @property
    def _plain(self) -> str:
        return ONLY if ONLY in self.schema.inputs else PLAIN

    def in_front_of(self, model: keras.Model) -> keras.Model:
        """Returns a model that encodes rows by layers of Keras, followed by a model that takes encoded ones.

        Args:
            model: The model, whose weights it shares.

        Returns:
            A model of the inputs that `given` says, by name.
        """
        inputs = {
            name: keras.Input(one.shape, dtype="float32" if one.kind == "numbers" else "int32", name=name)
            for name, one in self.given.inputs.items()
        }
        parts, encoded = list[Any](), dict[str, Any]()
        if NUMBERS in inputs:
            parts += self._numbers_layers(inputs[NUMBERS])
        if CATEGORIES in inputs:
            parts += self._one_hot_layers(inputs[CATEGORIES])
            if EMBEDDED in self.schema.inputs:
                encoded[EMBEDDED] = self._embedded_layers(inputs[CATEGORIES])
        if parts:
            joined = keras.layers.Concatenate(dtype="float32", name="joined")(parts) if len(parts) > 1 else parts[0]
            encoded = {self._plain: joined, **encoded}
        for name, numbers_of in self.words.items():
            first = _part(inputs[name], 0, self.schema.inputs[name].shape[0], f"{name}_beginning")
            encoded[name] = _looked_up(first, numbers_of, f"{name}_known_words")
        outputs = model(encoded[ONLY] if list(encoded) == [ONLY] else encoded)
        return keras.Model(inputs, outputs, name="table")

    def _numbers_layers(self, given: Any) -> Iterator[Any]:
        """Yields scaled numbers, and which are missing."""
        # `Normalization` cannot be exported to ONNX. One layer for both would compute x / std - mean / std, which is
        # inexact for numbers that are large and close to each other, such as years.
        numbers = given
        for name, mean, variance in (
            ("less_the_mean", self.mean, np.ones_like(self.variance)),
            ("scaled", np.zeros_like(self.mean), self.variance),
        ):
            layer = keras.layers.BatchNormalization(
                epsilon=0.0, center=False, scale=False, trainable=False, dtype="float32", name=name
            )
            numbers = layer(numbers)
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
        # No layer of Keras replaces NaN, except these: they shrink it to 0, as it is not above their threshold.
        halves = []
        for sign, name in ((1.0, "above"), (-1.0, "below")):
            # max(z, 0) or max(-z, 0), and 0.5 more, which the soft threshold of 0.5 takes away.
            one = keras.layers.Rescaling(sign, dtype="float32", name=f"{name}_mean")(numbers)
            one = keras.layers.ReLU(dtype="float32", name=f"how_far_{name}")(one)
            one = keras.layers.Rescaling(1.0, 0.5, dtype="float32", name=f"shifted_{name}")(one)
            halves.append(keras.layers.Activation("soft_shrink", dtype="float32", name=f"filled_{name}")(one))
        yield keras.layers.Subtract(dtype="float32", name="filled")(halves)
        if self.optional:
            one = _part(
                keras.layers.Rescaling(0.0, 1.0, dtype="float32", name="ones")(given), 0, self.optional, "first"
            )
            present = keras.layers.Activation("hard_shrink", dtype="float32", name="present")(one)
            yield keras.layers.Rescaling(-1.0, 1.0, dtype="float32", name="missing")(present)

    def _flat(self, codes: Array) -> Array:
        return np.asarray(codes) + _offsets(_sizes(self.given))

    def _one_hot_layers(self, codes: Any) -> Iterator[Any]:
        """Yields an input for each category of a column."""
        # `CategoryEncoding` is TensorFlow's `DenseBincount`, which TFLite lacks.
        sizes = _sizes(self.given)
        for column, (start, size) in enumerate(zip(_offsets(sizes), sizes[: self.one_hot], strict=False)):
            places = self.known[start : start + size] - start
            one = _part(codes, column, column + 1, f"category_{column}")
            layer = keras.layers.Embedding(size, size, trainable=False, dtype="float32", name=f"one_hot_{column}")
            found = layer(one)
            layer.embeddings.assign(np.eye(size, dtype=np.float32)[places])
            yield keras.layers.Reshape((size,), dtype="float32", name=f"places_{column}")(found)

    def _embedded_layers(self, codes: Any) -> Any:
        """Returns the numbers of the categories that are embedded."""
        sizes = _sizes(self.given)
        some = _part(codes, self.one_hot, len(sizes), "many_categories")
        offsets = [float(offset) for offset in _offsets(sizes[self.one_hot :])]
        flat = keras.layers.Rescaling(1.0, offsets, dtype="float32", name="places")(some)
        return _looked_up(flat, self.known[sum(sizes[: self.one_hot]) :], "known_categories")


def taken_apart(model: keras.Model, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], keras.Model]:
    """Encodes rows with the layers of a model that `in_front_of` made.

    Args:
        model: The model.
        inputs: Its inputs by name.

    Returns:
        The encoded inputs by name, and the model that takes them.
    """
    inner = model.layers[-1]
    # Keras has no public way to what a nested model is called with.
    given = inner._inbound_nodes[-1].arguments.args[0]
    encoded = keras.Model(model.input, given)({name: np.asarray(array) for name, array in inputs.items()})
    named = encoded if isinstance(encoded, Mapping) else {ONLY: encoded}
    return {name: np.asarray(array) for name, array in named.items()}, inner


def options(model: Any) -> tuple[Text, Categories]:
    """Returns how a trial's model wants words and categories; a user's own model may leave that out."""
    given = [
        one.model_dump() if isinstance(one, BaseModel) else {**shipped.values(f"model/columns/{name}"), **(one or {})}
        for name in ("text", "categories")
        for one in [getattr(model, name, None)]
    ]
    return check(Text, given[0], "model.text."), check(Categories, given[1], "model.categories.")


def _moments(numbers: Array, rows: Array) -> tuple[Array, Array]:
    """Returns the mean and the variance of each column in some rows, without missing values; 0 and 1 if all are."""

    def means(of: Callable[[Array], Array]) -> Array:
        count, total = np.zeros(numbers.shape[1], np.int64), np.zeros(numbers.shape[1])
        for start in range(0, len(rows), _BLOCK):
            # In float32, the squares of large numbers would overflow.
            values = of(numbers[rows[start : start + _BLOCK]].astype(np.float64))
            missing = np.isnan(values)
            count += len(values) - missing.sum(axis=0)
            total += np.where(missing, 0, values).sum(axis=0)
        return total / np.maximum(count, 1)

    mean = means(lambda values: values)
    variance = means(lambda values: np.square(values - mean))
    with np.errstate(over="ignore"):
        return mean.astype(np.float32), np.where(variance > _SMALLEST, variance, 1).astype(np.float32)


def _sizes(given: Schema) -> list[int]:
    """Returns how many numbers each column of categories has, that for a missing one included."""
    return [len(one) + 1 for one in given.inputs[CATEGORIES].vocabularies] if CATEGORIES in given.inputs else []


def _offsets(sizes: list[int]) -> Array:
    return np.cumsum([0, *sizes[:-1]]).astype(np.int32) if sizes else np.zeros(0, np.int32)


def _one_hot(sizes: list[int], most: int, places: int) -> int:
    """Returns how many columns, the first and smallest ones, get an input for each category."""
    fitting = np.cumsum(sizes) <= places
    return sum(bool(fits) and size - 1 <= most for fits, size in zip(fitting, sizes, strict=True))


def _known(codes: Array, sizes: list[int], one_hot: int) -> Array:
    """Returns `Encoding.known`."""
    found = list[Array]()
    for column, size in enumerate(sizes):
        counts = np.bincount(codes[:, column], minlength=size)
        found.append(np.where(counts > 0, np.arange(size), 0))
    offsets = [*_offsets(sizes[:one_hot]), *_offsets(sizes[one_hot:])]
    return np.concatenate([one + offset for one, offset in zip(found, offsets, strict=True)]).astype(np.int32)


def _ranks(texts: Array, vocabulary: int, most: int) -> Array:
    """Returns the new numbers of the words of a vocabulary, the most frequent of the training rows first.

    Args:
        texts: (N, L), the training rows.
        vocabulary: How many words there are.
        most: How many numbers there may be, those for none and for an unknown word included, as in `TextVectorization`.
    """
    counts = np.bincount(texts.ravel(), minlength=vocabulary + FIRST_WORD)[FIRST_WORD:]
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0][: max(most - FIRST_WORD, 0)]
    found = np.full(vocabulary + FIRST_WORD, UNKNOWN_WORD, np.int32)
    found[0] = 0
    found[order + FIRST_WORD] = np.arange(len(order)) + FIRST_WORD
    return found


def _looked_up(numbers: Any, table: Array, name: str) -> Any:
    """Replaces numbers (N, k) by those of a table, by an embedding of one weight each."""
    layer = keras.layers.Embedding(len(table), 1, trainable=False, dtype="float32", name=name)
    found = layer(numbers)
    layer.embeddings.assign(table[:, None].astype(np.float32))
    return keras.layers.Reshape((numbers.shape[1],), dtype="float32", name=f"{name}_numbers")(found)


def _part(values: Any, begin: int, end: int, name: str) -> Any:
    """Takes some of the columns of (N, k)."""
    width = values.shape[1]
    if (begin, end) == (0, width):
        return values
    dtype = values.dtype
    values = keras.layers.Reshape((width, 1), dtype=dtype, name=f"{name}_in")(values)
    values = keras.layers.Cropping1D((begin, width - end), dtype=dtype, name=name)(values)
    return keras.layers.Reshape((end - begin,), dtype=dtype, name=f"{name}_out")(values)
