"""`python -m mnist_sweep compare`: the runs of sweeps as a table, and as files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.tables import Column, show, standard_output
from mnist_sweep.common.text import format_duration, format_value, os_reason, printable, short_names
from mnist_sweep.config.objective import SUMMARIES, Objective
from mnist_sweep.journal.ranking import pareto
from mnist_sweep.results.columns import find_column, in_order, matching
from mnist_sweep.results.runs.find import SweepRuns, all_sweeps, find_sweep, local_folder
from mnist_sweep.results.runs.frames import searched

FORMATS = {"table": ".txt", "csv": ".csv", "json": ".json", "parquet": ".parquet", "markdown": ".md"}


@dataclass(frozen=True)
class View:
    """What to show of the runs, and how.

    Attributes:
        filters: Conditions that all must hold, as for `columns.matching`.
        sort: As for `columns.in_order`.
        columns: Those to show; None for the ones that say most, or in csv, json and parquet for all.
        format: One of `FORMATS`; None for the one that `to` ends with, or a table.
        to: The file to write to; None for the standard output.
        csv: Beside the table, the file for all columns; None for `runs.csv` in the folder of a single sweep.
        mix_data: Whether runs on different data may be shown together.
        importance: Whether to tell, under the table, which hyperparameters matter.
    """

    filters: Sequence[str] = ()
    sort: str | None = None
    columns: Sequence[str] | None = None
    format: str | None = None
    to: Path | None = None
    csv: Path | None = None
    mix_data: bool = False
    importance: bool = False


def compare(sweeps: Sequence[str], tracking_uri: str | None, view: View, *, every: bool = False) -> None:
    """Prints the runs of sweeps, the best first, or writes them to a file.

    Args:
        sweeps: Each as for `load_runs`; none for the last sweep.
        tracking_uri: As for `load_runs`.
        view: What to show of them.
        every: Whether an experiment's name means all of its sweeps.

    Raises:
        UserError: There is no such sweep or column, the sweeps are on different data, or the file cannot be written.
    """
    form = _form(view)
    found, frame = _load(sweeps, tracking_uri, every)
    objectives = tuple(dict.fromkeys(objective for sweep in found for objective in sweep.objectives))
    headings = _headings(frame, objectives)
    frame = in_order(frame, view.sort, objectives, headings)
    kept = matching(frame, view.filters, headings)
    _check_data(kept, view.mix_data)
    chosen = list(dict.fromkeys(find_column(frame, n, headings, f"--columns={n}") for n in view.columns or ()))
    if form in ("csv", "json", "parquet"):
        _write_rows(kept[chosen] if chosen else kept, form, view.to)
        _tell_written(kept, view.to)
        return
    columns = _chosen(kept, chosen, headings) if chosen else _telling(kept, objectives)
    if form == "markdown":
        _write(_markdown(columns), view.to)
        _tell_written(kept, view.to)
        return
    title = ", ".join(dict.fromkeys(sweep.sweep for sweep in found)) if len(found) < 4 else f"{len(found)} sweeps"
    target = io.StringIO() if view.to else None
    console = Console(file=target, width=1000) if target else standard_output()
    left_out = show(console, columns, title)
    note = f"{len(kept)} of {len(frame)} runs" if view.filters else f"{len(frame)} runs"
    anew = 0 if chosen else int(kept["confirms"].notna().sum())
    if anew:
        note += f" ({anew} that train others anew are not shown)"
    folder = local_folder(next(iter(sweeps), None), found[0].sweep) if len(found) == 1 else None
    path = view.csv or (folder and folder / "runs.csv")
    if path is not None:
        try:
            _save(path, f"--csv={path}", _as_csv(frame))
            note += f", all columns in {path}"
        except UserError:
            # Nobody has asked for it: a sweep on a disk that is read-only can be looked at as well.
            if view.csv is not None:
                raise
    if left_out:
        note += f" ({left_out} more columns fit into a wider terminal)"
    console.print(printable(note), highlight=False, markup=False, soft_wrap=True)
    if view.importance:
        _importance(console, kept, objectives[0])
    if target and view.to:
        _write(target.getvalue(), view.to)
        _tell_written(kept, view.to)


# ---- what is compared -------------------------------------------------------------------------------------------


def _load(sweeps: Sequence[str], tracking_uri: str | None, every: bool) -> tuple[list[SweepRuns], pd.DataFrame]:
    found = [find_sweep(sweep, tracking_uri) for sweep in sweeps] or [find_sweep(None, tracking_uri)]
    if every:
        found = [one for sweep in found for one in all_sweeps(sweep)]
    found = list({sweep.found.run_id: sweep for sweep in found}.values())
    frames = [sweep.frame() for sweep in found]
    if len(frames) == 1:
        return found, frames[0]
    frame = pd.concat(frames, ignore_index=True)
    for column in frame.columns[frame.dtypes == "object"]:
        # A hyperparameter that is a number in one sweep and a list in another.
        frame[column] = frame[column].astype("string")
    frame.attrs["space"] = list(dict.fromkeys(name for sweep in found for name in sweep.space))
    kinds = [[column for column in frame.columns if column.startswith(kind)] for kind in ("params.", "metrics.")]
    fixed = [column for column in frame.columns if column not in kinds[0] + kinds[1]]
    return found, frame[[*fixed, *sorted(kinds[0]), *sorted(kinds[1])]]


def _check_data(frame: pd.DataFrame, mix: bool) -> None:
    different = frame[["sweep", "data.name", "data.digest"]].drop_duplicates("data.digest")
    if len(different) < 2 or mix:
        return
    told = ", ".join(f"{sweep} is on {name} ({digest})" for sweep, name, digest in different.itertuples(index=False))
    raise UserError(f"compare: {told}: scores on different data cannot be compared; --mix-data shows them all the same")


def pareto_set(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[int]:
    """The trials that no other is better than in every objective.

    Args:
        frame: As `load_runs` gives it, of one sweep.
        objectives: What it optimised.

    Returns:
        Their numbers, in the order of the frame; those that lack a score, or confirm others, are left out.
    """
    return [int(number) for number in frame.loc[_front(frame, objectives), "trial"]]


def _front(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[Any]:
    """The rows of the Pareto set; of different data each its own."""
    columns = [f"metrics.best_{objective.name}" for objective in objectives]
    if not set(columns) <= set(frame):
        return []
    scored = frame[frame["confirms"].isna()].dropna(subset=columns)
    found = []
    for _, same in scored.groupby("data.digest", dropna=False):
        points = dict(zip(same.index, same[columns].itertuples(index=False, name=None), strict=True))
        found += pareto(points, objectives)
    return [row for row in scored.index if row in set(found)]


# ---- columns ----------------------------------------------------------------------------------------------------


def _headings(frame: pd.DataFrame, objectives: Sequence[Objective]) -> dict[str, str]:
    """From what the user may call a column to the column: what stands above it, and the objectives' names."""
    varied = short_names([column.removeprefix("params.") for column in searched(frame)])
    return {
        **{objective.name: f"metrics.best_{objective.name}" for objective in objectives},
        "on new seeds": f"metrics.confirmed_{objectives[0].name}",
        "time": "seconds",
        "data": "data.name",
        "from": "goes_on_from",
        **{end: f"params.{name}" for name, end in varied.items()},
    }


