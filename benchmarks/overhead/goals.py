"""What a table and a goal are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from benchmarks.overhead.store import Record
from benchmarks.throughput.report import Spread

# The records of a part by variant.
Found = Mapping[str, Sequence[Record]]
Figure = Callable[[Record], float]


@dataclass(frozen=True)
class Goal:
    """A figure that was aimed at.

    Attributes:
        what: For people.
        aim: The goal.
        figure: What was measured, the median where there were rounds.
        least: Whether the goal is the least; else it is the most.
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
        """What, goal, measured, met or missed."""
        sign = "≥" if self.least else "≤"
        return self.what, f"{sign} {self._text(self.aim)}", self._text(self.figure), "met" if self.met else "MISSED"

    def _text(self, value: float) -> str:
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{value:.3f} ×" if self.unit == "×" else f"{value:.3g} {self.unit}"


def table(*headings: str) -> Table:
    """An empty table, whose first column has names and the others figures."""
    made = Table(box=box.SIMPLE)
    for heading in headings:
        made.add_column(heading, justify="right" if made.columns else "left")
    return made


def of(name: str) -> Figure:
    """The figure of a record with a name."""
    return lambda record: float(record.figures[name])


def spread(records: Sequence[Record], figure: Figure) -> Spread:
    """Of a figure over the rounds of a variant."""
    return Spread.of([figure(record) for record in records])


def against(found: Found, one: str, other: str, figure: Figure, to: Figure | None = None) -> Spread | None:
    """A figure of one variant over one of another, within each round.

    Args:
        found: The part's records.
        one: A variant.
        other: Another, or the same.
        figure: Of the first.
        to: Of the other; None for the same.

    Returns:
        None where no round has both.
    """
    others = {record.round: (to or figure)(record) for record in found.get(other, ())}
    ratios = [figure(r) / others[r.round] for r in found.get(one, ()) if r.round in others]
    return Spread.of(ratios) if ratios else None
