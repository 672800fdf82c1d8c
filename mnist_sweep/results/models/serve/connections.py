"""Connections that cannot be held open: whoever keeps the server waiting is cut off."""

from __future__ import annotations

import asyncio
from typing import cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# For the lines before a request's body; and for a request from its first line until its answer has been taken. The body
# alone has a limit of its own, in reading.py.
SECONDS_FOR_HEADERS = 10.0
SECONDS_FOR_REQUEST = 60.0
# Each may hold a body of 2 MB.
MOST = 100


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol, with limits on time and number.

    Where there are too many connections, the one goes that has kept the server waiting for longest: so a crowd of them
    that send nothing does not shut out others.
    """

    _timer: asyncio.TimerHandle | None = None
    # The request that is worked on, and whether the headers of another are awaited.
    _phase: tuple[object, bool] = (None, True)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, perhaps in another's place."""
        super().connection_made(transport)
        self._allow(SECONDS_FOR_HEADERS)
        others = [cast(LimitedProtocol, c) for c in self.connections if not c.transport.is_closing()]
        if len(others) > MOST:
            min((c for c in others if c.waits), key=lambda c: c.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what the client sends."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Awaits the next request."""
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP."""
        if self.cycle is not None:
            # Its body may be what is wrong: nothing more of its answer can be sent.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            # It comes behind a request that is already being answered.
            self.transport.abort()

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn: to send, or to take what is sent."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def _look(self) -> None:
        awaited = self.conn.their_state is h11.IDLE
        if (phase := (self.cycle, awaited)) != self._phase:
            self._phase = phase
            self._allow(SECONDS_FOR_HEADERS if awaited else SECONDS_FOR_REQUEST)

    def _allow(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.since = self.loop.time()
        # Not `close`, which would wait until the client has taken what it was sent.
        self._timer = self.loop.call_later(seconds, self.transport.abort)
