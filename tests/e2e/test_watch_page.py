"""The page that follows sweeps, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import WatchedPage, page_of, until
from browser import browser as browser
from running import running_sweep
from serving import Served, serving

from mnist_sweep.journal import journal
from mnist_sweep.journal.events import SettingsChanged, TrialAdded, TrialEnded, TrialStopped

SPACE = (
    "model.units=choice(16,32,64,128)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "search=random",
    "search.max_trials=40",
    "training.epochs=30",
    "confirm=null",
)


@contextmanager
def opened(browser, served: Served, sweep: str, **more) -> Iterator[WatchedPage]:
    with page_of(browser, **more) as watched:
        watched.page.goto(served.page_of(sweep) if sweep else served.link)
        yield watched
        assert watched.errors == []
        assert watched.hosts == {"127.0.0.1"}


def of(folder: Path, kind: type) -> list:
    return [event for event in journal.read(folder) if isinstance(event, kind)]


def test_a_running_sweep_is_followed_and_changed_on_its_page(browser, compose_config, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "cnn" / "2026-11-28_17-00-00"
    config = compose_config(*SPACE)
    with running_sweep(folder, config), serving() as served, opened(browser, served, "") as watched:
        page = watched.page
        # From the overview, which finds it by itself.
        page.click("text=cnn/2026-11-28_17-00-00")
        page.wait_for_selector("#running .card >> text=Trial 1")
        before = page.inner_text("#running [data-trial='0'] .far span")
        until(page, lambda: page.inner_text("#running [data-trial='0'] .far span") != before)

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
