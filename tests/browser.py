"""A headless browser for the tests of web pages, which records each page's messages and requests."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class WatchedPage:
    """A page, and what happened on it.

    Attributes:
        page: Playwright's.
        errors: What it wrote to its console as errors or warnings, and the exceptions that its scripts did not catch.
        requests: The addresses that it requested, except those that contain their content (data:, blob:).
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """The hosts that it sent requests to."""
        return {host for address in self.requests if (host := urlsplit(address).hostname)}


# Not once for the session: as long as playwright is there, nothing else can run an event loop, as notebooks do.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once for a file of tests; tests that use it are skipped if it is not installed."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'"
    )
    with sync_api.sync_playwright() as playwright:
        installed = next(filter(None, map(shutil.which, _NAMES)), playwright.chromium.executable_path)
        if not Path(installed).exists():
            pytest.skip(
                "there is no Chromium: python -m playwright install --with-deps chromium, or apt-get install chromium"
            )
        started = playwright.chromium.launch(executable_path=installed, args=list(_FLAGS))
        yield started
        started.close()


@contextmanager
def page_of(browser: Browser, *, width: int = 1280, height: int = 900, **more: Any) -> Iterator[WatchedPage]:
    """Opens a page that shares nothing with the others, and closes it at the end.

    Args:
        browser: The fixture.
        width: Of the window, in CSS pixels.
        height: Of the window.
        more: What else Playwright's `new_context` takes, such as `color_scheme="dark"` or `has_touch=True`.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, **more)
    watched = WatchedPage(context.new_page())
    page = watched.page
    page.set_default_timeout(20_000)
    page.on("console", lambda m: watched.errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("data:", "blob:")) else watched.requests.append(asked.url),
    )
    page.on("websocket", lambda socket: watched.requests.append(socket.url))
    try:
        yield watched
    finally:
        context.close()


def until(page: Page, condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something to become true, while the page keeps running.

    Playwright's `wait_for_function` cannot be used where a page allows no script but its own.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(20)
