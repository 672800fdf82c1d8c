"""Loads the data set that a config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_sweep.data import folder, images, loader, npz, table
from mnist_sweep.data.dataset import LoadedData, Rows, with_test
from mnist_sweep.data.schema import ONLY, TargetKind, of_images


@dataclass(frozen=True)
class Request:
    """Which data to load.

    Attributes:
        name: The group `data`'s option: `mnist`, `fashion_mnist`, `mnist_5k`, `npz`, `folder`,
            `table`, `loader`.
        path: The file or folder; None if the data set has a place of its own.
        fallback: The data set to use if this one cannot be downloaded; None to raise an error.
        target: The kind of target that the task needs; None to tell it from the data.
        test_split: The fraction of the rows to hold out for testing if the data have no test part.
        options: Everything else of the group `data`, by key.
        code: A folder with modules that the sweep carries, in which a function may be; None if there is none.
    """

    name: str
    path: str | None = None
    fallback: str | None = None
    target: TargetKind | None = None
    test_split: float = 0.2
    options: Mapping[str, Any] = field(default_factory=dict)
    code: Path | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any], target: TargetKind | None, code: Path | None = None) -> Request:
        """Returns the request of a config.

        Args:
            data: The group `data`.
            target: The kind of target that the task needs; None to tell it from the data.
            code: A folder with modules that the sweep carries; None if there is none.
        """
        options = {key: value for key, value in data.items() if key not in _NOT_OPTIONS}
        test_split = data.get("test_split") or cls.test_split
        return cls(data["name"], data["path"], data.get("fallback"), target, test_split, options, code)


def load(request: Request) -> LoadedData:
    """Loads and checks a data set, and holds a test part out if it has none.

    Raises:
        UserError: The data cannot be found or read, or are invalid.
    """
    return with_test(_SOURCES[request.name](request), request.test_split)


def _images(request: Request) -> LoadedData:
    return from_images(images.load(request.name, request.path, request.fallback))


def from_images(found: images.Images) -> LoadedData:
    """Returns images in classes as a data set."""
    train, test = Rows({ONLY: found.x_train}, found.y_train), Rows({ONLY: found.x_test}, found.y_test)
    schema = of_images(*found.shape, found.classes)
    return LoadedData(found.name, found.source, schema, train, test, fallback=found.fallback, notes=found.notes)


def _npz(request: Request) -> LoadedData:
    # The config's check requires it; the same below.
    assert request.path is not None
    return npz.load(request.path, request.target)


def _folder(request: Request) -> LoadedData:
    assert request.path is not None
    return folder.load(request.path, request.options)


def _table(request: Request) -> LoadedData:
    assert request.path is not None
    return table.load(request.path, request.options, request.target)


def _loader(request: Request) -> LoadedData:
    return loader.load(request.options, request.target, request.code)


# The data sets whose task is known before they are loaded.
OF_IMAGES_IN_CLASSES = ("mnist", "fashion_mnist", "mnist_5k")
_NOT_OPTIONS = ("name", "path", "fallback", "validation_split", "test_split")
# The option of the group `data` → loads it.
_SOURCES: dict[str, Callable[[Request], LoadedData]] = {
    "mnist": _images,
    "fashion_mnist": _images,
    "mnist_5k": _images,
    "npz": _npz,
    "folder": _folder,
    "table": _table,
    "loader": _loader,
}
