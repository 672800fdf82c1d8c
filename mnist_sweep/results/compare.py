"""`python -m mnist_sweep compare`: a sweep's runs as a table, and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.text import Text

from mnist_sweep.errors import UserError
from mnist_sweep.files import write_whole
from mnist_sweep.outcomes import pareto
from mnist_sweep.progress import duration, short_names, shown
from mnist_sweep.results.runs import find_sweep, frame_of, searched, sweep_folder
from mnist_sweep.settings import Objective
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
    best, confirmed = f"metrics.best_{found.objective.name}", f"metrics.confirmed_{found.objective.name}"
    # What a trial scored on new seeds says more than the score that it was chosen by.
    order = [column for column in (confirmed, best) if column in frame]
    if order:
        frame = frame.sort_values(
            order, ascending=found.objective.direction == "min", na_position="last", kind="stable"
        )
    path = csv or sweep_folder(found.sweep) / "runs.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda target: frame.to_csv(target, index=False))
    except OSError as error:
        raise UserError(f"--csv={path}: cannot be written ({error.strerror})") from None
    console = standard_output()
    searched_for = frame[frame["confirms"].isna()]
    left_out = show(console, _columns(searched_for, found.objectives), found.sweep)
    more = f" ({left_out} more columns fit into a wider terminal)" if left_out else ""
    console.print(f"{len(frame)} runs, all columns in {path}{more}", highlight=False, markup=False, soft_wrap=True)


def _columns(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[Column]:
    first, *others = [f"metrics.best_{objective.name}" for objective in objectives]
    front = pareto_set(frame, objectives) if others else []
    varied = short_names([column.removeprefix("params.") for column in searched(frame)])
    shown_columns = [
        *((f"params.{name}", end, 1) for name, end in varied.items()),
        *((column, column.removeprefix("metrics."), 4) for column in (first, *others)),
        (f"{first}_std", f"{first.removeprefix('metrics.')}_std", 2),
        (f"metrics.confirmed_{objectives[0].name}", "on new seeds", 4),
        ("metrics.test_accuracy", "test_accuracy", 3),
        ("metrics.best_epoch", "best_epoch", 0),
        ("metrics.parameters", "parameters", 0),
        ("status", "status", 2),
    ]
    numbers = [f"{n}{' ●' if n in front else ''}" for n in frame["trial"]]
    columns = [Column("trial", numbers, 4)]
    columns += [Column(h, [_cell(v) for v in frame[c]], w) for c, h, w in shown_columns if c in frame]
    times: list[str | Text] = ["" if pd.isna(seconds) else duration(seconds) for seconds in frame["seconds"]]
    return [*columns, Column("time", times, weight=0)]


def pareto_set(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[int]:
    """The trials that no other is better than in every objective.

    Args:
        frame: As `load_runs` gives it, of one sweep.
        objectives: What it optimised.

    Returns:
        Their numbers, in the order of the frame; those that lack a score, or confirm others, are left out.
    """
    columns = [f"metrics.best_{objective.name}" for objective in objectives]
    if not set(columns) <= set(frame):
        return []
    scored = frame[frame["confirms"].isna()].dropna(subset=columns)
    scores = dict(zip(scored["trial"], scored[columns].itertuples(index=False, name=None), strict=True))
    return pareto(scores, objectives)


def _cell(value: Any) -> str:  # noqa: ANN401
    return "" if pd.isna(value) else shown(value)
