"""Draws a sweep as HTML for a notebook's cell: one line, two plots, and the trials that matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from html import escape

from mnist_sweep.common.text import format_value, short_names
from mnist_sweep.driver.progress import Progress, Row
from mnist_sweep.driver.watched import Phase, Watched

_BEST, _RUNNING = "#2e8b57", "#4682b4"
_COLOURS: dict[Phase, str] = {"running": _RUNNING, "complete": _BEST, "failed": "#c0392b"}
# Rows of the table: the best trials, and those that run; and columns of hyperparameters.
_TOP, _OPEN, _NAMES = 5, 8, 8
_WIDTH, _HEIGHT, _MARGIN, _LEFT = 360, 170, 22, 52
# Running trials whose curves are drawn.
_CURVES = 8

Point = tuple[float, float]


def html(watched: Watched, name: str, error: str = "", output: Collection[str] = ()) -> str:
    """Draws a sweep.

    Args:
        watched: The sweep.
        name: Its name.
        error: Why it has failed; "" if it has not.
        output: What its process has printed, in lines.

    Returns:
        HTML without scripts and without anything from a network, for light and dark pages. All text is escaped.
    """
    progress, phase = watched.progress, watched.phase
    parts = [f'<b>{escape(name)}</b> <span style="color:{_COLOURS.get(phase, "inherit")}">● {phase}</span>']
    if progress is None:
        parts.append("" if error else "<div>The workers are starting.</div>")
    else:
        parts.append(f"<div>{escape(progress.headline(busy=False))}</div>")
        if any(progress.state.epochs.values()):
            parts.append(
                f'<div style="display:flex;flex-wrap:wrap;gap:1em">{_scores(progress)}{_epochs(progress)}</div>'
            )
        parts.append(_table(progress))
    if error:
        parts.append(f'<div style="color:{_COLOURS["failed"]}">{escape(error)}</div>')
    if output:
        text = escape("\n".join(output))
        parts.append(f'<details><summary>Output</summary><pre style="font-size:85%">{text}</pre></details>')
    return f'<div class="mnist-sweep" style="font-size:90%">{"".join(parts)}</div>'


def _table(progress: Progress) -> str:
    results, best = progress.state.results, progress.best()
    shown = [*results.ranked()[:_TOP], *list(progress.state.open)[-_OPEN:]]
    if not shown:
        return ""
    names = short_names(progress.names[:_NAMES])
    headings = ["trial", *names.values(), "epoch", progress.objective.name, "status"]
    rows = [_cells(progress.row(number), list(names), best) for number in dict.fromkeys(shown)]
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Row, names: Iterable[str], best: int | None) -> list[str]:
    number = f"{row.trial.number}{' ★' if row.trial.number == best else ''}"
    values = [format_value(row.trial.values.get(name, "–")) for name in names]
    return [number, *values, row.place, "" if row.best is None else f"{row.best:.4f}", str(row.status)]


def _scores(progress: Progress) -> str:
    """Plots the score of each trial that has ended, and the best so far."""
    results = progress.state.results
    points, best = list[Point](), list[Point]()
    for number in sorted(results.outcomes):
        score = results.outcomes[number].score
        if score is None or not math.isfinite(score) or results.trials[number].confirms is not None:
            continue
        points.append((number, score))
        if not best or progress.objective.better(score, best[-1][1]):
            best.append((number, score))
    steps = list[Point]()
    for i, (x, y) in enumerate(best):
        steps += [(x, y), (best[i + 1][0] if i + 1 < len(best) else points[-1][0], y)]
    return _plot(f"{progress.objective.name} by trial", [(points, _RUNNING, "dots"), (steps, _BEST, "line")])


def _epochs(progress: Progress) -> str:
    """Plots the objective by epoch: of the best trial, and of those that run."""
    best, name = progress.best(), progress.objective.name
    numbers = [number for number in list(progress.state.open)[-_CURVES:] if number != best]
    lines = [(_curve(progress, number, name), _RUNNING, "line") for number in numbers]
    if best is not None:
        lines.append((_curve(progress, best, name), _BEST, "line"))
    return _plot(f"{name} by epoch: running trials, and the best", lines)


def _curve(progress: Progress, number: int, name: str) -> list[Point]:
    epochs = progress.state.epochs.get((number, 1), {})
    return [(epoch, metrics[name]) for epoch, metrics in epochs.items() if math.isfinite(metrics.get(name, math.nan))]


def _plot(title: str, lines: Sequence[tuple[Sequence[Point], str, str]]) -> str:
    every = [point for points, _, _ in lines for point in points]
    if not every:
        return ""
    (left, right), (low, high) = (_range([point[axis] for point in every]) for axis in (0, 1))
    width, height = _WIDTH - _LEFT - 8, _HEIGHT - 2 * _MARGIN

    def place(point: Point) -> str:
        x = _LEFT + (point[0] - left) / (right - left) * width
        y = _HEIGHT - _MARGIN - (point[1] - low) / (high - low) * height
        return f"{x:.1f} {y:.1f}"

    drawn = ""
    for points, colour, kind in lines:
        if not points:
            continue
        if kind == "dots" or len(points) == 1:
            shape = "".join(f"M{place(point)}h0" for point in points)
            drawn += f'<path d="{shape}" stroke="{colour}" stroke-width="5" stroke-linecap="round" opacity="0.7"/>'
        else:
            shape = "M" + "L".join(map(place, points))
            drawn += f'<path d="{shape}" stroke="{colour}" stroke-width="1.5" fill="none"/>'
    bottom = _HEIGHT - _MARGIN
    labels = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        for x, y, anchor, text in (
            (_LEFT, 13, "start", title),
            (_LEFT - 5, _MARGIN + 4, "end", f"{high:.4g}"),
            (_LEFT - 5, bottom, "end", f"{low:.4g}"),
            (_LEFT, _HEIGHT - 6, "start", f"{left:.0f}"),
            (_WIDTH - 8, _HEIGHT - 6, "end", f"{right:.0f}"),
        )
    )
    axes = f'<path d="M{_LEFT} {_MARGIN}V{bottom}H{_WIDTH - 8}" stroke="currentColor" fill="none" opacity="0.4"/>'
    style = 'style="font:11px sans-serif;max-width:100%" fill="currentColor"'
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" {style}>{axes}{labels}{drawn}</svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)
