"""`python -m mnist_sweep compare`: a sweep's runs as a table, and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.text import Text

from mnist_sweep.errors import UserError
from mnist_sweep.files import write_whole
from mnist_sweep.progress import duration, short_names, shown
from mnist_sweep.results.runs import find_sweep, frame_of, searched, sweep_folder
from mnist_sweep.tables import Column, show, standard_output


def compare(sweep: str | None, tracking_uri: str | None, csv: Path | None) -> None:
    """Prints a sweep's runs, the best first, and writes all their columns as CSV.

    Args:
        sweep: As for `load_runs`.
        tracking_uri: As for `load_runs`.
        csv: The file; None for `runs.csv` in the sweep's folder.

    Raises:
        UserError: There is no such sweep, or the file cannot be written.
    """
    found = find_sweep(sweep, tracking_uri)
    frame = frame_of(found.trials())
    best = f"metrics.best_{found.objective.name}"
    if best in frame:
        frame = frame.sort_values(best, ascending=found.objective.direction == "min", na_position="last", kind="stable")
    path = csv or sweep_folder(found.sweep) / "runs.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda target: frame.to_csv(target, index=False))
    except OSError as error:
        raise UserError(f"--csv={path}: cannot be written ({error.strerror})") from None
    console = standard_output()
    left_out = show(console, _columns(frame, best), found.sweep)
    more = f" ({left_out} more columns fit into a wider terminal)" if left_out else ""
    console.print(f"{len(frame)} runs, all columns in {path}{more}", highlight=False, markup=False, soft_wrap=True)


def _columns(frame: pd.DataFrame, best: str) -> list[Column]:
    varied = short_names([column.removeprefix("params.") for column in searched(frame)])
    shown_columns = [
        ("trial", "trial", 4),
        *((f"params.{name}", end, 1) for name, end in varied.items()),
        (best, best.removeprefix("metrics."), 4),
        ("metrics.test_accuracy", "test_accuracy", 3),
        ("metrics.best_epoch", "best_epoch", 0),
        ("metrics.parameters", "parameters", 0),
        ("status", "status", 2),
    ]
    columns = [Column(h, [_cell(v) for v in frame[c]], w) for c, h, w in shown_columns if c in frame]
    times: list[str | Text] = ["" if pd.isna(seconds) else duration(seconds) for seconds in frame["seconds"]]
    return [*columns, Column("time", times, weight=0)]


def _cell(value: Any) -> str:  # noqa: ANN401
    return "" if pd.isna(value) else shown(value)
