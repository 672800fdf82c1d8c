"""The driver's end of a worker's socket, whatever is done to the other one."""

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
from mnist_sweep.workers.wire import Channel, Line

Ends = tuple[Channel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def heard(channel: Channel) -> list[object]:
    return list(channel.receive())


def test_messages_arrive_in_whatever_pieces_they_come(ends: Ends) -> None:
    channel, theirs = ends
    assert heard(channel) == []
    for piece in (b'{"a"', b": 1}", b'\n{"b": 2}\n{"c', b'": 3}\n'):
        theirs.sendall(piece)
    assert heard(channel) == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert not channel.ended
    theirs.sendall(b'{"d": 4}\n{"half of')
    theirs.close()
    assert heard(channel) == [{"d": 4}]
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
def test_what_is_not_json_is_told_after_what_came_before_it(ends: Ends, garbage: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(b'{"a": 1}\n' + garbage)
    messages = channel.receive()
    assert next(messages) == {"a": 1}
    with pytest.raises(GarbledError, match="sent something that is not a message"):
        next(messages)


def test_a_message_without_end_is_refused_when_it_is_too_long(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_LONGEST", 10_000)
    channel, theirs = ends
    theirs.sendall(b"x" * 10_001)
    with pytest.raises(GarbledError, match="message of more than"):
        heard(channel)


def test_one_that_says_much_at_once_leaves_time_for_others(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_AT_ONCE", wire._CHUNK)
    channel, theirs = ends
    lines = 4 * wire._CHUNK
    writer = threading.Thread(target=theirs.sendall, args=(b"1\n" * lines,))
    writer.start()
    got: list[object] = []
    until = time.monotonic() + 20
    while len(got) < lines and time.monotonic() < until:
        wire.wait([channel], 1)
        some = heard(channel)
        assert len(some) <= wire._CHUNK
        got += some
    writer.join()
    assert got == [1] * lines


def test_who_does_not_read_is_told_later_and_holds_up_nobody(ends: Ends) -> None:
    channel, theirs = ends
    message = {"task": "x" * 100_000}
    for _ in range(50):
        channel.send(message)
    assert channel.behind
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.extend(Line(theirs).messages()))
    reader.start()
    until = time.monotonic() + 20
    while channel.behind and time.monotonic() < until:
        wire.wait([channel], 0.1)
    channel.close()
    reader.join()
    assert got == [message] * 50


def test_who_never_reads_is_told_only_so_much(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_UNREAD", 10**6)
    with pytest.raises(GarbledError, match="does not read"):
        for _ in range(1000):
            ends[0].send({"task": "x" * 100_000})


def test_what_is_said_to_one_that_is_gone_is_lost(ends: Ends) -> None:
    channel, theirs = ends
    theirs.close()
    channel.send({"task": "stop"})
    assert not channel.behind


def test_waiting_ends_with_news_or_with_the_time(ends: Ends) -> None:
    channel, theirs = ends
    assert wire.wait([channel], 0.01) == []
    theirs.sendall(b"1\n")
    assert wire.wait([channel], 20) == [channel]
    theirs.close()
    assert heard(channel) == [1]
    # Nothing more will come of it.
    assert wire.wait([channel], 0.01) == []


def test_the_workers_end_lies_where_user_code_does_not_close_it(ends: Ends) -> None:
    channel, theirs = ends
    line = Line(theirs)
    number = line._socket.fileno()
    assert number > 256
    assert not os.get_inheritable(number)
    line.send({"message": "Ready"})
    assert heard(channel) == [{"message": "Ready"}]
    channel.send({"task": "stop"})
    channel.close()
    assert list(line.messages()) == [{"task": "stop"}]
    # The driver is gone, which is not this end's fault.
    line.send(json.loads("{}"))
