"""The tables of each part, the goals, and a plot of where the slots' time goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from benchmarks.harness import records, show
from benchmarks.harness.records import Figure, Found, Record, Store, of, per_minute, ratio, spread
from benchmarks.overhead.activities import STEPS, TEST, Shares, inside


@dataclass(frozen=True)
class Goal:
    """A figure to aim for.

    Attributes:
        what: For people.
        aim: The goal.
        figure: What was measured, the median of the rounds.
        least: Whether the figure should be at least the goal; else at most.
        unit: Of both: `%` (of 1), `×`, `ms` or `s`.
    """

    what: str
    aim: float
    figure: float
    least: bool = False
    unit: str = "s"

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.figure >= self.aim if self.least else self.figure <= self.aim

    def row(self) -> tuple[str, str, str, str]:
        """Returns what, goal, measured, and met or missed."""
        sign = "≥" if self.least else "≤"
        return self.what, f"{sign} {self._text(self.aim)}", self._text(self.figure), "met" if self.met else "MISSED"

    def _text(self, value: float) -> str:
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{value:.3f} ×" if self.unit == "×" else f"{value:.3g} {self.unit}"


def tables(store: Store, parts: Sequence[str], console: Console) -> None:
    """Prints the tables of some parts, if they were measured, and their goals."""
    goals: list[Goal] = []
    for part in parts:
        if not (found := store.newest(part)):
            continue
        goals += _TABLES[part](found, console)
        for record in (record for variant in found.values() for record in variant):
            for text in records.doubts(record):
                console.print(f"  {record.variant}, round {record.round}: {text}", style="yellow")
        console.print()
    table = show.table("goal", "", "measured", "")
    for goal in goals:
        table.add_row(*goal.row(), style=None if goal.met else "red")
    console.print(table)


def _say(console: Console, text: str) -> None:
    console.print(f"{text}; median (least–most)", soft_wrap=True)


# ---- figures of a sweep ------------------------------------------------------------------------------------------


def _shares(record: Record) -> Shares:
    return Shares.of(record.figures["activities"])


def _within(record: Record) -> float:
    return _shares(record).within


def _seconds_within(record: Record) -> float:
    return record["last_trial"] - record["first_trial"]


def _rate_within(record: Record) -> float:
    return 60 * record["trials"] / _seconds_within(record)


def _driver(record: Record) -> float:
    return record["driver_seconds"] / (record["wall_seconds"] * record["cores"])


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
    return record["wall_seconds"] - record.figures["activities"].get(TEST, 0.0) / record["slots"]


def _middle(found: Sequence[Record]) -> Record:
    """Returns the record with the median wall time: medians of shares would not add up."""
    return sorted(found, key=of("wall_seconds"))[len(found) // 2]


def _activities(found: Found) -> list[str]:
    return list(dict.fromkeys(name for runs in found.values() for run in runs for name in run.figures["activities"]))


# ---- tables ------------------------------------------------------------------------------------------------------


def _profile(found: Found, console: Console) -> list[Goal]:
    _say(console, "Profile: what the slots' time goes to, from the command to its exit")
    table = show.table("", *found)
    middle = [_middle(runs).figures["activities"] for runs in found.values()]
    for name in _activities(found):
        table.add_row(name, *(f"{seconds.get(name, 0) / sum(seconds.values()):.1%}" for seconds in middle))
    sums = (sum(each / sum(seconds.values()) for each in seconds.values()) for seconds in middle)
    table.add_row("together", *(f"{whole:.1%}" for whole in sums), style="bold", end_section=True)
    shares: dict[str, Figure] = {
        "training and validation, of the whole": lambda record: _shares(record).whole,
        "… from the command to the end of each slot's last trial": lambda record: _shares(record).from_command,
        "… from the start of each slot's first trial to the end of its last": _within,
    }
    for what, figure in shares.items():
        table.add_row(what, *(f"{spread(runs, figure).median:.1%}" for runs in found.values()))
    for what, figure in {"wall s": of("wall_seconds"), "s of a trial (median)": of("trial_seconds")}.items():
        table.add_row(what, *(spread(runs, figure).text() for runs in found.values()))
    console.print(table)
    goals = []
    for variant, runs in found.items():
        if variant.startswith("long"):
            seconds = spread(runs, of("trial_seconds")).median
            what = f"slot time in training and validation, first trial to last; {variant}, {seconds:.0f} s each"
            goals.append(Goal(what, 0.95, spread(runs, _within).median, least=True, unit="%"))
    return goals


def _scaling(found: Found, console: Console) -> list[Goal]:
    _say(console, "Scaling: the same trials over more slots; ratios to one slot within each round")
    table = show.table("slots", "wall s", "trials / min", "ratio", "ratio, first trial to last", "driver's CPU share")
    for variant, runs in sorted(found.items(), key=lambda item: int(item[0])):
        ratios = [ratio(found, variant, "1", figure) for figure in (per_minute, _rate_within)]
        figures = [spread(runs, of("wall_seconds")), spread(runs, per_minute), *ratios]
        table.add_row(variant, *("" if s is None else s.text() for s in figures), f"{spread(runs, _driver).median:.1%}")
    console.print(table)
    return []


def _trivial(found: Found, console: Console) -> list[Goal]:
    trials = next(iter(found.values()))[0].figures["trials"]
    _say(console, f"Trivial: {trials:,} trials of one step, without report and registry")
    rows: dict[str, Figure] = {
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
    table = show.table("", *found)
    for what, figure in rows.items():
        table.add_row(what, *(spread(runs, figure).text() for runs in found.values()))
    console.print(table)
    runs, goals = found.get("all on", ()), {"wall time": _wall_each, "slot time": _slot_each}
    return [
        Goal(f"{trials:,} one-step trials: {what} of each besides its step", 30, spread(runs, figure).median, unit="ms")
        for what, figure in goals.items()
        if runs
    ]


def _logging(found: Found, console: Console) -> list[Goal]:
    _say(
        console,
        "Logging: MLflow, .h5 files and checkpoints against none of them, within each round; without report, "
        "registry and the winner's test",
    )
    headings = ("on, wall s", "off, wall s", "on / off", "… to the end of the last trial", "on, CPU s", "off, CPU s")
    table, goals = show.table("", *headings), []
    for title in dict.fromkeys(variant.rpartition(",")[0] for variant in found):
        on, off = f"{title}, on", f"{title}, off"
        whole, trials = ratio(found, on, off, _untested), ratio(found, on, off, of("last_trial"))
        if whole is None or trials is None:
            continue
        table.add_row(
            title,
            *(spread(found[variant], _untested).text() for variant in (on, off)),
            *(f"{s.median:.3f} ({s.low:.3f}–{s.high:.3f})" for s in (whole, trials)),
            *(spread(found[variant], of("cpu_seconds")).text() for variant in (on, off)),
        )
        goals.append(Goal(f"logging, .h5 and checkpoints against none: {title}", 1.03, whole.median, unit="×"))
    console.print(table)
    return goals


def _start(found: Found, console: Console) -> list[Goal]:
    _say(console, "Start: seconds from the command; ratios within each round")
    ours, base = "mnist_sweep", "import tensorflow"
    table = show.table("", "s", f"ratio to python -c '{base}'")
    for what, name in {
        "the sweep has started": "begun",
        "the first trial is with its worker": "first_trial",
        "its model is built and traced: the first step begins": "step_begun",
        "the first step has ended": "step_ended",
    }.items():
        against = ratio(found, ours, base, of(name), of("wall_seconds"))
        if ours in found:
            table.add_row(what, spread(found[ours], of(name)).text(), "" if against is None else against.text())
    if base in found:
        table.add_row(f"python -c '{base}'", spread(found[base], of("wall_seconds")).text(), "")
    console.print(table)
    against = ratio(found, ours, base, of("step_ended"), of("wall_seconds"))
    return [] if against is None else [Goal(f"command to first step against {base}", 1.3, against.median, unit="×")]


def _memory(found: Found, console: Console) -> list[Goal]:
    console.print(
        "Memory of the worker in MiB at the end of some trials: resident (in brackets, shared pages count in part)",
        soft_wrap=True,
    )
    after = (1, 2, 10, 50, 100)
    table = show.table("trials", *map(str, after), "most", "last / first", "most / first", "replaced")
    goals = []
    for variant, runs in found.items():
        workers = runs[-1].figures["workers"]
        first, last, most = workers[0], workers[-1], max(workers, key=lambda worker: float(worker["rss"]))
        pids = [worker["pid"] for worker in workers]
        new = [number for number, (a, b) in enumerate(pairwise(pids), start=1) if a != b]
        some = ", ".join(map(str, new[:6])) + (" …" if len(new) > 6 else "")
        shown = [workers[n - 1] if n <= len(workers) else None for n in after] + [most]
        table.add_row(
            variant,
            *("" if one is None else f"{one['rss']:.0f} ({one['pss']:.0f})" for one in shown),
            *(f"{one['rss'] / first['rss']:.3f} ({one['pss'] / first['pss']:.3f})" for one in (last, most)),
            f"{len(new)} times" + (f": after {some}" if new else ""),
        )
        if variant.endswith("as it is"):
            what = f"memory of a worker after {len(workers)} trials against that after one: {variant}"
            goals.append(Goal(what, 1.1, last["rss"] / first["rss"], unit="×"))
    console.print(table)
    return goals


def _commands(found: Found, console: Console) -> list[Goal]:
    _say(console, "Commands")
    table, goals = show.table("", "wall s", "CPU s", "peak MiB", "loads TensorFlow"), []
    for variant, runs in found.items():
        loads = any(run.figures["tensorflow"] for run in runs)
        figures = (spread(runs, of(name)) for name in ("wall_seconds", "cpu_seconds", "peak_mib"))
        table.add_row(variant, *(figure.text() for figure in figures), "YES" if loads else "no")
        what = f"{variant}{', though it LOADS TENSORFLOW' if loads else ''}"
        goals.append(Goal(what, 1.5, spread(runs, of("wall_seconds")).median))
    console.print(table)
    return goals


_TABLES: dict[str, Callable[[Found, Console], list[Goal]]] = {
    "profile": _profile,
    "scaling": _scaling,
    "trivial": _trivial,
    "logging": _logging,
    "start": _start,
    "memory": _memory,
    "commands": _commands,
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
                bar = {"left": left, "color": color, "label": title if place == 0 else None}
                axis.barh(place, share, height=0.68, edgecolor="white", linewidth=0.4, **bar)
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
