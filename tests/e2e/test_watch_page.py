"""The page that follows sweeps, in a real browser."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import WatchedPage, page_of, until
from browser import browser as browser
from programs import command, environment
from running import running_sweep
from serving import TOKEN, Served, serving

from benchmarks import made_up_sweep
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import SettingsChanged, SweepEnded, TrialAdded, TrialEnded, TrialStopped
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status

NAME = "cnn/2026-11-28_17-00-00"
SPACE = (
    "model.units=choice(16,32,64,128)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "search=random",
    "search.max_trials=40",
    "training.epochs=30",
    "confirm=null",
)


@contextmanager
def opened(browser, served: Served, sweep: str, token: str = TOKEN) -> Iterator[WatchedPage]:
    with page_of(browser) as watched:
        watched.page.goto(served.page_of(sweep, token) if sweep else served.link)
        yield watched
        assert watched.errors == []
        assert watched.hosts == {"127.0.0.1"}


def of(folder: Path, kind: type) -> list:
    return [event for event in journal.read(folder) if isinstance(event, kind)]


def test_a_running_sweep_is_followed_and_changed_on_its_page(browser, compose_config, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / NAME
    config = compose_config(*SPACE)
    with running_sweep(folder, config), serving() as served, opened(browser, served, "") as watched:
        page = watched.page
        # From the overview, which finds it by itself.
        page.click(f"text={NAME}")
        page.wait_for_selector("#running .card >> text=Trial 1")
        before = page.inner_text("#running [data-trial='0'] .far span")
        until(page, lambda: page.inner_text("#running [data-trial='0'] .far span") != before)
        # What is told of the trial under the pointer is up to date, too.
        page.hover("#running [data-trial='0']")
        until(page, lambda: page.inner_text("#readout").startswith("Trial 0 · running · "))
        before = page.inner_text("#readout")
        until(page, lambda: page.inner_text("#readout") not in (before, ""))

        with opened(browser, served, NAME, token="") as reader:
            reader.page.wait_for_selector("#running .card")
            assert "Read-only: to change the sweep, open the link" in reader.page.inner_text("#read-only")
            assert not reader.page.is_visible("#steer")
            assert not reader.page.is_visible("#running .stop")

        stop = page.locator("#running [data-trial='0'] .stop")
        stop.click()
        assert stop.inner_text() == "Really stop?"
        assert of(folder, TrialStopped) == []
        stop.click()
        until(page, lambda: [event.trial for event in of(folder, TrialStopped)] == [0])
        until(page, lambda: page.locator("#running [data-trial='0']").count() == 0)
        assert "stopped by" in next(event.outcome.reason for event in of(folder, TrialEnded) if event.trial == 0)
        until(page, lambda: "stopped trial 0" in page.inner_text("#story"))

        page.click("#open-add")
        page.select_option("#add [name='model.units']", "64")
        page.fill("#add [name='optimizer.learning_rate']", "0.01")
        page.click("#add button[type=submit]")
        page.wait_for_selector("#add .answer.done")
        assert page.inner_text("#add .answer").endswith("will start next: units=64, learning_rate=0.01")
        (added,) = of(folder, TrialAdded)
        assert added.values == {"model.units": 64, "optimizer.learning_rate": 0.01}
        page.fill("#add [name='optimizer.learning_rate']", "7")
        page.click("#add button[type=submit]")
        page.wait_for_selector("#add .answer.refused")
        assert "learning_rate" in page.inner_text("#add .answer")

        page.click("#open-budget")
        page.fill("#budget [name='search.max_trials']", "50")
        page.click("#budget button[type=submit]")
        until(page, lambda: page.inner_text("#done").endswith(" of 50"))
        page.click("#open-narrow")
        page.uncheck("#narrow [data-name='model.units'] [value='16']")
        page.click("#narrow button[type=submit]")
        page.wait_for_selector("#narrow .answer.done")
        assert of(folder, SettingsChanged)[-1].settings == {"model.units": "choice(32, 64, 128)"}
        page.click("#pause")
        until(page, lambda: page.inner_text("#phase") == "paused")
        assert page.inner_text("#pause") == "Continue"

        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_trials_of_a_stopped_sweep_do_not_run(browser, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "up"
    folder.mkdir(parents=True)
    with Journal(folder) as written:
        whole = list(made_up_sweep.events("made/up", 3, 9, slots=2, start=time.time() - 100))
        first = next(i for i, event in enumerate(whole) if isinstance(event, TrialEnded))
        written.handle(*whole[: first + 1], SweepEnded(time.time(), Status.STOPPED, "stopped by Ctrl-C", 0))
    with serving([folder]) as served, opened(browser, served, str(folder)) as watched:
        page = watched.page
        page.wait_for_selector("#running .card")
        assert page.inner_text("#phase") == "stopped"
        assert page.inner_text("#running-part h2") == "Interrupted 1"
        assert "1 interrupted" in page.inner_text("#done-about")
        page.hover("#running .card")
        until(page, lambda: " · interrupted · " in page.inner_text("#readout"))


def nodes_of(browser, folder: Path, trials: int) -> int:
    """Looks at all parts of the page of a sweep that has ended, and returns how many elements the page has."""
    folder.mkdir(parents=True)
    with Journal(folder) as written:
        written.handle(*made_up_sweep.events("made/up", trials, 30, start=time.time() - 10_000))
        written.handle(SweepEnded(time.time(), Status.COMPLETED, "all trials are done", 0))
    with serving([folder]) as served, opened(browser, served, str(folder)) as watched:
        page = watched.page
        count = page.locator("#parallel-part .count")
        page.wait_for_selector("#board tbody th")
        until(page, lambda: count.inner_text() == f"{trials:,} trials")
        assert page.inner_text("#phase") == "complete"
        assert not page.is_visible("#steer")
        # The last ones have failed.
        page.evaluate("document.getElementById('board').scrollTop = 1e6")
        page.wait_for_selector("#board .failed")
        nodes = page.evaluate("document.querySelectorAll('*').length")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        # A filter in the parallel coordinates filters the leaderboard.
        page.locator("#parallel-part").scroll_into_view_if_needed()
        box = page.locator("#parallel .zone").first.bounding_box()
        page.mouse.move(box["x"] + 15, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 15, box["y"] + 90, steps=4)
        page.mouse.up()
        until(page, lambda: f" of {trials:,} trials" in count.inner_text())
        assert page.locator("#brushes button").count() == 1
        page.click("#brushes button")
        until(page, lambda: count.inner_text() == f"{trials:,} trials")
    return nodes


@pytest.mark.slow
def test_a_thousand_trials_make_hardly_more_elements_than_sixty(browser, tmp_path: Path) -> None:
    assert nodes_of(browser, tmp_path / "many", 1000) < nodes_of(browser, tmp_path / "few", 60) + 200


@pytest.mark.slow
def test_a_sweep_that_trains_is_changed_on_its_page(browser, work: Path, digits: Path) -> None:
    arguments = (
        "data=npz", f"data.path={digits}", "name=steered", "search=random", "search.max_trials=5", "model.units=4,8,16",
        "model.dropout=interval(0,0.5)", "training.epochs=200", "confirm=null", "workers.count=2",
    )  # fmt: skip
    sweep = subprocess.Popen(command(*arguments), cwd=work, env=environment(), stdout=subprocess.PIPE, text=True)
    server = subprocess.Popen(
        command("watch", "--port", "0"), cwd=work, env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        with page_of(browser) as watched:
            page = watched.page
            page.set_default_timeout(90_000)
            page.goto(found[0])
            page.click("#sweeps a")
            page.wait_for_selector("#running [data-trial='0'] .stop")
            page.wait_for_selector("#slots .slot >> text=trial 0, epoch")
            # What they use is measured.
            page.wait_for_selector("#slots .use:visible")
            page.click("#running [data-trial='0'] .stop")
            page.click("#running [data-trial='0'] .stop.sure")
            page.click("#open-add")
            page.fill("#add [name='model.dropout']", "0.25")
            page.click("#add button[type=submit]")
            page.wait_for_selector("#add .answer.done")
            page.click("#open-budget")
            page.fill("#budget [name='search.max_trials']", "3")
            page.click("#budget button[type=submit]")
            page.wait_for_selector("#budget .answer.done")
            until(page, lambda: page.inner_text("#phase") == "complete", 120)
            assert watched.errors == []
            assert watched.hosts == {"127.0.0.1"}
        output, _ = sweep.communicate(timeout=60)
        assert sweep.returncode == 0, output
        folder = next((work / "experiments" / "steered").iterdir())
        (added,) = of(folder, TrialAdded)
        assert added.values["model.dropout"] == 0.25
        ends = {event.trial: event.outcome for event in of(folder, TrialEnded)}
        assert ends[0].reason.startswith("stopped by ")
        assert added.trial in ends
    finally:
        for process in (sweep, server):
            process.kill()
            process.wait()
