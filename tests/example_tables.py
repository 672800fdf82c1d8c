"""Tables for tests: scikit-learn's data sets, and rows of every kind of column, written as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnist_sweep.config import shipped
from mnist_sweep.data import table
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.schema import TargetKind

TARGETS = {"iris": "species", "wine": "class", "breast_cancer": "diagnosis", "diabetes": "progression"}


# What must be given with an experiment for tables.
NEEDED = ("data.path=table.csv", "data.target=y")


def of_experiment(name: str) -> list[str]:
    """Returns the overrides that choose an experiment, with those that it requires."""
    needed = {"table": NEEDED, "regression": NEEDED, "own_images": ("data.path=pictures",)}
    return [f"+experiment={name}", *needed.get(name, ())]


def of_sklearn(folder: Path, name: str) -> Path:
    """Writes one of scikit-learn's data sets as CSV, classes by their names; returns the file."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = found.frame.rename(columns={"target": TARGETS[name]})
    if name != "diabetes":
        frame[TARGETS[name]] = found.target_names[frame[TARGETS[name]]]
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return path


def mixed(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """Returns rows with all kinds of columns, some without a value; `bought` depends on each kind."""
    rng = np.random.default_rng(seed)
    city = rng.choice(["Bern", "Oslo", "Rome", "Tunis"], rows)
    many = rng.integers(0, 80, rows)
    review = np.where(rng.random(rows) < 0.5, "a Good, solid thing!", "bad - it broke")
    frame = pd.DataFrame(
        {
            "age": rng.normal(40, 12, rows).round(),
            "income": rng.lognormal(10, 1, rows),
            "city": city,
            "shop": [f"shop {i}" for i in many],
            "member": rng.random(rows) < 0.5,
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, rows), unit="D"),
            "review": review,
            "household": rng.integers(0, rows // 4, rows),
        }
    )
    score = (frame.age > 40).astype(int) + (city == "Oslo") + (many % 2) + np.char.startswith(review.astype(str), "a")
    frame["bought"] = np.where(score > 1, "yes", "no")
    frame.loc[::9, "age"] = np.nan
    frame.loc[::7, "city"] = None
    return frame


def options(**given: Any) -> dict[str, Any]:
    """Returns the group `data` of a table."""
    return {**shipped.values("data/table"), **given}


def load(path: Path, wanted: TargetKind | None = None, **given: Any) -> LoadedData:
    """Loads a table."""
    return table.load(str(path), options(**given), wanted)


def loaded(frame: pd.DataFrame, folder: Path, wanted: TargetKind | None = None, **given: Any) -> LoadedData:
    """Writes a table as CSV and loads it."""
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return load(path, wanted, **given)
