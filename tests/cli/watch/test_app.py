"""The server of the page that follows sweeps: what it tells, to whom, and who may change a sweep."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import running_sweep
from serving import TOKEN, Served, serving
from watching import Story

from mnist_sweep.journal import journal
from mnist_sweep.journal.events import Steered, TrialStopped
from mnist_sweep.journal.journal import Journal

NAME = "mlp/2026-11-28_17-00-00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "experiments" / NAME
    folder.mkdir(parents=True)
    from mnist_sweep.config import compose

    with Journal(folder) as written:
        story = Story(written, config={**compose.defaults(()), "objective": "val_accuracy max"})
        story.starts(0)
        story.ends(0)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with serving([folder]) as served:
        yield served


def sweep(folder: Path) -> str:
    return f"/sweep?name={folder}"


def steer(folder: Path) -> str:
    return f"/steer?name={folder}"


# ---- what it tells ----------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere(server: Served) -> None:
    status, headers, body = server.get("/")
    assert status == 200
    assert b"://" not in body.replace(b"http://www.w3.org", b"")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "set-cookie" not in headers
    for path in ("/report.css", "/watch.css", "/axes.js", "/stream.js", "/page.js", "/icon.svg"):
        status, headers, body = server.get(path)
        assert (status, headers["x-content-type-options"]) == (200, "nosniff")
        assert body
    assert server.get("/../app.py")[0] == 404


def test_a_sweep_and_the_overview_are_streams(server: Served, folder: Path) -> None:
    (first,) = server.messages(sweep(folder), 1)
    assert first["trials"][0]["s"] == "completed"
    assert first["why"] == "the sweep is not running"
    (overview,) = server.messages("/sweeps", 1)
    assert [one["name"] for one in overview["sweeps"]] == [str(folder)]


def test_a_sweep_that_is_not_shown_is_not_found(server: Served, folder: Path) -> None:
    for name in ("mlp/other", "../../etc", str(folder.parent), ""):
        status, _, body = server.get(f"/sweep?name={name}")
        assert status == 404, name
        assert "there is no such sweep here" in json.loads(body)["error"]


def test_a_stream_goes_on_with_what_is_written(server: Served, folder: Path) -> None:
    def write(count: int) -> None:
        if count == 1:
            with Journal(folder, resume=True) as written:
                more = Story.__new__(Story)
                more._to = written
                more.starts(1)

    _, then = server.messages(sweep(folder), 2, do=write)
    assert "all" not in then
    assert [row["n"] for row in then["trials"]] == [1]


# ---- who may read, and change -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8001", 200), ("known.example", 200), ("[::1]:8001", 200), ("10.1.2.3", 200),
     ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("", 400), ("localhost.evil.example:80", 400)],
)  # fmt: skip
def test_only_known_host_names_are_answered(server: Served, host: str, status: int) -> None:
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("token", ["", "another-token-altogether", TOKEN[:-1], f"{TOKEN}x"])
def test_nothing_is_changed_without_the_token(server: Served, folder: Path, token: str) -> None:
    status, answer = server.post(steer(folder), {"do": "pause"}, token=token)
    assert (status, answer["error"][:14]) == (401, "open the link ")
    # Nor with it in the address, where a cross-site form could not put it either.
    assert server.post(f"{steer(folder)}&token={TOKEN}", {"do": "pause"}, token="")[0] == 401


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"Host": "evil.example"}],
)  # fmt: skip
def test_no_other_site_can_change_anything_even_with_the_token(server: Served, folder: Path, headers: dict) -> None:
    status, answer = server.post(steer(folder), {"do": "pause"}, **headers)
    assert status in (400, 403)
    assert answer["error"] in ("this request comes from another site", "this server does not accept that host name")


def test_a_browser_may_not_ask_from_another_site(server: Served) -> None:
    status, headers, _ = server._ask("OPTIONS", "/steer", None, "", {"Origin": "http://evil.example"})
    assert status in (401, 403, 405)
    assert not any(name.startswith("access-control") for name in headers)


def test_requests_of_other_kinds_are_refused(server: Served, folder: Path) -> None:
    assert server.post(steer(folder), [1])[0] == 400
    assert server.post(steer(folder), {}, **{"Content-Type": "text/plain"})[0] == 415
    assert server.post(steer(folder), {"do": "x" * 70_000})[0] == 413
    assert server.post("/steer?name=none", {"do": "pause"})[0] == 404
    for wish in ({}, {"do": "stop"}, {"do": "stop", "trial": "1"}, {"do": "add", "values": []}, {"do": "shell"}):
        assert "does not know" in server.post(steer(folder), wish)[1]["error"]


def test_another_address_needs_the_token_to_read(folder: Path) -> None:
    with serving([folder], open_to_all=False) as served:
        # The page, which says nothing of the sweeps.
        assert served.get("/")[0] == 200
        assert served.get("/sweeps")[0] == 401
        assert served.get(sweep(folder))[0] == 401
        assert served.messages("/sweeps", 1, token=TOKEN)


# ---- a sweep that runs ------------------------------------------------------------------------------------------


def test_a_running_sweep_does_what_the_page_asks_for(compose_config: Any, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / NAME
    config = compose_config("search=random", "search.max_trials=9", "model.units=16,32,64", "confirm=null")
    with running_sweep(folder, config, epoch_seconds=0.05), serving([folder]) as served:
        assert served.messages(sweep(folder), 1, token=TOKEN)[0]["why"] == ""
        (without,) = served.messages(sweep(folder), 1)
        assert without["why"] == "to change the sweep, open the link that watch printed, with its token"
        done = [
            served.post(steer(folder), wish)[1]
            for wish in (
                {"do": "pause"},
                {"do": "set", "settings": ["search.max_trials=8"]},
                {"do": "slots", "slots": 1},
                {"do": "continue"},
                {"do": "add", "values": ["model.units=7"]},
                {"do": "stop", "trial": 999},
            )
        ]
    assert done[0]["done"].startswith("Paused")
    assert done[1] == {"done": "search.max_trials: 9 → 8", "trial": None}
    assert done[2]["done"].startswith("1 slot of 2 is given back")
    assert done[3]["done"] == "Trials start again"
    assert "units" in done[4]["error"]
    assert done[5]["error"].startswith("stop 999: there is no such trial")
    steered = [event for event in journal.read(folder) if isinstance(event, Steered)]
    assert len(steered) == 4
    assert not any(isinstance(event, TrialStopped) for event in steered)
