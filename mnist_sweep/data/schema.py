"""What a data set consists of: the inputs of a model, and what it is to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from mnist_sweep.common.text import counted

# The name of a data set's only input.
ONLY = "x"

InputKind = Literal["image", "numbers", "categories", "text", "array"]
TargetKind = Literal["classes", "labels", "numbers", "array", "several"]
ColumnKind = Literal["number", "date", "category", "text"]


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        kind: `image`: pixels, uint8 in 0..255 or float32 in 0..1. `array`: numbers of any shape, float32. The others
            are made from columns of a table: `numbers`, float32, NaN if missing; `categories`, int32, 0 if missing or
            unknown, else counted from 1 in the column's `vocabularies`; `text`, int32 numbers of words, 0 after the
            last one, 1 for an unknown word, the others counted from 2 in `vocabularies`.
        shape: The shape of one row's input: height, width and channels of an image; the number of columns; words.
        columns: The names of a table's columns, in the order of the last axis. Of a date, there are several numbers.
        vocabularies: The values of each column of `categories`, or the words of `text`, in the order of their numbers.
        size: How many different numbers of categories or words there are, if they are to be embedded.
    """

    kind: InputKind
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    vocabularies: tuple[tuple[str, ...], ...] = ()
    size: int = 0


@dataclass(frozen=True)
class Column:
    """A column of a table, as users have it in their files.

    Attributes:
        name: Its name.
        kind: What is in it.
        input: The input that is made from it.
        at: Where in the input's last axis it begins.
        width: How many places it takes there.
        optional: Whether a value is missing in any row to train or validate on.
        low: The lowest number in those rows, or the earliest date in days since 1970; None if that is unknown.
        high: The highest number, or the latest date.
        missing: The text that stands for a missing number, such as `?`; "" if there is none.
    """

    name: str
    kind: ColumnKind
    input: str
    at: int = 0
    width: int = 1
    optional: bool = False
    missing: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Target:
    """What a model predicts.

    Attributes:
        kind: `classes`: (N,), int64, the class of each row, counted from 0. `labels`: (N, K), float32, 1 for each label
            that a row has, else 0. `numbers`: (N,) or (N, K), float32. `array`: (N, *shape), such as a mask for each
            image, uint8 if it has classes, else float32. `several`: (N, K), float32, the values of several
            outputs one after another, as `parts` says.
        size: The number of classes, labels or numbers; of an array, that of its classes, 0 if it has numbers; of
            several outputs, the number of values.
        names: The names of the classes, of the labels, or of the columns of numbers; empty if they have none.
        shape: The shape of one row's array.
        parts: The outputs by name, in the order of their values.
    """

    kind: TargetKind
    size: int
    names: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    parts: Mapping[str, Target] = field(default_factory=dict)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row's target: () for a class or a single number."""
        if self.kind == "array":
            return self.shape
        return () if self.kind == "classes" or (self.kind == "numbers" and self.size == 1) else (self.size,)

    @property
    def about(self) -> str:
        """What is predicted, for messages: `3 classes`, `an array of 64x64, 2 classes`."""
        if self.kind == "several":
            return ", ".join(f"{name} ({part.about})" for name, part in self.parts.items())
        if self.kind == "array":
            of = f", {counted(self.size, 'class', 'classes')}" if self.size else ""
            return f"an array of {'x'.join(map(str, self.shape))}{of}"
        return counted(self.size, *_COUNTED[self.kind])

    def name(self, number: int) -> str:
        """Returns the name of a class, a label or a column: its number if it has none."""
        return self.names[number] if self.names else str(number)


