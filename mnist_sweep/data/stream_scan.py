"""Reads a stream once, to learn its inputs, its classes and how many rows it has."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import one_line
from mnist_sweep.data import images, npz, stream, targets
from mnist_sweep.data.dataset import LoadedData, PartName, Rows, array_name
from mnist_sweep.data.schema import Input, Schema, Target, TargetKind
from mnist_sweep.data.stream import ENDLESS, Batch, Form, Source, Stream

Array = NDArray[Any]
Tell = Callable[[str], None]

# Of each part, as many of the first rows are kept, and not more bytes.
_MOST_ROWS, _MOST_BYTES = 1000, 50_000_000
# A stream that does not say how long it is may be endless.
_LONGEST = 300.0
_SPELT = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Options:
    """The keys of the group `data` that are for streams.

    Attributes:
        classes: The number of classes, or their names; None to count them.
        count: Whether to read the stream once.
        steps_per_epoch: The batches of an epoch; None if an epoch ends with the stream.
    """

    classes: int | list[str] | None
    count: bool
    steps_per_epoch: int | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Returns the options in a config."""
        return cls(given["classes"], given["count"], given["steps_per_epoch"])


@dataclass
class _Read:
    """What was read of a part.

    Attributes:
        first: Its first batches, joined.
        targets: The targets of all rows that were read.
        rows: How many rows that were.
        steps: How many batches.
        whole: Whether that is the whole part, or an epoch.
        batched: Whether it yields batches.
        batch_size: The rows of its first batch.
        ranges: The least and the largest value of each input.
    """

    first: Batch
    targets: Array
    rows: int
    steps: int
    whole: bool
    batched: bool
    batch_size: int
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def scan(
    parts: Mapping[PartName, Source],
    loader: str,
    arguments: Mapping[str, Any],
    options: Options,
    wanted: TargetKind | None,
    *,
    takes_batch_size: bool,
    tell: Tell,
) -> LoadedData:
    """Reads a stream.

    Args:
        parts: Its parts.
        loader: The function that made it.
        arguments: The function's keyword arguments.
        options: What the user says about it.
        wanted: The kind of target that the task needs; None to tell it from the data.
        takes_batch_size: Whether the function takes `batch_size`.
        tell: Shows how far it is.

    Returns:
        The data, without a name.

    Raises:
        UserError: It is empty, endless, or yields something that no model can be trained on.
    """
    where = f"data.loader={loader}"
    read = {part: _read(part, source, options, tell) for part, source in parts.items()}
    names = list(read["train"].first[0])
    for part, one in read.items():
        if list(one.first[0]) != names:
            raise UserError(
                f"{where}: its {_SPELT[part]} part has the inputs {', '.join(one.first[0])}, not {', '.join(names)}"
            )
    inputs, forms, notes = dict[str, Input](), dict[str, Form](), list[str]()
    kept: dict[PartName, dict[str, Array]] = {part: {} for part in read}
    for name in names:
        raw = {array_name(part, name): one.first[0][name] for part, one in read.items()}
        numbers, kind, told = npz.read_input(raw, where)
        notes += told
        inputs[name] = Input(kind, numbers[array_name("train", name)].shape[1:])
        forms[name] = _form(name, inputs[name].shape, kind, read, where)
        for part in read:
            kept[part][name] = numbers[array_name(part, name)]
    target, found, told = _targets(read, where, options, wanted)
    notes += told
    # Otherwise, the rows of an epoch depend on `training.batch_size`.
    most = options.steps_per_epoch
    whole_epoch = most is None or (read["train"].batched and not takes_batch_size and read["train"].steps == most)
    about = Stream(
        loader,
        dict(arguments),
        tuple(read),
        takes_batch_size,
        read["train"].batched,
        read["train"].batch_size,
        options.steps_per_epoch,
        options.steps_per_epoch if options.steps_per_epoch is not None else _known(read["train"], "steps"),
        {part: one.rows for part, one in read.items() if one.whole and (part != "train" or whole_epoch)},
        forms,
        **_details(read["train"], found["train"], target),
    )
    rows = {
        part: Rows(kept[part], found[part][: len(one.first[1])], _weights(one.first[2])) for part, one in read.items()
    }
    schema = Schema(inputs, target)
    return LoadedData(
        "",
        "",
        schema,
        rows["train"],
        rows.get("test"),
        rows["val"],
        notes=(*_first_notes(parts, about), *notes),
        stream=about,
    )


