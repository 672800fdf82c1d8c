"""`python -m mnist_sweep show-data`: shows what a sweep would be trained on: images, or the columns of a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import open_file
from mnist_sweep.common.tables import Column, show, standard_output
from mnist_sweep.common.text import counted, os_reason
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.unused import refuse_unused
from mnist_sweep.data.dataset import Array, LoadedData
from mnist_sweep.driver import summary, task_choice

_DEFAULT = Path("data.png")
_FIRST = 25
_SOFTWARE = "mnist_sweep show-data"
# Its text is looked for in the first bytes of a PNG file, before the pixels.
_START = 4096


def show_data(overrides: Sequence[str], to: Path | None = None) -> None:
    """Plots the first images of a data set and the number of images of each class, and prints a summary.

    For a table, it prints what its columns are read as; for other data, their inputs and targets.

    Args:
        overrides: Overrides as for a sweep. Those of the group `data` matter.
        to: The plot's file, whose suffix determines the format. The folder must exist, and a file of this name is
            replaced. By default `data.png`, unless another program wrote it.

    Raises:
        UserError: Something is wrong with the overrides or the data, or the plot cannot be written.
    """
    config = compose.defaults(quote_sweeps(overrides))
    settings = check_settings(config)
    refuse_unused(config)
    data = task_choice.load(config)
    if data.test is None:
        # Of a stream.
        data = replace(data, test=data.train.take(np.arange(0)))
    if data.schema.image is None or data.schema.target.kind != "classes":
        if to is not None:
            raise UserError(f"--to={to}: only images in classes are plotted; leave out --to")
        _show_numbers(data)
        return
    if to is None:
        to = _DEFAULT
        if os.path.lexists(to) and not _is_ours(to):
            raise UserError(
                f"show-data: {to} was not written by show-data, and would be replaced; name another file with --to=FILE"
            )
    assert data.test is not None
    train, test = data.train, data.test
    from mnist_sweep.results.plots import digits_and_classes

    order, which = _order(train.targets)
    title = f"{data.name if settings.data.path is None else Path(data.source).name}: {which}"
    figure = digits_and_classes(train.x[order], train.targets[order], title=title, test_labels=test.targets)
    try:
        # Other formats have other keys, and are only written on request.
        about = {"Software": _SOFTWARE} if to.suffix.lower() == ".png" else None
        write_whole(to, lambda path: figure.savefig(path, dpi=150, metadata=about), follow=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--to={to}: cannot be written ({os_reason(error)})") from None
    console = standard_output()
    summary.warn_of_fallback(console, data)
    for note in data.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    height, width, channels = data.schema.image
    sizes = f"{_first(data)}{len(train):,} training and {counted(len(test), 'test image')}"
    lines = {
        "data": f"{data.name}, from {data.source}",
        "digest": data.digest(),
        "images": f"{sizes} of {height}x{width}x{channels}",
        "pixels": "0 to 255" if train.x.dtype == np.uint8 else "0 to 1",
    }
    for name, text in lines.items():
        console.print(f"{name:8} {text}", highlight=False, markup=False, soft_wrap=True)
    _show(*_targets(data))
    console.print(f"{which}, plotted in {to}", highlight=False, markup=False, soft_wrap=True)


def _show_numbers(data: LoadedData) -> None:
    """Prints what the columns of a table, or the inputs of other data, and the targets are read as."""
    assert data.test is not None
    console = standard_output()
    lines = {
        "data": f"{data.name}, from {data.source}",
        "digest": data.digest(),
        "rows": f"{_first(data)}{len(data.train):,} for training and validation, {len(data.test):,} for testing",
    }
    for name, text in lines.items():
        console.print(f"{name:8} {text}", highlight=False, markup=False, soft_wrap=True)
    for note in data.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if data.schema.columns:
        found, headings = list(_columns(data)), ("column", "read as", "values", "missing")
    else:
        found, headings = list(_inputs(data)), ("input", "read as", "shape", "values")
    _show(headings, found, counted(len(found), headings[0]))
    _show(*_targets(data))


def _show(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    columns = [Column(name, cells, -i) for i, (name, *cells) in enumerate(zip(headings, *rows, strict=True))]
    show(standard_output(), columns, title)


def _columns(data: LoadedData) -> Iterator[tuple[str, ...]]:
    for column in data.schema.columns:
        one, x = data.schema.inputs[column.input], data.train.inputs[column.input]
        if column.kind == "text":
            missing, values = (x[:, 0] == 1) & (x[:, 1:2] == 0).all(axis=1), counted(len(one.vocabularies[0]), "word")
        elif column.kind == "category":
            kinds = len(one.vocabularies[column.at])
            missing, values = x[:, column.at] == 0, counted(kinds, "category", "categories")
        else:
            numbers = x[:, column.at]
            missing = np.isnan(numbers)
            ends = [float(np.nanmin(numbers)), float(np.nanmax(numbers))]
            days = [str(np.datetime64(int(end), "D")) for end in ends] if column.kind == "date" else []
            values = " to ".join(days or [f"{end:.6g}" for end in ends])
        yield column.name, column.kind, values, f"{missing.mean():.1%}" if missing.any() else ""


def _inputs(data: LoadedData) -> Iterator[tuple[str, ...]]:
    for name, one in data.schema.inputs.items():
        yield name, one.kind, "x".join(map(str, one.shape)), _ends(data.train.inputs[name])


def _targets(data: LoadedData) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Returns the headings, the rows and the title of a table of what is to be predicted."""
    assert data.test is not None
    target, parts = data.schema.target, (data.train.targets, data.test.targets)
    if target.kind in ("array", "several"):
        each = target.parts or {"y": target}
        found = [(name, part.about, "x".join(map(str, part.row_shape))) for name, part in each.items()]
        return ("output", "what it is", "shape"), list[tuple[str, ...]](found), counted(len(found), "output")
    names = [target.name(i) for i in range(target.size)]
    if target.kind == "numbers":
        rows = [(name, *(_ends(part.reshape(len(part), -1)[:, i]) for part in parts)) for i, name in enumerate(names)]
        return ("target", "training", "test"), rows, counted(target.size, "target")
    one, several = ("class", "classes") if target.kind == "classes" else ("label", "labels")
    counts = [_counts(part, target.size) for part in parts]
    rows = [(name, *(f"{found[i]:,}" for found in counts)) for i, name in enumerate(names)]
    return (one, "training", "test"), rows, counted(target.size, one, several)


def _counts(targets: Array, size: int) -> Array:
    """Returns how many rows each class, or each label, has."""
    return np.bincount(targets, minlength=size) if targets.ndim == 1 else targets.sum(axis=0).astype(np.int64)


def _first(data: LoadedData) -> str:
    return "" if data.stream is None else "the first "


def _ends(values: Array) -> str:
    return "" if not len(values) else f"{float(np.nanmin(values)):.6g} to {float(np.nanmax(values)):.6g}"


def _is_ours(path: Path) -> bool:
    """Whether a file is a PNG whose text chunk says that this command wrote it.

    https://www.w3.org/TR/png-3/#11tEXt
    """
    try:
        with open_file(path, str(path)) as file:
            start = file.read(_START)
    except (UserError, OSError):
        return False
    return start.startswith(b"\x89PNG\r\n\x1a\n") and b"tEXtSoftware\0" + _SOFTWARE.encode() in start


def _order(labels: Array) -> tuple[Array, str]:
    """The order in which to plot images: their own, unless that shows only one class."""
    if len(np.unique(labels[:_FIRST])) > 1:
        return np.arange(len(labels)), "the first training images"
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return np.lexsort((labels, rank)), "the first training images of each class"
