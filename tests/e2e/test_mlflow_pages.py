"""MLflow's pages on a real sweep, in a browser, from the link that `ui` prints."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from browser import WatchedPage, page_of, until
from browser import browser as browser
from programs import command, environment

from mnist_sweep.driver import packaging
from mnist_sweep.results.models import registry
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.runs.find import SweepRuns, find_sweep

# A request of MLflow 3.17 that fails (there are no users), and messages of its libraries.
_MISSING = "/ajax-api/2.0/mlflow/users/current"
_NOISE = re.compile(
    r"Failed to load resource: the server responded with a status of 404"
    r"|ResizeObserver loop completed with undelivered notifications"
    # Its charts of system metrics with one value.
    r"|Error: <g> attribute transform: Expected number, \"translate\(.*NaN"
    r"|AG Grid: since v27\.1, `(getRowNodeId|immutableData)` is deprecated"
)
_SECONDS = 60


@dataclass
class Pages:
    """MLflow's server on a finished sweep.

    Attributes:
        home: The address of its pages.
        view: The link to the sweep.
        found: The sweep.
    """

    home: str
    view: str
    found: SweepRuns


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def swept_runs(swept: tuple[Path, str]) -> SweepRuns:
    return find_sweep("four", f"sqlite:///{swept[0]}/mlruns/mlflow.db")


def packaged(run: ModelRun, folder: Path) -> Path:
    return packaging.package(run, folder, threading.Event())


@pytest.fixture(scope="module")
def registered(swept_runs: SweepRuns) -> registry.Registered:
    return registry.register(swept_runs, packaged)


@pytest.fixture(scope="module")
def pages(swept: tuple[Path, str], swept_runs: SweepRuns) -> Iterator[Pages]:
    server = subprocess.Popen(
        command("ui", "four", "--port", str(_free_port())),
        cwd=swept[0], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Opening MLflow's pages")
        first, second = server.stdout.readline(), server.stdout.readline()
        home, view = (re.search(r"http://\S+", line) for line in (first, second))
        assert home, first + second
        assert view, first + second
        assert second.startswith(f"{swept_runs.sweep}: ")
        yield Pages(home[0].partition("#")[0], view[0], swept_runs)
    finally:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()


@pytest.fixture(scope="module")
def watched(browser, pages: Pages) -> Iterator[WatchedPage]:
    """One page for all tests, as loading MLflow's scripts takes longer than the tests."""
    with page_of(browser, width=1500, height=1400) as watched:
        # Otherwise MLflow opens its assistant on the first visit.
        seen = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
        watched.page.add_init_script(f"if (location.protocol === 'http:') {seen}")
        watched.page.on("response", lambda answer: answer.status >= 400 and watched.errors.append(answer.url))
        yield watched


def _names(watched: WatchedPage) -> list[str]:
    return watched.page.locator(".ag-row a[href*='/runs/']").all_inner_texts()


def test_the_sweeps_view_shows_its_trials_with_charts_best_first(watched: WatchedPage, pages: Pages) -> None:
    page = watched.page
    page.goto(pages.view)
    until(page, lambda: len(_names(watched)) == 4, _SECONDS)
    wanted = pages.found.selection.wanted
    runs = sorted(
        pages.found.client.search_runs(wanted.experiments, wanted.whole_query),
        key=lambda run: -run.data.metrics["best_val_accuracy"],
    )
    best = [run for run in runs if run.data.metrics["best_val_accuracy"] == runs[0].data.metrics["best_val_accuracy"]]
    assert _names(watched)[0] in {run.info.run_name for run in best}
    assert set(_names(watched)) == {run.info.run_name for run in runs}
    axes = page.locator(".parcoords .dimension .label")
    until(page, lambda: axes.count() == 3)
    assert axes.all_text_contents() == ["model.layers", "model.units", "best_val_accuracy"]
    # A curve and a point for each trial.
    charts = page.locator(".js-plotly-plot")
    until(page, lambda: charts.count() == 5)
    assert page.locator("[data-testid='experiment-view-compare-runs-card']").count() == 6
    for chart in range(3):
        curves = charts.nth(chart).locator(".scatterlayer .trace path.js-line")
        until(page, lambda curves=curves: curves.count() >= 4)
    for chart in (3, 4):
        points = charts.nth(chart).locator(".scatterlayer .trace path.point")
        until(page, lambda points=points: points.count() == 4)


