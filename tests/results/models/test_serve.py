"""The page's server on a real socket, with functions as models."""

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up
import numpy as np
import pytest
from browser import browser as browser
from browser import page_of, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_sweep.common import connections, ports
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.web import server_of
from mnist_sweep.config.objective import Objective
from mnist_sweep.data.profile import Profile
from mnist_sweep.data.schema import Column, Input, Schema, Target, of_images
from mnist_sweep.results.models.image_decoder import ImageDecoder
from mnist_sweep.results.models.model_run import ModelRun, find_trial
from mnist_sweep.results.models.preprocessing import prepare
from mnist_sweep.results.models.purpose import Purpose
from mnist_sweep.results.models.serve import app, image_decoders, served_models
from mnist_sweep.results.models.serve.app import make_app
from mnist_sweep.results.models.serve.served_models import (
    Candidate,
    LoadedModel,
    ServedModels,
    candidates,
    describe,
    load,
)
from mnist_sweep.results.runs.api import record
from mnist_sweep.results.runs.frames import runs_frame

CARD: dict[str, Any] = {"sweep": "alpha/now", "trial": 3, "confirms": None, "data": "mnist"}
CARD |= {"scores": {"val_accuracy": 0.75}, "rows": "rows", "training": 90}
DIGITS = Purpose(of_images(28, 28, 1, 10), "classification")
JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}


Predict = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def of_one(predict: Callable[[np.ndarray], np.ndarray]) -> Predict:
    """A model from a function of one image."""
    return lambda inputs: np.stack([predict(image) for image in inputs["x"]])


def served(purpose: Purpose, *models: Predict, **more: Any) -> ServedModels:
    """Models that are loaded: trial 0, 1 …"""
    return ServedModels(
        CARD, purpose, loaded=[LoadedModel(f"trial {i}", "", one) for i, one in enumerate(models)], **more
    )


def by_shape(image: np.ndarray) -> np.ndarray:
    """A model that reads a vertical stroke as a 1 and a horizontal one as a 2, with probability 0.75."""
    tall, wide = (image[..., 0].max(axis=axis).sum() for axis in (1, 0))
    answer = np.full(10, 0.25 / 9)
    answer[1 if tall > wide else 2] = 0.75
    return answer


def always_one(_: np.ndarray) -> np.ndarray:
    return np.eye(10)[1]


VERTICAL = np.zeros((60, 60), dtype=np.uint8)
VERTICAL[10:50, 27:33] = 255
HORIZONTAL = VERTICAL.T


@dataclass
class Server:
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
def decoders() -> Iterator[list[ImageDecoder]]:
    with image_decoders() as started:
        yield started


