"""Messages about a sweep: which are sent, and that no service disturbs it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from watching import Story

from mnist_sweep.common import invocation, secrets
from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose, services
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.driver import notify
from mnist_sweep.driver.notify import Notifier
from mnist_sweep.journal.events import SweepEnded
from mnist_sweep.journal.trial import Status

SWEEP = "mlp/2025-01-01_10-00-00"


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_hidden_uris", {})
    monkeypatch.setattr(secrets, "_passwords", set())


@functools.cache
def shipped() -> Settings:
    return check_settings(compose.defaults(("objective=val_accuracy max",)))


def to(*urls: str) -> Settings:
    return dataclasses.replace(shipped(), notify=tuple(services.hidden(list(urls))))


class Sent:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []
        self.told: list[str] = []
        self.notifier = Notifier(shipped(), [("json://***", self.send)], self.told.append)
        self.story = Story(self.notifier)

    def send(self, title: str, text: str, kind: str) -> str:
        self.messages.append((title, text, kind))
        return ""

    def trial(self, number: int, score: float | None, **more: Any) -> None:
        self.story.starts(number)
        self.story.ends(number, score, **more)

    def ends(self, status: Status = Status.COMPLETED, reason: str = "", winner: int | None = 0) -> None:
        self.notifier.handle(SweepEnded(4720.0, status, reason, winner))

    def close(self) -> list[tuple[str, str, str]]:
        self.notifier.close()
        return self.messages


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_a_new_best_is_sent_but_not_the_first_trial_nor_a_worse_one(sent: Sent) -> None:
    for number, score in enumerate((0.5, 0.4, 0.75, 0.6)):
        sent.trial(number, score)
    assert sent.close() == [
        (
            f"{SWEEP}: new best",
            "trial 2, val_accuracy 0.7500 (units=64, optimizer=adam, learning_rate=0.001235); "
            "before: val_accuracy 0.5000",
            "best",
        )
    ]


def test_failures_in_a_row_are_sent_once_until_a_trial_succeeds(sent: Sent) -> None:
    failed = {"score": None, "status": Status.FAILED, "reason": "the loss became nan in epoch 1"}
    for number, good in enumerate((False, True, False, False, False, True, False, False)):
        sent.trial(number, 0.5) if good else sent.trial(number, **failed)  # type: ignore[arg-type]
    assert sent.close() == [
        (f"{SWEEP}: 2 trials in a row have failed", f"Trial {n}: the loss became nan in epoch 1", "failures")
        for n in (3, 7)
    ]


@pytest.mark.parametrize(
    ("status", "reason", "winner", "kind", "text"),
    [
        (Status.COMPLETED, "", 0, "done", "Best: trial 0, val_accuracy 0.5000 (units=64, optimizer=adam, "),
        (Status.STOPPED, "interrupted", 0, "stopped", "interrupted\nBest: trial 0"),
        (Status.FAILED, "no trial has a result", None, "failed", "no trial has a result"),
    ],
)
def test_the_end_is_sent_with_what_has_become_of_the_sweep(
    sent: Sent, status: Status, reason: str, winner: int | None, kind: str, text: str
) -> None:
    sent.trial(0, 0.5)
    sent.ends(status, reason, winner)
    ((title, body, as_kind),) = sent.close()
    assert (title, as_kind) == (f"{SWEEP}: {kind}", kind)
    assert body.startswith("1 trial in 1 h 02 min\n")
    assert text in body


def test_nothing_of_an_earlier_session_is_sent_again(sent: Sent) -> None:
    events: list[Any] = []

    class Keeps:
        def handle(self, *some: Any) -> None:
            events.extend(some)

    story = Story(Keeps())
    for number, score in enumerate((0.5, 0.75)):
        story.starts(number)
        story.ends(number, score)
    sent.notifier.known(events)
    sent.trial(2, 0.6)
    assert sent.close() == []


def test_a_slow_service_delays_nothing_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_PATIENCE", 0.1)
    held, told = threading.Event(), list[str]()

    def send(*_: str) -> str:
        held.wait(60)
        return ""

    notifier = Notifier(shipped(), [("json://***", send)], told.append)
    story = Story(notifier)
    for number in range(notify._MOST_WAITING + 20):
        story.starts(number)
        story.ends(number, 0.001 * number)
    notifier.close()
    slow = f"is too slow: {notify._MOST_WAITING} messages wait"
    assert told == [f"notify: json://*** {slow}; the sweep continues, and says this once"]
    held.set()


def test_an_error_of_a_service_is_told_by_its_kind_only(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def send(*_: str) -> str:
        raise ValueError("slack://secret is down")

    notifier = Notifier(shipped(), [("slack://***", send)], told.append)
    story = Story(notifier)
    for number in range(3):
        story.starts(number)
        story.ends(number, 0.1 * number)
    notifier.close()
    line = "notify: slack://*** did not accept a message (ValueError); the sweep continues, and says this once"
    assert told == [line]
    assert [record.getMessage() for record in caplog.records] == [line]


# ---- through Apprise ---------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[str, Any]], Callable[[int], None]]]:
    """A server for messages: its port, the paths and contents that it gets, and what sets its answer."""
    got: list[tuple[str, Any]] = []
    answers = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(answers[-1])
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made.server_port, got, answers.append
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_server_gets_the_messages_and_its_refusal_is_told_without_the_address(server, caplog) -> None:
    port, got, answer_with = server
    told: list[str] = []
    caplog.set_level(logging.INFO)
    notifier = notify.create(to(f"json://127.0.0.1:{port}/HUSHHUSHHUSH"), told.append)
    assert notifier is not None
    story = Story(notifier)
    story.starts(0)
    story.ends(0, 0.5)
    notifier.handle(SweepEnded(1060.0, Status.COMPLETED, "", 0))
    until = time.monotonic() + 10
    while not got and time.monotonic() < until:
        time.sleep(0.01)
    ((path, message),) = got
    assert (path, message["title"], message["type"]) == ("/HUSHHUSHHUSH", f"{SWEEP}: done", "success")
    assert message["message"].startswith("1 trial in 1 min")
    answer_with(401)
    notifier.handle(SweepEnded(1060.0, Status.STOPPED, "interrupted", 0))
    notifier.close()
    assert told == ["notify: json://*** did not accept a message (HTTP 401); the sweep continues, and says this once"]
    assert "HUSH" not in caplog.text
    assert str(port) not in caplog.text


def test_an_address_that_is_not_one_is_an_error_that_does_not_show_it() -> None:
    for url in ("slack://HUSH", "hush://HUSH", "HUSH"):
        with pytest.raises(UserError) as caught:
            notify.create(to(url), print)
        assert "is not the address of a service that Apprise knows, or a part of it is missing" in str(caught.value)
        assert "HUSH" not in str(caught.value)


def test_without_apprise_the_message_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apprise" else find(name))
    with pytest.raises(UserError) as caught:
        notify.create(to("json://x"), print)
    install = invocation.pip_install("mnist_sweep[notify]")
    assert str(caught.value) == f"notify: needs Apprise, which is not installed; {install}"
    assert notify.create(shipped(), print) is None


def test_an_address_of_another_process_is_told_and_the_others_get_messages() -> None:
    told: list[str] = []
    settings = dataclasses.replace(to("json://127.0.0.1:1"), notify=("gone://***",))
    assert notify.create(settings, told.append) is None
    assert told == ["notify: gone://*** gets no messages, as its address is not kept with the sweep; add notify=[URL]"]
