"""`python -m mnist_sweep compare`: the runs of sweeps as a table or a file."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.tables import Column, fitting, line_printer, markdown, show, standard_output
from mnist_sweep.common.text import counted, format_duration, format_value, os_reason, printable, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.leaderboard import NOTHING, Kind
from mnist_sweep.results.columns import find_column, in_order, matching
from mnist_sweep.results.leaderboard import leaderboard, of_search
from mnist_sweep.results.runs.find import SweepRuns, all_sweeps, find_sweep
from mnist_sweep.results.runs.frames import searched
from mnist_sweep.results.runs.local import local_folder

# The columns of the leaderboard in their order; in a narrow terminal, those with the lowest weight are left out first.
_WEIGHTS: dict[Kind, int] = {
    "trial": 9,
    "status": 7,
    "score": 8,
    "retrained": 8,
    "hyperparameter": 5,
    "parent": 4,
    "best epoch": 2,
    "parameters": 2,
    "time": 2,
}
# That of a column with the same value in all runs.
_SAME = 0
# The width of a table in a file.
_UNLIMITED = 1000
# Columns that are named as an example of how to choose columns.
_NAMED = 4
FORMATS = {"table": ".txt", "csv": ".csv", "json": ".json", "parquet": ".parquet", "markdown": ".md"}


@dataclass(frozen=True)
class View:
    """Which runs and columns to show, and in which format.

    Attributes:
        filters: Conditions that must all hold, as for `columns.matching`.
        sort: As for `columns.in_order`.
        columns: The columns to show; None for the most important ones, or for all in csv, json and parquet.
        format: One of `FORMATS`; None for the one that `to` ends with, or a table.
        to: The file to write to; None for the standard output.
        csv: A file for all columns, in addition to the table; None for `runs.csv` in the folder of a single sweep.
        mix_data: Whether runs on different data may be shown together.
        importance: Whether to show the importance of the hyperparameters under the table.
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
        sweeps: The sweeps, each as for `load_runs`; if there are none, the last sweep.
        tracking_uri: As for `load_runs`.
        view: Which runs and columns to show.
        every: Whether an experiment's name stands for all of its sweeps.

    Raises:
        UserError: The sweep or column does not exist, the sweeps are on different data, or the file cannot be written.
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
        _write(_rows(kept[chosen] if chosen else kept, form), view.to, len(kept))
        return
    columns = _chosen(kept, chosen, headings) if chosen else _leaderboard(kept, objectives)
    if form == "markdown":
        _write(markdown(columns), view.to, len(kept))
        return
    title = ", ".join(dict.fromkeys(sweep.sweep for sweep in found)) if len(found) < 4 else f"{len(found)} sweeps"
    target = io.StringIO() if view.to else None
    console = Console(file=target, width=_UNLIMITED) if target else standard_output()
    if not chosen:
        _weigh(columns, of_search(kept), objectives[0], console.width)
    left_out = show(console, columns, title) if len(kept) or not view.filters else []
    note = counted(len(frame), "run")
    if view.filters:
        note = f"{len(kept):,} of {note}"
        note += "" if len(kept) else f": none matches {' and '.join(view.filters)}"
    retraining = 0 if chosen else int(kept["confirms"].notna().sum())
    if retraining:
        note += f" ({retraining} that {'retrains' if retraining == 1 else 'retrain'} others not shown)"
    folder = local_folder(next(iter(sweeps), None), found[0].sweep) if len(found) == 1 else None
    path = view.csv or (folder and folder / "runs.csv")
    if path is not None:
        try:
            _save(path, f"--csv={path}", _as_csv(frame))
            note += f", all columns in {path}"
        except UserError:
            # The user did not ask for this file: a sweep on a read-only disk can be viewed without it.
            if view.csv is not None:
                raise
    say = line_printer(console)
    say(printable(note))
    if left_out:
        say(printable(_left_out(columns, left_out, console.width, chosen=bool(chosen))))
    if view.importance:
        _importance(console, kept, objectives[0])
    if target:
        _write(target.getvalue(), view.to, len(kept))


# ---- what is compared -------------------------------------------------------------------------------------------


