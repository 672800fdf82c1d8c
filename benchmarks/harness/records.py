"""What was measured: records in a JSON file, and their figures over the rounds."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.harness import machine
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole

# The share of the machine's processor time that everything else may take without a warning.
_OTHERS = 0.03
# The share of the cores' time that may be counted without a warning: the two clocks differ a little.
_MOST = 1.02


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        part: The part of the benchmark.
        variant: What was measured, to be compared with others of the same round.
        round: The round, from 1.
        work: What must be the same in two records to compare them.
        figures: The results.
        time: When it ended, in seconds since 1970.
        commit: The program's commit.
    """

    part: str
    variant: str
    round: int
    work: dict[str, Any]
    figures: dict[str, Any]
    time: float
    commit: str | None

    def __getitem__(self, figure: str) -> float:
        return float(self.figures[figure])


Found = Mapping[str, Sequence[Record]]
"""The records of a part, by variant."""
Figure = Callable[[Record], float]


class Store:
    """The records of a JSON file, which is complete after each measurement."""

    def __init__(self, path: Path) -> None:
        """Reads the records that the file has.

        Raises:
            UserError: It is not a file of this benchmark.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records: list[Record] = []
        self.machine: dict[str, Any] | None = None
        if path.exists():
            try:
                content = json.loads(path.read_text())
                self.records, self.machine = [Record(**run) for run in content["runs"]], content["machine"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: is not a file of this version of the benchmark; remove it") from error

    def has(self, part: str, variant: str, number: int, work: Mapping[str, Any]) -> bool:
        """Returns whether a case was measured in a round."""
        return any((r.part, r.variant, r.round, r.work) == (part, variant, number, work) for r in self.records)

    def add(
        self, part: str, variant: str, number: int, work: dict[str, Any], figures: dict[str, Any], on: dict[str, Any]
    ) -> None:
        """Adds a case's figures in a round, measured on a machine (`machine.describe`), and writes the file."""
        self.records.append(Record(part, variant, number, work, figures, time.time(), machine.commit()))
        self.machine = on
        content = {"machine": on, "runs": [asdict(record) for record in self.records]}
        write_whole(self.path, json.dumps(content, indent=1) + "\n")

    def forget(self, parts: Iterable[str]) -> None:
        """Drops all records of some parts."""
        dropped = set(parts)
        self.records = [record for record in self.records if record.part not in dropped]

    def newest(self, part: str) -> dict[str, list[Record]]:
        """Returns the records of a part by variant; only those of each variant's newest work."""
        found: dict[str, list[Record]] = {}
        for record in sorted((r for r in self.records if r.part == part), key=lambda r: r.time):
            before = found.get(record.variant, [])
            found[record.variant] = [*(before if before and before[0].work == record.work else []), record]
        return found


# ---- figures -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The median of a figure over several runs, and how far it spreads.

    Attributes:
        median: The median.
        low: The least, or the first quartile.
        high: The greatest, or the third quartile.
        runs: The number of runs.
        never: The number of runs without a figure, which count as infinite.
    """

    median: float
    low: float
    high: float
    runs: int
    never: int = 0

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Returns median, least and greatest of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures), len(figures))

    @classmethod
    def quartiles(cls, figures: Sequence[float | None]) -> Spread:
        """Returns median and quartiles of at least one figure; None counts as infinite."""
        known = np.array([math.inf if figure is None else figure for figure in figures])
        never = int((~np.isfinite(known)).sum())
        # There is nothing to interpolate between a number and infinity.
        method: Literal["higher", "linear"] = "higher" if never else "linear"
        low, median, high = (float(value) for value in np.percentile(known, (25, 50, 75), method=method))
        return cls(median, low, high, len(known), never)

    def text(self, decimals: int = 2) -> str:
        """Formats it as `12.3 (11.8–14.0)`, or `12.3` if nothing spreads, and ` [1/5 never]` if so."""
        low, median, high = (shown(value, decimals) for value in (self.low, self.median, self.high))
        never = f" [{self.never}/{self.runs} never]" if self.never else ""
        return (median if self.low == self.high else f"{median} ({low}–{high})") + never


def shown(value: float, decimals: int = 2) -> str:
    """Formats a figure with about three digits, and at most so many decimals; infinity is `never`."""
    if not math.isfinite(value):
        return "never"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else decimals}f}"


def of(name: str) -> Figure:
    """Returns the function that gets a record's figure by its name."""
    return lambda record: record[name]


def spread(records: Sequence[Record], figure: Figure) -> Spread:
    """Returns the spread of a figure over a variant's rounds."""
    return Spread.of([figure(record) for record in records])


def per_minute(record: Record) -> float:
    """Returns trials per minute."""
    return 60 * record["trials"] / record["wall_seconds"]


def ratios(found: Found, one: str, others: Sequence[str], figure: Figure, to: Figure | None = None) -> list[float]:
    """Divides a variant's figure by the greatest of the others' (`to`), within each round that has all of them."""
    by_round = [{record.round: record for record in found.get(name, ())} for name in (one, *others)]
    rounds = sorted(set.intersection(*map(set, by_round)))
    return [figure(by_round[0][n]) / max((to or figure)(records[n]) for records in by_round[1:]) for n in rounds]


def ratio(found: Found, one: str, other: str, figure: Figure, to: Figure | None = None) -> Spread | None:
    """Returns the spread of `ratios` to one other variant; None if no round has both."""
    values = ratios(found, one, [other], figure, to)
    return Spread.of(values) if values else None


def doubts(record: Record) -> list[str]:
    """Returns what speaks against a record's figures, one line each."""
    found: list[str] = []
    if "others_seconds" not in record.figures:
        return found
    available = record["wall_seconds"] * record["cores"]
    if (others := record["others_seconds"] / available) > _OTHERS:
        found.append(f"everything else took {others:.0%} of the machine's processor time in the meantime")
    if record["cpu_seconds"] > _MOST * available:
        found.append("more processor time was counted than there was; was the machine paused?")
    if left := record.figures["left_behind"]:
        found.append(f"{count(left, 'process')} had to be killed after its exit")
    return found


def count(number: int, what: str) -> str:
    """Formats a number of things: `1 epoch`, `3 epochs`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}{'es' if what.endswith('s') else 's'}"
