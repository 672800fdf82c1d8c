"""`python -m benchmarks.watch_page`: how fluent the page of `watch` is with 1,000 trials of 30 epochs, in Chromium.

A made-up sweep is half done when the page opens. Then the other half is written to its journal, `--hurry` times as fast
as four slots that end an epoch a second each. Meanwhile the pointer moves over the charts, and the leaderboard is
scrolled. Measured are the time between two frames, the longest task of the page's script, and the growth of its memory
after garbage collection, for as many events as an hour has.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import made_up_sweep
from benchmarks.harness import sweeps
from benchmarks.harness.benchmark import Benchmark, Case, Figures
from mnist_sweep.journal.events import Event
from mnist_sweep.journal.journal import Journal

_EPOCHS, _SLOTS, _NAME = 30, 4, "made/up"
_BLANK = 60.0
_WATCHING = """() => {
  window.frames_ = []; window.tasks_ = [];
  let last = performance.now();
  const tick = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
  const tasks = new PerformanceObserver((list) => {
    window.tasks_.push(...list.getEntries().map((one) => one.duration));
  });
  tasks.observe({ type: "longtask" });
}"""


def _write(journal: Journal, events: Sequence[Event], hurry: float, end: threading.Event) -> None:
    """Writes events at the times that they have, `hurry` times as fast."""
    first, began = events[0].time, time.monotonic()
    for moment, together in itertools.groupby(events, lambda event: event.time):
        if end.wait(max(0.0, (moment - first) / hurry - (time.monotonic() - began))):
            return
        journal.handle(*[replace(event, time=time.time()) for event in together])


def measure(folder: Path, *, trials: int, seconds: float, hurry: float) -> Figures:
    """Opens the page, and measures it while the sweep goes on."""
    sys.path.insert(0, str(sweeps.ROOT / "tests"))
    from playwright.sync_api import sync_playwright
    from serving import serving

    where = folder / "experiments" / _NAME
    where.mkdir(parents=True)
    events = list(made_up_sweep.events(_NAME, trials, _EPOCHS, _SLOTS, time.time()))
    half, end = len(events) // 2, threading.Event()
    with Journal(where) as journal, serving([where]) as served, sync_playwright() as playwright:
        journal.handle(*events[:half])
        installed = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
        browser = playwright.chromium.launch(
            executable_path=installed, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.add_init_script(f"({_WATCHING})()")
        # What the machine makes of a page that does nothing.
        page.goto("about:blank")
        page.wait_for_timeout(1000 * min(seconds, _BLANK))
        blank = page.evaluate("window.frames_")
        began = time.monotonic()
        page.goto(served.page_of(str(where)))
        page.wait_for_selector("#board tbody th")
        opened = time.monotonic() - began
        page.wait_for_timeout(3000)
        loading = max(page.evaluate("window.tasks_"), default=0.0)
        page.evaluate("window.frames_ = []; window.tasks_ = []")
        session = page.context.new_cdp_session(page)

        def heap() -> float:
            session.send("HeapProfiler.collectGarbage")
            return float(session.send("Runtime.getHeapUsage")["usedSize"])

        writer = threading.Thread(target=_write, args=(journal, events[half:], hurry, end))
        writer.start()
        page.wait_for_timeout(5000)
        before, nodes, since = heap(), page.evaluate("document.querySelectorAll('*').length"), time.monotonic()
        page.evaluate("window.frames_ = []; window.tasks_ = []")
        for step in itertools.count():
            passed = time.monotonic() - since
            if passed > seconds or not writer.is_alive():
                break
            place = ("#curves", "#scores", "#parallel")[step % 3]
            box = page.locator(place).bounding_box()
            if box is not None and step % 5 < 3:
                page.mouse.move(
                    box["x"] + box["width"] * ((step % 17) / 17), max(5, box["y"] + box["height"] * ((step % 11) / 11))
                )
            page.evaluate(f"document.getElementById('board').scrollTop = {(step * 97) % 12000}")
            if step % 40 == 0:
                page.locator(place).scroll_into_view_if_needed()
            page.wait_for_timeout(60)
        frames, tasks = page.evaluate("window.frames_"), page.evaluate("window.tasks_")
        grown, last = heap() - before, page.evaluate("document.querySelectorAll('*').length")
        end.set()
        writer.join()
        browser.close()
    frames.sort()
    return {
        "wall_seconds": passed,
        "seconds_to_open": opened,
        "longest_task_while_opening_ms": loading,
        "frame_median_ms": statistics.median(frames),
        "frame_p99_ms": frames[int(0.99 * (len(frames) - 1))],
        "frame_longest_ms": frames[-1],
        "frames_over_50_ms": sum(frame > 50 for frame in frames),
        "frames": len(frames),
        "frames_over_50_ms_of_a_blank_page": sum(frame > 50 for frame in blank) * len(frames) / len(blank),
        "longest_task_ms": max(tasks, default=0.0),
        "nodes": last,
        "nodes_grown": last - nodes,
        "memory_grown_mb": grown / 1e6,
        "memory_grown_mb_an_hour": grown / 1e6 * 3600 / (passed * hurry),
    }


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=1000, help="of the sweep (default: 1000)")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to measure (default: 300)")
    parser.add_argument("--hurry", type=float, default=10.0, help="default: 10")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")


def _cases(options: Namespace, _: Path) -> Iterable[tuple[Sequence[Case], int]]:
    work = {"trials": options.trials, "epochs": _EPOCHS, "hurry": options.hurry}
    measured = partial(measure, trials=options.trials, seconds=options.seconds, hurry=options.hurry)
    return [([Case("page", "Chromium", work, measured)], options.rounds)]


main = Benchmark(
    "watch_page",
    __doc__ or "",
    _add_options,
    _cases,
    quick={"trials": 60, "seconds": 5.0, "rounds": 1},
    told=("frame_p99_ms", "longest_task_ms", "memory_grown_mb_an_hour"),
).main

if __name__ == "__main__":
    main()
