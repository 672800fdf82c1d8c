"""Limits how long and how many connections can be held open, so that slow clients cannot block the server."""

from __future__ import annotations

import asyncio
from typing import cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# For the lines before a request's body; and for a request from its first line until the client has received the answer.
# The application limits the body.
SECONDS_FOR_HEADERS = 10.0
SECONDS_FOR_REQUEST = 60.0
# Each may have a body of 2 MB.
MOST = 100


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol, with limits on the time and number of connections.

    If there are too many, the one that has kept the server waiting for longest is closed. So many connections that send
    nothing do not shut out other clients.
    """

    _timer: asyncio.TimerHandle | None = None
    # The current request, and whether the headers of another are awaited.
    _phase: tuple[object, bool] = (None, True)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a connection, and closes another if there are too many."""
        super().connection_made(transport)
        self._limit(SECONDS_FOR_HEADERS)
        others = [cast(LimitedProtocol, c) for c in self.connections if not c.transport.is_closing()]
        if len(others) > MOST:
            min((c for c in others if c.waits), key=lambda c: c.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handles what the client sends."""
        super().data_received(data)
        self._restart_timer()

    def on_response_complete(self) -> None:
        """Awaits the next request."""
        super().on_response_complete()
        self._restart_timer()

    def seconds_for_request(self) -> float:
        """How long a request may take, from its first line until the client has received the answer."""
        return SECONDS_FOR_REQUEST

    def send_400_response(self, msg: str) -> None:
        """Answers data that is not HTTP."""
        if self.cycle is not None:
            # The error may be in the body of a request that is being answered: its answer cannot be completed.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            # The answer to the previous request has started.
            self.transport.abort()

    @property
    def waits(self) -> bool:
        """Whether the server waits for the client to send or to receive."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def _restart_timer(self) -> None:
        awaited = self.conn.their_state is h11.IDLE
        if (phase := (self.cycle, awaited)) != self._phase:
            self._phase = phase
            self._limit(SECONDS_FOR_HEADERS if awaited else self.seconds_for_request())

    def _limit(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.since = self.loop.time()
        # Not `close`, which would wait until the client has received everything.
        self._timer = self.loop.call_later(seconds, self.transport.abort)


class StreamingProtocol(LimitedProtocol):
    """For answers that go on as long as the client wants them."""

    def seconds_for_request(self) -> float:
        """Without a limit, in practice: a year."""
        return 365 * 24 * 3600.0