def test_the_table_has_the_hyperparameters_and_scores_as_columns(watched: WatchedPage, pages: Pages) -> None:
    page = watched.page
    page.goto(pages.view.replace("compareRunsMode=CHART&", ""))
    cells = page.locator("[col-id='params.`model.units`'][role=gridcell]")
    until(page, lambda: cells.count() == 4)
    assert set(cells.all_inner_texts()) <= {"32", "128"}
    scores = page.locator("[col-id='metrics.`best_val_accuracy`'][role=gridcell]").all_inner_texts()
    assert sorted(scores, reverse=True) == scores
    # All digits: there are 40 validation images.
    assert all(re.fullmatch(r"0\.\d{1,3}", score) for score in scores)


def test_the_trials_are_nested_below_their_sweep_in_the_list_of_runs(watched: WatchedPage, pages: Pages) -> None:
    page = watched.page
    # Otherwise MLflow's page keeps the view's filter.
    page.goto("about:blank")
    page.goto(f"{pages.home}#/experiments/{pages.found.parent.info.experiment_id}/runs?workflowType=machine_learning")
    until(page, lambda: _names(watched) == [pages.found.parent.info.run_name])
    page.locator("[col-id='attributes.`Run Name`'] button").first.click()
    until(page, lambda: len(_names(watched)) == 5)


def test_the_sweeps_page_describes_the_results_and_shows_the_report(watched: WatchedPage, pages: Pages) -> None:
    page, run = watched.page, pages.found.parent.info
    page.goto(f"{pages.home}#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning")
    until(page, lambda: page.get_by_text("Winner: trial").count() > 0)
    page.get_by_text("Show more").first.click()
    until(page, lambda: page.locator("table td", has_text=" units").count() >= 4)
    artifact = f"runs/{run.run_id}/artifacts/report.html?workflowType=machine_learning"
    page.goto(f"{pages.home}#/experiments/{run.experiment_id}/{artifact}")
    title = page.frame_locator("iframe").locator("h1").first
    until(page, lambda: bool(title.count() and title.inner_text()))


def test_the_tab_system_metrics_of_a_trial_shows_what_its_slot_used(watched: WatchedPage, pages: Pages) -> None:
    page, run = watched.page, pages.found.winner().info
    where = f"#/experiments/{run.experiment_id}/runs/{run.run_id}/system-metrics?workflowType=machine_learning"
    page.goto(f"{pages.home}{where}")
    until(page, lambda: page.get_by_text("cpu_utilization_percentage").count() > 0)
    assert page.get_by_text("system_memory_usage_megabytes").count()
    assert not page.get_by_text("val_accuracy").count()


def test_the_winner_is_in_the_model_registry(
    watched: WatchedPage, pages: Pages, registered: registry.Registered
) -> None:
    page = watched.page
    page.goto(f"{pages.home}#/models/{registered.name}/versions/{registered.version}?workflowType=machine_learning")
    until(page, lambda: page.get_by_text("@ champion").count() > 0)
    assert page.get_by_text("in the search; test_accuracy").count()
    assert page.get_by_text("Takes raw images (N, 28, 28, 1), float32 in 0..255").count()


def test_no_page_had_an_error_or_made_a_request_to_another_host(watched: WatchedPage) -> None:
    assert watched.hosts == {"127.0.0.1"}
    assert [error for error in watched.errors if not (_NOISE.search(error) or error.endswith(_MISSING))] == []


@pytest.mark.slow
def test_the_champion_takes_raw_images_and_agrees_with_the_logged_model(
    swept_runs: SweepRuns, registered: registry.Registered, tmp_path: Path
) -> None:
    """Loads the model with MLflow alone, as other people would."""
    assert registered.champion
    assert registry.register(swept_runs, packaged).version == registered.version
    winner = swept_runs.winner()
    swept_runs.client.download_artifacts(winner.info.run_id, "sample_predictions.npz", str(tmp_path))
    code = (
        "import mlflow, numpy as np\n"
        f"model = mlflow.pyfunc.load_model('models:/{registered.name}@champion')\n"
        "sample = np.load('sample_predictions.npz')\n"
        "np.save('found.npy', model.predict(sample['images'].astype('float32')))\n"
        "example = model.input_example\n"
        "assert example.shape == (2, 28, 28, 1) and example.max() > 1, example.shape\n"
    )
    uri = {"MLFLOW_TRACKING_URI": swept_runs.client.tracking_uri, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(**uri), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "sample_predictions.npz")["predictions"]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)
