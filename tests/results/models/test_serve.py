"""The page's server, on a real socket, with models that are plain functions."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_sweep.common import ports
from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.models.image_decoder import PictureReader
from mnist_sweep.results.models.image_files import prepare
from mnist_sweep.results.models.serve import app, connections, picture_readers, reading, server_of
from mnist_sweep.results.models.serve import panel as panels
from mnist_sweep.results.models.serve.app import make_app
from mnist_sweep.results.models.serve.panel import Candidate, Judge, Panel, candidates, describe, load
from mnist_sweep.results.models.model_run import ModelRun, find_model
from mnist_sweep.results.runs.api import record
from mnist_sweep.results.runs.frames import runs_frame

CARD = {"sweep": "alpha/now", "trial": 3, "confirms": None, "data": "mnist", "classes": 10}
JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}


def by_shape(image: np.ndarray) -> np.ndarray:
    """A model: an upright stroke is a 1, a lying one a 2, and it is sure of it by 0.75."""
    tall, wide = (image[..., 0].max(axis=axis).sum() for axis in (1, 0))
    answer = np.full(10, 0.25 / 9)
    answer[1 if tall > wide else 2] = 0.75
    return answer


def always_one(_: np.ndarray) -> np.ndarray:
    return np.eye(10)[1]


UPRIGHT = np.zeros((60, 60), dtype=np.uint8)
UPRIGHT[10:50, 27:33] = 255
LYING = UPRIGHT.T


@dataclass
class Server:
    panel: Panel
    port: int

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any
    ) -> tuple[HTTPResponse, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {}, **more)
            response = connection.getresponse()
            content = response.read()
            is_json = response.headers["content-type"] == "application/json"
            return response, json.loads(content) if is_json else content
        finally:
            connection.close()

    def predict(self, body: Any, headers: dict[str, str] = JSON, **more: Any) -> tuple[int, Any]:
        response, answer = self.ask("POST", "/predict", body, headers, **more)
        return response.status, answer

    def raw(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def readers() -> Iterator[list[PictureReader]]:
    with picture_readers() as started:
        yield started


@contextmanager
def serving(panel: Panel, readers: list[PictureReader], token: str = "") -> Iterator[Server]:
    with ports.listen("127.0.0.1", 0) as listening:
        server = server_of(make_app(panel, readers, ["known.example"], token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield Server(panel, listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def panel() -> Panel:
    judges = [Judge("trial 3", "units 64", by_shape), Judge("trial 1", "units 32", always_one)]
    return Panel(CARD, (28, 28, 1), judges=judges, complete=True)


@pytest.fixture(scope="module")
def server(panel: Panel, readers: list[PictureReader]) -> Iterator[Server]:
    with serving(panel, readers) as served:
        yield served


def as_json(image: np.ndarray) -> str:
    return json.dumps({"image": image.tolist()})


def as_file(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


# ---- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (as_json(LYING), JSON),
        (as_json(LYING / 1.5), {"Content-Type": "application/json; charset=utf-8"}),
        (as_json(np.repeat(LYING[..., np.newaxis], 3, axis=2)), JSON),
        (as_file(LYING), PNG),
        (as_file(255 - LYING), PNG),
        (as_file(LYING, "JPEG"), {"Content-Type": "image/jpeg"}),
    ],
)
def test_an_image_is_judged_by_all(server, body, headers):
    status, answer = server.predict(body, headers)
    assert status == 200
    assert (answer["digit"], answer["probability"]) == (2, 0.75)
    assert len(answer["probabilities"]) == 10
    assert sum(answer["probabilities"]) == pytest.approx(1)
    assert answer["models"] == [
        {"name": "trial 3", "digit": 2, "probability": 0.75, "agrees": True},
        {"name": "trial 1", "digit": 1, "probability": 1.0, "agrees": False},
    ]
    seen = np.array(answer["image"])
    assert seen.shape == (28, 28)
    assert seen.max() > 200
    assert answer["notes"]


def test_what_is_doubtful_is_said(server):
    _, answer = server.predict(as_json(np.zeros((9, 9), dtype=int)))
    assert any("nothing is drawn" in doubt for doubt in answer["doubts"])
    _, answer = server.predict(as_json(UPRIGHT))
    assert answer["doubts"] == []


def test_models_of_coloured_images_are_shown_what_they_see():
    panel = Panel(CARD, (8, 6, 3), judges=[Judge("trial 0", "", lambda image: image.mean(axis=(0, 1)))])
    picture = np.zeros((80, 60, 3), dtype=np.uint8)
    picture[..., 1] = 255
    answer = panel.answer(prepare(Image.fromarray(picture), panel.shape))
    assert answer["digit"] == 1
    assert answer["probability"] == pytest.approx(1)
    assert np.array(answer["image"]).shape == (8, 6, 3)


def test_before_the_champion_is_loaded_it_says_so(readers):
    panel = Panel(CARD, (28, 28, 1), expected=2)
    with serving(panel, readers) as server:
        response, answer = server.ask("POST", "/predict", as_json(UPRIGHT), JSON)
        assert (response.status, answer["error"]) == (503, "the model is still being loaded")
        assert response.headers["retry-after"]
        assert server.ask("GET", "/health")[1] == {"ready": False}
        panel.judges.append(Judge("trial 3", "units 64", by_shape))
        assert server.ask("GET", "/health")[1] == {"ready": True}
        about = server.ask("GET", "/about")[1]
        assert about["models"] == [{"name": "trial 3", "about": "units 64"}]
        assert (about["ready"], about["complete"], about["expected"]) == (True, False, 2)
        assert server.predict(as_json(UPRIGHT))[0] == 200


# ---- limits -----------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a hundred bytes that says it is 60,000 × 60,000."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, "", "not JSON"),
        (400, '{"image": [[1, 2]', "not JSON"),
        (400, '{"image": [[NaN]]}', "not JSON"),
        (400, '{"image": [[Infinity]]}', "not JSON"),
        (400, b'{"image": "\xff"}', "not JSON"),
        (400, "[" * 100_000, "not JSON"),
        (422, "[[1]]", "the body must be"),
        (422, '{"image": [[1]], "more": 1}', "the body must be"),
        (422, '{"image": "[[1]]"}', "list of rows"),
        (422, '{"image": []}', "list of rows"),
        (422, '{"image": [1, 2]}', "list of rows"),
        (422, '{"image": [[]]}', "must be height"),
        (422, '{"image": [[1, 2], [3]]}', "as long"),
        (422, '{"image": [[1, 2], 3]}', "as long"),
        (422, '{"image": [["1"]]}', "nothing but numbers"),
        (422, '{"image": [[1, "2"]]}', "nothing but numbers"),
        # As an array of texts, each would take the room of the longest: 60 GB.
        (422, json.dumps({"image": [[""] * 512] * 511 + [["x" * 60_000]]}), "nothing but numbers"),
        (422, '{"image": [[true]]}', "nothing but numbers"),
        (422, '{"image": [[true, 0.5]]}', "nothing but numbers"),
        (422, '{"image": [[null, 1]]}', "nothing but numbers"),
        (422, '{"image": [[100000000000000000000000000]]}', "nothing but numbers"),
        (422, '{"image": [[1e300]]}', "0..255"),
        (422, '{"image": [[1e999]]}', "0..255"),
        (422, '{"image": [[-1]]}', "0..255"),
        (422, '{"image": [[256]]}', "0..255"),
        (422, '{"image": [[[1, 2]]]}', "must be height"),
        (422, '{"image": [[[[1]]]]}', "must be height"),
        (422, '{"image": ' + "[" * 150 + "1" + "]" * 150 + "}", "as long"),
        (422, as_json(np.zeros((513, 2))), "512"),
        (422, as_json(np.zeros((2, 513))), "512"),
    ],
)
def test_json_that_is_no_image_is_refused_in_a_line(server, status, body, message):
    got, answer = server.predict(body)
    assert (got, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a picture that can be read; give a PNG"),
        (b"GIF89a", "not a picture"),
        (as_file(UPRIGHT)[:70], "the picture cannot be read ("),
        (as_file(UPRIGHT, "JPEG"), "not a picture"),
        (as_file(np.zeros((2, 2049), dtype=np.uint8)), "2049 × 2"),
        (bomb(), "too large"),
    ],
)
def test_files_that_are_no_picture_or_too_large_are_refused(server, body, message):
    begun = time.monotonic()
    status, answer = server.predict(body, PNG)
    assert status == 422
    assert message in answer["error"]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data; boundary=x", "image/svg+xml"])
def test_other_types_are_refused_which_also_keeps_other_sites_forms_out(server, kind):
    assert server.predict(as_json(UPRIGHT), {"Content-Type": kind})[0] == 415


def test_the_largest_image_that_is_promised_fits(server):
    assert server.predict(json.dumps({"image": np.full((512, 512), 255).tolist()}))[0] == 200


def test_a_body_that_says_it_is_too_large_is_not_waited_for(server):
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = server.raw(f"{head}Content-Length: {reading.MOST_BYTES + 1}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the body has more than' in answer


def test_a_body_that_does_not_say_its_length_is_counted(server):
    taken = 0

    def parts() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(2000):
            taken += 1
            yield b" " * 65536

    # It does not listen to the rest.
    with contextlib.suppress(ConnectionError):
        assert server.predict(parts(), {**JSON, "Transfer-Encoding": "chunked"}, encode_chunked=True)[0] == 413
    assert taken < 500


@pytest.mark.parametrize("length", ["Content-Length: 500\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
def test_a_body_that_never_ends_is_given_up(server, monkeypatch, length):
    monkeypatch.setattr(reading, "SECONDS_TO_SEND", 0.1)
    answer = server.raw(
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}".encode()
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert server.ask("GET", "/health")[0].status == 200


def test_a_picture_that_takes_too_long_is_given_up(panel):
    with picture_readers(seconds=0.2) as readers, serving(panel, readers) as server:
        assert server.predict(as_file(UPRIGHT), PNG)[0] == 200
        stopped = [reader._process for reader in readers]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        status, answer = server.predict(as_file(UPRIGHT), PNG)
        assert (status, answer) == (422, {"error": "the picture takes more than 0.2 s to read"})
        assert any(process.poll() is not None for process in stopped)


def test_who_would_wait_too_long_for_a_turn_is_told_to_come_again(readers, monkeypatch):
    monkeypatch.setattr(app, "_SECONDS_TO_WAIT", 0.1)
    begun, done = threading.Semaphore(0), threading.Event()

    def waits(image: np.ndarray) -> np.ndarray:
        begun.release()
        done.wait(60)
        return always_one(image)

    with serving(Panel(CARD, (28, 28, 1), judges=[Judge("trial 3", "", waits)]), readers) as server:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.predict(as_json(UPRIGHT))[0])) for _ in readers
        ]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=20) for _ in readers)
        assert server.predict(as_json(UPRIGHT)) == (503, {"error": "too many pictures are waiting to be read"})
        # What takes no turn is answered.
        assert server.ask("GET", "/health")[0].status == 200
        done.set()
        for thread in threads:
            thread.join()
        assert answers == [200] * len(readers)


# ---- connections ------------------------------------------------------------------------------------------------


def closed(connection: socket.socket, seconds: float = 10) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /ab",
        b"GET /about HTTP/1.1\r\nHost: local",
        b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ab",
        b"\r\n\r\n",
    ],
)
def test_who_does_not_send_a_whole_header_is_cut_off(server, monkeypatch, said):
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(said)
        assert closed(connection)


def test_who_sends_a_header_a_byte_at_a_time_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection, pytest.raises(ConnectionError):
        for _ in range(500):
            connection.sendall(b"x")
            time.sleep(0.02)


def test_who_dribbles_a_body_that_nobody_wants_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_REQUEST", 0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(500):
                connection.sendall(b"x")
                time.sleep(0.02)


def test_who_does_not_take_the_answers_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_REQUEST", 0.5)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(20)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /ab",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx",
    ],
)
def test_a_crowd_that_says_nothing_does_not_shut_out_others(server, said):
    with contextlib.ExitStack() as crowd:
        silent = []
        for _ in range(connections.MOST + 30):
            silent.append(crowd.enter_context(socket.create_connection(("127.0.0.1", server.port))))
            silent[-1].sendall(said)
        for _ in range(5):
            assert server.ask("GET", "/health")[0].status == 200
        # The first to come are the first to go.
        assert closed(silent[0], 5)
        assert not closed(silent[-1], 0.01)


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"\0" * 1000,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%ff%00%1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"xyz\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ffffffffffffffffffff\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50 + b"\xff\xff garbage\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("request_", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_not_http_is_answered_or_cut_off_and_prints_nothing(server, capfd, request_):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request_)
            connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    assert server.ask("GET", "/health")[0].status == 200
    assert capfd.readouterr() == ("", "")


REQUEST = b"POST /predict?a=b HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_requests_do_no_harm(server, capfd, data):
    picture = as_file(UPRIGHT)
    said = bytearray(REQUEST % len(picture) + picture) * data.draw(st.integers(1, 2))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, 150) | st.integers(0, len(said)))
        said[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(bytes(said))
            connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    assert server.ask("GET", "/health")[0].status == 200
    assert capfd.readouterr() == ("", "")


# ---- tokens -----------------------------------------------------------------------------------------------------

TOKEN = "kV+3/x=~0123456789"


@pytest.fixture(scope="module")
def guarded(panel: Panel, readers: list[PictureReader]) -> Iterator[Server]:
    with serving(panel, readers, TOKEN) as served:
        yield served


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/health", {}),
        ("/page.js", {}),
        ("/nothing", {}),
        ("/?token=", {}),
        (f"/?token={TOKEN[:-1]}", {}),
        (f"/?token={TOKEN}x", {}),
        (f"/?xtoken={TOKEN}", {}),
        ("/?token=%ff%fe", {}),
        ("/", {"Authorization": "Bearer "}),
        ("/", {"Authorization": f"Basic {TOKEN}"}),
        ("/", {"Authorization": f"Bearer {TOKEN.lower()}"}),
        ("/", {"Authorization": "Bearer \xe9"}),
        ("/", {"Cookie": f"mnist_sweep={TOKEN}"}),
        ("/", {"Cookie": "mnist_sweep="}),
        ("/", {"Cookie": "mnist_sweep=\xe9; mnist_sweep"}),
    ],
)
def test_without_the_token_nothing_is_told(guarded, path, headers):
    response, answer = guarded.ask("GET", path, headers=headers)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["set-cookie"] is None
    assert "?token=" in answer["error"]
    assert TOKEN not in json.dumps(answer)


def test_with_the_token_everything_is(guarded):
    assert guarded.predict(as_json(UPRIGHT))[0] == 401
    assert guarded.predict(as_json(UPRIGHT), {**JSON, "Authorization": f"Bearer {TOKEN}"})[0] == 200
    for quoted in (TOKEN, TOKEN.replace("+", "%2B").replace("/", "%2F")):
        response, _ = guarded.ask("GET", f"/?token={quoted}")
        assert response.status == 200
        cookie, *limits = response.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(limits)
        assert TOKEN not in cookie
        assert guarded.ask("GET", "/page.js", headers={"Cookie": f"a=b; {cookie}"})[0].status == 200
        assert guarded.predict(as_json(UPRIGHT), {**JSON, "Cookie": cookie})[0] == 200
    assert guarded.ask("GET", f"/?token={TOKEN}", headers={"Host": "evil.example"})[0].status == 400


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--host", "0.0.0.0"], "--host=0.0.0.0: others than this machine can reach that, so a token is needed"),
        (["--token", "short"], "a token must have at least 16"),
        (["--token", "sixteen letters and spaces"], "a token must have at least 16"),
    ],
)
def test_only_this_machine_may_ask_without_a_token_of_some_length(tmp_path, given, why):
    ended = subprocess.run(
        [sys.executable, "-m", "mnist_sweep", "serve", "--port", "0", *given],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"mnist_sweep: {why}")
    assert ended.stderr.count("\n") == 1


# ---- who may ask, and what comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/panel.py", 404),
        ("GET", "/../app.py", 404),
        ("GET", "/page.css/", 404),
        ("GET", "/predict", 405),
        ("PUT", "/predict", 405),
        ("OPTIONS", "/predict", 405),
        ("POST", "/", 405),
    ],
)
def test_nothing_else_is_there(server, method, path, status):
    response, answer = server.ask(method, path)
    assert response.status == status
    assert list(answer) == ["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.20:8000", 200),
        ("known.example:8000", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example:8000", 400),
        ("", 400),
        ("[::1", 400),
    ],
)
def test_only_its_own_names_are_answered(server, host, status):
    response, _ = server.ask("GET", "/health", headers={"Host": host})
    assert response.status == status


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/about"), ("GET", "/nothing"), ("POST", "/predict")]
)
def test_every_answer_forbids_what_the_page_does_not_need(server, method, path):
    response, _ = server.ask(method, path, headers={"Origin": "http://evil.example"})
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["access-control-allow-origin"] is None
    assert response.headers["server"] is None


def test_a_fault_is_told_on_the_terminal_and_not_to_the_client(readers, capsys):
    def broken(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("the secret")

    with serving(Panel(CARD, (28, 28, 1), judges=[Judge("trial 3", "", broken)]), readers) as server:
        status, answer = server.predict(as_json(UPRIGHT))
    assert status == 500
    assert "secret" not in json.dumps(answer)
    told = capsys.readouterr().err.splitlines()
    assert told == ["mnist_sweep: /predict: unexpected RuntimeError: the secret"]


def test_the_page_asks_for_nothing_but_what_is_served(server):
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attributes if name in ("src", "href"))
            assert not any(name == "style" or name.startswith("on") for name, _ in attributes)

    response, page = server.ask("GET", "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    Links().feed(page.decode())
    assert {"page.js", "page.css", "icon.svg"} <= set(found)
    for name in [*found, "paper.js"]:
        assert server.ask("GET", f"/{name}")[0].status == 200
    assert b"://" not in page


# ---- who answers ------------------------------------------------------------------------------------------------


def test_the_champion_comes_first_and_then_the_best_other_settings(project, new):
    found = candidates(find_model(new))
    assert [candidate.name for candidate in found] == ["trial 1", "trial 4", "trial 0", "trial 3"]
    assert "units 16" in found[1].about
    assert "momentum" not in found[2].about  # which is inactive with adam


def test_less_is_better_where_the_sweep_says_so(project, other):
    assert [candidate.find().trial for candidate in candidates(find_model(other))] == [1, 0, 2]


def test_settings_that_were_trained_anew_come_first_by_their_new_scores(monkeypatch):
    from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

    def run(trial: int, units: int, *, confirms: int | None = None, confirmed: float | None = None, **metrics: float):
        tags = {"mnist_sweep.sweep": "alpha/now", "mnist_sweep.trial": str(trial)}
        if confirms is not None:
            tags["mnist_sweep.confirms"] = str(confirms)
        if confirmed is not None:
            metrics["confirmed_val_accuracy"] = confirmed
        data = RunData(
            [Metric(name, value, 0, 0) for name, value in metrics.items()],
            [Param("model.units", str(units)), Param("training.seed", str(trial if confirms is not None else 1))],
            [RunTag(name, value) for name, value in tags.items()],
        )
        return Run(RunInfo(f"run{trial}", "0", "me", "FINISHED", 0, 0, "active"), data)

    runs = [
        run(0, 16, best_val_accuracy=0.99, confirmed=0.7),
        run(1, 32, best_val_accuracy=0.98, confirmed=0.9),
        run(2, 64, best_val_accuracy=0.97, confirmed=0.8),
        run(3, 128, best_val_accuracy=0.96),
        run(4, 64, best_val_accuracy=0.95),  # trial 2's setting
        run(5, 256),
        run(6, 32, confirms=1, best_val_accuracy=0.91),
        run(7, 16, confirms=0, best_val_accuracy=0.72),
    ]
    store = SimpleNamespace(tracking_uri="here", get_run={run.info.run_id: run for run in runs}.__getitem__)
    objective = Objective.parse("val_accuracy max")
    sweep = SimpleNamespace(frame=lambda: runs_frame([[record(run) for run in runs]]), objective=objective)
    monkeypatch.setattr(panels, "find_sweep", lambda name, uri: sweep)
    found = candidates(ModelRun(store, runs[6]))
    assert [(c.find().trial, c.about) for c in found] == [
        (6, "units 32"),
        (2, "units 64"),
        (0, "units 16"),
        (3, "units 128"),
    ]


def test_a_setting_is_described_in_a_line():
    values = {"layers": 2, "units.1": 256, "units.2": 32, "batch_normalization": True, "bias": False, "rate": 0.0312345}
    assert describe(values) == "layers 2 · units 256, 32 · batch normalization · rate 0.03123"


class Tracked:
    """A tracked model whose loading gives its trial's number, or fails."""

    def __init__(self, trial: int, error: Exception | None = None) -> None:
        self.trial, self.error = trial, error

    def load_quick(self, folder: Path, shape: tuple[int, int, int]) -> int:
        assert folder.is_dir()
        assert shape == (28, 28, 1)
        if self.error:
            raise self.error
        return self.trial


