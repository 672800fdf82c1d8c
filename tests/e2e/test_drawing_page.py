"""The drawing page in a real browser, with the models of a real sweep."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from browser import WatchedPage, page_of, until
from browser import browser as browser
from PIL import Image
from programs import Run, command, environment, with_store

from mnist_sweep.data import images as data

# The points of a seven, on a square of 280 × 280.
SEVEN = [(80, 60), (130, 58), (200, 60), (180, 120), (155, 180), (140, 235)]


@pytest.fixture(scope="module")
def address(browser, run: Run, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address, with the models of a sweep that was trained well enough to read a digit."""
    folder = with_store(tmp_path_factory.mktemp("drawing"), store)
    done = run(
        folder, "+experiment=quick", "search.max_trials=2", "training.epochs=6", "optimizer.name=adam",
        "model.units=64,128", "model.layers=1", "model.dropout=0.0", "name=readers", "workers.count=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    process = subprocess.Popen(
        command("serve", "readers", "--port", "0"),
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Draw at (http://127\.0\.0\.1:\d+/) \(Ctrl-C stops it\)\n", line)
        assert found, line
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def opened(browser, address: str) -> Iterator[WatchedPage]:
    with page_of(browser, has_touch=True) as watched:
        watched.page.goto(address)
        # The first test waits for TensorFlow.
        watched.page.wait_for_selector("#others li:not(.loading)", timeout=100_000)
        yield watched
        assert watched.errors == []
        assert watched.hosts == {"127.0.0.1"}


def at(page, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    box = page.locator("#canvas").bounding_box()
    return [(box["x"] + x * box["width"] / 280, box["y"] + y * box["height"] / 280) for x, y in points]


def draw(page, points: Sequence[tuple[float, float]]) -> None:
    first, *rest = at(page, points)
    page.mouse.move(*first)
    page.mouse.down()
    for point in rest:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def answer(page) -> str:
    page.wait_for_selector("#answer[aria-busy=false]")
    return page.inner_text("#digit")


def test_a_digit_is_recognized_while_it_is_drawn_with_the_mouse(opened):
    page, under_way, most, requests = opened.page, 0, 0, 0

    def started(request) -> None:
        nonlocal under_way, most, requests
        if request.url.endswith("/predict"):
            under_way, requests = under_way + 1, requests + 1
            most = max(most, under_way)

    def ended(request) -> None:
        nonlocal under_way
        under_way -= request.url.endswith("/predict")

    page.on("request", started)
    page.on("requestfinished", ended)
    assert answer(page) == "?"
    draw(page, SEVEN)
    assert answer(page) == "7"
    assert page.locator("#bars li").count() == 10
    assert page.locator("#bars li.best").inner_text().split()[0] == "7"
    assert page.inner_text("#agreement") == "The runner-up agrees."
    assert re.search(r"✓ agrees, [\d.> ]+ %", page.inner_text("#others"))
    assert "units 64" in page.inner_text("#others") or "units 128" in page.inner_text("#others")
    seen = page.evaluate("[...document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data]")
    assert np.count_nonzero(np.array(seen).reshape(28, 28, 4)[..., 0]) > 30
    # The page sends requests while the digit is drawn, but only one at a time.
    assert requests >= 2
    assert most == 1
    until(page, lambda: page.inner_text("#announcement").startswith("This looks like 7,"))


def test_drawing_with_a_finger_does_not_scroll_the_page(opened):
    page = opened.page
    touch = page.context.new_cdp_session(page)
    first, *rest = at(page, SEVEN)

    def send(kind: str, *points: tuple[float, float]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    send("touchStart", first)
    for previous, point in zip([first, *rest], rest, strict=False):
        for part in np.linspace(0, 1, 8):
            send("touchMove", tuple(np.array(previous) * (1 - part) + np.array(point) * part))
    send("touchEnd")
    assert answer(page) == "7"
    assert page.evaluate("scrollY") == 0


def test_a_digit_can_be_drawn_undone_and_cleared_with_the_keyboard(opened):
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "canvas"
    assert not page.evaluate("document.getElementById('cursor').hidden")
    page.keyboard.press("Space")
    for _ in range(14):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")  # with the pen lifted
    assert answer(page) == "1"
    page.keyboard.press("u")
    assert answer(page) == "?"
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    assert answer(page) == "?"
    assert page.is_visible("#hint")


def test_clearing_can_be_undone(opened):
    page = opened.page
    draw(page, SEVEN)
    assert answer(page) == "7"
    page.click("#clear")
    assert answer(page) == "?"
    assert page.inner_text("#bars").split() == list("0123456789")
    page.click("#undo")
    assert answer(page) == "7"
    page.click("#undo")
    assert answer(page) == "?"
    assert page.is_disabled("#undo")


def test_an_opened_image_is_recognized_and_a_new_stroke_starts_a_new_drawing(opened, tmp_path: Path):
    page, images = opened.page, data.load("mnist_5k")
    digit = images.x_test[images.y_test == 3][0, ..., 0]
    image = tmp_path / "three.png"
    Image.fromarray(255 - digit).resize((1500, 1500), Image.Resampling.BICUBIC).save(image)
    page.set_input_files("#file", image)
    until(page, lambda: page.inner_text("#digit") == "3")
    draw(page, SEVEN)
    assert answer(page) == "7"
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "text.png")
    until(page, lambda: "cannot open" in page.inner_text("#agreement"))


def test_the_page_says_why_an_answer_is_doubtful(opened):
    page = opened.page
    draw(page, [(0, 140), (279, 150)])
    answer(page)
    assert "touches the edge" in page.inner_text("#doubts")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (320, "light")])
def test_the_page_fits_a_phone(browser, address, width, scheme):
    with page_of(browser, width=width, height=844, color_scheme=scheme) as watched:
        page = watched.page
        page.goto(address)
        page.wait_for_selector("#others li:not(.loading)", timeout=100_000)
        draw(page, SEVEN)
        assert answer(page) == "7"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert watched.errors == []
