"""The tables, and each goal beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from benchmarks.overhead import processes, slots
from benchmarks.overhead.goals import Found, Goal, table
from benchmarks.overhead.store import Record, Store

# Of the processor time of the whole machine, what all else may take without a remark.
_OTHERS = 0.03
_SHOWN: dict[str, Callable[[Found, Console], list[Goal]]] = {
    "profile": slots.profile,
    "scaling": slots.scaling,
    "trivial": slots.trivial,
    "logging": slots.logging,
    "start": processes.start,
    "memory": processes.memory,
    "commands": processes.commands,
}


def show(store: Store, parts: Sequence[str], console: Console) -> None:
    """Prints the tables of some parts, as far as they were measured, and their goals."""
    goals: list[Goal] = []
    for part in parts:
        found = store.newest(part)
        if found:
            goals += _SHOWN[part](found, console)
            for text in doubts([record for records in found.values() for record in records]):
                console.print(f"  {text}", style="yellow", highlight=False)
            console.print()
    made = table("goal", "", "measured", "")
    for goal in goals:
        made.add_row(*goal.row(), style=None if goal.met else "red")
    console.print(made)


def doubts(records: Sequence[Record]) -> list[str]:
    """What speaks against some figures, for people."""
    found = []
    for record in records:
        figures = record.figures
        if "others_seconds" in figures:
            others = figures["others_seconds"] / (figures["wall_seconds"] * figures["cores"])
            if others > _OTHERS:
                found.append(
                    f"{record.variant}, round {record.round}: all else took {others:.0%} of the machine's processor "
                    "time meanwhile"
                )
    return found