@pytest.fixture
def loaded(tmp_path: Path):
    def load_all(*tracked: Tracked, most: int = 5) -> Panel:
        panel = Panel(CARD, (28, 28, 1), expected=most)
        load(
            panel,
            [Candidate(model.trial, "", partial(tracked.__getitem__, i)) for i, model in enumerate(tracked)],
            most,
            tmp_path,
        )
        return panel

    return load_all


def test_those_without_a_model_are_passed_over(loaded, capsys):
    no_model, damaged = UserError("trial 2 has no artifact model.h5"), OSError("truncated file")
    panel = loaded(Tracked(1), Tracked(2, no_model), Tracked(3, damaged), Tracked(4), Tracked(5), Tracked(6), most=3)
    assert [judge.name for judge in panel.judges] == ["trial 1", "trial 4", "trial 5"]
    assert panel.complete
    assert capsys.readouterr().err.splitlines() == ["mnist_sweep: trial 3 cannot be loaded: truncated file"]


def test_without_the_champions_model_nothing_is_served(loaded):
    with pytest.raises(UserError, match="model.h5"):
        loaded(Tracked(1, UserError("trial 1 has no artifact model.h5")), Tracked(2))


def test_fewer_models_than_hoped_for_are_said_to_be_all(loaded):
    panel = loaded(Tracked(1), Tracked(2), most=5)
    assert panel.about()["expected"] == 2


# ---- ports ------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named():
    with ports.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: cannot listen on 127.0.0.1"):
            ports.listen("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_named(port):
    with pytest.raises(UserError, match=f"--port={port}"):
        ports.listen("127.0.0.1", port)