def _first_notes(parts: Mapping[PartName, Source], about: Stream) -> Iterator[str]:
    kind = parts["train"].kind
    yield (
        f"data.loader={about.loader}: returns a stream ({kind}), which the workers read while they train; an "
        "interrupted trial repeats its epoch, with the same result if the stream yields the same rows in the same order"
    )
    if about.steps_per_epoch is not None:
        yield (
            f"data.steps_per_epoch={about.steps_per_epoch}: each epoch begins where the last one ended; an interrupted "
            "trial continues from the start of the stream"
        )
    if "test" not in about.parts:
        yield f"data.loader={about.loader}: has no test part, so the winner is not tested"


def _known(one: _Read, what: str) -> int | None:
    return int(getattr(one, what)) if one.whole else None


# ---- reading ------------------------------------------------------------------------------------------------------


def _read(part: PartName, source: Source, options: Options, tell: Tell) -> _Read:
    length, where = source.length(), source.where
    most = options.steps_per_epoch if part == "train" else None
    if length == ENDLESS and most is None:
        todo = "set data.steps_per_epoch to the number of batches of an epoch" if part == "train" else "let it end"
        raise UserError(f"{where} is endless; {todo}")
    elements, began, told = source.elements(), time.monotonic(), 0.0
    first = next(elements, None)
    if first is None:
        raise UserError(f"{where} is empty")
    batched = stream.is_batch(first)
    if not batched:
        # Single rows.
        elements = stream.stacked(itertools.chain([first], elements), 32)
        first = next(elements)
    _check_shapes(first, where)
    sample, size, targets_, steps, rows = list[Batch](), 0, list[Array](), 0, 0
    ranges: dict[str, tuple[float, float]] = {}
    ended, full = True, False
    for batch in itertools.chain([first], elements):
        if most is not None and steps == most:
            break
        _check_like(batch, first, where)
        here = len(batch[1])
        bytes_ = sum(array.nbytes for array in batch[0].values())
        full = full or (bool(sample) and (rows >= _MOST_ROWS or size + bytes_ > _MOST_BYTES))
        if not full:
            sample.append(batch)
            size += bytes_
        elif not options.count:
            ended = False
            break
        targets_.append(np.array(batch[1]))
        for name, array in batch[0].items():
            least, largest = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(least, float(array.min())), max(largest, float(array.max()))
            if not np.isfinite(ranges[name]).all() or np.isnan(array).any():
                raise UserError(f"{where}: {_called(name)} contains NaN or infinite values in batch {steps + 1}")
        steps, rows = steps + 1, rows + here
        now = time.monotonic()
        if now - began > _LONGEST and length is None and most is None:
            raise UserError(
                f"{where} has not ended after {rows:,} rows and {now - began:.0f} s; if it is endless, set "
                "data.steps_per_epoch to the number of batches of an epoch; if it is only large, write data.count=false"
            )
        if now - told > 1:
            told = now
            tell(f"{where}: {rows:,} rows read")
    joined = stream.together(sample)
    return _Read(joined, np.concatenate(targets_), rows, steps, ended, batched, len(first[1]), ranges)


def _check_shapes(batch: Batch, where: str) -> None:
    inputs, target, _ = batch
    for name, array in inputs.items():
        if array.dtype.kind not in "buif":
            raise UserError(f"{where}: {_called(name)} has type {array.dtype}; a stream must yield numbers")
    if target.ndim > 2:
        raise UserError(f"{where}: its targets have shape {target.shape}; they must be (N,) or (N, columns)")


def _check_like(batch: Batch, first: Batch, where: str) -> None:
    for name, array in batch[0].items():
        if name not in first[0] or array.shape[1:] != first[0][name].shape[1:]:
            shape = first[0][name].shape[1:] if name in first[0] else "nothing"
            raise UserError(f"{where}: {_called(name)} has rows of shape {array.shape[1:]} after rows of shape {shape}")
        if len(array) != len(batch[1]):
            raise UserError(f"{where}: has a batch with {len(array):,} inputs and {len(batch[1]):,} targets")