@contextmanager
def serving(models: ServedModels, decoders: list[ImageDecoder], token: str = "") -> Iterator[Server]:
    with ports.listen("127.0.0.1", 0) as listening:
        server = server_of(make_app(models, decoders, ["known.example"], token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield Server(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def models() -> ServedModels:
    loaded = [
        LoadedModel("trial 3", "units 64", of_one(by_shape)),
        LoadedModel("trial 1", "units 32", of_one(always_one)),
    ]
    return ServedModels(CARD, DIGITS, loaded=loaded, complete=True)


@pytest.fixture(scope="module")
def server(models: ServedModels, decoders: list[ImageDecoder]) -> Iterator[Server]:
    with serving(models, decoders) as served:
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
        (as_json(HORIZONTAL), JSON),
        (as_json(HORIZONTAL / 1.5), {"Content-Type": "application/json; charset=utf-8"}),
        (as_json(np.repeat(HORIZONTAL[..., np.newaxis], 3, axis=2)), JSON),
        (as_file(HORIZONTAL), PNG),
        (as_file(255 - HORIZONTAL), PNG),
        (as_file(HORIZONTAL, "JPEG"), {"Content-Type": "image/jpeg"}),
    ],
)
def test_an_image_is_classified_by_all_models(server, body, headers):
    status, answer = server.predict(body, headers)
    assert status == 200
    assert (answer["digit"], answer["probability"]) == (2, 0.75)
    assert len(answer["probabilities"]) == 10
    assert sum(answer["probabilities"]) == pytest.approx(1)
    assert answer["models"] == [
        {"name": "trial 3", "class": "2", "digit": 2, "probability": 0.75, "says": "2", "agrees": True},
        {"name": "trial 1", "class": "1", "digit": 1, "probability": 1.0, "says": "1", "agrees": False},
    ]
    seen = np.array(answer["image"])
    assert seen.shape == (28, 28)
    assert seen.max() > 200
    assert answer["notes"]


def test_the_answer_contains_the_doubts(server):
    _, answer = server.predict(as_json(np.zeros((9, 9), dtype=int)))
    assert any("nothing is drawn" in doubt for doubt in answer["doubts"])
    _, answer = server.predict(as_json(VERTICAL))
    assert answer["doubts"] == []


def test_models_of_colour_images_see_and_return_colour_images():
    purpose = Purpose(of_images(8, 6, 3, 3, ("red", "green", "blue")), "classification")
    models = served(purpose, of_one(lambda image: image.mean(axis=(0, 1))))
    image = np.zeros((80, 60, 3), dtype=np.uint8)
    image[..., 1] = 255
    answer = models.of_picture(prepare(Image.fromarray(image), (8, 6, 3)))
    assert (answer["digit"], answer["class"]) == (1, "green")
    assert answer["probability"] == pytest.approx(1)
    assert np.array(answer["image"]).shape == (8, 6, 3)


def test_the_server_reports_that_the_champion_is_still_loading(decoders):
    models = ServedModels(CARD, DIGITS, expected=2)
    with serving(models, decoders) as server:
        response, answer = server.ask("POST", "/predict", as_json(VERTICAL), JSON)
        assert (response.status, answer["error"]) == (503, "the model is still being loaded")
        assert response.headers["retry-after"]
        assert server.ask("GET", "/health")[1] == {"ready": False}
        models.loaded.append(LoadedModel("trial 3", "units 64", of_one(by_shape)))
        assert server.ask("GET", "/health")[1] == {"ready": True}
        about = server.ask("GET", "/about")[1]
        assert about["models"] == [{"name": "trial 3", "about": "units 64"}]
        assert (about["ready"], about["complete"], about["expected"]) == (True, False, 2)
        assert server.predict(as_json(VERTICAL))[0] == 200


# ---- limits -----------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a hundred bytes that claims to be 60,000 × 60,000."""
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
        (422, '{"image": [[1, 2], [3]]}', "the same length"),
        (422, '{"image": [[1, 2], 3]}', "the same length"),
        (422, '{"image": [["1"]]}', "only numbers"),
        (422, '{"image": [[1, "2"]]}', "only numbers"),
        # In a NumPy array of texts, each would take as much memory as the longest: 60 GB.
        (422, json.dumps({"image": [[""] * 512] * 511 + [["x" * 60_000]]}), "only numbers"),
        (422, '{"image": [[true]]}', "only numbers"),
        (422, '{"image": [[true, 0.5]]}', "only numbers"),
        (422, '{"image": [[null, 1]]}', "only numbers"),
        (422, '{"image": [[100000000000000000000000000]]}', "only numbers"),
        (422, '{"image": [[1e300]]}', "0..255"),
        (422, '{"image": [[1e999]]}', "0..255"),
        (422, '{"image": [[-1]]}', "0..255"),
        (422, '{"image": [[256]]}', "0..255"),
        (422, '{"image": [[[1, 2]]]}', "must be height"),
        (422, '{"image": [[[[1]]]]}', "must be height"),
        (422, '{"image": ' + "[" * 150 + "1" + "]" * 150 + "}", "the same length"),
        (422, as_json(np.zeros((513, 2))), "512"),
        (422, as_json(np.zeros((2, 513))), "512"),
    ],
)
def test_json_that_is_not_an_image_is_refused_in_one_line(server, status, body, message):
    got, answer = server.predict(body)
    assert (got, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not an image that can be read; give a PNG"),
        (b"GIF89a", "not an image"),
        (as_file(VERTICAL)[:70], "the image cannot be read ("),
        (as_file(VERTICAL, "JPEG"), "not an image"),
        (as_file(np.zeros((2, 2049), dtype=np.uint8)), "2049 × 2"),
        (bomb(), "too large"),
    ],
)
def test_files_that_are_not_an_image_or_too_large_are_refused(server, body, message):
    start = time.monotonic()
    status, answer = server.predict(body, PNG)
    assert status == 422
    assert message in answer["error"]
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data; boundary=x", "image/svg+xml"])
def test_other_content_types_are_refused_such_as_those_of_other_sites_forms(server, kind):
    assert server.predict(as_json(VERTICAL), {"Content-Type": kind})[0] == 415


