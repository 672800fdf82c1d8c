"""The tables of each part, the goals, and a plot of where the slots' time goes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from benchmarks.harness import records, show
from benchmarks.harness.records import Figure, Found, Record, Store, of, per_minute, ratio, spread
from benchmarks.harness.show import Cell
from benchmarks.overhead.activities import STEPS, TEST, Shares, inside, shares

Goal = tuple[str, str, str, str]
"""What, the goal, what was measured, and whether the goal was met."""


def tables(store: Store, options: Namespace, console: Console) -> None:
    """Prints the tables of the chosen parts, if they were measured, and their goals."""
    goals: list[Goal] = []
    for part in options.parts:
        if not (found := store.newest(part)):
            continue
        title, table = _TABLES[part]
        console.print(f"{part.capitalize()}: {title}; median (least–most)", soft_wrap=True)
        goals += table(found, console)
        for record in (record for variant in found.values() for record in variant):
            for text in records.doubts(record):
                console.print(f"  {record.variant}, round {record.round}: {text}", style="yellow")
        console.print()
    console.print(show.table(["goal", "", "measured", ""], goals))


def _goal(what: str, figure: float, aim: float, form: str, *, least: bool = False) -> Goal:
    met = figure >= aim if least else figure <= aim
    sign = "≥" if least else "≤"
    return what, f"{sign} {form.format(aim)}", form.format(figure), "met" if met else "[red]MISSED"


# ---- figures of a sweep ------------------------------------------------------------------------------------------


def _shares(record: Record) -> Shares:
    return shares(record.figures["activities"])


def _within(record: Record) -> float:
    return _shares(record).within


def _seconds_within(record: Record) -> float:
    return record["last_trial"] - record["first_trial"]


def _rate_within(record: Record) -> float:
    return 60 * record["trials"] / _seconds_within(record)


def _each(record: Record, seconds: float) -> float:
    """Returns milliseconds for each trial."""
    return 1000 * seconds / record["trials"]


def _spent(activity: str, record: Record) -> float:
    return _each(record, record.figures["activities"].get(activity, 0.0))


def _besides(record: Record, seconds: float) -> float:
    """Returns what the steps leave of slot time, in milliseconds for each trial."""
    return _each(record, seconds - sum(record.figures["activities"].get(name, 0.0) for name in STEPS))


def _slot_each(record: Record) -> float:
    return _besides(record, record["wall_seconds"] * record["slots"])


def _wall_each(record: Record) -> float:
    return _slot_each(record) / record["slots"]


def _untested(record: Record) -> float:
    """Returns the wall time without the winner's test, which needs a model that was written."""
    return record["wall_seconds"] - float(record.figures["activities"].get(TEST, 0.0)) / record["slots"]


