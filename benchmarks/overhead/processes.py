"""The tables of what processes take: start, memory, commands."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from rich.console import Console

from benchmarks.overhead.goals import Found, Goal, against, of, spread, table

_AFTER = (1, 2, 10, 50, 100)


def start(found: Found, console: Console) -> list[Goal]:
    """From the command to the first training step."""
    console.print("Start: seconds from the command; ratios within each round; median (least–most)", highlight=False)
    ours, base = "mnist_sweep", "import tensorflow"
    made = table("", "s", f"ratio to python -c '{base}'")
    for what, name in (
        ("the sweep has begun", "begun"),
        ("the first trial is with its worker", "first_trial"),
        ("its model is built and traced: the first step begins", "step_begun"),
        ("the first step has ended", "step_ended"),
    ):
        ratio = against(found, ours, base, of(name), of("wall_seconds"))
        if ours in found:
            made.add_row(what, spread(found[ours], of(name)).text(), "" if ratio is None else ratio.text())
    if base in found:
        made.add_row(f"python -c '{base}'", spread(found[base], of("wall_seconds")).text(), "")
    console.print(made)
    ratio = against(found, ours, base, of("step_ended"), of("wall_seconds"))
    return [] if ratio is None else [Goal(f"command to first step against {base}", 1.3, ratio.median, unit="×")]


def memory(found: Found, console: Console) -> list[Goal]:
    """Of the only worker, when so many trials have ended."""
    console.print(
        "Memory of the worker in MiB when so many trials have ended: what it has in memory (what of that is its own, "
        "shared pages in part)",
        highlight=False,
        soft_wrap=True,
    )
    made = table("trials", *map(str, _AFTER), "most", "last / first", "most / first", "replaced")
    goals = []
    for variant, records in found.items():
        workers: list[dict[str, Any]] = records[-1].figures["workers"]
        last, first, most = workers[-1], workers[0], max(workers, key=lambda worker: float(worker["rss"]))
        pids = [worker["pid"] for worker in workers]
        new = [number for number, (a, b) in enumerate(pairwise(pids), start=1) if a != b]
        shown = ", ".join(map(str, new[:6])) + (" …" if len(new) > 6 else "")
        made.add_row(
            variant,
            *(f"{workers[n - 1]['rss']:.0f} ({workers[n - 1]['pss']:.0f})" for n in _AFTER if n <= len(workers)),
            f"{most['rss']:.0f} ({most['pss']:.0f})",
            *(f"{one['rss'] / first['rss']:.3f} ({one['pss'] / first['pss']:.3f})" for one in (last, most)),
            f"{len(new)} times" + (f": after {shown}" if new else ""),
        )
        if variant.endswith("as it is"):
            what = f"memory of a worker after {len(workers)} trials against that after one: {variant}"
            goals.append(Goal(what, 1.1, last["rss"] / first["rss"], unit="×"))
    console.print(made)
    return goals


def commands(found: Found, console: Console) -> list[Goal]:
    """Commands that answer at once."""
    console.print("Commands; median (least–most)", highlight=False)
    made, goals = table("", "wall s", "CPU s", "peak MiB", "loads TensorFlow"), []
    for variant, records in found.items():
        loads = any(record.figures["tensorflow"] for record in records)
        figures = (spread(records, of(name)) for name in ("wall_seconds", "cpu_seconds", "peak_mib"))
        made.add_row(variant, *(figure.text() for figure in figures), "YES" if loads else "no")
        what = f"{variant}{', though it LOADS TENSORFLOW' if loads else ''}"
        goals.append(Goal(what, 1.5, spread(records, of("wall_seconds")).median))
    console.print(made)
    return goals
