"""`python -m benchmarks.tables`: how long it takes until a table of a million rows can be trained on.

Next to it, how long pandas alone takes to read the same file. `ready` is what grows with the table between the start of
a sweep and its first batch: reading, checking, splitting, copying for the workers, and encoding in one of them.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness.benchmark import SHARED, Benchmark, Case, Figures
from mnist_sweep.config import shipped
from mnist_sweep.data.dataset import Dataset, split
from mnist_sweep.data.sources import Request, load

FORMATS = ("csv", "parquet")
_NUMBERS, _WHOLE, _CATEGORIES = 12, 4, (5, 40, 1000)


def write(rows: int, path: Path) -> None:
    """Writes a made-up table of 20 columns: numbers, whole numbers, categories, some missing, and two classes."""
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"number {i}": rng.normal(size=rows).round(4) for i in range(_NUMBERS)})
    for i in range(_WHOLE):
        frame[f"whole {i}"] = rng.integers(0, 1000, rows)
    for kinds in _CATEGORIES:
        names = np.array([f"value {i}" for i in range(kinds)])
        frame[f"category {kinds}"] = names[rng.integers(0, kinds, rows)]
    for name in ("number 3", f"category {_CATEGORIES[1]}"):
        frame.loc[rng.random(rows) < 0.05, name] = None
    frame["class"] = np.where(frame["number 0"] + frame["number 1"] > 0, "yes", "no")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)


def measure(kind: str, folder: Path, *, rows: int, shared: Path) -> Figures:
    """Times pandas, then all that happens until training can start."""
    import pandas as pd

    from mnist_sweep.training.splits import Splits

    path, arrays = shared / f"{rows}.{kind}", folder / f"{rows}.{kind}"
    if not path.exists():
        write(rows, path)
    arrays.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
    pandas = time.perf_counter() - started
    started = time.perf_counter()
    options = {**shipped.values("data/table"), "target": "class"}
    loaded = load(Request("table", str(path), test_split=options["test_split"], options=options))
    loaded.digest()
    split(loaded, options["validation_split"], 1).save(arrays)
    in_driver = time.perf_counter() - started
    splits = Splits(Dataset.open(arrays))
    splits.for_model(splits.holdout(), None)
    ready = time.perf_counter() - started
    return {"pandas s": pandas, "ready s": ready, "of it in the driver": in_driver, "ready / pandas": ready / pandas}


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    run = partial(measure, rows=options.rows, shared=folder / SHARED)
    cases = [Case("table", kind, {"rows": options.rows}, partial(run, kind)) for kind in FORMATS]
    return [(cases, options.rounds)]


main = Benchmark(
    "tables", __doc__ or "", _add_options, _cases, quick={"rows": 2000, "rounds": 1}, told=("pandas s", "ready s")
).main

if __name__ == "__main__":
    main()
