"""What was measured, in a file that is whole after each measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_sweep.common.files import write_whole


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        part: Of the benchmark.
        variant: What was measured, beside others in the same round.
        round: Counted from 1.
        work: What must be the same for two records to be compared.
        figures: What came out.
        time: Of its end, in seconds since 1970.
        commit: Of this program.
    """

    part: str
    variant: str
    round: int
    work: dict[str, Any]
    figures: dict[str, Any]
    time: float
    commit: str | None


class Store:
    """The records of a folder, in `overhead.json`."""

    def __init__(self, folder: Path) -> None:
        """Reads those that are there."""
        self.path = folder / "overhead.json"
        folder.mkdir(parents=True, exist_ok=True)
        content = json.loads(self.path.read_text()) if self.path.exists() else {"runs": [], "machine": None}
        self.records = [Record(**run) for run in content["runs"]]
        self.machine: dict[str, Any] | None = content["machine"]

    def has(self, part: str, variant: str, number: int, work: Mapping[str, Any]) -> bool:
        """Whether a measurement was done."""
        return any((r.part, r.variant, r.round, r.work) == (part, variant, number, work) for r in self.records)

    def add(self, record: Record, described: dict[str, Any]) -> None:
        """Adds one, done on the machine described."""
        self.records.append(record)
        self.machine = described
        content = {"machine": described, "runs": [asdict(r) for r in self.records]}
        write_whole(self.path, json.dumps(content, indent=1) + "\n")

    def newest(self, part: str) -> dict[str, list[Record]]:
        """The records of a part by variant, of each the newest work's only."""
        found: dict[str, list[Record]] = {}
        for record in sorted((r for r in self.records if r.part == part), key=lambda r: r.time):
            before = found.get(record.variant, [])
            found[record.variant] = [*(before if before and before[0].work == record.work else []), record]
        return found