def test_the_largest_image_allowed_is_accepted(server):
    assert server.predict(json.dumps({"image": np.full((512, 512), 255).tolist()}))[0] == 200


def test_a_body_declared_too_large_is_refused_before_it_arrives(server):
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = server.raw(f"{head}Content-Length: {app.MOST_BYTES + 1}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the body has more than' in answer


def test_a_body_of_undeclared_length_is_counted(server):
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 1
            yield b" " * 65536

    # The server closes the connection before it has received everything.
    with contextlib.suppress(ConnectionError):
        assert server.predict(parts(), {**JSON, "Transfer-Encoding": "chunked"}, encode_chunked=True)[0] == 413
    assert sent < 500


@pytest.mark.parametrize("length", ["Content-Length: 500\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
def test_a_body_that_never_ends_times_out(server, monkeypatch, length):
    monkeypatch.setattr(app, "SECONDS_TO_SEND", 0.1)
    answer = server.raw(
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}".encode()
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert server.ask("GET", "/health")[0].status == 200


def test_an_image_that_takes_too_long_is_refused(models):
    with image_decoders(seconds=0.2) as decoders, serving(models, decoders) as server:
        assert server.predict(as_file(VERTICAL), PNG)[0] == 200
        stopped = [decoder._process for decoder in decoders]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        status, answer = server.predict(as_file(VERTICAL), PNG)
        assert (status, answer) == (422, {"error": "the image takes more than 0.2 s to read"})
        assert any(process.poll() is not None for process in stopped)


def test_a_client_that_would_wait_too_long_is_told_to_retry(decoders, monkeypatch):
    monkeypatch.setattr(app, "_SECONDS_TO_WAIT", 0.1)
    started, done = threading.Semaphore(0), threading.Event()

    def waits(image: np.ndarray) -> np.ndarray:
        started.release()
        done.wait(60)
        return always_one(image)

    with serving(served(DIGITS, of_one(waits)), decoders) as server:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.predict(as_json(VERTICAL))[0])) for _ in decoders
        ]
        for thread in threads:
            thread.start()
        assert all(started.acquire(timeout=20) for _ in decoders)
        assert server.predict(as_json(VERTICAL)) == (503, {"error": "too many requests are waiting to be answered"})
        # Other requests are answered.
        assert server.ask("GET", "/health")[0].status == 200
        done.set()
        for thread in threads:
            thread.join()
        assert answers == [200] * len(decoders)


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
    "sent",
    [
        b"",
        b"GET /ab",
        b"GET /about HTTP/1.1\r\nHost: local",
        b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ab",
        b"\r\n\r\n",
    ],
)
def test_a_client_that_does_not_send_a_whole_header_is_disconnected(server, monkeypatch, sent):
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
        assert closed(connection)