def _middle(runs: Sequence[Record]) -> Record:
    """Returns the record with the median wall time: medians of shares would not add up."""
    return sorted(runs, key=of("wall_seconds"))[len(runs) // 2]


def _share(name: str | None, runs: Sequence[Record]) -> str:
    """Formats an activity's share of all slot time; None for all activities."""
    seconds = _middle(runs).figures["activities"]
    return f"{sum(s for activity, s in seconds.items() if name in (None, activity)) / sum(seconds.values()):.1%}"


def _activities(found: Found) -> list[str]:
    return list(dict.fromkeys(name for runs in found.values() for run in runs for name in run.figures["activities"]))


# ---- tables ------------------------------------------------------------------------------------------------------


def _profile(found: Found, console: Console) -> list[Goal]:
    cells: dict[str, Cell] = {
        **{name: partial(_share, name) for name in _activities(found)},
        "together": partial(_share, None),
        "training and validation, of the whole": show.percent(lambda record: _shares(record).whole),
        "… from the command to the end of each slot's last trial": show.percent(lambda r: _shares(r).from_command),
        "… from the start of each slot's first trial to the end of its last": show.percent(_within),
        "wall s": show.text(of("wall_seconds")),
        "s of a trial (median)": show.text(of("trial_seconds")),
    }
    console.print(show.grid(found, cells, flip=True))
    goals = []
    for variant, runs in found.items():
        if variant.startswith("long"):
            seconds = spread(runs, of("trial_seconds")).median
            what = f"slot time in training and validation, first trial to last; {variant}, {seconds:.0f} s each"
            goals.append(_goal(what, spread(runs, _within).median, 0.95, "{:.1%}", least=True))
    return goals


def _scaling(found: Found, console: Console) -> list[Goal]:
    def against_one(figure: Figure) -> Cell:
        return lambda runs: show.optional(ratio(found, runs[0].variant, "1", figure))

    cells: dict[str, Cell] = {
        "wall s": show.text(of("wall_seconds")),
        "trials / min": show.text(per_minute),
        "ratio": against_one(per_minute),
        "ratio, first trial to last": against_one(_rate_within),
        "driver's CPU share": show.percent(lambda r: r["driver_seconds"] / (r["wall_seconds"] * r["cores"])),
    }
    console.print(show.grid(dict(sorted(found.items(), key=lambda item: int(item[0]))), cells, "slots"))
    return []


def _trivial(found: Found, console: Console) -> list[Goal]:
    rows: dict[str, Figure] = {
        "trials": of("trials"),
        "slots": of("slots"),
        "wall s, from the command until everything is logged": of("wall_seconds"),
        "… to the end of the last trial": of("last_trial"),
        "… from the start of the first trial to the end of the last": _seconds_within,
        "each trial besides its step, wall ms, until everything is logged": _wall_each,
        "… slot ms": _slot_each,
        "… slot ms from first trial to last": lambda record: _besides(record, inside(record.figures["activities"])),
        "the driver's CPU ms for each": lambda record: _each(record, record["driver_seconds"]),
        "all processes' CPU ms for each": lambda record: _each(record, record["cpu_seconds"]),
        **{f"slot ms for each: {name}": partial(_spent, name) for name in _activities(found)},
    }
    console.print(show.grid(found, {what: show.text(figure) for what, figure in rows.items()}, flip=True))
    if not (runs := found.get("all on", ())):
        return []
    what = f"{runs[0].figures['trials']:,} one-step trials: {{}} of each besides its step"
    return [
        _goal(what.format(name), spread(runs, figure).median, 30, "{:.3g} ms")
        for name, figure in (("wall time", _wall_each), ("slot time", _slot_each))
    ]


def _logging(found: Found, console: Console) -> list[Goal]:
    headings = ["", "on, wall s", "off, wall s", "on / off", "… to the end of the last trial"]
    goals, rows = [], []
    for title in dict.fromkeys(variant.rpartition(",")[0] for variant in found):
        on, off = f"{title}, on", f"{title}, off"
        whole, trials = ratio(found, on, off, _untested), ratio(found, on, off, of("last_trial"))
        if whole is None or trials is None:
            continue
        wall, cpu = ([spread(found[v], figure).text() for v in (on, off)] for figure in (_untested, of("cpu_seconds")))
        against = [f"{s.median:.3f} ({s.low:.3f}–{s.high:.3f})" for s in (whole, trials)]
        rows.append([title, *wall, *against, *cpu])
        goals.append(_goal(f"logging, .h5 and checkpoints against none: {title}", whole.median, 1.03, "{:.3f} ×"))
    console.print(show.table([*headings, "on, CPU s", "off, CPU s"], rows))
    return goals


def _figures(found: Found, console: Console) -> list[Goal]:
    kinds = {
        "wall s": of("wall_seconds"),
        "s to the end of the last trial": of("last_trial"),
        "driver's CPU s": of("driver_seconds"),
    }
    goals, rows = [], []
    for title in dict.fromkeys(variant.rpartition(",")[0] for variant in found):
        on, off = f"{title}, on", f"{title}, off"
        for what, figure in kinds.items():
            if (against := ratio(found, on, off, figure)) is None:
                continue
            both = [spread(found[variant], figure).text() for variant in (on, off)]
            rows.append([title, what, *both, f"{against.median:.3f} ({against.low:.3f}–{against.high:.3f})"])
            if what == "wall s":
                goals.append(_goal(f"slots measured against not: {title}", against.median, 1.03, "{:.3f} ×"))
    console.print(show.table(["", "", "on", "off", "on / off"], rows))
    return goals


def _start(found: Found, console: Console) -> list[Goal]:
    ours, base = "mnist_sweep", "import tensorflow"
    names = {
        "the sweep has started": "begun",
        "the first trial is with its worker": "first_trial",
        "its model is built and traced: the first step begins": "step_begun",
        "the first step has ended": "step_ended",
    }
    against = {what: ratio(found, ours, base, of(name), of("wall_seconds")) for what, name in names.items()}
    rows = [
        [what, spread(found[ours], of(name)).text(), show.optional(against[what])]
        for what, name in names.items()
        if ours in found
    ]
    if base in found:
        rows.append([f"python -c '{base}'", spread(found[base], of("wall_seconds")).text(), ""])
    console.print(show.table(["", "s", f"ratio to python -c '{base}'"], rows))
    last = against["the first step has ended"]
    return [] if last is None else [_goal(f"command to first step against {base}", last.median, 1.3, "{:.3f} ×")]


def _memory(found: Found, console: Console) -> list[Goal]:
    after, goals, rows = (1, 2, 10, 50, 100), [], []
    for variant, runs in found.items():
        workers = runs[-1].figures["workers"]
        first, last, most = workers[0], workers[-1], max(workers, key=lambda worker: float(worker["rss"]))
        pids = [worker["pid"] for worker in workers]
        new = [number for number, (a, b) in enumerate(pairwise(pids), start=1) if a != b]
        some = f": after {', '.join(map(str, new[:6]))}" if new else ""
        shown = [workers[n - 1] if n <= len(workers) else None for n in after] + [most]
        sizes = ["" if one is None else f"{one['rss']:.0f} ({one['pss']:.0f})" for one in shown]
        grown = [f"{one['rss'] / first['rss']:.3f} ({one['pss'] / first['pss']:.3f})" for one in (last, most)]
        rows.append([variant, *sizes, *grown, f"{len(new)} times{some}{' …' if len(new) > 6 else ''}"])
        if variant.endswith("as it is"):
            what = f"memory of a worker after {len(workers)} trials against that after one: {variant}"
            goals.append(_goal(what, last["rss"] / first["rss"], 1.1, "{:.3f} ×"))
    console.print(show.table(["trials", *map(str, after), "most", "last / first", "most / first", "replaced"], rows))
    return goals


def _commands(found: Found, console: Console) -> list[Goal]:
    loads = {variant: any(run.figures["tensorflow"] for run in runs) for variant, runs in found.items()}
    cells: dict[str, Cell] = {
        "wall s": show.text(of("wall_seconds")),
        "CPU s": show.text(of("cpu_seconds")),
        "peak MiB": show.text(of("peak_mib")),
        "loads TensorFlow": lambda runs: "YES" if loads[runs[0].variant] else "no",
    }
    console.print(show.grid(found, cells))
    return [
        _goal(
            f"{variant}{', though it LOADS TENSORFLOW' if loads[variant] else ''}",
            spread(runs, of("wall_seconds")).median,
            1.5,
            "{:.3g} s",
        )
        for variant, runs in found.items()
    ]


_TABLES: dict[str, tuple[str, Callable[[Found, Console], list[Goal]]]] = {
    "profile": ("what the slots' time goes to, from the command to its exit", _profile),
    "scaling": ("the same trials over more slots; ratios to one slot within each round", _scaling),
    "trivial": ("trials of one step, without report and registry", _trivial),
    "logging": (
        "MLflow, .h5 files and checkpoints against none of them, within each round; without report, registry and the "
        "winner's test",
        _logging,
    ),
    "figures": (
        "what the slots use measured and logged, and not, within each round; without report and registry",
        _figures,
    ),
    "start": ("seconds from the command; ratios within each round", _start),
    "memory": (
        "of the worker in MiB at the end of some trials, resident (in brackets, shared pages count in part)",
        _memory,
    ),
    "commands": ("that answer at once", _commands),
}

# ---- plot --------------------------------------------------------------------------------------------------------

# What the plot shows, each with its color; grey if the slot does nothing.
_GROUPS = {
    "training steps": (("train",), show.GREEN),
    "validation": (("validate",), show.SKY),
    "building, tracing": (("build", "trace"), show.ORANGE),
    ".h5, checkpoints": (("save", "checkpoint"), show.PURPLE),
    "rest of the trial": (("other", "wait", "failed"), show.BLUE),
    "between trials": (("between trials",), show.YELLOW),
    "start-up": (("start-up",), show.RED),
    "idle at the end, winner's test": (("idle", "winner's test"), "#BBBBBB"),
    "last logging, report, registry": (("after",), "#777777"),
}
# A smaller share has no room for its number.
_NARROW = 0.035


def plot(store: Store, path: Path, footer: str) -> bool:
    """Draws the shares of the slots' time from the command to its exit, if `profile` or `trivial` was measured."""
    found = {name: _middle(runs) for name, runs in store.newest("profile").items()}
    if runs := store.newest("trivial").get("all on"):
        found[f"{runs[0].figures['trials']:,} trials of one step"] = _middle(runs)
    if not found:
        return False
    with show.plot(path, footer=footer, figsize=(9.5, 1.7 + 0.62 * len(found))) as (figure, axes):
        axis = axes[0][0]
        for place, record in enumerate(found.values()):
            seconds, left = record.figures["activities"], 0.0
            for title, (names, color) in _GROUPS.items():
                share = sum(seconds.get(name, 0.0) for name in names) / sum(seconds.values())
                label = title if place == 0 else None
                axis.barh(place, share, 0.68, left, color=color, label=label, edgecolor="white", linewidth=0.4)
                if share > _NARROW:
                    axis.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=9)
                left += share
        labels = [
            f"{name}\n{record['trials']:.0f} trials of {record['trial_seconds']:.2g} s, {record['wall_seconds']:.0f} s"
            for name, record in found.items()
        ]
        axis.set_yticks(range(len(found)), labels, fontsize=8.5)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.tick_params(axis="x", labelsize=8)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("share of the slots' time, from the command to its exit", fontsize=9)
        figure.legend(loc="upper center", ncols=5, fontsize=8, frameon=False, handlelength=1.1, columnspacing=1.2)
        figure.tight_layout(rect=(0, 0.03, 1, 1 - 0.5 / figure.get_figheight()))
    return True