def _called(name: str) -> str:
    return "x" if name == "x" else f"the input {one_line(name, 50)}"


# ---- inputs and targets -------------------------------------------------------------------------------------------


def _form(name: str, shape: tuple[int, ...], kind: str, read: Mapping[PartName, _Read], where: str) -> Form:
    axis = len(shape) == read["train"].first[0][name].ndim
    arrays = [one.first[0][name] for one in read.values()]
    if kind == "array" and arrays[0].ndim != 4:
        return Form(axis=axis)
    if arrays[0].ndim == 4 and images.has_channels_first(*arrays[0].shape[1:]):
        raise UserError(f"{where}: {_called(name)} has its channels first; move them to the end in the function")
    if kind == "array":
        return Form(axis=axis)
    white = npz.white_of(arrays)
    for part, one in read.items():
        least, most = one.ranges[name]
        if least < 0 or most > white:
            raise UserError(
                f"{where}: {_called(name)} ranges from {least:g} to {most:g} in its {_SPELT[part]} part, but its first "
                f"rows are pixels in 0..{white:g}; scale all rows alike"
            )
    return Form(white, axis=axis)


def _targets(
    read: Mapping[PartName, _Read], where: str, options: Options, wanted: TargetKind | None
) -> tuple[Target, dict[PartName, Array], list[str]]:
    raw = {part: one.targets[:, 0] if one.targets.shape[1:] == (1,) else one.targets for part, one in read.items()}
    if options.classes is not None and wanted in (None, "classes"):
        return _given_classes(options.classes, raw)
    found, target, notes = targets.read({f"y_{part}": array for part, array in raw.items()}, where, wanted)
    if target.kind == "classes" and not read["train"].whole and not options.count:
        raise UserError("data.count=false: only the first rows are read; set data.classes to the number of classes")
    by_part: dict[PartName, Array] = {part: found[f"y_{part}"] for part in read}
    return target, by_part, notes


def _given_classes(
    classes: int | list[str], raw: Mapping[PartName, Array]
) -> tuple[Target, dict[PartName, Array], list[str]]:
    names = () if isinstance(classes, int) else tuple(classes)
    size = classes if isinstance(classes, int) else len(names)
    found = dict[PartName, Array]()
    for part, array in raw.items():
        if array.shape[1:] == (size,):
            if (array.sum(axis=1) != 1).any() or not np.isin(array, (0, 1)).all():
                raise UserError(f"data.classes={size}: the {_SPELT[part]} targets are not one-hot rows with a single 1")
            found[part] = array.argmax(axis=1).astype(np.int64)
            continue
        wrong = array.ndim != 1 or array.dtype.kind not in "buif" or (array != np.floor(array)).any()
        if wrong or array.min() < 0 or array.max() >= size:
            numbers = array.ndim == 1 and array.dtype.kind in "buif"
            given = f"range from {array.min():g} to {array.max():g}" if numbers else f"have shape {array.shape}"
            raise UserError(
                f"data.classes={size}: the {_SPELT[part]} targets {given}; classes are whole numbers from 0 to "
                f"{size - 1}, or one-hot rows"
            )
        found[part] = array.astype(np.int64)
    return Target("classes", size, names), found, []


def _details(train: _Read, found: Array, target: Target) -> dict[str, Any]:
    """Returns what `Stream` says about the targets."""
    if target.kind == "numbers":
        columns = found.reshape(len(found), -1).astype(np.float64)
        return {"mean": tuple(columns.mean(axis=0).tolist()), "deviation": tuple(columns.std(axis=0).tolist())}
    if target.kind == "labels":
        return {}
    counts = tuple(np.bincount(found, minlength=target.size).tolist()) if train.whole else ()
    raw = train.targets
    if raw.ndim == 2 and raw.shape[1] > 1:
        return {"one_hot": True, "counts": counts}
    labels = np.unique(raw)
    plain = len(labels) != target.size or (labels == np.arange(target.size)).all()
    return {"labels": () if plain else tuple(map(float, labels)), "counts": counts}


def _weights(weights: Array | None) -> Array | None:
    return None if weights is None else weights.reshape(-1).astype(np.float32)
