"""Both ends of the socket through which a running sweep is steered, and how the command finds the sweep."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common.errors import UserError
from mnist_sweep.driver import steering, steering_socket
from mnist_sweep.driver.steering import Answer, Steering
from mnist_sweep.driver.steering_socket import Request, SteeringSocket
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.files import LOCK, SOCKET
from mnist_sweep.journal.journal import Journal


def sweep_in(folder: Path) -> Journal:
    """A sweep that this process runs until its journal is closed."""
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.handle(SweepStarted(1.0, "a/now", {}, {}, {}, {}))
    return journal


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    # Longer than the path of a socket may be.
    path = tmp_path / "experiments" / "a" / ("long" * 40)
    with sweep_in(path):
        yield path


def answered(
    server: SteeringSocket, answer: Callable[[Request], dict[str, object]], ask: Callable[[], Answer]
) -> Answer:
    """What the client gets if the server answers its request."""
    found: list[Answer | UserError] = []

    def client() -> None:
        try:
            found.append(ask())
        except UserError as error:
            found.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    while thread.is_alive():
        for request in server.requests():
            request.answer(answer(request))
        thread.join(0.01)
    (one,) = found
    if isinstance(one, UserError):
        raise one
    return one


def test_a_request_arrives_with_who_made_it_and_is_answered(folder: Path) -> None:
    with SteeringSocket(folder) as server:
        assert server.requests() == []
        assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
        seen: list[Request] = []
        given = answered(
            server, lambda r: seen.append(r) or {"done": "Done", "trial": 5}, lambda: Steering(folder).add("a=1", "b=2")
        )
        assert given == Answer("Done", 5)
        assert [(r.wish, r.pid) for r in seen] == [({"do": "add", "values": ["a=1", "b=2"]}, os.getpid())]
        assert seen[0].by.endswith(f"@{platform.node()}")
        with pytest.raises(UserError, match="^stop 9: there is no such trial$"):
            answered(server, lambda _: {"error": "stop 9: there is no such trial"}, lambda: Steering(folder).stop(9))
    assert not (folder / SOCKET).exists()


def test_values_of_a_frame_are_sent_as_they_are_and_others_refused_in_one_line(folder: Path) -> None:
    steering = Steering(folder)
    with SteeringSocket(folder) as server:
        seen: list[Any] = []
        for wish in (
            lambda: steering.stop(np.int64(3)),
            lambda: steering.slots(np.int32(0)),
            lambda: steering.add({"a": np.float64(0.5), "b": np.str_("x")}),
        ):
            answered(server, lambda request: seen.append(request.wish) or {"done": "Done"}, wish)
    assert seen == [
        {"do": "stop", "trial": 3},
        {"do": "slots", "slots": 0},
        {"do": "add", "values": {"a": 0.5, "b": "x"}},
    ]
    for mistake, message in (
        (lambda: steering.stop("3"), "stop: '3' must be a whole number"),
        (lambda: steering.slots(1.5), "slots: 1.5 must be a whole number"),
        (lambda: steering.add({"a": Path("x")}), "steer: PosixPath('x') must be a text, a number, true or false"),
    ):
        with pytest.raises(UserError) as caught:
            mistake()
        assert str(caught.value) == message


def test_what_a_killed_process_has_left_is_replaced(folder: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    with steering_socket.near(folder) as place:
        left.bind(f"{place}/{SOCKET}")
    with SteeringSocket(folder) as server:
        assert answered(server, lambda _: {"done": "Paused"}, Steering(folder).pause).text == "Paused"


def test_a_disk_without_sockets_gets_a_file_that_says_where_the_socket_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering_socket, "near", lambda _: (_ for _ in ()).throw(OSError("not supported")))
    with SteeringSocket(folder) as server:
        place = Path((folder / SOCKET).read_text())
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert answered(server, lambda _: {"done": "Paused"}, Steering(folder).pause).text == "Paused"
    assert not place.parent.exists()
    assert not (folder / SOCKET).exists()


def test_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SteeringSocket(folder) as server:
        monkeypatch.setattr(steering_socket, "_peer", lambda _: (1, os.getuid() + 1))
        with pytest.raises(UserError, match="^steer: only .*, who runs the sweep, can steer it$"):
            answered(server, lambda _: {"done": "never"}, Steering(folder).pause)


@pytest.mark.parametrize("sent", [b"", b"{}", b"x" * 100_000, b"[1]\n", b"\xff\n", b"[" * 60_000 + b"\n"])
def test_nothing_that_is_sent_stops_or_ends_the_sweep(folder: Path, sent: bytes) -> None:
    with SteeringSocket(folder) as server, socket.socket(socket.AF_UNIX) as client:
        with steering_socket.near(folder) as place:
            client.connect(f"{place}/{SOCKET}")
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.send(sent)
        found = [request.wish for _ in range(3) for request in server.requests()]
        assert found == ([{}] if sent.endswith(b"\n") else [])


def test_a_process_that_never_sends_its_request_is_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering_socket, "_SECONDS", 0.0)
    with SteeringSocket(folder) as server, socket.socket(socket.AF_UNIX) as client:
        with steering_socket.near(folder) as place:
            client.connect(f"{place}/{SOCKET}")
        server.requests()
        assert client.recv(1) == b""


# ---- the client -------------------------------------------------------------------------------------------------


def test_a_sweep_that_no_process_runs_is_told_how_to_continue(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "b").mkdir()
    with sweep_in(tmp_path / "experiments" / "b" / "now"):
        pass
    with pytest.raises(
        UserError, match="no process runs this sweep; to continue it: python -m mnist_sweep resume b/now"
    ):
        steering.steer("b", "pause", [])


def test_the_only_sweep_that_runs_needs_no_name_and_several_are_told(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    below = folder.relative_to(tmp_path)
    with sweep_in(tmp_path / "experiments" / "b" / "ended"):
        pass
    assert steering.running(None) == steering.running("last") == steering.running("a") == below
    with sweep_in(tmp_path / "experiments" / "b" / "now"):
        assert steering.running("b") == Path("experiments/b/now")
        with pytest.raises(UserError, match=r"^steer: several sweeps run \(a/long.*, b/now\); name one of them$"):
            steering.running("last")


def test_a_sweep_that_starts_or_is_on_another_machine_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "_STARTING", 0.0)
    with pytest.raises(UserError, match="the sweep starts or ends now, and cannot be steered; try again in a minute"):
        Steering(folder).pause()
    (folder / LOCK).write_text("process 7 on otherbox")
    with pytest.raises(UserError, match="runs on otherbox; use this command there"):
        Steering(folder).pause()


def test_a_process_that_ends_before_it_answers_is_told(folder: Path) -> None:
    server = SteeringSocket(folder)
    thread = threading.Timer(0.2, server.__exit__)
    thread.start()
    with pytest.raises(UserError, match="ended before it answered; the sweep's journal has what was done"):
        Steering(folder).pause()
    thread.join()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["dance"], "dance: write one of stop, add, pause, continue, set, slots after the sweep"),
        (["cnn"], "cnn: write one of stop, add, pause, continue, set, slots after the sweep"),
        (["cnn", "stop"], "steer: stop: write stop TRIAL"),
        (["cnn", "stop", "x"], "steer: stop x: write stop TRIAL"),
        (["stop", "1", "2"], "steer: stop 1 2: write stop TRIAL"),
        (["pause", "now"], "steer: pause now: write pause"),
        (["set"], "steer: set: write set KEY=VALUE …"),
        (["slots", "many"], "steer: slots many: write slots NUMBER"),
    ],
)
def test_arguments_that_cannot_be_understood_are_told(given: list[str], error: str) -> None:
    with pytest.raises(UserError) as raised:
        COMMANDS["steer"](given)
    assert str(raised.value).startswith(error) or str(raised.value).startswith(f"steer: {error}")


def test_the_answer_is_printed(folder: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Steering, "_exchange", lambda _, request: json.dumps({"done": json.loads(request)}).encode())
    for given in (
        ["stop", "3"],
        ["a", "stop", "3"],
        ["last", "slots", "0"],
        ["add", "model.units=3"],
        ["a", "continue"],
    ):
        assert COMMANDS["steer"](given) == 0
    assert capsys.readouterr().out.splitlines() == [
        *["{'do': 'stop', 'trial': 3}"] * 2,
        "{'do': 'slots', 'slots': 0}",
        "{'do': 'add', 'values': ['model.units=3']}",
        "{'do': 'continue'}",
    ]
