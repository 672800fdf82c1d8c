"""The tables of what sweeps do with their slots' time: profile, scaling, trivial, logging."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.overhead.activities import STEPS, TEST, Shares, inside
from benchmarks.overhead.goals import Figure, Found, Goal, against, of, spread, table
from benchmarks.overhead.store import Record


def profile(found: Found, console: Console) -> list[Goal]:
    """Shares of the slots' time."""
    _say(console, "Profile: what the slots' time goes to, from the command to its exit")
    made = table("", *found)
    middle = [middle_round(records).figures["activities"] for records in found.values()]
    for name in _activities(found):
        made.add_row(name, *(f"{seconds.get(name, 0) / sum(seconds.values()):.1%}" for seconds in middle))
    sums = (sum(s / sum(seconds.values()) for s in seconds.values()) for seconds in middle)
    made.add_row("together", *(f"{whole:.1%}" for whole in sums), style="bold", end_section=True)
    for what, figure in (
        ("training and validation, of the whole", lambda r: _shares(r).whole),
        ("… from the command to each slot's last trial's end", lambda r: _shares(r).from_command),
        ("… from each slot's first trial's start to its last one's end", _share_within),
    ):
        made.add_row(what, *(f"{spread(records, figure).median:.1%}" for records in found.values()))
    _rows(made, found, [("wall s", of("wall_seconds")), ("s of a trial (median)", of("trial_seconds"))])
    console.print(made)
    goals = []
    for variant, records in found.items():
        if variant.startswith("long"):
            seconds = spread(records, of("trial_seconds")).median
            what = f"slot time in training and validation, from first trial to last; {variant}, {seconds:.0f} s each"
            goals.append(Goal(what, 0.95, spread(records, _share_within).median, least=True, unit="%"))
    return goals


def middle_round(records: Sequence[Record]) -> Record:
    """That of the median wall time, whose shares add up as no medians do."""
    return sorted(records, key=of("wall_seconds"))[len(records) // 2]


def scaling(found: Found, console: Console) -> list[Goal]:
    """Trials per minute over slots."""
    _say(console, "Scaling: the same trials over more slots; ratios to one slot within each round")
    made = table("slots", "wall s", "trials / min", "ratio", "ratio, first trial to last", "driver's CPU share")
    for variant, records in sorted(found.items(), key=lambda item: int(item[0])):
        ratios = (against(found, variant, "1", figure) for figure in (_rate, _rate_within))
        made.add_row(
            variant,
            *(spread(records, figure).text() for figure in (of("wall_seconds"), _rate)),
            *("" if ratio is None else ratio.text() for ratio in ratios),
            f"{spread(records, _driver).median:.1%}",
        )
    console.print(made)
    return []


def trivial(found: Found, console: Console) -> list[Goal]:
    """Milliseconds of trials that do nearly nothing."""
    trials = next(iter(found.values()))[0].figures["trials"]
    _say(console, f"Trivial: {trials:,} trials of one step, without report and registry")
    made = table("", *found)
    rows: list[tuple[str, Figure]] = [
        ("slots", of("slots")),
        ("wall s, from the command until everything is logged", of("wall_seconds")),
        ("… to the last trial's end", of("last_trial")),
        ("… from the first trial's start to the last one's end", _seconds_within),
        ("each trial besides its step, wall ms, until everything is logged", _wall_each),
        ("… slot ms", _slot_each),
        ("… slot ms from first trial to last", lambda r: _besides(r, inside(r.figures["activities"]))),
        ("the driver's CPU ms for each", lambda r: _each(r, r.figures["driver_seconds"])),
        ("all processes' CPU ms for each", lambda r: _each(r, r.figures["cpu_seconds"])),
    ]
    rows += [(f"slot ms for each: {name}", partial(_spent, name)) for name in _activities(found)]
    _rows(made, found, rows)
    console.print(made)
    records = found.get("all on", ())
    return [
        Goal(
            f"{trials:,} one-step trials: {what} of each besides its step",
            30,
            spread(records, figure).median,
            unit="ms",
        )
        for what, figure in (("wall time", _wall_each), ("slot time", _slot_each))
        if records
    ]


def logging(found: Found, console: Console) -> list[Goal]:
    """With everything that is written, and without."""
    _say(
        console,
        "Logging: MLflow, .h5 files and checkpoints against none of them, within each round; without report, "
        "registry and the winner's test",
    )
    made = table("", "on, wall s", "off, wall s", "on / off", "… to the last trial's end", "on, CPU s", "off, CPU s")
    goals = []
    for title in dict.fromkeys(variant.rpartition(",")[0] for variant in found):
        on, off = f"{title}, on", f"{title}, off"
        whole, trials = against(found, on, off, _untested), against(found, on, off, of("last_trial"))
        if whole is None or trials is None:
            continue
        made.add_row(
            title,
            *(spread(found[variant], _untested).text() for variant in (on, off)),
            *(f"{s.median:.3f} ({s.low:.3f}–{s.high:.3f})" for s in (whole, trials)),
            *(spread(found[variant], of("cpu_seconds")).text() for variant in (on, off)),
        )
        goals.append(Goal(f"logging, .h5 and checkpoints against none: {title}", 1.03, whole.median, unit="×"))
    console.print(made)
    return goals


# ---- figures -----------------------------------------------------------------------------------------------------


def _say(console: Console, text: str) -> None:
    console.print(f"{text}; median (least–most)", highlight=False, soft_wrap=True)


def _activities(found: Found) -> list[str]:
    return list(dict.fromkeys(name for records in found.values() for r in records for name in r.figures["activities"]))


def _rows(made: Table, found: Found, rows: Sequence[tuple[str, Figure]]) -> None:
    for what, figure in rows:
        made.add_row(what, *(spread(records, figure).text() for records in found.values()))


def _shares(record: Record) -> Shares:
    return Shares.of(record.figures["activities"])


def _share_within(record: Record) -> float:
    return _shares(record).within


def _rate(record: Record) -> float:
    return 60 * float(record.figures["trials"]) / float(record.figures["wall_seconds"])


def _seconds_within(record: Record) -> float:
    return float(record.figures["last_trial"]) - float(record.figures["first_trial"])


def _rate_within(record: Record) -> float:
    return 60 * float(record.figures["trials"]) / _seconds_within(record)


def _driver(record: Record) -> float:
    figures = record.figures
    return float(figures["driver_seconds"]) / (float(figures["wall_seconds"]) * int(figures["cores"]))


def _each(record: Record, seconds: float) -> float:
    return seconds / float(record.figures["trials"]) * 1000


def _spent(activity: str, record: Record) -> float:
    return _each(record, record.figures["activities"].get(activity, 0.0))


def _besides(record: Record, seconds: float) -> float:
    """Of slot time, what the steps do not take, in milliseconds for each trial."""
    return _each(record, seconds - sum(record.figures["activities"].get(name, 0.0) for name in STEPS))


def _slot_each(record: Record) -> float:
    return _besides(record, float(record.figures["wall_seconds"]) * record.figures["slots"])


def _wall_each(record: Record) -> float:
    return _slot_each(record) / float(record.figures["slots"])


def _untested(record: Record) -> float:
    """The wall time without the winner's test, which cannot be done where no model is written."""
    figures = record.figures
    return float(figures["wall_seconds"]) - float(figures["activities"].get(TEST, 0.0)) / int(figures["slots"])