def test_a_client_that_sends_a_header_byte_by_byte_is_disconnected(server, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection, pytest.raises(ConnectionError):
        for _ in range(500):
            connection.sendall(b"x")
            time.sleep(0.02)


def test_a_client_that_sends_an_unneeded_body_byte_by_byte_is_disconnected(server, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_REQUEST", 0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(500):
                connection.sendall(b"x")
                time.sleep(0.02)


def test_a_client_that_does_not_receive_the_answers_is_disconnected(server, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_REQUEST", 0.5)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(20)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /ab",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx",
    ],
)
def test_many_silent_clients_do_not_shut_out_others(server, sent):
    with contextlib.ExitStack() as crowd:
        silent = []
        for _ in range(connections.MOST + 30):
            silent.append(crowd.enter_context(socket.create_connection(("127.0.0.1", server.port))))
            silent[-1].sendall(sent)
        for _ in range(5):
            assert server.ask("GET", "/health")[0].status == 200
        # The oldest connections are closed first.
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
def test_data_that_is_not_http_is_answered_or_disconnected_and_nothing_is_printed(server, capfd, request_):
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
    image = as_file(VERTICAL)
    request = bytearray(REQUEST % len(image) + image) * data.draw(st.integers(1, 2))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, 150) | st.integers(0, len(request)))
        request[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(bytes(request))
            connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    assert server.ask("GET", "/health")[0].status == 200
    assert capfd.readouterr() == ("", "")


# ---- tokens -----------------------------------------------------------------------------------------------------

TOKEN = "kV+3/x=~0123456789"


@pytest.fixture(scope="module")
def guarded(models: ServedModels, decoders: list[ImageDecoder]) -> Iterator[Server]:
    with serving(models, decoders, TOKEN) as served:
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
def test_nothing_is_answered_without_the_token(guarded, path, headers):
    response, answer = guarded.ask("GET", path, headers=headers)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["set-cookie"] is None
    assert "?token=" in answer["error"]
    assert TOKEN not in json.dumps(answer)


def test_everything_is_answered_with_the_token(guarded):
    assert guarded.predict(as_json(VERTICAL))[0] == 401
    assert guarded.predict(as_json(VERTICAL), {**JSON, "Authorization": f"Bearer {TOKEN}"})[0] == 200
    for quoted in (TOKEN, TOKEN.replace("+", "%2B").replace("/", "%2F")):
        response, _ = guarded.ask("GET", f"/?token={quoted}")
        assert response.status == 200
        cookie, *limits = response.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(limits)
        assert TOKEN not in cookie
        assert guarded.ask("GET", "/page.js", headers={"Cookie": f"a=b; {cookie}"})[0].status == 200
        assert guarded.predict(as_json(VERTICAL), {**JSON, "Cookie": cookie})[0] == 200
    assert guarded.ask("GET", f"/?token={TOKEN}", headers={"Host": "evil.example"})[0].status == 400


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--host", "0.0.0.0"], "--host=0.0.0.0: other machines can reach it, so a token is needed"),
        (["--token", "short"], "a token must have at least 16"),
        (["--token", "sixteen letters and spaces"], "a token must have at least 16"),
    ],
)
def test_other_machines_need_a_token_that_is_long_enough(tmp_path, given, why):
    ended = subprocess.run(
        [sys.executable, "-m", "mnist_sweep", "serve", "--port", "0", *given],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"mnist_sweep: {why}")
    assert ended.stderr.count("\n") == 1


# ---- hosts and headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/served_models.py", 404),
        ("GET", "/../app.py", 404),
        ("GET", "/page.css/", 404),
        ("GET", "/predict", 405),
        ("PUT", "/predict", 405),
        ("OPTIONS", "/predict", 405),
        ("POST", "/", 405),
    ],
)
def test_nothing_else_is_served(server, method, path, status):
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
def test_only_requests_for_the_servers_host_names_are_answered(server, host, status):
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


def test_an_unexpected_error_is_shown_on_the_terminal_and_not_to_the_client(decoders, capsys):
    def broken(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("the secret")

    with serving(served(DIGITS, broken), decoders) as server:
        status, answer = server.predict(as_json(VERTICAL))
    assert status == 500
    assert "secret" not in json.dumps(answer)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["mnist_sweep: /predict: unexpected RuntimeError: the secret"]


def test_the_page_needs_only_files_that_are_served(server):
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attributes if name in ("src", "href"))
            assert not any(name == "style" or name.startswith("on") for name, _ in attributes)

    response, page = server.ask("GET", "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    Links().feed(page.decode())
    assert {"page.js", "page.css", "icon.svg"} <= set(found)
    for name in [*found, *(f"{name}.js" for name in app._MODULES)]:
        assert server.ask("GET", f"/{name}")[0].status == 200
    assert b"://" not in page


# ---- the models -------------------------------------------------------------------------------------------------


def test_the_champion_comes_first_and_then_the_best_of_the_others(project, new):
    found = candidates(find_trial(new))
    assert [candidate.trial for candidate in found] == [1, 4, 0, 3]
    assert "units 16" in found[1].about
    assert "momentum" not in found[2].about  # inactive with adam


def test_a_lower_score_is_better_if_the_objective_is_minimized(project, other):
    assert [candidate.find().trial for candidate in candidates(find_trial(other))] == [1, 0, 2]


def test_retrained_trials_come_first_by_their_scores_on_new_seeds(monkeypatch):
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
        run(4, 64, best_val_accuracy=0.95),  # the same values as trial 2
        run(5, 256),
        run(6, 32, confirms=1, best_val_accuracy=0.91),
        run(7, 16, confirms=0, best_val_accuracy=0.72),
    ]
    store = SimpleNamespace(tracking_uri="here", get_run={run.info.run_id: run for run in runs}.__getitem__)
    objective = Objective.parse("val_accuracy max")
    sweep = SimpleNamespace(frame=lambda: runs_frame([[record(run) for run in runs]]), objective=objective)
    monkeypatch.setattr(served_models, "find_sweep", lambda name, uri: sweep)
    found = candidates(ModelRun(store, runs[6]))
    assert [(c.find().trial, c.about) for c in found] == [
        (6, "units 32"),
        (2, "units 64"),
        (0, "units 16"),
        (3, "units 128"),
    ]