def _telling(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[Column]:
    """The columns that say most, for the search's own trials."""
    frame = frame[frame["confirms"].isna()]
    first, *others = objectives
    front = set(_front(frame, objectives)) if others else set()
    columns = []
    if frame["sweep"].nunique() > 1:
        columns.append(Column("sweep", frame["sweep"].tolist(), 4))
    if frame["data.digest"].nunique() > 1:
        columns.append(Column("data", [f"{n} {d[:6]}" for n, d in frame[["data.name", "data.digest"]].values], 4))
    columns.append(Column("trial", [f"{n}{' ●' if row in front else ''}" for row, n in frame["trial"].items()], 5))
    if frame["goes_on_from"].notna().any():
        columns.append(_column(frame, "goes_on_from", "from", 1))
    varied = short_names([column.removeprefix("params.") for column in searched(frame)])
    columns += [_column(frame, f"params.{name}", end, 2) for name, end in varied.items()]
    scores = [f"metrics.best_{objective.name}" for objective in objectives]
    # What is no epoch's has no best one.
    names = [objective.name if objective.name in SUMMARIES else f"best_{objective.name}" for objective in objectives]
    columns += [_column(frame, column, name, 4) for column, name in zip(scores, names, strict=True) if column in frame]
    rest = [
        (f"{scores[0]}_std", f"best_{first.name}_std", 2),
        ("metrics.test_accuracy", "test_accuracy", 3),
        ("metrics.best_epoch", "best_epoch", 0),
        ("epochs", "epochs", 0),
        *([("metrics.parameters", "parameters", 0)] if "parameters" not in names else []),
        *([("status", "status", 1)] if frame["status"].nunique() > 1 else []),
    ]
    anew = f"metrics.confirmed_{first.name}"
    told = [_column(frame, column, heading, weight) for column, heading, weight in rest if column in frame]
    if anew in frame and frame[anew].notna().any():
        pairs = zip(frame[anew], frame[f"{anew}_std"], strict=True)
        cells = ["" if pd.isna(mean) else f"{mean:.4f} ± {std:.4f}" for mean, std in pairs]
        told.insert(f"{scores[0]}_std" in frame, Column("on new seeds", cells, 4))
    return [*columns, *told, _column(frame, "seconds", "time", 0)]


def _chosen(frame: pd.DataFrame, columns: Sequence[str], headings: dict[str, str]) -> list[Column]:
    """The columns that the user named; the first are the last to go."""
    names = {column: heading for heading, column in headings.items()}
    # What is called like another column's heading keeps its whole name.
    short = {column: column.removeprefix("metrics.") for column in columns}
    called = {column: names.get(column, column if short[column] in headings else short[column]) for column in columns}
    return [_column(frame, column, called[column], -place) for place, column in enumerate(columns)]


def _column(frame: pd.DataFrame, column: str, heading: str, weight: int) -> Column:
    as_text: Callable[[Any], str] = format_duration if column == "seconds" else format_value
    return Column(heading, ["" if pd.isna(value) else as_text(value) for value in frame[column]], weight)


# ---- what matters -----------------------------------------------------------------------------------------------


def _importance(console: Console, frame: pd.DataFrame, objective: Objective) -> None:
    from mnist_sweep.results.importance import importances, top_share

    found, common = importances(frame, objective), top_share(frame, objective)
    if found.empty:
        console.print(f"No importances: {found.attrs['why']}.", highlight=False)
        return
    top, count = common.attrs["top"], common.attrs["all"]
    both = found.merge(common, on="hyperparameter")
    short = short_names(both["hyperparameter"].tolist())
    columns = [
        Column("hyperparameter", [short[name] for name in both["hyperparameter"]], 5),
        Column("importance", [f"{value:.2f}" for value in both["importance"]], 4),
        Column("90 % interval", [f"{low:.2f} – {high:.2f}" for low, high in both[["low", "high"]].values], 3),
        Column(f"the best {top}", both["top"].tolist(), 2),
        Column(f"all {count}", both["all"].tolist(), 1),
        Column("p", ["" if pd.isna(p) else f"{p:.2g}" for p in both["p"]], 0),
    ]
    console.print()
    show(console, columns, f"What the best trials by {objective.name} have in common")
    console.print(
        "importance: how much of being among the best goes with it (PED-ANOVA); interval: what other trials of the "
        "same search might make of it; p: how probable so much in common is by chance alone",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


# ---- writing ----------------------------------------------------------------------------------------------------


def _form(view: View) -> str:
    """The format, which the file's name may tell."""
    form = view.format
    if form is None and view.to is not None:
        form = next((name for name, suffix in FORMATS.items() if view.to.suffix == suffix), None)
        if form is None:
            raise UserError(f"--to={view.to}: it ends with none of {' '.join(FORMATS.values())}; give --format")
    form = form or "table"
    if form not in FORMATS:
        raise UserError(f"--format={form}: there is no such format{did_you_mean(form, FORMATS)}")
    if form == "parquet" and view.to is None:
        raise UserError("--format=parquet: it is no text; give --to FILE")
    for option, given in (("csv", view.csv), ("importance", view.importance)):
        if given and form != "table":
            raise UserError(f"--{option}: it goes with the table only, not with --format={form}")
    return form


def _tell_written(frame: pd.DataFrame, to: Path | None) -> None:
    if to is not None:
        print(printable(f"{len(frame)} runs are in {to}"))


def _write_rows(frame: pd.DataFrame, form: str, to: Path | None) -> None:
    if form == "parquet" and to is not None:
        _save(to, f"--to={to}", lambda target: frame.to_parquet(target, index=False))
    elif form == "csv":
        _write(_as_csv(frame), to)
    else:
        text = frame.to_json(orient="records", date_format="iso", date_unit="ms", double_precision=15, indent=1)
        _write(f"{text}\n", to)


# A spreadsheet takes what begins so for a formula, and runs it: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def _as_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV that a spreadsheet may open: in texts, what it would run has an apostrophe before it."""
    texts = frame.select_dtypes(exclude=["number", "boolean", "datetimetz"]).columns
    safe = frame.assign(**{column: frame[column].map(_inert, na_action="ignore") for column in texts})
    return safe.rename(columns=_inert).to_csv(index=False)


def _inert(value: object) -> str:
    text = printable(str(value), sys.maxsize)
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _markdown(columns: Sequence[Column]) -> str:
    # A bar within a cell would end it.
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in zip(*(c.cells for c in columns), strict=True)]
    lines = [[column.heading.replace("|", "\\|") for column in columns], ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _write(text: str, to: Path | None) -> None:
    if to is None:
        sys.stdout.write(text)
    else:
        _save(to, f"--to={to}", text)


def _save(path: Path, option: str, content: str | Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content, follow=True)
    except OSError as error:
        raise UserError(f"{option}: cannot be written ({os_reason(error)})") from None