@dataclass(frozen=True)
class Schema:
    """The inputs and the target of a data set.

    Attributes:
        inputs: The inputs by name; the only one is called `x`.
        target: What to predict.
        columns: The columns of a table from which the inputs are made; empty for other data.
    """

    inputs: Mapping[str, Input]
    target: Target = field(default_factory=lambda: Target("classes", 10))
    columns: tuple[Column, ...] = ()

    @property
    def only(self) -> Input | None:
        """The only input; None if there are several."""
        return next(iter(self.inputs.values())) if len(self.inputs) == 1 else None

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Height, width and channels, if images are the only input; else None."""
        if self.only is None or self.only.kind != "image":
            return None
        height, width, channels = self.only.shape
        return height, width, channels

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """What convolutions run over: as `image`, also for an array of three dimensions."""
        if self.only is None or self.only.kind not in ("image", "array") or len(self.only.shape) != 3:
            return None
        height, width, channels = self.only.shape
        return height, width, channels

    def to_json(self) -> str:
        """Returns the schema as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Returns the schema that `to_json` wrote."""
        return _ADAPTER.validate_json(text)


def in_words(about: Mapping[str, Any]) -> str:
    """Describes what `described` returned and the sizes of the parts.

    Example:
        `3,600 training, 400 validation and 1,000 test images of 28x28x1, 10 classes`
    """
    rows = "images" if "image" in about else "rows"
    *sizes, (last, number) = [(part, int(about[key])) for part in _PARTS if (key := f"{part}_{rows}") in about] or _NONE
    text = ", ".join(f"{count:,} {part}" for part, count in sizes)
    text += f"{' and ' if sizes else ''}{number:,} {last} {rows[:-1] if number == 1 else rows}" if last else rows
    if "image" in about:
        text += f" of {about['image']}"
    elif "columns" in about:
        text += f" of {counted(int(about['columns']), 'column')}"
    for one, several in _COUNTED.values():
        if several in about:
            text += f", {counted(int(about[several]), one, several)}"
    return text + (f", {about['outputs']}" if "outputs" in about else "")


def kind_of_target(about: Mapping[str, Any]) -> TargetKind | None:
    """Returns what is predicted, from what `described` returned; None if it does not say that."""
    return next((kind for kind, (_, key) in _COUNTED.items() if key in about), None)


def how_to_try(about: Mapping[str, Any]) -> str | None:
    """Returns how users give a model something to predict on the page of `serve`, from what `described` returned.

    None if the page cannot show what it predicts.
    """
    if "outputs" in about:
        return None
    if "image" in about:
        digits = about["image"] == "28x28x1" and str(about.get("classes")) == "10" and "names" not in about
        return "draw a digit" if digits else "open a picture"
    return "fill in a form" if "columns" in about else "send it rows"


_PARTS = ("training", "validation", "test")
# Of a stream, they may not be known.
_NONE = [("", 0)]
_COUNTED: dict[TargetKind, tuple[str, str]] = {
    "classes": ("class", "classes"),
    "labels": ("label", "labels"),
    "numbers": ("target", "targets"),
}
_ADAPTER = TypeAdapter(Schema)


def of_images(height: int, width: int, channels: int, classes: int, names: tuple[str, ...] = ()) -> Schema:
    """Returns the schema of images in classes."""
    return Schema({ONLY: Input("image", (height, width, channels))}, Target("classes", classes, names))


def schema_in(sample: Mapping[str, Any]) -> Schema | None:
    """Returns the schema in the arrays of a sample of predictions; None if it is of a sweep that did not write it."""
    return Schema.from_json(bytes(sample["schema"]).decode()) if "schema" in sample else None


def described(schema: Schema) -> dict[str, Any]:
    """Returns what the journal and MLflow keep of a schema, without the words of texts."""
    found: dict[str, Any] = {}
    if schema.image is not None:
        found["image"] = "x".join(map(str, schema.image))
    else:
        found["inputs"] = {name: [one.kind, *one.shape] for name, one in schema.inputs.items()}
        # Not their names: there may be more than fit into a tag of MLflow's.
        found |= {"columns": len(schema.columns)} if schema.columns else {}
    if schema.target.kind not in _COUNTED:
        return {**found, "outputs": schema.target.about}
    found[_COUNTED[schema.target.kind][1]] = schema.target.size
    return found | ({"names": list(schema.target.names)} if schema.target.names else {})
