"""Reads pictures from a folder per class (`data=folder`)."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common import parallel, reading
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import counted, first_line, one_line, os_reason
from mnist_sweep.data import pictures
from mnist_sweep.data.dataset import LoadedData, PartName, Rows
from mnist_sweep.data.images import COPIES
from mnist_sweep.data.picture_cache import Cache
from mnist_sweep.data.pictures import Head, How
from mnist_sweep.data.schema import ONLY, of_images

Array = NDArray[Any]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_KINDS = "PNG, JPEG, BMP, GIF or WebP"
# What file managers and archives leave in folders; hidden files are ignored as well.
_IN_NO_CLASS = "is in no class's folder"
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")
# The names of the folders of each part.
_PARTS: dict[PartName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# Names in a message.
_LISTED = 3


@dataclass(frozen=True)
class _Picture:
    """A picture: its part and class, and its path relative to the data's folder."""

    part: PartName
    label: str
    name: str


@dataclass
class _Found:
    """What is in the data's folder.

    Attributes:
        pictures: All pictures; those of a part are next to each other, and of a class within it.
        wrong: The files that are no pictures, and why.
        ignored: The files outside of the classes' folders.
    """

    pictures: list[_Picture] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def load(given: str, options: Mapping[str, Any]) -> LoadedData:
    """Loads the pictures in a folder per class.

    Args:
        given: The folder. It has a folder for each class, or folders `train`, and perhaps `validation` and `test`, that
            have a folder for each class.
        options: `image_size`, `resize`, `color` and `skip_unreadable`, as `conf/data/folder.yaml` describes them.

    Raises:
        UserError: There are no pictures, some cannot be read, they differ in size or colour, or a class has too few.
    """
    root = _root(given)
    where = f"data.path={given}"
    skip = bool(options["skip_unreadable"])
    found = _listed(root, where)
    names = [picture.name for picture in found.pictures]

    def plan() -> tuple[How, dict[str, str]]:
        heads, wrong = _heads(root, names)
        _check_readable({**found.wrong, **wrong}, where, skip=skip)
        return _how(heads, options, where), wrong

    # What changes the pixels.
    key = {name: options[name] for name in ("image_size", "resize", "color")}
    try:
        pixels, wrong = Cache.of_user().read(root, names, key, plan)
    except MemoryError:
        raise UserError(f"{where}: needs more memory than this machine has; set a smaller data.image_size") from None
    found.wrong |= wrong
    _check_readable(found.wrong, where, skip=skip)
    kept = np.flatnonzero([name not in wrong for name in names])
    if wrong:
        pixels = pixels[kept]
    return _as_data(given, where, [found.pictures[place] for place in kept], pixels, found)


def _root(given: str) -> Path:
    try:
        root = Path(given).expanduser()
        if root.is_dir():
            return root
        exists = root.exists()
    except (OSError, RuntimeError) as error:
        raise UserError(f"data.path={given}: cannot be read ({first_line(error)})") from None
    if not exists:
        raise UserError(f"data.path={given}: no such folder")
    raise UserError(
        f"data.path={given}: is a file, but data=folder needs a folder with a folder of pictures for each class; for "
        "an .npz file, write data=npz"
    )


def _as_data(given: str, where: str, readable: Sequence[_Picture], pixels: Array, found: _Found) -> LoadedData:
    names = sorted({picture.label for picture in readable if picture.part == "train"}, key=_order)
    number = {name: i for i, name in enumerate(names)}
    for picture in readable:
        if picture.label not in number:
            raise UserError(
                f"{where}: {one_line(picture.name, 80)} is of the class {one_line(picture.label, 50)}, which has no "
                f"pictures to train on; there are {_some(names)}"
            )
    if len(names) < 2:
        raise UserError(
            f"{where}: there is only one class, {one_line(names[0], 50)}; at least two folders with pictures are needed"
        )
    counts = Counter(picture.label for picture in readable if picture.part == "train")
    for name in names:
        if counts[name] == 1:
            raise UserError(
                f"{where}: the class {one_line(name, 50)} has only one picture to train on; at least two are needed, "
                "or remove its folder"
            )
    rows: dict[PartName, Rows] = {}
    for part in _PARTS:
        places = [i for i, picture in enumerate(readable) if picture.part == part]
        if places:
            # Those of a part are next to each other: a slice does not copy them.
            labels = np.array([number[readable[i].label] for i in places], dtype=np.int64)
            rows[part] = Rows({ONLY: pixels[places[0] : places[-1] + 1]}, labels)
    notes = []
    if found.wrong:
        notes.append(
            f"{where}: {counted(len(found.wrong), 'file')} skipped, as data.skip_unreadable=true: {_some(found.wrong)}"
        )
    if found.ignored:
        notes.append(f"{where}: not read, as no class's folder holds it: {_some(found.ignored)}")
    if "val" in rows:
        notes.append(
            f"{where}: validates on the {counted(len(rows['val']), 'picture')} in its validation folder, not on "
            "data.validation_split"
        )
    height, width, channels = pixels.shape[1:]
    schema = of_images(height, width, channels, len(names), tuple(names))
    return LoadedData("folder", given, schema, rows["train"], rows.get("test"), rows.get("val"), notes=tuple(notes))


def _order(name: str) -> tuple[bool, int, str]:
    """The order of classes: numbers by their size, then the others."""
    is_number = name.isascii() and name.isdigit()
    return not is_number, int(name) if is_number else 0, name


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else ""
    return ", ".join(one_line(name, 80) for name in every[:_LISTED]) + more


# ---- files ------------------------------------------------------------------------------------------------------