def test_hyperparameter_values_are_described_in_one_line():
    values = {"layers": 2, "units.1": 256, "units.2": 32, "batch_normalization": True, "bias": False, "rate": 0.0312345}
    assert describe(values) == "layers 2 · units 256, 32 · batch normalization · rate 0.03123"


class FakeRun:
    """A run whose model loads as its trial's number, or cannot be loaded."""

    def __init__(self, trial: int, error: Exception | None = None) -> None:
        self.trial, self.error = trial, error

    def load_quick(self, folder: Path, schema: Schema) -> int:
        assert folder.is_dir()
        assert schema == DIGITS.schema
        if self.error:
            raise self.error
        return self.trial


@pytest.fixture
def loaded(tmp_path: Path):
    def load_all(*runs: FakeRun, most: int = 5) -> ServedModels:
        models = ServedModels(CARD, DIGITS, expected=most)
        load(
            models,
            [Candidate(run.trial, "", partial(runs.__getitem__, i)) for i, run in enumerate(runs)],
            most,
            tmp_path,
        )
        return models

    return load_all


def test_trials_without_a_model_are_skipped(loaded, capsys):
    no_model, damaged = UserError("trial 2 has no artifact model.h5"), OSError("truncated file")
    models = loaded(FakeRun(1), FakeRun(2, no_model), FakeRun(3, damaged), FakeRun(4), FakeRun(5), FakeRun(6), most=3)
    assert [model.name for model in models.loaded] == ["trial 1", "trial 4", "trial 5"]
    assert models.complete
    assert capsys.readouterr().err.splitlines() == ["mnist_sweep: trial 3 cannot be loaded: truncated file"]


def test_the_champion_must_have_a_model(loaded):
    with pytest.raises(UserError, match="model.h5"):
        loaded(FakeRun(1, UserError("trial 1 has no artifact model.h5")), FakeRun(2))


def test_the_number_of_expected_models_is_corrected_once_all_are_loaded(loaded):
    models = loaded(FakeRun(1), FakeRun(2), most=5)
    assert models.about()["expected"] == 2


