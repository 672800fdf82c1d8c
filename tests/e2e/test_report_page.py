"""The report in a browser, opened from the disk."""

from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from browser import browser as browser
from browser import page_of, until

from mnist_sweep.results import report

TRIALS = 40


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    details = {
        "mistakes_images": random.random((3, 8, 8, 1), dtype=np.float32),
        "mistakes_true": np.array([1, 2, 3]),
        "mistakes_predicted": np.array([7, 7, 5]),
        "mistakes_probability": np.array([0.99, 0.9, 0.6]),
    }
    files = {"confusion_matrix.json": {"rows are true classes": [[9, 1], [0, 10]]}, "test_details.npz": details}
    report.write(made_up.sweep(folder, TRIALS, files=files), folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser, written: Path):
    with page_of(browser) as watched:
        watched.page.goto(written.as_uri())
        yield watched
        assert watched.errors == []
        assert watched.requests == [written.as_uri()]


def cells(page, column: str) -> list[str]:
    """The texts of a column in the visible rows, from top to bottom."""
    headings = page.locator("#trials thead th").all_inner_texts()
    place = next(i for i, text in enumerate(headings, start=1) if text.split()[0] == column)
    return page.locator(f"#trials tbody tr:not([hidden]) > :nth-child({place})").all_inner_texts()


def axis(page, name: str):
    """The group of an axis, by the heading of its column."""
    return page.locator("#parallel g > g").filter(has=page.locator(f'text.name[aria-label^="{name}:"]'))


def drag(page, box: dict[str, float], start: float, end: float) -> None:
    """Drags along an axis: from one height to another, 0 its lower end and 1 its upper one."""
    x, top = box["x"] + box["width"] / 2, box["y"] + 6
    page.mouse.move(x, top + (1 - start) * 220)
    page.mouse.down()
    page.mouse.move(x, top + (1 - (start + end) / 2) * 220)
    page.mouse.move(x, top + (1 - end) * 220)
    page.mouse.up()


def shows(page, number: int) -> None:
    """Waits until this number of trials is shown, and the page says so."""
    rows, told = page.locator("#trials tbody tr:not([hidden])"), page.locator(".count")
    text = f"{TRIALS} trials" if number == TRIALS else f"{number} of {TRIALS} trials"
    until(page, lambda: (rows.count(), told.all_inner_texts()) == (number, [text, text]))


def test_the_page_opens_offline_and_shows_every_plot(opened):
    page = opened.page
    assert page.title() == "made/2026-01-02_03-04-05 – sweep report"
    drawn = "[...document.querySelectorAll('figure.plot svg')]"
    sizes = page.evaluate(f"{drawn}.map((svg) => [svg.ariaLabel.length > 0, svg.getBoundingClientRect().width > 300])")
    assert len(sizes) == 8
    assert all(all(size) for size in sizes)


