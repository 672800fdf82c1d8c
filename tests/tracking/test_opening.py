"""A store on another machine is opened while the workers start."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mnist_sweep.tracking import opening, store
from mnist_sweep.tracking.tracker import Tracker


@contextmanager
def server(status: int = 200, body: str = "{}", login: float = 0.0) -> Iterator[str]:
    """The address of a server that answers alike to everything but /health, after it has checked a password."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers."""
            free = self.path == "/health"
            time.sleep(0.0 if free else login)
            self.send_response(200 if free else status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def told(uri: str) -> tuple[list[str], opening.Told]:
    said: list[str] = []
    known = opening.open_early(uri, said.append)
    for thread in threading.enumerate():
        if thread.name == "opening":
            thread.join(30)
    return said, known


def test_a_fault_that_lasts_is_told_before_there_is_an_event_and_once(make_story) -> None:
    with server(401, "who are you?") as uri:
        said, known = told(uri)
        (line,) = said
        assert line.startswith(
            f"MLflow cannot be used; {opening.CONTINUES}: tracking.uri={uri}: the server rejects the"
        )
        story = make_story()
        settings = story.settings
        elsewhere = settings.tracking.model_copy(update={"uri": uri})
        object.__setattr__(settings, "tracking", elsewhere)
        tracker = Tracker(settings, story.folder, lambda: None, said.append, known)  # type: ignore[arg-type, return-value]
        story.starts()
        tracker.handle(story.events[0])
        tracker.opened(20)
        assert tracker.error is not None
        tracker.close()
    assert said == [line]


def test_an_outage_and_a_store_that_works_are_not_told() -> None:
    assert told("http://127.0.0.1:9")[0] == []
    with server(503, "later") as uri:
        assert told(uri)[0] == []
    with server() as uri:
        assert told(uri)[0] == []


def test_a_slow_check_of_the_password_is_told_with_its_remedy() -> None:
    with server(login=0.15) as uri:
        (line,) = told(uri)[0]
    assert line.startswith("MLflow's server takes 0.")
    assert "auth_cache_ttl_seconds = 300" in line


def test_an_sqlite_store_is_left_to_the_tracker(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "connect", lambda *_, **__: pytest.fail("opened"))
    assert told(f"sqlite:///{tmp_path}/x.db")[0] == []