# ---- ports ------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named():
    with ports.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: cannot listen on 127.0.0.1"):
            ports.listen("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_invalid_port_is_named(port):
    with pytest.raises(UserError, match=f"--port={port}"):
        ports.listen("127.0.0.1", port)


# ---- tables and arrays ------------------------------------------------------------------------------------------

COLUMNS = (
    Column("width", "number", "numbers", low=0.5, high=2.0, optional=True),
    Column("seen", "date", "numbers", at=1, width=5, low=19723.0, high=20000.0),
    Column("colour", "category", "categories"),
    Column("indoors", "category", "categories", at=1),
    Column("story", "text", "text1"),
)
FORM = Schema(
    {
        "numbers": Input("numbers", (6,)),
        "categories": Input("categories", (2,), (), (("blue", "red"), ("False", "True"))),
        "text1": Input("text", (3,), (), (("once", "upon"),)),
    },
    Target("classes", 2, ("rose", "tulip")),
    COLUMNS,
)
SAMPLE = {
    "numbers": np.array([[0.1, 19724, 0, 0, 0, 0], [np.nan, 19724, 0, 0, 0, 0]], np.float32),
    "categories": np.array([[2, 1], [0, 2]], np.int32),
    "text1": np.array([[2, 3, 0], [2, 1, 0]], np.int32),
}
FLOWERS = Purpose(FORM, "binary", "flower", sample=SAMPLE)
ROW = {"width": 1.5, "seen": "2024-03-01", "colour": "red", "indoors": True, "story": "Once upon"}
PAIRS = Purpose(
    Schema({"left": Input("array", (2,)), "right": Input("array", (1, 2))}, Target("numbers", 1, ("sum",))),
    "regression",
    sample={"left": np.array([[0.1, 2]], np.float32), "right": np.array([[[3, 4]]], np.float32)},
)


def is_red(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.where(inputs["categories"][:, :1] == 2, 0.75, 0.25)


def never(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.full((len(inputs["categories"]), 1), 0.1)


def added(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return sum(array.reshape(len(array), -1).sum(axis=1, keepdims=True) for array in inputs.values())


@pytest.fixture(scope="module")
def form(decoders: list[ImageDecoder]) -> Iterator[Server]:
    with serving(served(FLOWERS, is_red, never, complete=True), decoders) as started:
        yield started


@pytest.fixture(scope="module")
def arrays(decoders: list[ImageDecoder]) -> Iterator[Server]:
    with serving(served(PAIRS, added, complete=True), decoders) as started:
        yield started


def test_rows_of_a_table_are_answered_by_the_champion_and_one_row_by_all_models(form):
    status, answer = form.predict(json.dumps({"rows": [ROW, {**ROW, "colour": "green", "width": None}]}))
    assert status == 200
    assert [one["class"] for one in answer["predictions"]] == ["tulip", "rose"]
    assert answer["notes"] == ["colour: 'green' (1 row) did not occur in training; read as missing"]
    assert "models" not in answer
    _, answer = form.predict(json.dumps({"rows": [ROW]}))
    assert answer["models"] == [
        {"name": "trial 0", "class": "tulip", "digit": 1, "probability": 0.75, "says": "tulip", "agrees": True},
        {"name": "trial 1", "class": "rose", "digit": 0, "probability": 0.9, "says": "rose", "agrees": False},
    ]


def test_arrays_are_answered(arrays):
    status, answer = arrays.predict(json.dumps({"x_left": [[1, 2], [3, 4]], "x_right": [[[1, 1]], [[0, 0.5]]]}))
    assert (status, answer) == (200, {"predictions": [{"values": {"sum": 5}}, {"values": {"sum": 7.5}}], "notes": []})
    _, answer = arrays.predict(json.dumps({"x_left": [[1, 2]], "x_right": [[[1, 1]]]}))
    assert answer["models"][0] == {"name": "trial 0", "values": {"sum": 5.0}, "says": "5", "agrees": None}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, "{", "not JSON"),
        (400, '{"rows": [NaN]}', "not JSON"),
        (422, "[]", 'the body must be {"rows": [{"COLUMN": value'),
        (422, '{"rows": {}}', "the body must be"),
        (422, '{"rows": []}', "rows has 0 rows; send 1 to 1,000 at once"),
        (422, json.dumps({"rows": [ROW] * 1001}), "rows has 1,001 rows"),
        (422, '{"rows": [{}]}', "row 1 lacks 'width'; write null if it is missing"),
        (422, json.dumps({"rows": [{**ROW, "colour": ["red"]}]}), "row 1: 'colour' must be one value"),
        (422, json.dumps({"rows": [ROW, {**ROW, "width": "wide"}]}), "'wide' in column 'width', row 2, is not a"),
        (422, json.dumps({"rows": [{**ROW, "seen": "soon"}]}), "'soon' in column 'seen', row 1, is not a date"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_one_line(form, status, body, message):
    got, answer = form.predict(body)
    assert (got, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"x": [[1]]}, 'the body must be {"x_left": [row, …], "x_right": [row, …]}'),
        ({"x_left": [["1", "2"]], "x_right": [[[1, 1]]]}, "x_left must be a list of rows of numbers"),
        ({"x_left": [[1, 2], [3]], "x_right": [[[1, 1]]]}, "x_left: all rows must have the same shape"),
        ({"x_left": [[1, 2, 3]], "x_right": [[[1, 1]]]}, "x_left has shape (1, 3); the model takes (N, 2)"),
        ({"x_left": [[1, 1e300]], "x_right": [[[1, 1]]]}, "numbers that do not fit into 32 bits"),
        ({"x_left": [[3e38, 3e38]], "x_right": [[[1, 1]]]}, "a model predicts NaN or infinite values for this"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(arrays, body, message):
    status, answer = arrays.predict(json.dumps(body))
    assert status == 422
    assert message in answer["error"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(list(ROW)), st.none() | st.booleans() | st.integers() | st.floats() | st.text()))
def test_whatever_is_in_a_row_is_answered_or_refused(form, capfd, values):
    status, _ = form.predict(json.dumps({"rows": [{**ROW, **values}]}))
    assert status in (200, 400, 422)
    assert capfd.readouterr() == ("", "")


def test_pictures_are_not_taken_by_models_of_tables(form):
    status, answer = form.predict(as_file(VERTICAL), PNG)
    assert (status, answer) == (415, {"error": "Content-Type must be application/json"})


@pytest.mark.parametrize(
    ("name", "shown"), [("table", "data/flowers.csv"), ("mnist", "mnist"), ("of an old sweep", "of an old sweep")]
)
def test_the_page_names_the_file_of_own_data(name: str, shown: str) -> None:
    tags = {"mnist_sweep.sweep": "quick/now", "mnist_sweep.trial": "3", "data.name": name}
    from mlflow import MlflowClient

    run = made_up.run("run3", {**tags, "data.source": "data/flowers.csv"})
    assert served_models.card(ModelRun(MlflowClient("sqlite://"), run))["data"] == shown


def test_a_form_is_told_the_columns_their_ranges_and_rows_of_the_training_data(form):
    told = form.ask("GET", "/inputs")[1]
    assert told["fields"] == [
        {"name": "width", "kind": "number", "optional": True, "low": 0.5, "high": 2},
        {"name": "seen", "kind": "date", "optional": False, "low": "2024-01-01", "high": "2024-10-04"},
        {"name": "colour", "kind": "category", "optional": False, "values": ["blue", "red"], "more": 0},
        {"name": "indoors", "kind": "boolean", "optional": False, "values": ["False", "True"]},
        {"name": "story", "kind": "text", "optional": False},
    ]
    assert told["examples"] == [
        {"width": 0.1, "seen": "2024-01-02", "colour": "red", "indoors": "False", "story": "once upon"},
        {"width": None, "seen": "2024-01-02", "colour": None, "indoors": "True", "story": "once"},
    ]
    assert form.predict(json.dumps({"rows": told["examples"]}))[0] == 200


def test_programs_are_told_the_shapes_of_arrays_and_an_example(arrays, server):
    told = arrays.ask("GET", "/inputs")[1]
    assert [one["shape"] for one in told["inputs"]] == [[2], [1, 2]]
    assert told["example"] == {"x_left": [[0.1, 2]], "x_right": [[[3, 4]]]}
    assert arrays.predict(json.dumps(told["example"]))[0] == 200
    assert server.ask("GET", "/inputs")[1] == {"shape": [28, 28, 1]}


# ---- the page in a browser --------------------------------------------------------------------------------------


def opened(page: Any, server: Server) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("#others li:not(.loading)")


def said(page: Any) -> str:
    page.wait_for_selector("#answer[aria-busy=false]")
    return str(page.inner_text("#digit"))


def test_a_form_is_filled_in_and_answered(browser, form):
    with page_of(browser, width=360, height=780) as watched:
        page = watched.page
        opened(page, form)
        assert page.inner_text("#title") == "Predict flower"
        until(page, lambda: said(page) == "tulip")
        assert page.input_value("label:has-text('width') + input") == "0.1"
        assert "in training 0.5 to 2; may be empty" in page.inner_text(".field.number.outside")
        assert page.input_value("input[type=date]") == "2024-01-02"
        page.select_option("select", "blue")
        until(page, lambda: said(page) == "rose")
        assert page.inner_text("#sure") == "75.0 %"
        assert page.inner_text("#agreement") == "The runner-up agrees."
        assert page.locator("#bars li.best").inner_text().split() == ["rose", "75.0", "%"]
        page.click("#example")
        assert page.is_checked("input[type=checkbox]")
        assert page.input_value("textarea") == "once"
        page.click("#empty")
        until(page, lambda: page.inner_text("#sure") == "Nothing yet")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert (watched.errors, watched.hosts) == ([], {"127.0.0.1"})


def test_short_names_of_classes_do_not_cover_what_is_next_to_them(browser, decoders):
    # As large as a digit, which these are wider than.
    purpose = Purpose(replace(FORM, target=Target("classes", 2, ("WW", "MM"))), "binary", "flower", sample=SAMPLE)
    with (
        serving(served(purpose, is_red, never, complete=True), decoders) as started,
        page_of(browser, width=1000, height=800) as watched,
    ):
        opened(watched.page, started)
        until(watched.page, lambda: said(watched.page) in ("WW", "MM"))
        for left, right in (("#digit", "#sure"), (".others .says", ".others b")):
            inked = watched.page.locator(left).first.evaluate(
                "(e) => { const text = document.createRange(); text.selectNodeContents(e); "
                "return text.getBoundingClientRect().right; }"
            )
            beside = watched.page.locator(right).first.bounding_box()
            assert beside is not None
            assert inked <= beside["x"]


def test_a_picture_is_opened_and_answered(browser, decoders, tmp_path):
    colours = ("red", "green", "blue")
    purpose = Purpose(of_images(6, 8, 3, 3, colours), "classification", resize="pad")
    by_colour = of_one(lambda image: image.mean(axis=(0, 1)) / image.mean(axis=(0, 1)).sum())
    plain = Profile(None)
    models = served(purpose, by_colour, profile=plain, complete=True)
    with serving(models, decoders) as started, page_of(browser) as watched:
        page = watched.page
        opened(page, started)
        assert (said(page), page.inner_text("#title")) == ("?", "Open a picture")
        Image.new("RGB", (3000, 900), (10, 10, 200)).save(tmp_path / "sea.bmp")
        page.set_input_files("#file", tmp_path / "sea.bmp")
        until(page, lambda: said(page) == "blue")
        assert page.inner_text("#named") == "sea.bmp, 3000 × 900"
        assert page.is_visible("#preview")
        assert "padded and scaled from" in page.inner_text("#notes")
        with page.expect_file_chooser():
            page.click("#drop")
        page.evaluate(
            "async (color) => { const canvas = new OffscreenCanvas(40, 30); const context = canvas.getContext('2d');"
            "context.fillStyle = color; context.fillRect(0, 0, 40, 30); const data = new DataTransfer();"
            "data.items.add(new File([await canvas.convertToBlob()], 'grass.png', { type: 'image/png' }));"
            "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true })); }",
            "rgb(0, 200, 9)",
        )
        until(page, lambda: said(page) == "green")
        page.click("#remove")
        until(page, lambda: said(page) == "?")
        (tmp_path / "text.png").write_text("no picture")
        page.set_input_files("#file", tmp_path / "text.png")
        until(page, lambda: "cannot open" in page.inner_text("#agreement"))
        assert (watched.errors, watched.hosts) == ([], {"127.0.0.1"})


def test_a_page_says_how_to_send_arrays(browser, arrays):
    with page_of(browser) as watched:
        page = watched.page
        opened(page, arrays)
        until(page, lambda: said(page) == "9.1")
        assert page.inner_text("#sure") == "sum"
        assert '"x_right": [row, …] – a row is 1 × 2 numbers' in page.inner_text("#shapes")
        page.fill("#body", '{"x_left": [[1, 1]], "x_right": [[[1, 1]]]}')
        until(page, lambda: said(page) == "4")
        page.fill("#body", '{"x_left": [[1, 1]]}')
        until(page, lambda: "the body must be" in page.inner_text("#agreement"))
        page.click("summary")
        assert page.inner_text("#command").startswith("curl -H 'Content-Type: application/json' -d '{\"x_left\":")
        # The browser reports the refused request.
        assert all("422" in error for error in watched.errors)


def test_numbers_that_are_called_by_numbers_stay_with_their_names(browser, decoders):
    schema = Schema({"x": Input("array", (2,))}, Target("numbers", 2, ("2030", "2020")))
    purpose = Purpose(schema, "regression", sample={"x": np.array([[7, 5]], np.float32)})
    models = served(purpose, lambda inputs: inputs["x"], complete=True)
    with serving(models, decoders) as started, page_of(browser) as watched:
        opened(watched.page, started)
        bars = watched.page.locator("#bars li")
        until(watched.page, lambda: [text.split() for text in bars.all_inner_texts()] == [["2030", "7"], ["2020", "5"]])