def _load(sweeps: Sequence[str], tracking_uri: str | None, every: bool) -> tuple[list[SweepRuns], pd.DataFrame]:
    found = [find_sweep(sweep, tracking_uri) for sweep in sweeps or (None,)]
    if every:
        found = [one for sweep in found for one in all_sweeps(sweep)]
    found = list({sweep.found.run_id: sweep for sweep in found}.values())
    frames = [sweep.frame() for sweep in found]
    if len(frames) == 1:
        return found, frames[0]
    frame = pd.concat(frames, ignore_index=True)
    for column in frame.columns[frame.dtypes == "object"]:
        # A hyperparameter may be a number in one sweep and a list in another.
        frame[column] = frame[column].astype("string")
    frame.attrs["space"] = list(dict.fromkeys(name for sweep in found for name in sweep.space))
    params, metrics = (sorted(c for c in frame.columns if c.startswith(kind)) for kind in ("params.", "metrics."))
    return found, frame[[*frame.columns.drop(params + metrics), *params, *metrics]]


def _check_data(frame: pd.DataFrame, mix: bool) -> None:
    different = frame[["sweep", "data.name", "data.digest"]].drop_duplicates("data.digest")
    if len(different) < 2 or mix:
        return
    listed = ", ".join(f"{sweep} is on {name} ({digest})" for sweep, name, digest in different.itertuples(index=False))
    raise UserError(f"compare: {listed}: scores on different data cannot be compared; --mix-data shows them anyway")


# ---- columns ----------------------------------------------------------------------------------------------------


def _headings(frame: pd.DataFrame, objectives: Sequence[Objective]) -> dict[str, str]:
    """The columns by the headings that the user may call them by."""
    varied = short_names(searched(frame))
    return {
        **{objective.name: f"metrics.best_{objective.name}" for objective in objectives},
        "on new seeds": f"metrics.confirmed_{objectives[0].name}",
        "best epoch": "metrics.best_epoch",
        "time": "seconds",
        "data": "data.name",
        "from": "goes_on_from",
        **{end: f"params.{name}" for name, end in varied.items()},
    }


