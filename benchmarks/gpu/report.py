"""Makes the tables of benchmarks/README.md: `python -m benchmarks.gpu.report gpu.json…`.

Several files are of several runs on the same machine: of each part, the last one counts.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.records import Store, shown
from benchmarks.throughput.shapes import SHAPES

_Figures = dict[str, Any]
_NONE = "none"


def text(stores: Sequence[Store]) -> str:
    """Returns Markdown with a table for each kind of part; a failed part has its error."""
    found = {(run.part, run.variant): run.figures for store in stores for run in store.records}
    described = next((store.machine for store in reversed(stores) if store.machine), None)
    lines = [] if described is None else [f"On {machine.line(described)}, {_versions(described)}."]
    lines += _placement(found.get(("device", "all")))
    swept = {tuple(variant.split(", ")): figures for (kind, variant), figures in found.items() if kind == "sweep"}
    lines += _sweeps(swept, {variant: figures for (kind, variant), figures in found.items() if kind == "keras-tuner"})
    lines += _equal(swept, found.get(("fault", "killed")))
    lines += _faults({variant: figures for (kind, variant), figures in found.items() if kind == "fault"})
    fused = {variant: figures for (kind, variant), figures in found.items() if kind == "fused"}
    lines += _stacks(fused)
    lines += _determinism(fused, {v: figures for (kind, v), figures in found.items() if kind == "not deterministic"})
    for (kind, variant), figures in found.items():
        if "error" in figures:
            lines += ["", f"`{kind}: {variant}` failed: {figures['error'].splitlines()[-1]}"]
    return "\n".join(lines)


def _versions(described: _Figures) -> str:
    return ", ".join(f"{name} {described['versions'][name]}" for name in ("jax",) if name in described["versions"])


def _placement(figures: _Figures | None) -> list[str]:
    if figures is None or "error" in figures:
        return []
    told = {
        "GPUs that the driver names": ", ".join(figures["gpus"]),
        "that the program uses": ", ".join(map(" ".join, zip(figures["visible"], figures["identities"], strict=True))),
        "memory, MiB": ", ".join(_number(size, 0) for size in figures["memory_mib"]),
        "used by a process with JAX, MiB": _number(figures["gpu_mib"], 0),
        "JAX": figures["jax"].splitlines()[-1],
    }
    return _table("Placement", ("what", "found"), [(name, value or _NONE) for name, value in told.items()])


def _sweeps(swept: dict[Any, _Figures], stock: dict[str, _Figures]) -> list[str]:
    rows = []
    for (shape, sharing), figures in sorted(swept.items(), key=lambda item: _place(*item[0])):
        if "per_minute" in figures:
            opened = f" ({figures['slots']})" if sharing == "auto" else ""
            first = swept.get((shape, "1"), {}).get("per_minute")
            rows.append(
                [
                    *(SHAPES[shape].title, f"{sharing}{opened}", str(figures["trials"]), shown(figures["per_minute"])),
                    _times(figures["per_minute"], first),
                    *(_percent(figures.get("step_share")), _percent(figures["gpu_use"])),
                    *(_number(figures["gpu_mib"], 0), _number(figures["process_mib"], 0)),
                    *(_number(figures["compile_seconds"]), _number(figures["first_trial"])),
                ]
            )
    headings = ("model", "trials at a time", "trials", "trials / min", "against 1", "slot time in steps", "GPU use")
    lines = _table("Sweeps", (*headings, "GPU MiB", "MiB of a worker", "compiling s", "to the first trial s"), rows)
    rows = []
    for shape, figures in sorted(stock.items(), key=lambda item: _place(item[0])):
        if "per_minute" in figures:
            best = max(
                (f["per_minute"] for (s, _), f in swept.items() if s == shape and "per_minute" in f), default=None
            )
            ended = f"{figures['trials']} of {figures['of']}"
            rows.append(
                [
                    *(SHAPES[shape].title, ended, shown(figures["per_minute"]), _times(best, figures["per_minute"])),
                    *(_percent(figures["gpu_use"]), _number(figures["gpu_mib"], 0)),
                ]
            )
    headings = ("model", "trials", "trials / min", "this program's fastest sweep", "GPU use", "GPU MiB")
    return lines + _table("Stock keras-tuner on JAX, one process", headings, rows)


def _equal(swept: dict[Any, _Figures], killed: _Figures | None) -> list[str]:
    """Compares the metrics of all epochs of the trials that two sweeps have in common, to the bit."""
    groups: dict[str, list[tuple[str, _Figures]]] = {}
    for (shape, sharing), figures in sorted(swept.items(), key=lambda item: _place(*item[0])):
        groups.setdefault(shape, []).append((f"{sharing} at a time", figures))
    if killed is not None:
        groups.setdefault("small", []).append(("a worker was killed", killed))
    rows = []
    for shape, runs in groups.items():
        for (one, first), (other, second) in itertools.combinations(runs, 2):
            results = first.get("results", {}), second.get("results", {})
            both = [values for values in results[0] if values in results[1]]
            same = [values for values in both if results[0][values] == results[1][values]]
            largest = max((_difference(results[0][v], results[1][v]) for v in both), default=None)
            rows.append(
                [SHAPES[shape].title, f"{one} / {other}", f"{len(same)} of {len(both)}", _difference_text(largest)]
            )
    return _table("The same seed twice", ("model", "sweeps", "trials equal to the bit", "largest difference"), rows)


def _difference(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=False) for name in a.keys() & b.keys()]
    return max((abs(a - b) for a, b in pairs), default=0.0)


def _faults(faults: dict[str, _Figures]) -> list[str]:
    rows = [
        [
            name,
            _joined(figures["attempts_failed"]),
            _counts(figures["outcomes"]),
            _joined(figures["status"]),
        ]
        for name, figures in faults.items()
        if "outcomes" in figures
    ]
    return _table("Faults", ("fault", "failed attempts", "trials", "the sweep"), rows)


def _joined(texts: Sequence[str]) -> str:
    return "; ".join(texts) or _NONE


def _counts(outcomes: dict[str, str]) -> str:
    kinds = sorted(outcomes.values())
    return "; ".join(f"{len(list(group))} {kind}" for kind, group in itertools.groupby(kinds))


def _stacks(fused: dict[str, _Figures]) -> list[str]:
    rows = []
    for shape in sorted(fused, key=_place):
        every = fused[shape].get("stacks", [])
        alone = {_kind(run): run for run in every if run["lanes"] == 0 and "step_seconds" in run}
        for run in every:
            name = [SHAPES[shape].title, *_kind(run), str(run["lanes"] or "alone")]
            if "step_seconds" not in run:
                what = "no time was left" if "skipped" in run else run["error"][:60]
                rows.append([*name, what, *[""] * 6])
                continue
            one = alone.get(_kind(run))
            lanes = run["lanes"] or 1
            faster = None if one is None else lanes * one["step_seconds"]
            rows.append(
                [
                    *(*name, shown(1e3 * run["step_seconds"], 3), _times(faster, run["step_seconds"])),
                    _number(_rate(run["step_flops"], run["step_seconds"], 1e12)),
                    _number(_rate(run["step_bytes"], run["step_seconds"], 1e9), 0),
                    *(shown(run["argument_mib"] + run["temporary_mib"]), _compiled(run)),
                    _difference_text(max(run["differ"].values()) if run["lanes"] else None),
                ]
            )
    figures = ("ms a step", "times one at a time", "TFLOP/s", "GB/s", "MiB", "compiling s", "largest difference")
    headings = ("model", "optimizer", "order", "precision", "lanes", *figures)
    return _table("Trials as one program", headings, rows)


def _determinism(fused: dict[str, _Figures], free: dict[str, _Figures]) -> list[str]:
    rows = []
    for shape in sorted(free, key=_place):
        steps = []
        for figures in (fused.get(shape, {}), free[shape]):
            runs = {
                _kind(r): r["step_seconds"]
                for r in figures.get("stacks", [])
                if r["lanes"] == 0 and "step_seconds" in r
            }
            steps.append(runs.get(("adam", "own", "float32")))
        rows.append([SHAPES[shape].title, *(_number(None if s is None else 1e3 * s, 3) for s in steps), _times(*steps)])
    headings = ("model", "ms a step", "without the flag", "what the flag costs")
    return _table("What reproducible results cost (`--xla_gpu_deterministic_ops`), one trial", headings, rows)


def _compiled(run: _Figures) -> str:
    # A trial alone on the shared order is the same program as before.
    return shown(run["compile_seconds"]) if run["compile_seconds"] >= 0.001 else ""


def _kind(run: _Figures) -> tuple[str, str, str]:
    return run["optimizer"], run["order"], run["precision"]


def _place(shape: str, sharing: str = "") -> tuple[int, float]:
    return list(SHAPES).index(shape), float(sharing) if sharing.isdigit() else 99.0


def _rate(amount: float | None, seconds: float, unit: float) -> float | None:
    return None if amount is None else amount / seconds / unit


def _times(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{shown(one / other)} ×"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.0%}"


def _number(value: float | None, decimals: int = 2) -> str:
    return _NONE if value is None else shown(value, decimals)


def _difference_text(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table under a title; none if it has no rows."""
    body = ["| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" for row in rows]
    if not body:
        return []
    return ["", f"{title}:", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings), *body]


if __name__ == "__main__":
    print(text([Store(Path(name)) for name in sys.argv[1:]]))
