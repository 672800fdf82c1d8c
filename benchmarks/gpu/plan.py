"""Runs parts within a time limit: each has a budget, and one that no longer fits is skipped and named."""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.records import Store, count


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    Attributes:
        kind: What is measured, which decides on the table of its figures.
        variant: Of what: `large, 4`.
        seconds: The most that it may take. It is told this number, and ends in time by itself.
        measure: Measures it within so many seconds. If it raises an exception, the part has failed.
    """

    kind: str
    variant: str
    seconds: float
    measure: Callable[[float], dict[str, Any]]

    @property
    def name(self) -> str:
        """Its name on the command line: `sweep:large,4`."""
        return f"{self.kind}:{self.variant.replace(', ', ',')}"


def run(
    parts: Sequence[Part],
    store: Store,
    described: Mapping[str, Any],
    seconds: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Part]:
    """Measures the parts in their order, and writes the store's file after each.

    Args:
        parts: The most valuable ones first.
        store: Gets the figures; `error` among them says why a part failed, and the others are measured all the same.
        described: The machine (`machine.describe`).
        seconds: How long all of them may take.
        say: Prints a line.
        clock: Returns seconds.

    Returns:
        The parts for which too little time was left.
    """
    until, skipped = clock() + seconds, list[Part]()
    for part in parts:
        started = clock()
        if until - started < part.seconds:
            skipped.append(part)
            continue
        try:
            figures = part.measure(part.seconds)
        except Exception as error:
            traceback.print_exc()
            figures = {"error": f"{type(error).__name__}: {error}"}
        took = clock() - started
        store.add(part.kind, part.variant, 1, {}, {**figures, "seconds": took}, dict(described))
        result = f"failed: {figures['error'].splitlines()[0]}" if "error" in figures else "measured"
        say(f"{part.name}: {result} in {took:.0f} s, {max(0.0, until - clock()):.0f} s left")
    if skipped:
        names = shlex.join(part.name for part in skipped)
        say(f"no time was left for {count(len(skipped), 'part')}: --parts {names}")
    return skipped