def _leaderboard(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[Column]:
    """The most important columns, for the trials of the search: first those in which they differ."""
    board = leaderboard(frame, objectives, _varied(frame))
    frame = of_search(frame)
    columns = [Column("sweep", frame["sweep"].tolist(), 9)] if frame["sweep"].nunique() > 1 else []
    if frame["data.digest"].nunique() > 1:
        columns.append(Column("data", [f"{n} {d[:6]}" for n, d in frame[["data.name", "data.digest"]].values], 9))
    found = {kind: [column for column in board.columns() if column.kind == kind] for kind in _WEIGHTS}
    short = _short(frame)
    for kind in _WEIGHTS:
        columns += [Column(short.get(c.name, c.heading), c.cells, _WEIGHTS[kind]) for c in found[kind]]
        if kind == "retrained" and "metrics.test_accuracy" in frame:
            columns.append(_column(frame, "metrics.test_accuracy", "test_accuracy", 3))
        elif kind == "parent":
            columns.append(_column(frame, "epochs", "epochs", 2))
    kept, same = list[Column](), list[Column]()
    for column in columns:
        alike = len(frame) > 1 and column.heading != "trial" and len(set(map(str, column.cells))) == 1
        scores = column.heading in [objective.name for objective in objectives]
        (same if alike and not scores else kept).append(column)
    return [*kept, *(replace(column, weight=_SAME) for column in same)]


def _varied(frame: pd.DataFrame) -> list[str]:
    """The hyperparameters in which the trials of the search differ; of several sweeps, also others."""
    frame = of_search(frame)
    names = searched(frame)
    if frame["sweep"].nunique() > 1:
        everything = frame.copy()
        everything.attrs = {}
        names += [name for name in searched(everything) if name not in names]
    return names


def _short(frame: pd.DataFrame) -> dict[str, str]:
    """The headings of the hyperparameters, none of which is also that of another column."""
    return {name: name if end in frame else end for name, end in short_names(_varied(frame)).items()}


def _weigh(columns: Sequence[Column], frame: pd.DataFrame, objective: Objective, width: int) -> None:
    """Gives the hyperparameters that matter least the lowest weight, if not all of them fit."""
    names = {end: name for name, end in _short(frame).items()}
    left_out = fitting(columns, "", width)[1]
    if not any(heading in names for heading in left_out):
        return
    from mnist_sweep.results.importance import importances

    with contextlib.suppress(UserError):
        # They are on different data.
        found = importances(frame, objective)
        place = {name: 1 - i / 1000 for i, name in enumerate(found["hyperparameter"])}
        for column in columns:
            if column.weight == _WEIGHTS["hyperparameter"] and column.heading in names:
                column.weight -= 1 - place.get(names[column.heading], 0.0)


def _left_out(columns: Sequence[Column], left_out: Sequence[str], width: int, *, chosen: bool) -> str:
    """Says which columns are not shown, and how to see them."""
    if chosen:
        return f"Not shown in {width} columns: {', '.join(left_out)}. To see them: a wider terminal, or --to=runs.txt"
    missing = [column for column in columns if column.heading in left_out]
    other = [column.heading for column in missing if column.weight != _SAME]
    same = [f"{column.heading} {column.cells[0]}" for column in missing if column.weight == _SAME]
    parts = [f"not shown in {width} columns: {', '.join(other)}"] if other else []
    parts += [f"the same in all runs: {', '.join(same)}"] if same else []
    text = "; ".join(parts)
    named = shlex.quote(",".join(left_out[:_NAMED]))
    return f"{text[0].upper()}{text[1:]}. To see them: --columns={named}"


def _chosen(frame: pd.DataFrame, columns: Sequence[str], headings: dict[str, str]) -> list[Column]:
    """The columns that the user named; in a narrow terminal, the last ones are left out first."""
    names = {column: heading for heading, column in headings.items()}
    # A column whose short name is the heading of another one keeps its full name.
    short = {column: column.removeprefix("metrics.") for column in columns}
    called = {column: names.get(column, column if short[column] in headings else short[column]) for column in columns}
    return [_column(frame, column, called[column], -place) for place, column in enumerate(columns)]


def _column(frame: pd.DataFrame, column: str, heading: str, weight: int) -> Column:
    as_text: Callable[[Any], str] = format_duration if column == "seconds" else format_value
    return Column(heading, [NOTHING if pd.isna(value) else as_text(value) for value in frame[column]], weight)


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
        "importance: how much the hyperparameter decides whether a trial is among the best (PED-ANOVA); interval: the "
        "range in which it would be for other trials of the same search; p: how likely so much in common is by chance",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


# ---- writing ----------------------------------------------------------------------------------------------------


def _form(view: View) -> str:
    """The format, which may follow from the file's name."""
    form = view.format
    if form is None and view.to is not None:
        form = next((name for name, suffix in FORMATS.items() if view.to.suffix == suffix), None)
        if form is None:
            raise UserError(
                f"--to={view.to}: its name does not end with one of {' '.join(FORMATS.values())}; give --format"
            )
    form = form or "table"
    if form not in FORMATS:
        raise UserError(f"--format={form}: no such format{did_you_mean(form, FORMATS)}")
    if form == "parquet" and view.to is None:
        raise UserError("--format=parquet: this is a binary format; give --to FILE")
    for option, given in (("csv", view.csv), ("importance", view.importance)):
        if given and form != "table":
            raise UserError(f"--{option}: it works with the table only, not with --format={form}")
    return form


def _rows(frame: pd.DataFrame, form: str) -> str | Callable[[Path], object]:
    """The rows as text, or what writes them to a file."""
    if form == "parquet":
        return partial(frame.to_parquet, index=False)
    if form == "csv":
        return _as_csv(frame)
    text = frame.to_json(orient="records", date_format="iso", date_unit="ms", double_precision=15, indent=1)
    return f"{text}\n"


# A spreadsheet runs a text that starts with one of these as a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def _as_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV that is safe to open in a spreadsheet: an apostrophe precedes texts that it would run."""
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


def _write(content: str | Callable[[Path], object], to: Path | None, count: int) -> None:
    if to is None:
        sys.stdout.write(str(content))
    else:
        _save(to, f"--to={to}", content)
        print(printable(f"{counted(count, 'run')} {'is' if count == 1 else 'are'} in {to}"))


def _save(path: Path, option: str, content: str | Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content, follow=True)
    except OSError as error:
        raise UserError(f"{option}: cannot be written ({os_reason(error)})") from None
