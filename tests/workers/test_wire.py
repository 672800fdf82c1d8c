"""The driver's end of a worker's socket, whatever user code does to the other end."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mnist_sweep.workers import wire
from mnist_sweep.workers.base import GarbledError
from mnist_sweep.workers.wire import DriverChannel, WorkerChannel

Ends = tuple[DriverChannel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    channel = DriverChannel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def received(channel: DriverChannel) -> list[object]:
    return list(channel.receive())


def test_messages_arrive_whole_although_they_come_in_pieces(ends: Ends) -> None:
    channel, theirs = ends
    assert received(channel) == []
    for piece in (b'{"a"', b": 1}", b'\n{"b": 2}\n{"c', b'": 3}\n'):
        theirs.sendall(piece)
    assert received(channel) == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert not channel.ended
    theirs.sendall(b'{"d": 4}\n{"half of')
    theirs.close()
    assert received(channel) == [{"d": 4}]
    assert channel.ended


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x05\n",
        b"printed\n",
        b'{"a": 1\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"9" * 5000 + b"\n",
        b"\n",
    ],
)
def test_invalid_json_is_an_error_after_the_messages_before_it(ends: Ends, garbage: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(b'{"a": 1}\n' + garbage)
    messages = channel.receive()
    assert next(messages) == {"a": 1}
    with pytest.raises(GarbledError, match="sent something that is not a message"):
        next(messages)


def test_an_endless_message_is_an_error(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_LONGEST", 10_000)
    channel, theirs = ends
    theirs.sendall(b"x" * 10_001)
    with pytest.raises(GarbledError, match="message of more than"):
        received(channel)


def test_a_worker_that_sends_much_does_not_starve_the_others(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_AT_ONCE", wire._CHUNK)
    channel, theirs = ends
    lines = 4 * wire._CHUNK
    writer = threading.Thread(target=theirs.sendall, args=(b"1\n" * lines,))
    writer.start()
    got: list[object] = []
    until = time.monotonic() + 20
    while len(got) < lines and time.monotonic() < until:
        wire.wait([channel], 1)
        some = received(channel)
        assert len(some) <= wire._CHUNK
        got += some
    writer.join()
    assert got == [1] * lines


def test_messages_wait_for_a_slow_reader_without_blocking(ends: Ends) -> None:
    channel, theirs = ends
    message = {"task": "x" * 100_000}
    for _ in range(50):
        channel.send(message)
    assert channel.has_unsent
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.extend(WorkerChannel(theirs).messages()))
    reader.start()
    until = time.monotonic() + 20
    while channel.has_unsent and time.monotonic() < until:
        wire.wait([channel], 0.1)
    channel.close()
    reader.join()
    assert got == [message] * 50


def test_unread_messages_are_limited(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_UNREAD", 10**6)
    with pytest.raises(GarbledError, match="does not read"):
        for _ in range(1000):
            ends[0].send({"task": "x" * 100_000})


def test_messages_to_a_closed_peer_are_dropped(ends: Ends) -> None:
    channel, theirs = ends
    theirs.close()
    channel.send({"task": "stop"})
    assert not channel.has_unsent


def test_wait_returns_on_data_or_after_the_timeout(ends: Ends) -> None:
    channel, theirs = ends
    assert wire.wait([channel], 0.01) == []
    theirs.sendall(b"1\n")
    assert wire.wait([channel], 20) == [channel]
    theirs.close()
    assert received(channel) == [1]
    # A closed channel is not waited for.
    assert wire.wait([channel], 0.01) == []


def test_the_workers_end_has_a_high_file_descriptor(ends: Ends) -> None:
    channel, theirs = ends
    worker = WorkerChannel(theirs)
    number = worker._socket.fileno()
    assert number > 256
    assert not os.get_inheritable(number)
    worker.send({"message": "Ready"})
    assert received(channel) == [{"message": "Ready"}]
    channel.send({"task": "stop"})
    channel.close()
    assert list(worker.messages()) == [{"task": "stop"}]
    # The driver is gone, which is not an error here.
    worker.send(json.loads("{}"))