def test_a_click_sorts_and_another_reverses_the_order(opened):
    page = opened.page
    heading = page.locator("#trials th", has_text="learning_rate")
    heading.locator("button").click()
    rates = [float(text) for text in cells(page, "learning_rate")]
    assert rates == sorted(rates)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert [float(text) for text in cells(page, "learning_rate")] == sorted(rates, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.locator("#trials th[aria-sort]").count() == 1


def test_the_keyboard_sorts_and_inactive_values_come_last(opened):
    page = opened.page
    page.locator("#trials th", has_text="momentum").locator("button").focus()
    for key in ("Enter", "Space"):
        page.keyboard.press(key)
        values = cells(page, "momentum")
        used = [float(text) for text in values if text != "–"]
        assert 0 < len(used) < TRIALS
        assert used == sorted(used, reverse=key == "Space")
        assert values[len(used) :] == ["–"] * (TRIALS - len(used))


def test_a_brush_shows_the_trials_in_its_range_and_a_click_removes_it(opened):
    page = opened.page
    zone = axis(page, "dropout").locator(".zone")
    zone.scroll_into_view_if_needed()
    every = [float(text) for text in cells(page, "dropout")]
    drag(page, zone.bounding_box(), 0.5, 1.05)
    low, high = min(every), max(every)
    kept = [value for value in every if value > low + 0.5 * (high - low)]
    assert 0 < len(kept) < TRIALS
    shows(page, len(kept))
    assert sorted(float(text) for text in cells(page, "dropout")) == sorted(kept)
    assert page.locator("#parallel .trials path:not(.out)").count() == len(kept)
    assert page.locator("#brushes button").inner_text().startswith("dropout: ")
    zone.click()
    shows(page, TRIALS)
    assert page.locator("#brushes button").count() == 0


def test_brushes_on_two_axes_combine_and_one_button_clears_them(opened):
    page = opened.page
    wanted = [pair == ("adam", "256") for pair in zip(cells(page, "optimizer"), cells(page, "units"), strict=True)]
    assert 0 < sum(wanted) < TRIALS
    axis(page, "optimizer").locator(".zone").scroll_into_view_if_needed()
    # adam is the first of two options, so it is in the lower half.
    drag(page, axis(page, "optimizer").locator(".zone").bounding_box(), -0.02, 0.5)
    drag(page, axis(page, "units").locator(".zone").bounding_box(), 0.67, 1.02)
    shows(page, sum(wanted))
    assert page.locator("#brushes button").count() == 2
    assert set(cells(page, "optimizer")) == {"adam"}
    assert set(cells(page, "units")) == {"256"}
    page.locator("#clear").click()
    shows(page, TRIALS)


def test_the_keyboard_brushes_flips_and_moves_an_axis(opened):
    page = opened.page
    upper = axis(page, "layers").get_by_role("slider", name="upper limit")
    upper.focus()
    three = cells(page, "layers").count("3")
    page.keyboard.press("ArrowDown")
    shows(page, TRIALS - three)
    assert set(cells(page, "layers")) == {"1", "2"}
    assert upper.get_attribute("aria-valuetext") == "1, 2"
    page.keyboard.press("Delete")
    shows(page, TRIALS)
    names = page.locator("#parallel .name title")
    name = axis(page, "layers").locator(".name")
    name.focus()
    page.keyboard.press("Enter")
    assert name.text_content().startswith("layers ↓")
    first, second, *others = names.all_text_contents()
    page.keyboard.press("ArrowRight")
    assert names.all_text_contents() == [second, first, *others]
    assert axis(page, first).bounding_box()["x"] > axis(page, second).bounding_box()["x"]
    assert page.evaluate("document.activeElement.textContent").startswith("layers")


def test_the_mark_below_an_axis_shows_only_trials_without_a_value(opened):
    page = opened.page
    none = cells(page, "momentum").count("–")
    axis(page, "momentum").locator(".none").click()
    shows(page, none)
    assert set(cells(page, "momentum")) == {"–"}


def test_a_row_highlights_its_line_and_a_line_its_row(opened):
    page = opened.page
    row = page.locator("#trials tbody tr").nth(3)
    row.hover()
    assert f"trial {cells(page, 'trial')[3]} " in page.locator("#readout").inner_text()
    lit = page.locator("#parallel .lit").get_attribute("d")
    assert lit in page.locator("#parallel .trials path").evaluate_all("all => all.map((p) => p.getAttribute('d'))")
    page.locator("#explore").scroll_into_view_if_needed()
    # The best is drawn last. At its end, the score, no other line is as close.
    x, y = page.locator("#parallel .trials path").last.evaluate(
        "path => { const end = path.getPointAtLength(path.getTotalLength()), at = path.getScreenCTM();"
        " return [end.x + at.e, end.y + at.f]; }"
    )
    page.mouse.move(x - 1, y)
    assert page.locator("#trials tr.lit").count() == 1
    assert page.locator("#readout").inner_text().startswith("rank 1 ")


def test_pointing_at_a_mark_shows_its_values_and_highlights_its_trial(opened):
    page = opened.page
    tip = page.locator("#tip")
    for plot, text in (("history", "val_accuracy "), ("effects", "trial "), ("timeline", " on cpu")):
        # Playwright's own :has takes seconds on so many marks.
        mark = page.locator(f"#{plot} .told :is(use, path):not(defs *)").first
        mark.scroll_into_view_if_needed()
        box = mark.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert text in tip.inner_text()
        assert page.locator("#trials tr.lit").count() == 1
    page.locator("h1").hover()
    assert not tip.is_visible()
    assert page.locator("#trials tr.lit").count() == 0
    # It has been given back.
    assert all(page.locator("#timeline title").all_text_contents())


def test_the_plots_follow_the_colours_of_the_page(browser, written: Path):
    found = {}
    for scheme in ("light", "dark"):
        with page_of(browser, color_scheme=scheme) as watched:
            watched.page.goto(written.as_uri())
            found[scheme] = watched.page.evaluate(
                "['#history text', '#history use', '#curves path'].map((one) => "
                "{ const look = getComputedStyle(document.querySelector(one)); return look.fill + look.stroke; })"
            )
    assert all(light != dark for light, dark in zip(found["light"][:2], found["dark"][:2], strict=True))


def test_arrow_keys_move_between_rows(opened):
    page = opened.page
    page.locator("#trials tbody tr").first.focus()
    page.keyboard.press("ArrowDown")
    assert "rank 2 " in page.locator("#readout").inner_text()
    page.keyboard.press("ArrowUp")
    assert "rank 1 " in page.locator("#readout").inner_text()


def test_the_page_fits_a_narrow_screen_and_a_finger_brushes(browser, written: Path):
    with page_of(browser, width=360, height=740, has_touch=True) as watched:
        page = watched.page
        page.goto(written.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        zone = axis(page, "layers").locator(".zone")
        zone.scroll_into_view_if_needed()
        box = zone.bounding_box()
        three = cells(page, "layers").count("3")
        finger = page.context.new_cdp_session(page)
        for kind, y in (("touchStart", 2), ("touchMove", 50), ("touchMove", 90), ("touchEnd", None)):
            points = [] if y is None else [{"x": box["x"] + 15, "y": box["y"] + y}]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        shows(page, three)
        assert set(cells(page, "layers")) == {"3"}
        assert watched.errors == []


def test_the_page_works_in_the_frame_of_mlflow(browser, written: Path, tmp_path: Path):
    (tmp_path / "mlflow.html").write_text("<!doctype html><title>MLflow</title>")
    with page_of(browser) as watched:
        page = watched.page
        page.goto((tmp_path / "mlflow.html").as_uri())
        page.evaluate(
            """(text) => {
              const frame = document.createElement("iframe");
              frame.sandbox = "allow-scripts";
              frame.width = 660;
              frame.height = 768;
              frame.src = URL.createObjectURL(new Blob([text], { type: "text/html" }));
              document.body.append(frame);
            }""",
            written.read_text(encoding="utf-8"),
        )
        report_page = page.frame_locator("iframe")
        report_page.locator("#trials th", has_text="units").locator("button").click()
        assert report_page.locator("#trials th[aria-sort]").inner_text().startswith("units")
        assert report_page.locator("#parallel .trials path").count() == TRIALS
        report_page.locator("nav a", has_text="Leaderboard").click()
        until(page, lambda: abs(report_page.locator("#leaderboard").bounding_box()["y"]) < 40)
        assert watched.errors == []


def test_the_browser_runs_no_script_but_the_pages_own(browser, tmp_path: Path):
    evil = "</script><script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\">"
    made = made_up.sweep(
        tmp_path, 6, epochs=1, params={"description": evil}, params__model__activation=[evil, "relu"] * 3, reason=evil
    )
    report.write(made, tmp_path / "report.html")
    with page_of(browser) as watched:
        watched.page.goto((tmp_path / "report.html").as_uri())
        assert watched.page.title() == "made/2026-01-02_03-04-05 – sweep report"
        assert watched.page.locator(".lead").inner_text() == evil
        assert evil in cells(watched.page, "activation")
        assert watched.page.locator("#trials .status span").first.get_attribute("title") == evil
        assert watched.errors == []
        assert len(watched.requests) == 1
