"""`python -m benchmarks.pictures`: whether a folder of pictures trains as fast as the same arrays from an `.npz` file.

Makes random pictures in two folders of classes, and an `.npz` of the same arrays. Each sweep trains one trial of a
small convolutional network on one slot. `folder, first time` decodes the pictures, `folder` finds them decoded. Figures
are in seconds: of an epoch, the median of all but the first; and of the whole command. The claim to check: on 20,000
pictures of 96 × 96, an epoch from an `.npz` takes at least 0.95 times as long as one from the folder.
"""

from __future__ import annotations

import os
import shutil
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.harness import records, show, sweeps
from benchmarks.harness.benchmark import SHARED, Benchmark, Case, Figures
from benchmarks.harness.records import Store
from mnist_sweep.config import shipped
from mnist_sweep.data.sources import Request, load
from mnist_sweep.journal.events import EpochEnded

_PART = "pictures"
_FOLDER, _NPZ, _FIRST = "folder", "npz", "folder, first time"
_MODEL = (
    "model=cnn",
    "model.layers=2",
    "model.filters=16",
    "model.pooling.after=all",
    "model.dense.units=32",
    "search=none",
    "workers.count=1",
    "tracking.report=false",
)


def make(shared: Path, pictures: int, side: int) -> None:
    """Makes the folder and the `.npz`, unless they are there.

    Args:
        shared: Where to make them.
        pictures: How many pictures.
        side: Their height and width, in pixels.
    """
    root, npz = _paths(shared, pictures, side)
    if npz.exists():
        return
    random = np.random.default_rng(0)
    for number in range(pictures):
        label = number % 2
        # Coarse, so that the files are as small as those of photographs; and one class is brighter.
        coarse = random.integers(0, 200, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8) + np.uint8(55 * label)
        path = root / f"class {label}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((side, side)).save(path)
    data = load(Request.of({**shipped.values("data/folder"), "path": str(root)}, None))
    assert data.test is not None
    train, test = data.train, data.test
    np.savez(npz, x_train=train.x, y_train=train.targets, x_test=test.x, y_test=test.targets)


def _paths(shared: Path, pictures: int, side: int) -> tuple[Path, Path]:
    root = shared / f"{pictures} of {side}"
    return root, root.with_suffix(".npz")


def measure(variant: str, shared: Path, options: Namespace, folder: Path) -> Figures:
    """Runs a sweep with one trial."""
    # The sweeps inherit it, and the user's own cache stays as it is.
    os.environ["XDG_CACHE_HOME"] = str(shared / "cache")
    make(shared, options.pictures, options.side)
    if variant == _FIRST:
        shutil.rmtree(shared / "cache", ignore_errors=True)
    root, npz = _paths(shared, options.pictures, options.side)
    data = ("data=npz", f"data.path={npz}") if variant == _NPZ else ("data=folder", f"data.path={root}")
    arguments = [*_MODEL, *data, f"training.epochs={options.epochs}"]
    swept = sweeps.run(arguments, folder, timeout=3600)
    epochs = [event.metrics["epoch_seconds"] for event in swept.events if isinstance(event, EpochEnded)]
    later = epochs[1:] or epochs
    return {
        "epoch": statistics.median(later),
        "first epoch": epochs[0],
        "wall_seconds": swept.usage.wall_seconds,
        "peak_mib": swept.usage.peak_mib,
    }


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--pictures", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--side", type=int, default=96, help="their height and width (default: 96)")
    parser.add_argument("--epochs", type=int, default=5, help="of each trial (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    shared = folder / SHARED
    shared.mkdir(parents=True, exist_ok=True)
    work = {"pictures": options.pictures, "side": options.side, "epochs": options.epochs}
    # The first one fills the cache for the second.
    cases = [Case(_PART, name, work, partial(measure, name, shared, options)) for name in (_FIRST, _FOLDER, _NPZ)]
    return [(cases, options.rounds)]


def _show(store: Store, options: Namespace, console: Console) -> None:
    show.everything(store, options, console)
    found = store.newest(_PART)
    if (ratio := records.ratio(found, _NPZ, _FOLDER, records.of("epoch"))) is not None:
        console.print(f"An epoch from the .npz takes {ratio.text()} times as long as one from the folder.")


main = Benchmark(
    "pictures",
    __doc__ or "",
    _add_options,
    _cases,
    _show,
    quick={"pictures": 60, "side": 32, "epochs": 2, "rounds": 1},
    told=("epoch", "wall_seconds"),
).main

if __name__ == "__main__":
    main()