def _listed(root: Path, where: str) -> _Found:
    """Returns what is in a folder, without opening a file."""
    try:
        found, folders = _Found(), _parts(root, where)
        for part, folder in folders.items():
            _classes(root, part, folder, found, where)
            in_no_class = all(why == _IN_NO_CLASS for why in found.wrong.values())
            if in_no_class and not any(picture.part == part for picture in found.pictures):
                what = "" if folder == root else f"its folder {folder.name} "
                raise UserError(
                    f"{where}: {what}has no folders with pictures; put those of each class into a folder of its own"
                )
        if root not in folders.values():
            found.ignored += [entry.name for entry in _entries(root) if entry not in folders.values()]
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({os_reason(error)}: {error.filename})") from None
    return found


def _entries(folder: Path) -> list[Path]:
    """Returns what is in a folder, sorted, without what hides there."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry for entry in entries if entry.name.lower() not in _IGNORED)


def _parts(root: Path, where: str) -> dict[PartName, Path]:
    """Returns the folders of the parts; only the given one, if it holds the classes."""
    folders: dict[PartName, Path] = {}
    for part, names in _PARTS.items():
        # A folder of pictures is a class, even if it is called train.
        named = [
            entry
            for entry in _entries(root)
            if entry.name.lower() in names and entry.is_dir() and any(inner.is_dir() for inner in _entries(entry))
        ]
        if len(named) > 1:
            raise UserError(f"{where}: has both {named[0].name} and {named[1].name}; keep one of them")
        if named:
            folders[part] = named[0]
    if not folders:
        return {"train": root}
    if "train" not in folders:
        some = next(iter(folders.values())).name
        raise UserError(f"{where}: has a folder {some} with classes in it, but no such folder train")
    return {part: folders[part] for part in _PARTS if part in folders}


def _classes(root: Path, part: PartName, folder: Path, found: _Found, where: str) -> None:
    for entry in _entries(folder):
        if entry.is_dir():
            label = unicodedata.normalize("NFC", entry.name)
            files = list(_files(entry))
            if not files:
                raise UserError(f"{where}: its folder {entry.relative_to(root)} is empty; add pictures, or remove it")
            for path in files:
                name = str(path.relative_to(root))
                if path.suffix.lower() in _SUFFIXES:
                    found.pictures.append(_Picture(part, label, name))
                else:
                    found.wrong[name] = f"is not a {_KINDS} file"
        elif entry.suffix.lower() in _SUFFIXES:
            found.wrong[str(entry.relative_to(root))] = _IN_NO_CLASS
        else:
            found.ignored.append(str(entry.relative_to(root)))


def _files(folder: Path) -> Iterable[Path]:
    """Yields the files of a class, those of folders within it too, but not of linked ones, which may have no end."""
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif not entry.is_symlink():
            yield from _files(entry)


def _check_readable(wrong: Mapping[str, str], where: str, *, skip: bool) -> None:
    if not wrong or skip:
        return
    some = ", ".join(f"{one_line(name, 80)} ({why})" for name, why in list(wrong.items())[:_LISTED])
    more = f" and {len(wrong) - _LISTED:,} more" if len(wrong) > _LISTED else ""
    raise UserError(
        f"{where}: {counted(len(wrong), 'file')} cannot be read as pictures: {some}{more}; remove "
        f"{'it' if len(wrong) == 1 else 'them'}, or write data.skip_unreadable=true"
    )


# ---- what the files say -----------------------------------------------------------------------------------------


def _heads(root: Path, names: Sequence[str]) -> tuple[dict[str, Head], dict[str, str]]:
    """Returns the size and colours of each picture that can be opened, in their order, and why the others cannot."""
    heads: dict[str, Head] = {}
    wrong: dict[str, str] = {}

    def read(name: str) -> None:
        try:
            heads[name] = pictures.head(root / name)
        except pictures.UnreadableError as error:
            wrong[name] = str(error)

    parallel.each(read, names, pictures.threads())
    return (
        {name: heads[name] for name in names if name in heads},
        {name: wrong[name] for name in names if name in wrong},
    )


def _how(heads: Mapping[str, Head], options: Mapping[str, Any], where: str) -> How:
    if not heads:
        raise UserError(f"{where}: has no pictures; put those of each class into a folder of its own")
    grey = _is_grey(heads, options["color"], where)
    height, width = _size(heads, options["image_size"], where)
    how = How(height, width, grey, options["resize"], exact=options["image_size"] is None)
    reading.check_fits(COPIES * len(heads) * math.prod(how.shape), where)
    return how


def _is_grey(heads: Mapping[str, Head], color: str, where: str) -> bool:
    if color != "auto":
        return color == "grey"
    grey = [name for name, head in heads.items() if head.grey]
    if grey and len(grey) < len(heads):
        colored = next(name for name, head in heads.items() if not head.grey)
        raise UserError(
            f"{where}: {len(grey):,} {'picture is' if len(grey) == 1 else 'pictures are'} grey, such as "
            f"{one_line(grey[0], 80)}, and {len(heads) - len(grey):,} in colour, such as {one_line(colored, 80)}; "
            "write data.color=rgb or data.color=grey to read all of them alike"
        )
    return bool(grey)


def _size(heads: Mapping[str, Head], wanted: Sequence[int] | None, where: str) -> tuple[int, int]:
    if wanted is not None:
        height, width = wanted
        return height, width
    (first, head), *_ = heads.items()
    for name, other in heads.items():
        if (other.height, other.width) != (head.height, head.width):
            raise UserError(
                f"{where}: the pictures differ in size: {one_line(first, 80)} is {head.width} × {head.height}, but "
                f"{one_line(name, 80)} is {other.width} × {other.height}; set data.image_size=[height,width], such as "
                "data.image_size=[96,96]"
            )
    return head.height, head.width
